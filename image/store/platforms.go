package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image"
)

// A name can mean images of several platforms. Then its entry is that of the image for
// this machine, so that all that is asked of a name finds an image, and refers to the
// index that has them all. Garbage collection keeps the others by that index, and a push
// of the name pushes it.

// IndexSpec names images of several platforms that a change has staged.
type IndexSpec struct {
	Manifests [][]byte // of OCI's media type, byte for byte
	Names     []string // as in CommitSpec
}

// CommitIndex puts images of several platforms into the store as Commit does one, and an
// index of them. It returns the image for this machine, or else the first one.
func (t *Tx) CommitIndex(ctx context.Context, spec IndexSpec) (image.Image, error) {
	if len(spec.Manifests) == 0 {
		return image.Image{}, errors.New("commit images: there are none")
	}
	here := make(map[string]string)
	var entries []entry
	var placed []placedLayer
	var list []ocispec.Descriptor
	for _, raw := range spec.Manifests {
		e, layers, err := t.prepare(ctx, CommitSpec{Manifest: raw, MediaType: ocispec.MediaTypeImageManifest}, here)
		if err != nil {
			return image.Image{}, err
		}
		entries, placed, list = append(entries, e), append(placed, layers...), append(list, e.desc)
	}
	raw, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: list})
	if err != nil {
		return image.Image{}, fmt.Errorf("encode index of images: %w", err)
	}
	if _, err := t.PutBytes(raw); err != nil {
		return image.Image{}, err
	}
	if err := t.syncStaging(); err != nil {
		return image.Image{}, err
	}
	e := entries[0]
	if own, err := image.ChoosePlatform(list, image.DefaultPlatform()); err == nil {
		e = entries[slices.IndexFunc(list, func(d ocispec.Descriptor) bool { return d.Digest == own.Digest })]
	}
	e.index = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	if err := t.publish(ctx, placed, e, spec.Names); err != nil {
		return image.Image{}, err
	}
	return t.s.Resolve(string(e.id))
}

// ResolvePlatform finds the image that ref means for one platform, if the store has an
// index of several under that name.
//
// Errors: those of Resolve, image.ErrNoPlatform.
func (s *Store) ResolvePlatform(ref string, want ocispec.Platform) (image.Image, error) {
	entries, e, err := s.lookup(ref)
	if err != nil {
		return image.Image{}, err
	}
	if e.index.Digest == "" {
		return image.Image{}, fmt.Errorf("image %s: %w: want %s", describe(e), image.ErrNoPlatform, image.PlatformString(want))
	}
	list, err := s.indexed(e)
	if err != nil {
		return image.Image{}, err
	}
	d, err := image.ChoosePlatform(list, want)
	if err != nil {
		return image.Image{}, fmt.Errorf("image %s: %w", describe(e), err)
	}
	return s.load(entries, entry{desc: d, name: e.name})
}

// IndexedLayers gives the layers of all images that names mean for some platform, each once.
// Images that cannot be read are left out.
func (s *Store) IndexedLayers() ([]image.Layer, error) {
	entries, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	var out []image.Layer
	seen := make(map[string]bool)
	for _, e := range entries {
		if e.index.Digest == "" {
			continue
		}
		list, err := s.indexed(e)
		if err != nil {
			continue
		}
		for _, d := range list {
			img, err := s.load(entries, entry{desc: d})
			if err != nil {
				continue
			}
			for _, l := range img.Layers {
				if !seen[l.Dir] {
					seen[l.Dir] = true
					out = append(out, l)
				}
			}
		}
	}
	return out, nil
}

// indexed lists the images of an entry's index.
func (s *Store) indexed(e entry) ([]ocispec.Descriptor, error) {
	raw, err := s.ReadBlob(e.index.Digest)
	if err != nil {
		return nil, err
	}
	idx, err := ParseIndex(raw)
	return idx.Manifests, err
}

// platforms looks whether the images of an entry's index are whole. If one is not, the
// name means the image of this machine only.
func (c *checker) platforms(ctx context.Context, e entry, name string) error {
	if e.index.Digest == "" {
		return nil
	}
	missing := e.index.Digest
	if list, err := c.s.indexed(e); err == nil {
		missing = ""
		for _, d := range list {
			if missing == "" {
				missing = c.missingBlob(d, 0)
			}
		}
	}
	if missing == "" {
		return nil
	}
	p := c.found(name, "blob %s, of another platform, is missing or damaged", missing)
	if c.repair {
		p.Repaired = c.s.updateIndex(ctx, func(entries []entry) ([]entry, error) {
			for i := range entries {
				if entries[i].index.Digest == e.index.Digest {
					entries[i].index = ocispec.Descriptor{}
				}
			}
			return entries, nil
		}) == nil
	}
	return nil
}
