package testenv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultTimeout bounds a command that sets none of its own.
const DefaultTimeout = 60 * time.Second

// Command is a command to be run for a test. The zero value of every field but
// Path is usable.
type Command struct {
	Path string
	Args []string
	// Env is added to the test's environment.
	Env []string
	Dir string
	// Stdin is what the command reads; nil is /dev/null.
	Stdin io.Reader
	// Terminal gives the command a new terminal as its three streams. Stdin is
	// typed into it, and what it shows becomes Stdout.
	Terminal bool
	// Timeout ends the command; 0 is DefaultTimeout. A command that is ended so
	// fails the test.
	Timeout time.Duration

	t     testing.TB
	netns *os.File
}

// Result is what a command that has ended left.
type Result struct {
	Args   []string
	Stdout string
	Stderr string
	// Code is the exit status, or 128 plus the number of the signal that ended
	// the command, as a shell has it; -1 if it could not be run or ran too long.
	Code int
	// Err is set where Code is -1.
	Err error
}

func (r Result) String() string {
	s := fmt.Sprintf("%s: exit status %d", strings.Join(r.Args, " "), r.Code)
	if r.Err != nil {
		s += ": " + r.Err.Error()
	}
	return s + "\nstdout: " + r.Stdout + "\nstderr: " + r.Stderr
}

// Process is a running command.
type Process struct {
	cmd      *exec.Cmd
	t        testing.TB
	args     []string
	timer    *time.Timer
	terminal *os.File
	copied   chan struct{} // closed when the terminal's output is read to its end
	stdout   *buffer
	stderr   *buffer

	once    sync.Once
	result  Result
	mu      sync.Mutex
	expired bool
}

// Run runs the command to its end.
func (c *Command) Run() Result {
	c.t.Helper()
	p, err := c.start()
	if err != nil {
		c.t.Errorf("run %s: %v", c.Path, err)
		return Result{Args: c.argv(), Code: -1, Err: err}
	}
	return p.Wait()
}

// Start starts the command; the test's end kills what still runs then.
func (c *Command) Start() *Process {
	c.t.Helper()
	p, err := c.start()
	if err != nil {
		c.t.Fatalf("start %s: %v", c.Path, err)
	}
	c.t.Cleanup(func() {
		_ = p.Signal(syscall.SIGKILL)
		p.Wait()
	})
	return p
}

func (c *Command) argv() []string { return append([]string{c.Path}, c.Args...) }

func (c *Command) start() (*Process, error) {
	cmd := exec.Command(c.Path, c.Args...)
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.Dir = c.Dir
	p := &Process{cmd: cmd, t: c.t, args: c.argv(), stdout: newBuffer(), stderr: newBuffer()}
	var err error
	if c.Terminal {
		err = p.startOnTerminal(c)
	} else {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, p.stdout, p.stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		// A command that has ended while somebody else still holds its output is
		// a bug: a detached container must let go of it.
		cmd.WaitDelay = 5 * time.Second
		err = inNetns(c.netns, cmd.Start)
	}
	if err != nil {
		return nil, err
	}
	timeout := c.Timeout
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	p.timer = time.AfterFunc(timeout, p.expire)
	return p, nil
}

// startOnTerminal starts the command as the leader of a session of its own with a
// new terminal.
func (p *Process) startOnTerminal(c *Command) error {
	master, slave, err := openTerminal()
	if err != nil {
		return err
	}
	defer slave.Close()
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = slave, slave, slave
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := inNetns(c.netns, p.cmd.Start); err != nil {
		master.Close()
		return err
	}
	p.terminal = master
	p.copied = make(chan struct{})
	go func() {
		defer close(p.copied)
		// EIO is the end: nobody holds the other side any more.
		_, _ = io.Copy(p.stdout, master)
	}()
	if c.Stdin != nil {
		go func() { _, _ = io.Copy(master, c.Stdin) }()
	}
	return nil
}

func openTerminal() (master, slave *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open a terminal: %w", err)
	}
	master = os.NewFile(uintptr(fd), "/dev/ptmx")
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		master.Close()
		return nil, nil, fmt.Errorf("unlock the terminal: %w", err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		master.Close()
		return nil, nil, fmt.Errorf("open the terminal's other side: %w", err)
	}
	return master, slave, nil
}

