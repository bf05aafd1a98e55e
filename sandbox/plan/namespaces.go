package plan

import (
	"os"
	"slices"
	"strconv"
	"strings"

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
	flags &^= unix.CLONE_NEWTIME
	if c.opt.NetNS {
		flags &^= unix.CLONE_NEWNET
	}
	switch {
	case c.userFirst():
		b.prog.CloneFlags, b.prog.ForkFlags = unix.CLONE_NEWUSER, flags&^unix.CLONE_NEWUSER
	case c.forked():
		b.prog.ForkFlags = flags
	default:
		b.prog.CloneFlags = flags
	}
	c.userNS = flags&unix.CLONE_NEWUSER != 0
	if c.userNS {
		b.prog.UIDMap, b.prog.GIDMap = idMap(c.spec.Linux.UIDMappings), idMap(c.spec.Linux.GIDMappings)
		if b.prog.UIDMap == "" || b.prog.GIDMap == "" {
			b.fail(errorf("a user namespace needs uidMappings and gidMappings"))
		}
	}
}

// forked says whether the process is cloned twice: namespaces are made in the
// user namespace in which their maker is, so one that is joined comes before
// those that are new; and from a new one others cannot be joined. A new time
// namespace is for children only. Only a process with one thread can do these, so
// it is not the parent that does.
func (c *compiler) forked() bool {
	joinsUser := c.ns.join[unix.CLONE_NEWUSER] != ""
	return c.ns.fresh&unix.CLONE_NEWTIME != 0 || joinsUser && c.ns.fresh&^unix.CLONE_NEWCGROUP != 0 || c.ns.fresh&unix.CLONE_NEWUSER != 0 && len(c.ns.join) > 0
}

// userFirst says whether a process that is cloned twice gets its new user
// namespace by the first clone: then its time namespace belongs to it, and who has
// rights only there can make one. What is joined cannot be joined from there.
func (c *compiler) userFirst() bool {
	const both = unix.CLONE_NEWUSER | unix.CLONE_NEWTIME
	return c.ns.fresh&both == both && len(c.ns.join) == 0 && !c.opt.NetNS
}

// inUserNS says whether the process is in another user namespace than we are.
func (c *compiler) inUserNS() bool { return c.userNS || c.ns.join[unix.CLONE_NEWUSER] != "" }

// fork clones the process once more, into its new namespaces. Who was cloned
// first tells the parent, and ends.
func (c *compiler) fork() {
	b := c.b
	b.begin("clone", "once more, from the namespaces that it is in by now: "+cloneWhy(b.prog.ForkFlags))
	pidfd := b.words(0)
	fork := b.do(int(program.Fork), n(b.prog.ForkFlags), n(pidfd)).tolerate(unix.ECHILD)
	s := b.slot()
	b.do(int(program.Load), n(pidfd), n(int(s)))
	b.sendFile(program.SlotSync, 'P', s)
	b.do(unix.SYS_EXIT_GROUP, n(0))
	b.onSuccessSkipHere(fork)
	b.await()
}

// withMaps gives a new user namespace that the spec says no ids for those that we
// have ourselves, under the same numbers, and one that is made without rights our
// own id as root; crun does the same.
func withMaps(spec *specs.Spec, unprivileged bool) (*specs.Spec, error) {
	linux := *spec.Linux
	for _, m := range []struct {
		maps *[]specs.LinuxIDMapping
		file string
		own  int
	}{
		{&linux.UIDMappings, "/proc/self/uid_map", os.Geteuid()},
		{&linux.GIDMappings, "/proc/self/gid_map", os.Getegid()},
	} {
		if len(*m.maps) > 0 {
			continue
		}
		if unprivileged {
			*m.maps = []specs.LinuxIDMapping{{ContainerID: 0, HostID: uint32(m.own), Size: 1}}
			continue
		}
		text, err := os.ReadFile(m.file)
		if err != nil {
			return nil, errorf("find the ids for a user namespace without mappings: %w", err)
		}
		*m.maps = sameIDs(string(text))
	}
	out := *spec
	out.Linux = &linux
	return &out, nil
}

// sameIDs maps each id that a uid_map (user_namespaces(7)) has to itself.
func sameIDs(text string) []specs.LinuxIDMapping {
	var maps []specs.LinuxIDMapping
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		first, err := strconv.ParseUint(f[0], 10, 32)
		size, err2 := strconv.ParseUint(f[2], 10, 32)
		if err == nil && err2 == nil {
			maps = append(maps, specs.LinuxIDMapping{ContainerID: uint32(first), HostID: uint32(first), Size: uint32(size)})
		}
	}
	return maps
}

func idMap(list []specs.LinuxIDMapping) string {
	s := ""
	for _, m := range list {
		s += utoa(m.ContainerID) + " " + utoa(m.HostID) + " " + utoa(m.Size) + "\n"
	}
	return s
}

// openTimeOffsets opens the file for the clocks' offsets while the host's /proc
// is in reach, and with our rights.
func (c *compiler) openTimeOffsets() int16 {
	if c.ns.fresh&unix.CLONE_NEWTIME == 0 {
		return program.None
	}
	c.b.begin("namespace", "open the offsets of the clocks")
	f, _ := c.b.openat(n(cwd), "/proc/self/timens_offsets", unix.O_WRONLY)
	return f
}

// timeNamespace: offsets can be written only while no process is in the
// namespace, so the process unshares it for its children and writes them before
// it forks the one that runs the command (time_namespaces(7)). It is not the
// parent that does so: whoever has more than one thread cannot go back.
func (c *compiler) timeNamespace(file int16) {
	if file == program.None {
		return
	}
	b := c.b
	b.begin("namespace", "make a time namespace for the child")
	b.do(unix.SYS_UNSHARE, n(uint64(unix.CLONE_NEWTIME)))
	for _, clock := range sortedKeys(c.spec.Linux.TimeOffsets) {
		o := c.spec.Linux.TimeOffsets[clock]
		if clock != "monotonic" && clock != "boottime" {
			b.fail(errorf("timeOffsets: clock %q is neither monotonic nor boottime", clock))
		}
		b.begin("namespace", "shift the clock "+clock+" by "+i64toa(o.Secs)+" s")
		b.write(file, clock+" "+i64toa(o.Secs)+" "+utoa(o.Nanosecs)+"\n")
	}
	b.close(file)
}

// joinBefore enters namespaces that only children of a process can enter.
func (c *compiler) joinBefore() {
	b := c.b
	if c.forked() {
		return
	}
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
		if p := c.ns.join[t.flag]; p != "" && (t.flag != unix.CLONE_NEWPID || c.forked()) {
			b.begin("namespace", "join the "+string(t.name)+" namespace "+p)
			opened[t.flag], _ = b.openat(n(cwd), p, unix.O_RDONLY)
		}
	}
	// With rights over all of them the user namespace comes last: those that do
	// not belong to it could not be joined from there. Without, it gives them.
	order := slices.Clone(nsTypes)
	if !c.opt.Unprivileged {
		order = append(order[1:], order[0])
	}
	for _, t := range order {
		if s, ok := opened[t.flag]; ok {
			b.begin("namespace", "join the "+string(t.name)+" namespace "+c.ns.join[t.flag]+": "+t.why)
			b.do(unix.SYS_SETNS, slot(s), n(t.flag))
		}
	}
	if c.opt.NetNS && (!c.userNS || c.forked()) {
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
