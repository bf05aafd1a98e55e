// Package plan compiles an OCI spec into a list of typed steps, each a few raw
// system calls with the reason for them. The list is what runs: sandbox/spawn
// does nothing else.
package plan

import (
	"errors"
	"fmt"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"vivarium/sandbox/capability"
	"vivarium/sandbox/cgroup"
	"vivarium/sandbox/program"
	"vivarium/sandbox/seccomp"
)

// ErrUnsupported marks what a spec asks for and this runtime does not do.
var ErrUnsupported = errors.New("not supported")

// Root is what becomes the container's root file system: a directory (Path), or
// a file system that is made in the container's own mount namespace (FSType
// with Params, see fsopen(2) and fsconfig(2); or with Data, the options of
// mount(2), where fsconfig cannot carry them: it takes 255 bytes a value, and
// overlay takes its layers one by one only since Linux 6.8).
type Root struct {
	Path   string
	FSType string
	Params []Param
	Data   string
	// Mapped says that what is at Path belongs to the ids of the host: a user namespace sees
	// it with its own.
	Mapped bool
}

// Param is one fsconfig(2) setting; a flag when Flag is set.
type Param struct {
	Key, Value string
	Flag       bool
}

// Options is what the spec does not say.
type Options struct {
	ID        string
	BundleDir string // relative paths of the spec are below it
	Root      *Root  // instead of spec.Root.Path

	// PlainNewlines leaves the newlines that a program writes to its terminal as
	// they are: whoever copies its output to a terminal of his own has that add the
	// carriage returns, and a file gets none. So does runc without a console socket.
	PlainNewlines bool

	NetNS        bool // the network namespace comes from the caller (program.SlotNetNS)
	OwnStdio     int  // bits 0, 1, 2: that descriptor is a pipe of ours, and is given to the user
	PreserveFDs  int  // descriptors 3 to 3+n-1 go on into the container
	NoPivot      bool
	NoNewKeyring bool
	Hold         bool // report ready before the last steps, and wait
	// Fifo is a FIFO at which the process waits for a byte as its very last
	// step, without its parent (OCI create). The command is looked for before.
	Fifo string
	// Hooks says that the caller does for the child what the child asks for in a
	// report, and lets it go on then: runs the spec's hooks and moves network
	// devices ('H', before the root is changed), copies the directory below a
	// tmpfs into it ('C'), maps the ids of a mount ('I'), passes the filter's listener on ('L').
	Hooks bool
	// ExecPath is executed, instead of what the first argument names.
	ExecPath string
	MakeCwd  bool // make the working directory when it is missing
	// SaysReady is for an init that closes the socket that it finds open when it can
	// take signals: the start is over only then. The kernel drops signals that come
	// to the first process of a PID namespace before, and a Go program ends by them
	// while its runtime begins, whatever is blocked.
	SaysReady bool
	// Unprivileged: who runs the plan has no rights over namespaces, but those
	// that a user namespace gives.
	Unprivileged bool
	Lenient      bool // leave limits out that the kernel does not have, with a warning, as Docker does

	// Rootless says that the runtime may lack rights that root has: control groups
	// that it cannot make are left out, unless a limit is asked for that they would
	// impose, and so are device rules and a lower OOM score.
	Rootless bool

	// NoDeviceRules leaves the container all devices that it can reach.
	NoDeviceRules bool

	Layout  *cgroup.Layout  // the machine's control groups; nil to look
	Filter  *seccomp.Filter // taken for spec.Linux.Seccomp, which may be nil then; nil to compile that
	LastCap int             // the kernel's highest capability; 0 to look
	Resctrl string          // where resctrl is mounted; empty to look
	LSM     *LSM            // the security modules of the kernel; nil to look
}

func (o *Options) lastCap() (int, error) {
	if o.LastCap > 0 {
		return o.LastCap, nil
	}
	return capability.LastCap()
}

// Plan is a compiled spec.
type Plan struct {
	prog     *program.Program
	rdt      []string
	setup    cgroup.Setup
	requests int
	warnings []string
}

