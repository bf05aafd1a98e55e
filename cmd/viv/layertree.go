package main

import (
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"vivarium/engine"
)

// treeNode is a name as the layers up to one show it.
type treeNode struct {
	name  string
	kids  []*treeNode // sorted by name
	layer int         // the last one that has it
	mark  byte        // what the layer that is looked at does to it: A, C, D, or 0
	under bool        // that layer changes something below it
	open  bool
}

func (n *treeNode) find(name string) (int, bool) {
	return slices.BinarySearchFunc(n.kids, name, func(k *treeNode, name string) int { return strings.Compare(k.name, name) })
}

// at gives the node of a path, making what is missing.
func (n *treeNode) at(name string) *treeNode {
	for part := range strings.SplitSeq(name, "/") {
		i, ok := n.find(part)
		if !ok {
			n.kids = slices.Insert(n.kids, i, &treeNode{name: part})
		}
		n = n.kids[i]
	}
	return n
}

// layerTree makes the tree that the layers up to one show, 0 being the lowest. What that layer
// deletes is still there, marked. isDir tells whether a layer has a name as a directory.
func layerTree(r *engine.LayersReport, upTo int, isDir func(layer int, name string) bool) *treeNode {
	root := &treeNode{open: true}
	for i := range upTo + 1 {
		c := r.Changes.Each[i]
		for _, name := range c.Deleted {
			if i == upTo {
				root.mark1(name, 'D')
			} else {
				root.remove(name)
			}
		}
		for kind, list := range map[byte][]string{'A': c.Added, 'C': c.Changed} {
			for _, name := range list {
				n := root.at(name)
				n.layer = i
				if kind == 'C' && len(n.kids) > 0 && !isDir(i, name) {
					n.kids = nil
				}
				if i == upTo {
					root.mark1(name, kind)
				}
			}
		}
	}
	return root
}

// mark1 marks a name, and the directories above it as changed inside.
func (n *treeNode) mark1(name string, kind byte) {
	n.at(name).mark = kind
	for part := range strings.SplitSeq(name, "/") {
		n.under = true
		i, _ := n.find(part)
		n = n.kids[i]
	}
}

func (n *treeNode) remove(name string) {
	dir, base := path.Split(name)
	if dir != "" {
		n = n.at(strings.TrimSuffix(dir, "/"))
	}
	if i, ok := n.find(base); ok {
		n.kids = slices.Delete(n.kids, i, i+1)
	}
}

// treeLine is one line of the tree as it is shown.
type treeLine struct {
	node  *treeNode
	path  string
	depth int
}

// lines are those of all names whose directories are open. With changed, only what the layer
// does something to.
func (n *treeNode) lines(changed bool) []treeLine {
	var out []treeLine
	var walk func(n *treeNode, dir string, depth int)
	walk = func(n *treeNode, dir string, depth int) {
		for _, k := range n.kids {
			if changed && k.mark == 0 && !k.under {
				continue
			}
			out = append(out, treeLine{k, path.Join(dir, k.name), depth})
			if k.open {
				walk(k, path.Join(dir, k.name), depth+1)
			}
		}
	}
	walk(n, "", 0)
	return out
}

// layerFiles are the directories of layers: nothing in them leads out of them.
type layerFiles []*os.Root

func openLayerFiles(r *engine.LayersReport) (layerFiles, error) {
	var out layerFiles
	for _, l := range r.Layers {
		root, err := os.OpenRoot(l.Dir)
		if err != nil {
			out.close()
			return nil, err
		}
		out = append(out, root)
	}
	return out, nil
}

func (f layerFiles) close() {
	for _, r := range f {
		r.Close()
	}
}

func (f layerFiles) isDir(layer int, name string) bool {
	if layer >= len(f) {
		return false
	}
	st, err := f[layer].Lstat(name)
	return err == nil && st.IsDir()
}

func (f layerFiles) stat(l treeLine) fs.FileInfo {
	if l.node.layer >= len(f) {
		return nil
	}
	if st, err := f[l.node.layer].Lstat(l.path); err == nil {
		return st
	}
	return nil
}
