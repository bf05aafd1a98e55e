// Package archive moves images between the store and files: `load` (the
// archives of `docker save` and OCI layouts in a tar), `save`, and `import` (a
// tar of a root file system).
package archive

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image/store"
)

// ErrFormat says that a file is no image archive.
var ErrFormat = errors.New("not an image archive")

const (
	manifestFile = "manifest.json" // docker-archive
	indexFile    = ocispec.ImageIndexFile
	layoutFile   = ocispec.ImageLayoutFile

	// maxMember bounds the small files of an archive that are read whole.
	maxMember = 8 << 20
	// maxMembers bounds how many files an archive may list.
	maxMembers = 1 << 20
)

// reader gives the members of a tar in any order.
type reader struct {
	f       *os.File
	own     bool // f is a spool file that close removes
	members map[string]member
}

type member struct {
	off, size int64
	link      string // of a symbolic or hard link: the member that it means
}

// openReader lists the archive. A plain tar in a file is read where it is; a
// packed one, or a pipe, is first written to a temporary file in dir.
func openReader(ctx context.Context, src io.Reader, dir string) (*reader, error) {
	r := &reader{members: make(map[string]member)}
	if f, ok := src.(*os.File); ok && isPlainFile(f) {
		r.f = f
	} else if err := r.spool(ctx, src, dir); err != nil {
		return nil, err
	}
	if err := r.list(ctx); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// isPlainFile reports a file that can be read at any place and is not packed.
func isPlainFile(f *os.File) bool {
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return false
	}
	if off, err := f.Seek(0, io.SeekCurrent); err != nil || off != 0 {
		return false
	}
	var magic [8]byte
	if _, err := f.ReadAt(magic[:], 257); err != nil {
		return false
	}
	return strings.HasPrefix(string(magic[:]), "ustar")
}

func (r *reader) spool(ctx context.Context, src io.Reader, dir string) error {
	plain, _, err := store.Decompress(src)
	if err != nil {
		return fmt.Errorf("read archive: %w", err)
	}
	defer plain.Close()
	if r.f, err = os.CreateTemp(dir, "archive-"); err != nil {
		return fmt.Errorf("make temporary file for archive: %w", err)
	}
	r.own = true
	if _, err := io.Copy(r.f, &cancelReader{ctx, plain}); err != nil {
		r.close()
		return fmt.Errorf("read archive: %w", err)
	}
	return nil
}

type cancelReader struct {
	ctx context.Context
	io.Reader
}

func (c *cancelReader) Read(b []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.Reader.Read(b)
}

func (r *reader) close() {
	if r.own {
		os.Remove(r.f.Name())
		r.f.Close()
	}
}

func (r *reader) list(ctx context.Context) error {
	if _, err := r.f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read archive: %w", err)
	}
	tr := tar.NewReader(r.f)
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		hdr, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			if len(r.members) == 0 {
				return fmt.Errorf("%w: it is no tar (%v)", ErrFormat, err)
			}
			return fmt.Errorf("read archive: %w", err)
		}
		if len(r.members) >= maxMembers {
			return fmt.Errorf("%w: more than %d members", ErrFormat, maxMembers)
		}
		// The reader stands at the content now: it reads no further ahead.
		off, err := r.f.Seek(0, io.SeekCurrent)
		if err != nil {
			return fmt.Errorf("read archive: %w", err)
		}
		name := clean(hdr.Name)
		switch hdr.Typeflag {
		case tar.TypeReg:
			r.members[name] = member{off: off, size: hdr.Size}
		case tar.TypeSymlink:
			r.members[name] = member{link: clean(path.Join(path.Dir(name), hdr.Linkname))}
		case tar.TypeLink:
			r.members[name] = member{link: clean(hdr.Linkname)}
		}
	}
}

// clean makes names comparable; they are keys of a map and never paths.
func clean(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

// open returns a member. `docker save` of old wrote a layer that two images
// share as a symbolic link.
func (r *reader) open(name string) (*io.SectionReader, error) {
	name = clean(name)
	for range 8 {
		m, ok := r.members[name]
		if !ok {
			return nil, fmt.Errorf("archive has no %q: %w", name, fs.ErrNotExist)
		}
		if m.link == "" {
			return io.NewSectionReader(r.f, m.off, m.size), nil
		}
		name = m.link
	}
	return nil, fmt.Errorf("archive member %q: too many links", name)
}

func (r *reader) readSmall(name string) ([]byte, error) {
	s, err := r.open(name)
	if err != nil {
		return nil, err
	}
	if s.Size() > maxMember {
		return nil, fmt.Errorf("archive member %q has %d bytes, more than is sensible", name, s.Size())
	}
	b, err := io.ReadAll(s)
	if err != nil {
		return nil, fmt.Errorf("read archive member %q: %w", name, err)
	}
	return b, nil
}

func (r *reader) has(name string) bool {
	_, ok := r.members[name]
	return ok
}

func blobName(d digest.Digest) string { return "blobs/" + d.Algorithm().String() + "/" + d.Encoded() }

func decode(what string, b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: decode %s: %v", ErrFormat, what, err)
	}
	return nil
}
