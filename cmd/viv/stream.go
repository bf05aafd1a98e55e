package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"vivarium/engine"
	"vivarium/monitor/client"
)

// streams connects a session of a container or of an exec to this process's
// standard streams.
type streams struct {
	a       *app
	session *client.Session

	tty        bool // the process has a terminal of its own
	stdin      bool // pass ours on
	stdout     bool
	stderr     bool
	detachKeys []byte
	proxy      func(syscall.Signal) // signals are passed on to it; nil: not
}

// errDetached says that the user typed the keys that leave the container.
var errDetached = errors.New("detached")

// run passes everything on until the process has ended, and gives its exit code.
func (s *streams) run(ctx context.Context) (code int, err error) {
	restore, err := s.rawMode()
	if err != nil {
		return 0, err
	}
	defer restore()
	defer s.watchSignals()()
	detached := make(chan struct{})
	if s.stdin {
		go s.feed(detached)
	}
	type end struct {
		code int
		err  error
	}
	ended := make(chan end, 1)
	go func() {
		code, err := s.drain()
		ended <- end{code, err}
	}()
	select {
	case e := <-ended:
		return e.code, e.err
	case <-detached:
		return 0, errDetached
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// drain writes the output until the end.
func (s *streams) drain() (int, error) {
	for {
		m, err := engine.Recv(s.session)
		if err != nil {
			if errors.Is(err, io.EOF) {
				return 0, errors.New("the container's monitor ended before it told the exit code")
			}
			return 0, fmt.Errorf("listen to the monitor: %w", err)
		}
		switch m.Kind {
		case client.Stdout:
			if s.stdout {
				s.a.out.Write(m.Data)
			}
		case client.Stderr:
			if s.stderr {
				s.a.err.Write(m.Data)
			}
		case client.Exited:
			return m.ExitCode, nil
		case client.Failed:
			return 0, m.Err
		}
	}
}

// feed passes our standard input on until its end, or the detach keys.
func (s *streams) feed(detached chan<- struct{}) {
	keys := newKeyFilter(s.detachKeys)
	buf := make([]byte, 32<<10)
	for {
		n, err := s.a.in.Read(buf)
		if n > 0 {
			data := buf[:n]
			done := false
			if s.tty {
				data, done = keys.filter(data)
			}
			if len(data) > 0 && s.session.WriteStdin(data) != nil {
				return
			}
			if done {
				close(detached)
				return
			}
		}
		if err != nil {
			s.session.CloseStdin()
			return
		}
	}
}

// rawMode puts our terminal into raw mode if the process has one of its own.
func (s *streams) rawMode() (restore func(), err error) {
	fd := int(s.a.in.Fd())
	if !s.tty || !s.stdin || !term.IsTerminal(fd) {
		return func() {}, nil
	}
	old, err := term.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("put the terminal into raw mode: %w", err)
	}
	return func() { term.Restore(fd, old) }, nil
}

// watchSignals passes signals on, and the size of the terminal; the result stops it.
func (s *streams) watchSignals() func() {
	ch := make(chan os.Signal, 32)
	var want []os.Signal
	if s.tty {
		want = append(want, unix.SIGWINCH)
		s.resize()
	}
	if s.proxy != nil {
		want = append(want, usual[:]...)
	}
	if len(want) == 0 {
		return func() {}
	}
	signal.Notify(ch, want...)
	if s.proxy != nil && s.a.releaseSignals != nil {
		s.a.releaseSignals() // the container decides when this ends
	}
	var later <-chan time.Time
	if s.proxy != nil {
		later = time.After(50 * time.Millisecond)
	}
	stop := make(chan struct{})
	go func() {
		for {
			select {
			case <-later:
				signal.Notify(ch, proxied()...)
			case sig := <-ch:
				switch sig {
				case unix.SIGWINCH:
					s.resize()
				default:
					s.proxy(sig.(syscall.Signal))
				}
			case <-stop:
				return
			}
		}
	}()
	return func() {
		signal.Stop(ch)
		close(stop)
	}
}

// usual are the signals that people and engines send. The others are taken a
// moment later: each costs two switches of threads, which a container that lives
// only for milliseconds is not to pay for.
var usual = [...]os.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2}

// proxied are the signals that a user can mean for the container: all but those
// that the kernel sends for reasons of its own, and those that cannot be caught.
func proxied() []os.Signal {
	var list []os.Signal
	for n := 1; n < 65; n++ {
		switch sig := syscall.Signal(n); sig {
		case unix.SIGKILL, unix.SIGSTOP, unix.SIGCHLD, unix.SIGPIPE, unix.SIGURG, unix.SIGWINCH,
			unix.SIGSEGV, unix.SIGBUS, unix.SIGFPE, unix.SIGILL, unix.SIGTRAP, unix.SIGPROF,
			unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, 32, 33:
		default:
			list = append(list, sig)
		}
	}
	return list
}

func (s *streams) resize() {
	if rows, cols, ok := s.a.terminalSize(); ok {
		s.session.Resize(rows, cols)
	}
}

// terminalSize gives the size of our terminal, if there is one.
func (a *app) terminalSize() (rows, cols uint16, ok bool) {
	for _, f := range []*os.File{a.out, a.in} {
		if w, h, err := term.GetSize(int(f.Fd())); err == nil && w > 0 && h > 0 {
			return uint16(h), uint16(w), true
		}
	}
	return 0, 0, false
}

// checkTTY refuses -it where our input is no terminal.
func (a *app) checkTTY(attachStdin, tty bool) error {
	if attachStdin && tty && !term.IsTerminal(int(a.in.Fd())) {
		fmt.Fprintln(a.err, "the input device is not a TTY")
		return exitError{codeError}
	}
	return nil
}

// defaultDetachKeys leave a container that has a terminal.
const defaultDetachKeys = "ctrl-p,ctrl-q"

// parseDetachKeys reads "ctrl-p,ctrl-q": single characters, or ctrl- with a
// letter or one of @ [ \ ] ^ _.
func parseDetachKeys(s string) ([]byte, error) {
	if s == "" {
		s = defaultDetachKeys
	}
	var keys []byte
	for _, k := range strings.Split(s, ",") {
		switch c, isCtrl := strings.CutPrefix(strings.ToLower(k), "ctrl-"); {
		case isCtrl && len(c) == 1 && (c[0] >= 'a' && c[0] <= 'z'):
			keys = append(keys, c[0]-'a'+1)
		case isCtrl && len(c) == 1 && strings.Contains(`@[\]^_`, c):
			keys = append(keys, c[0]&0x1f)
		case !isCtrl && len(k) == 1:
			keys = append(keys, k[0])
		default:
			return nil, usagef("invalid detach keys (%s): unknown character: '%s'", s, k)
		}
	}
	return keys, nil
}

// keyFilter finds the detach keys in what is typed. The keys that have come so
// far are held back until it is clear that they are not the beginning of it.
type keyFilter struct {
	keys []byte
	held int
}

func newKeyFilter(keys []byte) *keyFilter { return &keyFilter{keys: keys} }

// filter gives what is to be passed on, and whether the keys are complete.
func (k *keyFilter) filter(in []byte) (out []byte, complete bool) {
	if len(k.keys) == 0 {
		return in, false
	}
	for _, c := range in {
		if c == k.keys[k.held] {
			if k.held++; k.held == len(k.keys) {
				return out, true
			}
			continue
		}
		out = append(out, k.keys[:k.held]...)
		k.held = 0
		if c == k.keys[0] && len(k.keys) > 1 {
			k.held = 1
			continue
		}
		out = append(out, c)
	}
	return out, false
}
