package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image"
	"vivarium/image/registry"
	"vivarium/image/store"
	"vivarium/internal/kernel"
)

// parsePlatforms reads the platforms of a build, each once; it gives at least one.
func parsePlatforms(list []string) (out []ispec.Platform, err error) {
	for _, text := range list {
		for one := range strings.SplitSeq(text, ",") {
			p, err := image.ParsePlatform(one)
			if one == "" {
				err = fmt.Errorf("parse platforms %q: one of them is empty", text)
			}
			if err != nil {
				return nil, &Error{Kind: ErrInvalid, Msg: err.Error(), cause: err}
			}
			if !slices.ContainsFunc(out, func(o ispec.Platform) bool { return image.PlatformString(o) == image.PlatformString(p) }) {
				out = append(out, p)
			}
		}
	}
	if len(out) == 0 {
		out = []ispec.Platform{image.DefaultPlatform()}
	}
	return out, nil
}

// alsoNative are architectures whose programs processors of another one run themselves.
var alsoNative = map[string]string{"amd64": "386", "arm64": "arm"}

// canRun tells why programs of a platform cannot be run on this machine.
func canRun(p ispec.Platform) error {
	if p.Architecture == runtime.GOARCH || alsoNative[runtime.GOARCH] == p.Architecture {
		return nil
	}
	if err := kernel.Emulation(p.Architecture); err != nil {
		return &Error{Kind: ErrUnsupported, cause: err, Msg: "programs for " + image.PlatformString(p) + " cannot be run on " +
			image.PlatformString(image.DefaultPlatform()) + ": " + err.Error() + "; register qemu with binfmt_misc, or have this stage run on FROM --platform=$BUILDPLATFORM"}
	}
	return nil
}

// foreign finds a base image for a platform that is not this machine's. The name of the
// image goes on meaning what it means: what is pulled gets none.
func (b *baseImages) foreign(ctx context.Context, ref string, p ispec.Platform) (image.Image, error) {
	if !b.opt.Pull {
		img, err := forPlatform(b.s, ref, p)
		if err == nil || !errors.Is(err, image.ErrNotFound) && !errors.Is(err, image.ErrNoPlatform) {
			return img, err
		}
	}
	var res registry.Result
	err := b.e.pullFor(ctx, b.s, ref, PullOptions{Platform: image.PlatformString(p), Unnamed: true, Progress: &capture{orSilent(b.opt.PullProgress), &res}}, true)
	return res.Image, err
}

// forPlatform finds an image of the store: the one of that name, or one of its index.
func forPlatform(s *store.Store, ref string, p ispec.Platform) (image.Image, error) {
	img, err := s.Resolve(ref)
	if err == nil && matchPlatform(img, image.PlatformString(p), ref) == nil {
		return img, nil
	}
	if err != nil {
		return img, err
	}
	return s.ResolvePlatform(ref, p)
}
