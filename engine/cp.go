package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"vivarium/layer"
)

// CopyFrom writes the file or tree at path of the container as a tar whose top
// entry has the path's last component as its name. follow: what a link at the end of path
// leads to is written.
func (e *Engine) CopyFrom(ctx context.Context, ref, path string, follow bool, w io.Writer) error {
	return e.withRoot(ctx, ref, func(c *Container, root *os.File) error {
		if _, _, err := statFollow(root, path, follow); err != nil {
			return copyError(c, path, err)
		}
		name := "." // of a directory's contents
		if !strings.HasSuffix(path, "/.") {
			name = sourceName(path)
		}
		if follow { // here the target gives the name
			name = ""
		}
		e.emit(containerEvent(c, "archive-path"))
		return copyError(c, path, layer.CopyOut(ctx, root, path, name, follow, w))
	})
}

// CopyTo unpacks a tar into the directory at path of the container.
func (e *Engine) CopyTo(ctx context.Context, ref, path string, r io.Reader, opt layer.CopyOptions) error {
	return e.withRoot(ctx, ref, func(c *Container, root *os.File) error {
		err := layer.CopyIn(ctx, root, path, r, opt)
		if err == nil {
			e.emit(containerEvent(c, "extract-to-dir"))
		}
		return copyError(c, path, err)
	})
}

// StatPath looks at a path of the container, links at its end not followed.
func (e *Engine) StatPath(ctx context.Context, ref, path string) (layer.PathStat, error) {
	var st layer.PathStat
	err := e.withRoot(ctx, ref, func(c *Container, root *os.File) (err error) {
		st, err = layer.StatPath(root, path)
		return copyError(c, path, err)
	})
	return st, err
}

func copyError(c *Container, path string, err error) error {
	if errors.Is(err, layer.ErrNotFound) || errors.Is(err, unix.ENOENT) {
		return &Error{Kind: layer.ErrNotFound, Msg: fmt.Sprintf("Could not find the file %s in container %s", path, c.Name)}
	}
	return err
}

// withRoot opens the container's root: that of its first process if it runs,
// else the union of its layers, mounted for this call and nowhere to be seen.
func (e *Engine) withRoot(ctx context.Context, ref string, fn func(*Container, *os.File) error) error {
	c, err := e.Container(ref)
	if err != nil {
		return err
	}
	st, err := e.state(ctx, c)
	if err != nil {
		return err
	}
	if running(st) {
		root, err := processRoot(st)
		if err != nil {
			return err
		}
		defer root.Close()
		return fn(c, root)
	}
	// Nobody may start it: two mounts of one upper directory destroy it.
	lock, err := e.lock(ctx, c.ID)
	if err != nil {
		return err
	}
	defer lock.Close()
	root, err := e.openUnion(ctx, c, true)
	if err != nil {
		return err
	}
	return errors.Join(fn(c, root.File), root.Close())
}

// Export writes the container's whole file system as a tar.
func (e *Engine) Export(ctx context.Context, ref string, w io.Writer) error {
	c, err := e.Container(ref)
	if err != nil {
		return err
	}
	st, err := e.state(ctx, c)
	if err != nil {
		return err
	}
	e.emit(containerEvent(c, "export"))
	if !running(st) {
		return e.withRoot(ctx, c.ID, func(c *Container, root *os.File) error { return exportTree(ctx, root, w) })
	}
	// The mount of the running container is in another namespace and has proc, sys
	// and volumes in it, which are not the container's files: a second, read-only
	// union of the same layers shows what Docker exports.
	root, err := e.openUnion(ctx, c, false)
	if err != nil {
		return err
	}
	defer root.Close()
	return exportTree(ctx, root.File, w)
}

