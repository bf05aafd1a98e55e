// Package build makes images from Dockerfiles. It reads the file as BuildKit does
// (its parser and instructions packages), makes a graph of the stages, and carries out
// each instruction above the layers of the one before: copies it makes itself, and
// commands it gives to a function of the caller's, because an image is there before
// anything runs.
//
// Every step that changes files has a key: a digest of all that goes into it. What a
// step made is found again by its key, in this build, in another one at the same time,
// or next year. A layer is the upper directory that the step wrote to, renamed into the
// store; its tar is packed beside the next step.
package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image"
	"vivarium/image/store"
	"vivarium/layer"
	"vivarium/unionfs"
)

// Options say what is built.
type Options struct {
	Dockerfile     []byte
	DockerfileName string // for messages; empty: "Dockerfile"
	// Context is the directory that COPY and ADD read; nil: there is none.
	Context *os.File
	// Contexts are the named ones, by name in lower case; they go before stages and images.
	Contexts map[string]Context

	Target    string // a stage; empty: the last one
	BuildArgs map[string]string
	Labels    map[string]string
	// Annotations are put into the image's manifest.
	Annotations map[string]string
	Names       []string // full names that the image gets
	Platform    ocispec.Platform

	CacheFrom []CacheSource
	CacheTo   []CacheTarget
	// InlineCache puts into the image's config by which keys its layers are found.
	InlineCache bool

	NoCache    bool     // every step is carried out
	NoCacheFor []string // those of these stages are, by name or number, and of those that need them
	// Network is the network of RUN without --network: "default", "none" or "host".
	Network    string
	ExtraHosts []string // for RUN, as HOST:IP
	// AllowHost and AllowInsecure permit RUN --network=host and --security=insecure.
	AllowHost, AllowInsecure bool
	Secrets                  map[string]Secret
	SSH                      map[string]string // socket of an agent, by ID
	// Epoch, if not zero, is the time of the image, and the latest time that a file of
	// it may have (SOURCE_DATE_EPOCH).
	Epoch time.Time
	// Squash says which layers of the image become one; Keep is how many at the bottom
	// stay with SquashAll.
	Squash Squash
	Keep   int
	// FilesOnly is for a build whose files are wanted and no image.
	FilesOnly bool

	Store *store.Store
	// Image finds an image, and pulls it if need be.
	Image func(ctx context.Context, ref string, platform *ocispec.Platform) (image.Image, error)
	// Driver makes unions; nil: overlay.
	Driver unionfs.Driver
	// Run runs one command, and gives its exit code.
	Run func(ctx context.Context, c *Command) (int, error)
	// Fetch reads a URL for ADD.
	Fetch func(ctx context.Context, url string) (*Download, error)
	// Clone copies a git repository into an empty directory for ADD, and gives the
	// directory in it that the URL means.
	Clone func(ctx context.Context, url, dir string, keepGitDir bool, out io.Writer) (string, error)
	// Progress hears of each step, never by two goroutines at once; may be nil.
	Progress func(Event)
	// Files, if not nil, gets the files of the result as a directory that is there
	// during the call only.
	Files func(ctx context.Context, root *os.File, platform ocispec.Platform) error
	// CanRun tells why commands of a platform cannot be run here; nil: all can.
	CanRun func(platform ocispec.Platform) error
}

// Context is a named context: a directory or an image.
type Context struct {
	Dir   *os.File
	Image string
}

// Secret is what a RUN --mount=type=secret can have.
type Secret struct {
	File string // empty: Value
	// Value is the secret itself.
	Value []byte
}

// Download is what ADD gets from a URL.
type Download struct {
	io.ReadCloser
	Name     string    // last component of the path that it came from
	Modified time.Time // zero if the server does not say
}

// Command is one command of RUN.
type Command struct {
	Layer      unionfs.Layer // what it sees, and where it writes
	Args       []string
	Env        []string
	Dir, User  string
	Network    string // "default", "none" or "host"
	ExtraHosts []string
	Insecure   bool // all rights
	Mounts     []Mount
	Output     io.Writer
}

// Mount is something that a command sees beside its layers.
type Mount struct {
	Target   string
	Source   string // directory or file on this machine; empty: Lower, or a tmpfs
	Lower    []string
	Upper    string // with Lower: where writes go; with Work
	Work     string
	ReadOnly bool
	Size     int64 // of a tmpfs, bytes; 0: the kernel's default
}

