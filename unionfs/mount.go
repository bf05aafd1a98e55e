package unionfs

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// LowerPlus reports whether the kernel's overlay takes its layers one by one
// (lowerdir+, since 6.8), by asking it. It is false where the question is not
// permitted. The answer is kept.
var LowerPlus = sync.OnceValue(func() bool {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	// Before 6.5 overlay had no parser of its own here, and anything was
	// accepted until the mount is made; so ask for nonsense first.
	if unix.FsconfigSetString(fd, "viv-no-such-option", "x") == nil {
		return false
	}
	return unix.FsconfigSetString(fd, "lowerdir+", "/") == nil
})

// Mount makes the union as a detached mount and returns its root. It is
// attached to no tree; all of it is reached through the descriptor, and it is
// gone when that is closed. Needs CAP_SYS_ADMIN.
func Mount(r Recipe) (*os.File, error) {
	var fd int
	var err error
	switch {
	case r.FSType == "":
		fd, err = unix.OpenTree(unix.AT_FDCWD, r.Upper, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	case r.Classic:
		fd, err = mountClassic(r)
	default:
		fd, err = mountNew(r)
	}
	if err != nil {
		return nil, fmt.Errorf("mount %s of %d layers: %w", r.Driver, len(r.Lower), err)
	}
	return os.NewFile(uintptr(fd), "union"), nil
}

func mountNew(r Recipe) (int, error) {
	fs, err := unix.Fsopen(r.FSType, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsopen %s: %w", r.FSType, err)
	}
	defer unix.Close(fs)
	for _, p := range r.Params {
		if p.Flag {
			err = unix.FsconfigSetFlag(fs, p.Key)
		} else {
			err = unix.FsconfigSetString(fs, p.Key, p.Value)
		}
		if err != nil {
			return -1, fmt.Errorf("set %s=%s: %w%s", p.Key, p.Value, err, kernelLog(fs))
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("create: %w%s", err, kernelLog(fs))
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("fsmount: %w%s", err, kernelLog(fs))
	}
	return fd, nil
}

// kernelLog reads what the kernel says about a failed configuration, one
// message a read ("e overlay: ..."; fsopen(2)).
func kernelLog(fs int) string {
	var lines []string
	buf := make([]byte, 1024)
	for len(lines) < 8 {
		n, err := unix.Read(fs, buf)
		if err != nil || n <= 0 {
			break
		}
		lines = append(lines, strings.TrimSpace(string(buf[:n])))
	}
	if len(lines) == 0 {
		return ""
	}
	return " (kernel: " + strings.Join(lines, "; ") + ")"
}

// mountClassic uses mount(2), which must attach: it does so in a mount
// namespace of a thread that ends with it, and keeps a detached clone.
func mountClassic(r Recipe) (int, error) {
	type result struct {
		fd  int
		err error
	}
	done := make(chan result, 1)
	go func() {
		// Never unlocked: the thread has another mount namespace and must not
		// be used by other goroutines; it ends with this one.
		runtime.LockOSThread()
		fd, err := classicHere(r)
		done <- result{fd, err}
	}()
	res := <-done
	return res.fd, res.err
}

func classicHere(r Recipe) (int, error) {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return -1, fmt.Errorf("unshare mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return -1, fmt.Errorf("make mounts private: %w", err)
	}
	// Any directory serves as the place; the one that is there for sure is
	// the lower layer, in a namespace that nobody else sees.
	at := r.Lower[0]
	if at == "/" {
		at = "/proc"
	}
	fd, err := unix.Open(at, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", at, err)
	}
	defer unix.Close(fd)
	if err := unix.Mount(DriverOverlay, at, r.FSType, 0, r.Data()); err != nil {
		return -1, fmt.Errorf("mount -o %s: %w", r.Data(), err)
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, at, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, errors.Join(fmt.Errorf("clone mount: %w", err), unix.Unmount(at, unix.MNT_DETACH))
	}
	return tree, nil
}
