package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"vivarium/bundle"
	"vivarium/monitor/client"
	"vivarium/monitor/wire"
	"vivarium/sandbox/plan"
)

// ExecOptions say what is run in a container.
type ExecOptions struct {
	Args       []string
	Env        []string
	User       string
	WorkingDir string
	Privileged bool
	TTY        bool
	Stdin      bool
	Rows, Cols uint16
}

// ExecSession is the record of one process that was run in a container.
type ExecSession struct {
	ID          string
	ContainerID string
	Options     ExecOptions
	Created     time.Time
}

func (e *Engine) execDir(id, session string) string { return e.runDir(id) + "/exec/" + session }

// Exec runs a process in a running container. Its handle has a session of its
// own; the caller must Close it: once the process has ended, its record goes.
func (e *Engine) Exec(ctx context.Context, ref string, opt ExecOptions) (*ExecHandle, error) {
	launch, err := client.Spawn(e.Monitor)
	if err != nil {
		return nil, fmt.Errorf("start a monitor: %w", err)
	}
	x := &execRun{e: e, opt: opt, launch: launch}
	defer func() {
		if x.launch != nil {
			x.launch.Abort()
		}
	}()
	for _, stage := range []func(context.Context, string) error{x.find, x.makePlan, x.makeRecord, x.handOver} {
		if err := stage(ctx, ref); err != nil {
			x.undo()
			return nil, err
		}
	}
	h, err := x.started(ctx)
	if err != nil {
		x.undo()
	}
	return h, err
}

type execRun struct {
	e       *Engine
	opt     ExecOptions
	launch  *client.Launch
	c       *Container
	st      wire.Status
	pidfd   *os.File
	plan    *plan.Plan
	id      string
	session *client.Session
}

func (x *execRun) find(ctx context.Context, ref string) error {
	c, err := x.e.Container(ref)
	if err != nil {
		return err
	}
	x.c = c
	if x.st, err = x.e.state(ctx, c); err != nil {
		return err
	}
	switch {
	case x.st.State == wire.Paused:
		return errorf(ErrPaused, "Container %s is paused, unpause the container before exec", ref)
	case x.st.State == wire.Restarting:
		return errorf(ErrNotRunning, "Container %s is restarting, wait until the container is running", c.ID)
	case !running(x.st):
		return notRunning(c)
	}
	fd, err := unix.PidfdOpen(x.st.Pid, 0)
	if err != nil {
		return notRunning(c)
	}
	x.pidfd = os.NewFile(uintptr(fd), "pidfd")
	if !processAlive(x.st) {
		return notRunning(c)
	}
	return nil
}

// makePlan compiles the process. Its spec is the container's own, made again
// from the record: a pure function gives the same.
func (x *execRun) makePlan(ctx context.Context, _ string) error {
	if len(x.opt.Args) == 0 {
		return errorf(ErrInvalid, "No exec command specified")
	}
	r := &run{e: x.e, c: x.c}
	r.opt.Options = x.c.Options
	for _, stage := range []func(context.Context) error{r.loadImage, r.makeSpec} {
		if err := stage(ctx); err != nil {
			return err
		}
	}
	passwd, group, err := containerAccounts(x.st)
	if err != nil {
		return err
	}
	o := bundle.ExecOptions{Args: x.opt.Args, Env: x.opt.Env, User: x.opt.User, GroupAdd: x.c.Options.HostConfig.GroupAdd,
		Cwd: x.opt.WorkingDir, Tty: x.opt.TTY, Privileged: x.opt.Privileged}
	if o.Privileged {
		if o.Available, err = bundle.AvailableCaps(); err != nil {
			return err
		}
	}
	proc, err := bundle.ExecProcess(r.spec, o, passwd, group)
	if err != nil {
		return &Error{Kind: ErrInvalid, Msg: err.Error(), cause: err}
	}
	if x.opt.TTY {
		// In place before the process looks.
		proc.ConsoleSize = &specs.Box{Height: uint(x.opt.Rows), Width: uint(x.opt.Cols)}
	}
	target, err := execTarget(r, x.st)
	if err != nil {
		return err
	}
	filter, err := r.filter()
	if err != nil {
		return err
	}
	x.plan, err = plan.CompileExec(r.spec, proc, target, plan.Options{
		Filter: filter, ID: x.c.ID, NetNS: x.c.bridged(), OwnStdio: ownStdio(x.opt.TTY, x.opt.Stdin), Layout: r.layout,
	})
	if err != nil {
		return fmt.Errorf("plan exec in container %s: %w", x.c.Name, err)
	}
	return nil
}

