package handle

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func put(t *testing.T, dir, file, content string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestProcs(t *testing.T) {
	dir := t.TempDir()
	a, b := dir+"/a", dir+"/b"
	put(t, a, "cgroup.procs", "10\n11\n")
	put(t, a+"/child", "cgroup.procs", "12\n0\n")
	put(t, b, "cgroup.procs", "10\n13\n")
	got, err := Handle{Unified: a, V1: []string{b, dir + "/gone"}}.Procs()
	slices.Sort(got)
	if err != nil || !slices.Equal(got, []int{10, 11, 12, 13}) {
		t.Errorf("got %v %v", got, err)
	}
	put(t, a, "cgroup.procs", "x\n")
	if _, err := (Handle{Unified: a}).Procs(); err == nil {
		t.Error("nonsense is accepted")
	}
}

func TestOOMKills(t *testing.T) {
	for name, tc := range map[string]struct {
		file, content string
		v2            bool
		want          int64
	}{
		"v1":       {"memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", false, 3},
		"old v1":   {"memory.oom_control", "oom_kill_disable 0\nunder_oom 1\n", false, 1},
		"v2":       {"memory.events", "low 0\nhigh 0\nmax 10\noom 4\noom_kill 2\noom_group_kill 0\n", true, 2},
		"v2 empty": {"other", "", true, 0},
	} {
		dir := t.TempDir()
		put(t, dir, tc.file, tc.content)
		h := Handle{Memory: dir}
		if tc.v2 {
			h = Handle{Unified: dir}
		}
		if n, err := h.OOMKills(); n != tc.want || err != nil {
			t.Errorf("%s: %d %v", name, n, err)
		}
	}
	if n, err := (Handle{}).OOMKills(); n != 0 || err != nil {
		t.Errorf("no hierarchy: %d %v", n, err)
	}
}

func TestNoHierarchy(t *testing.T) {
	var h Handle
	if h.Freeze(0) == nil || h.Thaw() == nil {
		t.Error("freezing without a freezer succeeds")
	}
	if err := errors.Join(h.Kill(0), h.Remove(0)); err != nil {
		t.Error(err)
	}
}
