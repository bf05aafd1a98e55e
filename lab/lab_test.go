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

// left tells what is left of experiments whose directories were in dir: directories,
// and groups, hierarchies and mounts by those names.
func left(t *testing.T, dir string, names []string) []string {
	t.Helper()
	out, err := filepath.Glob(dir + "/viv-lab-*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		for _, pattern := range []string{"/sys/fs/cgroup/" + name + "*", "/sys/fs/cgroup/*/" + name + "*"} {
			groups, _ := filepath.Glob(pattern)
			out = append(out, groups...)
		}
		for _, file := range []string{"/proc/self/cgroup", "/proc/self/mountinfo"} {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(b), name) {
				out = append(out, name+" in "+file)
			}
		}
	}
	return out
}

// watch notes the name of an experiment's directory when it has begun.
func watch(o *lab.Options, names *[]string) {
	before := o.Before
	o.Before = func(d lab.Done) error {
		dirs, _ := filepath.Glob(os.TempDir() + "/viv-lab-*")
		for _, dir := range dirs {
			*names = append(*names, filepath.Base(dir))
		}
		if before != nil {
			return before(d)
		}
		return nil
	}
}

// TestExperiments: each shows what it should, and does not when what it is about is
// left out; also what is shown where the kernel cannot do the experiment itself.
func TestExperiments(t *testing.T) {
	o := options(t)
	inVM := os.Getenv("VIV_TEST_VM") != ""
	for _, e := range lab.Experiments() {
		for _, nearest := range []bool{false, true} {
			name := e.ID
			if nearest {
				if e.Instead == nil || !unified(t) {
					continue
				}
				name += "-nearest"
			}
			t.Run(name, func(t *testing.T) {
				o := o
				o.Nearest = nearest
				why := ""
				o.Why = func(s string) { why = s }
				var names []string
				watch(&o, &names)
				if err := e.Run(t.Context(), o); err != nil {
					t.Error(err)
				}
				if nearest == (why == "") {
					t.Errorf("why something else is shown: %q", why)
				}
				if !inVM { // where it takes ten times as long
					o.Without = true
					if err := e.Run(t.Context(), o); !errors.Is(err, lab.ErrNotShown) || strings.Contains(err.Error(), "clean up") {
						t.Errorf("without what it is about: %v", err)
					}
				}
				if l := left(t, os.TempDir(), names); len(names) == 0 || len(l) > 0 {
					t.Errorf("left of %v: %v", names, l)
				}
			})
		}
	}
}

// unified says whether there is a v2 hierarchy.
func unified(t *testing.T) bool {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(b), " - cgroup2 ")
}

// TestInterrupted: wherever one is cut off, it cleans up.
func TestInterrupted(t *testing.T) {
	o := options(t)
	if os.Getenv("VIV_TEST_VM") != "" {
		t.Skip("says nothing of the kernel, and takes a minute here")
	}
	for _, id := range []string{"calls", "ipc", "tree", "cgroup", "program", "union"} {
		e, ok := lab.Find(id)
		if !ok {
			t.Fatal(id)
		}
		for cut := range e.Steps {
			ctx, cancel := context.WithCancel(t.Context())
			n := 0
			o.Before = nil
			o.After = func(lab.Done) {
				if n++; n > cut {
					cancel()
				}
			}
			var names []string
			watch(&o, &names)
			err := e.Run(ctx, o)
			cancel()
			if cut < len(e.Steps)-1 && !errors.Is(err, context.Canceled) || err != nil && err.Error() != context.Canceled.Error() {
				t.Errorf("%s, cut off after step %d: %v", id, cut, err)
			}
			if l := left(t, os.TempDir(), names); len(names) == 0 || len(l) > 0 {
				t.Errorf("%s, cut off after step %d: left of %v: %v", id, cut, names, l)
			}
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
		texts, steps := []lab.Text{e.Title, e.About}, e.Steps
		if e.Instead != nil {
			texts, steps = append(texts, e.Instead.Why), append(steps, e.Instead.Steps...)
		}
		for _, s := range steps {
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
