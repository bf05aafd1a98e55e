package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"vivarium/bundle"
	"vivarium/monitor/wire"
	"vivarium/network"
	"vivarium/unionfs"
)

// Inspection is a container in the shape of `docker inspect`.
type Inspection struct {
	ID              string `json:"Id"`
	Created         string
	Path            string
	Args            []string
	State           InspectState
	Image           string
	ResolvConfPath  string
	HostnamePath    string
	HostsPath       string
	LogPath         string
	Name            string
	RestartCount    int
	Driver          string
	Platform        string
	MountLabel      string
	ProcessLabel    string
	AppArmorProfile string
	ExecIDs         []string
	HostConfig      bundle.HostConfig
	GraphDriver     GraphDriver
	SizeRw          *int64 `json:",omitempty"`
	SizeRootFs      *int64 `json:",omitempty"`
	Mounts          []InspectMount
	Config          bundle.Config
	NetworkSettings NetworkSettings
}

// InspectState is how a container fares, as inspect shows it.
type InspectState struct {
	Status     string
	Running    bool
	Paused     bool
	Restarting bool
	OOMKilled  bool
	Dead       bool
	Pid        int
	ExitCode   int
	Error      string
	StartedAt  string
	FinishedAt string
	Health     *Health `json:",omitempty"`
}

// InspectMount is a mount as inspect shows it.
type InspectMount struct {
	Type        string
	Name        string `json:",omitempty"`
	Source      string
	Destination string
	Driver      string `json:",omitempty"`
	Mode        string
	RW          bool
	Propagation string
}

// GraphDriver names the union and its directories.
type GraphDriver struct {
	Data map[string]string
	Name string
}

// NetworkSettings is what a container has of its networks.
type NetworkSettings struct {
	Bridge                 string
	SandboxID              string
	SandboxKey             string
	Ports                  map[string][]bundle.PortBinding
	HairpinMode            bool
	LinkLocalIPv6Address   string
	LinkLocalIPv6PrefixLen int
	SecondaryIPAddresses   []string
	SecondaryIPv6Addresses []string
	EndpointID             string
	Gateway                string
	GlobalIPv6Address      string
	GlobalIPv6PrefixLen    int
	IPAddress              string
	IPPrefixLen            int
	IPv6Gateway            string
	MacAddress             string
	Networks               map[string]EndpointSettings
}

// EndpointSettings is what a container has of one network.
type EndpointSettings struct {
	IPAMConfig          map[string]string
	Links               []string
	Aliases             []string
	MacAddress          string
	DriverOpts          map[string]string
	NetworkID           string
	EndpointID          string
	Gateway             string
	IPAddress           string
	IPPrefixLen         int
	IPv6Gateway         string
	GlobalIPv6Address   string
	GlobalIPv6PrefixLen int
	DNSNames            []string
}

// Inspect gives everything about a container. With size its layer is measured too.
func (e *Engine) Inspect(ctx context.Context, ref string, size bool) (*Inspection, error) {
	c, err := e.Container(ref)
	if err != nil {
		return nil, err
	}
	st, err := e.state(ctx, c)
	if err != nil {
		return nil, err
	}
	dir := e.runDir(c.ID)
	i := &Inspection{
		ID: c.ID, Created: c.Created.UTC().Format(time.RFC3339Nano), Path: c.Path, Args: c.Args, State: inspectState(st), Image: c.ImageID,
		Name: "/" + c.Name, RestartCount: st.RestartCount, Driver: shownDriver(c.Driver), Platform: "linux",
		HostConfig: c.Options.HostConfig, Config: *c.Config(), Mounts: inspectMounts(c),
		NetworkSettings: e.networkSettings(c, st), ExecIDs: e.execIDs(c.ID), GraphDriver: e.graphDriver(c),
	}
	i.State.Health = e.health(c, st)
	if i.Args == nil {
		i.Args = []string{}
	}
	if c.logDriver() != "none" {
		i.LogPath = e.logFile(c.ID)
	}
	if !strings.HasPrefix(c.networkMode(), "container:") {
		i.ResolvConfPath, i.HostnamePath, i.HostsPath = dir+"/resolv.conf", dir+"/hostname", dir+"/hosts"
	}
	inspectDefaults(i, c)
	if size {
		rw, root, err := e.sizes(ctx, c)
		if err != nil {
			return nil, err
		}
		i.SizeRw, i.SizeRootFs = &rw, &root
	}
	return i, nil
}

// inspectDefaults spells out what the user left to the engine, as Docker does.
func inspectDefaults(i *Inspection, c *Container) {
	h := &i.HostConfig
	if h.NetworkMode == "" || h.NetworkMode == "default" {
		h.NetworkMode = bridgeNetwork
	}
	if h.LogConfig.Type == "" {
		h.LogConfig.Type = "json-file"
	}
	if h.LogConfig.Config == nil {
		h.LogConfig.Config = map[string]string{}
	}
	if h.RestartPolicy.Name == "" {
		h.RestartPolicy.Name = "no"
	}
	if h.ShmSize == 0 {
		h.ShmSize = 64 << 20
	}
	if h.IpcMode == "" {
		h.IpcMode = "private"
	}
	if h.CgroupnsMode == "" {
		h.CgroupnsMode = "private"
	}
	if h.Runtime == "" {
		h.Runtime = "viv-oci"
	}
	h.PortBindings = map[string][]bundle.PortBinding{}
	if ports, err := publishedPorts(c); err == nil {
		for _, p := range ports {
			h.PortBindings[portKey(p)] = append(h.PortBindings[portKey(p)], portBinding(p))
		}
	}
	if i.Config.Hostname == "" {
		i.Config.Hostname = defaultHostname(c)
	}
}

