package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// publication is one published port: what arrives at an address (0.0.0.0 is
// any) and port of the host goes to an address and port of a container.
type publication struct {
	protocol  Protocol
	at        netip.AddrPort
	target    netip.AddrPort
	container string
}

// name is that of the record; its text is "container/target".
func (p publication) name() string { return p.at.String() + "-" + string(p.protocol) }

func parsePublication(name, text string) (p publication, ok bool) {
	at, protocol, ok := strings.Cut(name, "-")
	if !ok {
		return p, false
	}
	container, target, ok := strings.Cut(text, "/")
	if !ok {
		return p, false
	}
	var errs [2]error
	p.at, errs[0] = netip.ParseAddrPort(at)
	p.target, errs[1] = netip.ParseAddrPort(target)
	p.protocol, p.container = Protocol(protocol), container
	return p, errors.Join(errs[:]...) == nil
}

// conflicts tells that two publications would compete for the same packets.
func (p publication) conflicts(other publication) bool {
	return p.protocol == other.protocol && p.at.Port() == other.at.Port() &&
		(p.at.Addr() == other.at.Addr() || p.at.Addr().IsUnspecified() || other.at.Addr().IsUnspecified())
}

// publications reads all records of published ports.
func (b *bridge) publications() ([]publication, error) {
	names, err := readNames(b.path("ports"))
	if err != nil {
		return nil, fmt.Errorf("list published ports: %w", err)
	}
	list := make([]publication, 0, len(names))
	for _, name := range names {
		text, err := os.Readlink(b.path("ports", name))
		if err != nil {
			continue // withdrawn meanwhile
		}
		if p, ok := parsePublication(name, text); ok {
			list = append(list, p)
		}
	}
	return list, nil
}

// publish reserves the host ports, writes their records and then their map
// elements. It returns the mappings with host addresses and ports filled in,
// and a bound socket for each.
func (b *bridge) publish(ctx context.Context, containerID string, address netip.Addr, mappings []PortMapping) (_ []PortMapping, _ []*os.File, err error) {
	lock, err := flock(ctx, b.path("ports.lock"), unix.LOCK_EX)
	if err != nil {
		return nil, nil, err
	}
	defer lock.Close()
	others, err := b.publications()
	if err != nil {
		return nil, nil, err
	}
	reservation := &reservation{taken: map[portKey][]publication{}}
	for _, other := range others {
		reservation.add(other)
	}
	var mine []publication
	defer func() {
		reservation.dismiss()
		if err != nil {
			closeAll(reservation.sockets)
			err = errors.Join(err, b.forget(mine))
		}
	}()
	resolved := make([]PortMapping, 0, len(mappings))
	for _, mapping := range mappings {
		at, err := reservation.reserve(mapping)
		if err != nil {
			return nil, nil, err
		}
		p := publication{protocol: mapping.Protocol, at: at, target: netip.AddrPortFrom(address, mapping.ContainerPort), container: containerID}
		reservation.add(p)
		if err := os.Symlink(p.container+"/"+p.target.String(), b.path("ports", p.name())); err != nil {
			return nil, nil, fmt.Errorf("record published port %s: %w", p.name(), err)
		}
		mine = append(mine, p)
		resolved = append(resolved, PortMapping{HostIP: at.Addr(), HostPort: at.Port(), ContainerPort: mapping.ContainerPort, Protocol: mapping.Protocol})
	}
	if err := b.enforce(mine); err != nil {
		return nil, nil, err
	}
	return resolved, reservation.sockets, nil
}

// enforce puts publications into the kernel's maps, all or none.
func (b *bridge) enforce(list []publication) error {
	r, err := newRuleset(b.name)
	if err != nil {
		return err
	}
	defer r.close()
	err = r.addElements(list)
	if errors.Is(err, unix.EEXIST) {
		// The records are complete, so what is there belongs to nobody.
		if err = r.deleteElements(list); err == nil {
			err = r.addElements(list)
		}
	}
	if err != nil {
		return errors.Join(err, r.deleteElements(list))
	}
	forgetOldFlows(list)
	return nil
}

