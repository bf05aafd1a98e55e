package plan

import (
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"vivarium/sandbox/cgroup"
	"vivarium/sandbox/program"
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
	if c.ns.fresh&unix.CLONE_NEWNS == 0 {
		return // the namespace is somebody else's, as it is
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
	shared := c.ns.fresh&unix.CLONE_NEWNS == 0
	switch {
	case shared && filepath.Clean(root.Path) == "/":
		b.begin("rootfs", "take the root of the mount namespace as root file system")
		c.root, _ = b.openat(n(cwd), "/", unix.O_PATH|unix.O_DIRECTORY)
		return
	case (root.FSType != "" || root.Mapped) && c.inUserNS() && !c.userNS:
		b.fail(errorf("a root file system of layers in a user namespace by path: %w", ErrUnsupported))
		return
	case root.FSType != "" && c.userNS:
		c.mappedRoot(root)
	case root.Mapped && c.userNS:
		c.mappedDir(root)
	case root.Data != "":
		c.classicRoot(root)
		return
	case root.FSType != "":
		b.begin("rootfs", "make the root file system, "+root.FSType+", from its layers")
		c.root = b.newFS(root.FSType, root.FSType, root.Params, 0)
	default:
		if !filepath.IsAbs(root.Path) {
			b.fail(errorf("root path %q is not absolute", root.Path))
		}
		b.begin("rootfs", "take the directory "+root.Path+" as root file system")
		c.root = b.tree(n(cwd), root.Path, true)
		b.setAttr(c.root, 0, 0, unix.MS_PRIVATE, true)
	}
	over := "/"
	if shared || c.hooksInside() && root.FSType == "" {
		// Hooks find their programs at the host's "/", which stays in sight so;
		// and so do others in a namespace that is not ours alone.
		over = root.Path
	}
	top := b.slot()
	b.do(unix.SYS_OPENAT, n(cwd), b.str(over), n(unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC), n(0)).into(top)
	b.attach(c.root, top)
}

// classicRoot makes it by mount(2), which attaches at once: over "/". The
// process's own root stays what it was; ".." from there leads to what lies on it.
func (c *compiler) classicRoot(root *Root) {
	b := c.b
	if len(root.Data) >= unix.Getpagesize() {
		b.fail(errorf("the paths of the layers have %d bytes, more than mount(2) takes: use a shorter directory, or a kernel from 6.8 on", len(root.Data)))
		return
	}
	b.begin("rootfs", "make the root file system, "+root.FSType+", from its layers")
	b.do(unix.SYS_MOUNT, b.str(root.FSType), b.str("/"), b.str(root.FSType), n(0), b.str(root.Data))
	c.root, _ = b.openat(n(cwd), "/..", unix.O_PATH|unix.O_DIRECTORY)
}

// mappedRoot makes the union for a user namespace. Its layers belong to the ids
// of the host; each is mapped to those of the namespace, so that root in the
// container is the owner of what root owns in the layer, and no layer is copied
// (mount_setattr(2), MOUNT_ATTR_IDMAP; overlay takes such layers since Linux
// 5.19). Only the parent may do so, and only once the namespace has its maps,
// so it makes the mount after the clone and sends its descriptor.
func (c *compiler) mappedRoot(root *Root) {
	b := c.b
	b.in(&b.prog.After)
	b.begin("rootfs", "make the root file system, "+root.FSType+", from its layers, each with the ids of the user namespace")
	attr := c.childMaps()
	// enterLayer makes a mapped copy of the mount at a directory the current
	// directory: the options of overlay then name paths below it.
	if root.Data != "" {
		b.fail(errorf("a user namespace needs overlay layers one by one (lowerdir+, Linux 6.8): %w", ErrUnsupported))
	}
	last := ""
	enterLayer := func(dir string) {
		if dir == last {
			return
		}
		last = dir
		m := b.tree(n(cwd), dir, false)
		b.do(unix.SYS_MOUNT_SETATTR, slot(m), b.str(""), n(unix.AT_EMPTY_PATH), ptr(attr), n(unix.MOUNT_ATTR_SIZE_VER0))
		b.do(unix.SYS_FCHDIR, slot(m))
	}
	// Overlay makes its work directory as the user who mounts it, who needs an
	// id in the mapped layer: that of the namespace's root. Changing the file
	// system ids takes capabilities away, which are taken back (capabilities(7)).
	// Until they are known, "all" stands there: taking that back fails, or does nothing.
	head, caps := ptr(b.words32(unix.LINUX_CAPABILITY_VERSION_3, 0)), ptr(b.words32(^uint32(0), ^uint32(0), 0, ^uint32(0), ^uint32(0), 0))
	b.do(unix.SYS_CAPGET, head, caps)
	become := func(uid, gid uint32) {
		b.do(unix.SYS_SETFSGID, n(gid))
		b.do(unix.SYS_SETFSUID, n(uid))
		b.do(unix.SYS_CAPSET, head, caps)
	}
	b.undoFirst(func() {
		become(0, 0)
		b.do(unix.SYS_CHDIR, b.str("/"))
	})
	b.prog.Pinned = true
	become(hostID(c.spec.Linux.UIDMappings), hostID(c.spec.Linux.GIDMappings))
	fs := b.slot()
	b.do(unix.SYS_FSOPEN, b.str(root.FSType), n(unix.FSOPEN_CLOEXEC)).into(fs)
	set := func(cmd int, key, value arg) { b.do(unix.SYS_FSCONFIG, slot(fs), n(cmd), key, value, n(0)) }
	for _, p := range root.Params {
		value := p.Value
		switch {
		case p.Flag:
			set(unix.FSCONFIG_SET_FLAG, b.str(p.Key), n(0))
			continue
		case p.Key == "lowerdir+":
			enterLayer(value)
			value = "."
		case p.Key == "upperdir" || p.Key == "workdir":
			enterLayer(path.Dir(value))
			value = path.Base(value)
		case p.Key == "lowerdir":
			b.fail(errorf("a user namespace needs overlay layers one by one (lowerdir+, Linux 6.8): %w", ErrUnsupported))
			return
		}
		set(unix.FSCONFIG_SET_STRING, b.str(p.Key), b.str(value))
	}
	set(unix.FSCONFIG_CMD_CREATE, n(0), n(0))
	m := b.slot()
	b.do(unix.SYS_FSMOUNT, slot(fs), n(unix.FSMOUNT_CLOEXEC), n(0)).into(m)
	become(0, 0)
	b.do(unix.SYS_CHDIR, b.str("/"))
	b.sendFile(program.SlotParent, 'M', m)
	b.in(&b.prog.Child)
}

// childMaps gives the attributes that map the ids of a mount to those of the child's user
// namespace.
func (c *compiler) childMaps() uint64 {
	b := c.b
	proc := b.bytes(append([]byte("/proc/"), make([]byte, 16)...))
	b.do(int(program.PokeText), n(proc+6), n(program.SlotChild))
	dir, userns := b.slot(), b.slot()
	b.do(unix.SYS_OPENAT, n(cwd), ptr(proc), n(unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC), n(0)).into(dir)
	b.do(unix.SYS_OPENAT, slot(dir), b.str("ns/user"), n(unix.O_RDONLY|unix.O_CLOEXEC), n(0)).into(userns)
	attr := b.words(unix.MOUNT_ATTR_IDMAP, 0, 0, 0)
	b.do(int(program.PokeInt), n(attr+24), n(int(userns)))
	return attr
}

// mappedDir is mappedRoot for a root file system that is one directory.
func (c *compiler) mappedDir(root *Root) {
	b := c.b
	b.in(&b.prog.After)
	b.begin("rootfs", "take the directory "+root.Path+" as root file system, with the ids of the user namespace")
	attr := c.childMaps()
	m := b.tree(n(cwd), root.Path, false)
	b.do(unix.SYS_MOUNT_SETATTR, slot(m), b.str(""), n(unix.AT_EMPTY_PATH), ptr(attr), n(unix.MOUNT_ATTR_SIZE_VER0))
	b.sendFile(program.SlotParent, 'M', m)
	b.in(&b.prog.Child)
}

// hostID is what root of a user namespace is outside of it.
func hostID(maps []specs.LinuxIDMapping) uint32 { return mappedID(maps, 0) }

// mappedID is what an id of a user namespace is outside of it. One that the
// namespace does not have is the overflow id (user_namespaces(7)).
func mappedID(maps []specs.LinuxIDMapping, id uint32) uint32 {
	for _, m := range maps {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return m.HostID + (id - m.ContainerID)
		}
	}
	return 65534
}

