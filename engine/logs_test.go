package engine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// logTime0 is the time of the first line that logOf writes; each comes a second later.
var logTime0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func logLine(n int) string {
	stream := "stdout"
	if n%3 == 2 {
		stream = "stderr"
	}
	return fmt.Sprintf(`{"log":"line %d\n","stream":%q,"time":%q}`+"\n", n, stream, logTime0.Add(time.Duration(n)*time.Second).Format(time.RFC3339Nano))
}

func logOf(from, to int) string {
	var b strings.Builder
	for n := from; n < to; n++ {
		b.WriteString(logLine(n))
	}
	return b.String()
}

// readLog collects the numbers of the lines.
func readLog(t *testing.T, path string, opt LogsOptions) string {
	t.Helper()
	var got []string
	err := readLogs(path, opt, func(l LogLine) error {
		got = append(got, strings.TrimSuffix(strings.TrimPrefix(l.Log, "line "), "\n"))
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return strings.Join(got, " ")
}

func TestReadLogs(t *testing.T) {
	path := t.TempDir() + "/log.json"
	for name, text := range map[string]string{path + ".2": logOf(0, 3), path + ".1": logOf(3, 6), path: logOf(6, 9) + `{"log":"cut`} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	at := func(n int) time.Time { return logTime0.Add(time.Duration(n) * time.Second) }
	for _, tc := range []struct {
		name string
		opt  LogsOptions
		want string
	}{
		{"all", LogsOptions{Stdout: true, Stderr: true, Tail: -1}, "0 1 2 3 4 5 6 7 8"},
		{"stdout", LogsOptions{Stdout: true, Tail: -1}, "0 1 3 4 6 7"},
		{"stderr", LogsOptions{Stderr: true, Tail: -1}, "2 5 8"},
		{"since", LogsOptions{Stdout: true, Stderr: true, Tail: -1, Since: at(6)}, "6 7 8"},
		{"until", LogsOptions{Stdout: true, Stderr: true, Tail: -1, Until: at(2)}, "0 1 2"},
		{"until long ago", LogsOptions{Stdout: true, Stderr: true, Tail: -1, Until: at(-1)}, ""},
	} {
		if got := readLog(t, path, tc.opt); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
	if err := os.WriteFile(path, []byte(logOf(6, 9)), 0o600); err != nil {
		t.Fatal(err)
	}
	for tail, want := range map[int]string{0: "", 1: "8", 3: "6 7 8", 4: "5 6 7 8", 8: "1 2 3 4 5 6 7 8", 9: "0 1 2 3 4 5 6 7 8", 100: "0 1 2 3 4 5 6 7 8"} {
		if got := readLog(t, path, LogsOptions{Stdout: true, Stderr: true, Tail: tail}); got != want {
			t.Errorf("tail %d: %q, want %q", tail, got, want)
		}
	}
}

func TestSeekLastLinesAcrossBlocks(t *testing.T) {
	path := t.TempDir() + "/big"
	var b strings.Builder
	for n := range 5000 { // some 100 KiB: several blocks
		fmt.Fprintf(&b, "line number %d\n", n)
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, max := range []int{0, 1, 2, 1999, 3000, 4999, 5000, 6000} {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		n, err := seekLastLines(f, max)
		rest := make([]byte, b.Len())
		k, _ := f.Read(rest)
		f.Close()
		want := min(max, 5000)
		if got := strings.Count(string(rest[:k]), "\n"); err != nil || n != want || got != want {
			t.Errorf("last %d: told %d, found %d, %v", max, n, got, err)
		}
	}
}

// TestFollowThroughRotation rotates the log twice while it is followed.
func TestFollowThroughRotation(t *testing.T) {
	path := t.TempDir() + "/log.json"
	write := func(text string) {
		f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	write(logOf(0, 2))
	w, err := newWatch(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	if w, err = newWatch(path[:strings.LastIndexByte(path, '/')]); err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	lines := make(chan string, 100)
	ended := make(chan struct{})
	result := make(chan error, 1)
	fl := &follower{path: path, opt: LogsOptions{Stdout: true, Stderr: true, Tail: -1}, fn: func(l LogLine) error {
		lines <- strings.TrimSpace(l.Log)
		return nil
	}}
	go func() { result <- fl.run(t.Context(), w, ended) }()
	expect := func(from, to int) {
		for n := from; n < to; n++ {
			select {
			case got := <-lines:
				if got != fmt.Sprintf("line %d", n) {
					t.Fatalf("got %q, want line %d", got, n)
				}
			case err := <-result:
				t.Fatalf("ended before line %d: %v", n, err)
			}
		}
	}
	expect(0, 2)
	rotate := func() {
		os.Rename(path+".1", path+".2")
		if err := os.Rename(path, path+".1"); err != nil {
			t.Fatal(err)
		}
	}
	line := logLine(2)
	write(line[:10]) // half a line is not a line
	write(line[10:])
	expect(2, 3)
	write(logOf(3, 4))
	rotate()
	write(logOf(4, 5))
	rotate() // before the follower can have seen the first one for sure
	write(logOf(5, 7))
	expect(3, 7)
	write(logOf(7, 8))
	close(ended)
	if err := <-result; err != nil {
		t.Error(err)
	}
	expectLast := <-lines
	if expectLast != "line 7" {
		t.Errorf("what came just before the end: %q", expectLast)
	}
	fl.close()
}

func TestLogsStopsWithItsReader(t *testing.T) {
	path := t.TempDir() + "/log.json"
	if err := os.WriteFile(path, []byte(logOf(0, 5)), 0o600); err != nil {
		t.Fatal(err)
	}
	boom := errors.New("the reader has gone")
	n := 0
	err := readLogs(path, LogsOptions{Stdout: true, Stderr: true, Tail: -1}, func(LogLine) error { n++; return boom })
	if !errors.Is(err, boom) || n != 1 {
		t.Errorf("%d lines, %v", n, err)
	}
}

// TestOpenLogsDuringRotation opens a log while it is rotated again and again: each
// file holds its number, and no number may be missing between two.
func TestOpenLogsDuringRotation(t *testing.T) {
	const rotations = 4000
	path := t.TempDir() + "/log.json"
	rotated := make(chan error, 1)
	go func() {
		for n := range rotations {
			os.Rename(path+".2", path+".3")
			os.Rename(path+".1", path+".2")
			os.Rename(path, path+".1")
			if err := os.WriteFile(path, []byte(strconv.Itoa(n)), 0o600); err != nil {
				rotated <- err
				return
			}
		}
		rotated <- nil
	}()
	for {
		select {
		case err := <-rotated:
			if err != nil {
				t.Fatal(err)
			}
			return
		default:
		}
		files, err := openLogs(path)
		if err != nil {
			continue // renamed faster than they can be opened: it says so
		}
		var seen []int
		for _, f := range files {
			b, err := io.ReadAll(f)
			if err != nil {
				t.Fatal(err)
			}
			if n, err := strconv.Atoi(string(b)); err == nil { // the newest may be empty yet
				seen = append(seen, n)
			}
		}
		closeAll(files)
		for i := 1; i < len(seen); i++ {
			if seen[i] != seen[i-1]+1 {
				t.Fatalf("opened the files %v: one is missing", seen)
			}
		}
	}
}
