package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"vivarium/bundle"
	"vivarium/monitor/client"
	"vivarium/monitor/wire"
	"vivarium/network"
	"vivarium/sandbox/cgroup"
	"vivarium/sandbox/plan"
)

// RunOptions is what `run` and `create` take beside the container's own options.
type RunOptions struct {
	bundle.Options

	// Attached says that the caller stays to the end and calls Finish; the
	// monitor cleans up if it goes away before.
	Attached bool
	// Progress hears of an image that has to be pulled first; may be nil.
	Progress PullProgress

	// Fault, for tests, makes an op of the container's program fail.
	Fault Fault
}

// Fault names an op of a program that is to fail: its phase (spawn.Phase: 1
// before the clone, 2 in the child, 3 after the clone) and index. With Errno 0
// the process that comes to it is killed.
type Fault struct{ Phase, Index, Errno int }

// Run makes a container and starts it. The handle is attached from the first
// byte of output; its owner must Finish or Detach it. When Run fails before the
// container's program could be tried, nothing of the container is left. When the
// program could not be run (*client.StartError), the container stays, unless it
// is one that goes with its end.
func (e *Engine) Run(ctx context.Context, opt RunOptions) (h *Handle, err error) {
	r := &run{e: e, opt: opt, fresh: true}
	defer func() { r.undo(&err) }()
	for _, stage := range []func(context.Context) error{
		r.spawnMonitor,  // its start-up time hides behind the stages to come
		r.resolveImage,  // reference -> layers and configuration
		r.makeRecord,    // ID, name, what was resolved; seen by others from here on
		r.attachNetwork, // begins, in the background
		r.unite,         // mounts a union that cannot be made inside the container
		r.makeSpec,      // image configuration + options -> OCI spec
		r.compile,       // OCI spec -> program of system calls
		r.joinNetwork,   // address known: hosts file, published ports
		r.handOver,      // the monitor runs the program
	} {
		if err := stage(ctx); err != nil {
			return nil, err
		}
	}
	return r.started(ctx)
}

// Create makes a container and does not start it.
func (e *Engine) Create(ctx context.Context, opt RunOptions) (*Container, []string, error) {
	r := &run{e: e, opt: opt, fresh: true}
	var err error
	defer func() { r.undo(&err) }()
	// The spec is made and compiled to refuse now what a start would refuse.
	for _, stage := range []func(context.Context) error{r.resolveImage, r.makeRecord, r.makeSpec, r.compile} {
		if err = stage(ctx); err != nil {
			return nil, nil, err
		}
	}
	r.flight.land()
	return r.c, r.warnings, nil
}

// run is one container on its way from options to process.
type run struct {
	e     *Engine
	opt   RunOptions
	fresh bool // the container is made by this run: a failure removes it
	dry   bool // nothing may be made

	launch   *client.Launch
	image    *source
	points   []bundle.MountPoint // as c.Mounts begins
	release  func()              // lets garbage collection of images go on
	c        *Container
	flight   *flight
	lock     *os.File
	spec     *specs.Spec
	plan     *plan.Plan
	warnings []string
	session  *client.Session

	host        bundle.Facts
	layout      *cgroup.Layout
	netPeer     *Container // whose network namespace is joined
	ownNetFiles bool       // hosts, hostname and resolv.conf are its own

	netns    *os.File
	ports    *os.File // keeps the published host ports from others
	attached chan attachResult
	endpoint *network.Endpoint
}

type attachResult struct {
	endpoint *network.Endpoint
	err      error
}

func (r *run) spawnMonitor(context.Context) (err error) {
	if r.launch, err = client.Spawn(r.e.Monitor); err != nil {
		return fmt.Errorf("start a monitor: %w", err)
	}
	return nil
}

