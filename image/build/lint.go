package build

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/moby/buildkit/util/suggest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image"
)

// The checks are BuildKit's: rules, words and addresses are those of its package linter, and
// some of them its parser makes itself. What is here are the conditions of the others
// (docs.docker.com/reference/build-checks).

// checkArg is the build argument that sets checks up, instead of the line "# check=" of the
// file (BuildKit, frontend/dockerui).
const checkArg = "BUILDKIT_DOCKERFILE_CHECK"

// checks runs them, for stages side by side too.
type checks struct {
	*linter.Linter
	mu *sync.Mutex // over CalledRules and Warn
}

// run tells of a finding, unless its rule is to be passed over.
func (c checks) run(rule linter.LinterRuleI, at []parser.Range, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Run(rule, at, text)
}

// for heeds a comment "# check=skip=RULE" above an instruction.
func (c checks) under(comments []string) checks {
	return checks{c.WithMergedConfigFromComments(comments), c.mu}
}

// violated is the error of findings where "error=true" was asked for.
func (c checks) violated() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Error()
}

// setLint sets the checks up as the file or the build arguments want them.
func (f *file) setLint(o *Options, warn func(*Warning)) error {
	cfg := &linter.Config{}
	text, asked := o.BuildArgs[checkArg]
	what := "build argument " + checkArg
	if !asked {
		text, _, _, asked = parser.ParseDirective("check", f.source)
		what = "line # check"
	}
	if asked {
		c, err := linter.ParseLintOptions(text)
		if err != nil {
			return f.at(fmt.Errorf("read the %s=%s: %w", what, text, err), nil)
		}
		cfg = c
	}
	cfg.Warn = func(rule, description, url, text string, location []parser.Range) {
		e := f.at(errors.New(text), location)
		warn(&Warning{Rule: rule, Description: description, Text: text, URL: url, File: f.name, Line: e.First, Last: e.Last, Excerpt: e.Excerpt()})
	}
	f.lint = checks{linter.New(cfg), new(sync.Mutex)}
	return nil
}

// Check goes through all of a Dockerfile that the target needs without carrying it out or
// looking at files other than .dockerignore, and gives what the checks find: with an error,
// too, which it is where the file says "error=true". The settings of base images count as far
// as Options.Image finds them.
func Check(ctx context.Context, o Options) (found []*Warning, err error) {
	o.Progress = nil
	b := newBuilder(&o)
	b.dry, b.checking = true, true
	b.warn = func(w *Warning) { found = append(found, w) }
	defer func() { slices.SortStableFunc(found, func(a, b *Warning) int { return a.Line - b.Line }) }()
	target, err := b.read()
	if err != nil {
		return found, err
	}
	if b.t, err = o.Store.Begin(ctx); err != nil {
		return found, err
	}
	defer b.t.Close()
	for _, d := range needed(target) {
		st := newStage(b, d, false)
		b.stages[d], b.current = st, st
		st.err = st.run(ctx)
		close(st.done)
		if st.err != nil {
			return found, st.err
		}
	}
	return found, b.f.lint.violated()
}

// mustPass carries the checks out before anything else where findings are errors.
func (b *builder) mustPass(ctx context.Context) error {
	if !b.f.lint.ReturnAsError {
		return nil
	}
	found, err := Check(ctx, *b.o)
	if err != nil {
		for _, w := range found {
			b.report.warn(w)
		}
		return b.f.at(err, nil)
	}
	return nil
}

// lintCasing wants all instructions written like most of them.
func (f *file) lintCasing(stages []instructions.Stage) {
	type written struct {
		word string
		at   []parser.Range
		lint checks
	}
	var all []written
	lower, upper := 0, 0
	for _, st := range stages {
		all = append(all, written{st.OrigCmd, st.Location, f.lint})
		for _, c := range st.Commands {
			all = append(all, written{c.Name(), c.Location(), f.lint})
		}
	}
	for _, w := range all {
		switch w.word {
		case strings.ToLower(w.word):
			lower++
		case strings.ToUpper(w.word):
			upper++
		}
	}
	right, name := strings.ToUpper, "uppercase"
	if lower > upper {
		right, name = strings.ToLower, "lowercase"
	}
	for _, w := range all {
		if right(w.word) != w.word {
			w.lint.run(&linter.RuleConsistentInstructionCasing, w.at, linter.RuleConsistentInstructionCasing.Format(w.word, name))
		}
	}
}

// lintDefaults looks whether FROM names an image if no build arguments are given.
func (f *file) lintDefaults(stages []instructions.Stage, o *Options) {
	plain := *o
	plain.BuildArgs = nil
	args, err := f.readGlobals(&plain)
	if err != nil {
		return // what is wrong is told where the arguments that are given are read
	}
	for _, st := range stages {
		name, _, err := f.lex.ProcessWord(st.BaseName, args)
		if err != nil {
			return
		}
		if _, err := image.ParseReference(name); err != nil {
			f.lint.run(&linter.RuleInvalidDefaultArgInFrom, st.Location, linter.RuleInvalidDefaultArgInFrom.Format(st.BaseName))
		}
	}
}

// lintFrom looks at the names of a stage and of its base.
func (f *file) lintFrom(d *stageDef, unset map[string]struct{}) {
	f.lintUndeclared(d, unset)
	if d.Name == "" {
		return
	}
	if f.stage(d.Name, true) != nil {
		d.lint.run(&linter.RuleDuplicateStageName, d.Location, linter.RuleDuplicateStageName.Format(d.Name))
	}
	if d.Name == "scratch" || d.Name == "context" {
		d.lint.run(&linter.RuleReservedStageName, d.Location, linter.RuleReservedStageName.Format(d.Name))
	}
}

