package engine

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// recordFile goes last when a container's directory is removed: who is cut off
// before leaves it to the next one.
const recordFile = "config.json"

// removeTree removes a directory with all in it. It asks the directory what is a
// directory, where os.RemoveAll tries each name in all ways; that a start and an
// end of a container have to wait for. Links are not followed. A directory that
// is not there is no error.
func removeTree(dir string) error {
	err := removeAt(unix.AT_FDCWD, dir, true)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "remove", Path: dir, Err: err}
	}
	return nil
}

func removeAt(parent int, name string, isDir bool) error {
	if !isDir {
		err := unix.Unlinkat(parent, name, 0)
		if err != unix.EISDIR {
			return err
		}
	}
	fd, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	err = emptyDir(f)
	f.Close()
	if err != nil {
		return err
	}
	return unix.Unlinkat(parent, name, unix.AT_REMOVEDIR)
}

func emptyDir(f *os.File) error {
	fd, last := int(f.Fd()), false
	for {
		entries, err := f.ReadDir(256)
		for _, ent := range entries {
			if ent.Name() == recordFile && !ent.IsDir() {
				last = true
				continue
			}
			if err := removeAt(fd, ent.Name(), ent.IsDir()); err != nil && err != unix.ENOENT {
				return err
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if !last {
		return nil
	}
	if err := unix.Unlinkat(fd, recordFile, 0); err != unix.ENOENT {
		return err
	}
	return nil
}
