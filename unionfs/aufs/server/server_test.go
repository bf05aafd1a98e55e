package server_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"vivarium/unionfs/aufs"
	"vivarium/unionfs/unionfstest"
)

func TestSuite(t *testing.T) {
	for _, udba := range []string{"none", "reval", "notify"} {
		t.Run(udba, func(t *testing.T) { unionfstest.Run(t, driver(",udba="+udba)) })
	}
}

// TestPOSIX: the cases pass on a bare directory first, so that what fails on a
// union is the union's.
func TestPOSIX(t *testing.T) {
	t.Run("bare", func(t *testing.T) { unionfstest.POSIX(t, func(t *testing.T) string { return t.TempDir() }) })
	for _, udba := range []string{"none", "reval", "notify"} {
		t.Run(udba, func(t *testing.T) {
			unionfstest.POSIX(t, func(t *testing.T) string {
				b := dirs(t, 2)
				return mount(t, "dirs="+b[0]+":"+b[1]+",udba="+udba).point
			})
		})
	}
}

// TestRandom does the same random operations on a union and on a model of one.
func TestRandom(t *testing.T) {
	for _, udba := range []string{"none", "reval"} {
		for _, seed := range unionfstest.Seeds(t, "testdata/seeds") {
			t.Run(fmt.Sprintf("%s/%d", udba, seed), func(t *testing.T) {
				b := dirs(t, 3)
				unionfstest.Random(t, seed, unionfstest.RandomOptions{Steps: 400, HardLinks: true}, b[1:], func(t *testing.T) unionfstest.Mounted {
					u := mount(t, "dirs="+strings.Join([]string{b[0], b[1] + "=ro+wh", b[2] + "=ro"}, ":")+",udba="+udba)
					return unionfstest.Mounted{Root: u.point, Remount: u.remount}
				})
			})
		}
	}
}

// TestPseudoLinks: names of one file stay names of one file when it is copied up,
// also over a remount.
func TestPseudoLinks(t *testing.T) {
	b := dirs(t, 2)
	write(t, b[1]+"/a", "old")
	must(t, os.Link(b[1]+"/a", b[1]+"/b"))
	u := mount(t, "dirs="+b[0]+":"+b[1])
	for range 2 {
		f, err := os.OpenFile(u.path("a"), os.O_WRONLY|os.O_APPEND, 0)
		must(t, err)
		_, err = f.WriteString("+")
		must(t, err)
		must(t, f.Close())
		var x, y unix.Stat_t
		must(t, unix.Stat(u.path("a"), &x))
		must(t, unix.Stat(u.path("b"), &y))
		if x.Ino != y.Ino || x.Nlink != 2 || y.Nlink != 2 {
			t.Errorf("a is %d with %d links, b %d with %d", x.Ino, x.Nlink, y.Ino, y.Nlink)
		}
		u.remount()
	}
	read(t, u.path("b"), "old++")
	must(t, os.Remove(u.path("a")))
	var st unix.Stat_t
	must(t, unix.Stat(u.path("b"), &st))
	if st.Nlink != 1 {
		t.Errorf("b has %d links", st.Nlink)
	}
	must(t, os.Remove(u.path("b")))
	if left, _ := os.ReadDir(b[0] + "/" + aufs.Links); len(left) != 0 {
		t.Errorf("pseudo-links are left: %v", left)
	}
	read(t, b[1]+"/b", "old")
}

// TestOpenFiles: who has a file open reads what others write, also when that copies
// it up; and keeps it when its name is gone.
func TestOpenFiles(t *testing.T) {
	b := dirs(t, 2)
	write(t, b[1]+"/f", "old")
	u := mount(t, "dirs="+b[0]+":"+b[1])
	r, err := os.Open(u.path("f"))
	must(t, err)
	defer r.Close()
	w, err := os.OpenFile(u.path("f"), os.O_WRONLY, 0)
	must(t, err)
	_, err = w.WriteAt([]byte("new"), 0)
	must(t, err)
	buf := make([]byte, 3)
	if _, err := r.ReadAt(buf, 0); err != nil || string(buf) != "new" {
		t.Errorf("the reader reads %q, %v", buf, err)
	}
	must(t, w.Close())
	must(t, os.Remove(u.path("f")))
	if _, err := r.ReadAt(buf, 0); err != nil || string(buf) != "new" {
		t.Errorf("without a name: %q, %v", buf, err)
	}
	var st unix.Stat_t
	must(t, unix.Fstat(int(r.Fd()), &st))
	if st.Nlink != 0 {
		t.Errorf("a removed file has %d links", st.Nlink)
	}
	must(t, r.Chmod(0o600))
}

