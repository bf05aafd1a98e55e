package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
	"text/tabwriter"
	"text/template"
)

// headers are the column titles of a table, by field.
type headers map[string]string

// Label titles the column of {{.Label "name"}}: with the last part of the name, as
// Docker does ("com.example.some-name" -> "some name").
func (h headers) Label(name string) string {
	return strings.NewReplacer("-", " ", "_", " ").Replace(name[strings.LastIndexByte(name, '.')+1:])
}

// listing prints rows in the way that --format, --quiet and the rest say.
type listing struct {
	format  string // --format
	table   string // columns when there is no --format
	quiet   string // template of one row with -q
	headers headers
}

// print prints rows, each a struct or a pointer to one.
func (l *listing) print(w io.Writer, quiet bool, rows []any) error {
	format := l.format
	switch {
	case format == "" && quiet:
		format = l.quiet
	case format == "" || format == "table":
		format = "table " + l.table
		if quiet {
			format = l.quiet
		}
	}
	if format == "json" {
		for _, r := range rows {
			b, err := marshal(r)
			if err != nil {
				return err
			}
			fmt.Fprintln(w, string(b))
		}
		return nil
	}
	text, isTable := strings.CutPrefix(format, "table ")
	t, err := parseTemplate(text)
	if err != nil {
		return err
	}
	if !isTable {
		return executeAll(w, t, rows)
	}
	tw := tabwriter.NewWriter(w, 10, 1, 3, ' ', 0)
	var head bytes.Buffer
	if err := t.Execute(&head, l.headers); err != nil {
		return fmt.Errorf("template parsing error: %w", err)
	}
	fmt.Fprintln(tw, head.String())
	if err := executeAll(tw, t, rows); err != nil {
		return err
	}
	return tw.Flush()
}

func executeAll(w io.Writer, t *template.Template, rows []any) error {
	for _, r := range rows {
		var b bytes.Buffer
		if err := t.Execute(&b, r); err != nil {
			return fmt.Errorf("template parsing error: %w", err)
		}
		b.WriteByte('\n')
		if _, err := w.Write(b.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// marshal is json.Marshal without the escapes for HTML.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}

// parseTemplate parses a user's template; \t and \n in it are tab and newline.
func parseTemplate(text string) (*template.Template, error) {
	text = strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(text)
	t, err := template.New("").Funcs(templateFuncs()).Parse(text)
	if err != nil {
		return nil, fmt.Errorf("template parsing error: %w", err)
	}
	return t, nil
}

func templateFuncs() template.FuncMap {
	return template.FuncMap{
		"json": func(v any) (string, error) {
			b, err := marshal(v)
			return string(b), err
		},
		"split":    strings.Split,
		"join":     joinAny,
		"title":    func(s string) string { return strings.ToUpper(s[:min(1, len(s))]) + s[min(1, len(s)):] },
		"lower":    strings.ToLower,
		"upper":    strings.ToUpper,
		"trim":     strings.TrimSpace,
		"pad":      padText,
		"truncate": func(s string, n int) string { return s[:min(max(n, 0), len(s))] },
		"table":    func() string { return "" },
	}
}

// joinAny joins the elements of any list.
func joinAny(v any, sep string) (string, error) {
	if s, ok := v.([]string); ok {
		return strings.Join(s, sep), nil
	}
	rv := reflect.ValueOf(v)
	if rv.Kind() != reflect.Slice {
		return "", fmt.Errorf("join: %T is no list", v)
	}
	parts := make([]string, rv.Len())
	for i := range parts {
		parts[i] = fmt.Sprint(rv.Index(i).Interface())
	}
	return strings.Join(parts, sep), nil
}

func padText(s string, before, after int) string {
	if s == "" {
		return s
	}
	return strings.Repeat(" ", before) + s + strings.Repeat(" ", after)
}

// inspectAll prints what find gives for each name: one JSON list, or with a
// format one line each. What cannot be found is said at the end.
func (a *app) inspectAll(names []string, format string, find func(string) (any, error)) error {
	var t *template.Template
	if format != "" && format != "json" {
		var err error
		if t, err = parseTemplate(format); err != nil {
			return err
		}
	}
	list := []any{}
	var errs []error
	for _, name := range names {
		v, err := find(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if t != nil {
			if err := executeInspect(a.out, t, v); err != nil {
				errs = append(errs, err)
			}
			continue
		}
		list = append(list, v)
	}
	if t == nil {
		if err := printJSON(a.out, list, format == "json"); err != nil {
			return err
		}
	}
	for _, err := range errs {
		fmt.Fprintf(a.err, "viv: %s\n", message(err))
	}
	if len(errs) > 0 {
		return exitError{codeError}
	}
	return nil
}

func printJSON(w io.Writer, v any, compact bool) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	if !compact {
		enc.SetIndent("", "    ")
	}
	return enc.Encode(v)
}

// executeInspect executes the template on the struct, and where that lacks a
// field, on its JSON, whose names differ in case: {{.ID}} and {{.Id}} both work.
func executeInspect(w io.Writer, t *template.Template, v any) error {
	var b bytes.Buffer
	err := t.Execute(&b, v)
	if err != nil {
		raw, jerr := json.Marshal(v)
		if jerr != nil {
			return jerr
		}
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.UseNumber() // a size stays 134217728
		var m any
		if jerr := dec.Decode(&m); jerr != nil {
			return jerr
		}
		b.Reset()
		if rerr := t.Option("missingkey=error").Execute(&b, m); rerr != nil {
			return fmt.Errorf("template parsing error: %w", err)
		}
	}
	b.WriteByte('\n')
	_, err = w.Write(b.Bytes())
	return err
}
