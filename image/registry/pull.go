package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image"
	"vivarium/image/store"
)

// maxParallel is how many layers are fetched and unpacked at the same time.
// Each has three goroutines, so this keeps more cores busy than it says.
const maxParallel = 4

// maxManifest is the size of a manifest that registries must take
// (distribution-spec), and more than real ones have.
const maxManifest = 4 << 20

// Options of Pull. The zero value pulls for this machine, with the user's
// credentials.
type Options struct {
	// Platform to choose from an index; nil is this machine's, and then an
	// image that exists for another one only is taken as it is.
	Platform *ocispec.Platform
	// Insecure allows plain HTTP and certificates that nobody vouches for.
	// Loopback addresses may always speak plain HTTP.
	Insecure bool
	// Keychain gives credentials; nil is ~/.docker/config.json with its
	// credential helpers.
	Keychain authn.Keychain
	// Progress is called with each step, never by two goroutines at once. It
	// must be quick.
	Progress func(Event)
	// MaxLayerBytes and MaxLayerEntries bound each unpacked layer; 0 is no limit.
	MaxLayerBytes, MaxLayerEntries int64
	Limits                         Limits
	// Conf says which mirrors are asked first; nil: none.
	Conf *Conf
	// Unnamed leaves the name to what it means in the store: the image is known by the
	// digest of its own manifest only.
	Unnamed bool
	// Policy says which images are allowed, by their signatures; nil: all.
	Policy *Policy
}

// Status is what happens to a layer; the words are those of `docker pull` and
// `docker push`.
type Status string

// The states of a layer, in their order.
const (
	StatusWaiting     Status = "Waiting"
	StatusExists      Status = "Already exists"
	StatusDownloading Status = "Downloading"
	StatusExtracting  Status = "Extracting"
	StatusComplete    Status = "Pull complete"

	StatusPreparing   Status = "Preparing"
	StatusPushing     Status = "Pushing"
	StatusMounted     Status = "Mounted"
	StatusLayerExists Status = "Layer already exists"
	StatusPushed      Status = "Pushed"
)

// Event is one step of progress.
type Event struct {
	Layer   digest.Digest // the blob's; in a push the diff ID, where there is one
	Status  Status
	Current int64  // bytes: fetched, or for StatusExtracting unpacked
	Total   int64  // bytes, 0 if not known
	From    string // for StatusMounted: the repository that had it
}

// Result of Pull.
type Result struct {
	Image image.Image
	Name  string // the full name that was pulled
	// Digest is what the registry calls what was asked for: of the index, if
	// there is one.
	Digest digest.Digest
	// Fresh is false if the store had all of it under this name already.
	Fresh bool
}

// Pull fetches the image that ref names into the store, verifies every digest,
// and names it. Nothing is left behind if it fails; layers that are there
// already, or that another process is fetching, are not fetched again.
//
// Errors: image.ErrReference, image.ErrNoPlatform, the errors of this package,
// store.ErrDigest, store.ErrTruncated, store.ErrTooLong, layer.ErrUnsafe,
// layer.ErrTooLarge.
func Pull(ctx context.Context, st *store.Store, ref string, opts Options) (Result, error) {
	parsed, err := image.ParseReference(ref)
	if err != nil {
		return Result{}, err
	}
	res, err := pull(ctx, st, parsed, opts)
	if err != nil {
		return Result{}, fmt.Errorf("pull %s: %w", parsed.Familiar(), err)
	}
	res.Name = parsed.String()
	return res, nil
}

func pull(ctx context.Context, st *store.Store, ref image.Reference, opts Options) (Result, error) {
	if err := opts.Policy.admit(ref); err != nil {
		return Result{}, err
	}
	places, err := opts.Conf.endpoints(ref)
	if err != nil {
		return Result{}, err
	}
	var errs []error
	for _, at := range places {
		res, err := pullFrom(ctx, st, ref, at, opts)
		if err == nil {
			return res, nil
		}
		if ctx.Err() != nil || !at.mirror {
			errs = append(errs, err)
			break
		}
		errs = append(errs, fmt.Errorf("mirror %s: %w", at.ref.Domain, err))
	}
	if len(errs) == 1 {
		return Result{}, errs[0]
	}
	return Result{}, errors.Join(errs...)
}

