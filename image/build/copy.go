package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/opencontainers/go-digest"

	"vivarium/image/store"
	"vivarium/layer"
)

// copying is one COPY or ADD.
type copying struct {
	s        *stage
	text     string // as the history shows it
	location []parser.Range
	from     string
	sources  []string
	inline   []instructions.SourceContent
	dest     string // absolute; with a slash at its end it is a directory
	chown    string
	mode     *modeChange
	exclude  *ignoreRules
	link     bool
	parents  bool
	add      bool // ADD: archives are unpacked
	unpack   *bool
	checksum digest.Digest
	keepGit  bool
}

func (s *stage) doCopy(ctx context.Context, c *instructions.CopyCommand, location []parser.Range) error {
	j := &copying{s: s, text: c.String(), location: location, from: c.From, link: c.Link, parents: c.Parents, chown: c.Chown}
	if err := j.setUp(c.SourcesAndDest, c.Chmod, c.ExcludePatterns); err != nil {
		return err
	}
	return j.run(ctx)
}

func (s *stage) doAdd(ctx context.Context, c *instructions.AddCommand, location []parser.Range) error {
	j := &copying{s: s, text: c.String(), location: location, link: c.Link, chown: c.Chown, add: true, unpack: c.Unpack,
		keepGit: c.KeepGitDir != nil && *c.KeepGitDir}
	if c.Checksum != "" {
		d, err := digest.Parse(c.Checksum)
		if err != nil {
			return fmt.Errorf("--checksum %q: %w", c.Checksum, err)
		}
		if j.checksum = d; len(c.SourcePaths) != 1 || !IsURL(c.SourcePaths[0]) {
			return errors.New("checksum can't be specified for multiple or local sources")
		}
	}
	if err := j.setUp(c.SourcesAndDest, c.Chmod, c.ExcludePatterns); err != nil {
		return err
	}
	return j.run(ctx)
}

func (j *copying) setUp(sd instructions.SourcesAndDest, chmod string, exclude []string) (err error) {
	j.sources, j.inline = sd.SourcePaths, sd.SourceContents
	dest := sd.DestPath
	isDir := strings.HasSuffix(dest, "/") || dest == "." || strings.HasSuffix(dest, "/.") || strings.HasSuffix(dest, "/..") || dest == ".."
	if j.dest = j.s.abs(dest); isDir && j.dest != "/" {
		j.dest += "/"
	}
	if len(j.sources)+len(j.inline) > 1 && !strings.HasSuffix(j.dest, "/") {
		name := "COPY"
		if j.add {
			name = "ADD"
		}
		return fmt.Errorf("when using %s with more than one source file, the destination must be a directory and end with a /", name)
	}
	if chmod != "" {
		if j.mode, err = parseMode(chmod); err != nil {
			return err
		}
	}
	j.exclude, err = newIgnore(exclude)
	return err
}

// run makes the layer of the copy, or finds it.
func (j *copying) run(ctx context.Context) error {
	s := j.s
	if err := j.lintIgnored(); err != nil || s.b.checking {
		return err
	}
	st := s.begin(j.text)
	cached, err := j.layer(ctx, st)
	st.end(cached, err)
	if err != nil {
		return s.failed(st, err, j.location)
	}
	return nil
}

func (j *copying) layer(ctx context.Context, st *step) (cached bool, err error) {
	s := j.s
	fast, err := j.fastKey(ctx)
	if err != nil {
		return false, err
	}
	var key digest.Digest
	if fast != "" && !st.noCache {
		key = s.b.findAlias(fast)
	}
	var m *made
	if key != "" {
		m = s.b.cachedLayer(ctx, st, key)
	}
	if m == nil {
		if m, key, err = j.fromFiles(ctx, st); err != nil {
			return false, err
		}
	}
	if fast != "" && !m.cached && m.fresh {
		if err := s.b.alias(fast, key); err != nil {
			return false, err
		}
	}
	chain := key
	if j.link {
		h := newHasher("link")
		h.add(string(s.chain), string(key))
		chain = h.sum()
	}
	s.add(m, chain, j.text)
	return m.cached, nil
}

