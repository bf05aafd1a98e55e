package main

import (
	"fmt"
	"net/url"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"vivarium/engine"
)

func newLogs(a *app) *cobra.Command {
	var details, timestamps bool
	var since, until, tail string
	o := engine.LogsOptions{Stdout: true, Stderr: true}
	c := &cobra.Command{Use: "logs [OPTIONS] CONTAINER", Short: "Fetch the logs of a container", Args: exactArgs(1)}
	fs := c.Flags()
	fs.BoolVar(&details, "details", false, "show extra details provided to logs")
	fs.BoolVarP(&o.Follow, "follow", "f", false, "follow log output")
	fs.StringVar(&since, "since", "", "show logs since a time (2026-01-02T13:23:37Z) or duration (42m)")
	fs.StringVar(&until, "until", "", "show logs before a time or duration")
	fs.StringVarP(&tail, "tail", "n", "all", "number of lines to show from the end of the logs")
	fs.BoolVarP(&timestamps, "timestamps", "t", false, "show timestamps")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		now := time.Now()
		var err error
		if o.Since, err = optionalTime(since, now); err != nil {
			return err
		}
		if o.Until, err = optionalTime(until, now); err != nil {
			return err
		}
		if o.Tail, err = parseTail(tail); err != nil {
			return err
		}
		e, err := a.engine()
		if err != nil {
			return err
		}
		return e.Logs(cmd.Context(), args[0], o, func(l engine.LogLine) error {
			w := a.out
			if l.Stream == "stderr" {
				w = a.err
			}
			_, err := w.WriteString(logText(l, timestamps, details))
			return err
		})
	}
	return c
}

// logTime is RFC 3339 with all nine digits, so that columns stay.
const logTime = "2006-01-02T15:04:05.000000000Z07:00"

func logText(l engine.LogLine, timestamps, details bool) string {
	var b strings.Builder
	if timestamps {
		b.WriteString(l.Time.UTC().Format(logTime) + " ")
	}
	if details {
		b.WriteString(attrText(l.Attrs) + " ")
	}
	b.WriteString(l.Log)
	return b.String()
}

func attrText(attrs map[string]string) string {
	list := make([]string, 0, len(attrs))
	for k, v := range attrs {
		list = append(list, url.QueryEscape(k)+"="+url.QueryEscape(v)) // a comma stays inside
	}
	sort.Strings(list)
	return strings.Join(list, ",")
}

func optionalTime(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	return engine.ParseTime(s, now)
}

// parseTail reads --tail: a number, or anything else for all, as Docker does.
func parseTail(s string) (int, error) {
	if s == "all" || s == "" {
		return -1, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, fmt.Errorf("invalid value for --tail: %q is neither a number nor all", s)
	}
	return n, nil
}

func newEvents(a *app) *cobra.Command {
	var since, until, format string
	var filters []string
	c := &cobra.Command{Use: "events [OPTIONS]", Short: "Get real time events", Args: noArgs}
	fs := c.Flags()
	fs.StringVar(&since, "since", "", "show all events created since a time or duration")
	fs.StringVar(&until, "until", "", "stream events until a time or duration")
	fs.StringArrayVarP(&filters, "filter", "f", nil, "filter output based on conditions provided")
	fs.StringVar(&format, "format", "", "a Go template or json")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		var o engine.EventsOptions
		var err error
		now := time.Now()
		if o.Since, err = optionalTime(since, now); err != nil {
			return err
		}
		if o.Until, err = optionalTime(until, now); err != nil {
			return err
		}
		if o.Filters, err = parseFilters(filters); err != nil {
			return err
		}
		print, err := a.eventPrinter(format)
		if err != nil {
			return err
		}
		e, err := a.engine()
		if err != nil {
			return err
		}
		return e.Events(cmd.Context(), o, print)
	}
	return c
}

func (a *app) eventPrinter(format string) (func(engine.Event) error, error) {
	switch format {
	case "":
		return func(ev engine.Event) error {
			_, err := fmt.Fprintln(a.out, eventText(ev))
			return err
		}, nil
	case "json":
		format = "{{json .}}"
	}
	t, err := parseTemplate(format)
	if err != nil {
		return nil, err
	}
	return func(ev engine.Event) error { return executeAll(a.out, t, []any{ev}) }, nil
}

// eventText is Docker's line of an event.
func eventText(ev engine.Event) string {
	text := fmt.Sprintf("%s %s %s %s", time.Unix(0, ev.TimeNano).Format(logTime), ev.Type, ev.Action, ev.Actor.ID)
	if len(ev.Actor.Attributes) == 0 {
		return text
	}
	keys := make([]string, 0, len(ev.Actor.Attributes))
	for k := range ev.Actor.Attributes {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	attrs := make([]string, len(keys))
	for i, k := range keys {
		attrs[i] = k + "=" + ev.Actor.Attributes[k]
	}
	return text + " (" + strings.Join(attrs, ", ") + ")"
}
