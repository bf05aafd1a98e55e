package main_test

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"vivarium/sandbox/seccomp"
)

// agent answers for system calls, as runtime-spec, config-linux.md "Seccomp"
// says: it gets a listener with each process, lets calls go on, and fails mkdir
// with ENOMEDIUM.
type agent struct {
	t      *testing.T
	path   string
	l      *net.UnixListener
	mu     sync.Mutex
	states []specs.ContainerProcessState
	done   sync.WaitGroup
}

func newAgent(t *testing.T) *agent {
	t.Helper()
	dir, err := os.MkdirTemp("", "viv")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	a := &agent{t: t, path: dir + "/agent"}
	a.l, err = net.ListenUnix("unix", &net.UnixAddr{Name: a.path})
	must(t, err)
	a.done.Add(1)
	go a.accept()
	return a
}

// close ends the agent; it waits for the end of all who have a filter of its.
func (a *agent) close() {
	a.l.Close()
	a.done.Wait()
}

func (a *agent) accept() {
	defer a.done.Done()
	for {
		c, err := a.l.AcceptUnix()
		if err != nil {
			return
		}
		a.done.Add(1)
		go a.serve(c)
	}
}

func (a *agent) serve(c *net.UnixConn) {
	defer a.done.Done()
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	data, oob := make([]byte, 64<<10), make([]byte, 128)
	n, oobn, _, _, err := c.ReadMsgUnix(data, oob)
	if err != nil {
		a.t.Error(err)
		return
	}
	var s specs.ContainerProcessState
	if err := json.Unmarshal(data[:n], &s); err != nil {
		a.t.Errorf("the agent got %q: %v", data[:n], err)
	}
	a.mu.Lock()
	a.states = append(a.states, s)
	a.mu.Unlock()
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(msgs) != 1 {
		a.t.Errorf("%d messages with descriptors: %v", len(msgs), err)
		return
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		a.t.Errorf("descriptors %v: %v", fds, err)
		return
	}
	defer unix.Close(fds[0])
	a.notifications(fds[0])
}

// notifications answers until nobody has the filter any more.
func (a *agent) notifications(fd int) {
	const recv, send, goOn = 0xc0502100, 0xc0182101, 1 // linux/seccomp.h
	for {
		set := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(set, 60000); err == unix.EINTR {
			continue
		}
		if set[0].Revents&unix.POLLIN == 0 {
			return
		}
		var req [80]byte // struct seccomp_notif: id, pid, flags, data
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), recv, uintptr(unsafe.Pointer(&req))); e != 0 {
			continue
		}
		var resp struct {
			id, val uint64
			err     int32
			flags   uint32
		}
		resp.id = *(*uint64)(unsafe.Pointer(&req[0]))
		if slices.Contains(mkdirCalls(), *(*uint32)(unsafe.Pointer(&req[16]))) {
			resp.err = -int32(unix.ENOMEDIUM)
		} else {
			resp.flags = goOn
		}
		unix.Syscall(unix.SYS_IOCTL, uintptr(fd), send, uintptr(unsafe.Pointer(&resp)))
	}
}

// mkdirCalls are the calls that make directories here; not every architecture has mkdir.
func mkdirCalls() (list []uint32) {
	for _, name := range []string{"mkdir", "mkdirat"} {
		if nr, ok := seccomp.Number(seccomp.Native(), name); ok {
			list = append(list, nr)
		}
	}
	return list
}

