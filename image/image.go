package image

import (
	"errors"
	"sort"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Errors of looking an image up. Test with errors.Is.
var (
	ErrNotFound  = errors.New("no such image")
	ErrAmbiguous = errors.New("image ID is ambiguous")
)

// Image is one image of the store.
type Image struct {
	ID          digest.Digest // of the config, as Docker's image ID
	Names       []string      // full names: docker.io/library/ubuntu:latest
	RepoDigests []string      // full names with the digest that the registry gave
	Manifest    ocispec.Descriptor
	OCIManifest ocispec.Descriptor // the same with OCI's media types, for those who read no others
	Config      ocispec.Image
	Healthcheck *Healthcheck // which Config cannot hold
	Layers      []Layer      // bottom-most first
	Created     time.Time
	Size        int64 // bytes of all layers, unpacked
}

// Layer is one unpacked layer.
type Layer struct {
	DiffID digest.Digest
	Dir    string // the tree, which is a lower directory for overlay
	Size   int64  // bytes of its files
}

// LowerDirs are the layers' trees, top-most first, as unionfs wants them.
func (i Image) LowerDirs() []string {
	out := make([]string, 0, len(i.Layers))
	for n := len(i.Layers) - 1; n >= 0; n-- {
		out = append(out, i.Layers[n].Dir)
	}
	return out
}

// RepoTags are the names as Docker prints them, sorted.
func (i Image) RepoTags() []string { return familiarAll(i.Names) }

// FamiliarDigests are the RepoDigests as Docker prints them, sorted.
func (i Image) FamiliarDigests() []string { return familiarAll(i.RepoDigests) }

func familiarAll(names []string) []string {
	out := make([]string, 0, len(names))
	for _, n := range names {
		out = append(out, Familiar(n))
	}
	sort.Strings(out)
	return out
}

// ShortID is the first twelve digits of an ID.
func ShortID(id digest.Digest) string {
	hex := strings.TrimPrefix(string(id), "sha256:")
	return hex[:min(12, len(hex))]
}

// ChainIDs gives each layer its chain ID, bottom-most first: a digest of the
// layer and all below it (image-spec, config.md).
func ChainIDs(diffIDs []digest.Digest) []digest.Digest {
	out := make([]digest.Digest, len(diffIDs))
	for i, d := range diffIDs {
		if i == 0 {
			out[i] = d
			continue
		}
		out[i] = digest.FromString(string(out[i-1]) + " " + string(d))
	}
	return out
}
