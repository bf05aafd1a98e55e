package plan

import (
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"vivarium/sandbox/cgroup"
)

// delegatedFile lists what whoever gets a control group may own (cgroups(7),
// Linux 4.15).
const delegatedFile = "/sys/kernel/cgroup/delegate"

// delegate gives the container's group to the process's user where it may manage
// groups below: with control groups v2, a cgroup namespace of its own, and the
// groups shown to it writable; runtime-spec, config-linux.md "Cgroup ownership".
func (c *compiler) delegate() {
	dir := c.setup.CgroupDir
	if dir == "" || c.layout.Mode() != cgroup.V2 || c.ns.fresh&unix.CLONE_NEWCGROUP == 0 || !c.writableGroups() {
		return
	}
	owner, ok := c.hostUID()
	if !ok || owner == 0 {
		return
	}
	b := c.b
	b.begin("cgroup", "give the group to user "+utoa(owner)+", for groups below it")
	own := func(file string) {
		b.do(unix.SYS_FCHOWNAT, n(cwd), b.str(file), n(owner), n(-1), n(unix.AT_SYMLINK_NOFOLLOW)).tolerate(unix.ENOENT)
	}
	own(dir)
	for _, file := range delegated() {
		own(dir + "/" + file)
	}
}

// delegated gives the names of the files; the fallback is the spec's.
func delegated() []string {
	b, err := os.ReadFile(delegatedFile)
	if err != nil {
		return []string{"cgroup.procs", "cgroup.subtree_control", "cgroup.threads"}
	}
	return slices.DeleteFunc(strings.Fields(string(b)), func(name string) bool { return strings.Contains(name, "/") })
}

func (c *compiler) writableGroups() bool {
	for _, m := range c.spec.Mounts {
		if m.Source == "cgroup" && path.Clean(m.Destination) == "/sys/fs/cgroup" {
			return !slices.Contains(m.Options, "ro")
		}
	}
	return false
}

// hostUID is what the process's user is outside; false where that is not known,
// or where it has no id.
func (c *compiler) hostUID() (uint32, bool) {
	uid := c.spec.Process.User.UID
	if !c.inUserNS() && c.ns.fresh&unix.CLONE_NEWUSER == 0 {
		return uid, true
	}
	for _, m := range c.spec.Linux.UIDMappings {
		if uid >= m.ContainerID && uid-m.ContainerID < m.Size {
			return m.HostID + uid - m.ContainerID, true
		}
	}
	return 0, false
}
