package store

import (
	"errors"
	"fmt"
	"sort"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image"
	"vivarium/internal/lazyjson"
)

// ErrNotUnpacked says that an image is in the layout, but not all of its
// layers are unpacked: another tool put it there, or a repair dropped them.
// Unpack mends it.
var ErrNotUnpacked = errors.New("image is not unpacked")

// Resolve finds an image by name (with Docker's defaults), by NAME@DIGEST, by
// ID or by the unique beginning of an ID, in this order. Digests are not
// computed again: this is on the way of every `run`.
//
// Errors: image.ErrNotFound, image.ErrAmbiguous, ErrNotUnpacked.
func (s *Store) Resolve(ref string) (image.Image, error) {
	b, err := s.readIndexFile()
	if err != nil {
		return image.Image{}, err
	}
	if entries, ok := quickFind(b, ref); ok {
		return s.load(entries, entries[0])
	}
	entries, err := parseIndex(b)
	if err != nil {
		return image.Image{}, err
	}
	e, err := find(entries, ref)
	if err != nil {
		return image.Image{}, err
	}
	return s.load(entries, e)
}

// Lookup tells the ID that Resolve would find, reading the index only.
func (s *Store) Lookup(ref string) (digest.Digest, error) {
	_, e, err := s.lookup(ref)
	if err != nil {
		return "", err
	}
	return s.entryID(e)
}

// lookup finds what a reference means in the index as it is now.
func (s *Store) lookup(ref string) ([]entry, entry, error) {
	entries, err := s.readIndex()
	if err != nil {
		return nil, entry{}, err
	}
	e, err := find(entries, ref)
	return entries, e, err
}

// find picks the descriptor that a reference means.
func find(entries []entry, ref string) (entry, error) {
	for _, e := range entries {
		// A name that another tool gave may be any string.
		if e.name == ref && ref != "" {
			return e, nil
		}
	}
	if parsed, err := image.ParseReference(ref); err == nil {
		if e, ok := findNamed(entries, parsed); ok {
			return e, nil
		}
	}
	hex, typed := strings.CutPrefix(ref, "sha256:")
	if hex != "" && strings.Trim(hex, "0123456789abcdef") == "" {
		return findID(entries, ref, hex, typed)
	}
	if _, err := image.ParseReference(ref); err != nil {
		return entry{}, err
	}
	return entry{}, fmt.Errorf("%w: %s", image.ErrNotFound, ref)
}

func findNamed(entries []entry, r image.Reference) (entry, bool) {
	want := r.String()
	if r.Digest == "" {
		for _, e := range entries {
			if e.name == want {
				return e, true
			}
		}
		return entry{}, false
	}
	// With a digest the tag is decoration, as in Docker.
	for _, e := range entries {
		if e.source == r.Repo()+"@"+r.Digest {
			return e, true
		}
	}
	for _, e := range entries {
		if string(e.desc.Digest) == r.Digest && strings.HasPrefix(e.name, r.Repo()+":") {
			return e, true
		}
	}
	return entry{}, false
}

// findID looks for the beginning of an ID; a whole digest may also be that of
// the manifest, or of the index that the image was pulled by.
func findID(entries []entry, ref, hex string, typed bool) (entry, error) {
	var found entry
	for _, e := range entries {
		if e.id == "" || !strings.HasPrefix(e.id.Encoded(), hex) {
			continue
		}
		if found.id != "" && found.id != e.id {
			return entry{}, fmt.Errorf("%w: several IDs start with %s", image.ErrAmbiguous, ref)
		}
		if found.id == "" || found.name == "" {
			found = e
		}
	}
	if found.id != "" {
		return found, nil
	}
	if typed && len(hex) == 64 {
		for _, e := range entries {
			if string(e.desc.Digest) == ref || strings.HasSuffix(e.source, "@"+ref) {
				return e, nil
			}
		}
	}
	return entry{}, fmt.Errorf("%w: %s", image.ErrNotFound, ref)
}

// entryID is the ID of an entry; of one that another tool made, it stands in
// the manifest.
func (s *Store) entryID(e entry) (digest.Digest, error) {
	if e.id != "" {
		return e.id, nil
	}
	m, err := s.readManifest(e.desc)
	if err != nil {
		return "", err
	}
	return m.Config.Digest, nil
}

func (s *Store) readManifest(d ocispec.Descriptor) (ocispec.Manifest, error) {
	if isIndexType(d.MediaType) {
		return ocispec.Manifest{}, fmt.Errorf("read image %s: %w: it is an index of several platforms", d.Digest, ErrNotUnpacked)
	}
	b, err := s.readSmall(d.Digest)
	if err != nil {
		return ocispec.Manifest{}, fmt.Errorf("read manifest: %w", err)
	}
	return ParseManifest(b)
}

// load reads what Image holds of one entry.
func (s *Store) load(entries []entry, e entry) (image.Image, error) {
	m, err := s.readManifest(e.desc)
	if err != nil {
		return image.Image{}, err
	}
	b, err := s.readSmall(m.Config.Digest)
	if err != nil {
		return image.Image{}, fmt.Errorf("read image config: %w", err)
	}
	img := image.Image{ID: m.Config.Digest, Manifest: e.desc, OCIManifest: e.desc}
	if e.oci != (ociManifest{}) {
		o := &img.OCIManifest
		o.MediaType, o.Digest, o.Size = ocispec.MediaTypeImageManifest, e.oci.digest, e.oci.size
	}
	if img.Config, err = ParseConfig(b); err != nil {
		return image.Image{}, err
	}
	if img.Healthcheck, err = image.ParseHealthcheck(b); err != nil {
		return image.Image{}, fmt.Errorf("decode image config: %w", err)
	}
	if img.Config.Created != nil {
		img.Created = *img.Config.Created
	}
	s.nameImage(&img, entries, e)
	var missing digest.Digest
	img.Layers, missing = s.layers(img.Config.RootFS.DiffIDs, e.sizes)
	if missing != "" {
		return img, fmt.Errorf("image %s: %w: layer %s is missing", describe(e), ErrNotUnpacked, missing)
	}
	for _, l := range img.Layers {
		img.Size += l.Size
	}
	return img, nil
}

