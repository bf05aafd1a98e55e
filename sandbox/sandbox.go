// Package sandbox is an OCI runtime without a command line: it turns a spec
// into a process, and works on the containers that it has made, whose records
// package state keeps.
//
// What is to be done is compiled by package plan and carried out by package
// spawn. Here is the order in which that, the record on disk and the control
// groups happen, so that a command can be killed at any instant: the record
// names the groups before they are made, and the process before it runs.
package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"vivarium/internal/lazyjson"
	"vivarium/sandbox/cgroup"
	"vivarium/sandbox/cgroup/handle"
	"vivarium/sandbox/netdevice"
	"vivarium/sandbox/plan"
	"vivarium/sandbox/spawn"
	"vivarium/sandbox/state"
	"vivarium/sandbox/systemd"
)

// Errors that callers of runtimes look for, in runc's words.
var (
	ErrNotRunning = errors.New("container not running")
	ErrNotPaused  = errors.New("container not paused")
)

// Bounds of waits. They end what hangs, and are far beyond what a busy machine
// needs.
const (
	lockTimeout   = 30 * time.Second
	setupTimeout  = 2 * time.Minute
	killTimeout   = 10 * time.Second
	freezeTimeout = 10 * time.Second
	startTimeout  = time.Minute
)

// Runtime works on the containers of one store.
type Runtime struct {
	Store state.Store
	// Warn takes what went wrong without being an error; nil to drop it.
	Warn func(string)
	// Debug takes what is done, in the words that logs of runc have; nil to drop it.
	Debug func(string)
	// Systemd lets systemd make the control groups of new containers.
	Systemd bool
	// NoCgroups leaves new containers in the control groups of the caller; their
	// limits are passed over.
	NoCgroups bool
	// Crun says that the caller expects crun, and not runc, where the two differ:
	// createContainer hooks begin in the bundle then, and not in the root file system, and
	// crun's record of a container is kept, too.
	Crun bool
	// Rootless is plan.Options.Rootless.
	Rootless bool
	// Trace, if not nil, hears of each step of Run and Create.
	Trace *Trace
}

func (r *Runtime) debug(format string, args ...any) {
	if r.Debug != nil {
		r.Debug(fmt.Sprintf(format, args...))
	}
}

func (r *Runtime) warn(msg string) {
	if r.Warn != nil {
		r.Warn(msg)
	}
}

// Options are what create and run take beside the bundle.
type Options struct {
	Bundle        string // absolute path
	Config        string // file of the spec, relative to Bundle; "" for config.json
	ConsoleSocket string // unix socket that takes the terminal's master
	PidFile       string
	PidFDSocket   string // unix socket that takes a pidfd of the process
	PreserveFDs   int    // descriptors 3 and up that the process keeps
	ExtraEnv      []string
	ConsoleSize   *specs.Box // of the terminal, where the spec has none
	NoPivot       bool
	NoNewKeyring  bool
	Detached      bool // nobody stays with the process of Run
	// NotifySocket is the host's socket for sd_notify(3); "" for none.
	NotifySocket string
	// BeforeCommand, if set, is called before the command can run, and while the
	// process sets itself up: there such work costs nothing.
	BeforeCommand func()
}

func (o *Options) config() string {
	switch {
	case o.Config == "":
		return filepath.Join(o.Bundle, state.SpecFile)
	case filepath.IsAbs(o.Config):
		return o.Config
	}
	return filepath.Join(o.Bundle, o.Config)
}

// Process is one that runs in a container. Its descriptors are the caller's.
type Process struct {
	Pid    int
	PidFD  int
	Master int // of its terminal, when nobody else took it; else -1
	// Notify is the socket at which the command says that it is ready; nil if
	// nobody wants to know.
	Notify *Notify
}

// Close gives up the descriptors.
func (p *Process) Close() {
	for _, fd := range []*int{&p.PidFD, &p.Master} {
		if *fd >= 0 {
			unix.Close(*fd)
			*fd = -1
		}
	}
	p.Notify.Close()
	p.Notify = nil
}

// readSpec reads a bundle's config.json.
func readSpec(path string) (*specs.Spec, []byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil, fmt.Errorf("JSON specification file %s not found", filepath.Base(path))
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read the spec: %w", err)
	}
	spec := new(specs.Spec)
	if err := lazyjson.Unmarshal(b, spec); err != nil {
		return nil, nil, fmt.Errorf("read the spec %s: %w", path, err)
	}
	return spec, b, nil
}

