package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/bundle"
	"vivarium/image"
	"vivarium/image/build"
	"vivarium/image/registry"
	"vivarium/image/store"
)

// BuildOptions say what is built from a Dockerfile.
type BuildOptions struct {
	Dockerfile     []byte
	DockerfileName string            // for messages
	Context        string            // directory that COPY and ADD read, or a URL (RemoteContext); empty: none
	Input          io.Reader         // an archive of the context, or a Dockerfile, if Context is empty; may be nil
	Contexts       map[string]string // named ones: a directory, or docker-image://REF
	Target         string
	BuildArgs      map[string]string
	Labels         map[string]string
	Names          []string // that the image gets
	Platforms      []string // os/arch[/variant]; several make an index of images; none: the host's
	NoCache        bool
	NoCacheFilter  []string          // stages that are built anew, by name or number
	Annotations    map[string]string // of the image's manifest
	ShmSize        int64             // bytes of /dev/shm of RUN; 0: 64 MiB
	Ulimits        []bundle.Ulimit   // of RUN
	Pull           bool              // ask the registry for newer base images
	Network        string
	ExtraHosts     []string
	Allow          []string // network.host, security.insecure
	Secrets        map[string]build.Secret
	SSH            map[string]string
	Epoch          time.Time // SOURCE_DATE_EPOCH; zero: none
	Squash         bool      // one layer of what the build makes
	SquashAll      bool      // one layer of everything
	Outputs        []BuildOutput
	CacheFrom      []BuildCache
	CacheTo        []BuildCache

	Progress     func(build.Event) // may be nil; never called by two goroutines at once
	PullProgress PullProgress      // may be nil
	// Built is called when the image is in the store, before it goes anywhere else; may be nil.
	Built func(image.Image)
	// Pushed is called after each name that was pushed; may be nil.
	Pushed func(image.Reference, registry.PushResult)
}

// Build makes an image from a Dockerfile. A *build.Error tells the place in it.
func (e *Engine) Build(ctx context.Context, opt BuildOptions) (image.Image, error) {
	s, done, err := e.bring(ctx, &opt)
	if err != nil {
		return image.Image{}, err
	}
	defer done()
	o, closeDirs, err := opt.open()
	defer closeDirs()
	if err != nil {
		return image.Image{}, err
	}
	o.Store = s
	base := &baseImages{e: e, s: o.Store, opt: &opt}
	o.Image = base.find
	name, err := e.newDriver(ctx, false)
	if err != nil {
		return image.Image{}, err
	}
	w := &workshop{e: e, shmSize: opt.ShmSize, ulimits: opt.Ulimits}
	if w.driver, err = e.driverNamed(name); err != nil {
		return image.Image{}, err
	}
	o.Driver, o.Run, o.Fetch, o.Clone, o.CanRun = w.driver, w.run, fetchURL, cloneGit, canRun
	platforms, err := parsePlatforms(opt.Platforms)
	if err != nil {
		return image.Image{}, err
	}
	o.Platform = platforms[0]
	if err := opt.setOutputs(&o, len(platforms) > 1); err != nil {
		return image.Image{}, err
	}
	if err := e.setCaches(&opt, &o); err != nil {
		return image.Image{}, err
	}
	var res build.Result
	if len(platforms) > 1 {
		res, err = build.BuildPlatforms(ctx, o, platforms)
	} else {
		res, err = build.Build(ctx, o)
	}
	err = errors.Join(err, w.close())
	if err != nil {
		return image.Image{}, err
	}
	for _, n := range res.Image.RepoTags() {
		e.emit(objectEvent("image", "tag", string(res.Image.ID), map[string]string{"name": n}))
	}
	if opt.Built != nil && res.Image.ID != "" {
		opt.Built(res.Image)
	}
	for i := range opt.Outputs {
		if out := &opt.Outputs[i]; !out.files() {
			if err := out.put(ctx, e, res.Image, o.Names, opt.Pushed); err != nil {
				return res.Image, err
			}
		}
	}
	return res.Image, nil
}

// CheckBuild gives what BuildKit's checks find in a Dockerfile, and builds nothing. Base
// images count if they are there: none is pulled. It is an error where the Dockerfile says so
// ("# check=error=true"), or if it could not be built.
func (e *Engine) CheckBuild(ctx context.Context, opt BuildOptions) ([]*build.Warning, error) {
	s, done, err := e.bring(ctx, &opt)
	if err != nil {
		return nil, err
	}
	defer done()
	o, closeDirs, err := opt.open()
	defer closeDirs()
	if err != nil {
		return nil, err
	}
	o.Store = s
	o.Image = func(_ context.Context, ref string, p *ispec.Platform) (image.Image, error) {
		if own := image.DefaultPlatform(); p.OS == own.OS && p.Architecture == own.Architecture {
			return o.Store.Resolve(ref) // what a build takes, whatever it is for
		}
		return forPlatform(o.Store, ref, *p)
	}
	platforms, err := parsePlatforms(opt.Platforms)
	if err != nil {
		return nil, err
	}
	o.Platform = platforms[0]
	return build.Check(ctx, o)
}

