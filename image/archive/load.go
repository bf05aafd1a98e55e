package archive

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image"
	"vivarium/image/store"
)

// LoadOptions of Load. The zero value loads for this machine.
type LoadOptions struct {
	// Platform to choose from an index; nil is this machine's.
	Platform *ocispec.Platform
	// MaxLayerBytes and MaxLayerEntries bound each unpacked layer; 0 is no limit.
	MaxLayerBytes, MaxLayerEntries int64
}

// Load reads an archive, plain or packed with gzip, zstd or bzip2, as written
// by `docker save` (docker-archive) or as an OCI layout in a tar, and puts its
// images into the store, with the names that they carry. It returns them in
// the order of the archive. Images that come before an error are loaded.
func Load(ctx context.Context, st *store.Store, src io.Reader, opts LoadOptions) ([]image.Image, error) {
	t, err := st.Begin(ctx)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	r, err := openReader(ctx, src, t.Dir())
	if err != nil {
		return nil, fmt.Errorf("load images: %w", err)
	}
	defer r.close()
	l := &loader{st: st, r: r, opts: opts}
	var imgs []image.Image
	switch {
	// `docker save` since 25 writes both. Its index has the manifests as they
	// are, but only manifest.json has all of the names.
	case r.has(manifestFile):
		imgs, err = l.dockerArchive(ctx)
	case r.has(indexFile) && r.has(layoutFile):
		imgs, err = l.ociArchive(ctx)
	default:
		err = fmt.Errorf("%w: it has neither %s nor %s (a tar of a root file system is for import)", ErrFormat, manifestFile, indexFile)
	}
	if err != nil {
		return imgs, fmt.Errorf("load images: %w", err)
	}
	return imgs, nil
}

type loader struct {
	st   *store.Store
	r    *reader
	opts LoadOptions
}

// dockerImage is one element of manifest.json.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func (l *loader) dockerArchive(ctx context.Context) ([]image.Image, error) {
	b, err := l.r.readSmall(manifestFile)
	if err != nil {
		return nil, err
	}
	var list []dockerImage
	if err := decode(manifestFile, b, &list); err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%w: %s lists no image", ErrFormat, manifestFile)
	}
	var out []image.Image
	for _, d := range list {
		img, err := l.dockerImage(ctx, d)
		if err != nil {
			return out, err
		}
		out = append(out, img)
	}
	return out, nil
}

func (l *loader) dockerImage(ctx context.Context, d dockerImage) (image.Image, error) {
	names, err := fullNames(d.RepoTags)
	if err != nil {
		return image.Image{}, err
	}
	cfgBytes, err := l.r.readSmall(d.Config)
	if err != nil {
		return image.Image{}, err
	}
	cfg, err := store.ParseConfig(cfgBytes)
	if err != nil {
		return image.Image{}, err
	}
	if len(cfg.RootFS.DiffIDs) != len(d.Layers) {
		return image.Image{}, fmt.Errorf("%w: image %s lists %d layers, and its config %d", ErrFormat, d.Config, len(d.Layers), len(cfg.RootFS.DiffIDs))
	}
	t, err := l.st.Begin(ctx)
	if err != nil {
		return image.Image{}, err
	}
	defer t.Close()
	if err := t.LockLayers(ctx, cfg.RootFS.DiffIDs); err != nil {
		return image.Image{}, err
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	id, err := t.PutBytes(cfgBytes)
	if err != nil {
		return image.Image{}, err
	}
	m.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: id, Size: int64(len(cfgBytes))}
	done := make(map[digest.Digest]ocispec.Descriptor)
	for i, name := range d.Layers {
		diffID := cfg.RootFS.DiffIDs[i]
		desc, ok := done[diffID]
		if !ok {
			if desc, err = l.layer(ctx, t, name, ocispec.Descriptor{Size: -1}, diffID); err != nil {
				return image.Image{}, fmt.Errorf("layer %s: %w", name, err)
			}
			done[diffID] = desc
		}
		m.Layers = append(m.Layers, desc)
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return image.Image{}, fmt.Errorf("encode manifest: %w", err)
	}
	return t.Commit(ctx, store.CommitSpec{Manifest: raw, MediaType: m.MediaType, Names: names})
}

func (l *loader) layer(ctx context.Context, t *store.Tx, name string, want ocispec.Descriptor, diffID digest.Digest) (ocispec.Descriptor, error) {
	s, err := l.r.open(name)
	if err != nil {
		return want, err
	}
	desc, _, err := t.PutLayer(ctx, s, store.LayerSpec{Blob: want, DiffID: diffID, MaxBytes: l.opts.MaxLayerBytes, MaxEntries: l.opts.MaxLayerEntries})
	return desc, err
}

