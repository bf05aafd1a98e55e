package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image"
	"vivarium/image/store"
)

// PushOptions of Push; the fields are those of Options.
type PushOptions struct {
	Insecure bool
	Keychain authn.Keychain
	Progress func(Event)
	Limits   Limits
	Conf     *Conf
}

// PushResult of Push.
type PushResult struct {
	Digest digest.Digest // of the manifest, or of the index
	Size   int64         // of the same, bytes
	// Omitted are platforms of an index whose images neither the store nor the
	// repository has.
	Omitted []string
}

// Push brings the image, or the index of images, that the full name ref means in the
// store to the repository of that name. A blob that the repository has is not sent;
// one that another repository of the registry has is mounted from there. Blobs are
// sent as they were pulled; a layer that is plain and that no registry has so is
// packed with gzip, which changes the manifest's digest. The manifest goes last.
//
// Errors: image.ErrReference, image.ErrNotFound, the errors of this package.
func Push(ctx context.Context, st *store.Store, ref string, opts PushOptions) (PushResult, error) {
	parsed, err := image.ParseReference(ref)
	if err != nil {
		return PushResult{}, err
	}
	if parsed.Digest != "" {
		return PushResult{}, fmt.Errorf("push %s: cannot push a digest reference: name a tag", parsed.Familiar())
	}
	res, err := push(ctx, st, parsed, opts)
	if err != nil {
		return PushResult{}, fmt.Errorf("push %s: %w", parsed.Familiar(), err)
	}
	return res, nil
}

func push(ctx context.Context, st *store.Store, ref image.Reference, opts PushOptions) (PushResult, error) {
	desc, err := st.Top(ref.String())
	if err != nil {
		return PushResult{}, err
	}
	t, err := st.Begin(ctx) // its lease keeps what is read from being collected
	if err != nil {
		return PushResult{}, err
	}
	defer t.Close()
	p := &pusher{st: st, t: t, ref: ref, opts: opts, jobs: make(map[digest.Digest]*pushJob)}
	top, err := p.read(ctx, desc, 0)
	if err != nil {
		return PushResult{}, err
	}
	places, err := opts.Conf.endpoints(ref)
	if err != nil {
		return PushResult{}, err
	}
	at := places[len(places)-1]
	p.c, err = newClient(ctx, at.ref, access{keys: opts.Keychain, insecure: opts.Insecure || at.insecure, limits: opts.Limits, push: true, also: p.mountSources()})
	if err != nil {
		return PushResult{}, err
	}
	defer p.c.close()
	if err := p.settle(ctx, top); err != nil {
		return PushResult{}, err
	}
	if err := p.pushBlobs(ctx); err != nil {
		return PushResult{}, err
	}
	if err := p.putTree(ctx, top, ref.Tag); err != nil {
		return PushResult{}, err
	}
	p.remember(ctx, desc, top)
	return PushResult{Digest: digest.FromBytes(top.raw), Size: int64(len(top.raw)), Omitted: p.omitted}, nil
}

// remember notes where the image and its blobs are now. The push has succeeded
// whether or not this does.
func (p *pusher) remember(ctx context.Context, desc ocispec.Descriptor, top *pushNode) {
	for _, j := range p.jobs {
		if j.layer {
			_ = p.st.AddOrigin(j.desc.Digest, store.Origin{Repo: p.ref.Repo(), Blob: j.sent})
		}
	}
	_ = p.st.SetSource(ctx, p.ref.String(), desc, p.ref.Repo()+"@"+string(digest.FromBytes(top.raw)))
}

// pushNode is one manifest, or an index with the nodes below it.
type pushNode struct {
	raw      []byte
	kind     string
	desc     ocispec.Descriptor // as its index has it
	manifest *ocispec.Manifest
	index    *ocispec.Index
	below    []*pushNode // nil: the store does not have it
}

// pushJob is one blob.
type pushJob struct {
	desc  ocispec.Descriptor // in the store
	sent  ocispec.Descriptor // in the repository; differs if it is packed
	layer bool
	id    digest.Digest // what a user sees
}

type pusher struct {
	st   *store.Store
	t    *store.Tx
	c    *client
	ref  image.Reference
	opts PushOptions

	jobs    map[digest.Digest]*pushJob
	order   []*pushJob
	omitted []string
	mu      sync.Mutex
}

// read collects a manifest and all that it needs.
func (p *pusher) read(ctx context.Context, d ocispec.Descriptor, depth int) (*pushNode, error) {
	if depth > 3 {
		return nil, fmt.Errorf("%w: indexes are nested too deep", ErrUnsupported)
	}
	if _, err := p.t.Keep(ctx, d.Digest, -1, "", ""); err != nil {
		return nil, err
	}
	raw, err := p.st.ReadBlob(d.Digest)
	if err != nil {
		return nil, err
	}
	n := &pushNode{raw: raw, kind: d.MediaType, desc: d}
	if !isIndex(d.MediaType) {
		m, err := store.ParseManifest(raw)
		if err != nil {
			return nil, err
		}
		n.manifest = &m
		return n, p.addJobs(ctx, m)
	}
	idx, err := store.ParseIndex(raw)
	if err != nil {
		return nil, err
	}
	n.index = &idx
	for _, sub := range idx.Manifests {
		have, err := p.t.Keep(ctx, sub.Digest, -1, "", "")
		if err != nil {
			return nil, err
		}
		var below *pushNode
		if have.Blob {
			if below, err = p.read(ctx, sub, depth+1); err != nil {
				return nil, err
			}
		}
		n.below = append(n.below, below)
	}
	return n, nil
}

