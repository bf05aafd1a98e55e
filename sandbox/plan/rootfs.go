package plan

import (
	"path"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// propagate gives every mount that the new namespace copied its propagation:
// what happens in the container must not come back to the host.
func (c *compiler) propagate() {
	b := c.b
	flags := uint64(unix.MS_SLAVE | unix.MS_REC)
	if p := c.spec.Linux.RootfsPropagation; p != "" {
		v, ok := propagations[strings.TrimPrefix(p, "r")]
		if !ok {
			b.fail(errorf("rootfsPropagation %q is none of private, shared, slave, unbindable", p))
		}
		if v == unix.MS_PRIVATE || v == unix.MS_UNBINDABLE {
			v = unix.MS_PRIVATE
		} else {
			v = unix.MS_SLAVE // shared is set on the new root, not on the host's
		}
		flags = v | unix.MS_REC
	}
	b.begin("propagation", "keep mounts made here from showing on the host")
	b.do(unix.SYS_MOUNT, b.str(""), b.str("/"), n(0), n(flags), n(0))
}

// mountRoot makes the root file system and lays it over "/", where it can be
// pivoted to later. Until then the host's files are still in reach, as sources.
func (c *compiler) mountRoot() {
	b := c.b
	root := c.opt.Root
	if root == nil {
		root = &Root{Path: c.spec.Root.Path}
	}
	if root.FSType != "" {
		b.begin("rootfs", "make the root file system, "+root.FSType+", from its layers")
		c.root = b.newFS(root.FSType, root.FSType, root.Params, 0)
	} else {
		if !filepath.IsAbs(root.Path) {
			b.fail(errorf("root path %q is not absolute", root.Path))
		}
		b.begin("rootfs", "take the directory "+root.Path+" as root file system")
		c.root = b.tree(n(cwd), root.Path, true)
		b.setAttr(c.root, 0, 0, unix.MS_PRIVATE, true)
	}
	over := "/"
	if c.hooksInside() && root.FSType == "" {
		// Hooks find their programs at the host's "/", which stays in sight so.
		over = root.Path
	}
	top := b.slot()
	b.do(unix.SYS_OPENAT, n(cwd), b.str(over), n(unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC), n(0)).into(top)
	b.attach(c.root, top)
}

// pivot makes the new root the process's root, and the host's tree go away.
// pivot_root(".", ".") stacks the old root on the new one; see pivot_root(2).
func (c *compiler) pivot() {
	b := c.b
	b.begin("pivot", "make it the root directory, and detach the host's")
	b.do(unix.SYS_FCHDIR, slot(c.root))
	if c.opt.NoPivot {
		b.do(unix.SYS_CHROOT, b.str("."))
		return
	}
	b.do(unix.SYS_PIVOT_ROOT, b.str("."), b.str("."))
	b.do(unix.SYS_UMOUNT2, b.str("."), n(unix.MNT_DETACH))
	b.do(unix.SYS_CHDIR, b.str("/"))
}

// rootAttributes come last: making the root read-only, and its propagation.
func (c *compiler) rootAttributes() {
	b := c.b
	var set, prop uint64
	if c.spec.Root != nil && c.spec.Root.Readonly {
		set = unix.MOUNT_ATTR_RDONLY
	}
	switch strings.TrimPrefix(c.spec.Linux.RootfsPropagation, "r") {
	case "shared":
		prop = unix.MS_SHARED
	case "unbindable":
		prop = unix.MS_UNBINDABLE
	}
	if set|prop == 0 {
		return
	}
	b.begin("rootfs", "set the root's attributes (read-only, propagation)")
	if set != 0 {
		b.setAttr(c.root, set, 0, 0, false)
	}
	if prop != 0 {
		b.setAttr(c.root, 0, 0, prop, strings.HasPrefix(c.spec.Linux.RootfsPropagation, "r"))
	}
}

// mounts adds the spec's mounts in their order.
func (c *compiler) mounts() {
	for i := range c.spec.Mounts {
		m := &c.spec.Mounts[i]
		if err := c.mount(m); err != nil {
			c.b.fail(errorf("mount on %s: %w", m.Destination, err))
		}
	}
}

func (c *compiler) mount(m *specs.Mount) error {
	o, err := parseMountOptions(m.Options)
	if err != nil {
		return err
	}
	if o.copyUp {
		return errorf("option tmpcopyup is not supported")
	}
	if o.idmap || len(m.UIDMappings)+len(m.GIDMappings) > 0 {
		return errorf("id-mapped mounts are not supported")
	}
	if err := checkDestination(m, o); err != nil {
		return err
	}
	switch {
	case o.bind || m.Type == "bind":
		return c.bind(m, o)
	case m.Type == "cgroup" || m.Type == "cgroup2":
		return c.mountCgroup(m, o)
	}
	return c.mountFS(m, o)
}

// procFiles are what may be mounted over inside /proc: files that an engine
// shows in its own way (as lxcfs does). Anything else there could redirect what
// the runtime itself writes (CVE-2019-16884).
var procFiles = map[string]bool{
	"/proc/cpuinfo": true, "/proc/diskstats": true, "/proc/meminfo": true, "/proc/stat": true, "/proc/swaps": true,
	"/proc/uptime": true, "/proc/loadavg": true, "/proc/slabinfo": true, "/proc/net/dev": true,
	"/proc/sys/kernel/ns_last_pid": true, "/proc/sys/crypto/fips_enabled": true, "/proc/key-users": true,
}

func checkDestination(m *specs.Mount, o mountOpts) error {
	if m.Destination == "" {
		return errorf("the destination is empty")
	}
	dest := path.Clean("/" + m.Destination)
	if dest == "/" {
		return errorf("the destination is the root itself")
	}
	if dest == "/proc" && m.Type != "proc" && !o.bind {
		return errorf("only a proc file system can be mounted there")
	}
	if strings.HasPrefix(dest, "/proc/") && !procFiles[dest] {
		return errorf("it is inside /proc")
	}
	return nil
}

// mountFS makes a new file system at its place.
func (c *compiler) mountFS(m *specs.Mount, o mountOpts) error {
	b := c.b
	b.begin("mount", "mount "+m.Type+" on "+m.Destination)
	source := m.Source
	if source == "" {
		source = m.Type
	}
	attr := o.set | o.recSet
	fs := b.newFS(m.Type, source, o.data, attr)
	if o.propagation != 0 {
		b.setAttr(fs, 0, 0, o.propagation, o.recPropagation)
	}
	t := b.target(c.root, m.Destination, true)
	b.attach(fs, t)
	switch {
	case m.Type == "proc":
		c.proc = fs
	case m.Type == "devpts":
		c.devpts = fs
	case m.Type == "tmpfs" && path.Clean(m.Destination) == "/dev":
		c.dev = fs
	}
	return nil
}

// bind shows a file or directory of the host.
func (c *compiler) bind(m *specs.Mount, o mountOpts) error {
	b := c.b
	if len(o.data) > 0 {
		return errorf("a bind mount has no option %q", o.data[0].Key)
	}
	var st unix.Stat_t
	source := m.Source
	if !filepath.IsAbs(source) {
		source = filepath.Join(c.opt.BundleDir, source)
	}
	if err := unix.Stat(source, &st); err != nil {
		return errorf("bind source %s: %w", source, err)
	}
	b.begin("mount", "show "+source+" at "+m.Destination)
	tree := b.tree(n(cwd), source, o.recursive)
	if o.set|o.clear != 0 {
		b.setAttr(tree, o.set, o.clear, 0, false)
	}
	if o.recSet|o.recClear != 0 {
		b.setAttr(tree, o.recSet, o.recClear, 0, true)
	}
	// Without a word it is private, so that nothing of it shows on the host.
	prop, rec := o.propagation, o.recPropagation
	if prop == 0 {
		prop, rec = unix.MS_PRIVATE, true
	}
	b.setAttr(tree, 0, 0, prop, rec)
	t := b.target(c.root, m.Destination, st.Mode&unix.S_IFMT == unix.S_IFDIR)
	b.attach(tree, t)
	if path.Clean(m.Destination) == "/dev" {
		c.dev = tree
		c.devBound = true
	}
	return nil
}

// maskedPaths hides paths: a file under /dev/null, a directory under an empty
// tmpfs. The source is the host's /dev/null, which nobody in the container can
// have exchanged (CVE-2025-31133).
func (c *compiler) maskedPaths() {
	b := c.b
	if len(c.spec.Linux.MaskedPaths) == 0 {
		return
	}
	b.begin("mask", "hide what the kernel would tell the container about the host")
	null, _ := b.openat(n(cwd), "/dev/null", unix.O_PATH)
	c.checkNull(null)
	for _, p := range c.spec.Linux.MaskedPaths {
		t, open := b.inRoot(c.root, p, unix.O_PATH)
		open.tolerate(unix.ENOENT, unix.ENOTDIR, unix.EACCES)
		m := b.tree(slot(null), "", false)
		// A file on a directory: EINVAL from move_mount(2), where mount(2) says ENOTDIR.
		file := b.attach(m, t).tolerate(unix.ENOTDIR, unix.EINVAL)
		empty := b.newFS("tmpfs", "tmpfs", []Param{{Key: "nr_blocks", Value: "1"}, {Key: "nr_inodes", Value: "1"}}, unix.MOUNT_ATTR_RDONLY)
		b.attach(empty, t)
		b.onSuccessSkipHere(file)
		b.onErrorSkipHere(open)
	}
}

// checkNull makes sure that a descriptor is the device 1:3.
func (c *compiler) checkNull(fd int16) {
	b := c.b
	at := b.buf(256) // struct statx
	b.do(unix.SYS_STATX, slot(fd), b.str(""), n(unix.AT_EMPTY_PATH), n(unix.STATX_TYPE), ptr(at))
	// stx_mode is at 28, stx_rdev_major and _minor at 128 and 132 (statx(2)).
	b.do(int(checkOp), n(at+24), n(uint64(unix.S_IFMT)<<32), n(uint64(unix.S_IFCHR)<<32), n(int(unix.ENODEV)))
	b.do(int(checkOp), n(at+128), n(^uint64(0)), n(uint64(1)|uint64(3)<<32), n(int(unix.ENODEV)))
}

// readonlyPaths lays each path over itself, read-only.
func (c *compiler) readonlyPaths() {
	b := c.b
	if len(c.spec.Linux.ReadonlyPaths) == 0 {
		return
	}
	b.begin("readonly", "make parts of /proc read-only")
	for _, p := range c.spec.Linux.ReadonlyPaths {
		t, open := b.inRoot(c.root, p, unix.O_PATH)
		open.tolerate(unix.ENOENT, unix.ENOTDIR)
		m := b.tree(slot(t), "", true)
		b.setAttr(m, unix.MOUNT_ATTR_RDONLY, 0, 0, false)
		b.attach(m, t)
		b.onErrorSkipHere(open)
	}
}