// launch is a container on its way to be one.
type launch struct {
	r    *Runtime
	opt  Options
	spec *specs.Spec
	raw  []byte
	run  bool // and not only create
	plan *plan.Plan
	dir  *state.Dir
	rec  *state.State
	proc *spawn.Process
	out  Process
	unit *systemd.Unit // in which systemd keeps the container; nil without it

	devices  *netdevice.Moved // that the process has got
	requests int              // of the process, that are still to come
	ahead    bool             // the process has the byte for its next wait
	ready    bool             // the process has been let go to run the command
}

// Create makes a container whose process waits for Start, without anybody who
// waits with it.
func (r *Runtime) Create(id string, o Options) error {
	l, err := r.launch(id, o, false)
	if err != nil {
		return err
	}
	defer l.close()
	return nil
}

// Run makes a container and runs its command.
func (r *Runtime) Run(id string, o Options) (*Process, error) {
	l, err := r.launch(id, o, true)
	if err != nil {
		return nil, err
	}
	out := l.out
	out.PidFD, l.proc.PidFD = l.proc.PidFD, -1
	l.out.Master, l.out.Notify = -1, nil
	l.close()
	return &out, nil
}

func (r *Runtime) launch(id string, o Options, run bool) (l *launch, err error) {
	l = &launch{r: r, opt: o, run: run, out: Process{PidFD: -1, Master: -1}}
	if err := state.CheckID(id); err != nil {
		return nil, err
	}
	r.Trace.Note("read the spec")
	if l.spec, l.raw, err = readSpec(o.config()); err != nil {
		return nil, err
	}
	if err := l.check(!run || o.Detached); err != nil {
		return nil, err
	}
	r.Trace.Note("take the container's name")
	if l.dir, err = r.Store.Reserve(id); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.abort())
			l.close()
		}
	}()
	// Hooks inside join the namespaces of a process that is not dumpable, which only
	// root may; where it waits for start, it is. And it has nothing of ours there,
	// for programs of the image to look at.
	hold := !run || unprivileged() && startHooks(l.spec)
	if err = l.record(hold); err != nil {
		return l, err
	}
	if err = l.start(hold); err != nil {
		return l, fmt.Errorf("unable to start container process: %w", err)
	}
	if run && hold {
		if err = l.startHeld(); err != nil {
			return l, err
		}
	}
	return l, l.announce()
}

// startHeld does for run what start does.
func (l *launch) startHeld() error {
	o := &opened{dir: l.dir, rec: l.rec, status: state.Created}
	if err := o.startHooks(l.spec); err != nil {
		return fmt.Errorf("unable to start container process: %w", err)
	}
	if err := o.letRun(); err != nil {
		return err
	}
	return o.poststartHooks(l.spec)
}

// check refuses what cannot be, before a name is taken.
func (l *launch) check(detached bool) error {
	p := l.spec.Process
	if p == nil || l.spec.Linux == nil || l.spec.Root == nil {
		return errors.New("the spec must have process, linux and root")
	}
	if err := checkTerminal(p.Terminal, detached, l.opt.ConsoleSocket); err != nil {
		return err
	}
	p.Env = append(p.Env, l.opt.ExtraEnv...)
	if p.Terminal && p.ConsoleSize == nil {
		p.ConsoleSize = l.opt.ConsoleSize
	}
	return nil
}

// checkTerminal: a terminal needs somebody who reads from it. The words are runc's.
func checkTerminal(terminal, detached bool, socket string) error {
	switch {
	case terminal && detached && socket == "":
		return errors.New("cannot allocate tty if runc will detach without setting console socket")
	case !(terminal && detached) && socket != "":
		return errors.New("cannot use console socket if runc will not detach or allocate tty")
	}
	return nil
}

