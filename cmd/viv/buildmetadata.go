package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image"
)

// writeMetadata writes what --metadata-file gets, with the names that docker buildx uses.
func writeMetadata(name string, img image.Image) error {
	var m struct {
		Config     string            `json:"containerimage.config.digest,omitempty"`
		Descriptor *ispec.Descriptor `json:"containerimage.descriptor,omitempty"`
		Digest     string            `json:"containerimage.digest,omitempty"`
		Names      string            `json:"image.name,omitempty"`
	}
	if img.ID != "" {
		d := ispec.Descriptor{MediaType: img.OCIManifest.MediaType, Digest: img.OCIManifest.Digest, Size: img.OCIManifest.Size, Platform: img.OCIManifest.Platform}
		m.Config, m.Descriptor, m.Digest = string(img.ID), &d, string(d.Digest)
		m.Names = strings.Join(img.RepoTags(), ",")
	}
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("encode build result metadata: %w", err)
	}
	if err := os.WriteFile(name, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("write build result metadata: %w", err)
	}
	return nil
}

// annotationsOf reads --annotation [manifest:]KEY=VALUE.
func annotationsOf(list []string) (map[string]string, error) {
	plain := make([]string, 0, len(list))
	for _, s := range list {
		key, _, _ := strings.Cut(s, "=")
		switch where, _, _ := strings.Cut(key, ":"); where {
		case "manifest":
			plain = append(plain, strings.TrimPrefix(s, "manifest:"))
		case "index", "manifest-descriptor", "index-descriptor":
			return nil, usagef("--annotation %s: only the image's manifest can be annotated, not its %s", s, where)
		default:
			plain = append(plain, s)
		}
	}
	out, err := pairsOf(plain, false)
	if err != nil {
		return nil, usagef("--annotation: %v", err)
	}
	return out, nil
}
