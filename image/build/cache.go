package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image/store"
)

// CacheMediaType is the type of the config of a cache that is kept outside: a manifest
// whose layers are those of steps, and whose config says by which keys they are found.
const CacheMediaType = "application/vnd.viv.buildcache.v1+json"

// CacheSource is a cache that a build may take steps from.
type CacheSource struct {
	Name string
	// Load gets the cache's manifest and config. Close is called after the build.
	Load func(ctx context.Context, platform ocispec.Platform) (*CacheImport, error)
}

// CacheImport is a cache that was loaded: one that was written by a CacheTarget, or an
// image that has its own cache inside.
type CacheImport struct {
	Manifest, Config []byte
	// Open reads the blob of a layer.
	Open  func(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error)
	Close func()
}

// CacheTarget is where a build writes its cache.
type CacheTarget struct {
	Name        string
	All         bool // the steps of all stages, not only those whose layers the image has
	IgnoreError bool
	// Put writes the manifest and the config, and before them the layers, which are in
	// the store.
	Put func(ctx context.Context, manifest, config []byte) error
}

// cacheFile is the config of a cache, and what an image with its own cache has beside
// its settings.
type cacheFile struct {
	Version int         `json:"version"`
	Steps   []cacheStep `json:"steps"`
}

const cacheVersion = 1

// cacheStep is one step: of a layer, or the alias of another key.
type cacheStep struct {
	Key     digest.Digest `json:"key"`
	Alias   digest.Digest `json:"alias,omitempty"`
	Layer   int           `json:"layer"` // its place among the manifest's
	DiffID  digest.Digest `json:"diffID,omitempty"`
	Size    int64         `json:"size,omitempty"`
	Created time.Time     `json:"created,omitzero"`
	Name    string        `json:"name,omitempty"`
}

// imageWithCache is an image's config with a cache inside.
type imageWithCache struct {
	dockerspec.DockerOCIImage
	Cache *cacheFile `json:"viv.buildcache,omitempty"`
}

// encodeCache lists steps; layers is filled with the blobs that it lacks.
func encodeCache(steps []store.Step, layers *[]ocispec.Descriptor) *cacheFile {
	f := &cacheFile{Version: cacheVersion, Steps: []cacheStep{}}
	place := map[digest.Digest]int{}
	for i, l := range *layers {
		place[l.Digest] = i
	}
	for _, st := range steps {
		c := cacheStep{Key: st.Key, Alias: st.Alias, DiffID: st.DiffID, Size: st.Size, Created: st.Created, Name: st.Name}
		if st.Alias == "" {
			i, ok := place[st.Blob.Digest]
			if !ok {
				i = len(*layers)
				place[st.Blob.Digest] = i
				*layers = append(*layers, ocispec.Descriptor{MediaType: st.Blob.MediaType, Digest: st.Blob.Digest, Size: st.Blob.Size})
			}
			c.Layer = i
		}
		f.Steps = append(f.Steps, c)
	}
	return f
}

// cacheManifest makes manifest and config of a cache.
func cacheManifest(steps []store.Step) (manifest, config []byte, err error) {
	layers := []ocispec.Descriptor{}
	if config, err = json.Marshal(encodeCache(steps, &layers)); err != nil {
		return nil, nil, fmt.Errorf("encode build cache: %w", err)
	}
	manifest, err = json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.Descriptor{MediaType: CacheMediaType, Digest: digest.FromBytes(config), Size: int64(len(config))},
		Layers: layers,
	})
	if err != nil {
		return nil, nil, fmt.Errorf("encode build cache: %w", err)
	}
	return manifest, config, nil
}

// errNoCache says that something is an image, or else, without a cache.
var errNoCache = errors.New("it has no build cache of this builder's")

// decodeCache reads the steps of a cache from outside.
func decodeCache(manifest, config []byte) ([]store.Step, error) {
	m, err := store.ParseManifest(manifest)
	if err != nil {
		return nil, err
	}
	if digest.FromBytes(config) != m.Config.Digest {
		return nil, fmt.Errorf("config of the cache: %w", store.ErrDigest)
	}
	f := &cacheFile{}
	if m.Config.MediaType == CacheMediaType {
		err = json.Unmarshal(config, f)
	} else {
		var img struct {
			Cache *cacheFile `json:"viv.buildcache"`
		}
		err = json.Unmarshal(config, &img)
		f = img.Cache
	}
	if err != nil {
		return nil, fmt.Errorf("decode build cache: %w", err)
	}
	if f == nil {
		return nil, errNoCache
	}
	if f.Version != cacheVersion {
		return nil, fmt.Errorf("%w: its version is %d", errNoCache, f.Version)
	}
	var out []store.Step
	for _, c := range f.Steps {
		st := store.Step{Key: c.Key, Alias: c.Alias, DiffID: c.DiffID, Size: c.Size, Created: c.Created, Name: c.Name}
		if c.Alias == "" {
			if c.Layer < 0 || c.Layer >= len(m.Layers) || c.Size < 0 {
				return nil, fmt.Errorf("decode build cache: step %s makes no sense", c.Key)
			}
			st.Blob = m.Layers[c.Layer]
		}
		if err := st.Check(); err != nil {
			return nil, fmt.Errorf("decode build cache: %w", err)
		}
		out = append(out, st)
	}
	return out, nil
}

