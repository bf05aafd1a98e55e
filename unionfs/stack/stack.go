// Package stack looks into a union from beside it: which branches it has, which of
// them shows a name, what its top-most branch changes, and what on its branches
// means nothing. It reads the branches, so it needs nothing of the union but to
// know them, and folds the top-most branch down while no union is mounted.
//
// Two spellings of what is deleted are known: AUFS's, the names .wh.NAME and
// .wh..wh..opq (AUFS design document 02struct.txt), and overlay's, a character
// device 0/0 and the attribute trusted.overlay.opaque
// (Documentation/filesystems/overlayfs.rst).
package stack

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"

	"vivarium/unionfs/aufs"
)

// Types of unions.
const (
	AUFS    = "aufs"
	Overlay = "overlay"
)

// Stack is the branches of a union, top-most first.
type Stack struct {
	Type     string // AUFS or Overlay: how whiteouts are spelled, but for a branch that says otherwise
	Point    string // where it is mounted; "" if it is not
	Branches []aufs.Branch
}

// ErrNoUnion says that a path is in no union.
var ErrNoUnion = errors.New("no union is mounted there")

// New makes the stack of a union that is not mounted.
func New(kind string, branches []aufs.Branch) (Stack, error) {
	if kind != AUFS && kind != Overlay {
		return Stack{}, fmt.Errorf("type %q of a union: known are %s, %s", kind, AUFS, Overlay)
	}
	for i, b := range branches {
		info, err := os.Stat(b.Path)
		if err != nil {
			return Stack{}, fmt.Errorf("branch: %w", err)
		}
		if !info.IsDir() {
			return Stack{}, fmt.Errorf("branch %s is no directory", b.Path)
		}
		for _, other := range branches[:i] {
			if other.Path == b.Path {
				return Stack{}, fmt.Errorf("branch %s is given twice", b.Path)
			}
		}
	}
	return Stack{Type: kind, Branches: branches}, nil
}

// Find gives the union that a path is in, and the path's name in it, without a
// leading slash; "" for the union itself. A symlink at the end is not followed.
func Find(path string) (Stack, string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return Stack{}, "", err
	}
	// What is above the last part is where the kernel would look; it may be gone.
	dir, rest := filepath.Dir(abs), filepath.Base(abs)
	real, err := filepath.EvalSymlinks(dir)
	for errors.Is(err, os.ErrNotExist) && dir != "/" {
		dir, rest = filepath.Dir(dir), filepath.Join(filepath.Base(dir), rest)
		real, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return Stack{}, "", fmt.Errorf("find %s: %w", path, err)
	}
	abs = filepath.Join(real, rest)
	mounts, err := mountinfo.GetMounts(mountinfo.ParentsFilter(abs))
	if err != nil {
		return Stack{}, "", fmt.Errorf("read the mounts: %w", err)
	}
	var at *mountinfo.Info
	for _, m := range mounts { // of those on one directory the last is on top
		if at == nil || len(m.Mountpoint) >= len(at.Mountpoint) {
			at = m
		}
	}
	if at == nil || at.FSType != aufs.FSType && at.FSType != Overlay {
		return Stack{}, "", fmt.Errorf("%s: %w", path, ErrNoUnion)
	}
	s, err := mounted(at)
	if err != nil {
		return Stack{}, "", err
	}
	inside, err := filepath.Rel(at.Mountpoint, abs)
	if err != nil {
		return Stack{}, "", err
	}
	if at.Root != "/" { // a bind mount of a part
		inside = filepath.Join(strings.TrimPrefix(at.Root, "/"), inside)
	}
	if inside == "." {
		inside = ""
	}
	return s, inside, nil
}

// All lists the unions that are mounted in this mount namespace.
func All() ([]Stack, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter(aufs.FSType, Overlay))
	if err != nil {
		return nil, fmt.Errorf("read the mounts: %w", err)
	}
	var out []Stack
	for _, m := range mounts {
		s, err := mounted(m)
		if err != nil { // its server may be gone: it is a union all the same
			s = Stack{Type: AUFS, Point: m.Mountpoint}
		}
		out = append(out, s)
	}
	return out, nil
}

func mounted(m *mountinfo.Info) (Stack, error) {
	s := Stack{Type: Overlay, Point: m.Mountpoint}
	if m.FSType == aufs.FSType {
		s.Type = AUFS
		st, err := aufs.ReadState(m.Mountpoint)
		if err != nil {
			return s, err
		}
		for _, b := range st.Branches {
			s.Branches = append(s.Branches, b.Branch())
		}
		return s, nil
	}
	s.Branches = overlayBranches(m.VFSOptions)
	if len(s.Branches) == 0 {
		return s, fmt.Errorf("overlay %s tells of no layers", m.Mountpoint)
	}
	return s, nil
}

// overlayBranches reads the options that overlay shows: lowerdir=A:B, or one
// lowerdir+=A a layer (Linux 6.8), upperdir=. What could end an option is octal
// there (seq_show_option); in lowerdir a colon of a name has a backslash before it.
func overlayBranches(options string) []aufs.Branch {
	var upper, lower []aufs.Branch
	for opt := range strings.SplitSeq(options, ",") {
		key, value, _ := strings.Cut(opt, "=")
		value = octal(value)
		switch key {
		case "lowerdir":
			for _, dir := range splitColons(value) {
				if dir != "" { // "::" comes before layers with data only
					lower = append(lower, aufs.Branch{Path: dir, Perm: aufs.RO, WH: true})
				}
			}
		case "lowerdir+", "datadir+":
			lower = append(lower, aufs.Branch{Path: value, Perm: aufs.RO, WH: true})
		case "upperdir":
			upper = []aufs.Branch{{Path: value, Perm: aufs.RW}}
		}
	}
	return append(upper, lower...)
}

// splitColons splits at colons; a backslash takes the meaning of what follows.
func splitColons(text string) []string {
	var out []string
	var part []byte
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == ':':
			out, part = append(out, string(part)), nil
			continue
		case text[i] == '\\' && i+1 < len(text):
			i++
		}
		part = append(part, text[i])
	}
	return append(out, string(part))
}

// octal undoes \NNN.
func octal(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if i+3 < len(s) && s[i] == '\\' {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// hidden says that a name is AUFS's own, and part of no tree.
func hidden(name string) bool { return strings.HasPrefix(name, aufs.Temp) }

// spelling is how whiteouts on a branch are spelled.
func (s Stack) spelling(i int) string {
	if s.Branches[i].Overlay {
		return Overlay
	}
	return s.Type
}

// names lists a directory's entries, sorted.
func names(dir string) ([]os.DirEntry, error) {
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list, func(e os.DirEntry) bool { return hidden(e.Name()) }), nil
}
