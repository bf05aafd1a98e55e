package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image"
	"vivarium/image/store"
)

// CopyOptions of Copy, Inspect and PutIndex; the fields are those of Options.
type CopyOptions struct {
	Platform *ocispec.Platform // Copy: only this image of an index; nil for all
	Insecure bool
	Keychain authn.Keychain
	Progress func(Event)
	Limits   Limits
	Conf     *Conf
}

func (o CopyOptions) client(ctx context.Context, ref image.Reference, push bool, also ...string) (*client, error) {
	places, err := o.Conf.endpoints(ref)
	if err != nil {
		return nil, err
	}
	at := places[len(places)-1] // mirrors take nothing, and need not have all
	return newClient(ctx, at.ref, access{keys: o.Keychain, insecure: o.Insecure || at.insecure, limits: o.Limits, push: push, also: also})
}

// what is how a registry is asked for what a reference names.
func what(ref image.Reference) string {
	if ref.Digest != "" {
		return ref.Digest
	}
	return ref.Tag
}

// Copy brings an image, or an index with all its images, from one repository to
// another. Nothing is unpacked or kept: a blob that the other repository lacks is
// mounted there if the registry is the same, and else goes through this process.
// Manifests stay as they are, byte by byte, and go last.
func Copy(ctx context.Context, from, to string, opts CopyOptions) (PushResult, error) {
	src, err := image.ParseReference(from)
	if err != nil {
		return PushResult{}, err
	}
	dst, err := image.ParseReference(to)
	if err != nil {
		return PushResult{}, err
	}
	res, err := copyImage(ctx, src, dst, opts)
	if err != nil {
		return PushResult{}, fmt.Errorf("copy %s to %s: %w", src.Familiar(), dst.Familiar(), err)
	}
	return res, nil
}

func copyImage(ctx context.Context, src, dst image.Reference, opts CopyOptions) (PushResult, error) {
	c, err := newCopier(ctx, src, dst, opts)
	if err != nil {
		return PushResult{}, err
	}
	defer c.close()
	raw, kind, err := c.from.getManifest(ctx, what(src), digest.Digest(src.Digest))
	if err != nil {
		return PushResult{}, err
	}
	if isIndex(kind) && opts.Platform != nil {
		idx, err := store.ParseIndex(raw)
		if err != nil {
			return PushResult{}, err
		}
		d, err := image.ChoosePlatform(idx.Manifests, *opts.Platform)
		if err != nil {
			return PushResult{}, err
		}
		if raw, kind, err = c.from.getManifest(ctx, string(d.Digest), d.Digest); err != nil {
			return PushResult{}, err
		}
	}
	got := digest.FromBytes(raw)
	if dst.Digest != "" && digest.Digest(dst.Digest) != got {
		return PushResult{}, fmt.Errorf("%w: the image has %s", store.ErrDigest, got)
	}
	if err := c.tree(ctx, raw, kind, what(dst), 0); err != nil {
		return PushResult{}, err
	}
	return PushResult{Digest: got, Size: int64(len(raw))}, nil
}

// copier is a copy under way.
type copier struct {
	src, dst image.Reference
	from, to *client
	opts     CopyOptions
	mu       sync.Mutex
	done     map[digest.Digest]bool // blobs that the other repository has
}

func newCopier(ctx context.Context, src, dst image.Reference, opts CopyOptions) (*copier, error) {
	c := &copier{src: src, dst: dst, opts: opts, done: make(map[digest.Digest]bool)}
	var err error
	if c.from, err = opts.client(ctx, src, false); err != nil {
		return nil, err
	}
	var also []string
	if src.Domain == dst.Domain && src.Path != dst.Path {
		also = []string{src.Path}
	}
	if c.to, err = opts.client(ctx, dst, true, also...); err != nil {
		c.from.close()
		return nil, err
	}
	return c, nil
}

func (c *copier) close() {
	c.from.close()
	c.to.close()
}

