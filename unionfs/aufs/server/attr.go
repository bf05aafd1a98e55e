package server

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"vivarium/internal/sys"
	"vivarium/unionfs/aufs"
)

// Forget takes back what the kernel was told of a node.
func (f *FS) Forget(id, count uint64) { f.forget(id, count) }

// GetAttr reads the attributes of a node.
func (f *FS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	if in.NodeId == controlID {
		f.controlAttr(&out.Attr)
		return fuse.OK
	}
	n, ok := f.begin(in.NodeId)
	if !ok {
		return fuse.Status(unix.ESTALE)
	}
	defer f.end()
	return fuse.ToStatus(f.answer(n, out))
}

func (f *FS) answer(n *node, out *fuse.AttrOut) error {
	var st unix.Stat_t
	if err := f.stat(n, &st); err != nil {
		return err
	}
	f.attr(n, &st, &out.Attr)
	out.SetTimeout(max(f.valid(f.shownOn(n)), tick))
	return nil
}

// SetAttr changes the attributes of a node, which is copied up first.
func (f *FS) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	if in.NodeId == controlID { // open(2) with O_TRUNC
		f.controlAttr(&out.Attr)
		return fuse.OK
	}
	n, ok := f.begin(in.NodeId)
	if !ok {
		return fuse.Status(unix.ESTALE)
	}
	defer f.end()
	f.lock(n)
	defer n.mu.Unlock()
	size, sized := in.GetSize()
	if err := f.toChange(n, !sized || size > 0); err != nil {
		return fuse.ToStatus(err)
	}
	if err := f.setAttr(n, in); err != nil {
		return fuse.ToStatus(err)
	}
	return fuse.ToStatus(f.answer(n, out))
}

// toChange brings a node to where its attributes can be changed. n.mu is held.
func (f *FS) toChange(n *node, content bool) error {
	if n.dir {
		return f.writableDir(n)
	}
	return f.writableNode(n, content)
}

func (f *FS) setAttr(n *node, in *fuse.SetAttrIn) error {
	dir, base, err := f.ref(n)
	if err != nil {
		return err
	}
	if size, ok := in.GetSize(); ok {
		if err := truncate(dir, base, in, int64(size)); err != nil {
			return err
		}
	}
	const here = unix.AT_SYMLINK_NOFOLLOW | unix.AT_EMPTY_PATH
	uid, hasUID := in.GetUID()
	gid, hasGID := in.GetGID()
	// A change of owner to the same comes with nothing to set, and is a change of
	// status; so comes a write that has to end setuid and setgid bits.
	const others = fuse.FATTR_MODE | fuse.FATTR_SIZE | fuse.FATTR_ATIME | fuse.FATTR_MTIME
	if hasUID || hasGID || in.Valid&others == 0 {
		if !hasUID && !hasGID {
			if err := n.mayDropSetID(dir, base, in.Caller.Uid); err != nil {
				return err
			}
		}
		if err := unix.Fchownat(dir, base, ownerOrSame(uid, hasUID), ownerOrSame(gid, hasGID), here); err != nil {
			return err
		}
	}
	if mode, ok := in.GetMode(); ok {
		if err := chmod(dir, base, mode); err != nil {
			return err
		}
	}
	if in.Valid&(fuse.FATTR_ATIME|fuse.FATTR_MTIME) == 0 {
		return nil
	}
	times := []unix.Timespec{
		timeOrSame(in.Valid&fuse.FATTR_ATIME != 0, in.Valid&fuse.FATTR_ATIME_NOW != 0, in.Atime, in.Atimensec),
		timeOrSame(in.Valid&fuse.FATTR_MTIME != 0, in.Valid&fuse.FATTR_MTIME_NOW != 0, in.Mtime, in.Mtimensec),
	}
	return unix.UtimesNanoAt(dir, base, times, here)
}

// mayDropSetID: chown(2) to the same owner takes the setuid and setgid bits of a file,
// which only root and its owner may do. The kernel does not look, for there is nothing
// to set. What it asks for a write looks the same, but then somebody has the file open
// to write. n.mu is held.
func (n *node) mayDropSetID(dir int, base string, who uint32) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	if n.dir || st.Mode&(unix.S_ISUID|unix.S_ISGID) == 0 || who == 0 || who == st.Uid || n.open.writers > 0 {
		return nil
	}
	return unix.EPERM
}

func ownerOrSame(id uint32, set bool) int {
	if !set {
		return -1
	}
	return int(id)
}

func timeOrSame(set, now bool, sec uint64, nsec uint32) unix.Timespec {
	switch {
	case !set:
		return unix.Timespec{Nsec: unix.UTIME_OMIT}
	case now:
		return unix.Timespec{Nsec: unix.UTIME_NOW}
	}
	return unix.Timespec{Sec: int64(sec), Nsec: int64(nsec)}
}

func truncate(dir int, base string, in *fuse.SetAttrIn, size int64) error {
	fd, err := openAt(dir, base, unix.O_WRONLY|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, size); err != nil {
		return err
	}
	if in.Valid&fuse.FATTR_KILL_SUIDGID != 0 {
		return dropSetID(fd)
	}
	return nil
}