// record compiles the plan and writes down what it will make.
func (l *launch) record(hold bool) error {
	id := l.dir.ID
	if l.r.Systemd {
		if err := l.nameScope(); err != nil {
			return err
		}
	}
	if l.spec.Linux.CgroupsPath == "" {
		l.spec.Linux.CgroupsPath = "/viv/" + id
	}
	root := l.spec.Root.Path
	if !filepath.IsAbs(root) {
		root = filepath.Join(l.opt.Bundle, root)
	}
	if err := setEnv(l.spec.Process, root); err != nil {
		return err
	}
	if err := l.showNotify(); err != nil {
		return err
	}
	if l.run {
		var err error
		if l.out.Notify, err = listenNotify(l.dir, l.opt.NotifySocket); err != nil {
			return err
		}
	}
	o := plan.Options{ID: id, BundleDir: l.opt.Bundle, Hold: !hold, PreserveFDs: l.opt.PreserveFDs,
		NoPivot: l.opt.NoPivot, NoNewKeyring: l.opt.NoNewKeyring, MakeCwd: true, Hooks: true, PlainNewlines: l.opt.ConsoleSocket == "", Unprivileged: unprivileged(), Rootless: l.r.Rootless}
	if l.r.NoCgroups {
		o.Layout, o.NoDeviceRules = new(cgroup.Layout), true
		l.spec.Linux.Resources = nil
	}
	if hold {
		o.Fifo = l.dir.File(state.FifoFile)
	}
	var err error
	l.r.Trace.Note("compile the plan")
	if l.plan, err = plan.Compile(l.spec, o); err != nil {
		return err
	}
	for _, w := range l.plan.Warnings() {
		l.r.warn(w)
	}
	l.r.Trace.Note("write the record")
	groups := l.plan.Cgroups()
	if err := refuseUsed(groups.Handle); err != nil {
		return err
	}
	l.rec = &state.State{OCIVersion: specs.Version, ID: id, Bundle: l.opt.Bundle, Rootfs: root,
		Created: time.Now().UTC(), Annotations: l.spec.Annotations,
		CgroupPath: l.spec.Linux.CgroupsPath, Cgroups: groups.Handle, Rdt: l.plan.RdtDirs(), SharedPids: sharedPids(l.spec), Held: hold, Hooks: hasHooks(l.spec)}
	if l.unit != nil {
		l.rec.SystemdSlice, l.rec.SystemdUnit = l.unit.Slice, l.unit.Name
	}
	if !hasNamespace(l.spec, specs.MountNamespace) {
		if l.rec.RootMount, err = mountAt(root); err != nil {
			return err
		}
	}
	if err := l.dir.WriteSpecLocked(l.raw); err != nil {
		return err
	}
	if hold {
		if _, err := l.dir.MakeFifoLocked(); err != nil {
			return err
		}
	}
	return l.dir.SaveLocked(l.rec)
}

func sharedPids(s *specs.Spec) bool {
	for _, n := range s.Linux.Namespaces {
		if n.Type == specs.PIDNamespace && n.Path == "" {
			return false
		}
	}
	return true
}

// refuseUsed: a group with processes belongs to somebody, whom deleting this
// container would kill; runc refuses it since 1.2, and only warns before.
func refuseUsed(h handle.Handle) error {
	there := false
	for _, dir := range append([]string{h.Unified}, h.V1...) {
		there = there || dir != "" && unix.Access(dir, unix.F_OK) == nil
	}
	if !there {
		return nil
	}
	pids, err := h.Procs()
	if err != nil {
		return err
	}
	if len(pids) > 0 {
		return fmt.Errorf("container's cgroup is not empty: %d process(es) found", len(pids))
	}
	// A process that enters a frozen group stops before it can say a word.
	if frozen, err := h.Frozen(); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	} else if frozen {
		return errors.New("container's cgroup unexpectedly frozen: thaw it, or choose another cgroupsPath")
	}
	return nil
}

