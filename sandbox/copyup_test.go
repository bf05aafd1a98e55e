package sandbox

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func openDir(t *testing.T, path string) int {
	t.Helper()
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func TestCopyTree(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	outside := filepath.Join(t.TempDir(), "secret")
	for _, err := range []error{
		os.WriteFile(outside, []byte("secret"), 0o600),
		os.MkdirAll(filepath.Join(from, "a/b"), 0o755),
		os.WriteFile(filepath.Join(from, "a/b/file"), []byte("content"), 0o604),
		os.Symlink(outside, filepath.Join(from, "a/link")),
		unix.Lsetxattr(filepath.Join(from, "a/b/file"), "user.test", []byte("x"), 0),
		unix.Mkfifo(filepath.Join(from, "fifo"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := copyTree(openDir(t, from), openDir(t, to), true); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(to, "a/b/file")); err != nil || string(b) != "content" {
		t.Errorf("%q, %v", b, err)
	}
	value := make([]byte, 8)
	if n, err := unix.Lgetxattr(filepath.Join(to, "a/b/file"), "user.test", value); err != nil || string(value[:n]) != "x" {
		t.Errorf("the attribute is %q, %v", value[:max(n, 0)], err)
	}
	if l, err := os.Readlink(filepath.Join(to, "a/link")); err != nil || l != outside {
		t.Errorf("the link leads to %q, %v", l, err)
	}
	if st, err := os.Lstat(filepath.Join(to, "fifo")); err != nil || st.Mode().Type() != os.ModeNamedPipe {
		t.Errorf("%v, %v", st, err)
	}
	// What is there already is not written over.
	if err := copyTree(openDir(t, from), openDir(t, to), true); err == nil {
		t.Error("a second copy had no error")
	}
}

func TestCopyTreeDeep(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	dir := openDir(t, from)
	for range deepest + 2 {
		if err := unix.Mkdirat(dir, "d", 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(dir, "d", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(next) })
		dir = next
	}
	if err := copyTree(openDir(t, from), openDir(t, to), false); err == nil {
		t.Error("no error")
	}
}

// TestCopyTreeRace exchanges a directory and a file for symlinks to the outside,
// over and over, while the tree is copied: nothing from outside is ever copied.
func TestCopyTreeRace(t *testing.T) {
	from, outside := t.TempDir(), t.TempDir()
	for _, err := range []error{
		os.MkdirAll(filepath.Join(from, "a"), 0o755),
		os.WriteFile(filepath.Join(from, "a/f"), []byte("inside"), 0o644),
		os.WriteFile(filepath.Join(from, "file"), []byte("inside"), 0o644),
		os.WriteFile(filepath.Join(outside, "f"), []byte("secret"), 0o644),
		os.Symlink(outside, filepath.Join(from, "b")),
		os.Symlink(filepath.Join(outside, "f"), filepath.Join(from, "link")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := openDir(t, from)
	stop, done := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for {
			select {
			case <-stop:
				done <- n
				return
			default:
			}
			unix.Renameat2(dir, "a", dir, "b", unix.RENAME_EXCHANGE)
			unix.Renameat2(dir, "file", dir, "link", unix.RENAME_EXCHANGE)
			n++
		}
	}()
	copied := 0
	for range 1000 {
		to, err := os.MkdirTemp("", "copy")
		if err != nil {
			t.Fatal(err)
		}
		dst, err := unix.Open(to, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if copyTree(dir, dst, true) == nil {
			copied++
		}
		unix.Close(dst)
		for _, name := range []string{"a/f", "b/f", "file", "link"} {
			// A link that was copied as one leads outside; a copy does not.
			fd, err := unix.Openat2(unix.AT_FDCWD, filepath.Join(to, name), &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
			if err != nil {
				continue
			}
			b := make([]byte, 16)
			n, _ := unix.Read(fd, b)
			unix.Close(fd)
			if string(b[:n]) != "inside" {
				t.Fatalf("%s has %q", name, b[:n])
			}
		}
		os.RemoveAll(to)
	}
	close(stop)
	if n := <-done; n < 300 || copied == 0 {
		t.Errorf("%d exchanges, %d copies: no race", n, copied)
	}
}
