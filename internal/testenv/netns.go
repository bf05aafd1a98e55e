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
			if name := link.Attrs().Name; link.Type() == "veth" {
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
