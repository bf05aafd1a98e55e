package sys

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sysGetxattrat is getxattrat(2), Linux 6.13; the number is the same on all of Go's
// architectures but alpha's like.
const sysGetxattrat = 464

// xattrArgs is struct xattr_args of linux/xattr.h.
type xattrArgs struct {
	value uint64
	size  uint32
	flags uint32
}

// Getxattrat reads an extended attribute of what base in dir is, following no link. It
// gives ENOSYS before Linux 6.13.
func Getxattrat(dir int, base, attr string, dest []byte) (int, error) {
	path, err := unix.BytePtrFromString(base)
	if err != nil {
		return 0, err
	}
	name, err := unix.BytePtrFromString(attr)
	if err != nil {
		return 0, err
	}
	args := xattrArgs{size: uint32(len(dest))}
	if len(dest) > 0 {
		args.value = uint64(uintptr(unsafe.Pointer(&dest[0])))
	}
	n, _, errno := unix.Syscall6(sysGetxattrat, uintptr(dir), uintptr(unsafe.Pointer(path)), unix.AT_SYMLINK_NOFOLLOW,
		uintptr(unsafe.Pointer(name)), uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args))
	runtime.KeepAlive(dest)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
