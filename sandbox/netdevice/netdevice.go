// Package netdevice moves network devices into the network namespace of a
// container, as runtime-spec 1.3, config-linux.md "Network Devices" says. When
// the namespace ends, the kernel moves physical devices back and deletes others
// (network_namespaces(7)); nobody else does.
package netdevice

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Check refuses devices that cannot be: names that the kernel does not take, two
// devices for one name.
func Check(devices map[string]specs.LinuxNetDevice) error {
	taken := make(map[string]bool)
	for _, name := range sorted(devices) {
		to := target(name, devices[name])
		if !validName(name) || strings.Contains(name, "%") {
			return fmt.Errorf("invalid network device name %q", name)
		}
		if !validName(to) {
			return fmt.Errorf("invalid network device name %q", to)
		}
		if taken[to] && !isTemplate(to) {
			return fmt.Errorf("two network devices are to be named %q in the container", to)
		}
		taken[to] = true
	}
	return nil
}

// validName is dev_valid_name of the kernel; '%' may only be in a "%d" at the end.
func validName(name string) bool {
	plain := strings.TrimSuffix(name, "%d")
	return name != "" && len(name) < unix.IFNAMSIZ && name != "." && name != ".." && !strings.ContainsAny(plain, "/:% \t\n\v\f\r")
}

// isTemplate: the kernel puts a number into the place of "%d".
func isTemplate(name string) bool { return strings.HasSuffix(name, "%d") }

// target is the name of a device in the container.
func target(name string, d specs.LinuxNetDevice) string {
	if d.Name != "" {
		return d.Name
	}
	return name
}

