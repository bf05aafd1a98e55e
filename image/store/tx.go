package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"vivarium/layer"
)

// Errors of what comes from outside. Test with errors.Is.
var (
	ErrDigest    = errors.New("digest does not match")
	ErrTruncated = errors.New("content was cut off")
	ErrTooLong   = errors.New("content is longer than promised")
)

const (
	stagePrefix = "image-"
	leaseName   = "lease"
	// flushStep is how much is written before the disk is made to work.
	flushStep = 64 << 20
)

// Tx is one change that adds to the store: a pull, a load, a build. What it
// stages is seen by nobody until Commit; Close throws it away, and if the
// process dies, the next one does.
type Tx struct {
	s     *Store
	dir   string
	lease *os.File
	locks []*fileLock

	fresh    atomic.Int64 // bytes written since the last flush began
	flushing atomic.Bool
	flushes  sync.WaitGroup

	mu     sync.Mutex
	n      int
	blobs  map[digest.Digest]stagedBlob
	layers map[digest.Digest]*stagedLayer // by diff ID
	sealed map[digest.Digest]string       // directories of layers that were made here, by diff ID; see Tree

	partials  []*Partial
	finishing sync.Mutex // held while a layer of PutStep is finished; before mu
}

type stagedBlob struct {
	path string
	size int64
}

type stagedLayer struct {
	dir string // holds fs
	un  *layer.Unpacked
	fs  *os.File
	// used is set when the layer has been finished above certain parents.
	used bool
}

// Begin starts a change. It also sweeps what dead processes left.
func (s *Store) Begin(ctx context.Context) (*Tx, error) {
	if err := s.ensure(); err != nil {
		return nil, err
	}
	if err := s.sweep(ctx); err != nil {
		return nil, err
	}
	hold, err := s.Hold(ctx)
	if err != nil {
		return nil, err
	}
	defer hold()
	return s.stageLocked()
}

