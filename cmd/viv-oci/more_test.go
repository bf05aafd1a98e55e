package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestExec(t *testing.T) {
	b := newBox(t, "sleep", "1000")
	must(t, os.Mkdir(filepath.Join(b.bundle, "rootfs/tmp/dir"), 0o755))
	b.detached()
	for _, c := range []struct {
		args []string
		out  string
		code int
	}{
		{append([]string{b.id}, sh("exit 3")...), "", 3},
		{append([]string{b.id}, sh("kill -9 $$")...), "", 137},
		{append([]string{"-e", "A=b c", "-e=C=d", b.id}, sh("echo $A $C $PATH | /bin/busybox cut -c1-8")...), "b c d /u\n", 0},
		{[]string{"--cwd", "/tmp/dir", b.id, "pwd"}, "/tmp/dir\n", 0},
		{[]string{"-u", "1000:1001", "-g", "7", "-g", "8", b.id, "sh", "-c", "id -u; id -g; id -G"}, "1000\n1001\n1001 7 8\n", 0},
		{[]string{b.id, "echo", "-n", "--cwd", "x"}, "--cwd x", 0}, // flags of the command are its own
		{[]string{b.id, "tty"}, "not a tty\n", 1},
		{[]string{"--no-new-privs", b.id, "grep", "NoNewPrivs", "/proc/self/status"}, "NoNewPrivs:\t1\n", 0},
		{[]string{"--cap", "CAP_SYS_PTRACE", b.id, "sh", "-c", "grep CapBnd /proc/self/status"}, "CapBnd:\t0000000020080420\n", 0},
		{[]string{b.id, "sh", "-c", "grep CapBnd /proc/self/status; echo $$ >/dev/null; ls /proc/self/fd"}, "CapBnd:\t0000000020000420\n0\n1\n2\n3\n", 0},
	} {
		r := b.cmd(append([]string{"exec"}, c.args...)...)
		if r.out != c.out || r.code != c.code {
			t.Errorf("exec %q: %q with exit code %d and %q, want %q and %d", c.args, r.out, r.code, r.err, c.out, c.code)
		}
	}
	b.fails(255, `exec failed: unable to start container process: exec: "nope": executable file not found in $PATH`, "exec", b.id, "nope")
	b.fails(255, `exec: "/nope": stat /nope: no such file or directory`, "exec", b.id, "/nope")
	b.fails(255, `exec: "/tmp": permission denied`, "exec", b.id, "/tmp")
	b.fails(255, "exec failed", "exec", "-u", "nobody", b.id, "true")
	b.wantStatus("running")
}

// TestHome: a process without HOME gets its user's.
func TestHome(t *testing.T) {
	b := newBox(t, sh("echo $HOME; sleep 1000")...)
	passwd := filepath.Join(b.bundle, "rootfs/etc/passwd")
	must(t, os.WriteFile(passwd, []byte("root:x:0:0::/root:/bin/sh\nme:x:1000:1000::/home/me:/bin/sh\n"), 0o644))
	b.detached()
	home := sh("echo $HOME")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{b.id}, "/root\n"},
		{[]string{"-u", "1000", b.id}, "/home/me\n"},
		{[]string{"-u", "1001", b.id}, "/\n"},
		{[]string{"-e", "HOME=/x", b.id}, "/x\n"},
	} {
		if got := b.must(append(append([]string{"exec"}, c.args...), home...)...); got != c.want {
			t.Errorf("exec %v: HOME %q, want %q", c.args, got, c.want)
		}
	}
	// What leads out of the container leads nowhere.
	must(t, os.Remove(passwd))
	must(t, os.Symlink("/../../../../../../../etc/passwd", passwd))
	if got := b.must(append([]string{"exec", b.id}, home...)...); got != "/\n" {
		t.Errorf("HOME %q from a passwd outside", got)
	}
}

