package oci

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vivarium/internal/testenv"
)

// box is the name of the test image in every engine.
const box = "localhost/box:latest"

// engine is podman or docker with the way to call it; they understand the same
// commands.
type engine struct {
	t    *testing.T
	name string
	// prefix is the program with its global flags.
	prefix []string
	// env is what the program needs in its environment.
	env []string
	// flags are those of run and create.
	flags   []string
	build   []string // flags of build
	remove  []string // removes a container at once
	runtime *runtime
}

// on makes an engine report to a subtest.
func (e *engine) on(t *testing.T) *engine {
	c := *e
	c.t = t
	return &c
}

func (e *engine) command(args ...string) *testenv.Command {
	all := append(append([]string{}, e.prefix[1:]...), args...)
	c := testenv.Tool(e.t, e.prefix[0], all...)
	c.Env = e.env
	return c
}

func (e *engine) do(args ...string) testenv.Result {
	e.t.Helper()
	return e.command(args...).Run()
}

// must runs a command that has to succeed and gives its output without the last
// line's end.
func (e *engine) must(args ...string) string {
	e.t.Helper()
	res := e.do(args...)
	if res.Code != 0 {
		e.t.Fatalf("%v", res)
	}
	return strings.TrimSuffix(res.Stdout, "\n")
}

// run prepares `run` with the flags that the engine needs here.
func (e *engine) run(args ...string) *testenv.Command {
	return e.command(append(append([]string{"run"}, e.flags...), args...)...)
}

// start starts a container in the background and gives its name. It is removed when
// the test ends.
func (e *engine) start(args ...string) string {
	e.t.Helper()
	res := e.run(append([]string{"-d"}, args...)...).Run()
	if res.Code != 0 {
		e.t.Fatalf("%v", res)
	}
	id := strings.TrimSpace(res.Stdout)
	e.t.Cleanup(func() {
		res := e.do(append(e.remove, id)...)
		if res.Code != 0 && strings.Contains(res.Stderr, "device or resource busy") {
			// Podman's clean-up after a container that has ended runs at the same time,
			// on runc too, and may have it mounted.
			res = e.do(append(e.remove, "-i", id)...)
		}
		if res.Code != 0 {
			e.t.Errorf("%v", res)
		}
	})
	return id
}

func (e *engine) inspect(id, format string) string {
	e.t.Helper()
	return e.must("inspect", "--format", format, id)
}

func (e *engine) pid(id string) int {
	e.t.Helper()
	return number(e.t, e.inspect(id, "{{.State.Pid}}"))
}

// follow waits until a container has printed a text.
func (e *engine) follow(id, text string) {
	e.t.Helper()
	p := e.command("logs", "-f", id).Start()
	p.Expect(text)
}

// want fails the test unless a command ended with the code, and its standard output
// is exactly this.
func want(t *testing.T, res testenv.Result, code int, stdout string) {
	t.Helper()
	if res.Code != code || strings.ReplaceAll(res.Stdout, "\r", "") != stdout {
		t.Errorf("want exit status %d and stdout %q, got %v", code, stdout, res)
	}
}

// work is what people do with an engine, each with the commands of the runtime that
// it has to reach.
var work = []struct {
	name string
	do   func(t *testing.T, e *engine)
}{
	{"run", testRun},
	{"confined", testConfined},
	{"tty", testTerminal},
	{"exec", testExec},
	{"logs", testLogs},
	{"stop and restart", testStop},
	{"signals", testSignals},
	{"pause", testPause},
	{"limits and stats", testLimits},
	{"top", testTop},
	{"build", testBuild},
	{"images", testImages},
	{"healthcheck", testHealth},
	{"many at once", testMany},
}

func (e *engine) work(t *testing.T) {
	t.Cleanup(func() {
		for _, id := range strings.Fields(e.must("ps", "-aq")) {
			t.Errorf("container %s is left", id)
			e.do(append(e.remove, id)...)
		}
	})
	for _, w := range work {
		t.Run(w.name, func(t *testing.T) { w.do(t, e.on(t)) })
	}
	e.runtime.wasAsked("create", "start", "exec", "kill", "delete", "pause", "resume", "update")
}

