package network

import (
	"net/netip"
	"strings"
	"testing"
)

func TestHostsContent(t *testing.T) {
	tests := map[string]struct {
		file HostsFile
		want string
	}{
		"nothing":  {HostsFile{Hostname: "c"}, ""},
		"hostname": {HostsFile{IP: ip("10.112.0.2"), Hostname: "c"}, "10.112.0.2\tc\n"},
		"domain":   {HostsFile{IP: ip("10.112.0.2"), Hostname: "c.example.org"}, "10.112.0.2\tc.example.org c\n"},
		"domain apart and aliases": {
			HostsFile{IP: ip("10.112.0.2"), Hostname: "c", Domainname: "example.org", Aliases: []string{"c", "db"}},
			"10.112.0.2\tc.example.org c db\n",
		},
		"extra": {
			HostsFile{IP: ip("10.112.0.2"), Hostname: "c", Extra: []HostEntry{{"b", ip("192.0.2.7")}, {"a", ip("2001:db8::1")}}},
			"192.0.2.7\tb\n2001:db8::1\ta\n10.112.0.2\tc\n",
		},
	}
	for name, test := range tests {
		got := string(test.file.Content())
		if want := localEntries + test.want; got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
		}
	}
}

func TestParseExtraHost(t *testing.T) {
	gateway := ip("10.112.0.1")
	tests := map[string]struct {
		want HostEntry
		fail string
	}{
		"a:192.0.2.7":     {want: HostEntry{"a", ip("192.0.2.7")}},
		"a=192.0.2.7":     {want: HostEntry{"a", ip("192.0.2.7")}},
		"a:::1":           {want: HostEntry{"a", ip("::1")}},
		"a:[::1]":         {want: HostEntry{"a", ip("::1")}},
		"a=2001:db8::1":   {want: HostEntry{"a", ip("2001:db8::1")}},
		"a:host-gateway":  {want: HostEntry{"a", gateway}},
		"a":               {fail: `bad format for add-host: "a"`},
		":192.0.2.7":      {fail: "bad format"},
		"a:":              {fail: "bad format"},
		"a:192.0.2.7\nb":  {fail: "bad format"},
		"a:192.0.2":       {fail: `invalid IP address in add-host: "192.0.2"`},
		"a:host-gateways": {fail: "invalid IP address in add-host"},
	}
	for spec, test := range tests {
		got, err := ParseExtraHost(spec, gateway)
		switch {
		case test.fail == "" && (err != nil || got != test.want):
			t.Errorf("%q: got %v, %v; want %v", spec, got, err, test.want)
		case test.fail != "" && (err == nil || !strings.Contains(err.Error(), test.fail)):
			t.Errorf("%q: got %v, want %q", spec, err, test.fail)
		}
	}
	if _, err := ParseExtraHost("a:host-gateway", netip.Addr{}); err == nil {
		t.Error("host-gateway without a gateway was accepted")
	}
}

func TestResolvConf(t *testing.T) {
	const host = `# made by hand
domain old.example
search corp.example lab.example ; both
nameserver 127.0.0.53
nameserver 192.0.2.53 # the good one
nameserver fd00::53
nameserver ::1
options edns0 trust-ad
sortlist 192.0.2.0/24
`
	tests := map[string]struct {
		host    string
		options ResolverOptions
		want    string
	}{
		"host's": {host, ResolverOptions{}, "nameserver 192.0.2.53\nsearch corp.example lab.example\noptions edns0 trust-ad\nsortlist 192.0.2.0/24\n"},
		"all given": {
			host,
			ResolverOptions{Servers: []netip.Addr{ip("198.51.100.1"), ip("127.0.0.1")}, Search: []string{"x.example"}, Options: []string{"ndots:2"}},
			"nameserver 198.51.100.1\nnameserver 127.0.0.1\nsearch x.example\noptions ndots:2\nsortlist 192.0.2.0/24\n",
		},
		"no search":     {host, ResolverOptions{Search: []string{"."}}, "nameserver 192.0.2.53\noptions edns0 trust-ad\nsortlist 192.0.2.0/24\n"},
		"only loopback": {"nameserver 127.0.0.1\n", ResolverOptions{}, "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"},
		"empty":         {"", ResolverOptions{}, "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"},
	}
	for name, test := range tests {
		if got := string(ResolvConf([]byte(test.host), test.options)); got != test.want {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, test.want)
		}
	}
	if got := string(HostResolvConf([]byte(host), ResolverOptions{})); got != host {
		t.Errorf("host network: got\n%s", got)
	}
	got := string(HostResolvConf([]byte(host), ResolverOptions{Options: []string{"rotate"}}))
	if !strings.HasPrefix(got, "nameserver 127.0.0.53\nnameserver 192.0.2.53\nnameserver fd00::53\n") || !strings.Contains(got, "\noptions rotate\n") {
		t.Errorf("host network with an option: got\n%s", got)
	}
}
