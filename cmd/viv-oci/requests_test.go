package main_test

import (
	"os"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestRequestsTogether: the process asks for all that its runtime does for it, in
// one start, whether somebody waits with it or it waits for start alone.
func TestRequestsTogether(t *testing.T) {
	if reference != "" {
		t.Skip("runc from 1.4 on")
	}
	newNetwork(t)
	id := 0
	for _, hooks := range []bool{false, true} {
		for _, verb := range []string{"run", "create"} {
			id++ // the one before may be on its way out still
			newDevice(t, "vx1", id)
			b := newBox(t, sh("cat /a/f /b/f; /bin/busybox ip -o link | grep -c vx1; cat /proc/self/timens_offsets | grep -c 1337; /bin/busybox mkdir /tmp/x 2>&1; /bin/busybox kill -0 1 && echo end >/tmp/end; exec sleep 1000")...)
			a := newAgent(t)
			for _, d := range []string{"a", "b"} {
				must(t, os.Mkdir(filepath.Join(b.bundle, "rootfs", d), 0o755))
				must(t, os.WriteFile(filepath.Join(b.bundle, "rootfs", d, "f"), []byte(d+"\n"), 0o644))
				b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/" + d, Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup"}})
			}
			b.spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"vx1": {}}
			b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
			b.spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 1337}}
			b.spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: a.path,
				Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActNotify}}}
			if hooks {
				touch := func(name string) []specs.Hook {
					return []specs.Hook{{Path: "/bin/busybox", Args: []string{"busybox", "touch", filepath.Join(b.bundle, "rootfs/tmp", name)}}}
				}
				b.spec.Hooks = &specs.Hooks{CreateRuntime: touch("cr"), CreateContainer: touch("cc"), Poststart: touch("ps"),
					StartContainer: []specs.Hook{{Path: "/bin/busybox", Args: []string{"busybox", "touch", "/tmp/sc"}}}}
			}
			b.save()
			out := tempFile(t)
			start := func(args ...string) {
				c := b.command(args...)
				c.Stdout = out
				if r := runCmd(t, c); r.code != 0 {
					t.Fatalf("%v: exit code %d, %s", args, r.code, r.err)
				}
			}
			if verb == "run" {
				start("run", "-d", "-b", b.bundle, b.id)
			} else {
				start("create", "-b", b.bundle, b.id)
				b.wantStatus("created")
				start("start", b.id)
			}
			pid := *b.state().Pid
			tmp := filepath.Join(b.bundle, "rootfs/tmp")
			b.eventually("the command is through", func() bool { _, err := os.Stat(filepath.Join(tmp, "end")); return err == nil })
			const want = "a\nb\n1\n1\nmkdir: can't create directory '/tmp/x': No medium found\n"
			if got := contents(t, out); got != want {
				t.Errorf("%s, hooks %v: %q", verb, hooks, got)
			}
			if hooks {
				for _, name := range []string{"cr", "cc", "sc", "ps"} {
					if _, err := os.Stat(filepath.Join(tmp, name)); err != nil {
						t.Errorf("%s: hook %s has not run", verb, name)
					}
				}
			}
			must(t, unix.Kill(pid, unix.SIGKILL))
			b.reap(pid)
			b.must("delete", "--force", b.id)
			a.close()
			if has(t, "vx1") {
				t.Error("the device is back")
			}
		}
	}
}
