package plan

import (
	"os"

	"golang.org/x/sys/unix"
)

// LSM says which security modules the kernel enforces.
type LSM struct{ AppArmor, SELinux bool }

// lsm looks, if the caller does not say.
func (c *compiler) lsm() LSM {
	if c.opt.LSM == nil {
		on, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
		var fs unix.Statfs_t
		c.opt.LSM = &LSM{
			AppArmor: err == nil && len(on) > 0 && on[0] == 'Y',
			SELinux:  unix.Statfs("/sys/fs/selinux", &fs) == nil && uint32(fs.Type) == unix.SELINUX_MAGIC,
		}
	}
	return *c.opt.LSM
}

// labels prepares what the security modules are to make of the process at its
// execve, which the stub writes, for it is who does that; see program.Program.
// The words of the refusals are runc's.
func (c *compiler) labels() {
	p := c.spec.Process
	confined := p.ApparmorProfile != "" && p.ApparmorProfile != "unconfined"
	switch {
	case confined && !c.lsm().AppArmor:
		c.b.fail(errorf("apparmor: config provided but apparmor not supported"))
	case p.SelinuxLabel != "" && !c.lsm().SELinux:
		c.b.fail(errorf("selinux label is specified in config, but selinux is disabled or not supported"))
	case confined && p.SelinuxLabel != "":
		c.b.fail(errorf("apparmorProfile and selinuxLabel for one process: %w", ErrUnsupported))
	case confined:
		c.label("exec "+p.ApparmorProfile, "apparmor", "be confined by the profile "+p.ApparmorProfile+" from execve on")
	case p.SelinuxLabel != "":
		c.label(p.SelinuxLabel, "selinux", "have the label "+p.SelinuxLabel+" from execve on")
	}
}

// label lets the stub write to a file of its own directory in the host's /proc,
// where nobody in the container can have put something else; that it is a procfs
// is looked at all the same (CVE-2025-52881).
func (c *compiler) label(text, kind, why string) {
	b := c.b
	file := "attr/" + kind + "/exec" // where several modules are stacked (Linux 5.8)
	if _, err := os.Stat("/proc/self/" + file); err != nil {
		file = "attr/exec"
	}
	b.in(&b.prog.Before)
	b.begin(kind, "open /proc, for the label of the process")
	proc, _ := b.openat(n(cwd), "/proc", unix.O_PATH|unix.O_DIRECTORY)
	fs := b.buf(statfsSize)
	b.do(unix.SYS_FSTATFS, slot(proc), ptr(fs))
	b.do(int(checkOp), n(fs), n(^uint64(0)), n(uint64(unix.PROC_SUPER_MAGIC)), n(int(unix.EXDEV)))
	b.in(&b.prog.Child)
	b.prog.LabelText, b.prog.LabelFile, b.prog.LabelSlot = text, "self/"+file, proc
	c.labelWhy = [2]string{kind, why}
}

// keepLabelled keeps the directory open over the execve of the stub, which
// closes it before it goes on, or fails.
func (c *compiler) keepLabelled() {
	if c.labelWhy[0] == "" {
		return
	}
	b := c.b
	b.begin(c.labelWhy[0], c.labelWhy[1])
	b.prog.LabelOp = len(*b.ops)
	b.do(unix.SYS_FCNTL, slot(b.prog.LabelSlot), n(unix.F_SETFD), n(0))
}

// unlabelled are file systems that take no label from a mount option.
var unlabelled = map[string]bool{"proc": true, "sysfs": true, "mqueue": true, "cgroup": true, "cgroup2": true}

// labelled adds the label of the container's mounts to the options of a new file
// system (mount(8), "context="). Without SELinux there are no labels that a mount
// could be told to show: linux.mountLabel says nothing then, as for crun.
func (c *compiler) labelled(fstype string, params []Param) []Param {
	label := c.spec.Linux.MountLabel
	if label == "" || unlabelled[fstype] || !c.lsm().SELinux {
		return params
	}
	return append(params[:len(params):len(params)], Param{Key: "context", Value: label})
}
