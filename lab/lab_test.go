package lab_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vivarium/internal/testenv"
	"vivarium/lab"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// options run experiments with an engine of the test's own.
func options(t *testing.T) lab.Options {
	t.Helper()
	testenv.Root(t)
	e := testenv.Engine(t)
	if len(e.Root) == 0 {
		t.Fatal("no engine")
	}
	return lab.Options{Viv: []string{testenv.Binary(t, "viv"), "--root", e.Root, "--state", e.State}, Lang: "en"}
}

// clean checks that no directory, mount or control group of an experiment is left.
func clean(t *testing.T) {
	t.Helper()
	for _, pattern := range []string{os.TempDir() + "/viv-lab-*", "/sys/fs/cgroup/viv-lab-*", "/sys/fs/cgroup/*/viv-lab-*"} {
		if left, _ := filepath.Glob(pattern); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}
	if groups, err := os.ReadFile("/proc/self/cgroup"); err != nil || strings.Contains(string(groups), "viv-lab-") {
		t.Errorf("a hierarchy is left: %s %v", groups, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), "viv-lab-") {
		t.Errorf("a mount is left, or not to be seen: %v", err)
	}
}

// TestExperiments: each shows what it should, and does not when what it is about is
// left out.
func TestExperiments(t *testing.T) {
	o := options(t)
	for _, e := range lab.Experiments() {
		t.Run(e.ID, func(t *testing.T) {
			if err := e.Run(t.Context(), o); err != nil {
				t.Error(err)
			}
			without := o
			without.Without = true
			if err := e.Run(t.Context(), without); !errors.Is(err, lab.ErrNotShown) {
				t.Errorf("without what it is about: %v", err)
			}
			clean(t)
		})
	}
}

// TestInterrupted: wherever one is cut off, it cleans up.
func TestInterrupted(t *testing.T) {
	o := options(t)
	for _, id := range []string{"calls", "ipc", "tree", "memory", "program", "image", "union"} {
		e, ok := lab.Find(id)
		if !ok {
			t.Fatal(id)
		}
		for cut := range e.Steps {
			ctx, cancel := context.WithCancel(t.Context())
			n := 0
			o.After = func(lab.Done) {
				if n++; n > cut {
					cancel()
				}
			}
			err := e.Run(ctx, o)
			cancel()
			if cut < len(e.Steps)-1 && !errors.Is(err, context.Canceled) {
				t.Errorf("%s, cut off after step %d: %v", id, cut, err)
			}
			clean(t)
		}
	}
}

func TestTexts(t *testing.T) {
	seen := map[string]bool{}
	for _, e := range lab.Experiments() {
		if seen[e.ID] {
			t.Errorf("two experiments are called %s", e.ID)
		}
		seen[e.ID] = true
		texts := []lab.Text{e.Title, e.About}
		for _, s := range e.Steps {
			texts = append(texts, s.Say)
		}
		for _, text := range texts {
			if text.EN == "" || text.ZH == "" || text.In("zh") != text.ZH || text.In("en") != text.EN || text.In("fr") != text.EN {
				t.Errorf("%s: %+v", e.ID, text)
			}
		}
	}
	if _, ok := lab.Find("moon"); ok {
		t.Error("there is an experiment of the moon")
	}
}
