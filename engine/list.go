package engine

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"vivarium/monitor/wire"
	"vivarium/network"
)

// ListOptions chooses containers.
type ListOptions struct {
	All     bool // also those that do not run
	Last    int  // > 0: the last made ones, in any state
	Size    bool // compute SizeRw
	Filters Filters
}

// Summary is one line of List.
type Summary struct {
	Container *Container
	State     wire.Status
	Ports     []network.PortMapping // a HostPort of 0: only exposed
	Networks  map[string]string     // name -> address
	Health    string                // "none", "starting", "healthy", "unhealthy"
	SizeRw    int64                 // bytes in the container layer, with ListOptions.Size
	SizeRoot  int64                 // bytes in all layers, with ListOptions.Size
}

var listFilters = []string{"id", "name", "label", "status", "ancestor", "exited", "before", "since", "volume", "network", "publish", "expose", "health", "is-task"}

// List gives the containers that opt chooses, the newest first.
func (e *Engine) List(ctx context.Context, opt ListOptions) ([]Summary, error) {
	if err := opt.Filters.check(listFilters...); err != nil {
		return nil, err
	}
	m, err := e.newMatcher(opt)
	if err != nil {
		return nil, err
	}
	cs, err := e.all()
	if err != nil {
		return nil, err
	}
	slices.SortFunc(cs, func(a, b *Container) int { return b.Created.Compare(a.Created) })
	var list []Summary
	for _, c := range cs {
		if !m.matchRecord(c) {
			continue
		}
		st, err := e.state(ctx, c)
		if err != nil {
			return nil, err
		}
		if !m.matchState(st) || !e.hasRecord(c.ID) { // mending may have removed it
			continue
		}
		s := Summary{Container: c, State: st, Health: e.health(c, st).status()}
		if !opt.Filters.any("health", func(v string) bool { return v == s.Health }) {
			continue
		}
		s.Ports, s.Networks = e.portsOf(c, st)
		if !m.matchNetwork(c, &s) {
			continue
		}
		list = append(list, s)
		if opt.Last > 0 && len(list) == opt.Last {
			break
		}
	}
	if opt.Size {
		return list, e.addSizes(ctx, list)
	}
	return list, nil
}

func (e *Engine) addSizes(ctx context.Context, list []Summary) error {
	for i := range list {
		rw, root, err := e.sizes(ctx, list[i].Container)
		if err != nil {
			return err
		}
		list[i].SizeRw, list[i].SizeRoot = rw, root
	}
	return nil
}

// matcher is a list's filters with what they refer to looked up.
type matcher struct {
	f             Filters
	onlyRunning   bool
	before, since time.Time
	exited        []int
	ancestors     []string // references and image IDs
	networks      []string
}

func (e *Engine) newMatcher(opt ListOptions) (*matcher, error) {
	f := opt.Filters
	m := &matcher{f: f}
	_, status := f["status"]
	m.onlyRunning = !opt.All && opt.Last <= 0 && !status
	for _, s := range f["status"] {
		if !slices.Contains([]string{"created", "restarting", "running", "removing", "paused", "exited", "dead"}, s) {
			return nil, errorf(ErrInvalid, "invalid filter 'status=%s'", s)
		}
	}
	for _, s := range f["health"] {
		if !slices.Contains([]string{"starting", "healthy", "unhealthy", "none"}, s) {
			return nil, errorf(ErrInvalid, "invalid filter 'health=%s'", s)
		}
	}
	for _, s := range f["exited"] {
		n, err := strconv.Atoi(s)
		if err != nil {
			return nil, errorf(ErrInvalid, "invalid filter 'exited=%s'", s)
		}
		m.exited = append(m.exited, n)
	}
	if _, err := f.bool("is-task", false); err != nil {
		return nil, err
	}
	for _, key := range []string{"publish", "expose"} {
		for _, s := range f[key] {
			if _, _, _, ok := portRange(s); !ok {
				return nil, errorf(ErrInvalid, "invalid filter '%s=%s': want PORT[-PORT][/PROTOCOL]", key, s)
			}
		}
	}
	for key, t := range map[string]*time.Time{"before": &m.before, "since": &m.since} {
		for _, ref := range f[key] {
			c, err := e.Container(ref)
			if err != nil {
				return nil, err
			}
			*t = c.Created
		}
	}
	for _, ref := range f["ancestor"] {
		m.ancestors = append(m.ancestors, ref)
		if img, err := e.imageID(ref); err == nil {
			m.ancestors = append(m.ancestors, img)
		}
	}
	m.networks = f["network"]
	return m, nil
}