func (p *pusher) addJobs(ctx context.Context, m ocispec.Manifest) error {
	var diffIDs []digest.Digest
	if b, err := p.st.ReadBlob(m.Config.Digest); err == nil {
		if cfg, err := store.ParseConfig(b); err == nil && len(cfg.RootFS.DiffIDs) == len(m.Layers) {
			diffIDs = cfg.RootFS.DiffIDs
		}
	}
	for i := len(m.Layers) - 1; i >= 0; i-- { // Docker's order: the top-most first
		j := &pushJob{desc: m.Layers[i], sent: m.Layers[i], layer: true, id: m.Layers[i].Digest}
		if diffIDs != nil {
			j.id = diffIDs[i]
		}
		if err := p.addJob(ctx, j); err != nil {
			return err
		}
	}
	return p.addJob(ctx, &pushJob{desc: m.Config, sent: m.Config, id: m.Config.Digest})
}

func (p *pusher) addJob(ctx context.Context, j *pushJob) error {
	if p.jobs[j.desc.Digest] != nil || foreign(j.desc) {
		return nil
	}
	have, err := p.t.Keep(ctx, j.desc.Digest, j.desc.Size, "", "")
	if err != nil {
		return err
	}
	if !have.Blob {
		return fmt.Errorf("blob %s is missing in the store; run 'viv system check', then pull the image again", j.desc.Digest)
	}
	p.jobs[j.desc.Digest] = j
	p.order = append(p.order, j)
	return nil
}

// foreign tells layers that registries do not hold (image-spec, layer.md).
func foreign(d ocispec.Descriptor) bool {
	return len(d.URLs) > 0 && strings.Contains(d.MediaType, "foreign") || strings.Contains(d.MediaType, "nondistributable")
}

// origins are the places in this push's registry that may have the blob.
func (p *pusher) origins(j *pushJob) []store.Origin {
	if !j.layer {
		return nil
	}
	list := p.st.Origins(j.desc.Digest)
	return slices.DeleteFunc(list, func(o store.Origin) bool { return !strings.HasPrefix(o.Repo, p.ref.Domain+"/") })
}

// maxMountSources bounds how many repositories a token is asked for.
const maxMountSources = 10

func (p *pusher) mountSources() []string {
	var paths []string
	for _, j := range p.order {
		for _, o := range p.origins(j) {
			path := strings.TrimPrefix(o.Repo, p.ref.Domain+"/")
			if path != p.ref.Path && !slices.Contains(paths, path) && len(paths) < maxMountSources {
				paths = append(paths, path)
			}
		}
	}
	return paths
}

// settle drops from an index what neither the store nor the repository has.
func (p *pusher) settle(ctx context.Context, n *pushNode) error {
	if n.index == nil {
		return nil
	}
	var manifests []ocispec.Descriptor
	var below []*pushNode
	for i, d := range n.index.Manifests {
		if n.below[i] == nil && !p.c.hasManifest(ctx, d.Digest) {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			name := string(d.Digest)
			if d.Platform != nil {
				name = image.PlatformString(*d.Platform)
			}
			p.omitted = append(p.omitted, name)
			continue
		}
		manifests, below = append(manifests, d), append(below, n.below[i])
		if n.below[i] != nil {
			if err := p.settle(ctx, n.below[i]); err != nil {
				return err
			}
		}
	}
	if len(manifests) == 0 {
		return fmt.Errorf("none of the index's %d images is in the store", len(n.index.Manifests))
	}
	if len(manifests) != len(n.index.Manifests) {
		n.index.Manifests, n.below = manifests, below
		n.raw = nil // written anew by putTree
	}
	return nil
}

// pushBlobs works on several blobs at once. The first error stops all.
func (p *pusher) pushBlobs(ctx context.Context) error {
	for _, j := range p.order {
		if j.layer {
			p.tell(Event{Layer: j.id, Status: StatusPreparing, Total: j.desc.Size})
		}
	}
	return inParallel(ctx, p.order, func(ctx context.Context, j *pushJob) error {
		if err := p.pushBlob(ctx, j); err != nil {
			return fmt.Errorf("layer %s: %w", image.ShortID(j.id), err)
		}
		return nil
	})
}