func TestExecProcessFile(t *testing.T) {
	b := newBox(t, "sleep", "1000")
	b.detached()
	p := specs.Process{Args: sh("id -u; pwd; echo $X"), Cwd: "/tmp", Env: []string{"PATH=/bin", "X=y"}, User: specs.User{UID: 5}}
	raw, err := json.Marshal(p)
	must(t, err)
	file := filepath.Join(t.TempDir(), "process.json")
	must(t, os.WriteFile(file, raw, 0o644))
	if got := b.must("exec", "--process", file, b.id); got != "5\n/tmp\ny\n" {
		t.Errorf("got %q", got)
	}
}

func TestExecDetached(t *testing.T) {
	b := newBox(t, "sleep", "1000")
	b.detached()
	pidFile := filepath.Join(t.TempDir(), "pid")
	b.must("exec", "-d", "--pid-file", pidFile, b.id, "sleep", "1234")
	raw, err := os.ReadFile(pidFile)
	must(t, err)
	pid, err := strconv.Atoi(string(raw))
	must(t, err)
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	must(t, err)
	if string(cmdline) != "sleep\x001234\x00" {
		t.Errorf("the pid file names %q", cmdline)
	}
	b.pids = append([]int{pid}, b.pids...)
	var pids []int
	must(t, json.Unmarshal([]byte(b.must("ps", "-f", "json", b.id)), &pids))
	if len(pids) != 2 {
		t.Errorf("%v in the container's groups", pids)
	}
	must(t, unix.Kill(pid, unix.SIGKILL))
	b.reap(pid)
	b.wantStatus("running")
}

// consoleSocket receives one terminal's master.
type consoleSocket struct {
	path string
	l    *net.UnixListener
}

func newConsoleSocket(t *testing.T) *consoleSocket {
	t.Helper()
	dir, err := os.MkdirTemp("", "viv") // a path in a unix socket is short
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/s"})
	must(t, err)
	t.Cleanup(func() { l.Close() })
	return &consoleSocket{dir + "/s", l}
}

