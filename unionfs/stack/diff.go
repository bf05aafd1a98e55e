package stack

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"vivarium/unionfs/aufs"
)

// Kinds of changes, as docker diff has them.
const (
	Added   = 'A'
	Changed = 'C'
	Deleted = 'D'
)

// Change is what the top-most branch does to one name.
type Change struct {
	Path string // with a leading slash
	Kind rune   // Added, Changed or Deleted
}

// below is the stack without its top-most branch.
func (s Stack) below() Stack {
	s.Branches = s.Branches[1:]
	return s
}

// shows says whether the union shows a name.
func (s Stack) shows(name string) (bool, error) {
	places, err := s.Where(name)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(places, func(p Place) bool { return p.State == Shown }), nil
}

// list gives the names that the union shows in one of its directories, sorted.
func (s Stack) list(name string) ([]string, error) {
	places, err := s.Where(name)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, p := range places {
		if p.State != Shown && p.State != Merged || !p.Mode.IsDir() {
			continue
		}
		entries, err := names(filepath.Join(s.Branches[p.Branch].Path, name))
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if s.spelling(p.Branch) != AUFS || !strings.HasPrefix(e.Name(), aufs.Prefix) {
				seen[e.Name()] = true
			}
		}
	}
	var out []string
	for entry := range seen {
		shown, err := s.shows(filepath.Join(name, entry))
		if err != nil {
			return nil, err
		}
		if shown {
			out = append(out, entry)
		}
	}
	slices.Sort(out)
	return out, nil
}

// Diff lists what the top-most branch changes, in the order of the names.
func (s Stack) Diff() ([]Change, error) {
	var out []Change
	err := s.diff("", &out)
	if err == nil {
		err = s.diffLinked(&out)
	}
	slices.SortFunc(out, func(a, b Change) int { return strings.Compare(a.Path, b.Path) })
	return out, err
}

// diffLinked lists the other names of files that were copied up under one.
func (s Stack) diffLinked(out *[]Change) error {
	names, err := s.linkedNames()
	for _, l := range names {
		*out = append(*out, Change{"/" + l.name, Changed})
	}
	return err
}

func (s Stack) diff(dir string, out *[]Change) error {
	top := filepath.Join(s.Branches[0].Path, dir)
	entries, err := names(top)
	if err != nil {
		return err
	}
	opaque, err := s.opaque(0, top)
	if err != nil {
		return err
	}
	here := map[string]bool{}
	for _, e := range entries {
		name := e.Name()
		if s.spelling(0) == AUFS && strings.HasPrefix(name, aufs.Prefix) {
			continue // looked at below, with what it deletes
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if isOverlayWhiteout(s.spelling(0), info) {
			continue
		}
		here[name] = true
		path := filepath.Join(dir, name)
		before, err := s.below().shows(path)
		if err != nil {
			return err
		}
		kind := Added
		if before && !opaque {
			kind = Changed
		}
		*out = append(*out, Change{"/" + path, kind})
		if info.IsDir() {
			if err := s.diff(path, out); err != nil {
				return err
			}
		}
	}
	return s.deleted(dir, opaque, here, out)
}

// deleted lists what was below in a directory, and is so no more.
func (s Stack) deleted(dir string, opaque bool, here map[string]bool, out *[]Change) error {
	lower, err := s.below().list(dir)
	if err != nil {
		return err
	}
	for _, name := range lower {
		gone := opaque && !here[name]
		if !opaque && !here[name] {
			if gone, err = s.whiteout(0, filepath.Join(s.Branches[0].Path, dir), name); err != nil {
				return err
			}
		}
		if gone {
			*out = append(*out, Change{"/" + filepath.Join(dir, name), Deleted})
		}
	}
	return nil
}

// Usage is what a branch holds.
type Usage struct {
	Files int64 // entries of all kinds but its own bookkeeping
	Bytes int64 // on disk, of each file once
}

// Usage counts what is on a branch. What is mounted below it is none of it: a union
// shows what that hides.
func (s Stack) Usage(i int) (Usage, error) {
	var u Usage
	seen := map[uint64]bool{}
	dev := uint64(0)
	root := s.Branches[i].Path
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it is in use
		}
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			if err == unix.ENOENT {
				return nil
			}
			return &fs.PathError{Op: "lstat", Path: path, Err: err}
		}
		if path == root {
			dev = st.Dev
		}
		if st.Dev != dev {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if st.Nlink > 1 && !d.IsDir() {
			if seen[st.Ino] {
				return nil
			}
			seen[st.Ino] = true
		}
		u.Bytes += st.Blocks * 512
		if path != root && !strings.HasPrefix(d.Name(), aufs.Prefix) {
			u.Files++
		}
		return nil
	})
	return u, err
}
