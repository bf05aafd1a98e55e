package layer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// WalkEntry is one file that a walk has come to.
type WalkEntry struct {
	Rel     string // path below the top, "" for the top itself
	Stat    unix.Stat_t
	Implied bool // a directory that was not chosen, above one that was

	dirfd int
	base  string
}

// IsDir, IsFile and IsLink tell the kind of file.
func (e *WalkEntry) IsDir() bool { return e.Stat.Mode&unix.S_IFMT == unix.S_IFDIR }

// IsFile tells a regular file.
func (e *WalkEntry) IsFile() bool { return e.Stat.Mode&unix.S_IFMT == unix.S_IFREG }

// IsLink tells a symbolic link.
func (e *WalkEntry) IsLink() bool { return e.Stat.Mode&unix.S_IFMT == unix.S_IFLNK }

// Open opens a regular file that is still the one that the walk has seen.
func (e *WalkEntry) Open() (*os.File, error) {
	fd, err := unix.Openat(e.dirfd, e.base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %q: %w", e.Rel, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Ino != e.Stat.Ino || st.Dev != e.Stat.Dev || st.Mode != e.Stat.Mode {
		unix.Close(fd)
		return nil, fmt.Errorf("open %q: it was exchanged while it was read", e.Rel)
	}
	return os.NewFile(uintptr(fd), e.base), nil
}

// Link is the text of a symbolic link.
func (e *WalkEntry) Link() (string, error) {
	s, err := readlinkat(e.dirfd, e.base)
	if err != nil {
		return "", fmt.Errorf("read symbolic link %q: %w", e.Rel, err)
	}
	return s, nil
}

// Xattrs are the file's attributes, without those of the union file system.
func (e *WalkEntry) Xattrs() (map[string]string, error) { return listXattrs(e.dirfd, e.base) }

// Filter chooses among the files of a walk, by their paths below its top. A directory
// that is descended into and not taken shows itself only above something that is taken.
type Filter func(rel string, dir bool) (take, descend bool)

// Walk visits the file or tree at unsafePath of a root, in the order of names, each
// directory before what is in it. Links on the way to it are followed inside the root;
// the last component only if follow says so. No link below it is followed. A nil
// filter takes everything. The entry is good during the visit only.
func Walk(ctx context.Context, root *os.File, unsafePath string, follow bool, filter Filter, visit func(*WalkEntry) error) error {
	cache := newDirCache(int(root.Fd()))
	defer cache.flush()
	dir, base, err := cache.locate(unsafePath, follow)
	if err != nil {
		return fmt.Errorf("%q: %w", unsafePath, err)
	}
	if filter == nil {
		filter = func(string, bool) (bool, bool) { return true, true }
	}
	w := &walker{ctx: ctx, filter: filter, visit: visit}
	err = w.entry(dir.fd, base, "")
	if errors.Is(err, unix.ENOENT) && !w.seen {
		err = ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("%q: %w", unsafePath, err)
	}
	return nil
}

type walker struct {
	ctx     context.Context
	filter  Filter
	visit   func(*WalkEntry) error
	pending []*WalkEntry // directories that show themselves if something below them is taken
	seen    bool         // the top was there
}

func (w *walker) entry(dirfd int, base, rel string) error {
	e := &WalkEntry{Rel: rel, dirfd: dirfd, base: base}
	if err := unix.Fstatat(dirfd, base, &e.Stat, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	w.seen = true
	take, descend := w.filter(rel, e.IsDir())
	if !e.IsDir() {
		if !take {
			return nil
		}
		return w.take(e)
	}
	if take {
		if err := w.take(e); err != nil {
			return err
		}
	}
	if !descend {
		return nil
	}
	if !take {
		e.Implied = true
		w.pending = append(w.pending, e)
		defer func() { w.pending = slices.DeleteFunc(w.pending, func(p *WalkEntry) bool { return p == e }) }()
	}
	return w.inside(dirfd, base, rel)
}

func (w *walker) take(e *WalkEntry) error {
	for len(w.pending) > 0 {
		p := w.pending[0]
		w.pending = w.pending[1:]
		if err := w.visit(p); err != nil {
			return err
		}
	}
	return w.visit(e)
}

func (w *walker) inside(dirfd int, base, rel string) error {
	fd, err := unix.Openat(dirfd, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open directory %q: %w", rel, err)
	}
	defer unix.Close(fd)
	names, err := readNames(fd)
	if err != nil {
		return fmt.Errorf("list directory %q: %w", rel, err)
	}
	slices.Sort(names)
	for _, n := range names {
		if w.ctx.Err() != nil {
			return context.Cause(w.ctx)
		}
		// What is gone since the directory was listed is no part of it.
		if err := w.entry(fd, n, joinName(rel, n)); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return nil
}