// Result is what came of a build.
type Result struct {
	Image image.Image
	// Manifest and Config are the image's, byte for byte.
	Manifest, Config []byte
}

// builder is one build at work.
type builder struct {
	o      *Options
	f      *file
	t      *store.Tx
	report *reporter
	label  string // in front of the names of stages: the platform, if there are several
	warn   func(*Warning)
	work   chan struct{} // bounds what is carried out at the same time

	mu      sync.Mutex
	stages  map[*stageDef]*stage
	steps   map[digest.Digest]*made // of this build, by key
	order   []*made
	sums    *sums
	copies  []func() // that write down what was copied; see pastCopy
	ignore  func() (*ignoreRules, error)
	seals   sync.WaitGroup
	images  map[string]*fetched
	aliases []store.Step // to be recorded
	met     []store.Step // aliases that were there
	imports []*imported
	plan    *plan           // nil: all stages are carried out
	begin   func(st *stage) // begins to carry a stage out, if that has not begun
	dry     bool            // keys are made, and nothing is carried out; see makePlan
	// checking is for a dry run that looks at instructions and at no files.
	checking bool
	current  *stage // whose keys are made
}

// made is a layer of this build, or one that was found.
type made struct {
	key     digest.Digest
	tree    string
	name    string
	ready   chan struct{} // closed when tree can be a lower layer, or err is set
	sealed  chan struct{} // closed when diffID and blob are known, or sealErr is set
	created time.Time
	cached  bool
	fresh   bool // to be recorded
	diffID  digest.Digest
	blob    ocispec.Descriptor
	size    int64
	err     error
	sealErr error
}

func newBuilder(o *Options) *builder {
	b := &builder{
		o: o, report: &reporter{tell: o.Progress}, work: make(chan struct{}, max(2, runtime.NumCPU())),
		stages: map[*stageDef]*stage{}, steps: map[digest.Digest]*made{}, images: map[string]*fetched{},
	}
	b.ignore = sync.OnceValues(b.readIgnore)
	b.warn = b.report.warn
	return b
}

// Build builds the target stage, and puts the image into the store. What steps had made
// before an error stays in the cache.
func Build(ctx context.Context, o Options) (Result, error) {
	b := newBuilder(&o)
	target, err := b.read()
	if err != nil {
		return Result{}, err
	}
	if b.t, err = o.Store.Begin(ctx); err != nil {
		return Result{}, err
	}
	defer b.t.Close()
	st, err := b.carryOutStages(ctx, target)
	if err != nil {
		return Result{}, errors.Join(err, b.keepSteps(ctx))
	}
	return b.finish(ctx, st)
}

// read reads the Dockerfile, and finds the target stage.
func (b *builder) read() (*stageDef, error) {
	var err error
	if b.f, err = parse(b.o, b.warn); err != nil {
		return nil, err
	}
	return b.f.target(b.o.Target)
}

// carryOutStages carries out what the target needs, and waits until all of it is packed.
func (b *builder) carryOutStages(ctx context.Context, target *stageDef) (*stage, error) {
	defer b.closeCaches()
	if err := b.mustPass(ctx); err != nil {
		return nil, err
	}
	if err := b.loadCaches(ctx); err != nil {
		return nil, err
	}
	b.sums = openSums(b.o.Store)
	if len(b.imports) > 0 && len(b.f.stages) > 1 {
		b.plan = b.makePlan(ctx)
	}
	st, err := b.runStages(ctx, target)
	b.seals.Wait()
	b.sums.save()
	for _, save := range b.copies {
		save()
	}
	return st, err
}

// runStages carries out all stages that the target needs, side by side.
func (b *builder) runStages(ctx context.Context, target *stageDef) (*stage, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	list := needed(target)
	for _, d := range list {
		b.stages[d] = newStage(b, d, len(b.f.stages) > 1)
	}
	var wg sync.WaitGroup
	b.begin = func(st *stage) {
		st.begun.Do(func() {
			wg.Go(func() {
				defer close(st.done)
				if st.err = st.run(ctx); st.err != nil {
					cancel(st.err)
				}
			})
		})
	}
	for _, d := range list {
		if b.plan == nil || b.plan.wanted[d.index] {
			b.begin(b.stages[d])
		}
	}
	wg.Wait()
	for _, d := range list { // the first that failed by itself
		if err := b.stages[d].err; err != nil && !errors.Is(err, context.Canceled) {
			return nil, err
		}
	}
	return b.stages[target], b.stages[target].err
}

