package main

import (
	"fmt"
	"os"
	"os/signal"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"vivarium/sandbox"
)

// foreground stands between a process in a container and the terminal from
// which it was started, until it ends.
type foreground struct {
	signals chan os.Signal
	saved   *unix.Termios // of standard input, while it is raw
	stop    [2]int        // closing stop[1] lets the copy of the output end
	copied  chan struct{}
	ready   chan struct{} // closed when nobody waits for the command to be ready
	warn    func(string)
}

// usual are the signals that people and engines send.
var usual = [...]os.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH}

func newForeground(warn func(string)) *foreground {
	return &foreground{signals: make(chan os.Signal, 64), stop: [2]int{-1, -1}, warn: warn}
}

// listen begins to take signals. Before it, they end this command, and with it
// the process that has not begun to run.
func (f *foreground) listen() { signal.Notify(f.signals, usual[:]...) }

// rest takes the signals that remain: each costs two switches of threads, which
// a container that lives only for milliseconds is not to pay for.
func (f *foreground) rest() { signal.Notify(f.signals) }

func (f *foreground) close() {
	if f.saved != nil {
		unix.IoctlSetTermios(0, unix.TCSETS, f.saved)
	}
	for _, fd := range f.stop {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// wait passes signals and the terminal on until the process ends, and gives its
// exit code: 128 and the signal's number when it was killed.
func (f *foreground) wait(p *sandbox.Process) (int, error) {
	if p.Master >= 0 {
		if err := f.connect(p.Master); err != nil {
			return 0, err
		}
	}
	go f.passAll(p)
	f.passReady(p)
	defer func() { <-f.ready }()
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(p.Pid, &status, 0, nil)
		if err == unix.EINTR {
			continue
		}
		f.drain()
		if err != nil {
			return 0, fmt.Errorf("wait for process %d: %w", p.Pid, err)
		}
		if status.Signaled() {
			return 128 + int(status.Signal()), nil
		}
		return status.ExitStatus(), nil
	}
}

// passReady tells the one who wants to know when the command is ready. Before the
// process is waited for: what it said before its end is passed on.
func (f *foreground) passReady(p *sandbox.Process) {
	f.ready = make(chan struct{})
	if p.Notify == nil {
		close(f.ready)
		return
	}
	go func() {
		defer close(f.ready)
		if err := p.Notify.Pass(p.Pid, p.PidFD); err != nil {
			f.warn(err.Error())
		}
	}()
}

func (f *foreground) passAll(p *sandbox.Process) {
	// What was changed before the signals came to us has to be told, too.
	f.resize(p.Master)
	later := time.After(50 * time.Millisecond)
	for {
		select {
		case s := <-f.signals:
			f.pass(s, p)
		case <-later:
			f.rest()
		}
	}
}

func (f *foreground) pass(s os.Signal, p *sandbox.Process) {
	switch s {
	case unix.SIGCHLD, unix.SIGPIPE, unix.SIGURG: // our own; the last is the Go runtime's
	case unix.SIGWINCH:
		f.resize(p.Master)
	default:
		unix.PidfdSendSignal(p.PidFD, s.(unix.Signal), nil, 0) // ended: nothing to tell
	}
}

// ownSize is the size of the terminal from which we were called, or nil.
func ownSize() *specs.Box {
	size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
	if err != nil {
		return nil
	}
	return &specs.Box{Height: uint(size.Row), Width: uint(size.Col)}
}

func (f *foreground) resize(master int) {
	if master < 0 {
		return
	}
	if size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ); err == nil {
		unix.IoctlSetWinsize(master, unix.TIOCSWINSZ, size)
	}
}

// connect makes our terminal raw, and copies between it and the container's.
func (f *foreground) connect(master int) error {
	if t, err := unix.IoctlGetTermios(0, unix.TCGETS); err == nil {
		saved := *t
		// cfmakeraw(3), but for OPOST: the container's terminal writes plain newlines.
		t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
		t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
		t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
		if err := unix.IoctlSetTermios(0, unix.TCSETS, t); err != nil {
			return fmt.Errorf("make the terminal raw: %w", err)
		}
		f.saved = &saved
		f.resize(master)
	}
	if err := unix.Pipe2(f.stop[:], unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("make a pipe: %w", err)
	}
	go copyAll(0, master)
	f.copied = make(chan struct{})
	go func() {
		f.copyOutput(master)
		close(f.copied)
	}()
	return nil
}

// copyAll copies until the end or an error.
func copyAll(from, to int) {
	buf := make([]byte, 32<<10)
	for {
		n, err := unix.Read(from, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 || !writeAll(to, buf[:n]) {
			return
		}
	}
}

func writeAll(fd int, b []byte) bool {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if err == unix.EINTR || err == unix.EAGAIN {
			continue
		}
		if err != nil {
			return false
		}
		b = b[n:]
	}
	return true
}

// copyOutput copies what the container writes, until its terminal is closed, or
// the process has ended and nothing more is there: another one in the container
// may hold the terminal open.
func (f *foreground) copyOutput(master int) {
	buf := make([]byte, 32<<10)
	ended := false
	for {
		set := []unix.PollFd{{Fd: int32(master), Events: unix.POLLIN}, {Fd: int32(f.stop[0])}}
		timeout := -1
		if ended {
			set, timeout = set[:1], 0
		}
		n, err := unix.Poll(set, timeout)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return
		}
		if set[0].Revents != 0 {
			n, err := unix.Read(master, buf)
			if err == unix.EINTR {
				continue
			}
			if err != nil || n == 0 || !writeAll(1, buf[:n]) {
				return
			}
			continue
		}
		ended = true
	}
}

// drain lets the rest of the output through.
func (f *foreground) drain() {
	if f.copied == nil {
		return
	}
	unix.Close(f.stop[1])
	f.stop[1] = -1
	select {
	case <-f.copied:
	case <-time.After(10 * time.Second): // whoever reads our output does not
	}
}