// inParallel calls f for every element, a few at a time. The first error stops all.
func inParallel[T any](ctx context.Context, list []T, f func(context.Context, T) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	slots := make(chan struct{}, maxParallel)
	var wg sync.WaitGroup
	for _, x := range list {
		slots <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := f(ctx, x); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// pushBlob has the blob in the repository in the cheapest way: it is there, it is
// mounted, it is sent.
func (p *pusher) pushBlob(ctx context.Context, j *pushJob) error {
	path := p.st.BlobPath(j.desc.Digest)
	origins := p.origins(j)
	pack := j.layer && isPlain(j.desc.MediaType) && !slices.ContainsFunc(p.st.Origins(j.desc.Digest), func(o store.Origin) bool { return o.Blob.Digest == j.desc.Digest })
	if pack {
		for _, o := range origins { // packed before: perhaps it need not be again
			if done, err := p.already(ctx, j, o.Blob, []store.Origin{o}, nil); done || err != nil {
				return err
			}
		}
		var err error
		if path, j.sent, err = p.t.Pack(ctx, j.desc.Digest); err != nil {
			return err
		}
		j.sent.Annotations = j.desc.Annotations
		if mediaType := strings.TrimSuffix(j.desc.MediaType, ".tar"); mediaType != j.desc.MediaType && strings.Contains(mediaType, "docker") {
			j.sent.MediaType = j.desc.MediaType + ".gzip"
		}
		origins = nil
	}
	u := &upload{c: p.c, desc: j.sent, open: fileOpener(path)}
	if j.layer {
		u.report = func(n int64) { p.tell(Event{Layer: j.id, Status: StatusPushing, Current: n, Total: j.sent.Size}) }
	}
	if done, err := p.already(ctx, j, j.sent, origins, u); done || err != nil {
		return err
	}
	if err := u.run(ctx); err != nil {
		return err
	}
	p.told(j, StatusPushed, "")
	return nil
}

// already looks for the blob in the repository and in others to mount it from. A
// session that a refused mount began is left to u, if there is one.
func (p *pusher) already(ctx context.Context, j *pushJob, blob ocispec.Descriptor, origins []store.Origin, u *upload) (bool, error) {
	have, err := p.c.hasBlob(ctx, blob)
	if err != nil {
		return false, err
	}
	if have {
		j.sent = blob
		p.told(j, StatusLayerExists, "")
		return true, nil
	}
	for _, o := range origins {
		path := strings.TrimPrefix(o.Repo, p.ref.Domain+"/")
		if path == p.ref.Path || o.Blob.Digest != blob.Digest {
			continue
		}
		m := &upload{c: p.c, desc: blob}
		mounted, err := m.start(ctx, path)
		if err != nil {
			return false, p.c.explain("mount blob "+string(blob.Digest)+" from "+path, err)
		}
		if mounted {
			j.sent = blob
			p.told(j, StatusMounted, path)
			return true, nil
		}
		if u != nil {
			u.location = m.location
		}
		return false, nil // one try: each opens a session
	}
	return false, nil
}

func isPlain(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageLayer || mediaType == "application/vnd.docker.image.rootfs.diff.tar"
}

func fileOpener(path string) opener {
	return func(_ context.Context, from int64) (io.ReadCloser, error) {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("open blob: %w", err)
		}
		if _, err := f.Seek(from, io.SeekStart); err != nil {
			f.Close()
			return nil, fmt.Errorf("read blob: %w", err)
		}
		return f, nil
	}
}

// putTree stores the manifests, the lower ones first: registries refuse one whose
// parts they lack.
func (p *pusher) putTree(ctx context.Context, n *pushNode, what string) error {
	if err := p.rewrite(ctx, n); err != nil {
		return err
	}
	if what == "" {
		what = string(digest.FromBytes(n.raw))
	}
	return p.c.putManifest(ctx, n.raw, n.kind, what)
}

// rewrite makes a manifest anew if what it names was packed or left out, after it
// has stored those below.
func (p *pusher) rewrite(ctx context.Context, n *pushNode) (err error) {
	changed := n.raw == nil
	if n.index != nil {
		for i, b := range n.below {
			if b == nil {
				continue
			}
			if err := p.putTree(ctx, b, ""); err != nil {
				return err
			}
			d := &n.index.Manifests[i]
			if got := digest.FromBytes(b.raw); got != d.Digest {
				d.Digest, d.Size, changed = got, int64(len(b.raw)), true
			}
		}
		if changed {
			n.index.MediaType = n.kind
			n.raw, err = json.Marshal(n.index)
		}
		return err
	}
	for i, l := range n.manifest.Layers {
		if j := p.jobs[l.Digest]; j != nil && j.sent.Digest != l.Digest {
			n.manifest.Layers[i], changed = j.sent, true
		}
	}
	if changed {
		n.manifest.MediaType = n.kind
		n.raw, err = json.Marshal(n.manifest)
	}
	return err
}

func (p *pusher) told(j *pushJob, s Status, from string) {
	if j.layer {
		p.tell(Event{Layer: j.id, Status: s, Current: j.sent.Size, Total: j.sent.Size, From: from})
	}
}

func (p *pusher) tell(e Event) {
	if p.opts.Progress == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.opts.Progress(e)
}
