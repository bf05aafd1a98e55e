package main_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// someone is a user without rights; the machine need not know him.
const someone = 54321

// newRootlessBox is a box of someone's: its files and its state are his, the spec
// is what spec --rootless writes for him, and he calls the runtime.
func newRootlessBox(t *testing.T, args ...string) *box {
	t.Helper()
	b := newBox(t)
	for dir := filepath.Dir(b.bundle); dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
		must(t, os.Chmod(dir, 0o711))
	}
	must(t, os.Chmod(filepath.Dir(binary), 0o711))
	must(t, os.MkdirAll(b.root, 0o700))
	must(t, os.Remove(filepath.Join(b.bundle, "config.json")))
	for _, dir := range []string{b.root, b.bundle} {
		must(t, filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return os.Lchown(path, someone, someone)
		}))
	}
	b.user = &syscall.Credential{Uid: someone, Gid: someone, Groups: []uint32{}}
	b.must("spec", "--rootless", "--bundle", b.bundle)
	raw, err := os.ReadFile(filepath.Join(b.bundle, "config.json"))
	must(t, err)
	b.spec = new(specs.Spec)
	must(t, json.Unmarshal(raw, b.spec))
	b.spec.Process.Args, b.spec.Process.Terminal = args, false
	b.spec.Root.Readonly = false
	b.save()
	return b
}

func TestRootless(t *testing.T) {
	b := newRootlessBox(t, "sh", "-c", "id; cat /proc/self/uid_map; touch /made; sleep 1000")
	if reference != "" {
		t.Skip("the reference wants to own the descriptors of the test")
	}
	c, out := b.start("run", "-b", b.bundle, b.id)
	readLine(t, out, "uid=0 gid=0")
	if line := readLine(t, out, fmt.Sprint(someone)); strings.Join(strings.Fields(line), " ") != fmt.Sprintf("0 %d 1", someone) {
		t.Errorf("the map of users is %q", line)
	}
	b.wantStatus("running")
	if got := b.must("exec", b.id, "id"); !strings.HasPrefix(got, "uid=0 gid=0") {
		t.Errorf("exec runs as %q", got)
	}
	pid := *b.state().Pid
	info, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	must(t, err)
	if uid := info.Sys().(*syscall.Stat_t).Uid; uid != someone {
		t.Errorf("the process is of user %d", uid)
	}
	b.eventually("the file is made", func() bool { return pathOf(b, "made", someone) == nil })
	b.must("kill", b.id, "KILL")
	if code := wait(t, c); code != 137 {
		t.Errorf("run ended with %d", code)
	}
	b.fails(1, "does not exist", "state", b.id) // run deletes it
}

func pathOf(b *box, name string, owner uint32) error {
	info, err := os.Stat(filepath.Join(b.bundle, "rootfs", name))
	if err == nil && info.Sys().(*syscall.Stat_t).Uid != owner {
		err = fmt.Errorf("%s is of user %d", name, info.Sys().(*syscall.Stat_t).Uid)
	}
	return err
}

// TestRootlessUncounted: without a control group there are figures, and all are nothing.
func TestRootlessUncounted(t *testing.T) {
	b := newRootlessBox(t, "sleep", "1000")
	if reference != "" {
		t.Skip("the reference wants to own the descriptors of the test")
	}
	b.create()
	if got := b.must("events", "--stats", b.id); !strings.HasPrefix(got, `{"type":"stats","id":"`+b.id+`","data":{`) {
		t.Errorf("events says %s", got)
	}
	watch, out := b.start("events", "--interval", "10ms", b.id)
	readLine(t, out, `"type":"stats"`)
	b.must("delete", "--force", b.id)
	if code := wait(t, watch); code != 0 {
		t.Errorf("events ended with %d", code)
	}
}

func TestRootlessCreateStart(t *testing.T) {
	b := newRootlessBox(t, "sh", "-c", "exit 7")
	if reference != "" {
		t.Skip("the reference wants to own the descriptors of the test")
	}
	pid := b.create()
	b.wantStatus("created")
	b.must("start", b.id)
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil || status.ExitStatus() != 7 {
		t.Errorf("the command ended with %v, %v", status, err)
	}
	b.wantStatus("stopped")
	b.must("delete", b.id)
}

// TestRootlessLimits refuses a limit that nobody could impose, by name.
func TestRootlessLimits(t *testing.T) {
	b := newRootlessBox(t, "true")
	limit := int64(10)
	b.spec.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}}
	b.save()
	b.fails(1, "pids", "run", "-b", b.bundle, b.id)
	b.fails(1, "does not exist", "state", b.id)
}

