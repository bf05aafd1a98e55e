package oci

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vivarium/internal/testenv"
)

// ctr is containerd's own client, on a daemon of the test's own.
type ctr struct {
	engine
	namespace string
}

// containerdConfig leaves out what needs modules or a network, and CRI, which the
// client does not use.
const containerdConfig = `version = 2
root = "%[1]s/root"
state = "%[1]s/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.internal.v1.opt"]
[grpc]
  address = "%[1]s/sock"
[ttrpc]
  address = "%[1]s/sock.ttrpc"
`

// TestContainerd runs Debian's containerd on the runtime, which its shim gets as
// BinaryName.
func TestContainerd(t *testing.T) {
	need(t, "containerd", "containerd-shim-runc-v2", "ctr")
	dir := ownDir(t, "c")
	r := newRuntime(t, dir)
	config := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(config, fmt.Appendf(nil, containerdConfig, dir), 0o600); err != nil {
		t.Fatal(err)
	}
	// A container's group is below one with the name of the namespace.
	namespace := strings.TrimPrefix(groupParent(t, "ctr"), "/")
	daemon(t, dir, dir+"/sock", "containerd", "--config", config)
	c := &ctr{engine{t: t, name: "containerd", runtime: r, prefix: []string{"ctr", "-a", dir + "/sock", "-n", namespace}}, namespace}
	out := c.must("images", "import", testenv.Image(t, "busybox").Archive)
	ref := strings.Fields(strings.TrimPrefix(out, "unpacking "))[0]
	t.Cleanup(func() {
		for _, id := range strings.Fields(c.must("task", "ls", "-q")) {
			t.Errorf("task %s is left", id)
			c.do("task", "rm", "-f", id)
		}
		c.must("images", "rm", "--sync", ref)
	})
	for _, w := range []struct {
		name string
		do   func(t *testing.T, c *ctr, ref string)
	}{
		{"run", ctrRun},
		{"task", ctrTask},
		{"exec", ctrExec},
		{"limits and metrics", ctrLimits},
	} {
		t.Run(w.name, func(t *testing.T) {
			mine := *c
			mine.t = t
			w.do(t, &mine, ref)
		})
	}
	r.wasAsked("create", "start", "exec", "kill", "delete", "pause", "resume")
}

func (c *ctr) run(args ...string) *testenv.Command {
	return c.command(append([]string{"run", "--runc-binary", c.runtime.path}, args...)...)
}

// start starts a container in the background, and gives its process ID. It is
// removed when the test ends.
func (c *ctr) start(id string, args ...string) int {
	c.t.Helper()
	res := c.run(append([]string{"-d"}, args...)...).Run()
	if res.Code != 0 {
		c.t.Fatalf("%v", res)
	}
	c.t.Cleanup(func() {
		c.do("task", "rm", "-f", id)
		if res := c.do("container", "rm", id); res.Code != 0 {
			c.t.Errorf("%v", res)
		}
	})
	f := c.task(id)
	return number(c.t, f[1])
}

// task gives the line of a task: its name, process and status.
func (c *ctr) task(id string) []string {
	c.t.Helper()
	for line := range strings.Lines(c.must("task", "ls")) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == id {
			return f
		}
	}
	c.t.Fatalf("there is no task %s", id)
	return nil
}

func ctrRun(t *testing.T, c *ctr, ref string) {
	want(t, c.run("--rm", ref, "r1", "echo", "hi").Run(), 0, "hi\n")
	want(t, c.run("--rm", ref, "r2", "sh", "-c", "exit 42").Run(), 42, "")
	// It is a line, and not all until the end: ctr 1.6 never closes what it hands on.
	in := c.run("--rm", ref, "r3", "sh", "-c", "read -r line; echo $line")
	in.Stdin = strings.NewReader("through\n")
	want(t, in.Run(), 0, "through\n")
	term := c.run("--rm", "-t", ref, "r4", "sh", "-c", "test -t 0 && echo a terminal && read -r line && echo read $line")
	term.Terminal = true
	p := term.Start()
	p.Expect("a terminal")
	p.Type("typed\n")
	p.Expect("read typed")
	if res := p.Wait(); res.Code != 0 {
		t.Errorf("%v", res)
	}
	if res := c.run("--rm", ref, "r5", "/none").Run(); res.Code == 0 || !strings.Contains(res.Stderr, "no such file") {
		t.Errorf("a command that is missing: %v", res)
	}
	log := filepath.Join(t.TempDir(), "log")
	c.start("r6", "--log-uri", "file://"+log, ref, "r6", "sh", "-c", "echo out; echo err >&2")
	c.do("task", "attach", "r6") // until it has ended
	text, err := os.ReadFile(log)
	if err != nil || !strings.Contains(string(text), "out\n") || !strings.Contains(string(text), "err\n") {
		t.Errorf("its log: %q, %v", text, err)
	}
}

