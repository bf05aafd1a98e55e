package main_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// binary is what is tested: our own, or with VIV_TEST_REFERENCE=runc another
// runtime, to prove that what is expected here is right.
var (
	binary    string
	reference = os.Getenv("VIV_TEST_REFERENCE")
)

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	// Processes of containers whose runtime has gone come to us, and we reap them.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, "become a subreaper:", err)
		return 1
	}
	if reference != "" {
		path, err := exec.LookPath(reference)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		binary = path
		return m.Run()
	}
	if dir := os.Getenv("VIV_BIN_DIR"); dir != "" {
		binary = filepath.Join(dir, "viv-oci")
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "viv-oci-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "viv-oci")
	build := exec.Command("go", "build", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// box is one container of a test, with a bundle and a state root of its own.
type box struct {
	t      *testing.T
	id     string
	root   string
	bundle string
	spec   *specs.Spec
	pids   []int               // to be reaped
	user   *syscall.Credential // who calls the runtime; nil: root
}

// result is what a command gave.
type result struct {
	out, err string
	code     int
}

func newBox(t *testing.T, args ...string) *box {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes namespaces, mounts and control groups")
	}
	dir := t.TempDir()
	b := &box{t: t, id: fmt.Sprintf("viv-test-%08x", rand.Uint32()), root: filepath.Join(dir, "state"), bundle: filepath.Join(dir, "bundle")}
	rootfs := filepath.Join(b.bundle, "rootfs")
	for _, d := range []string{"bin", "etc", "tmp", "proc", "sys", "dev"} {
		must(t, os.MkdirAll(filepath.Join(rootfs, d), 0o755))
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatalf("the tests need Debian's busybox-static: %v", err)
	}
	must(t, os.WriteFile(filepath.Join(rootfs, "bin/busybox"), busybox, 0o755))
	for _, a := range []string{"sh", "true", "false", "cat", "id", "sleep", "echo", "tty", "stty", "ls", "env", "pwd", "mkfifo", "kill", "grep", "touch"} {
		must(t, os.Symlink("busybox", filepath.Join(rootfs, "bin", a)))
	}
	b.must("spec", "--bundle", b.bundle)
	b.spec = new(specs.Spec)
	raw, err := os.ReadFile(filepath.Join(b.bundle, "config.json"))
	must(t, err)
	must(t, json.Unmarshal(raw, b.spec))
	b.spec.Process.Args = args
	b.spec.Process.Terminal = false
	b.spec.Root.Readonly = false
	b.spec.Linux.CgroupsPath = "/" + b.id
	b.save()
	t.Cleanup(b.cleanup)
	return b
}

func (b *box) save() {
	b.t.Helper()
	raw, err := json.Marshal(b.spec)
	must(b.t, err)
	must(b.t, os.WriteFile(filepath.Join(b.bundle, "config.json"), raw, 0o644))
}

// cleanup deletes the container and checks that nothing of it is left.
func (b *box) cleanup() {
	if r := b.cmd("delete", "--force", b.id); r.code != 0 {
		b.t.Errorf("delete --force: exit code %d, %s", r.code, r.err)
	}
	for _, pid := range b.pids {
		b.reap(pid)
	}
	b.nothingLeft()
}

func (b *box) nothingLeft() {
	b.t.Helper()
	for _, pattern := range []string{"/sys/fs/cgroup/*/", "/sys/fs/cgroup/"} {
		dirs, _ := filepath.Glob(pattern + b.id)
		for _, d := range dirs {
			b.t.Errorf("control group %s is left", d)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must(b.t, err)
	if strings.Contains(string(mounts), b.bundle) {
		b.t.Errorf("a mount below %s is left", b.bundle)
	}
	if _, err := os.Stat(filepath.Join(b.root, b.id)); err == nil {
		b.t.Errorf("the state directory of %s is left", b.id)
	}
}

// reap waits for a process that came to us, if it ever does.
func (b *box) reap(pid int) {
	b.t.Helper()
	b.eventually("process "+strconv.Itoa(pid)+" ends", func() bool {
		p, err := unix.Wait4(pid, nil, unix.WNOHANG, nil)
		return p == pid || err == unix.ECHILD
	})
}

// eventually tries until something is so, for at most half a minute. What it is
// used for gives no event to wait for.
func (b *box) eventually(what string, so func() bool) {
	b.t.Helper()
	for end := time.Now().Add(30 * time.Second); !so(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("waited in vain until %s", what)
		}
	}
}

func (b *box) command(args ...string) *exec.Cmd {
	c := exec.Command(binary, append([]string{"--root", b.root}, args...)...)
	if b.user != nil {
		c.SysProcAttr = &syscall.SysProcAttr{Credential: b.user}
	}
	return c
}

func (b *box) cmd(args ...string) result { return runCmd(b.t, b.command(args...)) }

// runCmd runs a command with files for its output: a pipe would be waited for
// as long as a container that stays holds it.
func runCmd(t *testing.T, c *exec.Cmd) result {
	t.Helper()
	var out, errs *os.File
	if c.Stdout == nil {
		out = tempFile(t)
		c.Stdout = out
	}
	errs = tempFile(t)
	c.Stderr = errs
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v: %v", c.Args, err)
	}
	return result{contents(t, out), contents(t, errs), c.ProcessState.ExitCode()}
}

func tempFile(t *testing.T) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("output", unix.MFD_CLOEXEC)
	must(t, err)
	return os.NewFile(uintptr(fd), "output")
}

