// Package unionfstest is what every way to make a union must pass.
package unionfstest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Driver makes a writable union of lower directories (top-most first, spelled
// as overlay wants them) and returns its root, which the test may change. What
// it makes must go with the test.
type Driver func(t *testing.T, lower []string) *os.File

// Run runs the suite.
func Run(t *testing.T, d Driver) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts, device nodes and trusted attributes")
	}
	for _, tt := range []struct {
		name string
		test func(*testing.T, *tree)
	}{
		{"reading", testReading}, {"whiteouts", testWhiteouts}, {"writing", testWriting}, {"metadata", testMetadata},
		{"deleting", testDeleting}, {"renaming", testRenaming}, {"links", testLinks},
	} {
		t.Run(tt.name, func(t *testing.T) {
			lower := makeLayers(t)
			before := snapshot(t, lower)
			root := d(t, lower)
			tt.test(t, &tree{t, fmt.Sprintf("/proc/self/fd/%d", root.Fd())})
			if after := snapshot(t, lower); after != before {
				t.Errorf("lower layers were changed\nbefore\n%s\nafter\n%s", before, after)
			}
		})
	}
}

// makeLayers makes three layers, top-most first.
func makeLayers(t *testing.T) []string {
	t.Helper()
	base := t.TempDir()
	l := func(n int, p string) string { return fmt.Sprintf("%s/l%d/%s", base, n, p) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write := func(n int, p, body string) {
		must(os.MkdirAll(filepath.Dir(l(n, p)), 0o755))
		must(os.WriteFile(l(n, p), []byte(body), 0o644))
	}
	write(0, "base/only0", "0")
	write(0, "both", "from 0")
	write(0, "dir/zero", "0")
	write(0, "gone", "x")
	write(0, "gonedir/f", "x")
	write(0, "opaque/old", "x")
	write(0, "filetodir", "x")
	write(0, "dirtofile/f", "x")
	write(0, "big", strings.Repeat("0123456789abcdef", 64<<10))
	must(os.Lchown(l(0, "big"), 5, 6))
	must(unix.Chmod(l(0, "big"), 0o4750)) // chown clears set-id bits
	must(unix.Setxattr(l(0, "big"), "user.k", []byte("v"), 0))
	must(os.Link(l(0, "both"), l(0, "hard")))
	must(os.Symlink("dir/zero", l(0, "link")))
	write(1, "both", "from 1")
	write(1, "dir/one", "1")
	must(unix.Mknod(l(1, "gone"), unix.S_IFCHR, 0))
	must(unix.Mknod(l(1, "gonedir"), unix.S_IFCHR, 0))
	write(1, "opaque/new", "n")
	must(unix.Setxattr(l(1, "opaque"), opaqueAttr(), []byte("y"), 0))
	write(1, "filetodir/f", "now a directory")
	write(1, "dirtofile", "now a file")
	write(2, "dir/two", "2")
	must(os.Chmod(l(2, "dir"), 0o711))
	for n := range 3 {
		must(os.Chmod(l(n, ""), 0o755))
	}
	return []string{l(2, "")[:len(l(2, ""))-1], l(1, "")[:len(l(1, ""))-1], l(0, "")[:len(l(0, ""))-1]}
}

// snapshot describes directories so that any change shows.
func snapshot(t *testing.T, dirs []string) string {
	t.Helper()
	var out bytes.Buffer
	for _, d := range dirs {
		err := filepath.WalkDir(d, func(p string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			var st unix.Stat_t
			if err := unix.Lstat(p, &st); err != nil {
				return err
			}
			fmt.Fprintln(&out, p, st.Mode, st.Uid, st.Gid, st.Size, st.Nlink, st.Mtim, st.Ino)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out.String()
}

type tree struct {
	*testing.T
	root string
}

func (t *tree) path(p string) string { return t.root + "/" + p }

func (t *tree) read(p, want string) {
	t.Helper()
	b, err := os.ReadFile(t.path(p))
	if err != nil || string(b) != want {
		t.Errorf("%s: %q, %v; want %q", p, b, err, want)
	}
}

func (t *tree) gone(p string) {
	t.Helper()
	if _, err := os.Lstat(t.path(p)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is there (%v)", p, err)
	}
}

func (t *tree) list(p string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(t.path(p))
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if err != nil || strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("%s: %v, %v; want %v", p, got, err, want)
	}
}

func (t *tree) must(err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func testReading(t *testing.T, u *tree) {
	u.T = t
	u.read("base/only0", "0")
	u.read("both", "from 1")
	u.read("hard", "from 0")
	u.read("link", "0")
	u.list("dir", "one", "two", "zero")
	u.read("filetodir/f", "now a directory")
	u.read("dirtofile", "now a file")
}

func testWhiteouts(t *testing.T, u *tree) {
	u.T = t
	u.gone("gone")
	u.gone("gonedir")
	u.list("opaque", "new")
	u.list("", "base", "big", "both", "dir", "dirtofile", "filetodir", "hard", "link", "opaque")
}

func testWriting(t *testing.T, u *tree) {
	u.T = t
	u.must(os.WriteFile(u.path("dir/new"), []byte("n"), 0o600))
	u.read("dir/new", "n")
	f, err := os.OpenFile(u.path("both"), os.O_WRONLY|os.O_APPEND, 0)
	u.must(err)
	_, err = f.WriteString("+")
	u.must(err)
	u.must(f.Close())
	u.read("both", "from 1+")
	u.must(os.MkdirAll(u.path("gonedir/again"), 0o755))
	u.list("gonedir", "again")
	u.must(os.WriteFile(u.path("gone"), []byte("back"), 0o644))
	u.read("gone", "back")
}

func testMetadata(t *testing.T, u *tree) {
	u.T = t
	check := func(p string, mode, uid, gid uint32) {
		t.Helper()
		var st unix.Stat_t
		u.must(unix.Lstat(u.path(p), &st))
		if st.Mode&0o7777 != mode || st.Uid != uid || st.Gid != gid {
			t.Errorf("%s: mode %o owner %d:%d, want %o %d:%d", p, st.Mode&0o7777, st.Uid, st.Gid, mode, uid, gid)
		}
	}
	check("dir", 0o711, 0, 0)
	check("big", 0o4750, 5, 6)
	u.must(os.Chmod(u.path("dir"), 0o700))
	check("dir", 0o700, 0, 0)
	u.must(os.Lchown(u.path("link"), 7, 8))
	u.must(unix.Setxattr(u.path("big"), "user.new", []byte("w"), 0))
	check("big", 0o4750, 5, 6)
	b := make([]byte, 8)
	if n, err := unix.Getxattr(u.path("big"), "user.k", b); err != nil || string(b[:n]) != "v" {
		t.Errorf("attribute: %q, %v", b[:n], err)
	}
	u.read("big", strings.Repeat("0123456789abcdef", 64<<10))
}

func testDeleting(t *testing.T, u *tree) {
	u.T = t
	u.must(os.Remove(u.path("both")))
	u.gone("both")
	u.read("hard", "from 0")
	u.must(os.RemoveAll(u.path("dir")))
	u.gone("dir")
	u.must(os.Mkdir(u.path("dir"), 0o755))
	u.list("dir")
	if err := os.Remove(u.path("base")); !errors.Is(err, unix.ENOTEMPTY) {
		t.Errorf("removed a directory that is not empty: %v", err)
	}
}

func testRenaming(t *testing.T, u *tree) {
	u.T = t
	u.must(os.Rename(u.path("both"), u.path("moved")))
	u.gone("both")
	u.read("moved", "from 1")
	u.must(os.Rename(u.path("moved"), u.path("dir/zero")))
	u.read("dir/zero", "from 1")
	u.must(os.Mkdir(u.path("own"), 0o755))
	u.must(os.WriteFile(u.path("own/f"), []byte("x"), 0o644))
	u.must(os.Rename(u.path("own"), u.path("own2")))
	u.read("own2/f", "x")
}

func testLinks(t *testing.T, u *tree) {
	u.T = t
	u.must(os.Link(u.path("both"), u.path("both2")))
	u.must(os.WriteFile(u.path("both2"), []byte("changed"), 0o644))
	u.read("both", "changed")
	u.must(os.Symlink("both", u.path("s")))
	u.read("s", "changed")
}
