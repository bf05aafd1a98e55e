package unionfstest

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vivarium/internal/kernel"
	"vivarium/layer"
)

// Writable is a union whose changes can be told.
type Writable struct {
	Root string
	// Changes opens what was changed. The union may be in use.
	Changes func() layer.Upper
}

// changeCase does something in a union, and says what layer comes of it: the entries of its
// tar, and in short what `viv diff` says.
type changeCase struct {
	name string
	do   func(*work)
	want string
	diff string
}

// work is what a case does; each step fails the test if it fails.
type work struct {
	t    *testing.T
	root string
}

func (w *work) at(p string) string { return w.root + "/" + p }

func (w *work) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *work) write(p, body string) { w.t.Helper(); w.ok(os.WriteFile(w.at(p), []byte(body), 0o644)) }
func (w *work) mkdir(p string)       { w.t.Helper(); w.ok(os.Mkdir(w.at(p), 0o755)) }
func (w *work) rm(p string)          { w.t.Helper(); w.ok(os.RemoveAll(w.at(p))) }
func (w *work) link(from, to string) { w.t.Helper(); w.ok(os.Link(w.at(from), w.at(to))) }

// move renames as mv(1) does: what overlay refuses for a directory of its lower layers is
// done by copying.
func (w *work) move(from, to string) {
	w.t.Helper()
	err := os.Rename(w.at(from), w.at(to))
	if !errors.Is(err, unix.EXDEV) {
		w.ok(err)
		return
	}
	root, err := os.Open(w.root)
	w.ok(err)
	defer root.Close()
	w.ok(layer.Place(context.Background(), root, "/"+from, root, "/"+to, layer.PlaceOptions{}))
	w.rm(from)
}

// aDevice is the case that root of a user namespace cannot do.
const aDevice = "a device"