func contents(t *testing.T, f *os.File) string {
	t.Helper()
	if f == nil {
		return ""
	}
	defer f.Close()
	_, err := f.Seek(0, io.SeekStart)
	must(t, err)
	b, err := io.ReadAll(f)
	must(t, err)
	return string(b)
}

// must runs a command that has to succeed.
func (b *box) must(args ...string) string {
	b.t.Helper()
	r := b.cmd(args...)
	if r.code != 0 {
		b.t.Fatalf("%v: exit code %d: %s", args, r.code, r.err)
	}
	return r.out
}

// fails runs a command that has to fail with a code and words.
func (b *box) fails(code int, words string, args ...string) {
	b.t.Helper()
	r := b.cmd(args...)
	said := strings.ReplaceAll(r.err, `\"`, `"`) // as in a log line
	if r.code != code || !strings.Contains(said, words) {
		b.t.Errorf("%v: exit code %d and %q, want %d and %q", args, r.code, r.err, code, words)
	}
}

type info struct {
	OCIVersion  string            `json:"ociVersion"`
	ID          string            `json:"id"`
	Pid         *int              `json:"pid"`
	Status      string            `json:"status"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations"`
	Owner       string            `json:"owner"`
}

func (b *box) state() info {
	b.t.Helper()
	var i info
	d := json.NewDecoder(strings.NewReader(b.must("state", b.id)))
	d.DisallowUnknownFields()
	must(b.t, d.Decode(&i))
	if i.Pid == nil {
		b.t.Fatal("state has no pid")
	}
	return i
}

func (b *box) wantStatus(want string) {
	b.t.Helper()
	if got := b.state().Status; got != want {
		b.t.Errorf("status %q, want %q", got, want)
	}
}

// create creates the container and gives its process.
func (b *box) create(args ...string) int {
	b.t.Helper()
	b.must(append(append([]string{"create", "--bundle", b.bundle}, args...), b.id)...)
	pid := *b.state().Pid
	b.pids = append(b.pids, pid)
	return pid
}

