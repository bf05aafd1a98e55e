package plan

import (
	"encoding/binary"
	"path"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"vivarium/sandbox/program"
)

const checkOp = program.Check

// defaultDevices are those that every Linux container has; runtime-spec,
// config-linux.md "Default Devices".
var defaultDevices = []specs.LinuxDevice{
	{Path: "/dev/null", Type: "c", Major: 1, Minor: 3},
	{Path: "/dev/zero", Type: "c", Major: 1, Minor: 5},
	{Path: "/dev/full", Type: "c", Major: 1, Minor: 7},
	{Path: "/dev/random", Type: "c", Major: 1, Minor: 8},
	{Path: "/dev/urandom", Type: "c", Major: 1, Minor: 9},
	{Path: "/dev/tty", Type: "c", Major: 5, Minor: 0},
}

// devLinks are the symlinks in /dev; the same section.
var devLinks = [][2]string{
	{"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"},
	{"/proc/self/fd/2", "stderr"}, {"pts/ptmx", "ptmx"},
}

// devices fills /dev, unless the host's own is shown there.
func (c *compiler) devices() {
	if c.devBound {
		return
	}
	b := c.b
	b.begin("device", "make the device nodes and links of /dev")
	dev := c.dev
	if dev == program.None {
		dev = b.target(c.root, "/dev", true)
	}
	named := make(map[string]bool)
	for i := range c.spec.Linux.Devices {
		named[path.Clean(c.spec.Linux.Devices[i].Path)] = true
	}
	for i := range defaultDevices {
		if !named[defaultDevices[i].Path] {
			c.device(dev, &defaultDevices[i])
		}
	}
	var made []*specs.LinuxDevice
	for i := range c.spec.Linux.Devices {
		d := &c.spec.Linux.Devices[i]
		if path.Clean(d.Path) == "/dev/ptmx" {
			continue // that of the container's own devpts comes there
		}
		if c.inUserNS() && !c.opt.Unprivileged && !hostShows(d) {
			made = append(made, d)
			continue
		}
		c.device(dev, d)
	}
	c.madeDevices(made)
	for _, l := range devLinks {
		if l[1] == "ptmx" {
			// An image may have a node there; only the one of our devpts is right.
			b.do(unix.SYS_UNLINKAT, slot(dev), b.str("ptmx"), n(0)).tolerateAll()
		}
		b.do(unix.SYS_SYMLINKAT, b.str(l[0]), slot(dev), b.str(l[1])).tolerate(unix.EEXIST)
	}
}

// hostShows says whether the host has that very device under that name, owned by
// root if nobody else is asked for.
func hostShows(d *specs.LinuxDevice) bool {
	mode, ok := nodeMode(d)
	var st unix.Stat_t
	if !ok || d.UID != nil && *d.UID != 0 || d.GID != nil && *d.GID != 0 || unix.Lstat(path.Clean("/"+d.Path), &st) != nil {
		return false
	}
	return st.Mode&unix.S_IFMT == mode&unix.S_IFMT && (mode&unix.S_IFMT == unix.S_IFIFO || st.Rdev == nodeNumber(d))
}

// nodeMode is a device's mode as mknod(2) takes it; false if its type is unknown.
func nodeMode(d *specs.LinuxDevice) (uint32, bool) {
	kind := map[string]uint32{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO}[d.Type]
	mode := uint32(0o666)
	if d.FileMode != nil {
		mode = uint32(*d.FileMode) & 0o7777
	}
	return kind | mode, kind != 0
}

func nodeNumber(d *specs.LinuxDevice) uint64 { return unix.Mkdev(uint32(d.Major), uint32(d.Minor)) }

// owner is who owns a device: root where the spec says nothing.
func owner(d *specs.LinuxDevice) (uid, gid uint32) {
	if d.UID != nil {
		uid = *d.UID
	}
	if d.GID != nil {
		gid = *d.GID
	}
	return uid, gid
}

