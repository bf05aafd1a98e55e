package systemd

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// bus is a connection over which systemd's manager is reached: its own socket, or
// a message bus.
type bus struct {
	fd     int
	serial uint32
	direct bool // systemd's own socket: nobody between
	queue  []*message
	until  time.Time // when what is being done must be done
}

const (
	managerName  = "org.freedesktop.systemd1"
	managerPath  = "/org/freedesktop/systemd1"
	managerIface = "org.freedesktop.systemd1.Manager"
	busName      = "org.freedesktop.DBus"
	busPath      = "/org/freedesktop/DBus"
)

// address is a place where systemd may be reached.
type address struct {
	path   string
	direct bool
}

// addresses are those of the machine's systemd for root, and of his own for a user.
// The manager's own socket comes first: it is there without a message bus.
func addresses() []address {
	if os.Geteuid() == 0 {
		return []address{{"/run/systemd/private", true}, {"/run/dbus/system_bus_socket", false}}
	}
	var list []address
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		list = append(list, address{dir + "/systemd/private", true})
	}
	for one := range strings.SplitSeq(os.Getenv("DBUS_SESSION_BUS_ADDRESS"), ";") {
		if rest, ok := strings.CutPrefix(one, "unix:path="); ok {
			path, _, _ := strings.Cut(rest, ",")
			list = append(list, address{path, false})
		}
	}
	return list
}

func dial() (*bus, error) {
	var errs []error
	for _, a := range addresses() {
		b, err := dialAt(a)
		if err == nil {
			return b, nil
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return nil, errors.New("neither XDG_RUNTIME_DIR nor DBUS_SESSION_BUS_ADDRESS says where this user's systemd is")
	}
	return nil, errors.Join(errs...)
}

func dialAt(a address) (_ *bus, err error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a socket: %w", err)
	}
	b := &bus{fd: fd, direct: a.direct, until: time.Now().Add(timeout)}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: a.path}); err != nil {
		return nil, fmt.Errorf("connect to %s: %w", a.path, err)
	}
	if err := b.authenticate(); err != nil {
		return nil, fmt.Errorf("authenticate at %s: %w", a.path, err)
	}
	if !a.direct {
		if _, err := b.call(&message{destination: busName, path: busPath, iface: busName, member: "Hello"}); err != nil {
			return nil, fmt.Errorf("greet the bus at %s: %w", a.path, err)
		}
	}
	return b, nil
}

func (b *bus) close() { unix.Close(b.fd) }

// authenticate says who we are, which the kernel confirms ("EXTERNAL"). BEGIN goes
// along, as systemd's own clients do it: systemd (252 at least) does not look at a
// call that it has read together with BEGIN until more comes.
func (b *bus) authenticate() error {
	uid := hex.EncodeToString([]byte(strconv.Itoa(os.Geteuid())))
	if err := b.write([]byte("\x00AUTH EXTERNAL " + uid + "\r\nBEGIN\r\n")); err != nil {
		return err
	}
	var line []byte
	for !bytes.HasSuffix(line, []byte("\r\n")) {
		one, err := b.read(1)
		if err != nil {
			return err
		}
		if line = append(line, one...); len(line) > 1024 {
			return errMessage
		}
	}
	if !bytes.HasPrefix(line, []byte("OK ")) {
		return fmt.Errorf("refused: %s", strings.TrimSpace(string(line)))
	}
	return nil
}

func (b *bus) write(data []byte) error {
	for len(data) > 0 {
		n, err := unix.SendmsgN(b.fd, data, nil, nil, unix.MSG_NOSIGNAL)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// read gives n bytes, all by the time that everything must be done.
func (b *bus) read(n int) ([]byte, error) {
	data := make([]byte, 0, n)
	for len(data) < n {
		left := time.Until(b.until)
		if left <= 0 {
			return nil, fmt.Errorf("wait for systemd's answer: %w", os.ErrDeadlineExceeded)
		}
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(b.fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if err == unix.EINTR || err == nil && ready == 0 {
			continue
		}
		if err != nil {
			return nil, err
		}
		got, err := unix.Read(b.fd, data[len(data):n])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if got == 0 {
			return nil, errors.New("systemd closed the connection")
		}
		data = data[:len(data)+got]
	}
	return data, nil
}

func (b *bus) receive() (*message, error) {
	head, err := b.read(fixedHeader)
	if err != nil {
		return nil, err
	}
	fields, body, err := lengths(head)
	if err != nil {
		return nil, err
	}
	rest, err := b.read(fields + body)
	if err != nil {
		return nil, err
	}
	return decode(append(head, rest...))
}

// remoteError is an error that the other side names.
type remoteError struct{ name, text string }

func (e *remoteError) Error() string {
	if e.text == "" {
		return e.name
	}
	return e.text
}

// call sends a call and waits for its answer. Signals that come before it are kept.
func (b *bus) call(m *message) (*message, error) {
	b.serial++
	m.kind, m.serial = methodCall, b.serial
	if err := b.write(m.encode()); err != nil {
		return nil, err
	}
	for {
		answer, err := b.receive()
		switch {
		case err != nil:
			return nil, err
		case answer.kind == signalMessage:
			b.queue = append(b.queue, answer)
		case answer.reply != m.serial:
		case answer.kind == errorReply:
			e := &remoteError{name: answer.errorName}
			if strings.HasPrefix(answer.signature, "s") {
				e.text = answer.arguments().text()
			}
			return nil, e
		case answer.kind == methodReturn:
			return answer, nil
		}
	}
}

// manager calls a method of systemd's manager.
func (b *bus) manager(member, signature string, body []byte) (*message, error) {
	m := &message{path: managerPath, iface: managerIface, member: member, signature: signature, body: body}
	if !b.direct {
		m.destination = managerName
	}
	return b.call(m)
}

// signal waits for the manager's next signal of a name.
func (b *bus) signal(member string) (*message, error) {
	for {
		var m *message
		if len(b.queue) > 0 {
			m, b.queue = b.queue[0], b.queue[1:]
		} else {
			var err error
			if m, err = b.receive(); err != nil {
				return nil, err
			}
		}
		if m.kind == signalMessage && m.iface == managerIface && m.member == member {
			return m, nil
		}
	}
}

// subscribe lets the manager tell us of the ends of jobs.
func (b *bus) subscribe() error {
	if !b.direct {
		e := new(encoder)
		e.text("type='signal',interface='" + managerIface + "',member='JobRemoved'")
		if _, err := b.call(&message{destination: busName, path: busPath, iface: busName, member: "AddMatch", signature: "s", body: e.b}); err != nil {
			return err
		}
	}
	_, err := b.manager("Subscribe", "", nil)
	return err
}
