package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"vivarium/engine"
)

// anatomy is what inspect --anatomy does: containers in a form made for reading, as a
// picture, or as JSON.
func (a *app) anatomy(cmd *cobra.Command, names []string, format string) error {
	show := map[string]func(io.Writer, *engine.Anatomy) error{"": printAnatomy, "json": anatomyJSON, "svg": drawAnatomy, "html": anatomyPage}[format]
	if show == nil {
		return fmt.Errorf("--anatomy has the formats text, json, svg and html, not %q", format)
	}
	if (format == "svg" || format == "html") && len(names) > 1 {
		return fmt.Errorf("--format %s draws one container, not %d", format, len(names))
	}
	e, err := a.engine()
	if err != nil {
		return err
	}
	return a.each(names, func(name string) (string, error) {
		one, err := e.Anatomy(cmd.Context(), name)
		if err != nil {
			return "", err
		}
		return "", show(a.out, one)
	})
}

func anatomyJSON(out io.Writer, a *engine.Anatomy) error { return json.NewEncoder(out).Encode(a) }

// part is one side of a container, as a table.
type part struct {
	title string
	rows  [][]string
}

func (p *part) row(cells ...string) { p.rows = append(p.rows, cells) }

func printAnatomy(out io.Writer, a *engine.Anatomy) error {
	w := tabwriter.NewWriter(out, 0, 1, 2, ' ', 0)
	for i, p := range anatomyParts(a) {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintln(w, p.title)
		for _, r := range p.rows {
			fmt.Fprintln(w, "  "+strings.Join(r, "\t"))
		}
	}
	if a.Pid == 0 {
		fmt.Fprintln(w, "\n"+notRunning)
	}
	return w.Flush()
}

const notRunning = "It does not run: it has no namespaces, control groups or processes."

// anatomyParts are what is told of a container, in the order in which it is told.
func anatomyParts(a *engine.Anatomy) []part {
	parts := []part{aboutPart(a), unionPart(a)}
	if a.Pid != 0 {
		parts = append(parts, namespacesPart(a), groupsPart(a), rightsPart(a), mountsPart(a))
	}
	return parts
}

func aboutPart(a *engine.Anatomy) part {
	p := part{title: a.Name + "  " + a.ID[:12]}
	p.row("image", a.Image)
	p.row("command", printable(strings.Join(a.Command, " ")))
	p.row("status", a.Status)
	if a.Pid != 0 {
		p.row("process", strconv.Itoa(a.Pid)+" on the host")
	}
	return p
}

func unionPart(a *engine.Anatomy) part {
	p := part{title: "File system: " + a.Union.Driver + ", top-most layer first"}
	for _, b := range a.Union.Branches {
		p.row(branchName(b), strconv.FormatInt(b.Files, 10)+" files", units.HumanSizeWithPrecision(float64(b.Bytes), 3), b.Path)
	}
	return p
}

func branchName(b engine.AnatomyBranch) string {
	if b.Layer == "container" {
		return fmt.Sprintf("the container's own, %d changes", b.Changes)
	}
	return "layer " + b.Layer + " of the image"
}

func namespacesPart(a *engine.Anatomy) part {
	p := part{title: "Namespaces, beside those of the host"}
	for _, n := range a.Namespaces {
		whose := "of its own"
		if n.Shared {
			whose = "the host's"
		}
		p.row(string(n.Kind), whose, strconv.FormatUint(n.Container, 10), strconv.FormatUint(n.Host, 10))
	}
	return p
}

func groupsPart(a *engine.Anatomy) part {
	p := part{title: "Control groups"}
	for _, dir := range a.Groups {
		p.row(dir)
	}
	s := a.Stats
	if s == nil {
		return p
	}
	p.row("memory", bytesOf(s.Memory.Usage)+" of "+limit(s.Memory.Limit, bytesOf))
	p.row("processes", countOf(s.Pids.Current)+" of "+limit(s.Pids.Limit, countOf))
	p.row("cpu time", s.CPU.Total.String())
	if s.Memory.OOMKills > 0 {
		p.row("killed for want of memory", countOf(s.Memory.OOMKills))
	}
	if m := s.Pressure.Memory; m != nil {
		p.row("memory pressure", fmt.Sprintf("%.2f%% (some, 10 s)", m.Some.Avg10))
	}
	return p
}

func rightsPart(a *engine.Anatomy) part {
	p, what := part{title: "What its first process may do"}, a.Process
	p.row("user", what.UID+":"+what.GID+" as the host counts")
	if what.UIDMap != "" {
		p.row("ids", what.UIDMap+" (container, host, how many)")
	}
	p.row("capabilities", or(shortNames(what.Effective), "none"))
	if lost := less(what.Bounding, what.Effective); len(lost) > 0 {
		p.row("in reach of setuid programs", shortNames(lost))
	}
	p.row("no new privileges", strconv.FormatBool(what.NoNewPrivileges))
	p.row("system call filter", fmt.Sprintf("%s, %d", what.Seccomp, what.Filters))
	return p
}

func mountsPart(a *engine.Anatomy) part {
	p := part{title: "Mounts, as it sees them"}
	for _, m := range a.Mounts {
		p.row(printable(m.Destination), m.Type, printable(m.Source), m.Options)
	}
	return p
}

func or(s, instead string) string {
	if s == "" {
		return instead
	}
	return s
}

func shortNames(caps []string) string {
	return strings.ToLower(strings.ReplaceAll(strings.Join(caps, " "), "CAP_", ""))
}

// less gives what is in the first list and not in the second.
func less(all, without []string) []string {
	have := map[string]bool{}
	for _, s := range without {
		have[s] = true
	}
	var out []string
	for _, s := range all {
		if !have[s] {
			out = append(out, s)
		}
	}
	return out
}
