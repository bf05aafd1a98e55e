package layer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Spelling is how a directory of changes tells what is deleted.
type Spelling int

// The three spellings of changes on disk.
const (
	// SpelledOverlay: a deleted name is a device 0/0, an opaque directory has an attribute.
	SpelledOverlay Spelling = iota
	// SpelledAUFS: a deleted NAME is a file .wh.NAME, an opaque directory has a file .wh..wh..opq.
	SpelledAUFS
	// SpelledCopy: the directory is a whole tree that MergeCopy made, and what differs from
	// the layers is what was changed.
	SpelledCopy
)

// Upper is a directory of changes above layers.
type Upper struct {
	Dir      *os.File
	Lower    []string // the layers below, top-most first
	Spelling Spelling
	Copy     *CopyIndex // of SpelledCopy: what MergeCopy gave
}

// below is the merged directory of the lower layers that lies below one of an upper
// layer. It is looked up when somebody asks for it: most have no reason to.
type below struct {
	v    *View
	name string
	d    *viewDir
	done bool
}

func (b *below) get() (*viewDir, error) {
	if b.done || b.v == nil {
		return b.d, nil
	}
	b.done = true
	if b.name == "" {
		b.d = b.v.rootDir()
		return b.d, nil
	}
	dir, e, err := b.v.find(b.name)
	if dir != nil {
		defer dir.close()
	}
	if errors.Is(err, errLinkInPath) || err == nil && (e == nil || !e.isDir()) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	_, base := splitName(b.name)
	b.d, err = dir.open(base, e)
	return b.d, err
}

func (b *below) close() { b.d.close() }

// spot is where a walk through an upper layer stands.
type spot struct {
	name string
	// covered says that nothing of the layers below shows through here, and bare that
	// they have nothing here.
	covered, bare bool
	// own says that a directory of a copied tree is the one that was copied to this place,
	// and quiet that no name in it has come or gone since then.
	own, quiet bool
	below      *below
}

// item is a name that an upper layer has something to say of.
type item struct {
	base string
	gone bool
}

// items lists what an open directory of an upper layer says, by name. Names that the
// layers below do not have are not said to be gone.
func (u *Upper) items(fd int, at *spot) ([]item, error) {
	names, err := readNames(fd)
	if err != nil {
		return nil, fmt.Errorf("list directory %q: %w", at.name, err)
	}
	var gone []string
	if u.Spelling == SpelledAUFS {
		names, gone, at.covered = aufsNames(names, at.covered)
	}
	if u.Spelling == SpelledOverlay && !at.covered && at.name != "" {
		at.covered = isOpaque(fd)
	}
	whole := at.covered || u.Spelling == SpelledCopy && !at.quiet
	out := make([]item, 0, len(names)+len(gone))
	have := make(map[string]bool, len(names))
	for _, n := range names {
		out, have[n] = append(out, item{base: n}), true
	}
	if !at.bare && (len(gone) > 0 || whole) {
		lower, err := at.below.get()
		if err != nil {
			return nil, err
		}
		at.bare = lower == nil
		if whole {
			if gone, err = lower.names(); err != nil {
				return nil, err
			}
		}
		for _, n := range gone {
			there, err := lower.lookup(n)
			if err != nil {
				return nil, err
			}
			if there != nil && !have[n] {
				out, have[n] = append(out, item{n, true}), true
			}
		}
	}
	slices.SortFunc(out, func(a, b item) int { return strings.Compare(a.base, b.base) })
	return out, nil
}

// aufsNames takes the names apart that AUFS's spelling gives a meaning.
func aufsNames(names []string, covered bool) (files, gone []string, opaque bool) {
	opaque = covered
	for _, n := range names {
		switch {
		case n == WhiteoutOpaque:
			opaque = true
		case strings.HasPrefix(n, whiteoutMeta):
		case strings.HasPrefix(n, WhiteoutPrefix):
			gone = append(gone, n[len(WhiteoutPrefix):])
		default:
			files = append(files, n)
		}
	}
	return files, gone, opaque
}

// inside is the spot of a directory of this one.
func (u *Upper) inside(at *spot, base string, st *unix.Stat_t) *spot {
	s := &spot{name: joinName(at.name, base), covered: at.covered, bare: at.bare}
	if u.Spelling == SpelledCopy {
		s.own = at.own && u.Copy.dirs[s.name] == st.Ino
		s.quiet = s.own && !u.Copy.after(st)
	}
	s.below = &below{name: s.name}
	if !s.bare {
		s.below.v = at.below.v
	}
	return s
}

// top is the spot of the root of an upper layer.
func (u *Upper) top(v *View) *spot {
	s := &spot{below: &below{v: v}}
	if u.Spelling == SpelledCopy {
		var st unix.Stat_t
		s.own = unix.Fstat(int(u.Dir.Fd()), &st) == nil && u.Copy.dirs[""] == st.Ino
		s.quiet = s.own && !u.Copy.after(&st)
	}
	return s
}

// touched tells whether a file of a copied tree was changed, or only its inode, because
// another name of it is gone. What overlay would have copied up counts as changed, even if
// it says the same as before.
func (u *Upper) touched(dirfd int, base string, st *unix.Stat_t, at *spot) (bool, error) {
	if !at.own {
		return true, nil
	}
	if !u.Copy.after(st) {
		return false, nil
	}
	old, err := at.lookup(base)
	if err != nil || old == nil || old.st.Nlink <= st.Nlink || differs(st, &old.st) {
		return true, err
	}
	same, err := sameContent(dirfd, base, old.parent, base, st)
	return !same, err
}

func (s *spot) lookup(base string) (*viewEntry, error) {
	lower, err := s.below.get()
	if err != nil {
		return nil, err
	}
	return lower.lookup(base)
}

// sameContent compares two files of one size and kind.
func sameContent(dirA int, baseA string, dirB int, baseB string, st *unix.Stat_t) (bool, error) {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		a, err := readlinkat(dirA, baseA)
		if err != nil {
			return false, err
		}
		b, err := readlinkat(dirB, baseB)
		return a == b, err
	case unix.S_IFREG:
	default:
		return true, nil
	}
	a, err := openToRead(dirA, baseA)
	if err != nil {
		return false, err
	}
	defer a.Close()
	b, err := openToRead(dirB, baseB)
	if err != nil {
		return false, err
	}
	defer b.Close()
	return sameBytes(a, b)
}

func openToRead(dir int, base string) (*os.File, error) {
	fd, err := unix.Openat(dir, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %q: %w", base, err)
	}
	return os.NewFile(uintptr(fd), base), nil
}

func sameBytes(a, b *os.File) (bool, error) {
	x, y := make([]byte, 64<<10), make([]byte, 64<<10)
	for off := int64(0); ; {
		n, errA := a.ReadAt(x, off)
		m, errB := b.ReadAt(y, off)
		if n != m || !bytes.Equal(x[:n], y[:m]) {
			return false, nil
		}
		if n < len(x) {
			if err := errors.Join(errA, errB); !errors.Is(err, io.EOF) {
				return false, err
			}
			return true, nil
		}
		off += int64(n)
	}
}
