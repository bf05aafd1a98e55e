package layer

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Merge copies what the layers (top-most first) look like together into the
// empty directory dst, with owners, modes, times, attributes and hard links.
func Merge(ctx context.Context, dst *os.File, lower []string) error {
	return merge(ctx, dst, lower, func(string, int) error { return nil })
}

// merge is Merge, and tells of each directory that it has made.
func merge(ctx context.Context, dst *os.File, lower []string, made func(name string, fd int) error) error {
	v, err := OpenView(lower)
	if err != nil {
		return err
	}
	defer v.Close()
	if len(v.roots) == 0 {
		return nil
	}
	m := &merger{ctx: ctx, root: int(dst.Fd()), cache: newDirCache(int(dst.Fd())), links: make(map[inode]string), made: made}
	defer m.cache.flush()
	var st unix.Stat_t
	if err := unix.Fstat(v.roots[0], &st); err != nil {
		return fmt.Errorf("stat root of layers: %w", err)
	}
	if err := dropACLs(int(dst.Fd())); err != nil {
		return fmt.Errorf("prepare directory: %w", err)
	}
	if err := m.dir(v.rootDir(), int(dst.Fd()), ""); err != nil {
		return err
	}
	return copyMeta(v.roots[0], ".", int(dst.Fd()), ".", &st)
}

type merger struct {
	ctx   context.Context
	root  int
	cache *dirCache
	links map[inode]string // first name of a file with several
	made  func(name string, fd int) error
}

func (m *merger) dir(src *viewDir, dst int, name string) error {
	if err := m.made(name, dst); err != nil {
		return err
	}
	names, err := src.names()
	if err != nil {
		return err
	}
	for _, n := range names {
		if m.ctx.Err() != nil {
			return context.Cause(m.ctx)
		}
		if err := m.entry(src, dst, n, joinName(name, n)); err != nil {
			return err
		}
	}
	return nil
}

func (m *merger) entry(src *viewDir, dst int, base, name string) error {
	e, err := src.lookup(base)
	if err != nil || e == nil {
		return err
	}
	if e.isDir() {
		return m.subdir(src, e, dst, base, name)
	}
	if e.st.Mode&unix.S_IFMT == unix.S_IFSOCK {
		return nil // its listener is not in this tree
	}
	if e.st.Nlink > 1 {
		id := inode{e.st.Dev, e.st.Ino}
		if first, ok := m.links[id]; ok {
			return m.link(first, dst, base)
		}
		m.links[id] = name
	}
	return copyNode(e.parent, base, dst, base, &e.st)
}

func (m *merger) link(first string, dst int, base string) error {
	dirName, firstBase := splitName(first)
	dir, err := m.cache.dir(dirName, false)
	if err != nil {
		return err
	}
	if err := unix.Linkat(dir.fd, firstBase, dst, base, 0); err != nil {
		return fmt.Errorf("link %q to %q: %w", base, first, err)
	}
	m.cache.trim()
	return nil
}

func (m *merger) subdir(src *viewDir, e *viewEntry, dst int, base, name string) error {
	sub, err := src.open(base, e)
	if err != nil {
		return err
	}
	defer sub.close()
	fd, err := makeDir(dst, base, name)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := m.dir(sub, fd, name); err != nil {
		return err
	}
	return copyMeta(e.parent, base, dst, base, &e.st)
}

// makeDir makes the directory base in dst and opens it; errors call it name.
func makeDir(dst int, base, name string) (int, error) {
	if err := unix.Mkdirat(dst, base, 0o700); err != nil {
		return -1, fmt.Errorf("make directory %q: %w", name, err)
	}
	fd, err := unix.Openat(dst, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open directory %q: %w", name, err)
	}
	return fd, nil
}

// dropACLs takes away what a new directory has inherited, and would hand on.
func dropACLs(fd int) error {
	for _, name := range []string{"system.posix_acl_default", "system.posix_acl_access"} {
		if err := unix.Fremovexattr(fd, name); err != nil && err != unix.ENODATA && err != unix.EOPNOTSUPP {
			return err
		}
	}
	return nil
}
