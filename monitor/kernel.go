package monitor

import (
	"syscall"
	"unsafe"

	"vivarium/sandbox/spawn"
)

// What the monitor asks the kernel that package syscall has no name for.

func now() int64 {
	var tv syscall.Timespec
	syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, 0, uintptr(unsafe.Pointer(&tv)), 0)
	return tv.Sec*1e9 + tv.Nsec
}

func sendto(fd int, p []byte) (int, syscall.Errno) {
	n, _, e := syscall.RawSyscall6(syscall.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), syscall.MSG_NOSIGNAL|syscall.MSG_DONTWAIT, 0, 0)
	return int(n), e
}

func recvmsg(fd int, p, oob []byte) (n, oobn, flags int, from syscall.Sockaddr, err error) {
	for {
		n, oobn, flags, from, err = syscall.Recvmsg(fd, p, oob, syscall.MSG_CMSG_CLOEXEC)
		if err != syscall.EINTR {
			return
		}
	}
}

// rights gives the descriptors of an SCM_RIGHTS message.
func rights(oob []byte) (fds []int) {
	if len(oob) < syscall.CmsgLen(0) {
		return nil
	}
	h := (*syscall.Cmsghdr)(unsafe.Pointer(&oob[0]))
	if h.Level != syscall.SOL_SOCKET || h.Type != syscall.SCM_RIGHTS || int(h.Len) > len(oob) {
		return nil
	}
	for at := syscall.CmsgLen(0); at+4 <= int(h.Len); at += 4 {
		fds = append(fds, int(*(*int32)(unsafe.Pointer(&oob[at]))))
	}
	return fds
}

// epollWait keeps the thread in the kernel without telling the scheduler: there
// is nothing else to run, and no other thread has to be made for it.
func epollWait(epfd int, events []syscall.EpollEvent, timeout int) (int, syscall.Errno) {
	n, _, e := syscall.RawSyscall6(syscall.SYS_EPOLL_PWAIT, uintptr(epfd), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), uintptr(timeout), 0, 0)
	return int(n), e
}

type pollFd struct {
	fd              int32
	events, revents int16
}

func pollOut(fd, timeout int) bool {
	p := pollFd{fd: int32(fd), events: 4}
	ts := syscall.NsecToTimespec(int64(timeout) * 1e6)
	n, _, _ := syscall.RawSyscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1, uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
	return int(n) == 1
}

func resize(fd int, rows, cols uint16) {
	size := [4]uint16{rows, cols}
	syscall.RawSyscall(syscall.SYS_IOCTL, uintptr(fd), syscall.TIOCSWINSZ, uintptr(unsafe.Pointer(&size)))
}

func closeAll(fds ...int) {
	for _, fd := range fds {
		if fd >= 0 {
			syscall.Close(fd)
		}
	}
}

func errno(err error) syscall.Errno {
	switch e := err.(type) {
	case syscall.Errno:
		return e
	case *spawn.Error:
		return e.Errno
	}
	return syscall.EIO
}

func put32(b []byte, v uint32) {
	b[0], b[1], b[2], b[3] = byte(v), byte(v>>8), byte(v>>16), byte(v>>24)
}

func itoa(n int) string {
	var b [20]byte
	i := len(b)
	for n > 0 || i == len(b) {
		i--
		b[i] = byte('0' + n%10)
		n /= 10
	}
	return string(b[i:])
}

// newTimer makes a descriptor that can be read when ms milliseconds have passed
// (timerfd_create(2)); -1 if that cannot be.
func newTimer(ms int) int {
	const monotonic, cloexec = 1, 0o2000000
	fd, _, e := syscall.RawSyscall(syscall.SYS_TIMERFD_CREATE, monotonic, cloexec, 0)
	if e != 0 {
		return -1
	}
	spec := [2]syscall.Timespec{1: syscall.NsecToTimespec(int64(max(ms, 1)) * 1e6)} // interval, first
	if _, _, e := syscall.RawSyscall6(syscall.SYS_TIMERFD_SETTIME, fd, 0, uintptr(unsafe.Pointer(&spec)), 0, 0, 0); e != 0 {
		return -1
	}
	return int(fd)
}