// TestBranches changes the branches of a mounted union.
func TestBranches(t *testing.T) {
	for _, udba := range []string{"none", "reval", "notify"} {
		t.Run(udba, func(t *testing.T) {
			b := dirs(t, 4)
			write(t, b[1]+"/d/low", "1")
			write(t, b[2]+"/d/mid", "2")
			write(t, b[2]+"/d/low", "hides")
			write(t, b[3]+"/bottom", "3")
			u := mount(t, "dirs="+b[0]+":"+b[1]+",udba="+udba)
			read(t, u.path("d/low"), "1")
			if _, err := os.Stat(u.path("d/mid")); !errors.Is(err, os.ErrNotExist) {
				t.Error(err)
			}
			must(t, aufs.Command(u.point, "add 1 "+b[2]+"=ro"))
			read(t, u.path("d/mid"), "2")
			read(t, u.path("d/low"), "hides")
			must(t, aufs.Command(u.point, "append "+b[3]+"=rr"))
			read(t, u.path("bottom"), "3")
			f, err := os.Open(u.path("d/mid"))
			must(t, err)
			if err := aufs.Command(u.point, "del "+b[2]); !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), "d/mid is open") {
				t.Errorf("a branch in use was removed: %v", err)
			}
			must(t, f.Close())
			waitClosed(t, u)
			must(t, aufs.Command(u.point, "del "+b[2]))
			read(t, u.path("d/low"), "1")
			if _, err := os.Stat(u.path("d/mid")); !errors.Is(err, os.ErrNotExist) {
				t.Error(err)
			}
			must(t, aufs.Command(u.point, "mod "+b[0]+"=ro"))
			if err := os.WriteFile(u.path("x"), nil, 0o644); !errors.Is(err, unix.EROFS) {
				t.Errorf("wrote without a writable branch: %v", err)
			}
			must(t, aufs.Command(u.point, "mod "+b[0]+"=rw"))
			must(t, os.WriteFile(u.path("x"), nil, 0o644))
			for _, bad := range []string{"add 9 " + b[2], "add 0 " + b[1], "add 0 " + b[1] + "/d", "del /nowhere", "frob", "mod " + b[0] + "=xx"} {
				if err := aufs.Command(u.point, bad); err == nil {
					t.Errorf("%q was taken", bad)
				}
			}
		})
	}
}

// waitClosed waits until the server knows that nothing is open: the kernel tells it
// of a close without waiting for it.
func waitClosed(t *testing.T, u *union) {
	t.Helper()
	for range 1000 {
		s, err := aufs.ReadState(u.point)
		must(t, err)
		if s.Open == 0 {
			return
		}
		unix.Poll(nil, 5)
	}
	t.Fatal("a file stays open")
}

// TestDirectChanges: what is changed directly on a branch is seen, if the union was
// told to look.
func TestDirectChanges(t *testing.T) {
	b := dirs(t, 2)
	write(t, b[1]+"/d/f", "old")
	u := mount(t, "dirs="+b[0]+":"+b[1]+",udba=reval")
	read(t, u.path("d/f"), "old")
	write(t, b[1]+"/d/f", "newer")
	read(t, u.path("d/f"), "newer")
	write(t, b[0]+"/d/f", "above")
	read(t, u.path("d/f"), "above")
	write(t, b[0]+"/d/.wh.g", "")
	write(t, b[1]+"/d/g", "")
	if _, err := os.Stat(u.path("d/g")); !errors.Is(err, os.ErrNotExist) {
		t.Error("a whiteout made directly is not seen")
	}
}

