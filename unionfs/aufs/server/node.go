package server

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vivarium/unionfs/aufs"
)

// node is what the kernel knows by a number: a file or a directory of the union.
type node struct {
	id, gen uint64
	ino     uint64 // number that users see; kept when the file is copied up
	dir     bool

	// Under FS.tree.
	names   []name
	lookups uint64 // how often the kernel was told of it
	kept    []int  // descriptors of earlier places, which other requests may still use
	kids    int    // nodes that have a name in it

	// layers of a directory, top-most first; replaced as a whole under FS.dirs.
	layers atomic.Pointer[[]*layer]
	// negative is the name that was last looked up in vain; see FS.absent.
	negative atomic.Pointer[absence]
	misses   misses
	// inherits remembers whether a directory has a default ACL.
	inherits atomic.Int32
	// plain says that a file was made here and has no capabilities, and that nobody gives it some
	// directly on its branch.
	plain atomic.Bool
	// stored tells which content of a file was last given to the kernel when it was opened.
	stored uint64 // contentKey; under mu

	// place is where a file is; replaced as a whole under mu.
	place atomic.Pointer[place]

	// mu is held while a file is copied up, opened, or loses a name.
	mu     sync.Mutex
	hidden int // names of a lower file that something hides
	open   opens
}

// name is one name of a node: in which directory, and what.
type name struct {
	parent *node
	base   string
}

// layer is a directory on one branch.
type layer struct {
	br *branch
	fd atomic.Int32 // -1 until somebody looks into it
}

func newLayer(br *branch, fd int) *layer {
	l := &layer{br: br}
	l.fd.Store(int32(fd))
	return l
}

// place is where a file that is no directory lies.
type place struct {
	br *branch
	// link is set if the file is reached by its pseudo-link: the name that users
	// know is one of a branch below.
	link *pseudoLink
	// fd refers to a file that has no name any more, or none yet; else -1.
	fd int
}

// layerOn is the directory's layer on a branch, or nil.
func (n *node) layerOn(br *branch) *layer {
	for _, l := range *n.layers.Load() {
		if l.br == br {
			return l
		}
	}
	return nil
}

// objectKey identifies a file on the machine.
type objectKey struct{ dev, ino uint64 }

func keyOf(st *unix.Stat_t) objectKey { return objectKey{st.Dev, st.Ino} }

// table is all nodes. Its fields are under FS.tree.
type table struct {
	byID  []*node // index is the number that the kernel uses; 0 is nobody, 1 the root
	gens  []uint64
	spare []uint64
	byIno map[uint64]*node
}

// lock takes n.mu. Who holds it may be copying a file up.
func (f *FS) lock(n *node) {
	if !n.mu.TryLock() {
		f.device.relieve()
		n.mu.Lock()
	}
}

func (f *FS) node(id uint64) *node {
	f.tree.RLock()
	defer f.tree.RUnlock()
	if id >= uint64(len(f.nodes.byID)) {
		return nil
	}
	return f.nodes.byID[id]
}

// firstName is a name by which the node can be reached.
func (f *FS) firstName(n *node) (name, bool) {
	f.tree.RLock()
	defer f.tree.RUnlock()
	if len(n.names) == 0 {
		return name{}, false
	}
	return n.names[0], true
}

// remember gives the node of a number, making it with fill if there is none, and
// counts one lookup by the kernel.
func (f *FS) remember(ino uint64, dir bool, nm name, fill func(*node)) *node {
	f.tree.Lock()
	defer f.tree.Unlock()
	n := f.nodes.byIno[ino]
	if n == nil || n.dir != dir {
		n = &node{ino: ino, dir: dir}
		if spare := len(f.nodes.spare); spare > 0 {
			n.id = f.nodes.spare[spare-1]
			f.nodes.spare = f.nodes.spare[:spare-1]
			f.nodes.byID[n.id] = n
		} else {
			n.id = uint64(len(f.nodes.byID))
			f.nodes.byID = append(f.nodes.byID, n)
			f.nodes.gens = append(f.nodes.gens, 0)
		}
		n.gen = f.nodes.gens[n.id]
		n.hidden = f.lost[ino]
		fill(n)
		f.nodes.byIno[ino] = n
	}
	n.lookups++
	if nm.parent != nil {
		f.addNameLocked(n, nm)
	}
	return n
}

