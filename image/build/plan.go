package build

import (
	"context"
	"errors"
	"strings"

	"github.com/opencontainers/go-digest"
)

// A cache from outside need not have the steps of all stages: what was copied out of a
// stage is enough. So before anything is carried out the keys of all steps are made, as far
// as that needs no step's files, and a stage of which only copies are wanted that the cache
// has is not carried out. If a layer turns out not to be there after all, it still is.

// plan is what is known of the stages before anything is carried out.
type plan struct {
	chains map[int]digest.Digest // of stages, by index: what their files will depend on
	wanted map[int]bool
}

// errUnplanned says that a key cannot be made without carrying out steps.
var errUnplanned = errors.New("only known when the stage is carried out")

// makePlan goes through the stages that the target needs without carrying anything out.
func (b *builder) makePlan(ctx context.Context) *plan {
	o := *b.o
	o.Progress = nil
	p := newBuilder(&o)
	p.dry, p.t, p.imports, p.images, p.sums = true, b.t, b.imports, b.images, b.sums
	target, err := p.read() // anew: instructions are changed by being carried out
	if err != nil {
		return nil
	}
	out := &plan{chains: map[int]digest.Digest{}, wanted: map[int]bool{}}
	wants := map[int][]*stageDef{}
	for _, d := range needed(target) {
		st := newStage(p, d, false)
		p.stages[d], p.current = st, st
		if st.err = st.run(ctx); st.err == nil {
			out.chains[d.index], wants[d.index] = st.chain, st.wants
		} else {
			wants[d.index] = d.after
		}
		close(st.done)
	}
	var want func(d *stageDef)
	want = func(d *stageDef) {
		if !out.wanted[d.index] {
			out.wanted[d.index] = true
			for _, dep := range wants[d.index] {
				want(dep)
			}
		}
	}
	want(target)
	return out
}

// planned stands for a layer that would be found or made.
func planned(key digest.Digest) *made {
	m := &made{key: key, ready: make(chan struct{}), sealed: make(chan struct{})}
	close(m.ready)
	close(m.sealed)
	return m
}

// knows tells whether the store or a cache from outside has a step.
func (b *builder) knows(ctx context.Context, key digest.Digest) bool {
	if _, _, ok := b.t.FindStep(ctx, key); ok {
		return true
	}
	for _, c := range b.imports {
		if st, ok := c.steps[key]; ok && st.Alias == "" {
			return true
		}
	}
	return false
}

// chainOf tells what the files of a stage or an image depend on, if need be when the stage
// has been carried out. local: from is a directory of this machine, which has no such thing.
func (b *builder) chainOf(ctx context.Context, from string) (chain digest.Digest, local bool, err error) {
	if from == "" || b.isLocal(from) {
		return "", true, nil
	}
	if _, ok := b.o.Contexts[strings.ToLower(from)]; !ok {
		if d := b.f.stage(from, false); d != nil {
			chain, err = b.chainOfStage(ctx, d)
			return chain, false, err
		}
	}
	if from == "scratch" {
		return newHasher("scratch").sum(), false, nil
	}
	chain, _, err = b.layersOf(ctx, from)
	return chain, false, err
}

func (b *builder) chainOfStage(ctx context.Context, d *stageDef) (digest.Digest, error) {
	if b.dry {
		if st := b.stages[d]; st != nil && st.err == nil {
			return st.chain, nil
		}
		return "", errUnplanned
	}
	if b.plan != nil && b.plan.chains[d.index] != "" {
		return b.plan.chains[d.index], nil
	}
	st, err := b.wait(ctx, d)
	if err != nil {
		return "", err
	}
	return st.chain, nil
}