// handOver sends the program to the monitor.
func (r *run) handOver(ctx context.Context) error {
	cfg, err := r.config()
	if err != nil {
		return err
	}
	launch := r.launch
	r.launch = nil // Run disposes of it, whatever comes
	files := map[string]*os.File{}
	if r.netns != nil {
		files["netns"] = r.netns
	}
	if r.ports != nil {
		files["ports"] = r.ports
	}
	if r.session, err = launch.Run(ctx, cfg, files); err != nil {
		return fmt.Errorf("start container %s: %w", r.c.Name, err)
	}
	if r.opt.Attached {
		// At once: a short command has ended before Started is here.
		_ = r.session.TakeCleanup() // fails with the session, which the next Recv tells
	}
	return nil
}

func (r *run) config() (*wire.Config, error) {
	c, hc := r.c, &r.c.Options.HostConfig
	cfg := &wire.Config{
		ID: c.ID, StateDir: r.e.runDir(c.ID), Dir: r.e.containerDir(c.ID), Program: r.plan.Encode(),
		TTY: c.Config().Tty, OpenStdin: c.Config().OpenStdin, StdinOnce: c.Config().StdinOnce,
		Rows: uint16(hc.ConsoleSize[0]), Cols: uint16(hc.ConsoleSize[1]),
		Restart: hc.RestartPolicy.Name, RestartMax: hc.RestartPolicy.MaximumRetryCount,
		AutoRemove: c.AutoRemove(), CgroupDirs: r.plan.Cgroups().Remove,
	}
	if c.logDriver() != "none" {
		cfg.LogPath = r.e.logFile(c.ID)
		cfg.LogMaxSize, cfg.LogMaxFile = c.logLimits()
		attrs, err := c.logAttrs()
		if err != nil {
			return nil, err
		}
		cfg.LogAttrs = attrs
	}
	watch, err := r.layout.OOMWatch(r.spec.Linux.CgroupsPath)
	if err != nil {
		return nil, err
	}
	if cfg.MemoryEvents = watch.Inotify; watch.OOMControl != "" {
		cfg.MemoryEvents = watch.OOMControl
	}
	cfg.FaultPhase, cfg.FaultIndex, cfg.FaultErrno = r.opt.Fault.Phase, r.opt.Fault.Index, r.opt.Fault.Errno
	if len(r.e.Callback) > 0 {
		cfg.Cleanup = append(slices.Clone(r.e.Callback), c.ID)
	}
	return cfg, nil
}

