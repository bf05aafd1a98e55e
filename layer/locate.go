package layer

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Locate tells where a path of the layers (top-most first) is: a directory as the list
// of those that together are it, top-most first, to be united again; anything else as
// its one place. Links are followed inside the layers. The layers must not change.
func Locate(lower []string, unsafePath string) (dirs []string, file string, err error) {
	name, e, err := findAll(lower, unsafePath)
	if err != nil {
		return nil, "", fmt.Errorf("%q: %w", unsafePath, err)
	}
	if name == "" {
		return lower, "", nil
	}
	for _, l := range lower {
		there, last, err := inLayer(l, name)
		if err != nil {
			return nil, "", fmt.Errorf("%q: %w", unsafePath, err)
		}
		if there && !e.isDir() {
			return nil, l + "/" + name, nil
		}
		if there {
			dirs = append(dirs, l+"/"+name)
		}
		if last {
			break
		}
	}
	if len(dirs) == 0 {
		return nil, "", fmt.Errorf("%q: %w", unsafePath, ErrNotFound)
	}
	return dirs, "", nil
}

// inLayer tells whether one layer has the path, and whether it hides it from those below:
// by a whiteout, a file, or a directory on the way that is opaque.
func inLayer(dir, name string) (there, last bool, err error) {
	for end := 0; end <= len(name); end++ {
		if end < len(name) && name[end] != '/' {
			continue
		}
		fd, err := openReal(dir, name[:end])
		if err == unix.ENOENT {
			return false, last, nil
		}
		if err != nil {
			return false, true, err
		}
		var st unix.Stat_t
		err = unix.Fstat(fd, &st)
		isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
		last = last || !isDir || hides(fd)
		unix.Close(fd)
		if err != nil {
			return false, true, err
		}
		if !isDir {
			return end == len(name) && !isWhiteout(&st), true, nil
		}
	}
	return true, last, nil
}

// findAll resolves a path, and looks up what is there; "" is the root.
func findAll(lower []string, unsafePath string) (string, *viewEntry, error) {
	v, err := OpenView(lower)
	if err != nil {
		return "", nil, err
	}
	defer v.Close()
	name, err := v.resolve(unsafePath, true)
	if err != nil || name == "" {
		return name, nil, err
	}
	dir, e, err := v.find(name)
	if dir != nil {
		defer dir.close()
	}
	if err == nil && e == nil {
		err = ErrNotFound
	}
	return name, e, err
}

// openReal opens a path without links below a layer's directory.
func openReal(dir, name string) (int, error) {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(root)
	return unix.Openat2(root, name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS})
}

// hides is isOpaque for a descriptor that was opened with O_PATH.
func hides(fd int) bool {
	own, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(own)
	return isOpaque(own)
}
