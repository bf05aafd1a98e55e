package main_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// What callers of runc and crun rely on beside the specification.

// ours leaves a test out that would fail with the reference.
func ours(t *testing.T, why string) {
	t.Helper()
	if reference != "" {
		t.Skip(why)
	}
}

// manager takes the messages of services, as systemd does.
func manager(t *testing.T) (path string, next func() string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), strings.Repeat("long-name-", 4)+"socket")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return path, func() string {
		t.Helper()
		must(t, c.SetReadDeadline(time.Now().Add(30*time.Second)))
		var b [4096]byte
		n, err := c.Read(b[:])
		must(t, err)
		return string(b[:n])
	}
}

func (b *box) notifying(socket string, args ...string) *exec.Cmd {
	c := b.command(args...)
	c.Env = append(os.Environ(), "NOTIFY_SOCKET="+socket)
	return c
}

// say sends a message to the socket that a container's process is shown.
func say(t *testing.T, pid int, inside, msg string) {
	t.Helper()
	c, err := net.Dial("unixgram", fmt.Sprintf("/proc/%d/root%s/notify", pid, inside))
	must(t, err)
	defer c.Close()
	_, err = c.Write([]byte(msg))
	must(t, err)
}

func TestNotifySocket(t *testing.T) {
	ours(t, "runc has other names in the container")
	for _, userns := range []bool{false, true} {
		b := newBox(t, sh(`echo "$NOTIFY_SOCKET"; [ -S "$NOTIFY_SOCKET" ] && echo up; touch ${NOTIFY_SOCKET%notify}x; cat /tmp/fifo; exit 3`)...)
		if userns {
			b.userNS(100000)
		}
		must(t, unix.Mkfifo(filepath.Join(b.bundle, "rootfs/tmp/fifo"), 0o666))
		b.save()
		socket, next := manager(t)
		c := b.notifying(socket, "run", "-b", b.bundle, b.id)
		r, w, err := os.Pipe()
		must(t, err)
		c.Stdout, c.Stderr = w, w
		must(t, c.Start())
		w.Close()
		readLine(t, r, socket+"/notify")
		readLine(t, r, "up")
		readLine(t, r, "Read-only file system")
		pid := *b.state().Pid
		say(t, pid, socket, "STATUS=half\n")
		say(t, pid, socket, "STATUS=all\nREADY=1\n")
		if got := next(); got != "READY=1" {
			t.Errorf("first message %q", got)
		}
		if got := next(); got != "MAINPID="+strconv.Itoa(pid) {
			t.Errorf("second message %q", got)
		}
		must(t, os.WriteFile(filepath.Join(b.bundle, "rootfs/tmp/fifo"), nil, 0))
		if code := wait(t, c); code != 3 {
			t.Errorf("exit code %d", code)
		}
		r.Close()
	}
}

// TestNotifyStart: start waits until the command is ready, or ends.
func TestNotifyStart(t *testing.T) {
	ours(t, "runc has other names in the container")
	b := newBox(t, "sleep", "1000")
	socket, next := manager(t)
	begin := func() *exec.Cmd {
		if r := runCmd(t, b.notifying(socket, "create", "-b", b.bundle, b.id)); r.code != 0 {
			t.Fatal(r.err)
		}
		b.pids = append(b.pids, *b.state().Pid)
		c := b.notifying(socket, "start", b.id)
		must(t, c.Start())
		b.eventually("the command runs", func() bool { return b.state().Status == "running" })
		return c
	}
	c := begin()
	say(t, *b.state().Pid, socket, "READY=1")
	if code := wait(t, c); code != 0 || next() != "READY=1" {
		t.Errorf("exit code %d", code)
	}
	b.must("delete", "--force", b.id)
	c = begin()
	b.must("kill", b.id, "KILL")
	if code := wait(t, c); code != 0 {
		t.Errorf("exit code %d after the end of the command", code)
	}
	b.must("delete", b.id)
	b.must("create", "-b", b.bundle, b.id)
	b.pids = append(b.pids, *b.state().Pid)
	if r := runCmd(t, b.notifying(socket, "start", b.id)); r.code != 0 {
		t.Errorf("created without a socket: %s", r.err)
	}
}

