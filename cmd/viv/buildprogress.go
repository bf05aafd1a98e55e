package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"vivarium/image"
	"vivarium/image/build"
	"vivarium/image/registry"
)

// buildPrinter shows a build on standard error as BuildKit's plain progress does: each
// line with the number of its step.
type buildPrinter struct {
	a     *app
	quiet bool
	last  int // the step that spoke last
	rest  map[int][]byte
	begun map[int]time.Time
	warns int
}

func newBuildPrinter(a *app, mode string, quiet bool) (*buildPrinter, error) {
	p := &buildPrinter{a: a, quiet: quiet, rest: map[int][]byte{}, begun: map[int]time.Time{}}
	switch mode {
	case "auto", "plain":
	case "quiet":
		p.quiet = true
	default:
		return nil, usagef("invalid progress mode %s: it is auto, plain or quiet", mode)
	}
	return p, nil
}

func (p *buildPrinter) event(e build.Event) {
	if p.quiet {
		return
	}
	w := p.a.err
	switch e.Kind {
	case build.Started:
		p.begun[e.Step] = e.At
		p.turn(e.Step)
		fmt.Fprintf(w, "#%d %s\n", e.Step, oneLine(e.Name))
	case build.Output:
		p.turn(e.Step)
		p.output(e)
	case build.Cached:
		p.turn(e.Step)
		fmt.Fprintf(w, "#%d CACHED\n", e.Step)
	case build.Done:
		p.flush(e.Step)
		p.turn(e.Step)
		fmt.Fprintf(w, "#%d DONE %.1fs\n", e.Step, e.Took.Seconds())
	case build.Failed:
		p.flush(e.Step)
		p.turn(e.Step)
		fmt.Fprintf(w, "#%d ERROR: %v\n", e.Step, e.Err)
	case build.Warned:
		p.warns++
		where := ""
		if e.Warning.Line > 0 {
			where = fmt.Sprintf(" (line %d)", e.Warning.Line)
		}
		fmt.Fprintf(w, "WARN: %s: %s%s\n", e.Warning.Rule, e.Warning.Text, where)
	}
}

// turn separates what different steps say.
func (p *buildPrinter) turn(step int) {
	if p.last != 0 && p.last != step {
		fmt.Fprintln(p.a.err)
	}
	p.last = step
}

func (p *buildPrinter) output(e build.Event) {
	since := e.At.Sub(p.begun[e.Step]).Seconds()
	data := append(p.rest[e.Step], e.Data...)
	for {
		i := strings.IndexByte(string(data), '\n')
		if i < 0 {
			break
		}
		fmt.Fprintf(p.a.err, "#%d %.3f %s\n", e.Step, since, strings.TrimSuffix(string(data[:i]), "\r"))
		data = data[i+1:]
	}
	p.rest[e.Step] = append([]byte(nil), data...)
}

func (p *buildPrinter) flush(step int) {
	if rest := p.rest[step]; len(rest) > 0 {
		fmt.Fprintf(p.a.err, "#%d %s\n", step, rest)
	}
	delete(p.rest, step)
}

func oneLine(s string) string {
	first, _, more := strings.Cut(strings.TrimSpace(s), "\n")
	if more {
		first += " ..."
	}
	return first
}

func (p *buildPrinter) end() {
	if !p.quiet && p.last != 0 {
		fmt.Fprintln(p.a.err)
	}
}

// failure prints where in the Dockerfile it went wrong, and gives the error.
func (p *buildPrinter) failure(err error) error {
	var e *build.Error
	if !errors.As(err, &e) {
		return err
	}
	if len(e.Output) > 0 {
		fmt.Fprintf(p.a.err, "------\n > %s:\n%s\n------\n", oneLine(e.Step), strings.Join(e.Output, "\n"))
	}
	fmt.Fprint(p.a.err, e.Excerpt())
	return fmt.Errorf("failed to build: %w", err)
}

func (p *buildPrinter) built(img image.Image) {
	p.end()
	if p.quiet {
		return
	}
	fmt.Fprintf(p.a.err, "writing image %s done\n", img.ID)
	for _, t := range img.RepoTags() {
		fmt.Fprintf(p.a.err, "naming to %s done\n", t)
	}
}

func (p *buildPrinter) pushed(r image.Reference, res registry.PushResult) {
	if !p.quiet {
		fmt.Fprintf(p.a.err, "pushing %s with digest %s done\n", r.Familiar(), res.Digest)
	}
}
