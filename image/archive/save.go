package archive

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sort"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image"
	"vivarium/image/store"
)

// Format of Save.
type Format int

const (
	// Docker is what `docker save` writes since version 25: an OCI layout that
	// also has manifest.json, so that every version of `docker load`, and all
	// that read OCI layouts, can read it.
	Docker Format = iota
	// OCI is an OCI layout and nothing else.
	OCI
)

// Save writes the images that refs mean as one tar. An image that is asked for
// by name carries that name, one that is asked for by ID all of its names or
// none, as in Docker.
func Save(ctx context.Context, st *store.Store, w io.Writer, refs []string, format Format) error {
	if len(refs) == 0 {
		return fmt.Errorf("save images: no image is named")
	}
	release, err := st.Hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	s := &saver{ctx: ctx, st: st, tw: tar.NewWriter(w), done: make(map[digest.Digest]bool)}
	for _, ref := range refs {
		if err := s.add(ref); err != nil {
			return fmt.Errorf("save %s: %w", ref, err)
		}
	}
	if err := s.finish(format); err != nil {
		return fmt.Errorf("save images: %w", err)
	}
	return nil
}

type saver struct {
	ctx    context.Context
	st     *store.Store
	tw     *tar.Writer
	done   map[digest.Digest]bool
	index  []ocispec.Descriptor
	docker []dockerImage
}

func (s *saver) add(ref string) error {
	img, err := s.st.Resolve(ref)
	if err != nil {
		return err
	}
	// Loading gives the same image, and tools that read OCI layouts can read it.
	raw, err := s.st.ReadBlob(img.OCIManifest.Digest)
	if err != nil {
		return err
	}
	m, err := store.ParseManifest(raw)
	if err != nil {
		return err
	}
	var names []string
	if r, err := image.ParseReference(ref); err == nil && contains(img.Names, r.String()) {
		names = []string{r.String()}
	}
	d := ocispec.Descriptor{MediaType: img.OCIManifest.MediaType, Digest: img.OCIManifest.Digest, Size: int64(len(raw)), Platform: img.Manifest.Platform}
	blobs := append([]ocispec.Descriptor{d, m.Config}, m.Layers...)
	entry := dockerImage{Config: blobName(m.Config.Digest)}
	for _, l := range m.Layers {
		entry.Layers = append(entry.Layers, blobName(l.Digest))
	}
	for _, b := range blobs {
		if err := s.blob(b.Digest); err != nil {
			return err
		}
	}
	if len(names) > 0 {
		if d, err = s.platforms(names[0], d); err != nil {
			return err
		}
	}
	s.list(d, entry, names)
	return nil
}

// platforms adds the images of all platforms that a name means, and gives the index of
// them; d if it means one image.
func (s *saver) platforms(name string, d ocispec.Descriptor) (ocispec.Descriptor, error) {
	top, err := s.st.Top(name)
	if err != nil || top.MediaType != ocispec.MediaTypeImageIndex {
		return d, err
	}
	raw, err := s.st.ReadBlob(top.Digest)
	if err != nil {
		return d, err
	}
	idx, err := store.ParseIndex(raw)
	if err != nil {
		return d, err
	}
	for _, sub := range idx.Manifests {
		raw, err := s.st.ReadBlob(sub.Digest)
		if err != nil {
			return d, err
		}
		m, err := store.ParseManifest(raw)
		if err != nil {
			return d, err
		}
		for _, b := range append([]ocispec.Descriptor{sub, m.Config}, m.Layers...) {
			if err := s.blob(b.Digest); err != nil {
				return d, err
			}
		}
	}
	return top, s.blob(top.Digest)
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// list notes the image in both indexes; the same image twice is one entry of
// manifest.json with two names.
func (s *saver) list(d ocispec.Descriptor, entry dockerImage, names []string) {
	if len(names) == 0 {
		s.index = append(s.index, d)
	}
	for _, n := range names {
		named := d
		named.Annotations = map[string]string{ocispec.AnnotationRefName: n, "io.containerd.image.name": n}
		s.index = append(s.index, named)
		entry.RepoTags = append(entry.RepoTags, image.Familiar(n))
	}
	for i := range s.docker {
		if s.docker[i].Config == entry.Config {
			s.docker[i].RepoTags = append(s.docker[i].RepoTags, entry.RepoTags...)
			return
		}
	}
	s.docker = append(s.docker, entry)
}

func (s *saver) blob(d digest.Digest) error {
	if s.done[d] {
		return nil
	}
	s.done[d] = true
	f, err := os.Open(s.st.BlobPath(d))
	if err != nil {
		return fmt.Errorf("open blob: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("stat blob: %w", err)
	}
	if err := s.header(blobName(d), st.Size()); err != nil {
		return err
	}
	if _, err := io.Copy(s.tw, &cancelReader{s.ctx, f}); err != nil {
		return fmt.Errorf("write blob %s: %w", d, err)
	}
	return nil
}

// header uses a fixed time, so that the same images give the same archive.
func (s *saver) header(name string, size int64) error {
	err := s.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o444, Size: size, ModTime: time.Unix(0, 0)})
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

func (s *saver) finish(format Format) error {
	sort.SliceStable(s.docker, func(i, j int) bool { return s.docker[i].Config < s.docker[j].Config })
	files := []struct {
		name string
		v    any
	}{
		{layoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}},
		{indexFile, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: s.index}},
	}
	if format == Docker {
		files = append(files, struct {
			name string
			v    any
		}{manifestFile, s.docker})
	}
	for _, f := range files {
		b, err := json.Marshal(f.v)
		if err != nil {
			return fmt.Errorf("encode %s: %w", f.name, err)
		}
		if err := s.header(f.name, int64(len(b))); err != nil {
			return err
		}
		if _, err := s.tw.Write(b); err != nil {
			return fmt.Errorf("write %s: %w", f.name, err)
		}
	}
	if err := s.tw.Close(); err != nil {
		return fmt.Errorf("write end of archive: %w", err)
	}
	return nil
}
