package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vivarium/monitor/wire"
)

// killWait bounds the wait for the end after SIGKILL. A process in an
// uninterruptible wait can need that long.
const killWait = 30 * time.Second

// ParseSignal reads a signal as a user writes it: "9", "KILL", "SIGKILL", "RTMIN+3".
func ParseSignal(s string) (syscall.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > 64 {
			return 0, errorf(ErrInvalid, "Invalid signal: %s", s)
		}
		return syscall.Signal(n), nil
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	if sig := unix.SignalNum("SIG" + name); sig != 0 {
		return sig, nil
	}
	for prefix, base := range map[string]int{"RTMIN": 34, "RTMAX": 64} {
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		off := 0
		if rest != "" {
			n, err := strconv.Atoi(rest)
			if err != nil {
				break
			}
			off = n
		}
		if n := base + off; n >= 34 && n <= 64 {
			return syscall.Signal(n), nil
		}
	}
	return 0, errorf(ErrInvalid, "Invalid signal: %s", s)
}

// signalProcess sends sig to the container's first process, and to no other that
// got its number: the pidfd is opened before the process is recognized.
func signalProcess(st wire.Status, sig syscall.Signal) error {
	fd, err := unix.PidfdOpen(st.Pid, 0)
	if err != nil {
		return fmt.Errorf("open process %d: %w", st.Pid, err)
	}
	defer unix.Close(fd)
	if !processAlive(st) {
		return unix.ESRCH
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil {
		return fmt.Errorf("send signal %d to process %d: %w", sig, st.Pid, err)
	}
	return nil
}

// Kill sends a signal to the container's first process. "" is SIGKILL.
// SIGKILL, and the container's own stop signal, also end its restarts.
func (e *Engine) Kill(ctx context.Context, ref, signal string) error {
	c, err := e.Container(ref)
	if err != nil {
		return err
	}
	sig := syscall.SIGKILL
	if signal != "" {
		if sig, err = ParseSignal(signal); err != nil {
			return err
		}
	}
	st, err := e.state(ctx, c)
	if err != nil {
		return err
	}
	if !running(st) {
		return &Error{Kind: ErrNotRunning, Msg: fmt.Sprintf("Cannot kill container: %s: %s", ref, notRunning(c))}
	}
	if stop, err := c.stopSignal(); err == nil && (sig == syscall.SIGKILL || sig == stop) {
		if err := e.cancelRestart(ctx, c); err != nil {
			return err
		}
	}
	if err := signalProcess(st, sig); err != nil {
		return &Error{Kind: ErrNotRunning, Msg: "Cannot kill container: " + ref, Err: err}
	}
	e.emit(containerEvent(c, "kill", "signal", strconv.Itoa(int(sig))))
	if sig == syscall.SIGKILL {
		if st.State == wire.Paused {
			// A frozen v1 cgroup lets not even SIGKILL through.
			if err := e.thaw(c, st); err != nil {
				return err
			}
		}
		ctx, cancel := context.WithTimeout(ctx, killWait)
		defer cancel()
		if _, err := e.waitEnd(ctx, c); err != nil {
			return fmt.Errorf("wait for the end of container %s after SIGKILL: %w", c.Name, err)
		}
		return e.settle(ctx, c)
	}
	return nil
}

func (c *Container) stopSignal() (syscall.Signal, error) {
	if c.Config().StopSignal == "" {
		return syscall.SIGTERM, nil
	}
	return ParseSignal(c.Config().StopSignal)
}

// cancelRestart makes the next end of the container its last one.
func (e *Engine) cancelRestart(ctx context.Context, c *Container) error {
	switch c.Options.HostConfig.RestartPolicy.Name {
	case "", "no":
		return nil
	}
	s, err := e.session(ctx, c, false)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.SetRestart("no", 0); err != nil {
		return fmt.Errorf("cancel the restart of container %s: %w", c.Name, err)
	}
	return nil
}

// StopOptions says how a container is stopped.
type StopOptions struct {
	Signal  string // "": the container's own
	Timeout *int   // seconds until SIGKILL; nil: the container's own; negative: wait for ever
}

// defaultStopTimeout is Docker's.
const defaultStopTimeout = 10

// Stop ends the container: the stop signal, and after the timeout SIGKILL. A
// container that does not run is left as it is.
func (e *Engine) Stop(ctx context.Context, ref string, opt StopOptions) error {
	c, err := e.Container(ref)
	if err != nil {
		return err
	}
	st, err := e.state(ctx, c)
	if err != nil || !live(st) {
		return err
	}
	sig, err := c.stopSignal()
	if opt.Signal != "" {
		sig, err = ParseSignal(opt.Signal)
	}
	if err != nil {
		return err
	}
	if err := e.cancelRestart(ctx, c); err != nil {
		return err
	}
	if err := e.stop(ctx, c, sig, c.stopTimeout(opt.Timeout)); err != nil {
		return err
	}
	if err := e.settle(ctx, c); err != nil { // says that it died
		return err
	}
	e.emit(containerEvent(c, "stop"))
	return nil
}

func (c *Container) stopTimeout(asked *int) int {
	switch {
	case asked != nil:
		return *asked
	case c.Config().StopTimeout != nil:
		return *c.Config().StopTimeout
	}
	return defaultStopTimeout
}

func (e *Engine) stop(ctx context.Context, c *Container, sig syscall.Signal, seconds int) error {
	st, err := e.state(ctx, c)
	if err != nil || !live(st) {
		return err
	}
	if running(st) {
		if err := signalProcess(st, sig); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("stop container %s: %w", c.Name, err)
		}
		e.emit(containerEvent(c, "kill", "signal", strconv.Itoa(int(sig))))
	}
	if st.State == wire.Paused {
		if err := e.thaw(c, st); err != nil {
			return err
		}
	}
	wait, cancel := ctx, context.CancelFunc(func() {})
	if seconds >= 0 {
		wait, cancel = context.WithTimeout(ctx, time.Duration(seconds)*time.Second)
	}
	_, err = e.waitEnd(wait, c)
	cancel()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return e.kill(ctx, c)
}

