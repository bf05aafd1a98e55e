package plan

import (
	"errors"
	"fmt"
	"path"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"vivarium/sandbox/cgroup"
	"vivarium/sandbox/cgroup/devicebpf"
	"vivarium/sandbox/program"
)

// cgroups makes the container's groups and writes their limits before the
// process exists.
func (c *compiler) cgroups() {
	b := c.b
	if err := c.findLayout(); err != nil {
		b.fail(err)
		return
	}
	own := "/viv/" + c.opt.ID
	p := c.spec.Linux.CgroupsPath
	if p == "" {
		p = own
	}
	setup, err := c.compileGroups(p, p != own)
	if err != nil {
		b.fail(errorf("cgroup %s: %w", p, err))
		return
	}
	c.setup = setup
	b.in(&b.prog.Before)
	defer b.in(&b.prog.Child)
	b.begin("cgroup", "make the control groups "+p)
	for _, d := range setup.Dirs {
		b.do(unix.SYS_MKDIRAT, n(cwd), b.str(d), n(0o755)).tolerate(unix.EEXIST)
	}
	for _, w := range setup.Writes {
		b.begin("cgroup", w.Why+": write "+strings.TrimSpace(w.Value)+" to "+w.Path())
		f, open := b.openat(n(cwd), w.Path(), unix.O_WRONLY)
		wr := b.write(f, w.Value)
		if w.Optional {
			wr.tolerateAll()
			open.tolerateAll()
		}
		b.close(f)
		if w.Optional {
			b.onErrorSkipHere(open)
		}
	}
	c.delegate()
	c.openGroups(setup.Tasks, setup.CgroupDir)
	c.deviceFilter(setup.Devices)
	c.undoGroups()
}

// compileGroups looks only at the hierarchies in which we may make groups. A user
// who may in none gets a container without, unless it was a group that he asked
// for, or a limit.
func (c *compiler) compileGroups(p string, asked bool) (cgroup.Setup, error) {
	layout := c.layout
	if c.opt.Rootless {
		ours, err := layout.Delegated(p)
		if err != nil {
			return cgroup.Setup{}, err
		}
		none := len(ours.Hierarchies) == 0 && len(layout.Hierarchies) > 0
		if none && asked {
			return cgroup.Setup{}, fmt.Errorf("unable to apply cgroup configuration: make the group: %w", unix.EACCES)
		}
		if none && c.ns.fresh&unix.CLONE_NEWPID == 0 {
			c.warnings = append(c.warnings, "the container has neither a control group nor a PID namespace of its own, and not all of its processes can be found to end them. Such configuration is strongly discouraged")
		}
		layout = ours
	}
	setup, err := cgroup.Compile(layout, p, c.spec.Linux.Resources, cgroup.Options{Lenient: c.opt.Lenient, NoDeviceRules: c.opt.Rootless || c.opt.NoDeviceRules})
	if errors.Is(err, cgroup.ErrUnsupported) && controllers(layout) < controllers(c.layout) {
		err = fmt.Errorf("rootless needs no limits + no cgrouppath when no permission is granted for cgroups: %w", err)
	}
	return setup, err
}

// controllers counts those that a layout has.
func controllers(l cgroup.Layout) (count int) {
	for _, h := range l.Hierarchies {
		count += len(h.Controllers)
	}
	return count
}

func (c *compiler) findLayout() error {
	if c.opt.Layout != nil {
		c.layout = *c.opt.Layout
		return nil
	}
	l, err := cgroup.Detect()
	c.layout = l
	return err
}

// openGroups opens what the child enters its groups by: it is born in the v2
// group, and writes itself into the v1 ones.
func (c *compiler) openGroups(tasks []string, dir string) {
	b := c.b
	if len(tasks) > 0 {
		b.begin("cgroup", "open the lists of processes of the groups")
		for _, t := range tasks {
			f, _ := b.openat(n(cwd), t, unix.O_WRONLY)
			c.tasks = append(c.tasks, f)
		}
	}
	if dir != "" {
		b.begin("cgroup", "open the group in which the process will be born")
		b.prog.CgroupSlot, _ = b.openat(n(cwd), dir, unix.O_PATH|unix.O_DIRECTORY)
	}
}

// attachSelf: a process with one thread that writes "0" into tasks moves itself
// and takes no lock that stops every fork and exit of the machine, as moving
// another process does (kernel/cgroup/cgroup.c, cgroup_procs_write_start).
func (c *compiler) attachSelf() {
	if len(c.tasks) == 0 {
		return
	}
	b := c.b
	b.begin("cgroup", "enter the control groups")
	for _, t := range c.tasks {
		b.write(t, "0")
	}
}

