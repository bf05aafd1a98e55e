package server

import (
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"vivarium/unionfs/aufs"
)

// Mount is a mounted union.
type Mount struct {
	fs     *FS
	server *fuse.Server
	point  string // or where the descriptor of one that is attached to no tree is found
	tree   int    // that descriptor, or -1
}

// Start mounts a union on a directory. Serve must follow. It changes the umask of
// the process: a user's is in each request. Needs root.
func Start(opts aufs.Options, source, point string, debug bool) (*Mount, error) {
	abs, err := filepath.Abs(point)
	if err != nil {
		return nil, fmt.Errorf("find mount point %s: %w", point, err)
	}
	var st unix.Stat_t
	if err = unix.Stat(abs, &st); err == nil && !isDir(&st) {
		err = unix.ENOTDIR
	}
	var m *Mount
	if err == nil {
		m, err = begin(opts, source, debug)
	}
	if err == nil {
		err = m.attach(abs)
	}
	if err != nil {
		return nil, fmt.Errorf("mount union on %s: %w", point, err)
	}
	return m, nil
}

// StartDetached makes a union that is attached to no tree: Tree is all that leads to it. It is
// otherwise as Start.
func StartDetached(opts aufs.Options, source string, debug bool) (*Mount, error) {
	m, err := begin(opts, source, debug)
	if err != nil {
		return nil, fmt.Errorf("mount union: %w", err)
	}
	return m, nil
}

// begin opens the branches and makes the mount, attached to no tree.
func begin(opts aufs.Options, source string, debug bool) (*Mount, error) {
	f, err := prepare(opts)
	if err != nil {
		return nil, err
	}
	mo := mountOptions(opts, debug)
	dev, tree, err := mountDetached(opts, source, mo.MaxWrite)
	if err != nil {
		f.Close()
		return nil, err
	}
	m := &Mount{fs: f, point: procFD(tree), tree: tree}
	if m.server, err = fuse.NewServer(f, fmt.Sprintf("/dev/fd/%d", dev), mo); err == nil && !debug {
		f.device, err = newDevice(f, m.server, dev, mo)
	}
	if err != nil {
		unix.Close(tree)
		f.Close()
		return nil, err
	}
	m.readAhead()
	return m, nil
}

// attach puts the mount on a directory.
func (m *Mount) attach(point string) error {
	err := unix.MoveMount(m.tree, "", unix.AT_FDCWD, point, unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_SYMLINKS)
	unix.Close(m.tree)
	m.tree, m.point = -1, point
	if err != nil {
		m.fs.Close()
	}
	return err
}

// mountDetached makes the connection to the kernel and the mount: with the options that
// mount.fuse(8) gives, by fsopen(2).
func mountDetached(opts aufs.Options, source string, maxRead int) (dev, tree int, err error) {
	if dev, err = unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
		return -1, -1, fmt.Errorf("open /dev/fuse: %w", err)
	}
	fs, err := unix.Fsopen("fuse", unix.FSOPEN_CLOEXEC)
	if err == nil {
		defer unix.Close(fs)
		for _, p := range [][2]string{{"source", source}, {"subtype", "viv-union"}, {"fd", strconv.Itoa(dev)}, {"rootmode", "40000"},
			{"user_id", strconv.Itoa(os.Geteuid())}, {"group_id", strconv.Itoa(os.Getegid())}, {"max_read", strconv.Itoa(maxRead)}} {
			if err == nil {
				err = unix.FsconfigSetString(fs, p[0], p[1])
			}
		}
		for _, flag := range []string{"default_permissions", "allow_other"} {
			if err == nil {
				err = unix.FsconfigSetFlag(fs, flag)
			}
		}
		if err == nil {
			err = unix.FsconfigCreate(fs)
		}
		if err == nil {
			attr := 0
			for _, o := range opts.Flags {
				attr |= mountFlags[o]
			}
			tree, err = unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attr)
		}
	}
	if err != nil {
		unix.Close(dev)
		return -1, -1, err
	}
	return dev, tree, nil
}

// Tree is the descriptor of a union that is attached to no tree.
func (m *Mount) Tree() int { return m.tree }

