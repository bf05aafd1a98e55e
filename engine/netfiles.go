package engine

import (
	"fmt"
	"net/netip"
	"os"

	"vivarium/network"
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
	for i, content := range [...][]byte{hosts, network.HostnameContent(r.c.hostname()), resolv} {
		if err := os.WriteFile(dir+"/"+netFileNames[i], content, 0o644); err != nil {
			return fmt.Errorf("write the %s file of container %s: %w", netFileNames[i], r.c.Name, err)
		}
	}
	return nil
}

// hosts is the content of /etc/hosts: with the host's network a copy of the
// host's, else local names and the container's own; then --add-host.
func (r *run) hosts() ([]byte, error) {
	f := network.HostsFile{Hostname: r.c.hostname(), Domainname: r.c.Config().Domainname, Aliases: r.c.Options.Network.Aliases}
	if r.c.networkMode() == "host" {
		own, err := os.ReadFile("/etc/hosts")
		if err != nil && !os.IsNotExist(err) {
			return nil, fmt.Errorf("copy the host's /etc/hosts: %w", err)
		}
		f.Base = own
	}
	var gateway netip.Addr
	if r.endpoint != nil {
		f.IP, gateway = r.endpoint.IP, r.endpoint.Gateway
	}
	for _, h := range r.c.Options.HostConfig.ExtraHosts {
		entry, err := network.ParseExtraHost(h, gateway)
		if err != nil {
			return nil, &Error{Kind: ErrInvalid, Msg: err.Error()}
		}
		f.Extra = append(f.Extra, entry)
	}
	return f.Content(), nil
}

// resolvConf is the host's /etc/resolv.conf with what the options say. Servers that
// cannot be reached from a network of the container's own are left out of that.
func (r *run) resolvConf() ([]byte, error) {
	h := &r.c.Options.HostConfig
	o := network.ResolverOptions{Search: h.DnsSearch, Options: h.DnsOptions}
	for _, s := range h.Dns {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, errorf(ErrInvalid, "--dns: %s is no IP address", s)
		}
		o.Servers = append(o.Servers, a)
	}
	if r.c.networkMode() == "host" {
		host, err := os.ReadFile("/etc/resolv.conf")
		if err != nil && !os.IsNotExist(err) {
			return nil, fmt.Errorf("copy the host's /etc/resolv.conf: %w", err)
		}
		return network.HostResolvConf(host, o), nil
	}
	host, err := network.ReadHostResolvConf()
	if err != nil {
		return nil, err
	}
	return network.ResolvConf(host, o), nil
}
