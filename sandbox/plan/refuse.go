package plan

import (
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"vivarium/sandbox/netdevice"
)

// refuse names the first thing of the spec that this runtime cannot do. Nothing
// that a spec asks for is passed over in silence.
func (c *compiler) refuse() error {
	s, l := c.spec, c.spec.Linux
	for _, r := range []struct {
		asked bool
		what  string
	}{
		//lint:ignore SA1019 old specs carry it, and Docker 20.10 writes it
		{!c.opt.Hooks && s.Hooks != nil && len(s.Hooks.Prestart)+len(s.Hooks.CreateRuntime)+len(s.Hooks.CreateContainer)+len(s.Hooks.StartContainer)+len(s.Hooks.Poststart)+len(s.Hooks.Poststop) > 0, "hooks"},
		{s.Solaris != nil || s.Windows != nil || s.VM != nil || s.ZOS != nil || s.FreeBSD != nil, "a platform other than linux"},
	} {
		if r.asked {
			return errorf("%s: %w", r.what, ErrUnsupported)
		}
	}
	if len(l.TimeOffsets) > 0 && c.ns.fresh&unix.CLONE_NEWTIME == 0 {
		return errorf("timeOffsets need a time namespace that is new")
	}
	if err := c.checkNetDevices(); err != nil {
		return err
	}
	for key := range l.Sysctl {
		if err := c.checkSysctl(key); err != nil {
			return err
		}
	}
	if (s.Hostname != "" || s.Domainname != "") && c.ns.fresh&unix.CLONE_NEWUTS == 0 && c.ns.join[unix.CLONE_NEWUTS] == "" {
		return errorf("a host name needs a uts namespace of its own")
	}
	return nil
}

// checkMountNS: without a mount namespace of its own the container's mounts are
// somebody else's too. Without any they are ours, and lie on its root directory.
func (c *compiler) checkMountNS() error {
	path := c.ns.join[unix.CLONE_NEWNS]
	if c.ns.fresh&unix.CLONE_NEWNS != 0 {
		return nil
	}
	if path == "" {
		layers := c.opt.Root != nil && c.opt.Root.FSType != ""
		if layers || c.inUserNS() || c.rootPath() == "/" {
			return errorf("a container with layers, with a user namespace, or on the machine's root directory needs a mount namespace of its own: %w", ErrUnsupported)
		}
		return nil
	}
	if c.opt.Root != nil && c.opt.Root.FSType != "" {
		return errorf("a mount namespace by path with a file system of its own: %w", ErrUnsupported)
	}
	var own, other unix.Stat_t
	if err := unix.Stat("/proc/self/ns/mnt", &own); err != nil {
		return errorf("look at the own mount namespace: %w", err)
	}
	if err := unix.Stat(path, &other); err != nil {
		return errorf("mount namespace %s: %w", path, err)
	}
	if own.Dev == other.Dev && own.Ino == other.Ino {
		return errorf("mount namespace %s is the runtime's own: the container's mounts would be the host's", path)
	}
	return nil
}

// rootPath is the directory that becomes the root.
func (c *compiler) rootPath() string {
	if c.opt.Root != nil {
		return filepath.Clean(c.opt.Root.Path)
	}
	return filepath.Clean(c.spec.Root.Path)
}

// checkNetDevices: a device can only be moved to a namespace that is not ours.
func (c *compiler) checkNetDevices() error {
	devices := c.spec.Linux.NetDevices
	if len(devices) > 0 && c.ns.fresh&unix.CLONE_NEWNET == 0 && c.ns.join[unix.CLONE_NEWNET] == "" {
		return errorf("unable to move network devices without a NET namespace")
	}
	if len(devices) > 0 && !c.opt.Hooks {
		return errorf("linux.netDevices: %w", ErrUnsupported)
	}
	return netdevice.Check(devices)
}

// checkSysctl accepts the parameters that belong to a namespace that is the
// container's own, as runc does; any other would change the host.
func (c *compiler) checkSysctl(key string) error {
	own := func(flag uint64) bool {
		return c.ns.fresh&flag != 0 || c.ns.join[flag] != "" || (flag == unix.CLONE_NEWNET && c.opt.NetNS)
	}
	dotted := strings.ReplaceAll(key, "/", ".")
	switch {
	case strings.HasPrefix(dotted, "net."):
		if own(unix.CLONE_NEWNET) {
			return nil
		}
	case strings.HasPrefix(dotted, "fs.mqueue."), ipcSysctls[dotted]:
		if own(unix.CLONE_NEWIPC) {
			return nil
		}
	case dotted == "kernel.hostname":
		return errorf("sysctl %q is not allowed: it conflicts with the spec's hostname, which sets it", key)
	case dotted == "kernel.domainname" && c.spec.Domainname != "":
		return errorf("sysctl %q is not allowed: it conflicts with the spec's domainname", key)
	case dotted == "kernel.domainname":
		if own(unix.CLONE_NEWUTS) {
			return nil
		}
	default:
		return errorf("sysctl %q is not in a separate kernel namespace", key)
	}
	return errorf("sysctl %q is not allowed: its namespace is the host's", key)
}

var ipcSysctls = map[string]bool{
	"kernel.msgmax": true, "kernel.msgmnb": true, "kernel.msgmni": true, "kernel.sem": true,
	"kernel.shmall": true, "kernel.shmmax": true, "kernel.shmmni": true, "kernel.shm_rmid_forced": true,
}