// nameImage collects all names of the image.
func (s *Store) nameImage(img *image.Image, entries []entry, self entry) {
	seen := make(map[string]bool)
	for _, o := range entries {
		if o.desc.Digest != self.desc.Digest && (o.id == "" || o.id != img.ID) {
			continue
		}
		if o.name != "" {
			img.Names = append(img.Names, o.name)
		}
		if o.source != "" && !seen[o.source] {
			seen[o.source] = true
			img.RepoDigests = append(img.RepoDigests, o.source)
		}
	}
	sort.Strings(img.Names)
	sort.Strings(img.RepoDigests)
}

func describe(e entry) string {
	if e.name != "" {
		return image.Familiar(e.name)
	}
	if e.id != "" {
		return image.ShortID(e.id)
	}
	return string(e.desc.Digest)
}

// List returns all images, newest first, each once. An image that cannot be
// read is left out and reported in the error, beside the others.
func (s *Store) List() ([]image.Image, error) {
	entries, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	var out []image.Image
	var errs []error
	seen := make(map[digest.Digest]bool)
	for _, e := range entries {
		if e.id != "" && seen[e.id] {
			continue
		}
		img, err := s.load(entries, e)
		if err != nil && !errors.Is(err, ErrNotUnpacked) {
			errs = append(errs, err)
			continue
		}
		if img.ID == "" || seen[img.ID] {
			continue
		}
		seen[img.ID] = true
		out = append(out, img)
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].Created.After(out[j].Created) })
	return out, errors.Join(errs...)
}

// ParseManifest reads an image manifest, of OCI or of Docker's schema 2, whose
// fields are the same, and judges it.
func ParseManifest(b []byte) (ocispec.Manifest, error) {
	var m ocispec.Manifest
	if err := lazyjson.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("decode image manifest: %w", err)
	}
	if m.SchemaVersion != 2 {
		return m, fmt.Errorf("decode image manifest: schema version %d is not supported (2 is)", m.SchemaVersion)
	}
	if isIndexType(m.MediaType) {
		return m, errors.New("decode image manifest: it is an index of manifests")
	}
	for _, d := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		if err := CheckDescriptor(d); err != nil {
			return m, fmt.Errorf("decode image manifest: %w", err)
		}
	}
	return m, nil
}

// ParseConfig reads an image config and judges its list of layers.
func ParseConfig(b []byte) (ocispec.Image, error) {
	var c ocispec.Image
	if err := lazyjson.Unmarshal(b, &c); err != nil {
		return c, fmt.Errorf("decode image config: %w", err)
	}
	if c.RootFS.Type != "" && c.RootFS.Type != "layers" {
		return c, fmt.Errorf("decode image config: root file system of type %q is not supported", c.RootFS.Type)
	}
	for _, d := range c.RootFS.DiffIDs {
		if !isSHA256(d) {
			return c, fmt.Errorf("decode image config: layer digest %q is not sha256", d)
		}
	}
	return c, nil
}

// CheckDescriptor refuses what cannot name a blob of this store.
func CheckDescriptor(d ocispec.Descriptor) error {
	if !isSHA256(d.Digest) {
		return fmt.Errorf("digest %q is not sha256", d.Digest)
	}
	if d.Size < 0 {
		return fmt.Errorf("blob %s has size %d", d.Digest, d.Size)
	}
	return nil
}

func isSHA256(d digest.Digest) bool {
	// digest.Validate runs two regular expressions, which is felt in Resolve.
	hex, ok := strings.CutPrefix(string(d), "sha256:")
	return ok && len(hex) == 64 && strings.Trim(hex, "0123456789abcdef") == ""
}

// The media types of Docker's schema 2, which registries still give.
const (
	MediaTypeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	mediaTypeDockerLayer    = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	mediaTypeDockerConfig   = "application/vnd.docker.container.image.v1+json"
)

func isIndexType(t string) bool {
	return t == ocispec.MediaTypeImageIndex || t == MediaTypeDockerList
}

// ParseIndex reads an OCI index or a Docker manifest list and judges it.
func ParseIndex(b []byte) (ocispec.Index, error) {
	var idx ocispec.Index
	if err := lazyjson.Unmarshal(b, &idx); err != nil {
		return idx, fmt.Errorf("decode image index: %w", err)
	}
	if idx.SchemaVersion != 2 {
		return idx, fmt.Errorf("decode image index: schema version %d is not supported (2 is)", idx.SchemaVersion)
	}
	for _, d := range idx.Manifests {
		if err := CheckDescriptor(d); err != nil {
			return idx, fmt.Errorf("decode image index: %w", err)
		}
	}
	return idx, nil
}

// SniffManifest tells the media type of a manifest from its content: by its
// own word, else by what it has. It is empty if neither helps.
func SniffManifest(b []byte) (string, error) {
	var m struct {
		MediaType string
		Config    *ocispec.Descriptor
		Manifests *[]ocispec.Descriptor
	}
	if err := lazyjson.Unmarshal(b, &m); err != nil {
		return "", fmt.Errorf("decode manifest: %w", err)
	}
	switch {
	case m.MediaType != "":
		return m.MediaType, nil
	case m.Manifests != nil:
		return ocispec.MediaTypeImageIndex, nil
	case m.Config != nil:
		return ocispec.MediaTypeImageManifest, nil
	}
	return "", nil
}
