package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"vivarium/layer"
)

// Tree is a layer that is made in its place: an upper directory that a union
// writes to, and that becomes the layer's tree without being copied.
type Tree struct {
	t   *Tx
	dir string
}

// Sealed is a layer that is complete, and staged.
type Sealed struct {
	DiffID  digest.Digest
	Blob    ocispec.Descriptor
	Size    int64 // bytes of its files
	Entries int64
}

// NewTree makes an empty tree above the layers (top-most first).
func (t *Tx) NewTree(lower []string) (*Tree, error) {
	mode, uid, gid, err := layer.RootMode(lower)
	if err != nil {
		return nil, err
	}
	tr := &Tree{t: t, dir: t.newPath("tree")}
	for _, d := range []string{tr.dir, tr.Upper(), tr.Work()} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return nil, fmt.Errorf("make a layer: %w", err)
		}
	}
	if uid != 0 || gid != 0 {
		if err := os.Chown(tr.Upper(), uid, gid); err != nil {
			return nil, fmt.Errorf("make a layer: %w", err)
		}
	}
	if err := os.Chmod(tr.Upper(), mode); err != nil {
		return nil, fmt.Errorf("make a layer: %w", err)
	}
	return tr, nil
}

// Upper is the tree, and Work the directory beside it that overlay needs.
func (tr *Tree) Upper() string { return tr.dir + "/" + layer.TreeName }

// Work is a directory for the union's own use, as overlay needs one.
func (tr *Tree) Work() string { return tr.dir + "/work" }

// Own is where a union writes to that cannot write the tree itself. It is there after MakeOwn.
func (tr *Tree) Own() string { return tr.dir + "/own" }

// MakeOwn makes the directory, with the mode and the owner of the tree.
func (tr *Tree) MakeOwn() error {
	var st unix.Stat_t
	err := unix.Stat(tr.Upper(), &st)
	if err == nil {
		err = os.Mkdir(tr.Own(), 0o700)
	}
	if err == nil {
		err = os.Chown(tr.Own(), int(st.Uid), int(st.Gid))
	}
	if err == nil {
		err = os.Chmod(tr.Own(), os.FileMode(st.Mode&0o777))
	}
	if err != nil {
		return fmt.Errorf("make a layer: %w", err)
	}
	return nil
}

// Discard removes the tree.
func (tr *Tree) Discard() error { return os.RemoveAll(tr.dir) }

// Seal packs the tree, to which nobody writes any more, and stages it as a layer
// with its blob. It may be a lower layer of unions meanwhile.
func (tr *Tree) Seal(ctx context.Context, opts layer.SettleOptions) (Sealed, error) {
	if err := os.RemoveAll(tr.Work()); err != nil {
		return Sealed{}, fmt.Errorf("seal layer: %w", err)
	}
	s, err := tr.pack(ctx, opts)
	if err != nil {
		return s, fmt.Errorf("seal layer: %w", err)
	}
	stats := layer.Stats{Bytes: s.Size, Entries: s.Entries}
	if err := layer.WriteRecord(tr.dir, newRecord(s.DiffID, &layer.Unpacked{Stats: stats})); err != nil {
		return s, fmt.Errorf("seal layer: %w", err)
	}
	tr.t.mu.Lock()
	defer tr.t.mu.Unlock()
	if _, twice := tr.t.sealed[s.DiffID]; !twice { // the other one goes with the staging directory
		tr.t.sealed[s.DiffID] = tr.dir
	}
	return s, nil
}

// pack writes the tar, hashes it, and beside that compresses it to a blob.
func (tr *Tree) pack(ctx context.Context, opts layer.SettleOptions) (Sealed, error) {
	upper, err := os.Open(tr.Upper())
	if err != nil {
		return Sealed{}, err
	}
	defer upper.Close()
	w, err := tr.t.newBlobWriter(ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Size: -1})
	if err != nil {
		return Sealed{}, err
	}
	plain := newBlockPipe()
	packed := make(chan error, 1)
	go func() { packed <- compress(w, plain) }()
	sum := sha256.New()
	bw := &blockWriter{p: plain}
	stats, err := layer.Settle(ctx, io.MultiWriter(sum, bw), upper, opts)
	if err == nil {
		err = bw.flush()
	}
	plain.closeWrite(err)
	if perr := <-packed; perr != nil && (err == nil || errors.Is(err, errClosed)) {
		err = perr
	}
	if err != nil {
		w.abort()
		return Sealed{}, err
	}
	desc, err := w.done()
	return Sealed{DiffID: digest.NewDigest(digest.SHA256, sum), Blob: desc, Size: stats.Bytes, Entries: stats.Entries}, err
}

// compress is gzip at its quickest: a build waits for it, and a registry gets it once.
func compress(w *blobWriter, in *blockPipe) error {
	defer in.closeRead()
	return Compress(writerFunc(w.write), func(z io.Writer) error {
		_, err := io.Copy(z, in)
		return err
	})
}

// blockWriter collects small writes, as those of a tar are, to blocks.
type blockWriter struct {
	p   *blockPipe
	cur []byte
}

func (w *blockWriter) Write(b []byte) (int, error) {
	total := len(b)
	for len(b) > 0 {
		if w.cur == nil {
			w.cur = w.p.block()[:0]
		}
		n := min(len(b), blockSize-len(w.cur))
		w.cur, b = append(w.cur, b[:n]...), b[n:]
		if len(w.cur) == blockSize {
			if err := w.flush(); err != nil {
				return 0, err
			}
		}
	}
	return total, nil
}

func (w *blockWriter) flush() error {
	if len(w.cur) == 0 {
		return nil
	}
	b := w.cur
	w.cur = nil
	return w.p.send(b)
}

// withSealed adds the sealed layers that are not placed yet.
func (t *Tx) withSealed(placed []placedLayer) []placedLayer {
	t.mu.Lock()
	defer t.mu.Unlock()
	named := make(map[string]bool, len(placed))
	for _, p := range placed {
		named[p.from] = true
	}
	out := placed
	for d, dir := range t.sealed {
		if !named[dir] {
			out = append(out, placedLayer{dir, t.s.sharedLayerDir(d)})
		}
		delete(t.sealed, d)
	}
	return out
}

// Publish puts what was sealed into the store without naming an image: the steps of
// a build that went wrong later. Nothing keeps it but the records of these steps.
func (t *Tx) Publish(ctx context.Context, steps []Step) error {
	if err := t.syncStaging(); err != nil {
		return err
	}
	hold, err := t.s.Hold(ctx)
	if err != nil {
		return err
	}
	defer hold()
	if err := t.placeLocked(nil); err != nil {
		return err
	}
	return t.putStepsLocked(steps)
}

// Compress writes what fill writes as gzip, as the blobs of layers are.
func Compress(w io.Writer, fill func(io.Writer) error) error {
	return compressAt(gzip.BestSpeed, w, fill)
}

func compressAt(level int, w io.Writer, fill func(io.Writer) error) error {
	z, err := gzip.NewWriterLevel(w, level)
	if err != nil {
		return err
	}
	if err := fill(z); err != nil {
		return err
	}
	return z.Close()
}
