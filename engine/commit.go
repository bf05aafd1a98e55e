package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image"
	"vivarium/image/build"
	"vivarium/image/store"
	"vivarium/layer"
)

// CommitOptions say how a container becomes an image.
type CommitOptions struct {
	Name    string // that the image gets; empty: none
	Author  string
	Message string
	Changes []string // instructions of a Dockerfile
	NoPause bool     // do not stop the container's processes meanwhile
}

// Commit makes an image of a container: its image's layers, and what it has changed as
// one layer more. What is in its volumes is not part of it.
func (e *Engine) Commit(ctx context.Context, ref string, opt CommitOptions) (image.Image, error) {
	c, err := e.Container(ref)
	if err != nil {
		return image.Image{}, err
	}
	if c.ImageID == hostImage {
		return image.Image{}, errorf(ErrUnsupported, "container %s cannot become an image: its lower layer is this machine itself", c.Name)
	}
	var names []string
	if opt.Name != "" {
		r, err := image.ParseReference(opt.Name)
		if err != nil || r.Digest != "" || opt.Name == hostImage {
			return image.Image{}, errorf(ErrInvalid, "invalid name for an image: %q", opt.Name)
		}
		names = []string{r.String()}
	}
	s, err := e.images()
	if err != nil {
		return image.Image{}, err
	}
	if !opt.NoPause {
		resume, err := e.pauseFor(ctx, c)
		if err != nil {
			return image.Image{}, err
		}
		defer resume()
	}
	img, err := e.commit(ctx, s, c, opt, names)
	if err != nil {
		return img, fmt.Errorf("commit container %s: %w", c.Name, err)
	}
	e.emit(containerEvent(c, "commit"))
	return img, nil
}

// pauseFor pauses a container that runs, until resume is called.
func (e *Engine) pauseFor(ctx context.Context, c *Container) (resume func(), err error) {
	err = e.Pause(ctx, c.ID)
	if errors.Is(err, ErrNotRunning) || errors.Is(err, ErrPaused) {
		return func() {}, nil
	}
	return func() {
		if err := e.Unpause(context.WithoutCancel(ctx), c.ID); err != nil && !errors.Is(err, ErrNotPaused) && !errors.Is(err, ErrNotRunning) {
			e.notice("resume container %s: %v", c.Name, err)
		}
	}, err
}

func (e *Engine) commit(ctx context.Context, s *store.Store, c *Container, opt CommitOptions, names []string) (image.Image, error) {
	t, err := s.Begin(ctx)
	if err != nil {
		return image.Image{}, err
	}
	defer t.Close()
	base, err := s.Resolve(c.ImageID)
	if err != nil {
		return base, fmt.Errorf("its image: %w", err)
	}
	raw, err := s.ReadBlob(base.OCIManifest.Digest)
	if err != nil {
		return base, err
	}
	m, err := store.ParseManifest(raw)
	if err != nil {
		return base, err
	}
	desc, diffID, err := e.putUpper(ctx, t, c)
	if err != nil {
		return base, err
	}
	cfg, err := s.ReadBlob(base.ID)
	if err != nil {
		return base, err
	}
	config, err := committed(cfg, c, opt, diffID)
	if err != nil {
		return base, err
	}
	id, err := t.PutBytes(config)
	if err != nil {
		return base, err
	}
	manifest, err := json.Marshal(ispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ispec.MediaTypeImageManifest,
		Config: ispec.Descriptor{MediaType: ispec.MediaTypeImageConfig, Digest: id, Size: int64(len(config))},
		Layers: append(m.Layers, desc),
	})
	if err != nil {
		return base, fmt.Errorf("encode manifest: %w", err)
	}
	return t.Commit(ctx, store.CommitSpec{Manifest: manifest, MediaType: ispec.MediaTypeImageManifest, Names: names})
}

// putUpper stages the container's own layer.
func (e *Engine) putUpper(ctx context.Context, t *store.Tx, c *Container) (ispec.Descriptor, digest.Digest, error) {
	up, err := e.openChanges(c)
	if err != nil {
		return ispec.Descriptor{}, "", err
	}
	defer up.Dir.Close()
	r, w := io.Pipe()
	packed := make(chan struct{})
	go func() {
		defer close(packed)
		w.CloseWithError(store.Compress(w, func(w io.Writer) error { return layer.Diff(ctx, w, up) }))
	}()
	desc, diffID, err := t.PutLayer(ctx, r, store.LayerSpec{Blob: ispec.Descriptor{Size: -1}})
	r.CloseWithError(err)
	<-packed
	return desc, diffID, err
}

// committed is the config of the new image: the old one with the container's settings.
func committed(old []byte, c *Container, opt CommitOptions, diffID digest.Digest) ([]byte, error) {
	var img dockerspec.DockerOCIImage
	if err := json.Unmarshal(old, &img); err != nil {
		return nil, fmt.Errorf("decode the image's config: %w", err)
	}
	k, own := &img.Config, c.Config()
	k.User, k.Env, k.Cmd, k.Entrypoint, k.WorkingDir = own.User, own.Env, own.Cmd, own.Entrypoint, own.WorkingDir
	k.ExposedPorts, k.Volumes, k.Labels, k.StopSignal = own.ExposedPorts, own.Volumes, own.Labels, own.StopSignal
	if h := own.Healthcheck; h != nil {
		k.Healthcheck = &dockerspec.HealthcheckConfig{Test: h.Test, Interval: h.Interval, Timeout: h.Timeout,
			StartPeriod: h.StartPeriod, StartInterval: h.StartInterval, Retries: h.Retries}
	}
	if err := build.Change(&img, opt.Changes); err != nil {
		return nil, &Error{Kind: ErrInvalid, Msg: err.Error()}
	}
	now := time.Now().UTC()
	img.Created, img.Author = &now, opt.Author
	img.RootFS.DiffIDs = append(img.RootFS.DiffIDs, diffID)
	by := c.Path
	for _, a := range c.Args {
		by += " " + a
	}
	img.History = append(img.History, ispec.History{Created: &now, CreatedBy: by, Author: opt.Author, Comment: opt.Message})
	b, err := json.Marshal(img)
	if err != nil {
		return nil, fmt.Errorf("encode the image's config: %w", err)
	}
	return b, nil
}
