package stack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vivarium/unionfs/aufs"
)

// ErrInUse says that a union that is mounted has the branch.
var ErrInUse = errors.New("the branch is in a union that is mounted: unmount that first")

// Commit folds the top-most branch into the next one: the union of what is left
// shows what the whole one has shown, and the top-most branch is empty. Each step
// leaves the union as it was to look at, so whoever is cut off begins again. Both
// branches have to be on one file system, and in no union that is mounted.
func (s Stack) Commit(ctx context.Context) error {
	if len(s.Branches) < 2 {
		return errors.New("commit: there is no branch below the top-most one")
	}
	if err := s.notMounted(); err != nil {
		return err
	}
	if s.spelling(0) != s.spelling(1) {
		return fmt.Errorf("commit: %s and %s do not spell what is deleted in one way", s.Branches[0].Path, s.Branches[1].Path)
	}
	top, next := s.Branches[0].Path, s.Branches[1].Path
	var a, b unix.Stat_t
	if err := errors.Join(unix.Stat(top, &a), unix.Stat(next, &b)); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	if a.Dev != b.Dev {
		return fmt.Errorf("commit: %s and %s are on two file systems: %w", top, next, unix.EXDEV)
	}
	// From here on whiteouts on it mean something.
	s.Branches = append([]aufs.Branch{}, s.Branches...)
	s.Branches[1].WH = true
	c := committer{s: s, lower: Stack{Type: s.Type, Branches: s.Branches[2:]}, top: top, next: next, step: ctx.Err}
	err := c.links()
	if err == nil {
		err = c.dir("")
	}
	if err != nil {
		return fmt.Errorf("commit %s into %s: %w", top, next, err)
	}
	return nil
}

func (s Stack) notMounted() error {
	unions, err := All()
	if err != nil {
		return err
	}
	for _, u := range unions {
		for _, used := range u.Branches {
			for _, b := range s.Branches[:2] {
				if same(used.Path, b.Path) {
					return fmt.Errorf("commit: %s is a branch of %s: %w", b.Path, u.Point, ErrInUse)
				}
			}
		}
	}
	return nil
}

