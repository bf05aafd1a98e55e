package spawn_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"vivarium/internal/kernel"
	"vivarium/sandbox/plan"
	"vivarium/sandbox/program"
	"vivarium/sandbox/spawn"
)

// box is a container of a test: a root file system with busybox, a spec, a
// cgroup of its own.
type box struct {
	t    *testing.T
	spec *specs.Spec
	opt  plan.Options
	out  strings.Builder
	// trace is passed on to Start.
	trace *spawn.Trace

	change func(*program.Program)
}

func newBox(t *testing.T, args ...string) *box {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes namespaces, mounts and control groups")
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatalf("the tests need Debian's busybox-static: %v", err)
	}
	root := t.TempDir()
	for _, d := range []string{"bin", "etc", "tmp"} {
		must(t, os.Mkdir(filepath.Join(root, d), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(root, "bin/busybox"), busybox, 0o755))
	for _, a := range []string{"sh", "true", "cat", "id", "sleep", "echo", "hostname", "stty", "tty", "ls", "mount"} {
		must(t, os.Symlink("busybox", filepath.Join(root, "bin", a)))
	}
	id := fmt.Sprintf("viv-test-%08x", rand.Uint32())
	return &box{t: t, opt: plan.Options{ID: id}, spec: &specs.Spec{
		Root:     &specs.Root{Path: root},
		Hostname: "box",
		Process:  &specs.Process{Args: args, Env: []string{"PATH=/bin"}, Cwd: "/"},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		},
		Linux: &specs.Linux{
			CgroupsPath:   "/" + id,
			MaskedPaths:   []string{"/proc/keys", "/proc/acpi", "/proc/nothing-of-this-name"},
			ReadonlyPaths: []string{"/proc/sys"},
			Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}, {Type: specs.UTSNamespace},
				{Type: specs.IPCNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.CgroupNamespace}},
		},
	}}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run runs the box to its end and gives its exit status; what it wrote is in out.
func (b *box) run(fault spawn.Fault) (syscall.WaitStatus, error) {
	b.t.Helper()
	p, err := plan.Compile(b.spec, b.opt)
	must(b.t, err)
	if b.change != nil {
		b.change(p.Program())
	}
	defer b.noGroups(p)
	r, w, err := os.Pipe()
	must(b.t, err)
	null, err := os.Open("/dev/null")
	must(b.t, err)
	defer null.Close()
	proc, err := spawn.Start(p.Program(), spawn.Options{Stdin: int(null.Fd()), Stdout: int(w.Fd()), Stderr: int(w.Fd()), NetNS: -1, PidFD: -1, Fault: fault, Trace: b.trace})
	w.Close()
	if err != nil {
		r.Close()
		return 0, err
	}
	var master *os.File
	for {
		rep, err := proc.Wait(20_000)
		if err != nil && master != nil {
			master.Close()
		}
		if err != nil {
			r.Close()
			proc.Abandon()
			removeAll(p.CgroupDirs())
			return 0, err
		}
		if rep.Kind == spawn.ReportTerminal {
			master = os.NewFile(uintptr(rep.File), "master")
			continue
		}
		break
	}
	src := io.Reader(r)
	if master != nil {
		src = master
		defer master.Close()
	}
	io.Copy(&b.out, src) // a terminal ends with EIO
	r.Close()
	var ws syscall.WaitStatus
	_, err = syscall.Wait4(proc.Pid, &ws, 0, nil)
	must(b.t, err)
	proc.Close()
	removeAll(p.CgroupDirs())
	return ws, nil
}

func removeAll(dirs []string) {
	for _, d := range dirs {
		syscall.Rmdir(d)
	}
}

// noGroups checks that the plan's control groups are gone.
func (b *box) noGroups(p *plan.Plan) {
	b.t.Helper()
	for _, d := range p.CgroupDirs() {
		if _, err := os.Stat(d); err == nil {
			b.t.Errorf("control group %s is left", d)
		}
	}
}

