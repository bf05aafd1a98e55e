package layer

import (
	"errors"
	"fmt"
	"os"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// View is what a stack of layer directories looks like when it is merged, read
// without mounting anything. It is what a layer that is unpacked by itself, and
// the comparison with a container's own layer, need of the layers below.
type View struct {
	roots []int
}

// OpenView opens the layer directories, top-most first. A directory that has
// mounts inside, as "/" has, is seen without them, as overlay sees it.
func OpenView(lower []string) (*View, error) {
	v := &View{}
	for _, dir := range lower {
		fd, err := openLayerDir(dir)
		if err != nil {
			v.Close()
			return nil, fmt.Errorf("open layer directory %s: %w", dir, err)
		}
		v.roots = append(v.roots, fd)
	}
	return v, nil
}

// openLayerDir opens a clone of the mount without what is mounted below; where
// that is not permitted (open_tree(2) asks for CAP_SYS_ADMIN), the directory.
func openLayerDir(dir string) (int, error) {
	tree, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	}
	defer unix.Close(tree)
	return unix.Openat(tree, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// Close closes the descriptors.
func (v *View) Close() {
	for _, fd := range v.roots {
		unix.Close(fd)
	}
	v.roots = nil
}

// viewDir is one merged directory: its layers' directories, top-most first.
type viewDir struct {
	fds   []int
	owned bool
}

func (v *View) rootDir() *viewDir { return &viewDir{fds: v.roots} }

func (d *viewDir) close() {
	if d == nil || !d.owned {
		return
	}
	for _, fd := range d.fds {
		unix.Close(fd)
	}
	d.fds = nil
}

// viewEntry is one merged name: its state, and the directory that it is in.
type viewEntry struct {
	st     unix.Stat_t
	parent int // descriptor, owned by the viewDir
	index  int // which layer of the viewDir
}

func (e *viewEntry) isDir() bool  { return e.st.Mode&unix.S_IFMT == unix.S_IFDIR }
func (e *viewEntry) isLink() bool { return e.st.Mode&unix.S_IFMT == unix.S_IFLNK }

// lookup finds a name as overlay does: the top-most layer that has it says
// what it is, and a whiteout says that it is not there.
func (d *viewDir) lookup(name string) (*viewEntry, error) {
	if d == nil {
		return nil, nil
	}
	for i, fd := range d.fds {
		e := &viewEntry{parent: fd, index: i}
		err := unix.Fstatat(fd, name, &e.st, unix.AT_SYMLINK_NOFOLLOW)
		if err == unix.ENOENT {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("stat %q in layer: %w", name, err)
		}
		if isWhiteout(&e.st) {
			return nil, nil
		}
		return e, nil
	}
	return nil, nil
}

// open opens the merged directory behind an entry that lookup returned.
func (d *viewDir) open(name string, e *viewEntry) (*viewDir, error) {
	out := &viewDir{owned: true}
	for i := e.index; i < len(d.fds); i++ {
		fd, err := unix.Openat(d.fds[i], name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == unix.ENOENT {
			continue
		}
		if err == unix.ENOTDIR || err == unix.ELOOP {
			break // a file or a whiteout hides what is below it
		}
		if err != nil {
			out.close()
			return nil, fmt.Errorf("open directory %q in layer: %w", name, err)
		}
		out.fds = append(out.fds, fd)
		if isOpaque(fd) {
			break
		}
	}
	return out, nil
}

// names lists the merged directory, sorted.
func (d *viewDir) names() ([]string, error) {
	if d == nil {
		return nil, nil
	}
	all, err := d.allNames()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, n := range all {
		e, err := d.lookup(n)
		if err != nil {
			return nil, err
		}
		if e != nil {
			out = append(out, n)
		}
	}
	return out, nil
}

// allNames lists the names that a layer says something of, whiteouts too, sorted.
func (d *viewDir) allNames() ([]string, error) {
	seen := make(map[string]bool)
	var out []string
	for _, fd := range d.fds {
		names, err := readNames(fd)
		if err != nil {
			return nil, fmt.Errorf("list layer directory: %w", err)
		}
		for _, n := range names {
			if !seen[n] {
				seen[n] = true
				out = append(out, n)
			}
		}
	}
	sort.Strings(out)
	return out, nil
}

// errLinkInPath is returned by find when a directory on the way is a link.
var errLinkInPath = errors.New("a directory of the path is a symbolic link")

// find looks a resolved path up, following nothing. dir is the directory that
// holds the entry and is closed by the caller; entry is nil if there is none.
func (v *View) find(name string) (dir *viewDir, entry *viewEntry, err error) {
	dir = v.rootDir()
	for {
		comp, rest, more := strings.Cut(name, "/")
		e, err := dir.lookup(comp)
		if err != nil || e == nil || !more {
			return dir, e, err
		}
		if e.isLink() {
			return dir, nil, errLinkInPath
		}
		if !e.isDir() {
			return dir, nil, nil
		}
		next, err := dir.open(comp, e)
		dir.close()
		if err != nil {
			return nil, nil, err
		}
		dir, name = next, rest
	}
}

// resolve returns the path without symbolic links, as far as it exists: links
// in directories are followed inside the view, and the last component too if
// followLast says so. What does not exist is kept as it is written.
func (v *View) resolve(name string, followLast bool) (string, error) {
	pending := strings.Split(name, "/")
	cur, links := "", 0
	for len(pending) > 0 {
		comp := pending[0]
		pending = pending[1:]
		switch comp {
		case "", ".":
			continue
		case "..":
			cur, _ = splitName(cur)
			continue
		}
		full := joinName(cur, comp)
		target, err := v.linkTarget(full)
		if err != nil {
			return "", err
		}
		if target == "" || (len(pending) == 0 && !followLast) {
			cur = full
			continue
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("follow symbolic link %q: %w", full, unix.ELOOP)
		}
		if strings.HasPrefix(target, "/") {
			cur = ""
		}
		pending = append(strings.Split(target, "/"), pending...)
	}
	return cur, nil
}

// linkTarget is the text of a symbolic link, or "" for anything else.
func (v *View) linkTarget(name string) (string, error) {
	dir, e, err := v.find(name)
	if dir != nil {
		defer dir.close()
	}
	if err != nil || e == nil || !e.isLink() {
		return "", err
	}
	_, base := splitName(name)
	target, err := readlinkat(e.parent, base)
	if err != nil {
		return "", fmt.Errorf("read symbolic link %q: %w", name, err)
	}
	return target, nil
}

// RootMode returns the permission bits and the owner of the merged root, which
// is the top-most layer's. A container's own layer must be made with them,
// because overlay shows the attributes of the upper directory.
func RootMode(lower []string) (mode os.FileMode, uid, gid int, err error) {
	if len(lower) == 0 {
		return 0o755, 0, 0, nil
	}
	var st unix.Stat_t
	if err := unix.Stat(lower[0], &st); err != nil {
		return 0, 0, 0, fmt.Errorf("stat layer directory %s: %w", lower[0], err)
	}
	return os.FileMode(st.Mode & 0o777), int(st.Uid), int(st.Gid), nil
}
