package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"vivarium/layer"
	"vivarium/unionfs"
)

// accountsMax bounds what an image can make us read.
const accountsMax = 16 << 20

// mountImage mounts the union of an image's layers, read-only and attached to no tree.
func mountImage(lower []string) (*os.File, error) {
	if len(lower) == 1 {
		return unionfs.Mount(unionfs.Bind(lower[0]))
	}
	r, err := unionfs.Overlay(lower, "", "", unionfs.OverlayOptions{Joined: !unionfs.LowerPlus()})
	if err != nil {
		return nil, err
	}
	return unionfs.Mount(r)
}

// fillVolume copies into an empty volume what the image has at its destination,
// with the owner and mode of that directory.
func (r *run) fillVolume(ctx context.Context, v Volume, destination string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("fill volume %s from the image's %s: %w", v.Name, destination, err)
		}
	}()
	if r.c.Driver != unionfs.DriverOverlay {
		return r.mergeIntoVolume(ctx, v, destination)
	}
	root, err := mountImage(r.image.Lower)
	if err != nil {
		return err
	}
	defer root.Close()
	fd, err := openIn(int(root.Fd()), destination, unix.O_PATH|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	data, err := os.Open(v.Mountpoint)
	if err != nil {
		return err
	}
	defer data.Close()
	if err := copyTree(ctx, root, destination, data); err != nil {
		return err
	}
	if err := data.Chown(int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return unix.Fchmod(int(data.Fd()), st.Mode&0o7777)
}

// mergeIntoVolume is fillVolume where there may be no overlay.
func (r *run) mergeIntoVolume(ctx context.Context, v Volume, destination string) error {
	dirs, _, err := layer.Locate(r.image.Lower, destination)
	if errors.Is(err, layer.ErrNotFound) || err == nil && len(dirs) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	data, err := os.Open(v.Mountpoint)
	if err != nil {
		return err
	}
	defer data.Close()
	return layer.Merge(ctx, data, dirs)
}

// copyTree copies what is in unsafeDir of root into the directory to.
func copyTree(ctx context.Context, root *os.File, unsafeDir string, to *os.File) error {
	pr, pw := io.Pipe()
	go func() {
		pw.CloseWithError(layer.CopyOut(ctx, root, unsafeDir+"/.", ".", true, pw))
	}()
	err := layer.CopyIn(ctx, to, ".", pr, layer.CopyOptions{})
	pr.CloseWithError(err)
	return err
}

func openIn(root int, unsafePath string, flags uint64) (int, error) {
	for {
		fd, err := unix.Openat2(root, unsafePath, &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
		// EAGAIN: a rename on the way; openat2(2) says to try again.
		if err != unix.EAGAIN && err != unix.EINTR {
			return fd, err
		}
	}
}

// accounts reads /etc/passwd and /etc/group as the container would see them; nil
// for one that is not there.
func (r *run) accounts() (passwd, group []byte, err error) {
	lower := r.image.Lower
	a := &accountReader{lower: lower, byPath: r.c.Driver != "" && r.c.Driver != unionfs.DriverOverlay}
	defer a.close()
	if !r.fresh && !r.dry { // what it changed itself counts first
		own := r.e.containerDir(r.c.ID) + "/" + r.c.ownDir()
		switch r.c.Driver {
		case unionfs.DriverCopy:
			a.lower = []string{own}
		case unionfs.DriverAUFS: // mounted already
			a.lower = []string{r.e.unionPoint(r.c.ID)}
		default:
			a.lower = append([]string{own}, lower...)
		}
	}
	if passwd, err = a.read("etc", "passwd"); err == nil {
		group, err = a.read("etc", "group")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read the container's users: %w", err)
	}
	return passwd, group, nil
}

// accountReader reads small files of a stack of layers. The plain case needs no
// mount: the top-most layer that has the file. Links, whiteouts and opaque
// directories on the way are left to the kernel, on a mounted union.
type accountReader struct {
	lower []string
	union *os.File
	// byPath finds a file that is no plain case by walking through the layers: there may be no
	// overlay to mount.
	byPath bool
}

func (a *accountReader) close() {
	if a.union != nil {
		a.union.Close()
	}
}

var errNotPlain = errors.New("the path needs the union")

func (a *accountReader) read(dir, name string) ([]byte, error) {
	if a.union == nil {
		for _, l := range a.lower {
			b, err := readPlain(l, dir, name)
			if err == nil {
				return b, nil
			}
			if errors.Is(err, errNotPlain) {
				break
			}
			if !errors.Is(err, unix.ENOENT) {
				return nil, err
			}
			if l == a.lower[len(a.lower)-1] {
				return nil, nil
			}
		}
		if a.byPath {
			return readLocated(a.lower, dir+"/"+name)
		}
		var err error
		if a.union, err = mountImage(a.lower); err != nil {
			return nil, err
		}
	}
	fd, err := openIn(int(a.union.Fd()), dir+"/"+name, unix.O_RDONLY|unix.O_NONBLOCK)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return readSmall(fd)
}

// readLocated reads a file wherever in the layers it is.
func readLocated(lower []string, path string) ([]byte, error) {
	_, file, err := layer.Locate(lower, path)
	if errors.Is(err, layer.ErrNotFound) || errors.Is(err, unix.ELOOP) || err == nil && file == "" {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	fd, err := unix.Openat2(unix.AT_FDCWD, file, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC})
	if err != nil {
		return nil, err
	}
	return readSmall(fd)
}

// readPlain reads dir/name of one layer if no link, whiteout or opaque directory is in the way.
func readPlain(layerDir, dir, name string) ([]byte, error) {
	how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC}
	d, err := unix.Openat2(unix.AT_FDCWD, layerDir+"/"+dir, &how)
	switch err {
	case nil:
	case unix.ENOENT:
		return nil, err
	default:
		return nil, errNotPlain
	}
	defer unix.Close(d)
	fd, err := unix.Openat(d, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		var buf [1]byte
		if n, err := unix.Fgetxattr(d, "trusted.overlay.opaque", buf[:]); err == nil && n > 0 {
			return nil, errNotPlain
		}
		return nil, unix.ENOENT
	}
	if err != nil {
		return nil, errNotPlain
	}
	return readSmall(fd)
}

// readSmall reads and closes fd; anything but a regular file of bounded size is refused.
func readSmall(fd int) ([]byte, error) {
	f := os.NewFile(uintptr(fd), "file")
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errNotPlain
	}
	if st.Size > accountsMax {
		return nil, fmt.Errorf("the file has %d bytes, and at most %d are read", st.Size, accountsMax)
	}
	buf := make([]byte, st.Size)
	n, err := io.ReadFull(f, buf)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		err = nil
	}
	return buf[:n], err
}
