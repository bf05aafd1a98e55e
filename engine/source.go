package engine

import (
	"fmt"
	"os"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image"
	"vivarium/sandbox/plan"
	"vivarium/unionfs"
)

// source is what a container's files and defaults come from.
type source struct {
	ID     string // "sha256:…", or "host"
	Config ispec.ImageConfig
	Health *image.Healthcheck
	Layers []string // the layers' directories, base first; none of the image host
	Lower  []string // the same as overlay wants them: top-most first
}

// recipe says how the container's layers and its own one become one tree.
func (e *Engine) recipe(c *Container, src *source) (unionfs.Recipe, error) {
	dir := e.containerDir(c.ID)
	r, err := unionfs.Overlay(src.Lower, dir+"/upper", dir+"/work", unionfs.OverlayOptions{
		Ephemeral: c.AutoRemove(),
		Joined:    !unionfs.LowerPlus(),
	})
	if err != nil {
		return r, fmt.Errorf("unite the layers of container %s: %w", c.Name, err)
	}
	return r, nil
}

// planRoot is a recipe as the plan takes it.
func planRoot(r unionfs.Recipe) (*plan.Root, error) {
	root := &plan.Root{FSType: r.FSType}
	if r.FSType == "" {
		root.Path = r.Upper
	}
	if r.Classic {
		root.Data = r.Data()
		return root, nil
	}
	for _, p := range r.Params {
		root.Params = append(root.Params, plan.Param{Key: p.Key, Value: p.Value, Flag: p.Flag})
	}
	return root, nil
}

// mountStopped mounts the union of a container that does not run, attached to no
// tree. The caller holds the container's lock as long as it is open.
func (e *Engine) mountStopped(c *Container) (*os.File, error) {
	src, err := e.containerSource(c)
	if err != nil {
		return nil, err
	}
	r, err := e.recipe(c, src)
	if err != nil {
		return nil, err
	}
	return unionfs.Mount(r)
}

// mountReadOnly mounts what the container's files are at this moment.
func (e *Engine) mountReadOnly(c *Container) (*os.File, error) {
	src, err := e.containerSource(c)
	if err != nil {
		return nil, err
	}
	lower := append([]string{e.containerDir(c.ID) + "/upper"}, src.Lower...)
	r, err := unionfs.Overlay(lower, "", "", unionfs.OverlayOptions{Joined: !unionfs.LowerPlus()})
	if err != nil {
		return nil, err
	}
	return unionfs.Mount(r)
}