// stageLocked makes a staging directory with its lease. The store is held.
func (s *Store) stageLocked() (*Tx, error) {
	dir, err := os.MkdirTemp(s.tmpDir(), stagePrefix)
	if err != nil {
		return nil, fmt.Errorf("make staging directory: %w", err)
	}
	t := newTx(s, dir, nil)
	t.lease, err = os.OpenFile(filepath.Join(dir, leaseName), os.O_CREATE|os.O_EXCL|os.O_RDWR|os.O_APPEND, 0o600)
	if err == nil {
		err = flock(int(t.lease.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		os.RemoveAll(dir)
		return nil, fmt.Errorf("take lease on staging directory: %w", err)
	}
	return t, nil
}

func newTx(s *Store, dir string, lease *os.File) *Tx {
	return &Tx{s: s, dir: dir, lease: lease, blobs: make(map[digest.Digest]stagedBlob), layers: make(map[digest.Digest]*stagedLayer), sealed: make(map[digest.Digest]string)}
}

// Close ends the change. What was not committed is removed.
func (t *Tx) Close() error {
	t.flushes.Wait() // they use the lease's descriptor
	for _, l := range t.locks {
		l.releaseAndRemove()
	}
	t.locks = nil
	for _, l := range t.layers {
		if l.fs != nil {
			l.fs.Close()
		}
	}
	t.layers = nil
	t.closePartials()
	err := removeStaging(t.dir)
	// The lease goes last, so that nobody else sweeps the same directory.
	t.lease.Close()
	if err != nil {
		return fmt.Errorf("remove staging directory: %w", err)
	}
	return nil
}

// LockLayers makes this change the only one that works on these layers, and
// waits for others. It may be called once: locks are taken in one order, so
// two changes cannot wait for each other.
func (t *Tx) LockLayers(ctx context.Context, diffIDs []digest.Digest) error {
	if len(t.locks) > 0 {
		return errors.New("lock layers: they are locked already")
	}
	ids := append([]digest.Digest(nil), diffIDs...)
	sort.Slice(ids, func(i, j int) bool { return ids[i] < ids[j] })
	for i, d := range ids {
		if i > 0 && ids[i-1] == d {
			continue
		}
		l, err := acquire(ctx, t.s.lockPath("layer-"+d.Encoded()), unix.LOCK_EX)
		if err != nil {
			return fmt.Errorf("wait for layer %s: %w", d, err)
		}
		t.locks = append(t.locks, l)
	}
	return nil
}

// Have is what the store has of a layer already.
type Have struct {
	Blob     bool
	Unpacked bool
}

// Keep tells whether the store has the blob (of this size, or any if size is
// negative) and the unpacked layer, and keeps what it has from being removed
// until Close. diffID and chain may be empty for a blob that is no layer.
func (t *Tx) Keep(ctx context.Context, blob digest.Digest, size int64, diffID, chain digest.Digest) (Have, error) {
	hold, err := t.s.Hold(ctx)
	if err != nil {
		return Have{}, err
	}
	defer hold()
	line := fmt.Sprintf("%s\n%s\n%s\n", blob, diffID, chain)
	if _, err := t.lease.WriteString(line); err != nil {
		return Have{}, fmt.Errorf("write lease: %w", err)
	}
	h := Have{Blob: t.s.hasBlob(blob, size)}
	if diffID != "" {
		h.Unpacked = t.s.findLayer(diffID, chain) != ""
	}
	return h, nil
}

func (t *Tx) newPath(kind string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.n++
	return fmt.Sprintf("%s/%s-%d", t.dir, kind, t.n)
}

func (t *Tx) stage(d digest.Digest, b stagedBlob) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.blobs[d] = b
}

// PutBytes stages a blob that is in memory.
func (t *Tx) PutBytes(b []byte) (digest.Digest, error) {
	d := digest.FromBytes(b)
	path := t.newPath("blob")
	if err := os.WriteFile(path, b, 0o644); err != nil {
		return "", fmt.Errorf("write blob %s: %w", d, err)
	}
	t.stage(d, stagedBlob{path, int64(len(b))})
	return d, nil
}

// PutBlob stages a blob without unpacking it. want.Digest may be empty, and
// want.Size negative, if they are not known.
func (t *Tx) PutBlob(ctx context.Context, r io.Reader, want ocispec.Descriptor) (ocispec.Descriptor, error) {
	w, err := t.newBlobWriter(want)
	if err != nil {
		return want, err
	}
	buf := make([]byte, blockSize)
	for err == nil {
		var n int
		n, err = r.Read(buf)
		if n > 0 {
			if werr := w.write(buf[:n]); werr != nil {
				err = werr
			}
		}
		if err == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	}
	if err != io.EOF {
		w.abort()
		return want, err
	}
	return w.done()
}

// blobWriter writes one blob to the staging directory and judges it.
type blobWriter struct {
	t    *Tx
	want ocispec.Descriptor
	path string
	f    *os.File
	sum  hash.Hash
	size int64

	partial *Partial // whose file f is, or nil
}

func (t *Tx) newBlobWriter(want ocispec.Descriptor) (*blobWriter, error) {
	path := t.newPath("blob")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("create blob: %w", err)
	}
	return &blobWriter{t: t, want: want, path: path, f: f, sum: sha256.New()}, nil
}

func (w *blobWriter) known() bool { return w.want.Digest != "" }

func (w *blobWriter) write(b []byte) error {
	if w.known() && w.want.Size >= 0 && w.size+int64(len(b)) > w.want.Size {
		return fmt.Errorf("blob %s: %w: more than %d bytes", w.want.Digest, ErrTooLong, w.want.Size)
	}
	w.sum.Write(b)
	if _, err := w.f.Write(b); err != nil {
		return fmt.Errorf("write blob: %w", err)
	}
	w.size += int64(len(b))
	w.t.wrote(len(b))
	return nil
}

// abort throws away what was written. A partial blob is kept only after keep.
func (w *blobWriter) abort() {
	if w.partial != nil {
		_ = w.partial.Restart() // what stays is found out by its digest
		return
	}
	w.f.Close()
	os.Remove(w.path)
}

// interrupted is for a source that broke off: what has come is good, as far as one
// knows.
func (w *blobWriter) interrupted() {
	if w.partial == nil {
		w.abort()
		return
	}
	w.partial.size = w.size
}

func (w *blobWriter) done() (ocispec.Descriptor, error) {
	if w.partial == nil {
		if err := w.f.Close(); err != nil {
			os.Remove(w.path)
			return w.want, fmt.Errorf("write blob: %w", err)
		}
	}
	got := digest.NewDigest(digest.SHA256, w.sum)
	if w.known() {
		if w.want.Size >= 0 && w.size < w.want.Size {
			w.abort()
			return w.want, fmt.Errorf("blob %s: %w: %d of %d bytes came", w.want.Digest, ErrTruncated, w.size, w.want.Size)
		}
		if got != w.want.Digest {
			w.abort()
			return w.want, fmt.Errorf("blob %s: %w: the content has %s", w.want.Digest, ErrDigest, got)
		}
	}
	w.want.Digest, w.want.Size = got, w.size
	w.t.stage(got, stagedBlob{w.path, w.size})
	return w.want, nil
}

