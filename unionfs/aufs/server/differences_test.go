package server_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vivarium/internal/testenv"
	"vivarium/unionfs/aufs"
	"vivarium/unionfs/stack"
)

// TestDifferences: what docs/AUFS.md says that a union does otherwise than a bare file system.
func TestDifferences(t *testing.T) {
	b := dirs(t, 2)
	write(t, b[1]+"/low/file", "x")
	write(t, b[1]+"/linked", "y")
	must(t, os.Link(b[1]+"/linked", b[1]+"/linked2"))
	write(t, b[1]+"/both/a", "a")
	write(t, b[0]+"/both/b", "b")
	write(t, b[1]+"/copied", "z")
	u := mount(t, "dirs="+b[0]+":"+b[1])
	stat := func(name string) (st unix.Stat_t) {
		t.Helper()
		must(t, unix.Lstat(u.path(name), &st))
		return st
	}
	is := func(what string, err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	is("rename of a directory below", unix.Rename(u.path("low"), u.path("moved")), unix.EXDEV)
	is("a name as long as may be", os.WriteFile(u.path(strings.Repeat("n", 251)), nil, 0o644), nil)
	is("a name that is longer", os.WriteFile(u.path(strings.Repeat("n", 252)), nil, 0o644), unix.ENAMETOOLONG)
	var fs unix.Statfs_t
	must(t, unix.Statfs(u.point, &fs))
	if fs.Namelen != 251 {
		t.Errorf("statfs says that names have %d bytes", fs.Namelen)
	}
	is("a name of the union's own", os.WriteFile(u.path(".wh.x"), nil, 0o644), unix.EPERM)
	if st := stat("both"); st.Nlink != 1 {
		t.Errorf("a merged directory has %d links", st.Nlink)
	}
	f, err := os.Open(u.path("low/file"))
	must(t, err)
	_, err = unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	is("ioctl", err, unix.ENOTTY)
	must(t, f.Close())
	fd, err := unix.Open(u.path("low/file"), unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	must(t, err)
	if n, err := unix.Pread(fd, make([]byte, 7)[1:], 0); n != 1 || err != nil {
		t.Errorf("an unaligned read with O_DIRECT: %d, %v", n, err)
	}
	must(t, unix.Close(fd))
	before := stat("copied").Ino
	must(t, os.Chmod(u.path("copied"), 0o600))
	if now := stat("copied").Ino; now != before {
		t.Errorf("a file that was copied up has another number, %d and not %d", now, before)
	}
	must(t, os.Remove(u.path("linked")))
	if st := stat("linked2"); st.Nlink != 1 {
		t.Errorf("%d links are left of two", st.Nlink)
	}
	u.remount()
	if stat("copied").Ino == before {
		t.Error("a file that was copied up has its old number at the next mount, too")
	}
	if st := stat("linked2"); st.Nlink != 2 {
		t.Errorf("at the next mount %d links are left of two", st.Nlink)
	}
}

// TestPseudoLinksFolded: names that lead to a file by a pseudo-link are told as changed, and are
// of this file when the branch that it is on is folded down.
func TestPseudoLinksFolded(t *testing.T) {
	b := dirs(t, 3)
	write(t, b[2]+"/a", "old")
	must(t, os.MkdirAll(b[2]+"/deep/er", 0o750))
	must(t, os.Link(b[2]+"/a", b[2]+"/deep/er/b"))
	must(t, os.Link(b[2]+"/a", b[2]+"/gone"))
	options := "dirs=" + b[0] + ":" + b[1] + "=ro+wh:" + b[2]
	u := mount(t, options)
	must(t, os.Remove(u.path("gone")))
	f, err := os.OpenFile(u.path("a"), os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	_, err = f.WriteString("+")
	must(t, err)
	must(t, f.Close())
	u.stop()
	opts, err := aufs.ParseOptions(options)
	must(t, err)
	s, err := stack.New(stack.AUFS, opts.Branches)
	must(t, err)
	changes, err := s.Diff()
	must(t, err)
	var got []string
	for _, c := range changes {
		got = append(got, string(c.Kind)+" "+c.Path)
	}
	if want := "C /a, C /deep/er/b, D /gone"; strings.Join(got, ", ") != want {
		t.Errorf("%q, want %s", got, want)
	}
	must(t, s.Commit(context.Background()))
	u.start()
	read(t, u.path("a"), "old+")
	read(t, u.path("deep/er/b"), "old+")
	var x, y, d unix.Stat_t
	must(t, unix.Stat(b[1]+"/a", &x))
	must(t, unix.Stat(b[1]+"/deep/er/b", &y))
	must(t, unix.Stat(u.path("deep/er"), &d))
	if x.Ino != y.Ino || d.Mode&0o7777 != 0o750 {
		t.Errorf("%d and %d, in a directory of mode %o", x.Ino, y.Ino, d.Mode)
	}
	if _, err := os.Lstat(u.path("gone")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if left, _ := os.ReadDir(b[0] + "/" + aufs.Links); len(left) != 0 {
		t.Errorf("pseudo-links are left: %v", left)
	}
}

// TestNameLookedUpLate: a file that has lost the only name that was known has another one
// below. What is written to it by that, or by a descriptor from before, is there at the next
// mount.
func TestNameLookedUpLate(t *testing.T) {
	for range 20 { // the kernel forgets the first name at a time of its own
		b := dirs(t, 2)
		for _, name := range []string{"x", "y"} {
			write(t, b[1]+"/"+name, "old")
			must(t, os.Link(b[1]+"/"+name, b[1]+"/"+name+"gone"))
		}
		u := mount(t, "dirs="+b[0]+":"+b[1])
		must(t, os.Remove(u.path("xgone")))
		appendTo(t, u.path("x"), "+")
		f, err := os.OpenFile(u.path("ygone"), os.O_RDWR|os.O_APPEND, 0)
		must(t, err)
		must(t, os.Remove(u.path("ygone")))
		_, err = f.WriteString("+")
		must(t, err)
		read(t, u.path("y"), "old+")
		appendTo(t, u.path("y"), "+")
		must(t, f.Close())
		u.remount()
		read(t, u.path("x"), "old+")
		read(t, u.path("y"), "old++")
		var st unix.Stat_t
		must(t, unix.Stat(u.path("x"), &st))
		if st.Nlink != 1 {
			t.Errorf("%d links", st.Nlink)
		}
		u.stop()
		if t.Failed() {
			return
		}
	}
}

func appendTo(t *testing.T, name, text string) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	_, err = f.WriteString(text)
	must(t, err)
	must(t, f.Close())
}

// TestServerKeepsNothing: a server that stays behind has nothing open of who started it.
func TestServerKeepsNothing(t *testing.T) {
	b := dirs(t, 2)
	u := mount(t, "dirs="+b[0]+":"+b[1])
	u.stop()
	held, err := os.Create(t.TempDir() + "/held")
	must(t, err)
	defer held.Close()
	cmd := exec.Command(testenv.Binary(t, "viv-union"), "none", u.point, "-o", u.opts)
	cmd.ExtraFiles = []*os.File{held, held, held}
	must(t, cmd.Run())
	s, err := aufs.ReadState(u.point)
	must(t, err)
	u.pid = s.PID
	u.pidfd, err = unix.PidfdOpen(s.PID, 0)
	must(t, err)
	open, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", s.PID))
	must(t, err)
	for _, fd := range open {
		if to, _ := os.Readlink(fd); to == held.Name() {
			t.Errorf("%s is %s", fd, to)
		}
	}
	if len(open) == 0 {
		t.Error("no descriptor is seen")
	}
}