func (f *FS) addNameLocked(n *node, nm name) {
	for _, have := range n.names {
		if have == nm {
			return
		}
	}
	if n.dir && len(n.names) > 0 {
		f.dropNameLocked(n, n.names[0]) // moved behind our back
	}
	n.names = append(n.names, nm)
	nm.parent.kids++
}

func (f *FS) dropNameLocked(n *node, nm name) {
	for i, have := range n.names {
		if have == nm {
			n.names = append(n.names[:i:i], n.names[i+1:]...)
			nm.parent.kids--
			f.releaseLocked(nm.parent)
			return
		}
	}
}

// named finds the node that has this name, if the kernel knows one.
func (f *FS) named(ino uint64) *node {
	f.tree.RLock()
	defer f.tree.RUnlock()
	return f.nodes.byIno[ino]
}

// lastName tells whether nm is the only name by which the node can be reached.
func (f *FS) lastName(n *node, nm name) bool {
	f.tree.RLock()
	defer f.tree.RUnlock()
	return len(n.names) == 1 && n.names[0] == nm
}

// forget takes back lookups of the kernel.
func (f *FS) forget(id, count uint64) {
	f.tree.Lock()
	defer f.tree.Unlock()
	if id <= 1 || id >= uint64(len(f.nodes.byID)) || f.nodes.byID[id] == nil {
		return
	}
	n := f.nodes.byID[id]
	n.lookups -= min(count, n.lookups)
	f.releaseLocked(n)
}

// releaseLocked ends a node that neither the kernel nor a node below it needs.
func (f *FS) releaseLocked(n *node) {
	if n.lookups > 0 || n.kids > 0 || n.id <= 1 || f.nodes.byID[n.id] != n {
		return
	}
	f.nodes.byID[n.id] = nil
	f.nodes.gens[n.id]++
	f.nodes.spare = append(f.nodes.spare, n.id)
	if f.nodes.byIno[n.ino] == n {
		delete(f.nodes.byIno, n.ino)
		if n.hidden > 0 { // other names of it are there, or it were not in the table
			f.lost[n.ino] = n.hidden
		}
	}
	for len(n.names) > 0 {
		f.dropNameLocked(n, n.names[0])
	}
	f.closeNode(n)
}

// closeNode closes the node's own descriptors.
func (f *FS) closeNode(n *node) {
	if ls := n.layers.Load(); ls != nil {
		f.unwatch(n)
		for _, l := range *ls {
			f.closeLayer(l)
		}
	}
	if p := n.place.Load(); p != nil && p.fd >= 0 {
		unix.Close(p.fd)
	}
	for _, fd := range n.kept {
		unix.Close(fd)
	}
}

// keepOpen leaves a descriptor open as long as the node is there.
func (f *FS) keepOpen(n *node, fd int) {
	f.tree.Lock()
	defer f.tree.Unlock()
	n.kept = append(n.kept, fd)
}

func (f *FS) closeLayer(l *layer) {
	if fd := l.fd.Swap(-1); fd >= 0 {
		unix.Close(int(fd))
		f.dirFDs.Add(-1)
	}
}

// gone takes a node whose last name was removed out of the table by numbers: the
// number may be that of a new file soon.
func (f *FS) gone(n *node) {
	f.tree.Lock()
	defer f.tree.Unlock()
	if f.nodes.byIno[n.ino] == n {
		delete(f.nodes.byIno, n.ino)
	}
	delete(f.lost, n.ino)
}