// tree copies what a manifest names, and then stores it as what.
func (c *copier) tree(ctx context.Context, raw []byte, kind, what string, depth int) error {
	if depth > 3 {
		return fmt.Errorf("%w: indexes are nested too deep", ErrUnsupported)
	}
	if !isIndex(kind) {
		m, err := store.ParseManifest(raw)
		if err != nil {
			return err
		}
		if err := c.blobs(ctx, append(m.Layers, m.Config)); err != nil {
			return err
		}
		return c.to.putManifest(ctx, raw, kind, what)
	}
	idx, err := store.ParseIndex(raw)
	if err != nil {
		return err
	}
	for _, d := range idx.Manifests {
		if c.to.hasManifest(ctx, d.Digest) {
			continue
		}
		below, kind, err := c.from.getManifest(ctx, string(d.Digest), d.Digest)
		if err != nil {
			return err
		}
		if err := c.tree(ctx, below, kind, string(d.Digest), depth+1); err != nil {
			return err
		}
	}
	return c.to.putManifest(ctx, raw, kind, what)
}

func (c *copier) blobs(ctx context.Context, list []ocispec.Descriptor) error {
	var todo []ocispec.Descriptor
	for _, d := range list {
		if !foreign(d) && !c.done[d.Digest] {
			c.done[d.Digest] = true // several layers may be one blob
			todo = append(todo, d)
			c.tell(Event{Layer: d.Digest, Status: StatusPreparing, Total: d.Size})
		}
	}
	return inParallel(ctx, todo, func(ctx context.Context, d ocispec.Descriptor) error {
		if err := c.blob(ctx, d); err != nil {
			return fmt.Errorf("blob %s: %w", image.ShortID(d.Digest), err)
		}
		return nil
	})
}

// blob has a blob in the other repository: it is there, it is mounted, it is sent.
func (c *copier) blob(ctx context.Context, d ocispec.Descriptor) error {
	have, err := c.to.hasBlob(ctx, d)
	if err != nil {
		return err
	}
	if have {
		c.tell(Event{Layer: d.Digest, Status: StatusLayerExists, Current: d.Size, Total: d.Size})
		return nil
	}
	u := &upload{c: c.to, desc: d,
		open: func(ctx context.Context, at int64) (io.ReadCloser, error) { return c.from.blob(ctx, d, at, nil) },
		report: func(n int64) {
			c.tell(Event{Layer: d.Digest, Status: StatusPushing, Current: n, Total: d.Size})
		}}
	if c.src.Domain == c.dst.Domain && c.src.Path != c.dst.Path {
		mounted, err := u.start(ctx, c.src.Path)
		if err != nil {
			return c.to.explain("mount blob "+string(d.Digest)+" from "+c.src.Path, err)
		}
		if mounted {
			c.tell(Event{Layer: d.Digest, Status: StatusMounted, Current: d.Size, Total: d.Size, From: c.src.Path})
			return nil
		}
	}
	if err := u.run(ctx); err != nil {
		return err
	}
	c.tell(Event{Layer: d.Digest, Status: StatusPushed, Current: d.Size, Total: d.Size})
	return nil
}

func (c *copier) tell(e Event) {
	if c.opts.Progress == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.opts.Progress(e)
}

// Manifest is a manifest or an index as a registry has it.
type Manifest struct {
	Ref        string             // the full name that it was asked for by
	Raw        []byte             //
	Descriptor ocispec.Descriptor // its type, digest and size; of an image also its platform
}

// Inspect gets what a name means in its registry.
func Inspect(ctx context.Context, ref string, opts CopyOptions) (Manifest, error) {
	parsed, err := image.ParseReference(ref)
	if err != nil {
		return Manifest{}, err
	}
	m, err := inspect(ctx, parsed, opts)
	if err != nil {
		return Manifest{}, fmt.Errorf("inspect %s: %w", parsed.Familiar(), err)
	}
	return m, nil
}

