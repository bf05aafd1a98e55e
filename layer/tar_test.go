package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// ent is one tar entry of a test; body is the content of a file or the target
// of a link.
type ent struct {
	t        byte
	name     string
	body     string
	mode     int64
	uid, gid int
	pax      map[string]string
	maj, min int64
	mtime    int64
}

func dir(name string) ent          { return ent{t: tar.TypeDir, name: name, mode: 0o755} }
func file(name, body string) ent   { return ent{t: tar.TypeReg, name: name, body: body, mode: 0o644} }
func hard(name, target string) ent { return ent{t: tar.TypeLink, name: name, body: target} }
func sym(name, target string) ent  { return ent{t: tar.TypeSymlink, name: name, body: target} }
func whiteout(name string) ent     { return file(name, "") }
func device(name string, a, b int64) ent {
	return ent{t: tar.TypeChar, name: name, maj: a, min: b, mode: 0o600}
}

func tarOf(t testing.TB, ents ...ent) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range ents {
		h := &tar.Header{Typeflag: e.t, Name: e.name, Mode: e.mode, Uid: e.uid, Gid: e.gid, PAXRecords: e.pax,
			Devmajor: e.maj, Devminor: e.min, ModTime: time.Unix(1600000000, 0)}
		if e.mtime != 0 {
			h.ModTime = time.Unix(e.mtime, 0)
		}
		switch e.t {
		case tar.TypeReg:
			h.Size = int64(len(e.body))
		case tar.TypeLink, tar.TypeSymlink:
			h.Linkname = e.body
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatalf("%q: %v", e.name, err)
		}
		if e.t == tar.TypeReg {
			if _, err := io.WriteString(w, e.body); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: owners, device nodes and trusted attributes")
	}
}