// pullFrom fetches an image from one place; it is named as it was asked for.
func pullFrom(ctx context.Context, st *store.Store, ref image.Reference, at endpoint, opts Options) (Result, error) {
	c, err := newClient(ctx, at.ref, access{keys: opts.Keychain, insecure: opts.Insecure || at.insecure, limits: opts.Limits})
	if err != nil {
		return Result{}, err
	}
	defer c.close()
	p := &puller{st: st, c: c, ref: ref, opts: opts}
	if err := p.findManifest(ctx); err != nil {
		return Result{}, err
	}
	if err := p.verify(ctx); err != nil {
		return Result{}, err
	}
	if img, ok := p.upToDate(); ok {
		return Result{Image: img, Digest: p.top}, nil
	}
	img, err := p.fetch(ctx)
	return Result{Image: img, Digest: p.top, Fresh: true}, err
}

// puller is one pull at work.
type puller struct {
	st   *store.Store
	c    *client
	ref  image.Reference
	opts Options

	top      digest.Digest // of what the reference names
	raw      []byte        // manifest of the image
	rawType  string
	manifest ocispec.Manifest

	mu sync.Mutex // serializes Progress
}

func (p *puller) source() string {
	if p.opts.Unnamed { // the index's digest would mean images of several platforms
		return p.ref.Repo() + "@" + string(digest.FromBytes(p.raw))
	}
	return p.ref.Repo() + "@" + string(p.top)
}

// names are what the image is called after the pull. With a digest Docker
// gives it no tag.
func (p *puller) names() []string {
	if p.ref.Digest != "" || p.opts.Unnamed {
		return nil
	}
	return []string{p.ref.String()}
}

// upToDate looks for the very image, complete, under the name.
func (p *puller) upToDate() (image.Image, bool) {
	ref := p.ref.String()
	if p.opts.Unnamed {
		ref = p.source()
	}
	img, err := p.st.Resolve(ref)
	if err != nil || img.Manifest.Digest != digest.FromBytes(p.raw) {
		return img, false
	}
	for _, d := range img.RepoDigests {
		if d == p.source() {
			return img, true
		}
	}
	return img, false
}

// findManifest gets what the reference names, and from an index the manifest
// of the platform.
func (p *puller) findManifest(ctx context.Context) error {
	what := p.ref.Tag
	if p.ref.Digest != "" {
		what = p.ref.Digest
	}
	raw, kind, err := p.c.getManifest(ctx, what, digest.Digest(p.ref.Digest))
	if err != nil {
		return err
	}
	p.top = digest.FromBytes(raw)
	if isIndex(kind) {
		idx, err := store.ParseIndex(raw)
		if err != nil {
			return err
		}
		want := image.DefaultPlatform()
		if p.opts.Platform != nil {
			want = *p.opts.Platform
		}
		d, err := image.ChoosePlatform(idx.Manifests, want)
		if err != nil {
			return err
		}
		if raw, kind, err = p.c.getManifest(ctx, string(d.Digest), d.Digest); err != nil {
			return err
		}
	}
	p.raw, p.rawType = raw, kind
	p.manifest, err = store.ParseManifest(raw)
	return err
}

var acceptManifests = strings.Join([]string{
	ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex,
	store.MediaTypeDockerManifest, store.MediaTypeDockerList,
}, ", ")

// getManifest fetches and verifies one manifest; want is empty if only a tag
// is known.
func (c *client) getManifest(ctx context.Context, what string, want digest.Digest) ([]byte, string, error) {
	resp, err := c.get(ctx, "manifests", what, http.Header{"Accept": {acceptManifests}}, http.StatusOK)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxManifest+1))
	if err != nil {
		return nil, "", c.explain("get manifest "+what, err)
	}
	if len(raw) > maxManifest {
		return nil, "", fmt.Errorf("get manifest %s: %w: more than %d bytes", what, store.ErrTooLong, maxManifest)
	}
	if want == "" {
		want = digest.Digest(resp.Header.Get("Docker-Content-Digest"))
	}
	if got := digest.FromBytes(raw); want != "" && got != want {
		return nil, "", fmt.Errorf("get manifest %s: %w: the content has %s, and should have %s", what, store.ErrDigest, got, want)
	}
	kind, err := manifestType(resp.Header.Get("Content-Type"), raw)
	if err != nil {
		return nil, "", fmt.Errorf("get manifest %s: %w", what, err)
	}
	return raw, kind, nil
}

