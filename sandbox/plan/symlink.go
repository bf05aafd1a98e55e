package plan

import (
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// beyondSymlinks gives the name under which the destination of a mount is to be
// made where a symlink of the root file system leads to nothing: /etc/resolv.conf
// of many images points to a file that only a running system has. What is there
// already, and whatever cannot be looked at before the clone, keeps its name. The
// child follows no symlink out of the root, so it does no harm that the answer may
// be old by then.
func (c *compiler) beyondSymlinks(name string) string {
	if !c.plainRoot() || c.inRootNow(name, func(int) {}) {
		return name
	}
	root, err := unix.Open(c.rootPath(), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return name
	}
	defer unix.Close(root)
	return followIn(root, name)
}

// plainRoot says whether the root is a directory that can be looked into. Layers
// are not mounted yet; who gives them makes the targets in them.
func (c *compiler) plainRoot() bool { return c.opt.Root == nil || c.opt.Root.FSType == "" }

// inRootNow opens a name in the root directory as it is before the clone, and says
// whether it is there.
func (c *compiler) inRootNow(name string, look func(fd int)) bool {
	if !c.plainRoot() {
		return false
	}
	root, err := unix.Open(c.rootPath(), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(root)
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(root, name, &how)
	if err != nil {
		return false
	}
	look(fd)
	unix.Close(fd)
	return true
}

// belowRoot gives the part of a path of the host that is below the root directory,
// as the container names it.
func (c *compiler) belowRoot(name string) (string, bool) {
	root := c.rootPath()
	if !c.plainRoot() || root == "/" || c.ns.fresh&unix.CLONE_NEWNS == 0 {
		return "", false
	}
	rest, ok := strings.CutPrefix(path.Clean(name), root+"/")
	return "/" + rest, ok
}

// maxSymlinks is how many the kernel follows in one name (path_resolution(7)).
const maxSymlinks = 40

// followIn follows the symlinks of a name below a directory as if that were the
// root, past the parts that are missing: those are taken to be directories.
func followIn(root int, name string) string {
	done, rest := "", strings.Split(path.Clean("/"+name), "/")
	links := 0
	for len(rest) > 0 {
		part := rest[0]
		rest = rest[1:]
		next := path.Join("/", done, part)
		target, err := readLinkIn(root, next)
		if err != nil {
			done = next
			continue
		}
		if links++; links > maxSymlinks {
			return name
		}
		if path.IsAbs(target) {
			done = ""
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return done
}

// readLinkIn reads a symlink below a directory; all that comes before the last
// part of its name has none.
func readLinkIn(root int, name string) (string, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS}
	fd, err := unix.Openat2(root, name, &how)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var buf [unix.PathMax]byte
	n, err := unix.Readlinkat(fd, "", buf[:]) // EINVAL, or ENOENT, when it is no symlink
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}