// containerAccounts reads the users of a running container as its processes see them.
func containerAccounts(st wire.Status) (passwd, group []byte, err error) {
	root, err := processRoot(st)
	if err != nil {
		return nil, nil, err
	}
	defer root.Close()
	for name, to := range map[string]*[]byte{"etc/passwd": &passwd, "etc/group": &group} {
		fd, err := openIn(int(root.Fd()), name, unix.O_RDONLY|unix.O_NONBLOCK)
		if err != nil {
			continue // none: only numbers can be used
		}
		b, err := readSmall(fd)
		if err != nil && !errors.Is(err, errNotPlain) {
			return nil, nil, fmt.Errorf("read the container's %s: %w", name, err)
		}
		*to = b
	}
	return passwd, group, nil
}

func execTarget(r *run, st wire.Status) (plan.ExecTarget, error) {
	t := plan.ExecTarget{Pid: st.Pid}
	h, err := r.layout.Handle(r.c.CgroupPath())
	if err != nil {
		return t, err
	}
	t.CgroupDir = h.Unified
	for _, dir := range h.V1 {
		t.Tasks = append(t.Tasks, dir+"/tasks")
	}
	return t, nil
}

func (x *execRun) makeRecord(context.Context, string) (err error) {
	if x.id, err = newID(); err != nil {
		return err
	}
	dir := x.e.execDir(x.c.ID, x.id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the exec record: %w", err)
	}
	b, err := json.Marshal(ExecSession{ID: x.id, ContainerID: x.c.ID, Options: x.opt, Created: time.Now()})
	if err != nil {
		return fmt.Errorf("make the exec record: %w", err)
	}
	if err := os.WriteFile(dir+"/config.json", b, 0o600); err != nil {
		return fmt.Errorf("make the exec record: %w", err)
	}
	return nil
}

func (x *execRun) handOver(ctx context.Context, _ string) error {
	dir := x.e.execDir(x.c.ID, x.id)
	cfg := &wire.Config{
		ID: x.id, StateDir: dir, Dir: dir, Exec: true, Program: x.plan.Encode(),
		TTY: x.opt.TTY, OpenStdin: x.opt.Stdin, StdinOnce: x.opt.Stdin, Rows: x.opt.Rows, Cols: x.opt.Cols,
	}
	launch := x.launch
	x.launch = nil
	var err error
	x.session, err = launch.Run(ctx, cfg, map[string]*os.File{"pidfd": x.pidfd})
	if err != nil {
		return fmt.Errorf("exec in container %s: %w", x.c.Name, err)
	}
	x.e.emit(containerEvent(x.c, "exec_create: "+commandLine(x.opt.Args), "execID", x.id))
	return nil
}

func commandLine(args []string) string {
	s := ""
	for i, a := range args {
		if i > 0 {
			s += " "
		}
		s += a
	}
	return s
}

func (x *execRun) started(ctx context.Context) (*ExecHandle, error) {
	m, err := recv(ctx, x.session)
	if ctx.Err() != nil {
		return nil, done(ctx, "exec in container "+x.c.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("exec in container %s: its monitor ended: %w", x.c.Name, err)
	}
	switch m.Kind {
	case client.Started:
		x.pidfd.Close()
		x.e.emit(containerEvent(x.c, "exec_start: "+commandLine(x.opt.Args), "execID", x.id))
		return &ExecHandle{ID: x.id, Container: x.c, Session: x.session, Pid: m.Pid, e: x.e}, nil
	case client.Failed:
		return nil, m.Err
	}
	return nil, fmt.Errorf("exec in container %s: its monitor said %q first", x.c.Name, m.Kind)
}

func (x *execRun) undo() {
	if x.pidfd != nil {
		x.pidfd.Close()
	}
	if x.session != nil {
		x.session.Close()
	}
	if x.id != "" {
		os.RemoveAll(x.e.execDir(x.c.ID, x.id))
	}
}

// ExecHandle is a process that runs in a container.
type ExecHandle struct {
	ID        string
	Container *Container
	Session   *client.Session
	Pid       int

	e *Engine
}

// Detach leaves the process to its monitor.
func (h *ExecHandle) Detach() error { return h.Session.Close() }

// Finish removes the record of a process that has ended.
func (h *ExecHandle) Finish(exitCode int) error {
	h.Session.Close()
	h.e.emit(containerEvent(h.Container, "exec_die", "execID", h.ID, "exitCode", fmt.Sprint(exitCode)))
	if err := os.RemoveAll(h.e.execDir(h.Container.ID, h.ID)); err != nil {
		return fmt.Errorf("remove the exec record: %w", err)
	}
	return nil
}

// execIDs lists the processes that were run in the container and have not ended,
// and removes the records of those that have.
func (e *Engine) execIDs(id string) []string {
	entries, err := os.ReadDir(e.runDir(id) + "/exec")
	if err != nil {
		return nil
	}
	var ids []string
	for _, ent := range entries {
		st, err := client.ReadStatus(e.execDir(id, ent.Name()))
		if err == nil && running(st) {
			if processAlive(st) {
				ids = append(ids, ent.Name())
				continue
			}
		}
		if err == nil && st.State != wire.Created {
			os.RemoveAll(e.execDir(id, ent.Name()))
		}
	}
	slices.Sort(ids)
	return ids
}