func TestUnknownCapability(t *testing.T) {
	b := newBox(t, sh("grep CapBnd /proc/self/status")...)
	b.spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL", "CAP_TELEPATHY"}}
	b.save()
	r := b.cmd("run", "-b", b.bundle, b.id)
	if r.code != 0 || strings.Fields(r.out)[1] != "0000000000000020" || !strings.Contains(r.err, "warning") || !strings.Contains(r.err, "CAP_TELEPATHY") {
		t.Errorf("%+v", r)
	}
}

func TestKeepGroups(t *testing.T) {
	ours(t, "runc does not have the annotation")
	b := newBox(t, sh("grep Groups /proc/self/status")...)
	b.spec.Annotations = map[string]string{"run.oci.keep_original_groups": "1"}
	b.save()
	b.user = &syscall.Credential{Groups: []uint32{5, 7}}
	if got := strings.Fields(b.must("run", "-b", b.bundle, b.id)); !slices.Equal(got, []string{"Groups:", "5", "7"}) {
		t.Errorf("%q", got)
	}
	b.spec.Annotations = nil
	b.save()
	if got := strings.Fields(b.must("run", "-b", b.bundle, b.id)); slices.Contains(got, "7") {
		t.Errorf("without the annotation: %q", got)
	}
}

func TestNameSysctls(t *testing.T) {
	b := newBox(t, sh("cat /proc/sys/kernel/domainname")...)
	b.spec.Linux.Sysctl = map[string]string{"kernel.domainname": "example.org"}
	b.save()
	if got := b.must("run", "-b", b.bundle, b.id); got != "example.org\n" {
		t.Errorf("%q", got)
	}
	b.spec.Linux.Sysctl = map[string]string{"kernel.hostname": "name"}
	b.save()
	b.fails(1, "kernel.hostname", "run", "-b", b.bundle, b.id)
	b.spec.Linux.Sysctl = map[string]string{"kernel.domainname": "example.org"}
	b.spec.Hostname = ""
	b.spec.Linux.Namespaces = slices.DeleteFunc(b.spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.UTSNamespace })
	b.save()
	b.fails(1, "kernel.domainname", "run", "-b", b.bundle, b.id)
}

// TestHookEnvironment: a hook outside has the runtime's environment, unless it has its own.
func TestHookEnvironment(t *testing.T) {
	b := newBox(t, "true")
	out := filepath.Join(t.TempDir(), "out")
	b.spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{
		{Path: "/bin/sh", Args: []string{"sh", "-c", "echo 1=$VIV_TEST_MARK >>" + out}},
		{Path: "/bin/sh", Args: []string{"sh", "-c", "echo 2=$VIV_TEST_MARK >>" + out}, Env: []string{"A=b"}},
	}}
	b.save()
	c := b.command("run", "-b", b.bundle, b.id)
	c.Env = append(os.Environ(), "VIV_TEST_MARK=here")
	if r := runCmd(t, c); r.code != 0 {
		t.Fatal(r.err)
	}
	got, err := os.ReadFile(out)
	if err != nil || string(got) != "1=here\n2=\n" {
		t.Errorf("%q %v", got, err)
	}
}

