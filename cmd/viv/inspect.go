package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"vivarium/engine"
)

func newInspect(a *app) *cobra.Command {
	var format, kind string
	var size, anatomy bool
	c := &cobra.Command{Use: "inspect [OPTIONS] NAME|ID [NAME|ID...]", Short: "Return low-level information on containers, images and volumes", Args: minArgs(1)}
	fs := c.Flags()
	fs.StringVarP(&format, "format", "f", "", "a Go template or json")
	fs.BoolVarP(&size, "size", "s", false, "display total file sizes if the type is container")
	fs.StringVar(&kind, "type", "", "only inspect objects of this type: container, image or volume")
	fs.BoolVar(&anatomy, "anatomy", false, "take containers apart: namespaces, control groups, union, rights and mounts, made for reading; --format json, svg or html")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if anatomy {
			return a.anatomy(cmd, args, format)
		}
		e, err := a.engine()
		if err != nil {
			return err
		}
		find, err := finder(cmd.Context(), e, kind, size)
		if err != nil {
			return err
		}
		return a.inspectAll(args, format, find)
	}
	return c
}

// finder gives what looks an object of one kind up, or with "" of any.
func finder(ctx context.Context, e *engine.Engine, kind string, size bool) (func(string) (any, error), error) {
	kinds := map[string]func(string) (any, error){
		"container": func(s string) (any, error) { return e.Inspect(ctx, s, size) },
		"image":     func(s string) (any, error) { return e.InspectImage(ctx, s) },
		"volume":    func(s string) (any, error) { return e.VolumeInspect(ctx, s) },
	}
	if kind != "" {
		find, ok := kinds[kind]
		if !ok {
			return nil, fmt.Errorf("%q is not a valid value for --type", kind)
		}
		return find, nil
	}
	return func(s string) (any, error) {
		v, err := kinds["container"](s)
		if err == nil || !errors.Is(err, engine.ErrNoSuchContainer) {
			return v, err
		}
		for _, k := range []string{"image", "volume"} {
			if v, err := kinds[k](s); err == nil {
				return v, nil
			}
		}
		return nil, &engine.Error{Kind: engine.ErrNoSuchObject, Msg: "No such object: " + s}
	}, nil
}

// newInspectOf makes the inspect verb of one kind's group.
func newInspectOf(kind string) func(*app) *cobra.Command {
	return func(a *app) *cobra.Command {
		c := newInspect(a)
		if err := c.Flags().Set("type", kind); err != nil {
			panic(err) // the flag is defined a few lines above
		}
		c.Flags().MarkHidden("type")
		return c
	}
}
