package engine

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// diskUsage adds up what a tree takes on disk and how long its files are, hard
// links counted once. It walks by descriptor and follows no link.
func diskUsage(dir string) (disk, apparent int64, err error) {
	u := usageWalk{seen: map[inode]bool{}}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOENT) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, fmt.Errorf("measure %s: %w", dir, err)
	}
	if err := u.walk(os.NewFile(uintptr(fd), dir)); err != nil {
		return 0, 0, fmt.Errorf("measure %s: %w", dir, err)
	}
	return u.disk, u.apparent, nil
}

type inode struct{ dev, ino uint64 }

type usageWalk struct {
	seen           map[inode]bool
	disk, apparent int64
}

func (u *usageWalk) walk(d *os.File) error {
	defer d.Close()
	for {
		names, err := d.Readdirnames(512)
		for _, name := range names {
			if err := u.entry(d, name); err != nil {
				return err
			}
		}
		if err != nil || len(names) == 0 {
			return nil
		}
	}
}

func (u *usageWalk) entry(d *os.File, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(int(d.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	}
	if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		key := inode{st.Dev, st.Ino}
		if u.seen[key] {
			return nil
		}
		u.seen[key] = true
	}
	u.disk += st.Blocks * 512
	if st.Mode&unix.S_IFMT == unix.S_IFREG {
		u.apparent += st.Size
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	fd, err := unix.Openat(int(d.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EACCES) {
			return nil
		}
		return err
	}
	return u.walk(os.NewFile(uintptr(fd), name))
}
