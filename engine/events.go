package engine

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vivarium/internal/lazyjson"
)

// eventsMax is the size from which the event log is begun anew; one older file is kept.
const eventsMax = 16 << 20

// Event is one thing that happened, in the shape of Docker's event stream.
type Event struct {
	Status   string `json:"status,omitempty"`
	ID       string `json:"id,omitempty"`
	From     string `json:"from,omitempty"`
	Type     string
	Action   string
	Actor    Actor
	Scope    string `json:"scope"`
	Time     int64  `json:"time"`
	TimeNano int64  `json:"timeNano"`
}

// Actor is what an event is about.
type Actor struct {
	ID         string
	Attributes map[string]string
}

// EventsOptions chooses events.
type EventsOptions struct {
	Since, Until time.Time // zero: no bound; without Until the stream goes on
	Filters      Filters   // container, event, image, label, type, volume, network
}

func (e *Engine) eventsFile() string { return e.State + "/events.log" }

// record appends events. That an event cannot be written fails nothing.
func (e *Engine) emit(events ...Event) {
	now := time.Now()
	var buf bytes.Buffer
	for i := range events {
		events[i].Scope, events[i].Time, events[i].TimeNano = "local", now.Unix(), now.UnixNano()
		b, err := lazyjson.Marshal(&events[i])
		if err != nil {
			continue
		}
		buf.Write(b)
		buf.WriteByte('\n')
	}
	f, err := os.OpenFile(e.eventsFile(), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	// One write with O_APPEND: lines of several commands do not mix.
	if _, err := f.Write(buf.Bytes()); err != nil {
		return
	}
	if size, err := f.Seek(0, io.SeekCurrent); err == nil && size > eventsMax {
		e.rotateEvents(f)
	}
}

// rotateEvents renames the full log away, once though several writers see it full.
func (e *Engine) rotateEvents(f *os.File) {
	if flock(f, unix.LOCK_EX|unix.LOCK_NB) == nil && sameFile(f, e.eventsFile()) {
		os.Rename(e.eventsFile(), e.eventsFile()+".1")
	}
}

// containerEvent makes the event of a container.
func containerEvent(c *Container, action string, attrs ...string) Event {
	a := make(map[string]string, len(c.Labels())+2+len(attrs)/2)
	for k, v := range c.Labels() {
		a[k] = v
	}
	a["image"], a["name"] = c.Image, c.Name
	for i := 0; i+1 < len(attrs); i += 2 {
		a[attrs[i]] = attrs[i+1]
	}
	return Event{Status: action, ID: c.ID, From: c.Image, Type: "container", Action: action, Actor: Actor{ID: c.ID, Attributes: a}}
}

func objectEvent(kind, action, id string, attrs map[string]string) Event {
	return Event{Type: kind, Action: action, Actor: Actor{ID: id, Attributes: attrs}}
}

// Events calls fn for each event that opt chooses, oldest first, and follows the
// log until opt.Until or the context ends, which is no error. Without Since only
// new events come.
func (e *Engine) Events(ctx context.Context, opt EventsOptions, fn func(Event) error) error {
	if err := opt.Filters.check("container", "event", "image", "label", "type", "volume", "network"); err != nil {
		return err
	}
	if !opt.Until.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, opt.Until)
		defer cancel()
	}
	w, err := newWatch(filepath.Dir(e.eventsFile()))
	if err != nil {
		return fmt.Errorf("watch the event log: %w", err)
	}
	defer w.Close()
	s := &eventStream{opt: opt, fn: fn}
	if !opt.Since.IsZero() {
		if err := s.readAll(e.eventsFile() + ".1"); err != nil {
			return err
		}
	}
	err = s.follow(ctx, w, e.eventsFile())
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

type eventStream struct {
	opt EventsOptions
	fn  func(Event) error
}

func (s *eventStream) readAll(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return nil // not rotated yet
	}
	defer f.Close()
	return s.drain(&lineReader{r: bufio.NewReader(f)})
}

func (s *eventStream) follow(ctx context.Context, w *watch, path string) error {
	var f *os.File
	defer func() {
		if f != nil {
			f.Close()
		}
	}()
	skip := s.opt.Since.IsZero() && (s.opt.Until.IsZero() || s.opt.Until.After(time.Now()))
	var lines *lineReader
	for {
		if f == nil {
			if g, err := os.Open(path); err == nil {
				f = g
				if skip {
					f.Seek(0, io.SeekEnd)
				}
				lines = &lineReader{r: bufio.NewReader(f)}
			}
			skip = false
		}
		if f != nil {
			if err := s.drain(lines); err != nil {
				return err
			}
			if !sameFile(f, path) { // rotated
				if err := s.drain(lines); err != nil {
					return err
				}
				f.Close()
				f = nil
				if unix.Access(path, unix.F_OK) == nil {
					continue
				}
			}
		}
		if err := w.wait(ctx); err != nil {
			return err
		}
	}
}

func (s *eventStream) drain(lines *lineReader) error {
	for {
		line, ok := lines.next()
		if !ok {
			return nil
		}
		var ev Event
		if json.Unmarshal(line, &ev) != nil || !s.wants(&ev) {
			continue
		}
		if err := s.fn(ev); err != nil {
			return err
		}
	}
}

func (s *eventStream) wants(ev *Event) bool {
	t := time.Unix(0, ev.TimeNano)
	if !s.opt.Since.IsZero() && t.Before(s.opt.Since) || !s.opt.Until.IsZero() && t.After(s.opt.Until) {
		return false
	}
	f := s.opt.Filters
	a := ev.Actor.Attributes
	object := func(kind string) func(string) bool {
		return func(v string) bool {
			v = strings.TrimPrefix(v, "/")
			return ev.Type == kind && (v == ev.Actor.ID || v == a["name"] || len(v) >= 4 && strings.HasPrefix(ev.Actor.ID, v))
		}
	}
	return f.any("container", object("container")) && f.any("volume", object("volume")) && f.any("network", object("network")) &&
		f.any("event", func(v string) bool {
			action, _, _ := strings.Cut(ev.Action, ":")
			return v == ev.Action || v == action
		}) &&
		f.any("type", func(v string) bool { return v == ev.Type }) &&
		f.any("image", func(v string) bool {
			return v == a["image"] || v == ev.Actor.ID && ev.Type == "image" || v == strings.SplitN(a["image"], ":", 2)[0]
		}) &&
		f.all("label", func(v string) bool { return matchLabel(a, v) })
}

// lineReader gives whole lines; the beginning of a line that is still being
// written is kept until its end has come.
type lineReader struct {
	r       *bufio.Reader
	partial []byte
}

// next gives the next whole line without its newline, valid until the next call.
func (l *lineReader) next() ([]byte, bool) {
	part, err := l.r.ReadSlice('\n')
	for errors.Is(err, bufio.ErrBufferFull) {
		l.partial = append(l.partial, part...)
		part, err = l.r.ReadSlice('\n')
	}
	if err != nil {
		l.partial = append(l.partial, part...)
		return nil, false
	}
	if len(l.partial) == 0 {
		return part[:len(part)-1], true
	}
	line := append(l.partial, part[:len(part)-1]...)
	l.partial = l.partial[:0]
	return line, true
}
