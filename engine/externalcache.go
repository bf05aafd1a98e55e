package engine

import (
	"context"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image"
	"vivarium/image/build"
	"vivarium/image/registry"
	"vivarium/image/store"
)

// BuildCache is a build cache outside of the store.
type BuildCache struct {
	// Type is "local" (the directory Dir), "registry" (Ref), or to write to also
	// "inline" (in the image itself).
	Type     string
	Dir, Tag string // Tag tells several caches of one directory apart
	Ref      string
	Insecure bool // as in PullOptions
	// All has the steps of all stages written, not only those whose layers the image has.
	All         bool
	IgnoreError bool // of writing
}

// setCaches makes a build read and write the caches of its options.
func (e *Engine) setCaches(opt *BuildOptions, o *build.Options) error {
	for _, c := range opt.CacheFrom {
		src, err := e.cacheSource(c)
		if err != nil {
			return err
		}
		o.CacheFrom = append(o.CacheFrom, src)
	}
	for _, c := range opt.CacheTo {
		if c.Type == "inline" {
			o.InlineCache = true
			continue
		}
		to, err := e.cacheTarget(c, o.Store)
		if err != nil {
			return err
		}
		o.CacheTo = append(o.CacheTo, to)
	}
	// The build argument by which docker build asks for it.
	o.InlineCache = o.InlineCache || o.BuildArgs["BUILDKIT_INLINE_CACHE"] == "1"
	return nil
}

func (c *BuildCache) fullRef() (string, error) {
	r, err := image.ParseReference(c.Ref)
	if err != nil {
		return "", &Error{Kind: ErrInvalid, Msg: "build cache: " + err.Error(), cause: err}
	}
	return r.String(), nil
}

func (e *Engine) cacheSource(c BuildCache) (build.CacheSource, error) {
	switch c.Type {
	case "local":
		return build.CacheSource{Name: c.Dir, Load: func(context.Context, ispec.Platform) (*build.CacheImport, error) {
			return build.ReadCacheDir(c.Dir, c.Tag)
		}}, nil
	case "registry":
		ref, err := c.fullRef()
		return build.CacheSource{Name: image.Familiar(ref), Load: func(ctx context.Context, platform ispec.Platform) (*build.CacheImport, error) {
			opts, err := e.copyOptions(c.Insecure, nil)
			if err != nil {
				return nil, err
			}
			policy, err := registry.LoadPolicy("")
			if err != nil {
				return nil, err
			}
			opts.Platform = &platform
			a, err := registry.GetArtifact(ctx, ref, policy, opts)
			if err != nil {
				return nil, err
			}
			return &build.CacheImport{Manifest: a.Manifest, Config: a.Config, Open: a.Open, Close: a.Close}, nil
		}}, err
	}
	return build.CacheSource{}, errorf(ErrInvalid, "unknown type of cache %q to read: there are registry and local", c.Type)
}

func (e *Engine) cacheTarget(c BuildCache, s *store.Store) (build.CacheTarget, error) {
	to := build.CacheTarget{All: c.All, IgnoreError: c.IgnoreError}
	switch c.Type {
	case "local":
		to.Name = c.Dir
		to.Put = func(_ context.Context, manifest, config []byte) error {
			return build.WriteCacheDir(c.Dir, c.Tag, manifest, config, s)
		}
	case "registry":
		ref, err := c.fullRef()
		if err != nil {
			return to, err
		}
		to.Name = image.Familiar(ref)
		to.Put = func(ctx context.Context, manifest, config []byte) error {
			opts, err := e.copyOptions(c.Insecure, nil)
			if err != nil {
				return err
			}
			return registry.PutArtifact(ctx, s, ref, manifest, config, opts)
		}
	default:
		return to, errorf(ErrInvalid, "unknown type of cache %q to write: there are registry, local and inline", c.Type)
	}
	return to, nil
}