var changeCases = []changeCase{
	{"nothing", func(*work) {}, "", ""},
	{"a new file", func(w *work) { w.write("new", "n") }, "new:n", "A /new"},
	{"a new file in a directory", func(w *work) { w.write("dir/new", "n") }, "dir/ dir/new:n", "C /dir,A /dir/new"},
	{"a change", func(w *work) { w.write("dir/a", "changed") }, "dir/ dir/a:changed", "C /dir,C /dir/a"},
	{"a change far below", func(w *work) { w.write("deep/x/y/f", "changed") }, "deep/ deep/x/ deep/x/y/ deep/x/y/f:changed", "C /deep,C /deep/x,C /deep/x/y,C /deep/x/y/f"},
	{"the same again", func(w *work) {
		var st unix.Stat_t
		w.ok(unix.Stat(w.at("dir/a"), &st))
		w.ok(os.Chmod(w.at("dir/a"), os.FileMode(st.Mode&0o777)))
	}, "dir/ dir/a:low", ""},
	{"a mode", func(w *work) { w.ok(os.Chmod(w.at("dir"), 0o700)) }, "dir/", "C /dir"},
	{"an attribute", func(w *work) { w.ok(unix.Setxattr(w.at("dir/a"), "user.k", []byte("v"), 0)) }, "dir/ dir/a:low[user.k=v]", ""},
	{"a removed file", func(w *work) { w.rm("dir/a") }, "dir/ -dir/a", "C /dir,D /dir/a"},
	{"a removed tree", func(w *work) { w.rm("deep") }, "-deep", "D /deep"},
	{"made and removed", func(w *work) { w.mkdir("t"); w.write("t/f", ""); w.rm("t") }, "", ""},
	{"made and removed in a directory", func(w *work) { w.write("dir/t", ""); w.rm("dir/t") }, "dir/", ""},
	{"removed and made again", func(w *work) { w.rm("dir/a"); w.write("dir/a", "again") }, "dir/ dir/a:again", "C /dir,C /dir/a"},
	{"a directory made again", func(w *work) { w.rm("dir"); w.mkdir("dir"); w.write("dir/new", "n") },
		"dir/ -dir/a -dir/b dir/new:n -dir/sub", "C /dir,D /dir/a,D /dir/b,A /dir/new,D /dir/sub"},
	{"a directory emptied", func(w *work) { w.rm("dir/a"); w.rm("dir/b"); w.rm("dir/sub"); w.write("dir/new", "n") },
		"dir/ -dir/a -dir/b dir/new:n -dir/sub", "C /dir,D /dir/a,D /dir/b,A /dir/new,D /dir/sub"},
	{"a tree made again", func(w *work) { w.rm("deep"); w.ok(os.MkdirAll(w.at("deep/x"), 0o755)); w.write("deep/x/n", "n") },
		"deep/ -deep/g deep/x/ deep/x/n:n -deep/x/y", "C /deep,D /deep/g,C /deep/x,A /deep/x/n,D /deep/x/y"},
	{"a file for a directory", func(w *work) { w.rm("deep"); w.write("deep", "f") }, "deep:f", "C /deep"},
	{"a directory for a file", func(w *work) { w.rm("dir/a"); w.mkdir("dir/a"); w.write("dir/a/f", "x") }, "dir/ dir/a/ dir/a/f:x", "C /dir,C /dir/a,A /dir/a/f"},
	{"a renamed file", func(w *work) { w.move("dir/a", "dir/z") }, "dir/ -dir/a dir/z:low", "C /dir,D /dir/a,A /dir/z"},
	{"there and back", func(w *work) { w.move("dir/a", "dir/z"); w.move("dir/z", "dir/a") }, "dir/ dir/a:low", ""},
	{"a renamed directory", func(w *work) { w.move("deep", "deeper") }, "-deep deeper/ deeper/g:g deeper/x/ deeper/x/y/ deeper/x/y/f:f", "D /deep,A /deeper,A /deeper/g,A /deeper/x,A /deeper/x/y,A /deeper/x/y/f"},
	// `diff` compares what docker's compares, and times and sizes are equal here; the layer has it all.
	{"a directory in the place of its like", func(w *work) { w.rm("twin2"); w.move("twin1", "twin2") },
		"-twin1 twin2/ twin2/s/ twin2/s/v:1", "D /twin1"},
	{"two directories exchanged", func(w *work) { w.move("twin1", "t"); w.move("twin2", "twin1"); w.move("t", "twin2") },
		"twin1/ twin1/s/ twin1/s/v:2 twin2/ twin2/s/ twin2/s/v:1", ""},
	{"a new directory renamed", func(w *work) { w.mkdir("n"); w.write("n/f", "x"); w.move("n", "m") }, "m/ m/f:x", "A /m,A /m/f"},
	{"a hard link", func(w *work) { w.link("dir/a", "dir/h") }, "dir/ dir/a:low dir/h=dir/a", "C /dir,A /dir/h"},
	{"a hard link of a new file", func(w *work) { w.write("n", "x"); w.link("n", "m") }, "m:x n=m", "A /m,A /n"},
	{"one of two names removed", func(w *work) { w.rm("links/one") }, "links/ -links/one", "C /links,D /links/one"},
	{"a symbolic link", func(w *work) { w.ok(os.Symlink("dir/a", w.at("s"))) }, "s->dir/a", "A /s"},
	{"a FIFO", func(w *work) { w.ok(unix.Mkfifo(w.at("fifo"), 0o600)) }, "fifo|", "A /fifo"},
	{aDevice, func(w *work) { w.ok(unix.Mknod(w.at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3)))) }, "null%1:3", "A /null"},
	{"what was deleted below is back", func(w *work) { w.write("gone", "back") }, "gone:back", "A /gone"},
	{"in an opaque directory", func(w *work) { w.write("opaque/old", "new"); w.rm("opaque/new") }, "opaque/ -opaque/new opaque/old:new", "C /opaque,D /opaque/new,A /opaque/old"},
	{"sockets are no part of it", func(w *work) { w.ok(unix.Mknod(w.at("dir/sock"), unix.S_IFSOCK|0o600, 0)) }, "dir/", "C /dir,A /dir/sock"},
}

