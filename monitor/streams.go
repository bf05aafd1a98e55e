package monitor

import (
	"syscall"

	"vivarium/monitor/wire"
	"vivarium/sandbox/spawn"
)

// stream is an output of the container: a FIFO, a pipe, or a terminal's master.
type stream struct {
	fd   int
	kind byte // wire.MsgStdout or wire.MsgStderr
	log  int  // 1 or 2
}

// outBuf holds one message to clients: its kind, then output. It is read into
// only while no client owes it.
var outBuf [1 + wire.MaxMessage]byte

// openStreams makes the container's standard descriptors: o gets its ends.
func (m *monitor) openStreams(o *spawn.Options) (err error) {
	m.streams = [2]stream{{fd: -1}, {fd: -1}}
	if o.Stdin, err = m.openStdin(); err != nil {
		return err
	}
	names := [2]string{"stdout", "stderr"}
	ends := [2]*int{&o.Stdout, &o.Stderr}
	for i := range names {
		var read, write int
		if m.cfg.Exec {
			read, write, err = pipe()
		} else {
			read, write, err = fifo(m.cfg.StateDir + "/" + names[i])
		}
		if err != nil {
			closeAll(o.Stdin, o.Stdout, o.Stderr)
			m.closeStreams()
			return err
		}
		m.streams[i] = stream{fd: read, kind: "oe"[i], log: i + 1}
		*ends[i] = write
	}
	return nil
}

func (m *monitor) openStdin() (int, error) {
	if !m.cfg.OpenStdin {
		return syscall.Open("/dev/null", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	}
	read, write, err := pipe()
	if err != nil {
		return -1, err
	}
	// Our end must not block; the process's end is another description.
	m.stdin = write
	syscall.SetNonblock(read, false)
	return read, syscall.SetNonblock(write, true)
}

func pipe() (read, write int, err error) {
	var p [2]int
	if err := syscall.Pipe2(p[:], syscall.O_CLOEXEC); err != nil {
		return -1, -1, err
	}
	return p[0], p[1], syscall.SetNonblock(p[0], true)
}

// fifo makes a named pipe. The container's end is open for reading too, so that
// it lives, and keeps what is in it, while one monitor is replaced by another.
func fifo(path string) (read, write int, err error) {
	if err := syscall.Mkfifo(path, 0o600); err != nil && err != syscall.EEXIST {
		return -1, -1, err
	}
	read, err = syscall.Open(path, syscall.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return -1, -1, err
	}
	write, err = syscall.Open(path, syscall.O_RDWR|syscall.O_CLOEXEC|syscall.O_NOFOLLOW, 0)
	if err != nil {
		syscall.Close(read)
		return -1, -1, err
	}
	return read, write, nil
}

// openTerminal takes the master of the container's terminal: output and input.
func (m *monitor) openTerminal(master int) {
	syscall.SetNonblock(master, true)
	m.streams = [2]stream{{fd: master, kind: wire.MsgStdout, log: 1}, {fd: -1}}
	m.stdin = master
	if m.cfg.Rows|m.cfg.Cols != 0 {
		resize(master, m.cfg.Rows, m.cfg.Cols)
	}
}

func (m *monitor) closeStreams() {
	if m.stdin >= 0 && m.stdin != m.streams[0].fd {
		syscall.Close(m.stdin)
	}
	m.stdin = -1
	m.stdinPending, m.stdinClose = nil, false
	for i := range m.streams {
		closeAll(m.streams[i].fd)
		m.streams[i].fd = -1
	}
}

// readStream passes on one piece of output; false when there is no more now.
func (m *monitor) readStream(s *stream) bool {
	n, err := syscall.Read(s.fd, outBuf[1:])
	if err == syscall.EINTR {
		return true
	}
	if err == syscall.EAGAIN {
		return false
	}
	if n <= 0 || err != nil { // end of file; EIO of a terminal that nobody has open
		if s.fd == m.stdin {
			m.stdin = -1
		}
		syscall.Close(s.fd)
		s.fd = -1
		return false
	}
	if m.log != nil {
		m.log.Write(s.log, outBuf[1:1+n], now())
	}
	outBuf[0] = s.kind
	m.broadcast(outBuf[:1+n])
	return m.owing == 0
}

// drain takes what the ended process left in its pipes. Nothing is read before
// everybody has what was read last: there is only one buffer.
func (m *monitor) drain() {
	m.waitAllOwing()
	for i := range m.streams {
		s := &m.streams[i]
		for s.fd >= 0 {
			more := m.readStream(s)
			if m.owing == 0 && !more {
				break
			}
			m.waitAllOwing()
		}
	}
	if m.log != nil {
		m.log.Flush(now())
	}
}

func (m *monitor) waitAllOwing() {
	for m.owing > 0 {
		m.waitOwing()
	}
}

// writeStdin gives input to the process; what it does not take now is kept, and
// its client is not read from meanwhile.
func (m *monitor) writeStdin(p []byte) {
	if m.stdin < 0 || m.stdinClose {
		return
	}
	n := 0
	if len(m.stdinPending) == 0 {
		n = m.tryWrite(p)
	}
	if n < len(p) && m.stdin >= 0 {
		m.stdinPending = append(m.stdinPending, p[n:]...)
		m.watchStdin(true)
	}
}

func (m *monitor) tryWrite(p []byte) int {
	n := 0
	for n < len(p) {
		k, err := syscall.Write(m.stdin, p[n:])
		if err == syscall.EINTR {
			continue
		}
		if err == syscall.EAGAIN {
			return n
		}
		if err != nil { // EPIPE: the process has closed it
			m.closeStdin()
			return len(p)
		}
		n += k
	}
	return n
}

// flushStdin goes on when the process can take more.
func (m *monitor) flushStdin() {
	n := m.tryWrite(m.stdinPending)
	m.stdinPending = m.stdinPending[min(n, len(m.stdinPending)):]
	if len(m.stdinPending) > 0 {
		return
	}
	m.stdinPending = nil
	m.watchStdin(false)
	if m.stdinClose {
		m.closeStdin()
	}
}

// endStdin closes standard input after what is pending. A terminal stays.
func (m *monitor) endStdin() {
	switch {
	case m.cfg.TTY || m.stdin < 0:
	case len(m.stdinPending) > 0:
		m.stdinClose = true
	default:
		m.closeStdin()
	}
}

func (m *monitor) closeStdin() {
	if m.stdin >= 0 && m.stdin != m.streams[0].fd {
		syscall.Close(m.stdin)
	}
	m.stdin = -1
	m.stdinPending = nil
}