func sorted(devices map[string]specs.LinuxNetDevice) []string {
	var names []string
	for name := range devices {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Moved are devices that are in the container's namespace. Close lets them be;
// Back takes them out again.
type Moved struct {
	own, netns  int    // descriptors of the two namespaces
	here, there socket // in them
	devices     []moved
}

type moved struct {
	name  string // on the host
	index int32  // in the container
	up    bool   // on the host
	addrs []address
}

// address is an address of a device as the kernel tells it: struct ifaddrmsg
// and attributes.
type address struct {
	header []byte
	attrs  []attribute
}

type attribute struct {
	kind uint16
	data []byte
}

// Move moves devices of the calling thread's network namespace into that of the
// descriptor netns, which it takes over, in the order of their names, and sets
// them up. They keep what they are, and their permanent addresses of global
// scope. After an error all of them are where they were.
func Move(devices map[string]specs.LinuxNetDevice, netns int) (*Moved, error) {
	m := &Moved{own: -1, netns: netns, here: -1, there: -1}
	err := m.open()
	for _, name := range sorted(devices) {
		if err != nil {
			break
		}
		if err = m.move(name, target(name, devices[name])); err != nil {
			err = fmt.Errorf("move the network device %s into the container: %w", name, err)
		}
	}
	if err != nil {
		err = errors.Join(err, m.Back())
		m.Close()
		return nil, err
	}
	return m, nil
}

// open opens a socket in each namespace: the thread goes there and comes back.
func (m *Moved) open() (err error) {
	runtime.LockOSThread()
	home := true
	defer func() {
		if home { // else the thread ends with its goroutine
			runtime.UnlockOSThread()
		}
	}()
	if m.own, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("open the own network namespace: %w", err)
	}
	var a, b unix.Stat_t
	if err := errors.Join(unix.Fstat(m.own, &a), unix.Fstat(m.netns, &b)); err != nil {
		return fmt.Errorf("compare the network namespaces: %w", err)
	}
	if a.Dev == b.Dev && a.Ino == b.Ino {
		return errors.New("unable to move network devices without a NET namespace: the container's is the runtime's own")
	}
	if m.here, err = dial(); err != nil {
		return err
	}
	if err := unix.Setns(m.netns, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the container's network namespace: %w", err)
	}
	m.there, err = dial()
	if back := unix.Setns(m.own, unix.CLONE_NEWNET); back != nil {
		home = false
		return fmt.Errorf("go back to the own network namespace: %w", back)
	}
	return err
}

// Close gives up the descriptors; the devices stay where they are.
func (m *Moved) Close() {
	for _, fd := range []*int{&m.own, &m.netns, (*int)(&m.here), (*int)(&m.there)} {
		if *fd >= 0 {
			unix.Close(*fd)
			*fd = -1
		}
	}
}

// Back moves the devices out of the container again, as they were before. The
// first error is told; what can be moved is.
func (m *Moved) Back() error {
	var first error
	for _, d := range slices.Backward(m.devices) {
		err := m.there.setNamespace(d.index, d.name, m.own)
		var l link
		if err == nil {
			l, err = m.here.link(d.name)
		}
		if err == nil {
			err = m.here.addAll(l.index, d.addrs)
		}
		if err == nil && d.up {
			err = m.here.setUp(l.index)
		}
		if err != nil && first == nil {
			first = fmt.Errorf("move the network device %s back: %w", d.name, err)
		}
	}
	m.devices = nil
	return first
}

func (m *Moved) move(name, to string) error {
	l, err := m.here.link(name)
	if err == unix.ENODEV {
		return errors.New("there is no such device")
	}
	if err != nil {
		return err
	}
	if _, err := m.there.link(to); !isTemplate(to) && err == nil {
		return fmt.Errorf("there is a device %s already: %w", to, unix.EEXIST)
	}
	d := moved{name: name, up: l.flags&unix.IFF_UP != 0}
	if d.addrs, err = m.here.addresses(l.index); err != nil {
		return fmt.Errorf("list its addresses: %w", err)
	}
	before, err := m.there.indexes()
	if err != nil {
		return err
	}
	// With a new name in the request the kernel takes the old one along, and
	// gives the new one there.
	rename := to
	if to == name {
		rename = ""
	}
	moveErr := m.here.setNamespace(l.index, rename, m.netns)
	if moveErr != nil {
		if _, err := m.here.link(name); err == nil {
			return moveErr // it has not been moved
		}
	}
	// Its index is another one where somebody had it.
	after, err := m.there.indexes()
	if err != nil {
		return errors.Join(moveErr, err)
	}
	for index := range after {
		if !before[index] {
			d.index = index
		}
	}
	if d.index == 0 {
		return errors.Join(moveErr, errors.New("it is in neither namespace"))
	}
	m.devices = append(m.devices, d)
	if moveErr != nil {
		return moveErr
	}
	if err := m.there.addAll(d.index, d.addrs); err != nil {
		return fmt.Errorf("give it its addresses: %w", err)
	}
	if err := m.there.setUp(d.index); err != nil {
		return fmt.Errorf("set it up: %w", err)
	}
	return nil
}

type link struct {
	index int32
	flags uint32
}

// link finds a device by its name; the error is ENODEV when there is none.
func (s socket) link(name string) (link, error) {
	var l link
	m := newMessage(unix.RTM_GETLINK, unix.NLM_F_ACK, linkHeader(0, 0, 0))
	m.text(unix.IFLA_IFNAME, name)
	err := s.do(m, unix.RTM_NEWLINK, func(body []byte) {
		if len(body) >= unix.SizeofIfInfomsg {
			l = link{int32(binary.NativeEndian.Uint32(body[4:])), binary.NativeEndian.Uint32(body[8:])}
		}
	})
	return l, err
}

func (s socket) indexes() (map[int32]bool, error) {
	out := make(map[int32]bool)
	err := s.list(unix.RTM_GETLINK, unix.RTM_NEWLINK, linkHeader(0, 0, 0), func(body []byte) {
		if len(body) >= unix.SizeofIfInfomsg {
			out[int32(binary.NativeEndian.Uint32(body[4:]))] = true
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list the devices: %w", err)
	}
	return out, nil
}

// setNamespace moves a device to another namespace, and renames it if name is
// not empty.
func (s socket) setNamespace(index int32, name string, netns int) error {
	m := newMessage(unix.RTM_NEWLINK, unix.NLM_F_ACK, linkHeader(index, 0, 0))
	m.number(unix.IFLA_NET_NS_FD, uint32(netns))
	if name != "" {
		m.text(unix.IFLA_IFNAME, name)
	}
	return s.do(m, 0, nil)
}

func (s socket) setUp(index int32) error {
	return s.do(newMessage(unix.RTM_NEWLINK, unix.NLM_F_ACK, linkHeader(index, unix.IFF_UP, unix.IFF_UP)), 0, nil)
}

// From linux/if_addr.h.
const (
	ifaRtPriority = 9 // IFA_RT_PRIORITY
	// keptFlags of an address are those that somebody gave it; the others say
	// what the kernel has found out.
	keptFlags = unix.IFA_F_NODAD | unix.IFA_F_HOMEADDRESS | unix.IFA_F_MANAGETEMPADDR | unix.IFA_F_NOPREFIXROUTE | unix.IFA_F_MCAUTOJOIN
)

// addresses lists those of a device that go along: permanent ones of global scope.
func (s socket) addresses(index int32) ([]address, error) {
	var out []address
	err := s.list(unix.RTM_GETADDR, unix.RTM_NEWADDR, make([]byte, unix.SizeofIfAddrmsg), func(body []byte) {
		if a, ok := readAddress(body, index); ok && !slices.ContainsFunc(out, a.equal) {
			out = append(out, a)
		}
	})
	return out, err
}

func (a address) equal(b address) bool {
	return bytes.Equal(a.header, b.header) && slices.EqualFunc(a.attrs, b.attrs, func(x, y attribute) bool {
		return x.kind == y.kind && bytes.Equal(x.data, y.data)
	})
}

// readAddress reads struct ifaddrmsg: family, prefix length, flags, scope, index.
func readAddress(body []byte, index int32) (a address, ok bool) {
	if len(body) < unix.SizeofIfAddrmsg || int32(binary.NativeEndian.Uint32(body[4:])) != index || body[3] != unix.RT_SCOPE_UNIVERSE {
		return a, false
	}
	flags := uint32(body[2])
	a.header = bytes.Clone(body[:unix.SizeofIfAddrmsg])
	a.header[2] = 0
	eachAttr(body[unix.SizeofIfAddrmsg:], func(kind uint16, data []byte) {
		switch kind {
		case unix.IFA_FLAGS:
			if len(data) == 4 {
				flags = binary.NativeEndian.Uint32(data)
			}
		case unix.IFA_LOCAL, unix.IFA_ADDRESS, unix.IFA_BROADCAST, ifaRtPriority:
			// The label has the device's old name.
			a.attrs = append(a.attrs, attribute{kind, bytes.Clone(data)})
		}
	})
	a.attrs = append(a.attrs, attribute{unix.IFA_FLAGS, binary.NativeEndian.AppendUint32(nil, flags&keptFlags)})
	return a, flags&unix.IFA_F_PERMANENT != 0
}

// addAll gives a device addresses; those that it has already are no error.
func (s socket) addAll(index int32, list []address) error {
	for _, a := range list {
		header := bytes.Clone(a.header)
		binary.NativeEndian.PutUint32(header[4:], uint32(index))
		m := newMessage(unix.RTM_NEWADDR, unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL, header)
		for _, at := range a.attrs {
			m.attr(at.kind, at.data)
		}
		if err := s.do(m, 0, nil); err != nil && err != unix.EEXIST {
			return err
		}
	}
	return nil
}