func (f *file) lintUndeclared(d *stageDef, unset map[string]struct{}) {
	declared := f.args.Keys()
	for _, c := range f.global {
		for _, a := range c.Args { // without a value, too
			declared = append(declared, a.Key)
		}
	}
	for _, arg := range slices.Sorted(maps.Keys(unset)) {
		if slices.Contains(declared, arg) {
			continue
		}
		like, _ := suggest.Search(arg, declared, true)
		d.lint.run(&linter.RuleUndefinedArgInFrom, d.Location, linter.RuleUndefinedArgInFrom.Format(arg, like))
	}
}

// lintPlatform looks at FROM --platform, as written and with its arguments filled in.
func (f *file) lintPlatform(d *stageDef, written string, word shell.ProcessWordResult) {
	f.lintUndeclared(d, word.Unmatched)
	if len(word.Matched) == 0 && len(word.Unmatched) == 0 {
		// A stage that is called after its platform means it.
		p, err := image.ParsePlatform(word.Result)
		if err == nil && !strings.Contains(d.Name, p.OS) && !strings.Contains(d.Name, p.Architecture) {
			d.lint.run(&linter.RuleFromPlatformFlagConstDisallowed, d.Location, linter.RuleFromPlatformFlagConstDisallowed.Format(word.Result))
		}
		return
	}
	const target = "TARGETPLATFORM"
	_, only := word.Matched[target]
	if value, _ := f.args.Get(target); only && len(word.Matched) == 1 && len(word.Unmatched) == 0 && word.Result == value {
		d.lint.run(&linter.RuleRedundantTargetPlatform, d.Location, linter.RuleRedundantTargetPlatform.Format(written))
	}
}

// lintBase looks whether the base image is for the platform that was asked for.
func (s *stage) lintBase(want ocispec.Platform) {
	have := s.config.Platform
	if have.OS == "" || want.OS == have.OS && want.Architecture == have.Architecture {
		return
	}
	text := linter.RuleInvalidBaseImagePlatform.Format(s.def.BaseName, image.PlatformString(want), image.PlatformString(have))
	s.lint.run(&linter.RuleInvalidBaseImagePlatform, s.def.Location, text)
}

// lintUndefined looks at variables of an instruction that nothing has defined.
func (s *stage) lintUndefined(c instructions.Command, env *environment, unset map[string]struct{}, at []parser.Range) {
	for _, name := range slices.Sorted(maps.Keys(unset)) {
		if a, ok := c.(*instructions.ArgCommand); ok && slices.ContainsFunc(a.Args, func(kv instructions.KeyValuePairOptional) bool { return kv.Key == name }) {
			continue
		}
		like, _ := suggest.Search(name, env.Keys(), true)
		s.lint.run(&linter.RuleUndefinedVar, at, linter.RuleUndefinedVar.Format(name, like))
	}
}

// lintOnce is the check that of some instructions a stage has one: the last one counts.
func (s *stage) lintOnce(c instructions.Command, at []parser.Range) {
	name := strings.ToUpper(c.Name())
	if before, ok := s.seen[name]; ok {
		s.lint.run(&linter.RuleMultipleInstructionsDisallowed, before, linter.RuleMultipleInstructionsDisallowed.Format(c.Name()))
	}
	s.seen[name] = at
}

// lintPort looks at what EXPOSE says beside ports.
func (s *stage) lintPort(word string, at []parser.Range) {
	port, proto, _ := strings.Cut(word, "/")
	if proto != strings.ToLower(proto) {
		s.lint.run(&linter.RuleExposeProtoCasing, at, linter.RuleExposeProtoCasing.Format(word))
	}
	if strings.Contains(port, ":") {
		s.lint.run(&linter.RuleExposeInvalidFormat, at, linter.RuleExposeInvalidFormat.Format(word))
	}
}

// secretWords are parts of names that say that a value should not be in an image, and
// openWords say that it may all the same (BuildKit, rule SecretsUsedInArgOrEnv).
var (
	secretWords = []string{"apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"}
	openWords   = []string{"public", "file", "version"}
)

func (s *stage) lintSecret(instruction, name string, at []parser.Range) {
	secret := false
	for part := range strings.SplitSeq(strings.ToLower(name), "_") {
		if slices.Contains(openWords, part) {
			return
		}
		secret = secret || slices.Contains(secretWords, part)
	}
	if secret {
		s.lint.run(&linter.RuleSecretsUsedInArgOrEnv, at, linter.RuleSecretsUsedInArgOrEnv.Format(instruction, name))
	}
}

// lintIgnored looks whether files are named that are never there. Patterns that bring files
// back ("!") leave that open.
func (j *copying) lintIgnored() error {
	if j.from != "" || j.s.b.o.Context == nil {
		return nil
	}
	rules, err := j.s.b.ignore()
	if err != nil || rules == nil || rules.m == nil || rules.m.Exclusions() {
		return err
	}
	verb := "Copy"
	if j.add {
		verb = "Add"
	}
	for _, src := range j.sources {
		if j.add && IsURL(src) {
			continue
		}
		if name := path.Clean(src); name != "." && name != "/" && rules.leavesOut(name) {
			j.s.lint.run(&linter.RuleCopyIgnoredFile, j.location, linter.RuleCopyIgnoredFile.Format(verb, name))
		}
	}
	return nil
}
