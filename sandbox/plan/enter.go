package plan

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"vivarium/sandbox/program"
)

// Enter says how a command of the host joins namespaces of a process.
type Enter struct {
	Flags uint64 // of the namespaces, as for setns(2)
	Args  []string
	Env   []string
	Path  string // of the command, in the mount namespace where it runs; "" to look for it
	Root  string // directory of the host that becomes the root; "" for that of the namespace
	Dir   string // working directory of the host; "" to keep it, or of another mount namespace its root
	// UID and GID are what it becomes; nil to stay what it is.
	UID, GID *uint32
}

// CompileEnter compiles a command that joins namespaces of a process, whose pidfd is
// in program.SlotPidFD, and is otherwise as who starts it: its session, its terminal,
// its descriptors. This is nsenter(1).
func CompileEnter(e Enter) (*Plan, error) {
	spec := &specs.Spec{Process: &specs.Process{Args: e.Args, Env: e.Env, Cwd: "/"}, Linux: &specs.Linux{}, Root: &specs.Root{Path: "/"}}
	c, err := newCompiler(spec, Options{NoNewKeyring: true, ExecPath: e.Path})
	if err != nil {
		return nil, err
	}
	b := c.b
	if e.Flags&unix.CLONE_NEWPID != 0 {
		c.aroundClone("pid", unix.CLONE_NEWPID, "pid_for_children", "of the process", func() int16 { return program.SlotPidFD })
	}
	b.in(&b.prog.Before)
	root, dir := program.None, program.None
	open := func(path string) int {
		b.begin("rootfs", "open the directory "+path)
		f, _ := b.openat(n(cwd), path, unix.O_PATH|unix.O_DIRECTORY)
		return int(f)
	}
	if e.Root != "" {
		root = open(e.Root)
	}
	if e.Root != "" && e.Dir == "" {
		e.Dir = "." // chroot(2) is called in the directory itself
	}
	if e.Dir != "" {
		dir = open(e.Dir)
	}
	b.in(&b.prog.Child)
	if join := e.Flags & allNamespaces; join != 0 {
		b.begin("namespace", "join the namespaces of the process, all at once")
		b.do(unix.SYS_SETNS, slot(program.SlotPidFD), n(join))
	}
	if root != program.None {
		b.begin("rootfs", "change the root directory")
		b.do(unix.SYS_FCHDIR, slot(int16(root)))
		b.do(unix.SYS_CHROOT, b.str("."))
	}
	if dir != program.None {
		b.begin("cwd", "enter the working directory")
		b.do(unix.SYS_FCHDIR, slot(int16(dir)))
	}
	if e.GID != nil {
		b.begin("user", "become group "+utoa(*e.GID))
		b.do(unix.SYS_SETGROUPS, n(0), n(0)).tolerate(unix.EPERM) // denied in some user namespaces
		b.do(unix.SYS_SETRESGID, n(*e.GID), n(*e.GID), n(*e.GID))
	}
	if e.UID != nil {
		b.begin("user", "become user "+utoa(*e.UID))
		b.do(unix.SYS_SETRESUID, n(*e.UID), n(*e.UID), n(*e.UID))
	}
	c.stdio()
	c.exec()
	return c.plan()
}
