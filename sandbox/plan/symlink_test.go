package plan

import (
	"os"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestBeyondSymlinks(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"etc", "run", "usr/share"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "etc/there"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{
		"etc/resolv.conf": "../run/resolve/stub.conf",
		"etc/abs":         "/usr/share/zone",
		"etc/out":         "../../../../tmp/x",
		"etc/chain":       "resolv.conf",
		"etc/loop":        "loop",
		"etc/good":        "there",
		"lib":             "usr/lib",
		"etc/dots":        "../none/../also/file",
	} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	c := &compiler{spec: &specs.Spec{Root: &specs.Root{Path: root}}}
	for name, want := range map[string]string{
		"/etc/resolv.conf":  "/run/resolve/stub.conf",
		"/etc/abs":          "/usr/share/zone",
		"/etc/out":          "/tmp/x",
		"/etc/chain":        "/run/resolve/stub.conf",
		"/etc/loop":         "/etc/loop",
		"/etc/good":         "/etc/good",
		"/etc/there":        "/etc/there",
		"/etc/new/file":     "/etc/new/file",
		"/lib/modules":      "/usr/lib/modules",
		"/etc/dots":         "/also/file",
		"etc//resolv.conf/": "/run/resolve/stub.conf",
		"/../etc/abs":       "/usr/share/zone",
	} {
		if got := c.beyondSymlinks(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	c.opt.Root = &Root{Path: root, FSType: "overlay"}
	if got := c.beyondSymlinks("/etc/abs"); got != "/etc/abs" {
		t.Errorf("with a root of the caller's: %q", got)
	}
}

func FuzzFollowIn(f *testing.F) {
	f.Add("a/b/../c", "/a", "x")
	f.Add("..", "b/../../..", "//")
	f.Add("loop", "loop", "../loop")
	f.Fuzz(func(t *testing.T, name, one, two string) {
		root := t.TempDir()
		os.Symlink(one, filepath.Join(root, "one"))
		os.Symlink(two, filepath.Join(root, "two"))
		d, err := os.Open(root)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		for _, n := range []string{name, "one/" + name, "two"} {
			if got := followIn(int(d.Fd()), n); got != n && (got == "" || got[0] != '/' || filepath.Clean(got) != got) {
				t.Errorf("%q: %q", n, got)
			}
		}
	})
}
