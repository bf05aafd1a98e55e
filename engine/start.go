package engine

import (
	"context"
	"fmt"

	"vivarium/image/store"
	"vivarium/monitor/client"
	"vivarium/monitor/wire"
)

// Start starts a container that was made before or has ended. The handle is as
// that of Run, and attached is as RunOptions.Attached. A container that runs already gives a nil handle and no error.
func (e *Engine) Start(ctx context.Context, ref string, attached bool) (h *Handle, err error) {
	c, err := e.Container(ref)
	if err != nil {
		return nil, err
	}
	r := &run{e: e, c: c}
	r.opt.Attached = attached
	defer func() { r.undo(&err) }()
	up, err := r.takeRecord(ctx)
	if err != nil || up {
		return nil, err
	}
	for _, stage := range []func(context.Context) error{
		r.spawnMonitor,
		r.loadImage,
		r.attachNetwork,
		r.unite,
		r.makeSpec,
		r.compile,
		r.joinNetwork,
		r.handOver,
	} {
		if err := stage(ctx); err != nil {
			return nil, err
		}
	}
	return r.started(ctx)
}

// takeRecord locks the container for its start, and tells whether it runs already.
func (r *run) takeRecord(ctx context.Context) (up bool, err error) {
	id := r.c.ID
	if r.lock, err = r.e.lock(ctx, id); err != nil {
		r.c = nil
		return false, err
	}
	c, err := r.e.load(id)
	if err != nil {
		r.c = nil
		return false, err
	}
	r.c = nil // undo must not touch a container that runs
	st, err := r.e.mendLocked(ctx, c)
	if err != nil {
		return false, err
	}
	if live(st) {
		if st.State == wire.Running && r.e.isPaused(id, st.Pid) {
			return false, errorf(ErrPaused, "cannot start a paused container, try unpause instead")
		}
		return true, nil
	}
	// What the end before this start left, if its own cleanup has not come yet.
	if err := r.e.afterEndLocked(c, st.ExitCode, nil); err != nil {
		return false, err
	}
	if !r.e.hasRecord(id) {
		return false, noSuchContainer(id)
	}
	if r.flight, err = r.e.takeFlight(ctx, id, c.Name); err != nil {
		return false, err
	}
	r.c, r.opt.Options = c, c.Options
	return false, r.e.makeRunDir(id)
}

// loadImage finds the layers that the container was made from.
func (r *run) loadImage(ctx context.Context) (err error) {
	if n := len(r.c.Layers); n > 1 && store.IsInit(r.c.Layers[n-1]) {
		s, err := r.e.images()
		if err != nil {
			return err
		}
		if _, err := s.InitLayer(ctx, r.c.Layers[:n-1]); err != nil {
			return fmt.Errorf("container %s: %w", r.c.Name, err)
		}
	}
	r.image, err = r.e.containerSource(r.c)
	return err
}

// Restart stops the container, if it runs, and starts it.
func (e *Engine) Restart(ctx context.Context, ref string, opt StopOptions) error {
	c, err := e.Container(ref)
	if err != nil {
		return err
	}
	if c.AutoRemove() {
		if st, err := e.state(ctx, c); err == nil && live(st) {
			return errorf(ErrInvalid, "Cannot restart container %s: it was started with --rm, and its stop would remove it", ref)
		}
	}
	if err := e.Stop(ctx, c.ID, opt); err != nil {
		return err
	}
	h, err := e.Start(ctx, c.ID, false)
	if err != nil {
		return err
	}
	e.emit(containerEvent(c, "restart"))
	if h == nil {
		return nil
	}
	return h.Detach()
}

// adopt gives a container whose monitor died a new one.
func (e *Engine) adopt(ctx context.Context, c *Container, st wire.Status) error {
	r := &run{e: e, c: c}
	r.opt.Options = c.Options
	for _, stage := range []func(context.Context) error{r.loadImage, r.makeSpec, r.compile} {
		if err := stage(ctx); err != nil {
			return err
		}
	}
	cfg, err := r.config()
	if err != nil {
		return err
	}
	cfg.RestartCount = st.RestartCount
	cfg.AdoptPid, cfg.AdoptTicks, cfg.AdoptStarted = st.Pid, st.StartTicks, st.StartedAt
	return client.Adopt(ctx, e.Monitor, cfg)
}
