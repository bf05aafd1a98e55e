// Package copy is the driver of plain directories: what the layers look like together is
// copied into one directory, which is the union. Blocks are shared where the file system
// can (FICLONE: btrfs, xfs). It asks nothing of the kernel, and every operation on it is
// as on the file system below; what it costs is the copy.
package copy

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"vivarium/layer"
	"vivarium/unionfs"
)

// IndexName is the file in the work directory of a layer that tells what was copied.
const IndexName = "copied"

// Driver is the driver.
type Driver struct{}

// Name is copy.
func (Driver) Name() string { return unionfs.DriverCopy }

// Make copies the layers into the upper directory.
func (Driver) Make(ctx context.Context, l unionfs.Layer) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("copy %d layers to %s: %w", len(l.Lower), l.Upper, err)
		}
	}()
	dir, err := os.Open(l.Upper)
	if err != nil {
		return err
	}
	defer dir.Close()
	index, err := os.OpenFile(l.Work+"/"+IndexName, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = layer.MergeCopy(ctx, dir, l.Lower, index)
	if err == nil && !l.Ephemeral {
		// The layers were synchronized when they came into the store: after a power cut a
		// container's files must not be less whole than they.
		err = unix.Syncfs(int(dir.Fd()))
	}
	if cerr := index.Close(); err == nil {
		err = cerr
	}
	return err
}

// Recipe binds the directory.
func (Driver) Recipe(l unionfs.Layer) (unionfs.Recipe, error) {
	if l.Upper == "" {
		return unionfs.Recipe{}, errors.New("a union that is only read has no recipe")
	}
	r := unionfs.Bind(l.Upper)
	r.Lower = l.Lower
	return r, nil
}

// Begin does nothing: the union is there.
func (Driver) Begin(context.Context, unionfs.Layer) error { return nil }

// End does nothing: the union stays.
func (Driver) End(unionfs.Layer) error { return nil }

// Open opens the directory. Of layers that are only read a copy is made, in Work, that is
// removed when the root is closed.
func (Driver) Open(ctx context.Context, l unionfs.Layer) (*unionfs.Root, error) {
	if l.Upper != "" {
		return open(l.Upper, nil)
	}
	if len(l.Lower) == 1 {
		return open(l.Lower[0], nil)
	}
	tmp, err := os.MkdirTemp(l.Work, "copy-")
	if err != nil {
		return nil, fmt.Errorf("copy layers: %w", err)
	}
	end := func() error { return os.RemoveAll(tmp) }
	root, err := open(tmp, end)
	if err != nil {
		return nil, err
	}
	if err := layer.Merge(ctx, root.File, l.Lower); err != nil {
		return nil, errors.Join(fmt.Errorf("copy %d layers: %w", len(l.Lower), err), root.Close())
	}
	return root, nil
}

func open(dir string, end func() error) (*unionfs.Root, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open the union: %w", err)
	}
	return unionfs.NewRoot(f, end), nil
}

// Look opens the directory.
func (d Driver) Look(ctx context.Context, l unionfs.Layer) (*unionfs.Root, error) {
	return d.Open(ctx, l)
}

// Changes opens the directory, with what tells what in it was changed.
func (Driver) Changes(l unionfs.Layer) (layer.Upper, error) {
	f, err := os.Open(l.Work + "/" + IndexName)
	if err != nil {
		return layer.Upper{}, fmt.Errorf("open the index of the copy: %w", err)
	}
	defer f.Close()
	index, err := layer.ReadCopyIndex(f)
	if err != nil {
		return layer.Upper{}, fmt.Errorf("%s: %w", f.Name(), err)
	}
	up, err := unionfs.OpenUpper(l, layer.SpelledCopy)
	up.Copy = index
	return up, err
}
