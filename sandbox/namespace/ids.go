package namespace

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
)

// SubordinateUIDs gives the first range of user ids that the current user may have in a
// user namespace (subuid(5)): Inside is 0.
func SubordinateUIDs() (Map, error) { return subordinate("/etc/subuid") }

// SubordinateGIDs gives the first range of group ids (subgid(5)).
func SubordinateGIDs() (Map, error) { return subordinate("/etc/subgid") }

func subordinate(file string) (Map, error) {
	uid := os.Geteuid()
	name := strconv.Itoa(uid)
	if u, err := user.LookupUid(uid); err == nil {
		name = u.Name
	}
	ranges, err := user.ParseSubIDFileFilter(file, func(s user.SubID) bool {
		return s.Count > 0 && (s.Name == name || s.Name == strconv.Itoa(uid))
	})
	if err != nil {
		return Map{}, fmt.Errorf("read the subordinate ids of user %s: %w", name, err)
	}
	if len(ranges) == 0 {
		return Map{}, fmt.Errorf("user %s has no subordinate ids: %s has no line for him", name, file)
	}
	return Map{Outside: int(ranges[0].SubID), Count: int(ranges[0].Count)}, nil
}

// AllUIDs maps every user id that there is in our own user namespace to itself.
func AllUIDs() ([]Map, error) { return all("/proc/self/uid_map") }

// AllGIDs maps every group id.
func AllGIDs() ([]Map, error) { return all("/proc/self/gid_map") }

func all(file string) ([]Map, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var out []Map
	for line := range strings.Lines(string(b)) {
		var inside, outside, count int
		if _, err := fmt.Sscan(line, &inside, &outside, &count); err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
		out = append(out, Map{Inside: inside, Outside: inside, Count: count})
	}
	return out, nil
}

// Without gives ranges without one id inside: what comes behind it keeps its place
// inside, and the last is not mapped any more.
func Without(ranges []Map, inside int) []Map {
	var out []Map
	for _, m := range ranges {
		before := inside - m.Inside
		if before < 0 || before >= m.Count {
			out = append(out, m)
			continue
		}
		if before > 0 {
			out = append(out, Map{m.Inside, m.Outside, before})
		}
		if after := m.Count - before - 1; after > 0 {
			out = append(out, Map{inside + 1, m.Outside + before, after})
		}
	}
	return out
}

// byHelper says whether the maps are such that only newuidmap(1) and newgidmap(1) can
// write them: somebody who is not root may map himself only (user_namespaces(7)).
func (c *Command) byHelper() bool {
	own := func(list []Map, id int) bool {
		return len(list) == 0 || len(list) == 1 && list[0].Count == 1 && list[0].Outside == id
	}
	return os.Geteuid() != 0 && !(own(c.UIDs, os.Geteuid()) && own(c.GIDs, os.Getegid()))
}

// mapByHelper has the maps of a process written.
func (c *Command) mapByHelper(pid int) error {
	if !c.Setgroups {
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/setgroups", pid), []byte("deny"), 0); err != nil {
			return fmt.Errorf("deny setgroups: %w", err)
		}
	}
	for _, m := range []struct {
		helper string
		list   []Map
	}{{"newuidmap", c.UIDs}, {"newgidmap", c.GIDs}} {
		if len(m.list) == 0 {
			continue
		}
		args := []string{strconv.Itoa(pid)}
		for _, r := range m.list {
			args = append(args, strconv.Itoa(r.Inside), strconv.Itoa(r.Outside), strconv.Itoa(r.Count))
		}
		if out, err := exec.Command(m.helper, args...).CombinedOutput(); err != nil {
			return fmt.Errorf("map ids with %s: %w: %s", m.helper, err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

// IDOf gives the id of a process, by the line ("Uid:" or "Gid:") of its status and the
// file ("uid_map" or "gid_map") of its user namespace: as it is called there, if inside,
// else as it is called here.
func IDOf(pid int, line, ids string, inside bool) (uint32, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("find the ids of process %d: %w", pid, err)
	}
	var id uint32
	for l := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(l, line); ok {
			if _, err := fmt.Sscan(rest, &id); err != nil {
				return 0, fmt.Errorf("find the ids of process %d: %w", pid, err)
			}
		}
	}
	if !inside {
		return id, nil
	}
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, ids))
	if err != nil {
		return 0, fmt.Errorf("find the ids of process %d: %w", pid, err)
	}
	for l := range strings.Lines(string(maps)) {
		var in, out, count uint32
		if _, err := fmt.Sscan(l, &in, &out, &count); err == nil && id >= out && id-out < count {
			return in + id - out, nil
		}
	}
	return 0, fmt.Errorf("the id %d of process %d is not mapped in its user namespace", id, pid)
}

// capabilities lists those that the kernel has (capabilities(7)).
func capabilities() []uintptr {
	last := uint64(unix.CAP_LAST_CAP)
	if b, err := os.ReadFile("/proc/sys/kernel/cap_last_cap"); err == nil {
		if n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 8); err == nil {
			last = n
		}
	}
	var out []uintptr
	for i := range last + 1 {
		out = append(out, uintptr(i))
	}
	return out
}

// dropAmbient gives up the capabilities that the execution of this program was to keep.
func dropAmbient() error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("give up the ambient capabilities: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	err := unix.Capget(&header, &data[0])
	if err == nil {
		data[0].Inheritable, data[1].Inheritable = 0, 0
		err = unix.Capset(&header, &data[0])
	}
	if err != nil {
		return fmt.Errorf("give up the inheritable capabilities: %w", err)
	}
	return nil
}
