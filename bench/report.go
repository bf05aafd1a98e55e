package main

import (
	"fmt"
	"maps"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// our is the figure of Vivarium's side.
func (r result) our() (figure, bool) {
	for _, f := range r.figures {
		if ours(f.side) {
			return f, true
		}
	}
	return figure{}, false
}

// text is the row for a person who watches.
func (r result) text() string {
	var s strings.Builder
	if r.note != "" {
		fmt.Fprintf(&s, "   not measured: %s\n", r.note)
	}
	mine, _ := r.our()
	for _, f := range r.figures {
		if f.err != nil {
			fmt.Fprintf(&s, "   %-12s not measured: %v\n", f.side, f.err)
			continue
		}
		fmt.Fprintf(&s, "   %-12s %s (least %s, %d times)", f.side, number(f.median(), r.row.unit), number(f.least(), r.row.unit), len(f.values))
		if ratio := mine.median() / f.median(); !ours(f.side) && !math.IsNaN(ratio) {
			fmt.Fprintf(&s, "; viv takes %.3f of it", ratio)
		}
		s.WriteByte('\n')
	}
	for _, v := range r.verdicts() {
		fmt.Fprintf(&s, "   %s\n", v)
	}
	return s.String()
}

// verdicts says of each target whether it is reached.
func (r result) verdicts() []string {
	mine, ok := r.our()
	if !ok {
		return nil
	}
	var said []string
	for _, peer := range slices.Sorted(maps.Keys(r.row.targets)) {
		i := slices.IndexFunc(r.figures, func(f figure) bool { return f.side == peer })
		if i < 0 {
			continue
		}
		factor := r.row.targets[peer]
		ratio := mine.median() / r.figures[i].median()
		switch {
		case math.IsNaN(ratio):
			said = append(said, fmt.Sprintf("target %.3f x %s: not measured", factor, peer))
		case ratio <= factor:
			said = append(said, fmt.Sprintf("target %.3f x %s: reached, %.3f", factor, peer, ratio))
		default:
			said = append(said, fmt.Sprintf("target %.3f x %s: MISSED, %.3f", factor, peer, ratio))
		}
	}
	return said
}

func number(v float64, unit string) string {
	switch {
	case math.IsNaN(v):
		return "-"
	case unit == "ms" && v >= 1000:
		return fmt.Sprintf("%.2f s", v/1000)
	case unit == "ms" && v >= 100:
		return fmt.Sprintf("%.0f ms", v)
	}
	return fmt.Sprintf("%.2f %s", v, unit)
}

// report is docs/BENCHMARKS.md.
func (b *bench) report(done []result) string {
	var s strings.Builder
	s.WriteString("# Benchmarks\n\n")
	s.WriteString("Written by `make bench`; do not edit. Medians; every row's sides ran in turn, in the same minutes.\n")
	s.WriteString("A ratio is Vivarium's figure divided by the peer's: smaller is better for Vivarium.\n\n")
	fmt.Fprintf(&s, "Date: %s. %s.\n\n", time.Now().UTC().Format("2006-01-02"), machine())
	s.WriteString("Versions: " + strings.Join(b.versions(), "; ") + ".\n\n")
	writeTable(&s, done)
	return s.String()
}

// section is what docs/BENCHMARKS.md says of the machine with control groups v2.
func section(done []result) string {
	var s strings.Builder
	s.WriteString("\n## OCI runtimes on control groups v2\n\n")
	s.WriteString("In a virtual machine whose processors are emulated: each figure is many times what it would be on real ones, the ratios\n")
	fmt.Fprintf(&s, "are what to look at. %s.\n\n", machine())
	writeTable(&s, done)
	return s.String()
}

func writeTable(s *strings.Builder, done []result) {
	s.WriteString("| work | side | median | least | ratio | target |\n|---|---|---|---|---|---|\n")
	for _, r := range done {
		r.table(s)
	}
}

func (r result) table(s *strings.Builder) {
	if r.note != "" {
		fmt.Fprintf(s, "| %s | | | | | not measured: %s |\n", r.row.name, cell(r.note))
	}
	mine, _ := r.our()
	for i, f := range r.figures {
		name := ""
		if i == 0 {
			name = r.row.name
		}
		if f.err != nil {
			fmt.Fprintf(s, "| %s | %s | - | - | | not measured: %s |\n", name, f.side, cell(f.err.Error()))
			continue
		}
		ratio, target := "", ""
		if v := mine.median() / f.median(); !ours(f.side) && !math.IsNaN(v) {
			ratio = fmt.Sprintf("%.3f", v)
			if factor, ok := r.row.targets[f.side]; ok {
				target = fmt.Sprintf("<= %.3f: missed", factor)
				if v <= factor {
					target = fmt.Sprintf("<= %.3f: reached", factor)
				}
			}
		}
		fmt.Fprintf(s, "| %s | %s | %s | %s | %s | %s |\n", name, f.side, number(f.median(), r.row.unit), number(f.least(), r.row.unit), ratio, target)
	}
}

// cell keeps a message inside its cell.
func cell(s string) string {
	s = strings.ReplaceAll(strings.ReplaceAll(s, "\n", " "), "|", "/")
	const most = 160
	if len(s) > most {
		s = s[:most] + "..."
	}
	return s
}

func machine() string {
	var u unix.Utsname
	kernel := "unknown"
	if err := unix.Uname(&u); err == nil {
		kernel = unix.ByteSliceToString(u.Release[:])
	}
	groups := "v1"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		groups = "v2"
	}
	return fmt.Sprintf("Linux %s, %s, %d processors, control groups %s", kernel, runtime.GOARCH, runtime.NumCPU(), groups)
}

// versions asks every side what it is.
func (b *bench) versions() []string {
	var found []string
	for _, argv := range [][]string{
		{"crun", "--version"}, {"runc", "--version"}, {"podman", "--version"}, {"conmon", "--version"},
		{"dockerd", "--version"}, {"containerd", "--version"}, {"docker-registry", "--version"},
	} {
		out, err := output(argv...)
		if err != nil {
			found = append(found, argv[0]+" is absent")
			continue
		}
		line, _, _ := strings.Cut(out, "\n")
		found = append(found, line)
	}
	if b.viv != nil && b.viv.absent == "" {
		if out, err := output(b.viv.command("version", "--format", "{{.Client.Version}}")...); err == nil {
			found = append(found, "viv "+out)
		}
	}
	return found
}
