package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"vivarium/image"
	"vivarium/layer"
)

// CommitSpec names what a change has staged.
type CommitSpec struct {
	// Manifest is the image's manifest, byte for byte; it is staged by Commit.
	Manifest  []byte
	MediaType string
	// Names are full names that shall mean the image from now on; none makes
	// an image that is known by its ID only.
	Names []string
	// Source is REPO@DIGEST as the image was pulled, or empty.
	Source string
}

// Commit puts the image into the store: layers are finished above their
// parents, everything is synchronized to the disk once, renamed into place,
// and only then named in the index. Blobs and layers must be staged, or in the
// store and kept (Keep).
func (t *Tx) Commit(ctx context.Context, spec CommitSpec) (image.Image, error) {
	here := make(map[string]string)
	e, placed, err := t.prepare(ctx, spec, here)
	if err != nil {
		return image.Image{}, err
	}
	if err := t.syncStaging(); err != nil {
		return image.Image{}, err
	}
	if err := t.publish(ctx, placed, e, spec.Names); err != nil {
		return image.Image{}, err
	}
	if m, err := ParseManifest(spec.Manifest); err == nil {
		t.s.addSource(spec.Source, m.Layers)
	}
	return t.s.Resolve(string(e.id))
}

// prepare makes all of an image ready to be placed, and its entry. here has the layers of
// this change that are ready, by the place that they go to.
func (t *Tx) prepare(ctx context.Context, spec CommitSpec, here map[string]string) (e entry, placed []placedLayer, err error) {
	m, err := ParseManifest(spec.Manifest)
	if err != nil {
		return e, nil, err
	}
	md, err := t.PutBytes(spec.Manifest)
	if err != nil {
		return e, nil, err
	}
	oci, err := t.convert(m, spec.MediaType)
	if err != nil {
		return e, nil, err
	}
	cfg, err := t.readConfig(m)
	if err != nil {
		return e, nil, err
	}
	if err := t.checkBlobs(ctx, m, cfg); err != nil {
		return e, nil, err
	}
	placed, sizes, err := t.finishLayers(ctx, m, cfg, here)
	if err != nil {
		return e, nil, err
	}
	e = entry{
		oci: oci,
		desc: ocispec.Descriptor{MediaType: spec.MediaType, Digest: md, Size: int64(len(spec.Manifest)),
			Platform: &ocispec.Platform{OS: cfg.OS, Architecture: cfg.Architecture, Variant: cfg.Variant}},
		id: m.Config.Digest, source: spec.Source, sizes: sizes,
	}
	if e.desc.MediaType == "" {
		e.desc.MediaType = ocispec.MediaTypeImageManifest
	}
	return e, placed, nil
}

func (t *Tx) blobFile(d digest.Digest) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b, ok := t.blobs[d]; ok {
		return b.path
	}
	return t.s.BlobPath(d)
}

func (t *Tx) readConfig(m ocispec.Manifest) (ocispec.Image, error) {
	b, err := readFile(t.blobFile(m.Config.Digest), maxSmall)
	if err != nil {
		return ocispec.Image{}, fmt.Errorf("read image config: %w", err)
	}
	if digest.FromBytes(b) != m.Config.Digest {
		return ocispec.Image{}, fmt.Errorf("image config %s: %w", m.Config.Digest, ErrDigest)
	}
	return ParseConfig(b)
}

func (t *Tx) checkBlobs(ctx context.Context, m ocispec.Manifest, cfg ocispec.Image) error {
	if len(m.Layers) != len(cfg.RootFS.DiffIDs) {
		return fmt.Errorf("image %s: its manifest has %d layers and its config %d", m.Config.Digest, len(m.Layers), len(cfg.RootFS.DiffIDs))
	}
	for _, d := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		t.mu.Lock()
		_, staged := t.blobs[d.Digest]
		t.mu.Unlock()
		if staged {
			continue
		}
		h, err := t.Keep(ctx, d.Digest, d.Size, "", "")
		if err != nil {
			return err
		}
		if !h.Blob {
			return fmt.Errorf("image %s: blob %s is missing", m.Config.Digest, d.Digest)
		}
	}
	return nil
}

