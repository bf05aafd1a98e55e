package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image"
	"vivarium/image/store"
)

// Artifact is a manifest with its config, as a registry has them, whose blobs are read
// when they are wanted. Close it when no more are.
type Artifact struct {
	Manifest, Config []byte
	c                *client
}

// GetArtifact gets what a name means without its blobs; of an index, what is for the
// platform. A policy that asks for signatures refuses it: they are not looked for.
func GetArtifact(ctx context.Context, ref string, policy *Policy, opts CopyOptions) (*Artifact, error) {
	parsed, err := image.ParseReference(ref)
	if err != nil {
		return nil, err
	}
	a, err := getArtifact(ctx, parsed, policy, opts)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", parsed.Familiar(), err)
	}
	return a, nil
}

func getArtifact(ctx context.Context, ref image.Reference, policy *Policy, opts CopyOptions) (a *Artifact, err error) {
	if err := policy.admit(ref); err != nil {
		return nil, err
	}
	for _, r := range policy.requirements(ref) {
		if r.Type == "sigstoreSigned" {
			return nil, fmt.Errorf("%w: it asks for a signature, which is looked for at images that are pulled only", ErrPolicy)
		}
	}
	c, err := opts.client(ctx, ref, false)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	raw, kind, err := c.getManifest(ctx, what(ref), digest.Digest(ref.Digest))
	if err != nil {
		return nil, err
	}
	if isIndex(kind) {
		idx, err := store.ParseIndex(raw)
		if err != nil {
			return nil, err
		}
		want := image.DefaultPlatform()
		if opts.Platform != nil {
			want = *opts.Platform
		}
		d, err := image.ChoosePlatform(idx.Manifests, want)
		if err != nil {
			return nil, err
		}
		if raw, _, err = c.getManifest(ctx, string(d.Digest), d.Digest); err != nil {
			return nil, err
		}
	}
	m, err := store.ParseManifest(raw)
	if err != nil {
		return nil, err
	}
	config, err := c.smallBlob(ctx, m.Config)
	return &Artifact{Manifest: raw, Config: config, c: c}, err
}

// Open reads one of the blobs. What it gives is not verified.
func (a *Artifact) Open(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	return a.c.blob(ctx, d, 0, nil)
}

// Close gives connections back.
func (a *Artifact) Close() { a.c.close() }

// PutArtifact stores a manifest under a name, and before it the config and those layers
// that the repository lacks, which are in the store.
func PutArtifact(ctx context.Context, st *store.Store, to string, manifest, config []byte, opts CopyOptions) error {
	dst, err := image.ParseReference(to)
	if err != nil {
		return err
	}
	if dst.Digest != "" {
		return fmt.Errorf("push %s: cannot push a digest reference: name a tag", dst.Familiar())
	}
	if err := putArtifact(ctx, st, dst, manifest, config, opts); err != nil {
		return fmt.Errorf("push %s: %w", dst.Familiar(), err)
	}
	return nil
}

func putArtifact(ctx context.Context, st *store.Store, dst image.Reference, manifest, config []byte, opts CopyOptions) error {
	m, err := store.ParseManifest(manifest)
	if err != nil {
		return err
	}
	if digest.FromBytes(config) != m.Config.Digest {
		return errors.New("the config is not that of the manifest")
	}
	c, err := opts.client(ctx, dst, true)
	if err != nil {
		return err
	}
	defer c.close()
	err = inParallel(ctx, append(m.Layers, m.Config), func(ctx context.Context, d ocispec.Descriptor) error {
		have, err := c.hasBlob(ctx, d)
		if have || err != nil {
			return err
		}
		u := &upload{c: c, desc: d, open: fileOpener(st.BlobPath(d.Digest))}
		if d.Digest == m.Config.Digest {
			u.open = func(_ context.Context, from int64) (io.ReadCloser, error) {
				return io.NopCloser(bytes.NewReader(config[from:])), nil
			}
		}
		return u.run(ctx)
	})
	if err != nil {
		return err
	}
	return c.putManifest(ctx, manifest, m.MediaType, what(dst))
}
