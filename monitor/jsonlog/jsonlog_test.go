package jsonlog

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestAppendTimeAgreesWithTime(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		ns := r.Int64N(4102444800 * 1e9) // until 2100
		if r.IntN(3) == 0 {
			ns -= ns % 1e6
		}
		want := time.Unix(0, ns).UTC().Format(time.RFC3339Nano)
		if got := string(AppendTime(nil, ns)); got != want {
			t.Fatalf("AppendTime(%d) = %s, want %s", ns, got, want)
		}
	}
}

type record struct {
	Log, Stream string
	Time        time.Time
}

func readAll(t *testing.T, path string) (out []record) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(strings.TrimSuffix(string(b), "\n"), "\n") {
		var r record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("record %q: %v", line, err)
		}
		out = append(out, r)
	}
	return out
}

func TestLinesAndPartials(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	w, err := Open(path, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	long := strings.Repeat("x", maxLine+10)
	for _, s := range []string{"one\ntw", "o\n", "<&>\"\\\t\x01\xff é\u2028\n", long + "\n", "end"} {
		if err := w.Write(1, []byte(s), 5); err != nil {
			t.Fatal(err)
		}
	}
	w.Write(2, []byte("err\n"), 6)
	w.Flush(7)
	var got []string
	for _, r := range readAll(t, path) {
		got = append(got, r.Stream+":"+r.Log)
	}
	want := []string{"stdout:one\n", "stdout:two\n", "stdout:<&>\"\\\t\x01\ufffd é\u2028\n", "stdout:" + long[:maxLine], "stdout:" + long[maxLine:] + "\n", "stderr:err\n", "stdout:end"}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Fatalf("got %q", got)
	}
}

func TestRotation(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	w, err := Open(path, 300, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for i := range 20 {
		if err := w.Write(1, []byte(strings.Repeat(string(rune('a'+i)), 50)+"\n"), int64(i)); err != nil {
			t.Fatal(err)
		}
	}
	files, _ := filepath.Glob(path + "*")
	if len(files) != 3 {
		t.Fatalf("files kept: %v, want 3", files)
	}
	last := readAll(t, path)
	if s := last[len(last)-1].Log; s != strings.Repeat("t", 50)+"\n" {
		t.Fatalf("last record is %q", s)
	}
	for _, f := range files {
		if st, _ := os.Stat(f); st.Size() > 300 {
			t.Errorf("%s has %d bytes, more than the limit", f, st.Size())
		}
	}
}

func FuzzAppendString(f *testing.F) {
	f.Add([]byte("a\"\\\x00\u2028é\xff"))
	f.Fuzz(func(t *testing.T, text []byte) {
		quoted := append(AppendString([]byte{'"'}, text), '"')
		var got string
		if err := json.Unmarshal(quoted, &got); err != nil {
			t.Fatalf("%q: %v", quoted, err)
		}
		// Each byte that is not UTF-8 becomes one U+FFFD, as when ranging over a string.
		if want := string([]rune(string(text))); got != want {
			t.Fatalf("%q became %q, want %q", text, got, want)
		}
	})
}