// prepare opens the branches.
func prepare(opts aufs.Options) (*FS, error) {
	f, err := New(opts)
	if err != nil {
		return nil, err
	}
	if opts.UDBA == aufs.UDBANotify {
		if f.watch, err = newWatcher(); err != nil {
			f.Close()
			return nil, fmt.Errorf("watch branches: %w", err)
		}
	}
	unix.Umask(0)
	return f, nil
}

// spareProcs is how many more processors the Go scheduler is told of than threads of the server
// wait for requests. With as many or fewer, it takes the processor of one that waits in read(2)
// away, and wakes another thread to look for work that is not there.
const spareProcs = 4

// readBytes is how much the kernel asks for at a time.
const readBytes = 1 << 20

func mountOptions(opts aufs.Options, debug bool) *fuse.MountOptions {
	mo := &fuse.MountOptions{
		MaxBackground: 64,
		MaxWrite:      readBytes,
		EnableAcl:     true,
		Debug:         debug,
		Logger:        log.New(io.Discard, "", 0),
		// A write's umask, a truncating open and the end of setuid bits come with
		// the request that they belong to: none needs another one.
		ExtraCapabilities: fuse.CAP_DONT_MASK | fuse.CAP_ATOMIC_O_TRUNC | fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_SETXATTR_EXT |
			fuse.CAP_READDIRPLUS_AUTO,
		EnableSymlinkCaching: opts.UDBA == aufs.UDBANone,
		// Names that the kernel may not believe for a moment are not worth their lookups.
		DisableReadDirPlus: opts.UDBA == aufs.UDBAReval && !slices.ContainsFunc(opts.Branches, func(b aufs.Branch) bool { return b.Perm == aufs.RR }),
	}
	if debug {
		mo.Logger = log.New(os.Stderr, "", log.Lmicroseconds)
	}
	return mo
}

// mountFlags are options of any mount, as fsmount(2) has them.
var mountFlags = map[string]int{
	"ro": unix.MOUNT_ATTR_RDONLY, "nosuid": unix.MOUNT_ATTR_NOSUID, "nodev": unix.MOUNT_ATTR_NODEV, "noexec": unix.MOUNT_ATTR_NOEXEC,
	"noatime": unix.MOUNT_ATTR_NOATIME, "nodiratime": unix.MOUNT_ATTR_NODIRATIME,
}

// readAhead lets the kernel read ahead as far as one request goes. It offers 128
// KiB when a union is mounted; the number of the mount's device leads to the file
// where it is changed.
func (m *Mount) readAhead() {
	dev, err := deviceOf(m.point)
	if err == nil {
		name := fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", unix.Major(dev), unix.Minor(dev))
		_ = os.WriteFile(name, []byte(strconv.Itoa(readBytes>>10)), 0)
	}
}

// deviceOf is the device number of a mount point, without a request to what is
// mounted there: it does not answer yet.
func deviceOf(point string) (uint64, error) {
	fd, err := unix.Open(point, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	var st unix.Statx_t
	err = unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, 0, &st)
	return unix.Mkdev(st.Dev_major, st.Dev_minor), err
}

// Serve answers the kernel until the union is unmounted, and closes it.
func (m *Mount) Serve() {
	done := make(chan struct{})
	if w := m.fs.watch; w != nil {
		go func() {
			defer close(done)
			w.run(m.fs)
			unix.Close(w.fd)
			unix.Close(w.stop)
		}()
	} else {
		close(done)
	}
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + spareProcs)
	}
	if m.fs.device != nil {
		m.fs.device.serve()
	}
	m.server.Serve() // which only finds that the union is gone, if there was a device
	if m.fs.watch != nil {
		m.fs.watch.close()
	}
	<-done
	m.fs.mu.Lock()
	defer m.fs.mu.Unlock()
	m.fs.Close()
}

// Detach takes the union out of the tree; Serve returns when nobody uses it any
// more.
func (m *Mount) Detach() error {
	if m.tree >= 0 {
		return unix.Close(m.tree)
	}
	return unix.Unmount(m.point, unix.MNT_DETACH)
}
