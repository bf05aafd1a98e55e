package unionfstest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TwinsOptions say how a run of Twins is to be.
type TwinsOptions struct {
	Steps int
	// Refuses says of an operation that failed on the union whether it may, whatever a
	// file system of the kernel's does: then that is not asked. Nil: none may.
	Refuses func(what string, err error) bool
}

// Twins fills two directories, bare and lower, with the same random files of several
// users, makes a union with the second below, and does the same random operations on
// the first and on the union, as root and as users without rights. Whatever the
// kernel's own file system answers, the union has to answer: the error, the data, and
// afterwards modes, owners, sizes, link counts, and which times have changed.
func Twins(t *testing.T, seed uint64, o TwinsOptions, bare, lower string, start func(t *testing.T) string) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: acts for several users")
	}
	for _, dir := range []string{bare, lower} {
		fill(t, rand.New(rand.NewPCG(seed, 2)), dir)
	}
	union := start(t)
	w := &twins{t: t, rng: rand.New(rand.NewPCG(seed, 3)), o: o, roots: [2]string{bare, union}}
	for i, root := range w.roots {
		fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		must(t, err)
		defer unix.Close(fd)
		w.dirs[i] = fd
	}
	var fs unix.Statfs_t
	must(t, unix.Statfs(union, &fs))
	w.longest = int(fs.Namelen)
	for _, who := range users {
		u := newUser(who)
		defer u.end()
		w.users = append(w.users, u)
	}
	w.compareTrees("at the start")
	for step := range o.Steps {
		w.step(fmt.Sprintf("seed %d, step %d", seed, step))
		if t.Failed() {
			return
		}
	}
	w.compareTrees(fmt.Sprintf("seed %d, at the end", seed))
}

// users act: the user, and the groups; the first is its own.
var users = [][]int{{0, 0}, {1001, 1001, 1003}, {1002, 1002}, {1004, 1003}}

// fill makes files of all kinds, modes and owners.
func fill(t *testing.T, rng *rand.Rand, root string) {
	t.Helper()
	must(t, os.Chmod(root, 0o777))
	dirs := []string{root}
	for i := range 40 {
		dir := dirs[rng.IntN(len(dirs))]
		name := fmt.Sprintf("%s/f%d", dir, i)
		switch rng.IntN(8) {
		case 0, 1, 2:
			must(t, unix.Mkdir(name, 0o755))
			dirs = append(dirs, name)
		case 3:
			must(t, unix.Symlink([]string{"f1", "f0/../f2", "f0/f3", "nowhere", path.Base(name)}[rng.IntN(5)], name))
		case 4:
			must(t, unix.Mknod(name, unix.S_IFIFO|0o644, 0))
		default:
			must(t, os.WriteFile(name, bytes.Repeat([]byte("x"), rng.IntN(9000)), 0o644))
			if rng.IntN(3) == 0 {
				must(t, unix.Link(name, name+"-link"))
			}
		}
		who := users[rng.IntN(len(users))]
		must(t, unix.Lchown(name, who[0], who[1]))
		if st := lstat(name); st.Mode&unix.S_IFMT != unix.S_IFLNK {
			must(t, unix.Chmod(name, anyMode(rng)))
		}
	}
}

func anyMode(rng *rand.Rand) uint32 {
	mode := uint32([]int{0o755, 0o777, 0o700, 0o750, 0o770, 0o644, 0o666, 0o444, 0o711, 0o733, 0, 0o070, 0o007}[rng.IntN(13)])
	if rng.IntN(4) == 0 {
		// A file with setgid that its group may not execute loses the bit by a write of
		// who is not in the group: of groups FUSE tells nothing (FUSE_HANDLE_KILLPRIV_V2).
		mode |= uint32([]int{unix.S_ISVTX, unix.S_ISGID | 0o010, unix.S_ISUID, unix.S_ISUID | unix.S_ISGID | 0o010}[rng.IntN(4)])
	}
	return mode
}

func lstat(name string) (st unix.Stat_t) {
	_ = unix.Lstat(name, &st)
	return st
}

// user is a thread that acts for one user, in a working directory of its own.
type user struct {
	id   int
	err  error // of becoming it
	jobs chan func()
	done chan struct{}
}

func newUser(who []int) *user {
	u := &user{id: who[0], jobs: make(chan func()), done: make(chan struct{})}
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with it
		u.err = becomeUser(who[0], who[1:])
		for job := range u.jobs {
			job()
		}
		close(u.done)
	}()
	return u
}

