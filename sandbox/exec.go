package sandbox

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"vivarium/sandbox/plan"
	"vivarium/sandbox/spawn"
	"vivarium/sandbox/state"
)

// ExecOptions are what exec takes beside the process.
type ExecOptions struct {
	ConsoleSocket string
	PidFile       string
	PidFDSocket   string
	PreserveFDs   int
	Detached      bool
	IgnorePaused  bool
	// BeforeCommand, if set, is called before the command can run.
	BeforeCommand func()
	// Cgroups are paths below the container's groups, by v1 controller; the
	// empty name is for all.
	Cgroups map[string]string
	Debug   func(string) // takes what explains a failure later; nil to drop it
}

func (o *ExecOptions) debug(msg string) {
	if o.Debug != nil {
		o.Debug(msg)
	}
}

// Exec runs a process in a running container. make gives it, from the spec that
// the container was made of.
func (r *Runtime) Exec(id string, make func(*specs.Spec) (*specs.Process, error), o ExecOptions) (*Process, error) {
	c, err := r.open(id, false)
	if err != nil {
		return nil, err
	}
	defer c.dir.Close()
	switch {
	case c.status == state.Stopped || c.status == state.Creating:
		return nil, fmt.Errorf("cannot exec in a container that is %s", c.status)
	case c.status == state.Paused && !o.IgnorePaused:
		return nil, errors.New("cannot exec in a paused container (use --ignore-paused to override)")
	}
	spec, err := c.spec()
	if err != nil {
		return nil, err
	}
	proc, err := make(spec)
	if err != nil {
		return nil, err
	}
	if err := checkTerminal(proc.Terminal, o.Detached, o.ConsoleSocket); err != nil {
		return nil, err
	}
	pidfd, err := unix.PidfdOpen(c.rec.Pid, 0)
	if err != nil {
		return nil, fmt.Errorf("open the first process of container %s: %w", id, err)
	}
	defer unix.Close(pidfd)
	if alive, err := c.rec.Alive(); err != nil || !alive {
		return nil, errors.Join(ErrNotRunning, err)
	}
	return c.exec(spec, proc, pidfd, r.Rootless, o)
}

func (c *opened) exec(spec *specs.Spec, proc *specs.Process, pidfd int, rootless bool, o ExecOptions) (*Process, error) {
	target, err := c.target(o.Cgroups)
	if err != nil {
		return nil, fmt.Errorf("unable to start container process: %w", err)
	}
	if err := setEnv(proc, c.firstRoot()); err != nil {
		return nil, err
	}
	if o.BeforeCommand != nil { // nothing holds the child back: it runs the command when it is ready
		o.BeforeCommand()
	}
	if a := proc.ExecCPUAffinity; a != nil && a.Initial != "" {
		o.debug("nsexec: affinity: " + plan.AffinityMask(a.Initial))
	}
	begin := func() (*spawn.Process, error) {
		p, err := plan.CompileExec(spec, proc, target, plan.Options{ID: c.rec.ID, BundleDir: c.rec.Bundle, PreserveFDs: o.PreserveFDs, Hooks: true, PlainNewlines: o.ConsoleSocket == "",
			Unprivileged: unprivileged(), Rootless: rootless})
		if err != nil {
			return nil, err
		}
		o.debug("nsexec container setup: enter the namespaces of container " + c.rec.ID)
		return spawn.Start(p.Program(), spawn.Options{Stdin: 0, Stdout: 1, Stderr: 2, NetNS: -1, PidFD: pidfd})
	}
	child, err := begin()
	if busyGroup(err) {
		if len(o.Cgroups) > 0 {
			return nil, fmt.Errorf("unable to start container process: %w", errEnter(target.CgroupDir+"/cgroup.procs", "write", unix.EBUSY))
		}
		if target.CgroupDir, err = c.groupOfFirst(); err != nil {
			return nil, err
		}
		child, err = begin()
	}
	if err != nil {
		return nil, fmt.Errorf("unable to start container process: %w", explain(err, proc.Args, c.firstRoot()))
	}
	o.debug(fmt.Sprintf("child process in init(): pid %d", child.Pid))
	l := &launch{opt: Options{ConsoleSocket: o.ConsoleSocket}, spec: spec, rec: c.rec, proc: child, out: Process{Pid: child.Pid, PidFD: -1, Master: -1}}
	if err := l.awaitExec(child, proc.Args, c.status == state.Paused); err != nil {
		child.Abandon()
		l.out.Close()
		return nil, err
	}
	l.out.Pid = child.Pid // a second one, where the first had to join namespaces
	o.debug("setns_init: about to exec " + proc.Args[0])
	if err := announce(o.PidFile, o.PidFDSocket, child.Pid, child.PidFD); err != nil {
		child.Abandon()
		l.out.Close()
		return nil, err
	}
	l.out.PidFD, child.PidFD = child.PidFD, -1
	child.Close()
	return &l.out, nil
}

