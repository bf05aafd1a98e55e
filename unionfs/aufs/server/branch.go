package server

import (
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"vivarium/internal/kernel"
	"vivarium/internal/pseudolink"
	"vivarium/unionfs/aufs"
)

// branch is one directory of the union, open.
type branch struct {
	aufs.Branch
	id    int
	index int // position in FS.branches, top-most is 0; changes under FS.mu
	dev   uint64
	root  int // the directory, without what is mounted inside it
	links int // .wh..wh.plnk of it, or -1
	orph  int // .wh..wh.orph of it, or -1
	// tag tells branches apart in the names of pseudo-links, whatever their order.
	tag string
	// free is how much space was there, and when.
	free atomic.Pointer[freeSpace]
}

type freeSpace struct {
	bytes uint64
	at    time.Time
}

func (b *branch) writable() bool { return b.Perm == aufs.RW }

// deleted tells whether a file of the branch is overlay's mark for a name that is deleted.
func (b *branch) deleted(st *unix.Stat_t) bool {
	return b.Overlay && st.Rdev == 0 && st.Mode&unix.S_IFMT == unix.S_IFCHR
}

// opaque tells whether a directory of the branch, opened with O_PATH, hides those below.
func (b *branch) opaque(dir int) bool {
	if !b.Overlay {
		return b.Whiteouts() && exists(dir, aufs.Opaque)
	}
	attr := "trusted.overlay.opaque"
	if kernel.InUserNamespace() {
		attr = "user.overlay.opaque"
	}
	var v [1]byte
	n, err := unix.Getxattr(procFD(dir), attr, v[:])
	return err == nil && n == 1 && v[0] == 'y'
}

// openBranch opens the directory, and makes what AUFS keeps in the root of a
// branch that is written to.
func openBranch(spec aufs.Branch) (*branch, error) {
	root, err := openRoot(spec.Path)
	if err != nil {
		return nil, fmt.Errorf("open branch %s: %w", spec.Path, err)
	}
	b := &branch{Branch: spec, root: root, links: -1, orph: -1}
	var st unix.Stat_t
	if err := unix.Fstat(root, &st); err != nil {
		b.close()
		return nil, fmt.Errorf("stat branch %s: %w", spec.Path, err)
	}
	b.dev = st.Dev
	b.tag = pseudolink.Tag(spec.Path)
	if err := b.prepare(); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

// openRoot opens a clone of the mount that the directory is on: what is mounted
// inside is not part of a branch, and is never stepped into. Where that is not
// permitted, the directory itself.
func openRoot(path string) (int, error) {
	tree, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	}
	defer unix.Close(tree)
	return unix.Openat(tree, ".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// prepare makes the whiteout base and the two directories of a writable branch.
func (b *branch) prepare() error {
	if !b.writable() {
		fd, err := openDir(b.root, aufs.Links)
		if err == nil {
			b.links = fd
		}
		return nil
	}
	fd, err := unix.Openat(b.root, aufs.Base, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o444)
	if err == nil {
		unix.Close(fd)
	} else if err != unix.EEXIST {
		return fmt.Errorf("make %s in branch %s: %w", aufs.Base, b.Path, err)
	}
	for name, dst := range map[string]*int{aufs.Links: &b.links, aufs.Orphan: &b.orph} {
		if err := unix.Mkdirat(b.root, name, 0o700); err != nil && err != unix.EEXIST {
			return fmt.Errorf("make %s in branch %s: %w", name, b.Path, err)
		}
		if *dst >= 0 {
			continue
		}
		if *dst, err = openDir(b.root, name); err != nil {
			return fmt.Errorf("open %s in branch %s: %w", name, b.Path, err)
		}
	}
	return nil
}

func (b *branch) close() {
	for _, fd := range []*int{&b.root, &b.links, &b.orph} {
		if *fd >= 0 {
			unix.Close(*fd)
			*fd = -1
		}
	}
}

// freeBytes is the free space, looked up anew when it is older than every.
func (b *branch) freeBytes(every time.Duration) uint64 {
	if f := b.free.Load(); f != nil && time.Since(f.at) < every {
		return f.bytes
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(b.root, &st); err != nil {
		return 0
	}
	f := &freeSpace{bytes: st.Bavail * uint64(st.Bsize), at: time.Now()}
	b.free.Store(f)
	return f.bytes
}

// openDir opens a directory below another one by one name.
func openDir(dir int, name string) (int, error) {
	return unix.Openat2(dir, name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
}

// checkOverlap refuses a branch that lies in another one, as AUFS does: a change
// of one would be a change of the other.
func checkOverlap(spec aufs.Branch, others []*branch) error {
	real, err := realPath(spec.Path)
	if err != nil {
		return fmt.Errorf("find branch %s: %w", spec.Path, err)
	}
	for _, o := range others {
		other, err := realPath(o.Path)
		if err != nil {
			continue // it was moved away; its descriptor is what counts
		}
		if inside(real, other) || inside(other, real) {
			return fmt.Errorf("branch %s overlaps with branch %s: %w", spec.Path, o.Path, unix.EINVAL)
		}
	}
	return nil
}

// realPath is the path without symbolic links, as the kernel knows it.
func realPath(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	return os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
}

func inside(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}
