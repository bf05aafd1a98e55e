package archive

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image"
	"vivarium/image/store"
)

// ImportOptions of Import.
type ImportOptions struct {
	// Config is what --change made; the zero value is an image without a
	// command.
	Config ocispec.ImageConfig
	// Platform of the image; nil is this machine's.
	Platform *ocispec.Platform
	// Message becomes the comment of the image's history.
	Message string
	// Names that the image gets.
	Names []string
	// MaxBytes and MaxEntries bound the unpacked tree; 0 is no limit.
	MaxBytes, MaxEntries int64
	// Now is the time of creation; the zero value is the present.
	Now time.Time
}

// Import makes an image of one layer from a tar of a root file system, plain
// or packed with gzip, zstd or bzip2, as `docker import` does.
func Import(ctx context.Context, st *store.Store, src io.Reader, opts ImportOptions) (image.Image, error) {
	img, err := importLayer(ctx, st, src, opts)
	if err != nil {
		return img, fmt.Errorf("import image: %w", err)
	}
	return img, nil
}

func importLayer(ctx context.Context, st *store.Store, src io.Reader, opts ImportOptions) (image.Image, error) {
	names, err := fullNames(opts.Names)
	if err != nil {
		return image.Image{}, err
	}
	t, err := st.Begin(ctx)
	if err != nil {
		return image.Image{}, err
	}
	defer t.Close()
	packed, release, err := layerStream(src)
	if err != nil {
		return image.Image{}, err
	}
	defer release()
	desc, diffID, err := t.PutLayer(ctx, packed, store.LayerSpec{
		Blob: ocispec.Descriptor{Size: -1}, MaxBytes: opts.MaxBytes, MaxEntries: opts.MaxEntries,
	})
	if err != nil {
		return image.Image{}, err
	}
	cfg := newConfig(opts, diffID)
	raw, err := json.Marshal(cfg)
	if err != nil {
		return image.Image{}, fmt.Errorf("encode config: %w", err)
	}
	id, err := t.PutBytes(raw)
	if err != nil {
		return image.Image{}, err
	}
	m, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: id, Size: int64(len(raw))},
		Layers: []ocispec.Descriptor{desc},
	})
	if err != nil {
		return image.Image{}, fmt.Errorf("encode manifest: %w", err)
	}
	return t.Commit(ctx, store.CommitSpec{Manifest: m, MediaType: ocispec.MediaTypeImageManifest, Names: names})
}

// layerStream keeps gzip and zstd, which a layer may be packed with, and
// unpacks what it may not.
func layerStream(src io.Reader) (io.Reader, func(), error) {
	kind, head, err := store.Detect(src)
	if err != nil {
		return nil, nil, fmt.Errorf("read archive: %w", err)
	}
	if kind != store.Bzip2 && kind != store.Xz {
		return head, func() {}, nil
	}
	plain, _, err := store.Decompress(head)
	if err != nil {
		return nil, nil, fmt.Errorf("read archive: %w", err)
	}
	return plain, func() { plain.Close() }, nil
}

func newConfig(opts ImportOptions, diffID digest.Digest) ocispec.Image {
	now := opts.Now
	if now.IsZero() {
		now = time.Now()
	}
	now = now.UTC()
	p := image.DefaultPlatform()
	if opts.Platform != nil {
		p = *opts.Platform
	}
	return ocispec.Image{
		Created: &now, Platform: p, Config: opts.Config,
		RootFS:  ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diffID}},
		History: []ocispec.History{{Created: &now, Comment: opts.Message, CreatedBy: "viv import"}},
	}
}
