package layer

import (
	"context"
	"fmt"
	"slices"
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

// Changes lists what an upper directory changes in the layers below, sorted by
// path. As in `docker diff`, a directory in which something changed is listed as
// modified itself, one that was only copied up is not, and of a deleted tree only
// its top is listed.
func Changes(ctx context.Context, up Upper) ([]Change, error) {
	v, err := OpenView(up.Lower)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	c := &comparer{ctx: ctx, up: &up}
	_, err = c.dir(int(up.Dir.Fd()), up.top(v))
	if err == nil {
		err = c.linkedFiles(v)
	}
	sort.Slice(c.out, func(i, j int) bool { return c.out[i].Path < c.out[j].Path })
	return c.out, err
}

// linkedFiles compares files that were changed under another name.
func (c *comparer) linkedFiles(v *View) error {
	list, err := c.up.linkedNames(v)
	for _, l := range list {
		var st unix.Stat_t
		dir, old, err := v.find(l.name)
		if err == nil && old != nil && unix.Fstatat(int(c.up.Dir.Fd()), aufsLinks+"/"+l.file, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && differs(&st, &old.st) {
			c.changed(l.name)
		}
		if dir != nil {
			dir.close()
		}
		if err != nil {
			return err
		}
	}
	return err
}

// changed notes a name and the directories above it as modified.
func (c *comparer) changed(name string) {
	for ; name != ""; name, _ = splitName(name) {
		if !slices.ContainsFunc(c.out, func(ch Change) bool { return ch.Path == "/"+name }) {
			c.add(Modified, name)
		}
	}
}

type comparer struct {
	ctx context.Context
	up  *Upper
	out []Change
}

func (c *comparer) add(k ChangeKind, name string) {
	c.out = append(c.out, Change{k, "/" + name})
}

// dir compares one directory with the merged one below. It reports whether
// anything in it differs.
func (c *comparer) dir(dirfd int, at *spot) (changed bool, err error) {
	defer at.below.close()
	fd, err := unix.Openat(dirfd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, fmt.Errorf("open directory %q: %w", "/"+at.name, err)
	}
	defer unix.Close(fd)
	items, err := c.up.items(fd, at)
	if err != nil {
		return false, err
	}
	for _, it := range items {
		if c.ctx.Err() != nil {
			return false, context.Cause(c.ctx)
		}
		if it.gone {
			c.add(Deleted, joinName(at.name, it.base))
			changed = true
			continue
		}
		ch, err := c.name(fd, it.base, at)
		if err != nil {
			return false, err
		}
		changed = changed || ch
	}
	return changed, nil
}

func (c *comparer) name(fd int, base string, at *spot) (bool, error) {
	full := joinName(at.name, base)
	var st unix.Stat_t
	err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("stat %q: %w", "/"+full, err)
	}
	if c.up.Spelling == SpelledCopy && at.own && st.Mode&unix.S_IFMT != unix.S_IFDIR && !c.up.Copy.after(&st) {
		return false, nil
	}
	old, err := at.lookup(base)
	if err != nil {
		return false, err
	}
	if c.up.Spelling == SpelledOverlay && isWhiteout(&st) {
		if old == nil {
			return false, nil
		}
		c.add(Deleted, full)
		return true, nil
	}
	inside, err := c.inside(fd, base, &st, at)
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
func (c *comparer) inside(fd int, base string, st *unix.Stat_t, at *spot) (bool, error) {
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return false, nil
	}
	sub, err := unix.Openat(fd, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open directory %q: %w", "/"+joinName(at.name, base), err)
	}
	defer unix.Close(sub)
	return c.dir(sub, c.up.inside(at, base, st))
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