// detached creates and starts it.
func (b *box) detached(args ...string) int {
	b.t.Helper()
	pid := b.create(args...)
	b.must("start", b.id)
	return pid
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func sh(script string) []string { return []string{"/bin/sh", "-c", script} }

func TestRun(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		out  string
		code int
	}{
		{"output", sh("echo hello; echo $$"), "hello\n1\n", 0},
		{"exit code", sh("exit 7"), "", 7},
		{"the first process cannot kill itself", sh("kill -9 $$; echo alive"), "alive\n", 0},
		{"found in PATH", []string{"echo", "x"}, "x\n", 0},
		{"no terminal", sh("tty"), "not a tty\n", 1},
		{"working directory", sh("cd /tmp && pwd"), "/tmp\n", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBox(t, c.args...)
			r := b.cmd("run", "-b", b.bundle, b.id)
			if r.out != c.out || r.code != c.code || r.err != "" {
				t.Errorf("got %q, exit code %d, %q; want %q and %d", r.out, r.code, r.err, c.out, c.code)
			}
			b.fails(1, "container does not exist", "state", b.id)
		})
	}
}

func TestRunKilledBySignal(t *testing.T) {
	b := newBox(t, sh("echo up; exec sleep 1000")...)
	c, out := b.start("run", "-b", b.bundle, b.id)
	readLine(t, out, "up")
	b.must("kill", b.id, "KILL")
	if code := wait(t, c); code != 128+9 {
		t.Errorf("exit code %d, want 137", code)
	}
}

// start starts a command whose output can be read.
func (b *box) start(args ...string) (*exec.Cmd, io.Reader) {
	b.t.Helper()
	c := b.command(args...)
	r, w, err := os.Pipe()
	must(b.t, err)
	c.Stdout, c.Stderr = w, os.Stderr
	must(b.t, c.Start())
	w.Close()
	b.t.Cleanup(func() { r.Close() })
	return c, r
}

func wait(t *testing.T, c *exec.Cmd) int {
	t.Helper()
	err := c.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return c.ProcessState.ExitCode()
}

// readLine reads until a line has come that contains want.
func readLine(t *testing.T, r io.Reader, want string) string {
	t.Helper()
	found := make(chan string, 1)
	go func() {
		var line []byte
		for c := make([]byte, 1); ; {
			if _, err := r.Read(c); err != nil {
				found <- ""
				return
			}
			if c[0] != '\n' {
				line = append(line, c[0])
				continue
			}
			if strings.Contains(string(line), want) {
				found <- string(line)
				return
			}
			line = line[:0]
		}
	}()
	select {
	case line := <-found:
		if line == "" {
			t.Fatalf("the output ended before %q came", want)
		}
		return line
	case <-time.After(30 * time.Second):
		t.Fatalf("waited in vain for a line with %q", want)
		return ""
	}
}

func TestRunKeep(t *testing.T) {
	b := newBox(t, "true")
	if r := b.cmd("run", "--keep", "-b", b.bundle, b.id); r.code != 0 {
		t.Fatalf("exit code %d, %s", r.code, r.err)
	}
	b.wantStatus("stopped")
	b.must("delete", b.id)
	b.fails(1, "container does not exist", "state", b.id)
}

// TestSignalsReach: a foreground command passes signals on.
func TestSignalsReach(t *testing.T) {
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGHUP, unix.SIGUSR2, unix.SIGINT} {
		b := newBox(t, sh(fmt.Sprintf("trap 'echo got; exit 5' %d; echo up; while :; do sleep 0.01; done", sig))...)
		c, out := b.start("run", "-b", b.bundle, b.id)
		readLine(t, out, "up")
		must(t, c.Process.Signal(sig))
		readLine(t, out, "got")
		if code := wait(t, c); code != 5 {
			t.Errorf("%v: exit code %d, want 5", sig, code)
		}
	}
}

// TestSignalsAreNotInherited: what the caller ignores, as under nohup(1), is not ignored in the
// container. (crun does so, too; runc does not.)
func TestSignalsAreNotInherited(t *testing.T) {
	ignored := []os.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGTSTP, unix.SIGUSR1}
	signal.Ignore(ignored...)
	defer signal.Reset(ignored...)
	grep := []string{"grep", "SigIgn", "/proc/self/status"}
	b := newBox(t, sh(strings.Join(grep, " ")+"; sleep 1000")...)
	c, out := b.start("run", "-b", b.bundle, b.id)
	const want = "SigIgn:\t0000000000000000"
	if got := readLine(t, out, "SigIgn"); got != want {
		t.Errorf("run: %q, want %q", got, want)
	}
	if got := b.must(append([]string{"exec", b.id}, grep...)...); got != want+"\n" {
		t.Errorf("exec: %q, want %q", got, want)
	}
	b.must("kill", b.id, "KILL")
	wait(t, c)
}