func testRun(t *testing.T, e *engine) {
	want(t, e.run("--rm", box, "echo", "hi").Run(), 0, "hi\n")
	want(t, e.run("--rm", box, "sh", "-c", "exit 42").Run(), 42, "")
	c := e.run("--rm", "-i", box, "cat")
	c.Stdin = strings.NewReader("through\n")
	want(t, c.Run(), 0, "through\n")
	want(t, e.run("--rm", "-e", "A=b", "-w", "/tmp", "-u", "app", box, "sh", "-c", "echo $A $PWD $(id -u):$(id -g)").Run(), 0, "b /tmp 1000:1000\n")
	// The engines tell by the runtime's message which exit status it is.
	if res := e.run("--rm", box, "/none").Run(); res.Code != 127 {
		t.Errorf("a command that is missing: %v", res)
	}
	if res := e.run("--rm", box, "/etc/passwd").Run(); res.Code != 126 {
		t.Errorf("a command that is not executable: %v", res)
	}
}

// testConfined: what the engine asks for of the sandbox is there.
func testConfined(t *testing.T, e *engine) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	want(t, e.run("--rm", "--read-only", "--tmpfs", "/scratch:size=1m", "-v", dir+":/in:ro", box, "sh", "-c",
		"touch /x 2>/dev/null || echo read-only; touch /scratch/x && cat /in/file; touch /in/x 2>/dev/null || echo read-only").Run(), 0, "read-only\nx\nread-only\n")
	want(t, e.run("--rm", "--cap-drop", "ALL", "--cap-add", "CHOWN", "--security-opt", "no-new-privileges", box, "grep", "-E", "CapEff|NoNewPrivs|Seccomp:", "/proc/self/status").Run(),
		0, "CapEff:\t0000000000000001\nNoNewPrivs:\t1\nSeccomp:\t2\n")
	want(t, e.run("--rm", "--hostname", "inside", "--sysctl", "kernel.msgmax=4096", "--device", "/dev/null:/dev/other", box, "sh", "-c",
		"hostname; cat /proc/sys/kernel/msgmax; echo gone >/dev/other; ls /proc/1/root >/dev/null && echo pid one").Run(), 0, "inside\n4096\npid one\n")
	want(t, e.run("--rm", "--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined", box, "sh", "-c", "mount -t tmpfs none /tmp && echo mounted").Run(), 0, "mounted\n")
	name := e.start("--ipc", "shareable", box, "sleep", "1000")
	want(t, e.run("--rm", "--ipc", "container:"+name, "--pid", "container:"+name, box, "sh", "-c", "ps | grep -c '[s]leep 1000'").Run(), 0, "1\n")
}

func testTerminal(t *testing.T, e *engine) {
	c := e.run("--rm", "-it", box, "sh", "-c", "tty && read -r line && echo read $line; stty size")
	c.Terminal = true
	p := c.Start()
	p.Resize(33, 99)
	p.Expect("/dev/")
	p.Type("typed\n")
	p.Expect("read typed")
	if res := p.Wait(); res.Code != 0 {
		t.Errorf("%v", res)
	}
}

func testExec(t *testing.T, e *engine) {
	id := e.start(box, "sleep", "1000")
	want(t, e.do("exec", id, "echo", "hi"), 0, "hi\n")
	want(t, e.do("exec", id, "sh", "-c", "exit 7"), 7, "")
	want(t, e.do("exec", "-u", "1000:50", "-w", "/tmp", "-e", "A=b", id, "sh", "-c", "echo $A $PWD $(id -u):$(id -g)"), 0, "b /tmp 1000:50\n")
	c := e.command("exec", "-i", id, "cat")
	c.Stdin = strings.NewReader("through\n")
	want(t, c.Run(), 0, "through\n")
	want(t, e.do("exec", id, "sh", "-c", "test -t 0 || echo no terminal"), 0, "no terminal\n")
	c = e.command("exec", "-it", id, "sh", "-c", "test -t 0 && echo a terminal && read -r line && echo read $line")
	c.Terminal = true
	p := c.Start()
	p.Expect("a terminal")
	p.Type("typed\n")
	p.Expect("read typed")
	if res := p.Wait(); res.Code != 0 {
		t.Errorf("%v", res)
	}
	if res := e.do("exec", id, "/none"); res.Code != 127 && res.Code != 126 {
		t.Errorf("a command that is missing: %v", res)
	}
	e.must("exec", "-d", id, "sh", "-c", "mkfifo /f; echo made >/f")
	want(t, e.do("exec", id, "sh", "-c", "while [ ! -p /f ]; do sleep 0.01; done; cat /f"), 0, "made\n")
}

