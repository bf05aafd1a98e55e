package build

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image"
)

// file is a Dockerfile that was read.
type file struct {
	name   string
	source []byte
	lex    *shell.Lex
	stages []*stageDef
	global []instructions.ArgCommand // ARG before the first FROM
	args   *environment              // what FROM sees, and stages may take over
	lint   checks
	escape rune
}

// stageDef is one stage as it is written, with what FROM means resolved.
type stageDef struct {
	instructions.Stage
	index int
	base  *stageDef // of the same file; nil: an image or scratch
	from  string    // the base as written, with arguments filled in
	after []*stageDef
	lint  checks // as comments above FROM want them
}

// parse reads a Dockerfile, and finds out what each stage needs of the others.
func parse(o *Options, warn func(*Warning)) (*file, error) {
	f := &file{name: o.DockerfileName, source: o.Dockerfile}
	if f.name == "" {
		f.name = "Dockerfile"
	}
	tree, err := parser.Parse(bytes.NewReader(o.Dockerfile))
	if err != nil {
		return nil, f.at(noPrefix(err), nil)
	}
	f.escape = tree.EscapeToken
	f.lex = shell.NewLex(tree.EscapeToken)
	if err := f.setLint(o, warn); err != nil {
		return nil, err
	}
	for _, w := range tree.Warnings {
		f.lint.run(&linter.RuleNoEmptyContinuation, rangeOf(w.Location), linter.RuleNoEmptyContinuation.Format())
	}
	stages, global, err := instructions.Parse(tree.AST, f.lint.Linter)
	if err != nil {
		return nil, f.at(noPrefix(err), nil)
	}
	if len(stages) == 0 {
		return nil, f.at(errors.New("the Dockerfile has no FROM: nothing can be built"), nil)
	}
	f.global = global
	return f, f.link(stages, o)
}

func rangeOf(r *parser.Range) []parser.Range {
	if r == nil {
		return nil
	}
	return []parser.Range{*r}
}

// noPrefix takes the line out of the parser's message: it is said in front.
func noPrefix(err error) error {
	var le *parser.LocationError
	if errors.As(err, &le) && len(le.Locations) > 0 {
		return parser.WithLocation(errors.New(trimPrefix(err.Error())), le.Locations[0])
	}
	return errors.New(trimPrefix(err.Error()))
}

func trimPrefix(msg string) string {
	if rest, ok := strings.CutPrefix(msg, "dockerfile parse error on line "); ok {
		if _, text, ok := strings.Cut(rest, ": "); ok {
			return text
		}
	}
	return msg
}