// TestDeviceInUserNamespace: a node that the host does not have, and one that it
// has under another name, with an owner of the container.
func TestDeviceInUserNamespace(t *testing.T) {
	ours(t, "runc shows only what the host has under the same name")
	b := newBox(t, sh("/bin/busybox stat -c '%n %t:%T %u:%g %a' /dev/null2 /dev/deep/zero /dev/null; echo x >/dev/null2 && /bin/busybox head -c 2 /dev/deep/zero | /bin/busybox od -An -tx1; ls /dev | /bin/busybox wc -l")...)
	b.userNS(100000)
	mode := os.FileMode(0o606)
	id := uint32(7)
	b.spec.Linux.Devices = []specs.LinuxDevice{
		{Path: "/dev/null2", Type: "c", Major: 1, Minor: 3, FileMode: &mode, UID: &id, GID: &id},
		{Path: "/dev/deep/zero", Type: "c", Major: 1, Minor: 5},
	}
	b.save()
	old := unix.Umask(0o077)
	r := b.cmd("run", "-b", b.bundle, b.id)
	unix.Umask(old)
	want := "/dev/null2 1:3 7:7 606\n/dev/deep/zero 1:5 0:0 666\n/dev/null 1:3 65534:65534 666\n 00 00\n"
	if !strings.HasPrefix(r.out, want) || r.code != 0 {
		t.Errorf("got %q %s, want %q", r.out, r.err, want)
	}
}

// TestForeignFreezer: a process that somebody has put into a frozen v1 group of
// his own is killed all the same.
func TestForeignFreezer(t *testing.T) {
	ours(t, "runc does not end")
	const freezer = "/sys/fs/cgroup/freezer"
	if _, err := os.Stat(freezer + "/cgroup.procs"); err != nil {
		t.Skip("needs the v1 freezer")
	}
	b := newBox(t, "sleep", "1000")
	pid := b.detached()
	other := freezer + "/" + b.id + "-other"
	must(t, os.Mkdir(other, 0o755))
	t.Cleanup(func() { // after the container is gone
		if err := os.Remove(other); err != nil {
			t.Error(err)
		}
	})
	must(t, os.WriteFile(other+"/cgroup.procs", []byte(strconv.Itoa(pid)), 0))
	must(t, os.WriteFile(other+"/freezer.state", []byte("FROZEN"), 0))
	b.must("delete", "--force", b.id)
	b.reap(pid)
	b.pids = nil
}

// TestDanglingTarget: a mount on a symlink that leads to nothing lies where that
// leads, inside the root.
func TestDanglingTarget(t *testing.T) {
	b := newBox(t, sh("cat /etc/resolv.conf /run/deep/stub; ls /run/dir")...)
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, []byte("shown\n"), 0o644))
	must(t, os.Symlink("../../../run/deep/stub", filepath.Join(b.bundle, "rootfs/etc/resolv.conf")))
	must(t, os.Symlink("/run/dir", filepath.Join(b.bundle, "rootfs/etc/dir")))
	b.spec.Mounts = append(b.spec.Mounts,
		specs.Mount{Destination: "/etc/resolv.conf", Source: file, Type: "bind", Options: []string{"bind", "ro"}},
		specs.Mount{Destination: "/etc/dir", Source: filepath.Dir(file), Type: "bind", Options: []string{"bind", "ro"}})
	b.save()
	if r := b.cmd("run", "-b", b.bundle, b.id); r.out != "shown\nshown\nfile\n" {
		t.Errorf("%+v", r)
	}
}