func TestLifecycle(t *testing.T) {
	b := newBox(t, "sleep", "1000")
	b.spec.Annotations = map[string]string{"org.example.key": "value"}
	b.save()
	before := time.Now().Add(-time.Second)
	pidFile := filepath.Join(t.TempDir(), "pid")
	pid := b.create("--pid-file", pidFile)
	got, err := os.ReadFile(pidFile)
	must(t, err)
	if string(got) != strconv.Itoa(pid) {
		t.Errorf("pid file has %q, state has %d", got, pid)
	}
	i := b.state()
	if i.ID != b.id || i.Status != "created" || i.Bundle != b.bundle || i.Rootfs != b.bundle+"/rootfs" ||
		i.OCIVersion == "" || i.Annotations["org.example.key"] != "value" || i.Created.Before(before) || i.Created.After(time.Now()) {
		t.Errorf("state %+v", i)
	}
	b.fails(1, "container with given ID already exists", "create", "-b", b.bundle, b.id)
	b.fails(1, "container not paused", "resume", b.id)
	b.must("start", b.id)
	b.wantStatus("running")
	b.fails(1, "cannot start an already running container", "start", b.id)
	b.fails(1, "that is not stopped", "delete", b.id)
	b.must("pause", b.id)
	b.wantStatus("paused")
	b.fails(1, "container not running", "pause", b.id)
	b.fails(1, "cannot start a container in the paused state", "start", b.id)
	b.fails(1, "that is not stopped", "delete", b.id)
	b.fails(255, "cannot exec in a paused container (use --ignore-paused to override)", "exec", b.id, "true")
	b.must("resume", b.id)
	b.wantStatus("running")
	b.must("kill", b.id, "KILL")
	b.reap(pid)
	b.wantStatus("stopped")
	if pid := *b.state().Pid; pid != 0 {
		t.Errorf("pid %d of a stopped container", pid)
	}
	b.fails(1, "container not running", "kill", b.id, "KILL")
	b.must("kill", "--all", b.id, "KILL")
	b.fails(1, "cannot start a container that has stopped", "start", b.id)
	b.fails(255, "exec failed", "exec", b.id, "true")
	b.must("delete", b.id)
	for _, args := range [][]string{{"state", b.id}, {"start", b.id}, {"kill", b.id}, {"delete", b.id}, {"ps", b.id}, {"pause", b.id}, {"resume", b.id}, {"update", b.id}, {"events", b.id}} {
		b.fails(1, "container does not exist", args...)
	}
	b.fails(255, "container does not exist", "exec", b.id, "true")
	b.must("delete", "--force", b.id)
	b.must("delete", b.id, "-f") // flags may stand behind
}

// TestCommandIsHeld: the command does not run before start.
func TestCommandIsHeld(t *testing.T) {
	b := newBox(t, sh("touch /tmp/ran; sleep 1000")...)
	b.create()
	ran := filepath.Join(b.bundle, "rootfs/tmp/ran")
	if _, err := os.Stat(ran); err == nil {
		t.Error("the command ran before start")
	}
	b.must("exec", b.id, "true") // runs in a created container
	b.must("start", b.id)
	b.eventually("the command has run", func() bool { _, err := os.Stat(ran); return err == nil })
}