// firstRoot is the root directory of the container's first process.
func (o *opened) firstRoot() string { return "/proc/" + strconv.Itoa(o.rec.Pid) + "/root" }

// busyGroup says whether a process could not be born in its v2 group because that
// group passes controllers on: only groups below it may have processes then
// (cgroups(7), "no internal processes").
func busyGroup(err error) bool {
	var e *spawn.Error
	return errors.As(err, &e) && e.Step.Kind == "clone" && e.Errno == unix.EBUSY
}

// groupOfFirst gives the v2 group in which the container's first process is: it may
// have moved itself below the container's own. runc's exec follows it there, too.
func (c *opened) groupOfFirst() (string, error) {
	file := "/proc/" + strconv.Itoa(c.rec.Pid) + "/cgroup"
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("find the cgroup of the container's first process: %w", err)
	}
	mount := mountOfGroup(c.rec.Cgroups.Unified, c.rec.CgroupPath)
	for line := range strings.Lines(string(b)) {
		if path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			return mount + path, nil
		}
	}
	return "", fmt.Errorf("find the cgroup of the container's first process: %s names no v2 group", file)
}

// awaitExec takes the reports of a process until it runs the command. In a
// paused container that takes until somebody lets it go on.
func (l *launch) awaitExec(child *spawn.Process, args []string, paused bool) error {
	timeout := int(setupTimeout / time.Millisecond)
	if paused {
		timeout = -1
	}
	for {
		rep, err := child.Wait(timeout)
		if err != nil {
			return fmt.Errorf("unable to start container process: %w", explain(err, args, (&opened{rec: l.rec}).firstRoot()))
		}
		switch rep.Kind {
		case spawn.ReportTerminal:
			err = l.takeTerminal(rep.File)
		case spawn.ReportListener:
			if err = passListener(l.spec, l.rec, child, state.Running, rep.Value); err == nil {
				err = l.letGo()
			}
		default:
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// target finds the groups that the process enters: the container's, or those
// below that were asked for, which must exist.
func (c *opened) target(sub map[string]string) (plan.ExecTarget, error) {
	h := c.rec.Cgroups
	t := plan.ExecTarget{Pid: c.rec.Pid, CgroupDir: h.Unified}
	used := 0
	below := func(dir, controllers string) (string, error) {
		for _, name := range strings.Split(controllers, ",") {
			if s, ok := sub[name]; ok {
				used++
				return joinGroup(dir, s)
			}
		}
		if s, ok := sub[""]; ok {
			return joinGroup(dir, s)
		}
		return dir, nil
	}
	for _, dir := range h.V1 {
		d, err := below(dir, controllersOf(dir, c.rec.CgroupPath))
		if err != nil {
			return t, err
		}
		t.Tasks = append(t.Tasks, d+"/tasks")
	}
	if s, ok := sub[""]; ok && h.Unified != "" {
		d, err := joinGroup(h.Unified, s)
		if err != nil && len(h.V1) == 0 {
			return t, err
		}
		if err == nil {
			t.CgroupDir = d
		}
	}
	for name := range sub {
		if name != "" && used == 0 {
			return t, fmt.Errorf("unknown controller %s in --cgroup", name)
		}
	}
	return t, nil
}

// controllersOf gives the controllers of a v1 directory: the mount point's name.
func controllersOf(dir, path string) string {
	mount := mountOfGroup(dir, path)
	return mount[strings.LastIndexByte(mount, '/')+1:]
}

// mountOfGroup is where the hierarchy is mounted in which a group has this directory.
func mountOfGroup(dir, path string) string {
	return strings.TrimSuffix(dir, "/"+strings.Trim(path, "/"))
}

// errEnter says that the new process could not enter a group, in runc's words. The
// pid is what a process writes there to mean itself (cgroups(7)).
func errEnter(file, verb string, err error) error {
	var at *os.PathError
	if errors.As(err, &at) {
		err = at.Err
	}
	return fmt.Errorf("error adding pid 0 to cgroups: %s %s: %w", verb, file, err)
}

func joinGroup(dir, sub string) (string, error) {
	for _, part := range strings.Split(sub, "/") {
		if part == ".." {
			return "", fmt.Errorf("bad sub cgroup path: %s is not a sub cgroup path", sub) // the words of runc 1.1 come last
		}
	}
	dir += "/" + strings.Trim(sub, "/")
	if _, err := os.Lstat(dir); err != nil {
		return "", errEnter(dir+"/cgroup.procs", "open", err)
	}
	return strings.TrimSuffix(dir, "/"), nil
}