// TestAsCrun: installed under crun's name, it does as crun where runc does other.
func TestAsCrun(t *testing.T) {
	ours(t, "our own")
	b := newBox(t, "sleep", "1000")
	out := filepath.Join(t.TempDir(), "out")
	b.spec.Process.NoNewPrivileges = true
	b.spec.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "pwd >>" + out}, Env: []string{"PATH=/usr/bin:/bin"}}}}
	b.save()
	crun := filepath.Join(t.TempDir(), "crun")
	must(t, os.Symlink(binary, crun))
	own := binary
	defer func() { binary = own }()
	for _, c := range []struct{ name, dir, nnp string }{{own, b.bundle + "/rootfs", "1"}, {crun, b.bundle, "0"}} {
		binary = c.name
		b.detached()
		if got := strings.Fields(b.must("exec", b.id, "grep", "NoNewPrivs", "/proc/self/status"))[1]; got != c.nnp {
			t.Errorf("%s: no_new_privs of exec is %s", c.name, got)
		}
		if got := strings.Fields(b.must("exec", "--no-new-privs", b.id, "grep", "NoNewPrivs", "/proc/self/status"))[1]; got != "1" {
			t.Errorf("%s: --no-new-privs gives %s", c.name, got)
		}
		var kept struct {
			Pid         int
			Bundle      string
			Descriptors string `json:"external_descriptors"`
		}
		text, err := os.ReadFile(filepath.Join(b.root, b.id, "status"))
		if c.name == crun && err == nil {
			err = json.Unmarshal(text, &kept)
		}
		if (err == nil) != (c.name == crun) || c.name == crun && (kept.Pid != *b.state().Pid || kept.Bundle != b.bundle || !strings.HasPrefix(kept.Descriptors, `["`)) {
			t.Errorf("%s: crun's record: %s, %v", c.name, text, err)
		}
		b.must("delete", "--force", b.id)
		got, err := os.ReadFile(out)
		if err != nil || strings.TrimSpace(string(got)) != c.dir {
			t.Errorf("%s: createContainer began in %q, %v", c.name, got, err)
		}
		must(t, os.Remove(out))
	}
}

// TestRegex: kill and delete take an expression for the names.
func TestRegex(t *testing.T) {
	ours(t, "crun's flag")
	b := newBox(t, "sleep", "1000")
	name := b.id
	for _, suffix := range []string{"-a", "-b", "-other"} {
		b.id, b.spec.Linux.CgroupsPath = name+suffix, "/"+name+suffix
		b.save()
		b.detached()
	}
	b.must("kill", "--regex", name+"-[ab]$", "KILL")
	b.eventually("the two have stopped", func() bool {
		return strings.Count(b.must("list"), "stopped") == 2
	})
	b.fails(1, "cannot delete container "+name+"-other", "delete", "--regex", name)
	if got := strings.TrimSpace(b.must("list", "-q")); got != name+"-other" {
		t.Errorf("left: %q", got)
	}
	b.fails(1, "--regex", "delete", "--regex", "(")
	b.must("delete", "--force", "--regex", "^"+name)
	if got := b.must("list", "-q"); got != "" {
		t.Errorf("left: %q", got)
	}
	b.id, b.spec.Linux.CgroupsPath = name, "/"+name
}

// TestNoCgroupManager: the container stays in the groups of its caller.
func TestNoCgroupManager(t *testing.T) {
	ours(t, "crun's flag")
	b := newBox(t, sh("cat /proc/self/cgroup")...)
	b.spec.Linux.Namespaces = slices.DeleteFunc(b.spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.CgroupNamespace })
	b.save()
	own, err := os.ReadFile("/proc/self/cgroup")
	must(t, err)
	if r := b.cmd("--cgroup-manager", "disabled", "run", "-b", b.bundle, b.id); r.out != string(own) || r.code != 0 {
		t.Errorf("got %q %s, want %q", r.out, r.err, own)
	}
	b.fails(1, "none", "--cgroup-manager", "none", "run", "-b", b.bundle, b.id)
}

// TestClosedWorkDir: the working directory may be closed to the user.
func TestClosedWorkDir(t *testing.T) {
	b := newBox(t, sh("pwd; ls 2>/dev/null || echo closed")...)
	dir := filepath.Join(b.bundle, "rootfs/secret")
	must(t, os.Mkdir(dir, 0o700))
	b.spec.Process.User = specs.User{UID: 1000, GID: 1000}
	b.spec.Process.Cwd = "/secret"
	b.spec.Process.Capabilities = nil
	b.save()
	if r := b.cmd("run", "-b", b.bundle, b.id); !strings.Contains(r.out, "closed") || r.code != 0 {
		t.Errorf("%+v", r)
	}
}

