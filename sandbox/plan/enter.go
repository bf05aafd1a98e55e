package plan

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"vivarium/sandbox/program"
)

// Enter says how a command of the host joins namespaces.
type Enter struct {
	Flags uint64 // of the namespaces of the process, as for setns(2)
	// Files are files of namespaces (namespaces(7), "The /proc/pid/ns/ directory") by
	// their flags; none of these is in Flags.
	Files map[uint64]string
	Args  []string
	Env   []string
	Path  string // of the command, in the mount namespace where it runs; "" to look for it
	Root  string // directory of the host that becomes the root; "" for that of the namespace
	Dir   string // working directory of the host; "" to keep it, or of another mount namespace its root
	// InnerDir is the working directory as it is called inside; "" for Dir.
	InnerDir string
	// UID and GID are what it becomes; nil to stay what it is.
	UID, GID *uint32
	// Groups are files cgroup.procs of the host, of the groups that it goes into first.
	Groups []string
	// DeathSignal is sent to it when the thread that has started it ends; 0 for none.
	DeathSignal unix.Signal
	// Unprivileged: it has no rights over other namespaces before it is in the user
	// namespace.
	Unprivileged bool
}

// has says whether the namespace of a flag is joined.
func (e *Enter) has(flag uint64) bool { return e.Flags&flag != 0 || e.Files[flag] != "" }

// CompileEnter compiles a command that joins namespaces of a process, whose pidfd is
// in program.SlotPidFD, or of files, and is otherwise as who starts it: its session, its
// terminal, its descriptors. This is nsenter(1).
func CompileEnter(e Enter) (*Plan, error) {
	spec := &specs.Spec{Process: &specs.Process{Args: e.Args, Env: e.Env, Cwd: "/"}, Linux: &specs.Linux{}, Root: &specs.Root{Path: "/"}}
	c, err := newCompiler(spec, Options{NoNewKeyring: true, ExecPath: e.Path})
	if err != nil {
		return nil, err
	}
	b := c.b
	// Only children of a process get into a PID namespace that it joins: the parent's, or
	// one more generation where the parent may not join it.
	twice := e.Unprivileged && e.has(unix.CLONE_NEWPID) && e.has(unix.CLONE_NEWUSER)
	if e.has(unix.CLONE_NEWPID) && !twice {
		c.aroundClone("pid", unix.CLONE_NEWPID, "pid_for_children", "that is entered", func() int16 {
			if path := e.Files[unix.CLONE_NEWPID]; path != "" {
				fd, _ := b.openat(n(cwd), path, unix.O_RDONLY)
				return fd
			}
			return program.SlotPidFD
		})
	}
	b.in(&b.prog.Before)
	files, groups := c.openNamespaces(&e, twice), c.openProcs(e.Groups)
	root, dir := c.openPlaces(&e)
	b.in(&b.prog.Child)
	if e.DeathSignal != 0 {
		b.begin("process", "end with who has started it")
		b.do(unix.SYS_PRCTL, n(unix.PR_SET_PDEATHSIG), n(int(e.DeathSignal)))
	}
	if len(groups) > 0 {
		b.begin("cgroup", "enter the control groups")
		self := b.text("0")
		for _, fd := range groups {
			b.do(unix.SYS_WRITE, slot(fd), ptr(self), n(1))
		}
	}
	c.join(&e, files, twice)
	if twice {
		c.fork()
	}
	c.enterPlaces(&e, root, dir)
	c.identify(&e)
	c.stdio()
	c.exec()
	return c.plan()
}

// openNamespaces opens the files of namespaces.
func (c *compiler) openNamespaces(e *Enter, twice bool) map[uint64]int16 {
	out := make(map[uint64]int16)
	for _, t := range nsTypes {
		if path := e.Files[t.flag]; path != "" && (t.flag != unix.CLONE_NEWPID || twice) {
			c.b.begin("namespace", "open the "+string(t.name)+" namespace "+path)
			out[t.flag], _ = c.b.openat(n(cwd), path, unix.O_RDONLY)
		}
	}
	return out
}

func (c *compiler) openProcs(files []string) []int16 {
	var out []int16
	for _, file := range files {
		c.b.begin("cgroup", "open "+file)
		fd, _ := c.b.openat(n(cwd), file, unix.O_WRONLY)
		out = append(out, fd)
	}
	return out
}

// openPlaces opens the root and the working directory, before namespaces change what
// their names mean.
func (c *compiler) openPlaces(e *Enter) (root, dir int16) {
	root, dir = program.None, program.None
	open := func(path string) int16 {
		c.b.begin("rootfs", "open the directory "+path)
		fd, _ := c.b.openat(n(cwd), path, unix.O_PATH|unix.O_DIRECTORY)
		return fd
	}
	if e.Root != "" {
		root = open(e.Root)
	}
	switch {
	case e.Dir != "":
		dir = open(e.Dir)
	case e.Root != "":
		dir = open(".") // chroot(2) is called in the directory itself
	}
	return root, dir
}

// join joins the namespaces. With rights over all of them the user namespace comes last:
// those that do not belong to it could not be joined from there. Without, it gives them.
func (c *compiler) join(e *Enter, files map[uint64]int16, twice bool) {
	b := c.b
	flags := e.Flags & allNamespaces
	if twice {
		flags |= e.Flags & unix.CLONE_NEWPID
	}
	process := func() {
		if flags != 0 {
			b.begin("namespace", "join the namespaces of the process, all at once")
			b.do(unix.SYS_SETNS, slot(program.SlotPidFD), n(flags))
		}
	}
	file := func(flag uint64) {
		if fd, ok := files[flag]; ok {
			b.begin("namespace", "join the namespace "+e.Files[flag])
			b.do(unix.SYS_SETNS, slot(fd), n(flag))
		}
	}
	if e.Unprivileged {
		file(unix.CLONE_NEWUSER)
		process()
	}
	for _, t := range nsTypes {
		if t.flag != unix.CLONE_NEWUSER {
			file(t.flag)
		}
	}
	if !e.Unprivileged {
		process()
		file(unix.CLONE_NEWUSER)
	}
}

func (c *compiler) enterPlaces(e *Enter, root, dir int16) {
	b := c.b
	if root != program.None {
		b.begin("rootfs", "change the root directory")
		b.do(unix.SYS_FCHDIR, slot(root))
		b.do(unix.SYS_CHROOT, b.str("."))
	}
	switch {
	case e.InnerDir != "":
		b.begin("cwd", "enter the working directory "+e.InnerDir)
		b.do(unix.SYS_CHDIR, b.str(e.InnerDir))
	case dir != program.None:
		b.begin("cwd", "enter the working directory")
		b.do(unix.SYS_FCHDIR, slot(dir))
	}
}

func (c *compiler) identify(e *Enter) {
	b := c.b
	if e.GID != nil {
		b.begin("user", "become group "+utoa(*e.GID))
		b.do(unix.SYS_SETGROUPS, n(0), n(0)).tolerate(unix.EPERM) // denied in some user namespaces
		b.do(unix.SYS_SETRESGID, n(*e.GID), n(*e.GID), n(*e.GID))
	}
	if e.UID != nil {
		b.begin("user", "become user "+utoa(*e.UID))
		b.do(unix.SYS_SETRESUID, n(*e.UID), n(*e.UID), n(*e.UID))
	}
}
