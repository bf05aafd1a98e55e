package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"

	"vivarium/internal/sys"

	"golang.org/x/sys/unix"
)

// From <linux/veth.h> and <linux/if_link.h>.
const (
	vethInfoPeer = 1 // VETH_INFO_PEER
	brportMode   = 4 // IFLA_BRPORT_MODE: hairpin
)

const ack = unix.NLM_F_ACK

// withSocket calls do with a socket on which interface ioctls work.
func withSocket(do func(fd int) error) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	defer unix.Close(fd)
	return do(fd)
}

// linkStatus gives the index of a link of the calling thread's namespace and
// whether it is up; the error is ENODEV if there is none.
func linkStatus(name string) (index int, up bool, err error) {
	err = withSocket(func(fd int) error {
		if index, err = linkIndex(fd, name); err != nil {
			return err
		}
		request, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, request); err != nil {
			return fmt.Errorf("read flags of %s: %w", name, err)
		}
		up = request.Uint16()&unix.IFF_UP != 0
		return nil
	})
	return index, up, err
}

// linkIndex looks a link up in the namespace of the socket, of any family.
func linkIndex(fd int, name string) (int, error) {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, request); err != nil {
		return 0, fmt.Errorf("find interface %s: %w", name, err)
	}
	return int(request.Uint32()), nil
}

// linkAddress gives the primary IPv4 address of a link.
func linkAddress(name string) (address netip.Addr, err error) {
	err = withSocket(func(fd int) error {
		request, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFADDR, request); err != nil {
			return fmt.Errorf("read address of %s: %w", name, err)
		}
		bytes, err := request.Inet4Addr()
		if err != nil {
			return err
		}
		address, _ = netip.AddrFromSlice(bytes)
		return nil
	})
	return address, err
}

// createBridge makes a bridge that is down and gives its index.
func createBridge(host *conn, name string, mtu int) (int, error) {
	b := new(batch)
	b.begin(unix.RTM_NEWLINK, ack|unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	b.link(0, 0, 0)
	b.attrString(unix.IFLA_IFNAME, name)
	b.attrUint32(unix.IFLA_MTU, uint32(mtu))
	info := b.nest(unix.IFLA_LINKINFO)
	b.attr(unix.IFLA_INFO_KIND, []byte("bridge"))
	b.endNest(info)
	b.end()
	if err := host.run(b); err != nil {
		return 0, fmt.Errorf("create bridge %s: %w%s", name, err, privilegeHint(err))
	}
	index, _, err := linkStatus(name)
	return index, err
}

// privilegeHint says what to do about EPERM.
func privilegeHint(err error) string {
	if errors.Is(err, unix.EPERM) {
		return "; the bridge network needs root (CAP_NET_ADMIN), use --network none or host without it"
	}
	return ""
}

func setLinkUp(host *conn, name string) error {
	index, _, err := linkStatus(name)
	if err != nil {
		return err
	}
	b := new(batch)
	b.begin(unix.RTM_NEWLINK, ack)
	b.link(int32(index), unix.IFF_UP, unix.IFF_UP)
	b.end()
	if err := host.run(b); err != nil {
		return fmt.Errorf("bring up %s: %w", name, err)
	}
	return nil
}

func setLinkAddress(host *conn, index int, mac net.HardwareAddr) error {
	b := new(batch)
	b.begin(unix.RTM_NEWLINK, ack)
	b.link(int32(index), 0, 0)
	b.attr(unix.IFLA_ADDRESS, mac)
	b.end()
	if err := host.run(b); err != nil {
		return fmt.Errorf("set hardware address %s: %w", mac, err)
	}
	return nil
}

// deleteLink removes a link by its index, which no other link gets meanwhile. It
// is for bridges; a veth pair is retired. That it is gone already is no error.
func deleteLink(host *conn, index int) error {
	b := new(batch)
	b.begin(unix.RTM_DELLINK, ack)
	b.link(int32(index), 0, 0)
	b.end()
	if err := host.run(b); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete link %d: %w", index, err)
	}
	return nil
}