// start runs the plan until the process waits for start, or runs the command.
func (l *launch) start(hold bool) error {
	args := l.spec.Process.Args
	release, err := l.makeScope()
	if err != nil {
		return err
	}
	l.r.Trace.Note("load the program")
	l.debugSteps()
	l.proc, err = spawn.Start(l.plan.Program(), spawn.Options{Stdin: 0, Stdout: 1, Stderr: 2, NetNS: -1, PidFD: -1, Trace: l.r.Trace.ofProcess()})
	l.r.Trace.Note("note the process, and take its reports until it executes the command")
	release()
	if err != nil {
		return explain(err, args, l.rec.Rootfs)
	}
	if l.rec.Pid, err = l.proc.Pid, l.recordProcess(); err != nil {
		return err
	}
	l.out.Pid = l.proc.Pid
	l.r.debug("child process in init(): pid %d", l.proc.Pid)
	if l.opt.BeforeCommand != nil {
		l.opt.BeforeCommand()
	}
	l.requests = l.plan.Requests()
	if err := l.letGoLater(hold); err != nil {
		return err
	}
	for {
		rep, err := l.proc.Wait(int(setupTimeout / time.Millisecond))
		switch {
		case err != nil:
			return explain(err, args, l.rec.Rootfs)
		case rep.Kind == spawn.ReportTerminal:
			if err := l.takeTerminal(rep.File); err != nil {
				return err
			}
		case rep.Kind == spawn.ReportHooks, rep.Kind == spawn.ReportCopy, rep.Kind == spawn.ReportIdmap, rep.Kind == spawn.ReportListener:
			if err := l.answer(rep, hold); err != nil {
				return err
			}
		case rep.Kind == spawn.ReportReady && !hold:
			if err := l.beforeCommand(); err != nil {
				return err
			}
		default:
			return l.afterCommand(hold)
		}
	}
}

// letGo lets the process go on; one that has failed says why itself.
func (l *launch) letGo() error {
	if err := l.proc.Go(); err != nil && err != unix.EPIPE {
		return fmt.Errorf("let the process go on: %w", err)
	}
	return nil
}

// answer does what the process waits for, and lets it go on.
func (l *launch) answer(rep spawn.Report, hold bool) error {
	var err error
	switch rep.Kind {
	case spawn.ReportHooks:
		if err = l.moveDevices(); err == nil {
			err = l.createHooks()
		}
	case spawn.ReportCopy:
		err = copyUp(rep, l.proc.Pid)
	case spawn.ReportIdmap:
		err = mapIDs(rep)
	case spawn.ReportListener:
		err = passListener(l.spec, l.rec, l.proc, state.Creating, rep.Value)
	default:
		err = fmt.Errorf("the process asks for %q", rep.Kind)
	}
	if err == nil {
		err = l.letGo()
	}
	if err != nil {
		return err
	}
	l.requests--
	return l.letGoLater(hold)
}

// letGoLater lets it go on where it will wait next, when all has been done that
// it asks for: the byte is in the socket until it comes to read it. Where hooks
// have to be run first, nothing is sent.
func (l *launch) letGoLater(hold bool) error {
	if l.requests > 0 || l.ready || !hold && startHooks(l.spec) {
		return nil
	}
	l.ahead = true
	return l.letGo()
}

// beforeCommand is for run what start does before the command runs.
func (l *launch) beforeCommand() error {
	l.ready = true
	if l.ahead {
		return nil // it has its byte already
	}
	if !startHooks(l.spec) {
		return l.letGo()
	}
	o := &opened{dir: l.dir, rec: l.rec, status: state.Created}
	if err := o.startHooks(l.spec); err != nil {
		return err
	}
	return l.letGo()
}

// debugSteps says what is going to be done.
func (l *launch) debugSteps() {
	if l.r.Debug == nil {
		return
	}
	l.r.debug("nsexec container setup: the program of container %s", l.rec.ID)
	for _, s := range l.plan.Program().Steps {
		l.r.debug("%s: %s", s.Kind, s.Why)
	}
}

// afterCommand is what start does when the command has begun.
func (l *launch) afterCommand(hold bool) error {
	l.r.debug("init: closing the pipe to signal completion")
	if hold || !l.rec.Hooks {
		return nil
	}
	o := &opened{dir: l.dir, rec: l.rec, status: state.Running}
	return o.poststartHooks(l.spec)
}

func (l *launch) recordProcess() error {
	p, err := state.ReadProcess(l.proc.Pid)
	if err != nil {
		return fmt.Errorf("look at process %d: %w", l.proc.Pid, err)
	}
	l.rec.Pid, l.rec.StartTime = l.proc.Pid, p.StartTime
	if l.r.Crun {
		if err := l.saveCrunStatus(); err != nil {
			return err
		}
	}
	return l.dir.SaveLocked(l.rec)
}

