// Package client is the engine's side of a monitor: it starts one, speaks to it
// over its socket, and reads the status that it writes.
package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"vivarium/monitor/wire"
)

// Kind tells what a Message carries.
type Kind byte

const (
	Stdout  Kind = wire.MsgStdout // Data: output
	Stderr  Kind = wire.MsgStderr
	Started Kind = wire.MsgStarted // Pid
	Exited  Kind = wire.MsgExited  // ExitCode; the last message, when the container does not restart
	Failed  Kind = wire.MsgFailed  // the program failed before the command ran: Err (a *StartError)
	Gone    Kind = wire.MsgGone    // after Exited, see WaitGone
)

// Message is one thing that a monitor tells.
type Message struct {
	Kind     Kind
	Data     []byte // valid until the next Recv
	Pid      int
	ExitCode int
	Err      error
}

// StartError says which step of the plan failed. Its exit code is as Docker's:
// 127 when the command was not found, 126 when it cannot be executed, else 125.
type StartError struct {
	Kind  string // the step's kind: "exec", "mount", …
	Step  string // what the step was for
	Phase int    // spawn.Phase
	Op    int    // index of the op in its phase
	Errno syscall.Errno
	Code  int
}

func (e *StartError) Error() string { return e.Step + ": " + e.Errno.Error() }
func (e *StartError) Unwrap() error { return e.Errno }

// Launch is a monitor process that has been started and waits for its Config.
// Starting it early hides its start-up time behind the engine's own work.
type Launch struct {
	pid  int
	conn int
	once sync.Once
}

// Spawn starts the monitor binary (viv-monitor) in a session of
// its own: it outlives the command that started it.
func Spawn(binary string) (*Launch, error) {
	dev, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/null: %w", err)
	}
	defer unix.Close(dev)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make the monitor's socket: %w", err)
	}
	// What a shell left open for us ("9>lock") must not stay open with the container.
	// Ours are all marked so already; before Linux 5.11 it stays.
	_ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	pid, err := syscall.ForkExec(binary, []string{"viv-monitor"}, &syscall.ProcAttr{
		Dir:   "/",
		Env:   []string{"GOMAXPROCS=1", "GOGC=off"}, // see monitor.Main
		Files: []uintptr{uintptr(dev), uintptr(dev), uintptr(dev), uintptr(pair[1])},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	unix.Close(pair[1])
	if err != nil {
		unix.Close(pair[0])
		return nil, fmt.Errorf("start the monitor %s: %w", binary, err)
	}
	return &Launch{pid: pid, conn: pair[0]}, nil
}

// Abort ends a monitor that is not needed after all, and reaps it: it exits when
// its socket closes before a configuration came.
func (l *Launch) Abort() {
	l.once.Do(func() {
		unix.Close(l.conn)
		reap(l.pid)
	})
}

func reap(pid int) {
	for {
		if _, err := unix.Wait4(pid, nil, 0, nil); err != unix.EINTR {
			return
		}
	}
}

// Run sends the configuration, with cfg.Program unless the monitor adopts a
// process. files may hold "netns", a network namespace made for the container,
// "pidfd", of the process whose namespaces an exec session joins, and "ports",
// which the monitor keeps open as long as the container lives; they may be closed when Run has returned. The session that it gives is attached:
// output comes from its first byte. Its first message is Started or Failed.
func (l *Launch) Run(ctx context.Context, cfg *wire.Config, files map[string]*os.File) (*Session, error) {
	if err := ctx.Err(); err != nil {
		l.Abort()
		return nil, err
	}
	var fds []int
	have := 0
	if cfg.Program != nil {
		mem, err := memfd(cfg.Program)
		if err != nil {
			l.Abort()
			return nil, fmt.Errorf("hand the program to the monitor: %w", err)
		}
		defer unix.Close(mem)
		have |= wire.HasProgram
		fds = append(fds, mem)
	}
	if f := files["netns"]; f != nil {
		have |= wire.HasNetNS
		fds = append(fds, int(f.Fd()))
	}
	if f := files["pidfd"]; f != nil {
		have |= wire.HasPidFD
		fds = append(fds, int(f.Fd()))
	}
	if f := files["ports"]; f != nil {
		have |= wire.HasPorts
		fds = append(fds, int(f.Fd()))
	}
	msg := append([]byte{wire.MsgConfig}, cfg.Encode(have)...)
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if err := unix.Sendmsg(l.conn, msg, rights, nil, unix.MSG_NOSIGNAL); err != nil {
		l.Abort()
		return nil, fmt.Errorf("configure the monitor: %w", err)
	}
	s := newSession(l.conn)
	s.child = l.pid
	l.once.Do(func() {}) // the session owns both now
	return s, nil
}

func memfd(b []byte) (int, error) {
	fd, err := unix.MemfdCreate("viv-program", unix.MFD_CLOEXEC)
	if err != nil {
		return -1, err
	}
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if err != nil {
			unix.Close(fd)
			return -1, err
		}
		b = b[n:]
	}
	return fd, nil
}

