package unionfs

import (
	"context"
	"fmt"
	"os"

	"vivarium/layer"
)

// Layer is a writable layer above others, as a driver keeps it.
type Layer struct {
	// Upper is the directory of what is changed; of the driver copy, of all files. If it is
	// empty the union is only read.
	Upper string
	// Work is a directory beside it for the driver's own use.
	Work string
	// Point is where a union is mounted that cannot be made inside a container. It need not be there.
	Point string
	Lower []string // top-most first
	// Ephemeral as in OverlayOptions.
	Ephemeral bool
}

// Root is the root directory of a union that is open.
type Root struct {
	*os.File
	end func() error
}

// NewRoot gives an open directory as root; end, if not nil, is called when it is closed.
func NewRoot(dir *os.File, end func() error) *Root { return &Root{dir, end} }

// Close closes the root, and ends what was there for it alone.
func (r *Root) Close() error {
	err := r.File.Close()
	if r.end != nil {
		if eerr := r.end(); err == nil {
			err = eerr
		}
	}
	return err
}

// Driver is one way to make unions. Two unions of one Layer may not be open at the same
// time, but for Look.
type Driver interface {
	// Name is DriverOverlay, DriverAUFS or DriverCopy.
	Name() string
	// Make fills the directories of a new layer, which are there: Upper is empty, with the
	// mode and the owner of the root (layer.RootMode).
	Make(ctx context.Context, l Layer) error
	// Recipe says how a container makes its root, between Begin and End.
	Recipe(l Layer) (Recipe, error)
	// Begin makes what the recipe needs, and End takes it away; nothing there is no error.
	Begin(ctx context.Context, l Layer) error
	End(l Layer) error
	// Open opens a union that nobody uses.
	Open(ctx context.Context, l Layer) (*Root, error)
	// Look opens what the files are at this moment, to be read; others may use the union.
	Look(ctx context.Context, l Layer) (*Root, error)
	// Changes opens what was changed, for package layer.
	Changes(l Layer) (layer.Upper, error)
}

// ByOverlay is the driver of the kernel's overlay.
type ByOverlay struct {
	// Unprivileged as in OverlayOptions.
	Unprivileged bool
}

// Name is DriverOverlay.
func (ByOverlay) Name() string { return DriverOverlay }

// Make makes nothing: overlay needs two directories.
func (ByOverlay) Make(context.Context, Layer) error { return nil }

// Begin does nothing: the kernel makes the union when it is mounted.
func (ByOverlay) Begin(context.Context, Layer) error { return nil }

// End does nothing: the union goes with its last user.
func (ByOverlay) End(Layer) error { return nil }

// Recipe is Overlay, as this kernel takes it.
func (d ByOverlay) Recipe(l Layer) (Recipe, error) {
	return Overlay(l.Lower, l.Upper, l.Work, OverlayOptions{Ephemeral: l.Ephemeral, Joined: !LowerPlus(), Unprivileged: d.Unprivileged})
}

// Open mounts the union, attached to no tree.
func (d ByOverlay) Open(_ context.Context, l Layer) (*Root, error) {
	if l.Upper == "" && len(l.Lower) == 1 {
		return mounted(Bind(l.Lower[0]))
	}
	if l.Upper == "" {
		l.Work = ""
	}
	r, err := d.Recipe(l)
	if err != nil {
		return nil, err
	}
	return mounted(r)
}

// Look mounts a second union, of which the upper directory is a layer like the others.
func (d ByOverlay) Look(ctx context.Context, l Layer) (*Root, error) {
	return d.Open(ctx, Layer{Lower: append([]string{l.Upper}, l.Lower...)})
}

func mounted(r Recipe) (*Root, error) {
	f, err := Mount(r)
	if err != nil {
		return nil, err
	}
	return NewRoot(f, nil), nil
}

// Changes opens the upper directory.
func (ByOverlay) Changes(l Layer) (layer.Upper, error) {
	return OpenUpper(l, layer.SpelledOverlay)
}

// OpenUpper opens the upper directory of a layer.
func OpenUpper(l Layer, s layer.Spelling) (layer.Upper, error) {
	dir, err := os.Open(l.Upper)
	if err != nil {
		return layer.Upper{}, fmt.Errorf("open the writable layer: %w", err)
	}
	return layer.Upper{Dir: dir, Lower: l.Lower, Spelling: s}, nil
}

// Probe tells whether a driver works on a file system, on which tmp is a directory: a
// directory of a lower layer is deleted and made again, which needs all that drivers have
// of their own.
func Probe(ctx context.Context, d Driver, tmp string) (err error) {
	dir, err := os.MkdirTemp(tmp, "probe-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	l := Layer{Upper: dir + "/upper", Work: dir + "/work", Lower: []string{dir + "/2", dir + "/1"}}
	for _, p := range []string{l.Upper, l.Work, dir + "/1/d/sub", dir + "/2"} {
		if err := os.MkdirAll(p, 0o755); err != nil {
			return err
		}
	}
	if err := d.Make(ctx, l); err != nil {
		return err
	}
	root, err := d.Open(ctx, l)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := root.Close(); err == nil {
			err = cerr
		}
	}()
	at := fmt.Sprintf("/proc/self/fd/%d/d", root.Fd())
	if err := os.RemoveAll(at); err != nil {
		return err
	}
	if err := os.Mkdir(at, 0o755); err != nil {
		return err
	}
	if left, err := os.ReadDir(at); err != nil || len(left) > 0 {
		return fmt.Errorf("a directory that was deleted and made again has %d names (%v)", len(left), err)
	}
	return nil
}