// TestWaitingCostsNothing: what waits for start is a page of memory, no copy of
// the runtime.
func TestWaitingCostsNothing(t *testing.T) {
	if reference != "" {
		t.Skip("a claim of ours")
	}
	b := newBox(t, "sleep", "1000")
	pid := b.create()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	must(t, err)
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); f[0] == "Pss:" {
			if kb, err := strconv.Atoi(f[1]); err != nil || kb > 64 {
				t.Errorf("the waiting process has %s kB PSS", f[1])
			}
		}
	}
	// It says that it is ready, and then lets the socket go over which it did.
	b.eventually("the waiting process has four files open: 0, 1, 2 and the FIFO", func() bool {
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		must(t, err)
		return len(fds) == 4
	})
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	must(t, err)
	if !strings.HasPrefix(exe, "/memfd:") {
		t.Errorf("the waiting process executes %s", exe)
	}
}

func TestErrors(t *testing.T) {
	b := newBox(t, "no-such-command")
	b.fails(1, `exec: "no-such-command": executable file not found in $PATH`, "run", "-b", b.bundle, b.id)
	b.nothingLeft()
	b.fails(1, `exec: "no-such-command": executable file not found in $PATH`, "create", "-b", b.bundle, b.id)
	b.nothingLeft()
	b.spec.Process.Args = []string{"/no/such"}
	b.save()
	b.fails(1, `exec: "/no/such": stat /no/such: no such file or directory`, "create", "-b", b.bundle, b.id)
	b.spec.Process.Args = []string{"/etc"}
	b.save()
	b.fails(1, `permission denied`, "create", "-b", b.bundle, b.id)
	must(t, os.WriteFile(filepath.Join(b.bundle, "rootfs/etc/plain"), []byte("x"), 0o644))
	b.spec.Process.Args = []string{"/etc/plain"}
	b.save()
	b.fails(1, `exec: "/etc/plain": permission denied`, "create", "-b", b.bundle, b.id)
	b.nothingLeft()
	b.fails(1, "no such file or directory", "run", "-b", "/no/such/dir", b.id)
	b.fails(1, "not found", "run", "-b", t.TempDir(), b.id)
	b.fails(1, "invalid container ID format", "run", "-b", b.bundle, "a/b")
	b.fails(1, "requires exactly 1 argument(s)", "run", "-b", b.bundle)
	b.fails(1, "requires exactly 1 argument(s)", "state")
	b.fails(1, "flag provided but not defined: -nonsense", "state", "--nonsense", b.id)
	b.fails(3, "No help topic for 'nonsense'", "nonsense")
	b.fails(1, "cannot use console socket", "run", "--console-socket", "/x", "-b", b.bundle, b.id)
	b.spec.Process.Terminal = true
	b.save()
	b.fails(1, "cannot allocate tty if runc will detach without setting console socket", "create", "-b", b.bundle, b.id)
	b.nothingLeft()
}

// TestLog: the formats that containerd and conmon parse.
func TestLog(t *testing.T) {
	b := newBox(t, "true")
	file := filepath.Join(t.TempDir(), "log.json")
	r := b.cmd("--log", file, "--log-format", "json", "state", b.id)
	if r.code != 1 || r.err != "container does not exist\n" {
		t.Errorf("exit code %d, standard error %q", r.code, r.err)
	}
	raw, err := os.ReadFile(file)
	must(t, err)
	lines := bytes.Split(bytes.TrimSpace(raw), []byte("\n"))
	var e struct {
		Level, Msg string
		Time       time.Time
	}
	must(t, json.Unmarshal(lines[len(lines)-1], &e))
	if e.Level != "error" || e.Msg != "container does not exist" || time.Since(e.Time) > time.Minute {
		t.Errorf("log %s", raw)
	}
	b.fails(1, `level=error msg="container does not exist"`, "state", b.id)
	b.fails(1, "invalid log-format", "--log-format", "xml", "state", b.id)
}

