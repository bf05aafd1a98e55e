package sandbox

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"vivarium/sandbox/spawn"
)

// copyUp copies what is in a directory into the tmpfs that will lie on it. The
// process waits for it.
func copyUp(rep spawn.Report, pid int) error {
	defer unix.Close(rep.File)
	defer unix.Close(rep.Second)
	err := asRootOf(pid, func() error { return copyTree(rep.File, rep.Second, rep.Value == 0) })
	if err != nil {
		return fmt.Errorf("tmpcopyup: %w", err)
	}
	return nil
}

// mapIDs gives a mount that the process has detached the ids of a user namespace: it
// takes rights over the file system, which in a user namespace the process has not.
func mapIDs(rep spawn.Report) error {
	defer unix.Close(rep.File)
	defer unix.Close(rep.Second)
	flags := uint(unix.AT_EMPTY_PATH)
	if rep.Value != 0 {
		flags |= unix.AT_RECURSIVE
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(rep.Second)}
	if err := unix.MountSetattr(rep.File, "", flags, &attr); err != nil {
		return fmt.Errorf("map the ids of a mount: %w", err)
	}
	return nil
}

// asRootOf calls work with the file system ids that root of a process's user
// namespace has here: in a file system of that namespace only who has an id
// there can make files. Capabilities stay as they are; changing the ids takes
// some from the effective set (capabilities(7)), from which they are taken back.
func asRootOf(pid int, work func() error) error {
	uid, err := firstID("/proc/" + strconv.Itoa(pid) + "/uid_map")
	if err != nil {
		return err
	}
	gid, err := firstID("/proc/" + strconv.Itoa(pid) + "/gid_map")
	if err != nil {
		return err
	}
	if uid == unix.Geteuid() && gid == unix.Getegid() {
		return work()
	}
	// The ids belong to the thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&head, &caps[0]); err != nil {
		return fmt.Errorf("read the capabilities: %w", err)
	}
	become := func(uid, gid int) error {
		unix.Setfsgid(gid)
		unix.Setfsuid(uid)
		return unix.Capset(&head, &caps[0])
	}
	err = become(uid, gid)
	if err == nil {
		err = work()
	}
	return errors.Join(err, become(unix.Geteuid(), unix.Getegid()))
}

// firstID gives what the lowest id of a user namespace is here, from its map
// (user_namespaces(7)).
func firstID(file string) (int, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	best, id := uint64(1<<32), 0
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		inside, err := strconv.ParseUint(f[0], 10, 32)
		outside, err2 := strconv.ParseUint(f[1], 10, 32)
		if err != nil || err2 != nil {
			return 0, fmt.Errorf("read %s: %q is no id map", file, line)
		}
		if inside < best {
			best, id = inside, int(outside)
		}
	}
	if best == 1<<32 {
		return 0, fmt.Errorf("read %s: it has no ids", file)
	}
	return id, nil
}

// copyTree copies what is in the directory from into the directory to: files,
// directories, symlinks, nodes and FIFOs with their modes, owners, times and
// extended attributes. Hard links become files of their own. Each name is
// looked up in the directory that is open, and no symlink is followed, so what
// somebody exchanges meanwhile leads nowhere. If owner is set, to gets the owner of
// from. Sockets are left out.
func copyTree(from, to int, owner bool) error {
	src, err := unix.Openat(from, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the directory: %w", err)
	}
	dst, err := unix.Openat(to, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		unix.Close(src)
		return fmt.Errorf("open the new file system: %w", err)
	}
	if owner {
		var st unix.Stat_t
		if err = unix.Fstat(src, &st); err == nil {
			err = unix.Fchown(dst, int(st.Uid), int(st.Gid))
		}
		if err != nil {
			unix.Close(src)
			unix.Close(dst)
			return fmt.Errorf("give the new file system its owner: %w", err)
		}
	}
	return copyDir(src, dst, ".", 0)
}

// deepest bounds the descriptors that are open at once: two a level.
const deepest = 400

