package plan

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"vivarium/sandbox/program"
)

// nsTypes in the order in which namespaces are joined: the user namespace
// first, since it gives the rights for the others, and mount last, since the
// paths of the others are looked up before it.
var nsTypes = []struct {
	name specs.LinuxNamespaceType
	flag uint64
	file string
	why  string
}{
	{specs.UserNamespace, unix.CLONE_NEWUSER, "user", "ids"},
	{specs.CgroupNamespace, unix.CLONE_NEWCGROUP, "cgroup", "the view of control groups"},
	{specs.IPCNamespace, unix.CLONE_NEWIPC, "ipc", "message queues and shared memory"},
	{specs.UTSNamespace, unix.CLONE_NEWUTS, "uts", "host name"},
	{specs.NetworkNamespace, unix.CLONE_NEWNET, "net", "network interfaces"},
	{specs.PIDNamespace, unix.CLONE_NEWPID, "pid", "process ids"},
	{specs.TimeNamespace, unix.CLONE_NEWTIME, "time", "clocks"},
	{specs.MountNamespace, unix.CLONE_NEWNS, "mnt", "mounts"},
}

// namespaces is what the spec asks for.
type namespaces struct {
	fresh uint64            // flags of new ones
	join  map[uint64]string // flag -> path
}

func readNamespaces(list []specs.LinuxNamespace) (namespaces, error) {
	ns := namespaces{join: make(map[uint64]string)}
	var seen uint64
	for _, l := range list {
		var flag uint64
		for _, t := range nsTypes {
			if t.name == l.Type {
				flag = t.flag
			}
		}
		switch {
		case flag == 0:
			return ns, errorf("namespace type %q is not known", l.Type)
		case seen&flag != 0:
			return ns, errorf("namespace %s is given twice", l.Type)
		case l.Path == "":
			ns.fresh |= flag
		default:
			ns.join[flag] = l.Path
		}
		seen |= flag
	}
	return ns, nil
}

// cloneFlags decides which namespaces come with the clone, and which the child
// unshares later: a cgroup namespace shows the group that its maker is in, so
// it comes after the child has entered its group.
func (c *compiler) cloneFlags() {
	b := c.b
	flags := c.ns.fresh &^ unix.CLONE_NEWCGROUP
	if len(c.spec.Linux.TimeOffsets) > 0 || c.ns.fresh&unix.CLONE_NEWTIME != 0 {
		c.timeNamespace()
		flags &^= unix.CLONE_NEWTIME
	}
	if c.opt.NetNS {
		flags &^= unix.CLONE_NEWNET
	}
	b.prog.CloneFlags = flags
	c.userNS = flags&unix.CLONE_NEWUSER != 0
	if c.userNS {
		b.prog.UIDMap, b.prog.GIDMap = idMap(c.spec.Linux.UIDMappings), idMap(c.spec.Linux.GIDMappings)
		if b.prog.UIDMap == "" || b.prog.GIDMap == "" {
			b.fail(errorf("a user namespace needs uidMappings and gidMappings"))
		}
	}
}

func idMap(list []specs.LinuxIDMapping) string {
	s := ""
	for _, m := range list {
		s += utoa(m.ContainerID) + " " + utoa(m.HostID) + " " + utoa(m.Size) + "\n"
	}
	return s
}

// timeNamespace: offsets can be written only while no process is in the
// namespace, so the parent's thread unshares it for its children and writes
// them before the clone (time_namespaces(7)).
func (c *compiler) timeNamespace() {
	b := c.b
	b.prog.Pinned = true
	b.in(&b.prog.Before)
	defer b.in(&b.prog.Child)
	b.begin("namespace", "make a time namespace for the child")
	b.do(unix.SYS_UNSHARE, n(uint64(unix.CLONE_NEWTIME)))
	for _, clock := range sortedKeys(c.spec.Linux.TimeOffsets) {
		o := c.spec.Linux.TimeOffsets[clock]
		if clock != "monotonic" && clock != "boottime" {
			b.fail(errorf("timeOffsets: clock %q is neither monotonic nor boottime", clock))
		}
		text := clock + " " + i64toa(o.Secs) + " " + utoa(o.Nanosecs) + "\n"
		b.begin("namespace", "shift the clock "+clock+" by "+i64toa(o.Secs)+" s")
		f, _ := b.openat(n(cwd), "/proc/thread-self/timens_offsets", unix.O_WRONLY)
		b.write(f, text)
		b.close(f)
	}
}

