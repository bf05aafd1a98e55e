package image

import (
	"errors"
	"fmt"
	"runtime"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ErrNoPlatform says that an image exists, but not for the platform asked for.
var ErrNoPlatform = errors.New("no image for this platform")

// DefaultPlatform is the machine's own.
func DefaultPlatform() ocispec.Platform {
	return normalize(ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH})
}

// ParsePlatform reads --platform: OS/ARCH[/VARIANT], or ARCH alone.
func ParsePlatform(s string) (ocispec.Platform, error) {
	if s == "" {
		return DefaultPlatform(), nil
	}
	parts := strings.Split(strings.ToLower(s), "/")
	for _, p := range parts {
		if p == "" || strings.Trim(p, "abcdefghijklmnopqrstuvwxyz0123456789._-") != "" {
			return ocispec.Platform{}, fmt.Errorf("parse platform %q: want OS/ARCH or OS/ARCH/VARIANT, for example linux/arm64/v8", s)
		}
	}
	var p ocispec.Platform
	switch len(parts) {
	case 1:
		if p = onePart(parts[0]); p.OS == "" {
			return p, fmt.Errorf("parse platform %q: unknown operating system or architecture", s)
		}
	case 2, 3:
		p = ocispec.Platform{OS: parts[0], Architecture: parts[1]}
		if len(parts) == 3 {
			p.Variant = parts[2]
		}
	default:
		return p, fmt.Errorf("parse platform %q: it has more than three parts", s)
	}
	if p.OS != "linux" {
		return p, fmt.Errorf("platform %q: only linux images can be run here", s)
	}
	return normalize(p), nil
}

// onePart reads a platform of one word, an operating system or an architecture;
// neither gives the zero Platform.
func onePart(word string) ocispec.Platform {
	switch word {
	case "linux":
		return ocispec.Platform{OS: word, Architecture: runtime.GOARCH}
	case "windows", "darwin", "freebsd":
		return ocispec.Platform{OS: word}
	}
	switch p := normalize(ocispec.Platform{OS: "linux", Architecture: word}); p.Architecture {
	case "386", "amd64", "arm", "arm64", "loong64", "mips", "mipsle", "mips64", "mips64le", "ppc64", "ppc64le", "riscv64", "s390x":
		return p
	}
	return ocispec.Platform{}
}

// normalize brings the names that people and old images use to Go's, and
// fills in the variant that an architecture without one means.
func normalize(p ocispec.Platform) ocispec.Platform {
	switch p.Architecture {
	case "x86_64", "x86-64":
		p.Architecture = "amd64"
	case "aarch64":
		p.Architecture = "arm64"
	case "armhf":
		p.Architecture, p.Variant = "arm", "v7"
	case "armel":
		p.Architecture, p.Variant = "arm", "v6"
	case "i386":
		p.Architecture = "386"
	}
	switch {
	case p.Architecture == "arm64" && (p.Variant == "8" || p.Variant == "v8"):
		p.Variant = ""
	case p.Architecture == "amd64" && p.Variant == "v1":
		p.Variant = ""
	case p.Architecture == "arm" && p.Variant == "":
		p.Variant = "v7"
	}
	return p
}

// PlatformString is OS/ARCH[/VARIANT].
func PlatformString(p ocispec.Platform) string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// ChoosePlatform picks the manifest of an index that fits best: the variant
// itself, or a lower one that the machine also runs (arm v6 on v7).
func ChoosePlatform(manifests []ocispec.Descriptor, want ocispec.Platform) (ocispec.Descriptor, error) {
	want = normalize(want)
	best, score := -1, 0
	var have []string
	for i, m := range manifests {
		if m.Platform == nil {
			continue
		}
		p := normalize(*m.Platform)
		if p.OS == "unknown" {
			continue // attestations
		}
		have = append(have, PlatformString(p))
		if s := fitness(p, want); s > score {
			best, score = i, s
		}
	}
	if best >= 0 {
		return manifests[best], nil
	}
	if len(manifests) == 1 && manifests[0].Platform == nil {
		return manifests[0], nil
	}
	return ocispec.Descriptor{}, fmt.Errorf("%w: want %s, it has %s", ErrNoPlatform, PlatformString(want), strings.Join(have, ", "))
}

func fitness(p, want ocispec.Platform) int {
	if p.OS != want.OS || p.Architecture != want.Architecture {
		return 0
	}
	if p.Variant == want.Variant {
		return 100
	}
	// Variants are v5, v6, v7, v8: a machine runs those before its own.
	if len(p.Variant) == 2 && len(want.Variant) == 2 && p.Variant < want.Variant {
		return 50 + int(p.Variant[1]-'0')
	}
	if p.Variant == "" {
		return 40
	}
	return 0
}
