// Command syscalls tries system calls and prints what became of each: a line of
// its name and the name of its error, "ok" or the signal that ended the caller. It
// is static, and is run inside a container to see its filter at work.
//
// Each call is made by a forked child. Its six arguments are all -1, which is no
// descriptor, no address, no flag and no length that a call would act on; those
// whose filter looks at arguments have cases of their own.
package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// last is the highest system call number that is tried; Linux 6.18 ends at 470.
const last = 480

const all = ^uintptr(0)

// attempt is one call.
type attempt struct {
	name string
	nr   uintptr
	args [6]uintptr
}

// notTried end, replace or stop the caller, or work on the whole machine, and
// every profile allows them.
func notTried(nr uintptr) bool {
	switch nr {
	case unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_RT_SIGRETURN, unix.SYS_SYNC:
		return true
	}
	return stops(nr)
}

func attempts() []attempt {
	var list []attempt
	for nr := range uintptr(last + 1) {
		if !notTried(nr) {
			list = append(list, attempt{strconv.Itoa(int(nr)), nr, [6]uintptr{all, all, all, all, all, all}})
		}
	}
	family := func(n uintptr) [6]uintptr { return [6]uintptr{n, unix.SOCK_SEQPACKET, 0x7fff} }
	for _, c := range []struct {
		name   string
		family uintptr
	}{
		{"unix", unix.AF_UNIX}, {"inet", unix.AF_INET}, {"netlink", unix.AF_NETLINK}, {"packet", unix.AF_PACKET},
		{"alg", unix.AF_ALG}, {"vsock", unix.AF_VSOCK}, {"kcm", unix.AF_KCM}, {"xdp", unix.AF_XDP},
	} {
		list = append(list, attempt{"socket " + c.name, unix.SYS_SOCKET, family(c.family)})
	}
	for _, p := range []uintptr{0, 8, 0x20000, 0x20008, 0xffffffff, 0x40000, 0x0400000} {
		list = append(list, attempt{fmt.Sprintf("personality %#x", p), unix.SYS_PERSONALITY, [6]uintptr{p}})
	}
	for _, c := range []struct {
		name string
		flag uintptr
	}{
		{"none", 0}, {"user", unix.CLONE_NEWUSER}, {"mount", unix.CLONE_NEWNS}, {"pid", unix.CLONE_NEWPID},
		{"net", unix.CLONE_NEWNET}, {"ipc", unix.CLONE_NEWIPC}, {"uts", unix.CLONE_NEWUTS}, {"cgroup", unix.CLONE_NEWCGROUP},
	} {
		list = append(list,
			attempt{"clone " + c.name, unix.SYS_CLONE, [6]uintptr{c.flag | uintptr(unix.SIGCHLD)}},
			attempt{"unshare " + c.name, unix.SYS_UNSHARE, [6]uintptr{c.flag}})
	}
	return list
}

func main() {
	runtime.LockOSThread()
	out := bufio.NewWriter(os.Stdout)
	for _, a := range attempts() {
		result, err := try(a)
		if err != nil {
			out.Flush()
			fmt.Fprintf(os.Stderr, "try %s: %v\n", a.name, err)
			os.Exit(1)
		}
		fmt.Fprintf(out, "%s: %s\n", a.name, result)
	}
	if err := out.Flush(); err != nil {
		os.Exit(1)
	}
}

// try makes the call in a child, whose exit status is its error.
func try(a attempt) (string, error) {
	pid, errno := forkAndCall(a.nr, &a.args)
	if errno != 0 {
		return "", fmt.Errorf("fork: %w", errno)
	}
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(int(pid), &status, unix.WALL, nil)
		if err == nil {
			break
		}
		if err != unix.EINTR {
			return "", fmt.Errorf("wait for the child: %w", err)
		}
	}
	switch {
	case status.Signaled():
		return unix.SignalName(status.Signal()), nil
	case status.ExitStatus() == 0:
		return "ok", nil
	}
	return unix.ErrnoName(syscall.Errno(status.ExitStatus())), nil
}

// forkAndCall forks; the child makes the call and exits with its error, if that
// fits: errors end at 133. Nothing in the child may grow the stack, allocate or
// wait for another thread, for it has none.
//
//go:norace
//go:nosplit
func forkAndCall(nr uintptr, args *[6]uintptr) (uintptr, syscall.Errno) {
	pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	_, _, errno = syscall.RawSyscall6(nr, args[0], args[1], args[2], args[3], args[4], args[5])
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, uintptr(errno), 0, 0)
	}
}