// compiler holds what the steps of one plan need to know of each other.
type compiler struct {
	b      *builder
	spec   *specs.Spec
	opt    Options
	ns     namespaces
	userNS bool

	root          int16 // the new root's mount
	proc          int16 // a procfs mounted by this program
	devpts        int16
	dev           int16
	devBound      bool    // /dev is the host's
	closed        bool    // the close step is in the plan
	readonlyLater []int16 // tmpfs mounts that become read-only when all is in its place
	cwd           uint64  // in the data: the path of the working directory, once it is entered

	requests int              // reports that the caller has to answer
	idmaps   map[string]int16 // user namespaces for id-mapped mounts, by their maps

	rdtDirs  []string // of resctrl, to be removed
	rdtTasks []int16
	labelWhy [2]string // kind and reason of the step that the stub does

	layout cgroup.Layout
	setup  cgroup.Setup
	tasks  []int16 // v1: the files through which the child enters its groups

	alone    bool     // nobody else is in the process's PID namespace yet
	warnings []string // what was left out
}

// Compile compiles a spec. It reads of the host only what it must know (which
// bind sources are directories, which cgroup hierarchies there are) and changes
// nothing. What it cannot do it refuses with an error that names it.
func Compile(spec *specs.Spec, opt Options) (*Plan, error) {
	c, err := newCompiler(spec, opt)
	if err != nil {
		return nil, err
	}
	if err := c.refuse(); err != nil {
		return nil, err
	}
	if err := c.checkMountNS(); err != nil {
		return nil, err
	}
	c.alone = c.ns.fresh&unix.CLONE_NEWPID != 0
	c.cgroups()
	c.intelRdt()
	c.cloneFlags()
	c.joinBefore()
	c.enter()
	c.fileSystems()
	c.finish()
	return c.plan()
}

func newCompiler(spec *specs.Spec, opt Options) (*compiler, error) {
	if spec.Process == nil {
		return nil, errorf("the spec has no process")
	}
	if spec.Linux == nil {
		return nil, errorf("the spec has no linux section")
	}
	if spec.Root == nil && opt.Root == nil {
		return nil, errorf("the spec has no root")
	}
	ns, err := readNamespaces(spec.Linux.Namespaces)
	if err == nil && ns.fresh&unix.CLONE_NEWUSER != 0 {
		spec, err = withMaps(spec, opt.Unprivileged)
	}
	if err != nil {
		return nil, err
	}
	c := &compiler{b: newBuilder(), spec: spec, opt: opt, ns: ns,
		root: program.None, proc: program.None, devpts: program.None, dev: program.None}
	if spec.Root != nil && opt.Root == nil && !filepath.IsAbs(spec.Root.Path) {
		c.opt.Root = &Root{Path: filepath.Join(opt.BundleDir, spec.Root.Path)}
	}
	return c, nil
}

// enter is the child's way into its groups and namespaces.
func (c *compiler) enter() {
	b := c.b
	b.begin("process", "start a session, and let nobody look into the process while it is set up")
	if c.forked() {
		// By this group the parent knows who belongs to whom, should one be killed.
		b.do(unix.SYS_SETPGID, n(0), n(0))
	} else {
		b.do(unix.SYS_SETSID).tolerate(unix.EPERM)
	}
	// Files in /proc of a process that is not dumpable are root's (proc(5)): who is
	// not root could not write the id maps.
	if !(c.opt.Rootless && c.userNS) {
		c.undumpable()
	}
	b.do(unix.SYS_UMASK, n(0))
	c.oomScore()
	c.labels()
	c.attachSelf()
	c.enterRdt()
	c.anyCPU()
	offsets := c.openTimeOffsets()
	c.joinInChild()
	if c.userFirst() {
		c.awaitMaps()
	}
	if c.forked() {
		c.timeNamespace(offsets)
		c.fork()
		b.do(unix.SYS_SETSID)
	}
	if c.ns.fresh&unix.CLONE_NEWCGROUP != 0 {
		b.begin("namespace", "make a cgroup namespace, rooted at the container's own group")
		b.do(unix.SYS_UNSHARE, n(uint64(unix.CLONE_NEWCGROUP)))
	}
	if c.userNS {
		c.takeRoot()
		if !c.userFirst() {
			c.awaitMaps()
		}
	} else if c.inUserNS() {
		b.begin("user", "become root in the user namespace")
		c.becomeRoot()
	}
	c.loopback()
	c.keyring()
}