func TestList(t *testing.T) {
	b := newBox(t, "sleep", "1000")
	if got := strings.Fields(b.must("list")); strings.Join(got, " ") != "ID PID STATUS BUNDLE CREATED OWNER" {
		t.Errorf("list of nothing: %q", got)
	}
	if got := b.must("list", "-f", "json"); got != "null\n" {
		t.Errorf("list of nothing: %q", got)
	}
	pid := b.create()
	f := strings.Fields(strings.Split(b.must("list"), "\n")[1])
	if len(f) != 6 || f[0] != b.id || f[1] != strconv.Itoa(pid) || f[2] != "created" || f[3] != b.bundle || f[5] != "root" {
		t.Errorf("list: %q", f)
	}
	if got := b.must("list", "-q"); got != b.id+"\n" {
		t.Errorf("list -q: %q", got)
	}
	var all []info
	must(t, json.Unmarshal([]byte(b.must("list", "--format=json")), &all))
	if len(all) != 1 || all[0].ID != b.id || *all[0].Pid != pid || all[0].Status != "created" || all[0].Owner != "root" {
		t.Errorf("list -f json: %+v", all)
	}
	b.fails(1, "invalid format option", "list", "-f", "xml")
}

func TestPs(t *testing.T) {
	b := newBox(t, sh("sleep 1000 & wait")...)
	pid := b.detached()
	var pids []int
	b.eventually("two processes run", func() bool {
		must(t, json.Unmarshal([]byte(b.must("ps", "-f", "json", b.id)), &pids))
		return len(pids) == 2
	})
	if pids[0] != pid {
		t.Errorf("ps: %v, the first process is %d", pids, pid)
	}
	lines := strings.Split(strings.TrimSpace(b.must("ps", b.id)), "\n")
	if len(lines) != 3 || !strings.HasPrefix(lines[0], "UID") || !strings.Contains(lines[1]+lines[2], "sleep 1000") {
		t.Errorf("ps: %q", lines)
	}
	lines = strings.Split(strings.TrimSpace(b.must("ps", b.id, "-o", "pid,comm")), "\n")
	if len(lines) != 3 || strings.Join(strings.Fields(lines[0]), " ") != "PID COMMAND" {
		t.Errorf("ps -o: %q", lines)
	}
}

func TestConcurrentCreates(t *testing.T) {
	if reference != "" {
		t.Skip("runc 1.1 does not take the name before it makes the container")
	}
	b := newBox(t, "sleep", "1000")
	const n = 8
	results := make(chan result, n)
	for range n {
		go func() { results <- b.cmd("create", "-b", b.bundle, b.id) }()
	}
	made := 0
	for range n {
		switch r := <-results; {
		case r.code == 0:
			made++
		case !strings.Contains(r.err, "container with given ID already exists"):
			t.Errorf("exit code %d, %s", r.code, r.err)
		}
	}
	if made != 1 {
		t.Errorf("%d creates of one name succeeded", made)
	}
	b.pids = append(b.pids, *b.state().Pid)
	b.must("start", b.id)
	b.wantStatus("running")
}

// TestKilled kills the runtime at random moments. Whatever it was doing, list
// works, and delete --force leaves nothing.
func TestKilled(t *testing.T) {
	if reference != "" {
		t.Skip("runc 1.1 loses its processes when it is killed before it has written its state")
	}
	for _, verb := range []string{"create", "run", "start", "delete"} {
		t.Run(verb, func(t *testing.T) {
			b := newBox(t, "sleep", "1000")
			for i := range 60 {
				args := []string{verb, "-b", b.bundle, b.id}
				if verb == "start" || verb == "delete" {
					b.must("create", "-b", b.bundle, b.id)
					args = []string{verb, b.id}
				}
				c := b.command(args...)
				must(t, c.Start())
				time.Sleep(time.Duration(rand.IntN(200*(i+1))) * time.Microsecond)
				c.Process.Signal(syscall.SIGKILL)
				c.Wait()
				b.must("list")
				b.must("delete", "--force", b.id)
				b.nothingLeft()
				b.noProcess()
				if t.Failed() {
					return
				}
			}
		})
	}
}

// noProcess checks that no child of ours runs: a container's process that lost
// its runtime comes to us.
func (b *box) noProcess() {
	b.t.Helper()
	b.eventually("all processes have ended", func() bool {
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if err == unix.ECHILD {
				return true
			}
			if pid <= 0 {
				return false
			}
		}
	})
}
