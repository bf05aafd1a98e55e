package engine

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"strings"
)

// netFileNames are the generated files that are mounted over the image's. They are
// good for one run and lie in its directory: three files less on a disk.
var netFileNames = [...]string{"hosts", "hostname", "resolv.conf"}

// touchNetFiles makes the files empty: a plan looks whether the source of a
// mount is a file.
func (r *run) touchNetFiles() error {
	dir := r.e.runDir(r.c.ID)
	for _, name := range netFileNames {
		f, err := os.OpenFile(dir+"/"+name, os.O_WRONLY|os.O_CREATE, 0o644)
		if err != nil {
			return fmt.Errorf("make the %s file of container %s: %w", name, r.c.Name, err)
		}
		f.Close()
	}
	return nil
}

// writeNetFiles writes hosts, hostname and resolv.conf of the container.
func (r *run) writeNetFiles() error {
	hosts, err := r.hosts()
	if err != nil {
		return err
	}
	resolv, err := r.resolvConf()
	if err != nil {
		return err
	}
	dir := r.e.runDir(r.c.ID)
	for i, content := range [...][]byte{hosts, []byte(r.c.hostname() + "\n"), resolv} {
		if err := os.WriteFile(dir+"/"+netFileNames[i], content, 0o644); err != nil {
			return fmt.Errorf("write the %s file of container %s: %w", netFileNames[i], r.c.Name, err)
		}
	}
	return nil
}

// hostsHead is how Docker's hosts files begin.
const hostsHead = `127.0.0.1	localhost
::1	localhost ip6-localhost ip6-loopback
fe00::	ip6-localnet
ff00::	ip6-mcastprefix
ff02::1	ip6-allnodes
ff02::2	ip6-allrouters
`

// hosts is the content of /etc/hosts: with the host's network a copy of the
// host's, else local names and the container's own; then --add-host.
func (r *run) hosts() ([]byte, error) {
	var b bytes.Buffer
	if r.c.networkMode() == "host" {
		own, err := os.ReadFile("/etc/hosts")
		if err != nil && !os.IsNotExist(err) {
			return nil, fmt.Errorf("copy the host's /etc/hosts: %w", err)
		}
		b.Write(own)
		if len(own) > 0 && own[len(own)-1] != '\n' {
			b.WriteByte('\n')
		}
	} else {
		b.WriteString(hostsHead)
	}
	gateway := ""
	if r.endpoint != nil {
		gateway = r.endpoint.Gateway.String()
	}
	for _, h := range r.c.Options.HostConfig.ExtraHosts {
		name, ip, _ := strings.Cut(h, ":")
		if ip = strings.Trim(ip, "[]"); ip == "host-gateway" {
			if gateway == "" {
				return nil, errorf(ErrInvalid, "--add-host %s: there is no gateway without a bridge network", h)
			}
			ip = gateway
		}
		fmt.Fprintf(&b, "%s\t%s\n", ip, name)
	}
	if r.endpoint != nil {
		names := r.c.hostname()
		if d := r.c.Config().Domainname; d != "" {
			names += "." + d + " " + r.c.hostname()
		}
		for _, a := range r.c.Options.Network.Aliases {
			names += " " + a
		}
		fmt.Fprintf(&b, "%s\t%s\n", r.endpoint.IP, names)
	}
	return b.Bytes(), nil
}

// publicServers are Docker's, for a host whose own servers cannot be reached
// from a network namespace.
var publicServers = []string{"8.8.8.8", "8.8.4.4"}

// resolvConf is the host's /etc/resolv.conf with what the options say. Servers on
// the host's loopback are left out unless the network is the host's.
func (r *run) resolvConf() ([]byte, error) {
	h := &r.c.Options.HostConfig
	host, err := readResolvConf(r.c.networkMode() != "host")
	if err != nil {
		return nil, err
	}
	if len(h.Dns) > 0 {
		host.servers = h.Dns
	}
	if len(host.servers) == 0 && r.c.networkMode() != "host" {
		host.servers = publicServers
	}
	if len(h.DnsSearch) > 0 {
		host.search = h.DnsSearch
		if len(host.search) == 1 && host.search[0] == "." {
			host.search = nil
		}
	}
	if len(h.DnsOptions) > 0 {
		host.options = h.DnsOptions
	}
	return host.text(), nil
}

type resolvConf struct{ servers, search, options []string }

// readResolvConf reads the host's; where systemd-resolved is the only server,
// its list of real ones is taken.
func readResolvConf(noLoopback bool) (resolvConf, error) {
	b, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !os.IsNotExist(err) {
		return resolvConf{}, fmt.Errorf("read the host's /etc/resolv.conf: %w", err)
	}
	c := parseResolvConf(b)
	if !noLoopback {
		return c, nil
	}
	if len(c.servers) == 1 && c.servers[0] == "127.0.0.53" {
		if b, err := os.ReadFile("/run/systemd/resolve/resolv.conf"); err == nil {
			c = parseResolvConf(b)
		}
	}
	var reachable []string
	for _, s := range c.servers {
		if a, err := netip.ParseAddr(s); err == nil && !a.IsLoopback() {
			reachable = append(reachable, s)
		}
	}
	c.servers = reachable
	return c, nil
}

// parseResolvConf reads resolv.conf(5); the last search or domain line counts.
func parseResolvConf(b []byte) resolvConf {
	var c resolvConf
	for line := range strings.Lines(string(b)) {
		line, _, _ = strings.Cut(line, "#")
		line, _, _ = strings.Cut(line, ";")
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			c.servers = append(c.servers, f[1])
		case "search", "domain":
			c.search = f[1:]
		case "options":
			c.options = append(c.options, f[1:]...)
		}
	}
	return c
}

func (c resolvConf) text() []byte {
	var b bytes.Buffer
	for _, s := range c.servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(c.search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(c.search, " "))
	}
	if len(c.options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(c.options, " "))
	}
	return b.Bytes()
}
