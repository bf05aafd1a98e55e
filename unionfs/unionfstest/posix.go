package unionfstest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vivarium/internal/kernel"
)

// POSIX runs cases of what a file system does, each with a name, in directories
// below what make gives. It is to be run on a bare file system first.
func POSIX(t *testing.T, make func(t *testing.T) string) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts, owners, devices")
	}
	top, err := os.Open(make(t))
	must(t, err)
	t.Cleanup(func() { top.Close() })
	must(t, top.Chmod(0o755))
	// By its descriptor others come to it too: directories above may be closed to them.
	root := fmt.Sprintf("/proc/self/fd/%d", top.Fd())
	for i, c := range posixCases {
		t.Run(c.name, func(t *testing.T) {
			dir := fmt.Sprintf("%s/%d", root, i)
			must(t, os.Mkdir(dir, 0o755))
			c.run(&posix{t, dir})
		})
	}
	t.Run("errors", func(t *testing.T) { posixErrors(t, root) })
}

type posix struct {
	*testing.T
	dir string
}

func (p *posix) path(name string) string { return p.dir + "/" + name }

func (p *posix) ok(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

func (p *posix) is(err, want error) {
	p.Helper()
	if !isError(err, want) {
		p.Errorf("got %v, want %v", err, want)
	}
}

// isError tells whether an error is the one that is wanted. For a directory that is not
// empty there are two: rename(2) on xfs gives the other one.
func isError(err, want error) bool {
	return errors.Is(err, want) || want == unix.ENOTEMPTY && errors.Is(err, unix.EEXIST)
}

func (p *posix) file(name, body string) {
	p.Helper()
	p.ok(os.WriteFile(p.path(name), []byte(body), 0o644))
}

func (p *posix) stat(name string) (st unix.Stat_t) {
	p.Helper()
	p.ok(unix.Lstat(p.path(name), &st))
	return st
}

func (p *posix) body(name, want string) {
	p.Helper()
	b, err := os.ReadFile(p.path(name))
	if err != nil || string(b) != want {
		p.Errorf("%s: %.40q, %v; want %.40q", name, b, err, want)
	}
}

var posixCases = []struct {
	name string
	run  func(p *posix)
}{
	{"mode of a new file follows the umask", func(p *posix) {
		old := unix.Umask(0o027)
		defer unix.Umask(old)
		f, err := os.OpenFile(p.path("f"), os.O_CREATE|os.O_WRONLY, 0o666)
		p.ok(err)
		f.Close()
		p.ok(unix.Mkdir(p.path("d"), 0o777))
		if m := p.stat("f").Mode & 0o7777; m != 0o640 {
			p.Errorf("file %o", m)
		}
		if m := p.stat("d").Mode & 0o7777; m != 0o750 {
			p.Errorf("directory %o", m)
		}
	}},
	{"setgid directories hand on their group", func(p *posix) {
		p.ok(os.Mkdir(p.path("d"), 0o755))
		p.ok(os.Chown(p.path("d"), 0, 77))
		p.ok(unix.Chmod(p.path("d"), 0o2775))
		p.file("d/f", "")
		p.ok(os.Mkdir(p.path("d/s"), 0o755))
		if st := p.stat("d/f"); st.Gid != 77 {
			p.Errorf("file of group %d", st.Gid)
		}
		if st := p.stat("d/s"); st.Gid != 77 || st.Mode&unix.S_ISGID == 0 {
			p.Errorf("directory of group %d, mode %o", st.Gid, st.Mode)
		}
	}},
	{"chown takes setuid and setgid away", func(p *posix) {
		p.file("f", "")
		p.ok(unix.Chmod(p.path("f"), 0o6755))
		p.ok(os.Chown(p.path("f"), 5, 6))
		if st := p.stat("f"); st.Mode&0o7777 != 0o755 || st.Uid != 5 || st.Gid != 6 {
			p.Errorf("mode %o, owner %d:%d", st.Mode, st.Uid, st.Gid)
		}
	}},
	{"times have nanoseconds", func(p *posix) {
		p.file("f", "")
		want := []unix.Timespec{{Sec: 1000, Nsec: 123456789}, {Sec: 2000, Nsec: 987654321}}
		p.ok(unix.UtimesNanoAt(unix.AT_FDCWD, p.path("f"), want, 0))
		if st := p.stat("f"); st.Atim != want[0] || st.Mtim != want[1] {
			p.Errorf("%v %v", st.Atim, st.Mtim)
		}
		p.ok(unix.UtimesNanoAt(unix.AT_FDCWD, p.path("f"), []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: 5}}, 0))
		if st := p.stat("f"); st.Atim != want[0] || st.Mtim.Sec != 5 {
			p.Errorf("%v %v", st.Atim, st.Mtim)
		}
	}},
	{"times of a link", func(p *posix) {
		p.ok(os.Symlink("nowhere", p.path("l")))
		p.ok(unix.UtimesNanoAt(unix.AT_FDCWD, p.path("l"), []unix.Timespec{{Sec: 1}, {Sec: 2}}, unix.AT_SYMLINK_NOFOLLOW))
		if st := p.stat("l"); st.Mtim.Sec != 2 {
			p.Error(st.Mtim)
		}
	}},
	{"a new name changes the directory's time", func(p *posix) {
		p.ok(unix.UtimesNanoAt(unix.AT_FDCWD, p.dir, []unix.Timespec{{Sec: 1}, {Sec: 2}}, 0))
		p.file("f", "")
		if p.stat("").Mtim.Sec == 2 {
			p.Error("the time stayed")
		}
		p.ok(unix.UtimesNanoAt(unix.AT_FDCWD, p.dir, []unix.Timespec{{Sec: 1}, {Sec: 2}}, 0))
		p.ok(os.Remove(p.path("f")))
		if p.stat("").Mtim.Sec == 2 {
			p.Error("the time stayed")
		}
	}},
	{"a write changes the file's time", func(p *posix) {
		f, err := os.Create(p.path("f"))
		p.ok(err)
		defer f.Close()
		p.ok(unix.UtimesNanoAt(unix.AT_FDCWD, p.path("f"), []unix.Timespec{{Sec: 1}, {Sec: 2}}, 0))
		_, err = f.WriteString("x")
		p.ok(err)
		if st := p.stat("f"); st.Mtim.Sec == 2 || st.Size != 1 {
			p.Error(st.Mtim, st.Size)
		}
	}},
	{"append", func(p *posix) {
		a, err := os.OpenFile(p.path("f"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
		p.ok(err)
		defer a.Close()
		b, err := os.OpenFile(p.path("f"), os.O_WRONLY|os.O_APPEND, 0)
		p.ok(err)
		defer b.Close()
		for range 3 {
			_, err = a.WriteString("a")
			p.ok(err)
			_, err = b.WriteString("b")
			p.ok(err)
		}
		p.body("f", "ababab")
	}},
	{"truncate", func(p *posix) {
		p.file("f", "0123456789")
		p.ok(os.Truncate(p.path("f"), 4))
		p.body("f", "0123")
		p.ok(os.Truncate(p.path("f"), 6))
		p.body("f", "0123\x00\x00")
		f, err := os.OpenFile(p.path("f"), os.O_RDWR, 0)
		p.ok(err)
		p.ok(f.Truncate(1))
		p.ok(f.Close())
		p.body("f", "0")
		f, err = os.OpenFile(p.path("f"), os.O_RDWR|os.O_TRUNC, 0)
		p.ok(err)
		p.ok(f.Close())
		p.body("f", "")
	}},
	{"two handles see one file", func(p *posix) {
		p.file("f", "old")
		r, err := os.Open(p.path("f"))
		p.ok(err)
		defer r.Close()
		w, err := os.OpenFile(p.path("f"), os.O_RDWR, 0)
		p.ok(err)
		defer w.Close()
		_, err = w.WriteAt([]byte("new"), 0)
		p.ok(err)
		b := make([]byte, 3)
		_, err = r.ReadAt(b, 0)
		if p.ok(err); string(b) != "new" {
			p.Errorf("%q", b)
		}
	}},
	{"a removed file lives while it is open", func(p *posix) {
		f, err := os.Create(p.path("f"))
		p.ok(err)
		defer f.Close()
		p.ok(os.Remove(p.path("f")))
		_, err = f.WriteString("x")
		p.ok(err)
		p.ok(f.Truncate(10))
		p.ok(f.Chmod(0o600))
		var st unix.Stat_t
		p.ok(unix.Fstat(int(f.Fd()), &st))
		if st.Nlink != 0 || st.Size != 10 || st.Mode&0o777 != 0o600 {
			p.Errorf("%d links, %d bytes, mode %o", st.Nlink, st.Size, st.Mode)
		}
		p.file("f", "other")
		b := make([]byte, 1)
		_, err = f.ReadAt(b, 0)
		if p.ok(err); b[0] != 'x' {
			p.Errorf("%q", b)
		}
	}},
	{"a file replaced by rename lives while it is open", func(p *posix) {
		p.file("f", "old")
		p.file("g", "new")
		f, err := os.Open(p.path("f"))
		p.ok(err)
		defer f.Close()
		p.ok(os.Rename(p.path("g"), p.path("f")))
		b := make([]byte, 3)
		_, err = f.ReadAt(b, 0)
		if p.ok(err); string(b) != "old" {
			p.Errorf("%q", b)
		}
		p.body("f", "new")
	}},
	{"hard links", func(p *posix) {
		p.file("a", "x")
		p.ok(os.Link(p.path("a"), p.path("b")))
		if x, y := p.stat("a"), p.stat("b"); x.Ino != y.Ino || x.Nlink != 2 || y.Nlink != 2 {
			p.Error(x.Ino, y.Ino, x.Nlink, y.Nlink)
		}
		p.ok(os.Rename(p.path("a"), p.path("b"))) // two names of one file: nothing happens
		if p.stat("a").Nlink != 2 {
			p.Error("a name went")
		}
		p.ok(os.Remove(p.path("a")))
		if p.stat("b").Nlink != 1 {
			p.Error("link count")
		}
	}},
	{"hard link of a link", func(p *posix) {
		p.ok(os.Symlink("nowhere", p.path("l")))
		p.ok(unix.Linkat(unix.AT_FDCWD, p.path("l"), unix.AT_FDCWD, p.path("m"), 0))
		if t, err := os.Readlink(p.path("m")); err != nil || t != "nowhere" {
			p.Error(t, err)
		}
	}},
	{"a file without a name gets one", func(p *posix) {
		fd, err := unix.Open(p.dir, unix.O_TMPFILE|unix.O_RDWR, 0o600)
		p.ok(err)
		defer unix.Close(fd)
		_, err = unix.Write(fd, []byte("x"))
		p.ok(err)
		p.ok(unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, p.path("f"), unix.AT_SYMLINK_FOLLOW))
		p.body("f", "x")
	}},
	{"rename of directories", func(p *posix) {
		p.ok(os.MkdirAll(p.path("a/b"), 0o755))
		p.file("a/b/f", "x")
		p.ok(os.Rename(p.path("a/b"), p.path("c")))
		p.body("c/f", "x")
		p.ok(os.Mkdir(p.path("e"), 0o755))
		p.ok(unix.Rename(p.path("c"), p.path("e")))
		p.body("e/f", "x")
		p.ok(os.Mkdir(p.path("a/x"), 0o755))
		p.is(unix.Rename(p.path("a"), p.path("e")), unix.ENOTEMPTY)
	}},
	{"rename without replacing, and exchange", func(p *posix) {
		p.file("a", "a")
		p.file("b", "b")
		p.is(unix.Renameat2(unix.AT_FDCWD, p.path("a"), unix.AT_FDCWD, p.path("b"), unix.RENAME_NOREPLACE), unix.EEXIST)
		p.ok(unix.Renameat2(unix.AT_FDCWD, p.path("a"), unix.AT_FDCWD, p.path("b"), unix.RENAME_EXCHANGE))
		p.body("a", "b")
		p.body("b", "a")
	}},
	{"devices, FIFOs and sockets", func(p *posix) {
		kinds := map[string]uint32{"fifo": unix.S_IFIFO, "sock": unix.S_IFSOCK}
		if err := unix.Mknod(p.path("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); kernel.InUserNamespace() {
			p.is(err, unix.EPERM)
		} else {
			p.ok(err)
			_, err := os.ReadFile(p.path("null"))
			p.ok(err)
			kinds["null"] = unix.S_IFCHR
		}
		p.ok(unix.Mkfifo(p.path("fifo"), 0o600))
		r, err := os.OpenFile(p.path("fifo"), os.O_RDWR, 0)
		p.ok(err)
		defer r.Close()
		_, err = r.WriteString("x")
		p.ok(err)
		p.ok(unix.Mknod(p.path("sock"), unix.S_IFSOCK|0o600, 0))
		for name, typ := range kinds {
			if st := p.stat(name); st.Mode&unix.S_IFMT != typ {
				p.Errorf("%s has mode %o", name, st.Mode)
			}
		}
	}},
	{"extended attributes", func(p *posix) {
		p.file("f", "")
		f := p.path("f")
		p.ok(unix.Setxattr(f, "user.a", []byte("1"), 0))
		p.is(unix.Setxattr(f, "user.a", nil, unix.XATTR_CREATE), unix.EEXIST)
		p.is(unix.Setxattr(f, "user.b", nil, unix.XATTR_REPLACE), unix.ENODATA)
		err := unix.Setxattr(f, "trusted.t", []byte("2"), 0)
		trusted := !kernel.InUserNamespace()
		if trusted {
			p.ok(err)
		} else {
			p.is(err, unix.EPERM)
		}
		b := make([]byte, 100)
		n, err := unix.Listxattr(f, b)
		if p.ok(err); !bytes.Contains(b[:n], []byte("user.a\x00")) || bytes.Contains(b[:n], []byte("trusted.t\x00")) != trusted {
			p.Errorf("%q", b[:n])
		}
		_, err = unix.Getxattr(f, "user.a", nil)
		p.ok(err)
		p.ok(unix.Removexattr(f, "user.a"))
		_, err = unix.Getxattr(f, "user.a", b)
		p.is(err, unix.ENODATA)
	}},
	{"a default ACL takes the umask's place", func(p *posix) {
		old := unix.Umask(0o077)
		defer unix.Umask(old)
		p.ok(unix.Chmod(p.dir, 0o755))
		p.ok(unix.Setxattr(p.dir, "system.posix_acl_default", acl(7, 7, 5), 0))
		f, err := os.OpenFile(p.path("f"), os.O_CREATE|os.O_WRONLY, 0o666)
		p.ok(err)
		f.Close()
		if m := p.stat("f").Mode & 0o777; m != 0o664 {
			p.Errorf("mode %o", m)
		}
		p.ok(os.Mkdir(p.path("d"), 0o777))
		if _, err := unix.Getxattr(p.path("d"), "system.posix_acl_default", nil); err != nil {
			p.Errorf("not handed on: %v", err)
		}
	}},
	{"holes", func(p *posix) {
		f, err := os.Create(p.path("f"))
		p.ok(err)
		defer f.Close()
		_, err = f.WriteAt([]byte("x"), 1<<20)
		p.ok(err)
		off, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_DATA)
		if p.ok(err); off != 1<<20 {
			p.Errorf("data at %d", off)
		}
		if st := p.stat("f"); st.Blocks*512 >= 1<<20 {
			p.Errorf("%d blocks", st.Blocks)
		}
	}},
	{"fallocate", func(p *posix) {
		f, err := os.Create(p.path("f"))
		p.ok(err)
		defer f.Close()
		p.ok(unix.Fallocate(int(f.Fd()), 0, 0, 8192))
		if p.stat("f").Size != 8192 {
			p.Error("size")
		}
		_, err = f.WriteAt(bytes.Repeat([]byte("x"), 8192), 0)
		p.ok(err)
		p.ok(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096))
		p.body("f", strings.Repeat("\x00", 4096)+strings.Repeat("x", 4096))
	}},
	{"copy_file_range", func(p *posix) {
		p.file("a", strings.Repeat("x", 100000))
		a, err := os.Open(p.path("a"))
		p.ok(err)
		defer a.Close()
		b, err := os.Create(p.path("b"))
		p.ok(err)
		defer b.Close()
		for {
			n, err := unix.CopyFileRange(int(a.Fd()), nil, int(b.Fd()), nil, 1<<20, 0)
			if p.ok(err); n == 0 {
				break
			}
		}
		p.body("b", strings.Repeat("x", 100000))
	}},
	{"shared mappings", func(p *posix) {
		p.file("f", "0123456789")
		f, err := os.OpenFile(p.path("f"), os.O_RDWR, 0)
		p.ok(err)
		defer f.Close()
		b, err := unix.Mmap(int(f.Fd()), 0, 10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		p.ok(err)
		copy(b, "ab")
		p.ok(unix.Msync(b, unix.MS_SYNC))
		p.ok(unix.Munmap(b))
		p.body("f", "ab23456789")
	}},
	{"record locks and flock", func(p *posix) {
		p.file("f", "")
		a, err := os.OpenFile(p.path("f"), os.O_RDWR, 0)
		p.ok(err)
		defer a.Close()
		b, err := os.OpenFile(p.path("f"), os.O_RDWR, 0)
		p.ok(err)
		defer b.Close()
		p.ok(unix.Flock(int(a.Fd()), unix.LOCK_EX|unix.LOCK_NB))
		p.is(unix.Flock(int(b.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
		p.ok(unix.Flock(int(a.Fd()), unix.LOCK_UN))
		lk := unix.Flock_t{Type: unix.F_WRLCK, Len: 10}
		p.ok(unix.FcntlFlock(a.Fd(), unix.F_OFD_SETLK, &lk))
		p.is(unix.FcntlFlock(b.Fd(), unix.F_OFD_SETLK, &lk), unix.EAGAIN)
	}},
	{"fsync of files and directories", func(p *posix) {
		f, err := os.Create(p.path("f"))
		p.ok(err)
		p.ok(f.Sync())
		p.ok(f.Close())
		d, err := os.Open(p.dir)
		p.ok(err)
		p.ok(d.Sync())
		p.ok(d.Close())
	}},
	{"many names", func(p *posix) {
		for i := range 500 {
			p.file(fmt.Sprintf("a-name-that-is-not-short-%d", i), "")
		}
		list, err := os.ReadDir(p.dir)
		if p.ok(err); len(list) != 500 {
			p.Errorf("%d names", len(list))
		}
		for _, e := range list {
			p.ok(os.Remove(p.path(e.Name())))
		}
		list, err = os.ReadDir(p.dir)
		if p.ok(err); len(list) != 0 {
			p.Errorf("%d names", len(list))
		}
	}},
	{"a listing goes on from where it was", func(p *posix) {
		for i := range 50 {
			p.file(strings.Repeat("n", 100)+fmt.Sprint(i), "")
		}
		d, err := os.Open(p.dir)
		p.ok(err)
		defer d.Close()
		seen := map[string]bool{}
		for {
			names, err := d.Readdirnames(7)
			for _, n := range names {
				if seen[n] {
					p.Errorf("%s twice", n)
				}
				seen[n] = true
			}
			if err != nil {
				break
			}
		}
		if len(seen) != 50 {
			p.Errorf("%d names", len(seen))
		}
		_, err = d.Seek(0, 0)
		p.ok(err)
		p.ok(os.Remove(p.path(strings.Repeat("n", 100) + "0")))
		names, _ := d.Readdirnames(-1)
		if len(names) != 49 {
			p.Errorf("%d names from the start", len(names))
		}
	}},
	{"numbers in listings are those of stat", func(p *posix) {
		p.file("f", "")
		p.ok(os.Mkdir(p.path("d"), 0o755))
		fd, err := unix.Open(p.dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		p.ok(err)
		defer unix.Close(fd)
		b := make([]byte, 4096)
		n, err := unix.Getdents(fd, b)
		p.ok(err)
		for b = b[:n]; len(b) > 0; {
			ino := uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 | uint64(b[4])<<32 | uint64(b[5])<<40 | uint64(b[6])<<48 | uint64(b[7])<<56
			size := int(b[16]) | int(b[17])<<8
			name := unix.ByteSliceToString(b[19:size])
			if b = b[size:]; name != "." && name != ".." && p.stat(name).Ino != ino {
				p.Errorf("%s: %d in the listing, %d by stat", name, ino, p.stat(name).Ino)
			}
		}
	}},
	{"permissions of somebody else", func(p *posix) {
		p.file("secret", "x")
		p.ok(os.Chmod(p.path("secret"), 0o600))
		p.ok(os.Mkdir(p.path("sticky"), 0o755))
		p.ok(unix.Chmod(p.path("sticky"), 0o1777))
		p.file("sticky/f", "")
		p.ok(os.Mkdir(p.path("open"), 0o755))
		p.ok(unix.Chmod(p.path("open"), 0o777))
		as(p.T, 12345, func() {
			_, err := os.ReadFile(p.path("secret"))
			p.is(err, unix.EACCES)
			p.is(os.WriteFile(p.path("new"), nil, 0o644), unix.EACCES)
			p.is(os.Remove(p.path("sticky/f")), unix.EPERM)
			p.is(unix.Chmod(p.path("sticky/f"), 0o777), unix.EPERM)
			p.ok(os.WriteFile(p.path("open/mine"), nil, 0o644))
			p.ok(os.Mkdir(p.path("open/dir"), 0o755))
			p.ok(os.Symlink("x", p.path("open/link")))
		})
		for _, n := range []string{"open/mine", "open/dir", "open/link"} {
			if st := p.stat(n); st.Uid != 12345 || st.Gid != 12345 {
				p.Errorf("%s belongs to %d:%d", n, st.Uid, st.Gid)
			}
		}
	}},
	{"a write by somebody else takes setuid away that came after the open", func(p *posix) {
		p.file("f", "old")
		p.ok(unix.Chmod(p.path("f"), 0o666))
		fd, err := unix.Open(p.path("f"), unix.O_RDWR|unix.O_CLOEXEC, 0)
		p.ok(err)
		defer unix.Close(fd)
		for _, mode := range []uint32{0o666, 0o6777} {
			p.ok(unix.Chmod(p.path("f"), mode))
			as(p.T, 4321, func() {
				_, err := unix.Pwrite(fd, []byte("a"), 0)
				p.ok(err)
			})
		}
		if mode := p.stat("f").Mode & 0o7777; mode != 0o777 {
			p.Errorf("mode %o", mode)
		}
	}},
	{"setuid is not taken away by who may not", func(p *posix) {
		p.file("f", "old")
		p.ok(unix.Chmod(p.path("f"), 0o4755))
		as(p.T, 4321, func() { p.is(unix.Lchown(p.path("f"), -1, -1), unix.EPERM) })
		if mode := p.stat("f").Mode & 0o7777; mode != 0o4755 {
			p.Errorf("mode %o", mode)
		}
	}},
	{"a write by somebody else takes setuid away", func(p *posix) {
		p.file("f", "")
		p.ok(unix.Chmod(p.path("f"), 0o6777))
		as(p.T, 12345, func() {
			f, err := os.OpenFile(p.path("f"), os.O_WRONLY, 0)
			p.ok(err)
			_, err = f.WriteString("x")
			p.ok(err)
			p.ok(f.Close())
		})
		if m := p.stat("f").Mode & 0o7777; m != 0o777 {
			p.Errorf("mode %o", m)
		}
	}},
	{"statfs", func(p *posix) {
		var st unix.Statfs_t
		p.ok(unix.Statfs(p.dir, &st))
		if st.Blocks == 0 || st.Bsize == 0 || st.Namelen == 0 {
			p.Errorf("%+v", st)
		}
	}},
	{"atime moves on reading", func(p *posix) {
		p.file("f", "x")
		old := time.Now().Add(-48 * time.Hour)
		p.ok(os.Chtimes(p.path("f"), old, old))
		p.body("f", "x")
		p.body("f", "x")
	}},
}

// acl is a POSIX ACL of three entries as the kernel has it (acl_ea_header).
func acl(user, group, other byte) []byte {
	return []byte{2, 0, 0, 0,
		1, 0, user, 0, 255, 255, 255, 255,
		4, 0, group, 0, 255, 255, 255, 255,
		32, 0, other, 0, 255, 255, 255, 255}
}

// posixErrors tries calls that must fail, on a fixed tree: each row is a call, a
// name, and its error.
func posixErrors(t *testing.T, root string) {
	dir := root + "/errors"
	must(t, os.MkdirAll(dir+"/dir/sub", 0o755))
	must(t, os.Mkdir(dir+"/empty", 0o755))
	must(t, os.WriteFile(dir+"/file", []byte("x"), 0o644))
	must(t, os.Symlink("loop", dir+"/loop"))
	must(t, os.Symlink("nowhere", dir+"/dangling"))
	long := strings.Repeat("n", 256)
	calls := map[string]func(p string) error{
		"open":         func(p string) error { return closing(unix.Open(p, unix.O_RDONLY, 0)) },
		"open w":       func(p string) error { return closing(unix.Open(p, unix.O_WRONLY, 0)) },
		"open dir":     func(p string) error { return closing(unix.Open(p, unix.O_RDONLY|unix.O_DIRECTORY, 0)) },
		"open excl":    func(p string) error { return closing(unix.Open(p, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644)) },
		"open nolinks": func(p string) error { return closing(unix.Open(p, unix.O_RDONLY|unix.O_NOFOLLOW, 0)) },
		"mkdir":        func(p string) error { return unix.Mkdir(p, 0o755) },
		"mknod":        func(p string) error { return unix.Mknod(p, unix.S_IFREG|0o644, 0) },
		"symlink":      func(p string) error { return unix.Symlink("x", p) },
		"link":         func(p string) error { return unix.Link(p, dir+"/made") },
		"link to":      func(p string) error { return unix.Link(dir+"/file", p) },
		"unlink":       unix.Unlink,
		"rmdir":        unix.Rmdir,
		"truncate":     func(p string) error { return unix.Truncate(p, 1) },
		"chmod":        func(p string) error { return unix.Chmod(p, 0o755) },
		"stat":         func(p string) error { var st unix.Stat_t; return unix.Stat(p, &st) },
		"readlink":     func(p string) error { _, err := unix.Readlink(p, make([]byte, 10)); return err },
		"rename":       func(p string) error { return unix.Rename(p, dir+"/made") },
		"over file":    func(p string) error { return unix.Rename(p, dir+"/file") },
		"over dir":     func(p string) error { return unix.Rename(p, dir+"/dir") },
		"to":           func(p string) error { return unix.Rename(dir+"/file", p) },
		"getxattr":     func(p string) error { _, err := unix.Getxattr(p, "user.none", nil); return err },
		"setxattr":     func(p string) error { return unix.Setxattr(p, "user.x", nil, unix.XATTR_REPLACE) },
	}
	missing := []string{"open", "open w", "open dir", "open nolinks", "link", "unlink", "rmdir", "truncate", "chmod", "stat", "readlink", "rename", "over file", "over dir", "getxattr", "setxattr"}
	makes := []string{"open excl", "mkdir", "mknod", "symlink", "link to"}
	rows := map[error]map[string][]string{
		unix.ENOENT:       {"none": missing, "none/x": append(append([]string{"to"}, missing...), makes...), "dangling": {"open", "open w", "truncate", "chmod", "stat", "getxattr"}},
		unix.ENOTDIR:      {"file": {"open dir", "rmdir"}, "file/x": append(append([]string{"to"}, missing...), makes...), "dir": {"over file"}},
		unix.EEXIST:       {"file": makes, "dir": makes, "dangling": makes, "loop": makes},
		unix.EISDIR:       {"dir": {"open w", "unlink", "truncate", "to"}},
		unix.ENOTEMPTY:    {"dir": {"rmdir"}, "empty": {"over dir"}},
		unix.ELOOP:        {"loop": {"open", "open w", "open nolinks", "truncate", "chmod", "stat"}, "dangling": {"open nolinks"}},
		unix.EINVAL:       {"file": {"readlink"}, "dir": {"readlink"}},
		unix.EPERM:        {"dir": {"link"}},
		unix.ENAMETOOLONG: {long: append(append([]string{"to"}, missing...), makes...)},
		unix.ENODATA:      {"file": {"getxattr", "setxattr"}, "dir": {"getxattr", "setxattr"}},
	}
	for want, names := range rows {
		for name, list := range names {
			for _, call := range list {
				t.Run(fmt.Sprintf("%s %.10s is %s", call, name, unix.ErrnoName(want.(unix.Errno))), func(t *testing.T) {
					if err := calls[call](dir + "/" + name); !isError(err, want) {
						t.Errorf("got %v", err)
					}
				})
			}
		}
	}
}

func closing(fd int, err error) error {
	if err == nil {
		unix.Close(fd)
	}
	return err
}
