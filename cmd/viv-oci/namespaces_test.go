package main_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// holder is a process that holds namespaces open.
func holder(t *testing.T, flags uintptr) (pid int) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes namespaces")
	}
	c := exec.Command("/bin/busybox", "sleep", "1000")
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	if flags&unix.CLONE_NEWUSER != 0 {
		c.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 65536}}
		c.SysProcAttr.GidMappings = c.SysProcAttr.UidMappings
		c.SysProcAttr.GidMappingsEnableSetgroups = true
	}
	must(t, c.Start())
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	return c.Process.Pid
}

// join gives the container a namespace of a process.
func (b *box) join(kind specs.LinuxNamespaceType, pid int) {
	file := map[specs.LinuxNamespaceType]string{specs.NetworkNamespace: "net", specs.MountNamespace: "mnt"}[kind]
	if file == "" {
		file = string(kind)
	}
	path := fmt.Sprintf("/proc/%d/ns/%s", pid, file)
	for i := range b.spec.Linux.Namespaces {
		if b.spec.Linux.Namespaces[i].Type == kind {
			b.spec.Linux.Namespaces[i].Path = path
			return
		}
	}
	b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: path})
}

func nsOf(t *testing.T, pid int, file string) string {
	t.Helper()
	l, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, file))
	must(t, err)
	return l
}

// TestJoinUserNamespace: new namespaces belong to the user namespace that is
// joined beside, whoever owns others that are joined too.
func TestJoinUserNamespace(t *testing.T) {
	if reference != "" {
		t.Skip("runc from 1.2 on")
	}
	user := holder(t, unix.CLONE_NEWUSER)
	net := holder(t, unix.CLONE_NEWNET)
	userAndPid := holder(t, unix.CLONE_NEWUSER|unix.CLONE_NEWPID)
	const script = "/bin/busybox readlink /proc/self/ns/user; /bin/busybox readlink /proc/self/ns/net; /bin/busybox readlink /proc/self/ns/pid; id -u; echo $$; cat /proc/self/uid_map; touch /tmp/made; /bin/busybox hostname new && /bin/busybox hostname"
	for _, name := range []string{"user", "user and network", "user and pid", "user, nothing new but mounts"} {
		b := newBox(t, sh(script)...)
		caps := b.spec.Process.Capabilities
		for _, set := range []*[]string{&caps.Bounding, &caps.Permitted, &caps.Effective} {
			*set = append(*set, "CAP_SYS_ADMIN")
		}
		b.userNS(100000) // gives the rootfs away
		b.spec.Linux.UIDMappings, b.spec.Linux.GIDMappings = nil, nil
		owner := user
		wantNet, wantPid, first := "", "", "1"
		switch name {
		case "user and network":
			b.join(specs.NetworkNamespace, net)
			wantNet = nsOf(t, net, "net")
			for i := range b.spec.Mounts {
				if b.spec.Mounts[i].Type == "sysfs" { // needs rights over the network namespace
					b.spec.Mounts[i] = specs.Mount{Source: "/sys", Destination: "/sys", Type: "bind", Options: []string{"rbind"}}
				}
			}
		case "user and pid":
			owner = userAndPid
			b.join(specs.PIDNamespace, owner)
			wantPid, first = nsOf(t, owner, "pid"), "2" // 1 is the holder
		case "user, nothing new but mounts":
			b.spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.UTSNamespace}, {Type: specs.PIDNamespace},
				{Type: specs.UserNamespace, Path: fmt.Sprintf("/proc/%d/ns/user", user)}}
			b.spec.Mounts = []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc"}}
		}
		b.join(specs.UserNamespace, owner)
		b.save()
		out := strings.Split(b.must("run", "-b", b.bundle, b.id), "\n")
		if len(out) != 9-1 {
			t.Errorf("%s: %q", name, out)
			continue
		}
		if out[0] != nsOf(t, owner, "user") || wantNet != "" && out[1] != wantNet || wantPid != "" && out[2] != wantPid ||
			out[3] != "0" || out[4] != first || strings.Join(strings.Fields(out[5]), " ") != "0 100000 65536" || out[6] != "new" {
			t.Errorf("%s: %q", name, out)
		}
		var st unix.Stat_t
		must(t, unix.Stat(filepath.Join(b.bundle, "rootfs/tmp/made"), &st))
		if st.Uid != 100000 {
			t.Errorf("%s: what root made belongs to %d", name, st.Uid)
		}
		b.spec.Process.Args = []string{"sleep", "1000"}
		b.save()
		pid := b.detached()
		if got := b.must("exec", b.id, "/bin/busybox", "readlink", "/proc/self/ns/user"); strings.TrimSpace(got) != nsOf(t, pid, "user") || strings.TrimSpace(got) != nsOf(t, owner, "user") {
			t.Errorf("%s: exec in %q", name, got)
		}
		b.must("delete", "--force", b.id)
		b.reap(pid) // a pid namespace ends only when all in it are reaped
	}
}

