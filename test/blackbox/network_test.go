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
