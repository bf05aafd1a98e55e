package build

import (
	"context"
	"fmt"
	"os"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image/store"
	"vivarium/layer"
)

// Squash says which layers of the image become one.
type Squash int

// What can be squashed.
const (
	SquashNone Squash = iota
	SquashNew         // what the build made, above the layers of the base image
	SquashAll         // all but the lowest Options.Keep layers
)

// SquashImage makes an image of the one that o.Image finds by ref, with layers squashed as
// the options say, and puts it into the store.
func SquashImage(ctx context.Context, o Options, ref string) (Result, error) {
	b := newBuilder(&o)
	b.f = &file{}
	var err error
	if b.t, err = o.Store.Begin(ctx); err != nil {
		return Result{}, err
	}
	defer b.t.Close()
	f, err := b.image(ctx, ref, &o.Platform)
	if err != nil {
		return Result{}, err
	}
	st := newStage(b, &stageDef{}, false)
	st.chain, st.layers, st.config = f.chain, slices.Clone(f.layers), cloneConfig(f.config)
	return b.finish(ctx, st)
}

// squash makes one layer of those of a stage. It is a step like others, and so found in
// the cache.
func (s *stage) squash(ctx context.Context) error {
	keep := s.b.o.Keep
	if s.b.o.Squash == SquashNew {
		for keep = 0; keep < len(s.layers) && s.layers[keep].made == nil; keep++ {
		}
	}
	if keep > len(s.layers) {
		return fmt.Errorf("squash above %d layers: the image has %d", keep, len(s.layers))
	}
	below, upper := s.layers[:keep], s.layers[keep:]
	if len(upper) < 2 {
		return nil
	}
	st := s.b.report.begin(fmt.Sprintf("squashing %d layers", len(upper)))
	h := newHasher("squash")
	h.add(string(s.chain), fmt.Sprint(keep))
	m, err := s.b.makeLayer(ctx, st, h.sum(), trees(below), func(ctx context.Context, tree *store.Tree) (bool, error) {
		dst, err := os.Open(tree.Upper())
		if err != nil {
			return false, err
		}
		defer dst.Close()
		return true, layer.Fold(ctx, dst, trees(upper), trees(below))
	})
	st.end(err == nil && m.cached, err)
	if err != nil {
		return fmt.Errorf("squash layers: %w", err)
	}
	s.config.History = squashedHistory(completeHistory(s.config.History, len(s.layers)), keep)
	s.layers = append(below[:keep:keep], layerRef{tree: m.tree, made: m})
	created := m.created
	s.config.History = append(s.config.History, ocispec.History{Created: &created, Comment: fmt.Sprintf("merge of %d layers", len(upper))})
	return nil
}

// squashedHistory keeps the lines, but only the first of those that speak of layers still do.
func squashedHistory(list []ocispec.History, keep int) []ocispec.History {
	var out []ocispec.History
	for _, h := range list {
		if !h.EmptyLayer {
			h.EmptyLayer = keep <= 0
			keep--
		}
		out = append(out, h)
	}
	return out
}
