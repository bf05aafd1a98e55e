package build

import (
	"context"
	"errors"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image"
	"vivarium/image/store"
)

// BuildPlatforms builds the target for each platform, one after the other, and puts the
// images and an index of them into the store. What a step made for one platform is used
// for the next if its key is the same. The result's image is the one for this machine, or
// else the first.
func BuildPlatforms(ctx context.Context, o Options, platforms []ocispec.Platform) (Result, error) {
	t, err := o.Store.Begin(ctx)
	if err != nil {
		return Result{}, err
	}
	defer t.Close()
	all := newBuilder(&o)
	all.t = t
	var spec store.IndexSpec
	var layers []layerRef
	for i, p := range platforms {
		own := o
		own.Platform = p
		b := all.next(&own, image.PlatformString(p)+" ", i > 0)
		res, used, err := b.buildOne(ctx)
		all.order, all.aliases, all.met = b.order, b.aliases, b.met
		if err != nil {
			return Result{}, errors.Join(err, all.keepSteps(ctx))
		}
		layers = append(layers, used...)
		if o.FilesOnly {
			continue
		}
		if _, err := t.PutBytes(res.Config); err != nil {
			return Result{}, errors.Join(err, all.keepSteps(ctx))
		}
		spec.Manifests = append(spec.Manifests, res.Manifest)
	}
	var res Result
	if o.FilesOnly {
		err = all.keepSteps(ctx)
	} else {
		spec.Names = o.Names
		if res.Image, err = t.CommitIndex(ctx, spec); err == nil {
			err = t.PutSteps(ctx, all.records())
		}
	}
	if err != nil {
		return res, err
	}
	return res, all.exportCaches(ctx, layers)
}

// next is a builder for one more platform, which has what the ones before it made.
func (b *builder) next(o *Options, label string, quiet bool) *builder {
	n := newBuilder(o)
	n.t, n.report, n.label = b.t, b.report, label
	n.steps, n.order, n.aliases, n.met, n.images = b.steps, b.order, b.aliases, b.met, b.images
	n.warn = n.report.warn
	if quiet { // its warnings were those of the first
		n.warn = func(*Warning) {}
	}
	return n
}

// buildOne carries out the stages, and gives image and layers of the target.
func (b *builder) buildOne(ctx context.Context) (res Result, layers []layerRef, err error) {
	target, err := b.read()
	if err != nil {
		return res, nil, err
	}
	st, err := b.carryOutStages(ctx, target)
	if err != nil {
		return res, nil, err
	}
	layers = st.layers
	res, err = b.produce(ctx, st)
	return res, layers, err
}
