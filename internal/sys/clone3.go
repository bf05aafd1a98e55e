// Package sys holds raw system calls for which golang.org/x/sys/unix has no
// function. Beside sandbox/spawn it is the only place with raw system calls.
package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// cloneArgs is struct clone_args up to CLONE_ARGS_SIZE_VER2.
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// TryClone3 makes a clone3 that cannot succeed and gives its error: ENOSYS if
// there is no clone3, else EINVAL, for its arguments have size 0.
func TryClone3() error {
	_, _, errno := unix.Syscall(unix.SYS_CLONE3, 0, 0, 0)
	return errno
}

// TryCloneIntoCgroup makes a clone3 with CLONE_INTO_CGROUP that cannot succeed,
// for its cgroup is no open file, and gives its error: EBADF where the flag is
// known, E2BIG or EINVAL where it is not.
func TryCloneIntoCgroup() error {
	const notOpen = 1<<31 - 1
	args := cloneArgs{flags: unix.CLONE_INTO_CGROUP, exitSignal: uint64(unix.SIGCHLD), cgroup: notOpen}
	pid, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
	if errno == 0 {
		if pid == 0 {
			// Nobody has this many files open; were it so, this copy of the
			// process must not go on.
			for {
				unix.RawSyscall(unix.SYS_EXIT_GROUP, 1, 0, 0)
			}
		}
		var status unix.WaitStatus
		_, err := unix.Wait4(int(pid), &status, 0, nil)
		return err
	}
	return errno
}
