package proof

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const cgroups = "/sys/fs/cgroup"

func inMachine(t *testing.T) {
	t.Helper()
	if os.Getenv("VIV_TEST_VM") == "" {
		t.Skip("is about the test machine: go test ./test/vm runs it there")
	}
}

func TestEveryControllerIsOnV2(t *testing.T) {
	inMachine(t)
	var st unix.Statfs_t
	if err := unix.Statfs(cgroups, &st); err != nil {
		t.Fatal(err)
	}
	if st.Type != unix.CGROUP2_SUPER_MAGIC {
		t.Fatalf("%s has file system magic %#x, want that of cgroup2", cgroups, st.Type)
	}
	text := read(t, cgroups+"/cgroup.controllers")
	for _, want := range []string{"cpuset", "cpu", "io", "memory", "hugetlb", "pids"} {
		if !slices.Contains(strings.Fields(text), want) {
			t.Errorf("controllers are %q, %s is not among them", text, want)
		}
	}
}

// TestMemoryLimit starts a process directly in a control group and lets it take
// more memory than the group has.
func TestMemoryLimit(t *testing.T) {
	inMachine(t)
	write(t, cgroups+"/cgroup.subtree_control", "+memory +pids")
	dir := filepath.Join(cgroups, "viv-proof")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	write(t, dir+"/memory.max", strconv.Itoa(16<<20))
	group, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer group.Close()
	cmd := exec.Command("dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd())}
	err = cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("a process over its limit ended with %v, want SIGKILL", err)
	}
	if events := read(t, dir+"/memory.events"); !strings.Contains(events, "oom_kill 1") {
		t.Errorf("memory.events: %q", events)
	}
}

// TestPivotRoot is about the machine's root: on an initramfs the call fails.
func TestPivotRoot(t *testing.T) {
	inMachine(t)
	script := `set -e
mount -t tmpfs tmpfs /mnt
mkdir /mnt/bin /mnt/old
cp /bin/busybox /mnt/bin/
pivot_root /mnt /mnt/old
exec /bin/busybox ls /`
	out, err := exec.Command("unshare", "-m", "sh", "-c", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got := strings.Fields(string(out)); !slices.Equal(got, []string{"bin", "old"}) {
		t.Errorf("the new root has %q", got)
	}
}

func TestOverlay(t *testing.T) {
	inMachine(t)
	dir := t.TempDir()
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, dir+"/lower/file", "below")
	merged := dir + "/merged"
	options := fmt.Sprintf("lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work", dir, dir, dir)
	if err := unix.Mount("overlay", merged, "overlay", 0, options); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(merged, 0)
	if got := read(t, merged+"/file"); got != "below" {
		t.Errorf("read %q through the union", got)
	}
}

func TestNetworkParts(t *testing.T) {
	inMachine(t)
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "vivproof"}}
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "vivproof1"}, PeerName: "vivproof2"}
	for _, link := range []netlink.Link{bridge, veth} {
		if err := netlink.LinkAdd(link); err != nil {
			t.Fatalf("add a %s: %v", link.Type(), err)
		}
		defer netlink.LinkDel(link)
	}
	c := &nftables.Conn{}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "vivproof"})
	c.AddChain(&nftables.Chain{
		Name: "post", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	if err := c.Flush(); err != nil {
		t.Fatalf("add a NAT chain: %v", err)
	}
	c.DelTable(table)
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
