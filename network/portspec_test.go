package network

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func TestParsePort(t *testing.T) {
	tests := map[string]string{
		"80":                        "80/tcp",
		"80/udp":                    "80/udp",
		"80/TCP":                    "80/tcp",
		"80/":                       "80/tcp",
		":80":                       "80/tcp",
		"8080:80":                   "8080:80/tcp",
		"8080:80/sctp":              "8080:80/sctp",
		"127.0.0.1:8080:80":         "127.0.0.1:8080:80/tcp",
		"127.0.0.1::80":             "127.0.0.1::80/tcp",
		"0.0.0.0:8080:80":           "0.0.0.0:8080:80/tcp",
		"[::1]:8080:80":             "[::1]:8080:80/tcp",
		"::1:8080:80":               "[::1]:8080:80/tcp",
		"[2001:db8::7]::53/udp":     "[2001:db8::7]::53/udp",
		"[::ffff:192.0.2.1]:1:2":    "192.0.2.1:1:2/tcp",
		"80-82":                     "80/tcp 81/tcp 82/tcp",
		"8080-8082:80-82/udp":       "8080:80/udp 8081:81/udp 8082:82/udp",
		"127.0.0.1:8080-8081:80-81": "127.0.0.1:8080:80/tcp 127.0.0.1:8081:81/tcp",
		"8080-8090:80":              "8080-8090:80/tcp",
		"65535:65535":               "65535:65535/tcp",
		"0:80":                      "80/tcp",
	}
	for spec, want := range tests {
		mappings, err := ParsePort(spec)
		var got []string
		for _, mapping := range mappings {
			got = append(got, mapping.String())
		}
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%q: got %v, %v; want %s", spec, got, err, want)
		}
	}
}

func TestParsePortRefuses(t *testing.T) {
	tests := map[string]string{
		"":                     "no port specified: <empty>",
		"/udp":                 "no port specified: /udp<empty>",
		"8080:":                "no port specified: 8080:<empty>",
		"80/icmp":              "invalid proto: icmp",
		"80/tcp/udp":           "invalid proto: tcp/udp",
		"x":                    "invalid containerPort: x",
		"0":                    "invalid containerPort: 0",
		"65536":                "invalid containerPort: 65536",
		"-1":                   "invalid containerPort: -1",
		"90-80":                "invalid containerPort: 90-80",
		"80-":                  "invalid containerPort: 80-",
		"x:80":                 "invalid hostPort: x",
		"70000:80":             "invalid hostPort: 70000",
		"9-8:80":               "invalid hostPort: 9-8",
		"0-8:80":               "invalid hostPort: 0-8",
		"8080-8081:80-82":      "invalid ranges specified for container and host Ports: 80-82 and 8080-8081",
		"8080:80-82":           "invalid ranges specified for container and host Ports: 80-82 and 8080",
		"localhost:8080:80":    "invalid IP address: localhost",
		"256.0.0.1:8080:80":    "invalid IP address: 256.0.0.1",
		"[::1:8080:80":         "invalid IP address: [::1",
		"[fe80::1%eth0]:80:80": "invalid IP address: [fe80::1%eth0]",
	}
	for spec, want := range tests {
		if mappings, err := ParsePort(spec); err == nil || err.Error() != want {
			t.Errorf("%q: got %v, %v; want %s", spec, mappings, err, want)
		}
	}
}

// FuzzParsePort checks that what is accepted means something, and that its
// words are read back as the same.
func FuzzParsePort(f *testing.F) {
	for _, spec := range []string{"80", "127.0.0.1:8080-8090:80-90/udp", "[::1]::53/udp", "8000-9000:80", ":80", "::80", "0:1/sctp", "[]:1:2", "1-65535"} {
		f.Add(spec)
	}
	f.Fuzz(func(t *testing.T, spec string) {
		mappings, err := ParsePort(spec)
		if err != nil {
			return
		}
		if len(mappings) == 0 {
			t.Fatalf("%q is accepted and means nothing", spec)
		}
		for _, mapping := range mappings {
			if mapping.ContainerPort == 0 || mapping.HostPortEnd != 0 && mapping.HostPortEnd < mapping.HostPort {
				t.Fatalf("%q: %+v", spec, mapping)
			}
			again, err := ParsePort(mapping.String())
			if err != nil || len(again) != 1 || again[0] != mapping {
				t.Fatalf("%q: %s is read as %v, %v", spec, mapping, again, err)
			}
		}
	})
}

func TestParseMAC(t *testing.T) {
	if mac, err := ParseMAC("02:42:AC:11:00:02"); err != nil || mac.String() != "02:42:ac:11:00:02" {
		t.Errorf("got %s, %v", mac, err)
	}
	for _, text := range []string{"", "02:42:ac:11:00", "01:00:5e:00:00:01", "02:42:ac:11:00:02:03:04", "x"} {
		if mac, err := ParseMAC(text); err == nil {
			t.Errorf("%q: got %s", text, mac)
		}
	}
}

func TestPublicationRecords(t *testing.T) {
	p := publication{protocol: UDP, at: netip.MustParseAddrPort("127.0.0.1:53"), target: netip.MustParseAddrPort("10.112.0.2:5353"), container: "c-1"}
	got, ok := parsePublication(p.name(), p.container+"/"+p.target.String())
	if !ok || got != p {
		t.Errorf("got %+v, %v; want %+v", got, ok, p)
	}
	for _, damaged := range [][2]string{{"", ""}, {"80-tcp", "c/10.0.0.1:80"}, {"0.0.0.0:80-tcp", "c"}, {"0.0.0.0:80-tcp", "c/x"}} {
		if p, ok := parsePublication(damaged[0], damaged[1]); ok {
			t.Errorf("%q: got %+v", damaged, p)
		}
	}
}

func TestBridgeNames(t *testing.T) {
	seen := map[string]string{}
	for i := range 200 {
		dir := fmt.Sprintf("/srv/engine%d", i)
		name := Open(dir).Bridge()
		if !strings.HasPrefix(name, "viv") || len(name) > 15 || isHostInterface(name) {
			t.Errorf("%s: bridge %q", dir, name)
		}
		if other, taken := seen[name]; taken {
			t.Errorf("%s and %s have the same bridge", dir, other)
		}
		seen[name] = dir
		if again := Open(dir + "/x/..").Bridge(); again != name {
			t.Errorf("%s: bridge %q, then %q", dir, name, again)
		}
	}
	if got := Open("/run/viv/").Bridge(); got != "viv0" {
		t.Errorf("default bridge is %q", got)
	}
	pool := map[netip.Prefix]bool{}
	for _, subnet := range poolsFor("vivbr01234567") {
		pool[subnet] = true
	}
	if len(pool) != len(pools()) {
		t.Errorf("%d pools after rotation, want %d", len(pool), len(pools()))
	}
}