func testLogs(t *testing.T, e *engine) {
	id := e.start(box, "sh", "-c", "echo out; echo err >&2; exec sleep 1000")
	e.follow(id, "out")
	e.must("kill", id)
	if code := e.must("wait", id); code != "137" {
		t.Errorf("killed, it ended with %s", code)
	}
	res := e.do("logs", id)
	if res.Stdout != "out\n" || res.Stderr != "err\n" {
		t.Errorf("%v", res)
	}
}

// traps prints the signals that it gets, and ends at SIGTERM; "ready" says that it
// listens.
const traps = `trap 'echo usr1' USR1; trap 'echo term; exit 3' TERM; trap 'echo int; exit 4' INT; echo ready; while :; do sleep 0.02; done`

func testStop(t *testing.T, e *engine) {
	id := e.start(box, "sh", "-c", traps)
	e.follow(id, "ready")
	first := e.pid(id)
	e.must("restart", id)
	e.follow(id, "ready\nterm\nready")
	if now := e.pid(id); now == first || now == 0 {
		t.Errorf("process %d before the restart and %d after it", first, now)
	}
	e.must("stop", id)
	if got := e.inspect(id, "{{.State.Status}} {{.State.ExitCode}}"); got != "exited 3" {
		t.Errorf("stopped, it is %s", got)
	}
	e.must("start", id)
	e.follow(id, "ready\nterm\nready\nterm\nready")
	// One that does not hear is killed.
	deaf := e.start(box, "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.02; done")
	e.follow(deaf, "ready")
	e.must("stop", "-t", "0", deaf)
	if got := e.inspect(deaf, "{{.State.ExitCode}}"); got != "137" {
		t.Errorf("killed, it ended with %s", got)
	}
}

func testSignals(t *testing.T, e *engine) {
	id := e.start("--stop-signal", "INT", box, "sh", "-c", traps)
	e.follow(id, "ready")
	e.must("kill", "-s", "USR1", id)
	e.follow(id, "usr1")
	e.must("stop", id)
	if got := e.inspect(id, "{{.State.ExitCode}}"); got != "4" {
		t.Errorf("it ended with %s", got)
	}
	// The client hands a signal on.
	p := e.run("--rm", box, "sh", "-c", traps).Start()
	p.Expect("ready")
	if err := p.Signal(15); err != nil {
		t.Fatal(err)
	}
	if res := p.Wait(); res.Code != 3 || !strings.Contains(res.Stdout, "term") {
		t.Errorf("%v", res)
	}
}

func testPause(t *testing.T, e *engine) {
	id := e.start(box, "sleep", "1000")
	e.must("pause", id)
	if got := e.inspect(id, "{{.State.Status}}"); got != "paused" {
		t.Errorf("paused, it is %s", got)
	}
	if got := limit(t, e.pid(id), "freezer", "freezer.state", "cgroup.freeze"); got != "FROZEN" && got != "1" {
		t.Errorf("its group is %s", got)
	}
	e.must("unpause", id)
	want(t, e.do("exec", id, "echo", "awake"), 0, "awake\n")
}

