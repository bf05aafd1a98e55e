package engine

import (
	"context"
	"fmt"
	"io"
	"os"

	"vivarium/image"
	"vivarium/image/build"
	"vivarium/layer"
)

// BuildOutput says what becomes of a build's result.
type BuildOutput struct {
	// Type is "image" (in the store; the default), "local" (files in the directory
	// Dest), "tar" (files), "oci" or "docker" (an archive of the image).
	Type string
	Dest string
	// W gets an archive.
	W io.Writer
}

// set makes a build give files where files are wanted.
func (out *BuildOutput) set(o *build.Options) error {
	switch out.Type {
	case "", "image", "oci", "docker":
		return nil
	case "local":
		o.Files = func(ctx context.Context, root *os.File) error { return placeFiles(ctx, root, out.Dest) }
	case "tar":
		o.Files = func(ctx context.Context, root *os.File) error { return layer.Export(ctx, out.W, root) }
	default:
		return errorf(ErrInvalid, "unknown type of output %q: there are image, local, tar, oci and docker", out.Type)
	}
	o.FilesOnly = true
	return nil
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

// save writes the image as an archive, if that is wanted.
func (out *BuildOutput) save(ctx context.Context, e *Engine, img image.Image, names []string) error {
	if out.Type != "oci" && out.Type != "docker" {
		return nil
	}
	refs := names
	if len(refs) == 0 {
		refs = []string{string(img.ID)}
	}
	return e.Save(ctx, out.W, refs, out.Type == "oci")
}
