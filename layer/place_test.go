package layer

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

// tree makes files; a content that begins with "-> " is a symbolic link, an empty one
// of a name with a slash at its end a directory.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		full := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch {
		case name[len(name)-1] == '/':
			err = os.MkdirAll(full, 0o755)
		case len(content) > 3 && content[:3] == "-> ":
			err = os.Symlink(content[3:], full)
		default:
			err = os.WriteFile(full, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func open(t *testing.T, dir string) *os.File {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// TestPlaceStaysInside copies through links that lead out of both roots: nothing outside
// is read or written.
func TestPlaceStaysInside(t *testing.T) {
	outside := tree(t, map[string]string{"secret": "of the host", "dir/": ""})
	src := tree(t, map[string]string{"file": "mine", "leak": "-> " + outside + "/secret", "d/x": "x", "up": "-> ../../../../.." + outside})
	dst := tree(t, map[string]string{"out": "-> " + outside, "file": "-> " + outside + "/secret", "sub": "-> " + outside + "/dir"})
	for _, c := range []struct{ from, to string }{
		{"/file", "/out/new"}, {"/file", "/file"}, {"/d", "/sub"}, {"/d", "/out/dir"}, {"/file", "/../../../up/../new"},
	} {
		if err := Place(context.Background(), open(t, src), c.from, open(t, dst), c.to, PlaceOptions{}); err != nil {
			t.Errorf("copy %s to %s: %v", c.from, c.to, err)
		}
	}
	for _, from := range []string{"/leak", "/up/secret"} {
		if err := Place(context.Background(), open(t, src), from, open(t, dst), "/taken", PlaceOptions{}); !errors.Is(err, ErrNotFound) {
			t.Errorf("copy %s: want that it is not there, got %v", from, err)
		}
	}
	if b, err := os.ReadFile(outside + "/secret"); err != nil || string(b) != "of the host" {
		t.Errorf("the file outside has %q (%v)", b, err)
	}
	if names, _ := filepath.Glob(outside + "/*"); len(names) != 2 {
		t.Errorf("outside there is %v", names)
	}
	if names, _ := filepath.Glob(outside + "/dir/*"); len(names) != 0 {
		t.Errorf("outside there is %v", names)
	}
}

// TestWalkFilter takes a file in a directory that is left out: the directory shows itself.
func TestWalkFilter(t *testing.T) {
	dir := tree(t, map[string]string{"a/b/keep": "", "a/b/drop": "", "c/drop": "", "keep": ""})
	var got []string
	take := func(rel string, dir bool) (bool, bool) { return filepath.Base(rel) == "keep", true }
	err := Walk(context.Background(), open(t, dir), "/", false, take, func(e *WalkEntry) error {
		name := e.Rel
		if e.Implied {
			name += "/"
		}
		got = append(got, name)
		return nil
	})
	if want := []string{"/", "a/", "a/b/", "a/b/keep", "keep"}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("the walk came to %q (%v), want %q", got, err, want)
	}
}