// TestNewUserNamespaceBesideJoined: a new user namespace, and a network
// namespace that existed before.
func TestNewUserNamespaceBesideJoined(t *testing.T) {
	net := holder(t, unix.CLONE_NEWNET)
	b := newBox(t, sh("/bin/busybox readlink /proc/self/ns/net; id -u; cat /proc/self/gid_map")...)
	b.userNS(100000)
	b.join(specs.NetworkNamespace, net)
	for i := range b.spec.Mounts {
		if b.spec.Mounts[i].Type == "sysfs" {
			b.spec.Mounts[i] = specs.Mount{Source: "/sys", Destination: "/sys", Type: "bind", Options: []string{"rbind"}}
		}
	}
	b.save()
	got := strings.Fields(b.must("run", "-b", b.bundle, b.id))
	if want := nsOf(t, net, "net") + " 0 0 100000 65536"; strings.Join(got, " ") != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestUserNamespaceWithoutRoot: ids that are mapped, but none of root.
func TestUserNamespaceWithoutRoot(t *testing.T) {
	if reference != "" {
		t.Skip("runc from 1.4 on")
	}
	b := newBox(t, sh("id -u; id -g; cat /proc/self/uid_map")...)
	b.userNS(100000)
	b.spec.Linux.UIDMappings, b.spec.Linux.GIDMappings = ids(1000, 100000, 1), ids(1000, 100000, 1)
	b.spec.Process.User = specs.User{UID: 1000, GID: 1000}
	for i := range b.spec.Mounts {
		if b.spec.Mounts[i].Type == "devpts" {
			b.spec.Mounts[i].Options = []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}
		}
	}
	b.save()
	if got := strings.Join(strings.Fields(b.must("run", "-b", b.bundle, b.id)), " "); got != "1000 1000 1000 100000 1" {
		t.Errorf("got %q", got)
	}
	b.spec.Process.Args = []string{"sleep", "1000"}
	b.save()
	b.detached()
	if got := b.must("exec", b.id, "sh", "-c", "id -u; id -g"); got != "1000\n1000\n" {
		t.Errorf("exec: %q", got)
	}
}

// TestJoinMountNamespace: the container is in the namespace, with its own root,
// and the namespace keeps its root.
func TestJoinMountNamespace(t *testing.T) {
	if reference != "" {
		t.Skip("runc changes the root of everybody in the namespace")
	}
	mnt := holder(t, unix.CLONE_NEWNS)
	// What is mounted there must not come back here.
	private := exec.Command("nsenter", fmt.Sprintf("--mount=/proc/%d/ns/mnt", mnt), "mount", "--make-rprivate", "/")
	if out, err := private.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b := newBox(t, sh("/bin/busybox readlink /proc/self/ns/mnt; ls /; cat /extra/f; touch /new 2>&1; [ ! -e /new ] && echo ro")...)
	must(t, os.Mkdir(filepath.Join(b.bundle, "extra"), 0o755))
	must(t, os.WriteFile(filepath.Join(b.bundle, "extra/f"), []byte("extra\n"), 0o644))
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Source: "extra", Destination: "/extra", Options: []string{"bind", "ro"}})
	b.spec.Root.Readonly = true
	b.join(specs.MountNamespace, mnt)
	b.save()
	want := nsOf(t, mnt, "mnt") + "\nbin\ndev\netc\nextra\nproc\nsys\ntmp\nextra\ntouch: /new: Read-only file system\nro\n"
	if got := b.must("run", "-b", b.bundle, b.id); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	out, err := exec.Command("nsenter", fmt.Sprintf("--mount=/proc/%d/ns/mnt", mnt), "ls", "/root", b.bundle).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "rootfs") {
		t.Errorf("the namespace's own root: %v, %s", err, out)
	}
	b.spec.Process.Args = []string{"sleep", "1000"}
	b.save()
	b.detached()
	if got := b.must("exec", b.id, "ls", "/extra", "/bin/busybox"); !strings.Contains(got, "f\n") {
		t.Errorf("exec: %q", got)
	}
	b.must("delete", "--force", b.id)
	b.join(specs.MountNamespace, os.Getpid())
	b.save()
	b.fails(1, "is the runtime's own", "run", "-b", b.bundle, b.id)
}

// TestTimeOffsets: the clocks of the container differ by what the spec says.
func TestTimeOffsets(t *testing.T) {
	if reference != "" {
		t.Skip("runc from 1.2 on")
	}
	b := newBox(t, sh("cat /proc/self/timens_offsets; /bin/busybox cut -d. -f1 /proc/uptime")...)
	b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
	b.spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {Secs: 7881, Nanosecs: 2718281}, "boottime": {Secs: 1337, Nanosecs: 3141519}}
	for _, userns := range []bool{false, true} {
		if userns {
			b.userNS(100000)
		}
		b.save()
		got := strings.Join(strings.Fields(b.must("run", "-b", b.bundle, b.id)), " ")
		if !strings.HasPrefix(got, "monotonic 7881 2718281 boottime 1337 3141519 ") {
			t.Errorf("got %q", got)
		}
	}
	b.spec.Process.Args = []string{"sleep", "1000"}
	b.save()
	b.detached()
	if got := strings.Join(strings.Fields(b.must("exec", b.id, "cat", "/proc/self/timens_offsets")), " "); got != "monotonic 7881 2718281 boottime 1337 3141519" {
		t.Errorf("exec: %q", got)
	}
	b.spec.Linux.Namespaces = b.spec.Linux.Namespaces[:len(b.spec.Linux.Namespaces)-2]
	b.spec.Linux.UIDMappings, b.spec.Linux.GIDMappings = nil, nil
	b.must("delete", "--force", b.id)
	b.save()
	b.fails(1, "time", "run", "-b", b.bundle, b.id)
}