// address appends a message about an IPv4 address of a link.
func (b *batch) address(kind, flags uint16, index int, address netip.Addr, bits int) {
	bytes := address.As4()
	b.begin(kind, flags)
	b.buf = append(b.buf, unix.AF_INET, byte(bits), 0, unix.RT_SCOPE_UNIVERSE)
	b.buf = binary.NativeEndian.AppendUint32(b.buf, uint32(index))
	b.attr(unix.IFA_LOCAL, bytes[:])
	b.attr(unix.IFA_ADDRESS, bytes[:])
	if kind == unix.RTM_NEWADDR && bits < 31 {
		broadcast := binary.BigEndian.AppendUint32(nil, fromAddr(address)|(1<<(32-bits)-1))
		b.attr(unix.IFA_BROADCAST, broadcast)
	}
	b.end()
}

func addAddress(host *conn, index int, address netip.Addr, bits int) error {
	b := new(batch)
	b.address(unix.RTM_NEWADDR, ack|unix.NLM_F_CREATE|unix.NLM_F_REPLACE, index, address, bits)
	if err := host.run(b); err != nil {
		return fmt.Errorf("add address %s/%d: %w", address, bits, err)
	}
	return nil
}

func removeAddress(host *conn, index int, address netip.Addr, bits int) error {
	b := new(batch)
	b.address(unix.RTM_DELADDR, ack, index, address, bits)
	if err := host.run(b); err != nil {
		return fmt.Errorf("remove address %s/%d: %w", address, bits, err)
	}
	return nil
}

// veth is a pair of which one end is a port of a bridge of ours and the other
// is made directly in the container's namespace.
type veth struct {
	host      string
	bridge    int // index
	mtu       int
	peer      string
	peerMAC   net.HardwareAddr
	peerIP    netip.Addr
	namespace *os.File
	// hairpin lets the bridge send a frame back to where it came from. Where
	// bridged packets pass through the IP hooks (br_netfilter), a connection
	// of a container to a port that it publishes itself is such a frame.
	hairpin bool
}

