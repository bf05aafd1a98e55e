package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Hierarchy is one mounted cgroup file system.
type Hierarchy struct {
	Mount       string   // absolute mount point
	V2          bool     // cgroup2
	Controllers []string // on v2 those that the mount's top cgroup may pass on
	Name        string   // of a named v1 hierarchy ("systemd")
}

// Layout is what is mounted where.
type Layout struct {
	Hierarchies []Hierarchy
}

// Mode is one of the four arrangements that occur.
type Mode string

// The modes.
const (
	None   Mode = "none"
	V1     Mode = "v1"
	Hybrid Mode = "hybrid" // controllers on v1, and a v2 hierarchy beside them
	V2     Mode = "v2"
)

// Mode tells the arrangement of a layout.
func (l Layout) Mode() Mode {
	v1, v2 := false, false
	for _, h := range l.Hierarchies {
		v1 = v1 || !h.V2
		v2 = v2 || h.V2
	}
	switch {
	case v1 && v2:
		return Hybrid
	case v1:
		return V1
	case v2:
		return V2
	}
	return None
}

// usual is where cgroups are mounted unless somebody wants it otherwise.
const usual = "/sys/fs/cgroup"

// Detect finds the mounted hierarchies of this process's mount namespace.
func Detect() (Layout, error) {
	// On a pure v2 machine one system call says everything; mountinfo, which
	// grows with every container, need not be read.
	var fs unix.Statfs_t
	if err := unix.Statfs(usual, &fs); err == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
		l := Layout{Hierarchies: []Hierarchy{{Mount: usual, V2: true}}}
		return l, l.readControllers()
	}
	return DetectAt("")
}

// DetectAt is Detect below another root: root/proc/self/mountinfo is read, and
// root is put before each mount point.
func DetectAt(root string) (Layout, error) {
	path := root + "/proc/self/mountinfo"
	info, err := readFile(path)
	if err != nil {
		return Layout{}, fmt.Errorf("find the cgroup hierarchies: %w", err)
	}
	l, err := parseMountinfo(info)
	if err != nil {
		return Layout{}, fmt.Errorf("find the cgroup hierarchies in %s: %w", path, err)
	}
	for i := range l.Hierarchies {
		l.Hierarchies[i].Mount = root + l.Hierarchies[i].Mount
	}
	return l, l.readControllers()
}

// readFile reads a file of procfs or cgroupfs, whose size is not known
// beforehand. os.ReadFile would also register it with the poller, for cgroup
// files can be polled: twice the system calls, on the way of every start.
func readFile(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	buf := make([]byte, 0, 4<<10)
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, make([]byte, cap(buf))...)[:len(buf)]
		}
		n, err := unix.Read(fd, buf[len(buf):cap(buf)])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, &os.PathError{Op: "read", Path: path, Err: err}
		}
		if n == 0 {
			return buf, nil
		}
		buf = buf[:len(buf)+n]
	}
}

// parseMountinfo picks the cgroup mounts out of a mountinfo (proc(5)): "… root
// mountpoint options [optional…] - type source superoptions".
func parseMountinfo(info []byte) (Layout, error) {
	var l Layout
	for len(info) > 0 {
		line := info
		if i := bytes.IndexByte(info, '\n'); i >= 0 {
			line, info = info[:i], info[i+1:]
		} else {
			info = nil
		}
		i := bytes.Index(line, []byte(" - cgroup"))
		if i < 0 {
			continue
		}
		before := strings.Fields(string(line[:i]))
		after := strings.Fields(string(line[i+3:]))
		if len(before) < 6 || len(after) < 3 {
			return Layout{}, fmt.Errorf("line %q is cut off", line)
		}
		h := Hierarchy{Mount: Unescape(before[4])}
		switch after[0] {
		case "cgroup2":
			h.V2 = true
		case "cgroup":
			h.Controllers, h.Name = superOptions(after[2])
		default:
			continue
		}
		l.add(h)
	}
	return l, nil
}

// add records a hierarchy. One that is mounted several times counts once, at
// the usual place if it is there.
func (l *Layout) add(h Hierarchy) {
	for i, have := range l.Hierarchies {
		if have.V2 == h.V2 && have.Name == h.Name && slices.Equal(have.Controllers, h.Controllers) {
			if strings.HasPrefix(h.Mount, usual) && !strings.HasPrefix(have.Mount, usual) {
				l.Hierarchies[i] = h
			}
			return
		}
	}
	l.Hierarchies = append(l.Hierarchies, h)
}

