package main

import (
	"bufio"
	"fmt"
	"slices"
	"strings"
	"testing"

	"vivarium/engine"
	"vivarium/unionfs/stack"
)

func TestLayerTree(t *testing.T) {
	r := &engine.LayersReport{Layers: make([]engine.LayerReport, 3), Changes: stack.Layers{Each: []stack.LayerChanges{
		{Added: []string{"a", "a/b", "a/b/one", "file", "turned", "turned/inner"}},
		{Added: []string{"a/two"}, Changed: []string{"a", "turned"}, Deleted: []string{"a/b", "file"}},
		{Added: []string{"file"}, Deleted: []string{"a/two"}},
	}}}
	isDir := func(layer int, name string) bool { return name != "turned" || layer == 0 }
	shown := func(layer int, changed bool) string {
		root := layerTree(r, layer, isDir)
		var open func(n *treeNode)
		open = func(n *treeNode) {
			n.open = true
			for _, k := range n.kids {
				open(k)
			}
		}
		open(root)
		var out []string
		for _, l := range root.lines(changed) {
			mark := "."
			if l.node.mark != 0 {
				mark = string(rune(l.node.mark))
			}
			out = append(out, fmt.Sprintf("%s%s@%d", mark, l.path, l.node.layer))
		}
		return strings.Join(out, " ")
	}
	for _, tt := range []struct {
		layer   int
		changed bool
		want    string
	}{
		{0, false, "Aa@0 Aa/b@0 Aa/b/one@0 Afile@0 Aturned@0 Aturned/inner@0"},
		{1, false, "Ca@1 Da/b@0 .a/b/one@0 Aa/two@1 Dfile@0 Cturned@1"},
		{1, true, "Ca@1 Da/b@0 Aa/two@1 Dfile@0 Cturned@1"},
		{2, false, ".a@1 Da/two@1 Afile@2 .turned@1"},
		{2, true, ".a@1 Da/two@1 Afile@2"},
	} {
		if got := shown(tt.layer, tt.changed); got != tt.want {
			t.Errorf("layer %d, changed %v:\n%s\nwant\n%s", tt.layer, tt.changed, got, tt.want)
		}
	}
}

func TestReadKeys(t *testing.T) {
	keys := make(chan string)
	go readKeys(bufio.NewReader(strings.NewReader("j\x1b[A\x1bOB\x1b[5~\x1b[99~é\tq\x1b")), keys)
	var got []string
	for k := range keys {
		got = append(got, k)
	}
	if want := []string{"j", "up", "down", "pgup", "é", "\t", "q", "\x1b"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// FuzzLayerView: whatever is typed, at any size, the view goes on and keeps to its size.
func FuzzLayerView(f *testing.F) {
	f.Add("jk\tl\rc", 24, 80)
	f.Add("G\tGlc", 3, 10)
	r := &engine.LayersReport{Name: "x", Layers: make([]engine.LayerReport, 2), Changes: stack.Layers{Each: []stack.LayerChanges{
		{Added: []string{"a", "a/b"}}, {Changed: []string{"a"}, Deleted: []string{"a/b"}},
	}}}
	f.Fuzz(func(t *testing.T, typed string, rows, cols int) {
		if len(typed) > 1000 || rows < 1 || cols < 1 || rows > 200 || cols > 500 {
			return
		}
		v := newLayerView(r, nil)
		v.rows, v.cols = rows, cols
		for _, k := range typed {
			if v.key(string(k)) {
				v.key("pgdn")
			}
			if got := strings.Count(v.screen(), "\r\n"); got != v.height()+2 {
				t.Fatalf("%d lines of %d rows", got, rows)
			}
		}
	})
}