// TestPolicies: which branch a new file or a copy goes to.
func TestPolicies(t *testing.T) {
	for _, tt := range []struct {
		opts string
		want map[string]int // file -> branch
	}{
		{"create=tdp", map[string]int{"d/1": 1, "2": 0, "d/3": 1}},
		{"create=rr", map[string]int{"d/1": 0, "2": 1, "d/3": 0}},
		{"create=pmfs", map[string]int{"d/1": 1}},
	} {
		t.Run(tt.opts, func(t *testing.T) {
			b := dirs(t, 2)
			must(t, os.Mkdir(b[1]+"/d", 0o755))
			u := mount(t, "dirs="+b[0]+"=rw:"+b[1]+"=rw,"+tt.opts)
			for _, f := range []string{"d/1", "2", "d/3"} {
				must(t, os.WriteFile(u.path(f), nil, 0o644))
				if want, ok := tt.want[f]; ok {
					if _, err := os.Stat(b[want] + "/" + f); err != nil {
						t.Errorf("%s is not on branch %d", f, want)
					}
				}
			}
		})
	}
	for cpup, want := range map[string]int{"tdp": 0, "bup": 1, "bu": 2} {
		t.Run("cpup="+cpup, func(t *testing.T) {
			b := dirs(t, 4)
			write(t, b[3]+"/d/f", "x")
			must(t, os.Mkdir(b[0]+"/d", 0o755))
			must(t, os.Mkdir(b[1]+"/d", 0o755))
			u := mount(t, fmt.Sprintf("dirs=%s=rw:%s=rw:%s=rw:%s=ro,cpup=%s", b[0], b[1], b[2], b[3], cpup))
			must(t, os.Chmod(u.path("d/f"), 0o600))
			if _, err := os.Stat(b[want] + "/d/f"); err != nil {
				t.Errorf("d/f was not copied to branch %d", want)
			}
		})
	}
}

// TestHostileBranch: links on a branch do not lead out of it.
func TestHostileBranch(t *testing.T) {
	b := dirs(t, 2)
	outside := t.TempDir()
	write(t, outside+"/secret", "secret")
	must(t, os.Mkdir(b[1]+"/d", 0o755))
	u := mount(t, "dirs="+b[0]+":"+b[1]+",udba=none")
	if _, err := os.Stat(u.path("d")); err != nil {
		t.Fatal(err)
	}
	must(t, os.Remove(b[1]+"/d"))
	must(t, os.Symlink(outside, b[1]+"/d"))
	if _, err := os.ReadFile(u.path("d/secret")); err == nil {
		t.Error("a directory that became a link leads out of the branch")
	}
	_ = os.WriteFile(u.path("d/made"), nil, 0o644)
	if _, err := os.Stat(outside + "/made"); err == nil {
		t.Error("a file was made outside of the branch")
	}
}

// TestKilledCopyUp kills the server while it copies a file up. The branch has no
// copy then, or the whole one.
func TestKilledCopyUp(t *testing.T) {
	rounds := 50
	if testing.Short() {
		rounds = 5
	}
	b := dirs(t, 2)
	body := strings.Repeat("0123456789abcdef", 1<<18)
	write(t, b[1]+"/d/big", body)
	for i := range rounds {
		must(t, os.RemoveAll(b[0]))
		must(t, os.Mkdir(b[0], 0o755))
		u := mount(t, "dirs="+b[0]+":"+b[1])
		done := make(chan error, 1)
		go func() { done <- os.Chmod(u.path("d/big"), 0o600) }()
		unix.Poll(nil, i%8) // a different moment each time; the check holds at all of them
		u.kill()
		<-done
		got, err := os.ReadFile(filepath.Join(b[0], "d/big"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if err == nil && string(got) != body {
			t.Fatalf("round %d: a copy of %d bytes is there", i, len(got))
		}
		u.start()
		read(t, u.path("d/big"), body)
		u.stop()
	}
}

// TestCopyUpInheritsNothing: a copy has the rights of what it is a copy of, whatever
// a default ACL of the directory gives to new files (acl(5)).
func TestCopyUpInheritsNothing(t *testing.T) {
	b := dirs(t, 2)
	acl := []byte{2, 0, 0, 0} // version, then entries of tag, rights and id (linux/posix_acl_xattr.h)
	for _, e := range [][3]uint32{{1, 7, ^uint32(0)}, {2, 7, 1234}, {4, 5, ^uint32(0)}, {0x10, 7, ^uint32(0)}, {0x20, 5, ^uint32(0)}} {
		acl = binary.LittleEndian.AppendUint16(acl, uint16(e[0]))
		acl = binary.LittleEndian.AppendUint16(acl, uint16(e[1]))
		acl = binary.LittleEndian.AppendUint32(acl, e[2])
	}
	for _, dir := range b {
		must(t, os.MkdirAll(dir+"/d", 0o755))
	}
	must(t, os.MkdirAll(b[1]+"/d/sub", 0o750))
	if err := unix.Setxattr(b[0]+"/d", "system.posix_acl_default", acl, 0); err == unix.EOPNOTSUPP {
		t.Skip("a file system without ACLs")
	} else {
		must(t, err)
	}
	write(t, b[1]+"/d/file", "x")
	must(t, os.Chmod(b[1]+"/d/file", 0o660))
	write(t, b[1]+"/d/sub/inner", "y")
	u := mount(t, "dirs="+b[0]+":"+b[1])
	for _, name := range []string{"d/file", "d/sub/inner"} {
		f, err := os.OpenFile(u.path(name), os.O_WRONLY|os.O_APPEND, 0)
		must(t, err)
		_, err = f.WriteString("+")
		must(t, err)
		must(t, f.Close())
	}
	for name, mode := range map[string]uint32{"d/file": 0o660, "d/sub": 0o750, "d/sub/inner": 0o644} {
		for _, attr := range []string{"system.posix_acl_access", "system.posix_acl_default"} {
			var value [256]byte
			if n, err := unix.Getxattr(b[0]+"/"+name, attr, value[:]); err != unix.ENODATA {
				t.Errorf("%s has %s: %x, %v", name, attr, value[:max(n, 0)], err)
			}
		}
		var st unix.Stat_t
		must(t, unix.Stat(b[0]+"/"+name, &st))
		if st.Mode&0o7777 != mode {
			t.Errorf("%s has mode %o, not %o", name, st.Mode&0o7777, mode)
		}
	}
}

// TestTwins: what a file system of the kernel's answers, the union answers.
func TestTwins(t *testing.T) {
	for _, seed := range unionfstest.Seeds(t, "testdata/seeds") {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			b := dirs(t, 3)
			unionfstest.Twins(t, seed, unionfstest.TwinsOptions{Steps: 500, Refuses: lowerRename}, b[0], b[1], func(t *testing.T) string {
				must(t, os.Chmod(b[2], 0o777))
				return mount(t, "dirs="+b[2]+"=rw:"+b[1]+"=ro").point
			})
		})
	}
}

