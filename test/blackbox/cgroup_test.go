package blackbox

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vivarium/internal/testenv"
)

// TestCgroupByHand builds a tree, limits it, fills it, stops it and removes it, in
// the same words on v1 and v2.
func TestCgroupByHand(t *testing.T) {
	vivOnly(t, "Docker has no such command")
	testenv.Root(t)
	e := testenv.Engine(t)
	top := fmt.Sprintf("/viv-test-%08x", rand.Uint32())
	group := top + "/inner"
	t.Cleanup(func() {
		e.Viv("cgroup", "kill", top)
		if r := e.Viv("cgroup", "rm", "-r", top); r.Code != 0 && !strings.Contains(r.Stderr, "no such control group") {
			t.Errorf("%v", r)
		}
	})
	if r := e.Viv("cgroup", "create", "--dry-run", group); !strings.Contains(r.Stdout, "mkdir /sys/fs/cgroup") || !strings.HasSuffix(strings.TrimSpace(r.Stdout), group) {
		t.Errorf("create --dry-run: %v", r)
	}
	fails(t, e.Viv("cgroup", "get", group), 1, "no such control group")
	e.MustViv("cgroup", "create", group)
	if r := e.Viv("cgroup", "set", group, "memory.max=100M", "pids.max=50", "cpu.max=50000 100000", "cpu.weight=200"); r.Code != 0 || strings.Count(r.Stdout, "echo ") < 4 {
		t.Errorf("set: %v", r)
	}
	for name, value := range map[string]string{"memory.max": "104857600", "pids.max": "50", "cpu.max": "50000 100000", "cpu.weight": "200", "cgroup.freeze": "0"} {
		want(t, e.Viv("cgroup", "get", group, name), 0, value+"\n")
	}
	e.MustViv("cgroup", "set", "--dry-run", group, "memory.max=1G")
	want(t, e.Viv("cgroup", "get", group, "memory.max"), 0, "104857600\n")
	e.MustViv("cgroup", "set", group, "memory.max=max", "cpu.max=max")
	want(t, e.Viv("cgroup", "get", "--format", "{{.Value}}", group, "memory.max", "cpu.max"), 0, "max\nmax 100000\n")
	for _, bad := range []string{"memory.max=lots", "cpu.max=1 2 3", "cpu.weight=0", "no.such.file=1", "../x=1", "pids.max"} {
		if r := e.Viv("cgroup", "set", group, bad); r.Code != 1 {
			t.Errorf("set %s: %v", bad, r)
		}
	}

	c := exec.Command("sleep", "1000")
	must(t, c.Start())
	ended := false
	defer func() {
		if !ended {
			c.Process.Kill()
			c.Wait()
		}
	}()
	pid := fmt.Sprint(c.Process.Pid)
	if r := e.Viv("cgroup", "attach", "--dry-run", group, pid); r.Code != 0 || !strings.Contains(r.Stdout, "echo "+pid+" > /sys/fs/cgroup") {
		t.Errorf("attach --dry-run: %v", r)
	}
	if r := e.Viv("cgroup", "where", pid); strings.Contains(r.Stdout, group) {
		t.Errorf("attach --dry-run has moved it: %v", r)
	}
	want(t, e.Viv("cgroup", "attach", group, pid), 0, "")
	where := e.MustViv("cgroup", "where", "--format", "{{.Subsystem}} {{.Group}}", pid)
	if !strings.Contains(where, " "+group) {
		t.Errorf("where: %s", where)
	}
	if r := e.Viv("cgroup", "ls", "--format", "{{.Group}} {{.Processes}}", top); r.Stdout != top+" 0\n"+group+" 1\n" {
		t.Errorf("ls: %v", r)
	}
	if r := e.Viv("cgroup", "tree", "-p", top); !strings.Contains(r.Stdout, "\n  inner  processes 1") || !strings.Contains(r.Stdout, "- "+pid+" sleep\n") {
		t.Errorf("tree: %v", r)
	}
	want(t, e.Viv("cgroup", "stat", "--format", "{{.Pids}} of {{.PidsLimit}}", group), 0, "1 of 50\n")
	want(t, e.Viv("cgroup", "watch", "-n", "2", "-i", "10ms", "--format", "{{.Pids}}", group), 0, "1\n1\n")
	fails(t, e.Viv("cgroup", "rm", group), 1, "busy")

	// What is only shown changes nothing, and is what does it.
	for _, verb := range []string{"freeze", "thaw", "kill"} {
		shown := e.MustViv("cgroup", verb, "--dry-run", group)
		if !strings.Contains(shown, "echo ") || !strings.Contains(shown, group+"/") {
			t.Errorf("%s --dry-run: %s", verb, shown)
		}
		want(t, e.Viv("cgroup", "get", group, "cgroup.freeze"), 0, "0\n")
		must(t, c.Process.Signal(unix.Signal(0)))
		if verb != "kill" {
			want(t, e.Tool("sh", "-c", shown).Run(), 0, "")
			want(t, e.Viv("cgroup", "get", group, "cgroup.freeze"), 0, map[string]string{"freeze": "1\n", "thaw": "0\n"}[verb])
			must(t, e.Viv("cgroup", "thaw", group).Err)
		}
	}
	want(t, e.Viv("cgroup", "freeze", group), 0, "")
	want(t, e.Viv("cgroup", "get", group, "cgroup.freeze"), 0, "1\n")
	if r := e.Viv("cgroup", "kill", "--dry-run", top); !strings.Contains(r.Stdout, "kill -9 "+pid) && !strings.Contains(r.Stdout, "/cgroup.kill") {
		t.Errorf("kill --dry-run: %v", r)
	}
	want(t, e.Viv("cgroup", "thaw", group), 0, "")
	want(t, e.Viv("cgroup", "freeze", group), 0, "")
	// One that is frozen below dies all the same.
	want(t, e.Viv("cgroup", "kill", top), 0, "")
	err := c.Wait()
	ended = true
	if st, ok := c.ProcessState.Sys().(interface{ Signal() unix.Signal }); err == nil || ok && st.Signal() != unix.SIGKILL {
		t.Errorf("the process ended with %v", err)
	}
	if r := e.Viv("cgroup", "rm", "-r", "--dry-run", top); r.Code != 0 || strings.Count(r.Stdout, "rmdir ") < 2 {
		t.Errorf("rm --dry-run: %v", r)
	}
	want(t, e.Viv("cgroup", "ls", "-q", top), 0, top+"\n"+group+"\n")
	want(t, e.Viv("cgroup", "rm", "-r", top), 0, "")
	fails(t, e.Viv("cgroup", "stat", top), 1, "no such control group")
	fails(t, e.Viv("cgroup", "kill", "/"), 1, "root group")
	fails(t, e.Viv("cgroup", "create", "/a/../b"), 1, "cgroups path")
	if r := e.Viv("cgroup", "subsystems"); !strings.Contains(r.Stdout, "memory") || !strings.Contains(r.Stdout, "/sys/fs/cgroup") {
		t.Errorf("subsystems: %v", r)
	}
}

// TestCgroupOfContainer: a container's group is found by its name.
func TestCgroupOfContainer(t *testing.T) {
	vivOnly(t, "Docker has no such command")
	e := newBox(t)
	id := e.MustViv("run", "-d", "-m", "64m", "--name", "limited", "--network", "none", box, "sleep", "1000")
	want(t, e.Viv("cgroup", "get", "limited", "memory.max"), 0, "67108864\n")
	want(t, e.Viv("cgroup", "set", "limited", "--dry-run", "pids.max=7"), 0, e.MustViv("cgroup", "set", "limited", "pids.max=7")+"\n")
	want(t, e.Viv("cgroup", "get", "limited", "pids.max"), 0, "7\n")
	if r := e.Viv("cgroup", "ls", "--format", "{{.Container}} {{.Processes}}", "limited"); r.Stdout != "limited 1\n" {
		t.Errorf("ls: %v (%s)", r, id)
	}
	e.MustViv("rm", "-f", "limited")
}
