package main_test

import (
	"os/exec"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const allowed = "/proc/self/status"

// twoCPUs gives the first two processors that we may run on.
func twoCPUs(t *testing.T) (first, second string, mask unix.CPUSet) {
	t.Helper()
	var set unix.CPUSet
	must(t, unix.SchedGetaffinity(0, &set))
	if !set.IsSet(0) || !set.IsSet(1) {
		t.Skip("needs processors 0 and 1")
	}
	return "0", "1", set
}

// TestAffinityIsTheContainers: what the caller was bound to says nothing about
// the container.
func TestAffinityIsTheContainers(t *testing.T) {
	if reference != "" {
		t.Skip("runc from 1.4 on")
	}
	b := newBox(t, sh("grep Cpus_allowed_list "+allowed)...)
	twoCPUs(t)
	free := b.must("run", "-b", b.bundle, b.id)
	if !strings.Contains(free, "0-") {
		t.Fatalf("got %q", free)
	}
	// The thread that starts a command is the one that the mask is set for.
	bound := func(args ...string) string {
		c := b.command(args...)
		c.Args = append([]string{"taskset", "-c", "0", c.Path}, c.Args[1:]...)
		path, err := exec.LookPath("taskset")
		must(t, err)
		c.Path = path
		r := runCmd(t, c)
		if r.code != 0 {
			t.Fatalf("%v: exit code %d: %s", args, r.code, r.err)
		}
		return r.out
	}
	if got := bound("run", "-b", b.bundle, b.id); got != free {
		t.Errorf("bound to processor 0 the container has %q, else %q", got, free)
	}
	b.spec.Linux.Resources.CPU = &specs.LinuxCPU{Cpus: "1", Mems: "0"}
	b.save()
	if got := bound("run", "-b", b.bundle, b.id); got != "Cpus_allowed_list:\t1\n" {
		t.Errorf("with the cpuset 1: %q", got)
	}
	b.spec.Linux.Resources.CPU = nil
	b.spec.Process.Args = []string{"sleep", "1000"}
	b.save()
	b.detached()
	if got := bound("exec", b.id, "grep", "Cpus_allowed_list", allowed); got != free {
		t.Errorf("exec, bound to processor 0: %q, else %q", got, free)
	}
}

func TestExecAffinity(t *testing.T) {
	if reference != "" {
		t.Skip("runc from 1.3 on")
	}
	b := newBox(t, "sleep", "1000")
	first, second, _ := twoCPUs(t)
	b.spec.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: first, Final: second}
	b.save()
	pid := b.detached()
	var set unix.CPUSet
	must(t, unix.SchedGetaffinity(pid, &set))
	if set.Count() < 2 {
		t.Error("the container's first process is bound, too")
	}
	r := b.cmd("--debug", "exec", b.id, "grep", "Cpus_allowed_list", allowed)
	if r.out != "Cpus_allowed_list:\t"+second+"\n" || !strings.Contains(r.err, "nsexec: affinity: 0x1") {
		t.Errorf("got %q and %q, want to run on %s", r.out, r.err, second)
	}
}

func TestMemoryPolicy(t *testing.T) {
	if reference != "" {
		t.Skip("runc from 1.4 on")
	}
	first := sh("/bin/busybox head -n 1 /proc/self/numa_maps | /bin/busybox cut -d ' ' -f 2")
	b := newBox(t, first...)
	for _, c := range []struct {
		policy specs.LinuxMemoryPolicy
		want   string // of the output, or of the error
		code   int
	}{
		{specs.LinuxMemoryPolicy{Mode: specs.MpolInterleave, Nodes: "0"}, "interleave:0\n", 0},
		{specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0", Flags: []specs.MemoryPolicyFlagType{specs.MpolFStaticNodes}}, "bind=static:0\n", 0},
		{specs.LinuxMemoryPolicy{Mode: specs.MpolPreferred, Nodes: "0", Flags: []specs.MemoryPolicyFlagType{specs.MpolFRelativeNodes}}, "prefer=relative:0\n", 0},
		{specs.LinuxMemoryPolicy{Mode: specs.MpolDefault}, "default\n", 0},
		{specs.LinuxMemoryPolicy{Mode: specs.MpolLocal}, "local\n", 0},
		{specs.LinuxMemoryPolicy{}, "invalid memory policy", 1},
		{specs.LinuxMemoryPolicy{Nodes: "0-7"}, "invalid memory policy mode", 1},
		{specs.LinuxMemoryPolicy{Mode: "INTERLEAVE", Nodes: "0"}, "invalid memory policy mode", 1},
		{specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0", Flags: []specs.MemoryPolicyFlagType{"x"}}, "invalid memory policy flag", 1},
		{specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0-9876543210"}, "invalid memory policy node", 1},
		{specs.LinuxMemoryPolicy{Mode: specs.MpolDefault, Nodes: "0-7"}, "MPOL_DEFAULT mode requires 0 nodes but got 8", 1},
	} {
		b.spec.Linux.MemoryPolicy = &c.policy
		b.save()
		if c.code != 0 {
			b.fails(c.code, c.want, "run", "-b", b.bundle, b.id)
		} else if got := b.must("run", "-b", b.bundle, b.id); got != c.want {
			t.Errorf("%+v: %q, want %q", c.policy, got, c.want)
		}
	}
	b.spec.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0"}
	b.spec.Process.Args = []string{"sleep", "1000"}
	b.save()
	b.detached()
	if got := b.must(append([]string{"exec", b.id}, first...)...); got != "bind:0\n" {
		t.Errorf("exec has the policy %q", got)
	}
}