// TestFrozenGroupRefused: who enters a frozen group stops before it says a word.
func TestFrozenGroupRefused(t *testing.T) {
	b := newBox(t, "true")
	dir, file, frozen, thawed := "/sys/fs/cgroup/freezer/"+b.id, "freezer.state", "FROZEN", "THAWED"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		dir, file, frozen, thawed = "/sys/fs/cgroup/"+b.id, "cgroup.freeze", "1", "0"
	}
	must(t, os.Mkdir(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(dir, file), []byte(frozen), 0))
	b.fails(1, "container's cgroup unexpectedly frozen", "run", "-b", b.bundle, b.id)
	must(t, os.WriteFile(filepath.Join(dir, file), []byte(thawed), 0))
	b.must("run", "-b", b.bundle, b.id)
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// TestReadonlyDev: a /dev that is to be read-only has its devices all the same.
func TestReadonlyDev(t *testing.T) {
	b := newBox(t, sh("echo x >/dev/null && touch /dev/new")...)
	for i := range b.spec.Mounts {
		if b.spec.Mounts[i].Destination == "/dev" {
			b.spec.Mounts[i].Options = append(b.spec.Mounts[i].Options, "ro")
		}
	}
	b.save()
	if r := b.cmd("run", "-b", b.bundle, b.id); r.code != 1 || !strings.Contains(r.err, "/dev/new: Read-only file system") {
		t.Errorf("%+v", r)
	}
}

// TestProcOnSymlink: an image that has a symlink for /proc would have the masks
// lie somewhere else (CVE-2019-19921).
func TestProcOnSymlink(t *testing.T) {
	for _, name := range []string{"proc", "sys"} {
		b := newBox(t, "true")
		rootfs := filepath.Join(b.bundle, "rootfs")
		must(t, os.Remove(filepath.Join(rootfs, name)))
		must(t, os.Symlink("tmp", filepath.Join(rootfs, name)))
		b.fails(1, "must be mounted on ordinary directory", "run", "-b", b.bundle, b.id)
	}
}

// TestNoPivotHidesKernel: without a pivot the host's tree is still in the mount
// namespace. Were its proc among it, whole, the kernel would let a user namespace
// made in the container mount a new one without the masks (mount_too_revealing,
// fs/namespace.c). And whoever enters his own mount namespace anew gets its root
// directory, which has to be the container's.
func TestNoPivotHidesKernel(t *testing.T) {
	b := newBox(t, sh("/bin/busybox unshare -rmpf /bin/busybox mount -t proc proc /tmp; echo $?; /bin/busybox nsenter -t 1 -m /bin/busybox ls /")...)
	for _, set := range []*[]string{&b.spec.Process.Capabilities.Bounding, &b.spec.Process.Capabilities.Effective, &b.spec.Process.Capabilities.Permitted} {
		*set = []string{"CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SETUID", "CAP_SETGID", "CAP_SETFCAP"}
	}
	for _, hooks := range []*specs.Hooks{nil, {CreateContainer: []specs.Hook{{Path: "/bin/true"}}}} {
		b.spec.Hooks = hooks
		b.save()
		r := b.cmd("run", "--no-pivot", "-b", b.bundle, b.id)
		if r.out != "1\nbin\ndev\netc\nproc\nsys\ntmp\n" || !strings.Contains(r.err, "permission denied") {
			t.Errorf("with hooks %v: %+v", hooks != nil, r)
		}
	}
}

// TestUpdatePeriodAndQuota: both change, below a limit that the group above has.
func TestUpdatePeriodAndQuota(t *testing.T) {
	b := newBox(t, "sleep", "1000")
	dir := b.groupAbove()
	must(t, os.WriteFile(dir+"/cpu.cfs_quota_us", []byte("50000"), 0))
	quota, period := int64(40000), uint64(100000)
	b.spec.Linux.Resources.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
	b.save()
	b.detached()
	b.must("update", "--cpu-period", "1000000", "--cpu-quota", "400000", b.id)
	b.must("update", "--cpu-period", "10000", "--cpu-quota", "5000", b.id)
	for file, want := range map[string]string{"cpu.cfs_period_us": "10000", "cpu.cfs_quota_us": "5000"} {
		got, err := os.ReadFile(filepath.Join(dir, b.id, file))
		if err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("%s: %q %v", file, got, err)
		}
	}
	b.must("delete", "--force", b.id)
}

