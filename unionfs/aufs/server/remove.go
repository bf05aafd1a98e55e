package server

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"vivarium/unionfs/aufs"
)

// whiteout deletes a name for the branches below: a hard link to the branch's
// whiteout base, which takes no inode, or a file of its own where there are too
// many links.
func whiteout(l *layer, dir int, base string) error {
	err := unix.Linkat(l.br.root, aufs.Base, dir, aufs.Prefix+base, 0)
	switch err {
	case nil, unix.EEXIST:
		return nil
	case unix.ENOSPC, unix.EDQUOT, unix.EROFS:
		return err
	}
	return mark(dir, aufs.Prefix+base)
}

// shownBelow tells whether a name would be seen if the branches down to br did not
// have it.
func (f *FS) shownBelow(p *node, base string, br *branch) (bool, error) {
	for i, l := range *p.layers.Load() {
		if l.br.index > br.index {
			o, err := f.findBelow(p, base, i)
			o.release()
			return o.found, err
		}
	}
	return false, nil
}

// Unlink removes a name of a file.
func (f *FS) Unlink(_ <-chan struct{}, h *fuse.InHeader, base string) fuse.Status {
	p, ok := f.begin(h.NodeId)
	if !ok {
		return fuse.Status(unix.ESTALE)
	}
	defer f.end()
	if reserved(base) {
		return fuse.ENOENT
	}
	p.negative.Store(nil)
	o, err := f.find(p, base)
	if err != nil {
		return fuse.ToStatus(err)
	}
	defer o.release()
	switch {
	case !o.found:
		return fuse.ENOENT
	case isDir(&o.st):
		return fuse.EISDIR
	}
	return fuse.ToStatus(f.unlink(p, base, &o))
}

func (f *FS) unlink(p *node, base string, o *object) error {
	n := f.named(f.ino(keyOf(&o.st)))
	if n != nil {
		f.lock(n)
		defer n.mu.Unlock()
	}
	drop, err := f.loseName(n, name{p, base}, o)
	if err != nil {
		return err
	}
	if err := f.removeName(p, base, o); err != nil {
		drop(false)
		return err
	}
	drop(true)
	return nil
}

// removeName takes a name away: by a whiteout where something below has it too.
func (f *FS) removeName(p *node, base string, o *object) error {
	if !o.at.br.writable() {
		br, err := f.copyupBranch(p, o.at.br.index)
		if err != nil {
			return err
		}
		return f.coverName(p, base, br)
	}
	dir, err := f.hideBelow(p, base, o.at)
	if err != nil {
		return err
	}
	return unix.Unlinkat(dir, base, 0)
}

// hideBelow makes a whiteout on l if something below it has the name too, and gives
// l's directory of p.
func (f *FS) hideBelow(p *node, base string, l *layer) (dir int, err error) {
	below, err := f.shownBelow(p, base, l.br)
	if err != nil {
		return -1, err
	}
	if dir, err = f.dir(p, l); err != nil {
		return -1, err
	}
	if below {
		err = whiteout(l, dir, base)
	}
	return dir, err
}

// coverName makes a whiteout on br.
func (f *FS) coverName(p *node, base string, br *branch) error {
	l, err := f.upLayer(p, br)
	if err != nil {
		return err
	}
	dir, err := f.dir(p, l)
	if err != nil {
		return err
	}
	return whiteout(l, dir, base)
}

// loseName prepares that a file loses a name: it must stay reachable for those who
// have it open. drop says whether it came to that. n.mu is held; n is nil if
// the kernel does not know the file.
func (f *FS) loseName(n *node, nm name, o *object) (drop func(done bool), err error) {
	link := o.link
	if link == nil {
		link = f.isLinked(keyOf(&o.st))
	}
	finish := func() {
		if o.link != nil {
			_ = link.hide()
		}
		if link != nil {
			f.dropEmptyLink(link)
		}
	}
	if n == nil {
		return func(done bool) {
			if done {
				if o.link == nil && !o.at.br.writable() && o.st.Nlink > 1 {
					f.loseUnknown(f.ino(keyOf(&o.st)))
				}
				finish()
			}
		}, nil
	}
	last := f.lastName(n, nm)
	keep := -1
	if last {
		if keep, err = f.openPath(n); err != nil {
			return nil, err
		}
	}
	return func(done bool) {
		if !done {
			if keep >= 0 {
				unix.Close(keep)
			}
			return
		}
		if o.link == nil && !o.at.br.writable() {
			n.hidden++
		}
		f.tree.Lock()
		f.dropNameLocked(n, nm)
		f.tree.Unlock()
		if keep >= 0 {
			old := n.place.Swap(&place{br: n.place.Load().br, fd: keep})
			if old.fd >= 0 {
				unix.Close(old.fd)
			}
			f.forgetNumber(n, o)
		}
		finish()
	}, nil
}