// takeRoot receives what mappedRoot or mappedDir sends; it comes before the parent's word.
func (c *compiler) takeRoot() {
	if root := c.opt.Root; root == nil || root.FSType == "" && !root.Mapped {
		return
	}
	b := c.b
	b.begin("rootfs", "take the root file system from the parent")
	c.root = b.slot()
	body := b.words(0, 0)
	iov := b.words(0, 16)
	b.reloc(iov, body)
	control := b.buf(unix.CmsgSpace(4))
	*b.word(control + 16) = ^uint64(0) // no descriptor came: the next use says so
	msg := b.words(0, 0, 0, 1, 0, uint64(unix.CmsgSpace(4)), 0)
	b.reloc(msg+16, iov)
	b.reloc(msg+32, control)
	b.do(unix.SYS_RECVMSG, slot(program.SlotSync), ptr(msg), n(unix.MSG_CMSG_CLOEXEC))
	b.do(int(program.Load), n(control+16), n(int(c.root)))
}

// pivot makes the new root the process's root, and the host's tree go away.
// pivot_root(".", ".") stacks the old root on the new one; see pivot_root(2).
func (c *compiler) pivot() {
	b := c.b
	fresh := c.ns.fresh&unix.CLONE_NEWNS != 0
	if c.opt.NoPivot && fresh {
		c.hideKernel()
	}
	b.begin("pivot", "make it the root directory, and detach the host's")
	if c.opt.NoPivot && fresh && c.hooksInside() {
		// It lies on a directory of the host's tree, for the hooks' sake. Over "/"
		// it is where chroot(2) and a mount namespace entered anew begin.
		b.do(unix.SYS_MOVE_MOUNT, slot(c.root), b.str(""), n(cwd), b.str("/"), n(unix.MOVE_MOUNT_F_EMPTY_PATH))
	}
	b.do(unix.SYS_FCHDIR, slot(c.root))
	if c.opt.NoPivot || !fresh {
		b.do(unix.SYS_CHROOT, b.str("."))
		return
	}
	b.do(unix.SYS_PIVOT_ROOT, b.str("."), b.str("."))
	b.do(unix.SYS_UMOUNT2, b.str("."), n(unix.MNT_DETACH))
	b.do(unix.SYS_CHDIR, b.str("/"))
}