// started waits until the program's process runs, or has failed to.
func (r *run) started(ctx context.Context) (*Handle, error) {
	m, err := recv(ctx, r.session)
	if ctx.Err() != nil {
		return nil, done(ctx, "the start of container "+r.c.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("start container %s: its monitor ended: %w", r.c.Name, err)
	}
	switch m.Kind {
	case client.Started:
		r.e.emit(r.e.startEvents(r.c, r.opt.Attached)...)
		r.unlock()
		if err := r.e.startHealth(r.c, m.Pid); err != nil {
			r.warnings = append(r.warnings, err.Error())
		}
		return &Handle{Container: r.c, Session: r.session, Warnings: r.warnings, Pid: m.Pid, e: r.e, flight: r.flight}, nil
	case client.Failed:
		return nil, r.failed(m.Err)
	}
	return nil, fmt.Errorf("start container %s: its monitor said %q first", r.c.Name, m.Kind)
}

// failed keeps a container whose program could not be run, with the reason.
func (r *run) failed(err error) error {
	var se *client.StartError
	if !errors.As(err, &se) {
		return err
	}
	err = &StartFailed{ID: r.c.ID, err: err}
	if r.c.AutoRemove() {
		return err
	}
	leave(r.session)
	st, _ := client.ReadStatus(r.e.containerDir(r.c.ID))
	st.State, st.ExitCode, st.Error, st.Pid, st.MonitorPid = wire.Created, se.Code, err.Error(), 0, 0
	if err := client.WriteStatus(r.e.containerDir(r.c.ID), st); err != nil {
		return err
	}
	r.fresh = false // undo leaves the record
	return err
}

// leave closes the session of a container that has ended, when its monitor is gone.
func leave(s *client.Session) {
	s.WaitMonitor()
	s.Close()
}

func (r *run) unlock() {
	if r.ports != nil {
		r.ports.Close()
		r.ports = nil
	}
	if r.lock != nil {
		r.lock.Close()
		r.lock = nil
	}
	if r.netns != nil {
		r.netns.Close()
		r.netns = nil
	}
}

// undo removes what a failed run has made, in the opposite order.
func (r *run) undo(errp *error) {
	defer r.unlock()
	r.releaseImage()
	if *errp == nil {
		return
	}
	if r.launch != nil {
		r.launch.Abort()
	}
	if r.session != nil {
		r.abandon()
	}
	if r.attached != nil { // it works in the namespace
		<-r.attached
	}
	if r.netns != nil { // with nobody in it, its interfaces go at once
		r.netns.Close()
		r.netns = nil
	}
	if r.c == nil || r.dry {
		r.flight.land()
		return
	}
	if err := r.e.wipe(r.c, r.fresh); err != nil {
		r.e.notice("after a failed start: %v", err)
		r.flight.leave() // the marker tells the next sweep
		return
	}
	r.flight.land()
}

// abandon ends what the monitor may have started, and the monitor with it.
func (r *run) abandon() {
	_ = r.session.SetRestart("no", 0) // fails when the monitor is gone, as it should be
	if err := r.e.removeCgroups(r.c); err != nil {
		r.e.notice("after a failed start: %v", err)
	}
	leave(r.session)
}

// Handle is a container that has been started, with the first client's session.
type Handle struct {
	Container *Container
	Session   *client.Session
	Warnings  []string
	Pid       int

	e      *Engine
	flight *flight
}

// Detach leaves the container to its monitor.
func (h *Handle) Detach() error {
	err := h.Session.Close()
	h.flight.leave()
	return err
}

// Finish cleans up after the container's end: the network, and with --rm the container.
func (h *Handle) Finish(ctx context.Context, exitCode int) error {
	// A container that stays has its status when its monitor has ended. Of one that
	// goes, the files are removed while the monitor removes the groups.
	monitorGone := func() {}
	if h.Container.AutoRemove() {
		monitorGone = sync.OnceFunc(func() {
			h.Session.WaitGone()
			h.Session.Close()
		})
		defer monitorGone()
	} else {
		leave(h.Session)
	}
	defer h.flight.leave()
	lock, err := h.e.lock(ctx, h.Container.ID)
	if errors.Is(err, ErrNoSuchContainer) {
		return nil // somebody removed it
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	st, err := client.ReadStatus(h.e.containerDir(h.Container.ID))
	if err != nil || live(st) && processAlive(st) { // started again by somebody
		return err
	}
	return h.e.afterEndLocked(h.Container, exitCode, monitorGone)
}

// afterEndLocked does what has to be done when a container has ended for good,
// once however many do it: the flight marker tells whether it has been done.
// monitorGone waits for its monitor, which is at its end and removes the groups;
// nil, if there is none.
func (e *Engine) afterEndLocked(c *Container, exitCode int, monitorGone func()) error {
	marker := e.flightsDir() + "/" + c.ID
	if unix.Access(marker, unix.F_OK) != nil {
		return nil
	}
	if unix.Access(e.containerDir(c.ID)+"/status.json", unix.F_OK) == nil { // it ran
		e.emit(e.endEvents(c, exitCode)...)
	}
	all := c.AutoRemove()
	if all && monitorGone != nil {
		if err := e.discardLocked(c, true); err != nil {
			return err
		}
		monitorGone()
		all = false
	}
	if err := e.wipe(c, all); err != nil {
		return err
	}
	os.Remove(marker)
	return nil
}

// Cleanup is what a monitor's callback does for a container that has ended.
func (e *Engine) Cleanup(ctx context.Context, id string) error {
	lock, err := e.lock(ctx, id)
	if errors.Is(err, ErrNoSuchContainer) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	c, err := e.load(id)
	if err != nil {
		return err
	}
	st, err := client.ReadStatus(e.containerDir(id))
	if err != nil {
		return err
	}
	if live(st) && processAlive(st) {
		return nil // started again meanwhile
	}
	return e.afterEndLocked(c, st.ExitCode, nil)
}
