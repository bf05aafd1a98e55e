package layer

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"

	"archive/tar"

	"golang.org/x/sys/unix"
)

func runTar(t testing.TB, dir string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("tar", args...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("tar %v: %v\n%s", args, err, stderr.String())
	}
	return out
}

func TestImplicitDirectoriesComeFromParents(t *testing.T) {
	needRoot(t)
	low := applied(t, nil,
		ent{t: tar.TypeDir, name: "var", mode: 0o751, uid: 7, gid: 8, mtime: 5000},
		ent{t: tar.TypeDir, name: "var/tmp", mode: 0o1777, mtime: 6000, pax: map[string]string{paxXattr + "user.k": "v"}},
		ent{t: tar.TypeDir, name: "gone", mode: 0o700}, ent{t: tar.TypeDir, name: "gone/sub", mode: 0o700})
	mid := applied(t, []string{low}, ent{t: tar.TypeDir, name: "var", mode: 0o711, uid: 9, gid: 9, mtime: 7000}, whiteout(".wh.gone"))
	got := applied(t, []string{mid, low}, file("var/tmp/f", "x"), file("new/f", "x"), file("gone/sub/f", "x"))
	want := lines("gone 755 0:0 dir", "gone/sub 755 0:0 dir", `gone/sub/f 644 0:0 "x"`, "new 755 0:0 dir", `new/f 644 0:0 "x"`,
		"var 711 9:9 dir", "var/tmp 1777 0:0 dir", `var/tmp/f 644 0:0 "x"`)
	if d := describe(t, got); d != want {
		t.Errorf("got\n%s\nwant\n%s", d, want)
	}
	var st unix.Stat_t
	if err := unix.Stat(got+"/var/tmp", &st); err != nil || st.Mtim.Sec != 6000 {
		t.Errorf("time of var/tmp: %d, %v", st.Mtim.Sec, err)
	}
	buf := make([]byte, 8)
	if n, err := unix.Getxattr(got+"/var/tmp", "user.k", buf); err != nil || string(buf[:n]) != "v" {
		t.Errorf("attribute of var/tmp: %q, %v", buf[:n], err)
	}
}

func TestImplicitDirectoryUnderAnOpaqueOne(t *testing.T) {
	needRoot(t)
	low := applied(t, nil, ent{t: tar.TypeDir, name: "d", mode: 0o700}, ent{t: tar.TypeDir, name: "d/s", mode: 0o700})
	got := applied(t, []string{low}, whiteout("d/.wh..wh..opq"), file("d/s/f", "x"))
	want := lines("d 755 0:0 dir opaque", "d/s 755 0:0 dir", `d/s/f 644 0:0 "x"`)
	if d := describe(t, got); d != want {
		t.Errorf("got\n%s\nwant\n%s", d, want)
	}
}

// TestImplicitDirectoryBelowIsALink is the usrmerge case: the lower layer has
// lib -> usr/lib, and the upper tar writes lib/x without naming lib.
func TestImplicitDirectoryBelowIsALink(t *testing.T) {
	needRoot(t)
	low := applied(t, nil, dir("usr"), ent{t: tar.TypeDir, name: "usr/lib", mode: 0o711}, file("usr/lib/old", "o"), sym("lib", "usr/lib"), sym("abs", "/lib/deep"))
	got := applied(t, []string{low}, file("lib/x", "x"), whiteout("lib/.wh.old"), file("lib/d/y", "y"), file("abs/z", "z"))
	want := lines("usr 755 0:0 dir", "usr/lib 711 0:0 dir", "usr/lib/d 755 0:0 dir", `usr/lib/d/y 644 0:0 "y"`,
		"usr/lib/deep 755 0:0 dir", `usr/lib/deep/z 644 0:0 "z"`, "usr/lib/old whiteout", `usr/lib/x 644 0:0 "x"`)
	if d := describe(t, got); d != want {
		t.Errorf("got\n%s\nwant\n%s", d, want)
	}
}

func TestHardLinksIntoLowerLayers(t *testing.T) {
	needRoot(t)
	low := applied(t, nil, ent{t: tar.TypeDir, name: "bin", mode: 0o711}, ent{t: tar.TypeReg, name: "bin/a", mode: 0o4755, uid: 3, body: "data", mtime: 4000},
		sym("b", "bin"), sym("bin/s", "a"))
	got := applied(t, []string{low}, hard("bin/c", "bin/a"), hard("d", "b/a"), hard("e", "d"), hard("s2", "bin/s"), hard("later", "bin/a"), file("later", "own"))
	want := lines("bin 711 0:0 dir", `bin/a 4755 3:0 "data"`, `bin/c 4755 3:0 "data"`, "bin/s -> a", `d 4755 3:0 "data"`, `e 4755 3:0 "data"`, `later 644 0:0 "own"`, "s2 -> a")
	if d := describe(t, got); d != want {
		t.Errorf("got\n%s\nwant\n%s", d, want)
	}
	var a, e unix.Stat_t
	if unix.Stat(got+"/bin/a", &a) != nil || unix.Stat(got+"/e", &e) != nil || a.Ino != e.Ino || a.Mtim.Sec != 4000 {
		t.Errorf("names are not one file: %d %d, time %d", a.Ino, e.Ino, a.Mtim.Sec)
	}
}

func TestHardLinkToDeletedFileBelow(t *testing.T) {
	needRoot(t)
	low := applied(t, nil, file("a", "x"))
	mid := applied(t, []string{low}, whiteout(".wh.a"))
	_, err := Apply(context.Background(), openDir(t, t.TempDir()), bytes.NewReader(tarOf(t, hard("b", "a"))), []string{mid, low}, ApplyOptions{})
	if err == nil || !strings.Contains(err.Error(), `"a"`) {
		t.Errorf("link to a deleted file: %v", err)
	}
}

func TestNeedsParents(t *testing.T) {
	for name, tt := range map[string]struct {
		ents []ent
		want bool
	}{
		"all named":     {[]ent{dir("d"), file("d/f", "x"), hard("h", "d/f")}, false},
		"named later":   {[]ent{file("d/f", "x"), dir("d")}, false},
		"implicit":      {[]ent{file("d/f", "x")}, true},
		"link to below": {[]ent{hard("h", "f")}, true},
	} {
		u, err := Unpack(context.Background(), openDir(t, t.TempDir()), bytes.NewReader(tarOf(t, tt.ents...)), ApplyOptions{Unprivileged: os.Geteuid() != 0})
		if err != nil {
			t.Fatal(err)
		}
		if got := u.NeedsParents(); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
