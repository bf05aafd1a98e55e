package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// rootWithHost makes a container root beside a directory that stands for the
// host, with links from the one to the other.
func rootWithHost(t *testing.T) (root, host string) {
	t.Helper()
	needRoot(t)
	outer := t.TempDir()
	root, host = filepath.Join(outer, "root"), filepath.Join(outer, "host")
	for _, d := range []string{root, root + "/etc", root + "/dir", host} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, body := range map[string]string{host + "/secret": "safe", root + "/etc/conf": "inside", root + "/dir/f": "file"} {
		if err := os.WriteFile(name, []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{
		"/abs": host, "/secret": host + "/secret", "/up": "../../../../.." + host, "/in": "/etc", "/rel": "dir/../etc",
		"/magic": "/proc/self/root" + host, "/loop": "loop", "/dangling": "/nowhere/x",
	} {
		if err := os.Symlink(to, root+name); err != nil {
			t.Fatal(err)
		}
	}
	return root, host
}

func TestCopyIn(t *testing.T) {
	root, host := rootWithHost(t)
	r := openDir(t, root)
	in := func(where string, opts CopyOptions, ents ...ent) error {
		return CopyIn(context.Background(), r, where, bytes.NewReader(tarOf(t, ents...)), opts)
	}
	for _, where := range []string{"/dir", "dir", "/in", "rel", "/"} {
		if err := in(where, CopyOptions{}, file("new-"+strings.Trim(where, "/"), "n")); err != nil {
			t.Errorf("%s: %v", where, err)
		}
	}
	for _, name := range []string{"/dir/new-dir", "/etc/new-in", "/etc/new-rel", "/new-"} {
		if b, err := os.ReadFile(root + name); err != nil || string(b) != "n" {
			t.Errorf("%s: %q %v", name, b, err)
		}
	}
	for _, where := range []string{"/abs", "/up", "/magic", "/none", "/dangling"} {
		if err := in(where, CopyOptions{}, file("secret", "evil")); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", where, err)
		}
	}
	if err := in("/loop", CopyOptions{}, file("x", "")); !errors.Is(err, unix.ELOOP) {
		t.Errorf("loop: %v", err)
	}
	if err := in("/etc/conf", CopyOptions{}, file("x", "")); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("file as directory: %v", err)
	}
	if err := in("/", CopyOptions{}, file("../x", "")); !errors.Is(err, ErrUnsafe) {
		t.Errorf("name that leaves: %v", err)
	}
	// The last one replaces the link and must not write through it.
	if err := in("/", CopyOptions{}, file("secret", "evil"), file(".wh.plain", "p"), file("abs/x", "made inside")); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(host + "/secret"); err != nil || string(b) != "safe" {
		t.Fatalf("the host was changed: %q %v", b, err)
	}
	if names, _ := os.ReadDir(host); len(names) != 1 {
		t.Fatalf("the host has %v", names)
	}
	if b, err := os.ReadFile(root + "/.wh.plain"); err != nil || string(b) != "p" {
		t.Errorf("plain name: %q %v", b, err)
	}
}

func TestCopyInKeepsTypes(t *testing.T) {
	root, _ := rootWithHost(t)
	r := openDir(t, root)
	for _, e := range []ent{file("dir", "x"), dir("etc/conf")} {
		err := CopyIn(context.Background(), r, "/", bytes.NewReader(tarOf(t, e)), CopyOptions{NoOverwriteDir: true})
		if err == nil || !strings.Contains(err.Error(), "cannot overwrite") {
			t.Errorf("%s: %v", e.name, err)
		}
	}
	own := &Owner{UID: 11, GID: 12}
	if err := CopyIn(context.Background(), r, "/dir", bytes.NewReader(tarOf(t, dir("d"), file("d/e/f", "x"))), CopyOptions{Owner: own}); err != nil {
		t.Fatal(err)
	}
	want := lines("d 755 11:12 dir", "d/e 755 11:12 dir", `d/e/f 644 11:12 "x"`, `f 644 0:0 "file"`)
	if got := describe(t, root+"/dir"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func names(t *testing.T, b []byte) string {
	t.Helper()
	var out []string
	for tr := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return strings.Join(out, " ")
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, h.Name)
	}
}