func TestRun(t *testing.T) {
	for _, c := range []struct {
		name, script, want string
		code               int
	}{
		{"exit code", "exit 7", "", 7},
		{"pid one", "echo $$", "1\n", 0},
		{"host name", "hostname", "box\n", 0},
		{"nothing open", "ls /proc/self/fd", "0\n1\n2\n3\n", 0}, // 3 is ls's own
		{"masked file is null", "cat /proc/keys; echo $?", "0\n", 0},
		{"masked directory is empty", "ls /proc/acpi", "", 0},
		{"read-only path", "echo 1 2>/dev/null >/proc/sys/kernel/hostname || echo refused", "refused\n", 0},
		{"nowhere but in the box", "cd /; cd ..; cd ..; ls", "bin\ndev\netc\nproc\nsys\ntmp\n", 0},
		{"no host mount", "mount | busybox grep -v -E ' (/|/proc|/dev|/sys)[^ ]* type '", "", 1},
		{"no capability", "busybox grep Cap /proc/self/status | busybox grep -v 0000000000000000", "", 1},
		{"own cgroup namespace", "busybox grep -c ':/$' /proc/self/cgroup >/dev/null && echo yes", "yes\n", 0},
		{"loopback is up", "busybox ip addr show lo | busybox grep -c 127.0.0.1/8", "1\n", 0},
		{"exe is not the runtime", "busybox readlink /proc/self/exe", "/bin/busybox\n", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBox(t, "sh", "-c", c.script)
			ws, err := b.run(spawn.Fault{})
			must(t, err)
			if b.out.String() != c.want || ws.ExitStatus() != c.code {
				t.Errorf("got %q with exit status %d, want %q with %d", b.out.String(), ws.ExitStatus(), c.want, c.code)
			}
		})
	}
}

func TestTerminal(t *testing.T) {
	b := newBox(t, "sh", "-c", "tty; stty size; ls -l /dev/console | busybox cut -c1; echo x >/dev/console")
	b.spec.Process.Terminal = true
	b.spec.Process.ConsoleSize = &specs.Box{Height: 33, Width: 77}
	ws, err := b.run(spawn.Fault{})
	must(t, err)
	if got, want := b.out.String(), "/dev/pts/0\r\n33 77\r\nc\r\nx\r\n"; got != want || ws.ExitStatus() != 0 {
		t.Errorf("got %q with %v, want %q", got, ws, want)
	}
}

func TestCommandCannotRun(t *testing.T) {
	for _, c := range []struct {
		args  []string
		errno syscall.Errno
	}{
		{[]string{"no-such-command"}, unix.ENOENT},
		{[]string{"/bin/no-such-command"}, unix.ENOENT},
		{[]string{"/etc"}, unix.EACCES},
		{[]string{"/etc/plain"}, unix.EACCES},
		{[]string{"/etc/garbage"}, unix.ENOEXEC},
	} {
		b := newBox(t, c.args...)
		must(t, os.WriteFile(b.spec.Root.Path+"/etc/plain", []byte("x"), 0o644))
		must(t, os.WriteFile(b.spec.Root.Path+"/etc/garbage", []byte("\x00\x01\x02\x03"), 0o755))
		_, err := b.run(spawn.Fault{})
		var se *spawn.Error
		if !errors.As(err, &se) || se.Errno != c.errno || se.Step.Kind != "exec" {
			t.Errorf("%v: got %v, want %v in step exec", c.args, err, c.errno)
		}
	}
}

// TestFaults lets each step fail, and kills the process at each step: the error
// names the step, and nothing is left.
func TestFaults(t *testing.T) {
	b := newBox(t, "true")
	b.spec.Process.Terminal = true
	b.faults()
}

// TestFaultsForked is the same for a process that forks the one that runs the
// command, in namespaces that are made before.
func TestFaultsForked(t *testing.T) {
	b := newBox(t, "true")
	maps := []specs.LinuxIDMapping{{HostID: 1000, Size: 10}}
	b.spec.Mounts = append(b.spec.Mounts[:1:1], specs.Mount{Destination: "/tmp", Source: t.TempDir(), Type: "bind", UIDMappings: maps, GIDMappings: maps})
	b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
	b.spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 7}}
	b.faults()
	// Nobody is left of those that were killed before they could tell of another.
	if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); err != syscall.ECHILD {
		t.Errorf("process %d is left: %v", pid, err)
	}
}

