package vm

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// archive writes a cpio archive in the "newc" format, which the kernel takes as an
// initramfs (Documentation/driver-api/early-userspace/buffer-format.rst). It is
// not compressed: the emulated processor would be slow to undo that.
type archive struct {
	w       io.Writer
	written int64
	inode   int
	dirs    map[string]bool
}

func newArchive(w io.Writer) *archive {
	return &archive{w: w, dirs: map[string]bool{"/": true, ".": true}}
}

// member writes one file's header and content of the given size.
func (a *archive) member(name string, mode uint32, size int64, content io.Reader) error {
	if size >= 1<<32 {
		return fmt.Errorf("pack %s: the format cannot hold a file of 4 GiB", name)
	}
	name = strings.TrimPrefix(name, "/")
	a.inode++
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		a.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name)+1, 0)
	if err := a.write(header + name + "\x00"); err != nil {
		return err
	}
	if err := a.pad(); err != nil {
		return err
	}
	n, err := io.Copy(a.w, content)
	a.written += n
	if err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	if n != size {
		return fmt.Errorf("pack %s: %d bytes, but its size was %d", name, n, size)
	}
	return a.pad()
}

func (a *archive) write(s string) error {
	n, err := io.WriteString(a.w, s)
	a.written += int64(n)
	return err
}

// pad fills up to a multiple of four bytes.
func (a *archive) pad() error {
	return a.write(strings.Repeat("\x00", int(-a.written&3)))
}

// directory adds a directory, with those above it, once.
func (a *archive) directory(name string, mode uint32) error {
	name = path.Clean("/" + name)
	if a.dirs[name] {
		return nil
	}
	if err := a.directory(path.Dir(name), 0o755); err != nil {
		return err
	}
	a.dirs[name] = true
	return a.member(name, unix.S_IFDIR|mode, 0, strings.NewReader(""))
}

func (a *archive) text(name, content string, mode uint32) error {
	if err := a.directory(path.Dir(name), 0o755); err != nil {
		return err
	}
	return a.member(name, unix.S_IFREG|mode, int64(len(content)), strings.NewReader(content))
}

func (a *archive) symlink(name, target string) error {
	if err := a.directory(path.Dir(name), 0o755); err != nil {
		return err
	}
	return a.member(name, unix.S_IFLNK|0o777, int64(len(target)), strings.NewReader(target))
}

// file adds a file of the host.
func (a *archive) file(name, from string) error {
	if err := a.directory(path.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return a.member(name, unix.S_IFREG|uint32(info.Mode().Perm()), info.Size(), f)
}

// tree adds a file or a directory with all that is in it.
func (a *archive) tree(name, from string) error {
	return filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		at := path.Join(name, rel)
		switch {
		case d.IsDir():
			return a.directory(at, 0o755)
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			return a.symlink(at, target)
		case d.Type().IsRegular():
			return a.file(at, p)
		}
		return errors.New("pack " + p + ": is neither file, directory nor symbolic link")
	})
}

func (a *archive) close() error {
	return a.member("TRAILER!!!", 0, 0, strings.NewReader(""))
}