func openDir(t testing.TB, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// applied unpacks the entries above parents and returns the directory.
func applied(t testing.TB, parents []string, ents ...ent) string {
	t.Helper()
	d := t.TempDir()
	if err := os.Chmod(d, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Apply(context.Background(), openDir(t, d), bytes.NewReader(tarOf(t, ents...)), parents, ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	return d
}

// describe prints a tree, one line a file, in a form that tests can compare.
func describe(t testing.TB, root string) string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == root {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		line := fmt.Sprintf("%s %o %d:%d", rel, st.Mode&0o7777, st.Uid, st.Gid)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %q", b)
		case unix.S_IFLNK:
			to, _ := os.Readlink(p)
			line = rel + " -> " + to
		case unix.S_IFDIR:
			line += " dir"
			if isOpaquePath(p) {
				line += " opaque"
			}
		case unix.S_IFCHR:
			line += fmt.Sprintf(" char %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
			if st.Rdev == 0 {
				line = rel + " whiteout"
			}
		default:
			line += fmt.Sprintf(" type %o", st.Mode&unix.S_IFMT)
		}
		out = append(out, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(out)
	return strings.Join(out, "\n")
}

func isOpaquePath(p string) bool {
	b := make([]byte, 4)
	n, err := unix.Lgetxattr(p, xattrOpaque, b)
	return err == nil && string(b[:n]) == "y"
}

func lines(s ...string) string { return strings.Join(s, "\n") }

func TestApply(t *testing.T) {
	needRoot(t)
	long := strings.Repeat("d/", 60) + strings.Repeat("n", 200)
	tests := map[string]struct {
		ents []ent
		want string
	}{
		"modes and owners": {
			[]ent{{t: tar.TypeDir, name: "d", mode: 0o2755, uid: 1, gid: 2}, {t: tar.TypeReg, name: "d/suid", mode: 0o4755, uid: 3, gid: 4}, {t: tar.TypeReg, name: "d/all", mode: 0o777}, {t: tar.TypeReg, name: "d/none", mode: 0}},
			lines("d 2755 1:2 dir", `d/all 777 0:0 ""`, `d/none 0 0:0 ""`, `d/suid 4755 3:4 ""`),
		},
		"whiteouts": {
			[]ent{dir("d"), whiteout("d/.wh.gone"), whiteout(".wh.top"), dir("o"), whiteout("o/.wh..wh..opq"), file("o/new", "n")},
			lines("d 755 0:0 dir", "d/gone whiteout", "o 755 0:0 dir opaque", `o/new 644 0:0 "n"`, "top whiteout"),
		},
		"whiteout of a file of the same layer is for the layers below": {
			[]ent{file("f", "x"), whiteout(".wh.f")}, `f 644 0:0 "x"`,
		},
		"whiteout of a directory of the same layer makes it opaque, before": {
			[]ent{whiteout(".wh.d"), dir("d"), file("d/f", "x")}, lines("d 755 0:0 dir opaque", `d/f 644 0:0 "x"`),
		},
		"and after": {
			[]ent{dir("d"), file("d/f", "x"), whiteout(".wh.d")}, lines("d 755 0:0 dir opaque", `d/f 644 0:0 "x"`),
		},
		"and if no entry names the directory": {
			[]ent{whiteout(".wh.d"), file("d/f", "x")}, lines("d 755 0:0 dir opaque", `d/f 644 0:0 "x"`),
		},
		"bookkeeping of AUFS is left out": {
			[]ent{dir(".wh..wh.plnk"), file(".wh..wh.plnk/1.2", "x"), file(".wh..wh.aufs", ""), file("f", "")}, `f 644 0:0 ""`,
		},
		"replacing": {
			[]ent{dir("a"), file("a/b", "x"), file("a", "now a file"), file("c", "x"), dir("c"), sym("l", "c"), file("l", "own")},
			lines(`a 644 0:0 "now a file"`, "c 755 0:0 dir", `l 644 0:0 "own"`),
		},
		"links inside the layer are followed for parents": {
			[]ent{dir("usr"), dir("usr/lib"), sym("lib", "usr/lib"), file("lib/f", "x"), sym("abs", "/usr/lib/.."), file("abs/g", "y")},
			lines("abs -> /usr/lib/..", "lib -> usr/lib", "usr 755 0:0 dir", `usr/g 644 0:0 "y"`, "usr/lib 755 0:0 dir", `usr/lib/f 644 0:0 "x"`),
		},
		"a link that leads out stays inside": {
			[]ent{sym("out", "../../../../escape"), file("out/f", "x")},
			lines("escape 755 0:0 dir", `escape/f 644 0:0 "x"`, "out -> ../../../../escape"),
		},
		"absolute names": {[]ent{file("/etc/f", "x")}, lines("etc 755 0:0 dir", `etc/f 644 0:0 "x"`)},
		"nodes": {
			[]ent{device("null", 1, 3), {t: tar.TypeFifo, name: "fifo", mode: 0o622}, sym("s", "nowhere")},
			lines("fifo 622 0:0 type 10000", "null 600 0:0 char 1:3", "s -> nowhere"),
		},
		"hard links": {
			[]ent{file("a", "x"), hard("b", "a"), hard("c", "./b"), hard("a", "a")},
			lines(`a 644 0:0 "x"`, `b 644 0:0 "x"`, `c 644 0:0 "x"`),
		},
		"long names": {[]ent{file(long, "x")}, ""},
		"nothing":    {nil, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			d := applied(t, nil, tt.ents...)
			got := describe(t, d)
			if name == "long names" {
				if b, err := os.ReadFile(d + "/" + long); err != nil || string(b) != "x" {
					t.Fatalf("%q, %v", b, err)
				}
				return
			}
			if got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

func TestApplyTimesAndAttributes(t *testing.T) {
	needRoot(t)
	pax := map[string]string{
		paxXattr + "user.k":                   "v",
		paxXattr + "trusted.overlay.opaque":   "y",
		paxXattr + "trusted.overlay.redirect": "/etc",
		paxXattr + "user.overlay.opaque":      "y",
		paxXattr + "security.capability":      "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
	}
	d := applied(t, nil,
		ent{t: tar.TypeDir, name: "d", mode: 0o755, mtime: 1000, pax: map[string]string{paxXattr + "user.dir": "1", paxXattr + "trusted.overlay.opaque": "y"}},
		ent{t: tar.TypeReg, name: "d/f", mode: 0o755, uid: 5, body: "x", mtime: 2000, pax: pax},
		ent{t: tar.TypeSymlink, name: "d/l", body: "f", mtime: 3000},
	)
	for name, want := range map[string]int64{"d": 1000, "d/f": 2000, "d/l": 3000} {
		var st unix.Stat_t
		if err := unix.Lstat(d+"/"+name, &st); err != nil || st.Mtim.Sec != want {
			t.Errorf("%s: time %d, want %d (%v)", name, st.Mtim.Sec, want, err)
		}
	}
	got := map[string]bool{}
	for _, name := range []string{"d", "d/f"} {
		buf := make([]byte, 4096)
		n, err := unix.Llistxattr(d+"/"+name, buf)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range strings.Split(strings.Trim(string(buf[:n]), "\x00"), "\x00") {
			got[name+" "+a] = true
		}
	}
	for _, want := range []string{"d user.dir", "d/f user.k", "d/f security.capability"} {
		if !got[want] {
			t.Errorf("attribute %s is missing: %v", want, got)
		}
	}
	for a := range got {
		if strings.Contains(a, "overlay") {
			t.Errorf("attribute of the union came through: %s", a)
		}
	}
}

func TestApplySetgidDirectoryDoesNotLeak(t *testing.T) {
	needRoot(t)
	d := applied(t, nil, ent{t: tar.TypeDir, name: "d", mode: 0o2775, gid: 50}, file("d/f", "x"), dir("d/sub"))
	want := lines("d 2775 0:50 dir", `d/f 644 0:0 "x"`, "d/sub 755 0:0 dir")
	if got := describe(t, d); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestApplyRefuses(t *testing.T) {
	tests := map[string]struct {
		ents []ent
		is   error
	}{
		"parent":                    {[]ent{file("../x", "x")}, ErrUnsafe},
		"parent inside":             {[]ent{file("a/../../x", "x")}, ErrUnsafe},
		"hard link out":             {[]ent{hard("x", "../../etc/passwd")}, ErrUnsafe},
		"hard link to the root":     {[]ent{hard("x", "/")}, ErrUnsafe},
		"whiteout of parent":        {[]ent{whiteout(".wh...")}, ErrUnsafe},
		"whiteout of self":          {[]ent{whiteout("a/.wh..")}, ErrUnsafe},
		"whiteout of nothing":       {[]ent{whiteout("a/.wh.")}, ErrUnsafe},
		"whiteout on the way":       {[]ent{file(".wh.a/b", "x")}, ErrUnsafe},
		"opaque root":               {[]ent{whiteout(".wh..wh..opq")}, ErrUnsafe},
		"opaque root through link":  {[]ent{sym("r", "/"), whiteout("r/.wh..wh..opq")}, ErrUnsafe},
		"root that is a file":       {[]ent{file(".", "")}, ErrUnsafe},
		"name that is too long":     {[]ent{file(strings.Repeat("a/", 3000)+"x", "")}, ErrUnsafe},
		"link that leads to itself": {[]ent{sym("a", "b"), sym("b", "a"), file("a/x", "")}, unix.ELOOP},
		"file as directory":         {[]ent{file("a", ""), file("a/x", "")}, unix.ENOTDIR},
		"whiteout in disguise":      {[]ent{device("etc", 0, 0)}, ErrUnsafe},
		"huge device number":        {[]ent{device("d", 1<<20, 1)}, nil},
		"unknown type":              {[]ent{{t: 'Z', name: "x"}}, nil},
		"hard link to nothing":      {[]ent{hard("x", "nothing")}, nil},
		"owner that chown skips":    {[]ent{{t: tar.TypeReg, name: "x", uid: 1<<32 - 1}}, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if strings.Contains(name, "link that") || strings.Contains(name, "file as") {
				needRoot(t)
			}
			outer := t.TempDir()
			in := filepath.Join(outer, "in")
			if err := os.Mkdir(in, 0o755); err != nil {
				t.Fatal(err)
			}
			_, err := Apply(context.Background(), openDir(t, in), bytes.NewReader(tarOf(t, tt.ents...)), nil, ApplyOptions{})
			if err == nil {
				t.Fatalf("was accepted:\n%s", describe(t, in))
			}
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("error %v, want %v", err, tt.is)
			}
			if names, _ := os.ReadDir(outer); len(names) != 1 {
				t.Errorf("wrote outside: %v", names)
			}
		})
	}
}

// TestApplyCannotReachOutside tries to write through links whose targets exist
// on the host.
func TestApplyCannotReachOutside(t *testing.T) {
	needRoot(t)
	outer := t.TempDir()
	victim := filepath.Join(outer, "victim")
	if err := os.Mkdir(victim, 0o755); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(victim, "secret")
	if err := os.WriteFile(secret, []byte("safe"), 0o600); err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 20)
	for name, ents := range map[string][]ent{
		"absolute link":        {sym("l", victim), file("l/secret", "evil"), file("l/new", "evil")},
		"relative link":        {sym("l", up+victim[1:]), file("l/secret", "evil")},
		"link to the file":     {sym("l", secret), file("l", "evil")},
		"two steps":            {dir("d"), sym("d/l", ".."), sym("m", "d/l/"+up+victim[1:]), file("m/secret", "evil")},
		"magic link":           {sym("l", "/proc/self/root"+victim), file("l/secret", "evil")},
		"whiteout through":     {sym("l", victim), whiteout("l/.wh.secret"), whiteout("l/.wh..wh..opq")},
		"directory over":       {sym("l", victim), ent{t: tar.TypeDir, name: "l/", mode: 0o777}},
		"exchange after cache": {dir("l"), file("l/a", ""), sym("l", victim), file("l/secret", "evil")},
		"link through a link":  {sym("l", victim), file("own", "x"), hard("l/secret", "own")},
	} {
		t.Run(name, func(t *testing.T) {
			in, err := os.MkdirTemp(outer, "in")
			if err != nil {
				t.Fatal(err)
			}
			_, err = Apply(context.Background(), openDir(t, in), bytes.NewReader(tarOf(t, ents...)), nil, ApplyOptions{})
			b, rerr := os.ReadFile(secret)
			st, _ := os.Stat(victim)
			names, _ := os.ReadDir(victim)
			if rerr != nil || string(b) != "safe" || len(names) != 1 || st.Mode().Perm() != 0o755 {
				t.Fatalf("the host was changed: %q %v %v %v (apply: %v)", b, rerr, names, st.Mode(), err)
			}
		})
	}
	t.Run("hard link to a host file", func(t *testing.T) {
		in, _ := os.MkdirTemp(outer, "in")
		_, err := Apply(context.Background(), openDir(t, in), bytes.NewReader(tarOf(t, sym("l", victim), hard("h", "l/secret"))), nil, ApplyOptions{})
		if err == nil {
			t.Fatal("made a hard link to a file of the host")
		}
	})
}

func TestApplyLimits(t *testing.T) {
	b := tarOf(t, file("a", strings.Repeat("x", 1000)), file("b", strings.Repeat("x", 1000)))
	for _, opts := range []ApplyOptions{{MaxBytes: 1999}, {MaxEntries: 1}} {
		_, err := Apply(context.Background(), openDir(t, t.TempDir()), bytes.NewReader(b), nil, opts)
		if !errors.Is(err, ErrTooLarge) {
			t.Errorf("%+v: %v", opts, err)
		}
	}
	got, err := Apply(context.Background(), openDir(t, t.TempDir()), bytes.NewReader(b), nil, ApplyOptions{MaxBytes: 2000, MaxEntries: 2, Unprivileged: os.Geteuid() != 0})
	if err != nil || got.Bytes != 2000 || got.Entries != 2 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestApplyTruncated(t *testing.T) {
	b := tarOf(t, file("a", strings.Repeat("x", 100000)))
	for _, n := range []int{100, 600, 50000} {
		if _, err := Apply(context.Background(), openDir(t, t.TempDir()), bytes.NewReader(b[:n]), nil, ApplyOptions{}); err == nil {
			t.Errorf("tar cut at %d was accepted", n)
		}
	}
}

func TestApplyCancelled(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("enough")
	cancel(why)
	_, err := Apply(ctx, openDir(t, t.TempDir()), bytes.NewReader(tarOf(t, file("a", "x"))), nil, ApplyOptions{})
	if !errors.Is(err, why) {
		t.Errorf("%v", err)
	}
}

// TestApplySparse reads a sparse entry as GNU tar writes it.
func TestApplySparse(t *testing.T) {
	needRoot(t)
	src := t.TempDir()
	f, err := os.Create(src + "/sparse")
	if err != nil {
		t.Fatal(err)
	}
	const size = 64 << 20
	if _, err := f.WriteAt([]byte("middle"), size/2); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	f.Close()
	for _, format := range []string{"gnu", "pax"} {
		t.Run(format, func(t *testing.T) {
			b := runTar(t, src, "--format="+format, "--sparse", "-cf", "-", "sparse")
			if len(b) > 1<<20 {
				t.Fatalf("tar has %d bytes: it is not sparse", len(b))
			}
			d := t.TempDir()
			if _, err := Apply(context.Background(), openDir(t, d), bytes.NewReader(b), nil, ApplyOptions{}); err != nil {
				t.Fatal(err)
			}
			var st unix.Stat_t
			if err := unix.Stat(d+"/sparse", &st); err != nil {
				t.Fatal(err)
			}
			if st.Size != size || st.Blocks*512 > 1<<20 {
				t.Errorf("size %d in %d blocks", st.Size, st.Blocks)
			}
			want, _ := os.ReadFile(src + "/sparse")
			got, _ := os.ReadFile(d + "/sparse")
			if !bytes.Equal(got, want) {
				t.Error("content differs")
			}
		})
	}
}

func FuzzApply(f *testing.F) {
	f.Add(tarOf(f, dir("d"), file("d/f", "x"), sym("l", "d"), hard("h", "d/f"), whiteout("d/.wh.g"), whiteout("d/.wh..wh..opq")))
	f.Add(tarOf(f, file("../x", "")))
	f.Add(tarOf(f, sym("a", "/"), file("a/b/c", "x"), dir("a"), file("a", "y")))
	f.Add([]byte("no tar"))
	f.Fuzz(func(t *testing.T, b []byte) {
		outer := t.TempDir()
		in := filepath.Join(outer, "in")
		if err := os.Mkdir(in, 0o755); err != nil {
			t.Fatal(err)
		}
		d, err := os.Open(in)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		_, _ = Apply(context.Background(), d, bytes.NewReader(b), nil, ApplyOptions{MaxBytes: 1 << 20, MaxEntries: 200, Unprivileged: os.Geteuid() != 0})
		if names, _ := os.ReadDir(outer); len(names) != 1 {
			t.Fatalf("wrote outside: %v", names)
		}
	})
}
