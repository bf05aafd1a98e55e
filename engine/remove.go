package engine

import (
	"context"
	"errors"
	"fmt"
	"os"

	"vivarium/monitor/client"
	"vivarium/monitor/wire"
)

// RemoveOptions says how a container is removed.
type RemoveOptions struct {
	Force   bool // kill it if it runs
	Volumes bool // remove its anonymous volumes too
}

// Remove removes a container.
func (e *Engine) Remove(ctx context.Context, ref string, opt RemoveOptions) error {
	c, err := e.Container(ref)
	if err != nil {
		return err
	}
	st, err := e.state(ctx, c)
	if err != nil {
		return err
	}
	if live(st) {
		if !opt.Force {
			return cannotRemove(c, ref, st)
		}
		if err := e.cancelRestart(ctx, c); err != nil {
			return err
		}
		if err := e.kill(ctx, c); err != nil {
			return err
		}
	}
	lock, err := e.lock(ctx, c.ID)
	if errors.Is(err, ErrNoSuchContainer) {
		return nil // with --rm, it went when it was killed
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	if c, err = e.load(c.ID); err != nil {
		return err
	}
	if st, err = client.ReadStatus(e.containerDir(c.ID)); err != nil {
		return fmt.Errorf("read the status of container %s: %w", c.Name, err)
	}
	if live(st) && processAlive(st) { // started again meanwhile
		return cannotRemove(c, ref, st)
	}
	return e.removeLocked(ctx, c, st, opt)
}

func cannotRemove(c *Container, ref string, st wire.Status) error {
	if st.State == wire.Paused {
		return errorf(ErrRunning, "cannot remove container %q: container is paused and must be unpaused first", "/"+c.Name)
	}
	return errorf(ErrRunning, "cannot remove container %q: container is %s: stop the container before removing or force remove", "/"+c.Name, st.State)
}

func (e *Engine) removeLocked(ctx context.Context, c *Container, st wire.Status, opt RemoveOptions) error {
	if err := e.afterEndLocked(c, st.ExitCode, nil); err != nil {
		return err
	}
	if !e.hasRecord(c.ID) {
		return nil // it went with its end
	}
	fl, err := e.takeFlight(ctx, c.ID, c.Name)
	if err != nil {
		return err
	}
	if err := e.discardLocked(c, opt.Volumes); err != nil {
		fl.leave()
		return err
	}
	if err := os.RemoveAll(e.runDir(c.ID)); err != nil {
		fl.leave()
		return fmt.Errorf("remove the run directory of container %s: %w", c.Name, err)
	}
	fl.land()
	return nil
}

// settle does the cleanup after an end that this command has seen, so that all of
// it is done when the command returns.
func (e *Engine) settle(ctx context.Context, c *Container) error {
	lock, err := e.lock(ctx, c.ID)
	if errors.Is(err, ErrNoSuchContainer) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	st, err := e.mendLocked(ctx, c)
	if err != nil || live(st) {
		return err
	}
	return e.afterEndLocked(c, st.ExitCode, nil)
}

// Prune removes the containers that do not run. Filters: until, label, label!.
func (e *Engine) Prune(ctx context.Context, f Filters) (PruneReport, error) {
	var rep PruneReport
	if err := f.check("until", "label", "label!"); err != nil {
		return rep, err
	}
	until, err := f.until()
	if err != nil {
		return rep, err
	}
	cs, err := e.all()
	if err != nil {
		return rep, err
	}
	for _, c := range cs {
		if !until.IsZero() && !c.Created.Before(until) || !f.matchLabels(c.Labels()) {
			continue
		}
		st, err := e.state(ctx, c)
		if err != nil {
			return rep, err
		}
		if live(st) || e.inFlight(c.ID) {
			continue
		}
		size, _, err := diskUsage(e.containerDir(c.ID) + "/" + c.ownDir())
		if err != nil {
			return rep, err
		}
		err = e.Remove(ctx, c.ID, RemoveOptions{})
		if errors.Is(err, ErrNoSuchContainer) || errors.Is(err, ErrRunning) {
			continue
		}
		if err != nil {
			return rep, err
		}
		rep.Deleted = append(rep.Deleted, c.ID)
		rep.SpaceReclaimed += size
	}
	return rep, nil
}
