package server

import (
	"fmt"
	"slices"
	"sort"
	"sync"

	"golang.org/x/sys/unix"

	"vivarium/unionfs/aufs"
)

// misses is the names that the kernel was told are not in a directory, and
// believes it until it is told otherwise.
type misses struct {
	mu    sync.Mutex
	names map[string]struct{}
}

// maxMisses bounds the names remembered for one directory. What comes after is not
// for the kernel to remember.
const maxMisses = 1 << 12

func (m *misses) add(base string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.names == nil {
		m.names = map[string]struct{}{}
	}
	if len(m.names) >= maxMisses {
		return false
	}
	m.names[base] = struct{}{}
	return true
}

func (m *misses) take() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for n := range m.names {
		out = append(out, n)
	}
	m.names = nil
	return out
}

// AddBranch puts a branch at a place in the stack, 0 being the top.
func (f *FS) AddBranch(at int, spec aufs.Branch) error {
	return f.change(func() error {
		if at < 0 || at > len(f.branches) {
			return fmt.Errorf("add branch %s: there is no place %d in a union of %d branches: %w", spec.Path, at, len(f.branches), unix.EINVAL)
		}
		b, err := f.open(spec)
		if err != nil {
			return err
		}
		f.branches = slices.Insert(f.branches, at, b)
		return nil
	})
}

func (f *FS) branchAt(path string) (*branch, error) {
	for _, b := range f.branches {
		if b.Path == path {
			return b, nil
		}
	}
	return nil, fmt.Errorf("branch %s: the union has no such branch: %w", path, unix.ENOENT)
}

// DelBranch takes a branch out. The last one, and one that something open lies
// on, stay: EBUSY, as AUFS has it.
func (f *FS) DelBranch(path string) error {
	var gone *branch
	err := f.change(func() error {
		b, err := f.branchAt(path)
		if err != nil {
			return err
		}
		if len(f.branches) == 1 {
			return fmt.Errorf("remove branch %s: it is the last one: %w", path, unix.EBUSY)
		}
		if err := f.busy(b, false); err != nil {
			return fmt.Errorf("remove branch %s: %w", path, err)
		}
		f.branches = slices.DeleteFunc(f.branches, func(x *branch) bool { return x == b })
		gone = b
		return nil
	})
	if err == nil {
		gone.close()
	}
	return err
}

// ModBranch changes what may be done to a branch. From rw to another permission,
// nothing on it may be open for writing: EBUSY.
func (f *FS) ModBranch(path string, perm aufs.Perm, wh bool) error {
	return f.change(func() error {
		b, err := f.branchAt(path)
		if err != nil {
			return err
		}
		if b.writable() && perm != aufs.RW {
			if err := f.busy(b, true); err != nil {
				return fmt.Errorf("change branch %s: %w", path, err)
			}
		}
		old := b.Branch
		b.Perm, b.WH = perm, wh
		if err := b.prepare(); err != nil {
			b.Branch = old
			return err
		}
		return nil
	})
}

// busy tells what keeps a branch from going, or only from being written to.
func (f *FS) busy(b *branch, writers bool) error {
	f.tree.RLock()
	defer f.tree.RUnlock()
	for _, n := range f.nodes.byID {
		if n == nil || n.dir {
			continue
		}
		p := n.place.Load()
		if p.br == b && (n.open.writers > 0 || !writers && (n.open.total > 0 || p.fd >= 0)) {
			return fmt.Errorf("%s is open: %w", f.pathLocked(n), unix.EBUSY)
		}
	}
	if writers {
		return nil
	}
	for _, n := range f.files.open() {
		if ls := *n.layers.Load(); n.id != rootID && len(ls) == 1 && ls[0].br == b {
			return fmt.Errorf("%s is open: %w", f.pathLocked(n), unix.EBUSY)
		}
	}
	f.links.mu.RLock()
	defer f.links.mu.RUnlock()
	for _, l := range f.links.byLower {
		if l.br == b {
			return fmt.Errorf("there are pseudo-links on it: %w", unix.EBUSY)
		}
	}
	return nil
}

// pathLocked is a path below the mount point, for messages.
func (f *FS) pathLocked(n *node) string {
	path := ""
	for n.id != rootID {
		if len(n.names) == 0 {
			return "(removed)" + path
		}
		path = "/" + n.names[0].base + path
		n = n.names[0].parent
	}
	return path
}

// change does something to the branches while no request runs, and brings what the
// kernel knows up to date.
func (f *FS) change(do func() error) error {
	f.mu.Lock()
	if err := do(); err != nil {
		f.mu.Unlock()
		return err
	}
	f.renumber()
	stale := f.restack()
	f.mu.Unlock()
	// The kernel asks for its locks here, which requests that wait for f.mu hold.
	for _, s := range stale {
		f.tell(s)
	}
	return nil
}

// notice is what the kernel has to look at again: a directory and names in it.
type notice struct {
	id    uint64
	names []string
}

func (f *FS) tell(s notice) {
	if f.server == nil {
		return
	}
	for _, n := range s.names {
		f.server.EntryNotify(s.id, n)
	}
	f.server.InodeNotify(s.id, 0, 0)
}

// restack finds the layers of all known directories anew, from the root on.
func (f *FS) restack() []notice {
	f.tree.RLock()
	kids := map[*node][]*node{}
	for _, n := range f.nodes.byID {
		if n != nil && len(n.names) > 0 {
			for _, nm := range n.names {
				kids[nm.parent] = append(kids[nm.parent], n)
			}
		}
	}
	root := f.nodes.byID[rootID]
	f.tree.RUnlock()
	f.links.mu.Lock()
	f.links.byLower, f.links.byCopied = map[objectKey]*pseudoLink{}, nil
	f.links.mu.Unlock()
	f.loadLinks()
	f.setRootLayers(root)
	var out []notice
	f.restackKids(root, kids, &out)
	return out
}

func (f *FS) restackKids(p *node, kids map[*node][]*node, out *[]notice) {
	p.negative.Store(nil)
	s := notice{id: p.id, names: p.misses.take()}
	for _, n := range kids[p] {
		for _, nm := range f.namesIn(n, p) {
			s.names = append(s.names, nm.base)
			f.restackNode(n, nm)
		}
		if n.dir {
			f.restackKids(n, kids, out)
		}
	}
	sort.Strings(s.names)
	*out = append(*out, s)
}

func (f *FS) namesIn(n, p *node) []name {
	f.tree.RLock()
	defer f.tree.RUnlock()
	var out []name
	for _, nm := range n.names {
		if nm.parent == p {
			out = append(out, nm)
		}
	}
	return out
}

// restackNode lets a directory have the layers that it has now, and keep its
// number; or none, if something else has its name. A file stays where it is: who
// has it open keeps it, and others find by the name what is there now.
func (f *FS) restackNode(n *node, nm name) {
	if !n.dir {
		if p := n.place.Load(); p.link != nil {
			if l := f.isLinked(p.link.copied); l != nil {
				n.place.Store(&place{br: l.br, link: l, fd: p.fd})
			}
		}
		return
	}
	o, err := f.find(nm.parent, nm.base)
	if err != nil || !o.found || !isDir(&o.st) {
		o.release()
		o = object{}
	}
	for _, l := range *n.layers.Load() {
		f.closeLayer(l)
	}
	for _, l := range o.layers {
		if l.fd.Load() >= 0 {
			f.dirFDs.Add(1)
		}
	}
	ls := o.layers
	n.layers.Store(&ls)
	if len(ls) > 0 {
		f.keepIno(keyOf(&o.st), n.ino)
	}
}
