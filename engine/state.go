package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"vivarium/monitor/client"
	"vivarium/monitor/wire"
)

// exitUnknown is the exit code of a process whose end nobody saw.
const exitUnknown = 255

// state gives how a container fares, after mending what is not so any more: a
// process without monitor is adopted by a new one, and a status that says
// "running" of a process that is gone is ended.
func (e *Engine) state(ctx context.Context, c *Container) (wire.Status, error) {
	st, err := client.ReadStatus(e.containerDir(c.ID))
	if err != nil {
		return st, fmt.Errorf("read the status of container %s: %w", short(c.ID), err)
	}
	if live(st) && !monitorAlive(st) {
		switch {
		case !e.inFlight(c.ID):
			if st, err = e.mend(ctx, c); err != nil {
				return st, err
			}
		case !processAlive(st):
			// It has just ended, and the command that runs it is about to say so.
			st.State, st.Pid = wire.Exited, 0
		}
	}
	if st.State == wire.Running && e.isPaused(c.ID, st.Pid) {
		st.State = wire.Paused
	}
	return st, nil
}

// live tells whether the status claims a process or a monitor.
func live(st wire.Status) bool {
	return st.State == wire.Running || st.State == wire.Paused || st.State == wire.Restarting
}

// running tells whether there is a process that can be spoken to.
func running(st wire.Status) bool { return st.State == wire.Running || st.State == wire.Paused }

// mend looks again under the lock, and adopts or ends the container.
func (e *Engine) mend(ctx context.Context, c *Container) (wire.Status, error) {
	lock, err := e.lock(ctx, c.ID)
	if errors.Is(err, ErrNoSuchContainer) {
		return wire.Status{State: wire.Exited, ExitCode: exitUnknown}, nil
	}
	if err != nil {
		return wire.Status{}, err
	}
	defer lock.Close()
	return e.mendLocked(ctx, c)
}

func (e *Engine) mendLocked(ctx context.Context, c *Container) (wire.Status, error) {
	st, err := client.ReadStatus(e.containerDir(c.ID))
	if err != nil {
		return st, fmt.Errorf("read the status of container %s: %w", short(c.ID), err)
	}
	if !live(st) {
		return st, nil
	}
	process, monitor := client.Alive(st)
	if monitor {
		return st, nil
	}
	if process {
		if err := e.adopt(ctx, c, st); err != nil {
			return st, fmt.Errorf("adopt container %s, whose monitor died: %w", c.Name, err)
		}
		e.notice("container %s had lost its monitor and was adopted by a new one", c.Name)
		return client.ReadStatus(e.containerDir(c.ID))
	}
	st.State, st.Pid, st.MonitorPid, st.ExitCode = wire.Exited, 0, 0, exitUnknown
	if c.AutoRemove() { // its last status need not have been written
		return st, e.afterEndLocked(c, exitUnknown, nil)
	}
	st.FinishedAt = time.Now().UnixNano()
	st.Error = "the container's process and its monitor ended unseen"
	if err := client.WriteStatus(e.containerDir(c.ID), st); err != nil {
		return st, err
	}
	e.notice("container %s had ended unseen, together with its monitor", c.Name)
	return st, e.afterEndLocked(c, st.ExitCode, nil)
}

func processAlive(st wire.Status) bool {
	process, _ := client.Alive(st)
	return process
}

func monitorAlive(st wire.Status) bool {
	_, monitor := client.Alive(st)
	return monitor
}

func (e *Engine) pausedMark(id string) string { return e.runDir(id) + "/paused" }

// isPaused tells whether the process pid has been frozen: the mark names it, so
// that the mark of an earlier process says nothing.
func (e *Engine) isPaused(id string, pid int) bool {
	b, err := os.ReadFile(e.pausedMark(id))
	return err == nil && strings.TrimSpace(string(b)) == strconv.Itoa(pid)
}

// endOf closes the channel when the container is not running any more. stop must be called.
func (e *Engine) endOf(ctx context.Context, c *Container) (ended <-chan struct{}, stop func()) {
	ch := make(chan struct{})
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer close(ch)
		e.waitEnd(ctx, c)
	}()
	return ch, cancel
}

// waitEnd waits until the container has ended for good, as its monitor tells. At
// once if it does not run.
func (e *Engine) waitEnd(ctx context.Context, c *Container) (wire.Status, error) {
	for {
		st, err := e.state(ctx, c)
		if err != nil || !live(st) {
			return st, err
		}
		s, err := client.Attach(ctx, e.runDir(c.ID), false)
		if err != nil {
			// The monitor may have ended between the two; its status says so.
			again, err2 := client.ReadStatus(e.containerDir(c.ID))
			if err2 != nil || live(again) && monitorAlive(again) {
				return st, fmt.Errorf("speak to the monitor of container %s: %w", c.Name, err)
			}
			continue
		}
		code, ok, err := drainSession(ctx, s)
		if err != nil {
			return st, err
		}
		if ok { // said before status.json of a removed container could be read
			st.State, st.ExitCode, st.Pid = wire.Exited, code, 0
			return st, nil
		}
	}
}

// drainSession reads until the final exit message, or the end of the session.
func drainSession(ctx context.Context, s *client.Session) (code int, exited bool, err error) {
	defer s.Close()
	for {
		m, err := recv(ctx, s)
		if ctx.Err() != nil {
			return 0, false, ctx.Err()
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				return 0, false, nil
			}
			return 0, false, fmt.Errorf("listen to the monitor: %w", err)
		}
		if m.Kind == client.Exited {
			return m.ExitCode, true, nil
		}
	}
}

// Recv is the session's Recv, but for one thing: a monitor that ends before it
// has read all that we sent resets the socket, and the kernel tells that once
// before it gives what the monitor said last.
func Recv(s *client.Session) (client.Message, error) {
	m, err := s.Recv()
	if errors.Is(err, io.EOF) {
		return s.Recv()
	}
	return m, err
}

// recv is Recv that also returns when the context ends. The session is of no
// use then: its reader may still wait, until the session is closed.
func recv(ctx context.Context, s *client.Session) (client.Message, error) {
	type result struct {
		m   client.Message
		err error
	}
	got := make(chan result, 1)
	go func() {
		m, err := Recv(s)
		got <- result{m, err}
	}()
	select {
	case r := <-got:
		return r.m, r.err
	case <-ctx.Done():
		return client.Message{}, ctx.Err()
	}
}

// session connects to the monitor of a running container.
func (e *Engine) session(ctx context.Context, c *Container, output bool) (*client.Session, error) {
	s, err := client.Attach(ctx, e.runDir(c.ID), output)
	if err != nil {
		return nil, fmt.Errorf("speak to the monitor of container %s: %w", c.Name, err)
	}
	return s, nil
}
