package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// What has come of a blob is kept in partial/<digest>, however the pull ends: the
// next one goes on from there. The file's flock is held by the pull that writes it.
// Its content is not trusted; all of it is hashed again.

const (
	// partialMin is less than what is worth keeping.
	partialMin = 1 << 20
	// partialAge is how long one stays that no pull goes on with.
	partialAge = 24 * time.Hour
)

// Partial is the beginning of a blob, kept from an earlier pull. The nil Partial has
// nothing and keeps nothing.
type Partial struct {
	f    *os.File
	path string
	size int64
}

// Size is how many bytes of the blob there are.
func (p *Partial) Size() int64 {
	if p == nil {
		return 0
	}
	return p.size
}

func (s *Store) partialDir() string { return s.root + "/partial" }

// Partial opens what there is of a blob, to go on with it by LayerSpec.Partial. It is
// nil if another process writes it, or if the disk does not let us.
func (t *Tx) Partial(blob ocispec.Descriptor) *Partial {
	if !isSHA256(blob.Digest) || blob.Size < partialMin || os.MkdirAll(t.s.partialDir(), 0o700) != nil {
		return nil
	}
	p := &Partial{path: t.s.partialDir() + "/" + blob.Digest.Encoded()}
	for {
		f, err := os.OpenFile(p.path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil
		}
		if flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
			f.Close()
			return nil
		}
		if sameFile(f, p.path) {
			p.f = f
			break
		}
		f.Close() // removed, or put in its place, since it was opened
	}
	if st, err := p.f.Stat(); err == nil && st.Size() <= blob.Size {
		p.size = st.Size()
	} else if p.f.Truncate(0) != nil {
		p.f.Close()
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.partials = append(t.partials, p)
	return p
}

// Restart forgets what there is of the blob: it turned out to be wrong.
func (p *Partial) Restart() error {
	if p == nil {
		return nil
	}
	p.size = 0
	_, err := p.f.Seek(0, io.SeekStart)
	if err = errors.Join(err, p.f.Truncate(0)); err != nil {
		return fmt.Errorf("start blob anew: %w", err)
	}
	return nil
}

// closePartials lets go of all of them, and removes what is not worth keeping.
func (t *Tx) closePartials() {
	for _, p := range t.partials {
		if st, err := p.f.Stat(); err == nil && st.Size() < partialMin && sameFile(p.f, p.path) {
			os.Remove(p.path)
		}
		p.f.Close()
	}
	t.partials = nil
}

// sweepPartials removes those that nobody writes and nobody wrote since.
func (s *Store) sweepPartials(since time.Time) (freed int64, err error) {
	list, err := listDir(s.partialDir(), "partial blobs")
	if err != nil {
		return 0, err
	}
	for _, e := range list {
		n, serr := sweepPartial(filepath.Join(s.partialDir(), e.Name()), since)
		freed += n
		err = errors.Join(err, serr)
	}
	return freed, err
}

func sweepPartial(path string, since time.Time) (int64, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("remove partial blob: %w", err)
	}
	defer f.Close()
	if flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil || !sameFile(f, path) {
		return 0, nil
	}
	st, err := f.Stat()
	if err != nil || st.ModTime().After(since) {
		return 0, err
	}
	return st.Size(), os.Remove(path)
}

// newPartialWriter writes a blob behind what there is of it. Nothing is hashed yet:
// the caller passes what there is to again first.
func (t *Tx) newPartialWriter(p *Partial, want ocispec.Descriptor) (*blobWriter, error) {
	w, err := &blobWriter{t: t, want: want, path: p.path, f: p.f, sum: digest.SHA256.Hash(), partial: p}, p.f.Chmod(0o644)
	if err == nil {
		_, err = p.f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, fmt.Errorf("go on with blob: %w", err)
	}
	return w, nil
}

// again hashes bytes that are in the file already.
func (w *blobWriter) again(b []byte) {
	w.sum.Write(b)
	w.size += int64(len(b))
}