func fullNames(tags []string) ([]string, error) {
	var out []string
	for _, tag := range tags {
		r, err := image.ParseReference(tag)
		if err != nil {
			return nil, err
		}
		out = append(out, r.String())
	}
	return out, nil
}

func (l *loader) ociArchive(ctx context.Context) ([]image.Image, error) {
	b, err := l.r.readSmall(indexFile)
	if err != nil {
		return nil, err
	}
	idx, err := store.ParseIndex(b)
	if err != nil {
		return nil, err
	}
	if len(idx.Manifests) == 0 {
		return nil, fmt.Errorf("%w: %s lists no image", ErrFormat, indexFile)
	}
	var out []image.Image
	for _, d := range idx.Manifests {
		img, err := l.ociImage(ctx, d, ociNames(d))
		if err != nil {
			return out, err
		}
		out = append(out, img)
	}
	return out, nil
}

// ociNames reads the names that an archive gives. Containerd and BuildKit put
// the full name beside, and only the tag into ref.name, as the specification
// has it; skopeo puts what it is told.
func ociNames(d ocispec.Descriptor) []string {
	name := d.Annotations["io.containerd.image.name"]
	if name == "" {
		name = d.Annotations[ocispec.AnnotationRefName]
		if !strings.ContainsAny(name, "/:") {
			return nil // a tag without a repository names nothing
		}
	}
	r, err := image.ParseReference(name)
	if err != nil {
		return nil
	}
	return []string{r.String()}
}

func (l *loader) blob(d ocispec.Descriptor) ([]byte, error) {
	b, err := l.r.readSmall(blobName(d.Digest))
	if err != nil {
		return nil, err
	}
	if got := digest.FromBytes(b); got != d.Digest {
		return nil, fmt.Errorf("blob %s: %w: the content has %s", d.Digest, store.ErrDigest, got)
	}
	return b, nil
}

func (l *loader) ociImage(ctx context.Context, d ocispec.Descriptor, names []string) (image.Image, error) {
	raw, kind, err := l.ociManifest(d)
	if err != nil {
		return image.Image{}, err
	}
	m, err := store.ParseManifest(raw)
	if err != nil {
		return image.Image{}, err
	}
	cfgBytes, err := l.blob(m.Config)
	if err != nil {
		return image.Image{}, err
	}
	cfg, err := store.ParseConfig(cfgBytes)
	if err != nil {
		return image.Image{}, err
	}
	if len(cfg.RootFS.DiffIDs) != len(m.Layers) {
		return image.Image{}, fmt.Errorf("%w: manifest %s lists %d layers, and its config %d", ErrFormat, d.Digest, len(m.Layers), len(cfg.RootFS.DiffIDs))
	}
	t, err := l.st.Begin(ctx)
	if err != nil {
		return image.Image{}, err
	}
	defer t.Close()
	if err := t.LockLayers(ctx, cfg.RootFS.DiffIDs); err != nil {
		return image.Image{}, err
	}
	if _, err := t.PutBytes(cfgBytes); err != nil {
		return image.Image{}, err
	}
	done := make(map[digest.Digest]bool)
	for i, ld := range m.Layers {
		if done[ld.Digest] {
			continue
		}
		done[ld.Digest] = true
		if _, err := l.layer(ctx, t, blobName(ld.Digest), ld, cfg.RootFS.DiffIDs[i]); err != nil {
			return image.Image{}, fmt.Errorf("layer %s: %w", ld.Digest, err)
		}
	}
	return t.Commit(ctx, store.CommitSpec{Manifest: raw, MediaType: kind, Names: names})
}

// ociManifest follows indexes to the manifest of the platform.
func (l *loader) ociManifest(d ocispec.Descriptor) ([]byte, string, error) {
	want := image.DefaultPlatform()
	if l.opts.Platform != nil {
		want = *l.opts.Platform
	}
	for range 4 {
		if err := store.CheckDescriptor(d); err != nil {
			return nil, "", err
		}
		raw, err := l.blob(d)
		if err != nil {
			return nil, "", err
		}
		kind, err := store.SniffManifest(raw)
		if err != nil {
			return nil, "", err
		}
		if kind == "" {
			kind = d.MediaType
		}
		if kind != ocispec.MediaTypeImageIndex && kind != store.MediaTypeDockerList {
			return raw, kind, nil
		}
		idx, err := store.ParseIndex(raw)
		if err != nil {
			return nil, "", err
		}
		if d, err = image.ChoosePlatform(idx.Manifests, want); err != nil {
			return nil, "", err
		}
	}
	return nil, "", fmt.Errorf("%w: indexes are nested too deep", ErrFormat)
}
