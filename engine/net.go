package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"vivarium/monitor/client"
	"vivarium/monitor/wire"
	"vivarium/network"
)

// bridgeNetwork is the name of the default network, as inspect shows it.
const bridgeNetwork = "bridge"

// networkMode is what the container asked for, with the default spelled out.
func (c *Container) networkMode() string {
	switch m := c.Options.HostConfig.NetworkMode; m {
	case "", "default":
		return bridgeNetwork
	default:
		return m
	}
}

func (c *Container) bridged() bool { return c.networkMode() == bridgeNetwork }

func (e *Engine) network() *network.Manager { return network.Open(e.State) }

// checkNetwork refuses networks that are not there.
func (c *Container) checkNetwork() error {
	switch m := c.networkMode(); {
	case m == bridgeNetwork, m == "host", m == "none", strings.HasPrefix(m, "container:"):
		return nil
	default:
		return errorf(ErrInvalid, "network %s not found", m)
	}
}

// attachNetwork begins to attach a bridged container, in the background.
func (r *run) attachNetwork(ctx context.Context) (err error) {
	if !r.c.bridged() {
		return nil
	}
	req, err := networkRequest(r.c)
	if err != nil {
		return err
	}
	if r.netns, err = network.NewNamespace(); err != nil {
		return err
	}
	attached := make(chan attachResult, 1)
	r.attached = attached
	netns := r.netns
	go func() {
		ep, err := r.e.network().Attach(ctx, netns, req)
		attached <- attachResult{&ep, err}
		close(attached)
	}()
	return nil
}

// joinNetwork waits for the attachment and writes the files that tell of it.
func (r *run) joinNetwork(ctx context.Context) error {
	if r.attached != nil {
		res := <-r.attached
		r.attached = nil
		if res.err != nil {
			return res.err // says "attach container …" itself
		}
		r.endpoint = res.endpoint
		var err error
		if r.ports, err = holdPorts(r.endpoint.PortSockets); err != nil {
			return fmt.Errorf("hold the published ports of container %s: %w", r.c.Name, err)
		}
	}
	if !r.ownNetFiles {
		return nil
	}
	return r.writeNetFiles()
}

