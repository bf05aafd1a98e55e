package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"vivarium/engine"
)

func newCommit(a *app) *cobra.Command {
	var o engine.CommitOptions
	var pause bool
	c := &cobra.Command{Use: "commit [OPTIONS] CONTAINER [REPOSITORY[:TAG]]", Short: "Create a new image from a container's changes", Args: rangeArgs(1, 2)}
	fs := c.Flags()
	fs.StringVarP(&o.Author, "author", "a", "", "author of the image")
	fs.StringArrayVarP(&o.Changes, "change", "c", nil, "apply a Dockerfile instruction to the created image")
	fs.StringVarP(&o.Message, "message", "m", "", "commit message")
	fs.BoolVarP(&pause, "pause", "p", true, "pause container during commit")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if o.NoPause = !pause; len(args) == 2 {
			o.Name = args[1]
		}
		e, err := a.engine()
		if err != nil {
			return err
		}
		img, err := e.Commit(cmd.Context(), args[0], o)
		if err == nil {
			fmt.Fprintln(a.out, img.ID)
		}
		return err
	}
	return c
}
