package handle

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// errAgain says that a cgroup was removed under the walk.
var errAgain = errors.New("the cgroups change all the time")

// walk calls visit for the cgroups below dir, children first, then for dir, and
// leave (which may be nil) for each but dir with the one above it.
//
// A container that may make cgroups can nest them until their path is too long
// to be opened, and deeper than there are descriptors. So the walk goes by
// descriptors, and holds only one.
func walk(dir string, visit func(cgroup *os.File) error, leave func(above *os.File, name string) error) error {
	var err error
	for range 100 {
		if err = walkOnce(dir, visit, leave); err != errAgain {
			return err
		}
	}
	return err
}

func walkOnce(dir string, visit func(cgroup *os.File) error, leave func(above *os.File, name string) error) error {
	at, err := openAt(unix.AT_FDCWD, dir)
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { at.Close() }()
	children, err := below(at)
	if err != nil {
		return err
	}
	left := [][]string{children} // for each level, what is still to be visited
	var names []string
	for {
		last := len(left) - 1
		if n := len(left[last]); n > 0 {
			name := left[last][n-1]
			left[last] = left[last][:n-1]
			child, err := openAt(int(at.Fd()), name)
			if gone(err) {
				continue
			}
			if err != nil {
				return err
			}
			at.Close()
			at = child
			if children, err = below(at); err != nil {
				return err
			}
			left, names = append(left, children), append(names, name)
			continue
		}
		if err := visit(at); err != nil || last == 0 {
			return err
		}
		above, err := openAt(int(at.Fd()), "..")
		if gone(err) {
			return errAgain
		}
		if err != nil {
			return err
		}
		at.Close()
		at = above
		name := names[last-1]
		left, names = left[:last], names[:last-1]
		if leave != nil {
			if err := leave(at, name); err != nil {
				return err
			}
		}
	}
}

func openAt(dir int, name string) (*os.File, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "cgroup"), nil
}

// below gives the names of the cgroups in a cgroup.
func below(cgroup *os.File) ([]string, error) {
	entries, err := cgroup.ReadDir(-1)
	if gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}
