package engine

import (
	"context"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image"
	"vivarium/image/build"
)

// SquashOptions say how an image is squashed.
type SquashOptions struct {
	Names []string // that the new image gets
	Base  string   // image whose layers stay as they are; empty: none
}

// Squash makes an image with the same files and settings that has one layer, or one
// above the layers of the base. The image itself stays.
func (e *Engine) Squash(ctx context.Context, ref string, opt SquashOptions) (image.Image, error) {
	if ref == hostImage || opt.Base == hostImage {
		return image.Image{}, errorf(ErrInvalid, "the image %q is this machine, and has no layers", hostImage)
	}
	names, err := fullNames(opt.Names)
	if err != nil {
		return image.Image{}, err
	}
	s, err := e.images()
	if err != nil {
		return image.Image{}, err
	}
	img, err := s.Resolve(ref)
	if err != nil {
		return img, imageError(ref, err)
	}
	o := build.Options{Names: names, Store: s, Squash: build.SquashAll, Platform: img.Config.Platform}
	if opt.Base != "" {
		base, err := s.Resolve(opt.Base)
		if err != nil {
			return base, imageError(opt.Base, err)
		}
		if o.Keep = len(base.Layers); !standsOn(img, base) {
			return img, errorf(ErrInvalid, "image %s does not begin with the layers of %s", ref, opt.Base)
		}
	}
	o.Image = func(context.Context, string, *ispec.Platform) (image.Image, error) { return img, nil }
	res, err := build.SquashImage(ctx, o, ref)
	if err != nil {
		return image.Image{}, err
	}
	for _, n := range names {
		e.emit(objectEvent("image", "tag", string(res.Image.ID), map[string]string{"name": image.Familiar(n)}))
	}
	return res.Image, nil
}

// standsOn tells whether the lowest layers of an image are those of another one.
func standsOn(img, base image.Image) bool {
	if len(base.Layers) > len(img.Layers) {
		return false
	}
	for i, l := range base.Layers {
		if img.Layers[i].DiffID != l.DiffID {
			return false
		}
	}
	return true
}