// receive takes the descriptor as conmon and containerd do.
func (s *consoleSocket) receive(t *testing.T) *os.File {
	t.Helper()
	must(t, s.l.SetDeadline(time.Now().Add(30*time.Second)))
	c, err := s.l.AcceptUnix()
	must(t, err)
	defer c.Close()
	must(t, c.SetDeadline(time.Now().Add(30*time.Second)))
	data, oob := make([]byte, 4096), make([]byte, 128)
	n, oobn, _, _, err := c.ReadMsgUnix(data, oob)
	must(t, err)
	if n == 0 {
		t.Error("the descriptor came without a name")
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	must(t, err)
	fds, err := unix.ParseUnixRights(&msgs[0])
	must(t, err)
	if len(fds) != 1 {
		t.Fatalf("%d descriptors came", len(fds))
	}
	f := os.NewFile(uintptr(fds[0]), string(data[:n]))
	t.Cleanup(func() { f.Close() })
	return f
}

func TestConsoleSocket(t *testing.T) {
	b := newBox(t, sh("tty; stty size; read line; echo got $line")...)
	b.spec.Process.Terminal = true
	b.spec.Process.ConsoleSize = &specs.Box{Height: 31, Width: 77}
	b.save()
	s := newConsoleSocket(t)
	b.create("--console-socket", s.path)
	master := s.receive(t)
	b.must("start", b.id)
	readLine(t, master, "/dev/pts/0")
	readLine(t, master, "31 77")
	_, err := master.WriteString("hello\n")
	must(t, err)
	readLine(t, master, "got hello")
}

func TestExecTerminal(t *testing.T) {
	b := newBox(t, "sleep", "1000")
	b.detached()
	s := newConsoleSocket(t)
	pidFile := filepath.Join(t.TempDir(), "pid")
	b.must("exec", "--tty", "--detach", "--console-socket", s.path, "--pid-file", pidFile, b.id, "sh", "-c", "tty; read x; echo got $x")
	raw, err := os.ReadFile(pidFile)
	must(t, err)
	pid, err := strconv.Atoi(string(raw))
	must(t, err)
	master := s.receive(t)
	readLine(t, master, "/dev/pts/")
	_, err = master.WriteString("y\n")
	must(t, err)
	readLine(t, master, "got y")
	b.reap(pid)
	b.fails(255, "without setting console socket", "exec", "-t", "-d", b.id, "true")
}

// terminal is a pseudo-terminal of the test.
func terminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	m, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	must(t, err)
	must(t, unix.IoctlSetPointerInt(m, unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(m, unix.TIOCGPTN)
	must(t, err)
	s, err := unix.Open(fmt.Sprintf("/dev/pts/%d", n), unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	must(t, err)
	master, slave = os.NewFile(uintptr(m), "master"), os.NewFile(uintptr(s), "slave")
	t.Cleanup(func() { master.Close(); slave.Close() })
	return master, slave
}

// TestForegroundTerminal runs a container on our terminal: its size comes
// through, changes of it too, input is raw, and the terminal is as before after.
func TestForegroundTerminal(t *testing.T) {
	for _, verb := range []string{"run", "exec"} {
		t.Run(verb, func(t *testing.T) {
			script := sh("stty size; echo up; while read x; do echo got $x; stty size; [ $x != quit ] || exit 6; done")
			b := newBox(t, script...)
			args := []string{"run", "-b", b.bundle, b.id}
			if verb == "exec" {
				b.spec.Process.Args = []string{"sleep", "1000"}
				b.save()
				b.detached()
				args = append([]string{"exec", "-t", b.id}, script...)
			} else {
				b.spec.Process.Terminal = true
				b.save()
			}
			master, slave := terminal(t)
			must(t, unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 22, Col: 66}))
			before, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
			must(t, err)
			c := b.command(args...)
			c.Stdin, c.Stdout, c.Stderr = slave, slave, slave
			c.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
			must(t, c.Start())
			readLine(t, master, "22 66")
			readLine(t, master, "up")
			raw, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
			must(t, err)
			if raw.Lflag&(unix.ECHO|unix.ICANON|unix.ISIG) != 0 {
				t.Errorf("the terminal is not raw: %#x", raw.Lflag)
			}
			must(t, unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 23, Col: 67}))
			b.eventually("the new size has come through", func() bool {
				_, err := master.WriteString("a\r")
				must(t, err)
				readLine(t, master, "got a")
				return strings.Contains(readLine(t, master, " "), "23 67")
			})
			_, err = master.WriteString("quit\r")
			must(t, err)
			readLine(t, master, "got quit")
			if code := wait(t, c); code != 6 {
				t.Errorf("exit code %d, want 6", code)
			}
			after, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
			must(t, err)
			if *after != *before {
				t.Errorf("the terminal is left in another mode: %+v, was %+v", after, before)
			}
		})
	}
}

func TestPreserveFDs(t *testing.T) {
	b := newBox(t, sh("cat <&3; cat <&4; ls /proc/self/fd")...)
	open := func(text string) *os.File {
		f := tempFile(t)
		f.WriteString(text)
		f.Seek(0, 0)
		t.Cleanup(func() { f.Close() })
		return f
	}
	c := b.command("run", "--preserve-fds", "2", "-b", b.bundle, b.id)
	c.ExtraFiles = []*os.File{open("three\n"), open("four\n")}
	if r := runCmd(t, c); r.out != "three\nfour\n0\n1\n2\n3\n4\n5\n" || r.code != 0 {
		t.Errorf("got %q, exit code %d, %s", r.out, r.code, r.err)
	}
	b.spec.Process.Args = sh("ls /proc/self/fd")
	b.save()
	c = b.command("run", "--preserve-fds", "1", "-b", b.bundle, b.id)
	c.ExtraFiles = []*os.File{open(""), open("")}
	if r := runCmd(t, c); r.out != "0\n1\n2\n3\n4\n" { // 4 is ls's own
		t.Errorf("got %q: more than was asked for came through", r.out)
	}
	// What is not open stays so, and nothing of ours takes its number.
	c = b.command("run", "--preserve-fds", "40", "-b", b.bundle, b.id)
	c.ExtraFiles = []*os.File{open(""), nil, open("")}
	want := "0 1 2 3 4 5" // 4 is ls's own
	for fd := 6; fd < 3+40; fd++ {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			want += " " + strconv.Itoa(fd) // whoever runs the tests has left it open
		}
	}
	got := runCmd(t, c)
	if list := strings.Fields(got.out); strings.Join(slices.SortedFunc(slices.Values(list), byNumber), " ") != want {
		t.Errorf("got %q, want %q: %s", got.out, want, got.err)
	}
	b.fails(1, "below zero", "run", "--preserve-fds=-1", "-b", b.bundle, b.id)
	b.spec.Process.Args = sh("echo $LISTEN_FDS $LISTEN_PID; cat <&3")
	b.save()
	// Descriptors of socket activation are for the process that LISTEN_PID names.
	c = exec.Command("/bin/sh", "-c", `LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" "$@"`, binary, "--root", b.root, "run", "-b", b.bundle, b.id)
	c.ExtraFiles = []*os.File{open("socket\n")}
	if r := runCmd(t, c); r.out != "1 1\nsocket\n" {
		t.Errorf("with LISTEN_FDS: %q, %s", r.out, r.err)
	}
	for pid, want := range map[string]string{"": "1 1\nsocket\n", "LISTEN_PID=1": "\n"} {
		c = b.command("run", "-b", b.bundle, b.id)
		c.Env = append(os.Environ(), "LISTEN_FDS=1", pid)
		c.ExtraFiles = []*os.File{open("socket\n")}
		if r := runCmd(t, c); r.out != want {
			t.Errorf("with LISTEN_FDS and %q: %q, %s", pid, r.out, r.err)
		}
	}
}