// TestDebugMessages are looked for by people who read the logs of runc.
func TestDebugMessages(t *testing.T) {
	b := newBox(t, "sleep", "1000")
	log := filepath.Join(t.TempDir(), "log")
	b.must("--debug", "--log", log, "create", "-b", b.bundle, b.id)
	b.pids = append(b.pids, *b.state().Pid)
	b.must("start", b.id)
	b.must("--debug", "--log", log, "exec", b.id, "true")
	got, err := os.ReadFile(log)
	must(t, err)
	for _, want := range []string{"level=debug", "nsexec container setup", "child process in init()", "init: closing the pipe to signal completion", "setns_init: about to exec"} {
		if !strings.Contains(string(got), want) {
			t.Errorf("no %q in %s", want, got)
		}
	}
}

// TestExecFollowsFirst: on v2 a group that passes controllers on has no processes
// of its own; what is executed goes where the first process is.
func TestExecFollowsFirst(t *testing.T) {
	const root = "/sys/fs/cgroup"
	if _, err := os.Stat(root + "/cgroup.controllers"); err != nil {
		t.Skip("needs cgroup v2")
	}
	b := newBox(t, "sleep", "1000")
	pid := b.detached()
	dir := filepath.Join(root, b.id)
	inner := dir + "/inner"
	must(t, os.Mkdir(inner, 0o755))
	must(t, os.WriteFile(inner+"/cgroup.procs", []byte(strconv.Itoa(pid)), 0))
	must(t, os.WriteFile(dir+"/cgroup.subtree_control", []byte("+pids"), 0))
	b.spec.Linux.CgroupsPath = "/" + b.id
	got := b.must("exec", b.id, "cat", "/proc/self/cgroup")
	if !strings.Contains(got, "/inner") {
		t.Errorf("exec is in %q", got)
	}
}

// TestUserNamespaceWithoutMaps: the ids that we have ourselves.
func TestUserNamespaceWithoutMaps(t *testing.T) {
	ours(t, "runc refuses it")
	b := newBox(t, sh("cat /proc/self/uid_map /proc/self/gid_map; id -u")...)
	b.userNS(100000)
	b.spec.Linux.UIDMappings, b.spec.Linux.GIDMappings = nil, nil
	b.save()
	own, err := os.ReadFile("/proc/self/uid_map")
	must(t, err)
	want := strings.Fields(string(own) + string(own) + "0")
	if got := strings.Fields(b.must("run", "-b", b.bundle, b.id)); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestCopySymlink: a mount of a symlink is one in the container.
func TestCopySymlink(t *testing.T) {
	ours(t, "crun's option")
	b := newBox(t, sh("/bin/busybox readlink /a/deep/link")...)
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink("to/nowhere", link))
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/a/deep/link", Source: link, Type: "bind", Options: []string{"rbind", "copy-symlink"}})
	b.save()
	for range 2 { // the second time it is there
		if got := b.must("run", "-b", b.bundle, b.id); got != "to/nowhere\n" {
			t.Errorf("%q", got)
		}
	}
	must(t, os.Remove(filepath.Join(b.bundle, "rootfs/a/deep/link")))
	must(t, os.Symlink("elsewhere", filepath.Join(b.bundle, "rootfs/a/deep/link")))
	b.fails(1, "file exists", "run", "-b", b.bundle, b.id)
}

