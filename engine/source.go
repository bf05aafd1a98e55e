package engine

import (
	"fmt"

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
	d, err := e.driverNamed(c.Driver)
	if err != nil {
		return unionfs.Recipe{}, err
	}
	r, err := d.Recipe(e.layerOf(c, src.Lower))
	if err != nil {
		return r, fmt.Errorf("unite the layers of container %s: %w", c.Name, err)
	}
	return r, nil
}

// planRoot is a recipe as the plan takes it.
func planRoot(r unionfs.Recipe) (*plan.Root, error) {
	root := &plan.Root{FSType: r.FSType}
	if r.FSType == "" {
		root.Path, root.Mapped = r.Upper, true
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