func (m *matcher) matchRecord(c *Container) bool {
	if !m.before.IsZero() && !c.Created.Before(m.before) || !m.since.IsZero() && !c.Created.After(m.since) {
		return false
	}
	return m.f.any("id", func(v string) bool { return strings.HasPrefix(c.ID, v) || matchPattern(v, c.ID) }) &&
		m.f.any("name", func(v string) bool {
			return matchPattern(v, c.Name) || matchPattern(v, "/"+c.Name)
		}) &&
		m.f.all("label", func(v string) bool { return matchLabel(c.Labels(), v) }) &&
		m.f.any("ancestor", func(string) bool {
			return slices.ContainsFunc(m.ancestors, func(a string) bool { return c.isFrom(a) })
		}) &&
		m.f.any("volume", func(v string) bool {
			return slices.ContainsFunc(c.Mounts, func(p MountPoint) bool { return v == p.Name || v == p.Destination || v == p.Source })
		}) &&
		m.f.any("is-task", func(v string) bool { return v != "true" && v != "1" })
}

// isFrom tells whether an image reference or ID is that of c's image.
func (c *Container) isFrom(a string) bool {
	if a == c.Image || a == c.ImageID || a+":latest" == c.Image || a == c.Image+":latest" {
		return true
	}
	_, hex, _ := strings.Cut(c.ImageID, ":")
	return len(a) >= 4 && isHex(a) && strings.HasPrefix(hex, a)
}

func (m *matcher) matchState(st wire.Status) bool {
	if m.onlyRunning && !live(st) {
		return false
	}
	return m.f.any("status", func(v string) bool { return v == st.State }) &&
		m.f.any("exited", func(string) bool {
			return (st.State == wire.Exited || st.State == wire.Dead) && slices.Contains(m.exited, st.ExitCode)
		})
}

func (m *matcher) matchNetwork(c *Container, s *Summary) bool {
	return m.f.any("network", func(v string) bool {
		_, ok := s.Networks[v]
		return ok || c.networkMode() == v
	}) &&
		m.f.any("publish", func(v string) bool { return matchPort(v, s.Ports, true) }) &&
		m.f.any("expose", func(v string) bool { return matchPort(v, s.Ports, false) })
}

// matchPort matches "80", "80/tcp", "80-90/udp" against published or all ports.
func matchPort(want string, ports []network.PortMapping, published bool) bool {
	lo, hi, proto, _ := portRange(want) // checked by newMatcher
	return slices.ContainsFunc(ports, func(p network.PortMapping) bool {
		if published && p.HostPort == 0 || string(p.Protocol) != proto {
			return false
		}
		n := p.ContainerPort
		if published {
			n = p.HostPort
		}
		return n >= lo && n <= hi
	})
}

// portRange reads PORT[-PORT][/PROTOCOL].
func portRange(s string) (lo, hi uint16, proto string, ok bool) {
	spec, proto, found := strings.Cut(s, "/")
	if !found {
		proto = "tcp"
	}
	from, to, found := strings.Cut(spec, "-")
	if !found {
		to = from
	}
	first, err1 := strconv.ParseUint(from, 10, 16)
	last, err2 := strconv.ParseUint(to, 10, 16)
	return uint16(first), uint16(last), proto, err1 == nil && err2 == nil && first <= last
}
