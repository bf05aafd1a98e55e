package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"

	"vivarium/engine"
	"vivarium/image"
	"vivarium/image/registry"
)

// progress shows the pull of a container's image, on standard error as Docker's run does.
// Where it is no terminal, only a pull that succeeds is told of: what failed is
// one line, the error.
func (a *app) progress(quiet bool) engine.PullProgress {
	p := newPullPrinter(a, a.err, quiet)
	if !p.live {
		p.held, p.w = a.err, &p.buf
	}
	return p
}

func newPullPrinter(a *app, w io.Writer, quiet bool) *pullPrinter {
	p := &pullPrinter{w: w, quiet: quiet}
	var fd int
	fd, p.live = terminalOf(w)
	p.size = func() (int, int) { return terminalSize(fd) }
	return p
}

// pullPrinter shows a pull: on a terminal a line for each layer that is rewritten
// as it goes on, else a line for each change of a layer's state.
type pullPrinter struct {
	w      io.Writer
	quiet  bool
	live   bool
	size   func() (columns, rows int) // of the terminal
	held   io.Writer                  // where buf goes in the end; nil: nothing is held back
	buf    bytes.Buffer
	layers []digest.Digest
	state  map[digest.Digest]registry.Status
	meters map[digest.Digest]*meter
}

// meter is how quickly one layer moves.
type meter struct {
	at    time.Time // of the last sample
	bytes int64
	rate  float64 // bytes a second; 0: not known yet
	drawn time.Time
}

const (
	sampleTime = 500 * time.Millisecond
	redrawTime = 100 * time.Millisecond
)

// sample takes the count of a moment. What was there before the first one, of a
// pull that goes on, was not moved now.
func (m *meter) sample(now time.Time, bytes int64) {
	if m.at.IsZero() || bytes < m.bytes {
		m.at, m.bytes, m.rate = now, bytes, 0
		return
	}
	passed := now.Sub(m.at)
	if passed < sampleTime {
		return
	}
	rate := float64(bytes-m.bytes) / passed.Seconds()
	if m.rate == 0 {
		m.rate = rate
	}
	m.rate = 0.6*m.rate + 0.4*rate
	m.at, m.bytes = now, bytes
}

// text is speed and remaining time, empty while nothing is known of them.
func (m *meter) text(left int64) string {
	if m.rate < 1 {
		return ""
	}
	s := "  " + units.HumanSizeWithPrecision(m.rate, 3) + "/s"
	if left > 0 {
		seconds := time.Duration(float64(left)/m.rate*1000) * time.Millisecond
		s += "  " + max(seconds, time.Second).Round(time.Second).String() + " left"
	}
	return s
}

// restart forgets the layers of an image before.
func (p *pullPrinter) restart() {
	p.layers, p.state, p.meters = nil, map[digest.Digest]registry.Status{}, map[digest.Digest]*meter{}
}

func (p *pullPrinter) Begin(ref string, missing bool) {
	if p.quiet {
		return
	}
	r, err := image.ParseReference(ref)
	if err != nil {
		return
	}
	if missing {
		fmt.Fprintf(p.w, "Unable to find image '%s' locally\n", r.Familiar())
	}
	tag := r.Tag
	if tag == "" {
		tag = r.Digest
	}
	fmt.Fprintf(p.w, "%s: Pulling from %s\n", tag, r.Path)
	p.restart()
}

func (p *pullPrinter) Step(e registry.Event) {
	if p.quiet {
		return
	}
	old, known := p.state[e.Layer]
	p.state[e.Layer] = e.Status
	if !p.live {
		if !known || old != e.Status {
			fmt.Fprintf(p.w, "%s: %s\n", image.ShortID(e.Layer), words(e))
		}
		return
	}
	now := time.Now()
	columns, rows := p.size()
	if !known {
		p.layers = append(p.layers, e.Layer)
		p.meters[e.Layer] = &meter{drawn: now}
		fmt.Fprintln(p.w, p.line(e, columns))
		return
	}
	m := p.meters[e.Layer]
	if old != e.Status {
		*m = meter{}
	}
	m.sample(now, e.Current)
	if old == e.Status && now.Sub(m.drawn) < redrawTime && e.Current < e.Total {
		return
	}
	m.drawn = now
	up := 0
	for i, l := range p.layers {
		if l == e.Layer {
			up = len(p.layers) - i
		}
	}
	if up >= rows {
		return // it has left the screen, and no cursor gets there
	}
	// Up to the layer's line, erase, write, and down again.
	fmt.Fprintf(p.w, "\x1b[%dA\x1b[2K\r%s\x1b[%dB\r", up, p.line(e, columns), up)
}

// words is a state as it is printed.
func words(e registry.Event) string {
	if e.From != "" {
		return string(e.Status) + " from " + e.From
	}
	return string(e.Status)
}

// line is what is shown of a layer. It never takes more than one line of the terminal: the
// bar gets what room the figures leave.
func (p *pullPrinter) line(e registry.Event, columns int) string {
	text := fmt.Sprintf("%s: %s", image.ShortID(e.Layer), words(e))
	switch e.Status {
	case registry.StatusDownloading, registry.StatusExtracting, registry.StatusPushing:
	default:
		return clip(text, columns)
	}
	size := func(n int64) string { return units.HumanSizeWithPrecision(float64(n), 3) }
	if e.Total <= 0 {
		return clip(text+" "+size(e.Current)+p.meters[e.Layer].text(0), columns)
	}
	figures := fmt.Sprintf(" %s/%s%s", size(e.Current), size(e.Total), p.meters[e.Layer].text(e.Total-e.Current))
	if room := min(40, columns-len(text)-len(figures)-len(" [>]")); room >= 4 {
		n := int(min(e.Current, e.Total) * int64(room) / e.Total)
		text += " [" + strings.Repeat("=", n) + ">" + strings.Repeat(" ", room-n) + "]"
	}
	return clip(text+figures, columns)
}

func (p *pullPrinter) End(r registry.Result) {
	if p.quiet {
		return
	}
	fmt.Fprintf(p.w, "Digest: %s\n", r.Digest)
	name := ""
	if tags := r.Image.RepoTags(); len(tags) > 0 {
		name = " for " + tags[0]
	}
	if r.Fresh {
		fmt.Fprintf(p.w, "Status: Downloaded newer image%s\n", name)
	} else {
		fmt.Fprintf(p.w, "Status: Image is up to date%s\n", name)
	}
	if p.held != nil {
		p.held.Write(p.buf.Bytes())
		p.buf.Reset()
	}
}