func (b *box) faults() {
	t := b.t
	t.Helper()
	p, err := plan.Compile(b.spec, b.opt)
	must(t, err)
	before, child := len(p.Program().Before), len(p.Program().Child)
	if before < 5 || child < 50 { // control groups v2 need only a few before
		t.Fatalf("the plan has %d and %d ops: too few to be the whole", before, child)
	}
	phases := []struct {
		phase spawn.Phase
		n     int
	}{{spawn.Before, before}, {spawn.Child, child}}
	reached, tried := 0, 0
	for _, ph := range phases {
		for i := 0; i < ph.n; i += stride() {
			tried++
			// An op that is jumped over, since what it would make is there, cannot fail.
			_, err := b.run(spawn.Fault{Phase: ph.phase, Index: i, Errno: unix.EDOM})
			var se *spawn.Error
			if err != nil {
				reached++
				if !errors.As(err, &se) || se.Errno != unix.EDOM || se.Op != i || se.Phase != ph.phase || se.Step.Why == "" {
					t.Fatalf("failure of op %d of %v: got %#v", i, ph.phase, err)
				}
			}
			if ph.phase == spawn.Child && i != p.Program().ExecOp {
				// One that forks ends as it should when it has done so.
				if _, err := b.run(spawn.Fault{Phase: ph.phase, Index: i}); err != nil && !errors.Is(err, spawn.ErrDied) {
					t.Fatalf("killed at op %d: got %v, want ErrDied", i, err)
				}
			}
		}
	}
	if reached < tried*3/4 {
		t.Errorf("only %d of %d ops were reached", reached, tried)
	}
	if fds := openFiles(t); fds > 64 {
		t.Errorf("%d descriptors are open at the end", fds)
	}
}

func openFiles(t *testing.T) int {
	ents, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(ents)
}

// TestExeIsNotTheRuntime is CVE-2019-5736: the container's program is
// "#!/proc/self/exe". What runs then must not be a file of the host.
func TestExeIsNotTheRuntime(t *testing.T) {
	b := newBox(t, "/bin/evil")
	must(t, os.WriteFile(b.spec.Root.Path+"/bin/evil", []byte("#!/proc/self/exe\n"), 0o755))
	_, err := b.run(spawn.Fault{})
	var se *spawn.Error
	// The interpreter is the sealed stub. It is run with the script as argument
	// and the environment left, finds nothing to execute there, and says so.
	if err != nil && !errors.As(err, &se) {
		t.Fatal(err)
	}
	if strings.Contains(b.out.String(), "PASS") || strings.Contains(b.out.String(), "testing:") {
		t.Errorf("the runtime's own binary ran in the container: %q", b.out.String())
	}
}

// TestWorkingDirectoryOutside is CVE-2024-21626: a descriptor of a host
// directory must not be there to be entered.
func TestWorkingDirectoryOutside(t *testing.T) {
	dir, err := os.Open("/")
	must(t, err)
	defer dir.Close()
	for fd := 3; fd < 40; fd++ {
		b := newBox(t, "ls")
		b.spec.Process.Cwd = fmt.Sprintf("/proc/self/fd/%d", fd)
		ws, err := b.run(spawn.Fault{})
		// Directories of the box that set-up had open may be entered; the host's may not.
		if err == nil && ws.ExitStatus() == 0 && strings.Contains(b.out.String(), "usr\n") {
			t.Fatalf("working directory %s: ran in %q", b.spec.Process.Cwd, b.out.String())
		}
	}
}

func TestDecodeRefusesWhatPointsOutside(t *testing.T) {
	b := newBox(t, "true")
	p, err := plan.Compile(b.spec, b.opt)
	must(t, err)
	good := p.Encode()
	if _, err := program.Decode(good); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(3, 4))
	for range 3000 {
		bad := append([]byte(nil), good[:r.IntN(len(good))]...)
		if _, err := program.Decode(bad); err == nil {
			t.Fatalf("a program cut off at %d was accepted", len(bad))
		}
	}
}

// union gives the box a root of layers instead of a directory.
func (b *box) union(t *testing.T) (upper string) {
	dir := t.TempDir()
	for _, d := range []string{"upper", "work"} {
		must(t, os.Mkdir(dir+"/"+d, 0o755))
	}
	b.opt.Root = &plan.Root{FSType: "overlay", Params: []plan.Param{{Key: "lowerdir+", Value: b.spec.Root.Path},
		{Key: "upperdir", Value: dir + "/upper"}, {Key: "workdir", Value: dir + "/work"}}}
	return dir + "/upper"
}

func TestUnion(t *testing.T) {
	for _, classic := range []bool{false, true} {
		if err := kernel.OverlayAppend(); err != nil && !classic {
			t.Logf("only by mount(2): %v", err)
			continue
		}
		b := newBox(t, "sh", "-c", "echo x >/etc/new; cat /etc/new; mount | busybox grep -c ' on / type overlay '")
		upper := b.union(t)
		if classic {
			b.opt.Root.Data = "lowerdir=" + b.spec.Root.Path + ",upperdir=" + upper + ",workdir=" + filepath.Dir(upper) + "/work"
		}
		ws, err := b.run(spawn.Fault{})
		must(t, err)
		if b.out.String() != "x\n1\n" || ws.ExitStatus() != 0 {
			t.Errorf("classic %v: got %q with %v", classic, b.out.String(), ws)
		}
		if got, err := os.ReadFile(upper + "/etc/new"); string(got) != "x\n" {
			t.Errorf("classic %v: the upper directory has %q, %v", classic, got, err)
		}
	}
}

