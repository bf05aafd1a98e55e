package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"vivarium/bundle"
	"vivarium/image/build"
	"vivarium/layer"
	"vivarium/sandbox/plan"
	"vivarium/sandbox/spawn"
	"vivarium/unionfs"
)

// workshop runs the commands of one build. They share a network namespace, which is
// attached once, and the files that name hosts; each has a container of its own without
// a record: its parent waits for it, and nobody else has to know of it.
type workshop struct {
	e      *Engine
	driver unionfs.Driver
	// shmSize and ulimits are those of all commands.
	shmSize int64
	ulimits []bundle.Ulimit
	mu      sync.Mutex
	rooms   map[string]*room
}

// room is what the commands with one kind of network share.
type room struct {
	ready  sync.Once
	err    error
	run    *run // whose container has the network and the files
	flight *flight
}

// workshopName is the host name of all commands: a name that differs would make images
// differ. BuildKit has one name too.
const workshopName = "build"

// room gives what the commands with this network mode share.
func (w *workshop) room(ctx context.Context, mode string, hosts []string) (*room, error) {
	key := mode + "\n" + strings.Join(hosts, "\n")
	w.mu.Lock()
	if w.rooms == nil {
		w.rooms = map[string]*room{}
	}
	r := w.rooms[key]
	if r == nil {
		r = &room{}
		w.rooms[key] = r
	}
	w.mu.Unlock()
	r.ready.Do(func() { r.err = r.open(ctx, w.e, mode, hosts) })
	return r, r.err
}

func (m *room) open(ctx context.Context, e *Engine, mode string, hosts []string) (err error) {
	c := &Container{Name: workshopName}
	c.Options.Config.Hostname = workshopName
	c.Options.HostConfig.NetworkMode, c.Options.HostConfig.ExtraHosts = mode, hosts
	if c.ID, err = newID(); err != nil {
		return err
	}
	// The marker stands for everything that is made from here on: a sweep undoes it.
	if m.flight, err = e.takeFlight(ctx, c.ID, ""); err != nil {
		return err
	}
	m.run = &run{e: e, c: c, ownNetFiles: true}
	if err := os.Mkdir(e.runDir(c.ID), 0o700); err != nil {
		return fmt.Errorf("make the run directory of a build: %w", err)
	}
	if err := m.run.touchNetFiles(); err != nil {
		return err
	}
	// Not with ctx: a build that is cancelled has to know what it has.
	if err := m.run.attachNetwork(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	return m.run.joinNetwork(ctx)
}

// close gives back what the rooms have.
func (w *workshop) close() error {
	var errs []error
	for _, m := range w.rooms {
		if m.run == nil {
			if m.flight != nil {
				m.flight.land()
			}
			continue
		}
		if m.run.netns != nil { // with nobody in it, its interfaces go at once
			m.run.netns.Close()
		}
		if err := w.e.wipe(m.run.c, true); err != nil {
			m.flight.leave() // the marker tells the next sweep
			errs = append(errs, err)
			continue
		}
		m.flight.land()
	}
	return errors.Join(errs...)
}

// run runs one command to its end, and gives its exit code.
func (w *workshop) run(ctx context.Context, c *build.Command) (code int, err error) {
	m, err := w.room(ctx, c.Network, c.ExtraHosts)
	if err != nil {
		return 0, err
	}
	j, err := w.compile(ctx, m, c)
	if err != nil {
		return 0, err
	}
	fl, err := w.e.takeFlight(ctx, j.c.ID, "")
	if err != nil {
		return 0, err
	}
	defer func() {
		if cerr := w.e.removeCgroups(j.c); cerr != nil {
			err = errors.Join(err, cerr)
			fl.leave()
			return
		}
		fl.land()
	}()
	end, err := w.begin(ctx, j, c.Layer)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, end()) }()
	netns := -1
	if m.run.netns != nil {
		netns = int(m.run.netns.Fd())
	}
	return execute(ctx, j.plan, netns, c.Output)
}