func byNumber(a, b string) int {
	x, _ := strconv.Atoi(a)
	y, _ := strconv.Atoi(b)
	return x - y
}

func TestKillAll(t *testing.T) {
	b := newBox(t, sh("trap 'exit 1' USR1; (trap 'touch /tmp/got; exit' USR1; touch /tmp/up; while :; do sleep 0.01; done) & while :; do sleep 0.01; done")...)
	pid := b.detached()
	tmp := filepath.Join(b.bundle, "rootfs/tmp")
	there := func(name string) func() bool {
		return func() bool { _, err := os.Stat(filepath.Join(tmp, name)); return err == nil }
	}
	b.eventually("the second process is up", there("up"))
	b.must("kill", "--all", b.id, "SIGUSR1")
	b.reap(pid)
	b.pids = nil
}

// TestSharedPids: without a pid namespace the others do not end with the first
// process, but with delete.
func TestSharedPids(t *testing.T) {
	b := newBox(t, sh("sleep 1000 & sleep 1001 & wait")...)
	var ns []specs.LinuxNamespace
	for _, n := range b.spec.Linux.Namespaces {
		if n.Type != specs.PIDNamespace {
			ns = append(ns, n)
		}
	}
	b.spec.Linux.Namespaces = ns
	b.save()
	pid := b.detached()
	var pids []int
	b.eventually("three processes run", func() bool {
		must(t, json.Unmarshal([]byte(b.must("ps", "-f", "json", b.id)), &pids))
		return len(pids) == 3
	})
	must(t, unix.Kill(pid, unix.SIGKILL))
	b.reap(pid)
	b.pids = pids[1:]
	b.wantStatus("stopped")
	b.must("delete", b.id)
	for _, p := range pids[1:] {
		b.reap(p)
	}
}

func TestSignalNames(t *testing.T) {
	for _, name := range []string{"TERM", "SIGTERM", "term", "15"} {
		b := newBox(t, sh("trap 'exit 9' TERM; touch /tmp/up; while :; do sleep 0.01; done")...)
		c, _ := b.start("run", "-b", b.bundle, b.id)
		b.eventually("it is up", func() bool {
			_, err := os.Stat(filepath.Join(b.bundle, "rootfs/tmp/up"))
			return err == nil
		})
		b.must("kill", b.id, name)
		if code := wait(t, c); code != 9 {
			t.Errorf("kill %s: exit code %d, want 9", name, code)
		}
	}
	b := newBox(t, "sleep", "1000")
	b.detached()
	b.fails(1, "unknown signal", "kill", b.id, "FROB")
	b.fails(1, "unable to signal init: invalid argument", "kill", b.id, "99")
}