// TestNotify: the listener of a filter comes to the agent, whatever calls it stops.
func TestNotify(t *testing.T) {
	script := "/bin/busybox mkdir /tmp/x 2>&1; [ ! -e /tmp/x ]"
	const want = "mkdir: can't create directory '/tmp/x': No medium found\n"
	for _, nnp := range []bool{false, true} {
		b := newBox(t, sh(script)...)
		a := newAgent(t)
		b.spec.Process.NoNewPrivileges = nnp
		b.spec.Annotations = map[string]string{"a": "b"}
		b.spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: a.path, ListenerMetadata: "meta",
			Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat", "execve", "openat", "open", "read", "close"}, Action: specs.ActNotify}}}
		b.save()
		if got := b.must("run", "-b", b.bundle, b.id); got != want {
			t.Errorf("run: %q", got)
		}
		b.spec.Process.Args = []string{"sleep", "1000"}
		b.save()
		pid := b.detached()
		if got := b.must(append([]string{"exec", b.id}, sh(script)...)...); got != want {
			t.Errorf("exec: %q", got)
		}
		b.must("delete", "--force", b.id)
		a.close()
		if len(a.states) != 3 {
			t.Fatalf("%d states came", len(a.states))
		}
		for i, status := range []specs.ContainerState{specs.StateCreating, specs.StateCreating, specs.StateRunning} {
			s := a.states[i]
			if s.State.Status != status || s.State.ID != b.id || s.State.Bundle != b.bundle || s.State.Annotations["a"] != "b" ||
				s.Metadata != "meta" || len(s.Fds) != 1 || s.Fds[0] != "seccompFd" || s.Pid == 0 || s.State.Pid == 0 || s.Version == "" {
				t.Errorf("state %d: %+v", i, s)
			}
		}
		if a.states[1].Pid != pid || a.states[2].Pid == pid || a.states[2].State.Pid != pid {
			t.Errorf("process %d of states %+v", pid, a.states)
		}
	}
}

// TestNotifyHook: a hook in the container has the filter, and no descriptor more.
func TestNotifyHook(t *testing.T) {
	b := newBox(t, "true")
	a := newAgent(t)
	b.spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: a.path,
		Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActNotify}}}
	b.spec.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/bin/sh", Env: []string{"PATH=/bin"}, Args: []string{"sh", "-c", "[ $(ls /proc/self/fd | /bin/busybox wc -l) -eq 4 ]"}}}}
	b.save()
	b.must("run", "-b", b.bundle, b.id)
	a.close()
}

func TestNotifyRefused(t *testing.T) {
	b := newBox(t, "true")
	seccomp := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: b.bundle + "/none",
		Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir"}, Action: specs.ActNotify}}}
	b.spec.Linux.Seccomp = seccomp
	b.save()
	b.fails(1, "failed to connect with seccomp agent", "run", "-b", b.bundle, b.id)
	b.nothingLeft()
	seccomp.ListenerPath = ""
	b.save()
	b.fails(1, "listenerPath", "run", "-b", b.bundle, b.id)
	seccomp.ListenerPath = b.bundle + "/none"
	seccomp.Syscalls[0].Names = []string{"write"}
	b.save()
	b.fails(1, "SCMP_ACT_NOTIFY cannot be used for the write syscall", "run", "-b", b.bundle, b.id)
	// Without SCMP_ACT_NOTIFY nobody has to listen.
	seccomp.Syscalls = nil
	b.save()
	b.must("run", "-b", b.bundle, b.id)
}

// TestRootlessNotify: who is not root can take the listener of his container's process.
func TestRootlessNotify(t *testing.T) {
	b := newRootlessBox(t, sh("/bin/busybox mkdir /tmp/x 2>&1; id -u")...)
	a := newAgent(t)
	must(t, os.Chmod(filepath.Dir(a.path), 0o711))
	must(t, os.Chmod(a.path, 0o777))
	for _, nnp := range []bool{false, true} {
		b.spec.Process.NoNewPrivileges = nnp
		b.spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: a.path,
			Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActNotify}}}
		b.save()
		if got, want := b.must("run", "-b", b.bundle, b.id), "mkdir: can't create directory '/tmp/x': No medium found\n0\n"; got != want {
			t.Errorf("with noNewPrivileges %v: %q", nnp, got)
		}
	}
	a.close()
}
