package main_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestWhatThisKernelLacks: what the spec asks for and the kernel has not is an
// error with its name, and nothing is left.
func TestWhatThisKernelLacks(t *testing.T) {
	if reference != "" {
		t.Skip("runc passes some of it over")
	}
	lacks := func(file string) bool { _, err := os.Stat(file); return err != nil }
	for _, c := range []struct {
		file, words string
		change      func(*specs.Spec)
	}{
		{"/sys/module/apparmor", "apparmor", func(s *specs.Spec) { s.Process.ApparmorProfile = "docker-default" }},
		{"/sys/fs/selinux/enforce", "selinux label is specified in config, but selinux is disabled or not supported", func(s *specs.Spec) { s.Process.SelinuxLabel = "a:b:c:s0" }},
		{"/sys/fs/resctrl/schemata", "ntelRdt", func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{} }},
	} {
		if !lacks(c.file) {
			continue
		}
		b := newBox(t, "true")
		c.change(b.spec)
		b.save()
		b.fails(1, c.words, "run", "-b", b.bundle, b.id)
		b.nothingLeft()
	}
	b := newBox(t, "true")
	b.spec.Process.ApparmorProfile = "unconfined" // which is what it is
	b.save()
	b.must("run", "-b", b.bundle, b.id)
}

// TestDelegation: with control groups v2 and a user namespace the container's root
// may make groups below its own. The hierarchy is the machine's, mounted alone in
// a mount namespace of the test's own.
func TestDelegation(t *testing.T) {
	if reference != "" {
		t.Skip("the layout of control groups is ours alone here")
	}
	const script = `cd /sys/fs/cgroup; /bin/busybox stat -c %u . cgroup.procs cgroup.max.depth; /bin/busybox mkdir below 2>/dev/null && echo $$ >below/cgroup.procs && grep -x 1 below/cgroup.procs && echo $$ >cgroup.procs && /bin/busybox rmdir below`
	b := newBox(t, sh(script)...)
	b.userNS(100000)
	b.spec.Linux.Resources = nil
	own := false
	for _, n := range b.spec.Linux.Namespaces {
		own = own || n.Type == specs.CgroupNamespace
	}
	if !own {
		b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	for _, c := range []struct {
		option, want string
	}{{"rw", "0 0 65534 1"}, {"ro", "65534 65534 65534"}} {
		for i := range b.spec.Mounts {
			if b.spec.Mounts[i].Type == "cgroup" {
				b.spec.Mounts[i].Options = []string{"nosuid", "noexec", "nodev", c.option}
			}
		}
		b.save()
		run := b.command("run", "-b", b.bundle, b.id)
		inside := b.command()
		path, err := exec.LookPath("unshare")
		must(t, err)
		inside.Path = path
		inside.Args = append([]string{"unshare", "-m", "--propagation", "private", "/bin/sh", "-c",
			`{ umount -R /sys/fs/cgroup 2>/dev/null || umount /sys/fs/cgroup; } && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$@"`, "sh"}, append([]string{run.Path}, run.Args[1:]...)...)
		r := runCmd(t, inside)
		if got := strings.Join(strings.Fields(r.out), " "); got != c.want {
			t.Errorf("%s: %q, want %q; exit code %d, %s", c.option, got, c.want, r.code, r.err)
		}
	}
}
