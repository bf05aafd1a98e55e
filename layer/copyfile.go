package layer

import (
	"fmt"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// copyData copies the content of one open regular file to another: by sharing
// its blocks where the file system can (FICLONE: btrfs, xfs), else inside the
// kernel, else by hand. Holes are kept.
func copyData(dst, src int, size int64) error {
	if unix.IoctlFileClone(dst, src) == nil {
		return nil
	}
	for off := int64(0); off < size; {
		data, err := unix.Seek(src, off, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break
		}
		end := size
		if err == nil {
			if e, err := unix.Seek(src, data, unix.SEEK_HOLE); err == nil {
				end = min(e, size)
			}
		} else {
			data = off
		}
		if err := copyRange(dst, src, data, end); err != nil {
			return err
		}
		off = end
	}
	if err := unix.Ftruncate(dst, size); err != nil {
		return fmt.Errorf("set size: %w", err)
	}
	return nil
}

func copyRange(dst, src int, off, end int64) error {
	for off < end {
		in, out := off, off
		n, err := unix.CopyFileRange(src, &in, dst, &out, int(min(end-off, 1<<30)), 0)
		if err == unix.EXDEV || err == unix.EOPNOTSUPP || err == unix.EINVAL || err == unix.ENOSYS {
			return copyByHand(dst, src, off, end)
		}
		if err != nil {
			return fmt.Errorf("copy file data: %w", err)
		}
		if n == 0 {
			return nil // the file became shorter
		}
		off += int64(n)
	}
	return nil
}

const handBuffer = 256 << 10

// copyBuffers are shared: most files are much smaller than a buffer, and there are many.
var copyBuffers = sync.Pool{New: func() any { return new([handBuffer]byte) }}

func copyByHand(dst, src int, off, end int64) error {
	buf := copyBuffers.Get().(*[handBuffer]byte)
	defer copyBuffers.Put(buf)
	for off < end {
		n, err := unix.Pread(src, buf[:min(int64(len(buf)), end-off)], off)
		if err != nil {
			return fmt.Errorf("read file data: %w", err)
		}
		if n == 0 {
			return nil
		}
		for b := buf[:n]; len(b) > 0; {
			w, err := unix.Pwrite(dst, b, off)
			if err != nil {
				return fmt.Errorf("write file data: %w", err)
			}
			b, off = b[w:], off+int64(w)
		}
	}
	return nil
}

// listXattrs returns the attributes of dirfd/base itself (no link is
// followed), without those of the union file system.
func listXattrs(dirfd int, base string) (map[string]string, error) {
	p := procPath(dirfd, base)
	names, err := xattrNames(func(b []byte) (int, error) { return unix.Llistxattr(p, b) }, base)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	return xattrValues(names, base, func(name string, b []byte) (int, error) { return unix.Lgetxattr(p, name, b) })
}

// xattrNames lists attributes by one of the calls of listxattr(2). Most files have none, or
// few, so one call does.
func xattrNames(list func([]byte) (int, error), base string) ([]string, error) {
	var room [128]byte
	buf := room[:]
	for {
		n, err := list(buf)
		switch {
		case err == unix.ERANGE:
			if n, err = list(nil); err == nil {
				buf = make([]byte, n+256)
				continue
			}
		case err == unix.ENOTSUP || err == nil && n == 0:
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list attributes of %q: %w", base, err)
		}
		return strings.Split(strings.TrimRight(string(buf[:n]), "\x00"), "\x00"), nil
	}
}

// xattrValues reads the attributes that are not the union file system's.
func xattrValues(names []string, base string, get func(string, []byte) (int, error)) (map[string]string, error) {
	out := make(map[string]string)
	for _, name := range names {
		if name == "" || hiddenXattr(name) {
			continue
		}
		value, err := getXattr(name, get)
		if err == unix.ENODATA {
			continue // gone since it was listed
		}
		if err != nil {
			return nil, fmt.Errorf("read attribute %s of %q: %w", name, base, err)
		}
		out[name] = value
	}
	return out, nil
}

func getXattr(name string, get func(string, []byte) (int, error)) (string, error) {
	buf := make([]byte, 256)
	for {
		n, err := get(name, buf)
		if err == unix.ERANGE {
			if n, err = get(name, nil); err == nil {
				buf = make([]byte, n+64)
				continue
			}
		}
		if err != nil {
			return "", err
		}
		return string(buf[:n]), nil
	}
}

// copyMeta gives dst/dstBase the owner, permission bits, attributes and times
// of src/srcBase, whose state is st. The order matters: chown clears set-id
// bits and security.capability, and anything clears times.
func copyMeta(src int, srcBase string, dst int, dstBase string, st *unix.Stat_t) error {
	fail := func(what string, err error) error {
		return fmt.Errorf("%s of %q: %w", what, dstBase, err)
	}
	if err := unix.Fchownat(dst, dstBase, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if unix.Geteuid() == 0 || err != unix.EPERM {
			return fail("set owner", err)
		}
	}
	link := st.Mode&unix.S_IFMT == unix.S_IFLNK
	if !link {
		if err := unix.Fchmodat(dst, dstBase, st.Mode&0o7777, 0); err != nil {
			return fail("set mode", err)
		}
	}
	xattrs, err := listXattrs(src, srcBase)
	if err != nil {
		return err
	}
	for name, value := range xattrs {
		err := unix.Lsetxattr(procPath(dst, dstBase), name, []byte(value), 0)
		if err != nil && !ignorableXattr(err) {
			return fail("set attribute "+name, err)
		}
	}
	ts := []unix.Timespec{st.Atim, st.Mtim}
	if err := unix.UtimesNanoAt(dst, dstBase, ts, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fail("set times", err)
	}
	return nil
}

// ignorableXattr reports errors that say that this file system or user cannot
// have the attribute at all; a file without it is better than no file.
func ignorableXattr(err error) bool {
	return err == unix.ENOTSUP || (err == unix.EPERM && unix.Geteuid() != 0)
}

// copyNode makes dst/dstBase a copy of src/srcBase, which is no directory.
// dstBase must not exist.
func copyNode(src int, srcBase string, dst int, dstBase string, st *unix.Stat_t) error {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		if err := copyRegular(src, srcBase, dst, dstBase); err != nil {
			return err
		}
	case unix.S_IFLNK:
		target, err := readlinkat(src, srcBase)
		if err != nil {
			return fmt.Errorf("read symbolic link %q: %w", srcBase, err)
		}
		if err := unix.Symlinkat(target, dst, dstBase); err != nil {
			return fmt.Errorf("make symbolic link %q: %w", dstBase, err)
		}
	default:
		if err := unix.Mknodat(dst, dstBase, st.Mode, int(st.Rdev)); err != nil {
			return fmt.Errorf("make node %q: %w", dstBase, err)
		}
	}
	return copyMeta(src, srcBase, dst, dstBase, st)
}

func copyRegular(src int, srcBase string, dst int, dstBase string) error {
	// O_NONBLOCK: the name may have become a FIFO since it was looked at.
	in, err := unix.Openat(src, srcBase, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %q to copy it: %w", srcBase, err)
	}
	defer unix.Close(in)
	var st unix.Stat_t
	if err := unix.Fstat(in, &st); err != nil {
		return fmt.Errorf("stat %q: %w", srcBase, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("copy %q: it is no regular file any more", srcBase)
	}
	out, err := unix.Openat(dst, dstBase, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("create %q: %w", dstBase, err)
	}
	err = copyData(out, in, st.Size)
	if cerr := unix.Close(out); err == nil && cerr != nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("copy %q: %w", srcBase, err)
	}
	return nil
}
