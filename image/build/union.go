package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"vivarium/image/store"
	"vivarium/layer"
	"vivarium/unionfs"
)

// driver makes the unions of the build.
func (o *Options) driver() unionfs.Driver {
	if o.Driver == nil {
		return unionfs.ByOverlay{}
	}
	return o.Driver
}

// layerOf is the layer of a step, as the driver keeps it. Overlay writes what becomes the
// tree; what others write is turned into it by collect.
func (b *builder) layerOf(tree *store.Tree, lower []string) unionfs.Layer {
	l := unionfs.Layer{Upper: tree.Upper(), Work: tree.Work(), Lower: lower, Ephemeral: true}
	if b.o.driver().Name() != unionfs.DriverOverlay {
		l.Upper = tree.Own()
	}
	return l
}

// prepare makes the layer of a step above lower layers, top-most first.
func (b *builder) prepare(ctx context.Context, tree *store.Tree, lower []string) (unionfs.Layer, error) {
	l := b.layerOf(tree, lower)
	if l.Upper == tree.Own() {
		if err := tree.MakeOwn(); err != nil {
			return l, err
		}
	}
	return l, b.o.driver().Make(ctx, l)
}

// writesUpper tells whether what openTarget opens writes straight to the layer's tree.
func (b *builder) writesUpper(lower []string) bool {
	return len(lower) == 0 || b.o.driver().Name() == unionfs.DriverOverlay
}

// openTarget opens what a step writes to, above its lower layers.
func (b *builder) openTarget(ctx context.Context, lower []string, tree *store.Tree) (*unionfs.Root, error) {
	if len(lower) == 0 {
		f, err := os.Open(tree.Upper())
		return unionfs.NewRoot(f, nil), err
	}
	l, err := b.prepare(ctx, tree, lower)
	if err != nil {
		return nil, err
	}
	return b.o.driver().Open(ctx, l)
}

// collect makes the new tree what the step has changed in its lower layers, good above any
// layers: it may come to lie above others that have what this step's have not.
func (b *builder) collect(ctx context.Context, tree *store.Tree, lower []string) error {
	dir, err := os.Open(tree.Upper())
	if err != nil {
		return err
	}
	defer dir.Close()
	l := b.layerOf(tree, lower)
	if _, err := os.Stat(l.Upper); l.Upper == tree.Upper() || errors.Is(err, os.ErrNotExist) { // the tree itself was written
		return layer.SpellOut(ctx, layer.Upper{Dir: dir, Lower: lower})
	}
	up, err := b.o.driver().Changes(l)
	if err != nil {
		return err
	}
	defer up.Dir.Close()
	if err := carry(ctx, up, dir); err != nil {
		return fmt.Errorf("collect what the step has changed: %w", err)
	}
	return os.RemoveAll(l.Upper)
}

// carry writes changes as a layer's tree: a tar has all that a layer is made of.
func carry(ctx context.Context, up layer.Upper, dir *os.File) error {
	r, w := io.Pipe()
	go func() { w.CloseWithError(layer.Diff(ctx, w, up)) }()
	_, err := layer.Apply(ctx, dir, r, up.Lower, layer.ApplyOptions{Holes: true})
	r.CloseWithError(err)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(up.Dir.Fd()), &st); err != nil {
		return err
	}
	if err := dir.Chown(int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return unix.Fchmod(int(dir.Fd()), st.Mode&0o7777)
}

// openUnion opens what layers (top-most first) look like together, to be read only.
func (b *builder) openUnion(ctx context.Context, lower []string) (*unionfs.Root, error) {
	if lower = slices.Compact(slices.Clone(lower)); len(lower) == 1 {
		f, err := os.Open(lower[0])
		return unionfs.NewRoot(f, nil), err
	}
	tmp, err := os.MkdirTemp(b.t.Dir(), "union-")
	if err != nil {
		return nil, err
	}
	if len(lower) == 0 {
		f, err := os.Open(tmp)
		return unionfs.NewRoot(f, nil), err
	}
	return b.o.driver().Open(ctx, unionfs.Layer{Lower: lower, Work: tmp})
}
