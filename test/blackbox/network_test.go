package blackbox

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"vivarium/internal/testenv"
)

func newNetwork(t *testing.T) *testenv.Instance {
	t.Helper()
	vivOnly(t, "the reference runs without a network")
	return newBox(t)
}

// serve answers every connection with the peer's address.
func serve(t *testing.T, l net.Listener) {
	t.Helper()
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(conn, conn.RemoteAddr())
			conn.Close()
		}
	}()
}

func TestNoNetwork(t *testing.T) {
	e := newNetwork(t)
	want(t, e.Viv("run", "--rm", "--network", "none", box, "ls", "/sys/class/net"), 0, "lo\n")
	want(t, e.Viv("run", "--rm", "--network", "none", box, "cat", "/sys/class/net/lo/flags"), 0, "0x9\n")
}

func TestHostNetwork(t *testing.T) {
	e := newNetwork(t)
	l, err := e.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, l)
	_, port, _ := net.SplitHostPort(l.Addr().String())
	res := e.Viv("run", "--rm", "--network", "host", box, "nc", "127.0.0.1", port)
	if res.Code != 0 || !strings.HasPrefix(res.Stdout, "127.0.0.1:") {
		t.Errorf("from the host's network: %v", res)
	}
}

func TestBridge(t *testing.T) {
	e := newNetwork(t)
	server := detached(t, e, "--name", "server", "-h", "servername", box, "sh", "-c", "while :; do echo hello from inside | nc -l -p 80; done")
	address := inspect(t, e, server, "{{.NetworkSettings.IPAddress}}")
	if net.ParseIP(address) == nil {
		t.Fatalf("the container has no address: %q", address)
	}
	eventually(t, "the server to answer", func() bool {
		return e.Viv("run", "--rm", box, "nc", address, "80").Stdout == "hello from inside\n"
	})
	want(t, e.Viv("exec", server, "sh", "-c", "grep -w servername /etc/hosts | cut -f1"), 0, address+"\n")
	want(t, e.Viv("run", "--rm", "--network", "container:server", box, "cat", "/etc/hostname"), 0, "servername\n")
	shared := e.MustViv("run", "--rm", "--network", "container:server", box, "readlink", "/proc/self/ns/net")
	want(t, e.Viv("exec", server, "readlink", "/proc/self/ns/net"), 0, shared+"\n")
}

func TestOutbound(t *testing.T) {
	e := newNetwork(t)
	outside := e.Outside()
	l, err := outside.Listen("tcp", testenv.OutsideAddress+":80")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, l)
	res := e.Viv("run", "--rm", box, "nc", testenv.OutsideAddress, "80")
	if res.Code != 0 || !strings.HasPrefix(res.Stdout, testenv.EngineAddress+":") {
		t.Errorf("the world outside must see the host's address, got %v", res)
	}
	res = e.Viv("run", "--rm", "--dns", "192.0.2.53", box, "cat", "/etc/resolv.conf")
	if !strings.Contains(res.Stdout, "nameserver 192.0.2.53\n") {
		t.Errorf("--dns: %v", res)
	}
}

func TestPublishedPorts(t *testing.T) {
	e := newNetwork(t)
	outside := e.Outside()
	id := detached(t, e, "-p", "8080:80", "-p", "127.0.0.1:8081:81", box, "sh", "-c",
		"( while :; do echo eighty | nc -l -p 80; done ) & while :; do echo local | nc -l -p 81; done")
	ports := e.MustViv("port", id)
	for _, line := range []string{"80/tcp -> 0.0.0.0:8080", "81/tcp -> 127.0.0.1:8081"} {
		if !strings.Contains(ports, line) {
			t.Errorf("port lacks %q: %q", line, ports)
		}
	}
	want(t, e.Viv("port", id, "80/tcp"), 0, "0.0.0.0:8080\n")
	get := func(dial dialer, address string) string { return ask(t, dial, address) }
	eventually(t, "the port from outside", func() bool { return get(outside.Dial, testenv.EngineAddress+":8080") == "eighty\n" })
	eventually(t, "the port from the host", func() bool { return get(e.Dial, "127.0.0.1:8080") == "eighty\n" })
	eventually(t, "the local port from the host", func() bool { return get(e.Dial, "127.0.0.1:8081") == "local\n" })
	if got := get(outside.Dial, testenv.EngineAddress+":8081"); got == "local\n" {
		t.Error("a port published on 127.0.0.1 is open to the outside")
	}
	fails(t, e.Viv("run", "--rm", "-p", "8080:80", box, "true"), 125, "8080")
	e.MustViv("rm", "-f", id)
	if got := get(e.Dial, "127.0.0.1:8080"); got == "eighty\n" {
		t.Error("the port is still open after rm")
	}
	want(t, e.Viv("run", "--rm", "-p", "8080:80", box, "true"), 0, "")
}

// TestRulesAreGone compares the packet filter before and after a crowd.
func TestRulesAreGone(t *testing.T) {
	e := newNetwork(t)
	run := func() { want(t, e.Viv("run", "--rm", "-p", "9000:80", box, "true"), 0, "") }
	run()
	rules := func() string {
		res := e.Tool("nft", "-s", "list", "ruleset").Run()
		if res.Code != 0 {
			t.Fatalf("%v", res)
		}
		return res.Stdout
	}
	before := rules()
	for range 20 {
		run()
	}
	if after := rules(); after != before {
		t.Errorf("the packet filter grew from\n%s\nto\n%s", before, after)
	}
}

// TestNameFiles reads hosts, hostname and resolv.conf as the options make them.
func TestNameFiles(t *testing.T) {
	e := newNetwork(t)
	hosts := read(t, "/etc/hosts")
	if !strings.HasSuffix(hosts, "\n") {
		hosts += "\n"
	}
	const local = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
	check(t, e, []runCase{
		{name: "the host's", flags: []string{"--network", "host", "--add-host", "db:192.0.2.7"}, args: []string{"cat", "/etc/hosts"}, stdout: hosts + "192.0.2.7\tdb\n"},
		{name: "without a network", flags: []string{"--network", "none", "--add-host", "db:192.0.2.7", "--add-host", "six:2001:db8::1"}, args: []string{"cat", "/etc/hosts"}, stdout: local + "192.0.2.7\tdb\n2001:db8::1\tsix\n"},
		{name: "on the bridge", flags: []string{"-h", "me.example.org", "--network-alias", "other", "--add-host", "up:host-gateway"},
			command: "ip=$(ip -4 -o addr show eth0 | sed 's/.* inet \\([0-9.]*\\).*/\\1/'); gw=$(ip route | sed -n 's/^default via \\([0-9.]*\\).*/\\1/p'); tail -n +7 /etc/hosts | sed \"s/$ip/OWN/; s/$gw/GATEWAY/\"; cat /etc/hostname",
			stdout:  "GATEWAY\tup\nOWN\tme.example.org me other\nme.example.org\n"},
		{name: "resolv.conf", flags: []string{"--network", "none", "--dns", "192.0.2.1", "--dns", "192.0.2.2", "--dns-search", "a.example", "--dns-search", "b.example", "--dns-option", "ndots:2"},
			args: []string{"cat", "/etc/resolv.conf"}, match: "nameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch a.example b.example\noptions ndots:2\n.*"},
		{name: "the host's resolv.conf", flags: []string{"--network", "host"}, args: []string{"cat", "/etc/resolv.conf"}, stdout: read(t, "/etc/resolv.conf")},
	})
	fails(t, e.Viv("run", "--rm", "--network", "none", "--add-host", "up:host-gateway", box, "true"), 125, "gateway")
}
