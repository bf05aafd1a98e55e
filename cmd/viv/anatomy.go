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

// anatomy is what inspect --anatomy does: containers in a form made for reading, or
// as JSON.
func (a *app) anatomy(cmd *cobra.Command, names []string, format string) error {
	if format != "" && format != "json" {
		return fmt.Errorf("--anatomy has the formats text and json, not %q", format)
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
		if format == "json" {
			b, err := json.Marshal(one)
			return string(b), err
		}
		return "", printAnatomy(a.out, one)
	})
}

func printAnatomy(out io.Writer, a *engine.Anatomy) error {
	w := tabwriter.NewWriter(out, 0, 1, 2, ' ', 0)
	head := func(title string) { fmt.Fprintf(w, "\n%s\n", title) }
	row := func(cells ...string) { fmt.Fprintln(w, "  "+strings.Join(cells, "\t")) }
	fmt.Fprintf(w, "%s  %s\n", a.Name, a.ID[:12])
	row("image", a.Image)
	row("command", printable(strings.Join(a.Command, " ")))
	row("status", a.Status)
	if a.Pid != 0 {
		row("process", strconv.Itoa(a.Pid)+" on the host")
	}

	head("File system: " + a.Union.Driver + ", top-most layer first")
	for _, b := range a.Union.Branches {
		what := "layer " + b.Layer + " of the image"
		if b.Layer == "container" {
			what = fmt.Sprintf("the container's own, %d changes", b.Changes)
		}
		row(what, strconv.FormatInt(b.Files, 10)+" files", units.HumanSizeWithPrecision(float64(b.Bytes), 3), b.Path)
	}
	if a.Pid == 0 {
		fmt.Fprintln(w, "\nIt does not run: it has no namespaces, control groups or processes.")
		return w.Flush()
	}

	head("Namespaces, beside those of the host")
	for _, n := range a.Namespaces {
		whose := "of its own"
		if n.Shared {
			whose = "the host's"
		}
		row(string(n.Kind), whose, strconv.FormatUint(n.Container, 10), strconv.FormatUint(n.Host, 10))
	}

	head("Control groups")
	for _, dir := range a.Groups {
		row(dir)
	}
	if s := a.Stats; s != nil {
		size := func(n uint64) string { return units.BytesSize(float64(n)) }
		count := func(n uint64) string { return strconv.FormatUint(n, 10) }
		row("memory", size(s.Memory.Usage)+" of "+limit(s.Memory.Limit, size))
		row("processes", count(s.Pids.Current)+" of "+limit(s.Pids.Limit, count))
		row("cpu time", s.CPU.Total.String())
		if s.Memory.OOMKills > 0 {
			row("killed for want of memory", count(s.Memory.OOMKills))
		}
		if p := s.Pressure.Memory; p != nil {
			row("memory pressure", fmt.Sprintf("%.2f%% (some, 10 s)", p.Some.Avg10))
		}
	}

	p := a.Process
	head("What its first process may do")
	row("user", p.UID+":"+p.GID+" as the host counts")
	if p.UIDMap != "" {
		row("ids", p.UIDMap+" (container, host, how many)")
	}
	row("capabilities", or(shortNames(p.Effective), "none"))
	if lost := less(p.Bounding, p.Effective); len(lost) > 0 {
		row("in reach of setuid programs", shortNames(lost))
	}
	row("no new privileges", strconv.FormatBool(p.NoNewPrivileges))
	row("system call filter", fmt.Sprintf("%s, %d", p.Seccomp, p.Filters))

	head("Mounts, as it sees them")
	for _, m := range a.Mounts {
		row(printable(m.Destination), m.Type, printable(m.Source), m.Options)
	}
	return w.Flush()
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
