package plan

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"vivarium/sandbox/program"
)

// ExecTarget is the container that a process joins. Namespaces are joined
// through a pidfd of its first process (program.SlotPidFD), all at once.
type ExecTarget struct {
	Pid int
	// Cgroups are the files (v1: "tasks") through which a process enters the
	// container's groups, or the one directory to be born in (v2).
	Tasks     []string
	CgroupDir string
}

// joinFlags are the namespaces that a process shares with the container it is
// executed in: those that differ from the host's.
const allNamespaces = unix.CLONE_NEWUSER | unix.CLONE_NEWCGROUP | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS |
	unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWTIME

// CompileExec compiles a process that joins a running container. spec is the
// container's own: its namespaces, its filter. The program takes the pidfd of
// the container's first process in program.SlotPidFD.
func CompileExec(spec *specs.Spec, proc *specs.Process, target ExecTarget, opt Options) (*Plan, error) {
	joined := *spec
	joined.Process = proc
	if opt.Root == nil {
		opt.Root = &Root{Path: "/"}
	}
	c, err := newCompiler(&joined, opt)
	if err != nil {
		return nil, err
	}
	if err := c.refuse(); err != nil {
		return nil, err
	}
	c.execAffinity()
	c.execCgroups(target)
	c.execRdt()
	c.execNamespaces()
	c.execRoot(target)
	if proc.Terminal {
		c.execTerminal()
	} else {
		c.stdio()
	}
	c.processAttributes()
	c.rlimits()
	c.seeWorkDir()
	c.identity()
	c.workDir()
	if proc.NoNewPrivileges {
		c.seccomp()
	}
	c.exec()
	return c.plan()
}

// execNamespaces joins what the container has of its own. The pid namespace is
// for children only, so the parent enters it around the clone.
func (c *compiler) execNamespaces() {
	b := c.b
	var flags uint64
	for _, t := range nsTypes {
		if c.ns.fresh&t.flag != 0 || c.ns.join[t.flag] != "" || (c.opt.NetNS && t.flag == unix.CLONE_NEWNET) {
			flags |= t.flag
		}
	}
	// Who has no rights over the pid namespace has them once he is in the user
	// namespace that it belongs to, where only a process with one thread can go.
	const both = unix.CLONE_NEWUSER | unix.CLONE_NEWPID
	forks := c.opt.Unprivileged && flags&both == both
	if flags&unix.CLONE_NEWPID != 0 && !forks {
		c.aroundClone("pid", unix.CLONE_NEWPID, "pid_for_children", "of the container", func() int16 { return program.SlotPidFD })
	}
	b.begin("process", "start a session, and let nobody in the container look into the process while it is set up")
	b.do(unix.SYS_PRCTL, n(unix.PR_SET_DUMPABLE), n(0), n(0), n(0), n(0))
	b.do(unix.SYS_SETSID).tolerate(unix.EPERM)
	c.oomScore()
	c.labels()
	c.attachSelf()
	c.enterRdt()
	c.finalAffinity()
	b.begin("namespace", "join the container's namespaces, all at once")
	join := flags & allNamespaces
	if forks {
		join |= unix.CLONE_NEWPID
	}
	b.do(unix.SYS_SETNS, slot(program.SlotPidFD), n(join))
	if forks {
		c.fork()
		b.do(unix.SYS_SETSID).tolerate(unix.EPERM)
	}
	if flags&unix.CLONE_NEWUSER != 0 {
		b.begin("user", "become root in the container's user namespace")
		c.becomeRoot()
	}
	c.keyring()
}

// execRoot enters the root directory of a container that has no mount namespace of
// its own: it is not the root of that namespace.
func (c *compiler) execRoot(target ExecTarget) {
	if c.ns.fresh&unix.CLONE_NEWNS != 0 {
		return
	}
	b := c.b
	why := "enter the container's root directory, which is not the root of its mount namespace"
	b.in(&b.prog.Before)
	b.begin("rootfs", why)
	root, _ := b.openat(n(cwd), "/proc/"+itoa(target.Pid)+"/root", unix.O_PATH|unix.O_DIRECTORY)
	b.in(&b.prog.Child)
	b.begin("rootfs", why)
	b.do(unix.SYS_FCHDIR, slot(root))
	b.do(unix.SYS_CHROOT, b.str("."))
}

// execTerminal makes a terminal in the devpts that the container has. What was
// opened must be a devpts (statfs(2)), not something the container put there.
func (c *compiler) execTerminal() {
	b := c.b
	b.begin("terminal", "make a terminal in the container's devpts")
	master, _ := b.openat(n(cwd), "/dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NOFOLLOW)
	fs := b.buf(int(statfsSize))
	b.do(unix.SYS_FSTATFS, slot(master), ptr(fs))
	b.do(int(checkOp), n(fs), n(^uint64(0)), n(uint64(unix.DEVPTS_SUPER_MAGIC)), n(int(unix.ENOTTY)))
	slave := c.openSlave(master)
	b.report('T', master)
	c.takeTerminal(slave)
}

const statfsSize = 120 // struct statfs on 64-bit machines