// imported is a cache that steps are taken from.
type imported struct {
	steps map[digest.Digest]store.Step
	from  *CacheImport
}

// loadCaches reads the caches from outside. One that cannot be read is told of, and
// left out.
func (b *builder) loadCaches(ctx context.Context) error {
	if b.o.NoCache {
		return nil
	}
	for _, src := range b.o.CacheFrom {
		st := b.report.begin("importing cache manifest from " + src.Name)
		c, err := loadCache(ctx, src, b.o.Platform)
		st.end(false, err)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil {
			b.imports = append(b.imports, c)
		}
	}
	return nil
}

func loadCache(ctx context.Context, src CacheSource, p ocispec.Platform) (*imported, error) {
	from, err := src.Load(ctx, p)
	if err != nil {
		return nil, err
	}
	steps, err := decodeCache(from.Manifest, from.Config)
	if err != nil {
		from.Close()
		return nil, err
	}
	c := &imported{steps: map[digest.Digest]store.Step{}, from: from}
	for _, st := range steps {
		c.steps[st.Key] = st
	}
	return c, nil
}

func (b *builder) closeCaches() {
	for _, c := range b.imports {
		c.from.Close()
	}
	b.imports = nil
}

// findAlias gives the key that another key stands for, here or in a cache from outside.
func (b *builder) findAlias(key digest.Digest) digest.Digest {
	b.mu.Lock()
	defer b.mu.Unlock()
	if to := b.t.FindAlias(key); to != "" {
		b.met = append(b.met, store.Step{Key: key, Alias: to, Name: "alias"})
		return to
	}
	for _, c := range b.imports {
		if to := c.steps[key].Alias; to != "" {
			b.aliases = append(b.aliases, store.Step{Key: key, Alias: to, Name: "alias"})
			return to
		}
	}
	return ""
}

// find fills in a layer from the store's cache, or from one outside.
func (b *builder) find(ctx context.Context, m *made) bool {
	st, tree, ok := b.t.FindStep(ctx, m.key)
	for _, c := range b.imports {
		if ok {
			break
		}
		if st, ok = c.steps[m.key]; ok && st.Alias == "" {
			var err error
			// A blob that cannot be had is no reason to fail: the step is carried out.
			if tree, err = b.fetchStep(ctx, c, st); err != nil {
				b.warn(&Warning{Rule: "CacheImport", Text: fmt.Sprintf("a step is not taken from the cache: %v", err)})
			}
			ok = err == nil
			m.fresh = ok
		}
	}
	if !ok || st.Alias != "" {
		return false
	}
	m.tree, m.diffID, m.blob, m.size, m.created, m.cached = tree, st.DiffID, st.Blob, st.Size, st.Created, true
	return true
}

func (b *builder) fetchStep(ctx context.Context, c *imported, st store.Step) (tree string, err error) {
	r, err := c.from.Open(ctx, st.Blob)
	if err != nil {
		return "", err
	}
	defer r.Close()
	if tree, err = b.t.PutStep(ctx, r, st); err != nil {
		return "", err
	}
	return tree, b.t.NoteStep(st)
}

// cacheSteps are the steps of this build, found or carried out: of all stages, or only
// those whose layers are among these; with the aliases that lead to them.
func (b *builder) cacheSteps(layers []layerRef) []store.Step {
	b.mu.Lock()
	defer b.mu.Unlock()
	wanted := map[*made]bool{}
	for _, l := range layers {
		wanted[l.made] = true
	}
	seen := map[digest.Digest]bool{}
	var out []store.Step
	for _, m := range b.order {
		if (layers != nil && !wanted[m]) || seen[m.key] || !m.fresh && !m.cached || m.err != nil || m.sealErr != nil || m.diffID == "" {
			continue
		}
		seen[m.key] = true
		out = append(out, m.record())
	}
	for _, a := range append(b.aliases[:len(b.aliases):len(b.aliases)], b.met...) {
		if seen[a.Alias] && !seen[a.Key] {
			seen[a.Key] = true
			out = append(out, a)
		}
	}
	return out
}

// exportCaches writes the caches that are wanted. layers are the image's, before they
// were squashed.
func (b *builder) exportCaches(ctx context.Context, layers []layerRef) error {
	for _, to := range b.o.CacheTo {
		st := b.report.begin("exporting cache to " + to.Name)
		err := b.exportCache(ctx, to, layers)
		st.end(false, err)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil && !to.IgnoreError {
			return fmt.Errorf("export cache to %s: %w", to.Name, err)
		}
	}
	return nil
}

func (b *builder) exportCache(ctx context.Context, to CacheTarget, layers []layerRef) error {
	if to.All {
		layers = nil
	} else if layers == nil {
		layers = []layerRef{}
	}
	steps := b.cacheSteps(layers)
	for _, st := range steps {
		if st.Alias != "" {
			continue
		}
		h, err := b.t.Keep(ctx, st.Blob.Digest, st.Blob.Size, "", "")
		if err != nil {
			return err
		}
		if !h.Blob {
			return fmt.Errorf("the layer of the step %s was removed meanwhile", st.Name)
		}
	}
	manifest, config, err := cacheManifest(steps)
	if err != nil {
		return err
	}
	return to.Put(ctx, manifest, config)
}
