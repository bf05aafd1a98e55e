package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestRemoveTree(t *testing.T) {
	top := t.TempDir()
	kept := filepath.Join(top, "kept")
	dir := filepath.Join(top, "dir")
	for _, d := range []string{"kept", "dir/a/b/c", "dir/empty", "dir/many"} {
		if err := os.MkdirAll(filepath.Join(top, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	files := []string{"kept/file", "dir/config.json", "dir/a/config.json", "dir/a/b/file"}
	for i := range 600 { // more than one reading of the directory gives
		files = append(files, fmt.Sprintf("dir/many/%d", i))
	}
	for _, f := range files {
		if err := os.WriteFile(filepath.Join(top, f), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(kept, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := removeTree(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory is there still: %v", err)
	}
	if _, err := os.Stat(filepath.Join(kept, "file")); err != nil {
		t.Errorf("what a link led to is gone: %v", err)
	}
	if err := removeTree(dir); err != nil {
		t.Errorf("a directory that is not there: %v", err)
	}
	if err := removeTree(filepath.Join(kept, "file")); err == nil {
		t.Error("a file was taken for a directory")
	}
}
