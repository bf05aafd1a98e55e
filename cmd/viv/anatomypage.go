package main

import (
	"fmt"
	"html"
	"io"
	"math"
	"strconv"
	"strings"

	"github.com/docker/go-units"

	"vivarium/engine"
	"vivarium/sandbox/capability"
	"vivarium/sandbox/cgroup"
)

// drawing collects an SVG picture (SVG 1.1) from the top down.
type drawing struct {
	b strings.Builder
	y int // where the next thing begins
}

// The picture's width, its margin, and what lies between columns, in pixels.
const (
	drawWidth  = 960
	drawMargin = 24
	drawRow    = 24
	drawInner  = drawWidth - 2*drawMargin
)

func (d *drawing) text(x, y int, class, s string) {
	fmt.Fprintf(&d.b, "<text x=\"%d\" y=\"%d\" class=\"%s\">%s</text>\n", x, y, class, html.EscapeString(printable(s)))
}

func (d *drawing) box(x, y, width, height int, class, hint string) {
	fmt.Fprintf(&d.b, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" rx=\"4\" class=\"%s\"><title>%s</title></rect>\n", x, y, width, height, class, html.EscapeString(printable(hint)))
}

func (d *drawing) head(title string) {
	d.y += 34
	d.text(drawMargin, d.y, "h", title)
	d.y += 14
}

const drawStyle = `<style>
text { font: 13px system-ui, sans-serif; fill: #1b2b34; }
.h { font-size: 16px; font-weight: 600; } .t { font-size: 22px; font-weight: 600; }
.s { font-size: 12px; fill: #5b6b74; } .m { font-family: monospace; font-size: 12px; }
.glass { fill: #eaf5f3; stroke: #6fa89d; } .own { fill: #9fd8c8; stroke: #3c7d6e; }
.host { fill: #e3e6e8; stroke: #8a979e; } .layer { fill: #cfe3f5; stroke: #5a86ad; }
.used { fill: #3c9d86; } .room { fill: #ffffff; stroke: #8a979e; }
</style>
`

// drawAnatomy draws a container as an SVG picture: its layers, its namespaces beside
// the host's, its limits and what it uses of them, and its capabilities.
func drawAnatomy(out io.Writer, a *engine.Anatomy) error {
	d := &drawing{y: drawMargin + 16}
	d.text(drawMargin, d.y, "t", a.Name)
	about := a.Image + " · " + a.Status
	if a.Pid != 0 {
		about += " · process " + strconv.Itoa(a.Pid)
	}
	d.y += 22
	d.text(drawMargin, d.y, "s", about+" · "+a.ID[:12])
	d.y += 18
	d.text(drawMargin, d.y, "m", cut(strings.Join(a.Command, " "), 110))
	d.union(a)
	if a.Pid == 0 {
		d.y += 20
		d.text(drawMargin, d.y, "s", notRunning)
	} else {
		d.namespaces(a)
		d.limits(a)
		if err := d.capabilities(a); err != nil {
			return err
		}
	}
	height := d.y + drawMargin
	_, err := fmt.Fprintf(out, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"%s\">\n%s<rect x=\"4\" y=\"4\" width=\"%d\" height=\"%d\" rx=\"12\" class=\"glass\"/>\n%s</svg>\n",
		drawWidth, height, drawWidth, height, html.EscapeString("Container "+a.Name), drawStyle, drawWidth-8, height-8, d.b.String())
	return err
}

// cut shortens what would not fit.
func cut(s string, most int) string {
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}

// union draws the layers as they lie on each other; the more there is in one, the
// longer it is, by powers of two.
func (d *drawing) union(a *engine.Anatomy) {
	d.head("File system: " + a.Union.Driver + ", top-most layer first")
	for _, b := range a.Union.Branches {
		class := "layer"
		if b.Layer == "container" {
			class = "own"
		}
		width := 150 + int(min(math.Log2(float64(b.Bytes+1)), 40)*10)
		d.box(drawMargin, d.y, width, drawRow-4, class, b.Path)
		d.text(drawMargin+8, d.y+15, "", branchName(b))
		d.text(drawMargin+width+10, d.y+15, "s", fmt.Sprintf("%d files, %s", b.Files, units.HumanSizeWithPrecision(float64(b.Bytes), 3)))
		d.y += drawRow
	}
}

