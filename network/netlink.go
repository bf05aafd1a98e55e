package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// replyTimeout bounds the wait for the kernel's answer. The kernel answers
// before sendmsg returns, so only a lost message can make us wait.
const replyTimeout = 10 * time.Second

// batch is a sequence of netlink messages that go to the kernel in one system
// call. Netlink is host-endian; nested attributes are four-byte aligned.
type batch struct {
	buf   []byte
	start int
	count int
}

// begin opens a message; its header's length is filled in by end.
func (b *batch) begin(kind, flags uint16) {
	b.start = len(b.buf)
	b.buf = append(b.buf, make([]byte, unix.NLMSG_HDRLEN)...)
	header := b.buf[b.start:]
	binary.NativeEndian.PutUint16(header[4:], kind)
	binary.NativeEndian.PutUint16(header[6:], flags|unix.NLM_F_REQUEST)
	binary.NativeEndian.PutUint32(header[8:], uint32(b.count))
	b.count++
}

func (b *batch) end() {
	binary.NativeEndian.PutUint32(b.buf[b.start:], uint32(len(b.buf)-b.start))
}

// link appends a struct ifinfomsg.
func (b *batch) link(index int32, flags, change uint32) {
	b.buf = append(b.buf, unix.AF_UNSPEC, 0, 0, 0)
	b.buf = binary.NativeEndian.AppendUint32(b.buf, uint32(index))
	b.buf = binary.NativeEndian.AppendUint32(b.buf, flags)
	b.buf = binary.NativeEndian.AppendUint32(b.buf, change)
}

func (b *batch) attr(kind uint16, data []byte) {
	offset := b.nest(kind)
	b.buf = append(b.buf, data...)
	b.endNest(offset)
}

func (b *batch) attrString(kind uint16, text string) {
	b.attr(kind, append([]byte(text), 0))
}

func (b *batch) attrUint32(kind uint16, value uint32) {
	b.attr(kind, binary.NativeEndian.AppendUint32(nil, value))
}

// nest opens an attribute that holds others and returns where it begins.
func (b *batch) nest(kind uint16) int {
	offset := len(b.buf)
	b.buf = append(b.buf, 0, 0, 0, 0)
	binary.NativeEndian.PutUint16(b.buf[offset+2:], kind)
	return offset
}

func (b *batch) endNest(offset int) {
	binary.NativeEndian.PutUint16(b.buf[offset:], uint16(len(b.buf)-offset))
	for len(b.buf)%4 != 0 {
		b.buf = append(b.buf, 0)
	}
}

// conn is a netlink socket. It belongs to the network namespace of the thread
// that opened it, for ever.
type conn struct {
	fd int
}

// dial opens a netlink socket of a protocol (NETLINK_ROUTE, NETLINK_NETFILTER)
// in the calling thread's network namespace.
func dial(protocol int) (*conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	timeout := unix.NsecToTimeval(int64(replyTimeout))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("set timeout of netlink socket: %w", err)
	}
	// Only the text of errors depends on these; kernels before 4.12 lack them.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	return &conn{fd: fd}, nil
}

func (c *conn) close() { _ = unix.Close(c.fd) }

// closeLater closes a socket of NETLINK_NETFILTER. The close of any such socket
// waits until the kernel has freed what recent nftables transactions of the
// same namespace have deleted, some 15 ms (nft_rcv_nl_event). What they did is
// in force before; so nobody has to wait with it.
func (c *conn) closeLater() { go c.close() }

// kernelError is a refusal with the kernel's own explanation, where it gave one.
type kernelError struct {
	errno   unix.Errno
	message string
}

func (e *kernelError) Error() string {
	if e.message == "" {
		return e.errno.Error()
	}
	return e.errno.Error() + " (" + e.message + ")"
}

func (e *kernelError) Unwrap() error { return e.errno }

