package copy_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vivarium/internal/testenv"
	"vivarium/layer"
	"vivarium/unionfs"
	"vivarium/unionfs/copy"
	"vivarium/unionfs/unionfstest"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// united copies layers into a new directory.
func united(t *testing.T, lower []string) unionfs.Layer {
	t.Helper()
	base := t.TempDir()
	l := unionfs.Layer{Upper: base + "/rootfs", Work: base + "/work", Lower: lower}
	must(t, os.Mkdir(l.Upper, 0o755))
	must(t, os.Mkdir(l.Work, 0o755))
	must(t, copy.Driver{}.Make(context.Background(), l))
	return l
}

func TestSuite(t *testing.T) {
	unionfstest.Run(t, func(t *testing.T, lower []string) *os.File {
		l := united(t, lower)
		r, err := copy.Driver{}.Recipe(l)
		must(t, err)
		root, err := unionfs.Mount(r) // as a container has it
		must(t, err)
		t.Cleanup(func() { root.Close() })
		return root
	})
}

// TestPOSIX: a union that is a directory behaves as one, also where its files were copied.
func TestPOSIX(t *testing.T) {
	unionfstest.POSIX(t, func(t *testing.T) string {
		dir := t.TempDir()
		must(t, os.WriteFile(dir+"/f", []byte("x"), 0o644))
		return united(t, []string{dir}).Upper
	})
}

func TestRandom(t *testing.T) {
	for _, seed := range unionfstest.Seeds(t, "testdata/seeds") {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			lower := []string{t.TempDir(), t.TempDir()}
			unionfstest.Random(t, seed, unionfstest.RandomOptions{Steps: 400, HardLinks: true}, lower, func(t *testing.T) unionfstest.Mounted {
				return unionfstest.Mounted{Root: united(t, lower).Upper}
			})
		})
	}
}

func TestChanges(t *testing.T) {
	unionfstest.Changes(t, func(t *testing.T, lower []string) unionfstest.Writable {
		l := united(t, lower)
		return unionfstest.Writable{Root: l.Upper, Changes: func() layer.Upper {
			up, err := copy.Driver{}.Changes(l)
			must(t, err)
			return up
		}}
	})
}

// TestKeeps: owners, modes, times, attributes, ACLs, holes, devices and links are those of
// the layers.
func TestKeeps(t *testing.T) {
	testenv.Root(t)
	low := t.TempDir()
	acl := []byte{2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 7, 0, 57, 48, 0, 0, 4, 0, 5, 0, 255, 255, 255, 255, 16, 0, 7, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255}
	must(t, os.Mkdir(low+"/d", 0o755))
	f, err := os.Create(low + "/d/sparse")
	must(t, err)
	_, err = f.WriteAt([]byte("end"), 8<<20)
	must(t, err)
	must(t, f.Close())
	must(t, os.Link(low+"/d/sparse", low+"/d/other"))
	must(t, unix.Mknod(low+"/d/null", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	must(t, os.WriteFile(low+"/d/acl", nil, 0o644))
	must(t, unix.Setxattr(low+"/d/acl", "system.posix_acl_access", acl, 0))
	must(t, unix.Setxattr(low+"/d", "system.posix_acl_default", acl, 0))
	must(t, unix.Setxattr(low+"/d/acl", "trusted.t", []byte("v"), 0))
	must(t, os.Lchown(low+"/d/null", 12, 34))
	must(t, os.WriteFile(low+"/d/suid", nil, 0o644))
	must(t, os.Chown(low+"/d/suid", 12, 34))
	must(t, unix.Chmod(low+"/d/suid", 0o6711))
	must(t, os.Symlink("nowhere", low+"/d/l"))
	for _, p := range []string{"d/l", "d/acl", "d/null", "d"} {
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, low+"/"+p, []unix.Timespec{{Sec: 5, Nsec: 6}, {Sec: 7, Nsec: 8}}, unix.AT_SYMLINK_NOFOLLOW))
	}
	l := united(t, []string{low})
	err = filepath.WalkDir(low, func(p string, _ os.DirEntry, err error) error {
		must(t, err)
		rel, _ := filepath.Rel(low, p)
		if got, want := describe(t, l.Upper+"/"+rel), describe(t, p); got != want {
			t.Errorf("%s\n got %s\nwant %s", rel, got, want)
		}
		return nil
	})
	must(t, err)
}

