package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// worldVariable marks the test process that runs inside a network namespace of
// its own, which is "the host" of all tests here: no bridge, table, sysctl or
// packet of theirs is ever seen by the machine.
const worldVariable = "VIV_NETWORK_TEST_WORLD"

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 || os.Getenv(worldVariable) != "" {
		if os.Getenv(worldVariable) != "" {
			if err := loopbackUp(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
		os.Exit(m.Run())
	}
	inner := exec.Command("/proc/self/exe", os.Args[1:]...)
	inner.Env = append(os.Environ(), worldVariable+"=1")
	inner.Stdin, inner.Stdout, inner.Stderr = os.Stdin, os.Stdout, os.Stderr
	inner.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := inner.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(max(exit.ExitCode(), 1))
	case err != nil:
		fmt.Fprintln(os.Stderr, "run tests in a network namespace:", err)
		os.Exit(1)
	}
}

func needWorld(t testing.TB) {
	t.Helper()
	if os.Getenv(worldVariable) == "" {
		t.Skip("needs root: makes network namespaces and interfaces")
	}
}

// newManager is an engine of its own, whose traces must be gone at the end.
func newManager(t testing.TB) *Manager {
	t.Helper()
	needWorld(t)
	m := Open(t.TempDir())
	t.Cleanup(func() {
		if err := m.Teardown(context.Background()); err != nil {
			t.Error(err)
		}
		if _, err := net.InterfaceByName(m.Bridge()); err == nil {
			t.Errorf("bridge %s is left", m.Bridge())
		}
		if exists, err := tableExists(m.Bridge()); exists || err != nil {
			t.Errorf("table %s is left (%v)", m.Bridge(), err)
		}
	})
	return m
}

func newNamespace(t testing.TB) *os.File {
	t.Helper()
	needWorld(t)
	namespace, err := NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = namespace.Close() })
	return namespace
}

// attach starts a "container": a namespace with an endpoint.
func attach(t testing.TB, m *Manager, request Request) (*os.File, Endpoint) {
	t.Helper()
	namespace := newNamespace(t)
	endpoint, err := m.Attach(t.Context(), namespace, request)
	if err != nil {
		t.Fatal(err)
	}
	return namespace, endpoint
}

// Addresses of the link between the host and the outside (TEST-NET-1).
const (
	hostAddress    = "192.0.2.1"
	outsideAddress = "192.0.2.2"
)

// outsides counts them: a name is taken until the kernel has cleaned up.
var outsides int

// newOutside is another machine: it knows the way to the host alone.
func newOutside(t testing.TB) *os.File {
	t.Helper()
	outside := newNamespace(t)
	outsides++
	name := fmt.Sprintf("outside%d", outsides)
	host, err := dial(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer host.close()
	uplink, err := createBridge(host, "uplink", defaultMTU)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		host, err := dial(unix.NETLINK_ROUTE)
		if err != nil {
			t.Fatal(err)
		}
		defer host.close()
		if err := deleteLink(host, uplink); err != nil {
			t.Error(err)
		}
	})
	address := netip.MustParseAddr(hostAddress)
	if err := errors.Join(setLinkUp(host, "uplink"), addAddress(host, uplink, address, 24)); err != nil {
		t.Fatal(err)
	}
	peer := netip.MustParseAddr(outsideAddress)
	pair := &veth{host: name, bridge: uplink, mtu: defaultMTU, peer: "eth0", peerMAC: derivedMAC(peer), peerIP: peer, namespace: outside}
	if err := pair.create(host); err != nil {
		t.Fatal(err)
	}
	err = inNamespace(outside, func() error {
		inside, err := dial(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer inside.close()
		index, err := linkIndex(inside.fd, "eth0")
		if err != nil {
			return err
		}
		return errors.Join(setLinkUp(inside, "eth0"), addAddress(inside, index, peer, 24))
	})
	if err != nil {
		t.Fatal(err)
	}
	return outside
}

// within is inNamespace, where nil is the host.
func within(namespace *os.File, do func() error) error {
	if namespace == nil {
		return do()
	}
	return inNamespace(namespace, do)
}

// serveTCP answers each connection with a greeting and the client's address.
func serveTCP(t testing.TB, namespace *os.File, address, greeting string) {
	t.Helper()
	var listener net.Listener
	err := within(namespace, func() (err error) {
		listener, err = net.Listen("tcp4", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = fmt.Fprintf(client, "%s to %s", greeting, client.RemoteAddr().(*net.TCPAddr).IP)
			_ = client.Close()
		}
	}()
}

// serveUDP answers each datagram in the same way.
func serveUDP(t testing.TB, namespace *os.File, address, greeting string) {
	t.Helper()
	var socket net.PacketConn
	err := within(namespace, func() (err error) {
		socket, err = net.ListenPacket("udp4", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = socket.Close() })
	go func() {
		buf := make([]byte, 1500)
		for {
			_, client, err := socket.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = socket.WriteTo(fmt.Appendf(nil, "%s to %s", greeting, client.(*net.UDPAddr).IP), client)
		}
	}()
}

// ask connects from a namespace and gives the whole answer.
func ask(namespace *os.File, network, address string, patience time.Duration) (string, error) {
	var client net.Conn
	err := within(namespace, func() (err error) {
		client, err = net.DialTimeout(network, address, patience)
		return err
	})
	if err != nil {
		return "", err
	}
	defer client.Close()
	if err := client.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if network == "tcp4" {
		answer, err := io.ReadAll(client)
		return string(answer), err
	}
	if _, err := client.Write([]byte("?")); err != nil {
		return "", err
	}
	buf := make([]byte, 1500)
	n, err := client.Read(buf)
	return string(buf[:n]), err
}

// patience is how long an answer may take on a busy machine, and impatience
// how long we listen to be sure that there is none.
const (
	patience   = 10 * time.Second
	impatience = 300 * time.Millisecond
)

func deadline() time.Time { return time.Now().Add(patience) }

func wantAnswer(t *testing.T, namespace *os.File, network, address, want string) {
	t.Helper()
	got, err := ask(namespace, network, address, patience)
	if err != nil || got != want {
		t.Errorf("%s %s: got %q, %v; want %q", network, address, got, err, want)
	}
}

func wantSilence(t *testing.T, namespace *os.File, network, address string) {
	t.Helper()
	if got, err := ask(namespace, network, address, impatience); err == nil {
		t.Errorf("%s %s: got %q, want no answer", network, address, got)
	}
}

// records lists every lease, port and endpoint on record.
func records(t testing.TB, m *Manager) string {
	t.Helper()
	var found []string
	for _, dir := range []string{"addresses", "ports", "endpoints"} {
		names, err := readNames(m.bridge().path(dir))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			found = append(found, filepath.Join(dir, name))
		}
	}
	return strings.Join(found, " ")
}

// vethCount counts host interfaces on the manager's bridge whose namespace lives.
func vethCount(t testing.TB, m *Manager) int {
	t.Helper()
	index, err := m.bridge().index()
	if err != nil {
		t.Fatal(err)
	}
	host, err := dial(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer host.close()
	list, err := ports(host, index)
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, found := range list {
		if alive(host, found.peerNamespace) {
			count++
		}
	}
	return count
}