// deviceFilter attaches the eBPF program that stands for v1's device files.
func (c *compiler) deviceFilter(rules []devicebpf.Rule) {
	code := devicebpf.Compile(rules)
	if len(rules) == 0 || len(code) == 0 || c.setup.CgroupDir == "" {
		return
	}
	b := c.b
	const (
		cmdLoad, cmdAttach  = 5, 8
		typeDevice          = 15 // BPF_PROG_TYPE_CGROUP_DEVICE
		attachDevice, multi = 6, 2
		attrSize            = 72
	)
	b.begin("device", "load and attach the program that decides which devices may be opened")
	insns := b.bytes(code)
	licence := b.text("Apache-2.0")
	load := b.buf(attrSize) // union bpf_attr (bpf(2))
	*b.word(load) = typeDevice | uint64(len(code)/8)<<32
	b.reloc(load+8, insns)
	b.reloc(load+16, licence)
	prog := b.slot()
	b.do(unix.SYS_BPF, n(cmdLoad), ptr(load), n(attrSize)).into(prog)
	dir, _ := b.openat(n(cwd), c.setup.CgroupDir, unix.O_RDONLY|unix.O_DIRECTORY)
	attach := b.words(0, attachDevice|multi<<32, 0, 0)
	b.do(int(program.PokeInt), n(attach), n(int(dir)))
	b.do(int(program.PokeInt), n(attach+4), n(int(prog)))
	b.do(unix.SYS_BPF, n(cmdAttach), ptr(attach), n(32))
}

// undoGroups removes the groups again when the container does not come to be.
func (c *compiler) undoGroups() {
	b := c.b
	b.in(&b.prog.Undo)
	b.begin("cgroup", "remove the control groups")
	for _, d := range c.setup.Remove {
		b.do(unix.SYS_UNLINKAT, n(cwd), b.str(d), n(unix.AT_REMOVEDIR)).tolerateAll()
	}
}

// execCgroups enters the groups of a running container.
func (c *compiler) execCgroups(t ExecTarget) {
	b := c.b
	b.in(&b.prog.Before)
	c.openGroups(t.Tasks, t.CgroupDir)
	b.in(&b.prog.Child)
}

// mountCgroup shows the container's control groups at /sys/fs/cgroup: on v2 the
// one hierarchy; on v1 a tmpfs with a directory for each.
func (c *compiler) mountCgroup(m *specs.Mount, o mountOpts) error {
	b := c.b
	own := c.ns.fresh&unix.CLONE_NEWCGROUP != 0
	attr := o.set | o.recSet
	if c.layout.Mode() == cgroup.V2 {
		b.begin("mount", "show the control groups at "+m.Destination)
		var fs int16
		if own || c.setup.CgroupDir == "" {
			fs = b.newFS("cgroup2", "cgroup", nil, attr)
		} else {
			fs = b.tree(n(cwd), c.setup.CgroupDir, true)
			b.setAttr(fs, attr, 0, unix.MS_PRIVATE, true)
		}
		b.attach(fs, b.target(c.root, m.Destination, true))
		return nil
	}
	b.begin("mount", "show the control groups at "+m.Destination+": one directory a hierarchy")
	top := b.newFS("tmpfs", "tmpfs", []Param{{Key: "mode", Value: "755"}}, attr&^unix.MOUNT_ATTR_RDONLY)
	b.attach(top, b.target(c.root, m.Destination, true))
	for _, h := range c.layout.Hierarchies {
		if h.V2 {
			continue // without controllers; containers of a hybrid machine see v1
		}
		c.mountV1(top, h, attr, own)
	}
	if attr&unix.MOUNT_ATTR_RDONLY != 0 {
		b.setAttr(top, unix.MOUNT_ATTR_RDONLY, 0, 0, false)
	}
	return nil
}

// mountV1 shows one v1 hierarchy in the directory top.
func (c *compiler) mountV1(top int16, h cgroup.Hierarchy, attr uint64, own bool) {
	b := c.b
	dir := path.Base(h.Mount)
	b.do(unix.SYS_MKDIRAT, slot(top), b.str(dir), n(0o755)).tolerate(unix.EEXIST)
	var fs int16
	if own {
		var params []Param
		for _, ctl := range h.Controllers {
			params = append(params, Param{Key: ctl, Flag: true})
		}
		if h.Name != "" {
			params = append(params, Param{Key: "none", Flag: true}, Param{Key: "name", Value: h.Name})
		}
		fs = b.newFS("cgroup", "cgroup", params, attr)
	} else {
		fs = b.tree(n(cwd), c.groupIn(h), true)
		b.setAttr(fs, attr, 0, unix.MS_PRIVATE, true)
	}
	t, _ := b.openat(slot(top), dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	b.attach(fs, t)
	if len(h.Controllers) > 1 {
		for _, ctl := range h.Controllers {
			if ctl != dir {
				b.do(unix.SYS_SYMLINKAT, b.str(dir), slot(top), b.str(ctl)).tolerate(unix.EEXIST)
			}
		}
	}
}

// groupIn is the container's directory in a v1 hierarchy.
func (c *compiler) groupIn(h cgroup.Hierarchy) string {
	for _, d := range c.setup.Handle.V1 {
		if strings.HasPrefix(d, h.Mount+"/") {
			return d
		}
	}
	return h.Mount
}