// placedLayer is a finished layer, with the place that it goes to.
type placedLayer struct{ from, to string }

// finishLayers goes from the bottom up: each layer may need those below it.
func (t *Tx) finishLayers(ctx context.Context, m ocispec.Manifest, cfg ocispec.Image, here map[string]string) (placed []placedLayer, sizes []int64, err error) {
	ids := cfg.RootFS.DiffIDs
	chains := image.ChainIDs(ids)
	var parents []string // trees, top-most first
	for i, d := range ids {
		dir, where, err := t.layerFor(ctx, d, chains[i], m.Layers[i], parents, here)
		if err != nil {
			return nil, nil, fmt.Errorf("layer %s: %w", d, err)
		}
		if where != "" {
			here[where] = dir
			placed = append(placed, placedLayer{dir, where})
		}
		rec, err := layer.ReadRecord(dir)
		if err != nil {
			return nil, nil, err
		}
		sizes = append(sizes, rec.Size)
		parents = append([]string{dir + "/" + layer.TreeName}, parents...)
	}
	return placed, sizes, nil
}

// layerFor returns the directory of a complete layer, and, if that is staged,
// where it belongs.
func (t *Tx) layerFor(ctx context.Context, d, chain digest.Digest, blob ocispec.Descriptor, parents []string, here map[string]string) (dir, where string, err error) {
	if _, err := t.Keep(ctx, blob.Digest, -1, d, chain); err != nil {
		return "", "", err
	}
	for _, place := range []string{t.s.sharedLayerDir(d), t.s.chainLayerDir(chain)} {
		if staged, ok := here[place]; ok {
			return staged, "", nil
		}
	}
	if dir := t.s.findLayer(d, chain); dir != "" {
		return dir, "", nil
	}
	t.mu.Lock()
	l, sealed := t.layers[d], t.sealed[d]
	t.mu.Unlock()
	if sealed != "" {
		return sealed, t.s.sharedLayerDir(d), nil
	}
	if l == nil || l.used {
		// The store has only the blob, or the same layer is in the image twice
		// and depends on what is below it.
		if l, err = t.unpackAgain(ctx, d, blob); err != nil {
			return "", "", err
		}
	}
	l.used = true
	rec := newRecord(d, l.un)
	where = t.s.sharedLayerDir(d)
	if l.un.NeedsParents() {
		rec.Chain = chain
		where = t.s.chainLayerDir(chain)
	}
	if err := l.un.Finish(ctx, parents); err != nil {
		return "", "", err
	}
	return l.dir, where, layer.WriteRecord(l.dir, rec)
}