// madeDevices shows devices in a user namespace that the host does not show so.
// No node that is made in the namespace can be opened, so they are made before
// the clone, on a tmpfs of the host's namespace. Single ones are copied from it
// where it is mounted for a moment, over the /dev of the host that only this
// process still sees: of a detached mount parts can be copied only since Linux 6.15.
func (c *compiler) madeDevices(list []*specs.LinuxDevice) {
	if len(list) == 0 {
		return
	}
	b := c.b
	ops := b.ops
	b.in(&b.prog.Before)
	b.begin("device", "make the device nodes that the host does not have, where a user namespace can be shown them")
	fs := b.newFS("tmpfs", "devices", nil, unix.MOUNT_ATTR_NOEXEC)
	for i, d := range list {
		mode, ok := nodeMode(d)
		if !ok {
			b.fail(errorf("device %s: type %q is none of c, u, b, p", d.Path, d.Type))
			return
		}
		uid, gid := owner(d)
		name := b.str(itoa(i))
		b.do(unix.SYS_MKNODAT, slot(fs), name, n(mode), n(nodeNumber(d)))
		b.do(unix.SYS_FCHOWNAT, slot(fs), name, n(mappedID(c.spec.Linux.UIDMappings, uid)), n(mappedID(c.spec.Linux.GIDMappings, gid)), n(unix.AT_SYMLINK_NOFOLLOW))
		b.do(unix.SYS_FCHMODAT, slot(fs), name, n(mode&0o7777)) // without our umask
	}
	b.in(ops)
	b.begin("device", "show the device nodes that were made for it")
	b.do(unix.SYS_MOVE_MOUNT, slot(fs), b.str(""), n(cwd), b.str("/dev"), n(unix.MOVE_MOUNT_F_EMPTY_PATH))
	for i, d := range list {
		b.attach(b.tree(n(cwd), "/dev/"+itoa(i), false), b.target(c.root, path.Clean("/"+d.Path), false))
	}
	b.do(unix.SYS_UMOUNT2, b.str("/dev"), n(unix.MNT_DETACH))
	b.close(fs)
}

func (c *compiler) device(dev int16, d *specs.LinuxDevice) {
	b := c.b
	mode, ok := nodeMode(d)
	if !ok {
		b.fail(errorf("device %s: type %q is none of c, u, b, p", d.Path, d.Type))
		return
	}
	name := path.Clean("/" + d.Path)
	if c.inUserNS() {
		// A device node made in a user namespace cannot be opened: show the host's.
		t := b.target(c.root, name, false)
		m := b.tree(n(cwd), name, false)
		b.attach(m, t)
		return
	}
	dir := dev
	if path.Dir(name) != "/dev" {
		dir = b.target(c.root, path.Dir(name), true)
	}
	base := b.str(path.Base(name))
	b.do(unix.SYS_MKNODAT, slot(dir), base, n(mode), n(nodeNumber(d))).tolerate(unix.EEXIST)
	uid, gid := owner(d)
	if uid|gid != 0 {
		b.do(unix.SYS_FCHOWNAT, slot(dir), base, n(uid), n(gid), n(unix.AT_SYMLINK_NOFOLLOW))
	}
}

// terminal makes the pseudo-terminal in the container's own devpts, shows it as
// /dev/console, sends its master to the parent, and makes it descriptors 0 to
// 2. The slave is opened through the master (TIOCGPTPEER), never by a path that
// the container could have exchanged (CVE-2025-52565).
func (c *compiler) terminal() {
	b := c.b
	b.begin("terminal", "make a terminal in the container's devpts")
	if c.devpts == program.None {
		b.fail(errorf("a terminal needs a devpts mount on /dev/pts"))
		return
	}
	master, _ := b.openat(slot(c.devpts), "ptmx", unix.O_RDWR|unix.O_NOCTTY)
	slave := c.openSlave(master)
	b.report('T', master)
	c.takeTerminal(slave)
	if c.root == program.None || c.devBound {
		return
	}
	console := b.target(c.root, "/dev/console", false)
	m := b.tree(slot(slave), "", false)
	b.attach(m, console)

}

func (c *compiler) openSlave(master int16) int16 {
	b := c.b
	p := c.spec.Process
	unlock := b.words(0)
	b.do(unix.SYS_IOCTL, slot(master), n(unix.TIOCSPTLCK), ptr(unlock))
	slave := b.slot()
	b.do(unix.SYS_IOCTL, slot(master), n(unix.TIOCGPTPEER), n(unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)).into(slave)
	if s := p.ConsoleSize; s != nil && s.Height|s.Width != 0 {
		size := b.words(uint64(uint16(s.Height)) | uint64(uint16(s.Width))<<16) // struct winsize
		b.do(unix.SYS_IOCTL, slot(slave), n(unix.TIOCSWINSZ), ptr(size))
	}
	if c.opt.PlainNewlines {
		b.do(unix.SYS_IOCTL, slot(slave), n(unix.TCSETS), ptr(b.bytes(plainTermios())))
	}
	if p.User.UID != 0 {
		b.do(unix.SYS_FCHOWN, slot(slave), n(p.User.UID), n(-1))
	}
	return slave
}

