package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/term"

	"vivarium/image"
	"vivarium/image/build"
	"vivarium/image/registry"
)

// buildDisplay shows a build while it goes on. Its methods are never called by two
// goroutines at once.
type buildDisplay interface {
	event(e build.Event)
	// note tells what is done with the image.
	note(what string)
	// end shows what is to stay, when there is nothing more to come.
	end()
}

// buildPrinter shows a build on standard error.
type buildPrinter struct {
	a    *app
	show buildDisplay
}

// newBuildPrinter takes the modes of docker build. An empty mode means the environment's,
// as there.
func newBuildPrinter(a *app, mode string, quiet bool) (*buildPrinter, error) {
	if mode == "" {
		mode = os.Getenv("BUILDKIT_PROGRESS")
	}
	p := &buildPrinter{a: a}
	f, live := terminalOf(a.err)
	if quiet {
		mode = "quiet"
	}
	switch {
	case mode == "quiet":
		p.show = silent{}
	case mode == "rawjson":
		p.show = &rawDisplay{out: json.NewEncoder(a.err), steps: map[int]*rawVertex{}}
	case mode == "plain", (mode == "auto" || mode == "") && (!live || os.Getenv("TERM") == "dumb"):
		p.show = newPlainDisplay(a.err)
	case mode == "tty" && !live:
		return nil, usagef("--progress tty needs a terminal as standard error")
	case mode == "auto", mode == "", mode == "tty":
		p.show = newLiveDisplay(a.err, func() (int, int) { return terminalSize(f) })
	default:
		return nil, usagef("invalid progress mode %s: it is auto, plain, tty, quiet or rawjson", mode)
	}
	return p, nil
}

// terminalOf gives the file that a stream writes to, if that is a terminal.
func terminalOf(w io.Writer) (fd int, ok bool) {
	f, ok := w.(interface{ Fd() uintptr })
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return -1, false
	}
	return int(f.Fd()), true
}

func terminalSize(fd int) (columns, rows int) {
	columns, rows, err := term.GetSize(fd)
	if err != nil || columns < 1 || rows < 1 {
		return 80, 24
	}
	return columns, rows
}

func (p *buildPrinter) event(e build.Event) { p.show.event(e) }

func (p *buildPrinter) end() { p.show.end() }

// quiet tells whether the image's ID is all that is printed.
func (p *buildPrinter) quiet() bool {
	_, ok := p.show.(silent)
	return ok
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
	p.show.note("writing image " + string(img.ID))
	for _, t := range img.RepoTags() {
		p.show.note("naming to " + t)
	}
}

func (p *buildPrinter) pushed(r image.Reference, res registry.PushResult) {
	p.show.note(fmt.Sprintf("pushing %s with digest %s", r.Familiar(), res.Digest))
}

// silent shows nothing.
type silent struct{}

func (silent) event(build.Event) {}
func (silent) note(string)       {}
func (silent) end()              {}

// plainDisplay is BuildKit's plain progress: each line with the number of its step.
type plainDisplay struct {
	w     io.Writer
	last  int // the step that spoke last
	rest  map[int][]byte
	begun map[int]time.Time
}

func newPlainDisplay(w io.Writer) *plainDisplay {
	return &plainDisplay{w: w, rest: map[int][]byte{}, begun: map[int]time.Time{}}
}

func (p *plainDisplay) event(e build.Event) {
	switch e.Kind {
	case build.Started:
		p.begun[e.Step] = e.At
		p.turn(e.Step)
		fmt.Fprintf(p.w, "#%d %s\n", e.Step, oneLine(e.Name))
	case build.Output:
		p.turn(e.Step)
		p.output(e)
	case build.Cached:
		p.turn(e.Step)
		fmt.Fprintf(p.w, "#%d CACHED\n", e.Step)
	case build.Done:
		p.flush(e.Step)
		p.turn(e.Step)
		fmt.Fprintf(p.w, "#%d DONE %.1fs\n", e.Step, e.Took.Seconds())
	case build.Failed:
		p.flush(e.Step)
		p.turn(e.Step)
		fmt.Fprintf(p.w, "#%d ERROR: %v\n", e.Step, e.Err)
	case build.Warned:
		fmt.Fprintln(p.w, warningText(e.Warning))
	}
}

