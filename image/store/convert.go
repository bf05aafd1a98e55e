package store

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Tools that read OCI layouts take no manifest of Docker's media types for an
// image. So for such an image index.json names a second manifest, equal but for
// its media types, and an annotation refers to the original, which is kept: it
// is what the image's digest in its registry is computed from. In this package
// an entry's desc is always the original.

// mediaTypes has OCI's name for each of Docker's media types (image-spec,
// media-types.md, "compatibility matrix").
var mediaTypes = map[string]string{
	MediaTypeDockerManifest:                                     ocispec.MediaTypeImageManifest,
	mediaTypeDockerConfig:                                       ocispec.MediaTypeImageConfig,
	mediaTypeDockerLayer:                                        ocispec.MediaTypeImageLayerGzip,
	"application/vnd.docker.image.rootfs.diff.tar":              ocispec.MediaTypeImageLayer,
	"application/vnd.docker.image.rootfs.diff.tar.zstd":         ocispec.MediaTypeImageLayerZstd,
	"application/vnd.docker.image.rootfs.foreign.diff.tar":      "application/vnd.oci.image.layer.nondistributable.v1.tar",
	"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
}

// toOCI gives a manifest with OCI's media types; nil if it has them already.
// kind is the type by which it came: its own word may be missing.
func toOCI(m ocispec.Manifest, kind string) ([]byte, error) {
	if m.MediaType == "" {
		m.MediaType = kind
	}
	changed := false
	translate := func(t *string) {
		if to, ok := mediaTypes[*t]; ok {
			*t, changed = to, true
		}
	}
	translate(&m.MediaType)
	translate(&m.Config.MediaType)
	m.Layers = append([]ocispec.Descriptor{}, m.Layers...) // the caller's are not ours
	for i := range m.Layers {
		translate(&m.Layers[i].MediaType)
	}
	if !changed {
		return nil, nil
	}
	b, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("convert manifest to OCI's media types: %w", err)
	}
	return b, nil
}

// ociManifest is the converted manifest of an entry; zero where the original
// serves.
type ociManifest struct {
	digest digest.Digest
	size   int64
}

// formatOriginal writes the annotation that refers to the original manifest:
// its digest, size and media type.
func formatOriginal(d ocispec.Descriptor) string {
	return string(d.Digest) + " " + strconv.FormatInt(d.Size, 10) + " " + d.MediaType
}

// parseOriginal reads that annotation; ok is false if it is not whole, and then
// the converted manifest is as good a manifest as any.
func parseOriginal(s string) (d ocispec.Descriptor, ok bool) {
	sum, rest, _ := strings.Cut(s, " ")
	size, kind, _ := strings.Cut(rest, " ")
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil || n < 0 || !isSHA256(digest.Digest(sum)) {
		return d, false
	}
	return ocispec.Descriptor{MediaType: kind, Digest: digest.Digest(sum), Size: n}, true
}

// convert stages the OCI form of the manifest, if it needs one.
func (t *Tx) convert(m ocispec.Manifest, kind string) (ociManifest, error) {
	b, err := toOCI(m, kind)
	if err != nil || b == nil {
		return ociManifest{}, err
	}
	d, err := t.PutBytes(b)
	return ociManifest{d, int64(len(b))}, err
}

// restoreOCI writes a lost converted manifest again, from the original.
func (s *Store) restoreOCI(ctx context.Context, e entry) error {
	m, err := s.readManifest(e.desc)
	if err != nil {
		return err
	}
	t, err := s.Begin(ctx)
	if err != nil {
		return err
	}
	defer t.Close()
	got, err := t.convert(m, e.desc.MediaType)
	if err != nil {
		return err
	}
	if got != e.oci {
		return fmt.Errorf("convert manifest %s: %w: it gives %s", e.desc.Digest, ErrDigest, got.digest)
	}
	if err := t.syncStaging(); err != nil {
		return err
	}
	hold, err := s.Hold(ctx)
	if err != nil {
		return err
	}
	defer hold()
	if err := t.placeBlobs(); err != nil {
		return err
	}
	return syncDir(s.imagesDir() + "/blobs/sha256")
}
