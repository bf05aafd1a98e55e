package store

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"vivarium/layer"
)

// sealOne makes a layer of one file, and the record of the step that made it.
func sealOne(t *testing.T, s *Store, key digest.Digest, content string) Step {
	t.Helper()
	ctx := context.Background()
	tx, err := s.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	tree, err := tx.NewTree(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(tree.Upper()+"/file", []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	sealed, err := tree.Seal(ctx, layer.SettleOptions{NotAfter: time.Unix(1700000000, 0)})
	if err != nil {
		t.Fatal(err)
	}
	st := Step{Key: key, DiffID: sealed.DiffID, Blob: sealed.Blob, Size: sealed.Size, Created: time.Now(), Name: "RUN x"}
	if err := tx.Publish(ctx, []Step{st}); err != nil {
		t.Fatal(err)
	}
	return st
}

// TestSteps: what a step made is found by its key, garbage collection keeps it as long
// as the record is there, and pruning gives all of it back.
func TestSteps(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	one, two := digest.FromString("one"), digest.FromString("two")
	a, b := sealOne(t, s, one, "same"), sealOne(t, s, two, "same")
	if a.DiffID != b.DiffID || a.Blob.Digest != b.Blob.Digest || a.Size != 4 {
		t.Errorf("the same content was sealed as %+v and as %+v", a, b)
	}
	if c, err := s.GC(ctx); err != nil || len(c.Layers)+len(c.Blobs) > 0 {
		t.Errorf("garbage collection took %+v (%v)", c, err)
	}
	find := func(key digest.Digest) bool {
		tx, err := s.Begin(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Close()
		_, tree, ok := tx.FindStep(ctx, key)
		if ok {
			if c, err := os.ReadFile(filepath.Join(tree, "file")); err != nil || string(c) != "same" {
				t.Errorf("the step's file has %q (%v)", c, err)
			}
		}
		return ok
	}
	if !find(one) || find(digest.FromString("three")) {
		t.Error("the wrong steps were found")
	}
	gone, c, err := s.PruneSteps(ctx, func(st Step) bool { return st.Key == one })
	if err != nil || len(gone) != 1 || len(c.Layers) != 0 || find(one) || !find(two) {
		t.Errorf("after the first prune: %v %+v %v", gone, c, err)
	}
	if err := os.WriteFile(s.stepPath(digest.FromString("damaged")), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	gone, c, err = s.PruneSteps(ctx, func(Step) bool { return true })
	if err != nil || len(gone) != 1 || len(c.Layers) != 1 || len(c.Blobs) != 1 {
		t.Errorf("after the second prune: %v %+v %v", gone, c, err)
	}
	if left, _ := os.ReadDir(s.stepsDir()); len(left) != 0 {
		t.Errorf("%d records are left", len(left))
	}
}

// TestCacheDir: a directory outlives its user, a private one is not shared, and one that
// is used is not removed.
func TestCacheDir(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	fills := 0
	take := func(how CacheSharing) (string, func() error) {
		t.Helper()
		dir, release, err := s.CacheDir(ctx, "../id", how, func(string) error { fills++; return nil })
		if err != nil {
			t.Fatal(err)
		}
		return dir, release
	}
	one, release := take(CacheShared)
	two, releaseTwo := take(CacheShared)
	private, releasePrivate := take(CachePrivate)
	if one != two || one == private || filepath.Dir(one) != s.cachesDir() || fills != 2 {
		t.Errorf("the directories are %s, %s and %s, filled %d times", one, two, private, fills)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, _, err := s.CacheDir(cancelled, "../id", CacheLocked, nil); err == nil {
		t.Error("a lock that others hold was taken")
	}
	list, err := s.Caches()
	if err != nil || len(list) != 2 {
		t.Fatalf("there are %v (%v)", list, err)
	}
	for _, u := range list {
		if ok, err := s.RemoveCache(u); ok || err != nil {
			t.Errorf("%s is used, and was removed: %v %v", u.Name, ok, err)
		}
	}
	for _, r := range []func() error{release, releaseTwo, releasePrivate} {
		if err := r(); err != nil {
			t.Error(err)
		}
	}
	for _, u := range list {
		if ok, err := s.RemoveCache(u); !ok || err != nil {
			t.Errorf("%s is not used, and was not removed: %v %v", u.Name, ok, err)
		}
	}
	if left, _ := os.ReadDir(s.cachesDir()); len(left) != 0 {
		t.Errorf("%d files are left", len(left))
	}
}
