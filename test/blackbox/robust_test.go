package blackbox

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"vivarium/internal/testenv"
)

// TestTwoHundredAtOnce runs two hundred containers at the same time; the engine's
// own checks at the test's end find what they leave.
func TestTwoHundredAtOnce(t *testing.T) {
	e := newBox(t)
	vivOnly(t, "takes docker minutes")
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			cmd := e.Command("run", "--rm", box, "sh", "-c", fmt.Sprintf("echo %d; exit %d", i, i%100))
			cmd.Timeout = 5 * time.Minute
			want(t, cmd.Run(), i%100, fmt.Sprintf("%d\n", i))
		})
	}
	wg.Wait()
	if got := e.MustViv("ps", "-aq"); got != "" {
		t.Errorf("containers left: %q", got)
	}
}

func TestRunRmLeavesNothing(t *testing.T) {
	e := newBox(t)
	vivOnly(t, "looks into the engine's directories")
	want(t, e.Viv("run", "--rm", box, "true"), 0, "")
	before := tree(t, e.Root)
	for _, flags := range [][]string{
		{}, {"-m", "64m"}, {"--network", "none"}, {"--read-only"}, {"--init"}, {"-v", "/anonymous"}, {"--tmpfs", "/t"},
	} {
		want(t, e.Viv(slices.Concat([]string{"run", "--rm"}, flags, []string{box, "true"})...), 0, "")
	}
	if after := tree(t, e.Root); !slices.Equal(before, after) {
		t.Errorf("the engine's root changed from\n%s\nto\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
}

// tree lists what lies in an engine's root, less the content of layers and images.
func tree(t *testing.T, root string) []string {
	t.Helper()
	var paths []string
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		paths = append(paths, rel)
		if d.IsDir() && (rel == "layers" || rel == "images") {
			return filepath.SkipDir
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// TestClientKilled kills the command in the foreground: the container lives on, as
// Docker has it.
func TestClientKilled(t *testing.T) {
	e := newBox(t)
	p := e.Command("run", "--name", "alone", box, "sh", "-c", "echo up; exec sleep 1000").Start()
	p.Expect("up")
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.Wait()
	if got := inspect(t, e, "alone", "{{.State.Status}}"); got != "running" {
		t.Errorf("after its client was killed the container is %q", got)
	}
	want(t, e.Viv("exec", "alone", "echo", "alive"), 0, "alive\n")
	e.MustViv("rm", "-f", "alone")
}

// TestMonitorKilled kills the monitor of a running container. The container must not
// notice, and the engine must still learn how it ended.
func TestMonitorKilled(t *testing.T) {
	e := newBox(t)
	vivOnly(t, "Docker has a shim there")
	id := detached(t, e, "--name", "orphan", box, "sh", "-c", "trap 'exit 11' TERM; echo up; while :; do sleep 0.1; done")
	e.Command("logs", "-f", id).Start().Expect("up")
	before := inspect(t, e, id, "{{.State.Pid}}")
	monitor := parentOf(t, before)
	if err := syscall.Kill(monitor, syscall.SIGKILL); err != nil {
		t.Fatalf("kill the monitor: %v", err)
	}
	if got := e.MustViv("ps", "--format", "{{.Names}}"); got != "orphan" {
		t.Errorf("ps after the monitor's death: %q", got)
	}
	if after := inspect(t, e, id, "{{.State.Pid}}"); after != before {
		t.Errorf("the first process was %s and is %s", before, after)
	}
	want(t, e.Viv("exec", id, "echo", "alive"), 0, "alive\n")
	e.MustViv("kill", "-s", "TERM", id)
	code := e.MustViv("wait", id)
	if code != "11" && !oldKernel(t) {
		t.Errorf("exit status after adoption: %q, want 11", code)
	}
	e.MustViv("rm", id)
}

// oldKernel says whether the kernel cannot tell a process's exit status to one that
// is not its parent (PIDFD_INFO_EXIT, Linux 6.15).
func oldKernel(t *testing.T) bool {
	t.Helper()
	text := read(t, "/proc/sys/kernel/osrelease")
	var major, minor int
	if _, err := fmt.Sscanf(text, "%d.%d", &major, &minor); err != nil {
		t.Fatalf("read the kernel's version %q: %v", text, err)
	}
	return major < 6 || major == 6 && minor < 15
}

func parentOf(t *testing.T, pid string) int {
	t.Helper()
	for line := range strings.Lines(read(t, "/proc/"+pid+"/status")) {
		if rest, ok := strings.CutPrefix(line, "PPid:"); ok {
			parent, err := strconv.Atoi(strings.TrimSpace(rest))
			if err != nil || parent <= 1 {
				t.Fatalf("the first process has no monitor: its parent is %q", rest)
			}
			return parent
		}
	}
	t.Fatalf("no PPid in /proc/%s/status", pid)
	return 0
}

// TestKilledAnywhere kills run, with all of its process group, at instants spread
// over its life; the next command must mend what is left.
func TestKilledAnywhere(t *testing.T) {
	e := newBox(t)
	vivOnly(t, "Docker's client holds nothing")
	want(t, e.Viv("run", "--rm", box, "true"), 0, "")
	for i := range 60 {
		p := e.Command("run", "--rm", box, "true").Start()
		// Within the 20 ms or so that a run takes, and a bit beyond.
		time.Sleep(time.Duration(rand.IntN(25000)) * time.Microsecond)
		_ = syscall.Kill(-p.PID(), syscall.SIGKILL)
		p.Wait()
		if i%10 == 9 {
			if res := e.Viv("ps", "-a"); res.Code != 0 {
				t.Fatalf("the engine does not recover: %v", res)
			}
		}
	}
	if ids := strings.Fields(e.MustViv("ps", "-aq")); len(ids) > 0 {
		e.MustViv(append([]string{"rm", "-f"}, ids...)...)
	}
	if res := e.Viv("system", "check"); res.Code != 0 {
		t.Errorf("system check after the next command: %v", res)
	}
}

// TestFullDisk gives an engine a file system that is too small for the image.
func TestFullDisk(t *testing.T) {
	testenv.Root(t)
	vivOnly(t, "needs an engine on a disk of its own")
	e := testenv.Engine(t)
	if err := syscall.Mount("tmpfs", e.Root, "tmpfs", 0, "size=512k"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Unmount(e.Root, 0); err != nil {
			t.Errorf("unmount the small disk: %v", err)
		}
	}()
	fails(t, e.Viv("import", testenv.Image(t, "busybox").Rootfs, box), 1, "no space left")
	if got := e.MustViv("images", "-q"); got != "" {
		t.Errorf("half an image is listed: %q", got)
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(e.Root, &st); err != nil {
		t.Fatal(err)
	}
	if used := (st.Blocks - st.Bfree) * uint64(st.Bsize); used > 256<<10 {
		t.Errorf("%d bytes of the failed import are left", used)
	}
}

// TestRemoveOnAFullDisk fills the engine's disk to the last byte: an image can be
// removed all the same, and then there is room.
func TestRemoveOnAFullDisk(t *testing.T) {
	testenv.Root(t)
	vivOnly(t, "needs an engine on a disk of its own")
	e := testenv.Engine(t)
	if err := syscall.Mount("tmpfs", e.Root, "tmpfs", 0, "size=16m"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Unmount(e.Root, 0); err != nil {
			t.Errorf("unmount the small disk: %v", err)
		}
	}()
	e.Import("busybox", box)
	other := e.Load("layered")
	fill, err := os.Create(filepath.Join(e.Root, "fill"))
	if err != nil {
		t.Fatal(err)
	}
	defer fill.Close()
	for _, piece := range []int{1 << 16, 1 << 10, 1} {
		for block := make([]byte, piece); err == nil; {
			_, err = fill.Write(block)
		}
		err = nil
	}
	fails(t, e.Viv("tag", box, "more"), 1, "no space left")
	fails(t, e.Viv("run", "--rm", box, "true"), 125, "no space left")
	for _, ref := range []string{other, box} {
		if res := e.Viv("rmi", ref); res.Code != 0 || !strings.Contains(res.Stdout, "Untagged: ") || !strings.Contains(res.Stdout, "Deleted: ") {
			t.Errorf("rmi on a full disk: %v", res)
		}
	}
	e.Import("busybox", box)
	want(t, e.Viv("run", "--rm", box, "echo", "room"), 0, "room\n")
	if res := e.Viv("system", "check"); res.Code != 0 || res.Stdout != "all is well\n" {
		t.Errorf("%v", res)
	}
}

// TestRemoveUsedImage takes images from containers.
func TestRemoveUsedImage(t *testing.T) {
	e := newBox(t)
	rootfs := testenv.Image(t, "busybox").Rootfs
	id := e.MustViv("import", "-c", "LABEL used=yes", rootfs, "used:v1")
	short := strings.TrimPrefix(id, "sha256:")[:12]
	running := detached(t, e, "--network", "none", "used:v1", "sleep", "1000")
	fails(t, e.Viv("rmi", "used:v1"), 1, "used:v1", "container")
	fails(t, e.Viv("rmi", short), 1, short, "running container")
	fails(t, e.Viv("rmi", "-f", short), 1, short, "running container")
	want(t, e.Viv("rmi", "-f", "used:v1"), 0, "Untagged: used:v1\n")
	want(t, e.Viv("images", "--filter", "label=used", "--format", "{{.Repository}} {{.ID}}"), 0, "<none> "+short+"\n")
	want(t, e.Viv("exec", running, "echo", "alive"), 0, "alive\n")
	want(t, e.Viv("restart", "-t", "0", running), 0, running+"\n")
	want(t, e.Viv("ps", "--no-trunc", "--format", "{{.ID}}", "--filter", "ancestor="+short), 0, running+"\n")
	e.MustViv("kill", running)
	fails(t, e.Viv("rmi", short), 1, short, "stopped container")
	e.MustViv("rm", running)
	if res := e.Viv("rmi", short); res.Code != 0 || !strings.Contains(res.Stdout, "Deleted: "+id) {
		t.Errorf("rmi of what nobody uses: %v", res)
	}
}

func TestCorruptArchives(t *testing.T) {
	testenv.Root(t)
	vivOnly(t, "is about the words and the store")
	e := testenv.Engine(t)
	dir := t.TempDir()
	good := read(t, testenv.Image(t, "busybox").Archive)
	for name, content := range map[string]string{
		"empty": "", "text": "this is no archive\n", "cut": good[:len(good)/2],
		"flipped": good[:len(good)/2] + strings.ToUpper(good[len(good)/2:len(good)/2+512]) + "\xff" + good[len(good)/2+513:],
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, name)
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			fails(t, e.Viv("load", "-i", path), 1)
			if got := e.MustViv("images", "-q"); got != "" {
				t.Errorf("a broken archive became an image: %q", got)
			}
		})
	}
}
