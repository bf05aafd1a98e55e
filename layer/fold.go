package layer

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Fold copies the upper layers (top-most first) as one layer into the empty directory
// dst: above the layers below (top-most first), it looks as the upper ones do. What they
// delete is deleted in it if the layers below have it; what they make and delete is not
// there at all.
func Fold(ctx context.Context, dst *os.File, upper, below []string) error {
	up, err := OpenView(upper)
	if err != nil {
		return err
	}
	defer up.Close()
	under, err := OpenView(below)
	if err != nil {
		return err
	}
	defer under.Close()
	if len(up.roots) == 0 {
		return nil
	}
	f := &folder{merger{ctx: ctx, root: int(dst.Fd()), cache: newDirCache(int(dst.Fd())), links: make(map[inode]string)}}
	defer f.cache.flush()
	var st unix.Stat_t
	if err := unix.Fstat(up.roots[0], &st); err != nil {
		return fmt.Errorf("stat root of layers: %w", err)
	}
	if err := f.dir(up.rootDir(), under.rootDir(), int(dst.Fd()), ""); err != nil {
		return err
	}
	return copyMeta(up.roots[0], ".", int(dst.Fd()), ".", &st)
}

type folder struct{ merger }

// dir folds one directory. below is nil where nothing below can be seen.
func (f *folder) dir(src, below *viewDir, dst int, name string) error {
	names, err := src.allNames()
	if err != nil {
		return err
	}
	for _, n := range names {
		if f.ctx.Err() != nil {
			return context.Cause(f.ctx)
		}
		if err := f.entry(src, below, dst, n, joinName(name, n)); err != nil {
			return err
		}
	}
	return nil
}

func (f *folder) entry(src, below *viewDir, dst int, base, name string) error {
	e, err := src.lookup(base)
	if err != nil {
		return err
	}
	old, err := below.lookup(base)
	if err != nil {
		return err
	}
	switch {
	case e == nil && old == nil:
		return nil
	case e == nil:
		if err := unix.Mknodat(dst, base, unix.S_IFCHR, 0); err != nil {
			return fmt.Errorf("make whiteout %q: %w", name, err)
		}
		return nil
	case e.isDir():
		return f.subdir(src, below, e, old, dst, base, name)
	}
	return f.merger.entry(src, dst, base, name)
}

func (f *folder) subdir(src, below *viewDir, e, old *viewEntry, dst int, base, name string) error {
	sub, err := src.open(base, e)
	if err != nil {
		return err
	}
	defer sub.close()
	hides, err := src.hides(base, e)
	if err != nil {
		return err
	}
	var under *viewDir
	if old != nil && old.isDir() && !hides {
		if under, err = below.open(base, old); err != nil {
			return err
		}
		defer under.close()
	}
	fd, err := makeDir(dst, base, name)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := f.dir(sub, under, fd, name); err != nil {
		return err
	}
	if err := copyMeta(e.parent, base, dst, base, &e.st); err != nil {
		return err
	}
	if hides && old != nil && old.isDir() {
		if err := unix.Fsetxattr(fd, opaqueAttr(os.Geteuid() != 0), []byte("y"), 0); err != nil {
			return fmt.Errorf("mark directory %q opaque: %w", name, err)
		}
	}
	return nil
}

// hides tells whether a merged directory hides what the layers below those of d have
// under its name: one of its layers is opaque, or has something else there.
func (d *viewDir) hides(name string, e *viewEntry) (bool, error) {
	for i := e.index; i < len(d.fds); i++ {
		fd, err := unix.Openat(d.fds[i], name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		switch err {
		case nil:
			opaque := isOpaque(fd)
			unix.Close(fd)
			if opaque {
				return true, nil
			}
		case unix.ENOENT:
		case unix.ENOTDIR, unix.ELOOP:
			return true, nil
		default:
			return false, fmt.Errorf("open directory %q in layer: %w", name, err)
		}
	}
	return false, nil
}