func warningText(w *build.Warning) string {
	where := ""
	if w.Line > 0 {
		where = fmt.Sprintf(" (line %d)", w.Line)
	}
	return fmt.Sprintf("WARN: %s: %s%s", w.Rule, w.Text, where)
}

// turn separates what different steps say.
func (p *plainDisplay) turn(step int) {
	if p.last != 0 && p.last != step {
		fmt.Fprintln(p.w)
	}
	p.last = step
}

func (p *plainDisplay) output(e build.Event) {
	since := e.At.Sub(p.begun[e.Step]).Seconds()
	data := append(p.rest[e.Step], e.Data...)
	for {
		i := strings.IndexByte(string(data), '\n')
		if i < 0 {
			break
		}
		fmt.Fprintf(p.w, "#%d %.3f %s\n", e.Step, since, strings.TrimSuffix(string(data[:i]), "\r"))
		data = data[i+1:]
	}
	p.rest[e.Step] = append([]byte(nil), data...)
}

func (p *plainDisplay) flush(step int) {
	if rest := p.rest[step]; len(rest) > 0 {
		fmt.Fprintf(p.w, "#%d %s\n", step, rest)
	}
	delete(p.rest, step)
}

func (p *plainDisplay) note(what string) {
	p.end()
	fmt.Fprintf(p.w, "%s done\n", what)
}

// end separates the last step from what comes then.
func (p *plainDisplay) end() {
	if p.last != 0 {
		fmt.Fprintln(p.w)
	}
	p.last = 0
}

func oneLine(s string) string {
	first, _, more := strings.Cut(strings.TrimSpace(s), "\n")
	if more {
		first += " ..."
	}
	return first
}

// rawDisplay writes a line of JSON for each event, in the form of BuildKit's SolveStatus
// (github.com/moby/buildkit, client/graph.go).
type rawDisplay struct {
	out   *json.Encoder
	steps map[int]*rawVertex
}

type rawStatus struct {
	Vertexes []rawVertex  `json:"vertexes,omitempty"`
	Logs     []rawLog     `json:"logs,omitempty"`
	Warnings []rawWarning `json:"warnings,omitempty"`
}

type rawVertex struct {
	Digest    digest.Digest `json:"digest"`
	Name      string        `json:"name"`
	Started   *time.Time    `json:"started,omitempty"`
	Completed *time.Time    `json:"completed,omitempty"`
	Cached    bool          `json:"cached,omitempty"`
	Error     string        `json:"error,omitempty"`
}

type rawLog struct {
	Vertex    digest.Digest `json:"vertex"`
	Stream    int           `json:"stream"`
	Data      []byte        `json:"data"`
	Timestamp time.Time     `json:"timestamp"`
}

type rawWarning struct {
	Level int    `json:"level"`
	Short []byte `json:"short"`
	URL   string `json:"url,omitempty"`
}

func (p *rawDisplay) event(e build.Event) {
	var s rawStatus
	v := p.steps[e.Step]
	switch e.Kind {
	case build.Warned:
		s.Warnings = []rawWarning{{Level: 1, Short: []byte(e.Warning.Text), URL: e.Warning.URL}}
	case build.Started:
		at := e.At
		v = &rawVertex{Digest: digest.FromString(fmt.Sprintf("%d %s %d", e.Step, e.Name, at.UnixNano())), Name: e.Name, Started: &at}
		p.steps[e.Step] = v
		s.Vertexes = []rawVertex{*v}
	case build.Output:
		s.Logs = []rawLog{{Vertex: v.Digest, Stream: 1, Data: e.Data, Timestamp: e.At}}
	default:
		at := e.At
		v.Completed, v.Cached = &at, e.Kind == build.Cached
		if e.Err != nil {
			v.Error = e.Err.Error()
		}
		s.Vertexes = []rawVertex{*v}
	}
	_ = p.out.Encode(s) // whoever reads it may be gone; the build goes on
}

func (p *rawDisplay) note(what string) {
	now := time.Now()
	v := rawVertex{Digest: digest.FromString(what), Name: what, Started: &now, Completed: &now}
	_ = p.out.Encode(rawStatus{Vertexes: []rawVertex{v}})
}

func (p *rawDisplay) end() {}
