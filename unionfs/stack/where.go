package stack

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"vivarium/unionfs/aufs"
)

// State says what a branch does to a name.
type State string

const (
	Shown    State = "shown"    // this is what the union shows
	Merged   State = "merged"   // a directory, whose entries are shown among those above
	Hidden   State = "hidden"   // it is there, and something above hides it
	Whiteout State = "whiteout" // a whiteout hides it on the branches below
	Opaque   State = "opaque"   // a directory on the way is opaque: nothing below counts
	Blocked  State = "blocked"  // on the way is something that is no directory
)

// Place is what one branch has to do with a name.
type Place struct {
	Branch int         // its index, 0 is the top-most
	State  State       //
	At     string      // the name that State is about: the name asked for, or a directory above it
	Mode   fs.FileMode // of what is there; 0 for a whiteout
	Size   int64
}

// Where tells of each branch that has to do with a name of the union, top-most
// first. Nothing shows the name if no place is Shown.
func (s Stack) Where(name string) ([]Place, error) {
	name = strings.Trim(filepath.Clean("/"+name), "/")
	w := walker{s: s, name: name}
	for i := range s.Branches {
		if err := w.branch(i); err != nil {
			return nil, err
		}
	}
	return w.places, nil
}

type walker struct {
	s      Stack
	name   string
	places []Place
	shown  *Place // what is shown
	cut    bool   // whatever comes below is hidden
}

// branch looks at the name on one branch, directory by directory.
func (w *walker) branch(i int) error {
	b := w.s.Branches[i]
	parts := []string{}
	if w.name != "" {
		parts = strings.Split(w.name, "/")
	}
	dir, at := b.Path, ""
	endsHere := false // what is below this branch is hidden by something on it
	if opaque, err := w.s.opaque(i, dir); err != nil {
		return err
	} else if opaque {
		w.add(Place{Branch: i, State: Opaque})
		endsHere = true
	}
	for n, part := range parts {
		last := n == len(parts)-1
		at = filepath.Join(at, part)
		white, err := w.s.whiteout(i, dir, part)
		if err != nil {
			return err
		}
		if white {
			w.add(Place{Branch: i, State: Whiteout, At: at})
			endsHere = true
		}
		info, err := os.Lstat(filepath.Join(dir, part))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || err == nil && isOverlayWhiteout(w.s.spelling(i), info) {
			w.cut = w.cut || endsHere
			return nil
		}
		if err != nil {
			return err
		}
		dir = filepath.Join(dir, part)
		switch {
		case last:
			w.found(i, at, info)
			endsHere = endsHere || !info.IsDir()
		case !info.IsDir():
			w.add(Place{Branch: i, State: Blocked, At: at, Mode: info.Mode(), Size: info.Size()})
			w.cut = true
			return nil
		}
		if info.IsDir() {
			opaque, err := w.s.opaque(i, dir)
			if err != nil {
				return err
			}
			if opaque {
				w.add(Place{Branch: i, State: Opaque, At: at, Mode: info.Mode()})
				endsHere = true
			}
		}
	}
	if len(parts) == 0 {
		info, err := os.Lstat(dir)
		if err != nil {
			return err
		}
		w.found(i, "", info)
	}
	w.cut = w.cut || endsHere
	return nil
}

// found notes that the branch has the name itself.
func (w *walker) found(i int, at string, info fs.FileInfo) {
	p := Place{Branch: i, At: at, Mode: info.Mode(), Size: info.Size()}
	switch {
	case w.cut:
		p.State = Hidden
	case w.shown == nil:
		p.State = Shown
	case info.IsDir() && w.shown.Mode.IsDir():
		p.State = Merged
	default:
		p.State = Hidden
		w.cut = true
	}
	w.add(p)
	if p.State == Shown {
		w.shown = &p
	}
}

func (w *walker) add(p Place) { w.places = append(w.places, p) }

// whiteout says whether a branch deletes a name of one of its directories.
func (s Stack) whiteout(i int, dir, name string) (bool, error) {
	if s.spelling(i) == AUFS {
		if !s.Branches[i].Whiteouts() {
			return false, nil
		}
		return exists(filepath.Join(dir, aufs.Prefix+name))
	}
	info, err := os.Lstat(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return false, nil
	}
	return err == nil && isOverlayWhiteout(Overlay, info), err
}

func isOverlayWhiteout(kind string, info fs.FileInfo) bool {
	if kind != Overlay || info.Mode()&fs.ModeCharDevice == 0 {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Rdev == 0
}

// opaque says whether a directory of a branch hides those of its name below.
func (s Stack) opaque(i int, dir string) (bool, error) {
	if s.spelling(i) == AUFS {
		if !s.Branches[i].Whiteouts() {
			return false, nil
		}
		return exists(filepath.Join(dir, aufs.Opaque))
	}
	for _, attr := range []string{"trusted.overlay.opaque", "user.overlay.opaque"} {
		var b [1]byte
		n, err := unix.Lgetxattr(dir, attr, b[:])
		if n == 1 && b[0] == 'y' {
			return true, nil
		}
		if err != nil && err != unix.ENODATA && err != unix.ENOTSUP && err != unix.ERANGE && err != unix.EPERM {
			return false, &fs.PathError{Op: "getxattr", Path: dir, Err: err}
		}
	}
	return false, nil
}

func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return false, nil
	}
	return err == nil, err
}
