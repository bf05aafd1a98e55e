package stack

import (
	"cmp"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"vivarium/unionfs/aufs"
)

// Layers is what the branches of a stack are to each other, as layers of an image.
type Layers struct {
	Each []LayerChanges // from below
	// Bytes is what all files of all layers hold, Wasted what of it is not to be seen:
	// a layer above has it anew, or deletes it.
	Bytes, Wasted int64
	Worst         []Waste // the names that waste, the worst first
}

// LayerChanges is what one layer does to those below it.
type LayerChanges struct {
	Branch                  int
	Added, Changed, Deleted []string // names of the union, sorted, without a leading slash
	Bytes                   int64    // of its files
	Hidden                  int64    // bytes of files below that it replaces or deletes
}

// Waste is a name whose content is there more than once, or for nothing.
type Waste struct {
	Path  string
	Bytes int64 // that are not to be seen
	Times int   // how often it was hidden
}

// Efficiency is the part of the bytes that is to be seen: 1 if nothing is wasted.
func (l Layers) Efficiency() float64 {
	if l.Bytes == 0 {
		return 1
	}
	return 1 - float64(l.Wasted)/float64(l.Bytes)
}

// entry is a name as the layers up to one show it.
type entry struct {
	size  int64
	names map[string]*entry // of a directory; nil of anything else
}

// Layers goes through all layers, from below, and keeps in mind what they show
// together: each file is looked at once.
func (s Stack) Layers() (Layers, error) {
	l, _, err := s.layers()
	return l, err
}

// layers gives also what all layers show together.
func (s Stack) layers() (Layers, *entry, error) {
	w := layerWalk{s: s, waste: map[string]*Waste{}}
	root := &entry{names: map[string]*entry{}}
	for i := len(s.Branches) - 1; i >= 0; i-- {
		w.now = LayerChanges{Branch: i}
		if err := w.dir(i, "", root); err != nil {
			return Layers{}, nil, err
		}
		for _, list := range []*[]string{&w.now.Added, &w.now.Changed, &w.now.Deleted} {
			slices.Sort(*list)
		}
		w.out.Each = append(w.out.Each, w.now)
		w.out.Bytes += w.now.Bytes
		w.out.Wasted += w.now.Hidden
	}
	for _, one := range w.waste {
		w.out.Worst = append(w.out.Worst, *one)
	}
	slices.SortFunc(w.out.Worst, func(a, b Waste) int { return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Path, b.Path)) })
	return w.out, root, nil
}

type layerWalk struct {
	s     Stack
	now   LayerChanges
	out   Layers
	waste map[string]*Waste
}

// dir applies one directory of a layer to what is below it.
func (w *layerWalk) dir(i int, dir string, under *entry) error {
	path := filepath.Join(w.s.Branches[i].Path, dir)
	opaque, err := w.s.opaque(i, path)
	if err != nil {
		return err
	}
	entries, err := names(path)
	if err != nil {
		return err
	}
	here := map[string]bool{}
	for _, e := range entries {
		here[e.Name()] = true
	}
	replaced := map[string]bool{}
	if opaque { // nothing of what is below counts, not even in directories that are here, too
		for name, before := range under.names {
			if !here[name] {
				w.delete(filepath.Join(dir, name), under, name)
				continue
			}
			w.hide(filepath.Join(dir, name), before)
			delete(under.names, name)
			replaced[name] = true
		}
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return err
		}
		if name, white := w.whiteoutOf(i, e.Name(), info); white {
			if name != "" && !here[name] || name == e.Name() {
				w.delete(filepath.Join(dir, name), under, name)
			}
			continue
		}
		if err := w.name(i, filepath.Join(dir, e.Name()), info, under, replaced[e.Name()]); err != nil {
			return err
		}
	}
	return nil
}

// whiteoutOf gives the name that an entry deletes.
func (w *layerWalk) whiteoutOf(i int, name string, info fs.FileInfo) (string, bool) {
	if w.s.spelling(i) == Overlay {
		return name, isOverlayWhiteout(Overlay, info)
	}
	deleted, white := strings.CutPrefix(name, aufs.Prefix)
	if !w.s.Branches[i].Whiteouts() {
		return "", white // it counts as nothing
	}
	return deleted, white
}

// name applies an entry that is no whiteout. replaced says that there was one of its
// name, of which nothing is left.
func (w *layerWalk) name(i int, path string, info fs.FileInfo, under *entry, replaced bool) error {
	name := filepath.Base(path)
	before := under.names[name]
	size := int64(0)
	if info.Mode().IsRegular() {
		size = info.Size()
		if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 {
			size /= int64(st.Nlink) // each name of it has its part
		}
	}
	w.now.Bytes += size
	if before == nil && !replaced {
		w.now.Added = append(w.now.Added, path)
	} else {
		w.now.Changed = append(w.now.Changed, path)
	}
	if info.IsDir() && before != nil && before.names != nil {
		return w.dir(i, path, before)
	}
	if before != nil {
		w.hide(path, before)
	}
	after := &entry{size: size}
	under.names[name] = after
	if !info.IsDir() {
		return nil
	}
	after.names = map[string]*entry{}
	return w.dir(i, path, after)
}

// delete takes a name away that was shown until now.
func (w *layerWalk) delete(path string, under *entry, name string) {
	before := under.names[name]
	if before == nil {
		return
	}
	w.now.Deleted = append(w.now.Deleted, path)
	w.hide(path, before)
	delete(under.names, name)
}

// hide counts what is no longer to be seen.
func (w *layerWalk) hide(path string, e *entry) {
	w.now.Hidden += e.size
	if e.size > 0 {
		one := w.waste[path]
		if one == nil {
			one = &Waste{Path: path}
			w.waste[path] = one
		}
		one.Bytes += e.size
		one.Times++
	}
	for name, below := range e.names {
		w.hide(filepath.Join(path, name), below)
	}
}
