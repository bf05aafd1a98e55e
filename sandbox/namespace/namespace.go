// Package namespace looks at the Linux namespaces of processes, runs commands in
// new ones, and enters those of others (namespaces(7)).
package namespace

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Kind is a kind of namespace, by the name of its file in /proc/PID/ns.
type Kind string

// The eight kinds.
const (
	Cgroup Kind = "cgroup"
	IPC    Kind = "ipc"
	Mount  Kind = "mnt"
	Net    Kind = "net"
	PID    Kind = "pid"
	Time   Kind = "time"
	User   Kind = "user"
	UTS    Kind = "uts"
)

// Kinds lists them.
func Kinds() []Kind { return []Kind{Cgroup, IPC, Mount, Net, PID, Time, User, UTS} }

// Flag is the kind's flag of clone(2), unshare(2) and setns(2).
func (k Kind) Flag() uintptr {
	switch k {
	case Cgroup:
		return unix.CLONE_NEWCGROUP
	case IPC:
		return unix.CLONE_NEWIPC
	case Mount:
		return unix.CLONE_NEWNS
	case Net:
		return unix.CLONE_NEWNET
	case PID:
		return unix.CLONE_NEWPID
	case Time:
		return unix.CLONE_NEWTIME
	case User:
		return unix.CLONE_NEWUSER
	case UTS:
		return unix.CLONE_NEWUTS
	}
	return 0
}

// Parse reads the name of a kind.
func Parse(name string) (Kind, error) {
	switch name {
	case "mount":
		return Mount, nil
	case "network":
		return Net, nil
	}
	if k := Kind(name); k.Flag() != 0 {
		return k, nil
	}
	return "", fmt.Errorf("namespace %q is not known: there are cgroup, ipc, mnt, net, pid, time, user and uts", name)
}

// Of gives the namespaces that a process is in, by their inode numbers: two
// processes share a namespace if the numbers are the same. A kind that the kernel
// does not have is left out.
func Of(pid int) (map[Kind]uint64, error) {
	out := make(map[Kind]uint64)
	for _, k := range Kinds() {
		n, err := inode(pid, k)
		if errors.Is(err, os.ErrNotExist) {
			if _, err := os.Stat("/proc/" + strconv.Itoa(pid)); err != nil {
				return nil, fmt.Errorf("process %d: %w", pid, unix.ESRCH)
			}
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look at the %s namespace of process %d: %w", k, pid, err)
		}
		out[k] = n
	}
	return out, nil
}

// inode reads the number out of a link like "uts:[4026531838]".
func inode(pid int, k Kind) (uint64, error) {
	link, err := os.Readlink(file(pid, k))
	if err != nil {
		return 0, err
	}
	_, number, ok := strings.Cut(strings.TrimSuffix(link, "]"), ":[")
	n, err := strconv.ParseUint(number, 10, 64)
	if !ok || err != nil {
		return 0, fmt.Errorf("%q is no namespace", link)
	}
	return n, nil
}

func file(pid int, k Kind) string { return "/proc/" + strconv.Itoa(pid) + "/ns/" + string(k) }

// Namespace is one namespace, in which there are processes or which a file keeps.
type Namespace struct {
	Inode uint64
	Kind  Kind
	PIDs  []int // that are in it and can be looked at, ascending
	// Files are those that it is bound to, in our mount namespace, as ip-netns(8) does it.
	Files []string
	// Parent is the namespace above, of a user or PID namespace; 0 at the top, or
	// where it is not to be seen from here.
	Parent uint64
	// Owner is the user namespace whose rights count over it; 0 if not to be seen.
	Owner uint64
}

// List lists the namespaces of all processes that can be looked at, and those that files
// keep, by number; of some kinds only, if any are given.
func List(kinds ...Kind) ([]Namespace, error) {
	if len(kinds) == 0 {
		kinds = Kinds()
	}
	pids, err := processes()
	if err != nil {
		return nil, err
	}
	found := make(map[key]*Namespace)
	for _, pid := range pids {
		for _, k := range kinds {
			n, err := inode(pid, k)
			if err != nil {
				continue // it has ended, or is somebody else's
			}
			at := key{k, n}
			if found[at] == nil {
				found[at] = &Namespace{Inode: n, Kind: k}
				found[at].relate(file(pid, k))
			}
			found[at].PIDs = append(found[at].PIDs, pid)
		}
	}
	if err := addKept(found, kinds); err != nil {
		return nil, err
	}
	out := make([]Namespace, 0, len(found))
	for _, n := range found {
		out = append(out, *n)
	}
	slices.SortFunc(out, func(a, b Namespace) int {
		return cmp.Or(cmp.Compare(a.Inode, b.Inode), cmp.Compare(a.Kind, b.Kind))
	})
	return out, nil
}

type key struct {
	kind  Kind
	inode uint64
}

// addKept adds the namespaces that are mounted: what is mounted says which it is
// (proc_pid_mountinfo(5); nsfs, "uts:[4026532177]").
func addKept(found map[key]*Namespace, kinds []Kind) error {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("nsfs"))
	if err != nil {
		return fmt.Errorf("look for namespaces that are mounted: %w", err)
	}
	for _, m := range mounts {
		name, number, _ := strings.Cut(strings.TrimSuffix(m.Root, "]"), ":[")
		k := Kind(strings.TrimSuffix(name, "_for_children"))
		n, err := strconv.ParseUint(number, 10, 64)
		if err != nil || !slices.Contains(kinds, k) {
			continue
		}
		at := key{k, n}
		if found[at] == nil {
			found[at] = &Namespace{Inode: n, Kind: k}
			found[at].relate(m.Mountpoint)
		}
		found[at].Files = append(found[at].Files, m.Mountpoint)
	}
	return nil
}

// relate asks for parent and owner (ioctl_ns(2), Linux 4.9).
func (n *Namespace) relate(file string) {
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if n.Kind == User || n.Kind == PID {
		n.Parent = related(fd, unix.NS_GET_PARENT)
	}
	n.Owner = related(fd, unix.NS_GET_USERNS)
}

func related(fd int, request uint) uint64 {
	other, err := unix.IoctlRetInt(fd, request)
	if err != nil {
		return 0
	}
	defer unix.Close(other)
	var st unix.Stat_t
	if unix.Fstat(other, &st) != nil {
		return 0
	}
	return st.Ino
}

// Owner opens the user namespace that a file's namespace belongs to; of a user namespace,
// the one above (ioctl_ns(2), Linux 4.9).
func Owner(path string, k Kind) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the %s namespace %s: %w", k, path, err)
	}
	defer unix.Close(fd)
	request := uint(unix.NS_GET_USERNS)
	if k == User {
		request = unix.NS_GET_PARENT
	}
	above, err := unix.IoctlRetInt(fd, request)
	if err != nil {
		return nil, fmt.Errorf("find the user namespace above %s: %w", path, err)
	}
	return os.NewFile(uintptr(above), "user namespace above "+path), nil
}

// processes lists the numbers of all processes, ascending.
func processes() ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list the processes: %w", err)
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(filepath.Base(e.Name())); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids, nil
}
