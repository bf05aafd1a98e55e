package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image"
	"vivarium/image/store"
)

// defaultPath is PATH where an image says nothing (BuildKit, util/system).
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// stage is one stage at work: what it is after each instruction.
type stage struct {
	b    *builder
	def  *stageDef
	lex  *shell.Lex
	done chan struct{} // closed at its end
	err  error

	begun sync.Once
	wants []*stageDef // whose files it needs, as far as its keys were made only

	chain  digest.Digest // what the files depend on
	layers []layerRef    // base first
	config dockerspec.DockerOCIImage
	args   *environment // ARG; ENV goes before it
	cmdSet bool

	noCache      bool
	label        string // in front of its steps' names
	count, total int
	lint         checks                    // as comments of the instruction at work want them
	seen         map[string][]parser.Range // for checks: where CMD and others are, that should be there once
}

// layerRef is one layer of a stage.
type layerRef struct {
	tree   string
	made   *made              // of this build
	diffID digest.Digest      // of a base image's layer
	blob   ocispec.Descriptor // the same
}

// lower are the trees as overlay wants them: top-most first.
func (s *stage) lower() []string { return trees(s.layers) }

func trees(layers []layerRef) []string {
	out := make([]string, 0, len(layers))
	for _, l := range slices.Backward(layers) {
		out = append(out, l.tree)
	}
	return out
}

func newStage(b *builder, d *stageDef, several bool) *stage {
	s := &stage{b: b, def: d, lex: shell.NewLex(b.f.escape), done: make(chan struct{}), args: newEnvironment(nil), lint: d.lint, noCache: b.anew(d), seen: map[string][]parser.Range{}}
	switch {
	case d.Name != "":
		s.label = d.Name + " "
	case several:
		s.label = fmt.Sprintf("stage-%d ", d.index)
	}
	s.label = b.label + s.label
	s.total = 1
	for _, c := range d.Commands {
		if changesFiles(c) {
			s.total++
		}
	}
	return s
}

// anew tells whether a stage is to be carried out whatever the cache has: it is asked for, or
// is made of such a one. The cache knows a step by what it is made from, not by what that came
// to be this time.
func (b *builder) anew(d *stageDef) bool {
	return b.o.NoCache || slices.ContainsFunc(needed(d), func(d *stageDef) bool {
		return slices.ContainsFunc(b.o.NoCacheFor, func(name string) bool {
			return name != "" && (strings.EqualFold(name, d.Name) || name == strconv.Itoa(d.index))
		})
	})
}

func changesFiles(c instructions.Command) bool {
	switch c.(type) {
	case *instructions.RunCommand, *instructions.CopyCommand, *instructions.AddCommand, *instructions.WorkdirCommand:
		return true
	}
	return false
}

// begin starts a step of this stage that users see.
func (s *stage) begin(what string) *step {
	s.count++
	st := s.b.report.begin(fmt.Sprintf("[%s%d/%d] %s", s.label, min(s.count, s.total), s.total, what))
	st.noCache = s.noCache
	return st
}

// run carries out the whole stage.
func (s *stage) run(ctx context.Context) error {
	if err := s.base(ctx); err != nil {
		return s.b.f.at(err, s.def.Location)
	}
	if err := s.triggers(ctx); err != nil {
		return err
	}
	for _, c := range s.def.Commands {
		s.lint = s.b.f.lint.under(c.Comments())
		if err := s.instruction(ctx, c, nil); err != nil {
			return s.b.f.at(err, c.Location())
		}
	}
	return nil
}

// base takes over what FROM names.
func (s *stage) base(ctx context.Context) error {
	if d := s.def.base; d != nil {
		from, err := s.b.wait(ctx, d)
		if err != nil {
			return err
		}
		s.chain, s.layers = from.chain, slices.Clone(from.layers)
		s.config = cloneConfig(from.config)
		s.args = newEnvironment(from.args.list())
		s.count++
		return nil
	}
	platform := s.b.o.Platform
	if s.def.Platform != "" {
		p, err := image.ParsePlatform(s.def.Platform)
		if err != nil {
			return fmt.Errorf("failed to parse platform: %w", err)
		}
		platform = p
	}
	ref := s.def.from
	if c, ok := s.b.o.Contexts[strings.ToLower(ref)]; ok {
		if c.Dir != nil {
			return fmt.Errorf("the named context %q is a directory: FROM needs an image", ref)
		}
		ref = c.Image
	}
	if ref == "scratch" {
		s.count++
		s.chain = newHasher("scratch").sum()
		s.config = dockerspec.DockerOCIImage{}
		s.config.Platform = platform
		s.config.Config.Env = []string{"PATH=" + defaultPath}
		return nil
	}
	st := s.begin("FROM " + familiar(ref))
	f, err := s.b.image(ctx, ref, &platform)
	if s.b.checking && err != nil && ctx.Err() == nil {
		f, err = &fetched{}, nil
	}
	st.end(err == nil, err)
	if err != nil {
		return err
	}
	s.chain, s.layers, s.config = f.chain, slices.Clone(f.layers), cloneConfig(f.config)
	s.lintBase(platform)
	return nil
}

