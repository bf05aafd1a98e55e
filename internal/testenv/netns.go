package testenv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// newNetns makes a network namespace with its loopback up and returns a
// descriptor of it. It lives as long as a descriptor or a process in it does.
func newNetns() (*os.File, error) {
	var ns *os.File
	err := onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("find the loopback link: %w", err)
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return fmt.Errorf("set the loopback link up: %w", err)
		}
		ns, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	return ns, err
}

// Outside is a network namespace that stands for the rest of the world: an engine's
// only way out leads there.
type Outside struct{ ns *os.File }

// Addresses of the link between an engine's network and the outside, which are
// reserved for documentation (RFC 5737) and so collide with nobody's.
const (
	EngineAddress  = "203.0.113.1"
	OutsideAddress = "203.0.113.2"
)

// Outside makes a world outside: a link from the engine's network with
// [EngineAddress] and a default route to [OutsideAddress].
func (e *Instance) Outside() *Outside {
	e.t.Helper()
	ns, err := newNetns()
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { ns.Close() })
	near := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "uplink"}, PeerName: "outside", PeerNamespace: netlink.NsFd(int(ns.Fd()))}
	err = e.Network(func() error {
		if err := netlink.LinkAdd(near); err != nil {
			return fmt.Errorf("make the link outside: %w", err)
		}
		if err := raise("uplink", EngineAddress); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(OutsideAddress)})
	})
	if err != nil {
		e.t.Fatal(err)
	}
	if err := inNetns(ns, func() error { return raise("outside", OutsideAddress) }); err != nil {
		e.t.Fatal(err)
	}
	// The far end may not be taken down before the near one is looked for.
	e.t.Cleanup(func() {
		if err := e.Network(func() error { return netlink.LinkDel(near) }); err != nil {
			e.t.Errorf("remove the link outside: %v", err)
		}
	})
	return &Outside{ns: ns}
}

// Listen listens outside.
func (o *Outside) Listen(network, address string) (net.Listener, error) {
	var l net.Listener
	err := inNetns(o.ns, func() (err error) {
		l, err = net.Listen(network, address)
		return err
	})
	return l, err
}

// Dial connects from outside to a numeric address.
func (o *Outside) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := inNetns(o.ns, func() (err error) {
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// raise gives a link of the current namespace its address, with a /24, and sets it
// up.
func raise(name, address string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	addr, err := netlink.ParseAddr(address + "/24")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("give %s its address: %w", name, err)
	}
	return netlink.LinkSetUp(link)
}

// onOwnThread runs f on a thread that ends with it, so that what f does to the
// thread (its namespaces) stays with f.
func onOwnThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		// Never unlocked: the runtime ends the thread with the goroutine.
		runtime.LockOSThread()
		result <- f()
	}()
	return <-result
}

// inNetns runs f on a thread in the namespace; without one, right here.
func inNetns(ns *os.File, f func() error) error {
	if ns == nil {
		return f()
	}
	return onOwnThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter the engine's network namespace: %w", err)
		}
		return f()
	})
}

// Network runs f on a thread in the engine's network namespace. Sockets and
// processes that f makes are in it too; goroutines that f starts are not.
func (e *Instance) Network(f func() error) error { return inNetns(e.netns, f) }

// Listen listens in the engine's network namespace.
func (e *Instance) Listen(network, address string) (net.Listener, error) {
	var l net.Listener
	err := e.Network(func() (err error) {
		l, err = net.Listen(network, address)
		return err
	})
	return l, err
}

// Dial connects from the engine's network namespace. The address must be numeric:
// a name would be looked up on another thread.
func (e *Instance) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if net.ParseIP(host) == nil {
		return nil, errors.New("dial from the engine's network: the address must be numeric")
	}
	var conn net.Conn
	err = e.Network(func() (err error) {
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// linkLeaks lists the links of ours in the namespace, less the bridge, which may
// stay for the next container.
func linkLeaks(ns *os.File) []string {
	var leaks []string
	err := inNetns(ns, func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return fmt.Errorf("list the links: %w", err)
		}
		for _, link := range links {
			if name := link.Attrs().Name; link.Type() == "veth" && name != "uplink" {
				leaks = append(leaks, "link "+name)
			}
		}
		return nil
	})
	if err != nil {
		leaks = append(leaks, err.Error())
	}
	return leaks
}
