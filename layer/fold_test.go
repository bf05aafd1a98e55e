package layer

import (
	"archive/tar"
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// folded makes one layer of the upper ones.
func folded(t testing.TB, upper, below []string) string {
	t.Helper()
	dst := t.TempDir()
	if err := Fold(context.Background(), openDir(t, dst), upper, below); err != nil {
		t.Fatal(err)
	}
	return dst
}

func merged(t testing.TB, layers ...string) string {
	t.Helper()
	dst := t.TempDir()
	if err := Merge(context.Background(), openDir(t, dst), layers); err != nil {
		t.Fatal(err)
	}
	return describe(t, dst)
}

func TestFold(t *testing.T) {
	needRoot(t)
	low := applied(t, nil, dir("d"), file("d/a", "1"), file("d/b", "1"), dir("o"), file("o/x", "1"), file("f", "1"))
	one := applied(t, []string{low}, dir("d"), file("d/a", "2"), file("temporary", "x"), dir("t"), file("t/in", ""), hard("h", "temporary"),
		dir("o"), whiteout("o/.wh..wh..opq"), file("o/y", "2"))
	two := applied(t, []string{one, low}, whiteout(".wh.temporary"), whiteout(".wh.t"), dir("d"), whiteout("d/.wh.b"), whiteout(".wh.f"), dir("f"), file("f/in", "3"))
	got := folded(t, []string{two, one}, []string{low})
	want := lines("d 755 0:0 dir", `d/a 644 0:0 "2"`, "f 755 0:0 dir", `f/in 644 0:0 "3"`, `h 644 0:0 "x"`, "o 755 0:0 dir opaque", `o/y 644 0:0 "2"`)
	var files []string
	for _, l := range strings.Split(describe(t, got), "\n") {
		if !strings.HasPrefix(l, "d/b ") { // the whiteout
			files = append(files, l)
		}
	}
	if have := strings.Join(files, "\n"); have != want {
		t.Errorf("got\n%s\nwant\n%s", have, want)
	}
	if a, b := merged(t, two, one, low), merged(t, got, low); a != b {
		t.Errorf("above the layer below it looks like\n%s\nand should like\n%s", b, a)
	}
	if list := changes(t, got, low); strings.Contains(list, "temporary") || !strings.Contains(list, "D /d/b") || !strings.Contains(list, "D /o/x") {
		t.Errorf("the layer changes %s", list)
	}
}

// randomLayer is a layer of few names, with all that can happen to each.
func randomLayer(t testing.TB, r *rand.Rand, parents []string) string {
	var ents []ent
	var visit func(name string, depth int)
	visit = func(name string, depth int) {
		at, base := splitName(name)
		switch kind := r.IntN(7); {
		case kind == 0:
			ents = append(ents, file(name, strings.Repeat("x", r.IntN(5))))
		case kind == 1:
			ents = append(ents, whiteout(joinName(at, ".wh."+base)))
		case kind < 5:
			ents = append(ents, ent{t: tar.TypeDir, name: name, mode: 0o700 + int64(r.IntN(8))})
			if kind == 2 {
				ents = append(ents, whiteout(name+"/.wh..wh..opq"))
			}
			if depth < 3 {
				for _, n := range []string{"a", "b"} {
					visit(name+"/"+n, depth+1)
				}
			}
		}
	}
	for _, n := range []string{"a", "b", "c"} {
		visit(n, 0)
	}
	return applied(t, parents, ents...)
}

// TestFoldRandom folds random stacks: what is seen stays the same.
func TestFoldRandom(t *testing.T) {
	needRoot(t)
	r := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		var stack []string // top-most first
		for range 5 {
			stack = append([]string{randomLayer(t, r, stack)}, stack...)
		}
		cut := 1 + r.IntN(5)
		upper, below := stack[:cut], stack[cut:]
		if got, want := merged(t, append([]string{folded(t, upper, below)}, below...)...), merged(t, stack...); got != want {
			t.Fatalf("of %d layers, the upper %d folded look like\n%s\nand should like\n%s", len(stack), cut, got, want)
		}
		if again := folded(t, []string{folded(t, upper, below)}, below); describe(t, again) != describe(t, folded(t, slices.Clone(upper), below)) {
			t.Fatal("folding one layer changes it")
		}
	}
}
