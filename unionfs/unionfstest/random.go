package unionfstest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Mounted is a union that Random works on. Remount, which may be nil, unmounts it
// and mounts it again, and gives its root.
type Mounted struct {
	Root    string
	Remount func() string
}

// RandomOptions say how long a random run is and what the union can do.
type RandomOptions struct {
	Steps int
	// HardLinks: names of one file below stay names of one file when it is copied up.
	HardLinks bool
	// Renumbers: two names of one file may have different numbers once it was copied up.
	Renumbers bool
}

// Seeds reads the seeds that are kept: one number a line.
func Seeds(t *testing.T, file string) []uint64 {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out []uint64
	for _, line := range strings.Fields(string(b)) {
		n, err := strconv.ParseUint(line, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, n)
	}
	return out
}

// inode is a file of the model; a directory has entries.
type inode struct {
	mode    uint32 // type and permissions
	body    string // content, or target of a link
	attr    string // user.k
	entries map[string]*inode
}

func (i *inode) isDir() bool { return i.mode&unix.S_IFMT == unix.S_IFDIR }

func newDir(mode uint32) *inode {
	return &inode{mode: unix.S_IFDIR | mode, entries: map[string]*inode{}}
}

// model is what a union should look like.
type model struct {
	rng  *rand.Rand
	root *inode
	// renumbers as in RandomOptions.
	renumbers bool
}

// Random fills the directories lower, top-most first, makes a union of them, and
// does random operations on it and on a model, which must agree after each: in what
// the operation gives, and every few steps in names, types, modes, content,
// attributes and link counts. At the end the lower directories are as before.
//
// A directory that lies on a lower branch may refuse to be renamed (EXDEV).
func Random(t *testing.T, seed uint64, o RandomOptions, lower []string, start func(t *testing.T) Mounted) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts")
	}
	m := &model{rng: rand.New(rand.NewPCG(seed, 1)), root: newDir(0o755), renumbers: o.Renumbers}
	for i := len(lower) - 1; i >= 0; i-- {
		// Of a file on the others a name may be hidden from the start, which no
		// union knows without looking at every name of the branch.
		m.populate(t, lower[i], o.HardLinks && i == 0)
	}
	before := snapshot(t, lower)
	u := start(t)
	m.compare(t, u.Root, "at the start")
	for step := range o.Steps {
		what, want, got := m.step(u.Root)
		if !agree(what, want, got) {
			t.Fatalf("seed %d, step %d, %s: %v, want %v", seed, step, what, got, want)
		}
		if got != nil && want == nil {
			continue // EXDEV; the model was not changed
		}
		if step%20 == 19 {
			m.compare(t, u.Root, fmt.Sprintf("seed %d, step %d, %s", seed, step, what))
		}
		if t.Failed() {
			return
		}
	}
	m.compare(t, u.Root, fmt.Sprintf("seed %d, at the end", seed))
	if u.Remount != nil {
		u.Root = u.Remount()
		m.compare(t, u.Root, fmt.Sprintf("seed %d, mounted again", seed))
	}
	if after := snapshot(t, lower); after != before {
		t.Errorf("seed %d: lower branches were changed", seed)
	}
}

func agree(what string, want, got error) bool {
	if errors.Is(got, unix.EXDEV) && strings.HasPrefix(what, "rename directory") {
		return true
	}
	if want == nil || got == nil {
		return want == nil && got == nil
	}
	return isError(got, want)
}

var randomNames = []string{"a", "b", "c", "d", "e"}