// TestTwinsAtOnce: the same, of several who work in directories of one union at once.
func TestTwinsAtOnce(t *testing.T) {
	const writers = 3
	b := dirs(t, 3)
	must(t, os.Chmod(b[2], 0o777))
	var filled, ended sync.WaitGroup
	filled.Add(writers)
	union := sync.OnceValue(func() string { return mount(t, "dirs="+b[2]+"=rw:"+b[1]+"=ro").point })
	for i := range writers {
		sub := fmt.Sprint("/", i)
		must(t, os.Mkdir(b[0]+sub, 0o777))
		must(t, os.Mkdir(b[1]+sub, 0o777))
		ended.Go(func() {
			unionfstest.Twins(t, uint64(i+1), unionfstest.TwinsOptions{Steps: 400, Refuses: lowerRename}, b[0]+sub, b[1]+sub, func(t *testing.T) string {
				filled.Done()
				filled.Wait()
				return union() + sub
			})
		})
	}
	ended.Wait()
}

// lowerRename: a directory that lies on a lower branch is not renamed, for its files
// would have to be copied up, all of them.
func lowerRename(what string, err error) bool {
	return strings.Contains(what, ": rename ") && errors.Is(err, unix.EXDEV)
}

// TestExercise: one file, read and written in all ways, on a bare file system and on
// unions on which it lies above and below.
func TestExercise(t *testing.T) {
	body := bytes.Repeat([]byte("what is below "), 9000)
	for _, seed := range unionfstest.Seeds(t, "testdata/seeds") {
		t.Run(fmt.Sprint("bare ", seed), func(t *testing.T) {
			path := t.TempDir() + "/f"
			must(t, os.WriteFile(path, body, 0o644))
			unionfstest.Exercise(t, seed, 400, path, body)
		})
		for _, udba := range []string{"none", "reval", "notify"} {
			t.Run(fmt.Sprint(udba, " ", seed), func(t *testing.T) {
				b := dirs(t, 2)
				must(t, os.WriteFile(b[1]+"/f", body, 0o644))
				u := mount(t, "dirs="+b[0]+"=rw:"+b[1]+"=ro,udba="+udba)
				unionfstest.Exercise(t, seed, 400, u.path("f"), body)
				read(t, b[1]+"/f", string(body))
			})
		}
	}
}