// hideKernel takes the host's proc and sysfs mounts out of the mount namespace.
// After chroot(2) alone they would still be in it, whole, and where one is whole
// the kernel lets a user namespace in the container mount a new one without any
// mask (mount_too_revealing, fs/namespace.c). One that cannot be taken away gets
// an empty tmpfs over it.
func (c *compiler) hideKernel() {
	b := c.b
	mounts, err := mountsOf("proc", "sysfs")
	if err != nil {
		b.fail(errorf("find the mounts of proc and sysfs: %w", err))
		return
	}
	b.begin("pivot", "take away the host's proc and sysfs, which stay in reach without a pivot")
	for _, m := range mounts {
		if m.root != "/" {
			continue
		}
		at := b.str(m.at)
		gone := b.do(unix.SYS_UMOUNT2, at, n(unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)).tolerateAll()
		// ENOENT: it went with one that it was mounted on.
		b.do(unix.SYS_MOUNT, b.str("tmpfs"), at, b.str("tmpfs"), n(unix.MS_RDONLY), b.str("")).tolerate(unix.ENOENT)
		b.onSuccessSkipHere(gone)
	}
}

// hostMount is a mount of our own mount namespace.
type hostMount struct{ root, at string } // what of its file system is shown, and where

// mountsOf lists the mounts of file systems of these types, in mountinfo's order.
func mountsOf(types ...string) ([]hostMount, error) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var out []hostMount
	for line := range strings.Lines(string(info)) {
		// ID, parent, device, root, mount point, …, "-", type, … (proc_pid_mountinfo(5))
		before, after, _ := strings.Cut(line, " - ")
		kind, _, _ := strings.Cut(after, " ")
		if f := strings.Fields(before); slices.Contains(types, kind) && len(f) > 4 {
			out = append(out, hostMount{f[3], cgroup.Unescape(f[4])})
		}
	}
	return out, nil
}