// awaitMaps is the child's entry into a new user namespace.
func (c *compiler) awaitMaps() {
	c.b.begin("user", "wait for the id maps, then become root in the user namespace")
	c.b.await()
	if c.opt.Rootless {
		c.undumpable()
	}
	c.becomeRoot()
}

func (c *compiler) undumpable() {
	c.b.do(unix.SYS_PRCTL, n(unix.PR_SET_DUMPABLE), n(0), n(0), n(0), n(0))
}

// becomeRoot takes the ids of root in the user namespace, or where it has none
// the first that it has: who has no id there can make no files. If even those are
// not known, because the namespace is somebody else's, it stays as it is.
func (c *compiler) becomeRoot() {
	b, l := c.b, c.spec.Linux
	uid, gid := firstID(l.UIDMappings), firstID(l.GIDMappings)
	b.do(unix.SYS_SETRESGID, n(gid), n(gid), n(gid)).tolerate(unix.EINVAL)
	b.do(unix.SYS_SETRESUID, n(uid), n(uid), n(uid)).tolerate(unix.EINVAL)
}

// firstID is the lowest id that a user namespace has; 0 where it is not known.
func firstID(maps []specs.LinuxIDMapping) uint32 {
	first := uint32(0)
	for i, m := range maps {
		if i == 0 || m.ContainerID < first {
			first = m.ContainerID
		}
	}
	return first
}

// fileSystems builds the tree that the container sees.
func (c *compiler) fileSystems() {
	c.propagate()
	c.mountRoot()
	c.mounts()
	c.devices()
	if c.spec.Process.Terminal {
		c.terminal()
	}
	c.makeCwd()
	c.waitForHooks()
	c.lateReadonly()
	c.sysctls()
	c.readonlyPaths()
	c.maskedPaths()
	c.pivot()
	c.rootAttributes()
}

func (c *compiler) makeCwd() {
	if !c.opt.MakeCwd || filepath.Clean(c.spec.Process.Cwd) == "/" {
		return
	}
	c.b.begin("cwd", "make the working directory "+c.spec.Process.Cwd+" if it is missing")
	t := c.b.target(c.root, c.spec.Process.Cwd, true)
	c.b.close(t)
}

// finish gives up what set-up needed, and executes the command.
func (c *compiler) finish() {
	b := c.b
	c.hostnames(c.spec)
	if !c.spec.Process.Terminal {
		c.stdio()
	}
	if c.opt.Hold {
		b.prog.Hold = true
		b.begin("hold", "say that all is ready, and wait for start")
		b.report('R', program.None)
		b.await()
	}
	c.processAttributes()
	c.rlimits()
	c.seeWorkDir()
	c.identity()
	c.workDir()
	if c.opt.Fifo != "" && len(c.spec.Process.Args) > 0 {
		c.lookUp()
	}
	if c.spec.Process.NoNewPrivileges {
		c.seccomp()
	}
	c.exec()
}

func (c *compiler) plan() (*Plan, error) {
	if c.b.err != nil {
		return nil, c.b.err
	}
	c.b.prog.Terminal = c.spec.Process.Terminal
	return &Plan{prog: c.b.prog, setup: c.setup, requests: c.requests, rdt: c.rdtDirs, warnings: c.warnings}, nil
}

// Warnings say what the plan leaves out because the kernel does not have it,
// beside the limits of Cgroups.
func (p *Plan) Warnings() []string { return p.warnings }

// RdtDirs are directories of resctrl to remove afterwards, in order.
func (p *Plan) RdtDirs() []string { return p.rdt }

// Requests says how often the child will wait for the caller to do something
// for it; see Options.Hooks.
func (p *Plan) Requests() int { return p.requests }

// Program gives the program itself, to be run in this process.
func (p *Plan) Program() *program.Program { return p.prog }

// Encode gives the program as a monitor takes it.
func (p *Plan) Encode() []byte { return p.prog.Encode() }

// Cgroups tells of the control groups that the plan makes: what to remove
// afterwards, where to find them, which limits were left out.
func (p *Plan) Cgroups() cgroup.Setup { return p.setup }

// CgroupDirs lists those groups in the order in which to remove them.
func (p *Plan) CgroupDirs() []string { return p.setup.Remove }

func errorf(format string, args ...any) error { return fmt.Errorf(format, args...) }
