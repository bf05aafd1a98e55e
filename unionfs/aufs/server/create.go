package server

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"vivarium/unionfs/aufs"
)

// slot is where a new name is made.
type slot struct {
	p    *node
	base string
	l    *layer
	dir  int
	// white says that a whiteout of the name is in the same directory: it goes when
	// the name is there.
	white bool
	// mode of the new file, the umask taken away where it counts.
	mode uint32
	uid  uint32
	gid  uint32
}

// slot finds the branch and directory for a new name, and makes the directory there.
func (f *FS) slot(p *node, base string, mode, umask uint32, who *fuse.Owner) (*slot, error) {
	if err := checkNew(base); err != nil {
		return nil, err
	}
	o, err := f.absent(p, base)
	if err != nil {
		return nil, err
	}
	br, err := f.createBranch(p, o.white, mode&unix.S_IFMT == unix.S_IFDIR)
	if err != nil {
		return nil, err
	}
	l, err := f.upLayer(p, br)
	if err != nil {
		return nil, err
	}
	s := &slot{p: p, base: base, l: l, white: o.white == l, mode: mode, uid: who.Uid, gid: who.Gid}
	if s.dir, err = f.dir(p, l); err != nil {
		return nil, err
	}
	// A default ACL takes the umask's place (acl(5)).
	if !f.hasDefaultACL(p, s.dir) {
		s.mode &^= umask & 0o777
	}
	return s, nil
}

const defaultACL = "system.posix_acl_default"

func (f *FS) hasDefaultACL(p *node, dir int) bool {
	const no, yes = 1, 2
	if v := p.inherits.Load(); v != 0 {
		return v == yes
	}
	v := int32(no)
	if _, err := unix.Getxattr(procFD(dir), defaultACL, nil); err == nil {
		v = yes
	}
	p.inherits.Store(v)
	return v == yes
}