// v1Controllers are the controllers among v1's mount options; the others are
// flags (xattr, clone_children, release_agent=…).
var v1Controllers = [...]string{"blkio", "cpu", "cpuacct", "cpuset", "debug", "devices", "freezer", "hugetlb",
	"memory", "misc", "net_cls", "net_prio", "perf_event", "pids", "rdma"}

func superOptions(opts string) (controllers []string, name string) {
	for o := range strings.SplitSeq(opts, ",") {
		if slices.Contains(v1Controllers[:], o) {
			controllers = append(controllers, o)
		} else if n, ok := strings.CutPrefix(o, "name="); ok {
			name = n
		}
	}
	return controllers, name
}

// Unescape undoes the octal escapes of mountinfo: \040 is a space.
func Unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// readControllers fills in what the v2 hierarchy offers.
func (l *Layout) readControllers() error {
	for i := range l.Hierarchies {
		h := &l.Hierarchies[i]
		if !h.V2 {
			continue
		}
		b, err := readFile(h.Mount + "/cgroup.controllers")
		if err != nil {
			return fmt.Errorf("find the controllers of the v2 hierarchy: %w", err)
		}
		h.Controllers = strings.Fields(string(b))
	}
	return nil
}

// with gives the hierarchy that has a controller, nil if none has it.
func (l Layout) with(controller string) *Hierarchy {
	for i := range l.Hierarchies {
		if slices.Contains(l.Hierarchies[i].Controllers, controller) {
			return &l.Hierarchies[i]
		}
	}
	return nil
}

func (l Layout) unified() *Hierarchy {
	for i := range l.Hierarchies {
		if l.Hierarchies[i].V2 {
			return &l.Hierarchies[i]
		}
	}
	return nil
}

// joined says whether containers are put into a hierarchy: all but named v1
// ones, of which only systemd's counts. If a container stayed in the cgroup of
// the user's session there, systemd would kill it at logout.
func (h *Hierarchy) joined() bool {
	return h.V2 || len(h.Controllers) > 0 || h.Name == "systemd"
}

// ErrPath is in the chain of errors about a cgroups path.
var ErrPath = errors.New("not a usable cgroups path")

// CleanPath gives the path of a cgroup below each mount point, beginning with
// "/viv/" or what the caller chose, from an OCI cgroupsPath: an absolute one is
// taken as it is, a relative one is put below /viv. systemd's form,
// slice:prefix:name, is refused: only systemd may make cgroups in its slices.
func CleanPath(path string) (string, error) {
	if path == "" {
		return "", fmt.Errorf("cgroups path is empty: %w", ErrPath)
	}
	if strings.Count(path, ":") == 2 && !strings.HasPrefix(path, "/") {
		return "", fmt.Errorf("cgroups path %q is in systemd's form slice:prefix:name, and cgroups are made directly here, without systemd; use the cgroupfs manager of the calling engine: %w", path, ErrPath)
	}
	rel := path
	if !strings.HasPrefix(path, "/") {
		rel = "/viv/" + path
	}
	var parts []string
	for p := range strings.SplitSeq(rel, "/") {
		switch {
		case p == "" || p == ".":
		case p == "..":
			return "", fmt.Errorf("cgroups path %q has a \"..\": %w", path, ErrPath)
		case strings.ContainsAny(p, "\n\x00") || len(p) > 255:
			return "", fmt.Errorf("cgroups path %q has a name that a cgroup cannot have: %w", path, ErrPath)
		default:
			parts = append(parts, p)
		}
	}
	if len(parts) == 0 {
		return "", fmt.Errorf("cgroups path %q is the root of the hierarchy, which belongs to all: %w", path, ErrPath)
	}
	return "/" + strings.Join(parts, "/"), nil
}

// Delegated gives the hierarchies in which this process may make the group
// cgroupPath: those whose nearest group above it that exists is writable for it,
// as one is that has been delegated to a user (cgroups(7)).
func (l Layout) Delegated(cgroupPath string) (Layout, error) {
	rel, err := CleanPath(cgroupPath)
	if err != nil {
		return l, err
	}
	var out Layout
	for _, h := range l.Hierarchies {
		dir := h.Mount
		for _, a := range ancestors(rel) {
			if unix.Access(h.Mount+a, unix.F_OK) != nil {
				break
			}
			dir = h.Mount + a
		}
		if unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK, unix.AT_EACCESS) == nil {
			out.Hierarchies = append(out.Hierarchies, h)
		}
	}
	return out, nil
}