// becomeUser makes the thread a user's, with a working directory of its own: for the
// file system it has the user's ids and groups, and no capabilities.
func becomeUser(id int, groups []int) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	unix.Umask(0o022)
	if id == 0 {
		return nil
	}
	if err := unix.Setgroups(groups); err != nil {
		return err
	}
	_ = unix.Setfsgid(groups[0])
	_ = unix.Setfsuid(id)
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&head, &caps[0]); err != nil {
		return err
	}
	caps[0].Effective, caps[1].Effective = 0, 0
	return unix.Capset(&head, &caps[0])
}

// do calls fn in a directory, and waits for it.
func (u *user) do(dir int, fn func() (string, error)) (string, error) {
	var data string
	var err error
	done := make(chan struct{})
	u.jobs <- func() {
		defer close(done)
		if err = u.err; err == nil {
			err = unix.Fchdir(dir)
		}
		if err == nil {
			data, err = fn()
		}
	}
	<-done
	return data, err
}

// end leaves the last directory first: a thread that is the process's first never ends (the Go
// runtime parks it for good), and its working directory would keep the union busy.
func (u *user) end() {
	u.jobs <- func() { _ = unix.Chdir("/") }
	close(u.jobs)
	<-u.done
}

type twins struct {
	t     *testing.T
	rng   *rand.Rand
	o     TwinsOptions
	roots [2]string
	dirs  [2]int
	users []*user

	longest int // a name may be on the union
}

// operation is the same on both sides. It gives what it has read.
type operation struct {
	what  string
	names []string // what may be changed by it
	run   func() (string, error)
}

func (w *twins) step(when string) {
	op := w.operation()
	u := w.users[w.rng.IntN(len(w.users))]
	op.what = fmt.Sprintf("user %d: %s", u.id, op.what)
	var names []string
	for _, n := range op.names {
		for _, n := range []string{path.Clean(n), path.Dir(path.Clean(n))} {
			if !slices.Contains(names, n) {
				names = append(names, n)
			}
		}
	}
	var before, after [2][]unix.Stat_t
	var data [2]string
	var errs [2]error
	for _, i := range []int{1, 0} {
		before[i] = w.stats(i, names)
		data[i], errs[i] = u.do(w.dirs[i], op.run)
		after[i] = w.stats(i, names)
		if i == 1 && w.o.Refuses != nil && w.o.Refuses(op.what, errs[1]) {
			return
		}
	}
	if !errors.Is(errs[1], errs[0]) || data[0] != data[1] {
		w.t.Errorf("%s, %s:\nbare %q %v, union %q %v\n%s", when, op.what, data[0], errs[0], data[1], errs[1], w.state(names))
		return
	}
	for k, name := range names {
		a, b := shape(before[0][k], after[0][k]), shape(before[1][k], after[1][k])
		// A copy-up is a change of status, even where what it was for fails then.
		still := sameFile(before[0][k], after[0][k]) && before[0][k].Ctim != after[0][k].Ctim && before[1][k].Ctim == after[1][k].Ctim
		if a != b || still {
			w.t.Errorf("%s, %s (%v): %s is\n%s on bare,\n%s on the union; without the change of ctime: %v\n%s", when, op.what, errs[0], name, a, b, still, w.state(names))
		}
	}
}

func (w *twins) state(names []string) string {
	var b strings.Builder
	for _, n := range names {
		for i, side := range []string{"bare", "union"} {
			st := lstat(filepath.Join(w.roots[i], n))
			fmt.Fprintf(&b, "\t%s on %s: %o %d:%d, %d links, %d bytes\n", n, side, st.Mode, st.Uid, st.Gid, st.Nlink, st.Size)
		}
	}
	return b.String()
}

func (w *twins) stats(side int, names []string) []unix.Stat_t {
	var out []unix.Stat_t
	for _, n := range names {
		out = append(out, lstat(filepath.Join(w.roots[side], n)))
	}
	return out
}

// sameFile: two files may have been made in the same tick of the clock.
func sameFile(before, after unix.Stat_t) bool {
	return before.Mode != 0 && after.Mode != 0 && before.Ino == after.Ino
}

// shape is what has to be the same on both sides. Sizes and link counts of
// directories are each file system's own affair.
func shape(before, after unix.Stat_t) string {
	s := fmt.Sprintf("mode %o, owner %d:%d, device %x", after.Mode, after.Uid, after.Gid, after.Rdev)
	if after.Mode&unix.S_IFMT != unix.S_IFDIR {
		s += fmt.Sprintf(", %d links, %d bytes", after.Nlink, after.Size)
	}
	if sameFile(before, after) {
		s += fmt.Sprintf(", mtime changed %v", before.Mtim != after.Mtim)
	}
	return s
}