// TestRootlessManyIDs gets ids beside his own from newuidmap(1) and newgidmap(1),
// in a mount namespace where the machine's files name him and grant him some.
func TestRootlessManyIDs(t *testing.T) {
	b := newRootlessBox(t, "sh", "-c", "cat /proc/self/uid_map /proc/self/gid_map; id -u")
	if reference != "" {
		t.Skip("the reference wants to own the descriptors of the test")
	}
	if _, err := exec.LookPath("newuidmap"); err != nil {
		t.Fatalf("%v (test/install-deps installs what tests need)", err)
	}
	b.spec.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: someone, Size: 1}, {ContainerID: 1, HostID: 700000, Size: 100}}
	b.spec.Linux.GIDMappings = []specs.LinuxIDMapping{{HostID: someone, Size: 1}, {ContainerID: 1, HostID: 800000, Size: 100}}
	b.spec.Process.User = specs.User{UID: 33, GID: 34, AdditionalGids: []uint32{50}}
	b.save()
	files := t.TempDir()
	lines := map[string]string{"passwd": fmt.Sprintf("root:x:0:0::/root:/bin/sh\nviv-someone:x:%d:%d::/:/bin/sh\n", someone, someone),
		"subuid": "viv-someone:700000:100\n", "subgid": "viv-someone:800000:100\n"}
	script := "set -e\n"
	for name, text := range lines {
		must(t, os.WriteFile(filepath.Join(files, name), []byte(text), 0o644))
		script += fmt.Sprintf("test -e /etc/%s && mount --bind %s/%s /etc/%s\n", name, files, name, name)
	}
	script += fmt.Sprintf(`exec setpriv --reuid %d --regid %d --clear-groups "$@"`, someone, someone)
	cmd := exec.Command("unshare", "-m", "sh", "-c", script, "sh", binary, "--root", b.root, "run", "-b", b.bundle, b.id)
	out, err := cmd.CombinedOutput()
	got := strings.Join(strings.Fields(string(out)), " ")
	if want := fmt.Sprintf("0 %d 1 1 700000 100 0 %d 1 1 800000 100 33", someone, someone); err != nil || got != want {
		t.Errorf("%v: %q, want %q", err, got, want)
	}
}

// TestRootlessTime: the time namespace belongs to the user namespace, where he who
// has no rights elsewhere may shift its clocks.
func TestRootlessTime(t *testing.T) {
	b := newRootlessBox(t, "cat", "/proc/self/timens_offsets")
	if reference != "" {
		t.Skip("the reference wants to own the descriptors of the test")
	}
	b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
	b.spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {Secs: 1000, Nanosecs: 5}}
	b.save()
	got := strings.Join(strings.Fields(b.must("run", "-b", b.bundle, b.id)), " ")
	if want := "monotonic 1000 5 boottime 0 0"; got != want {
		t.Errorf("the offsets are %q, want %q", got, want)
	}
}

// TestRootlessHooks runs hooks in the namespaces, before and after the root changes.
func TestRootlessHooks(t *testing.T) {
	b := newRootlessBox(t, "cat", "/from-create", "/from-start")
	if reference != "" {
		t.Skip("the reference wants to own the descriptors of the test")
	}
	rootfs := filepath.Join(b.bundle, "rootfs")
	in := func(path, script string) []specs.Hook {
		return []specs.Hook{{Path: path, Args: []string{"sh", "-c", script}}}
	}
	b.spec.Hooks = &specs.Hooks{
		CreateContainer: in("/bin/sh", "readlink /proc/self/ns/user >"+rootfs+"/from-create"),
		StartContainer:  in("/bin/sh", "readlink /proc/self/ns/pid >/from-start"),
	}
	b.save()
	ours := func(kind string) string {
		link, err := os.Readlink("/proc/self/ns/" + kind)
		must(t, err)
		return link
	}
	got := strings.Fields(b.must("run", "-b", b.bundle, b.id))
	if len(got) != 2 || !strings.HasPrefix(got[0], "user:") || !strings.HasPrefix(got[1], "pid:") || got[0] == ours("user") || got[1] == ours("pid") {
		t.Errorf("the hooks were in %q", got)
	}
	b.create()
	b.must("start", b.id)
	b.must("delete", "-f", b.id)

	b.spec.Hooks.StartContainer = in("/bin/sh", "exit 3")
	b.save()
	b.fails(1, "error running startContainer hook #0: exit status 3", "run", "-b", b.bundle, b.id)
	b.fails(1, "does not exist", "state", b.id)
}

// TestRootlessNoGroups: a control group that is asked for is one that has to be made,
// and a container whose processes nothing holds together is warned of.
func TestRootlessNoGroups(t *testing.T) {
	b := newRootlessBox(t, "true")
	b.spec.Linux.CgroupsPath = "/viv-nowhere/group"
	b.save()
	b.fails(1, "permission denied", "run", "-b", b.bundle, b.id)
	b.fails(1, "does not exist", "state", b.id)
	b.spec.Linux.CgroupsPath = ""
	b.spec.Linux.Namespaces = slices.DeleteFunc(b.spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
	b.spec.Mounts = slices.DeleteFunc(b.spec.Mounts, func(m specs.Mount) bool { return m.Type == "proc" })
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/proc", Type: "none", Source: "/proc", Options: []string{"rbind"}})
	b.save()
	if r := b.cmd("run", "-b", b.bundle, b.id); r.code != 0 || !strings.Contains(r.err, "strongly discouraged") {
		t.Errorf("%+v", r)
	}
}

// TestRootlessPtmx: a device /dev/ptmx of the spec is not the host's.
func TestRootlessPtmx(t *testing.T) {
	b := newRootlessBox(t, "/bin/busybox", "readlink", "/dev/ptmx")
	b.spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/ptmx", Type: "c", Major: 5, Minor: 2}}
	b.save()
	if got := b.must("run", "-b", b.bundle, b.id); got != "pts/ptmx\n" {
		t.Errorf("/dev/ptmx is %q", got)
	}
}