// bring fetches a context that is no directory of this machine; done removes it.
func (e *Engine) bring(ctx context.Context, opt *BuildOptions) (s *store.Store, done func(), err error) {
	if s, err = e.images(); err != nil {
		return nil, nil, err
	}
	if !RemoteContext(opt.Context) && (opt.Context != "" || opt.Input == nil) {
		return s, func() {}, nil
	}
	t, err := s.Begin(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := opt.fetchContext(ctx, t); err != nil {
		return nil, nil, errors.Join(err, t.Close())
	}
	return s, func() { t.Close() }, nil
}

// open checks the options, and opens the directories of contexts.
func (opt *BuildOptions) open() (o build.Options, closeAll func(), err error) {
	closeAll = func() {}
	if o, err = opt.plain(); err != nil {
		return o, closeAll, err
	}
	if opt.Context != "" {
		if o.Context, err = openDir(opt.Context); err != nil {
			return o, closeAll, err
		}
		closeAll = func() { o.Context.Close() }
	}
	closeNamed, err := opt.openContexts(&o)
	main := closeAll
	return o, func() { closeNamed(); main() }, err
}

// plain checks the options and gives those that need no files.
func (opt *BuildOptions) plain() (build.Options, error) {
	o := build.Options{Dockerfile: opt.Dockerfile, DockerfileName: opt.DockerfileName, Target: opt.Target, BuildArgs: opt.BuildArgs,
		Labels: opt.Labels, NoCache: opt.NoCache, NoCacheFor: opt.NoCacheFilter, Annotations: opt.Annotations, Network: opt.Network, ExtraHosts: opt.ExtraHosts, Secrets: opt.Secrets, SSH: opt.SSH,
		Epoch: opt.Epoch, Progress: opt.Progress, Contexts: map[string]build.Context{}}
	switch {
	case opt.SquashAll:
		o.Squash = build.SquashAll
	case opt.Squash:
		o.Squash = build.SquashNew
	}
	switch opt.Network {
	case "", "default", "bridge":
		o.Network = "default"
	case "none", "host":
	default:
		return o, errorf(ErrInvalid, "network mode %q is not supported by a build: it is default, none or host", opt.Network)
	}
	for _, a := range opt.Allow {
		switch a {
		case "network.host":
			o.AllowHost = true
		case "security.insecure":
			o.AllowInsecure = true
		default:
			return o, errorf(ErrInvalid, "unknown permission %q: there are network.host and security.insecure", a)
		}
	}
	names := slices.Clone(opt.Names)
	for _, out := range opt.Outputs {
		names = append(names, out.Names...)
	}
	var err error
	if o.Names, err = fullNames(names); err != nil {
		return o, err
	}
	return o, nil
}

// fullNames are the names that an image shall get, in full and each once.
func fullNames(names []string) (full []string, err error) {
	for _, n := range names {
		r, err := image.ParseReference(n)
		if err != nil {
			return nil, &Error{Kind: ErrInvalid, Msg: fmt.Sprintf("invalid tag %q: %v", n, err), cause: err}
		}
		if r.Digest != "" {
			return nil, errorf(ErrInvalid, "invalid tag %q: a name with a digest cannot be given", n)
		}
		if n == hostImage {
			return nil, errorf(ErrInvalid, "the name %q belongs to the built-in image", hostImage)
		}
		if !slices.Contains(full, r.String()) {
			full = append(full, r.String())
		}
	}
	return full, nil
}

func openDir(name string) (*os.File, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, errorf(ErrInvalid, "unable to prepare context: path %q: %v", name, errors.Unwrap(err))
	}
	if st, err := f.Stat(); err != nil || !st.IsDir() {
		f.Close()
		return nil, errorf(ErrInvalid, "unable to prepare context: path %q is not a directory", name)
	}
	return f, nil
}

// openContexts opens the named contexts that are directories.
func (opt *BuildOptions) openContexts(o *build.Options) (closeAll func(), err error) {
	var open []*os.File
	closeAll = func() {
		for _, f := range open {
			f.Close()
		}
	}
	for name, what := range opt.Contexts {
		var c build.Context
		if ref, ok := strings.CutPrefix(what, "docker-image://"); ok {
			c.Image = ref
		} else if strings.Contains(what, "://") {
			return closeAll, errorf(ErrUnsupported, "named context %s: %s is neither a directory nor docker-image://", name, what)
		} else {
			if c.Dir, err = openDir(what); err != nil {
				return closeAll, err
			}
			open = append(open, c.Dir)
		}
		o.Contexts[strings.ToLower(name)] = c
	}
	return closeAll, nil
}

// baseImages finds the images that a build begins with.
type baseImages struct {
	e   *Engine
	s   *store.Store
	opt *BuildOptions
}

func (b *baseImages) find(ctx context.Context, ref string, p *ispec.Platform) (image.Image, error) {
	if ref == hostImage {
		return image.Image{}, errorf(ErrInvalid, "the image %q cannot be built on: it is this machine itself", hostImage)
	}
	if _, err := image.ParseReference(ref); err != nil && !isHex(strings.TrimPrefix(ref, "sha256:")) {
		return image.Image{}, &Error{Kind: ErrInvalid, Msg: fmt.Sprintf("failed to parse base image %q: %v", ref, err), cause: err}
	}
	own := image.DefaultPlatform()
	if p.OS != own.OS || p.Architecture != own.Architecture {
		return b.foreign(ctx, ref, *p)
	}
	r := &run{e: b.e} // any variant of the own
	r.opt.Progress = b.opt.PullProgress
	if b.opt.Pull {
		r.opt.Pull = "always"
	}
	img, err := r.findImage(ctx, b.s, ref)
	r.releaseImage() // the build's own lease keeps it now or tells that it went
	return img, err
}
