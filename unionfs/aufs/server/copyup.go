package server

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"vivarium/unionfs/aufs"
)

// tempName is a name on a branch that no union shows.
func (f *FS) tempName() string {
	return fmt.Sprintf("%scp%x-%x", aufs.Temp, f.stamp, f.temp.Add(1))
}

// upLayer gives the directory's layer on a branch, making the directory there, and
// those above it, as a copy of what users see.
func (f *FS) upLayer(n *node, br *branch) (*layer, error) {
	if l := n.layerOn(br); l != nil {
		return l, nil
	}
	f.dirs.Lock()
	defer f.dirs.Unlock()
	return f.upLayerLocked(n, br)
}

func (f *FS) upLayerLocked(n *node, br *branch) (*layer, error) {
	if l := n.layerOn(br); l != nil {
		return l, nil
	}
	nm, ok := f.firstName(n)
	if !ok {
		return nil, unix.ENOENT
	}
	above, err := f.upLayerLocked(nm.parent, br)
	if err != nil {
		return nil, err
	}
	dir, err := f.dir(nm.parent, above)
	if err != nil {
		return nil, err
	}
	have := *n.layers.Load()
	if len(have) == 0 {
		return nil, unix.ESTALE
	}
	src, err := f.dir(n, have[0])
	if err != nil {
		return nil, err
	}
	fd, err := f.copyDir(src, dir, nm.base, n)
	if err != nil {
		return nil, err
	}
	l := newLayer(br, fd)
	f.dirFDs.Add(1)
	next := make([]*layer, 0, len(have)+1)
	for _, h := range have {
		if l != nil && h.br.index > br.index {
			next, l = append(next, l), nil
		}
		next = append(next, h)
	}
	if l != nil {
		next = append(next, l)
	}
	n.layers.Store(&next)
	return n.layerOn(br), nil
}

// copyDir makes the directory base in dir, with the attributes of src, and opens
// it. It has its name when all is done; the times of dir stay.
func (f *FS) copyDir(src, dir int, base string, n *node) (int, error) {
	var st unix.Stat_t
	if err := unix.Fstat(src, &st); err != nil {
		return -1, err
	}
	restore, err := keepTimes(dir)
	if err != nil {
		return -1, err
	}
	defer restore()
	temp := f.tempName()
	if err := unix.Mkdirat(dir, temp, 0o700); err != nil {
		return -1, err
	}
	fd, err := openDir(dir, temp)
	if err == nil {
		if err = copyAttributes(src, "", fd, "", &st); err == nil {
			err = unix.Renameat2(dir, temp, dir, base, unix.RENAME_NOREPLACE)
		}
		if err == nil {
			var made unix.Stat_t
			if err = unix.Fstat(fd, &made); err == nil {
				f.keepIno(keyOf(&made), n.ino)
				return fd, nil
			}
		}
		unix.Close(fd)
	}
	_ = unix.Unlinkat(dir, temp, unix.AT_REMOVEDIR)
	return -1, err
}

// keepTimes remembers the times of a directory; restore sets them again. What a
// copy-up does in a directory is nothing that a user did.
func keepTimes(dir int) (restore func(), err error) {
	var st unix.Stat_t
	if err := unix.Fstat(dir, &st); err != nil {
		return nil, err
	}
	return func() {
		_ = unix.UtimesNanoAt(dir, "", []unix.Timespec{st.Atim, st.Mtim}, unix.AT_EMPTY_PATH)
	}, nil
}

// copyAttributes gives dst the extended attributes, owner, mode and times of src.
// Both are a directory and a name in it, or a descriptor and "".
func copyAttributes(srcDir int, src string, dstDir int, dst string, st *unix.Stat_t) error {
	if err := copyXattrs(srcDir, src, dstDir, dst); err != nil {
		return err
	}
	const here = unix.AT_SYMLINK_NOFOLLOW | unix.AT_EMPTY_PATH
	if err := unix.Fchownat(dstDir, dst, int(st.Uid), int(st.Gid), here); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := chmod(dstDir, dst, st.Mode&0o7777); err != nil {
			return err
		}
	}
	// A change of owner removes what the file may do for those who run it.
	if st.Mode&unix.S_IFMT == unix.S_IFREG && st.Uid|st.Gid != 0 {
		if err := copyXattr(srcDir, src, dstDir, dst, capability); err != nil {
			return err
		}
	}
	return unix.UtimesNanoAt(dstDir, dst, []unix.Timespec{st.Atim, st.Mtim}, here)
}

// chmod changes the mode of what a name is, and not of what it leads to.
func chmod(dir int, base string, mode uint32) error {
	err := unix.Fchmodat(dir, base, mode, unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH)
	if err != unix.EOPNOTSUPP && err != unix.EINVAL && err != unix.ENOSYS {
		return err
	}
	// Before fchmodat2 (Linux 6.6).
	return throughPath(dir, base, func(path string) error { return unix.Chmod(path, mode) })
}

