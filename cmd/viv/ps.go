package main

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"vivarium/engine"
	"vivarium/monitor/wire"
	"vivarium/network"
)

func newTable(w io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(w, 20, 1, 3, ' ', 0) }

func newPs(a *app) *cobra.Command {
	var o engine.ListOptions
	var filters []string
	var quiet, noTrunc, latest bool
	l := listing{headers: psHeaders, quiet: "{{.ID}}"}
	c := &cobra.Command{Use: "ps [OPTIONS]", Short: "List containers", Args: noArgs}
	fs := c.Flags()
	fs.BoolVarP(&o.All, "all", "a", false, "show all containers (default shows just running)")
	fs.StringArrayVarP(&filters, "filter", "f", nil, "filter output based on conditions provided")
	fs.StringVar(&l.format, "format", "", "a Go template, 'table TEMPLATE' or json")
	fs.IntVarP(&o.Last, "last", "n", -1, "show the n last created containers (includes all states)")
	fs.BoolVarP(&latest, "latest", "l", false, "show the latest created container (includes all states)")
	fs.BoolVar(&noTrunc, "no-trunc", false, "don't truncate output")
	fs.BoolVarP(&quiet, "quiet", "q", false, "only display container IDs")
	fs.BoolVarP(&o.Size, "size", "s", false, "display total file sizes")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		var err error
		if o.Filters, err = parseFilters(filters); err != nil {
			return err
		}
		if latest {
			o.Last = 1
		}
		o.Size = o.Size || usesSize.MatchString(l.format)
		e, err := a.engine()
		if err != nil {
			return err
		}
		// First, so that the list shows nothing that a killed command left.
		if err := e.Sweep(cmd.Context()); err != nil {
			return err
		}
		list, err := e.List(cmd.Context(), o)
		if err != nil {
			return err
		}
		l.table = psTable
		if o.Size {
			l.table += "\t{{.Size}}"
		}
		now := time.Now()
		rows := make([]any, len(list))
		for i := range list {
			rows[i] = psRowOf(&list[i], now, noTrunc)
		}
		return l.print(a.out, quiet, rows)
	}
	return c
}

// usesSize finds templates that show the size, by name or with everything else.
var usesSize = regexp.MustCompile(`\.Size\b|\bjson +\. *[|}]`)

// parseFilters reads --filter arguments; a malformed one is a bad command line.
func parseFilters(args []string) (engine.Filters, error) {
	f, err := engine.ParseFilters(args)
	if err != nil {
		return nil, usagef("%v", err)
	}
	return f, nil
}

const psTable = "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}"

var psHeaders = headers{
	"ID": "CONTAINER ID", "Image": "IMAGE", "Command": "COMMAND", "CreatedAt": "CREATED AT", "RunningFor": "CREATED",
	"Ports": "PORTS", "State": "STATE", "Status": "STATUS", "Size": "SIZE", "Names": "NAMES", "Labels": "LABELS",
	"Mounts": "MOUNTS", "LocalVolumes": "LOCAL VOLUMES", "Networks": "NETWORKS",
}

// psRow is a container as templates see it; the fields are Docker's.
type psRow struct {
	Command      string
	CreatedAt    string
	ID           string
	Image        string
	Labels       string
	LocalVolumes string
	Mounts       string
	Names        string
	Networks     string
	Ports        string
	RunningFor   string
	Size         string
	State        string
	Status       string

	labels map[string]string
}

// Label gives the value of one label.
func (r psRow) Label(name string) string { return r.labels[name] }

func psRowOf(s *engine.Summary, now time.Time, noTrunc bool) psRow {
	c := s.Container
	r := psRow{
		ID: c.ID, Image: c.Image, Names: c.Name, CreatedAt: c.Created.Local().Format("2006-01-02 15:04:05 -0700 MST"),
		RunningFor: units.HumanDuration(now.Sub(c.Created)) + " ago", Ports: portList(s.Ports), State: s.State.State,
		Status: statusText(s.State, s.Health, now), labels: c.Labels(), Labels: labelList(c.Labels()), Size: sizeText(s),
	}
	command := commandText(c)
	if !noTrunc {
		r.ID = c.ID[:12]
		command = ellipsis(command, 20)
	}
	r.Command = strconv.Quote(command) // a newline stays on its line
	var mounts []string
	volumes := 0
	for _, m := range c.Mounts {
		name := m.Name
		if m.Type == "volume" {
			volumes++
		}
		if name == "" {
			name = m.Source
		}
		if name == "" {
			continue
		}
		if !noTrunc {
			name = ellipsis(name, 15)
		}
		mounts = append(mounts, name)
	}
	r.Mounts, r.LocalVolumes = strings.Join(mounts, ","), fmt.Sprint(volumes)
	var nets []string
	for n := range s.Networks {
		nets = append(nets, n)
	}
	sort.Strings(nets)
	r.Networks = strings.Join(nets, ",")
	return r
}

