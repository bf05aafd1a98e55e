package netdevice

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// replyTimeout bounds the wait for the kernel's answer, which is there before
// the request's system call returns.
const replyTimeout = 10 * time.Second

// socket is a NETLINK_ROUTE socket; it belongs to one network namespace.
type socket int

// dial opens one in the network namespace of the calling thread.
func dial() (socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return -1, fmt.Errorf("open a netlink socket: %w", err)
	}
	timeout := unix.NsecToTimeval(int64(replyTimeout))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("set the timeout of a netlink socket: %w", err)
	}
	return socket(fd), nil
}

// message is one request (netlink(7), rtnetlink(7)).
type message struct{ b []byte }

// newMessage begins one, with the fixed part that its kind has.
func newMessage(kind, flags uint16, fixed []byte) *message {
	m := &message{b: make([]byte, unix.NLMSG_HDRLEN, 256)}
	binary.NativeEndian.PutUint16(m.b[4:], kind)
	binary.NativeEndian.PutUint16(m.b[6:], flags|unix.NLM_F_REQUEST)
	m.b = append(m.b, fixed...)
	return m
}

func (m *message) attr(kind uint16, data []byte) {
	m.b = binary.NativeEndian.AppendUint16(m.b, uint16(unix.SizeofRtAttr+len(data)))
	m.b = binary.NativeEndian.AppendUint16(m.b, kind)
	m.b = append(m.b, data...)
	for len(m.b)%4 != 0 {
		m.b = append(m.b, 0)
	}
}

func (m *message) text(kind uint16, s string) { m.attr(kind, append([]byte(s), 0)) }

func (m *message) number(kind uint16, v uint32) {
	m.attr(kind, binary.NativeEndian.AppendUint32(nil, v))
}

// linkHeader is struct ifinfomsg.
func linkHeader(index int32, flags, change uint32) []byte {
	b := make([]byte, 4, unix.SizeofIfInfomsg)
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	b = binary.NativeEndian.AppendUint32(b, flags)
	return binary.NativeEndian.AppendUint32(b, change)
}

// errInterrupted says that what was listed changed under the listing.
var errInterrupted = errors.New("the listing was interrupted by changes")

// do sends a request and calls each with the body of every answer of the kind
// want. It returns at the acknowledgement, or the end of a listing.
func (s socket) do(m *message, want uint16, each func(body []byte)) error {
	binary.NativeEndian.PutUint32(m.b, uint32(len(m.b)))
	if err := retry(func() error { return unix.Sendto(int(s), m.b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}) }); err != nil {
		return fmt.Errorf("send a netlink request: %w", err)
	}
	buf := make([]byte, 32<<10) // what the kernel offers a listing at most
	interrupted := false
	for {
		var n int
		err := retry(func() (err error) {
			n, _, err = unix.Recvfrom(int(s), buf, 0)
			return err
		})
		if err == unix.EAGAIN {
			return fmt.Errorf("wait for an answer of netlink: none within %v", replyTimeout)
		}
		if err != nil {
			return fmt.Errorf("read an answer of netlink: %w", err)
		}
		for rest := buf[:n]; len(rest) >= unix.NLMSG_HDRLEN; {
			size := int(binary.NativeEndian.Uint32(rest))
			if size < unix.NLMSG_HDRLEN || size > len(rest) {
				return errors.New("read an answer of netlink: a message is cut off")
			}
			kind, body := binary.NativeEndian.Uint16(rest[4:]), rest[unix.NLMSG_HDRLEN:size]
			interrupted = interrupted || binary.NativeEndian.Uint16(rest[6:])&unix.NLM_F_DUMP_INTR != 0
			switch {
			case kind == unix.NLMSG_DONE && interrupted:
				return errInterrupted
			case kind == unix.NLMSG_DONE:
				return nil
			case kind == unix.NLMSG_ERROR && len(body) >= 4:
				if e := -int32(binary.NativeEndian.Uint32(body)); e != 0 {
					return unix.Errno(e)
				}
				return nil
			case kind == want:
				each(body)
			}
			rest = rest[min((size+3)&^3, len(rest)):]
		}
	}
}

// list is do for a listing, begun again when it was interrupted: each may see an
// object twice.
func (s socket) list(kind, want uint16, fixed []byte, each func(body []byte)) error {
	err := errInterrupted
	for try := 0; try < 20 && errors.Is(err, errInterrupted); try++ {
		err = s.do(newMessage(kind, unix.NLM_F_DUMP, fixed), want, each)
	}
	return err
}

func retry(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

// eachAttr calls each with every attribute.
func eachAttr(b []byte, each func(kind uint16, data []byte)) {
	for len(b) >= unix.SizeofRtAttr {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofRtAttr || size > len(b) {
			return
		}
		each(binary.NativeEndian.Uint16(b[2:])&^unix.NLA_F_NESTED, b[unix.SizeofRtAttr:size])
		b = b[min((size+3)&^3, len(b)):]
	}
}
