package client_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"vivarium/internal/kernel"
	"vivarium/internal/testenv"
	"vivarium/monitor/client"
	"vivarium/monitor/wire"
	"vivarium/sandbox/plan"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

type box struct {
	t    *testing.T
	cfg  *wire.Config
	spec *specs.Spec
	id   string
}

func newBox(t *testing.T, script string) *box {
	t.Helper()
	testenv.Root(t)
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatalf("the tests need Debian's busybox-static: %v", err)
	}
	dir := t.TempDir()
	root := dir + "/rootfs"
	for _, d := range []string{"/rootfs", "/rootfs/bin", "/state", "/data"} {
		must(t, os.Mkdir(dir+d, 0o755))
	}
	must(t, os.WriteFile(root+"/bin/busybox", busybox, 0o755))
	for _, a := range []string{"sh", "cat", "sleep", "echo", "stty", "yes", "head", "seq"} {
		must(t, os.Symlink("busybox", filepath.Join(root, "bin", a)))
	}
	id := fmt.Sprintf("viv-test-%08x", rand.Uint32())
	return &box{t: t, id: id,
		cfg: &wire.Config{ID: id, StateDir: dir + "/state", Dir: dir + "/data", LogPath: dir + "/data/log.json"},
		spec: &specs.Spec{
			Root:    &specs.Root{Path: root},
			Process: &specs.Process{Args: []string{"sh", "-c", script}, Env: []string{"PATH=/bin"}, Cwd: "/"},
			Mounts: []specs.Mount{
				{Destination: "/proc", Type: "proc", Source: "proc"},
				{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"mode=755"}},
				{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"newinstance", "ptmxmode=0666"}},
			},
			Linux: &specs.Linux{CgroupsPath: "/" + id, Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}}},
		}}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (b *box) start() *client.Session {
	b.t.Helper()
	b.spec.Process.Terminal = b.cfg.TTY
	p, err := plan.Compile(b.spec, plan.Options{ID: b.id})
	must(b.t, err)
	b.cfg.Program, b.cfg.CgroupDirs = p.Encode(), p.CgroupDirs()
	l, err := client.Spawn(testenv.Binary(b.t, "viv-monitor"))
	must(b.t, err)
	s, err := l.Run(context.Background(), b.cfg, nil)
	must(b.t, err)
	b.t.Cleanup(func() {
		s.Close()
		if st, err := client.ReadStatus(b.cfg.Dir); err == nil {
			if up, _ := client.Alive(st); up {
				syscall.Kill(st.Pid, syscall.SIGKILL)
			}
		}
		s.WaitMonitor()
		for _, d := range b.cfg.CgroupDirs {
			if _, err := os.Stat(d); err == nil {
				b.t.Errorf("control group %s is left", d)
				os.Remove(d)
			}
		}
	})
	return s
}

// next waits for a message that is no output, and collects the output before it.
func next(t *testing.T, s *client.Session, out *bytes.Buffer) client.Message {
	t.Helper()
	stop := time.AfterFunc(30*time.Second, func() { s.Close() })
	defer stop.Stop()
	for {
		m, err := s.Recv()
		must(t, err)
		if m.Kind != client.Stdout && m.Kind != client.Stderr {
			return m
		}
		out.Write(m.Data)
	}
}

func expect(t *testing.T, m client.Message, kind client.Kind, code int) {
	t.Helper()
	if m.Kind != kind || m.ExitCode != code {
		t.Fatalf("got message %q with exit code %d (%v), want %q with %d", m.Kind, m.ExitCode, m.Err, kind, code)
	}
}