func isIndex(kind string) bool {
	return kind == ocispec.MediaTypeImageIndex || kind == store.MediaTypeDockerList
}

// manifestType trusts the content more than the header.
func manifestType(contentType string, raw []byte) (string, error) {
	kind, err := store.SniffManifest(raw)
	if err != nil {
		return "", err
	}
	if kind == "" {
		kind, _, _ = mime.ParseMediaType(contentType)
	}
	switch kind {
	case ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, store.MediaTypeDockerManifest, store.MediaTypeDockerList:
		return kind, nil
	}
	return "", fmt.Errorf("%w: media type %q (images of Docker's schema 1 must be pushed again by a newer client)", ErrUnsupported, oneLine(kind))
}

// fetch brings config and layers into the store.
func (p *puller) fetch(ctx context.Context) (image.Image, error) {
	t, err := p.st.Begin(ctx)
	if err != nil {
		return image.Image{}, err
	}
	defer t.Close()
	cfg, err := p.fetchConfig(ctx, t)
	if err != nil {
		return image.Image{}, err
	}
	if len(cfg.RootFS.DiffIDs) != len(p.manifest.Layers) {
		return image.Image{}, fmt.Errorf("%w: its manifest has %d layers and its config %d", ErrUnsupported, len(p.manifest.Layers), len(cfg.RootFS.DiffIDs))
	}
	if err := t.LockLayers(ctx, cfg.RootFS.DiffIDs); err != nil {
		return image.Image{}, err
	}
	if err := p.fetchLayers(ctx, t, cfg); err != nil {
		return image.Image{}, err
	}
	img, err := t.Commit(ctx, store.CommitSpec{Manifest: p.raw, MediaType: p.rawType, Names: p.names(), Source: p.source()})
	if err != nil {
		return img, err
	}
	for _, l := range p.manifest.Layers {
		p.tell(Event{Layer: l.Digest, Status: StatusComplete, Current: l.Size, Total: l.Size})
	}
	return img, nil
}

func (p *puller) fetchConfig(ctx context.Context, t *store.Tx) (ocispec.Image, error) {
	d := p.manifest.Config
	switch d.MediaType {
	case ocispec.MediaTypeImageConfig, "application/vnd.docker.container.image.v1+json", "":
	default:
		return ocispec.Image{}, fmt.Errorf("%w: it is no container image but %q", ErrUnsupported, oneLine(d.MediaType))
	}
	if d.Size > maxManifest {
		return ocispec.Image{}, fmt.Errorf("image config of %d bytes: %w", d.Size, store.ErrTooLong)
	}
	if err := p.ensureBlob(ctx, t, d); err != nil {
		return ocispec.Image{}, err
	}
	b, err := t.ReadBlob(d.Digest)
	if err != nil {
		return ocispec.Image{}, err
	}
	cfg, err := store.ParseConfig(b)
	if err != nil {
		return cfg, err
	}
	if w := p.opts.Platform; w != nil {
		one := []ocispec.Descriptor{{Platform: &ocispec.Platform{OS: cfg.OS, Architecture: cfg.Architecture, Variant: cfg.Variant}}}
		if _, err := image.ChoosePlatform(one, *w); err != nil {
			return cfg, err
		}
	}
	return cfg, nil
}

// ensureBlob fetches a blob that is not unpacked, unless the store has it.
func (p *puller) ensureBlob(ctx context.Context, t *store.Tx, d ocispec.Descriptor) error {
	have, err := t.Keep(ctx, d.Digest, d.Size, "", "")
	if err != nil || have.Blob {
		return err
	}
	r, err := p.c.blob(ctx, d, 0, nil)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = t.PutBlob(ctx, r, d)
	return err
}