// create makes the pair with one system call. The bridge forgets whom it knew
// under the address before, for a container may have brought its own MAC.
func (v *veth) create(host *conn) error {
	b := new(batch)
	b.forgetNeighbour(v.bridge, v.peerIP)
	b.begin(unix.RTM_NEWLINK, ack|unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	b.link(0, unix.IFF_UP, unix.IFF_UP)
	b.attrString(unix.IFLA_IFNAME, v.host)
	b.attrUint32(unix.IFLA_MASTER, uint32(v.bridge))
	b.vethEnd(v.mtu)
	info := b.nest(unix.IFLA_LINKINFO)
	b.attr(unix.IFLA_INFO_KIND, []byte("veth"))
	data := b.nest(unix.IFLA_INFO_DATA)
	peer := b.nest(vethInfoPeer)
	b.link(0, 0, 0) // the kernel configures it before it has its other end: it cannot be up yet
	b.attrString(unix.IFLA_IFNAME, v.peer)
	b.attr(unix.IFLA_ADDRESS, v.peerMAC)
	b.attrUint32(unix.IFLA_NET_NS_FD, uint32(v.namespace.Fd()))
	b.vethEnd(v.mtu)
	b.endNest(peer)
	b.endNest(data)
	b.endNest(info)
	b.end()
	if v.hairpin {
		b.setHairpin(v.host)
	}
	results, err := host.execute(b)
	if err != nil {
		return err
	}
	// results[0]: that there was no neighbour to forget is no error.
	if results[1] == nil && v.hairpin {
		return results[2]
	}
	return results[1]
}

func (b *batch) setHairpin(name string) {
	b.begin(unix.RTM_NEWLINK, ack)
	b.link(0, 0, 0)
	b.attrString(unix.IFLA_IFNAME, name)
	info := b.nest(unix.IFLA_LINKINFO)
	b.attr(unix.IFLA_INFO_SLAVE_KIND, []byte("bridge"))
	data := b.nest(unix.IFLA_INFO_SLAVE_DATA)
	b.attr(brportMode, []byte{1})
	b.endNest(data)
	b.endNest(info)
	b.end()
}

// replace is create, after putting aside what an earlier owner of the address has
// left: its pair is there until the kernel has taken down the old namespace. It
// is on this bridge, or on none if it was another engine's, whose bridge with the
// same subnet is gone already.
func (v *veth) replace(host *conn) error {
	for range 3 {
		err := v.create(host)
		if !errors.Is(err, unix.EEXIST) {
			return err
		}
		old, master, err := findLink(host, v.host)
		if errors.Is(err, unix.ENODEV) || err == nil && master != v.bridge && master != 0 {
			continue // just gone, or it is the other end that exists
		}
		if err != nil {
			return err
		}
		if err := retire(host, old.index); err != nil {
			return err
		}
	}
	return v.create(host)
}

// retire takes a port off its bridge, down, and gives it a name that no other
// link has. The pair itself ends with the namespace that it leads to: at once,
// if nobody is in there; else when the last one leaves, and till then it leads
// nowhere.
//
// It is not deleted, for nobody can hold a namespace by its number while he does
// so. Linux 6.18 follows a NULL pointer, with the lock of all network devices
// held, when a veth pair is deleted from outside just as the namespace at its
// other end is taken down (netdev_genl_dev_notify, called by netdev_run_todo).
// Changing a link has no such tail: it is done when the lock is let go.
//
// That it is gone already is no error.
func retire(host *conn, index int) error {
	b := new(batch)
	b.begin(unix.RTM_NEWLINK, ack)
	b.link(int32(index), 0, unix.IFF_UP)
	b.attrUint32(unix.IFLA_MASTER, 0)
	b.end()
	// Before Linux 6.2 a link can only be renamed while it is down, and one
	// request renames before it sets flags.
	b.begin(unix.RTM_NEWLINK, ack)
	b.link(int32(index), 0, 0)
	b.attrString(unix.IFLA_IFNAME, retiredInterface(index))
	b.end()
	if err := host.run(b); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("take link %d off its bridge: %w", index, err)
	}
	return nil
}

// retiredInterface is a name that hostInterface does not make. An index belongs
// to one link of a namespace.
func retiredInterface(index int) string { return "vivx" + strconv.Itoa(index) }

// vethEnd appends what both ends have in common. One queue is what a veth
// uses; by default the kernel makes one for each processor.
func (b *batch) vethEnd(mtu int) {
	b.attrUint32(unix.IFLA_MTU, uint32(mtu))
	b.attrUint32(unix.IFLA_NUM_TX_QUEUES, 1)
	b.attrUint32(unix.IFLA_NUM_RX_QUEUES, 1)
}

func (b *batch) forgetNeighbour(index int, address netip.Addr) {
	bytes := address.As4()
	b.begin(unix.RTM_DELNEIGH, ack)
	b.buf = append(b.buf, unix.AF_INET, 0, 0, 0)
	b.buf = binary.NativeEndian.AppendUint32(b.buf, uint32(index))
	b.buf = append(b.buf, 0, 0, 0, 0) // state, flags, type
	b.attr(unix.NDA_DST, bytes[:])
	b.end()
}

// configure gives the container's end its address, brings it up, and makes the
// bridge its way to everything. It runs on a thread in the container's
// namespace, by ioctls on a datagram socket, for the reason that stands at
// sys.AddDefaultRoute.
func (v *veth) configure(gateway netip.Addr, bits int) error {
	return withSocket(func(fd int) error {
		address := v.peerIP.As4()
		mask := binary.BigEndian.AppendUint32(nil, ^uint32(0)<<(32-bits))
		if err := setInet4(fd, unix.SIOCSIFADDR, v.peer, address[:]); err != nil {
			return fmt.Errorf("set address %s of %s: %w", v.peerIP, v.peer, err)
		}
		if err := setInet4(fd, unix.SIOCSIFNETMASK, v.peer, mask); err != nil {
			return fmt.Errorf("set prefix length %d of %s: %w", bits, v.peer, err)
		}
		if err := bringUp(fd, v.peer); err != nil {
			return err
		}
		if err := sys.AddDefaultRoute(fd, gateway.As4()); err != nil {
			return fmt.Errorf("add default route by %s: %w", gateway, err)
		}
		return nil
	})
}