// name is any path: mostly of something that is there.
func (w *twins) name() string {
	var all []string
	_ = filepath.WalkDir(w.roots[0], func(p string, _ os.DirEntry, err error) error {
		if rel, e := filepath.Rel(w.roots[0], p); e == nil && rel != "." {
			all = append(all, rel)
		}
		return nil
	})
	slices.Sort(all)
	if len(all) == 0 {
		return "new"
	}
	p := all[w.rng.IntN(len(all))]
	switch w.rng.IntN(24) {
	case 0, 1, 2:
		return path.Join(path.Dir(p), fmt.Sprint("n", w.rng.IntN(4)))
	case 3, 4, 5:
		return path.Join(p, fmt.Sprint("n", w.rng.IntN(4)))
	case 6:
		return p + "/"
	case 7:
		return p + "/."
	case 8:
		return p + "/.."
	case 9:
		return path.Join(p, strings.Repeat("l", []int{w.longest, 256}[w.rng.IntN(2)]))
	}
	return p
}

func (w *twins) operation() operation {
	a, b, mode := w.name(), w.name(), anyMode(w.rng)
	who := users[w.rng.IntN(len(users))]
	plain := func(what string, names []string, run func() error) operation {
		return operation{what, names, func() (string, error) { return "", run() }}
	}
	switch w.rng.IntN(19) {
	case 0:
		return plain(fmt.Sprintf("mkdir %s %o", a, mode), []string{a}, func() error { return unix.Mkdir(a, mode) })
	case 1:
		return plain("rmdir "+a, []string{a}, func() error { return unix.Rmdir(a) })
	case 2:
		return plain("unlink "+a, []string{a}, func() error { return unix.Unlink(a) })
	case 3:
		return plain("link "+a+" "+b, []string{a, b}, func() error { return unix.Link(a, b) })
	case 4:
		return plain("symlink "+a+" "+b, []string{b}, func() error { return unix.Symlink(a, b) })
	case 5, 6:
		flags := uint(0)
		if w.rng.IntN(3) == 0 {
			flags = uint([]int{unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE}[w.rng.IntN(2)])
		}
		return plain(fmt.Sprintf("rename %s %s %d", a, b, flags), []string{a, b}, func() error { return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, flags) })
	case 7:
		kind := uint32([]int{unix.S_IFIFO, unix.S_IFREG, unix.S_IFSOCK, unix.S_IFCHR, unix.S_IFBLK}[w.rng.IntN(5)])
		dev := 0
		if kind == unix.S_IFCHR || kind == unix.S_IFBLK {
			dev = int(unix.Mkdev(1, 3))
		}
		return plain(fmt.Sprintf("mknod %s %o", a, kind|mode), []string{a}, func() error { return unix.Mknod(a, kind|mode, dev) })
	case 8, 9:
		return plain(fmt.Sprintf("chmod %s %o", a, mode), []string{a}, func() error { return unix.Chmod(a, mode) })
	case 10:
		uid, gid := who[0], who[1]
		if w.rng.IntN(3) == 0 {
			uid = -1
		}
		if w.rng.IntN(3) == 0 {
			gid = -1
		}
		return plain(fmt.Sprintf("lchown %s %d %d", a, uid, gid), []string{a}, func() error { return unix.Lchown(a, uid, gid) })
	case 11:
		size := int64(w.rng.IntN(12000))
		return plain(fmt.Sprintf("truncate %s %d", a, size), []string{a}, func() error { return unix.Truncate(a, size) })
	case 12:
		return w.times(a)
	case 13:
		what := uint32(w.rng.IntN(8))
		return plain(fmt.Sprintf("access %s %d", a, what), nil, func() error { return unix.Faccessat2(unix.AT_FDCWD, a, what, unix.AT_EACCESS) })
	case 14:
		return w.attribute(a)
	case 15:
		return operation{"readlink " + a, nil, func() (string, error) {
			var b [300]byte
			n, err := unix.Readlink(a, b[:])
			return string(b[:max(n, 0)]), err
		}}
	}
	return w.open(a, mode)
}

func (w *twins) times(a string) operation {
	ts := []unix.Timespec{{Sec: int64(w.rng.IntN(1 << 30)), Nsec: 5}, {Sec: int64(w.rng.IntN(1 << 30)), Nsec: 7}}
	kind := w.rng.IntN(4)
	switch kind {
	case 1:
		ts[0].Nsec, ts[1].Nsec = unix.UTIME_NOW, unix.UTIME_NOW
	case 2:
		ts[0].Nsec = unix.UTIME_OMIT
	case 3:
		ts[1].Nsec = unix.UTIME_NOW
	}
	return operation{fmt.Sprintf("utimensat %s %d", a, kind), []string{a}, func() (string, error) {
		return "", unix.UtimesNanoAt(unix.AT_FDCWD, a, ts, unix.AT_SYMLINK_NOFOLLOW)
	}}
}

