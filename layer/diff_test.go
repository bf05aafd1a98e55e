package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func changes(t testing.TB, upper string, lower ...string) string {
	t.Helper()
	list, err := Changes(context.Background(), Upper{Dir: openDir(t, upper), Lower: lower})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, c := range list {
		out = append(out, c.Kind.String()+" "+c.Path)
	}
	return strings.Join(out, "\n")
}

func TestChanges(t *testing.T) {
	needRoot(t)
	low := applied(t, nil, dir("etc"), file("etc/a", "1"), file("etc/b", "2"), dir("etc/sub"), file("etc/sub/x", "x"), dir("usr"), file("usr/f", "f"), dir("tree"), dir("tree/in"), file("tree/in/f", ""))
	for name, tt := range map[string]struct {
		ents []ent
		want string
	}{
		"nothing":                 {nil, ""},
		"copied up and unchanged": {[]ent{dir("etc"), dir("etc/sub")}, ""},
		"added":                   {[]ent{dir("etc"), file("etc/new", "n"), dir("d"), file("d/f", "x")}, "A /d\nA /d/f\nC /etc\nA /etc/new"},
		"modified":                {[]ent{dir("etc"), file("etc/a", "12")}, "C /etc\nC /etc/a"},
		"mode only":               {[]ent{dir("etc"), {t: tar.TypeReg, name: "etc/a", body: "1", mode: 0o600}}, "C /etc\nC /etc/a"},
		"directory's mode":        {[]ent{{t: tar.TypeDir, name: "usr", mode: 0o700}}, "C /usr"},
		"deleted":                 {[]ent{dir("etc"), whiteout("etc/.wh.a"), whiteout("etc/.wh.never")}, "C /etc\nD /etc/a"},
		"tree deleted":            {[]ent{whiteout(".wh.tree")}, "D /tree"},
		"opaque":                  {[]ent{dir("etc"), whiteout("etc/.wh..wh..opq"), file("etc/b", "2")}, "C /etc\nD /etc/a\nD /etc/sub"},
		"file over directory":     {[]ent{file("tree", "x")}, "C /tree"},
		"directory over file":     {[]ent{dir("usr"), dir("usr/f"), file("usr/f/g", "")}, "C /usr\nC /usr/f\nA /usr/f/g"},
	} {
		t.Run(name, func(t *testing.T) {
			want := strings.Split(tt.want, "\n")
			got := strings.Split(changes(t, applied(t, []string{low}, tt.ents...), low), "\n")
			if strings.Join(got, ",") != strings.Join(sortByPath(want), ",") {
				t.Errorf("got  %v\nwant %v", got, want)
			}
		})
	}
}

func sortByPath(in []string) []string {
	for i := range in {
		for j := i + 1; j < len(in); j++ {
			if len(in[i]) > 2 && len(in[j]) > 2 && in[j][2:] < in[i][2:] {
				in[i], in[j] = in[j], in[i]
			}
		}
	}
	return in
}

// TestDiffRoundTrip packs a layer directory and unpacks it again.
func TestDiffRoundTrip(t *testing.T) {
	needRoot(t)
	low := applied(t, nil, dir("d"), file("d/gone", "x"), dir("o"), file("o/x", ""))
	up := applied(t, []string{low}, dir("d"), whiteout("d/.wh.gone"), dir("o"), whiteout("o/.wh..wh..opq"),
		ent{t: tar.TypeReg, name: "d/suid", mode: 0o4711, uid: 12, gid: 13, body: "s", mtime: 999, pax: map[string]string{paxXattr + "user.k": "v\x00w"}},
		hard("d/hard", "d/suid"), sym("d/sym", "../x"), device("d/null", 1, 3), ent{t: tar.TypeFifo, name: "d/fifo", mode: 0o644},
		file("d/"+strings.Repeat("long", 60), "l"))
	var buf bytes.Buffer
	if err := Diff(context.Background(), &buf, Upper{Dir: openDir(t, up), Lower: []string{low}}); err != nil {
		t.Fatal(err)
	}
	// An opaque directory is the same as whiteouts, name by name.
	if err := SpellOut(context.Background(), Upper{Dir: openDir(t, up), Lower: []string{low}}); err != nil {
		t.Fatal(err)
	}
	var spelled bytes.Buffer
	if _, err := Settle(context.Background(), &spelled, openDir(t, up), SettleOptions{}); err != nil || !bytes.Equal(spelled.Bytes(), buf.Bytes()) {
		t.Errorf("spelled out, the layer has other bytes (%v)", err)
	}
	again := t.TempDir()
	if _, err := Apply(context.Background(), openDir(t, again), bytes.NewReader(buf.Bytes()), []string{low}, ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, want := describe(t, again), describe(t, up); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	var a, b unix.Stat_t
	if unix.Stat(again+"/d/suid", &a) != nil || unix.Stat(again+"/d/hard", &b) != nil || a.Ino != b.Ino || a.Mtim.Sec != 999 {
		t.Errorf("hard link or time lost: %d %d %d", a.Ino, b.Ino, a.Mtim.Sec)
	}
	v := make([]byte, 8)
	if n, err := unix.Getxattr(again+"/d/suid", "user.k", v); err != nil || string(v[:n]) != "v\x00w" {
		t.Errorf("attribute: %q %v", v[:n], err)
	}
	if got := changes(t, again, up); got != "" {
		t.Errorf("the two differ: %s", got)
	}
}

func TestDiffRefusesRedirects(t *testing.T) {
	needRoot(t)
	up := applied(t, nil, dir("d"))
	if err := unix.Lsetxattr(up+"/d", "trusted.overlay.redirect", []byte("/elsewhere"), 0); err != nil {
		t.Skipf("file system has no trusted attributes: %v", err)
	}
	if err := Diff(context.Background(), &bytes.Buffer{}, Upper{Dir: openDir(t, up)}); err == nil || !strings.Contains(err.Error(), "redirect") {
		t.Errorf("got %v", err)
	}
}

func TestExportLeavesNothingOut(t *testing.T) {
	needRoot(t)
	src := applied(t, nil, dir("d"), file("d/.wh.literal", "") /* a whiteout */, file("f", "x"))
	if err := os.WriteFile(src+"/.wh.name", []byte("plain"), 0o600); err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if err := Export(context.Background(), &buf, openDir(t, src)); err != nil {
		t.Fatal(err)
	}
	tr := tar.NewReader(&buf)
	var names []string
	for {
		h, err := tr.Next()
		if err != nil {
			break
		}
		names = append(names, h.Name)
		if h.Name == "f" && !h.ModTime.Equal(time.Unix(1600000000, 0)) {
			t.Errorf("time of f: %v", h.ModTime)
		}
	}
	if got := strings.Join(names, " "); got != ".wh.name d/ d/literal f" {
		t.Errorf("got %s", got)
	}
}

func TestMergeEqualsLayers(t *testing.T) {
	needRoot(t)
	low := applied(t, nil, dir("d"), file("d/a", "1"), hard("d/b", "d/a"), dir("gone"), file("gone/x", ""), ent{t: tar.TypeDir, name: "t", mode: 0o1777})
	up := applied(t, []string{low}, dir("d"), file("d/a", "2"), whiteout(".wh.gone"), sym("s", "d/a"))
	dst := t.TempDir()
	if err := Merge(context.Background(), openDir(t, dst), []string{up, low}); err != nil {
		t.Fatal(err)
	}
	want := lines("d 755 0:0 dir", `d/a 644 0:0 "2"`, `d/b 644 0:0 "1"`, "s -> d/a", "t 1777 0:0 dir")
	if got := describe(t, dst); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
