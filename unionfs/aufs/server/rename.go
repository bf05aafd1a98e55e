package server

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"vivarium/unionfs/aufs"
)

// move is one rename.
type move struct {
	from, to       *node
	old, new       string
	src, dst       object
	n, replaced    *node // replaced is nil if the kernel does not know it
	br             *branch
	up, over       *layer // of from and to, on br
	upDir, overDir int
}

// Rename moves a name. A directory moves only if all of it is on one branch that
// can be written to; else EXDEV, as in AUFS, and mv(1) copies it.
func (f *FS) Rename(_ <-chan struct{}, in *fuse.RenameIn, old, new string) fuse.Status {
	p, ok := f.begin(in.NodeId)
	if !ok {
		return fuse.Status(unix.ESTALE)
	}
	defer f.end()
	q := f.node(in.Newdir)
	if q == nil {
		return fuse.Status(unix.ESTALE)
	}
	if in.Flags&^(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE) != 0 {
		return fuse.EINVAL
	}
	if reserved(old) {
		return fuse.ENOENT
	}
	if err := checkNew(new); err != nil {
		return fuse.ToStatus(err)
	}
	p.negative.Store(nil)
	q.negative.Store(nil)
	m := &move{from: p, to: q, old: old, new: new}
	if err := f.lookBoth(m); err != nil {
		return fuse.ToStatus(err)
	}
	defer m.dst.release()
	defer f.forget(m.n.id, 1)
	if in.Flags&unix.RENAME_NOREPLACE != 0 && m.dst.found {
		return fuse.Status(unix.EEXIST)
	}
	if in.Flags&unix.RENAME_EXCHANGE != 0 {
		return fuse.ToStatus(f.exchange(m))
	}
	return fuse.ToStatus(f.rename(m))
}

// lookBoth finds both names.
func (f *FS) lookBoth(m *move) (err error) {
	if m.src, err = f.find(m.from, m.old); err != nil {
		return err
	}
	if !m.src.found {
		return unix.ENOENT
	}
	m.dst, err = f.find(m.to, m.new)
	if err != nil {
		m.src.release()
		return err
	}
	m.n = f.adopt(m.from, m.old, &m.src)
	return nil
}

func (f *FS) rename(m *move) error {
	if m.dst.found {
		m.replaced = f.named(f.ino(keyOf(&m.dst.st)))
		if m.replaced == m.n {
			return nil // two names of one file: both stay (rename(2))
		}
		if err := f.checkReplace(m); err != nil {
			return err
		}
	}
	unlock := lockBoth(m.n, m.replaced)
	defer unlock()
	if err := f.chooseMove(m); err != nil {
		return err
	}
	if err := f.prepareMove(m); err != nil {
		return err
	}
	if m.n.dir {
		return f.moveDir(m)
	}
	return f.moveFile(m)
}

// lockBoth locks two nodes in the order of their numbers.
func lockBoth(a, b *node) (unlock func()) {
	if b == nil || a == b {
		a.mu.Lock()
		return a.mu.Unlock
	}
	if b.id < a.id {
		a, b = b, a
	}
	a.mu.Lock()
	b.mu.Lock()
	return func() {
		b.mu.Unlock()
		a.mu.Unlock()
	}
}

func (f *FS) checkReplace(m *move) error {
	switch dir := isDir(&m.dst.st); {
	case m.n.dir && !dir:
		return unix.ENOTDIR
	case !m.n.dir && dir:
		return unix.EISDIR
	case dir:
		n := f.adopt(m.to, m.new, &m.dst)
		m.dst.layers = nil
		defer f.forget(n.id, 1)
		m.replaced = n
		return f.checkEmpty(n)
	}
	return nil
}

// chooseMove chooses the branch that the move happens on: that of the source where
// it can be (05wbr_policy.txt), but not below what hides the new name.
func (f *FS) chooseMove(m *move) error {
	last := len(f.branches) - 1
	if m.dst.white != nil {
		last = m.dst.white.br.index
	}
	if m.dst.found {
		last = min(last, m.dst.at.br.index)
	}
	if ls := *m.to.layers.Load(); len(ls) > 0 && f.isOpaque(m.to, ls[len(ls)-1]) {
		last = min(last, ls[len(ls)-1].br.index)
	}
	if m.n.dir {
		ls := *m.n.layers.Load()
		if len(ls) != 1 || !ls[0].br.writable() || ls[0].br.index > last {
			return unix.EXDEV
		}
		m.br = ls[0].br
		return nil
	}
	m.br = m.n.place.Load().br
	if m.br.writable() && m.br.index <= last {
		return nil
	}
	var err error
	if m.br, err = f.copyupBranch(m.from, m.src.at.br.index); err != nil {
		return err
	}
	if m.br.index > last {
		m.br, err = f.nearest(last)
	}
	return err
}

// prepareMove brings the source, and the directory that it goes to, to the branch.
func (f *FS) prepareMove(m *move) (err error) {
	if !m.n.dir && (m.src.at.br != m.br || m.src.link != nil) {
		if err := f.copyUp(m.n, name{m.from, m.old}, m.br, true); err != nil {
			return err
		}
	}
	if m.up, err = f.upLayer(m.from, m.br); err != nil {
		return err
	}
	if m.over, err = f.upLayer(m.to, m.br); err != nil {
		return err
	}
	if m.upDir, err = f.dir(m.from, m.up); err != nil {
		return err
	}
	m.overDir, err = f.dir(m.to, m.over)
	return err
}

