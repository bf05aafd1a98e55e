package layer

import (
	"context"
	"fmt"
	"os"
	"sort"

	"golang.org/x/sys/unix"
)

// ChangeKind is one letter, as `docker diff` prints it.
type ChangeKind byte

// The kinds of change.
const (
	Added    ChangeKind = 'A'
	Modified ChangeKind = 'C'
	Deleted  ChangeKind = 'D'
)

func (k ChangeKind) String() string { return string(rune(k)) }

// Change is one path, from "/", that differs from the layers below.
type Change struct {
	Kind ChangeKind
	Path string
}

// Changes lists what an overlay upper directory changes in the layers below
// (top-most first), sorted by path. As in `docker diff`, a directory in which
// something changed is listed as modified itself, one that was only copied up
// is not, and of a deleted tree only its top is listed.
func Changes(ctx context.Context, upper *os.File, lower []string) ([]Change, error) {
	below, err := OpenView(lower)
	if err != nil {
		return nil, err
	}
	defer below.Close()
	fd, err := unix.Openat(int(upper.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open upper directory: %w", err)
	}
	c := &comparer{ctx: ctx}
	// The upper directory is one layer: what it does not name has not changed.
	_, err = c.upper(&viewDir{fds: []int{fd}, owned: true}, below.rootDir(), "")
	return c.sorted(), err
}

// Compare lists what differs between two trees that are complete each, with
// the same rules; before is given as layer directories, top-most first.
func Compare(ctx context.Context, after *os.File, before []string) ([]Change, error) {
	below, err := OpenView(before)
	if err != nil {
		return nil, err
	}
	defer below.Close()
	fd, err := unix.Openat(int(after.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open directory to compare: %w", err)
	}
	c := &comparer{ctx: ctx, whole: true}
	_, err = c.upper(&viewDir{fds: []int{fd}, owned: true}, below.rootDir(), "")
	return c.sorted(), err
}

type comparer struct {
	ctx   context.Context
	whole bool // a name that is missing above is deleted
	out   []Change
}

func (c *comparer) sorted() []Change {
	sort.Slice(c.out, func(i, j int) bool { return c.out[i].Path < c.out[j].Path })
	return c.out
}

func (c *comparer) add(k ChangeKind, name string) {
	c.out = append(c.out, Change{k, "/" + name})
}

// upper compares one directory, which it closes, with the merged one below
// (nil if there is none). It reports whether anything in it differs.
func (c *comparer) upper(dir, below *viewDir, name string) (changed bool, err error) {
	defer dir.close()
	fd := dir.fds[0]
	names, err := readNames(fd)
	if err != nil {
		return false, fmt.Errorf("list %q: %w", "/"+name, err)
	}
	seen := make(map[string]bool, len(names))
	for _, n := range names {
		if c.ctx.Err() != nil {
			return false, context.Cause(c.ctx)
		}
		seen[n] = true
		ch, err := c.name(fd, n, below, joinName(name, n))
		if err != nil {
			return false, err
		}
		changed = changed || ch
	}
	if below == nil || (!c.whole && !isOpaque(fd)) {
		return changed, nil
	}
	lowerNames, err := below.names()
	if err != nil {
		return false, err
	}
	for _, n := range lowerNames {
		if !seen[n] {
			c.add(Deleted, joinName(name, n))
			changed = true
		}
	}
	return changed, nil
}

func (c *comparer) name(fd int, base string, below *viewDir, full string) (bool, error) {
	var st unix.Stat_t
	err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("stat %q: %w", "/"+full, err)
	}
	old, err := below.lookup(base)
	if err != nil {
		return false, err
	}
	if isWhiteout(&st) {
		if old == nil {
			return false, nil
		}
		c.add(Deleted, full)
		return true, nil
	}
	inside, err := c.inside(fd, base, &st, below, old, full)
	if err != nil {
		return false, err
	}
	switch {
	case old == nil:
		c.add(Added, full)
		return true, nil
	case inside || differs(&st, &old.st):
		c.add(Modified, full)
		return true, nil
	}
	return false, nil
}

// inside compares the content of a directory.
func (c *comparer) inside(fd int, base string, st *unix.Stat_t, below *viewDir, old *viewEntry, full string) (bool, error) {
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return false, nil
	}
	var oldDir *viewDir
	if old != nil && old.isDir() {
		var err error
		if oldDir, err = below.open(base, old); err != nil {
			return false, err
		}
		defer oldDir.close()
	}
	sub, err := unix.Openat(fd, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open directory %q: %w", "/"+full, err)
	}
	return c.upper(&viewDir{fds: []int{sub}, owned: true}, oldDir, full)
}

// differs compares what `docker diff` compares: kind, mode, owner and device
// of everything, size and modification time of all but directories (moby,
// pkg/archive: times of directories change with their content).
func differs(a, b *unix.Stat_t) bool {
	if a.Mode != b.Mode || a.Uid != b.Uid || a.Gid != b.Gid || a.Rdev != b.Rdev {
		return true
	}
	return a.Mode&unix.S_IFMT != unix.S_IFDIR && (a.Size != b.Size || a.Mtim != b.Mtim)
}