// lower is what the copy sees of the files: with --link nothing.
func (j *copying) lower() []string {
	if j.link {
		return nil
	}
	return j.s.lower()
}

// settings adds to a key how files are copied.
func (j *copying) settings(h *hasher) {
	if !j.link {
		h.add(string(j.s.chain))
	}
	h.add(j.dest, j.chown, j.mode.String(), j.s.epoch(), fmt.Sprint(j.link, j.parents, j.add, j.unpack != nil && *j.unpack, j.unpack == nil))
}

func (j *copying) key(parts []*part) digest.Digest {
	h := newHasher("copy")
	j.settings(h)
	for _, p := range parts {
		p.addTo(h)
	}
	return h.sum()
}

// part is one source of a copy.
type part struct {
	o     *origin
	list  []pick
	sel   *selection
	name  string // of one file that was not copied from a directory: its name
	url   bool
	pivot string // with --parents: what is not taken over of the paths
	want  string // the source as written
}

func (p *part) close() {
	if p.o != nil {
		p.o.close()
	}
}

// fromFiles finds the layer by what the files are, or makes it.
func (j *copying) fromFiles(ctx context.Context, st *step) (*made, digest.Digest, error) {
	parts, err := j.parts(ctx, st)
	defer func() {
		for _, p := range parts {
			p.close()
		}
	}()
	if err != nil {
		return nil, "", err
	}
	past := j.pastCopy(parts)
	for _, p := range parts {
		if err := p.prepare(ctx, j, past); err != nil {
			return nil, "", err
		}
	}
	key := j.key(parts)
	m, err := j.s.b.makeLayer(ctx, st, key, j.lower(), func(ctx context.Context, tree *store.Tree) (bool, error) { return j.carryOut(ctx, tree, parts, past) })
	if err == nil && m.fresh {
		j.s.b.remember(past, key, parts[0].sel)
	}
	return m, key, err
}

// fastKey is a key that needs no look at the files, where what they depend on is known;
// else it is empty.
func (j *copying) fastKey(ctx context.Context) (digest.Digest, error) {
	if len(j.inline) > 0 || j.add && slices.ContainsFunc(j.sources, IsURL) {
		return "", nil
	}
	chain, local, err := j.s.b.chainOf(ctx, j.from)
	if local || err != nil {
		return "", err
	}
	h := newHasher("copy from")
	j.settings(h)
	for _, src := range j.sources {
		h.add(string(chain), src)
	}
	h.list(j.excludes())
	return h.sum(), nil
}

// parts opens what is copied from. What was opened is to be closed after an error too.
func (j *copying) parts(ctx context.Context, st *step) (parts []*part, err error) {
	s := j.s
	var o *origin
	for _, src := range j.sources {
		if j.add && IsURL(src) {
			if s.b.dry {
				return parts, errUnplanned
			}
			p, err := j.fetch(ctx, st, src)
			if err != nil {
				return parts, err
			}
			parts = append(parts, p)
			continue
		}
		if o == nil {
			if o, err = s.b.source(ctx, j.from); err != nil {
				return parts, err
			}
		}
		own := *o
		own.own = o.own && len(parts) == 0 // the first closes it
		parts = append(parts, &part{o: &own, want: src})
	}
	for _, c := range j.inline {
		p, err := s.b.inline(c)
		if err != nil {
			return parts, err
		}
		parts = append(parts, p)
	}
	return parts, nil
}

func (j *copying) excludes() []string {
	if j.exclude == nil || j.exclude.m == nil {
		return nil
	}
	var out []string
	for _, p := range j.exclude.m.Patterns() {
		out = append(out, p.String(), fmt.Sprint(p.Exclusion()))
	}
	return out
}