// link resolves FROM and --from among the stages.
func (f *file) link(stages []instructions.Stage, o *Options) error {
	f.lintCasing(stages)
	f.lintDefaults(stages, o)
	var err error
	if f.args, err = f.readGlobals(o); err != nil {
		return err
	}
	for i, st := range stages {
		d := &stageDef{Stage: st, index: i, lint: f.lint.under(st.Comments)}
		name, unset, err := f.lex.ProcessWord(st.BaseName, f.args)
		if err != nil {
			return f.at(fmt.Errorf("failed to process arguments of FROM: %w", err), st.Location)
		}
		if name == "" {
			return f.at(fmt.Errorf("base name (%s) should not be blank", st.BaseName), st.Location)
		}
		f.lintFrom(d, unset)
		d.from = name
		if st.Platform != "" {
			word, err := f.lex.ProcessWordWithMatches(st.Platform, f.args)
			if err != nil {
				return f.at(fmt.Errorf("failed to process arguments for platform %s: %w", st.Platform, err), st.Location)
			}
			f.lintPlatform(d, st.Platform, word)
			d.Platform = word.Result
			if d.Platform == "" {
				return f.at(fmt.Errorf("empty platform value from expression %s", st.Platform), st.Location)
			}
		}
		if _, named := o.Contexts[strings.ToLower(name)]; !named {
			if d.base = f.stage(name, true); d.base != nil {
				d.after = append(d.after, d.base)
			}
		}
		f.stages = append(f.stages, d)
		for _, c := range st.Commands {
			if err := f.linkCommand(d, c, o); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *file) linkCommand(d *stageDef, c instructions.Command, o *Options) error {
	var froms []string
	switch c := c.(type) {
	case *instructions.CopyCommand:
		froms = append(froms, c.From)
	case *instructions.RunCommand:
		for _, m := range instructions.GetMounts(c) {
			froms = append(froms, m.From)
		}
	}
	for _, name := range froms {
		if name == "" {
			continue
		}
		if _, named := o.Contexts[strings.ToLower(name)]; named {
			continue
		}
		dep := f.stage(name, false)
		if dep == d {
			return f.at(fmt.Errorf("circular dependency: stage %q copies from itself", name), c.Location())
		}
		if dep != nil {
			d.after = append(d.after, dep)
		} else if n, err := strconv.Atoi(name); err == nil {
			return f.at(fmt.Errorf("invalid stage index %d", n), c.Location())
		}
	}
	return nil
}

// stage finds a stage above by name, or by number where that is allowed (FROM takes
// names only).
func (f *file) stage(name string, byNameOnly bool) *stageDef {
	for i := len(f.stages) - 1; i >= 0; i-- {
		if n := f.stages[i].Name; n != "" && strings.EqualFold(n, name) {
			return f.stages[i]
		}
	}
	if n, err := strconv.Atoi(name); !byNameOnly && err == nil && n >= 0 && n < len(f.stages) {
		return f.stages[n]
	}
	return nil
}

// target is the stage that is asked for, and the last one without a wish.
func (f *file) target(name string) (*stageDef, error) {
	if name == "" {
		return f.stages[len(f.stages)-1], nil
	}
	if st := f.stage(name, false); st != nil {
		return st, nil
	}
	return nil, f.at(fmt.Errorf("target stage %q could not be found", name), nil)
}

// needed lists the stages that a target is made of, in the file's order.
func needed(target *stageDef) []*stageDef {
	seen := map[*stageDef]bool{}
	var visit func(*stageDef)
	visit = func(d *stageDef) {
		if !seen[d] {
			seen[d] = true
			for _, dep := range d.after {
				visit(dep)
			}
		}
	}
	visit(target)
	var out []*stageDef
	for d := range seen {
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b *stageDef) int { return a.index - b.index })
	return out
}

// environment is an ordered list of variables, as the shell lexer wants it.
type environment struct {
	names  []string
	values map[string]string
}

func newEnvironment(list []string) *environment {
	e := &environment{values: map[string]string{}}
	for _, kv := range list {
		k, v, _ := strings.Cut(kv, "=")
		e.set(k, v)
	}
	return e
}

func (e *environment) set(k, v string) {
	if _, ok := e.values[k]; !ok {
		e.names = append(e.names, k)
	}
	e.values[k] = v
}

// Get and Keys are what shell.EnvGetter asks for.
func (e *environment) Get(k string) (string, bool) {
	v, ok := e.values[k]
	return v, ok
}

// Keys lists the names.
func (e *environment) Keys() []string { return e.names }

func (e *environment) list() []string {
	out := make([]string, 0, len(e.names))
	for _, k := range e.names {
		out = append(out, k+"="+e.values[k])
	}
	return out
}

// platformArgs are the arguments that are there without being said
// (docs.docker.com, Dockerfile reference, "Automatic platform ARGs").
func platformArgs(target ocispec.Platform, stage string) map[string]string {
	own := image.DefaultPlatform()
	if stage == "" {
		stage = "default"
	}
	return map[string]string{
		"BUILDPLATFORM": platformString(own), "BUILDOS": own.OS, "BUILDARCH": runtime.GOARCH, "BUILDVARIANT": own.Variant,
		"TARGETPLATFORM": platformString(target), "TARGETOS": target.OS, "TARGETARCH": target.Architecture,
		"TARGETVARIANT": target.Variant, "TARGETSTAGE": stage,
	}
}

func platformString(p ocispec.Platform) string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// readGlobals gives the arguments that FROM sees, and that stages may take over.
func (f *file) readGlobals(o *Options) (*environment, error) {
	env := newEnvironment(nil)
	for k, v := range platformArgs(o.Platform, o.Target) {
		env.set(k, v)
	}
	for i := range f.global {
		for _, a := range f.global[i].Args {
			if v, ok := o.BuildArgs[a.Key]; ok {
				env.set(a.Key, v)
				continue
			}
			if a.Value == nil {
				continue
			}
			v, _, err := f.lex.ProcessWord(*a.Value, env)
			if err != nil {
				return nil, f.at(fmt.Errorf("failed to process argument %s: %w", a.Key, err), f.global[i].Location())
			}
			env.set(a.Key, v)
		}
	}
	return env, nil
}