func TestOutputExitAndLog(t *testing.T) {
	b := newBox(t, "echo out; echo err >&2; exit 3")
	s := b.start()
	var out bytes.Buffer
	if m := next(t, s, &out); m.Kind != client.Started || m.Pid <= 0 {
		t.Fatalf("first message: %+v", m)
	}
	expect(t, next(t, s, &out), client.Exited, 3)
	if got := out.String(); got != "out\nerr\n" {
		t.Errorf("output %q", got)
	}
	s.WaitMonitor()
	st, err := client.ReadStatus(b.cfg.Dir)
	must(t, err)
	if st.State != wire.Exited || st.ExitCode != 3 || st.Pid != 0 || st.StartedAt == 0 || st.FinishedAt < st.StartedAt {
		t.Errorf("status %+v", st)
	}
	log, err := os.ReadFile(b.cfg.LogPath)
	must(t, err)
	if !strings.Contains(string(log), `{"log":"out\n","stream":"stdout","time":"2`) || !strings.Contains(string(log), `{"log":"err\n","stream":"stderr"`) {
		t.Errorf("log %q", log)
	}
}

func TestStartFails(t *testing.T) {
	b := newBox(t, "")
	b.spec.Process.Args = []string{"nothing"}
	s := b.start()
	m := next(t, s, nil)
	e, ok := m.Err.(*client.StartError)
	if !ok || e.Code != 127 || e.Errno != syscall.ENOENT {
		t.Fatalf("got %+v", m)
	}
}

func TestStdin(t *testing.T) {
	b := newBox(t, "cat; echo end")
	b.cfg.OpenStdin, b.cfg.StdinOnce = true, true
	s := b.start()
	var out bytes.Buffer
	next(t, s, &out)
	// More than a pipe and a socket hold, both ways: what is not taken must wait.
	text := bytes.Repeat([]byte("0123456789abcde\n"), 1<<17)
	go func() {
		s.WriteStdin(text)
		s.CloseStdin()
	}()
	expect(t, next(t, s, &out), client.Exited, 0)
	if !bytes.Equal(out.Bytes(), append(text, "end\n"...)) {
		t.Errorf("%d bytes came back of %d", out.Len(), len(text)+4)
	}
}

func TestSlowClientLosesNothing(t *testing.T) {
	b := newBox(t, "seq 1 200000")
	b.cfg.LogPath = ""
	s := b.start()
	var out bytes.Buffer
	next(t, s, &out)
	expect(t, next(t, s, &out), client.Exited, 0)
	if n := bytes.Count(out.Bytes(), []byte("\n")); n != 200000 {
		t.Errorf("%d lines came, want 200000", n)
	}
}