// forgetNumber takes a file without names out of the table by numbers. One of
// which other names are there, unknown to the kernel, stays.
func (f *FS) forgetNumber(n *node, o *object) {
	var st unix.Stat_t
	if f.stat(n, &st) == nil && f.linkCount(n, &st) > 0 {
		return
	}
	f.gone(n)
}

func (f *FS) loseUnknown(ino uint64) {
	f.tree.Lock()
	defer f.tree.Unlock()
	f.lost[ino]++
}

// dropEmptyLink removes a pseudo-link that is the last name of its file.
func (f *FS) dropEmptyLink(l *pseudoLink) {
	var st unix.Stat_t
	if l.names() == 0 && unix.Fstatat(l.br.links, l.file(), &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Nlink == 1 {
		f.dropLink(l)
	}
}

// openPath opens a file for no more than to refer to it.
func (f *FS) openPath(n *node) (int, error) {
	dir, base, err := f.ref(n)
	if err != nil {
		return -1, err
	}
	if base == "" {
		return unix.FcntlInt(uintptr(dir), unix.F_DUPFD_CLOEXEC, 0)
	}
	return unix.Openat(dir, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// Rmdir removes a directory in which users see nothing.
func (f *FS) Rmdir(_ <-chan struct{}, h *fuse.InHeader, base string) fuse.Status {
	p, ok := f.begin(h.NodeId)
	if !ok {
		return fuse.Status(unix.ESTALE)
	}
	defer f.end()
	if reserved(base) {
		return fuse.ENOENT
	}
	p.negative.Store(nil)
	o, err := f.find(p, base)
	if err != nil {
		return fuse.ToStatus(err)
	}
	switch {
	case !o.found:
		return fuse.ENOENT
	case !isDir(&o.st):
		return fuse.ENOTDIR
	}
	n := f.adopt(p, base, &o)
	defer f.forget(n.id, 1)
	return fuse.ToStatus(f.rmdir(p, base, n))
}

func (f *FS) rmdir(p *node, base string, n *node) error {
	if err := f.checkEmpty(n); err != nil {
		return err
	}
	f.dirs.Lock()
	ls := *n.layers.Load()
	f.dirs.Unlock()
	if len(ls) == 0 {
		return unix.ESTALE
	}
	top := ls[0]
	if !top.br.writable() {
		br, err := f.copyupBranch(p, top.br.index)
		if err != nil {
			return err
		}
		if err := f.coverName(p, base, br); err != nil {
			return err
		}
	} else if err := f.removeTop(p, base, top); err != nil {
		return err
	}
	f.loseDir(n, name{p, base})
	return nil
}

// removeTop removes the directory of the highest branch, and hides those below.
func (f *FS) removeTop(p *node, base string, top *layer) error {
	up := p.layerOn(top.br)
	if up == nil {
		return unix.ESTALE
	}
	dir, err := f.hideBelow(p, base, up)
	if err != nil {
		return err
	}
	return f.removeDir(dir, base)
}

// removeDir removes a directory of a branch in which there may be whiteouts. It
// gets a name first that no union shows.
func (f *FS) removeDir(dir int, base string) error {
	err := unix.Unlinkat(dir, base, unix.AT_REMOVEDIR)
	if err != unix.ENOTEMPTY && err != unix.EEXIST {
		return err
	}
	temp := f.tempName()
	if err := unix.Renameat(dir, base, dir, temp); err != nil {
		return err
	}
	return removeTree(dir, temp)
}

// removeTree removes a directory of a branch with all that is in it.
func removeTree(dir int, base string) error {
	fd, err := openDir(dir, base)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	list, err := readNames(fd)
	if err != nil {
		return err
	}
	for _, e := range list {
		err := unix.Unlinkat(fd, e.base, 0)
		if err == unix.EISDIR || err == unix.EPERM {
			err = removeTree(fd, e.base)
		}
		if err != nil && err != unix.ENOENT {
			return err
		}
	}
	return unix.Unlinkat(dir, base, unix.AT_REMOVEDIR)
}

// checkEmpty gives ENOTEMPTY if users see anything in the directory.
func (f *FS) checkEmpty(n *node) error {
	list, err := f.list(n)
	if err == nil && len(list) > 0 {
		err = unix.ENOTEMPTY
	}
	return err
}

// loseDir lets a removed directory be nowhere; those who are in it keep what the
// kernel knows of it.
func (f *FS) loseDir(n *node, nm name) {
	f.dirs.Lock()
	ls := *n.layers.Load()
	if len(ls) > 0 { // its descriptor is what an open directory is reached by
		f.dir(n, ls[0])
	}
	f.dirs.Unlock()
	f.tree.Lock()
	f.dropNameLocked(n, nm)
	f.tree.Unlock()
	f.gone(n)
}
