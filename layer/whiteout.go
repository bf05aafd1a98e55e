// Package layer turns layer tars into directories and directories into layer
// tars.
//
// A layer directory is spelled as overlay wants it: a deleted name is a
// character device 0/0, a directory that hides what lies below carries the
// attribute trusted.overlay.opaque=y (user.overlay.opaque=y without root). The
// tar spells the same things as the OCI image specification does (".wh.NAME"
// and ".wh..wh..opq"; opencontainers/image-spec, layer.md).
//
// Everything that is read from a tar, and every path inside a container, is
// hostile: names are walked component by component through directory
// descriptors with O_NOFOLLOW, symbolic links are resolved by this package
// inside the root that it was given, and no string path is ever handed to the
// kernel as a whole.
package layer

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"vivarium/internal/kernel"
)

const (
	// WhiteoutPrefix marks, in an OCI layer tar, a name that is deleted.
	WhiteoutPrefix = ".wh."
	// WhiteoutOpaque is the tar entry in a directory that hides all of the
	// directories of the same name below.
	WhiteoutOpaque = ".wh..wh..opq"
	// whiteoutMeta starts AUFS's own bookkeeping (.wh..wh.plnk, .wh..wh.aufs),
	// which old tars carry and which means nothing outside AUFS.
	whiteoutMeta = ".wh..wh."

	xattrOpaque     = "trusted.overlay.opaque"
	xattrOpaqueUser = "user.overlay.opaque"
)

// Errors of hostile or broken tars. Test with errors.Is.
var (
	// ErrUnsafe says that a tar names something outside of its directory, or
	// a name that no honest archiver writes.
	ErrUnsafe = errors.New("unsafe name in archive")
	// ErrTooLarge says that a limit of ApplyOptions was reached.
	ErrTooLarge = errors.New("archive is larger than allowed")
)

// opaqueAttr is the attribute that overlay reads: the trusted one needs
// CAP_SYS_ADMIN in the initial user namespace, overlay mounted with userxattr
// reads the other (Documentation/filesystems/overlayfs.rst).
func opaqueAttr(unprivileged bool) string {
	if unprivileged {
		return xattrOpaqueUser
	}
	return xattrOpaque
}

// isWhiteout reports whether st is overlay's mark for a deleted name.
func isWhiteout(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

// isOpaque reports whether the open directory hides the directories below it.
func isOpaque(fd int) bool {
	var b [1]byte
	attr := opaqueAttr(os.Geteuid() != 0 || kernel.InUserNamespace())
	n, err := unix.Fgetxattr(fd, attr, b[:])
	return err == nil && n == 1 && b[0] == 'y'
}

// hiddenXattr reports attributes that belong to the union file system and not
// to the file: taken from a tar they would let an image redirect or hide
// names of other layers, and put into one they would leak how the store works.
func hiddenXattr(name string) bool {
	return strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.")
}

// cleanName makes a tar's name relative to the root of the archive. An
// absolute name is taken from that root; one that climbs out is refused.
func cleanName(unsafeName string) (string, error) {
	if len(unsafeName) > unix.PathMax {
		return "", fmt.Errorf("%w: name of %d bytes", ErrUnsafe, len(unsafeName))
	}
	if strings.IndexByte(unsafeName, 0) >= 0 {
		return "", fmt.Errorf("%w: %q has a NUL byte", ErrUnsafe, unsafeName)
	}
	name := path.Clean(strings.TrimLeft(unsafeName, "/"))
	if name == ".." || strings.HasPrefix(name, "../") {
		return "", fmt.Errorf("%w: %q leaves the archive's root", ErrUnsafe, unsafeName)
	}
	if name == "." {
		return "", nil
	}
	return name, nil
}

// entryKind is what a name of a layer tar asks for.
type entryKind int

const (
	entryPlain entryKind = iota
	entryWhiteout
	entryOpaque
	entryIgnored
)

// classify reads the OCI whiteout spellings of a clean name. For a whiteout,
// target is the name that is deleted.
func classify(name string) (kind entryKind, target string, err error) {
	dir, base := splitName(name)
	for rest := name; rest != ""; {
		var comp string
		comp, rest, _ = strings.Cut(rest, "/")
		if strings.HasPrefix(comp, whiteoutMeta) {
			if rest == "" && comp == WhiteoutOpaque {
				return entryOpaque, dir, nil
			}
			return entryIgnored, "", nil
		}
		if rest != "" && strings.HasPrefix(comp, WhiteoutPrefix) {
			return 0, "", fmt.Errorf("%w: %q goes through a whiteout", ErrUnsafe, name)
		}
	}
	if !strings.HasPrefix(base, WhiteoutPrefix) {
		return entryPlain, "", nil
	}
	hidden := base[len(WhiteoutPrefix):]
	if hidden == "" || hidden == "." || hidden == ".." {
		return 0, "", fmt.Errorf("%w: whiteout %q names no entry of its directory", ErrUnsafe, name)
	}
	return entryWhiteout, joinName(dir, hidden), nil
}

// splitName splits a clean relative name; the root is "".
func splitName(name string) (dir, base string) {
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i], name[i+1:]
	}
	return "", name
}

func joinName(dir, base string) string {
	if dir == "" {
		return base
	}
	return dir + "/" + base
}