// own gives what was made in the directory parent, base in dir or dir itself, to who
// made it. In a directory with the setgid bit the branch has set the group already.
// mode is what the file was made with: a change of owner takes bits of it.
func own(parent, dir int, base string, mode, uid, gid uint32) error {
	if uid == 0 && gid == 0 {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(parent, &st); err != nil {
		return err
	}
	group := int(gid)
	if st.Mode&unix.S_ISGID != 0 {
		group = -1
	}
	const here = unix.AT_SYMLINK_NOFOLLOW | unix.AT_EMPTY_PATH
	if err := unix.Fchownat(dir, base, int(uid), group, here); err != nil {
		return err
	}
	kind, setid := mode&unix.S_IFMT, mode&(unix.S_ISUID|unix.S_ISGID)
	if setid == 0 || kind == unix.S_IFDIR || kind == unix.S_IFLNK {
		return nil
	}
	// Of the rest a default ACL may have left less than was asked for.
	if err := unix.Fstatat(dir, base, &st, here); err != nil {
		return err
	}
	return chmod(dir, base, st.Mode&0o7777|setid)
}

// finish completes what was made: owner, whiteout, node.
func (f *FS) finish(s *slot, out *fuse.EntryOut) (*node, error) {
	err := own(s.dir, s.dir, s.base, s.mode, s.uid, s.gid)
	if err == nil && s.white {
		err = unix.Unlinkat(s.dir, aufs.Prefix+s.base, 0)
		if err == unix.ENOENT {
			err = nil
		}
	}
	var st unix.Stat_t
	if err == nil {
		err = unix.Fstatat(s.dir, s.base, &st, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err != nil {
		return nil, err
	}
	f.newIno(keyOf(&st))
	return f.made(s, &st, out), nil
}

// made gives the node of a new file.
func (f *FS) made(s *slot, st *unix.Stat_t, out *fuse.EntryOut) *node {
	o := object{found: true, st: *st, at: s.l}
	if isDir(st) {
		o.layers = []*layer{newLayer(s.l.br, -1)}
	}
	n := f.adopt(s.p, s.base, &o)
	n.plain.Store(f.opts.UDBA == aufs.UDBANone)
	f.fill(n, st, out)
	return n
}

// Mkdir makes a directory. Where one below is deleted, the new one is opaque.
func (f *FS) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, base string, out *fuse.EntryOut) fuse.Status {
	p, ok := f.begin(in.NodeId)
	if !ok {
		return fuse.Status(unix.ESTALE)
	}
	defer f.end()
	s, err := f.slot(p, base, in.Mode&0o7777|unix.S_IFDIR, in.Umask, &in.Owner)
	if err != nil {
		return fuse.ToStatus(err)
	}
	if err := unix.Mkdirat(s.dir, base, s.mode&0o7777); err != nil {
		return fuse.ToStatus(err)
	}
	if s.white {
		err = makeOpaque(s.dir, base)
	}
	if err == nil {
		_, err = f.finish(s, out)
	}
	if err != nil {
		_ = unix.Unlinkat(s.dir, base, unix.AT_REMOVEDIR)
	}
	return fuse.ToStatus(err)
}

// makeOpaque marks the directory base of dir: nothing below shows through it.
func makeOpaque(dir int, base string) error {
	fd, err := openDir(dir, base)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return mark(fd, aufs.Opaque)
}

func mark(dir int, base string) error {
	fd, err := unix.Openat(dir, base, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o444)
	if err == unix.EEXIST {
		return nil
	}
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// Mknod makes a file, device, FIFO or socket.
func (f *FS) Mknod(_ <-chan struct{}, in *fuse.MknodIn, base string, out *fuse.EntryOut) fuse.Status {
	p, ok := f.begin(in.NodeId)
	if !ok {
		return fuse.Status(unix.ESTALE)
	}
	defer f.end()
	mode := in.Mode
	if mode&unix.S_IFMT == 0 {
		mode |= unix.S_IFREG
	}
	s, err := f.slot(p, base, mode, in.Umask, &in.Owner)
	if err != nil {
		return fuse.ToStatus(err)
	}
	if err := unix.Mknodat(s.dir, base, s.mode, int(in.Rdev)); err != nil {
		return fuse.ToStatus(err)
	}
	return f.finishOrRemove(s, out)
}

func (f *FS) finishOrRemove(s *slot, out *fuse.EntryOut) fuse.Status {
	_, err := f.finish(s, out)
	if err != nil {
		_ = unix.Unlinkat(s.dir, s.base, 0)
	}
	return fuse.ToStatus(err)
}

// Symlink makes a symbolic link.
func (f *FS) Symlink(_ <-chan struct{}, h *fuse.InHeader, target, base string, out *fuse.EntryOut) fuse.Status {
	p, ok := f.begin(h.NodeId)
	if !ok {
		return fuse.Status(unix.ESTALE)
	}
	defer f.end()
	s, err := f.slot(p, base, unix.S_IFLNK, 0, &h.Owner)
	if err != nil {
		return fuse.ToStatus(err)
	}
	if err := unix.Symlinkat(target, s.dir, base); err != nil {
		return fuse.ToStatus(err)
	}
	return f.finishOrRemove(s, out)
}

// Link gives a file one more name. Files are linked on the branch that they are on;
// one of a branch that cannot be written to is copied up first.
func (f *FS) Link(_ <-chan struct{}, in *fuse.LinkIn, base string, out *fuse.EntryOut) fuse.Status {
	p, ok := f.begin(in.NodeId)
	if !ok {
		return fuse.Status(unix.ESTALE)
	}
	defer f.end()
	n := f.node(in.Oldnodeid)
	if n == nil {
		return fuse.Status(unix.ESTALE)
	}
	if n.dir {
		return fuse.EPERM
	}
	if err := checkNew(base); err != nil {
		return fuse.ToStatus(err)
	}
	return fuse.ToStatus(f.link(n, p, base, out))
}

func (f *FS) link(n, p *node, base string, out *fuse.EntryOut) error {
	o, err := f.absent(p, base)
	if err != nil {
		return err
	}
	f.lock(n)
	defer n.mu.Unlock()
	limit, err := f.createBranch(p, o.white, false)
	if err != nil {
		return err
	}
	br := n.place.Load().br
	if !br.writable() || o.white != nil && br.index > o.white.br.index {
		br = limit
		if err := f.bringTo(n, br); err != nil {
			return err
		}
	}
	l, err := f.upLayer(p, br)
	if err != nil {
		return err
	}
	dir, err := f.dir(p, l)
	if err != nil {
		return err
	}
	from, old, err := f.ref(n)
	if err != nil {
		return err
	}
	if old == "" {
		err = unix.Linkat(unix.AT_FDCWD, procFD(from), dir, base, unix.AT_SYMLINK_FOLLOW)
	} else {
		err = unix.Linkat(from, old, dir, base, 0)
	}
	if err != nil {
		return err
	}
	if pl := n.place.Load(); pl.fd >= 0 { // a file of O_TMPFILE has a name now
		n.place.Store(&place{br: br, fd: -1})
		unix.Close(pl.fd)
	}
	if o.white == l {
		if err := unix.Unlinkat(dir, aufs.Prefix+base, 0); err != nil && err != unix.ENOENT {
			return err
		}
	}
	f.remember(n.ino, false, name{p, base}, func(m *node) { m.place.Store(n.place.Load()) })
	var st unix.Stat_t
	if err := f.stat(n, &st); err != nil {
		return err
	}
	f.fill(n, &st, out)
	return nil
}

// bringTo copies a file up to a branch, if it is below it.
func (f *FS) bringTo(n *node, br *branch) error {
	p := n.place.Load()
	if p.br.index <= br.index && p.br.writable() {
		if p.br == br {
			return nil
		}
		return unix.EXDEV
	}
	nm, ok := f.firstName(n)
	if !ok {
		return f.copyOrphan(n, br, true)
	}
	return f.copyUp(n, nm, br, true)
}

// writableNode copies a file up, if it cannot be changed where it is. n.mu is held.
func (f *FS) writableNode(n *node, content bool) error {
	p := n.place.Load()
	if p.br.writable() {
		return nil
	}
	nm, ok := f.firstName(n)
	if !ok || p.fd >= 0 {
		br, err := f.nearest(p.br.index - 1)
		if err != nil {
			return err
		}
		return f.copyOrphan(n, br, content)
	}
	br, err := f.copyupBranch(nm.parent, p.br.index)
	if err != nil {
		return err
	}
	return f.copyUp(n, nm, br, content)
}

// writableDir gives the layer of a directory whose attributes can be changed: the
// top-most, which is the one that users see.
func (f *FS) writableDir(n *node) error {
	ls := *n.layers.Load()
	if len(ls) == 0 {
		return unix.ESTALE
	}
	if ls[0].br.writable() {
		return nil
	}
	above := f.above(n)
	if above == nil {
		return unix.EROFS // the root lies on every branch
	}
	br, err := f.copyupBranch(above, ls[0].br.index)
	if err != nil {
		return err
	}
	_, err = f.upLayer(n, br)
	return err
}
