package server

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"vivarium/unionfs/aufs"
)

// object is what a name of a directory means.
type object struct {
	found bool
	st    unix.Stat_t
	// at is the parent's layer that shows it, and index its place in the parent's.
	at    *layer
	index int
	// layers of a directory, top-most first.
	layers []*layer
	// link is set if the file was copied up under another of its names.
	link *pseudoLink
	// white is the parent's layer whose whiteout ended the search.
	white *layer
}

// find looks a name up on the branches, from the top. In one directory a name and
// its whiteout may both be there, after a crash or as image layers have it: the
// name wins, and the whiteout only hides what lies below.
func (f *FS) find(p *node, base string) (object, error) {
	return f.findBelow(p, base, 0)
}

// findBelow looks only at the parent's layers from index on.
func (f *FS) findBelow(p *node, base string, from int) (object, error) {
	var o object
	ls := *p.layers.Load()
	for i := from; i < len(ls); i++ {
		fd, err := f.dir(p, ls[i])
		if err == unix.ENOENT || err == unix.ESTALE {
			continue // removed directly on the branch
		}
		if err != nil {
			o.release()
			return object{}, err
		}
		more := i+1 < len(ls)
		var st unix.Stat_t
		err = unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW)
		switch {
		case err == nil && ls[i].br.deleted(&st):
			if !o.found {
				o.white = ls[i]
			}
			return o, nil
		case err == unix.ENOENT:
			if ls[i].br.Whiteouts() && (more || o.found) && exists(fd, aufs.Prefix+base) {
				if !o.found {
					o.white = ls[i]
				}
				return o, nil
			}
			continue
		case err != nil:
			o.release()
			return object{}, err
		}
		if o.found && !isDir(&st) {
			return o, nil // a file below a directory is hidden by it
		}
		if !o.found {
			o.found, o.st, o.at, o.index = true, st, ls[i], i
		}
		if !isDir(&st) {
			o.link = f.linkOf(&st, ls[i].br)
			return o, nil
		}
		stop, err := o.addLayer(fd, base, ls[i].br, more)
		if err != nil {
			o.release()
			return object{}, err
		}
		if stop {
			return o, nil
		}
	}
	return o, nil
}

// addLayer adds the directory base of fd. stop says that it hides those below.
func (o *object) addLayer(fd int, base string, br *branch, more bool) (stop bool, err error) {
	l := newLayer(br, -1)
	o.layers = append(o.layers, l)
	if !more || !br.Whiteouts() && !br.Overlay {
		return false, nil
	}
	sub, err := openDir(fd, base)
	if err != nil {
		return false, err
	}
	l.fd.Store(int32(sub))
	return br.opaque(sub) || br.Whiteouts() && exists(fd, aufs.Prefix+base), nil
}

// release closes what was opened for an object that nobody takes over.
func (o *object) release() {
	for _, l := range o.layers {
		if fd := l.fd.Swap(-1); fd >= 0 {
			unix.Close(int(fd))
		}
	}
}

// adopt gives the node of a found object, and counts one lookup of the kernel.
func (f *FS) adopt(p *node, base string, o *object) *node {
	ino := f.ino(keyOf(&o.st))
	fresh := false
	n := f.remember(ino, isDir(&o.st), name{p, base}, func(n *node) {
		fresh = true
		if n.dir {
			ls := o.layers
			n.layers.Store(&ls)
			return
		}
		n.place.Store(f.placeOf(o))
	})
	switch {
	case fresh && n.dir:
		for _, l := range o.layers {
			if l.fd.Load() >= 0 {
				f.dirFDs.Add(1)
			}
		}
	case n.dir:
		f.refreshLayers(n, o)
	case !fresh:
		f.refreshPlace(n, o)
	}
	return n
}

// refreshLayers takes over what a lookup found about a known directory, if
// something was changed directly on a branch.
func (f *FS) refreshLayers(n *node, o *object) {
	defer o.release()
	f.dirs.Lock()
	defer f.dirs.Unlock()
	have := *n.layers.Load()
	if sameBranches(have, o.layers) {
		return
	}
	next := make([]*layer, 0, len(o.layers))
	for _, l := range o.layers {
		keep := l
		for _, h := range have {
			if h.br == l.br {
				keep = h
			}
		}
		if keep == l {
			if fd := l.fd.Load(); fd >= 0 {
				f.dirFDs.Add(1)
			}
			keep = newLayer(l.br, int(l.fd.Swap(-1)))
		}
		next = append(next, keep)
	}
	n.layers.Store(&next)
}

func sameBranches(a, b []*layer) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].br != b[i].br {
			return false
		}
	}
	return true
}

// placeOf is where a file that was found lies. One that has a pseudo-link is always
// reached by that: which of its names are on the branch does not matter then.
func (f *FS) placeOf(o *object) *place {
	link := o.link
	if link == nil && o.st.Nlink > 1 && o.at.br.writable() {
		link = f.isLinked(keyOf(&o.st))
	}
	br := o.at.br
	if link != nil {
		br = link.br
	}
	return &place{br: br, link: link, fd: -1}
}

// refreshPlace lets a known file be where a lookup found it, after a change made
// directly on a branch, or when it had lost the names that were known of it and
// another one was looked up before the kernel forgot it.
func (f *FS) refreshPlace(n *node, o *object) {
	p := n.place.Load()
	switch {
	case p.fd >= 0:
		var st unix.Stat_t
		if unix.Fstat(p.fd, &st) == nil && keyOf(&st) == keyOf(&o.st) && n.place.CompareAndSwap(p, f.placeOf(o)) {
			f.keepOpen(n, p.fd)
		}
	case p.br != o.at.br && p.link == nil && o.link == nil:
		n.place.CompareAndSwap(p, f.placeOf(o))
	}
}