// Session is a connection to a monitor. Recv is for one goroutine; the sending
// methods are for any.
type Session struct {
	conn  int
	child int // pid of the monitor, when it is our child
	buf   []byte
	send  sync.Mutex
	once  sync.Once
}

func newSession(conn int) *Session {
	return &Session{conn: conn, buf: make([]byte, 1+wire.MaxMessage)}
}

// ErrNoMonitor says that a container has no monitor that could be reached.
var ErrNoMonitor = errors.New("the container has no monitor")

// Attach connects to the monitor of a running container. With output, messages
// carry what the container writes from now on; without, only Exited comes.
func Attach(ctx context.Context, stateDir string, output bool) (*Session, error) {
	dir, err := unix.Open(stateDir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("reach the monitor in %s: %w", stateDir, ErrNoMonitor)
	}
	defer unix.Close(dir)
	conn, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a socket: %w", err)
	}
	name := fmt.Sprintf("/proc/self/fd/%d/monitor.sock", dir)
	if err := unix.Connect(conn, &unix.SockaddrUnix{Name: name}); err != nil {
		unix.Close(conn)
		if err == unix.ENOENT || err == unix.ECONNREFUSED {
			return nil, fmt.Errorf("reach the monitor in %s: %w", stateDir, ErrNoMonitor)
		}
		return nil, fmt.Errorf("reach the monitor in %s: %w", stateDir, err)
	}
	s := newSession(conn)
	flag := byte(0)
	if output {
		flag = 1
	}
	if err := s.write(wire.MsgAttach, []byte{flag}); err != nil {
		s.Close()
		return nil, err
	}
	return s, ctx.Err()
}

// Recv waits for the next message. io.EOF: the monitor is gone.
func (s *Session) Recv() (Message, error) {
	for {
		n, err := unix.Read(s.conn, s.buf)
		switch {
		case err == unix.EINTR || err == unix.ECONNRESET:
			// A reset tells, once, that the monitor ended with a message of ours
			// unread. What it had sent before is there still.
			continue
		case err == nil && n == 0:
			return Message{}, io.EOF
		case err != nil:
			return Message{}, fmt.Errorf("read from the monitor: %w", err)
		}
		return parse(s.buf[:n])
	}
}

func parse(b []byte) (Message, error) {
	m, body := Message{Kind: Kind(b[0])}, b[1:]
	switch {
	case m.Kind == Stdout || m.Kind == Stderr:
		m.Data = body
	case m.Kind == Started && len(body) == 4:
		m.Pid = int(wire.U32(body))
	case m.Kind == Gone && len(body) == 0:
	case m.Kind == Exited && len(body) == 4:
		m.ExitCode = int(wire.U32(body))
	case m.Kind == Failed && len(body) >= 12:
		kind, why, _ := strings.Cut(string(body[12:]), "\x00")
		e := &StartError{Kind: kind, Step: why, Errno: syscall.Errno(wire.U32(body)), Phase: int(wire.U32(body[4:])), Op: int(wire.U32(body[8:]))}
		e.Code = exitCode(e)
		m.Err = e
	default:
		return m, wire.ErrFormat
	}
	return m, nil
}