// holdPorts puts sockets, which it closes, into the queue of a socket that nobody
// reads: while that one descriptor is open they all are, however many they are
// (unix(7), SCM_RIGHTS). Another engine or program cannot take the ports then.
func holdPorts(sockets []*os.File) (*os.File, error) {
	defer func() {
		for _, f := range sockets {
			f.Close()
		}
	}()
	if len(sockets) == 0 {
		return nil, nil
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(pair[1])
	holder := os.NewFile(uintptr(pair[0]), "ports")
	for some := range slices.Chunk(sockets, 200) { // the kernel takes 253 at once
		fds := make([]int, len(some))
		for i, f := range some {
			fds[i] = int(f.Fd())
		}
		if err := unix.Sendmsg(pair[1], []byte{0}, unix.UnixRights(fds...), nil, unix.MSG_DONTWAIT); err != nil {
			holder.Close()
			return nil, err
		}
	}
	return holder, nil
}

func networkRequest(c *Container) (network.Request, error) {
	req := network.Request{ContainerID: c.ID, HoldPorts: true}
	opt := c.Options.Network
	var err error
	if opt.IPAddress != "" {
		if req.IP, err = netip.ParseAddr(opt.IPAddress); err != nil {
			return req, errorf(ErrInvalid, "invalid IPv4 address: %s", opt.IPAddress)
		}
	}
	if opt.IPv6Address != "" || len(opt.LinkLocal) > 0 {
		return req, errorf(ErrUnsupported, "the network %s has no IPv6: --ip6 and --link-local-ip cannot be used", bridgeNetwork)
	}
	if opt.MacAddress != "" {
		if req.MAC, err = network.ParseMAC(opt.MacAddress); err != nil {
			return req, &Error{Kind: ErrInvalid, Msg: err.Error()}
		}
	}
	req.Ports, err = publishedPorts(c)
	return req, err
}

// publishedPorts are the ports of -p, and with -P every exposed one that -p does not name.
func publishedPorts(c *Container) ([]network.PortMapping, error) {
	var list []network.PortMapping
	named := map[string]bool{}
	for _, arg := range c.Options.Publish {
		ms, err := network.ParsePort(arg)
		if err != nil {
			return nil, &Error{Kind: ErrInvalid, Msg: err.Error()}
		}
		for _, m := range ms {
			named[portKey(m)] = true
		}
		list = append(list, ms...)
	}
	if !c.Options.HostConfig.PublishAllPorts {
		return list, nil
	}
	for _, m := range exposedPorts(c) {
		if !named[portKey(m)] {
			list = append(list, m)
		}
	}
	return list, nil
}

// exposedPorts are the ports that image and user name without publishing them.
func exposedPorts(c *Container) []network.PortMapping {
	args := slices.Sorted(maps.Keys(c.Config().ExposedPorts))
	var list []network.PortMapping
	for _, arg := range args {
		if ms, err := network.ParsePort(arg); err == nil {
			list = append(list, ms...)
		}
	}
	return list
}

func portKey(m network.PortMapping) string { return fmt.Sprintf("%d/%s", m.ContainerPort, m.Protocol) }

// detachNetwork gives back what the container has of the network.
func (e *Engine) detachNetwork(c *Container) error {
	if err := e.network().Detach(context.Background(), c.ID); err != nil && !errors.Is(err, network.ErrNotAttached) {
		return fmt.Errorf("detach container %s from the network: %w", c.Name, err)
	}
	return nil
}

// endpointOf gives the endpoint of a container that runs on a bridge, or nil.
func (e *Engine) endpointOf(c *Container, st wire.Status) *network.Endpoint {
	if !live(st) || !c.bridged() {
		return nil
	}
	ep, err := e.network().Endpoint(c.ID)
	if err != nil {
		return nil
	}
	return &ep
}

// portsOf lists the published ports of a running container and those only exposed,
// and its addresses by network.
func (e *Engine) portsOf(c *Container, st wire.Status) ([]network.PortMapping, map[string]string) {
	networks := map[string]string{}
	mode := c.networkMode()
	if strings.HasPrefix(mode, "container:") {
		return nil, networks
	}
	networks[mode] = ""
	var ports []network.PortMapping
	if ep := e.endpointOf(c, st); ep != nil {
		networks[mode] = ep.IP.String()
		ports = slices.Clone(ep.Ports)
	}
	if !live(st) || mode == "host" || mode == "none" {
		return ports, networks
	}
	for _, m := range exposedPorts(c) {
		if !slices.ContainsFunc(ports, func(p network.PortMapping) bool { return portKey(p) == portKey(m) }) {
			ports = append(ports, m)
		}
	}
	return ports, networks
}

// Port gives the published ports of a container; with private ("80", "80/udp")
// those of one port, which must be published.
func (e *Engine) Port(ctx context.Context, ref, private string) ([]network.PortMapping, error) {
	c, err := e.Container(ref)
	if err != nil {
		return nil, err
	}
	st, err := e.state(ctx, c)
	if err != nil {
		return nil, err
	}
	var ports []network.PortMapping
	if ep := e.endpointOf(c, st); ep != nil {
		ports = ep.Ports
	}
	if private == "" {
		return ports, nil
	}
	want := private
	if !strings.Contains(want, "/") {
		want += "/tcp"
	}
	ports = slices.DeleteFunc(slices.Clone(ports), func(p network.PortMapping) bool { return portKey(p) != want })
	if len(ports) == 0 {
		return nil, errorf(ErrInvalid, "no public port '%s' published for %s", want, ref)
	}
	return ports, nil
}

// checkNetwork finds leases and rules that belong to no container.
func (e *Engine) checkNetwork(ctx context.Context, repair bool) ([]Finding, error) {
	if _, err := os.Stat(e.State + "/network"); err != nil {
		return nil, nil
	}
	alive := func(id string) bool {
		if e.inFlight(id) {
			return true
		}
		st, err := client.ReadStatus(e.containerDir(id))
		if err != nil || !live(st) {
			return false
		}
		process, monitor := client.Alive(st)
		return process || monitor
	}
	return e.sweepNetwork(ctx, alive, repair)
}
