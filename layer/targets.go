package layer

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Target is a path that something will be mounted on.
type Target struct {
	Path string // relative to the root
	Dir  bool
}

// MakeTargets makes in dst, an empty directory that nobody else writes to, an
// empty directory or file for each target that the layers (top-most first)
// lack, so that dst can be the layer above them. Links of the layers are
// followed. A directory that the layers have looks in dst as they show it; what
// is new belongs to root and has mode 0755. A target with something else in its
// way is passed over: mounting will say what is wrong. All is synchronized to the
// disk. made is false, and dst still empty, if nothing was missing.
func MakeTargets(dst *os.File, lower []string, targets []Target) (made bool, err error) {
	v, err := OpenView(lower)
	if err != nil {
		return false, err
	}
	defer v.Close()
	m := &targetMaker{v: v, dst: int(dst.Fd()), made: map[string]bool{}}
	for _, t := range targets {
		if err := m.target(t); err != nil {
			return true, fmt.Errorf("make mount target /%s: %w", t.Path, err)
		}
	}
	if len(m.made) == 0 {
		return false, nil
	}
	return true, m.settle()
}

// MakeStubs is MakeTargets for a directory that becomes the layer below all others, and
// that is thrown away: directories of the layers hide those of dst, whose looks do not
// matter, and nothing is synchronized.
func MakeStubs(dst *os.File, lower []string, targets []Target) error {
	v, err := OpenView(lower)
	if err != nil {
		return err
	}
	defer v.Close()
	m := &targetMaker{v: v, dst: int(dst.Fd()), made: map[string]bool{}}
	for _, t := range targets {
		if err := m.target(t); err != nil {
			return fmt.Errorf("make mount target /%s: %w", t.Path, err)
		}
	}
	return nil
}

type targetMaker struct {
	v    *View
	dst  int
	made map[string]bool // paths in dst; true: the layers have it too
}

func (m *targetMaker) target(t Target) error {
	path, err := m.v.resolve(t.Path, true)
	if err == nil && path != "" {
		err = m.make(path, t.Dir)
	}
	// Links that lead nowhere are the image's own trouble.
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENAMETOOLONG) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	return err
}

// make makes path, which has no links in it, with the directories above it.
func (m *targetMaker) make(path string, isDir bool) error {
	if _, done := m.made[path]; done {
		return nil
	}
	there, err := m.below(path)
	if err != nil || there != nil {
		return err
	}
	if parent, _ := splitName(path); parent != "" {
		if err := m.parent(parent); err != nil {
			return err
		}
	}
	if isDir {
		err = unix.Mkdirat(m.dst, path, 0o755)
	} else {
		err = unix.Mknodat(m.dst, path, unix.S_IFREG|0o755, 0)
	}
	if err != nil {
		return err
	}
	m.made[path] = false
	return unix.Fchmodat(m.dst, path, 0o755, 0) // whatever the umask is
}

// parent makes a directory in dst that is or is not in the layers.
func (m *targetMaker) parent(path string) error {
	if _, done := m.made[path]; done {
		return nil
	}
	there, err := m.below(path)
	if err != nil {
		return err
	}
	if there == nil {
		return m.make(path, true)
	}
	if there.Mode&unix.S_IFMT != unix.S_IFDIR {
		return unix.ENOTDIR
	}
	if up, _ := splitName(path); up != "" {
		if err := m.parent(up); err != nil {
			return err
		}
	}
	if err := unix.Mkdirat(m.dst, path, 0o700); err != nil {
		return err
	}
	m.made[path] = true
	return nil
}

// below tells what the layers have at path; nil: nothing.
func (m *targetMaker) below(path string) (*unix.Stat_t, error) {
	dir, e, err := m.v.find(path)
	if dir != nil {
		defer dir.close()
	}
	if errors.Is(err, errLinkInPath) {
		return nil, unix.ELOOP
	}
	if err != nil || e == nil {
		return nil, err
	}
	return &e.st, nil
}

// settle gives directories of the layers their looks, deepest first, so that no
// time is changed by what comes after, and has everything written to the disk.
func (m *targetMaker) settle() error {
	paths := make([]string, 0, len(m.made))
	for p := range m.made {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	slices.Reverse(paths)
	for _, p := range paths {
		if m.made[p] {
			if err := m.like(p); err != nil {
				return err
			}
		}
		if err := syncAt(m.dst, p); err != nil {
			return fmt.Errorf("synchronize %q: %w", p, err)
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(m.v.roots[0], &st); err != nil {
		return fmt.Errorf("stat the root of the layers: %w", err)
	}
	if err := copyMeta(m.v.roots[0], ".", m.dst, ".", &st); err != nil {
		return err
	}
	return syncAt(m.dst, ".")
}

func (m *targetMaker) like(path string) error {
	dir, e, err := m.v.find(path)
	if dir != nil {
		defer dir.close()
	}
	if err != nil {
		return err
	}
	_, base := splitName(path)
	return copyMeta(e.parent, base, m.dst, path, &e.st)
}

func syncAt(dir int, path string) error {
	fd, err := unix.Openat(dir, path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.EACCES && unix.Geteuid() != 0 {
		return nil // its mode shuts its owner out; the root's sync comes last
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Fsync(fd)
}