// populate makes a lower directory, and what it adds to the model.
func (m *model) populate(t *testing.T, dir string, hardLinks bool) {
	t.Helper()
	var files []string
	for range 25 {
		p := m.anyPath()
		parent, ok := m.find(path.Dir(p))
		if !ok || !parent.isDir() {
			continue
		}
		full := filepath.Join(dir, p)
		have := parent.entries[path.Base(p)]
		// Below a path of this branch there may be a file of the branch itself.
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			continue
		}
		if _, err := os.Lstat(full); err == nil {
			continue
		}
		switch k := m.rng.IntN(4); {
		case k == 0 && (have == nil || have.isDir()):
			must(t, os.Mkdir(full, 0o755))
			if have == nil {
				parent.entries[path.Base(p)] = newDir(0o755)
			}
		case have != nil && have.isDir():
		case k == 1 && hardLinks && len(files) > 0:
			from := files[m.rng.IntN(len(files))]
			if src, ok := m.find(from); ok && !src.isDir() && os.Link(filepath.Join(dir, from), full) == nil {
				parent.entries[path.Base(p)] = src
			}
		default:
			n := &inode{mode: unix.S_IFREG | 0o644, body: strings.Repeat(p, 1+m.rng.IntN(3000))}
			must(t, os.WriteFile(full, []byte(n.body), 0o644))
			parent.entries[path.Base(p)] = n
			files = append(files, p)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (m *model) anyPath() string {
	p := ""
	for range 1 + m.rng.IntN(3) {
		p = path.Join(p, randomNames[m.rng.IntN(len(randomNames))])
	}
	return p
}

func (m *model) find(p string) (*inode, bool) {
	n := m.root
	if p == "." || p == "" {
		return n, true
	}
	for part := range strings.SplitSeq(p, "/") {
		if n == nil || !n.isDir() {
			return nil, false
		}
		n = n.entries[part]
	}
	return n, n != nil
}

// parent finds the directory of a path, or the error of walking there. Links in
// the model lead nowhere.
func (m *model) parent(p string) (*inode, error) {
	n := m.root
	if d := path.Dir(p); d != "." {
		for part := range strings.SplitSeq(d, "/") {
			next := n.entries[part]
			switch {
			case next == nil || next.mode&unix.S_IFMT == unix.S_IFLNK:
				return nil, unix.ENOENT
			case !next.isDir():
				return nil, unix.ENOTDIR
			}
			n = next
		}
	}
	return n, nil
}

// step does one random operation on both sides: want is the model's outcome.
func (m *model) step(root string) (what string, want, got error) {
	p, q := m.anyPath(), m.anyPath()
	full, base := filepath.Join(root, p), path.Base(p)
	dir, err := m.parent(p)
	var n *inode
	if err == nil {
		n = dir.entries[base]
	}
	switch m.rng.IntN(11) {
	case 0, 1:
		return m.write(full, dir, base, n, err)
	case 2:
		what = "mkdir " + p
		if err == nil && n != nil {
			err = unix.EEXIST
		}
		if err == nil {
			dir.entries[base] = newDir(0o755)
		}
		return what, err, os.Mkdir(full, 0o755)
	case 3, 4:
		what = "unlink " + p
		err = missing(err, n)
		if err == nil && n.isDir() {
			err = unix.EISDIR
		}
		if err == nil {
			delete(dir.entries, base)
		}
		return what, err, unix.Unlink(full)
	case 5:
		what = "rmdir " + p
		err = missing(err, n)
		if err == nil && !n.isDir() {
			err = unix.ENOTDIR
		} else if err == nil && len(n.entries) > 0 {
			err = unix.ENOTEMPTY
		}
		if err == nil {
			delete(dir.entries, base)
		}
		return what, err, unix.Rmdir(full)
	case 6, 7:
		return m.rename(root, p, q)
	case 8:
		return m.link(root, p, q)
	case 9:
		what = "symlink " + p
		if err == nil && n != nil {
			err = unix.EEXIST
		}
		if err == nil {
			dir.entries[base] = &inode{mode: unix.S_IFLNK | 0o777, body: "no-such-file"}
		}
		return what, err, unix.Symlink("no-such-file", full)
	}
	return m.change(full, n, err)
}

func missing(err error, n *inode) error {
	if err == nil && n == nil {
		err = unix.ENOENT
	}
	return err
}

// write appends to a file, which it may make, or writes it anew.
func (m *model) write(full string, dir *inode, base string, n *inode, err error) (string, error, error) {
	text := strconv.Itoa(m.rng.IntN(1000))
	flags := os.O_WRONLY | os.O_CREATE | os.O_APPEND
	if m.rng.IntN(2) == 0 {
		flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	}
	flags |= unix.O_NOFOLLOW
	switch {
	case err != nil:
	case n == nil:
		n = &inode{mode: unix.S_IFREG | 0o644}
		dir.entries[base] = n
	case n.isDir():
		err = unix.EISDIR
	case n.mode&unix.S_IFMT == unix.S_IFLNK:
		err = unix.ELOOP
	}
	if err == nil {
		if flags&os.O_TRUNC != 0 {
			n.body = ""
		}
		n.body += text
	}
	f, got := os.OpenFile(full, flags, 0o644)
	if got == nil {
		_, got = f.WriteString(text)
		got = errors.Join(got, f.Close())
	}
	return "write " + full, err, got
}

// change changes what is not content: mode, attribute, length.
func (m *model) change(full string, n *inode, err error) (string, error, error) {
	err = missing(err, n)
	isFile := err == nil && n.mode&unix.S_IFMT == unix.S_IFREG
	if err == nil && n.mode&unix.S_IFMT == unix.S_IFLNK {
		err = unix.ENOENT // it leads nowhere
	}
	switch k := m.rng.IntN(3); {
	case k == 0 && isFile:
		size := m.rng.IntN(5000)
		if size <= len(n.body) {
			n.body = n.body[:size]
		} else {
			n.body += strings.Repeat("\x00", size-len(n.body))
		}
		return "truncate " + full, nil, os.Truncate(full, int64(size))
	case k == 1:
		v := strconv.Itoa(m.rng.IntN(1000))
		if err == nil {
			n.attr = v
		}
		return "setxattr " + full, err, unix.Setxattr(full, "user.k", []byte(v), 0)
	}
	mode := 0o600 | uint32(m.rng.IntN(0o200))
	if err == nil && n.isDir() {
		mode = 0o700 | mode&0o77
	}
	if err == nil {
		n.mode = n.mode&unix.S_IFMT | mode
	}
	return fmt.Sprintf("chmod %o %s", mode, full), err, unix.Chmod(full, mode)
}

func (m *model) link(root, p, q string) (string, error, error) {
	what := "link " + p + " " + q
	from, err := m.parent(p)
	var n *inode
	if err == nil {
		n = from.entries[path.Base(p)]
		err = missing(nil, n)
	}
	to, err2 := m.parent(q)
	if err == nil {
		err = err2
	}
	switch {
	case err != nil:
	case to.entries[path.Base(q)] != nil:
		err = unix.EEXIST
	case n.isDir():
		err = unix.EPERM
	default:
		to.entries[path.Base(q)] = n
	}
	return what, err, unix.Linkat(unix.AT_FDCWD, filepath.Join(root, p), unix.AT_FDCWD, filepath.Join(root, q), 0)
}

func (m *model) rename(root, p, q string) (string, error, error) {
	what := "rename " + p + " " + q
	real := func() error { return unix.Rename(filepath.Join(root, p), filepath.Join(root, q)) }
	from, err := m.parent(p)
	to, err2 := m.parent(q)
	if err == nil {
		err = err2
	}
	if err != nil {
		return what, err, real()
	}
	n, over := from.entries[path.Base(p)], to.entries[path.Base(q)]
	if n != nil && n.isDir() {
		what = "rename directory " + p + " " + q
	}
	switch {
	case n == nil:
		return what, unix.ENOENT, real()
	case n.isDir() && strings.HasPrefix(q+"/", p+"/") && p != q:
		return what, unix.EINVAL, real()
	case over != nil && over.isDir() && strings.HasPrefix(p+"/", q+"/") && p != q:
		return what, unix.ENOTEMPTY, real()
	case n == over:
		return what, nil, real()
	case over != nil && n.isDir() && !over.isDir():
		return what, unix.ENOTDIR, real()
	case over != nil && !n.isDir() && over.isDir():
		return what, unix.EISDIR, real()
	case over != nil && over.isDir() && len(over.entries) > 0:
		return what, unix.ENOTEMPTY, real()
	}
	got := real()
	if got == nil {
		delete(from.entries, path.Base(p))
		to.entries[path.Base(q)] = n
	}
	return what, nil, got
}

// compare looks at every file.
func (m *model) compare(t *testing.T, root, when string) {
	t.Helper()
	links := map[*inode]int{}
	var count func(n *inode)
	count = func(n *inode) {
		for _, c := range n.entries {
			if links[c]++; c.isDir() {
				count(c)
			}
		}
	}
	count(m.root)
	numbers := map[*inode]uint64{}
	m.compareDir(t, root, "", m.root, links, numbers, when)
}

func (m *model) compareDir(t *testing.T, root, p string, n *inode, links map[*inode]int, numbers map[*inode]uint64, when string) {
	t.Helper()
	list, err := os.ReadDir(filepath.Join(root, p))
	if err != nil {
		t.Errorf("%s: %v", when, err)
		return
	}
	var got, want []string
	for _, e := range list {
		got = append(got, e.Name())
	}
	for name := range n.entries {
		want = append(want, name)
	}
	sort.Strings(want)
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("%s: /%s has %v, want %v", when, p, got, want)
		return
	}
	for _, name := range want {
		c, cp := n.entries[name], path.Join(p, name)
		m.compareFile(t, root, cp, c, links[c], numbers, when)
		if c.isDir() {
			m.compareDir(t, root, cp, c, links, numbers, when)
		}
	}
}

func (m *model) compareFile(t *testing.T, root, p string, n *inode, links int, numbers map[*inode]uint64, when string) {
	t.Helper()
	full := filepath.Join(root, p)
	var st unix.Stat_t
	if err := unix.Lstat(full, &st); err != nil {
		t.Errorf("%s: /%s: %v", when, p, err)
		return
	}
	if st.Mode != n.mode {
		t.Errorf("%s: /%s has mode %o, want %o", when, p, st.Mode, n.mode)
	}
	if n.isDir() {
		return
	}
	if int(st.Nlink) != links {
		t.Errorf("%s: /%s has %d links, want %d", when, p, st.Nlink, links)
	}
	if have, ok := numbers[n]; ok && have != st.Ino && !m.renumbers {
		t.Errorf("%s: /%s is file %d, another name of it %d", when, p, st.Ino, have)
	}
	numbers[n] = st.Ino
	if n.mode&unix.S_IFMT != unix.S_IFREG {
		return
	}
	body, err := os.ReadFile(full)
	if err != nil || !bytes.Equal(body, []byte(n.body)) {
		t.Errorf("%s: /%s has %d bytes (%v), want %d", when, p, len(body), err, len(n.body))
	}
	buf := make([]byte, 16)
	size, err := unix.Getxattr(full, "user.k", buf)
	if n.attr == "" {
		if err != unix.ENODATA {
			t.Errorf("%s: /%s has an attribute (%v)", when, p, err)
		}
	} else if err != nil || string(buf[:size]) != n.attr {
		t.Errorf("%s: /%s has the attribute %q (%v), want %q", when, p, buf[:max(size, 0)], err, n.attr)
	}
}
