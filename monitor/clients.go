package monitor

import (
	"syscall"

	"vivarium/monitor/wire"
)

// maxClients bounds who may be connected at once; a further one is refused.
const maxClients = 32

type client struct {
	fd      int
	output  bool // wants what the container writes
	stdin   bool // has sent input, or started the container: StdinOnce looks at it
	cleanup bool // has promised to clean up
	owes    bool // has not taken the last output yet
}

var inBuf [1 + wire.MaxMessage]byte

// listenOn makes the socket through which others find the monitor. The path is
// taken through a descriptor: it may be longer than the 107 bytes that fit into
// a socket address (unix(7)).
func (m *monitor) listenOn(dir string) {
	dfd, err := syscall.Open(dir, syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer syscall.Close(dfd)
	syscall.Unlink(dir + "/monitor.sock")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return
	}
	old := syscall.Umask(0o177)
	err = syscall.Bind(fd, &syscall.SockaddrUnix{Name: "/proc/self/fd/" + itoa(dfd) + "/monitor.sock"})
	syscall.Umask(old)
	if err == nil {
		err = syscall.Listen(fd, 64)
	}
	if err != nil {
		syscall.Close(fd)
		return
	}
	m.listen = fd
	m.watchFD(fd, syscall.EPOLLIN)
}

func (m *monitor) accept() {
	fd, _, err := syscall.Accept4(m.listen, syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK)
	if err != nil {
		return
	}
	for i := range m.clients {
		if m.clients[i].fd < 0 {
			m.clients[i] = client{fd: fd}
			m.watchFD(fd, syscall.EPOLLIN)
			return
		}
	}
	syscall.Close(fd)
}

// broadcast sends output to those who want it. Who cannot take it now owes it,
// and nothing more is read from the container until everybody has.
func (m *monitor) broadcast(msg []byte) {
	for i := range m.clients {
		c := &m.clients[i]
		if c.fd < 0 || !c.output {
			continue
		}
		switch c.send(msg) {
		case 0:
		case syscall.EAGAIN:
			c.owes = true
			m.owing++
			m.watchFD(c.fd, syscall.EPOLLIN|syscall.EPOLLOUT)
		default:
			m.drop(c)
		}
	}
	m.lastLen = len(msg)
	if m.owing > 0 {
		m.pauseStreams(true)
	}
}

// resend gives a client what it owes.
func (m *monitor) resend(c *client) {
	if !c.owes {
		return
	}
	switch c.send(outBuf[:m.lastLen]) {
	case 0:
		c.owes = false
		m.owing--
		m.watchFD(c.fd, syscall.EPOLLIN)
	case syscall.EAGAIN:
		return
	default:
		m.drop(c)
	}
	if m.owing == 0 {
		m.pauseStreams(false)
	}
}

func (c *client) send(msg []byte) syscall.Errno {
	for {
		_, err := sendto(c.fd, msg)
		if err != syscall.EINTR {
			return err
		}
	}
}

// sendBlocking waits, for a second at the most, until the client can take it.
func (c *client) sendBlocking(msg []byte) {
	if c.send(msg) == syscall.EAGAIN && pollOut(c.fd, 1000) {
		c.send(msg)
	}
}

// drop forgets a client. A promise to clean up goes with it.
func (m *monitor) drop(c *client) {
	if c.owes {
		m.owing--
		if m.owing == 0 {
			m.pauseStreams(false)
		}
	}
	if c.cleanup {
		m.cleaning = false
	}
	stdin := c.stdin
	// Closing would be enough if nobody else had the socket, and who started us
	// may be traced.
	syscall.EpollCtl(m.epoll, syscall.EPOLL_CTL_DEL, c.fd, nil)
	syscall.Close(c.fd)
	*c = client{fd: -1}
	if stdin && m.cfg.StdinOnce {
		m.endStdin()
	}
}

// receive handles one message of a client; false when there is none now.
func (m *monitor) receive(c *client) bool {
	n, err := syscall.Read(c.fd, inBuf[:])
	if err == syscall.EAGAIN || err == syscall.EINTR {
		return false
	}
	if err != nil || n <= 0 {
		m.drop(c)
		return false
	}
	body := inBuf[1:n]
	switch inBuf[0] {
	case wire.MsgStdin:
		c.stdin = true
		m.writeStdin(body)
		return len(m.stdinPending) == 0
	case wire.MsgStdinEOF:
		c.stdin = false
		m.endStdin()
	case wire.MsgResize:
		if len(body) == 4 && m.cfg.TTY && m.streams[0].fd >= 0 {
			resize(m.streams[0].fd, uint16(body[0])|uint16(body[1])<<8, uint16(body[2])|uint16(body[3])<<8)
		}
	case wire.MsgRestart:
		m.policy.change(body)
	case wire.MsgCleanup:
		c.cleanup, m.cleaning = true, true
	case wire.MsgAttach:
		c.output = len(body) == 1 && body[0] == 1
	default:
		m.drop(c)
		return false
	}
	return true
}