// groupFile reads a file of the container's group for a v1 controller, or v2.
func (b *box) groupFile(v1, v2 string) string {
	b.t.Helper()
	controller, _, _ := strings.Cut(v1, ".")
	for _, path := range []string{"/sys/fs/cgroup/" + controller + "/" + b.id + "/" + v1, "/sys/fs/cgroup/" + b.id + "/" + v2} {
		if raw, err := os.ReadFile(path); err == nil {
			return strings.TrimSpace(string(raw))
		}
	}
	b.t.Fatalf("neither %s nor %s is in a group of the container", v1, v2)
	return ""
}

func (b *box) wantGroup(v1, want1, v2, want2 string) {
	b.t.Helper()
	got := b.groupFile(v1, v2)
	if got != want1 && got != want2 {
		b.t.Errorf("%s is %q, want %q (v2: %q)", v1, got, want1, want2)
	}
}

func TestUpdate(t *testing.T) {
	b := newBox(t, "sleep", "1000")
	b.detached()
	const mb = 1 << 20
	b.must("update", "--memory", "64m", "--memory-reservation", strconv.Itoa(32*mb), "--pids-limit", "21", "--cpu-period", "50000", "--cpu-quota", "25000", "--cpu-share", "512", "--cpuset-cpus", "0", b.id)
	b.wantGroup("memory.limit_in_bytes", "67108864", "memory.max", "67108864")
	b.wantGroup("memory.soft_limit_in_bytes", "33554432", "memory.low", "33554432")
	b.wantGroup("pids.max", "21", "pids.max", "21")
	b.wantGroup("cpu.cfs_quota_us", "25000", "cpu.max", "25000 50000")
	b.wantGroup("cpu.cfs_period_us", "50000", "cpu.max", "25000 50000")
	b.wantGroup("cpu.shares", "512", "cpu.weight", "59") // the logarithmic conversion, see cgroup.SharesToWeight
	b.wantGroup("cpuset.cpus", "0", "cpuset.cpus", "0")
	c := b.command("update", "-r", "-", b.id)
	c.Stdin = strings.NewReader(`{"memory":{"limit":50331648},"cpu":{"shares":256},"pids":{"limit":33}}`)
	if r := runCmd(t, c); r.code != 0 {
		t.Fatalf("update -r -: %s", r.err)
	}
	b.wantGroup("memory.limit_in_bytes", "50331648", "memory.max", "50331648")
	b.wantGroup("cpu.shares", "256", "cpu.weight", "35")
	b.wantGroup("pids.max", "33", "pids.max", "33")
	b.wantGroup("cpuset.cpus", "0", "cpuset.cpus", "0")
	b.fails(1, "", "update", "-r", "/no/such/file", b.id)
	b.fails(1, "", "update", "--memory", "lots", b.id)
}

func TestEventsStats(t *testing.T) {
	b := newBox(t, "sleep", "1000")
	limit := int64(64 << 20)
	b.spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
	b.save()
	b.detached()
	var e struct {
		Type, ID string
		Data     struct {
			CPU struct {
				Usage      struct{ Total, Kernel, User uint64 }
				Throttling map[string]uint64
			}
			Memory struct {
				Usage, Swap, Kernel struct{ Limit, Usage, Max, Failcnt uint64 }
				Raw                 map[string]uint64
			}
			Pids    struct{ Current, Limit uint64 }
			Blkio   map[string]any
			Hugetlb map[string]any
		}
	}
	out := b.must("events", "--stats", b.id)
	must(t, json.Unmarshal([]byte(out), &e))
	if e.Type != "stats" || e.ID != b.id || e.Data.CPU.Usage.Total == 0 || e.Data.Memory.Usage.Usage == 0 ||
		e.Data.Memory.Usage.Limit != uint64(limit) || e.Data.Pids.Current != 1 || len(e.Data.Memory.Raw) == 0 || e.Data.Blkio == nil || e.Data.Hugetlb == nil {
		t.Errorf("events --stats: %s", out)
	}
}