func TestTerminal(t *testing.T) {
	b := newBox(t, "stty size; read x; stty size; echo got $x")
	b.cfg.TTY, b.cfg.Rows, b.cfg.Cols = true, 20, 60
	s := b.start()
	var out bytes.Buffer
	next(t, s, &out)
	for !strings.Contains(out.String(), "20 60\r\n") {
		m, err := s.Recv()
		must(t, err)
		out.Write(m.Data)
	}
	must(t, s.Resize(21, 61))
	must(t, s.WriteStdin([]byte("hello\n")))
	expect(t, next(t, s, &out), client.Exited, 0)
	if want := "20 60\r\nhello\r\n21 61\r\ngot hello\r\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

func TestAttachLater(t *testing.T) {
	b := newBox(t, "cat")
	b.cfg.OpenStdin = true
	s := b.start()
	next(t, s, nil)
	must(t, s.Close())
	a, err := client.Attach(context.Background(), b.cfg.StateDir, true)
	must(t, err)
	defer a.Close()
	must(t, a.WriteStdin([]byte("late\n")))
	m, err := a.Recv()
	must(t, err)
	if string(m.Data) != "late\n" {
		t.Fatalf("got %+v", m)
	}
	must(t, a.CloseStdin())
	expect(t, next(t, a, new(bytes.Buffer)), client.Exited, 0)
}

func TestRestartPolicy(t *testing.T) {
	b := newBox(t, "echo run; exit 1")
	b.cfg.Restart, b.cfg.RestartMax = "on-failure", 2
	s := b.start()
	var out bytes.Buffer
	next(t, s, &out)
	expect(t, next(t, s, &out), client.Exited, 1)
	s.WaitMonitor()
	st, err := client.ReadStatus(b.cfg.Dir)
	must(t, err)
	if out.String() != "run\nrun\nrun\n" || st.RestartCount != 2 {
		t.Errorf("output %q, status %+v", out.String(), st)
	}
}

func TestStopRestarting(t *testing.T) {
	b := newBox(t, "exec sleep 1000")
	b.cfg.Restart = "always"
	s := b.start()
	m := next(t, s, nil)
	must(t, s.SetRestart("no", 0))
	must(t, syscall.Kill(m.Pid, syscall.SIGKILL))
	expect(t, next(t, s, nil), client.Exited, 137)
}

// TestAdopt kills a monitor: its container lives on, a new monitor takes it over
// with its output, and tells its exit code.
func TestAdopt(t *testing.T) {
	b := newBox(t, "trap 'echo here' USR1; trap 'echo bye; exit 9' TERM; echo ready; while :; do sleep 0.05; done")
	s := b.start()
	var out bytes.Buffer
	next(t, s, &out)
	for out.String() != "ready\n" {
		m, err := s.Recv()
		must(t, err)
		out.Write(m.Data)
	}
	st, err := client.ReadStatus(b.cfg.Dir)
	must(t, err)
	must(t, syscall.Kill(st.MonitorPid, syscall.SIGKILL))
	s.WaitMonitor()
	if _, err := s.Recv(); err != io.EOF {
		t.Fatalf("after the monitor's death: %v", err)
	}
	if up, mon := client.Alive(st); !up || mon {
		t.Fatalf("process up %v, monitor up %v; want true, false", up, mon)
	}
	b.cfg.AdoptPid, b.cfg.AdoptTicks, b.cfg.AdoptStarted = st.Pid, st.StartTicks, st.StartedAt
	must(t, client.Adopt(context.Background(), testenv.Binary(t, "viv-monitor"), b.cfg))
	a, err := client.Attach(context.Background(), b.cfg.StateDir, true)
	must(t, err)
	defer a.Close()
	// Output that comes before the monitor has taken the client is not for it.
	taken := make(chan struct{})
	go func() {
		for {
			select {
			case <-taken:
				return
			case <-time.After(50 * time.Millisecond):
				syscall.Kill(st.Pid, syscall.SIGUSR1)
			}
		}
	}()
	m, err := a.Recv()
	close(taken)
	if must(t, err); string(m.Data) != "here\n" {
		t.Fatalf("%+v", m)
	}
	must(t, syscall.Kill(st.Pid, syscall.SIGTERM))
	out.Reset()
	ended := next(t, a, &out)
	if err := kernel.PidfdInfoExit(); err != nil && ended.ExitCode != 9 {
		// Nobody but the parent is told, but who looks before the parent has reaped
		// it finds the status in /proc.
		t.Logf("the kernel keeps no status for others: %v", err)
		expect(t, ended, client.Exited, 255)
	} else {
		expect(t, ended, client.Exited, 9)
	}
	if !strings.HasSuffix(out.String(), "bye\n") { // and before it "here" once more, perhaps
		t.Errorf("output after the adoption: %q", out.String())
	}
}

// TestMemory prints what a waiting monitor costs; docs/BENCHMARKS.md has the
// comparison. It fails only when the figure cannot be read.
func TestMemory(t *testing.T) {
	b := newBox(t, "echo x; exec sleep 1000")
	s := b.start()
	m := next(t, s, nil)
	st, err := client.ReadStatus(b.cfg.Dir)
	must(t, err)
	out := new(bytes.Buffer)
	for out.Len() == 0 {
		o, err := s.Recv()
		must(t, err)
		out.Write(o.Data)
	}
	must(t, s.Close())
	roll, err := os.ReadFile("/proc/" + strconv.Itoa(st.MonitorPid) + "/smaps_rollup")
	must(t, err)
	t.Logf("%s", roll)
	must(t, syscall.Kill(m.Pid, syscall.SIGKILL))
}