func setInet4(fd int, request uint, name string, bytes []byte) error {
	ifreq, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := ifreq.SetInet4Addr(bytes); err != nil {
		return err
	}
	return unix.IoctlIfreq(fd, request, ifreq)
}

// bringUp sets IFF_UP by ioctl.
func bringUp(fd int, name string) error {
	ifreq, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	ifreq.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifreq); err != nil {
		return fmt.Errorf("bring up %s: %w", name, err)
	}
	return nil
}

// port is an interface that belongs to a bridge.
type port struct {
	index int
	name  string
	// peerNamespace is the number that this namespace gave to the peer's, -1
	// if the peer is in no namespace that is known here.
	peerNamespace int32
}

// A namespace that is being taken down loses its number before its links go; the
// kernel says then that it has none.
const goneNamespace = -2

func parsePort(body []byte) (found port, master int) {
	if len(body) < unix.SizeofIfInfomsg {
		return found, 0
	}
	found = port{index: int(int32(binary.NativeEndian.Uint32(body[4:]))), peerNamespace: -1}
	eachAttr(body[unix.SizeofIfInfomsg:], func(kind uint16, data []byte) {
		switch {
		case kind == unix.IFLA_IFNAME && len(data) > 1:
			found.name = string(data[:len(data)-1])
		case kind == unix.IFLA_MASTER && len(data) >= 4:
			master = int(binary.NativeEndian.Uint32(data))
		case kind == unix.IFLA_LINK_NETNSID && len(data) >= 4:
			if found.peerNamespace = int32(binary.NativeEndian.Uint32(data)); found.peerNamespace < 0 {
				found.peerNamespace = goneNamespace
			}
		}
	})
	return found, master
}

// findPort looks for a port of a bridge by name; the error is ENODEV if there
// is no such link or it is no port of this bridge.
func findPort(host *conn, bridge int, name string) (port, error) {
	found, master, err := findLink(host, name)
	if err == nil && master != bridge {
		return port{}, fmt.Errorf("interface %s belongs to somebody else: %w", name, unix.ENODEV)
	}
	return found, err
}

// findLink looks for a link by name, and gives the index of the bridge that it is a
// port of, or 0.
func findLink(host *conn, name string) (found port, master int, err error) {
	b := new(batch)
	b.begin(unix.RTM_GETLINK, 0)
	b.link(0, 0, 0)
	b.attrString(unix.IFLA_IFNAME, name)
	b.end()
	body, err := host.get(b)
	if err != nil {
		return port{}, 0, fmt.Errorf("find interface %s: %w", name, err)
	}
	found, master = parsePort(body)
	return found, master, nil
}