// TestEventsStream: figures come again and again, an OOM kill is told, and the
// stream ends with the container.
func TestEventsStream(t *testing.T) {
	b := newBox(t, sh("read x; /bin/busybox head -c 100000000 /dev/zero | /bin/busybox tail >/dev/null; sleep 1000")...)
	limit := int64(16 << 20)
	b.spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit, Swap: &limit}
	b.save()
	r, w, err := os.Pipe()
	must(t, err)
	defer w.Close()
	c := b.command("create", "-b", b.bundle, b.id)
	c.Stdin = r
	must(t, c.Run())
	r.Close()
	pid := *b.state().Pid
	b.must("start", b.id)
	events, out := b.start("events", "--interval", "20ms", b.id)
	readLine(t, out, `"type":"stats"`)
	readLine(t, out, `"type":"stats"`)
	w.WriteString("go\n")
	line := readLine(t, out, `"type":"oom"`)
	if !strings.Contains(line, b.id) {
		t.Errorf("got %s", line)
	}
	b.must("kill", b.id, "KILL")
	b.reap(pid)
	b.must("delete", "--force", b.id)
	for buf := make([]byte, 4096); ; {
		if _, err := out.Read(buf); err != nil {
			break
		}
	}
	wait(t, events)
}

// TestSpec compares with runc's own.
func TestSpec(t *testing.T) {
	for _, flags := range [][]string{nil, {"--rootless"}} {
		b := newBox(t, "true")
		read := func(program string) map[string]any {
			dir := t.TempDir()
			c := exec.Command(program, append([]string{"spec", "-b", dir}, flags...)...)
			if out, err := c.CombinedOutput(); err != nil {
				t.Fatalf("%v: %v: %s", c.Args, err, out)
			}
			raw, err := os.ReadFile(filepath.Join(dir, "config.json"))
			must(t, err)
			var m map[string]any
			must(t, json.Unmarshal(raw, &m))
			if out, err := exec.Command(program, "spec", "-b", dir).CombinedOutput(); err == nil || !bytes.Contains(out, []byte("File config.json exists. Remove it first")) {
				t.Errorf("a second time: %v, %s", err, out)
			}
			delete(m, "ociVersion")
			delete(m, "hostname")
			delete(m["process"].(map[string]any)["capabilities"].(map[string]any), "ambient") // runc has none there since 1.2
			return m
		}
		ours, theirs := read(binary), read("runc")
		if !reflect.DeepEqual(ours, theirs) {
			a, _ := json.MarshalIndent(ours, "", " ")
			t.Errorf("spec %v differs from runc's:\n%s", flags, a)
		}
		_ = b
	}
}

func TestFeatures(t *testing.T) {
	b := newBox(t, "true")
	var f struct {
		OCIVersionMin string
		Hooks         []string
		MountOptions  []string
		Linux         struct {
			Namespaces, Capabilities []string
			Cgroup                   map[string]bool
			Seccomp                  struct {
				Enabled            bool
				Actions, Operators []string
				Archs              []string
			}
		}
	}
	must(t, json.Unmarshal([]byte(b.must("features")), &f))
	if f.OCIVersionMin != "1.0.0" || len(f.Hooks) == 0 || len(f.MountOptions) < 40 || len(f.Linux.Namespaces) < 7 || len(f.Linux.Capabilities) < 38 ||
		!f.Linux.Cgroup["v1"] || !f.Linux.Cgroup["v2"] || !f.Linux.Seccomp.Enabled || len(f.Linux.Seccomp.Operators) != 7 || len(f.Linux.Seccomp.Archs) < 10 {
		t.Errorf("features: %+v", f)
	}
}

func TestVersionAndHelp(t *testing.T) {
	b := newBox(t, "true")
	if out := b.must("--version"); !strings.Contains(out, " version ") || !strings.Contains(out, "\nspec: 1.") {
		t.Errorf("--version: %q", out)
	}
	for _, args := range [][]string{{"--help"}, {"run", "--help"}, {"exec", "-h"}} {
		if out := b.must(args...); !strings.Contains(out, "USAGE:") || !strings.Contains(out, "OPTIONS:") {
			t.Errorf("%v: %q", args, out)
		}
	}
}