// TestBindInside: a source in the root file system is what was mounted there
// before, and a destination may be named as the host sees it.
func TestBindInside(t *testing.T) {
	b := newBox(t, sh("cat /final/x/file")...)
	src := t.TempDir()
	for _, dir := range []string{"a/x", "b"} {
		must(t, os.MkdirAll(filepath.Join(src, dir), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(src, "b/file"), []byte("of b\n"), 0o644))
	rootfs := filepath.Join(b.bundle, "rootfs")
	bind := func(from, to string) specs.Mount {
		return specs.Mount{Source: from, Destination: to, Type: "bind", Options: []string{"rbind", "rprivate"}}
	}
	b.spec.Mounts = append(b.spec.Mounts, bind(src+"/a", "/mnt"), bind(src+"/b", "/mnt/x"), bind(rootfs+"/mnt", rootfs+"/final"))
	for _, userns := range []bool{false, true} {
		if userns {
			b.userNS(100000)
		}
		b.save()
		if r := b.cmd("run", "-b", b.bundle, b.id); r.out != "of b\n" {
			t.Errorf("%+v", r)
		}
	}
}

// TestMissingInterpreter: the command is there, what it is to be run by is not.
func TestMissingInterpreter(t *testing.T) {
	b := newBox(t, "/script")
	must(t, os.WriteFile(filepath.Join(b.bundle, "rootfs/script"), []byte("#!/no/shell\n"), 0o755))
	ours(t, "runc says so since 1.2")
	if r := b.cmd("run", "-b", b.bundle, b.id); r.code != 1 || r.err != "exec /script: no such file or directory\n" {
		t.Errorf("%+v", r)
	}
	b.spec.Process.Args = []string{"sleep", "1000"}
	b.save()
	b.detached()
	if r := b.cmd("exec", b.id, "/script"); r.code != 255 || r.err != "exec /script: no such file or directory\n" {
		t.Errorf("%+v", r)
	}
}

// TestPlainNewlines: what a program writes to a terminal that goes to a file has no
// carriage returns.
func TestPlainNewlines(t *testing.T) {
	b := newBox(t, sh("tty; stty -a 2>/dev/null | grep -o -- -onlcr; echo end")...)
	b.spec.Process.Terminal = true
	b.save()
	if got := b.must("run", "-b", b.bundle, b.id); got != "/dev/pts/0\n-onlcr\nend\n" {
		t.Errorf("%q", got)
	}
}

// TestStartContainerEnvironment: such a hook has the process's, if it has none.
func TestStartContainerEnvironment(t *testing.T) {
	ours(t, "runc since 1.3")
	b := newBox(t, "true")
	b.spec.Process.Env = append(b.spec.Process.Env, "ONE=two")
	b.spec.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", `[ "$ONE" = two ] && [ -n "$HOME" ]`}}}}
	b.save()
	b.must("run", "-b", b.bundle, b.id)
}

// TestAmbientWarning: what cannot be ambient is said, and the rest goes on.
func TestAmbientWarning(t *testing.T) {
	b := newBox(t, "true")
	b.spec.Process.Capabilities.Ambient = []string{"CAP_KILL"}
	b.spec.Process.Capabilities.Inheritable = nil
	b.save()
	if r := b.cmd("run", "-b", b.bundle, b.id); r.code != 0 || !strings.Contains(r.err, "can't raise ambient capability CAP_KILL: ") {
		t.Errorf("%+v", r)
	}
}

// TestKillCreated: a container that waits for start ends by the signals that end
// processes, and by no others.
func TestKillCreated(t *testing.T) {
	b := newBox(t, "true")
	pid := b.create()
	b.must("kill", b.id, "WINCH")
	b.must("kill", b.id, "0")
	b.wantStatus("created")
	b.must("kill", b.id, "TERM")
	b.reap(pid)
	b.wantStatus("stopped")
	b.must("delete", b.id)
}

// TestNoSwap: a sum of memory and swap of 0, without a limit of memory, is no swap.
func TestNoSwap(t *testing.T) {
	ours(t, "runc passes it over")
	const root = "/sys/fs/cgroup"
	if _, err := os.Stat(root + "/cgroup.controllers"); err != nil {
		t.Skip("needs cgroup v2: v1 has the sum alone")
	}
	b := newBox(t, "sleep", "1000")
	none := int64(0)
	b.spec.Linux.Resources.Memory = &specs.LinuxMemory{Swap: &none}
	b.save()
	b.detached()
	got, err := os.ReadFile(filepath.Join(root, b.id, "memory.swap.max"))
	if err == nil && strings.TrimSpace(string(got)) != "0" || err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%q %v", got, err)
	}
	b.spec.Linux.Resources.Memory = nil
	for key, words := range map[string]string{"foo.bar": "the requested cgroup controller `foo` is not available", "NOT-A-KEY": "the specified key has not the form CONTROLLER.VALUE `NOT-A-KEY`"} {
		b.must("delete", "--force", b.id)
		b.spec.Linux.Resources.Unified = map[string]string{key: "1"}
		b.save()
		b.fails(1, words, "run", "-b", b.bundle, b.id)
	}
}

