package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// Annotations of the descriptors in index.json. Only the first is read by
// others; the rest spares reading every manifest to find an ID.
const (
	annName   = ocispec.AnnotationRefName
	annID     = "io.vivarium.image.id"          // digest of the config
	annSource = "io.vivarium.image.repo-digest" // REPO@DIGEST, as pulled
	annOrigin = "io.vivarium.image.manifest"    // the original of a converted one; see convert.go
	annSizes  = "io.vivarium.image.layer-sizes" // unpacked, bottom-most first
	annIndex  = "io.vivarium.image.index"       // the index of several platforms that the name means; see platforms.go
)

const maxIndex = 64 << 20

// entry is one descriptor of the index.
type entry struct {
	desc   ocispec.Descriptor
	oci    ociManifest
	name   string
	id     digest.Digest
	source string
	sizes  []int64
	index  ocispec.Descriptor // of several platforms; zero: the image is for one
}

func toEntry(d ocispec.Descriptor) entry {
	e := entry{desc: d, name: d.Annotations[annName], source: d.Annotations[annSource]}
	if id := digest.Digest(d.Annotations[annID]); isSHA256(id) {
		e.id = id
	}
	if o, ok := parseOriginal(d.Annotations[annOrigin]); ok {
		e.oci = ociManifest{d.Digest, d.Size}
		e.desc.MediaType, e.desc.Digest, e.desc.Size = o.MediaType, o.Digest, o.Size
	}
	if idx, ok := parseOriginal(d.Annotations[annIndex]); ok {
		e.index = idx
	}
	for _, f := range strings.Split(d.Annotations[annSizes], ",") {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil || n < 0 {
			return e
		}
		e.sizes = append(e.sizes, n)
	}
	return e
}

func (e entry) descriptor() ocispec.Descriptor {
	d := e.desc
	a := make(map[string]string)
	for k, v := range d.Annotations {
		a[k] = v
	}
	set := func(k, v string) {
		if v == "" {
			delete(a, k)
		} else {
			a[k] = v
		}
	}
	set(annName, e.name)
	set(annID, string(e.id))
	set(annOrigin, "")
	if e.oci != (ociManifest{}) {
		set(annOrigin, formatOriginal(e.desc))
		d.MediaType, d.Digest, d.Size = ocispec.MediaTypeImageManifest, e.oci.digest, e.oci.size
	}
	set(annIndex, "")
	if e.index.Digest != "" {
		set(annIndex, formatOriginal(e.index))
	}
	set(annSource, e.source)
	sizes := make([]string, len(e.sizes))
	for i, n := range e.sizes {
		sizes[i] = strconv.FormatInt(n, 10)
	}
	set(annSizes, strings.Join(sizes, ","))
	d.Annotations = a
	return d
}

// repo is the repository of the source: "docker.io/library/ubuntu".
func (e entry) sourceRepo() string {
	repo, _, _ := strings.Cut(e.source, "@")
	return repo
}

// readIndex reads the list of images. No file is an empty list.
func (s *Store) readIndex() ([]entry, error) {
	b, err := s.readIndexFile()
	if err != nil {
		return nil, err
	}
	return parseIndex(b)
}

func (s *Store) readIndexFile() ([]byte, error) {
	b, err := readFile(s.indexPath(), maxIndex)
	if errors.Is(err, fs.ErrNotExist) {
		return []byte("{}"), nil
	}
	if err != nil {
		return nil, fmt.Errorf("read image index: %w", err)
	}
	return b, nil
}

func parseIndex(b []byte) ([]entry, error) {
	var idx ocispec.Index
	if err := json.Unmarshal(b, &idx); err != nil {
		return nil, fmt.Errorf("decode image index: %w", err)
	}
	out := make([]entry, 0, len(idx.Manifests))
	for _, d := range idx.Manifests {
		if err := CheckDescriptor(d); err != nil {
			return nil, fmt.Errorf("decode image index: %w", err)
		}
		out = append(out, toEntry(d))
	}
	return out, nil
}

// updateIndex changes the list of images, alone.
func (s *Store) updateIndex(ctx context.Context, change func([]entry) ([]entry, error)) error {
	l, err := acquire(ctx, s.lockPath("index"), unix.LOCK_EX)
	if err != nil {
		return fmt.Errorf("change image index: %w", err)
	}
	defer l.release()
	old, err := s.readIndex()
	if err != nil {
		return err
	}
	entries, err := change(old)
	if err != nil {
		return err
	}
	return s.writeIndexLocked(entries)
}

func (s *Store) writeIndexLocked(entries []entry) error {
	idx := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: make([]ocispec.Descriptor, 0, len(entries)),
	}
	for _, e := range entries {
		idx.Manifests = append(idx.Manifests, e.descriptor())
	}
	b, err := json.Marshal(idx)
	if err != nil {
		return fmt.Errorf("encode image index: %w", err)
	}
	if err := replaceFile(s.indexPath(), append(b, '\n')); err != nil {
		return err
	}
	s.keepReserve()
	return nil
}

// setName points a name at an image. An image that loses its last name keeps
// a descriptor without one.
func setName(entries []entry, e entry) []entry {
	out := make([]entry, 0, len(entries)+1)
	for _, old := range entries {
		switch {
		case e.name != "" && old.name == e.name && old.id == e.id && old.desc.Digest == e.desc.Digest && e.source == "":
			e.source = old.source // the same image, named again by hand
		case e.name != "" && old.name == e.name && old.id == e.id:
		case e.name != "" && old.name == e.name:
			old.name = ""
			out = append(out, old)
		case e.name == "" && old.name == "" && old.id == e.id && old.source == e.source:
		default:
			out = append(out, old)
		}
	}
	return dropSpareNameless(append(out, e))
}

// dropSpareNameless removes descriptors without a name whose image has
// another, unless they alone keep a digest by which it was pulled.
func dropSpareNameless(entries []entry) []entry {
	out := entries[:0:0]
	for i, e := range entries {
		spare := false
		for j, o := range entries {
			if e.name != "" || i == j || o.id != e.id || o.id == "" {
				continue
			}
			covers := e.source == "" || o.source == e.source
			if covers && (o.name != "" || o.source != "" && e.source == "" || j < i) {
				spare = true
				break
			}
		}
		if !spare {
			out = append(out, e)
		}
	}
	return out
}

// withIndexLock runs f while nobody else changes the index.
func (s *Store) withIndexLock(ctx context.Context, f func() error) error {
	l, err := acquire(ctx, s.lockPath("index"), unix.LOCK_EX)
	if err != nil {
		return fmt.Errorf("lock image index: %w", err)
	}
	defer l.release()
	return f()
}