// fetchLayers works on several layers at once. The first error stops all.
func (p *puller) fetchLayers(ctx context.Context, t *store.Tx, cfg ocispec.Image) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	chains := image.ChainIDs(cfg.RootFS.DiffIDs)
	slots := make(chan struct{}, maxParallel)
	seen := make(map[digest.Digest]bool)
	var wg sync.WaitGroup
	for i, d := range p.manifest.Layers {
		if seen[d.Digest] {
			continue
		}
		seen[d.Digest] = true
		p.tell(Event{Layer: d.Digest, Status: StatusWaiting, Total: d.Size})
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if ctx.Err() != nil {
				return
			}
			if err := p.fetchLayer(ctx, t, d, cfg.RootFS.DiffIDs[i], chains[i]); err != nil {
				cancel(fmt.Errorf("layer %s: %w", image.ShortID(d.Digest), err))
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

func (p *puller) fetchLayer(ctx context.Context, t *store.Tx, d ocispec.Descriptor, diffID, chain digest.Digest) error {
	have, err := t.Keep(ctx, d.Digest, d.Size, diffID, chain)
	if err != nil {
		return err
	}
	if have.Blob {
		// If only the tree is missing, Commit unpacks it from the blob.
		p.tell(Event{Layer: d.Digest, Status: StatusExists, Current: d.Size, Total: d.Size})
		return nil
	}
	if len(d.URLs) > 0 && strings.Contains(d.MediaType, "foreign") || strings.Contains(d.MediaType, "nondistributable") {
		return fmt.Errorf("%w: it may only be fetched from its vendor (%s)", ErrUnsupported, oneLine(d.MediaType))
	}
	if strings.Contains(d.MediaType, "encrypted") {
		return fmt.Errorf("%w: it is encrypted", ErrUnsupported)
	}
	if have.Unpacked {
		r, err := p.openLayer(ctx, d, 0, new(atomic.Bool))
		if err != nil {
			return err
		}
		defer r.Close()
		_, err = t.PutBlob(ctx, r, d)
		return err
	}
	part := t.Partial(d)
	resumed := part.Size() > 0
	ranged, err := p.putLayer(ctx, t, d, diffID, part)
	if (resumed || ranged) && (errors.Is(err, store.ErrDigest) || errors.Is(err, store.ErrTooLong) || errors.Is(err, errShort)) {
		// What was kept was not what one took it for, after a power cut, for one; or
		// the registry answers ranges with something else.
		if err := part.Restart(); err != nil {
			return err
		}
		p.c.noRanges.Store(true)
		_, err = p.putLayer(ctx, t, d, diffID, part)
	}
	return err
}

// putLayer fetches a layer, and tells whether some of it came in ranges.
func (p *puller) putLayer(ctx context.Context, t *store.Tx, d ocispec.Descriptor, diffID digest.Digest, part *store.Partial) (ranged bool, err error) {
	var came atomic.Bool // all of it: from then on what is waited for is the unpacking
	r, err := p.openLayer(ctx, d, part.Size(), &came)
	if err != nil {
		return false, err
	}
	defer r.Close()
	_, _, err = t.PutLayer(ctx, r, store.LayerSpec{
		Blob: d, DiffID: diffID, Partial: part, MaxBytes: p.opts.MaxLayerBytes, MaxEntries: p.opts.MaxLayerEntries,
		Unpacked: func(n int64) {
			if came.Load() {
				p.tell(Event{Layer: d.Digest, Status: StatusExtracting, Current: n})
			}
		},
	})
	return r.ranged, err
}

func (p *puller) openLayer(ctx context.Context, d ocispec.Descriptor, from int64, came *atomic.Bool) (*blobReader, error) {
	return p.c.blob(ctx, d, from, func(n int64) {
		p.tell(Event{Layer: d.Digest, Status: StatusDownloading, Current: n, Total: d.Size})
		came.Store(n >= d.Size)
	})
}

func (p *puller) tell(e Event) {
	if p.opts.Progress == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.opts.Progress(e)
}