// commandText is the command with quotes around arguments that have a space.
func commandText(c *engine.Container) string {
	words := []string{c.Path}
	for _, arg := range c.Args {
		if strings.Contains(arg, " ") {
			arg = "'" + arg + "'"
		}
		words = append(words, arg)
	}
	return strings.Join(words, " ")
}

func sizeText(s *engine.Summary) string {
	text := units.HumanSizeWithPrecision(float64(s.SizeRw), 3)
	if s.SizeRoot > 0 {
		text += fmt.Sprintf(" (virtual %s)", units.HumanSizeWithPrecision(float64(s.SizeRoot), 3))
	}
	return text
}

// ellipsis cuts s to n characters, the last of them an ellipsis.
func ellipsis(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n-1]) + "…"
}

// statusText is Docker's sentence about a state: "Up 2 minutes (Paused)".
func statusText(st wire.Status, health string, now time.Time) string {
	since := func(ns int64) string { return units.HumanDuration(now.Sub(time.Unix(0, ns))) }
	switch st.State {
	case wire.Running:
		text := "Up " + since(st.StartedAt)
		switch health {
		case "", "none":
			return text
		case "starting":
			health = "health: starting"
		}
		return text + " (" + health + ")"
	case wire.Paused:
		return fmt.Sprintf("Up %s (Paused)", since(st.StartedAt))
	case wire.Restarting:
		return fmt.Sprintf("Restarting (%d) %s ago", st.ExitCode, since(st.FinishedAt))
	case wire.Exited:
		return fmt.Sprintf("Exited (%d) %s ago", st.ExitCode, since(st.FinishedAt))
	case wire.Dead:
		return "Dead"
	}
	return "Created"
}

func labelList(labels map[string]string) string {
	var list []string
	for k, v := range labels {
		list = append(list, k+"="+v)
	}
	sort.Strings(list)
	return strings.Join(list, ",")
}

// portList writes ports as Docker does: neighbours on both sides become ranges.
func portList(ports []network.PortMapping) string {
	ports = slices.Clone(ports)
	sort.SliceStable(ports, func(i, j int) bool {
		a, b := ports[i], ports[j]
		if a.ContainerPort != b.ContainerPort {
			return a.ContainerPort < b.ContainerPort
		}
		if c := a.HostIP.Compare(b.HostIP); c != 0 {
			return c < 0
		}
		if a.HostPort != b.HostPort {
			return a.HostPort < b.HostPort
		}
		return a.Protocol < b.Protocol
	})
	var groups []*portGroup
	for _, p := range ports {
		if !slices.ContainsFunc(groups, func(g *portGroup) bool { return g.take(p) }) {
			groups = append(groups, &portGroup{first: p, last: p})
		}
	}
	var list []string
	for _, g := range groups {
		list = append(list, g.String())
	}
	return strings.Join(list, ", ")
}

// portGroup is a run of ports that are neighbours in the container and on the host.
type portGroup struct{ first, last network.PortMapping }

func (g *portGroup) take(p network.PortMapping) bool {
	if p.Protocol != g.last.Protocol || p.HostIP != g.last.HostIP || p.ContainerPort != g.last.ContainerPort+1 {
		return false
	}
	if g.last.HostPort == 0 && p.HostPort == 0 || g.last.HostPort != 0 && p.HostPort == g.last.HostPort+1 {
		g.last = p
		return true
	}
	return false
}

func (g *portGroup) String() string {
	inner := span(g.first.ContainerPort, g.last.ContainerPort) + "/" + string(g.first.Protocol)
	if g.first.HostPort == 0 {
		return inner
	}
	host := "0.0.0.0"
	if g.first.HostIP.IsValid() {
		host = g.first.HostIP.String()
	}
	return fmt.Sprintf("%s:%s->%s", host, span(g.first.HostPort, g.last.HostPort), inner)
}

func span(a, b uint16) string {
	if a == b {
		return fmt.Sprint(a)
	}
	return fmt.Sprintf("%d-%d", a, b)
}