// Changes does one thing after the other, each in a union of its own, and looks what
// layer comes of it: the same of every driver.
func Changes(t *testing.T, start func(t *testing.T, lower []string) Writable) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts, devices")
	}
	lower := changeLayers(t)
	for _, c := range changeCases {
		if c.name == aDevice && kernel.InUserNamespace() {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			u := start(t, lower)
			c.do(&work{t, u.Root})
			up := u.Changes()
			defer up.Dir.Close()
			if got := entriesOf(t, up); got != c.want {
				t.Errorf("layer\n got %s\nwant %s", got, c.want)
			}
			list, err := layer.Changes(context.Background(), up)
			must(t, err)
			if got := ChangesText(list); got != c.diff {
				t.Errorf("changes\n got %s\nwant %s", got, c.diff)
			}
		})
	}
}

// changeLayers makes two layers, top-most first, spelled as overlay wants them. All times
// are the same, as in images that are made to be reproducible.
func changeLayers(t *testing.T) []string {
	base := t.TempDir()
	put := func(p, body string) {
		must(t, os.MkdirAll(base+"/"+p[:strings.LastIndexByte(p, '/')], 0o755))
		must(t, os.WriteFile(base+"/"+p, []byte(body), 0o644))
	}
	for p, body := range map[string]string{"0/dir/a": "low", "0/dir/b": "b", "0/deep/x/y/f": "f", "0/deep/g": "g", "0/gone": "x", "0/opaque/old": "o",
		"0/twin1/s/v": "1", "0/twin2/s/v": "2", "0/links/one": "both", "1/dir/sub/f": "f", "1/opaque/new": "n"} {
		put(p, body)
	}
	must(t, os.Link(base+"/0/links/one", base+"/0/links/two"))
	must(t, unix.Mknod(base+"/1/gone", unix.S_IFCHR, 0))
	must(t, unix.Setxattr(base+"/1/opaque", opaqueAttr(), []byte("y"), 0))
	lower := []string{base + "/1", base + "/0"}
	for _, l := range lower {
		must(t, os.Chmod(l, 0o755))
		sameTimes(t, l)
	}
	return lower
}

// sameTimes gives all files of a tree one time.
func sameTimes(t *testing.T, dir string) {
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		if e.IsDir() {
			sameTimes(t, dir+"/"+e.Name())
		}
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, dir+"/"+e.Name(), []unix.Timespec{{Sec: 1e9}, {Sec: 1e9}}, unix.AT_SYMLINK_NOFOLLOW))
	}
}

// entriesOf writes down the tar of a layer, an entry a word.
func entriesOf(t *testing.T, up layer.Upper) string {
	t.Helper()
	var buf bytes.Buffer
	must(t, layer.Diff(context.Background(), &buf, up))
	var out []string
	for tr := tar.NewReader(&buf); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return strings.Join(out, " ")
		}
		must(t, err)
		word := h.Name
		dir, base := "", h.Name
		if i := strings.LastIndexByte(strings.TrimSuffix(h.Name, "/"), '/'); i >= 0 {
			dir, base = h.Name[:i+1], h.Name[i+1:]
		}
		switch {
		case strings.HasPrefix(base, layer.WhiteoutPrefix):
			word = "-" + dir + base[len(layer.WhiteoutPrefix):]
			if h.ModTime.Unix() != 0 {
				t.Errorf("%s has a time: %v", h.Name, h.ModTime)
			}
		case h.Typeflag == tar.TypeReg:
			b, err := io.ReadAll(tr)
			must(t, err)
			word += ":" + string(b)
		case h.Typeflag == tar.TypeLink:
			word += "=" + h.Linkname
		case h.Typeflag == tar.TypeSymlink:
			word += "->" + h.Linkname
		case h.Typeflag == tar.TypeFifo:
			word += "|"
		case h.Typeflag == tar.TypeChar:
			word += fmt.Sprintf("%%%d:%d", h.Devmajor, h.Devminor)
		}
		for k, v := range h.PAXRecords {
			if name, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
				word += fmt.Sprintf("[%s=%s]", name, v)
			}
		}
		out = append(out, word)
	}
}

// ChangesText is a list of changes on one line, as "C /a,D /b".
func ChangesText(list []layer.Change) string {
	var out []string
	for _, ch := range list {
		out = append(out, ch.Kind.String()+" "+ch.Path)
	}
	return strings.Join(out, ",")
}