// plainTermios is how a terminal begins (tty_std_termios, drivers/tty/tty_io.c, and
// pty_unix98_install), but without ONLCR: the kernel's struct termios, four words, a
// line discipline and 19 characters.
func plainTermios() []byte {
	var b []byte
	for _, word := range []uint32{
		unix.ICRNL | unix.IXON,
		unix.OPOST,
		unix.B38400 | unix.CS8 | unix.CREAD,
		unix.ISIG | unix.ICANON | unix.ECHO | unix.ECHOE | unix.ECHOK | unix.ECHOCTL | unix.ECHOKE | unix.IEXTEN,
	} {
		b = binary.NativeEndian.AppendUint32(b, word)
	}
	control := [19]byte{unix.VINTR: 'C' & 31, unix.VQUIT: '\\' & 31, unix.VERASE: 0x7f, unix.VKILL: 'U' & 31, unix.VEOF: 'D' & 31, unix.VMIN: 1,
		unix.VSTART: 'Q' & 31, unix.VSTOP: 'S' & 31, unix.VSUSP: 'Z' & 31, unix.VREPRINT: 'R' & 31, unix.VDISCARD: 'O' & 31, unix.VWERASE: 'W' & 31, unix.VLNEXT: 'V' & 31}
	return append(append(b, 0), control[:]...)
}

func (c *compiler) takeTerminal(slave int16) {
	b := c.b
	b.do(unix.SYS_IOCTL, slot(slave), n(unix.TIOCSCTTY), n(0))
	for fd := range 3 {
		b.do(unix.SYS_DUP3, slot(slave), n(fd), n(0))
	}
}

// stdio puts the descriptors that the caller gave at 0, 1 and 2.
func (c *compiler) stdio() {
	b := c.b
	b.begin("stdio", "connect standard input, output and error")
	uid := c.spec.Process.User.UID
	for fd := range 3 {
		s := slot(int16(program.SlotStdin + fd))
		if uid != 0 && c.opt.OwnStdio&(1<<fd) != 0 {
			// So that a process that is not root can open /dev/stdout again.
			b.do(unix.SYS_FCHOWN, s, n(uid), n(c.spec.Process.User.GID)).tolerateAll()
		}
		// EINVAL: it is there already.
		b.do(unix.SYS_DUP3, s, n(fd), n(0)).tolerate(unix.EINVAL)
	}
}

// sysctls writes below /proc/sys of a procfs that this program mounted itself:
// what is written there is a kernel parameter and no file that looks like one
// (CVE-2025-52881).
func (c *compiler) sysctls() {
	b := c.b
	if len(c.spec.Linux.Sysctl) == 0 {
		return
	}
	b.begin("sysctl", "set the kernel parameters of the new namespaces")
	proc := c.privateProc()
	for _, key := range sortedKeys(c.spec.Linux.Sysctl) {
		name := "sys/" + strings.ReplaceAll(key, ".", "/")
		if strings.Contains(key, "/") {
			name = "sys/" + key // net/ipv4/conf/eth0.1/forwarding keeps its dots
		}
		how := b.words(unix.O_WRONLY|unix.O_CLOEXEC, 0, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_XDEV)
		f := b.slot()
		b.begin("sysctl", "set "+key+" = "+c.spec.Linux.Sysctl[key])
		b.do(unix.SYS_OPENAT2, slot(proc), b.str(name), ptr(how), n(unix.SizeofOpenHow)).into(f)
		b.write(f, c.spec.Linux.Sysctl[key])
		b.close(f)
	}
}

// privateProc is a procfs that the container cannot have touched: the one that
// this program mounted, or a detached one of its own.
func (c *compiler) privateProc() int16 {
	if c.proc == program.None {
		c.proc = c.b.newFS("proc", "proc", nil, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	}
	return c.proc
}