// inline makes a file of a here-document.
func (b *builder) inline(c instructions.SourceContent) (*part, error) {
	dir, err := os.MkdirTemp(b.t.Dir(), "inline-")
	if err != nil {
		return nil, err
	}
	name := path.Base(c.Path)
	if err := os.WriteFile(dir+"/"+name, []byte(c.Data), 0o644); err != nil {
		return nil, err
	}
	if err := os.Chmod(dir+"/"+name, 0o644); err != nil {
		return nil, err
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	o := dirOrigin("here-document", f, nil)
	o.own = true
	return &part{o: o, want: name, name: name}, nil
}

// prepare finds and digests the files of a part.
func (p *part) prepare(ctx context.Context, j *copying, past *pastCopy) (err error) {
	if p.sel != nil {
		return nil
	}
	want := p.want
	if j.parents {
		if before, after, ok := strings.Cut("/"+strings.TrimPrefix(want, "/"), "/./"); ok {
			p.pivot, want = strings.Trim(path.Clean(before), "/"), before+"/"+after
		}
	}
	if p.list, err = p.o.picks(ctx, want); err != nil {
		return err
	}
	if past != nil && (len(p.list) != 1 || !p.list[0].dir) {
		*past = pastCopy{} // paths below different directories could be the same
		past = nil
	}
	p.sel, err = j.s.b.digestOf(ctx, p.o, p.list, past, func(k pick) layer.Filter { return p.o.filter(k, j.exclude) })
	return err
}

func (p *part) addTo(h *hasher) {
	h.add(string(p.sel.digest), p.name, p.pivot, fmt.Sprint(p.url))
	for _, k := range p.list {
		h.add(k.path, fmt.Sprint(k.dir))
	}
}

// carryOut copies. keep is false if a file was changed meanwhile.
func (j *copying) carryOut(ctx context.Context, tree *store.Tree, parts []*part, past *pastCopy) (keep bool, err error) {
	root, err := j.s.b.openTarget(ctx, j.lower(), tree)
	if err != nil {
		return false, err
	}
	defer root.Close()
	var opts layer.PlaceOptions
	if j.s.b.writesUpper(j.lower()) {
		if opts.Upper, err = os.Open(tree.Upper()); err != nil {
			return false, err
		}
		defer opts.Upper.Close()
		var release func()
		opts.Earlier, release = j.s.b.earlier(ctx, past)
		defer release()
	}
	owner, err := j.owner(ctx, root.File)
	if err != nil {
		return false, err
	}
	changed := false
	for _, p := range parts {
		for _, k := range p.list {
			if err := j.place(ctx, root.File, p, k, owner, opts, &changed); err != nil {
				return false, err
			}
		}
	}
	return !changed, nil
}

// owner is who owns what is copied; nil: as it was.
func (j *copying) owner(ctx context.Context, root *os.File) (*layer.Owner, error) {
	if j.chown == "" {
		if j.from == "" || j.s.b.isLocal(j.from) {
			return &layer.Owner{}, nil
		}
		return nil, nil
	}
	if j.link {
		// Its layer knows no others; names are those of the files below it.
		union, err := j.s.b.openUnion(ctx, j.s.lower())
		if err != nil {
			return nil, err
		}
		defer union.Close()
		root = union.File
	}
	o, err := lookUpOwner(root, j.chown)
	return &o, err
}

// isLocal tells whether a name means a directory of this machine.
func (b *builder) isLocal(from string) bool {
	if c, ok := b.o.Contexts[strings.ToLower(from)]; ok {
		return c.Dir != nil
	}
	return from == "context" && b.f.stage(from, true) == nil
}

// place copies one pick.
func (j *copying) place(ctx context.Context, root *os.File, p *part, k pick, owner *layer.Owner, opts layer.PlaceOptions, changed *bool) error {
	opts.Owner, opts.Filter, opts.Seen = owner, p.o.filter(k, j.exclude), p.sel.unchanged(k, changed)
	if j.mode != nil {
		opts.Mode = j.mode.apply
	}
	if j.parents {
		return j.placeWithParents(ctx, root, p, k, opts)
	}
	if k.dir {
		return layer.Place(ctx, p.o.root, "/"+k.path, root, j.dest, opts)
	}
	if done, err := j.unpackArchive(ctx, root, p, k, owner); done || err != nil {
		return err
	}
	dest := j.dest
	if strings.HasSuffix(dest, "/") || isDirectory(root, dest) {
		dest = path.Join(dest, path.Base(k.path))
	}
	return layer.Place(ctx, p.o.root, "/"+k.path, root, dest, opts)
}

// placeWithParents copies a pick with the directories above it.
func (j *copying) placeWithParents(ctx context.Context, root *os.File, p *part, k pick, opts layer.PlaceOptions) error {
	rel := strings.Trim(strings.TrimPrefix(k.path, p.pivot), "/")
	inner := opts.Filter
	opts.Filter = func(r string, dir bool) (bool, bool) {
		switch {
		case rel == "" || r == rel || strings.HasPrefix(r, rel+"/"):
			if inner == nil {
				return true, true
			}
			return inner(strings.Trim(strings.TrimPrefix(r, rel), "/"), dir)
		case r == "" || strings.HasPrefix(rel, r+"/"):
			return false, true
		}
		return false, false
	}
	seen := opts.Seen
	opts.Seen = func(e *layer.WalkEntry) error {
		if e.Implied && e.Rel != rel && !strings.HasPrefix(e.Rel, rel+"/") {
			return nil
		}
		own := *e
		own.Rel = strings.Trim(strings.TrimPrefix(e.Rel, rel), "/")
		return seen(&own)
	}
	return layer.Place(ctx, p.o.root, "/"+p.pivot, root, j.dest, opts)
}

func isDirectory(root *os.File, name string) bool {
	f, err := openIn(root, name, true)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

// unpackArchive unpacks a local tar that ADD names. done is false for anything else.
func (j *copying) unpackArchive(ctx context.Context, root *os.File, p *part, k pick, owner *layer.Owner) (done bool, err error) {
	if !j.add || p.name != "" && !p.url {
		return false, nil
	}
	if j.unpack != nil && !*j.unpack || j.unpack == nil && p.url {
		return false, nil
	}
	f, err := openIn(p.o.root, "/"+k.path, false)
	if err != nil {
		return false, err
	}
	defer f.Close()
	if !isArchive(f) {
		return false, nil
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return false, err
	}
	plain, release, err := inflate(f)
	if err != nil {
		return false, fmt.Errorf("unpack %s: %w", k.path, err)
	}
	defer release()
	if j.chown == "" {
		owner = nil // owners are the archive's
	}
	if _, err := layer.MakeDirs(root, j.dest, layer.Owner{}); err != nil {
		return false, err
	}
	if err := layer.CopyIn(ctx, root, j.dest, plain, layer.CopyOptions{Owner: owner}); err != nil {
		return false, fmt.Errorf("unpack %s: %w", k.path, err)
	}
	return true, nil
}

func (s *stage) doWorkdir(ctx context.Context, c *instructions.WorkdirCommand, location []parser.Range) error {
	if c.Path == "" {
		return errors.New("WORKDIR requires a path")
	}
	if !path.IsAbs(c.Path) && s.seen["WORKDIR"] == nil && s.config.Config.WorkingDir == "" {
		s.lint.run(&linter.RuleWorkdirRelativePath, location, linter.RuleWorkdirRelativePath.Format(c.Path))
	}
	s.seen["WORKDIR"] = location
	dir := s.abs(c.Path)
	s.config.Config.WorkingDir = dir
	by := "WORKDIR " + dir
	if dir == "/" {
		s.count++
		s.remember(by, nil)
		return nil
	}
	st := s.begin(by)
	h := newHasher("workdir")
	h.add(string(s.chain), dir, s.config.Config.User, s.epoch())
	key := h.sum()
	m, err := s.b.makeLayer(ctx, st, key, s.lower(), func(ctx context.Context, tree *store.Tree) (bool, error) {
		root, err := s.b.openTarget(ctx, s.lower(), tree)
		if err != nil {
			return false, err
		}
		defer root.Close()
		owner := layer.Owner{}
		if u := s.config.Config.User; u != "" && !isDirectory(root.File, dir) {
			if owner, err = lookUpOwner(root.File, u); err != nil {
				return false, err
			}
		}
		_, err = layer.MakeDirs(root.File, dir, owner)
		return true, err
	})
	st.end(err == nil && m.cached, err)
	if err != nil {
		return s.failed(st, err, location)
	}
	s.add(m, key, by)
	return nil
}
