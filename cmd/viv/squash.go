package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"vivarium/engine"
)

func newSquash(a *app) *cobra.Command {
	var o engine.SquashOptions
	c := &cobra.Command{
		Use: "squash [OPTIONS] IMAGE", Short: "Make an image of one layer from another image", Args: exactArgs(1),
		Long: "Make an image of one layer from another image, with the same files and settings; with --from, of one layer above those of\n" +
			"the base. What upper layers delete is not in it. IMAGE itself stays as it is.",
	}
	fs := c.Flags()
	fs.StringArrayVarP(&o.Names, "tag", "t", nil, "name and optionally a tag (format: name:tag)")
	fs.StringVar(&o.Base, "from", "", "image whose layers stay as they are")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		e, err := a.engine()
		if err != nil {
			return err
		}
		img, err := e.Squash(cmd.Context(), args[0], o)
		if err == nil {
			fmt.Fprintln(a.out, img.ID)
		}
		return err
	}
	return c
}
