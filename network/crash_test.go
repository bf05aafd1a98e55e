package network

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// elements lists the published ports that are in force.
func elements(t testing.TB, m *Manager) []publication {
	t.Helper()
	r, err := newRuleset(m.Bridge())
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	list, err := r.elements()
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func wantNothingLeft(t *testing.T, m *Manager) {
	t.Helper()
	if left := records(t, m); left != "" {
		t.Errorf("records are left: %s", left)
	}
	if count := vethCount(t, m); count != 0 {
		t.Errorf("%d links are left", count)
	}
	if list := elements(t, m); len(list) != 0 {
		t.Errorf("published ports are left: %v", list)
	}
}

// attachUpTo makes the first steps of Attach, as if it had been killed then.
func attachUpTo(t *testing.T, m *Manager, namespace *os.File, request Request, steps int) {
	t.Helper()
	b := m.bridge()
	config, index, lock, err := b.ready(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := request.check(); err != nil {
		t.Fatal(err)
	}
	var endpoint Endpoint
	for i, step := range []func() error{
		func() error { return b.announceLocked(t.Context(), request.ContainerID) },
		func() error {
			address, err := b.lease(config, request.ContainerID, netip.Addr{})
			endpoint = newEndpoint(config, &request, address)
			return err
		},
		func() error { return b.publishFor(t.Context(), &request, &endpoint) },
		func() error { return b.connect(index, namespace, &endpoint, &request) },
		func() error {
			return os.WriteFile(stagingPath(b.endpointPath(request.ContainerID)), []byte("{"), 0o600)
		},
	} {
		if i == steps {
			return
		}
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
}

const attachSteps = 5

func TestSweepAfterEachStep(t *testing.T) {
	m := newManager(t)
	attach(t, m, Request{ContainerID: "live", Ports: mustPorts(t, "7000:80")})
	before, linksBefore := records(t, m), vethCount(t, m)
	for steps := range attachSteps + 1 {
		attachUpTo(t, m, newNamespace(t), Request{ContainerID: "dead", Ports: mustPorts(t, "8080:80", "127.0.0.1:8081:81/udp")}, steps)
		report, err := m.Sweep(t.Context(), func(id string) bool { return id == "live" })
		if err != nil {
			t.Fatal(err)
		}
		if steps > 0 && !slices.Equal(report.Containers, []string{"dead"}) {
			t.Errorf("after %d steps: report %+v", steps, report)
		}
		if got := records(t, m); got != before {
			t.Errorf("after %d steps: records %s, want %s", steps, got, before)
		}
		if got := vethCount(t, m); got != linksBefore {
			t.Errorf("after %d steps: %d links, want %d", steps, got, linksBefore)
		}
		if got := elements(t, m); len(got) != 1 {
			t.Errorf("after %d steps: ports %v, want the live one", steps, got)
		}
	}
	report, err := m.Sweep(t.Context(), func(id string) bool { return id == "live" })
	if err != nil || !report.Empty() {
		t.Errorf("again: %+v, %v; want nothing to mend", report, err)
	}
}

// TestAttachAndDetachAfterEachStep is the restart of a container whose last
// start was killed: it finds no port of its own in its way.
func TestAttachAndDetachAfterEachStep(t *testing.T) {
	m := newManager(t)
	request := Request{ContainerID: "c", Ports: mustPorts(t, "8080:80")}
	for steps := range attachSteps + 1 {
		attachUpTo(t, m, newNamespace(t), request, steps)
		attach(t, m, request)
		if err := m.Detach(t.Context(), "c"); err != nil {
			t.Fatal(err)
		}
		wantNothingLeft(t, m)
		attachUpTo(t, m, newNamespace(t), request, steps)
		if err := m.Detach(t.Context(), "c"); err != nil {
			t.Fatal(err)
		}
		wantNothingLeft(t, m)
	}
}

// TestSweepWithoutRecords removes what only the kernel knows.
func TestSweepWithoutRecords(t *testing.T) {
	m := newManager(t)
	_, endpoint := attach(t, m, Request{ContainerID: "c", Ports: mustPorts(t, "8080:80")})
	b := m.bridge()
	for _, path := range []string{
		b.path("addresses", endpoint.IP.String()),
		b.path("ports", "0.0.0.0:8080-tcp"),
		b.endpointPath("c"),
	} {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	report, err := m.Sweep(t.Context(), func(string) bool { return true })
	if err != nil || !slices.Equal(report.Links, []string{endpoint.HostInterface}) || !slices.Equal(report.Ports, []string{"0.0.0.0:8080-tcp"}) {
		t.Errorf("report %+v, %v", report, err)
	}
	wantNothingLeft(t, m)
}

// helperVariable makes the test binary a process that attaches containers to
// the engine at the named state directory until it is killed.
const helperVariable = "VIV_NETWORK_TEST_ATTACH"

func TestAttachHelper(t *testing.T) {
	dir := os.Getenv(helperVariable)
	if dir == "" {
		t.Skip("runs only in a process that TestKilledAttach starts")
	}
	m := Open(dir)
	var wait sync.WaitGroup
	for worker := range 4 {
		wait.Go(func() {
			for i := 0; ; i++ {
				namespace, err := NewNamespace()
				if err != nil {
					t.Error(err)
					return
				}
				id := fmt.Sprintf("k%d-%d", worker, i)
				request := Request{ContainerID: id, Ports: []PortMapping{{ContainerPort: 80, Protocol: TCP}}}
				if _, err := m.Attach(context.Background(), namespace, request); err != nil {
					t.Error(err)
					return
				}
				fmt.Println("attached", id)
			}
		})
	}
	wait.Wait()
}

func TestKilledAttach(t *testing.T) {
	m := newManager(t)
	swept := 0
	for round := range 8 {
		helper := exec.Command("/proc/self/exe", "-test.run=^TestAttachHelper$")
		helper.Env = append(os.Environ(), helperVariable+"="+m.stateDir)
		out, err := helper.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := helper.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for attached := 0; attached <= round && lines.Scan(); {
			if !strings.HasPrefix(lines.Text(), "attached ") {
				t.Fatalf("helper says: %s", lines.Text())
			}
			attached++
		}
		if err := helper.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = helper.Wait() // killed, as it should be
		report, err := m.Sweep(t.Context(), func(string) bool { return false })
		if err != nil {
			t.Fatal(err)
		}
		swept += len(report.Containers)
		wantNothingLeft(t, m)
	}
	if swept < 8 {
		t.Errorf("%d containers were swept, want one a round at least", swept)
	}
	attach(t, m, Request{ContainerID: "after"})
}

// TestLostTable takes away the table, the bridge and the forwarding of a
// running engine, as a firewall's restart or an administrator does.
func TestLostTable(t *testing.T) {
	m := newManager(t)
	web, endpoint := attach(t, m, Request{ContainerID: "web", Ports: mustPorts(t, "8080:80", "127.0.0.1:8081:80")})
	serveTCP(t, web, ":80", "web")
	gateway := endpoint.Gateway.String()
	if err := deleteTable(m.Bridge()); err != nil {
		t.Fatal(err)
	}
	wantSilence(t, nil, "tcp4", "127.0.0.1:8080")
	if err := writeSysctl(forwarding, "0"); err != nil {
		t.Fatal(err)
	}
	attach(t, m, Request{ContainerID: "next"})
	wantAnswer(t, nil, "tcp4", "127.0.0.1:8080", "web to "+gateway)
	wantAnswer(t, nil, "tcp4", "127.0.0.1:8081", "web to "+gateway)
	if text, err := os.ReadFile(forwarding); err != nil || string(text) != "1\n" {
		t.Errorf("ip_forward is %q, %v", text, err)
	}

	deleteBridge(t, m)
	_, last := attach(t, m, Request{ContainerID: "last"})
	if last.Gateway != endpoint.Gateway {
		t.Errorf("gateway %s, before %s", last.Gateway, endpoint.Gateway)
	}
}

// deleteBridge takes the bridge of an engine away, and leaves all else.
func deleteBridge(t *testing.T, m *Manager) {
	t.Helper()
	host, err := dial(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer host.close()
	index, err := m.bridge().index()
	if err == nil {
		err = deleteLink(host, index)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestLinkWithoutBridge has an engine choose a subnet whose earlier bridge and records are gone,
// while a container's link with the name of the first address is still there.
func TestLinkWithoutBridge(t *testing.T) {
	m := newManager(t)
	_, before := attach(t, m, Request{ContainerID: "c"})
	deleteBridge(t, m)
	if err := os.RemoveAll(m.stateDir); err != nil {
		t.Fatal(err)
	}
	if _, after := attach(t, m, Request{ContainerID: "d"}); after.HostInterface != before.HostInterface {
		t.Errorf("interface %s, before %s", after.HostInterface, before.HostInterface)
	}
}

// TestSubnetAvoidsTheHost gives the host an address in the pool that an engine
// takes first.
func TestSubnetAvoidsTheHost(t *testing.T) {
	m := newManager(t)
	host, err := dial(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer host.close()
	first := poolsFor(m.Bridge())[0]
	blocker, err := createBridge(host, "blocker", defaultMTU)
	if err != nil {
		t.Fatal(err)
	}
	defer deleteLink(host, blocker)
	// A subnet of the pool is as bad as the whole pool.
	if err := addAddress(host, blocker, addrFrom(fromAddr(first.Addr())+70), 28); err != nil {
		t.Fatal(err)
	}
	_, endpoint := attach(t, m, Request{ContainerID: "c"})
	if first.Contains(endpoint.IP) {
		t.Errorf("got %s of %s, which the host uses", endpoint.IP, first)
	}
}

// TestManyEnginesAtOnce has engines choose their subnets in the same instant.
func TestManyEnginesAtOnce(t *testing.T) {
	needWorld(t)
	const count = 8
	var managers [count]*Manager
	var endpoints [count]Endpoint
	var failures [count]error
	var wait sync.WaitGroup
	for i := range count {
		managers[i] = newManager(t)
		namespace := newNamespace(t)
		wait.Go(func() {
			endpoints[i], failures[i] = managers[i].Attach(t.Context(), namespace, Request{ContainerID: "c"})
		})
	}
	wait.Wait()
	seen := map[netip.Addr]bool{}
	for i, endpoint := range endpoints {
		if failures[i] != nil {
			t.Error(failures[i])
		}
		if seen[endpoint.Gateway] {
			t.Errorf("two engines have the gateway %s", endpoint.Gateway)
		}
		seen[endpoint.Gateway] = true
	}
}

// TestOldUDPFlow has a client that sends before the port is published, and
// goes on from the same source port.
func TestOldUDPFlow(t *testing.T) {
	m := newManager(t)
	outside := newOutside(t)
	attach(t, m, Request{ContainerID: "first"}) // the table, so that flows are tracked
	var client net.Conn
	err := inNamespace(outside, func() (err error) {
		client, err = net.Dial("udp4", hostAddress+":5353")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	// The host's program gets it; so conntrack knows the flow as untranslated.
	serveUDP(t, nil, hostAddress+":5353", "host")
	exchange := func(want string) {
		t.Helper()
		if err := client.SetDeadline(deadline()); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		if _, err := client.Write([]byte("?")); err != nil {
			t.Fatal(err)
		}
		n, err := client.Read(buf)
		if err != nil || string(buf[:n]) != want {
			t.Errorf("got %q, %v; want %q", buf[:n], err, want)
		}
	}
	exchange("host to " + outsideAddress)
	dns, _ := attachOver(t, m, Request{ContainerID: "dns", Ports: mustPorts(t, "5353:53/udp")})
	serveUDP(t, dns, ":53", "dns")
	exchange("dns to " + outsideAddress)
	if err := m.Detach(t.Context(), "dns"); err != nil {
		t.Fatal(err)
	}
	exchange("host to " + outsideAddress)
	again, _ := attachOver(t, m, Request{ContainerID: "dns2", Ports: mustPorts(t, "5353:53/udp")})
	serveUDP(t, again, ":53", "dns2")
	exchange("dns2 to " + outsideAddress)
}

// attachOver publishes although a program of the host has the port.
func attachOver(t *testing.T, m *Manager, request Request) (*os.File, Endpoint) {
	t.Helper()
	b := m.bridge()
	ports := request.Ports
	request.Ports = nil
	namespace, endpoint := attach(t, m, request)
	p := publication{protocol: ports[0].Protocol, at: netip.AddrPortFrom(netip.IPv4Unspecified(), ports[0].HostPort), target: netip.AddrPortFrom(endpoint.IP, ports[0].ContainerPort), container: request.ContainerID}
	if err := b.enforce([]publication{p}); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(p.container+"/"+p.target.String(), filepath.Join(b.path("ports"), p.name())); err != nil {
		t.Fatal(err)
	}
	endpoint.Ports = ports
	text, err := json.Marshal(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeFile(b.endpointPath(request.ContainerID), text); err != nil {
		t.Fatal(err)
	}
	return namespace, endpoint
}

func TestWarnings(t *testing.T) {
	m := newManager(t)
	attach(t, m, Request{ContainerID: "c"})
	if got, err := m.Warnings(); err != nil || len(got) != 0 {
		t.Errorf("got %v, %v; want none", got, err)
	}
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	drop := nftables.ChainPolicyDrop
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "firewall"})
	conn.AddChain(&nftables.Chain{Name: "fwd", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &drop})
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		conn.DelTable(table)
		if err := conn.Flush(); err != nil {
			t.Error(err)
		}
	}()
	got, err := m.Warnings()
	if err != nil || len(got) != 1 || !strings.Contains(got[0], "nft insert rule inet firewall fwd iifname "+m.Bridge()) {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestFullSubnet(t *testing.T) {
	b := &bridge{name: "vivtest", dir: t.TempDir()}
	if err := b.makeDirs(); err != nil {
		t.Fatal(err)
	}
	config := &bridgeConfig{Name: b.name, Subnet: netip.MustParsePrefix("192.0.2.0/24"), Gateway: ip("192.0.2.1")}
	seen := map[netip.Addr]bool{}
	for i := range 253 {
		address, err := b.lease(config, fmt.Sprintf("c%d", i), netip.Addr{})
		if err != nil {
			t.Fatalf("after %d leases: %v", i, err)
		}
		if seen[address] || address == config.Gateway || !config.Subnet.Contains(address) {
			t.Fatalf("lease %d: %s", i, address)
		}
		seen[address] = true
	}
	if _, err := b.lease(config, "late", netip.Addr{}); !errors.Is(err, ErrNoAddress) {
		t.Errorf("got %v, want ErrNoAddress", err)
	}
	if err := b.release("somebody else", ip("192.0.2.100")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.lease(config, "late", netip.Addr{}); !errors.Is(err, ErrNoAddress) {
		t.Errorf("somebody else released it: got %v", err)
	}
	if err := b.release("c98", ip("192.0.2.100")); err != nil {
		t.Fatal(err)
	}
	if got, err := b.lease(config, "late", netip.Addr{}); err != nil || got != ip("192.0.2.100") {
		t.Errorf("got %s, %v; want 192.0.2.100", got, err)
	}
}

// TestTeardownWithoutRecords removes bridge and table of an engine whose state
// directory was removed by hand.
func TestTeardownWithoutRecords(t *testing.T) {
	m := newManager(t) // which checks at its end that nothing is left
	attach(t, m, Request{ContainerID: "c", Ports: mustPorts(t, "8080:80")})
	if err := os.RemoveAll(m.stateDir); err != nil {
		t.Fatal(err)
	}
	if err := m.Teardown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if index, err := m.bridge().index(); index != 0 || err != nil {
		t.Errorf("the bridge is left (%v)", err)
	}
	// And an engine that finds an old bridge without records uses it again,
	// though it would choose another subnet by now.
	host, err := dial(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer host.close()
	blocker, err := createBridge(host, "blocker", defaultMTU)
	if err != nil {
		t.Fatal(err)
	}
	first := poolsFor(m.Bridge())[0]
	if err := addAddress(host, blocker, first.Addr().Next(), first.Bits()); err != nil {
		t.Fatal(err)
	}
	_, before := attach(t, m, Request{ContainerID: "c"})
	if err := errors.Join(deleteLink(host, blocker), os.RemoveAll(m.stateDir)); err != nil {
		t.Fatal(err)
	}
	if _, after := attach(t, m, Request{ContainerID: "d"}); after.Gateway != before.Gateway {
		t.Errorf("gateway %s, before %s", after.Gateway, before.Gateway)
	}
}

func TestLockIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	held, err := flock(t.Context(), path, unix.LOCK_EX)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := flock(ctx, path, unix.LOCK_SH); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	// Removed while somebody waits: who waited gets a lock on the new file.
	waiter := make(chan *os.File)
	go func() {
		file, err := flock(t.Context(), path, unix.LOCK_EX)
		if err != nil {
			t.Error(err)
		}
		waiter <- file
	}()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	held.Close()
	file := <-waiter
	defer file.Close()
	mine, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if current, err := os.Stat(path); err != nil || !os.SameFile(mine, current) {
		t.Errorf("the lock is on a file that is gone (%v)", err)
	}
}
