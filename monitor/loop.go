package monitor

import (
	"syscall"

	"vivarium/monitor/wire"
)

func (m *monitor) watchFD(fd int, events uint32) {
	ev := syscall.EpollEvent{Events: events, Fd: int32(fd)}
	if syscall.EpollCtl(m.epoll, syscall.EPOLL_CTL_MOD, fd, &ev) == syscall.ENOENT {
		syscall.EpollCtl(m.epoll, syscall.EPOLL_CTL_ADD, fd, &ev)
	}
}

// pauseStreams stops or resumes reading from the container. A paused stream is
// taken out: epoll tells of a hang-up even where no event is asked for.
func (m *monitor) pauseStreams(pause bool) {
	for i := range m.streams {
		fd := m.streams[i].fd
		if fd < 0 {
			continue
		}
		if pause {
			syscall.EpollCtl(m.epoll, syscall.EPOLL_CTL_DEL, fd, nil)
		} else {
			m.watchFD(fd, m.streamEvents(fd))
		}
	}
}

func (m *monitor) streamEvents(fd int) uint32 {
	if fd == m.stdin && len(m.stdinPending) > 0 {
		return syscall.EPOLLIN | syscall.EPOLLOUT
	}
	return syscall.EPOLLIN
}

// watchStdin waits for the process to take pending input, and leaves clients
// unread meanwhile, or the reverse.
func (m *monitor) watchStdin(on bool) {
	if m.stdin == m.streams[0].fd {
		if m.owing == 0 {
			m.watchFD(m.stdin, m.streamEvents(m.stdin))
		}
	} else if on {
		m.watchFD(m.stdin, syscall.EPOLLOUT)
	} else {
		syscall.EpollCtl(m.epoll, syscall.EPOLL_CTL_DEL, m.stdin, nil)
	}
	for i := range m.clients {
		c := &m.clients[i]
		if c.fd < 0 {
			continue
		}
		var events uint32
		if !on {
			events = syscall.EPOLLIN
		}
		if c.owes {
			events |= syscall.EPOLLOUT
		}
		m.watchFD(c.fd, events)
	}
}

// watch serves until the process has ended, and takes its status.
func (m *monitor) watch() {
	m.watchFD(m.proc.PidFD, syscall.EPOLLIN)
	for i := range m.streams {
		if m.streams[i].fd >= 0 {
			m.watchFD(m.streams[i].fd, syscall.EPOLLIN)
		}
	}
	for !m.step(-1) {
	}
	// Who attached before the end is to have the last output: a step takes the
	// connection, the next its request.
	m.step(0)
	m.step(0)
	m.drain()
	m.ended()
}

// step waits for events, at most timeout milliseconds (below 0: for ever), and
// handles them; true when the process has ended.
func (m *monitor) step(timeout int) bool {
	var n int
	var err syscall.Errno
	if timeout < 0 {
		n, err = waitIdle(m.epoll)
	} else {
		n, err = epollWait(m.epoll, events[:], timeout)
	}
	if err != 0 {
		return false
	}
	ended := false
	for _, ev := range events[:max(n, 0)] {
		fd := int(ev.Fd)
		switch {
		case m.proc != nil && fd == m.proc.PidFD:
			ended = true
		case fd == m.listen:
			m.accept()
		default:
			m.event(fd, ev.Events)
		}
	}
	return ended
}

func (m *monitor) event(fd int, events uint32) {
	for i := range m.streams {
		s := &m.streams[i]
		if s.fd != fd {
			continue
		}
		if events&syscall.EPOLLOUT != 0 && fd == m.stdin {
			m.flushStdin()
		}
		if events&^syscall.EPOLLOUT != 0 && m.owing == 0 {
			m.readStream(s)
		}
		return
	}
	if fd == m.stdin {
		if events&syscall.EPOLLERR != 0 {
			m.closeStdin()
			m.watchStdinGone()
			return
		}
		m.flushStdin()
		return
	}
	for i := range m.clients {
		c := &m.clients[i]
		if c.fd != fd {
			continue
		}
		if events&syscall.EPOLLOUT != 0 {
			m.resend(c)
		}
		switch {
		case c.fd != fd:
		case events&syscall.EPOLLIN != 0:
			m.receive(c)
		case events&(syscall.EPOLLHUP|syscall.EPOLLERR) != 0:
			m.drop(c)
		}
		return
	}
}

// watchStdinGone lets clients speak again after the process closed its input.
func (m *monitor) watchStdinGone() {
	for i := range m.clients {
		if c := &m.clients[i]; c.fd >= 0 && !c.owes {
			m.watchFD(c.fd, syscall.EPOLLIN)
		}
	}
}

// waitOwing waits until some client has taken the last output; one that does
// not for ten seconds after the container's end is dropped.
func (m *monitor) waitOwing() {
	before := m.owing
	for range 10 {
		for i := range m.clients {
			if c := &m.clients[i]; c.owes && pollOut(c.fd, 1000) {
				m.resend(c)
			}
		}
		if m.owing < before {
			return
		}
	}
	for i := range m.clients {
		if c := &m.clients[i]; c.owes {
			m.drop(c)
		}
	}
}

// ended takes the exit status of the process that has ended.
func (m *monitor) ended() {
	m.status.ExitCode = m.exitCode()
	m.status.FinishedAt = now()
	m.status.Pid, m.status.State = 0, wire.Exited
	m.status.OOMKilled = m.cfg.MemoryEvents != "" && oomKilled(m.cfg.MemoryEvents)
	syscall.EpollCtl(m.epoll, syscall.EPOLL_CTL_DEL, m.proc.PidFD, nil)
	m.proc.Close()
	m.proc = nil
	m.closeStreams()
}
