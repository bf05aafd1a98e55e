package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sort"
	"time"

	"golang.org/x/sys/unix"
)

// Export writes the tree below the open directory as a tar, as `viv export`
// gives it: every file with owner, mode, times, attributes and hard links;
// sockets are left out, because tar has none.
func Export(ctx context.Context, w io.Writer, dir *os.File) error {
	p := newPacker(ctx, w)
	return p.finish(p.tree(int(dir.Fd()), ""))
}

// Diff writes what an upper directory changes as an OCI layer tar: ".wh.NAME" for
// each name that the layers below show and it deletes. An opaque directory is told
// in the same way, name by name, as the specification asks of who writes layers
// (image-spec, layer.md, "Opaque Whiteout"): so the same changes give the same
// bytes, however the directory spells them. The time of a whiteout is 0, because
// drivers differ in when they make the file that marks it.
//
// An overlay must come from a mount that this module's unionfs made (or one with
// redirect_dir and metacopy off): otherwise a file's content may be elsewhere,
// which is refused.
func Diff(ctx context.Context, w io.Writer, up Upper) error {
	v, err := OpenView(up.Lower)
	if err != nil {
		return err
	}
	defer v.Close()
	p := newPacker(ctx, w)
	p.layer, p.up, p.dirs = true, &up, map[string]bool{"": true}
	err = p.changes(int(up.Dir.Fd()), up.top(v))
	if err == nil {
		err = p.linkedFiles(v)
	}
	return p.finish(err)
}