func same(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return a == b
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

type committer struct {
	s         Stack
	lower     Stack // what stays below both
	top, next string
	step      func() error // is asked before each change
}

// remove removes a tree.
func (c *committer) remove(path string) error {
	if err := c.step(); err != nil {
		return err
	}
	return os.RemoveAll(path)
}

func (c *committer) rename(from, to string) error {
	if err := c.step(); err != nil {
		return err
	}
	return os.Rename(from, to)
}

func (c *committer) dir(dir string) error {
	if err := c.opaque(dir); err != nil {
		return err
	}
	entries, err := os.ReadDir(filepath.Join(c.top, dir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := c.entry(dir, e); err != nil {
			return err
		}
	}
	return c.attributes(dir)
}

func (c *committer) entry(dir string, e fs.DirEntry) error {
	name := e.Name()
	info, err := e.Info()
	if err != nil {
		return err
	}
	switch {
	case isOverlayWhiteout(c.s.Type, info):
		return c.whiteout(dir, name, name)
	case c.s.Type == AUFS && strings.HasPrefix(name, aufs.Temp):
		return c.own(dir, name)
	case c.s.Type == AUFS && strings.HasPrefix(name, aufs.Prefix):
		return c.whiteout(dir, name, strings.TrimPrefix(name, aufs.Prefix))
	}
	return c.move(dir, name, info)
}

// own leaves what AUFS keeps for itself on the branch, but for marks and what is
// unfinished.
func (c *committer) own(dir, name string) error {
	if dir == "" && (name == aufs.Base || name == aufs.Links || name == aufs.Orphan) {
		return nil
	}
	return c.remove(filepath.Join(c.top, dir, name))
}

// opaque lets an opaque directory hide what is below the next branch, too.
func (c *committer) opaque(dir string) error {
	top, next := filepath.Join(c.top, dir), filepath.Join(c.next, dir)
	is, err := c.s.opaque(0, top)
	if err != nil || !is {
		return err
	}
	entries, err := os.ReadDir(next)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if dir == "" && (e.Name() == aufs.Base || e.Name() == aufs.Links || e.Name() == aufs.Orphan) {
			continue
		}
		if err := c.remove(filepath.Join(next, e.Name())); err != nil {
			return err
		}
	}
	if err := c.markIfNeeded(dir, next); err != nil {
		return err
	}
	if c.s.Type == AUFS {
		return c.remove(filepath.Join(top, aufs.Opaque))
	}
	if err := c.step(); err != nil {
		return err
	}
	for _, attr := range opaqueAttrs {
		if err := unix.Lremovexattr(top, attr); err != nil && err != unix.ENODATA && err != unix.ENOTSUP && err != unix.EPERM {
			return &fs.PathError{Op: "removexattr", Path: top, Err: err}
		}
	}
	return nil
}

var opaqueAttrs = [...]string{"trusted.overlay.opaque", "user.overlay.opaque"}

// markIfNeeded makes a directory opaque if one of that name is further below.
func (c *committer) markIfNeeded(dir, path string) error {
	shown, err := c.lower.shows(dir)
	if err != nil || !shown {
		return err
	}
	if err := c.step(); err != nil {
		return err
	}
	if c.s.Type == AUFS {
		f, err := os.OpenFile(filepath.Join(path, aufs.Opaque), os.O_CREATE|os.O_WRONLY, 0o444)
		if err != nil {
			return err
		}
		return f.Close()
	}
	err = unix.Lsetxattr(path, opaqueAttrs[0], []byte("y"), 0)
	if err == unix.EPERM {
		err = unix.Lsetxattr(path, opaqueAttrs[1], []byte("y"), 0)
	}
	if err != nil {
		return &fs.PathError{Op: "setxattr", Path: path, Err: err}
	}
	return nil
}

// whiteout deletes a name on the next branch, and keeps the whiteout there if the
// name is further below.
func (c *committer) whiteout(dir, file, name string) error {
	from, to := filepath.Join(c.top, dir, file), filepath.Join(c.next, dir, file)
	if err := c.remove(filepath.Join(c.next, dir, name)); err != nil {
		return err
	}
	shown, err := c.lower.shows(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	if shown {
		return c.rename(from, to)
	}
	if err := c.remove(to); err != nil {
		return err
	}
	return c.remove(from)
}

// move takes an entry to the next branch, whole where that has no directory of the
// name, and else what is in it.
func (c *committer) move(dir, name string, info fs.FileInfo) error {
	path := filepath.Join(dir, name)
	from, to := filepath.Join(c.top, path), filepath.Join(c.next, path)
	there, err := os.Lstat(to)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	white := err == nil && isOverlayWhiteout(c.s.Type, there)
	if c.s.Type == AUFS {
		if white, err = exists(filepath.Join(c.next, dir, aufs.Prefix+name)); err != nil {
			return err
		}
	}
	if info.IsDir() && there != nil && there.IsDir() && !white {
		if err := c.dir(path); err != nil {
			return err
		}
		return c.remove(from)
	}
	if info.IsDir() && (white || there != nil) { // which hides the directories below
		if err := c.markIfNeeded(path, from); err != nil {
			return err
		}
	}
	if white && c.s.Type == AUFS {
		// Nothing changes to look at: the name is on the branch above.
		if err := c.remove(filepath.Join(c.next, dir, aufs.Prefix+name)); err != nil {
			return err
		}
	}
	if there != nil && there.IsDir() != info.IsDir() {
		if err := c.remove(to); err != nil {
			return err
		}
	}
	if there != nil && os.SameFile(info, there) {
		return c.remove(from) // rename(2) does nothing between two names of one file
	}
	return c.rename(from, to)
}

// attributes gives a directory of the next branch what the one above shows: owner,
// mode, extended attributes and times.
func (c *committer) attributes(dir string) error {
	if err := c.step(); err != nil {
		return err
	}
	return copyAttributes(filepath.Join(c.top, dir), filepath.Join(c.next, dir))
}

func copyAttributes(from, to string) error {
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return &fs.PathError{Op: "lstat", Path: from, Err: err}
	}
	if err := os.Lchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Chmod(to, st.Mode&0o7777); err != nil {
		return &fs.PathError{Op: "chmod", Path: to, Err: err}
	}
	if err := copyXattrs(from, to); err != nil {
		return err
	}
	return os.Chtimes(to, time.Unix(st.Atim.Unix()), time.Unix(st.Mtim.Unix()))
}

// copyXattrs makes the extended attributes of one directory those of another, but
// for overlay's own.
func copyXattrs(from, to string) error {
	want, err := xattrs(from)
	if err != nil {
		return err
	}
	have, err := xattrs(to)
	if err != nil {
		return err
	}
	for name := range have {
		if _, ok := want[name]; !ok {
			if err := unix.Lremovexattr(to, name); err != nil && err != unix.ENODATA {
				return &fs.PathError{Op: "removexattr " + name, Path: to, Err: err}
			}
		}
	}
	for name, value := range want {
		if old, ok := have[name]; ok && old == value {
			continue
		}
		if err := unix.Lsetxattr(to, name, []byte(value), 0); err != nil {
			return &fs.PathError{Op: "setxattr " + name, Path: to, Err: err}
		}
	}
	return nil
}

func xattrs(path string) (map[string]string, error) {
	list := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Llistxattr(path, list)
	if err == unix.ENOTSUP {
		return nil, nil
	}
	if err != nil {
		return nil, &fs.PathError{Op: "listxattr", Path: path, Err: err}
	}
	out := map[string]string{}
	value := make([]byte, 64<<10) // XATTR_SIZE_MAX
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00") {
		if name == "" || strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.") {
			continue
		}
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, &fs.PathError{Op: "getxattr " + name, Path: path, Err: err}
		}
		out[name] = string(value[:n])
	}
	return out, nil
}