func ctrTask(t *testing.T, c *ctr, ref string) {
	pid := c.start("t1", ref, "t1", "sh", "-c", "trap 'exit 3' USR1; touch /ready; while :; do sleep 0.02; done")
	want(t, c.do("task", "exec", "--exec-id", "e1", "t1", "sh", "-c", "while [ ! -e /ready ]; do sleep 0.01; done"), 0, "")
	c.must("task", "pause", "t1")
	if got := c.task("t1")[2]; got != "PAUSED" {
		t.Errorf("paused, it is %s", got)
	}
	if got := limit(t, pid, "freezer", "freezer.state", "cgroup.freeze"); got != "FROZEN" && got != "1" {
		t.Errorf("its group is %s", got)
	}
	c.must("task", "resume", "t1")
	if out := c.must("task", "ps", "t1"); !strings.Contains(out, fmt.Sprint(pid)) {
		t.Errorf("ps: %s", out)
	}
	p := c.command("events").Start()
	c.must("task", "kill", "-s", "USR1", "t1")
	p.Expect("/tasks/exit")
	if got := c.task("t1")[2]; got != "STOPPED" {
		t.Errorf("ended, it is %s", got)
	}
	if res := c.do("task", "rm", "t1"); !strings.Contains(res.Stderr, "exit code 3") {
		t.Errorf("its exit status is lost: %v", res)
	}
	c.must("task", "start", "-d", "t1")
	c.must("task", "kill", "-s", "KILL", "t1")
}

func ctrExec(t *testing.T, c *ctr, ref string) {
	c.start("e1", ref, "e1", "sleep", "1000")
	exec := func(args ...string) *testenv.Command {
		return c.command(append([]string{"task", "exec", "--exec-id", "x"}, args...)...)
	}
	want(t, exec("e1", "echo", "hi").Run(), 0, "hi\n")
	want(t, exec("e1", "sh", "-c", "exit 7").Run(), 7, "")
	want(t, exec("--user", "1000:50", "--cwd", "/tmp", "e1", "sh", "-c", "echo $PWD $(id -u):$(id -g)").Run(), 0, "/tmp 1000:50\n")
	term := exec("-t", "e1", "sh", "-c", "test -t 0 && echo a terminal && read -r line && echo read $line")
	term.Terminal = true
	p := term.Start()
	p.Expect("a terminal")
	p.Type("typed\n")
	p.Expect("read typed")
	if res := p.Wait(); res.Code != 0 {
		t.Errorf("%v", res)
	}
	if res := exec("e1", "/none").Run(); res.Code == 0 || !strings.Contains(res.Stderr, "no such file") {
		t.Errorf("a command that is missing: %v", res)
	}
}

func ctrLimits(t *testing.T, c *ctr, ref string) {
	pid := c.start("l1", "--memory-limit", "67108864", "--cpus", "0.5", ref, "l1", "sleep", "1000")
	if got := limit(t, pid, "memory", "memory.limit_in_bytes", "memory.max"); got != "67108864" {
		t.Errorf("its memory's limit is %s", got)
	}
	if got := limit(t, pid, "cpu", "cpu.cfs_quota_us", "cpu.max"); !strings.HasPrefix(got, "50000") {
		t.Errorf("its quota is %s", got)
	}
	if name := unmounted(t); name != "" {
		// Somebody's systemd in a container, say, has mounted one more.
		t.Logf("metrics are left out: containerd gives none where a hierarchy of control groups, %s, is mounted elsewhere only", name)
		return
	}
	out := c.must("task", "metrics", "l1")
	if !strings.Contains(out, "67108864") && !strings.Contains(out, "memory") {
		t.Errorf("metrics: %s", out)
	}
}
