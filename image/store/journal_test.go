package store

import (
	"bytes"
	"context"
	"os"
	"testing"

	"github.com/opencontainers/go-digest"

	"vivarium/layer"
)

// abandon makes what a build has that was killed after a step and in the middle of
// another one, and gives its staging directory.
func abandon(t *testing.T, s *Store, key digest.Digest) string {
	t.Helper()
	ctx := context.Background()
	tx, err := s.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, done := range []bool{true, false} {
		tree, err := tx.NewTree(nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(tree.Upper()+"/file", []byte("of "+key), 0o644); err != nil {
			t.Fatal(err)
		}
		if !done {
			continue
		}
		sealed, err := tree.Seal(ctx, layer.SettleOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := tx.NoteStep(Step{Key: key, DiffID: sealed.DiffID, Blob: sealed.Blob, Size: sealed.Size}); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.NoteStep(Step{Key: digest.FromString("another name of " + string(key)), Alias: key}); err != nil {
		t.Fatal(err)
	}
	tx.lease.Close() // as the kernel does when the process ends
	return tx.dir
}

// TestStepsOfTheDead: what a killed build had finished is in the cache of the next
// change, and nothing else of it stays.
func TestStepsOfTheDead(t *testing.T) {
	replace := func(old, with string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			b, err := os.ReadFile(dir + "/" + journalName)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Contains(b, []byte(old)) {
				t.Fatalf("the journal has no %q: %s", old, b)
			}
			if err := os.WriteFile(dir+"/"+journalName, bytes.ReplaceAll(b, []byte(old), []byte(with)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		name   string
		damage func(*testing.T, string)
		found  bool
	}{
		{"whole", func(*testing.T, string) {}, true},
		{"a line that was cut off", func(t *testing.T, dir string) {
			f, err := os.OpenFile(dir+"/"+journalName, os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteString(`{"boot":"`); err != nil {
				t.Fatal(err)
			}
		}, true},
		{"another boot", replace(bootID(), "00000000-0000-0000-0000-000000000000"), false},
		{"a tree that is not there", replace(`"tree":"tree-1"`, `"tree":"tree-9"`), false},
		{"a tree of another layer", replace(`"tree":"tree-1"`, `"tree":"tree-2"`), false},
		{"a blob that is not there", replace(`"blob":"blob-`, `"blob":"none-`), false},
		{"a tree outside", replace(`"tree":"tree-1"`, `"tree":"../.."`), false},
		{"another format", replace(`"version":1`, `"version":99`), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := Open(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			key := digest.FromString("key")
			dir := abandon(t, s, key)
			c.damage(t, dir)
			tx, err := s.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			_, tree, ok := tx.FindStep(t.Context(), key)
			if ok != c.found {
				t.Errorf("the step was found: %v, want %v", ok, c.found)
			}
			if c.found {
				if b, err := os.ReadFile(tree + "/file"); err != nil || string(b) != "of "+string(key) {
					t.Errorf("the step's file has %q (%v)", b, err)
				}
				if to := tx.FindAlias(digest.FromString("another name of " + string(key))); to != key {
					t.Errorf("the alias leads to %q", to)
				}
			}
			if _, err := os.Stat(dir); !os.IsNotExist(err) {
				t.Errorf("the staging directory is still there: %v", err)
			}
			if err := tx.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := s.GC(t.Context()); err != nil {
				t.Fatal(err)
			}
			layers, _ := os.ReadDir(s.root + "/layers/sha256")
			blobs, _ := os.ReadDir(s.imagesDir() + "/blobs/sha256")
			want := 0
			if c.found {
				want = 1
			}
			if len(layers) != want || len(blobs) != want {
				t.Errorf("after garbage collection: %d layers and %d blobs, want %d", len(layers), len(blobs), want)
			}
		})
	}
}

// TestPruneStepsOfTheDead: a prune takes them with the others, though nobody looked at
// the cache before, and leaves those of a live build.
func TestPruneStepsOfTheDead(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	live, err := s.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	if err := live.NoteStep(Step{Key: digest.FromString("live"), Alias: digest.FromString("x")}); err != nil {
		t.Fatal(err)
	}
	abandon(t, s, digest.FromString("key"))
	gone, c, err := s.PruneSteps(t.Context(), func(Step) bool { return true })
	if err != nil || len(gone) != 2 || len(c.Layers) != 1 || len(c.Blobs) != 1 {
		t.Errorf("pruned %v and %+v (%v)", gone, c, err)
	}
	if !hasJournal(live.Dir()) {
		t.Error("the journal of a live build is gone")
	}
}

// TestStepsOfTheDeadAtOnce: several processes that find the same leavings agree.
func TestStepsOfTheDeadAtOnce(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	key := digest.FromString("key")
	for range 20 {
		abandon(t, s, key)
		errs := make(chan error)
		for i := range 4 {
			go func() {
				if i%2 == 0 {
					_, err := s.GC(t.Context())
					errs <- err
					return
				}
				tx, err := s.Begin(t.Context())
				if err == nil {
					err = tx.Close()
				}
				errs <- err
			}()
		}
		for range 4 {
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
		}
		tx, err := s.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, tree, ok := tx.FindStep(t.Context(), key)
		if b, err := os.ReadFile(tree + "/file"); !ok || err != nil || string(b) != "of "+string(key) {
			t.Fatalf("found: %v, the step's file has %q (%v)", ok, b, err)
		}
		tx.Close()
		if _, _, err := s.PruneSteps(t.Context(), func(Step) bool { return true }); err != nil {
			t.Fatal(err)
		}
	}
}
