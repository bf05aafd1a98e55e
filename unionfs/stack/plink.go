package stack

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"vivarium/internal/pseudolink"
	"vivarium/unionfs/aufs"
)

// linked is a name that is on a branch below and shows a file of the top-most one, by a
// pseudo-link.
type linked struct {
	name string // of the union
	file string // in .wh..wh.plnk of the top-most branch
}

// linkFiles are the files of .wh..wh.plnk on the top-most branch: by the branch that has their
// other names, and their number there.
func (s Stack) linkFiles() (map[int]map[uint64]string, error) {
	if s.spelling(0) != AUFS {
		return nil, nil
	}
	entries, err := os.ReadDir(filepath.Join(s.Branches[0].Path, aufs.Links))
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	out := map[int]map[uint64]string{}
	for i := 1; i < len(s.Branches); i++ {
		tag := pseudolink.Tag(s.Branches[i].Path)
		out[i] = map[uint64]string{}
		for _, e := range entries {
			if ino, of, _, ok := pseudolink.Parse(e.Name()); ok && of == tag {
				out[i][ino] = e.Name()
			}
		}
	}
	return out, nil
}

// linkedNames finds such names. There are few such files, and for each all names of its branch
// are looked at, as auplink(8) does.
func (s Stack) linkedNames() ([]linked, error) {
	files, err := s.linkFiles()
	var out []linked
	for i, of := range files {
		if err == nil {
			err = s.namesOf(i, of, &out)
		}
	}
	slices.SortFunc(out, func(a, b linked) int { return strings.Compare(a.name, b.name) })
	return out, err
}

// namesOf finds the names on a branch of files with certain numbers that the union shows.
func (s Stack) namesOf(branch int, files map[uint64]string, out *[]linked) error {
	if len(files) == 0 {
		return nil
	}
	root := s.Branches[branch].Path
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), aufs.Temp) {
			return fs.SkipDir
		}
		if err != nil || d.IsDir() {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return &fs.PathError{Op: "lstat", Path: path, Err: err}
		}
		file := files[st.Ino]
		if file == "" || st.Nlink < 2 {
			return nil
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		shown, err := s.shownOn(name)
		if err == nil && shown == branch {
			*out = append(*out, linked{name, file})
		}
		return err
	})
}

// shownOn is the branch that shows a name, or -1.
func (s Stack) shownOn(name string) (int, error) {
	places, err := s.Where(name)
	if err != nil {
		return -1, err
	}
	for _, p := range places {
		if p.State == Shown {
			return p.Branch, nil
		}
	}
	return -1, nil
}

// links makes the names of pseudo-links real on the top-most branch, so that nothing leads there
// but by name. Each step leaves the union as it was to look at.
func (c *committer) links() error {
	names, err := c.s.linkedNames()
	if err != nil {
		return err
	}
	for _, l := range names {
		if err := c.directories(filepath.Dir(l.name)); err != nil {
			return err
		}
		if err := c.step(); err != nil {
			return err
		}
		if err := os.Link(filepath.Join(c.top, aufs.Links, l.file), filepath.Join(c.top, l.name)); err != nil {
			return err
		}
	}
	files, err := c.s.linkFiles()
	for _, of := range files {
		for _, file := range of {
			path := filepath.Join(c.top, aufs.Links, file)
			var st unix.Stat_t
			if err == nil && unix.Lstat(path, &st) == nil && st.Nlink > 1 { // it has names of its own
				err = c.remove(path)
			}
		}
	}
	return err
}

// directories makes a directory of the union on the top-most branch, and those above it.
func (c *committer) directories(dir string) error {
	if dir == "." {
		return nil
	}
	if err := c.directories(filepath.Dir(dir)); err != nil {
		return err
	}
	to := filepath.Join(c.top, dir)
	if there, err := exists(to); err != nil || there {
		return err
	}
	branch, err := c.s.shownOn(dir)
	if err != nil {
		return err
	}
	if branch < 0 {
		return &fs.PathError{Op: "copy up", Path: dir, Err: fs.ErrNotExist}
	}
	temp := filepath.Join(c.top, filepath.Dir(dir), aufs.Temp+"commit")
	if err := c.remove(temp); err != nil {
		return err
	}
	if err := os.Mkdir(temp, 0o700); err != nil {
		return err
	}
	if err := copyAttributes(filepath.Join(c.s.Branches[branch].Path, dir), temp); err != nil {
		return err
	}
	return c.rename(temp, to)
}