// TestFrozenIsKilled: a paused container can be killed, and deleted by force.
func TestFrozenIsKilled(t *testing.T) {
	b := newBox(t, "sleep", "1000")
	pid := b.detached()
	b.must("pause", b.id)
	b.must("kill", b.id, "KILL")
	b.reap(pid)
	b.pids = nil
	b.wantStatus("stopped")
	b.must("delete", b.id)
	pid = b.detached()
	b.must("pause", b.id)
	b.must("delete", "--force", b.id)
	b.reap(pid)
	b.pids = nil
}

// TestNoMountNamespace: what is mounted for a container without a mount namespace
// lies on its root directory, in the one of the runtime, until it is deleted.
func TestNoMountNamespace(t *testing.T) {
	if reference != "" {
		t.Skip("runc leaves the mounts")
	}
	b := newBox(t, "sleep", "1000")
	b.spec.Linux.Namespaces = slices.DeleteFunc(b.spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.MountNamespace })
	b.save()
	ns := func(pid string) string {
		link, err := os.Readlink("/proc/" + pid + "/ns/mnt")
		must(t, err)
		return link
	}
	pid := b.create()
	b.must("start", b.id)
	if ns(strconv.Itoa(pid)) != ns("self") {
		t.Error("it has a mount namespace of its own")
	}
	if out := b.must("exec", b.id, "sh", "-c", "pwd; ls /proc/self/root/; cat /proc/1/cmdline"); !strings.HasPrefix(out, "/\nbin\n") || !strings.Contains(out, "sleep") {
		t.Errorf("exec shows %q", out)
	}
	mounts := func() bool {
		text, err := os.ReadFile("/proc/self/mountinfo")
		must(t, err)
		return strings.Contains(string(text), b.bundle)
	}
	if !mounts() {
		t.Error("nothing is mounted on its root directory")
	}
	b.must("delete", "--force", b.id)
	b.reap(pid)
	if mounts() {
		t.Error("its mounts are left")
	}
	// One whose creation fails leaves none either.
	b.spec.Process.Args = []string{"/none"}
	b.save()
	if r := b.cmd("create", "--bundle", b.bundle, b.id); r.code == 0 {
		t.Error("a command that is missing was created")
	}
	if mounts() {
		t.Error("the mounts of a failed create are left")
	}
	b.spec.Root.Path = "/"
	b.save()
	if r := b.cmd("create", "--bundle", b.bundle, b.id); r.code == 0 || !strings.Contains(r.err, "mount namespace of its own") {
		t.Errorf("on the machine's root directory: exit code %d, %s", r.code, r.err)
	}
}

// TestMountLabel: without SELinux there are no labels, and nothing to refuse.
func TestMountLabel(t *testing.T) {
	if _, err := os.Stat("/sys/fs/selinux"); err == nil {
		t.Skip("this kernel has SELinux")
	}
	if reference != "" {
		t.Skip("runc 1.1 hands the label to the kernel, which refuses it")
	}
	b := newBox(t, "true")
	b.spec.Linux.MountLabel = "system_u:object_r:svirt_sandbox_file_t:s0:c1,c2"
	b.save()
	b.must("run", "-b", b.bundle, b.id)
}

// TestTraceFlag writes down where the time of run went.
func TestTraceFlag(t *testing.T) {
	if reference != "" {
		t.Skip("--trace is ours")
	}
	b := newBox(t, "true")
	file := filepath.Join(t.TempDir(), "trace")
	b.must("--trace", file, "run", "-b", b.bundle, b.id)
	text, err := os.ReadFile(file)
	must(t, err)
	for _, part := range []string{"AT_US", "runtime  read the spec", "runtime  cgroup: make the control groups", "process  mount: ", "process  exec: execute true", "runtime  remove what is left"} {
		if !strings.Contains(string(text), part) {
			t.Errorf("the trace has no %q:\n%s", part, text)
		}
	}
	b.fails(1, "only run and create", "--trace", file, "list")
	b.fails(1, "no such file", "--trace", "/nowhere/trace", "run", "-b", b.bundle, b.id)
}