// namespaces draws one box for both where they are the same, and two where not.
func (d *drawing) namespaces(a *engine.Anatomy) {
	d.head("Namespaces")
	const left, width, gap = drawMargin + 90, 240, 60
	d.text(left, d.y+12, "s", "of the host")
	d.text(left+width+gap, d.y+12, "s", "of the container")
	d.y += 18
	for _, n := range a.Namespaces {
		d.text(drawMargin, d.y+15, "", string(n.Kind))
		host, own := strconv.FormatUint(n.Host, 10), strconv.FormatUint(n.Container, 10)
		if n.Shared {
			d.box(left, d.y, 2*width+gap, drawRow-4, "host", "shared with the host")
			d.text(left+8, d.y+15, "m", host+", the same for both")
		} else {
			d.box(left, d.y, width, drawRow-4, "host", "the host's")
			d.box(left+width+gap, d.y, width, drawRow-4, "own", "the container's own")
			d.text(left+8, d.y+15, "m", host)
			d.text(left+width+gap+8, d.y+15, "m", own)
		}
		d.y += drawRow
	}
}

// limits draws what is used of what is allowed.
func (d *drawing) limits(a *engine.Anatomy) {
	s := a.Stats
	if s == nil {
		return
	}
	d.head("Control groups")
	for _, l := range []struct {
		name        string
		used, limit uint64
		show        func(uint64) string
	}{{"memory", s.Memory.Usage, s.Memory.Limit, bytesOf}, {"processes", s.Pids.Current, s.Pids.Limit, countOf}} {
		const left, width = drawMargin + 90, 400
		d.text(drawMargin, d.y+15, "", l.name)
		d.box(left, d.y, width, drawRow-4, "room", "what is allowed")
		if l.limit != cgroup.NoLimit && l.limit > 0 {
			d.box(left, d.y, max(2, int(float64(width)*min(1, float64(l.used)/float64(l.limit)))), drawRow-4, "used", "what is used")
		}
		d.text(left+width+10, d.y+15, "s", l.show(l.used)+" of "+limit(l.limit, l.show))
		d.y += drawRow
	}
	d.text(drawMargin, d.y+15, "", "cpu time")
	d.text(drawMargin+90, d.y+15, "s", s.CPU.Total.String())
	d.y += drawRow
	for _, dir := range a.Groups {
		d.text(drawMargin, d.y+12, "m", cut(dir, 125))
		d.y += 16
	}
}

// capabilities draws all that there are; those that the process has stand out.
func (d *drawing) capabilities(a *engine.Anatomy) error {
	last, err := capability.LastCap()
	if err != nil {
		return err
	}
	d.head("Capabilities of its first process")
	d.y += 10
	d.text(drawMargin, d.y, "s", fmt.Sprintf("system call filters: %d · no new privileges: %v", a.Process.Filters, a.Process.NoNewPrivileges))
	d.y += 10
	have := map[string]bool{}
	for _, c := range a.Process.Effective {
		have[c] = true
	}
	const columns = 4
	for i, c := range capability.All(last).Names() {
		class, hint := "room", "it does not have this"
		if have[c] {
			class, hint = "own", "it has this"
		}
		x := drawMargin + i%columns*(drawInner/columns)
		d.box(x, d.y, drawInner/columns-8, drawRow-4, class, hint)
		d.text(x+8, d.y+15, "", shortNames([]string{c}))
		if i%columns == columns-1 {
			d.y += drawRow
		}
	}
	d.y += drawRow
	return nil
}

// anatomyPage is the picture and the tables in one page that needs nothing else.
func anatomyPage(out io.Writer, a *engine.Anatomy) error {
	fmt.Fprintf(out, `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>%s</title>
<style>
body { font: 14px system-ui, sans-serif; color: #1b2b34; max-width: 960px; margin: 24px auto; }
table { border-collapse: collapse; margin: 4px 0 20px; } td { padding: 2px 14px 2px 0; vertical-align: top; overflow-wrap: anywhere; }
td:not(:last-child) { white-space: nowrap; }
h2 { font-size: 16px; margin: 20px 0 4px; } svg { max-width: 100%%; height: auto; }
</style></head><body>
`, html.EscapeString("Container "+a.Name))
	if err := drawAnatomy(out, a); err != nil {
		return err
	}
	for _, p := range anatomyParts(a)[1:] {
		fmt.Fprintf(out, "<h2>%s</h2>\n<table>\n", html.EscapeString(p.title))
		for _, row := range p.rows {
			io.WriteString(out, "<tr>")
			for _, cell := range row {
				fmt.Fprintf(out, "<td>%s</td>", html.EscapeString(cell))
			}
			io.WriteString(out, "</tr>\n")
		}
		io.WriteString(out, "</table>\n")
	}
	_, err := io.WriteString(out, "</body></html>\n")
	return err
}