func (w *twins) attribute(a string) operation {
	name := []string{"user.a", "user.b", "trusted.a", "system.posix_acl_access", "system.posix_acl_default"}[w.rng.IntN(5)]
	value := bytes.Repeat([]byte("v"), w.rng.IntN(20))
	if strings.HasPrefix(name, "system.") {
		value = acl(7, byte(w.rng.IntN(8)), byte(w.rng.IntN(8)))
	}
	switch w.rng.IntN(3) {
	case 0:
		return operation{"getxattr " + a + " " + name, nil, func() (string, error) {
			var b [300]byte
			n, err := unix.Getxattr(a, name, b[:])
			return string(b[:max(n, 0)]), err
		}}
	case 1:
		return operation{"removexattr " + a + " " + name, []string{a}, func() (string, error) { return "", unix.Removexattr(a, name) }}
	}
	flags := w.rng.IntN(3)
	return operation{fmt.Sprintf("setxattr %s %s %d", a, name, flags), []string{a}, func() (string, error) { return "", unix.Setxattr(a, name, value, flags) }}
}

// open opens a file in some way, and reads, writes and changes it by the descriptor.
func (w *twins) open(a string, mode uint32) operation {
	flags := []int{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR}[w.rng.IntN(3)] | unix.O_NONBLOCK | unix.O_CLOEXEC | unix.O_NOCTTY
	for _, f := range []int{unix.O_CREAT, unix.O_CREAT | unix.O_EXCL, unix.O_TRUNC, unix.O_APPEND, unix.O_DIRECTORY, unix.O_NOFOLLOW} {
		if w.rng.IntN(4) == 0 {
			flags |= f
		}
	}
	if w.rng.IntN(20) == 0 {
		flags = flags&^unix.O_CREAT&^unix.O_EXCL | unix.O_TMPFILE
	}
	then, size, at := w.rng.IntN(7), 1+w.rng.IntN(5000), int64(w.rng.IntN(9000))
	return operation{fmt.Sprintf("open %s %#o %o, then %d, %d bytes at %d", a, flags, mode, then, size, at), []string{a}, func() (string, error) {
		fd, err := unix.Open(a, flags, mode)
		if err != nil {
			return "", err
		}
		defer unix.Close(fd)
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return "", err
		}
		if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFREG && kind != unix.S_IFDIR {
			return "", nil
		}
		switch then {
		case 0:
			b := make([]byte, size)
			n, err := unix.Pread(fd, b, at)
			return string(b[:max(n, 0)]), err
		case 1:
			_, err = unix.Pwrite(fd, bytes.Repeat([]byte("w"), size), at)
		case 2:
			err = unix.Ftruncate(fd, at)
		case 3:
			err = unix.Fchmod(fd, mode)
		case 4:
			err = unix.Fchown(fd, -1, 1003)
		case 5:
			err = unix.Fallocate(fd, uint32(at)%2*unix.FALLOC_FL_KEEP_SIZE, at, int64(size))
		case 6:
			if err = unix.Unlink(a); err == nil {
				_, err = unix.Pwrite(fd, []byte("gone"), at)
			}
		}
		if err := unix.Fstat(fd, &st); err != nil {
			return "", err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return fmt.Sprintf("%o %d:%d", st.Mode, st.Uid, st.Gid), err
		}
		return fmt.Sprintf("%o %d:%d %d bytes %d links", st.Mode, st.Uid, st.Gid, st.Size, st.Nlink), err
	}}
}

// compareTrees compares all names, and what is behind them.
func (w *twins) compareTrees(when string) {
	var list [2]string
	for i, root := range w.roots {
		var b strings.Builder
		must(w.t, filepath.WalkDir(root, func(p string, _ os.DirEntry, err error) error {
			rel, _ := filepath.Rel(root, p)
			st := lstat(p)
			fmt.Fprintf(&b, "%s: %s", rel, shape(unix.Stat_t{}, st))
			if st.Mode&unix.S_IFMT == unix.S_IFREG {
				body, err := os.ReadFile(p)
				fmt.Fprintf(&b, ", %x %v", body, err)
			}
			b.WriteByte('\n')
			return err
		}))
		list[i] = b.String()
	}
	if list[0] != list[1] {
		x, y := strings.Split(list[0], "\n"), strings.Split(list[1], "\n")
		for i := range min(len(x), len(y)) {
			if x[i] != y[i] {
				w.t.Fatalf("%s:\nbare  %.300s\nunion %.300s", when, x[i], y[i])
			}
		}
		w.t.Fatalf("%s: %d names on bare, %d on the union", when, len(x), len(y))
	}
}