// withdraw undoes publish: elements first, records last.
func (b *bridge) withdraw(ctx context.Context, list []publication) error {
	if len(list) == 0 {
		return nil
	}
	lock, err := flock(ctx, b.path("ports.lock"), unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer lock.Close()
	return b.withdrawLocked(list)
}

func (b *bridge) withdrawLocked(list []publication) error {
	if len(list) == 0 {
		return nil
	}
	r, err := newRuleset(b.name)
	if err != nil {
		return err
	}
	defer r.close()
	if err := r.deleteElements(list); err != nil {
		return err
	}
	for i, p := range list {
		if i == 0 || p.target.Addr() != list[i-1].target.Addr() {
			forgetFlowsTo(p.target.Addr())
		}
	}
	return b.forget(list)
}

// forget removes records.
func (b *bridge) forget(list []publication) error {
	var failures []error
	for _, p := range list {
		if err := os.Remove(b.path("ports", p.name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			failures = append(failures, fmt.Errorf("remove record of published port: %w", err))
		}
	}
	return errors.Join(failures...)
}

// portKey is what publications must share to conflict.
type portKey struct {
	protocol Protocol
	port     uint16
}

// reservation finds host ports that are free, both in our records and on the
// host, which is asked by binding a socket.
type reservation struct {
	taken map[portKey][]publication
	// sockets hold what was reserved, rejected what was bound in vain.
	sockets  []*os.File
	rejected []*os.File
}

func (r *reservation) add(p publication) {
	key := portKey{p.protocol, p.at.Port()}
	r.taken[key] = append(r.taken[key], p)
}

// dismiss closes the sockets that were only in the way of a search.
func (r *reservation) dismiss() { closeAll(r.rejected) }

func (r *reservation) conflict(candidate publication) *publication {
	for _, other := range r.taken[portKey{candidate.protocol, candidate.at.Port()}] {
		if candidate.conflicts(other) {
			return &other
		}
	}
	return nil
}

// reserve finds the host address and port of a mapping. Of a range it takes
// the first that is free, and for port 0 what the kernel offers.
func (r *reservation) reserve(mapping PortMapping) (netip.AddrPort, error) {
	address := mapping.HostIP
	if !address.IsValid() {
		address = netip.IPv4Unspecified()
	}
	if mapping.HostPort == 0 {
		return r.reserveAny(address, mapping.Protocol)
	}
	var failure error
	for port := uint32(mapping.HostPort); port <= uint32(max(mapping.HostPortEnd, mapping.HostPort)); port++ {
		at := netip.AddrPortFrom(address, uint16(port))
		if failure = r.reserveExact(at, mapping.Protocol); failure == nil {
			return at, nil
		}
	}
	return netip.AddrPort{}, failure
}

func (r *reservation) reserveExact(at netip.AddrPort, protocol Protocol) error {
	if other := r.conflict(publication{protocol: protocol, at: at}); other != nil {
		return fmt.Errorf("bind for %s/%s failed: %w (by container %.12s)", at, protocol, ErrPortAllocated, other.container)
	}
	socket, _, err := bind(at, protocol)
	if err != nil {
		return fmt.Errorf("bind for %s/%s failed: %w", at, protocol, err)
	}
	if socket != nil {
		r.sockets = append(r.sockets, socket)
	}
	return nil
}

// reserveAny lets the kernel choose until its choice is not on record either;
// each choice stays bound meanwhile, so that the next is another.
func (r *reservation) reserveAny(address netip.Addr, protocol Protocol) (netip.AddrPort, error) {
	for range 1000 {
		socket, at, err := bind(netip.AddrPortFrom(address, 0), protocol)
		if err != nil {
			return netip.AddrPort{}, fmt.Errorf("bind for an ephemeral port of %s/%s failed: %w", address, protocol, err)
		}
		if socket == nil {
			return netip.AddrPort{}, fmt.Errorf("bind for an ephemeral port of %s/%s failed: this kernel has no %s to choose one; give a host port", address, protocol, protocol)
		}
		if r.conflict(publication{protocol: protocol, at: at}) == nil {
			r.sockets = append(r.sockets, socket)
			return at, nil
		}
		r.rejected = append(r.rejected, socket)
	}
	return netip.AddrPort{}, fmt.Errorf("bind for an ephemeral port of %s/%s failed: %w: all that the kernel offered", address, protocol, ErrPortAllocated)
}

// bind opens a socket of the protocol that is bound to an address and port of
// the host, and tells which port that is. Where the kernel lacks the protocol
// (SCTP) no program can have the port: then there is no socket and no error.
func bind(at netip.AddrPort, protocol Protocol) (*os.File, netip.AddrPort, error) {
	kind := unix.SOCK_STREAM
	if protocol == UDP {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(protocol.number()))
	if errors.Is(err, unix.EPROTONOSUPPORT) && protocol == SCTP {
		return nil, at, nil
	}
	if err != nil {
		return nil, at, fmt.Errorf("open socket: %w", err)
	}
	if at, err = bindSocket(fd, at, protocol); err != nil {
		_ = unix.Close(fd)
		return nil, at, err
	}
	return os.NewFile(uintptr(fd), at.String()+"/"+string(protocol)), at, nil
}

func bindSocket(fd int, at netip.AddrPort, protocol Protocol) (netip.AddrPort, error) {
	if protocol != UDP {
		// Connections of a program that has ended may linger in TIME_WAIT.
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return at, err
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}); err != nil {
		return at, err
	}
	if protocol != UDP {
		// With SO_REUSEADDR on both sides only a listener keeps others off.
		if err := unix.Listen(fd, 0); err != nil {
			return at, err
		}
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return at, err
	}
	bound, ok := name.(*unix.SockaddrInet4)
	if !ok {
		return at, fmt.Errorf("socket has an address of type %T", name)
	}
	return netip.AddrPortFrom(at.Addr(), uint16(bound.Port)), nil
}

func closeAll(files []*os.File) {
	for _, file := range files {
		_ = file.Close()
	}
}