// keepSteps puts what was made before an error into the store.
func (b *builder) keepSteps(ctx context.Context) error {
	steps := b.records()
	if len(steps) == 0 {
		return nil
	}
	// The build may have been cancelled; a moment more is in place.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	if err := b.t.Publish(ctx, steps); err != nil {
		return fmt.Errorf("keep the steps that were done: %w", err)
	}
	return nil
}

// records are the steps of this build that are new and whole.
func (b *builder) records() []store.Step {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []store.Step
	for _, m := range b.order {
		if m.fresh && m.err == nil && m.sealErr == nil && m.diffID != "" {
			out = append(out, m.record())
		}
	}
	return append(out, b.aliases...)
}

func (m *made) record() store.Step {
	return store.Step{Key: m.key, DiffID: m.diffID, Blob: m.blob, Size: m.size, Created: m.created, Name: m.name}
}

// makeLayer gives the layer with this key: of this build, of the cache, or by carrying
// the step out above the lower layers (top-most first). aliases are other keys under
// which it may be found.
func (b *builder) makeLayer(ctx context.Context, s *step, key digest.Digest, lower []string, do func(ctx context.Context, tree *store.Tree) (keep bool, err error)) (*made, error) {
	if b.dry {
		return planned(key), nil
	}
	b.mu.Lock()
	if m, ok := b.steps[key]; ok {
		b.mu.Unlock()
		select {
		case <-m.ready:
			return m, m.err
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	m := &made{key: key, name: s.name, ready: make(chan struct{}), sealed: make(chan struct{})}
	b.steps[key] = m
	b.order = append(b.order, m)
	b.mu.Unlock()
	defer close(m.ready)
	if !s.noCache {
		if b.find(ctx, m) {
			close(m.sealed)
			return m, nil
		}
	}
	if m.err = b.carryOut(ctx, m, lower, do); m.err != nil {
		m.sealErr = m.err
		close(m.sealed)
	}
	return m, m.err
}

func (b *builder) carryOut(ctx context.Context, m *made, lower []string, do func(ctx context.Context, tree *store.Tree) (bool, error)) error {
	select {
	case b.work <- struct{}{}:
		defer func() { <-b.work }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	tree, err := b.t.NewTree(lower)
	if err != nil {
		return err
	}
	keep, err := do(ctx, tree)
	if err != nil {
		return errors.Join(err, tree.Discard())
	}
	if err := b.collect(ctx, tree, lower); err != nil {
		return errors.Join(err, tree.Discard())
	}
	m.tree, m.fresh, m.created = tree.Upper(), keep, b.now()
	seal := func() {
		defer close(m.sealed)
		var s store.Sealed
		if s, m.sealErr = tree.Seal(ctx, layer.SettleOptions{NotAfter: b.o.Epoch}); m.sealErr == nil {
			m.diffID, m.blob, m.size = s.DiffID, s.Blob, s.Size
		}
		if m.sealErr == nil && keep {
			m.sealErr = b.t.NoteStep(m.record()) // from here on a kill does not lose it
		}
	}
	if !b.o.Epoch.IsZero() {
		seal() // it changes times, and so nobody may use the tree before
		return m.sealErr
	}
	// The next step runs meanwhile: it needs the tree and not the digest.
	ctx = context.WithoutCancel(ctx)
	b.seals.Go(seal)
	return nil
}

func (b *builder) now() time.Time {
	if !b.o.Epoch.IsZero() {
		return b.o.Epoch.UTC()
	}
	return time.Now().UTC()
}

// cachedLayer gives a layer of the cache; nil if it has none with this key.
func (b *builder) cachedLayer(ctx context.Context, s *step, key digest.Digest) *made {
	if b.dry {
		if !b.knows(ctx, key) {
			return nil
		}
		return planned(key)
	}
	b.mu.Lock()
	_, here := b.steps[key]
	b.mu.Unlock()
	if here {
		return nil // of this build, which makeLayer knows
	}
	m := &made{key: key, name: s.name, ready: make(chan struct{}), sealed: make(chan struct{})}
	close(m.ready)
	close(m.sealed)
	if !b.find(ctx, m) {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.order = append(b.order, m)
	return m
}

// alias notes that one key stands for another.
func (b *builder) alias(from, to digest.Digest) error {
	st := store.Step{Key: from, Alias: to, Name: "alias"}
	b.mu.Lock()
	b.aliases = append(b.aliases, st)
	b.mu.Unlock()
	return b.t.NoteStep(st)
}