func inspect(ctx context.Context, ref image.Reference, opts CopyOptions) (Manifest, error) {
	c, err := opts.client(ctx, ref, false)
	if err != nil {
		return Manifest{}, err
	}
	defer c.close()
	raw, kind, err := c.getManifest(ctx, what(ref), digest.Digest(ref.Digest))
	if err != nil {
		return Manifest{}, err
	}
	m := Manifest{Ref: ref.String(), Raw: raw, Descriptor: ocispec.Descriptor{MediaType: kind, Digest: digest.FromBytes(raw), Size: int64(len(raw))}}
	if isIndex(kind) {
		return m, nil
	}
	parsed, err := store.ParseManifest(raw)
	if err != nil {
		return Manifest{}, err
	}
	cfg, err := c.config(ctx, parsed.Config)
	if err != nil {
		return Manifest{}, err
	}
	if cfg.OS != "" && cfg.Architecture != "" {
		m.Descriptor.Platform = &cfg.Platform
	}
	return m, nil
}

// config gets the configuration of an image.
func (c *client) config(ctx context.Context, d ocispec.Descriptor) (ocispec.Image, error) {
	raw, err := c.smallBlob(ctx, d)
	if err != nil {
		return ocispec.Image{}, err
	}
	var cfg ocispec.Image
	if err := json.Unmarshal(raw, &cfg); err != nil {
		return ocispec.Image{}, fmt.Errorf("get config %s: %w: %v", d.Digest, ErrRegistry, err)
	}
	return cfg, nil
}

// smallBlob gets a config, and verifies it.
func (c *client) smallBlob(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
	if d.Size > maxManifest {
		return nil, fmt.Errorf("get config %s: %w: %d bytes", d.Digest, store.ErrTooLong, d.Size)
	}
	body, err := c.blob(ctx, d, 0, nil)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	raw, err := io.ReadAll(io.LimitReader(body, d.Size+1))
	if err != nil {
		return nil, err
	}
	if got := d.Digest.Algorithm().FromBytes(raw); got != d.Digest {
		return nil, fmt.Errorf("get config %s: %w: the content has %s", d.Digest, store.ErrDigest, got)
	}
	return raw, nil
}

// PutIndex stores an index of images under a name, and before it those images that
// the repository lacks: sources says by which name each is to be had.
func PutIndex(ctx context.Context, to string, idx ocispec.Index, sources map[digest.Digest]string, opts CopyOptions) (PushResult, error) {
	dst, err := image.ParseReference(to)
	if err != nil {
		return PushResult{}, err
	}
	res, err := putIndex(ctx, dst, idx, sources, opts)
	if err != nil {
		return PushResult{}, fmt.Errorf("push %s: %w", dst.Familiar(), err)
	}
	return res, nil
}

func putIndex(ctx context.Context, dst image.Reference, idx ocispec.Index, sources map[digest.Digest]string, opts CopyOptions) (PushResult, error) {
	opts.Platform = nil
	c, err := opts.client(ctx, dst, true)
	if err != nil {
		return PushResult{}, err
	}
	defer c.close()
	for _, d := range idx.Manifests {
		src, err := image.ParseReference(sources[d.Digest])
		if err != nil {
			return PushResult{}, err
		}
		if src.Repo() == dst.Repo() || c.hasManifest(ctx, d.Digest) {
			continue
		}
		src.Tag, src.Digest = "", string(d.Digest)
		below := dst
		below.Tag, below.Digest = "", string(d.Digest)
		if _, err := copyImage(ctx, src, below, opts); err != nil {
			return PushResult{}, err
		}
	}
	raw, err := json.Marshal(idx)
	if err != nil {
		return PushResult{}, err
	}
	if err := c.putManifest(ctx, raw, idx.MediaType, what(dst)); err != nil {
		return PushResult{}, err
	}
	return PushResult{Digest: digest.FromBytes(raw), Size: int64(len(raw))}, nil
}
