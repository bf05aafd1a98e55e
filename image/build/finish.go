package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image"
	"vivarium/image/store"
)

// finish makes the image of a stage, puts it into the store, and writes the caches.
func (b *builder) finish(ctx context.Context, st *stage) (Result, error) {
	layers := st.layers // the steps', which squashing replaces
	res, err := b.produce(ctx, st)
	if err != nil || b.o.FilesOnly {
		err = errors.Join(err, b.keepSteps(ctx))
	} else {
		err = b.put(ctx, &res)
	}
	if err != nil {
		return res, err
	}
	return res, b.exportCaches(ctx, layers)
}

// produce hands out the files, and describes the image, where these are wanted.
func (b *builder) produce(ctx context.Context, st *stage) (Result, error) {
	if b.o.Files != nil {
		if err := b.handOut(ctx, st); err != nil {
			return Result{}, err
		}
	}
	if b.o.FilesOnly {
		return Result{}, nil
	}
	if b.o.Squash != SquashNone {
		err := st.squash(ctx)
		b.seals.Wait()
		if err != nil {
			return Result{}, err
		}
	}
	layers, diffIDs, err := st.blobs()
	if err != nil {
		return Result{}, err
	}
	return st.describe(layers, diffIDs)
}

// put puts the image into the store, unless it is there, and records the steps.
func (b *builder) put(ctx context.Context, res *Result) error {
	if img, ok := b.unchanged(*res); ok {
		res.Image = img
		return b.keepSteps(ctx)
	}
	if _, err := b.t.PutBytes(res.Config); err != nil {
		return err
	}
	var err error
	res.Image, err = b.t.Commit(ctx, store.CommitSpec{Manifest: res.Manifest, MediaType: ocispec.MediaTypeImageManifest, Names: b.o.Names})
	if err != nil {
		return err
	}
	return b.t.PutSteps(ctx, b.records())
}

// handOut shows the files of the result.
func (b *builder) handOut(ctx context.Context, st *stage) error {
	root, err := b.openUnion(ctx, st.lower())
	if err != nil {
		return err
	}
	defer root.Close()
	return b.o.Files(ctx, root.File, b.o.Platform)
}

// blobs lists the layers as the image names them.
func (s *stage) blobs() (layers []ocispec.Descriptor, diffIDs []digest.Digest, err error) {
	for _, l := range s.layers {
		d, blob := l.diffID, l.blob
		if l.made != nil {
			<-l.made.sealed
			if l.made.sealErr != nil {
				return nil, nil, l.made.sealErr
			}
			d, blob = l.made.diffID, l.made.blob
		}
		diffIDs = append(diffIDs, d)
		layers = append(layers, ocispec.Descriptor{MediaType: blob.MediaType, Digest: blob.Digest, Size: blob.Size})
	}
	return layers, diffIDs, nil
}

// describe makes config and manifest.
func (s *stage) describe(layers []ocispec.Descriptor, diffIDs []digest.Digest) (Result, error) {
	b := s.b
	c := cloneConfig(s.config)
	for _, k := range slices.Sorted(maps.Keys(b.o.Labels)) {
		if c.Config.Labels == nil {
			c.Config.Labels = map[string]string{}
		}
		c.Config.Labels[k] = b.o.Labels[k]
	}
	c.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: diffIDs}
	if c.RootFS.DiffIDs == nil {
		c.RootFS.DiffIDs = []digest.Digest{}
	}
	c.History = completeHistory(c.History, len(diffIDs))
	c.Created = setTimes(c.History, b.o.Epoch)
	full := imageWithCache{DockerOCIImage: c}
	if b.o.InlineCache && b.o.Squash == SquashNone {
		known := slices.Clone(layers)
		full.Cache = encodeCache(b.cacheSteps(append([]layerRef{}, s.layers...)), &known)
	}
	config, err := json.Marshal(full)
	if err != nil {
		return Result{}, fmt.Errorf("encode image config: %w", err)
	}
	if layers == nil {
		layers = []ocispec.Descriptor{}
	}
	manifest, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))},
		Layers: layers, Annotations: b.o.Annotations,
	})
	if err != nil {
		return Result{}, fmt.Errorf("encode manifest: %w", err)
	}
	return Result{Manifest: manifest, Config: config}, nil
}

// completeHistory makes the history speak of each layer: images of some tools have none.
func completeHistory(list []ocispec.History, layers int) []ocispec.History {
	for _, h := range list {
		if !h.EmptyLayer {
			layers--
		}
	}
	var missing []ocispec.History
	for ; layers > 0; layers-- {
		missing = append(missing, ocispec.History{Comment: "layer of the base image"})
	}
	return append(missing, list...)
}

// setTimes gives lines of the history that changed no files the time of the line before,
// so that an image that was found in the cache as a whole is the same image; it returns
// the time of the image.
func setTimes(list []ocispec.History, epoch time.Time) *time.Time {
	var last *time.Time
	for i := range list {
		if list[i].Created == nil {
			list[i].Created = last
		}
		last = list[i].Created
		if !epoch.IsZero() && (last == nil || last.After(epoch)) {
			t := epoch.UTC()
			list[i].Created, last = &t, &t
		}
	}
	if !epoch.IsZero() {
		t := epoch.UTC()
		return &t
	}
	if last == nil { // no line has a time: the image has no files
		t := time.Now().UTC()
		last = &t
	}
	return last
}

// unchanged finds the image in the store, with all its names: nothing is to be done.
func (b *builder) unchanged(res Result) (image.Image, bool) {
	id := digest.FromBytes(res.Config)
	img, err := b.o.Store.Resolve(string(id))
	if err != nil || img.ID != id || img.OCIManifest.Digest != digest.FromBytes(res.Manifest) {
		return img, false
	}
	for _, n := range b.o.Names {
		if !slices.Contains(img.Names, n) {
			return img, false
		}
	}
	return img, true
}