// expire ends a command that ran too long: first so that a Go program says where
// it hung, then for good, with all of its process group.
func (p *Process) expire() {
	p.mu.Lock()
	p.expired = true
	p.mu.Unlock()
	_ = p.cmd.Process.Signal(syscall.SIGQUIT)
	p.mu.Lock()
	p.timer = time.AfterFunc(3*time.Second, func() {
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	})
	p.mu.Unlock()
}

// PID is the command's process ID.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal to the command itself.
func (p *Process) Signal(sig syscall.Signal) error { return p.cmd.Process.Signal(sig) }

// Terminal is the test's side of the command's terminal.
func (p *Process) Terminal() *os.File { return p.terminal }

// Type writes to the command's terminal.
func (p *Process) Type(text string) {
	p.t.Helper()
	if _, err := p.terminal.WriteString(text); err != nil {
		p.t.Fatalf("type into the terminal of %s: %v", strings.Join(p.args, " "), err)
	}
}

// Resize sets the size of the command's terminal.
func (p *Process) Resize(rows, columns uint16) {
	p.t.Helper()
	raw, err := p.terminal.SyscallConn()
	if err != nil {
		p.t.Fatal(err)
	}
	var setErr error
	err = raw.Control(func(fd uintptr) {
		setErr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns})
	})
	if err := errors.Join(err, setErr); err != nil {
		p.t.Fatalf("resize the terminal: %v", err)
	}
}

// Stdout is what the command has printed so far.
func (p *Process) Stdout() string { return p.stdout.String() }

// Stderr is what the command has printed on its standard error so far.
func (p *Process) Stderr() string { return p.stderr.String() }

// Expect waits until the command's standard output (or what its terminal shows)
// contains text, and fails the test if that does not happen in time.
func (p *Process) Expect(text string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), DefaultTimeout/2)
	defer cancel()
	if !p.stdout.wait(ctx, text) {
		p.t.Fatalf("%s did not print %q\nstdout: %s\nstderr: %s", strings.Join(p.args, " "), text, p.Stdout(), p.Stderr())
	}
}

// Wait waits for the command's end. It may be called more than once.
func (p *Process) Wait() Result {
	p.t.Helper()
	p.once.Do(p.wait)
	return p.result
}

func (p *Process) wait() {
	p.t.Helper()
	err := p.cmd.Wait()
	p.mu.Lock()
	p.timer.Stop()
	expired := p.expired
	p.mu.Unlock()
	p.stdout.end()
	if p.terminal != nil {
		// A process that outlives the command may hold the terminal: the read then
		// has no end of its own.
		_ = p.terminal.SetReadDeadline(time.Now().Add(2 * time.Second))
		<-p.copied
		p.terminal.Close()
	}
	p.result = Result{Args: p.args, Stdout: p.stdout.String(), Stderr: p.stderr.String()}
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case expired:
		p.result.Code, p.result.Err = -1, errors.New("ran too long and was ended")
	case errors.Is(err, exec.ErrWaitDelay):
		p.result.Code, p.result.Err = -1, errors.New("ended, but some process still holds its output")
	case ok && status.Signaled():
		p.result.Code = 128 + int(status.Signal())
	case ok:
		p.result.Code = status.ExitStatus()
	default:
		p.result.Code, p.result.Err = -1, err
	}
	if p.result.Err != nil {
		p.t.Errorf("%v", p.result)
	}
}

// buffer collects output; others may read it, and wait for something in it.
type buffer struct {
	mu      sync.Mutex
	data    bytes.Buffer
	ended   bool
	changed chan struct{}
}

func newBuffer() *buffer { return &buffer{changed: make(chan struct{})} }

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.changed)
	b.changed = make(chan struct{})
	return b.data.Write(p)
}

func (b *buffer) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.data.String()
}

// wait waits until the buffer contains text; false if it ends before or ctx does.
func (b *buffer) wait(ctx context.Context, text string) bool {
	for {
		b.mu.Lock()
		found, ended, changed := strings.Contains(b.data.String(), text), b.ended, b.changed
		b.mu.Unlock()
		if found || ended {
			return found
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}
