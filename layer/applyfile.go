package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	copyBuffer = 1 << 20
	// holeUnit is the block in which runs of zeros of sparse entries are left
	// out; it is the block of the usual file systems.
	holeUnit = 4096
)

var zeroBlock [holeUnit]byte

func (u *unpacker) makeFile(ctx context.Context, tr *tar.Reader, hdr *tar.Header, parent *dirRef, base string) error {
	mode := uint32(hdr.Mode) & 0o7777
	fd := -1
	err := u.replace(parent, base, func() (err error) {
		const flags = unix.O_CREAT | unix.O_EXCL | unix.O_WRONLY | unix.O_NOFOLLOW | unix.O_CLOEXEC
		fd, err = unix.Openat(parent.fd, base, flags, mode&0o777)
		return err
	})
	if err != nil {
		return fmt.Errorf("create file: %w", err)
	}
	err = u.fill(ctx, tr, hdr, fd, mode)
	if err == nil {
		err = setTimes(parent.fd, base, times(hdr))
	}
	if cerr := unix.Close(fd); err == nil && cerr != nil {
		err = fmt.Errorf("close file: %w", cerr)
	}
	return err
}

// fill writes content and attributes. Attributes come after the content,
// because writing clears set-id bits, and the mode after the owner, because
// chown does.
func (u *unpacker) fill(ctx context.Context, tr *tar.Reader, hdr *tar.Header, fd int, mode uint32) error {
	if err := u.writeContent(ctx, tr, hdr, fd); err != nil {
		return err
	}
	uid, gid := hdr.Uid, hdr.Gid
	if o := u.opts.Owner; o != nil {
		uid, gid = o.UID, o.GID
	}
	if !u.opts.Unprivileged && (uid != u.uid || gid != u.gid || u.opts.PlainNames) {
		if err := unix.Fchown(fd, uid, gid); err != nil {
			return fmt.Errorf("set owner to %d:%d: %w", uid, gid, err)
		}
	}
	if mode&^0o777 != 0 || mode&u.umask != 0 {
		if err := unix.Fchmod(fd, mode); err != nil {
			return fmt.Errorf("set mode: %w", err)
		}
	}
	for name, value := range xattrsOf(hdr) {
		if err := unix.Fsetxattr(fd, name, []byte(value), 0); err != nil && !ignorableXattr(err) {
			return fmt.Errorf("set attribute %s: %w", name, err)
		}
	}
	return nil
}

func isSparse(hdr *tar.Header) bool {
	if hdr.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for k := range hdr.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return false
}

func (u *unpacker) writeContent(ctx context.Context, tr *tar.Reader, hdr *tar.Header, fd int) error {
	if hdr.Size == 0 {
		return nil
	}
	if u.buf == nil {
		u.buf = make([]byte, copyBuffer)
	}
	sparse := u.opts.Holes || isSparse(hdr)
	if sparse {
		// Also asks the file system at once whether it can have such a file.
		if err := unix.Ftruncate(fd, hdr.Size); err != nil {
			return fmt.Errorf("set size to %d: %w", hdr.Size, err)
		}
	}
	for off := int64(0); ; {
		n, err := io.ReadFull(tr, u.buf)
		if n > 0 {
			if werr := writeBlock(fd, u.buf[:n], off, sparse); werr != nil {
				return fmt.Errorf("write file: %w", werr)
			}
			off += int64(n)
		}
		if err == io.EOF || (err == io.ErrUnexpectedEOF && off == hdr.Size) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read file from archive: %w", err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if off == hdr.Size {
			return nil
		}
	}
}

func writeBlock(fd int, b []byte, off int64, sparse bool) error {
	for len(b) > 0 {
		chunk := b
		if sparse {
			zeros := zeroRun(b)
			if zeros > 0 {
				b, off = b[zeros:], off+int64(zeros)
				continue
			}
			chunk = b[:dataRun(b)]
		}
		n, err := unix.Pwrite(fd, chunk, off)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}

// zeroRun is how many bytes at the start are whole blocks of zeros.
func zeroRun(b []byte) int {
	n := 0
	for n < len(b) {
		end := min(n+holeUnit, len(b))
		if !bytes.Equal(b[n:end], zeroBlock[:end-n]) {
			break
		}
		n = end
	}
	return n
}

// dataRun is how many bytes at the start come before a block of zeros.
func dataRun(b []byte) int {
	n := min(holeUnit, len(b))
	for n < len(b) {
		end := min(n+holeUnit, len(b))
		if bytes.Equal(b[n:end], zeroBlock[:end-n]) {
			break
		}
		n = end
	}
	return n
}

// makeLink makes a hard link. A target that is not in this tar is looked for
// in the parents, by Finish.
func (u *unpacker) makeLink(hdr *tar.Header, parent *dirRef, base string) error {
	target, err := cleanName(hdr.Linkname)
	if err != nil {
		return fmt.Errorf("hard link target: %w", err)
	}
	if target == "" {
		return fmt.Errorf("%w: hard link to the archive's root", ErrUnsafe)
	}
	target = joinPrefix(u.prefix, target)
	full := joinName(parent.path, base)
	tdirName, tbase := splitName(target)
	tdir, err := u.cache.dir(tdirName, false)
	if errors.Is(err, errNotInTree) {
		return u.deferLink(parent, base, full, target)
	}
	if err != nil {
		return fmt.Errorf("find hard link target %q: %w", target, err)
	}
	if tdir.path == parent.path && tbase == base {
		return nil // a link to itself: replacing would remove the only name
	}
	var st unix.Stat_t
	err = unix.Fstatat(tdir.fd, tbase, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT || (err == nil && isWhiteout(&st) && !u.opts.PlainNames) {
		return u.deferLink(parent, base, full, target)
	}
	if err != nil {
		return fmt.Errorf("stat hard link target %q: %w", target, err)
	}
	if err := u.replace(parent, base, func() error { return unix.Linkat(tdir.fd, tbase, parent.fd, base, 0) }); err != nil {
		return fmt.Errorf("make hard link to %q: %w", target, err)
	}
	return nil
}

// deferLink keeps a hard link for Finish. Nothing may be in its place, so that
// Finish can tell whether a later entry took the name.
func (u *unpacker) deferLink(parent *dirRef, base, full, target string) error {
	if u.opts.PlainNames {
		return fmt.Errorf("make hard link: target %q is not in the archive", target)
	}
	if err := u.replace(parent, base, func() error {
		var st unix.Stat_t
		if unix.Fstatat(parent.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
			return unix.EEXIST
		}
		return nil
	}); err != nil {
		return err
	}
	u.links = append(u.links, pendingLink{name: full, target: target})
	return nil
}
