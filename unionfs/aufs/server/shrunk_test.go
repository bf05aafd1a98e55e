package server

import (
	"os"
	"testing"
)

// TestCopyOfWhatShrinks: somebody makes a file shorter while it is copied up. The copy has no
// zeros for what is gone.
func TestCopyOfWhatShrinks(t *testing.T) {
	dir := t.TempDir()
	in, err := os.Create(dir + "/in")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(dir + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := in.WriteString("all that is left"); err != nil {
		t.Fatal(err)
	}
	if err := copyData(int(in.Fd()), int(out.Fd()), 1<<20); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(dir + "/out"); err != nil || string(got) != "all that is left" {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}