func testLimits(t *testing.T, e *engine) {
	id := e.start("-m", "64m", "--cpus", "0.5", "--pids-limit", "50", "--cpuset-cpus", "0", "--ulimit", "core=100:200", box, "sleep", "1000")
	pid := e.pid(id)
	for _, l := range []struct{ controller, v1, v2, want1, want2 string }{
		{"memory", "memory.limit_in_bytes", "memory.max", "67108864", "67108864"},
		{"cpu", "cpu.cfs_quota_us", "cpu.max", "50000", "50000 100000"},
		{"pids", "pids.max", "pids.max", "50", "50"},
		{"cpuset", "cpuset.cpus", "cpuset.cpus", "0", "0"},
	} {
		if got := limit(t, pid, l.controller, l.v1, l.v2); got != l.want1 && got != l.want2 {
			t.Errorf("%s is %s", l.v1, got)
		}
	}
	want(t, e.do("exec", id, "sh", "-c", "ulimit -Sc; ulimit -Hc"), 0, "0\n0\n")
	e.stats(id)
	e.must("update", "-m", "96m", "--memory-swap", "96m", "--cpu-shares", "512", id)
	if got := limit(t, pid, "memory", "memory.limit_in_bytes", "memory.max"); got != "100663296" {
		t.Errorf("updated, the memory's limit is %s", got)
	}
	// One that wants more than it may have is killed for it.
	res := e.run("--rm", "-m", "16m", "--memory-swap", "16m", box, "sh", "-c", "head -c 64m /dev/zero | tail").Run()
	if res.Code == 0 {
		t.Errorf("out of memory: %v", res)
	}
}

// stats looks at the statistics of a container with 64 MiB at most and one process.
func (e *engine) stats(id string) {
	e.t.Helper()
	if name := unmounted(e.t); name != "" && e.name == "docker" {
		// Somebody's systemd in a container, say, has mounted one more.
		e.t.Logf("stats are left out: containerd gives none where a hierarchy of control groups, %s, is mounted elsewhere only", name)
		return
	}
	stats := e.must("stats", "--no-stream", "--format", "{{.PIDs}} {{.MemUsage}}", id)
	if !strings.HasPrefix(stats, "1 ") || !strings.Contains(stats, "64MiB") && !strings.Contains(stats, "67.11MB") {
		e.t.Errorf("stats: %s", stats)
	}
}

func testTop(t *testing.T, e *engine) {
	id := e.start(box, "sh", "-c", "sleep 1000 & sleep 2000")
	if out := e.must("top", id); !strings.Contains(out, "sleep 1000") || !strings.Contains(out, "sleep 2000") {
		t.Errorf("top: %s", out)
	}
}

func testBuild(t *testing.T, e *engine) {
	dir := t.TempDir()
	file := fmt.Sprintf("FROM %s\nRUN echo built >/built && id -u >>/built\nUSER app\nRUN id -u >/tmp/who && cat /tmp/who\nCMD cat /built /tmp/who\n", box)
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(file), 0o644); err != nil {
		t.Fatal(err)
	}
	e.must(append(append([]string{"build", "-t", "localhost/built"}, e.build...), dir)...)
	t.Cleanup(func() { e.must("rmi", "-f", "localhost/built") })
	want(t, e.run("--rm", "localhost/built").Run(), 0, "built\n0\n1000\n")
}

func testHealth(t *testing.T, e *engine) {
	id := e.start("--health-cmd", "test -e /well", "--health-interval", "1s", "--health-retries", "1", box, "sleep", "1000")
	status := func() string { return e.inspect(id, "{{.State.Health.Status}}") }
	if e.name == "podman" {
		// Its intervals are systemd's timers; where there is none it is called by hand.
		if res := e.do("healthcheck", "run", id); res.Code != 1 {
			t.Errorf("ill: %v", res)
		}
		e.must("exec", id, "touch", "/well")
		e.must("healthcheck", "run", id)
		if got := status(); got != "healthy" {
			t.Errorf("well, it is %s", got)
		}
		return
	}
	events := e.command("events", "--filter", "event=health_status", "--filter", "container="+id, "--format", "{{.Status}}").Start()
	events.Expect("health_status: unhealthy")
	e.must("exec", id, "touch", "/well")
	events.Expect("health_status: healthy")
	if got := status(); got != "healthy" {
		t.Errorf("well, it is %s", got)
	}
}

func testMany(t *testing.T, e *engine) {
	var all []*testenv.Process
	for range 8 {
		all = append(all, e.run("--rm", box, "cat", "/proc/self/cgroup").Start())
	}
	for _, p := range all {
		if res := p.Wait(); res.Code != 0 {
			t.Errorf("%v", res)
		}
	}
}
