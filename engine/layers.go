package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"vivarium/unionfs"
	"vivarium/unionfs/aufs"
	"vivarium/unionfs/stack"
)

// LayersReport is an image or a container, layer by layer.
type LayersReport struct {
	Name    string
	Layers  []LayerReport // from below
	Changes stack.Layers
}

// LayerReport says what a layer is, beside what it changes.
type LayerReport struct {
	Dir       string
	CreatedBy string // the step of the image's history that made it; "container" for that of a container, "init: …" for the one below it
}

// Layers goes through the layers of an image, or of a container with its own on top.
func (e *Engine) Layers(ctx context.Context, ref string) (*LayersReport, error) {
	r := &LayersReport{Name: ref}
	var dirs []string // top-most first
	var steps []string
	c, err := e.Inspect(ctx, ref, false)
	switch {
	case err == nil && c.GraphDriver.Name == unionfs.DriverCopy:
		return nil, errorf(ErrUnsupported, "container %s has no layer of its own: the storage driver copy keeps all its files in one directory. Commit it, and look at the image", ref)
	case err == nil:
		dirs = append(dirs, c.GraphDriver.Data["UpperDir"])
		dirs = append(dirs, splitDirs(c.GraphDriver.Data["LowerDir"])...)
		steps = e.layerSteps(ctx, c.Image)
	case !errors.Is(err, ErrNoSuchContainer):
		return nil, err
	default:
		i, err := e.InspectImage(ctx, ref)
		if err != nil {
			return nil, err
		}
		if i.ID == hostImage {
			return nil, errorf(ErrInvalid, "the image %q is this machine, and has no layers", hostImage)
		}
		dirs = append(splitDirs(i.GraphDriver.Data["UpperDir"]), splitDirs(i.GraphDriver.Data["LowerDir"])...)
		steps = e.layerSteps(ctx, ref)
	}
	var branches []aufs.Branch
	for n, dir := range dirs {
		if dir == "/" {
			return nil, errorf(ErrInvalid, "%s is made of this machine's own file system, which has no layers", ref)
		}
		branches = append(branches, aufs.Branch{Path: dir, Perm: aufs.RO, WH: true, Overlay: true})
		report := LayerReport{Dir: dir}
		if at := len(dirs) - 1 - n; at < len(steps) {
			report.CreatedBy = steps[at]
		} else if c != nil {
			report.CreatedBy = "init: what is mounted over"
			if n == 0 {
				report.CreatedBy = "container"
			}
		}
		r.Layers = append([]LayerReport{report}, r.Layers...)
	}
	s := stack.Stack{Type: stack.Overlay, Branches: branches}
	if c != nil && c.GraphDriver.Name == unionfs.DriverAUFS {
		s.Type, branches[0].Overlay = stack.AUFS, false
	}
	if r.Changes, err = s.Layers(); err != nil {
		return nil, fmt.Errorf("look at the layers of %s: %w", ref, err)
	}
	return r, nil
}

func splitDirs(list string) []string {
	if list == "" {
		return nil
	}
	return strings.Split(list, ":")
}

// layerSteps are the steps of an image's history that made layers, the first first.
func (e *Engine) layerSteps(ctx context.Context, ref string) []string {
	img, err := e.Image(ctx, ref)
	if err != nil {
		return nil
	}
	var out []string
	for _, h := range img.Config.History {
		if !h.EmptyLayer {
			out = append(out, h.CreatedBy)
		}
	}
	return out
}