// Readlink reads a symbolic link.
func (f *FS) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	n, ok := f.begin(h.NodeId)
	if !ok {
		return nil, fuse.Status(unix.ESTALE)
	}
	defer f.end()
	dir, base, err := f.ref(n)
	if err != nil {
		return nil, fuse.ToStatus(err)
	}
	target, err := readlink(dir, base)
	return []byte(target), fuse.ToStatus(err)
}

// Access is never asked: the kernel checks permissions itself (default_permissions).
func (f *FS) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status { return fuse.ENOSYS }

// GetXAttr reads an extended attribute.
func (f *FS) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	n, ok := f.begin(h.NodeId)
	if !ok {
		return 0, fuse.ENODATA
	}
	defer f.end()
	// The kernel asks this before the first write to each file.
	if attr == capability && n.plain.Load() {
		return 0, fuse.ENODATA
	}
	size, err := f.getXattr(n, attr, dest)
	return uint32(max(size, 0)), fuse.ToStatus(err)
}

// capability is what a file may do for those who run it; writing to the file ends it.
const capability = "security.capability"

func (f *FS) getXattr(n *node, attr string, dest []byte) (int, error) {
	dir, base, err := f.ref(n)
	if err != nil {
		return 0, err
	}
	if base != "" {
		if size, err := sys.Getxattrat(dir, base, attr, dest); err != unix.ENOSYS {
			return size, err
		}
	}
	size := 0
	err = throughPath(dir, base, func(path string) (err error) {
		size, err = unix.Getxattr(path, attr, dest)
		return err
	})
	return size, err
}

// ListXAttr lists the names of extended attributes.
func (f *FS) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	n, ok := f.begin(h.NodeId)
	if !ok {
		return 0, fuse.OK
	}
	defer f.end()
	size, err := f.onPath(n, func(path string) (int, error) { return unix.Listxattr(path, dest) })
	return uint32(max(size, 0)), fuse.ToStatus(err)
}

func (f *FS) onPath(n *node, fn func(path string) (int, error)) (size int, err error) {
	dir, base, err := f.ref(n)
	if err != nil {
		return 0, err
	}
	err = throughPath(dir, base, func(path string) error {
		size, err = fn(path)
		return err
	})
	return size, err
}

// SetXAttr sets an extended attribute of a file, which is copied up first.
func (f *FS) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, attr string, data []byte) fuse.Status {
	return f.changeXattr(in.NodeId, attr, func(path string) error {
		if err := unix.Setxattr(path, attr, data, int(in.Flags)); err != nil {
			return err
		}
		if in.SetXAttrFlags&fuse.SETXATTR_ACL_KILL_SGID == 0 {
			return nil
		}
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil || st.Mode&unix.S_ISGID == 0 {
			return err
		}
		return unix.Chmod(path, st.Mode&0o7777&^unix.S_ISGID)
	})
}

// RemoveXAttr removes an extended attribute.
func (f *FS) RemoveXAttr(_ <-chan struct{}, h *fuse.InHeader, attr string) fuse.Status {
	return f.changeXattr(h.NodeId, attr, func(path string) error { return unix.Removexattr(path, attr) })
}

func (f *FS) changeXattr(id uint64, attr string, fn func(path string) error) fuse.Status {
	n, ok := f.begin(id)
	if !ok {
		return fuse.Status(unix.ESTALE)
	}
	defer f.end()
	f.lock(n)
	defer n.mu.Unlock()
	if err := f.toChange(n, true); err != nil {
		return fuse.ToStatus(err)
	}
	switch attr {
	case defaultACL:
		n.inherits.Store(0)
	case capability:
		n.plain.Store(false)
	}
	dir, base, err := f.ref(n)
	if err == nil {
		err = throughPath(dir, base, fn)
	}
	return fuse.ToStatus(err)
}

// StatFs describes the file system of the highest branch that can be written to.
func (f *FS) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	f.mu.RLock()
	defer f.mu.RUnlock()
	br := f.branches[0]
	for _, b := range f.branches {
		if b.writable() {
			br = b
			break
		}
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(br.root, &st); err != nil {
		return fuse.ToStatus(err)
	}
	*out = fuse.StatfsOut{
		Blocks: st.Blocks, Bfree: st.Bfree, Bavail: st.Bavail, Files: st.Files, Ffree: st.Ffree,
		Bsize: uint32(st.Bsize), Frsize: uint32(st.Frsize), NameLen: uint32(aufs.MaxName),
	}
	return fuse.OK
}

// Statx is answered by GetAttr.
func (f *FS) Statx(<-chan struct{}, *fuse.StatxIn, *fuse.StatxOut) fuse.Status { return fuse.ENOSYS }

// Ioctl: there are none.
func (f *FS) Ioctl(<-chan struct{}, *fuse.IoctlIn, []byte, *fuse.IoctlOut, []byte) fuse.Status {
	return fuse.Status(unix.ENOTTY)
}