// linkedFiles writes the files that are changed under names which the upper directory does
// not have, each with the directories above it.
func (p *packer) linkedFiles(v *View) error {
	list, err := p.up.linkedNames(v)
	if err != nil || len(list) == 0 {
		return err
	}
	fd, err := unix.Openat(int(p.up.Dir.Fd()), aufsLinks, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open pseudo-links: %w", err)
	}
	defer unix.Close(fd)
	for _, l := range list {
		if err := p.parents(v, l.name); err != nil {
			return err
		}
		var st unix.Stat_t
		err := unix.Fstatat(fd, l.file, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err == nil {
			err = p.file(fd, l.file, l.name, &st, nil)
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return nil
}

// parents writes the directories above a name that are not written yet, as the layers below
// have them.
func (p *packer) parents(v *View, name string) error {
	dirName, _ := splitName(name)
	if p.dirs[dirName] {
		return nil
	}
	if err := p.parents(v, dirName); err != nil {
		return err
	}
	dir, e, err := v.find(dirName)
	if dir != nil {
		defer dir.close()
	}
	if err != nil || e == nil {
		return err
	}
	_, base := splitName(dirName)
	xattrs, err := listXattrs(e.parent, base)
	if err != nil {
		return err
	}
	hdr, err := p.fileHeader(e.parent, base, dirName+"/", &e.st, xattrs)
	if err != nil {
		return err
	}
	hdr.Typeflag, p.dirs[dirName] = tar.TypeDir, true
	return p.header(hdr)
}

type inode struct{ dev, ino uint64 }

type packer struct {
	ctx   context.Context
	tw    *tar.Writer
	layer bool
	// up is the upper directory that is packed as what it changes; nil: a tree is packed as it is.
	up   *Upper
	dirs map[string]bool // of it, that are written
	// pending are the headers of directories that are only written if something below them is.
	pending []*tar.Header
	// plain leaves out what the kernel makes up, and hollow what is below that name.
	plain  bool
	hollow string
	links  map[inode]string
	buf    []byte
	// notAfter is the latest time that a file may have; see Settle.
	notAfter time.Time
	stats    Stats
}

func newPacker(ctx context.Context, w io.Writer) *packer {
	return &packer{ctx: ctx, tw: tar.NewWriter(w), links: make(map[inode]string)}
}

func (p *packer) finish(err error) error {
	if err != nil {
		return err
	}
	if err := p.tw.Close(); err != nil {
		return fmt.Errorf("write end of archive: %w", err)
	}
	return nil
}

// tree writes the entries of an open directory, whose own entry is written.
func (p *packer) tree(dirfd int, name string) error {
	fd, err := unix.Openat(dirfd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open directory %q: %w", name, err)
	}
	defer unix.Close(fd)
	names, err := readNames(fd)
	if err != nil {
		return fmt.Errorf("list directory %q: %w", name, err)
	}
	sort.Strings(names)
	for _, n := range names {
		if p.ctx.Err() != nil {
			return context.Cause(p.ctx)
		}
		err := p.entry(fd, n, joinName(name, n))
		if errors.Is(err, unix.ENOENT) {
			continue // deleted while the tree was read: it is no part of it
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// changes writes what an open directory of an upper layer says, whose own entry is
// written or pending.
func (p *packer) changes(dirfd int, at *spot) error {
	defer at.below.close()
	fd, err := unix.Openat(dirfd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open directory %q: %w", at.name, err)
	}
	defer unix.Close(fd)
	items, err := p.up.items(fd, at)
	if err != nil {
		return err
	}
	for _, it := range items {
		if p.ctx.Err() != nil {
			return context.Cause(p.ctx)
		}
		if it.gone {
			err = p.whiteout(joinName(at.name, it.base), time.Unix(0, 0))
		} else {
			err = p.change(fd, it.base, at)
		}
		if err != nil && !errors.Is(err, unix.ENOENT) { // else deleted meanwhile
			return err
		}
	}
	return nil
}

// change writes a name of an upper layer, if it says something of it.
func (p *packer) change(fd int, base string, at *spot) error {
	var st unix.Stat_t
	name := joinName(at.name, base)
	if err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("stat %q: %w", name, err)
	}
	if p.up.Spelling == SpelledOverlay && isWhiteout(&st) {
		old, err := at.lookup(base)
		if err != nil || old == nil {
			return err
		}
		return p.whiteout(name, time.Unix(0, 0))
	}
	if p.up.Spelling == SpelledCopy && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		touched, err := p.up.touched(fd, base, &st, at)
		if err != nil || !touched {
			return err
		}
	}
	return p.file(fd, base, name, &st, at)
}

func (p *packer) whiteout(name string, t time.Time) error {
	dir, base := splitName(name)
	return p.header(&tar.Header{Typeflag: tar.TypeReg, Name: joinName(dir, WhiteoutPrefix+base), ModTime: t})
}

// entry writes one name, and if it is a directory all below it.
func (p *packer) entry(dirfd int, base, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dirfd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("stat %q: %w", name, err)
	}
	if p.layer && isWhiteout(&st) {
		return p.whiteout(name, time.Unix(0, 0))
	}
	return p.file(dirfd, base, name, &st, nil)
}

// file writes a file, or a directory with all below it; at is where it is in an upper layer.
func (p *packer) file(dirfd int, base, name string, st *unix.Stat_t, at *spot) error {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return p.directory(dirfd, base, name, st, at)
	case unix.S_IFREG:
		return p.regular(dirfd, base, name)
	case unix.S_IFSOCK:
		return nil
	}
	return p.special(dirfd, base, name, st)
}

func (p *packer) directory(dirfd int, base, name string, st *unix.Stat_t, at *spot) error {
	fd, err := unix.Openat(dirfd, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open directory %q: %w", name, err)
	}
	defer unix.Close(fd)
	xattrs, err := p.xattrs(fd, name)
	if err != nil {
		return err
	}
	hdr, err := p.fileHeader(dirfd, base, name+"/", st, xattrs)
	if err != nil {
		return err
	}
	hdr.Typeflag = tar.TypeDir
	if p.up != nil {
		p.dirs[name] = true
	}
	if at != nil {
		return p.changedDir(fd, hdr, p.up.inside(at, base, st))
	}
	if err := p.header(hdr); err != nil {
		return err
	}
	if p.plain && (name == p.hollow || isKernelTree(fd)) {
		return nil
	}
	if p.layer && isOpaque(fd) {
		err := p.header(&tar.Header{Typeflag: tar.TypeReg, Name: joinName(name, WhiteoutOpaque), ModTime: hdr.ModTime})
		if err != nil {
			return err
		}
	}
	return p.tree(fd, name)
}

// changedDir writes a directory of an upper layer. One of a copied tree in which
// nothing was changed is no change.
func (p *packer) changedDir(fd int, hdr *tar.Header, at *spot) error {
	if !at.quiet {
		if err := p.header(hdr); err != nil {
			return err
		}
		return p.changes(fd, at)
	}
	p.pending = append(p.pending, hdr)
	if err := p.changes(fd, at); err != nil {
		return err
	}
	if n := len(p.pending); n > 0 && p.pending[n-1] == hdr {
		p.pending = p.pending[:n-1]
	}
	return nil
}

// isKernelTree tells whether a directory is on a file system that is no storage: its
// files have no size and no end, and reading some of them does things (statfs(2)).
func isKernelTree(fd int) bool {
	var st unix.Statfs_t
	if unix.Fstatfs(fd, &st) != nil {
		return false
	}
	switch int64(st.Type) {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.DEVPTS_SUPER_MAGIC,
		unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC, unix.BPF_FS_MAGIC, mqueueMagic:
		return true
	}
	return false
}

// mqueueMagic is MQUEUE_MAGIC of the kernel's ipc/mqueue.c.
const mqueueMagic = 0x19800202

// redirects are attributes of files whose content overlay would take from another
// name: Diff would write a layer that lacks it.
var redirects = []string{"trusted.overlay.redirect", "trusted.overlay.metacopy", "user.overlay.redirect", "user.overlay.metacopy"}

// xattrs reads the attributes of an open file.
func (p *packer) xattrs(fd int, name string) (map[string]string, error) {
	names, err := xattrNames(func(b []byte) (int, error) { return unix.Flistxattr(fd, b) }, name)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	for _, attr := range redirects {
		if p.layer && slices.Contains(names, attr) {
			return nil, fmt.Errorf("read %q: it carries %s, so its content is in another layer; mount with redirect_dir=off and metacopy=off", name, attr)
		}
	}
	return xattrValues(names, name, func(attr string, b []byte) (int, error) { return unix.Fgetxattr(fd, attr, b) })
}

func (p *packer) regular(dirfd int, base, name string) error {
	// O_NONBLOCK: the name may have become a FIFO since it was looked at.
	fd, err := unix.Openat(dirfd, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %q: %w", name, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("stat %q: %w", name, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("read %q: it was exchanged while it was read", name)
	}
	xattrs, err := p.xattrs(fd, name)
	if err != nil {
		return err
	}
	if st.Nlink > 1 {
		id := inode{st.Dev, st.Ino}
		if first, ok := p.links[id]; ok {
			t, err := p.time(dirfd, base, &st)
			if err != nil {
				return fmt.Errorf("set time of %q: %w", name, err)
			}
			return p.header(&tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: first, ModTime: t, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid)})
		}
		p.links[id] = name
	}
	hdr, err := p.fileHeader(dirfd, base, name, &st, xattrs)
	if err != nil {
		return err
	}
	hdr.Typeflag, hdr.Size = tar.TypeReg, st.Size
	p.stats.Bytes += st.Size
	if err := p.header(hdr); err != nil {
		return err
	}
	return p.content(fd, name, st.Size)
}