// throughPath calls fn with a path that leads to what base in dir is, or to dir
// itself, and follows no link: /proc/self/fd of a descriptor.
func throughPath(dir int, base string, fn func(path string) error) error {
	fd := dir
	if base != "" {
		var err error
		fd, err = unix.Openat(dir, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
	}
	return fn(procFD(fd))
}

// inherited are attributes that a new file has of its directory (acl(5)). A copy has
// them of what it is a copy of, or not at all.
var inherited = [...]string{"system.posix_acl_access", "system.posix_acl_default"}

func copyXattrs(srcDir int, src string, dstDir int, dst string) error {
	names, err := listXattrs(srcDir, src)
	if err != nil {
		return err
	}
	for _, name := range inherited {
		err := throughPath(dstDir, dst, func(path string) error { return unix.Removexattr(path, name) })
		if err != nil && err != unix.ENODATA && err != unix.EOPNOTSUPP {
			return err
		}
	}
	for _, name := range names {
		if err := copyXattr(srcDir, src, dstDir, dst, name); err != nil {
			return err
		}
	}
	return nil
}

func listXattrs(dir int, base string) (names []string, err error) {
	err = throughPath(dir, base, func(path string) error {
		size, err := unix.Listxattr(path, nil)
		if err != nil || size == 0 {
			return err
		}
		buf := make([]byte, size+256)
		size, err = unix.Listxattr(path, buf)
		if err == nil {
			names = strings.FieldsFunc(string(buf[:size]), func(r rune) bool { return r == 0 })
		}
		return err
	})
	if err == unix.EOPNOTSUPP {
		err = nil
	}
	return names, err
}

// copyXattr copies one attribute; that there is none is no error. What the branch
// cannot keep is an error, but for user attributes of what cannot have them.
func copyXattr(srcDir int, src string, dstDir int, dst, name string) error {
	var value []byte
	err := throughPath(srcDir, src, func(path string) error {
		size, err := unix.Getxattr(path, name, nil)
		if err != nil || size == 0 {
			return err
		}
		value = make([]byte, size)
		size, err = unix.Getxattr(path, name, value)
		value = value[:max(size, 0)]
		return err
	})
	if err == unix.ENODATA || err == unix.EOPNOTSUPP {
		return nil
	}
	if err != nil {
		return err
	}
	return throughPath(dstDir, dst, func(path string) error { return unix.Setxattr(path, name, value, 0) })
}

// copyUp brings a file to a branch above, under the name nm that it has below.
// Its content may be left out when the caller is about to truncate it. n.mu is
// held. What was there is there, or the whole copy is, at every moment.
func (f *FS) copyUp(n *node, nm name, br *branch, content bool) error {
	old := n.place.Load()
	up, err := f.upLayer(nm.parent, br)
	if err != nil {
		return err
	}
	dir, err := f.dir(nm.parent, up)
	if err != nil {
		return err
	}
	if old.link != nil && old.link.br == br {
		return linkUp(old, dir, nm.base, br)
	}
	srcDir, src, err := f.ref(n)
	if err != nil {
		return err
	}
	restore, err := keepTimes(dir)
	if err != nil {
		return err
	}
	defer restore()
	temp := f.tempName()
	st, err := f.copyFile(srcDir, src, dir, temp, content)
	if err == nil {
		err = f.takePlace(n, old, &st, dir, temp, nm.base, br)
	}
	if err != nil {
		_ = unix.Unlinkat(dir, temp, 0)
		return err
	}
	f.reopen(n)
	return nil
}

// linkUp gives a file that was copied up under another name the name base as well.
func linkUp(old *place, dir int, base string, br *branch) error {
	restore, err := keepTimes(dir)
	if err != nil {
		return err
	}
	defer restore()
	if err := unix.Linkat(br.links, old.link.file(), dir, base, 0); err != nil && err != unix.EEXIST {
		return err
	}
	return old.link.hide()
}

// takePlace gives a finished copy its name, and the node its new place.
func (f *FS) takePlace(n *node, old *place, src *unix.Stat_t, dir int, temp, base string, br *branch) error {
	var made unix.Stat_t
	if err := unix.Fstatat(dir, temp, &made, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	var link *pseudoLink
	if src.Nlink > 1 && old.link == nil && int(src.Nlink)-n.hidden > 1 {
		var err error
		if link, err = f.addLink(dir, temp, br, keyOf(&made), src, old.br, int(src.Nlink)-n.hidden-1); err != nil {
			return err
		}
	}
	f.keepIno(keyOf(&made), n.ino)
	if err := unix.Renameat2(dir, temp, dir, base, unix.RENAME_NOREPLACE); err != nil {
		if link != nil {
			f.dropLink(link)
		}
		return err
	}
	n.hidden = 0
	n.place.Store(&place{br: br, link: link, fd: -1})
	return nil
}

// copyOrphan brings a file that has no name any more to a branch that can be
// written to: by way of .wh..wh.orph, and without a name there either.
func (f *FS) copyOrphan(n *node, br *branch, content bool) error {
	srcDir, src, err := f.ref(n)
	if err != nil {
		return err
	}
	temp := f.tempName()
	var next *place
	st, err := f.copyFile(srcDir, src, br.orph, temp, content)
	if err == nil {
		next, err = f.orphanPlace(n, &st, temp, br)
	}
	if err2 := unix.Unlinkat(br.orph, temp, 0); err == nil {
		err = err2
	}
	if err != nil {
		return err
	}
	old := n.place.Swap(next)
	f.reopen(n)
	if old.fd >= 0 {
		unix.Close(old.fd)
	}
	return nil
}

// orphanPlace is where a copy is that has no name. If names below that nobody has looked
// up yet are those of the file, they lead to the copy from now on.
func (f *FS) orphanPlace(n *node, src *unix.Stat_t, temp string, br *branch) (*place, error) {
	old := n.place.Load()
	if left := int(src.Nlink) - n.hidden; left > 0 && old.link == nil && !old.br.writable() {
		var made unix.Stat_t
		if err := unix.Fstatat(br.orph, temp, &made, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return nil, err
		}
		link, err := f.addLink(br.orph, temp, br, keyOf(&made), src, old.br, left)
		if err != nil {
			return nil, err
		}
		f.keepIno(keyOf(&made), n.ino)
		n.hidden = 0
		return &place{br: br, link: link, fd: -1}, nil
	}
	fd, err := unix.Openat(br.orph, temp, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	return &place{br: br, fd: fd}, err
}

// copyFile copies what src in srcDir is to the new name dst in dstDir.
func (f *FS) copyFile(srcDir int, src string, dstDir int, dst string, content bool) (st unix.Stat_t, err error) {
	if err := unix.Fstatat(srcDir, src, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH); err != nil {
		return st, err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		err = f.copyRegular(srcDir, src, dstDir, dst, &st, content)
	case unix.S_IFLNK:
		var target string
		if target, err = readlink(srcDir, src); err == nil {
			err = unix.Symlinkat(target, dstDir, dst)
		}
	case unix.S_IFDIR:
		return st, unix.EISDIR
	default:
		err = unix.Mknodat(dstDir, dst, st.Mode&unix.S_IFMT|0o600, int(st.Rdev))
	}
	if err != nil {
		return st, err
	}
	return st, copyAttributes(srcDir, src, dstDir, dst, &st)
}

func (f *FS) copyRegular(srcDir int, src string, dstDir int, dst string, st *unix.Stat_t, content bool) error {
	out, err := unix.Openat(dstDir, dst, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(out)
	if !content || st.Size == 0 {
		return nil
	}
	f.device.relieve()
	in, err := openAt(srcDir, src, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer unix.Close(in)
	if unix.IoctlFileClone(out, in) == nil {
		return nil
	}
	return copyData(in, out, st.Size)
}

// copyData copies the parts of a file that are not holes, up to size or to where it ends now.
func copyData(in, out int, size int64) error {
	for off := int64(0); off < size; {
		data, err := unix.Seek(in, off, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break // only a hole is left
		}
		end := size
		if err != nil {
			data = off // a file system that knows no holes
		} else if end, err = unix.Seek(in, data, unix.SEEK_HOLE); err != nil {
			return err
		}
		if err := copyRange(in, out, data, min(end, size)); err != nil {
			return err
		}
		off = end
	}
	var now unix.Stat_t // it may have become shorter meanwhile, directly on its branch
	if err := unix.Fstat(in, &now); err != nil {
		return err
	}
	return unix.Ftruncate(out, min(size, now.Size))
}

func copyRange(in, out int, off, end int64) error {
	for off < end {
		from, to := off, off
		n, err := unix.CopyFileRange(in, &from, out, &to, int(min(end-off, 1<<30)), 0)
		if err == unix.EXDEV || err == unix.EINVAL || err == unix.ENOSYS || err == unix.EOPNOTSUPP {
			return copyThrough(in, out, off, end)
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return nil // it became shorter meanwhile
		}
		off += int64(n)
	}
	return nil
}

func copyThrough(in, out int, off, end int64) error {
	buf := make([]byte, 1<<20)
	for off < end {
		n, err := unix.Pread(in, buf[:min(int64(len(buf)), end-off)], off)
		if err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
		for b := buf[:n]; len(b) > 0; {
			m, err := unix.Pwrite(out, b, off)
			if err != nil {
				return err
			}
			b, off = b[m:], off+int64(m)
		}
	}
	return nil
}

func readlink(dir int, base string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, base, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}
