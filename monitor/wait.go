package monitor

import "syscall"

// Wait is what waits between two health checks of a container: a process that does
// nothing until a time has passed or the container's process has ended, and then
// becomes the command that looks. It is part of viv-monitor, under the name
// viv-wait, because a monitor knows how to wait in the least memory.
//
// args are the name, the number of a descriptor that becomes readable when the wait
// is over early (a pidfd; "-" for none), the milliseconds to wait, and a command,
// absolute path first. Other descriptors are passed on. Wait never returns: the
// process exits with 2 if args make no sense, with 1 if it cannot wait or the command
// cannot be executed.
func Wait(args []string) {
	if len(args) < 4 {
		syscall.Exit(2)
	}
	fd, early := number(args[1])
	ms, ok := number(args[2])
	if !ok || !early && args[1] != "-" {
		syscall.Exit(2)
	}
	epoll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		syscall.Exit(1)
	}
	timer := newTimer(ms)
	if timer < 0 {
		syscall.Exit(1)
	}
	m := monitor{epoll: epoll}
	m.watchFD(timer, syscall.EPOLLIN)
	if early {
		m.watchFD(fd, syscall.EPOLLIN)
	}
	prepareIdle(epoll)
	for {
		if _, e := waitIdle(epoll); e != syscall.EINTR {
			break
		}
	}
	if early {
		syscall.Close(fd)
	}
	_ = syscall.Exec(args[3], args[3:], syscall.Environ())
	syscall.Exit(1)
}

// number reads a number of at most twelve digits.
func number(s string) (int, bool) {
	n := 0
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' || i == 12 {
			return 0, false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n, len(s) > 0
}