// dir gives the descriptor of a layer of a directory, opening it by name below the
// layer of its parent.
func (f *FS) dir(n *node, l *layer) (int, error) {
	if fd := l.fd.Load(); fd >= 0 {
		return int(fd), nil
	}
	if n.id == rootID {
		return l.br.root, nil
	}
	nm, ok := f.firstName(n)
	if !ok {
		return -1, unix.ENOENT
	}
	above := nm.parent.layerOn(l.br)
	if above == nil {
		return -1, unix.ESTALE
	}
	at, err := f.dir(nm.parent, above)
	if err != nil {
		return -1, err
	}
	fd, err := openDir(at, nm.base)
	if err != nil {
		return -1, err
	}
	return f.keepFD(l, fd), nil
}

func (f *FS) keepFD(l *layer, fd int) int {
	if !l.fd.CompareAndSwap(-1, int32(fd)) {
		unix.Close(fd)
		return int(l.fd.Load())
	}
	f.dirFDs.Add(1)
	return fd
}

// shedDirs closes the descriptors of all directories when there are too many: they
// are opened again by name. Requests hold FS.mu while they use one.
func (f *FS) shedDirs() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dirFDs.Load() < f.maxDirFDs {
		return
	}
	f.tree.RLock()
	defer f.tree.RUnlock()
	for _, n := range f.nodes.byID {
		if n == nil || !n.dir || n.id == rootID || len(n.names) == 0 {
			continue
		}
		for _, l := range *n.layers.Load() {
			f.closeLayer(l)
		}
	}
}

// ref is where system calls find the node: below dir by base, or dir itself if
// base is empty (AT_EMPTY_PATH).
func (f *FS) ref(n *node) (dir int, base string, err error) {
	if n.dir {
		ls := *n.layers.Load()
		if len(ls) == 0 {
			return -1, "", unix.ESTALE
		}
		dir, err = f.dir(n, ls[0])
		return dir, "", err
	}
	p := n.place.Load()
	if p.fd >= 0 {
		return p.fd, "", nil
	}
	if p.link != nil {
		return p.link.br.links, p.link.file(), nil
	}
	nm, ok := f.firstName(n)
	if !ok {
		return -1, "", unix.ESTALE
	}
	l := nm.parent.layerOn(p.br)
	if l == nil {
		return -1, "", unix.ESTALE
	}
	dir, err = f.dir(nm.parent, l)
	return dir, nm.base, err
}

// ino is the number that users see: that of the file on its branch, marked with
// the branch's file system, or the one that it had before it was copied up.
func (f *FS) ino(k objectKey) uint64 {
	f.inos.RLock()
	defer f.inos.RUnlock()
	if n, ok := f.xino[k]; ok {
		return n
	}
	for i, d := range f.devs {
		if d == k.dev {
			return uint64(i+1)<<48 ^ k.ino
		}
	}
	return 0xffff<<48 ^ k.ino
}

// keepIno lets a copy have the number of what it is a copy of.
func (f *FS) keepIno(copied objectKey, ino uint64) {
	f.inos.Lock()
	defer f.inos.Unlock()
	f.xino[copied] = ino
}

// newIno forgets what a number of the branch meant, which is now a new file.
func (f *FS) newIno(k objectKey) {
	f.inos.RLock()
	_, stale := f.xino[k]
	f.inos.RUnlock()
	if stale {
		f.inos.Lock()
		delete(f.xino, k)
		f.inos.Unlock()
	}
}

func (f *FS) addDev(dev uint64) {
	f.inos.Lock()
	defer f.inos.Unlock()
	for _, d := range f.devs {
		if d == dev {
			return
		}
	}
	f.devs = append(f.devs, dev)
}

// checkNew refuses names that a union cannot have.
func checkNew(base string) error {
	switch {
	case len(base) > 255 || len(base) > aufs.MaxName:
		return unix.ENAMETOOLONG
	case reserved(base):
		return unix.EPERM
	}
	return nil
}

func reserved(base string) bool {
	return len(base) >= len(aufs.Prefix) && base[:len(aufs.Prefix)] == aufs.Prefix
}