func familiar(ref string) string {
	if r, err := image.ParseReference(ref); err == nil {
		return r.Familiar()
	}
	return ref
}

// wait waits for another stage to end.
func (b *builder) wait(ctx context.Context, d *stageDef) (*stage, error) {
	b.mu.Lock()
	st := b.stages[d]
	b.mu.Unlock()
	if st == nil {
		return nil, fmt.Errorf("stage %q is not being built: a stage that is named by a variable cannot be found", d.Name)
	}
	if b.dry {
		b.current.wants = append(b.current.wants, d)
	} else {
		b.begin(st)
	}
	select {
	case <-st.done:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if st.err != nil {
		return nil, context.Canceled // whose error is told by itself
	}
	return st, nil
}

// fetched is an image that a stage begins with, or that files are copied from.
type fetched struct {
	done   chan struct{}
	err    error
	chain  digest.Digest
	layers []layerRef
	config dockerspec.DockerOCIImage
}

// image finds an image once, and keeps it in the store as long as the build goes on.
func (b *builder) image(ctx context.Context, ref string, platform *ocispec.Platform) (*fetched, error) {
	id := ref + "\x00" + platformString(*platform)
	b.mu.Lock()
	f, ok := b.images[id]
	if !ok {
		f = &fetched{done: make(chan struct{})}
		b.images[id] = f
	}
	b.mu.Unlock()
	if ok {
		select {
		case <-f.done:
			return f, f.err
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	defer close(f.done)
	f.err = b.fetch(ctx, f, ref, platform)
	return f, f.err
}

func (b *builder) fetch(ctx context.Context, f *fetched, ref string, platform *ocispec.Platform) error {
	img, err := b.o.Image(ctx, ref, platform)
	if err != nil {
		return err
	}
	raw, err := b.o.Store.ReadBlob(img.OCIManifest.Digest)
	if err != nil {
		return err
	}
	m, err := store.ParseManifest(raw)
	if err != nil {
		return err
	}
	cfg, err := b.o.Store.ReadBlob(img.ID)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(cfg, &f.config); err != nil {
		return fmt.Errorf("decode the config of image %s: %w", ref, err)
	}
	if len(m.Layers) != len(img.Layers) {
		return fmt.Errorf("image %s: its manifest has %d layers, and %d are unpacked", ref, len(m.Layers), len(img.Layers))
	}
	chains := image.ChainIDs(f.config.RootFS.DiffIDs)
	f.chain = newHasher("no layers").sum()
	for i, l := range img.Layers {
		h, err := b.t.Keep(ctx, m.Layers[i].Digest, -1, l.DiffID, chains[i])
		if err != nil {
			return err
		}
		if !h.Blob || !h.Unpacked {
			return fmt.Errorf("image %s was removed while the build began: build again", ref)
		}
		f.layers = append(f.layers, layerRef{tree: l.Dir, diffID: l.DiffID, blob: m.Layers[i]})
		f.chain = chains[i]
	}
	return nil
}

func cloneConfig(c dockerspec.DockerOCIImage) dockerspec.DockerOCIImage {
	c.History = slices.Clone(c.History)
	c.RootFS.DiffIDs = slices.Clone(c.RootFS.DiffIDs)
	k := &c.Config
	k.Env, k.Cmd, k.Entrypoint, k.Shell, k.OnBuild = slices.Clone(k.Env), slices.Clone(k.Cmd), slices.Clone(k.Entrypoint), slices.Clone(k.Shell), slices.Clone(k.OnBuild)
	k.ExposedPorts, k.Volumes, k.Labels = maps.Clone(k.ExposedPorts), maps.Clone(k.Volumes), maps.Clone(k.Labels)
	return c
}

// triggers carries out what the base image has in store for those who build on it.
func (s *stage) triggers(ctx context.Context) error {
	list := s.config.Config.OnBuild
	if len(list) == 0 {
		return nil
	}
	s.config.Config.OnBuild = nil
	for _, text := range list {
		tree, err := parser.Parse(strings.NewReader(text))
		if err == nil && len(tree.AST.Children) != 1 {
			err = errors.New("onbuild trigger should be a single expression")
		}
		var c instructions.Command
		if err == nil {
			c, err = instructions.ParseCommand(tree.AST.Children[0])
		}
		if err != nil {
			return s.b.f.at(fmt.Errorf("ONBUILD %s: %w", text, noPrefix(err)), s.def.Location)
		}
		if changesFiles(c) {
			s.total++
		}
		if err := s.instruction(ctx, c, s.def.Location); err != nil {
			return s.b.f.at(err, s.def.Location)
		}
	}
	return nil
}

// env is what words of the instructions are expanded with, and what RUN gets.
func (s *stage) env() *environment {
	e := newEnvironment(s.config.Config.Env)
	for _, k := range s.args.names {
		if _, ok := e.values[k]; !ok {
			e.set(k, s.args.values[k])
		}
	}
	return e
}

// instruction carries out one instruction.
func (s *stage) instruction(ctx context.Context, c instructions.Command, location []parser.Range) error {
	if location == nil {
		location = c.Location()
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if err := s.expand(c, location); err != nil {
		return err
	}
	switch c := c.(type) {
	case *instructions.RunCommand:
		return s.doRun(ctx, c, location)
	case *instructions.CopyCommand:
		return s.doCopy(ctx, c, location)
	case *instructions.AddCommand:
		return s.doAdd(ctx, c, location)
	case *instructions.WorkdirCommand:
		return s.doWorkdir(ctx, c, location)
	}
	return s.setting(c, location)
}

// expand fills variables in.
func (s *stage) expand(c instructions.Command, location []parser.Range) error {
	env := s.env()
	if x, ok := c.(instructions.SupportsSingleWordExpansion); ok {
		err := x.Expand(func(word string) (string, error) {
			out, unset, err := s.lex.ProcessWord(word, env)
			s.lintUndefined(c, env, unset, location)
			return out, err
		})
		if err != nil {
			return err
		}
	}
	if x, ok := c.(instructions.SupportsSingleWordExpansionRaw); ok {
		lex := shell.NewLex('\\')
		lex.SkipProcessQuotes = true
		return x.ExpandRaw(func(word string) (string, error) {
			out, _, err := lex.ProcessWord(word, env)
			return out, err
		})
	}
	return nil
}

// remember adds a line to the image's history.
func (s *stage) remember(by string, m *made) {
	h := ocispec.History{CreatedBy: by, Comment: historyComment, EmptyLayer: m == nil, Author: s.config.Author}
	if m != nil {
		t := m.created
		h.Created = &t
	}
	s.config.History = append(s.config.History, h)
}

// historyComment says who made a line of an image's history.
const historyComment = "viv.dockerfile.v0"

// add puts a layer on top.
func (s *stage) add(m *made, chain digest.Digest, by string) {
	s.layers = append(s.layers, layerRef{tree: m.tree, made: m})
	s.chain = chain
	s.remember(by, m)
}

// shell is the command in front of what is written without brackets.
func (s *stage) shell() []string {
	if len(s.config.Config.Shell) > 0 {
		return s.config.Config.Shell
	}
	return []string{"/bin/sh", "-c"}
}

// abs is a path as WORKDIR makes it absolute.
func (s *stage) abs(p string) string {
	if !path.IsAbs(p) {
		p = path.Join("/", s.config.Config.WorkingDir, p)
	}
	return path.Clean(p)
}

func (s *stage) epoch() string {
	if s.b.o.Epoch.IsZero() {
		return ""
	}
	return s.b.o.Epoch.UTC().Format(time.RFC3339)
}

// failed gives an error of a step its place, its name and the end of its output.
func (s *stage) failed(st *step, err error, location []parser.Range) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	e := s.b.f.at(err, location)
	if e.Step == "" {
		e.Step, e.Output = st.name, st.tail.lines()
	}
	return e
}