// kill ends the container without asking it, and waits for its end.
func (e *Engine) kill(ctx context.Context, c *Container) error {
	st, err := e.state(ctx, c)
	if err != nil || !live(st) {
		return err
	}
	if running(st) {
		if err := signalProcess(st, syscall.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("kill container %s: %w", c.Name, err)
		}
		e.emit(containerEvent(c, "kill", "signal", "9"))
	}
	if st.State == wire.Paused {
		if err := e.thaw(c, st); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, killWait)
	defer cancel()
	if _, err := e.waitEnd(ctx, c); err != nil {
		return fmt.Errorf("wait for the end of container %s after SIGKILL: %w", c.Name, err)
	}
	return nil
}

// WaitCondition is what Wait waits for.
type WaitCondition string

// Conditions of Wait, as Docker's API has them.
const (
	WaitNotRunning WaitCondition = "not-running"
	WaitNextExit   WaitCondition = "next-exit"
	WaitRemoved    WaitCondition = "removed"
)

// Wait waits until the container has ended and gives its exit code.
func (e *Engine) Wait(ctx context.Context, ref string, cond WaitCondition) (int, error) {
	c, err := e.Container(ref)
	if err != nil {
		return 0, err
	}
	w, err := newWatch(e.Root + "/containers")
	if err != nil {
		return 0, fmt.Errorf("watch the containers: %w", err)
	}
	defer w.Close()
	st, err := e.waitEnd(ctx, c)
	if err != nil {
		return 0, err
	}
	for cond == WaitRemoved && e.hasRecord(c.ID) {
		if err := w.wait(ctx); err != nil {
			return 0, err
		}
	}
	return st.ExitCode, nil
}

// Rename gives the container another name.
func (e *Engine) Rename(ctx context.Context, ref, name string) error {
	c, err := e.Container(ref)
	if err != nil {
		return err
	}
	lock, err := e.lock(ctx, c.ID)
	if err != nil {
		return err
	}
	defer lock.Close()
	if c, err = e.load(c.ID); err != nil {
		return err
	}
	name = strings.TrimPrefix(name, "/")
	if name == "" {
		return errorf(ErrInvalid, "New name cannot be empty")
	}
	if name == c.Name {
		return errorf(ErrInvalid, "Renaming a container with the same name as its current name")
	}
	old := c.Name
	if err := checkName(name); err != nil {
		return err
	}
	if err := e.linkName(name, c.ID); err != nil {
		return err
	}
	c.Name = name
	if err := e.saveLocked(c); err != nil {
		e.releaseName(name, c.ID)
		return err
	}
	e.emit(containerEvent(c, "rename", "oldName", "/"+old))
	return e.releaseName(old, c.ID)
}

// processRoot opens the root directory of the container's first process. The
// descriptor belongs to that process: its number is checked after the open.
func processRoot(st wire.Status) (*os.File, error) {
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/root", st.Pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the root of process %d: %w", st.Pid, err)
	}
	if !processAlive(st) {
		unix.Close(fd)
		return nil, fmt.Errorf("open the root of process %d: %w", st.Pid, unix.ESRCH)
	}
	return os.NewFile(uintptr(fd), "root"), nil
}
