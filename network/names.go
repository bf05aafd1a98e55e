package network

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// HostEntry is a name for /etc/hosts.
type HostEntry struct {
	Name    string
	Address netip.Addr
}

// HostsFile is what stands in a container's /etc/hosts beside localhost.
type HostsFile struct {
	// Base stands in the place of the local names: for a container in the host's
	// network the host's own file. Empty: Docker's local names.
	Base []byte
	// IP is the container's own address; none if it is not valid.
	IP netip.Addr
	// Hostname, with Domainname joined by a dot if that is not empty.
	Hostname   string
	Domainname string
	Aliases    []string
	// Extra are the entries of --add-host, in their order.
	Extra []HostEntry
}

// localEntries are those that Docker writes.
const localEntries = `127.0.0.1	localhost
::1	localhost ip6-localhost ip6-loopback
fe00::	ip6-localnet
ff00::	ip6-mcastprefix
ff02::1	ip6-allnodes
ff02::2	ip6-allrouters
`

// Content gives the text of /etc/hosts. A hostname with a domain is followed by
// its first label, so that both are found.
func (h HostsFile) Content() []byte {
	var out bytes.Buffer
	if len(h.Base) > 0 {
		out.Write(h.Base)
		if h.Base[len(h.Base)-1] != '\n' {
			out.WriteByte('\n')
		}
	} else {
		out.WriteString(localEntries)
	}
	for _, entry := range h.Extra {
		fmt.Fprintf(&out, "%s\t%s\n", entry.Address, entry.Name)
	}
	if !h.IP.IsValid() || h.Hostname == "" {
		return out.Bytes()
	}
	full := h.Hostname
	if h.Domainname != "" {
		full += "." + h.Domainname
	}
	names := []string{full}
	if label, _, hasDomain := strings.Cut(full, "."); hasDomain {
		names = append(names, label)
	}
	for _, alias := range h.Aliases {
		if !slices.Contains(names, alias) {
			names = append(names, alias)
		}
	}
	fmt.Fprintf(&out, "%s\t%s\n", h.IP, strings.Join(names, " "))
	return out.Bytes()
}

// ParseExtraHost reads the argument of --add-host: name:address or
// name=address, an IPv6 address with or without brackets. The word
// host-gateway stands for gateway, the host as the container sees it.
func ParseExtraHost(spec string, gateway netip.Addr) (HostEntry, error) {
	at := strings.IndexAny(spec, ":=")
	if at <= 0 || at == len(spec)-1 || strings.ContainsAny(spec, " \t\r\n#") {
		return HostEntry{}, fmt.Errorf("bad format for add-host: %q", spec)
	}
	name, text := spec[:at], spec[at+1:]
	if text == "host-gateway" {
		if !gateway.IsValid() {
			return HostEntry{}, fmt.Errorf("add-host %q: the container's network has no gateway for host-gateway to stand for", spec)
		}
		return HostEntry{Name: name, Address: gateway}, nil
	}
	if strings.HasPrefix(text, "[") && strings.HasSuffix(text, "]") {
		text = text[1 : len(text)-1]
	}
	address, err := netip.ParseAddr(text)
	if err != nil {
		return HostEntry{}, fmt.Errorf("invalid IP address in add-host: %q", text)
	}
	return HostEntry{Name: name, Address: address}, nil
}

// HostnameContent gives the text of /etc/hostname.
func HostnameContent(hostname string) []byte { return []byte(hostname + "\n") }

// ResolverOptions are the arguments of --dns, --dns-search and --dns-option.
// Each that is not empty replaces what the host has of its kind. A search list
// of "." alone means none.
type ResolverOptions struct {
	Servers []netip.Addr
	Search  []string
	Options []string
}

// defaultServers are asked, as Docker does it, where the host has no server
// that a container could reach.
var defaultServers = []string{"8.8.8.8", "8.8.4.4"}

// ResolvConf gives the text of /etc/resolv.conf for a container on the bridge,
// made from the host's. Servers on the host's loopback cannot be reached from
// there, and IPv6 ones neither; both are left out.
func ResolvConf(host []byte, options ResolverOptions) []byte {
	conf := parseResolvConf(host)
	conf.servers = slices.DeleteFunc(conf.servers, func(server string) bool {
		address, err := netip.ParseAddr(server)
		return err != nil || address.IsLoopback() || !address.Unmap().Is4()
	})
	if len(conf.servers) == 0 {
		conf.servers = defaultServers
	}
	return conf.with(options)
}

// HostResolvConf is ResolvConf for a container in the host's network, where
// every server of the host can be reached. Without options it is the host's
// file as it stands.
func HostResolvConf(host []byte, options ResolverOptions) []byte {
	if len(options.Servers) == 0 && len(options.Search) == 0 && len(options.Options) == 0 {
		return host
	}
	return parseResolvConf(host).with(options)
}

type resolvConf struct {
	servers, search, options []string
	// rest are lines of other keywords, such as sortlist.
	rest []string
}

// parseResolvConf reads a resolv.conf(5). Of search and domain the last counts.
func parseResolvConf(text []byte) resolvConf {
	var conf resolvConf
	for line := range strings.Lines(string(text)) {
		if at := strings.IndexAny(line, "#;"); at >= 0 {
			line = line[:at]
		}
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			conf.servers = append(conf.servers, fields[1])
		case "search", "domain":
			conf.search = fields[1:]
		case "options":
			conf.options = append(conf.options, fields[1:]...)
		default:
			conf.rest = append(conf.rest, strings.Join(fields, " "))
		}
	}
	return conf
}

func (c resolvConf) with(options ResolverOptions) []byte {
	if len(options.Servers) > 0 {
		c.servers = nil
		for _, server := range options.Servers {
			c.servers = append(c.servers, server.String())
		}
	}
	if len(options.Search) > 0 {
		c.search = options.Search
	}
	if len(c.search) == 1 && c.search[0] == "." {
		c.search = nil
	}
	if len(options.Options) > 0 {
		c.options = options.Options
	}
	var out bytes.Buffer
	for _, server := range c.servers {
		fmt.Fprintf(&out, "nameserver %s\n", server)
	}
	if len(c.search) > 0 {
		fmt.Fprintf(&out, "search %s\n", strings.Join(c.search, " "))
	}
	if len(c.options) > 0 {
		fmt.Fprintf(&out, "options %s\n", strings.Join(c.options, " "))
	}
	for _, line := range c.rest {
		fmt.Fprintln(&out, line)
	}
	return out.Bytes()
}

// ReadHostResolvConf reads the host's resolv.conf. Where that only names the
// local stub of systemd-resolved, it reads the file in which systemd-resolved
// keeps the servers that it asks itself. A host without the file has no servers.
func ReadHostResolvConf() ([]byte, error) {
	text, err := os.ReadFile("/etc/resolv.conf")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the host's name servers: %w", err)
	}
	if servers := parseResolvConf(text).servers; len(servers) == 1 && servers[0] == "127.0.0.53" {
		if upstream, err := os.ReadFile("/run/systemd/resolve/resolv.conf"); err == nil {
			return upstream, nil
		}
	}
	return text, nil
}
