package engine

import (
	"context"
	"testing"

	"vivarium/bundle"
)

// BenchmarkPlan is the engine's own work on the way of a run, without what it
// writes and without the processes it starts.
func BenchmarkPlan(b *testing.B) {
	dir := b.TempDir()
	e, err := Open(dir+"/root", dir+"/state")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		o := bundle.Options{Config: bundle.Config{Image: hostImage, Cmd: []string{"true"}}}
		o.HostConfig.NetworkMode = "none"
		r := &run{e: e, opt: RunOptions{Options: o}, dry: true}
		for _, stage := range []func(context.Context) error{r.resolveImage, r.makeRecord, r.makeSpec} {
			if err := stage(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
		s, err := r.standIns()
		if err != nil {
			b.Fatal(err)
		}
		if err := r.compile(b.Context()); err != nil {
			b.Fatal(err)
		}
		s.close()
		r.plan.Encode()
	}
}