// content writes exactly size bytes: a file that shrinks while it is read is
// filled up, because the header has promised them.
func (p *packer) content(fd int, name string, size int64) error {
	if p.buf == nil {
		p.buf = make([]byte, copyBuffer)
	}
	for left := size; left > 0; {
		n, err := unix.Read(fd, p.buf[:min(left, int64(len(p.buf)))])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("read %q: %w", name, err)
		}
		if n == 0 {
			n = int(min(left, int64(len(p.buf))))
			clear(p.buf[:n])
		}
		if _, err := p.tw.Write(p.buf[:n]); err != nil {
			return fmt.Errorf("write %q to archive: %w", name, err)
		}
		left -= int64(n)
		if p.ctx.Err() != nil {
			return context.Cause(p.ctx)
		}
	}
	return nil
}

func (p *packer) special(dirfd int, base, name string, st *unix.Stat_t) error {
	xattrs, err := listXattrs(dirfd, base)
	if err != nil {
		return err
	}
	hdr, err := p.fileHeader(dirfd, base, name, st, xattrs)
	if err != nil {
		return err
	}
	if st.Nlink > 1 {
		id := inode{st.Dev, st.Ino}
		if first, ok := p.links[id]; ok {
			hdr.Typeflag, hdr.Linkname, hdr.PAXRecords = tar.TypeLink, first, nil
			return p.header(hdr)
		}
		p.links[id] = name
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		hdr.Typeflag = tar.TypeSymlink
		if hdr.Linkname, err = readlinkat(dirfd, base); err != nil {
			return fmt.Errorf("read symbolic link %q: %w", name, err)
		}
	case unix.S_IFIFO:
		hdr.Typeflag = tar.TypeFifo
	case unix.S_IFCHR:
		hdr.Typeflag = tar.TypeChar
	case unix.S_IFBLK:
		hdr.Typeflag = tar.TypeBlock
	}
	if hdr.Typeflag == tar.TypeChar || hdr.Typeflag == tar.TypeBlock {
		hdr.Devmajor, hdr.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	}
	return p.header(hdr)
}

func mtime(st *unix.Stat_t) time.Time {
	return time.Unix(st.Mtim.Sec, st.Mtim.Nsec)
}

// fileHeader takes the attributes that every kind of file has.
func (p *packer) fileHeader(dirfd int, base, name string, st *unix.Stat_t, xattrs map[string]string) (*tar.Header, error) {
	t, err := p.time(dirfd, base, st)
	if err != nil {
		return nil, fmt.Errorf("set time of %q: %w", name, err)
	}
	hdr := &tar.Header{
		Name: name, Mode: int64(st.Mode & 0o7777),
		Uid: int(st.Uid), Gid: int(st.Gid), ModTime: t, Format: tar.FormatPAX,
	}
	for k, v := range xattrs {
		if k == "security.selinux" {
			continue // the label belongs to the host's policy
		}
		if hdr.PAXRecords == nil {
			hdr.PAXRecords = make(map[string]string)
		}
		hdr.PAXRecords[paxXattr+k] = v
	}
	return hdr, nil
}

func (p *packer) header(hdr *tar.Header) error {
	for len(p.pending) > 0 {
		dir := p.pending[0]
		p.pending = p.pending[1:]
		if err := p.write(dir); err != nil {
			return err
		}
	}
	return p.write(hdr)
}

func (p *packer) write(hdr *tar.Header) error {
	p.stats.Entries++
	if err := p.tw.WriteHeader(hdr); err != nil {
		return fmt.Errorf("write %q to archive: %w", hdr.Name, err)
	}
	return nil
}