// ports lists the ports of a bridge.
func ports(host *conn, bridge int) ([]port, error) {
	b := new(batch)
	b.begin(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	b.link(0, 0, 0)
	b.attrUint32(unix.IFLA_MASTER, uint32(bridge)) // old kernels list all links
	b.end()
	var list []port
	err := host.dump(b, func(body []byte) error {
		if found, master := parsePort(body); master == bridge && found.name != "" {
			list = append(list, found)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list ports of bridge: %w", err)
	}
	return list, nil
}

// Attributes of RTM_GETNSID, from <linux/net_namespace.h>.
const (
	netnsaNSID = 1
	netnsaFD   = 3
)

// namespaceNumber gives the number by which the calling thread's namespace
// knows another, which it has from the moment that a veth pair leads there.
// Unlike requests about links, this waits for no lock that a namespace's
// taking down holds.
func namespaceNumber(host *conn, namespace *os.File) (int32, error) {
	number, err := namespaceRequest(host, netnsaFD, uint32(namespace.Fd()))
	if err != nil {
		return -1, fmt.Errorf("ask for the number of the network namespace: %w", err)
	}
	return number, nil
}

// alive tells whether anything, a process or a descriptor, still holds the
// namespace with a number. If not, the kernel removes each veth pair that
// leads there by itself, soon. Kernels that cannot tell say yes.
func alive(host *conn, number int32) bool {
	if number == goneNamespace {
		return false
	}
	if number < 0 {
		return true
	}
	_, err := namespaceRequest(host, netnsaNSID, uint32(number))
	return !errors.Is(err, unix.ENOENT)
}

func namespaceRequest(host *conn, kind uint16, value uint32) (int32, error) {
	b := new(batch)
	b.begin(unix.RTM_GETNSID, 0)
	b.buf = append(b.buf, 0, 0, 0, 0) // struct rtgenmsg, padded
	b.attrUint32(kind, value)
	b.end()
	body, err := host.get(b)
	if err != nil {
		return -1, err
	}
	number := int32(-1)
	if len(body) > 4 {
		eachAttr(body[4:], func(kind uint16, data []byte) {
			if kind == netnsaNSID && len(data) == 4 {
				number = int32(binary.NativeEndian.Uint32(data))
			}
		})
	}
	return number, nil
}

// overlapping names a route or address of the host that shares addresses with
// the subnet, "" if there is none. What belongs to the link ours does not count.
func overlapping(host *conn, ours int, subnet netip.Prefix) (string, error) {
	found := ""
	routes := new(batch)
	routes.begin(unix.RTM_GETROUTE, unix.NLM_F_DUMP)
	routes.buf = append(routes.buf, make([]byte, unix.SizeofRtMsg)...)
	routes.buf[routes.start+unix.NLMSG_HDRLEN] = unix.AF_INET
	routes.end()
	err := host.dump(routes, func(body []byte) error {
		if other, oif := parseRoute(body); oif != ours && other.Bits() > 0 && other.Overlaps(subnet) {
			found = "route to " + other.String()
		}
		return nil
	})
	if err != nil || found != "" {
		return found, err
	}
	addresses := new(batch)
	addresses.begin(unix.RTM_GETADDR, unix.NLM_F_DUMP)
	addresses.buf = append(addresses.buf, unix.AF_INET, 0, 0, 0, 0, 0, 0, 0)
	addresses.end()
	err = host.dump(addresses, func(body []byte) error {
		if other, index := parseAddress(body); index != ours && other.IsValid() && other.Overlaps(subnet) {
			found = "address " + other.String()
		}
		return nil
	})
	return found, err
}

func parseRoute(body []byte) (destination netip.Prefix, oif int) {
	if len(body) < unix.SizeofRtMsg || body[0] != unix.AF_INET {
		return netip.Prefix{}, 0
	}
	bits := int(body[1])
	eachAttr(body[unix.SizeofRtMsg:], func(kind uint16, data []byte) {
		switch {
		case kind == unix.RTA_DST && len(data) == 4:
			destination = netip.PrefixFrom(netip.AddrFrom4([4]byte(data)), bits)
		case kind == unix.RTA_OIF && len(data) == 4:
			oif = int(binary.NativeEndian.Uint32(data))
		}
	})
	return destination, oif
}

func parseAddress(body []byte) (address netip.Prefix, index int) {
	if len(body) < unix.SizeofIfAddrmsg || body[0] != unix.AF_INET {
		return netip.Prefix{}, 0
	}
	bits := int(body[1])
	eachAttr(body[unix.SizeofIfAddrmsg:], func(kind uint16, data []byte) {
		if kind == unix.IFA_ADDRESS && len(data) == 4 {
			address = netip.PrefixFrom(netip.AddrFrom4([4]byte(data)), bits)
		}
	})
	return address, int(binary.NativeEndian.Uint32(body[4:]))
}
