package engine

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image"
	"vivarium/image/build"
	"vivarium/image/registry"
	"vivarium/layer"
)

// BuildOutput says what becomes of a build's result.
type BuildOutput struct {
	// Type is "image" (in the store; the default), "registry" (the same, with Push),
	// "local" (files in the directory Dest), "tar" (files), "oci" or "docker" (an
	// archive of the image).
	Type string
	Dest string
	// W gets an archive.
	W io.Writer
	// Names are names of the image beside those of the options.
	Names []string
	// Push brings an image to the registries of all its names; Insecure is as in PushOptions.
	Push, Insecure bool
}

// files tells whether files are wanted and no image.
func (out *BuildOutput) files() bool { return out.Type == "local" || out.Type == "tar" }

// setOutputs makes a build give what its outputs want. Without any, that is an image.
// several: the build is for several platforms.
func (opt *BuildOptions) setOutputs(o *build.Options, several bool) error {
	var files []*BuildOutput
	for i := range opt.Outputs {
		out := &opt.Outputs[i]
		switch out.Type {
		case "", "image", "oci", "docker":
		case "registry":
			out.Push = true
		case "local", "tar":
			files = append(files, out)
		default:
			return errorf(ErrInvalid, "unknown type of output %q: there are image, registry, local, tar, oci and docker", out.Type)
		}
		if several && (out.Type == "tar" || out.Type == "docker") {
			return errorf(ErrUnsupported, "an output of type %s has files of one platform only: take oci, local, image or registry", out.Type)
		}
		if out.Push && len(o.Names) == 0 {
			return errorf(ErrInvalid, "tag is needed when pushing to registry: give one with -t, or with name= of the output")
		}
	}
	if len(files) == 0 {
		return nil
	}
	o.FilesOnly = len(files) == len(opt.Outputs)
	o.Files = func(ctx context.Context, root *os.File, p ispec.Platform) error {
		dir := ""
		if several {
			dir = "/" + strings.ReplaceAll(image.PlatformString(p), "/", "_") // as BuildKit has it
		}
		for _, out := range files {
			if err := out.putFiles(ctx, root, dir); err != nil {
				return err
			}
		}
		return nil
	}
	return nil
}

func (out *BuildOutput) putFiles(ctx context.Context, root *os.File, dir string) error {
	if out.Type == "tar" {
		return layer.Export(ctx, out.W, root)
	}
	return placeFiles(ctx, root, out.Dest+dir)
}

func placeFiles(ctx context.Context, root *os.File, dest string) error {
	if err := os.MkdirAll(dest, 0o755); err != nil {
		return fmt.Errorf("make the directory of the output: %w", err)
	}
	dst, err := os.Open(dest)
	if err != nil {
		return fmt.Errorf("open the directory of the output: %w", err)
	}
	defer dst.Close()
	return layer.Place(ctx, root, "/", dst, "/", layer.PlaceOptions{})
}

// put hands the image on: to registries, or as an archive.
func (out *BuildOutput) put(ctx context.Context, e *Engine, img image.Image, names []string, pushed func(image.Reference, registry.PushResult)) error {
	if out.Push {
		for _, n := range names {
			if err := e.pushOne(ctx, n, PushOptions{Insecure: out.Insecure, End: pushed}); err != nil {
				return err
			}
		}
	}
	if out.Type != "oci" && out.Type != "docker" {
		return nil
	}
	refs := names
	if len(refs) == 0 {
		refs = []string{string(img.ID)}
	}
	return e.Save(ctx, out.W, refs, out.Type == "oci")
}
