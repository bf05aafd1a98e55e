package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"
	"golang.org/x/term"

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
	if f, ok := w.(interface{ Fd() uintptr }); ok {
		p.live = term.IsTerminal(int(f.Fd()))
	}
	return p
}

// pullPrinter shows a pull: on a terminal a line for each layer that is rewritten
// as it goes on, else a line for each change of a layer's state.
type pullPrinter struct {
	w      io.Writer
	quiet  bool
	live   bool
	held   io.Writer // where buf goes in the end; nil: nothing is held back
	buf    bytes.Buffer
	layers []digest.Digest
	state  map[digest.Digest]registry.Status
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
	p.state = map[digest.Digest]registry.Status{}
}

func (p *pullPrinter) Step(e registry.Event) {
	if p.quiet {
		return
	}
	old, known := p.state[e.Layer]
	p.state[e.Layer] = e.Status
	if !p.live {
		if !known || old != e.Status {
			fmt.Fprintf(p.w, "%s: %s\n", image.ShortID(e.Layer), e.Status)
		}
		return
	}
	if !known {
		p.layers = append(p.layers, e.Layer)
		fmt.Fprintln(p.w, p.line(e))
		return
	}
	up := 0
	for i, l := range p.layers {
		if l == e.Layer {
			up = len(p.layers) - i
		}
	}
	// Up to the layer's line, erase, write, and down again.
	fmt.Fprintf(p.w, "\x1b[%dA\x1b[2K\r%s\x1b[%dB\r", up, p.line(e), up)
}

func (p *pullPrinter) line(e registry.Event) string {
	text := fmt.Sprintf("%s: %s", image.ShortID(e.Layer), e.Status)
	if e.Total <= 0 || e.Status != registry.StatusDownloading && e.Status != registry.StatusExtracting {
		return text
	}
	const width = 40
	n := int(min(e.Current, e.Total) * width / e.Total)
	bar := strings.Repeat("=", n) + ">" + strings.Repeat(" ", width-n)
	size := func(n int64) string { return units.HumanSizeWithPrecision(float64(n), 3) }
	return fmt.Sprintf("%s [%s] %s/%s", text, bar, size(e.Current), size(e.Total))
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