func exportTree(ctx context.Context, root *os.File, w io.Writer) error {
	fd, err := unix.Openat(int(root.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the root to export: %w", err)
	}
	dir := os.NewFile(uintptr(fd), "root")
	defer dir.Close()
	return layer.Export(ctx, w, dir)
}

// Diff lists what the container changed in its image's files.
func (e *Engine) Diff(ctx context.Context, ref string) ([]layer.Change, error) {
	c, err := e.Container(ref)
	if err != nil {
		return nil, err
	}
	return e.changes(ctx, c)
}

func (e *Engine) changes(ctx context.Context, c *Container) ([]layer.Change, error) {
	up, err := e.openChanges(c)
	if err != nil {
		return nil, err
	}
	defer up.Dir.Close()
	changes, err := layer.Changes(ctx, up)
	if err != nil {
		return nil, err
	}
	return forget(changes, e.ourChanges(c, int(up.Dir.Fd()))), nil
}

// openChanges opens the container's own layer.
func (e *Engine) openChanges(c *Container) (layer.Upper, error) {
	src, err := e.containerSource(c)
	if err != nil {
		return layer.Upper{}, err
	}
	d, err := e.driverNamed(c.Driver)
	if err != nil {
		return layer.Upper{}, err
	}
	up, err := d.Changes(e.layerOf(c, src.Lower))
	if err != nil {
		return up, fmt.Errorf("container %s: %w", c.Name, err)
	}
	return up, nil
}

// ourChanges are the paths in a container's layer that the engine made, not the
// container: where the image lacks what is mounted over, and what hides the
// engine itself. Docker has these in a layer of their own.
func (e *Engine) ourChanges(c *Container, upper int) []string {
	list := []string{"/dev", "/proc", "/sys", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/sbin/docker-init"}
	// One that has something in it is the container's all the same.
	list = slices.DeleteFunc(list, func(p string) bool { return !isHollow(upper, p[1:]) })
	if c.ImageID == hostImage {
		if hidden, err := e.onRootFS(); err == nil {
			list = append(list, hidden...)
		}
	}
	return list
}

// isHollow tells whether a path of a layer is an empty file or directory.
func isHollow(dir int, path string) bool {
	fd, err := unix.Openat2(dir, path, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return false
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return false
	}
	if st.IsDir() {
		names, err := f.Readdirnames(1)
		return len(names) == 0 && errors.Is(err, io.EOF)
	}
	return st.Mode().IsRegular() && st.Size() == 0
}

// forget takes paths out of a list of changes, and the directories above them
// that are on it for no other reason.
func forget(changes []layer.Change, paths []string) []layer.Change {
	above := map[string]bool{}
	changes = slices.DeleteFunc(changes, func(ch layer.Change) bool {
		if ch.Kind == layer.Modified || !slices.Contains(paths, ch.Path) {
			return false
		}
		for dir := filepath.Dir(ch.Path); dir != "/"; dir = filepath.Dir(dir) {
			above[dir] = true
		}
		return true
	})
	// From the end: what is below a directory sorts after it.
	for i := len(changes) - 1; i >= 0; i-- {
		ch := changes[i]
		if ch.Kind != layer.Modified || !above[ch.Path] {
			continue
		}
		if slices.ContainsFunc(changes[i+1:], func(c layer.Change) bool { return strings.HasPrefix(c.Path, ch.Path+"/") }) {
			continue
		}
		changes = slices.Delete(changes, i, i+1)
	}
	return changes
}

// sizes gives what the container's layer holds, and that with its image's layers.
func (e *Engine) sizes(ctx context.Context, c *Container) (rw, root int64, err error) {
	rw, err = e.ownSize(ctx, c)
	if err != nil {
		return 0, 0, err
	}
	return rw, rw + e.imageSize(c.ImageID), nil
}

// CopyOptions says how files cross the border of a container.
type CopyOptions struct {
	Archive    bool // keep owners on the host; else copies belong to who copies. In the container they are always kept
	FollowLink bool // what a link at the end of the source leads to is copied
}

// CopyTarTo unpacks a tar into a directory of the container.
func (e *Engine) CopyTarTo(ctx context.Context, ref, path string, r io.Reader, opt CopyOptions) error {
	return e.CopyTo(ctx, ref, path, r, layer.CopyOptions{NoOverwriteDir: true})
}

// CopyToHost copies a file or tree of the container to a path of the host, by
// the rules of cp -r: into a directory that is there, else under the new name.
func (e *Engine) CopyToHost(ctx context.Context, ref, src, dst string, opt CopyOptions) error {
	host, dst, err := hostRoot(dst)
	if err != nil {
		return err
	}
	defer host.Close()
	return e.withRoot(ctx, ref, func(c *Container, root *os.File) error {
		o := layer.CopyOptions{NoOverwriteDir: true}
		if !opt.Archive {
			o.Owner = &layer.Owner{UID: os.Getuid(), GID: os.Getgid()}
		}
		e.emit(containerEvent(c, "archive-path"))
		return copyError(c, src, copyBetween(ctx, root, src, host, dst, opt.FollowLink, o))
	})
}

// CopyFromHost copies a file or tree of the host to a path of the container.
func (e *Engine) CopyFromHost(ctx context.Context, src, ref, dst string, opt CopyOptions) error {
	host, abs, err := hostRoot(src)
	if err != nil {
		return err
	}
	defer host.Close()
	if _, err := layer.StatPath(host, abs); err != nil {
		return fmt.Errorf("copy %s: %w", src, unix.ENOENT)
	}
	return e.withRoot(ctx, ref, func(c *Container, root *os.File) error {
		err := copyBetween(ctx, host, abs, root, dst, opt.FollowLink, layer.CopyOptions{NoOverwriteDir: true})
		if err == nil {
			e.emit(containerEvent(c, "extract-to-dir"))
		}
		return copyError(c, dst, err)
	})
}

// hostRoot opens the host's root and gives the path from there. A trailing
// separator or dot, which says that a directory is meant, is kept.
func hostRoot(path string) (*os.File, string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, "", err
	}
	switch {
	case path == "." || strings.HasSuffix(path, "/."):
		abs += "/."
	case strings.HasSuffix(path, "/") && abs != "/":
		abs += "/"
	}
	root, err := os.OpenFile("/", unix.O_PATH|unix.O_DIRECTORY, 0)
	return root, abs, err
}

// copyBetween copies src below one root to dst below another.
func copyBetween(ctx context.Context, from *os.File, src string, to *os.File, dst string, follow bool, opt layer.CopyOptions) error {
	st, _, err := statFollow(from, src, follow)
	if err != nil {
		return err
	}
	dir, name, err := copyTarget(to, dst, st)
	if err != nil {
		return err
	}
	if name == "" {
		name = sourceName(src)
	}
	if contents := strings.HasSuffix(src, "/.") || src == "."; contents && name == "" {
		name = "."
	}
	pr, pw := io.Pipe()
	go func() {
		pw.CloseWithError(layer.CopyOut(ctx, from, src, name, follow, pw))
	}()
	err = layer.CopyIn(ctx, to, dir, pr, opt)
	pr.CloseWithError(err)
	return err
}

// sourceName is what a copy is called that is given no name: the last component
// of the path as it was written, also where that is a link which is followed. ""
// leaves it to the file.
func sourceName(path string) string {
	switch base := filepath.Base(path); base {
	case "/", ".", "..":
		return ""
	default:
		if strings.HasSuffix(path, "/.") {
			return ""
		}
		return base
	}
}

// statFollow looks at what is copied: a link itself, or with follow, or in the
// form "link/", what it leads to, whose path it gives too, also if nothing is there.
func statFollow(root *os.File, path string, follow bool) (st layer.PathStat, at string, err error) {
	at = path
	slash := strings.HasSuffix(path, "/") || strings.HasSuffix(path, "/.")
	st, err = layer.StatPath(root, strings.TrimSuffix(path, "/"))
	for hops := 0; err == nil && st.Mode&os.ModeSymlink != 0 && (follow || slash); hops++ {
		if hops == 40 {
			return st, at, fmt.Errorf("copy %s: %w", path, unix.ELOOP)
		}
		at = st.LinkTarget
		st, err = layer.StatPath(root, at)
	}
	if err == nil && slash && !st.Mode.IsDir() {
		err = fmt.Errorf("copy %s: %w", path, unix.ENOTDIR)
	}
	return st, at, err
}

// copyTarget says into which directory of the target a copy goes, and under
// which name; "" keeps the source's. A link at the end of dst is followed.
func copyTarget(to *os.File, dst string, src layer.PathStat) (dir, name string, err error) {
	st, at, err := statFollow(to, dst, true)
	wantsDir := strings.HasSuffix(dst, "/") || strings.HasSuffix(dst, "/.")
	switch {
	case err == nil && st.Mode.IsDir():
		return dst, "", nil
	case err == nil && src.Mode.IsDir():
		return "", "", errorf(ErrInvalid, "cannot copy directory to %s: it is a file", dst)
	case err == nil:
		return filepath.Dir(at), filepath.Base(at), nil
	case errors.Is(err, unix.ENOTDIR):
		return "", "", errorf(ErrInvalid, "%s is not a directory", dst)
	case !errors.Is(err, layer.ErrNotFound) && !errors.Is(err, unix.ENOENT):
		return "", "", err
	case wantsDir && !src.Mode.IsDir():
		return "", "", errorf(ErrInvalid, "destination directory %s does not exist", dst)
	}
	at = strings.TrimRight(strings.TrimSuffix(at, "/."), "/")
	parent := filepath.Dir(at)
	if st, _, err := statFollow(to, parent, true); err != nil || !st.Mode.IsDir() {
		return "", "", errorf(ErrInvalid, "the directory %s does not exist", parent)
	}
	return parent, filepath.Base(at), nil
}