// execute sends the messages, each of which must have been begun with
// NLM_F_ACK, and returns one result a message, in order. The second value
// tells that no results could be had at all.
func (c *conn) execute(b *batch) ([]error, error) {
	if err := c.send(b); err != nil {
		return nil, err
	}
	results := make([]error, b.count)
	for answered := 0; answered < b.count; {
		err := c.receive(func(kind uint16, sequence uint32, body []byte) error {
			if kind == unix.NLMSG_ERROR && int(sequence) < len(results) {
				results[sequence] = parseError(body)
				answered++
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return results, nil
}

// run is execute for batches in which any error is a failure: the first is
// returned.
func (c *conn) run(b *batch) error {
	results, err := c.execute(b)
	if err != nil {
		return err
	}
	for _, result := range results {
		if result != nil {
			return result
		}
	}
	return nil
}

// get sends one request and gives the body of its only answer.
func (c *conn) get(b *batch) ([]byte, error) {
	if err := c.send(b); err != nil {
		return nil, err
	}
	var answer []byte
	for answer == nil {
		err := c.receive(func(kind uint16, _ uint32, body []byte) error {
			if kind == unix.NLMSG_ERROR {
				return parseError(body)
			}
			answer = append([]byte{}, body...)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return answer, nil
}

// errDumpInterrupted says that what was listed changed under the listing.
var errDumpInterrupted = errors.New("listing was interrupted by a change")

// dump sends one request begun with NLM_F_DUMP and calls each with the body of
// every answer, which is valid only during the call. A listing that was
// interrupted by a change is begun again, so each may see an object twice.
func (c *conn) dump(b *batch, each func(body []byte) error) error {
	for range 20 {
		err := c.dumpOnce(b, each)
		if !errors.Is(err, errDumpInterrupted) {
			return err
		}
	}
	return errDumpInterrupted
}

func (c *conn) dumpOnce(b *batch, each func(body []byte) error) error {
	if err := c.send(b); err != nil {
		return err
	}
	for done, interrupted := false, false; !done; {
		buf, err := c.read()
		if err != nil {
			return err
		}
		err = eachMessage(buf, func(kind, flags uint16, _ uint32, body []byte) error {
			interrupted = interrupted || flags&unix.NLM_F_DUMP_INTR != 0
			switch kind {
			case unix.NLMSG_DONE:
				done = true
				if interrupted {
					return errDumpInterrupted
				}
				return nil
			case unix.NLMSG_ERROR:
				done = true
				return parseError(body)
			}
			return each(body)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *conn) send(b *batch) error {
	for {
		err := unix.Sendto(c.fd, b.buf, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("send netlink message: %w", err)
		}
		return nil
	}
}

func (c *conn) read() ([]byte, error) {
	buf := make([]byte, 32<<10) // what the kernel offers a dump at most
	for {
		n, _, err := unix.Recvfrom(c.fd, buf, 0)
		switch err {
		case nil:
			return buf[:n], nil
		case unix.EINTR:
		case unix.EAGAIN:
			return nil, fmt.Errorf("wait for netlink answer: none within %v", replyTimeout)
		default:
			return nil, fmt.Errorf("read netlink answer: %w", err)
		}
	}
}

func (c *conn) receive(each func(kind uint16, sequence uint32, body []byte) error) error {
	buf, err := c.read()
	if err != nil {
		return err
	}
	return eachMessage(buf, func(kind, _ uint16, sequence uint32, body []byte) error {
		return each(kind, sequence, body)
	})
}

func eachMessage(buf []byte, each func(kind, flags uint16, sequence uint32, body []byte) error) error {
	for len(buf) >= unix.NLMSG_HDRLEN {
		size := int(binary.NativeEndian.Uint32(buf))
		if size < unix.NLMSG_HDRLEN || size > len(buf) {
			return fmt.Errorf("read netlink answer: message of %d bytes in %d", size, len(buf))
		}
		kind := binary.NativeEndian.Uint16(buf[4:])
		flags := binary.NativeEndian.Uint16(buf[6:])
		sequence := binary.NativeEndian.Uint32(buf[8:])
		if err := each(kind, flags, sequence, buf[unix.NLMSG_HDRLEN:size]); err != nil {
			return err
		}
		buf = buf[min((size+3)&^3, len(buf)):]
	}
	return nil
}

// parseError reads the body of NLMSG_ERROR: errno (0 is success), the header
// of the request, and with NETLINK_EXT_ACK attributes that follow it.
func parseError(body []byte) error {
	if len(body) < 4 {
		return errors.New("read netlink answer: error message without a number")
	}
	number := -int32(binary.NativeEndian.Uint32(body))
	if number == 0 {
		return nil
	}
	failure := &kernelError{errno: unix.Errno(number)}
	if len(body) >= 4+unix.NLMSG_HDRLEN {
		// With NETLINK_CAP_ACK only the header of the request comes back.
		eachAttr(body[4+unix.NLMSG_HDRLEN:], func(kind uint16, data []byte) {
			if kind == unix.NLMSGERR_ATTR_MSG && len(data) > 1 {
				failure.message = string(data[:len(data)-1])
			}
		})
	}
	return failure
}

// eachAttr calls each with every attribute; the flags in its kind are removed.
func eachAttr(buf []byte, each func(kind uint16, data []byte)) {
	for len(buf) >= unix.SizeofNlAttr {
		size := int(binary.NativeEndian.Uint16(buf))
		if size < unix.SizeofNlAttr || size > len(buf) {
			return
		}
		each(binary.NativeEndian.Uint16(buf[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), buf[unix.SizeofNlAttr:size])
		buf = buf[min((size+3)&^3, len(buf)):]
	}
}