// wrote counts what goes to the staging directory, and now and then has it
// written to the disk beside the work: inflating keeps the processors busy and
// leaves the disk idle, and the sync of Commit would have all of it to do.
func (t *Tx) wrote(n int) {
	if t.fresh.Add(int64(n)) < flushStep || !t.flushing.CompareAndSwap(false, true) {
		return
	}
	t.fresh.Store(0)
	t.flushes.Go(func() {
		defer t.flushing.Store(false)
		// Commit syncs again, and reports what fails.
		_ = unix.Syncfs(int(t.lease.Fd()))
	})
}

// LayerSpec is what is known of a layer before it is read.
type LayerSpec struct {
	// Blob is the descriptor of the packed layer; an empty digest means that
	// it is not known yet.
	Blob ocispec.Descriptor
	// DiffID is the digest of the plain tar; empty if not known.
	DiffID digest.Digest
	// Limits of the unpacked tree; see layer.ApplyOptions.
	MaxBytes, MaxEntries int64
	// NoBlob unpacks only: the store has the blob already.
	NoBlob bool
	// Partial, if not nil, is the beginning of the blob; the stream goes on from
	// there. If the stream breaks off, more of the blob is kept for another time.
	Partial *Partial
	// Unpacked is called now and then with the bytes that were unpacked.
	Unpacked func(bytes int64)
}

// PutLayer stages a layer in one pass: the stream (plain, gzip or zstd) is
// written as a blob and hashed, inflated, hashed again, and unpacked, all at
// the same time. It may be called for several layers at once. It returns the
// blob's descriptor and the diff ID, both verified against spec.
func (t *Tx) PutLayer(ctx context.Context, r io.Reader, spec LayerSpec) (ocispec.Descriptor, digest.Digest, error) {
	dir := t.newPath("layer")
	if err := os.MkdirAll(dir+"/"+layer.TreeName, 0o755); err != nil {
		return spec.Blob, "", fmt.Errorf("make staging directory of layer: %w", err)
	}
	fs, err := os.Open(dir + "/" + layer.TreeName)
	if err != nil {
		return spec.Blob, "", fmt.Errorf("open staging directory of layer: %w", err)
	}
	if err := fs.Chmod(0o755); err != nil { // whatever the umask is
		fs.Close()
		return spec.Blob, "", fmt.Errorf("set mode of layer's root: %w", err)
	}
	p := &layerPipeline{t: t, spec: spec, fs: fs}
	desc, diffID, un, err := p.run(ctx, r)
	if err != nil {
		fs.Close()
		os.RemoveAll(dir)
		return spec.Blob, "", err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, twice := t.layers[diffID]; twice {
		fs.Close()
		return desc, diffID, os.RemoveAll(dir)
	}
	t.layers[diffID] = &stagedLayer{dir: dir, un: un, fs: fs}
	return desc, diffID, nil
}

func unpackOptions(spec LayerSpec) layer.ApplyOptions {
	return layer.ApplyOptions{MaxBytes: spec.MaxBytes, MaxEntries: spec.MaxEntries, Unprivileged: os.Geteuid() != 0}
}

func newRecord(d digest.Digest, un *layer.Unpacked) layer.Record {
	return layer.Record{DiffID: d, Size: un.Stats.Bytes, Entries: un.Stats.Entries, Created: time.Now().UTC()}
}

// ReadBlob reads a small blob, staged or in the store, and checks its digest.
func (t *Tx) ReadBlob(d digest.Digest) ([]byte, error) {
	b, err := readFile(t.blobFile(d), maxSmall)
	if err != nil {
		return nil, fmt.Errorf("read blob %s: %w", d, err)
	}
	if digest.FromBytes(b) != d {
		return nil, fmt.Errorf("read blob %s: %w", d, ErrDigest)
	}
	return b, nil
}

// Dir is the staging directory, for temporary files that shall go with it.
func (t *Tx) Dir() string { return t.dir }
