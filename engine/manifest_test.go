package engine

import (
	"fmt"
	"sync"
	"testing"
)

// TestManifestWriters: of several who add to one list at once, none is lost.
func TestManifestWriters(t *testing.T) {
	e := &Engine{Root: t.TempDir()}
	const name, writers = "example.com/list:latest", 16
	var all sync.WaitGroup
	for i := range writers {
		all.Go(func() {
			if err := e.addToManifest(name, []ManifestEntry{{Ref: fmt.Sprintf("example.com/image:%d", i)}}, true); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	l, err := e.ManifestList(name)
	if err != nil || len(l.Entries) != writers {
		t.Errorf("%v, %+v", err, l)
	}
	if err := e.addToManifest(name, nil, false); err != errManifestThere {
		t.Errorf("without amend: %v", err)
	}
}
