package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"

	"vivarium/internal/sys"

	"golang.org/x/sys/unix"
)

func ip(text string) netip.Addr { return netip.MustParseAddr(text) }

func mustPorts(t testing.TB, specs ...string) []PortMapping {
	t.Helper()
	var list []PortMapping
	for _, spec := range specs {
		mappings, err := ParsePort(spec)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, mappings...)
	}
	return list
}

func TestPublishedPortsFromEverywhere(t *testing.T) {
	needWorld(t)
	const bridgeNetfilter = "/proc/sys/net/bridge/bridge-nf-call-iptables"
	before, err := os.ReadFile(bridgeNetfilter)
	if err != nil {
		t.Logf("no br_netfilter here: only packets that are routed are seen by the rules")
		testPublishedPorts(t)
		return
	}
	defer func() {
		if err := os.WriteFile(bridgeNetfilter, before, 0o644); err != nil {
			t.Error(err)
		}
	}()
	for _, value := range []string{"0", "1"} {
		if err := os.WriteFile(bridgeNetfilter, []byte(value), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Run("bridge-nf-call-iptables="+value, testPublishedPorts)
	}
}

func testPublishedPorts(t *testing.T) {
	m := newManager(t)
	outside := newOutside(t)
	web, webEnd := attach(t, m, Request{ContainerID: "web", Ports: mustPorts(t, "8080:80", "5353:53/udp", "9000-9001:9000-9001", "192.0.2.1:7000:80", "127.0.0.1:7100:80")})
	other, otherEnd := attach(t, m, Request{ContainerID: "other"})
	serveTCP(t, web, ":80", "web")
	serveUDP(t, web, ":53", "dns")
	serveTCP(t, web, ":9001", "second")

	// From another machine the client's address is seen unchanged.
	wantAnswer(t, outside, "tcp4", hostAddress+":8080", "web to "+outsideAddress)
	wantAnswer(t, outside, "udp4", hostAddress+":5353", "dns to "+outsideAddress)
	wantAnswer(t, outside, "tcp4", hostAddress+":9001", "second to "+outsideAddress)
	wantAnswer(t, outside, "tcp4", hostAddress+":7000", "web to "+outsideAddress)
	wantSilence(t, outside, "tcp4", hostAddress+":7100")
	// From the host: by 127.0.0.1, which becomes the gateway, and by name.
	gateway := webEnd.Gateway.String()
	wantAnswer(t, nil, "tcp4", "127.0.0.1:8080", "web to "+gateway)
	wantAnswer(t, nil, "udp4", "127.0.0.1:5353", "dns to "+gateway)
	wantAnswer(t, nil, "tcp4", "127.0.0.1:7100", "web to "+gateway)
	wantAnswer(t, nil, "tcp4", hostAddress+":8080", "web to "+hostAddress)
	wantSilence(t, nil, "tcp4", "127.0.0.1:7000")
	// Hairpin: from the container itself and from its neighbour.
	wantAnswer(t, web, "tcp4", hostAddress+":8080", "web to "+gateway)
	wantAnswer(t, web, "udp4", hostAddress+":5353", "dns to "+gateway)
	wantAnswer(t, web, "tcp4", gateway+":8080", "web to "+gateway)
	wantAnswer(t, other, "tcp4", hostAddress+":8080", "web to "+gateway)
	wantAnswer(t, other, "udp4", hostAddress+":5353", "dns to "+gateway)
	// Container to container, and host to container, directly.
	wantAnswer(t, other, "tcp4", webEnd.IP.String()+":80", "web to "+otherEnd.IP.String())
	wantAnswer(t, nil, "tcp4", webEnd.IP.String()+":80", "web to "+gateway)

	if err := m.Detach(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	wantSilence(t, outside, "tcp4", hostAddress+":8080")
	wantSilence(t, nil, "tcp4", "127.0.0.1:8080")
}

func TestContainerReachesOutsideByNAT(t *testing.T) {
	m := newManager(t)
	outside := newOutside(t)
	inside, endpoint := attach(t, m, Request{ContainerID: "client"})
	serveTCP(t, outside, ":80", "world")
	serveUDP(t, outside, ":53", "resolver")
	serveTCP(t, nil, ":8000", "host")
	wantAnswer(t, inside, "tcp4", outsideAddress+":80", "world to "+hostAddress)
	wantAnswer(t, inside, "udp4", outsideAddress+":53", "resolver to "+hostAddress)
	wantAnswer(t, inside, "tcp4", endpoint.Gateway.String()+":8000", "host to "+endpoint.IP.String())
}

// TestNeighboursAreKeptOut plays a machine on the same wire that sends packets
// straight to a container, and to the host's 127.0.0.1.
func TestNeighboursAreKeptOut(t *testing.T) {
	m := newManager(t)
	outside := newOutside(t)
	inside, endpoint := attach(t, m, Request{ContainerID: "c", Ports: mustPorts(t, "127.0.0.1:7100:80")})
	serveTCP(t, inside, ":80", "secret")
	serveTCP(t, inside, ":81", "unpublished")
	serveTCP(t, nil, "127.0.0.1:6000", "host's own")
	for _, neighbour := range []*os.File{outside, inside} {
		gateway := hostAddress
		if neighbour == inside {
			gateway = endpoint.Gateway.String()
		}
		err := inNamespace(neighbour, func() error { return routeEverythingTo(ip(gateway)) })
		if err != nil {
			t.Fatal(err)
		}
	}
	wantSilence(t, outside, "tcp4", endpoint.IP.String()+":81")
	wantSilence(t, outside, "tcp4", "127.0.0.1:7100")
	wantSilence(t, outside, "tcp4", "127.0.0.1:6000")
	wantSilence(t, inside, "tcp4", "127.0.0.1:6000")
	// The oracle works: the host does reach both.
	wantAnswer(t, nil, "tcp4", "127.0.0.1:7100", "secret to "+endpoint.Gateway.String())
	wantAnswer(t, nil, "tcp4", "127.0.0.1:6000", "host's own to 127.0.0.1")
}

// routeEverythingTo makes the calling thread's namespace send 127.0.0.0/8 (its
// local routes are dropped) and all else to a gateway.
func routeEverythingTo(gateway netip.Addr) error {
	inside, err := dial(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer inside.close()
	lo, err := linkIndex(inside.fd, "lo")
	if err != nil {
		return err
	}
	if err := writeSysctl("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1"); err != nil {
		return err
	}
	// What was assigned to lo stays in the table "local" only while lo is up.
	_ = removeAddress(inside, lo, ip("127.0.0.1"), 8)
	return withSocket(func(fd int) error {
		if err := sys.AddDefaultRoute(fd, gateway.As4()); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		return nil
	})
}

func TestEndpoint(t *testing.T) {
	m := newManager(t)
	namespace, got := attach(t, m, Request{ContainerID: "c1", Ports: mustPorts(t, "80")})
	subnet := netip.PrefixFrom(got.Gateway, got.PrefixLen)
	if !subnet.Contains(got.IP) || got.IP == got.Gateway || got.Interface != "eth0" || got.Bridge != m.Bridge() {
		t.Errorf("endpoint %+v", got)
	}
	if len(got.Ports) != 1 || got.Ports[0].HostPort == 0 || !got.Ports[0].HostIP.IsUnspecified() {
		t.Errorf("ports %+v, want one with a host port and address", got.Ports)
	}
	var inside *net.Interface
	var addresses []net.Addr
	err := inNamespace(namespace, func() (err error) {
		if inside, err = net.InterfaceByName("eth0"); err != nil {
			return err
		}
		addresses, err = inside.Addrs()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if inside.HardwareAddr.String() != got.MAC || inside.MTU != got.MTU || inside.Flags&net.FlagUp == 0 {
		t.Errorf("interface %+v, endpoint %+v", inside, got)
	}
	if want := fmt.Sprintf("%s/%d", got.IP, got.PrefixLen); addresses[0].String() != want {
		t.Errorf("addresses %v, want %s", addresses, want)
	}
	recorded, err := m.Endpoint("c1")
	if err != nil || fmt.Sprint(recorded) != fmt.Sprint(got) {
		t.Errorf("recorded %+v, %v; want %+v", recorded, err, got)
	}
	for range 2 { // repeating it is no error
		if err := m.Detach(t.Context(), "c1"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := m.Endpoint("c1"); !errors.Is(err, ErrNotAttached) {
		t.Errorf("after Detach: %v, want ErrNotAttached", err)
	}
	if left := records(t, m); left != "" || vethCount(t, m) != 0 {
		t.Errorf("left: %s, %d links", left, vethCount(t, m))
	}
}

func TestFixedAddresses(t *testing.T) {
	m := newManager(t)
	_, first := attach(t, m, Request{ContainerID: "first"})
	fixed := first.IP.Next().Next().Next()
	mac, err := ParseMAC("02:42:ac:11:00:09")
	if err != nil {
		t.Fatal(err)
	}
	namespace, got := attach(t, m, Request{ContainerID: "fixed", IP: fixed, MAC: mac})
	if got.IP != fixed || got.MAC != mac.String() {
		t.Errorf("got %s %s, want %s %s", got.IP, got.MAC, fixed, mac)
	}
	serveTCP(t, namespace, ":80", "old")
	wantAnswer(t, nil, "tcp4", fixed.String()+":80", "old to "+got.Gateway.String())
	refused := map[string]struct {
		address netip.Addr
		want    error
	}{
		"leased":            {fixed, ErrAddressAllocated},
		"gateway":           {got.Gateway, ErrAddressAllocated},
		"other subnet":      {ip("198.51.100.7"), nil},
		"network's address": {netip.PrefixFrom(got.Gateway, got.PrefixLen).Masked().Addr(), nil},
		"IPv6":              {ip("fd00::7"), nil},
	}
	for name, test := range refused {
		_, err := m.Attach(t.Context(), newNamespace(t), Request{ContainerID: "late", IP: test.address})
		if err == nil || test.want != nil && !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", name, err, test.want)
		}
	}
	// Again, while the old namespace is there still; with another MAC, at a
	// moment when the host has the old one in its cache.
	again, _ := attach(t, m, Request{ContainerID: "fixed", IP: fixed})
	serveTCP(t, again, ":80", "new")
	wantAnswer(t, nil, "tcp4", fixed.String()+":80", "new to "+got.Gateway.String())
}

func TestPortConflicts(t *testing.T) {
	m := newManager(t)
	newOutside(t) // gives the host an address beside 127.0.0.1
	attach(t, m, Request{ContainerID: "any", Ports: mustPorts(t, "8080:80", "127.0.0.1:8081:80", "8082:80/udp")})
	listener, err := net.Listen("tcp4", "127.0.0.1:8090")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	socket, err := net.ListenPacket("udp4", ":8091")
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	tests := map[string]error{
		"8080:1":              ErrPortAllocated,
		"127.0.0.1:8080:1":    ErrPortAllocated,
		"8081:1":              ErrPortAllocated,
		"192.0.2.1:8081:1":    nil,
		"8080:1/udp":          nil,
		"8082:1/tcp":          nil,
		"8082:1/udp":          ErrPortAllocated,
		"8090:1":              unix.EADDRINUSE,
		"127.0.0.1:8090:1":    unix.EADDRINUSE,
		"192.0.2.1:8090:1":    nil,
		"8091:1/udp":          unix.EADDRINUSE,
		"8091:1":              nil,
		"203.0.113.1:8095:1":  unix.EADDRNOTAVAIL,
		"8100-8101:8100-8101": nil,
		"8079-8081:8079-8081": ErrPortAllocated,
	}
	for spec, want := range tests {
		_, err := m.Attach(t.Context(), newNamespace(t), Request{ContainerID: "second", Ports: mustPorts(t, spec)})
		if !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", spec, err, want)
		}
		if err := m.Detach(t.Context(), "second"); err != nil {
			t.Fatal(err)
		}
	}
	if left := records(t, m); strings.Contains(left, "second") || len(strings.Fields(left)) != 5 {
		t.Errorf("records of refused containers are left: %s", left)
	}
	// A range of host ports for one container port: the first that is free.
	_, endpoint := attach(t, m, Request{ContainerID: "third", Ports: mustPorts(t, "8080-8090:80")})
	if got := endpoint.Ports[0].HostPort; got != 8082 {
		t.Errorf("of 8080-8090 got %d, want 8082", got)
	}
}

func TestHeldPorts(t *testing.T) {
	m := newManager(t)
	_, endpoint := attach(t, m, Request{ContainerID: "c", HoldPorts: true, Ports: mustPorts(t, "8080:80", "8080:80/udp")})
	if len(endpoint.PortSockets) != 2 {
		t.Fatalf("%d sockets, want 2", len(endpoint.PortSockets))
	}
	other := Open(t.TempDir()) // another engine, which has no records of ours
	t.Cleanup(func() {
		if err := other.Teardown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	for _, spec := range []string{"8080:80", "8080:80/udp"} {
		_, err := other.Attach(t.Context(), newNamespace(t), Request{ContainerID: "d", Ports: mustPorts(t, spec)})
		if !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("%s in another engine: got %v, want EADDRINUSE", spec, err)
		}
	}
	if listener, err := net.Listen("tcp4", ":8080"); err == nil {
		listener.Close()
		t.Error("a program could listen on a held port")
	}
	closeAll(endpoint.PortSockets)
	listener, err := net.Listen("tcp4", ":8080")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
}

func TestHundredAtOnce(t *testing.T) {
	m := newManager(t)
	const count = 100
	var wait sync.WaitGroup
	endpoints := make([]Endpoint, count)
	namespaces := make([]*os.File, count)
	failures := make([]error, count)
	for i := range count {
		namespaces[i] = newNamespace(t)
	}
	for i := range count {
		wait.Go(func() {
			request := Request{ContainerID: fmt.Sprintf("c%d", i)}
			if i%4 == 0 {
				request.Ports = []PortMapping{{ContainerPort: 80, Protocol: TCP}}
			}
			endpoints[i], failures[i] = m.Attach(t.Context(), namespaces[i], request)
		})
	}
	wait.Wait()
	seen := map[netip.Addr]bool{}
	hostPorts := map[uint16]bool{}
	for i, endpoint := range endpoints {
		if failures[i] != nil {
			t.Fatal(failures[i])
		}
		if seen[endpoint.IP] {
			t.Errorf("%s is leased twice", endpoint.IP)
		}
		seen[endpoint.IP] = true
		for _, port := range endpoint.Ports {
			if hostPorts[port.HostPort] {
				t.Errorf("port %d is published twice", port.HostPort)
			}
			hostPorts[port.HostPort] = true
		}
	}
	if got := vethCount(t, m); got != count {
		t.Errorf("%d links, want %d", got, count)
	}
	serveTCP(t, namespaces[96], ":80", "hello")
	wantAnswer(t, namespaces[3], "tcp4", endpoints[96].IP.String()+":80", "hello to "+endpoints[3].IP.String())
	wantAnswer(t, nil, "tcp4", fmt.Sprintf("127.0.0.1:%d", endpoints[96].Ports[0].HostPort), "hello to "+endpoints[96].Gateway.String())
	for i := range count {
		wait.Go(func() {
			_ = namespaces[i].Close()
			failures[i] = m.Detach(t.Context(), endpoints[i].ContainerID)
		})
	}
	wait.Wait()
	if err := errors.Join(failures...); err != nil {
		t.Error(err)
	}
	if left := records(t, m); left != "" {
		t.Errorf("left: %s", left)
	}
}

// TestEnginesSideBySide checks that engines share nothing, and that what one
// removes the other keeps.
func TestEnginesSideBySide(t *testing.T) {
	one, two := newManager(t), newManager(t)
	first, firstEnd := attach(t, one, Request{ContainerID: "c", Ports: mustPorts(t, "8080:80")})
	second, secondEnd := attach(t, two, Request{ContainerID: "c", Ports: mustPorts(t, "8081:80")})
	serveTCP(t, first, ":80", "first")
	serveTCP(t, second, ":80", "second")
	firstNet := netip.PrefixFrom(firstEnd.IP, firstEnd.PrefixLen)
	if firstNet.Overlaps(netip.PrefixFrom(secondEnd.IP, secondEnd.PrefixLen)) {
		t.Errorf("subnets overlap: %s and %s", firstEnd.IP, secondEnd.IP)
	}
	wantSilence(t, first, "tcp4", secondEnd.IP.String()+":80")
	wantAnswer(t, first, "tcp4", secondEnd.Gateway.String()+":8081", "second to "+secondEnd.Gateway.String())
	report, err := two.Sweep(t.Context(), func(string) bool { return false })
	if err != nil || len(report.Containers) != 1 {
		t.Errorf("sweep: %+v, %v", report, err)
	}
	if err := two.Teardown(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantAnswer(t, nil, "tcp4", "127.0.0.1:8080", "first to "+firstEnd.Gateway.String())
}
