package blackbox

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"vivarium/internal/testenv"
)

// answering is a server's command: it says its word to whoever connects to a port.
func answering(port, word string) []string {
	return []string{box, "sh", "-c", "while :; do echo " + word + " | nc -l -p " + port + "; done"}
}

type dialer func(context.Context, string, string) (net.Conn, error)

// ask connects and gives what the server says, or the error.
func ask(t *testing.T, dial dialer, address string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testenv.DefaultTimeout/20)
	defer cancel()
	conn, err := dial(ctx, "tcp", address)
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	data, _ := io.ReadAll(conn)
	return string(data)
}

// secondEngine prepares commands of another engine in the same network.
func secondEngine(t *testing.T, e *testenv.Instance) func(args ...string) testenv.Result {
	t.Helper()
	// Below the first one's, whose end waits for every process that knows of them.
	root, state := filepath.Join(e.Root, "second"), filepath.Join(e.State, "second")
	for _, dir := range []string{root, state} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) testenv.Result {
		return e.Tool(testenv.Binary(t, "viv"), append([]string{"--root", root, "--state", state}, args...)...).Run()
	}
	if res := run("import", testenv.Image(t, "busybox").Rootfs, box); res.Code != 0 {
		t.Fatalf("%v", res)
	}
	t.Cleanup(func() {
		if ids := strings.Fields(run("ps", "-aq").Stdout); len(ids) > 0 {
			run(append([]string{"rm", "-f"}, ids...)...)
		}
	})
	return run
}

// TestPortForms publishes in every form, and looks at how it is told.
func TestPortForms(t *testing.T) {
	e := newNetwork(t)
	id := detached(t, e, "--name", "many", "-p", "8080:80", "-p", "127.0.0.1:8081:80", "-p", "9000-9002:90-92", "-p", "53:53/udp",
		"-p", "70", "-p", "7000-7005:75", "-p", "127.0.0.1::76", "--expose", "71", "--expose", "72-73/udp", "-P", box, "sleep", "1000")
	lines := strings.Split(e.MustViv("port", "many"), "\n")
	for _, like := range []string{
		`80/tcp -> 0\.0\.0\.0:8080`, `80/tcp -> 127\.0\.0\.1:8081`, `90/tcp -> 0\.0\.0\.0:9000`, `91/tcp -> 0\.0\.0\.0:9001`, `92/tcp -> 0\.0\.0\.0:9002`,
		`53/udp -> 0\.0\.0\.0:53`, `70/tcp -> 0\.0\.0\.0:[0-9]+`, `75/tcp -> 0\.0\.0\.0:7000`, `76/tcp -> 127\.0\.0\.1:[0-9]+`,
		`71/tcp -> 0\.0\.0\.0:[0-9]+`, `72/udp -> 0\.0\.0\.0:[0-9]+`, `73/udp -> 0\.0\.0\.0:[0-9]+`,
	} {
		if !slices.ContainsFunc(lines, regexp.MustCompile("^"+like+"$").MatchString) {
			t.Errorf("port: %q lacks %s", lines, like)
		}
	}
	if len(lines) != 12 {
		t.Errorf("port: %d lines: %q", len(lines), lines)
	}
	want(t, e.Viv("port", "many", "80"), 0, "0.0.0.0:8080\n127.0.0.1:8081\n")
	want(t, e.Viv("port", "many", "53/udp"), 0, "0.0.0.0:53\n")
	fails(t, e.Viv("port", "many", "53"), 1, "53/tcp")
	fails(t, e.Viv("port", "no-such-container"), 1, "no-such-container")
	ports := e.MustViv("ps", "--format", "{{.Ports}}")
	for _, part := range []string{"0.0.0.0:8080->80/tcp", "127.0.0.1:8081->80/tcp", "0.0.0.0:9000-9002->90-92/tcp", "0.0.0.0:53->53/udp"} {
		if !strings.Contains(ports, part) {
			t.Errorf("ps: %q lacks %s", ports, part)
		}
	}
	want(t, e.Viv("inspect", "-f", `{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}} {{(index (index .HostConfig.PortBindings "91/tcp") 0).HostPort}}`, id), 0, "8080 9001\n")
	for filter, found := range map[string]bool{"publish=8080": true, "publish=9001-9002": true, "publish=53": false, "publish=53/udp": true, "publish=80": false, "expose=80": true, "expose=73/udp": true, "expose=99": false} {
		if got := e.MustViv("ps", "-q", "--filter", filter); (got != "") != found {
			t.Errorf("ps --filter %s: %q", filter, got)
		}
	}
	// A range of the host for one port: the next that is free.
	e.MustViv("run", "-d", "--name", "next", "-p", "7000-7005:75", box, "sleep", "1000")
	want(t, e.Viv("port", "next"), 0, "75/tcp -> 0.0.0.0:7001\n")
	fails(t, e.Viv("run", "--rm", "-p", "7000-7001:75", box, "true"), 125, "7001")
	// UDP and TCP do not get in each other's way.
	want(t, e.Viv("run", "--rm", "-p", "53:53", "-p", "8080:80/udp", box, "true"), 0, "")
	fails(t, e.Viv("run", "--rm", "-p", "8080:1", box, "true"), 125, "8080", "port is already allocated")
	fails(t, e.Viv("run", "--rm", "-p", "127.0.0.1:8080:1", box, "true"), 125, "8080", "port is already allocated")
	e.MustViv("create", "--name", "later", "-p", "8080:1", box, "true")
	fails(t, e.Viv("start", "later"), 1, "8080", "port is already allocated")
}

