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

// labels sets what the security modules are to make of the process at its next
// execve. The words of the refusals are runc's.
func (c *compiler) labels() {
	b, p := c.b, c.spec.Process
	if profile := p.ApparmorProfile; profile != "" && profile != "unconfined" {
		if !c.lsm().AppArmor {
			b.fail(errorf("apparmor: config provided but apparmor not supported"))
			return
		}
		b.begin("apparmor", "be confined by the profile "+profile+" from execve on")
		// A directory of its own where several modules are stacked (Linux 5.8).
		own, open := b.openat(n(cwd), "/proc/thread-self/attr/apparmor/exec", unix.O_WRONLY)
		open.tolerate(unix.ENOENT)
		b.do(unix.SYS_OPENAT, n(cwd), b.str("/proc/thread-self/attr/exec"), n(unix.O_WRONLY|unix.O_CLOEXEC), n(0)).into(own)
		b.onSuccessSkipHere(open)
		c.writeAttribute(own, "exec "+profile)
	}
	if p.SelinuxLabel != "" {
		if !c.lsm().SELinux {
			b.fail(errorf("selinux label is specified in config, but selinux is disabled or not supported"))
			return
		}
		b.begin("selinux", "have the label "+p.SelinuxLabel+" from execve on")
		f, _ := b.openat(n(cwd), "/proc/thread-self/attr/exec", unix.O_WRONLY)
		c.writeAttribute(f, p.SelinuxLabel)
	}
}

// writeAttribute writes to a file of the host's /proc, before the process goes
// where others could have put something else there; that it is a procfs is
// looked at all the same (CVE-2025-52881).
func (c *compiler) writeAttribute(file int16, text string) {
	b := c.b
	fs := b.buf(statfsSize)
	b.do(unix.SYS_FSTATFS, slot(file), ptr(fs))
	b.do(int(checkOp), n(fs), n(^uint64(0)), n(uint64(unix.PROC_SUPER_MAGIC)), n(int(unix.EXDEV)))
	b.write(file, text)
	b.close(file)
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