// takeTerminal hands the terminal's master on.
func (l *launch) takeTerminal(master int) error {
	if l.opt.ConsoleSocket == "" {
		l.out.Master = master
		return nil
	}
	defer unix.Close(master)
	if err := sendFile(l.opt.ConsoleSocket, "/dev/ptmx", master); err != nil {
		return fmt.Errorf("send the terminal to the console socket: %w", err)
	}
	return nil
}

// announce tells those who wait that there is a process.
func (l *launch) announce() error {
	return announce(l.opt.PidFile, l.opt.PidFDSocket, l.proc.Pid, l.proc.PidFD)
}

func announce(pidFile, socket string, pid, pidfd int) error {
	if socket != "" {
		if err := sendFile(socket, "pidfd", pidfd); err != nil {
			return fmt.Errorf("send the pidfd to the pidfd socket: %w", err)
		}
	}
	if pidFile == "" {
		return nil
	}
	if err := state.Replace(pidFile, fmt.Append(nil, pid), 0o644); err != nil {
		return fmt.Errorf("write the pid file: %w", err)
	}
	return nil
}

// abort undoes a launch that failed.
func (l *launch) abort() error {
	if l.devices != nil {
		// Before its namespace ends, which would be the end of some of them.
		if err := l.devices.Back(); err != nil {
			l.r.warn(err.Error())
		}
	}
	if l.proc != nil {
		l.proc.Abandon()
	}
	if l.rec != nil {
		if err := errors.Join(stopScope(l.rec), removeGroups(l.rec)); err != nil {
			return err // the record stays: delete finds what is left
		}
		if err := unmountRoot(l.rec); err != nil {
			return err
		}
		l.r.poststopHooks(l.spec, l.rec)
	}
	return l.dir.RemoveLocked()
}

func (l *launch) close() {
	l.out.Close()
	if l.devices != nil {
		l.devices.Close()
	}
	if l.proc != nil {
		l.proc.Close()
	}
	l.dir.Close()
}

func hasNamespace(s *specs.Spec, kind specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
}

// mountAt gives the ID of the mount at a path (statx(2), STATX_MNT_ID, Linux 5.8).
func mountAt(path string) (uint64, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &st); err != nil {
		return 0, fmt.Errorf("look at the mount of %s: %w", path, err)
	}
	return st.Mnt_id, nil
}

// unmountRoot takes away the mounts of a container without a mount namespace, which
// all lie on its root directory.
func unmountRoot(rec *state.State) error {
	if rec.RootMount == 0 {
		return nil
	}
	now, err := mountAt(rec.Rootfs)
	if errors.Is(err, os.ErrNotExist) || err == nil && now == rec.RootMount {
		return nil // gone with the directory, or never made
	}
	if err == nil {
		err = unix.Unmount(rec.Rootfs, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
	if err != nil {
		return fmt.Errorf("unmount the container's root file system %s: %w", rec.Rootfs, err)
	}
	return nil
}

// removeGroups ends what runs in a container's groups, and removes them.
func removeGroups(rec *state.State) error {
	if err := removeControlGroups(rec); err != nil {
		return err
	}
	for _, dir := range rec.Rdt {
		if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
			return fmt.Errorf("remove the resctrl group %s of the container: %w", dir, err)
		}
	}
	return nil
}

func removeControlGroups(rec *state.State) error {
	h := rec.Cgroups
	// The processes of a pid namespace end with its first one: then there is
	// nothing to look for.
	if !rec.SharedPids && h.Remove(0) == nil {
		return nil
	}
	if err := h.Kill(killTimeout); err != nil {
		return fmt.Errorf("kill the processes of the container: %w", err)
	}
	if err := h.Remove(killTimeout); err != nil {
		return fmt.Errorf("remove the control groups of the container: %w", err)
	}
	return nil
}

// sendFile sends a descriptor over a unix socket, with a name (unix(7)).
func sendFile(path, name string, fd int) error {
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	if err := unix.Connect(s, &unix.SockaddrUnix{Name: path}); err != nil {
		return fmt.Errorf("connect to %s: %w", path, err)
	}
	if err := unix.Sendmsg(s, []byte(name), unix.UnixRights(fd), nil, 0); err != nil {
		return fmt.Errorf("send to %s: %w", path, err)
	}
	return nil
}