// joinBefore enters namespaces that only children of a process can enter.
func (c *compiler) joinBefore() {
	b := c.b
	if c.opt.NetNS && c.userNS {
		// In the new user namespace there would be no right to join it.
		c.aroundClone("network", unix.CLONE_NEWNET, "net", "that was set up for the container", func() int16 { return program.SlotNetNS })
	}
	if p := c.ns.join[unix.CLONE_NEWPID]; p != "" {
		c.aroundClone("pid", unix.CLONE_NEWPID, "pid_for_children", p, func() int16 {
			other, _ := b.openat(n(cwd), p, unix.O_RDONLY)
			return other
		})
	}
}

// aroundClone lets the child be born in a namespace that the parent enters for
// the clone, and leaves again after it, or after a failure. own is the file in
// /proc/thread-self/ns that leads back; open gives the descriptor to enter by.
func (c *compiler) aroundClone(name string, flag uint64, own, which string, open func() int16) {
	b := c.b
	b.prog.Pinned = true
	b.in(&b.prog.Before)
	b.begin("namespace", "let the child be born in the "+name+" namespace "+which)
	home, _ := b.openat(n(cwd), "/proc/thread-self/ns/"+own, unix.O_RDONLY)
	b.do(unix.SYS_SETNS, slot(open()), n(flag))
	b.in(&b.prog.After)
	b.begin("namespace", "go back to the own "+name+" namespace")
	back := func() { b.do(unix.SYS_SETNS, slot(home), n(flag)) }
	back()
	b.undoFirst(back)
	b.in(&b.prog.Child)
}

// joinInChild enters the namespaces that the spec names by path, and the
// network namespace that the caller made.
func (c *compiler) joinInChild() {
	b := c.b
	opened := make(map[uint64]int16)
	for _, t := range nsTypes {
		if p := c.ns.join[t.flag]; p != "" && t.flag != unix.CLONE_NEWPID {
			b.begin("namespace", "join the "+string(t.name)+" namespace "+p)
			opened[t.flag], _ = b.openat(n(cwd), p, unix.O_RDONLY)
		}
	}
	for _, t := range nsTypes {
		if s, ok := opened[t.flag]; ok {
			b.begin("namespace", "join the "+string(t.name)+" namespace "+c.ns.join[t.flag]+": "+t.why)
			b.do(unix.SYS_SETNS, slot(s), n(t.flag))
		}
	}
	if c.opt.NetNS && !c.userNS {
		b.begin("namespace", "join the network namespace that was set up for it")
		b.do(unix.SYS_SETNS, slot(program.SlotNetNS), n(unix.CLONE_NEWNET))
	}
}

// loopback sets the interface lo up: a new network namespace has it down.
func (c *compiler) loopback() {
	if c.opt.NetNS || c.ns.fresh&unix.CLONE_NEWNET == 0 {
		return
	}
	b := c.b
	b.begin("network", "set the loopback interface up")
	s := b.slot()
	b.do(unix.SYS_SOCKET, n(unix.AF_INET), n(unix.SOCK_DGRAM|unix.SOCK_CLOEXEC), n(0)).into(s)
	req := b.buf(40) // struct ifreq: name, flags
	copy(b.prog.Data[req:], "lo")
	*b.word(req + 16) = unix.IFF_UP | unix.IFF_RUNNING
	b.do(unix.SYS_IOCTL, slot(s), n(unix.SIOCSIFFLAGS), ptr(req))
	b.close(s)
}