// begin makes what the command's root is taken from, in a run directory of its own, where
// the driver needs that.
func (w *workshop) begin(ctx context.Context, j *run, l unionfs.Layer) (end func() error, err error) {
	if w.driver.Name() != unionfs.DriverAUFS {
		return func() error { return nil }, nil
	}
	dir := w.e.runDir(j.c.ID)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the run directory of a build: %w", err)
	}
	l.Point = w.e.unionPoint(j.c.ID)
	end = func() error {
		if err := w.driver.End(l); err != nil {
			return err
		}
		return os.Remove(dir)
	}
	if err := w.driver.Begin(ctx, l); err != nil {
		return nil, errors.Join(err, end())
	}
	return end, nil
}

// compile turns a command into a program.
func (w *workshop) compile(ctx context.Context, m *room, c *build.Command) (*run, error) {
	id, err := newID()
	if err != nil {
		return nil, err
	}
	j := &run{e: w.e, fresh: true, image: &source{ID: workshopName, Lower: c.Layer.Lower}, c: &Container{ID: id, Name: workshopName}}
	j.c.Options = commandOptions(c)
	j.c.Options.HostConfig.ShmSize, j.c.Options.HostConfig.Ulimits = w.shmSize, w.ulimits
	f, err := j.facts(ctx, j.c.Options, id)
	if err != nil {
		return nil, err
	}
	if f.Passwd, f.Group, err = j.accounts(); err != nil {
		return nil, err
	}
	dir := w.e.runDir(m.run.c.ID)
	f.HostsPath, f.HostnamePath, f.ResolvConfPath = dir+"/hosts", dir+"/hostname", dir+"/resolv.conf"
	if j.spec, _, err = bundle.Spec(nil, j.c.Options, f); err != nil {
		return nil, &Error{Kind: ErrInvalid, Msg: err.Error(), cause: err}
	}
	if !slices.ContainsFunc(c.Env, func(kv string) bool { return strings.HasPrefix(kv, "HOSTNAME=") }) {
		j.spec.Process.Env = slices.DeleteFunc(j.spec.Process.Env, func(kv string) bool { return strings.HasPrefix(kv, "HOSTNAME=") })
	}
	if err := w.addUnions(ctx, j.spec, c); err != nil {
		return nil, err
	}
	own := c.Layer
	own.Point = w.e.unionPoint(id)
	recipe, err := w.driver.Recipe(own)
	if err != nil {
		return nil, err
	}
	root, err := planRoot(recipe)
	if err != nil {
		return nil, err
	}
	filter, err := j.filter()
	if err != nil {
		return nil, err
	}
	j.plan, err = plan.Compile(j.spec, plan.Options{
		Filter: filter, ID: id, Root: root, NetNS: j.c.bridged(), OwnStdio: 0b110,
		MakeCwd: true, Lenient: true, Layout: j.layout, LastCap: f.LastCap,
	})
	if err != nil {
		return nil, fmt.Errorf("plan the command: %w", err)
	}
	return j, nil
}

// commandOptions are the options of the container that a command runs in.
func commandOptions(c *build.Command) bundle.Options {
	var o bundle.Options
	o.Config = bundle.Config{Hostname: workshopName, User: c.User, Env: c.Env, WorkingDir: c.Dir, Entrypoint: c.Args}
	o.HostConfig.NetworkMode, o.HostConfig.ExtraHosts, o.HostConfig.Privileged = c.Network, c.ExtraHosts, c.Insecure
	for _, m := range c.Mounts {
		switch {
		case m.Source != "":
			o.HostConfig.Mounts = append(o.HostConfig.Mounts, bundle.Mount{Type: bundle.MountBind, Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly})
		case len(m.Lower) == 0:
			t := bundle.Mount{Type: bundle.MountTmpfs, Target: m.Target}
			if m.Size > 0 {
				t.TmpfsOptions = &bundle.TmpfsOptions{SizeBytes: m.Size}
			}
			o.HostConfig.Mounts = append(o.HostConfig.Mounts, t)
		}
	}
	return o
}