// rootAttributes come last: making the root read-only, and its propagation. The
// kernel pivots to no shared mount.
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
	for _, m := range c.spec.Mounts {
		if inside, ok := c.belowRoot(m.Destination); ok {
			m.Destination = inside // some callers name it as they see it
		}
		if err := c.mount(&m); err != nil {
			c.b.fail(errorf("mount on %s: %w", m.Destination, err))
		}
	}
}

func (c *compiler) mount(m *specs.Mount) error {
	o, err := parseMountOptions(m.Options)
	if err != nil {
		return err
	}
	if o.idmap, err = idmapOf(m, o); err != nil {
		return err
	}
	if err := checkDestination(m, o); err != nil {
		return err
	}
	switch {
	case o.bind || m.Type == "bind":
		return c.bind(m, o)
	case o.copyUp && m.Type != "tmpfs":
		return errorf("option tmpcopyup: a file system of type %s is no tmpfs", m.Type)
	case m.Type == "cgroup" || m.Type == "cgroup2":
		if o.idmap.asked {
			return errorf("control groups have no id-mapped mounts")
		}
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
	var fs int16
	if m.Type == "sysfs" && c.userNS && c.opt.NetNS {
		// sysfs shows devices of a network namespace, and only who has rights
		// over that may mount it: show the host's, as it is.
		fs = b.tree(n(cwd), "/sys", true)
		b.setAttr(fs, attr, 0, unix.MS_PRIVATE, true)
	} else {
		if m.Type == "tmpfs" && attr&unix.MOUNT_ATTR_RDONLY != 0 {
			// What is mounted on it, and the devices, still need places in it.
			attr &^= unix.MOUNT_ATTR_RDONLY
			defer func() { c.readonlyLater = append(c.readonlyLater, fs) }()
		}
		data := o.data
		if mode, ok := c.modeOf(m, o); ok {
			data = append(slices.Clone(data), Param{Key: "mode", Value: mode})
		}
		fs = b.newFS(m.Type, source, c.labelled(m.Type, data), attr)
	}
	if o.propagation != 0 {
		b.setAttr(fs, 0, 0, o.propagation, o.recPropagation)
	}
	if m.Type == "tmpfs" {
		c.keepMode(fs, m.Destination, o)
	}
	if err := c.mapNewFS(m, o, fs); err != nil {
		return err
	}
	t := c.placeFS(m)
	if o.copyUp {
		if err := c.copyUp(t, fs, m.Destination, o); err != nil {
			return err
		}
		b.begin("mount", "mount "+m.Type+" on "+m.Destination)
	}
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

// placeFS opens the place of a new file system. Those through which the kernel is
// spoken to go nowhere but where they are expected: an image with a symlink there
// could have masks and read-only paths land elsewhere (CVE-2019-19921).
func (c *compiler) placeFS(m *specs.Mount) int16 {
	if m.Type != "proc" && m.Type != "sysfs" {
		return c.b.target(c.root, c.beyondSymlinks(m.Destination), true)
	}
	c.b.begin("mount", "mount "+m.Type+" on "+m.Destination+", as it must be mounted on ordinary directory, no symlink")
	return c.b.targetAs(c.root, m.Destination, true, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
}

// lateReadonly makes those read-only that others were mounted on.
func (c *compiler) lateReadonly() {
	if len(c.readonlyLater) == 0 {
		return
	}
	c.b.begin("mount", "make the tmpfs mounts read-only that are to be so")
	for _, fs := range c.readonlyLater {
		c.b.setAttr(fs, unix.MOUNT_ATTR_RDONLY, 0, 0, false)
	}
}

// mapNewFS maps the ids of a file system that this program has made.
func (c *compiler) mapNewFS(m *specs.Mount, o mountOpts, fs int16) error {
	if !o.idmap.asked {
		return nil
	}
	if c.inUserNS() {
		return errorf("a new file system in a user namespace has its ids already")
	}
	userns, err := c.idmapNamespace(o.idmap)
	if err != nil {
		return err
	}
	c.mapIDs(fs, userns, false, "the new "+m.Type)
	c.b.begin("mount", "mount "+m.Type+" on "+m.Destination)
	return nil
}

// bind shows a file or directory of the host. Options for a file system (mode=,
// size=) have nothing to act on: the kernel passes over them (mount(2)), and
// specifications that give the same options to every mount rely on it.
func (c *compiler) bind(m *specs.Mount, o mountOpts) error {
	b := c.b
	var st unix.Stat_t
	source := c.sourcePath(m)
	if o.copySymlink {
		if target, err := os.Readlink(source); err == nil {
			c.copySymlink(m, target)
			return nil
		}
	}
	err := unix.Stat(source, &st)
	if inside, ok := c.belowRoot(source); ok {
		return c.bindInside(m, o, inside, err != nil || st.Mode&unix.S_IFMT == unix.S_IFDIR)
	}
	if err != nil {
		return errorf("bind source %s: %w", source, err)
	}
	var mapped int16
	if o.idmap.asked {
		var err error
		if mapped, err = c.idmapNamespace(o.idmap); err != nil {
			return err
		}
	}
	// A runtime without rights has them over mounts only in its user namespace.
	before := (c.inUserNS() || o.idmap.asked || c.ns.fresh&unix.CLONE_NEWNS == 0) && !c.opt.Unprivileged
	if before {
		// The root of the namespace may have no way to the source, and no right
		// to map its ids; in another mount namespace it may not be there at all.
		// The parent takes it, before the clone.
		b.in(&b.prog.Before)
	}
	b.begin("mount", "show "+source+" at "+m.Destination)
	tree := b.tree(n(cwd), source, o.recursive)
	c.bindAttributes(tree, o)
	if o.idmap.asked {
		c.mapIDs(tree, mapped, o.idmap.recursive, source)
	}
	if before {
		b.in(&b.prog.Child)
		b.begin("mount", "show "+source+" at "+m.Destination)
	}
	t := b.target(c.root, c.beyondSymlinks(m.Destination), st.Mode&unix.S_IFMT == unix.S_IFDIR)
	b.attach(tree, t)
	if path.Clean(m.Destination) == "/dev" {
		c.dev = tree
		c.devBound = true
	}
	return nil
}

// copySymlink makes the symlink anew that is the source of a mount, instead of
// showing what it leads to (crun(1), "copy-symlink"). What is there already has to
// be the same.
func (c *compiler) copySymlink(m *specs.Mount, target string) {
	b := c.b
	name := path.Clean("/" + m.Destination)
	same := false
	c.inRootNow("/", func(root int) {
		there, err := readLinkIn(root, name)
		same = err == nil && there == target
	})
	if same {
		return
	}
	b.begin("mount", "make the symlink "+name+" -> "+target)
	dir := b.target(c.root, path.Dir(name), true)
	b.do(unix.SYS_SYMLINKAT, b.str(target), slot(dir), b.str(path.Base(name)))
	b.close(dir)
}

// bindInside shows something of the root file system at another place, with what
// was mounted on it before: so it is taken in the child, when those are there.
func (c *compiler) bindInside(m *specs.Mount, o mountOpts, source string, dir bool) error {
	b := c.b
	if o.idmap.asked && c.inUserNS() && (!c.opt.Hooks || c.opt.Unprivileged) {
		return errorf("bind source %s is in the root file system: with mapped ids in a user namespace: %w", source, ErrUnsupported)
	}
	mapped := int16(program.None)
	if o.idmap.asked {
		var err error
		if mapped, err = c.idmapNamespace(o.idmap); err != nil {
			return err
		}
	}
	b.begin("mount", "show "+source+" of the container at "+m.Destination)
	from, _ := b.inRoot(c.root, source, unix.O_PATH)
	tree := b.tree(slot(from), "", o.recursive)
	b.close(from)
	c.bindAttributes(tree, o)
	switch {
	case mapped == program.None:
	case c.inUserNS():
		c.letMapIDs(tree, mapped, o.idmap.recursive, source)
	default:
		c.mapIDs(tree, mapped, o.idmap.recursive, source)
	}
	b.attach(tree, b.target(c.root, c.beyondSymlinks(m.Destination), dir))
	return nil
}

// bindAttributes sets the options of a bind mount. Without a word it is private, so
// that nothing of it shows on the host.
func (c *compiler) bindAttributes(tree int16, o mountOpts) {
	b := c.b
	if o.set|o.clear != 0 {
		b.setAttr(tree, o.set, o.clear, 0, false)
	}
	if o.recSet|o.recClear != 0 {
		b.setAttr(tree, o.recSet, o.recClear, 0, true)
	}
	prop, rec := o.propagation, o.recPropagation
	if prop == 0 {
		prop, rec = unix.MS_PRIVATE, true
	}
	b.setAttr(tree, 0, 0, prop, rec)
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