// TestPortsReached asks a published port from everywhere.
func TestPortsReached(t *testing.T) {
	e := newNetwork(t)
	outside := e.Outside()
	detached(t, e, append([]string{"--name", "server", "-p", "8080:80"}, answering("80", "word")...)...)
	address, gateway := inspect(t, e, "server", "{{.NetworkSettings.IPAddress}}"), inspect(t, e, "server", "{{.NetworkSettings.Gateway}}")
	for _, c := range []struct {
		from    string
		dial    dialer
		address string
	}{
		{"outside", outside.Dial, testenv.EngineAddress + ":8080"}, {"the host's loopback", e.Dial, "127.0.0.1:8080"},
		{"the host, another loopback address", e.Dial, "127.0.0.9:8080"}, {"the host, by its address", e.Dial, testenv.EngineAddress + ":8080"},
		{"the host, by the bridge's address", e.Dial, gateway + ":8080"}, {"the host, straight", e.Dial, address + ":80"},
	} {
		eventually(t, "the port from "+c.from, func() bool { return ask(t, c.dial, c.address) == "word\n" })
	}
	for _, to := range []string{testenv.EngineAddress, gateway} {
		eventually(t, "the port from another container, at "+to, func() bool {
			return e.Viv("run", "--rm", box, "nc", "-w", "3", to, "8080").Stdout == "word\n"
		})
		eventually(t, "the port from the container itself, at "+to, func() bool {
			return e.Viv("exec", "server", "nc", "-w", "3", to, "8080").Stdout == "word\n"
		})
	}
}

// TestPortsAreHeld wants a published port to be nobody else's: not another engine's,
// and no program's. It is free as soon as the container has been stopped.
func TestPortsAreHeld(t *testing.T) {
	e := newNetwork(t)
	second := secondEngine(t, e)
	detached(t, e, append([]string{"--name", "first", "-p", "8080:80", "-p", "8080:80/udp", "-p", "9000-9399:9000-9399"}, answering("80", "first")...)...)
	for _, spec := range []string{"8080:80", "127.0.0.1:8080:80", "8080:80/udp", "9399:1"} {
		port := strings.Split(strings.TrimPrefix(spec, "127.0.0.1:"), ":")[0]
		fails(t, second("run", "--rm", "-p", spec, box, "true"), 125, port, "address already in use")
	}
	if l, err := e.Listen("tcp", ":8080"); err == nil {
		l.Close()
		t.Error("a program took a published port")
	}
	eventually(t, "the first engine's port", func() bool { return ask(t, e.Dial, "127.0.0.1:8080") == "first\n" })
	e.MustViv("stop", "-t", "0", "first")
	want(t, second("run", "--rm", "-p", "8080:80", "-p", "8080:80/udp", "-p", "9399:1", box, "true"), 0, "")
	if res := second(append([]string{"run", "-d", "-p", "8080:80"}, answering("80", "second")...)...); res.Code != 0 {
		t.Fatalf("%v", res)
	}
	eventually(t, "the second engine's port", func() bool { return ask(t, e.Dial, "127.0.0.1:8080") == "second\n" })
	fails(t, e.Viv("start", "first"), 1, "8080", "address already in use")
	if got := state(t, e, "first"); !strings.HasPrefix(got, "exited ") {
		t.Errorf("after a start that was refused: %q", got)
	}
	// A program that has a port keeps it.
	l, err := e.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	leavesNothing(t, e, func() {
		fails(t, e.Viv("run", "--rm", "-p", port+":80", box, "true"), 125, port, "address already in use")
	})
}
