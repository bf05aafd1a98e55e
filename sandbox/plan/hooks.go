package plan

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"vivarium/sandbox/program"
)

// waitForHooks lets the child wait where network devices are moved to it, and
// where hooks are run that belong to create: the namespaces and the mounts are
// there, the root is still the host's, and no kernel parameter is written yet.
func (c *compiler) waitForHooks() {
	h := c.spec.Hooks
	//lint:ignore SA1019 old specs carry it, and Docker 20.10 writes it
	hooks := h != nil && len(h.Prestart)+len(h.CreateRuntime)+len(h.CreateContainer) > 0
	devices := len(c.spec.Linux.NetDevices) > 0
	if !c.opt.Hooks || !hooks && !devices {
		return
	}
	why := "wait for the hooks of create"
	if devices {
		why = "wait for the network devices, and the hooks of create"
	}
	c.b.begin("hooks", why)
	c.requests++
	// Who is not root can join only namespaces of a process that is dumpable
	// (setns(2), ptrace(2)). These hooks are programs of the host.
	seen := c.opt.Unprivileged && c.alone && c.hooksInside()
	if seen {
		c.b.do(unix.SYS_PRCTL, n(unix.PR_SET_DUMPABLE), n(1), n(0), n(0), n(0))
		defer c.undumpable()
	}
	c.b.report('H', program.None)
	c.b.await()
}

// hooksInside says whether hooks run in the namespaces before the root changes.
func (c *compiler) hooksInside() bool {
	return c.opt.Hooks && c.spec.Hooks != nil && len(c.spec.Hooks.CreateContainer) > 0
}

// CompileHook compiles a createContainer hook: a program of the host that runs
// in the container's namespaces while its first process, whose pidfd is in
// program.SlotPidFD, waits for it ('H'). dir is its working directory: the root
// file system, as with runc, so that hooks can name files of the container.
// unprivileged is Options.Unprivileged.
func CompileHook(spec *specs.Spec, hook *specs.Hook, dir string, unprivileged bool) (*Plan, error) {
	joined := *spec
	joined.Process = hookProcess(hook, dir)
	c, err := newCompiler(&joined, Options{Root: &Root{Path: "/"}, NoNewKeyring: true, ExecPath: hook.Path, Unprivileged: unprivileged})
	if err != nil {
		return nil, err
	}
	c.execNamespaces()
	c.stdio()
	c.workDir()
	c.exec()
	return c.plan()
}

func hookProcess(hook *specs.Hook, dir string) *specs.Process {
	args := hook.Args
	if len(args) == 0 {
		args = []string{hook.Path}
	}
	return &specs.Process{Args: args, Env: hook.Env, Cwd: dir}
}

// CompileInnerHook compiles a startContainer hook: a program of the container,
// which runs with the rights that the container's own process has, and with its
// environment, if the hook has none. unprivileged is
// Options.Unprivileged.
func CompileInnerHook(spec *specs.Spec, hook *specs.Hook, target ExecTarget, unprivileged bool) (*Plan, error) {
	p, own := hookProcess(hook, "/"), spec.Process
	if p.Env == nil {
		p.Env = own.Env
	}
	p.User, p.Capabilities, p.NoNewPrivileges, p.Rlimits = own.User, own.Capabilities, own.NoNewPrivileges, own.Rlimits
	return CompileExec(spec, p, target, Options{NoNewKeyring: true, ExecPath: hook.Path, Hooks: true, Unprivileged: unprivileged})
}