// absence is a name that a lookup did not find, kept for the request to make it,
// which follows most of the time: the kernel holds the directory's lock for both.
type absence struct {
	base  string
	white *layer
}

// absent finds that a name is free, or gives EEXIST.
func (f *FS) absent(p *node, base string) (object, error) {
	if a := p.negative.Swap(nil); a != nil && a.base == base {
		return object{white: a.white}, nil
	}
	o, err := f.find(p, base)
	if err == nil && o.found {
		o.release()
		err = unix.EEXIST
	}
	return o, err
}

// Lookup finds a name in a directory.
func (f *FS) Lookup(_ <-chan struct{}, h *fuse.InHeader, base string, out *fuse.EntryOut) fuse.Status {
	p, ok := f.begin(h.NodeId)
	if !ok {
		return fuse.Status(unix.ESTALE)
	}
	defer f.end()
	if reserved(base) {
		if p.id == rootID && base == aufs.Control {
			f.controlEntry(out)
			return fuse.OK
		}
		return fuse.ENOENT
	}
	return f.lookup(p, base, out)
}

// lookup finds a name; one that is not there is an answer too, with node 0, so
// that the kernel may remember it.
func (f *FS) lookup(p *node, base string, out *fuse.EntryOut) fuse.Status {
	if len(base) > aufs.MaxName {
		return fuse.Status(unix.ENAMETOOLONG)
	}
	o, err := f.find(p, base)
	if err != nil {
		return fuse.ToStatus(err)
	}
	if !o.found {
		p.negative.Store(&absence{base, o.white})
		if v := f.valid(nil); v > 0 && f.watchDir(p) && p.misses.add(base) {
			out.SetEntryTimeout(v)
			return fuse.OK
		}
		return fuse.ENOENT
	}
	n := f.adopt(p, base, &o)
	st := o.st
	if err := f.overrideStat(n, &st); err != nil {
		f.forget(n.id, 1)
		return fuse.ToStatus(err)
	}
	f.fill(n, &st, out)
	if f.watch != nil && !f.watchDir(p) {
		out.SetEntryTimeout(0)
		out.SetAttrTimeout(0)
	}
	return fuse.OK
}

// overrideStat looks at where the file really is, if that is not where its name is.
func (f *FS) overrideStat(n *node, st *unix.Stat_t) error {
	if n.dir {
		if ls := *n.layers.Load(); len(ls) > 0 && ls[0].br.dev == st.Dev {
			return nil
		}
		return f.stat(n, st)
	}
	if p := n.place.Load(); p.link == nil && p.fd < 0 {
		return nil
	}
	return f.stat(n, st)
}

// stat reads the attributes of a node.
func (f *FS) stat(n *node, st *unix.Stat_t) error {
	dir, base, err := f.ref(n)
	if err != nil {
		return err
	}
	return unix.Fstatat(dir, base, st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH)
}

// fill writes the answer about a node.
func (f *FS) fill(n *node, st *unix.Stat_t, out *fuse.EntryOut) {
	out.NodeId, out.Generation = n.id, n.gen
	f.attr(n, st, &out.Attr)
	valid := f.valid(f.shownOn(n))
	out.SetEntryTimeout(valid)
	out.SetAttrTimeout(max(valid, tick))
}

// shownOn is the branch that shows the node.
func (f *FS) shownOn(n *node) *branch {
	if n.dir {
		if ls := *n.layers.Load(); len(ls) == 1 {
			return ls[0].br
		}
		return nil
	}
	return n.place.Load().br
}

// attr translates what stat says.
func (f *FS) attr(n *node, st *unix.Stat_t, out *fuse.Attr) {
	*out = fuse.Attr{
		Ino: n.ino, Size: uint64(st.Size), Blocks: uint64(st.Blocks), Mode: st.Mode, Nlink: f.linkCount(n, st),
		Owner: fuse.Owner{Uid: st.Uid, Gid: st.Gid}, Rdev: uint32(st.Rdev), Blksize: uint32(st.Blksize),
		Atime: uint64(st.Atim.Sec), Atimensec: uint32(st.Atim.Nsec),
		Mtime: uint64(st.Mtim.Sec), Mtimensec: uint32(st.Mtim.Nsec),
		Ctime: uint64(st.Ctim.Sec), Ctimensec: uint32(st.Ctim.Nsec),
	}
}

// linkCount is how many names users see. A merged directory has 1, which find(1)
// understands as "not known"; to count would be to list all of its branches.
func (f *FS) linkCount(n *node, st *unix.Stat_t) uint32 {
	if n.dir {
		if len(*n.layers.Load()) != 1 {
			return 1
		}
		if n.id == rootID && st.Nlink > 2 && f.branches[0].writable() {
			return uint32(st.Nlink) - 2 // .wh..wh.plnk and .wh..wh.orph
		}
		return uint32(st.Nlink)
	}
	p := n.place.Load()
	if p.link != nil {
		return linkedCount(p.link, st)
	}
	if n.hidden > 0 && !p.br.writable() {
		return uint32(max(int(st.Nlink)-n.hidden, 0))
	}
	return uint32(st.Nlink)
}
