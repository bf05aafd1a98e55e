// Package kernel tells what the running kernel can do. Each probe tries the
// feature once, when it is first asked for, and keeps the answer; versions are
// never compared, for distributions carry features back and seccomp filters
// take them away.
//
// A probe returns nil if the feature can be used and else an error that has
// ErrMissing in its chain and says why.
package kernel

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"vivarium/internal/sys"
)

// ErrMissing is in the chain of every probe's error.
var ErrMissing = errors.New("the kernel feature cannot be used")

// feature is the kept answer of a probe.
type feature struct {
	once sync.Once
	err  error
}

func (f *feature) probe(name string, try func() error) error {
	f.once.Do(func() {
		if err := try(); err != nil {
			f.err = &missingError{name, err}
		}
	})
	return f.err
}

type missingError struct {
	name string
	err  error
}

func (e *missingError) Error() string {
	return e.name + ": " + ErrMissing.Error() + ": " + e.err.Error()
}
func (e *missingError) Unwrap() []error { return []error{ErrMissing, e.err} }

var (
	clone3, cloneIntoCgroup, mountSetattr, overlayAppend, overlayFD, openat2,
	pidfdInfoExit, timeNamespaces, memfdExec, closeRange feature
)

// Clone3 is needed to make the container's first process (5.3; Docker's older
// seccomp profiles hide it with ENOSYS).
func Clone3() error {
	return clone3.probe("clone3", func() error {
		if err := sys.TryClone3(); !errors.Is(err, unix.EINVAL) {
			return err
		}
		return nil
	})
}

// CloneIntoCgroup puts a new process into its v2 cgroup without taking the lock
// that stops all forks (5.7). Without it the process is moved after the clone.
func CloneIntoCgroup() error {
	return cloneIntoCgroup.probe("clone3 with CLONE_INTO_CGROUP", func() error {
		if err := sys.TryCloneIntoCgroup(); !errors.Is(err, unix.EBADF) {
			return err
		}
		return nil
	})
}

// MountSetattr changes the flags of a whole tree of mounts at once: recursive
// read-only mounts, propagation, idmapped mounts (5.12).
func MountSetattr() error {
	return mountSetattr.probe("mount_setattr", func() error {
		// Nothing is to be changed, so the kernel looks at no mount. EPERM
		// only says that this process may not mount here; its containers'
		// processes may, in their user namespace.
		err := unix.MountSetattr(unix.AT_FDCWD, ".", 0, &unix.MountAttr{})
		if errors.Is(err, unix.EPERM) {
			return nil
		}
		return err
	})
}

// OverlayAppend gives overlay its layers one by one, without a limit on the
// length of all their names ("lowerdir+", 6.5 and later).
func OverlayAppend() error {
	return overlayAppend.probe("overlay with lowerdir+", func() error {
		return withOverlay(func(fs int) error { return unix.FsconfigSetString(fs, "lowerdir+", "/") })
	})
}

// OverlayFD gives overlay its layers as descriptors, so that no name can be
// exchanged between looking and mounting (6.13).
func OverlayFD() error {
	return overlayFD.probe("overlay with layers as descriptors", func() error {
		return withOverlay(func(fs int) error {
			dir, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(dir)
			return unix.FsconfigSetFd(fs, "lowerdir+", dir)
		})
	})
}

// withOverlay sets up a file system that is never made. A kernel that takes an
// option which is none looks at options only when it makes the file system (until
// 6.5), so that nothing can be learnt from what it takes.
func withOverlay(try func(fs int) error) error {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open a file system of type overlay: %w", err)
	}
	defer unix.Close(fs)
	if unix.FsconfigSetString(fs, "viv-no-such-option", "x") == nil {
		return errors.New("fsconfig takes any option")
	}
	return try(fs)
}

// Openat2 resolves a path within a container's root (RESOLVE_IN_ROOT, 5.6).
func Openat2() error {
	return openat2.probe("openat2 with RESOLVE_IN_ROOT", func() error {
		fd, err := unix.Openat2(unix.AT_FDCWD, "/", &unix.OpenHow{
			Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT,
		})
		if err != nil {
			return err
		}
		return unix.Close(fd)
	})
}

// CloseRange makes all descriptors of a container's first process
// close-on-exec in one call (CLOSE_RANGE_CLOEXEC, 5.11).
func CloseRange() error {
	return closeRange.probe("close_range with CLOSE_RANGE_CLOEXEC", func() error {
		// No descriptor has this number.
		return unix.CloseRange(1<<32-1, 1<<32-1, unix.CLOSE_RANGE_CLOEXEC)
	})
}

// TimeNamespaces gives a container clocks of its own (5.6, CONFIG_TIME_NS).
func TimeNamespaces() error {
	return timeNamespaces.probe("time namespaces", func() error {
		// To enter one needs a privilege that its user may get only later;
		// the file is there if the kernel has them.
		_, err := os.Lstat("/proc/thread-self/ns/time_for_children")
		return err
	})
}

// MemfdExec makes an executable file in memory. Before 6.3 the flag is not
// known and every memfd is executable; after, vm.memfd_noexec=2 forbids it. An
// error that is EINVAL means the former: leave the flag out.
func MemfdExec() error {
	return memfdExec.probe("memfd_create with MFD_EXEC", func() error {
		fd, err := unix.MemfdCreate("viv-probe", unix.MFD_CLOEXEC|unix.MFD_EXEC)
		if err != nil {
			return err
		}
		return unix.Close(fd)
	})
}

// PidfdInfoExit tells the exit status of a process to one that is not its
// parent (PIDFD_INFO_EXIT, 6.15): a new monitor adopts a container by it.
func PidfdInfoExit() error {
	return pidfdInfoExit.probe("PIDFD_GET_INFO with PIDFD_INFO_EXIT", tryPidfdInfoExit)
}

// tryPidfdInfoExit asks for the exit status of a thread of our own: kernels
// before 6.15 ignore the bit, so something must have ended to see it.
func tryPidfdInfoExit() error {
	tid := make(chan int)
	end := make(chan struct{})
	go endingThread(tid, end)
	fd, err := unix.PidfdOpen(<-tid, unix.PIDFD_THREAD)
	close(end)
	if err != nil {
		return fmt.Errorf("open a thread: %w", err)
	}
	defer unix.Close(fd)
	if err := waitReadable(fd, time.Second); err != nil {
		return fmt.Errorf("wait for the end of a thread: %w", err)
	}
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	if err := unix.IoctlPidfdInfo(fd, &info); err != nil {
		return err
	}
	if info.Mask&unix.PIDFD_INFO_EXIT == 0 {
		return errors.New("the kernel does not give the exit status")
	}
	return nil
}

// endingThread tells the number of a thread that ends when end is closed: a
// goroutine that returns while it is locked takes its thread along, unless that
// is the process's first one, which is then kept out of the way.
func endingThread(tid chan<- int, end <-chan struct{}) {
	runtime.LockOSThread()
	if me := unix.Gettid(); me != unix.Getpid() {
		tid <- me
		<-end
		return
	}
	go endingThread(tid, end)
	<-end
	runtime.UnlockOSThread()
}

func waitReadable(fd int, timeout time.Duration) error {
	end := time.Now().Add(timeout)
	for {
		left := time.Until(end)
		if left <= 0 {
			return unix.ETIMEDOUT
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