// defaultHostname is the beginning of the ID, or the host's name where that is shared.
func defaultHostname(c *Container) string {
	if c.Options.HostConfig.UTSMode == "host" || c.networkMode() == "host" {
		return hostName()
	}
	return short(c.ID)
}

func portBinding(p network.PortMapping) bundle.PortBinding {
	b := bundle.PortBinding{}
	if p.HostIP.IsValid() && !p.HostIP.IsUnspecified() {
		b.HostIP = p.HostIP.String()
	}
	if p.HostPort != 0 {
		b.HostPort = fmt.Sprint(p.HostPort)
		if p.HostPortEnd != 0 {
			b.HostPort += fmt.Sprintf("-%d", p.HostPortEnd)
		}
	}
	return b
}

func inspectState(st wire.Status) InspectState {
	return InspectState{
		Status: st.State, Running: live(st), Paused: st.State == wire.Paused, Restarting: st.State == wire.Restarting,
		OOMKilled: st.OOMKilled, Dead: st.State == wire.Dead, Pid: st.Pid, ExitCode: st.ExitCode, Error: st.Error,
		StartedAt: unixNano(st.StartedAt), FinishedAt: unixNano(st.FinishedAt),
	}
}

// unixNano gives Go's zero time for 0: "0001-01-01T00:00:00Z", as Docker prints it.
func unixNano(n int64) string {
	if n == 0 {
		return time.Time{}.Format(time.RFC3339Nano)
	}
	return time.Unix(0, n).UTC().Format(time.RFC3339Nano)
}

func inspectMounts(c *Container) []InspectMount {
	list := []InspectMount{}
	for _, m := range c.Mounts {
		if m.Type == bundle.MountTmpfs && !fromMountFlag(c, m) {
			continue // Docker shows --tmpfs in HostConfig only
		}
		list = append(list, InspectMount{Type: m.Type, Name: m.Name, Source: m.Source, Destination: m.Destination, Driver: m.Driver,
			Mode: m.Mode, RW: m.RW, Propagation: m.Propagation})
	}
	return list
}

func fromMountFlag(c *Container, m MountPoint) bool {
	return slices.ContainsFunc(c.Options.HostConfig.Mounts, func(x bundle.Mount) bool { return x.Target == m.Destination })
}

func (e *Engine) graphDriver(c *Container) GraphDriver {
	dir := e.containerDir(c.ID)
	g := GraphDriver{Name: shownDriver(c.Driver), Data: map[string]string{"UpperDir": dir + "/" + c.ownDir(), "WorkDir": dir + "/work"}}
	if c.Driver == unionfs.DriverAUFS {
		g.Data["MergedDir"] = e.unionPoint(c.ID)
	}
	if src, err := e.containerSource(c); err == nil {
		g.Data["LowerDir"] = strings.Join(src.Lower, ":")
	}
	return g
}

func (e *Engine) networkSettings(c *Container, st wire.Status) NetworkSettings {
	ns := NetworkSettings{Ports: map[string][]bundle.PortBinding{}, Networks: map[string]EndpointSettings{}}
	mode := c.networkMode()
	if strings.HasPrefix(mode, "container:") {
		return ns
	}
	ports, _ := e.portsOf(c, st)
	for _, p := range ports {
		key := portKey(p)
		if p.HostPort == 0 {
			ns.Ports[key] = nil
			continue
		}
		b := portBinding(p)
		if b.HostIP == "" {
			b.HostIP = "0.0.0.0"
		}
		ns.Ports[key] = append(ns.Ports[key], b)
	}
	es := EndpointSettings{}
	if ep := e.endpointOf(c, st); ep != nil {
		es.IPAddress, es.IPPrefixLen, es.Gateway, es.MacAddress = ep.IP.String(), ep.PrefixLen, ep.Gateway.String(), ep.MAC
		es.NetworkID, es.EndpointID = ep.Bridge, ep.HostInterface
		ns.Bridge, ns.SandboxKey = ep.Bridge, fmt.Sprintf("/proc/%d/ns/net", st.Pid)
	}
	if ip := c.Options.Network.IPAddress; ip != "" {
		es.IPAMConfig = map[string]string{"IPv4Address": ip}
	}
	es.Aliases = c.Options.Network.Aliases
	ns.Networks[mode] = es
	ns.IPAddress, ns.IPPrefixLen, ns.Gateway, ns.MacAddress, ns.EndpointID = es.IPAddress, es.IPPrefixLen, es.Gateway, es.MacAddress, es.EndpointID
	return ns
}

// Map gives the inspection as generic JSON, for templates that name fields as JSON does.
func (i *Inspection) Map() (map[string]any, error) { return jsonMap(i) }

func jsonMap(v any) (map[string]any, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	m := map[string]any{}
	return m, json.Unmarshal(b, &m)
}