func TestCopyOut(t *testing.T) {
	root, _ := rootWithHost(t)
	r := openDir(t, root)
	for _, tt := range []struct {
		path, name string
		follow     bool
		want       string
		is         error
	}{
		{"/etc/conf", "", false, "conf", nil},
		{"/in/conf", "renamed", false, "renamed", nil},
		{"/etc", "", false, "etc/ etc/conf", nil},
		{"/in", "", false, "in", nil},
		{"/in", "", true, "etc/ etc/conf", nil},
		{"/in/", "", false, "etc/ etc/conf", nil},
		{"/dir/.", ".", false, "./ ./f", nil},
		{"/dir/../etc/conf", "", false, "conf", nil},
		{"/secret", "", false, "secret", nil},
		{"/secret", "", true, "", ErrNotFound},
		{"/abs/secret", "", false, "", ErrNotFound},
		{"/up/secret", "", true, "", ErrNotFound},
		{"/magic/secret", "", true, "", ErrNotFound},
		{"/none", "", false, "", ErrNotFound},
		{"/loop", "", true, "", unix.ELOOP},
	} {
		var buf bytes.Buffer
		err := CopyOut(context.Background(), r, tt.path, tt.name, tt.follow, &buf)
		if tt.is != nil {
			if !errors.Is(err, tt.is) {
				t.Errorf("%s: %v, want %v", tt.path, err, tt.is)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.path, err)
			continue
		}
		if got := names(t, buf.Bytes()); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.path, got, tt.want)
		}
	}
}

func TestStatPath(t *testing.T) {
	root, _ := rootWithHost(t)
	r := openDir(t, root)
	for path, want := range map[string]PathStat{
		"/etc/conf": {Name: "conf", Size: 6, Mode: 0o644},
		"/in":       {Name: "in", Mode: 0o777 | os.ModeSymlink, LinkTarget: "/etc"},
		"/rel":      {Name: "rel", Mode: 0o777 | os.ModeSymlink, LinkTarget: "/dir/../etc"},
		"/":         {Name: "/", Mode: 0o755 | os.ModeDir},
		"/dir/.":    {Name: "dir", Mode: 0o755 | os.ModeDir},
	} {
		got, err := StatPath(r, path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if got.Name != want.Name || got.Mode != want.Mode || got.LinkTarget != want.LinkTarget || (want.Size != 0 && got.Size != want.Size) {
			t.Errorf("%s: %+v, want %+v", path, got, want)
		}
	}
	if _, err := StatPath(r, "/none"); !errors.Is(err, ErrNotFound) {
		t.Errorf("missing: %v", err)
	}
}

// TestCopyInUnderExchange copies while a directory on the way is exchanged for
// a link to the host, again and again.
func TestCopyInUnderExchange(t *testing.T) {
	root, host := rootWithHost(t)
	if err := os.Mkdir(root+"/a", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(host, root+"/b"); err != nil {
		t.Fatal(err)
	}
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, root+"/a", unix.AT_FDCWD, root+"/b", unix.RENAME_EXCHANGE)
			}
		}
	}()
	r := openDir(t, root)
	b := tarOf(t, file("secret", "evil"), ent{t: tar.TypeDir, name: "d", mode: 0o777}, file("d/x", "evil"), device("null", 1, 3))
	out := tarOf(t, ent{t: tar.TypeDir, name: "a", mode: 0o700}, file("a/secret", "evil"), file("b/secret", "evil"), ent{t: tar.TypeFifo, name: "a/fifo", mode: 0o7777})
	for range 300 {
		_ = CopyIn(context.Background(), r, "/a", bytes.NewReader(b), CopyOptions{})
		_ = CopyIn(context.Background(), r, "/", bytes.NewReader(out), CopyOptions{NoOverwriteDir: true})
		var buf bytes.Buffer
		if err := CopyOut(context.Background(), r, "/a/secret", "", true, &buf); err == nil && bytes.Contains(buf.Bytes(), []byte("safe")) {
			t.Fatal("read a file of the host")
		}
	}
	close(stop)
	<-ended
	st, err := os.Stat(host)
	if err != nil || st.Mode().Perm() != 0o755 {
		t.Errorf("host directory: %v %v", st.Mode(), err)
	}
	got, err := os.ReadFile(host + "/secret")
	list, _ := os.ReadDir(host)
	if err != nil || string(got) != "safe" || len(list) != 1 {
		t.Fatalf("the host was changed: %q %v %v", got, list, err)
	}
}