func (t *Tx) unpackAgain(ctx context.Context, d digest.Digest, blob ocispec.Descriptor) (*stagedLayer, error) {
	f, err := os.Open(t.blobFile(blob.Digest))
	if err != nil {
		return nil, fmt.Errorf("unpack from store: %w", err)
	}
	defer f.Close()
	t.mu.Lock()
	old := t.layers[d]
	delete(t.layers, d)
	t.mu.Unlock()
	if old != nil {
		old.fs.Close()
	}
	if _, _, err := t.PutLayer(ctx, f, LayerSpec{Blob: blob, DiffID: d, NoBlob: true}); err != nil {
		return nil, fmt.Errorf("unpack from store: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.layers[d], nil
}

// syncStaging writes all that was staged to the disk, in one go. Layers are
// hundreds of thousands of files: an fsync each would take minutes.
func (t *Tx) syncStaging() error {
	if err := unix.Syncfs(int(t.lease.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", t.dir, err)
	}
	return nil
}

// publish renames what is staged into place and names it.
func (t *Tx) publish(ctx context.Context, placed []placedLayer, e entry, names []string) error {
	hold, err := t.s.Hold(ctx)
	if err != nil {
		return err
	}
	defer hold()
	if err := t.placeLocked(placed); err != nil {
		return err
	}
	return t.s.updateIndex(ctx, func(entries []entry) ([]entry, error) {
		if len(names) == 0 {
			e.name = ""
			return setName(entries, e), nil
		}
		for _, n := range names {
			e.name = n
			entries = setName(entries, e)
		}
		return entries, nil
	})
}

// placeLocked renames blobs and layers into place, the sealed ones too. The store is held.
func (t *Tx) placeLocked(placed []placedLayer) error {
	if err := t.placeBlobs(); err != nil {
		return err
	}
	for _, p := range t.withSealed(placed) {
		if err := t.s.placeLayer(p); err != nil {
			return err
		}
	}
	for _, dir := range []string{t.s.imagesDir() + "/blobs/sha256", t.s.root + "/layers/sha256", t.s.root + "/layers/chain"} {
		if err := syncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

func (t *Tx) placeBlobs() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for d, b := range t.blobs {
		if err := os.Rename(b.path, t.s.BlobPath(d)); err != nil {
			return fmt.Errorf("put blob in place: %w", err)
		}
		delete(t.blobs, d)
	}
	return nil
}

// placeLayer renames a layer into place. If another change was first, that
// one's stays: the trees are equal, and containers may be using it.
func (s *Store) placeLayer(p placedLayer) error {
	err := os.Rename(p.from, p.to)
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("put layer in place: %w", err)
	}
	if _, err := layer.ReadRecord(p.to); err == nil {
		return nil
	}
	// No record: nothing uses it. It leaves by one rename, as it must come.
	trash, err := os.MkdirTemp(s.tmpDir(), stagePrefix)
	if err != nil {
		return fmt.Errorf("put layer in place: %w", err)
	}
	defer os.RemoveAll(trash)
	if err := os.Rename(p.to, filepath.Join(trash, "layer")); err != nil {
		return fmt.Errorf("remove incomplete layer: %w", err)
	}
	if err := os.Rename(p.from, p.to); err != nil {
		return fmt.Errorf("put layer in place: %w", err)
	}
	return nil
}

// Unpack makes an image usable that another tool put into the layout, or whose
// layers were lost: it unpacks what is missing from the blobs.
func (s *Store) Unpack(ctx context.Context, ref string) (image.Image, error) {
	_, e, err := s.lookup(ref)
	if err != nil {
		return image.Image{}, err
	}
	raw, desc, err := s.platformManifest(e.desc)
	if err != nil {
		return image.Image{}, err
	}
	t, err := s.Begin(ctx)
	if err != nil {
		return image.Image{}, err
	}
	defer t.Close()
	spec := CommitSpec{Manifest: raw, MediaType: desc.MediaType, Source: e.source}
	if e.name != "" {
		spec.Names = []string{e.name}
	}
	m, err := ParseManifest(raw)
	if err != nil {
		return image.Image{}, err
	}
	cfg, err := t.readConfig(m)
	if err != nil {
		return image.Image{}, err
	}
	if err := t.LockLayers(ctx, cfg.RootFS.DiffIDs); err != nil {
		return image.Image{}, err
	}
	return t.Commit(ctx, spec)
}

// platformManifest reads an entry's manifest; of an index, the one for this
// machine.
func (s *Store) platformManifest(d ocispec.Descriptor) ([]byte, ocispec.Descriptor, error) {
	for depth := 0; depth < 4; depth++ {
		b, err := s.ReadBlob(d.Digest)
		if err != nil || !isIndexType(d.MediaType) {
			return b, d, err
		}
		idx, err := ParseIndex(b)
		if err != nil {
			return nil, d, err
		}
		if d, err = image.ChoosePlatform(idx.Manifests, image.DefaultPlatform()); err != nil {
			return nil, d, err
		}
	}
	return nil, d, errors.New("read image: indexes are nested too deep")
}