// addUnions adds the mounts that are several layers: bundle knows no such kind.
func (w *workshop) addUnions(ctx context.Context, spec *specs.Spec, c *build.Command) error {
	for _, m := range c.Mounts {
		if m.Source != "" || len(m.Lower) == 0 {
			continue
		}
		mount, err := w.unionMount(ctx, c, m)
		if err != nil {
			return fmt.Errorf("mount %s: %w", m.Target, err)
		}
		if m.ReadOnly {
			mount.Options = append(mount.Options, "ro")
		}
		spec.Mounts = append(spec.Mounts, mount)
	}
	return nil
}

// unionMount is the mount of several layers: an overlay, or a copy of them where there may be
// none, or where its options do not fit in one value of fsconfig(2).
func (w *workshop) unionMount(ctx context.Context, c *build.Command, m build.Mount) (specs.Mount, error) {
	if w.driver.Name() == unionfs.DriverOverlay {
		r, err := unionfs.Overlay(m.Lower, m.Upper, m.Work, unionfs.OverlayOptions{Ephemeral: true, Joined: !unionfs.LowerPlus()})
		if err != nil {
			return specs.Mount{}, err
		}
		if !r.Classic {
			mount := specs.Mount{Destination: m.Target, Type: r.FSType, Source: r.FSType}
			for _, p := range r.Params {
				if p.Flag {
					mount.Options = append(mount.Options, p.Key)
				} else {
					mount.Options = append(mount.Options, p.Key+"="+p.Value)
				}
			}
			return mount, nil
		}
	}
	dir, err := copied(ctx, m.Lower, c.Layer.Work)
	return specs.Mount{Destination: m.Target, Type: "bind", Source: dir, Options: []string{"bind"}}, err
}

// copied copies layers into a new directory in tmp.
func copied(ctx context.Context, lower []string, tmp string) (string, error) {
	dir, err := os.MkdirTemp(tmp, "union-")
	if err != nil {
		return "", err
	}
	f, err := os.Open(dir)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return dir, layer.Merge(ctx, f, lower)
}

// commandStart bounds, in milliseconds, how long a command may take to begin.
const commandStart = 60_000

// execute runs a program, hands its output on, and waits for its end.
func execute(ctx context.Context, p *plan.Plan, netns int, out io.Writer) (int, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	r, wr, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	proc, err := spawn.Start(p.Program(), spawn.Options{Stdin: int(null.Fd()), Stdout: int(wr.Fd()), Stderr: int(wr.Fd()), NetNS: netns, PidFD: -1})
	wr.Close()
	if err != nil {
		return 0, fmt.Errorf("start the command: %w", err)
	}
	if _, err := proc.Wait(commandStart); err != nil {
		proc.Abandon()
		return 0, fmt.Errorf("start the command: %w", err)
	}
	proc.CloseSync()
	defer proc.Close()
	copied := make(chan error, 1)
	go func() {
		_, err := io.Copy(out, r)
		copied <- err
	}()
	stop := context.AfterFunc(ctx, proc.Kill)
	status, err := reap(proc.Pid)
	if !stop() && ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	if err != nil {
		return 0, fmt.Errorf("wait for the command: %w", err)
	}
	// The kernel has ended whatever was left in its PID namespace, so the pipe ends too.
	if err := <-copied; err != nil {
		return 0, fmt.Errorf("read the command's output: %w", err)
	}
	if status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return status.ExitStatus(), nil
}

func reap(pid int) (syscall.WaitStatus, error) {
	var status syscall.WaitStatus
	for {
		_, err := syscall.Wait4(pid, &status, 0, nil)
		if !errors.Is(err, unix.EINTR) {
			return status, err
		}
	}
}
