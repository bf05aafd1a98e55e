package layer

import (
	"bytes"
	"context"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func FuzzReadCopyIndex(f *testing.F) {
	f.Add([]byte("viv copy 1 00000000000000000005 000000006\x0012 \x0013 a/b\n\x00"))
	f.Add([]byte("viv copy 1 00000000000000000005\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		i, err := ReadCopyIndex(bytes.NewReader(b))
		if (i == nil) == (err == nil) {
			t.Errorf("%v, %v", i, err)
		}
	})
}

// TestCopyIndexKnowsWhatIsLater: a change right after the copy counts, in the same tick of
// the clock too.
func TestCopyIndexKnowsWhatIsLater(t *testing.T) {
	needRoot(t)
	low := applied(t, nil, dir("d"), file("d/a", "1"), file("d/b", "1"))
	dst, work := t.TempDir(), t.TempDir()
	index, err := os.Create(work + "/index")
	if err != nil {
		t.Fatal(err)
	}
	defer index.Close()
	if err := MergeCopy(context.Background(), openDir(t, dst), []string{low}, index); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dst+"/d/a", 0o644); err != nil { // as it was
		t.Fatal(err)
	}
	b, err := os.ReadFile(work + "/index")
	if err != nil {
		t.Fatal(err)
	}
	i, err := ReadCopyIndex(bytes.NewReader(b))
	if err != nil || len(i.dirs) != 2 {
		t.Fatalf("%v, %v", i, err)
	}
	for name, want := range map[string]bool{"d/a": true, "d/b": false, "d": false} {
		var st unix.Stat_t
		if err := unix.Stat(dst+"/"+name, &st); err != nil || i.after(&st) != want {
			t.Errorf("%s: %v, want %v (%v)", name, i.after(&st), want, err)
		}
	}
}

// TestHolesStay: a sparse file that is packed and unpacked takes no more room than before.
func TestHolesStay(t *testing.T) {
	needRoot(t)
	up, again := t.TempDir(), t.TempDir()
	f, err := os.Create(up + "/f")
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte("end"), 8<<20)
	if cerr := f.Close(); err != nil || cerr != nil {
		t.Fatal(err, cerr)
	}
	var buf bytes.Buffer
	if err := Diff(context.Background(), &buf, Upper{Dir: openDir(t, up)}); err != nil {
		t.Fatal(err)
	}
	if _, err := Apply(context.Background(), openDir(t, again), &buf, nil, ApplyOptions{Holes: true}); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(again+"/f", &st); err != nil || st.Size != 8<<20+3 || st.Blocks > 64 {
		t.Errorf("%d bytes in %d blocks (%v)", st.Size, st.Blocks, err)
	}
}
