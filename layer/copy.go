package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNotFound says that a path inside a container does not exist.
var ErrNotFound = errors.New("no such file or directory in the container")

// PathStat is what is known of a path inside a root.
type PathStat struct {
	Name       string // last component
	Size       int64
	Mode       fs.FileMode
	ModTime    time.Time
	LinkTarget string // of a symbolic link: where it leads, inside the root
}

// CopyOptions say how a tar is unpacked inside a container's root.
type CopyOptions struct {
	// NoOverwriteDir refuses to put a directory in the place of something
	// else, or the reverse.
	NoOverwriteDir bool
	// Owner, if not nil, owns all that is made.
	Owner *Owner
	// Unprivileged as in ApplyOptions.
	Unprivileged bool
}

// CopyIn unpacks a plain tar into the existing directory unsafeDir of a root.
// Nothing outside of the root is read or written, whatever processes in the
// container do to the tree at the same time.
func CopyIn(ctx context.Context, root *os.File, unsafeDir string, r io.Reader, opts CopyOptions) error {
	cache := newDirCache(int(root.Fd()))
	defer cache.flush()
	dir, err := cache.resolve(unsafeDir)
	if err != nil {
		return fmt.Errorf("copy to %q: %w", unsafeDir, err)
	}
	u, err := unpackBelow(ctx, root, dir.path, r, ApplyOptions{
		PlainNames: true, KeepTypes: opts.NoOverwriteDir, Owner: opts.Owner, Unprivileged: opts.Unprivileged,
	})
	if err != nil {
		return fmt.Errorf("copy to %q: %w", unsafeDir, err)
	}
	if err := u.settleDirs(); err != nil {
		return fmt.Errorf("copy to %q: %w", unsafeDir, err)
	}
	return nil
}

// CopyOut writes the file or tree at unsafePath of a root as a plain tar whose
// top entry is called name (the last component of the path, if name is empty).
// Directories on the way may be symbolic links; the last component is followed
// only if follow says so. Of file systems that the kernel makes up (proc, sys) and of
// the root's /dev only the directories are written.
func CopyOut(ctx context.Context, root *os.File, unsafePath, name string, follow bool, w io.Writer) error {
	cache := newDirCache(int(root.Fd()))
	defer cache.flush()
	dir, base, err := cache.locate(unsafePath, follow)
	if err != nil {
		return fmt.Errorf("copy %q: %w", unsafePath, err)
	}
	if name == "" {
		name = base
	}
	p := newPacker(ctx, w)
	p.plain = true
	if base == "." {
		p.hollow = strings.TrimPrefix(joinName(name, "dev"), "./")
	}
	if base == "." && (name == "." || name == "/") {
		return p.finish(p.tree(dir.fd, ""))
	}
	err = p.entry(dir.fd, base, name)
	if errors.Is(err, unix.ENOENT) {
		err = ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("copy %q: %w", unsafePath, err)
	}
	return p.finish(nil)
}

// StatPath looks at unsafePath of a root; the last component is not followed.
func StatPath(root *os.File, unsafePath string) (PathStat, error) {
	cache := newDirCache(int(root.Fd()))
	defer cache.flush()
	dir, base, err := cache.locate(unsafePath, false)
	if err != nil {
		return PathStat{}, fmt.Errorf("stat %q: %w", unsafePath, err)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dir.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if err == unix.ENOENT {
			return PathStat{}, fmt.Errorf("stat %q: %w", unsafePath, ErrNotFound)
		}
		return PathStat{}, fmt.Errorf("stat %q: %w", unsafePath, err)
	}
	out := PathStat{Name: base, Size: st.Size, Mode: fileMode(st.Mode), ModTime: mtime(&st)}
	if base == "." {
		out.Name = "/"
	}
	if out.Mode&fs.ModeSymlink != 0 {
		target, err := readlinkat(dir.fd, base)
		if err != nil {
			return PathStat{}, fmt.Errorf("read symbolic link %q: %w", unsafePath, err)
		}
		if !strings.HasPrefix(target, "/") {
			target = "/" + joinName(dir.path, target)
		}
		out.LinkTarget = target
	}
	return out, nil
}

// resolve opens an existing directory by any path.
func (c *dirCache) resolve(unsafePath string) (*dirRef, error) {
	links := 0
	e, err := c.follow(c.root, unsafePath, false, &links)
	if errors.Is(err, errNotInTree) {
		return nil, ErrNotFound
	}
	return e, err
}

// locate opens the directory that holds the last component of a path, and
// returns that component, "." for the root itself.
func (c *dirCache) locate(unsafePath string, follow bool) (*dirRef, string, error) {
	for links := 0; ; links++ {
		trimmed := strings.TrimRight(unsafePath, "/")
		dirName, base := splitName(trimmed)
		if base == "" || base == "." || base == ".." {
			dir, err := c.resolve(unsafePath)
			if err != nil {
				return nil, "", err
			}
			return c.parentOf(dir)
		}
		if dirName == "" && strings.HasPrefix(trimmed, "/") {
			dirName = "/"
		}
		dir, err := c.resolve(dirName)
		if err != nil {
			return nil, "", err
		}
		// A trailing slash asks for the directory behind a link, as in path_resolution(7).
		if !follow && trimmed == unsafePath {
			return dir, base, nil
		}
		target, err := readlinkat(dir.fd, base)
		if err == unix.EINVAL {
			return dir, base, nil
		}
		if err == unix.ENOENT {
			return nil, "", ErrNotFound
		}
		if err != nil {
			return nil, "", fmt.Errorf("read symbolic link %q: %w", base, err)
		}
		if links >= maxLinks {
			return nil, "", unix.ELOOP
		}
		if !strings.HasPrefix(target, "/") {
			target = "/" + joinName(dir.path, target)
		}
		unsafePath, follow = target, true
	}
}

func (c *dirCache) parentOf(dir *dirRef) (*dirRef, string, error) {
	if dir.path == "" {
		return c.root, ".", nil
	}
	parentName, base := splitName(dir.path)
	links := 0
	parent, err := c.walk(parentName, false, &links)
	return parent, base, err
}

func fileMode(m uint32) fs.FileMode {
	out := fs.FileMode(m & 0o777)
	switch m & unix.S_IFMT {
	case unix.S_IFDIR:
		out |= fs.ModeDir
	case unix.S_IFLNK:
		out |= fs.ModeSymlink
	case unix.S_IFIFO:
		out |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		out |= fs.ModeSocket
	case unix.S_IFCHR:
		out |= fs.ModeDevice | fs.ModeCharDevice
	case unix.S_IFBLK:
		out |= fs.ModeDevice
	}
	if m&unix.S_ISUID != 0 {
		out |= fs.ModeSetuid
	}
	if m&unix.S_ISGID != 0 {
		out |= fs.ModeSetgid
	}
	if m&unix.S_ISVTX != 0 {
		out |= fs.ModeSticky
	}
	return out
}
