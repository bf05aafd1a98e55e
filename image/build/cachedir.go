package build

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image/store"
)

// A cache in a directory is an OCI image layout (image-spec, image-layout.md) whose index
// has one manifest for each tag.

// maxCacheFile bounds what is read of such a directory into memory.
const maxCacheFile = 16 << 20

// ReadCacheDir opens the cache in a directory. The tag may be empty if there is one only.
func ReadCacheDir(dir, tag string) (c *CacheImport, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open build cache: %w", err)
	}
	defer func() {
		if err != nil {
			root.Close()
		}
	}()
	index, err := readLayoutIndex(root)
	if err != nil {
		return nil, fmt.Errorf("read build cache %s: %w", dir, err)
	}
	var found []ocispec.Descriptor
	for _, d := range index.Manifests {
		if tag == "" || d.Annotations[ocispec.AnnotationRefName] == tag {
			found = append(found, d)
		}
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("read build cache %s: %d of its %d manifests have the tag %q", dir, len(found), len(index.Manifests), tag)
	}
	c = &CacheImport{Close: func() { root.Close() }, Open: func(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
		return openLayoutBlob(root, d.Digest)
	}}
	if c.Manifest, err = readLayoutBlob(root, found[0].Digest); err != nil {
		return nil, fmt.Errorf("read build cache %s: %w", dir, err)
	}
	m, err := store.ParseManifest(c.Manifest)
	if err != nil {
		return nil, fmt.Errorf("read build cache %s: %w", dir, err)
	}
	if c.Config, err = readLayoutBlob(root, m.Config.Digest); err != nil {
		return nil, fmt.Errorf("read build cache %s: %w", dir, err)
	}
	return c, nil
}

func readLayoutIndex(root *os.Root) (index ocispec.Index, err error) {
	f, err := root.Open("index.json")
	if err != nil {
		return index, err
	}
	defer f.Close()
	err = json.NewDecoder(io.LimitReader(f, maxCacheFile)).Decode(&index)
	return index, err
}

func layoutBlob(d digest.Digest) (string, error) {
	if err := d.Validate(); err != nil || d.Algorithm() != digest.SHA256 {
		return "", fmt.Errorf("digest %q is not supported", d)
	}
	return "blobs/sha256/" + d.Encoded(), nil
}

func openLayoutBlob(root *os.Root, d digest.Digest) (*os.File, error) {
	name, err := layoutBlob(d)
	if err != nil {
		return nil, err
	}
	return root.Open(name)
}

func readLayoutBlob(root *os.Root, d digest.Digest) ([]byte, error) {
	f, err := openLayoutBlob(root, d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxCacheFile))
	if err == nil && digest.FromBytes(b) != d {
		err = fmt.Errorf("blob %s: %w", d, store.ErrDigest)
	}
	return b, err
}

// WriteCacheDir writes a cache into a directory, which may have others, of other tags.
// What it has of the layers already is not written again.
func WriteCacheDir(dir, tag string, manifest, config []byte, s *store.Store) error {
	if err := writeCacheDir(dir, tag, manifest, config, s); err != nil {
		return fmt.Errorf("write build cache %s: %w", dir, err)
	}
	return nil
}

func writeCacheDir(dir, tag string, manifest, config []byte, s *store.Store) error {
	if err := os.MkdirAll(dir+"/blobs/sha256", 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	m, err := store.ParseManifest(manifest)
	if err != nil {
		return err
	}
	for _, l := range m.Layers {
		if err := copyLayoutBlob(root, l, s.BlobPath(l.Digest)); err != nil {
			return err
		}
	}
	own := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(manifest), Size: int64(len(manifest)),
		Annotations: map[string]string{ocispec.AnnotationRefName: tag}}
	for d, b := range map[digest.Digest][]byte{m.Config.Digest: config, own.Digest: manifest} {
		if err := writeWhole(root, "blobs/sha256/"+d.Encoded(), b); err != nil {
			return err
		}
	}
	index, err := readLayoutIndex(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	index.Versioned, index.MediaType = specs.Versioned{SchemaVersion: 2}, ocispec.MediaTypeImageIndex
	index.Manifests = append(slices.DeleteFunc(index.Manifests, func(d ocispec.Descriptor) bool { return d.Annotations[ocispec.AnnotationRefName] == tag }), own)
	raw, err := json.Marshal(index)
	if err != nil {
		return err
	}
	if err := writeWhole(root, "oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	return writeWhole(root, "index.json", raw)
}

func copyLayoutBlob(root *os.Root, d ocispec.Descriptor, from string) error {
	name, err := layoutBlob(d.Digest)
	if err != nil {
		return err
	}
	if st, err := root.Stat(name); err == nil && st.Size() == d.Size {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	return writeFrom(root, name, in)
}

func writeWhole(root *os.Root, name string, b []byte) error {
	return writeFrom(root, name, bytes.NewReader(b))
}

// writeFrom makes a file that is whole or not there, however many write it.
func writeFrom(root *os.Root, name string, r io.Reader) error {
	tmp := fmt.Sprintf("%s.new-%d", name, os.Getpid())
	f, err := root.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = root.Rename(tmp, name)
	}
	if err != nil {
		_ = root.Remove(tmp) // it is of no use
	}
	return err
}
