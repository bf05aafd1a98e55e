package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// sockaddrInet4 is struct sockaddr_in as ioctls take it: family, port, address.
type sockaddrInet4 struct {
	family uint16
	port   uint16
	addr   [4]byte
	_      [8]byte
}

// rtentry is struct rtentry of <linux/route.h>.
type rtentry struct {
	_       uintptr
	dst     sockaddrInet4
	gateway sockaddrInet4
	genmask sockaddrInet4
	flags   uint16
	_       int16
	_       uintptr
	_       uintptr
	_       int16 // metric
	_       uintptr
	_       uintptr // mtu
	_       uintptr // window
	_       uint16  // irtt
}

// AddDefaultRoute makes gateway the way to every IPv4 address, in the network
// namespace of the socket fd, which is of family AF_INET. The error is EEXIST if
// there is such a route already.
//
// It is an ioctl because a netlink socket would keep the namespace alive: the
// kernel frees it only after an RCU grace period, some 20 ms after its close
// (netlink_release), so that the namespace of a short-lived container would
// outlive it.
func AddDefaultRoute(fd int, gateway [4]byte) error {
	entry := rtentry{
		dst:     sockaddrInet4{family: unix.AF_INET},
		gateway: sockaddrInet4{family: unix.AF_INET, addr: gateway},
		genmask: sockaddrInet4{family: unix.AF_INET},
		flags:   unix.RTF_UP | unix.RTF_GATEWAY,
	}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCADDRT, uintptr(unsafe.Pointer(&entry)))
	if errno != 0 {
		return errno
	}
	return nil
}