// exitCode tells a command that is not there (127) or cannot be run (126) from
// other failures (125).
func exitCode(e *StartError) int {
	if e.Kind != "exec" {
		return 125
	}
	switch e.Errno {
	case unix.ENOENT, unix.ENOTDIR:
		return 127
	}
	return 126
}

func (s *Session) write(kind byte, body []byte) error {
	s.send.Lock()
	defer s.send.Unlock()
	msg := append([]byte{kind}, body...)
	for {
		err := unix.Sendto(s.conn, msg, unix.MSG_NOSIGNAL, nil)
		switch err {
		case unix.EINTR:
			continue
		case nil:
			return nil
		case unix.EPIPE, unix.ECONNRESET:
			return io.ErrClosedPipe
		}
		return fmt.Errorf("write to the monitor: %w", err)
	}
}

// WriteStdin gives input to the container.
func (s *Session) WriteStdin(p []byte) error {
	for len(p) > 0 {
		n := min(len(p), wire.MaxMessage)
		if err := s.write(wire.MsgStdin, p[:n]); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// CloseStdin ends the container's input.
func (s *Session) CloseStdin() error { return s.write(wire.MsgStdinEOF, nil) }

// Resize sets the size of the container's terminal.
func (s *Session) Resize(rows, cols uint16) error {
	return s.write(wire.MsgResize, []byte{byte(rows), byte(rows >> 8), byte(cols), byte(cols >> 8)})
}

// SetRestart changes the restart policy: "no" before a stop, so that the end is final.
func (s *Session) SetRestart(policy string, max int) error {
	return s.write(wire.MsgRestart, wire.PutU32(append([]byte(policy), 0), uint32(max)))
}

// TakeCleanup says that this client will clean up after the container's end; if
// it goes away before, the monitor's own Cleanup runs after all.
func (s *Session) TakeCleanup() error { return s.write(wire.MsgCleanup, nil) }

// WaitGone waits, after Exited, until nothing of the run is left that is the
// monitor's to remove: groups, lock, open files. It does so for a client that has
// called TakeCleanup, of a container that is removed with its end. The monitor
// itself may end a moment later: taking down the container's mounts takes the
// kernel a while, and nobody has to wait for that.
func (s *Session) WaitGone() {
	for {
		m, err := s.Recv()
		if err != nil || m.Kind == Gone {
			break
		}
	}
	if child := s.child; child > 0 {
		s.child = 0
		go reap(child) // a program that lives on would keep a zombie
	}
}

// Close leaves; the container runs on. A Recv that waits in another goroutine ends.
func (s *Session) Close() error {
	var err error
	s.once.Do(func() {
		unix.Shutdown(s.conn, unix.SHUT_RDWR) // closing alone wakes nobody
		err = unix.Close(s.conn)
	})
	return err
}

// WaitMonitor waits until a monitor that this process started has ended, after
// Exited or Failed: its lock is free then. It does nothing for another's.
func (s *Session) WaitMonitor() {
	if s.child > 0 {
		reap(s.child)
		s.child = 0
	}
}

// Adopt starts a monitor for a container whose own has died: cfg names the
// process (AdoptPid, AdoptTicks, AdoptStarted), and has the program for restarts.
func Adopt(ctx context.Context, binary string, cfg *wire.Config) error {
	l, err := Spawn(binary)
	if err != nil {
		return err
	}
	s, err := l.Run(ctx, cfg, nil)
	if err != nil {
		return err
	}
	defer s.Close()
	m, err := s.Recv()
	if err == nil && m.Kind == Failed {
		err = m.Err
	}
	if err != nil {
		s.WaitMonitor()
		return fmt.Errorf("adopt the container %s: %w", cfg.ID, err)
	}
	go s.WaitMonitor() // nobody else will: a program that lives on would keep a zombie
	return nil
}