// describe is all that a file is, but for its number.
func describe(t *testing.T, p string) string {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Lstat(p, &st))
	size := st.Size
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		size = 0
	}
	out := fmt.Sprintf("mode %o owner %d:%d links %d device %d size %d mtime %v sparse %v", st.Mode, st.Uid, st.Gid, st.Nlink, st.Rdev, size, st.Mtim, st.Blocks*512 < st.Size)
	b := make([]byte, 4096)
	n, err := unix.Llistxattr(p, b)
	must(t, err)
	names := strings.Split(strings.TrimSuffix(string(b[:n]), "\x00"), "\x00")
	slices.Sort(names)
	for _, name := range names {
		v := make([]byte, 256)
		n, _ := unix.Lgetxattr(p, name, v)
		out += fmt.Sprintf(" %s=%x", name, v[:max(n, 0)])
	}
	return out
}

// TestInheritsNoACL: a store whose directory has a default ACL hands it to no container.
func TestInheritsNoACL(t *testing.T) {
	testenv.Root(t)
	base, low := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(low+"/f", nil, 0o644))
	must(t, os.Mkdir(low+"/d", 0o755))
	must(t, unix.Setxattr(base, "system.posix_acl_default", []byte{2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 7, 0, 57, 48, 0, 0,
		4, 0, 7, 0, 255, 255, 255, 255, 16, 0, 7, 0, 255, 255, 255, 255, 32, 0, 7, 0, 255, 255, 255, 255}, 0))
	l := unionfs.Layer{Upper: base + "/rootfs", Work: t.TempDir(), Lower: []string{low}}
	must(t, os.Mkdir(l.Upper, 0o755))
	must(t, copy.Driver{}.Make(context.Background(), l))
	for _, p := range []string{"", "f", "d"} {
		if got, want := describe(t, l.Upper+"/"+p), describe(t, low+"/"+p); got != want {
			t.Errorf("%q\n got %s\nwant %s", p, got, want)
		}
	}
}

// TestRecipe: a container's root is the directory.
func TestRecipe(t *testing.T) {
	r, err := copy.Driver{}.Recipe(unionfs.Layer{Upper: "/r", Lower: []string{"/a", "/b"}})
	if err != nil || r.String() != "bind /r" {
		t.Errorf("%v, %v", r, err)
	}
}

// TestReadOnlyUnionGoes: what is copied to be looked at is removed.
func TestReadOnlyUnionGoes(t *testing.T) {
	a, b, work := t.TempDir(), t.TempDir(), t.TempDir()
	must(t, os.WriteFile(a+"/f", []byte("a"), 0o644))
	must(t, os.WriteFile(b+"/g", []byte("b"), 0o644))
	root, err := copy.Driver{}.Open(context.Background(), unionfs.Layer{Lower: []string{a, b}, Work: work})
	must(t, err)
	for _, n := range []string{"f", "g"} {
		if _, err := os.Stat(fmt.Sprintf("/proc/self/fd/%d/%s", root.Fd(), n)); err != nil {
			t.Error(err)
		}
	}
	must(t, root.Close())
	if left, err := os.ReadDir(work); err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
}

// TestDamagedIndex: without a sound index nobody can tell what was changed.
func TestDamagedIndex(t *testing.T) {
	testenv.Root(t)
	low := t.TempDir()
	l := united(t, []string{low})
	for _, bad := range []string{"", "viv copy 1 0 0\x00", "viv copy 1 x 0\x00", "viv copy 1 00000000000000000001 000000001\x00no number\x00", "viv copy 1 00000000000000000001 000000001\x0012 cut"} {
		must(t, os.WriteFile(l.Work+"/"+copy.IndexName, []byte(bad), 0o600))
		if _, err := (copy.Driver{}).Changes(l); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
