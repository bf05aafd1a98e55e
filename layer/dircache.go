package layer

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// maxOpenDirs bounds the descriptors that one unpacking keeps: archives
	// are written directory by directory, so few are needed at a time.
	maxOpenDirs = 128
	// maxLinks is how many symbolic links one name may go through, as in the
	// kernel (path_resolution(7)).
	maxLinks = 40

	oDir = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
)

var errNotInTree = errors.New("no such directory in this tree")

// dirRef is one open directory. path holds no symbolic link and no "..".
type dirRef struct {
	fd   int
	path string
}

// dirCache opens directories below a root by name, and keeps them: finding
// the parent is otherwise the greater part of what a small file costs.
//
// Symbolic links are followed inside the root, whatever they say: each step
// is an openat of one component with O_NOFOLLOW, and ".." is answered from the
// resolved path, so no exchange of directories for links can lead outside.
type dirCache struct {
	root    *dirRef
	entries map[string]*dirRef
	// missing is called for a component that does not exist; it makes the
	// directory, or returns an error. what is the name's current state.
	missing func(parent *dirRef, base string) error
}

func newDirCache(root int) *dirCache {
	r := &dirRef{fd: root}
	return &dirCache{root: r, entries: map[string]*dirRef{"": r}}
}

// flush closes all but the root. Needed when a directory or a symbolic link
// goes away or is replaced, because names may then mean something else.
func (c *dirCache) flush() {
	seen := make(map[*dirRef]bool, len(c.entries))
	for _, e := range c.entries {
		if e != c.root && !seen[e] {
			seen[e] = true
			unix.Close(e.fd)
		}
	}
	clear(c.entries)
	c.entries[""] = c.root
}

// trim bounds the cache. It is called between entries, when nobody holds a
// reference.
func (c *dirCache) trim() {
	if len(c.entries) > maxOpenDirs {
		c.flush()
	}
}

// dir opens the directory of a clean relative name, and makes what is missing
// if make says so. The reference is valid until flush or trim.
func (c *dirCache) dir(name string, make bool) (*dirRef, error) {
	links := 0
	return c.walk(name, make, &links)
}

func (c *dirCache) walk(name string, make bool, links *int) (*dirRef, error) {
	if e, ok := c.entries[name]; ok {
		return e, nil
	}
	parentName, base := splitName(name)
	parent, err := c.walk(parentName, make, links)
	if err != nil {
		return nil, err
	}
	e, err := c.step(parent, base, make, links)
	if err != nil {
		return nil, err
	}
	c.entries[name] = e
	return e, nil
}

func (c *dirCache) step(parent *dirRef, base string, make bool, links *int) (*dirRef, error) {
	// A directory may be known by its resolved path already.
	full := joinName(parent.path, base)
	for try := 0; ; try++ {
		fd, err := unix.Openat(parent.fd, base, oDir, 0)
		switch {
		case err == nil:
			e := &dirRef{fd: fd, path: full}
			if known, ok := c.entries[full]; ok && known.path == full {
				unix.Close(fd)
				return known, nil
			}
			c.entries[full] = e
			return e, nil
		case err == unix.ENOENT && make && c.missing != nil && try == 0:
			if err := c.missing(parent, base); err != nil {
				return nil, err
			}
		case err == unix.ENOENT:
			return nil, fmt.Errorf("open %q: %w", full, errNotInTree)
		case err == unix.ENOTDIR || err == unix.ELOOP:
			return c.through(parent, base, make, links, try)
		default:
			return nil, fmt.Errorf("open directory %q: %w", full, err)
		}
	}
}

// through handles a component that is there and is no directory.
func (c *dirCache) through(parent *dirRef, base string, make bool, links *int, try int) (*dirRef, error) {
	full := joinName(parent.path, base)
	var st unix.Stat_t
	if err := unix.Fstatat(parent.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, fmt.Errorf("stat %q: %w", full, err)
	}
	if isWhiteout(&st) && make && c.missing != nil && try == 0 {
		if err := c.missing(parent, base); err != nil {
			return nil, err
		}
		return c.step(parent, base, false, links)
	}
	if isWhiteout(&st) {
		return nil, fmt.Errorf("open %q: %w", full, errNotInTree)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return nil, fmt.Errorf("open directory %q: %w", full, unix.ENOTDIR)
	}
	if *links++; *links > maxLinks {
		return nil, fmt.Errorf("follow symbolic link %q: %w", full, unix.ELOOP)
	}
	target, err := readlinkat(parent.fd, base)
	if err != nil {
		return nil, fmt.Errorf("read symbolic link %q: %w", full, err)
	}
	return c.follow(parent, target, make, links)
}

// follow walks the text of a symbolic link that stands in from.
func (c *dirCache) follow(from *dirRef, target string, make bool, links *int) (*dirRef, error) {
	cur := from.path
	if strings.HasPrefix(target, "/") {
		cur = ""
	}
	for _, comp := range strings.Split(target, "/") {
		switch comp {
		case "", ".":
			continue
		case "..":
			cur, _ = splitName(cur)
			continue
		}
		e, err := c.walk(joinName(cur, comp), make, links)
		if err != nil {
			return nil, err
		}
		cur = e.path
	}
	return c.walk(cur, make, links)
}

func readlinkat(dirfd int, base string) (string, error) {
	var buf [unix.PathMax]byte
	n, err := unix.Readlinkat(dirfd, base, buf[:])
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// procPath spells an entry of an open directory as a path, for the few calls
// that have no form with a descriptor. The kernel follows the descriptor and
// looks the last component up in it, so nothing outside can be named.
func procPath(dirfd int, base string) string {
	return path.Join(fmt.Sprintf("/proc/self/fd/%d", dirfd), base)
}

// removeAll removes a name and all below it, without following links.
func removeAll(dirfd int, base string) error {
	err := unix.Unlinkat(dirfd, base, 0)
	if err == nil || err == unix.ENOENT {
		return nil
	}
	if err != unix.EISDIR && err != unix.EPERM {
		return fmt.Errorf("remove %q: %w", base, err)
	}
	err = unix.Unlinkat(dirfd, base, unix.AT_REMOVEDIR)
	if err == nil || err == unix.ENOENT {
		return nil
	}
	if err != unix.ENOTEMPTY && err != unix.EEXIST {
		return fmt.Errorf("remove directory %q: %w", base, err)
	}
	fd, err := unix.Openat(dirfd, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %q to remove it: %w", base, err)
	}
	defer unix.Close(fd)
	names, err := readNames(fd)
	if err != nil {
		return fmt.Errorf("list %q to remove it: %w", base, err)
	}
	for _, n := range names {
		if err := removeAll(fd, n); err != nil {
			return err
		}
	}
	if err := unix.Unlinkat(dirfd, base, unix.AT_REMOVEDIR); err != nil {
		return fmt.Errorf("remove directory %q: %w", base, err)
	}
	return nil
}

// readNames lists an open directory, from its start, sorted by nothing.
func readNames(fd int) ([]string, error) {
	if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
		return nil, err
	}
	var names []string
	buf := make([]byte, 32<<10)
	for {
		n, err := unix.ReadDirent(fd, buf)
		if err != nil {
			return nil, err
		}
		if n <= 0 {
			return names, nil
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}