// cover hides the old name of what is about to move, where one below would be seen. As long as
// the name is there it wins over its whiteout, so that the rename that follows is all that
// users can see: cut off anywhere, all is as it was, or has moved.
func (f *FS) cover(m *move) (covered bool, err error) {
	below, err := f.shownBelow(m.from, m.old, m.br)
	if err != nil || !below || exists(m.upDir, aufs.Prefix+m.old) {
		return false, err
	}
	return true, whiteout(m.up, m.upDir, m.old)
}

// bare takes the whiteout away when nothing moves after all.
func (m *move) bare(covered bool) {
	if covered {
		_ = unix.Unlinkat(m.upDir, aufs.Prefix+m.old, 0)
	}
}

// uncover removes the whiteout of the new name.
func (m *move) uncover() error {
	if m.dst.white != m.over && !m.dst.found {
		return nil
	}
	err := unix.Unlinkat(m.overDir, aufs.Prefix+m.new, 0)
	if err == unix.ENOENT {
		err = nil
	}
	return err
}

func (f *FS) moveFile(m *move) error {
	drop := func(bool) {}
	if m.dst.found {
		var err error
		if drop, err = f.loseName(m.replaced, name{m.to, m.new}, &m.dst); err != nil {
			return err
		}
	}
	covered, err := f.cover(m)
	if err == nil {
		err = unix.Renameat(m.upDir, m.old, m.overDir, m.new)
	}
	if err != nil {
		m.bare(covered)
		drop(false)
		return err
	}
	drop(true)
	f.moveName(m)
	return m.uncover()
}

func (f *FS) moveName(m *move) {
	f.tree.Lock()
	defer f.tree.Unlock()
	f.addMovedLocked(m.n, name{m.to, m.new})
	f.dropNameLocked(m.n, name{m.from, m.old})
}

// addMovedLocked adds a name and, unlike addNameLocked, keeps the old one of a
// directory for the moment.
func (f *FS) addMovedLocked(n *node, nm name) {
	for _, have := range n.names {
		if have == nm {
			return
		}
	}
	n.names = append(n.names, nm)
	nm.parent.kids++
}

func (f *FS) moveDir(m *move) error {
	below, err := f.shownBelow(m.to, m.new, m.br)
	if err != nil {
		return err
	}
	if below || m.dst.white == m.over || m.dst.found {
		if err := makeOpaque(m.upDir, m.old); err != nil {
			return err
		}
	}
	covered, err := f.cover(m)
	switch {
	case err != nil:
	case m.dst.found && m.dst.at.br == m.br:
		err = f.replaceDir(m)
	default:
		err = unix.Renameat2(m.upDir, m.old, m.overDir, m.new, unix.RENAME_NOREPLACE)
	}
	if err != nil {
		m.bare(covered)
		return err
	}
	if m.dst.found {
		f.loseDir(m.replaced, name{m.to, m.new})
	}
	f.moveName(m)
	return m.uncover()
}

// replaceDir puts a directory in the place of another one, in which there may be
// whiteouts: they change places, and the other one is removed.
func (f *FS) replaceDir(m *move) error {
	if err := unix.Renameat(m.upDir, m.old, m.overDir, m.new); err != unix.ENOTEMPTY && err != unix.EEXIST {
		return err
	}
	if err := unix.Renameat2(m.upDir, m.old, m.overDir, m.new, unix.RENAME_EXCHANGE); err != nil {
		return err
	}
	return f.removeDir(m.upDir, m.old)
}

// exchange swaps two names. Files are brought to one branch first; directories
// must be there already, all of them.
func (f *FS) exchange(m *move) error {
	if !m.dst.found {
		return unix.ENOENT
	}
	other := f.adopt(m.to, m.new, &m.dst)
	m.dst.layers = nil
	defer f.forget(other.id, 1)
	if other == m.n {
		return nil
	}
	unlock := lockBoth(m.n, other)
	defer unlock()
	br, err := f.topDownParent(m.from, min(m.src.at.br.index, m.dst.at.br.index))
	if err != nil {
		return err
	}
	m.br = br
	for _, x := range []struct {
		n  *node
		nm name
		o  *object
	}{{m.n, name{m.from, m.old}, &m.src}, {other, name{m.to, m.new}, &m.dst}} {
		if x.n.dir {
			if ls := *x.n.layers.Load(); len(ls) != 1 || ls[0].br != br {
				return unix.EXDEV
			}
			continue
		}
		if x.o.at.br != br || x.o.link != nil {
			if err := f.copyUp(x.n, x.nm, br, true); err != nil {
				return err
			}
		}
	}
	return f.swap(m, other)
}

func (f *FS) swap(m *move, other *node) (err error) {
	n := m.n
	m.n = &node{} // both are where they must be
	m.n.dir = true
	err = f.prepareMove(m)
	m.n = n
	if err != nil {
		return err
	}
	for _, x := range []struct {
		n    *node
		dir  int
		base string
		p    *node
		over string
	}{{n, m.upDir, m.old, m.to, m.new}, {other, m.overDir, m.new, m.from, m.old}} {
		if !x.n.dir {
			continue
		}
		below, err := f.shownBelow(x.p, x.over, m.br)
		if err != nil {
			return err
		}
		if below {
			if err := makeOpaque(x.dir, x.base); err != nil {
				return err
			}
		}
	}
	if err := unix.Renameat2(m.upDir, m.old, m.overDir, m.new, unix.RENAME_EXCHANGE); err != nil {
		return err
	}
	f.tree.Lock()
	defer f.tree.Unlock()
	a, b := name{m.from, m.old}, name{m.to, m.new}
	f.addMovedLocked(n, b)
	f.addMovedLocked(other, a)
	f.dropNameLocked(n, a)
	f.dropNameLocked(other, b)
	return nil
}
