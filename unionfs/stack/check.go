package stack

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"vivarium/unionfs/aufs"
)

// Kinds of findings.
const (
	StrayWhiteout   = "stray whiteout"   // there is nothing below that it hides
	IgnoredWhiteout = "ignored whiteout" // whiteouts do not count on this branch
	Contradiction   = "contradiction"    // a name and its whiteout on one branch
	Orphan          = "orphan"           // removed while it was open, and never cleared away
	LonelyLink      = "lonely link"      // a pseudo-link of which no name is left
	Leftover        = "leftover"         // what was being made when its maker ended
)

// Finding is one thing on a branch that is of no use.
type Finding struct {
	Branch int
	Path   string // below the branch
	Kind   string
}

// Check looks through all branches for what means nothing. While the union is
// mounted, what is in use just now can be among it.
func (s Stack) Check() ([]Finding, error) {
	var out []Finding
	for i := range s.Branches {
		c := checker{s: s, i: i, root: s.Branches[i].Path}
		if err := c.dir(""); err != nil {
			return nil, err
		}
		slices.SortFunc(c.out, func(a, b Finding) int { return strings.Compare(a.Path, b.Path) })
		out = append(out, c.out...)
	}
	return out, nil
}

type checker struct {
	s    Stack
	i    int
	root string
	out  []Finding
}

func (c *checker) find(path, kind string) {
	c.out = append(c.out, Finding{c.i, path, kind})
}

// under is the stack below the branch.
func (c *checker) under() Stack {
	s := c.s
	s.Branches = s.Branches[c.i+1:]
	return s
}

func (c *checker) dir(dir string) error {
	entries, err := os.ReadDir(filepath.Join(c.root, dir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := c.entry(dir, e); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) entry(dir string, e fs.DirEntry) error {
	name := e.Name()
	path := filepath.Join(dir, name)
	info, err := e.Info()
	if err != nil {
		return err
	}
	switch {
	case isOverlayWhiteout(c.s.spelling(c.i), info):
		return c.whiteout(path, path)
	case c.s.spelling(c.i) != AUFS || !strings.HasPrefix(name, aufs.Prefix):
		if info.IsDir() {
			return c.dir(path)
		}
		return nil
	case name == aufs.Opaque:
		return c.opaque(dir, path)
	case strings.HasPrefix(name, aufs.Temp):
		return c.own(dir, name)
	}
	deleted := strings.TrimPrefix(name, aufs.Prefix)
	if !c.s.Branches[c.i].Whiteouts() {
		c.find(path, IgnoredWhiteout)
		return nil
	}
	if both, err := exists(filepath.Join(c.root, dir, deleted)); err != nil || both {
		c.find(path, Contradiction)
		return err
	}
	return c.whiteout(path, filepath.Join(dir, deleted))
}

func (c *checker) whiteout(path, deleted string) error {
	shown, err := c.under().shows(deleted)
	if err == nil && !shown {
		c.find(path, StrayWhiteout)
	}
	return err
}

// opaque: the mark of a directory that has none of its name below hides nothing.
func (c *checker) opaque(dir, path string) error {
	if !c.s.Branches[c.i].Whiteouts() {
		c.find(path, IgnoredWhiteout)
		return nil
	}
	return c.whiteout(path, dir)
}

// own looks at what AUFS keeps for itself: in the root the base of whiteouts, and
// the directories of pseudo-links and of orphans; whatever else has such a name was
// being made.
func (c *checker) own(dir, name string) error {
	path := filepath.Join(dir, name)
	switch {
	case dir == "" && name == aufs.Base:
		return nil
	case dir == "" && (name == aufs.Links || name == aufs.Orphan):
		entries, err := os.ReadDir(filepath.Join(c.root, name))
		if err != nil {
			return err
		}
		for _, e := range entries {
			info, err := e.Info()
			if err != nil {
				return err
			}
			st, _ := info.Sys().(*syscall.Stat_t)
			switch {
			case name == aufs.Orphan:
				c.find(filepath.Join(name, e.Name()), Orphan)
			case st != nil && st.Nlink == 1:
				c.find(filepath.Join(name, e.Name()), LonelyLink)
			}
		}
		return nil
	}
	c.find(path, Leftover)
	return nil
}