// TestTermWhileWaiting: SIGTERM ends a process that waits for start, whoever sends
// it, and once it has been started it is the command's own affair.
func TestTermWhileWaiting(t *testing.T) {
	b := newBox(t, sh("trap 'exit 9' TERM; touch /tmp/up; while :; do sleep 0.01; done")...)
	pid := b.create()
	must(t, syscall.Kill(pid, syscall.SIGTERM))
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil || status.ExitStatus() != 128+int(syscall.SIGTERM) {
		t.Errorf("while it waits: %v, %v", status.ExitStatus(), err)
	}
	b.wantStatus("stopped")
	b.must("delete", b.id)

	pid = b.detached()
	b.eventually("the command is up", func() bool { _, err := os.Stat(filepath.Join(b.bundle, "rootfs/tmp/up")); return err == nil })
	must(t, syscall.Kill(pid, syscall.SIGTERM))
	if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil || status.ExitStatus() != 9 {
		t.Errorf("the command: %v, %v", status.ExitStatus(), err)
	}
	b.pids = nil
	b.must("delete", b.id)
}

// TestUpdateRealtime lowers period and budget below what the other was.
func TestUpdateRealtime(t *testing.T) {
	if _, err := os.Stat("/sys/fs/cgroup/cpu/cpu.rt_runtime_us"); err != nil {
		t.Skip("the kernel has no realtime groups")
	}
	b := newBox(t, "sleep", "1000")
	dir := b.groupAbove()
	// What a group gives to those in it, it has to have: 0 when it is new.
	must(t, os.WriteFile(dir+"/cpu.rt_runtime_us", []byte("100000"), 0))
	b.save()
	b.detached()
	b.must("update", "--cpu-rt-period", "900001", "--cpu-rt-runtime", "60001", b.id)
	b.must("update", "--cpu-rt-period", "10000", "--cpu-rt-runtime", "300", b.id)
	for file, want := range map[string]string{"cpu.rt_period_us": "10000", "cpu.rt_runtime_us": "300"} {
		got, err := os.ReadFile(filepath.Join(dir, b.id, file))
		if err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("%s is %q, %v", file, got, err)
		}
	}
	b.fails(1, "cpu.idle", "update", "--cpu-idle", "-1", b.id)
	b.must("delete", "--force", b.id)
}

// groupAbove gives the container a v1 control group within one that is new: the
// directory of that in the hierarchy of cpu.
func (b *box) groupAbove() string {
	b.t.Helper()
	parent := b.id + "-above"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		b.t.Skip("v2 has no such rule (cpu.max)")
	}
	dir := filepath.Join("/sys/fs/cgroup/cpu", parent)
	must(b.t, os.Mkdir(dir, 0o755))
	b.t.Cleanup(func() { // the container's own group is gone by then
		groups, _ := filepath.Glob("/sys/fs/cgroup/*/" + parent)
		for _, g := range groups {
			if err := os.Remove(g); err != nil && !errors.Is(err, os.ErrNotExist) {
				b.t.Error(err)
			}
		}
	})
	b.spec.Linux.CgroupsPath = "/" + parent + "/" + b.id
	return dir
}