// copyDir takes both descriptors over.
func copyDir(src, dst int, path string, depth int) error {
	from := os.NewFile(uintptr(src), path)
	defer from.Close()
	defer unix.Close(dst)
	if depth > deepest {
		return fmt.Errorf("%s: directories are nested more than %d deep", path, deepest)
	}
	names, err := from.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	for _, name := range names {
		if err := copyEntry(src, dst, name, path+"/"+name, depth); err != nil {
			return err
		}
	}
	if depth == 0 {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(src, &st); err != nil {
		return fmt.Errorf("look at %s: %w", path, err)
	}
	return finishCopy(src, dst, &st, path)
}

func copyEntry(src, dst int, name, path string, depth int) error {
	var st unix.Stat_t
	err := unix.Fstatat(src, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil {
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			return copySubdir(src, dst, name, path, depth)
		case unix.S_IFREG:
			return copyFile(src, dst, name, path)
		case unix.S_IFLNK:
			err = copyLink(src, dst, name)
		case unix.S_IFSOCK:
			return nil
		default:
			err = unix.Mknodat(dst, name, st.Mode, int(st.Rdev))
		}
	}
	if err == nil {
		err = unix.Fchownat(dst, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW)
	}
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFLNK {
		// What mknod made is ours, and nobody can have exchanged it: the tree is
		// attached nowhere yet.
		err = unix.Fchmodat(dst, name, st.Mode&0o7777, 0)
	}
	if err == nil {
		err = unix.UtimesNanoAt(dst, name, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err != nil {
		return fmt.Errorf("copy %s: %w", path, err)
	}
	return nil
}

func copySubdir(src, dst int, name, path string, depth int) error {
	from, err := unix.Openat(src, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	err = unix.Mkdirat(dst, name, 0o700)
	to := -1
	if err == nil {
		to, err = unix.Openat(dst, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		unix.Close(from)
		return fmt.Errorf("make %s: %w", path, err)
	}
	return copyDir(from, to, path, depth+1)
}

func copyLink(src, dst int, name string) error {
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(src, name, b)
	if err != nil {
		return err
	}
	return unix.Symlinkat(string(b[:n]), dst, name)
}

func copyFile(src, dst int, name, path string) error {
	// Without blocking: it could have become a FIFO.
	in, err := unix.Openat(src, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	from := os.NewFile(uintptr(in), path)
	defer from.Close()
	var st unix.Stat_t
	if err := unix.Fstat(in, &st); err != nil {
		return fmt.Errorf("look at %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("copy %s: it changes while it is copied", path)
	}
	out, err := unix.Openat(dst, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("make %s: %w", path, err)
	}
	to := os.NewFile(uintptr(out), path)
	defer to.Close()
	if _, err := to.ReadFrom(from); err != nil {
		return fmt.Errorf("copy %s: %w", path, err)
	}
	return finishCopy(in, out, &st, path)
}

// finishCopy gives a copy what belongs to the file itself. The owner comes
// before the mode: changing it takes the set-id bits away.
func finishCopy(in, out int, st *unix.Stat_t, path string) error {
	err := unix.Fchown(out, int(st.Uid), int(st.Gid))
	if err == nil {
		err = unix.Fchmod(out, st.Mode&0o7777)
	}
	if err == nil {
		err = copyAttributes(in, out)
	}
	if err == nil {
		err = unix.UtimesNanoAt(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(out), []unix.Timespec{st.Atim, st.Mtim}, 0)
	}
	if err != nil {
		return fmt.Errorf("copy what belongs to %s: %w", path, err)
	}
	return nil
}

// copyAttributes copies extended attributes, as far as the new file system has
// them: a tmpfs keeps user attributes since Linux 6.6.
func copyAttributes(in, out int) error {
	size, err := unix.Flistxattr(in, nil)
	if errors.Is(err, unix.ENOTSUP) || err == nil && size == 0 {
		return nil
	}
	names := make([]byte, max(size, 0)+1024)
	if err == nil {
		size, err = unix.Flistxattr(in, names)
	}
	if err != nil {
		return err
	}
	value := make([]byte, 64<<10) // XATTR_SIZE_MAX
	for start, i := 0, 0; i < size; i++ {
		if names[i] != 0 {
			continue
		}
		name := string(names[start:i])
		start = i + 1
		n, err := unix.Fgetxattr(in, name, value)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err == nil {
			err = unix.Fsetxattr(out, name, value[:n], 0)
		}
		if err != nil && !errors.Is(err, unix.ENOTSUP) {
			return fmt.Errorf("attribute %s: %w", name, err)
		}
	}
	return nil
}
