package state

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

func TestCheckID(t *testing.T) {
	for id, good := range map[string]bool{
		"a": true, "A-b_c.d+1": true, "..a": true, strings.Repeat("x", 1024): true,
		"": false, ".": false, "..": false, "a/b": false, "a b": false, "a\n": false, "é": false, "a:b": false, strings.Repeat("x", 1025): false,
	} {
		if err := CheckID(id); (err == nil) != good || err != nil && !errors.Is(err, ErrID) {
			t.Errorf("CheckID(%q): %v, want good %v", id, err, good)
		}
	}
}

func TestParseStat(t *testing.T) {
	stat := func(comm, state, flags, threads string) string {
		return "12 (" + comm + ") " + state + " 1 12 12 0 -1 " + flags + " 1 2 3 4 5 6 7 8 20 0 " + threads + " 0 4711 100 200\n"
	}
	for _, c := range []struct {
		in      string
		exiting bool
	}{
		{stat("sleep", "S", "4194560", "1"), false},
		{stat(") Z 1 (", "S", "0", "1"), false}, // a command's name may look like anything
		{stat("sleep", "Z", "4194564", "1"), true},
		{stat("init", "S", "4194308", "1"), true}, // PF_EXITING: waits for others' zombies
		{stat("java", "Z", "4194308", "12"), false},
	} {
		p, err := parseStat([]byte(c.in))
		if err != nil || p.StartTime != 4711 || p.Exiting != c.exiting {
			t.Errorf("%q: %+v, %v", c.in, p, err)
		}
	}
	for _, bad := range []string{"", "12 sleep S", "12 (a) S 1 2", strings.Replace(stat("a", "S", "0", "1"), "4711", "x", 1), strings.Replace(stat("a", "S", "0", "1"), "-1 0", "-1 x", 1)} {
		if p, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q was read as %+v", bad, p)
		}
	}
}

func TestReadProcess(t *testing.T) {
	p, err := ReadProcess(os.Getpid())
	if err != nil || p.StartTime == 0 || p.Exiting {
		t.Errorf("this process: %+v, %v", p, err)
	}
	s := &State{Pid: os.Getpid(), StartTime: p.StartTime + 1}
	if alive, err := s.Alive(); alive || err != nil {
		t.Errorf("another process with the same number counts as alive: %v", err)
	}
}

func TestStore(t *testing.T) {
	s := Store{Root: t.TempDir() + "/deep/root"}
	if ids, err := s.List(); len(ids) != 0 || err != nil {
		t.Fatalf("list of nothing: %v, %v", ids, err)
	}
	d, err := s.Reserve("one")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Reserve("one"); !errors.Is(err, ErrExist) {
		t.Errorf("a name twice: %v", err)
	}
	other, err := s.Open("one")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Load(); !errors.Is(err, ErrNotExist) {
		t.Errorf("a record that was never written: %v", err)
	}
	rec := &State{ID: "one"}
	if err := d.SaveLocked(rec); err != nil {
		t.Fatal(err)
	}
	if st, err := other.Status(rec); st != Creating || err != nil {
		t.Errorf("while its maker works: %v, %v", st, err)
	}
	if _, err := s.OpenLocked("one", time.Millisecond); !errors.Is(err, ErrBusy) {
		t.Errorf("locked twice: %v", err)
	}
	d.Close() // as when its maker is killed
	if st, err := other.Status(rec); st != Stopped || err != nil {
		t.Errorf("without its maker: %v, %v", st, err)
	}
	d, err = s.OpenLocked("one", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.RemoveLocked(); err != nil {
		t.Fatal(err)
	}
	d.Close()
	other.Close()
	if _, err := s.Open("one"); !errors.Is(err, ErrNotExist) {
		t.Errorf("after it was removed: %v", err)
	}
}

// TestWaiting: the FIFO tells whether somebody waits at it, and a byte may be
// in it.
func TestWaiting(t *testing.T) {
	s := Store{Root: t.TempDir()}
	d, err := s.Reserve("one")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	path, err := d.MakeFifoLocked()
	if err != nil {
		t.Fatal(err)
	}
	if d.Waiting() {
		t.Error("nobody waits at the FIFO")
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if !d.Waiting() {
		t.Error("somebody has the FIFO open")
	}
	f.Close()
	if d.Waiting() {
		t.Error("the FIFO was let go")
	}
}