// TestUserNamespace: root in the namespace is nobody outside, and owns what root
// owns in the layers.
func TestUserNamespace(t *testing.T) {
	if err := kernel.OverlayAppend(); err != nil {
		t.Skipf("layers with other ids are given to overlay one by one: %v", err)
	}
	b := newBox(t, "sh", "-c", "busybox id -u; echo x >/etc/new; busybox stat -c %u /bin/busybox /etc/new; cat /proc/self/uid_map")
	upper := b.union(t)
	b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	maps := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 1000}}
	b.spec.Linux.UIDMappings, b.spec.Linux.GIDMappings = maps, maps
	ws, err := b.run(spawn.Fault{})
	must(t, err)
	if got := strings.Join(strings.Fields(b.out.String()), " "); got != "0 0 0 0 100000 1000" || ws.ExitStatus() != 0 {
		t.Errorf("got %q with %v", got, ws)
	}
	var st unix.Stat_t
	must(t, unix.Stat(upper+"/etc/new", &st))
	if st.Uid != 0 {
		t.Errorf("the layer has the new file with owner %d, want 0", st.Uid)
	}
	if n := len(failures(b)); n < 20 {
		t.Errorf("only %d ops after the clone", n)
	}
}

// failures lets each op after the clone fail, and gives their errors.
func failures(b *box) (errs []error) {
	p, err := plan.Compile(b.spec, b.opt)
	must(b.t, err)
	for i := range p.Program().After {
		_, err := b.run(spawn.Fault{Phase: spawn.After, Index: i, Errno: unix.EDOM})
		if !errors.Is(err, unix.EDOM) {
			b.t.Errorf("op %d after the clone: got %v", i, err)
		}
		errs = append(errs, err)
	}
	return errs
}

// TestCollectorRuns starts containers while the garbage collector runs without a
// pause: what the child reads must be there when it is cloned.
func TestCollectorRuns(t *testing.T) {
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC()
				junk = make([]byte, 16<<10)
			}
		}
	}()
	for range 30 {
		b := newBox(t, "echo", "fine")
		ws, err := b.run(spawn.Fault{})
		must(t, err)
		if b.out.String() != "fine\n" || ws.ExitStatus() != 0 {
			t.Fatalf("got %q with %v", b.out.String(), ws)
		}
	}
	close(stop)
	<-done
}

// junk takes what the collector has freed.
var junk []byte

// TestLabel: the text is written by who does the last execve, and the directory
// is closed then. This kernel has no module that gives labels, so another file of
// the process stands for theirs.
func TestLabel(t *testing.T) {
	b := newBox(t, "sh", "-c", "cat /proc/self/oom_score_adj; ls /proc/self/fd")
	b.opt.LSM = &plan.LSM{AppArmor: true}
	b.spec.Process.ApparmorProfile = "profile"
	file := "self/oom_score_adj"
	b.change = func(p *program.Program) {
		if p.LabelText != "exec profile" || !strings.HasPrefix(p.LabelFile, "self/attr/") {
			t.Errorf("%q is written to %q", p.LabelText, p.LabelFile)
		}
		p.LabelText, p.LabelFile = "321", file
		raw := p.Encode()
		q, err := program.Decode(raw)
		must(t, err)
		if q.LabelText != p.LabelText || q.LabelFile != p.LabelFile || q.LabelSlot != p.LabelSlot || q.LabelOp != p.LabelOp {
			t.Errorf("decoded as %+v", q)
		}
	}
	ws, err := b.run(spawn.Fault{})
	if err != nil || ws.ExitStatus() != 0 || b.out.String() != "321\n0\n1\n2\n3\n" {
		t.Errorf("got %q, %v, %v", b.out.String(), ws, err)
	}
	for _, c := range []struct {
		file  string
		errno unix.Errno
	}{{"self/none", unix.ENOENT}, {"self/attr", unix.EISDIR}} {
		file = c.file
		_, err := b.run(spawn.Fault{})
		var se *spawn.Error
		if !errors.As(err, &se) || se.Errno != c.errno || se.Step.Kind != "apparmor" {
			t.Errorf("%s: %v", c.file, err)
		}
	}
}

// stride is how many ops a fault passes over: an emulated processor needs long for
// each, and the host has tried them all.
func stride() int {
	if os.Getenv("VIV_TEST_VM") != "" {
		return 9
	}
	return 1
}
