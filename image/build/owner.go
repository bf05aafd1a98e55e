package build

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"vivarium/layer"
)

// openIn opens a path of a tree, links followed inside it.
func openIn(root *os.File, name string, dir bool) (*os.File, error) {
	how := &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	if dir {
		how.Flags |= unix.O_DIRECTORY
	}
	fd, err := unix.Openat2(int(root.Fd()), name, how)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// lookUpOwner reads USER[:GROUP] with the accounts of a tree. A number need not be
// there; without a group it is the user's, of a number the same number.
func lookUpOwner(root *os.File, text string) (layer.Owner, error) {
	name, group, grouped := strings.Cut(text, ":")
	o, err := lookUpUser(root, name)
	if err != nil || !grouped || group == "" {
		return o, err
	}
	if o.GID, err = number(group); err == nil {
		return o, nil
	}
	content, err := accounts(root, "/etc/group")
	if err != nil {
		return o, err
	}
	list, err := user.ParseGroupFilter(bytes.NewReader(content), func(g user.Group) bool { return g.Name == group })
	if err != nil {
		return o, fmt.Errorf("read the groups of the image: %w", err)
	}
	if len(list) == 0 {
		return o, fmt.Errorf("the image has no group %q", group)
	}
	o.GID = list[0].Gid
	return o, nil
}

func lookUpUser(root *os.File, name string) (layer.Owner, error) {
	if id, err := number(name); err == nil {
		return layer.Owner{UID: id, GID: id}, nil
	}
	content, err := accounts(root, "/etc/passwd")
	if err != nil {
		return layer.Owner{}, err
	}
	list, err := user.ParsePasswdFilter(bytes.NewReader(content), func(u user.User) bool { return u.Name == name })
	if err != nil {
		return layer.Owner{}, fmt.Errorf("read the users of the image: %w", err)
	}
	if len(list) == 0 {
		return layer.Owner{}, fmt.Errorf("the image has no user %q", name)
	}
	return layer.Owner{UID: list[0].Uid, GID: list[0].Gid}, nil
}

func number(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	return int(n), err
}

func accounts(root *os.File, name string) ([]byte, error) {
	content, err := readIn(root, strings.TrimPrefix(name, "/"))
	if errors.Is(err, layer.ErrNotFound) {
		return nil, nil
	}
	return content, err
}
