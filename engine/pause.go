package engine

import (
	"context"
	"fmt"
	"os"
	"strconv"

	"vivarium/bundle"
	"vivarium/monitor/client"
	"vivarium/monitor/wire"
	"vivarium/sandbox/cgroup"
)

// Pause freezes all processes of the container.
func (e *Engine) Pause(ctx context.Context, ref string) error {
	c, err := e.Container(ref)
	if err != nil {
		return err
	}
	lock, err := e.lock(ctx, c.ID)
	if err != nil {
		return err
	}
	defer lock.Close()
	st, err := e.mendLocked(ctx, c)
	if err != nil {
		return err
	}
	if st.State != wire.Running {
		return notRunning(c)
	}
	if e.isPaused(c.ID, st.Pid) {
		return errorf(ErrPaused, "Container %s is already paused", ref)
	}
	h, err := e.cgroup(c)
	if err != nil {
		return err
	}
	// The mark comes first: a container that is frozen and not said to be would
	// never be resumed.
	if err := os.WriteFile(e.pausedMark(c.ID), []byte(strconv.Itoa(st.Pid)), 0o600); err != nil {
		return fmt.Errorf("pause container %s: %w", c.Name, err)
	}
	if err := h.Freeze(cgroupWait); err != nil {
		os.Remove(e.pausedMark(c.ID))
		return fmt.Errorf("pause container %s: %w", c.Name, err)
	}
	e.emit(containerEvent(c, "pause"))
	return nil
}

// Unpause lets the processes of a paused container go on.
func (e *Engine) Unpause(ctx context.Context, ref string) error {
	c, err := e.Container(ref)
	if err != nil {
		return err
	}
	lock, err := e.lock(ctx, c.ID)
	if err != nil {
		return err
	}
	defer lock.Close()
	st, err := e.mendLocked(ctx, c)
	if err != nil {
		return err
	}
	if st.State != wire.Running || !e.isPaused(c.ID, st.Pid) {
		return errorf(ErrNotPaused, "Container %s is not paused", ref)
	}
	if err := e.thaw(c, st); err != nil {
		return err
	}
	e.emit(containerEvent(c, "unpause"))
	return nil
}

// UpdateOptions are the settings that can be changed of a container, also while it runs.
type UpdateOptions struct {
	// Change sets the new values in a copy of the container's own.
	Change func(*bundle.Resources)
	// Restart, if not nil, is the new restart policy.
	Restart *bundle.RestartPolicy
}

// Update changes limits and restart policy of a container.
func (e *Engine) Update(ctx context.Context, ref string, opt UpdateOptions) ([]string, error) {
	c, err := e.Container(ref)
	if err != nil {
		return nil, err
	}
	lock, err := e.lock(ctx, c.ID)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	st, err := e.mendLocked(ctx, c)
	if err != nil {
		return nil, err
	}
	if c, err = e.load(c.ID); err != nil {
		return nil, err
	}
	if opt.Change != nil {
		opt.Change(&c.Options.HostConfig.Resources)
	}
	if opt.Restart != nil {
		if c.AutoRemove() && opt.Restart.Name != "no" {
			return nil, errorf(ErrInvalid, "Restart policy cannot be updated because AutoRemove is enabled for the container")
		}
		c.Options.HostConfig.RestartPolicy = *opt.Restart
	}
	warnings, err := e.applyUpdate(ctx, c, st, opt.Change != nil)
	if err != nil {
		return nil, &Error{Kind: ErrInvalid, Msg: "Cannot update container " + c.ID, Err: err}
	}
	if live(st) && opt.Restart != nil {
		s, err := e.session(ctx, c, false)
		if err != nil {
			return nil, err
		}
		defer s.Close()
		if err := s.SetRestart(opt.Restart.Name, opt.Restart.MaximumRetryCount); err != nil {
			return nil, fmt.Errorf("change the restart policy of container %s: %w", c.Name, err)
		}
	}
	e.emit(containerEvent(c, "update"))
	return warnings, e.saveLocked(c)
}

// applyUpdate checks the new settings by making the spec, and writes the limits
// of a container that runs into its control groups.
func (e *Engine) applyUpdate(ctx context.Context, c *Container, st wire.Status, limits bool) ([]string, error) {
	r := &run{e: e, c: c, dry: true}
	r.opt.Options = c.Options
	for _, stage := range []func(context.Context) error{r.loadImage, r.makeSpec} {
		if err := stage(ctx); err != nil {
			return nil, err
		}
	}
	if !limits || !running(st) {
		return r.warnings, nil
	}
	res := *r.spec.Linux.Resources
	res.Devices = nil // they stay as they are
	more, err := cgroup.Update(*r.layout, r.spec.Linux.CgroupsPath, &res, cgroup.Options{Lenient: true})
	return append(r.warnings, more...), err
}

// aliveNow tells whether the container's process or monitor lives.
func (e *Engine) aliveNow(id string) bool {
	st, err := client.ReadStatus(e.containerDir(id))
	if err != nil || !live(st) {
		return false
	}
	process, monitor := client.Alive(st)
	return process || monitor
}
