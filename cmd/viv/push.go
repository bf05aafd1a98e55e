package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"vivarium/engine"
	"vivarium/image"
	"vivarium/image/registry"
)

func newPush(a *app) *cobra.Command {
	var o engine.PushOptions
	var quiet bool
	c := &cobra.Command{Use: "push [OPTIONS] NAME[:TAG]", Short: "Upload an image to a registry", Args: exactArgs(1)}
	fs := c.Flags()
	fs.BoolVarP(&o.All, "all-tags", "a", false, "push all tags of an image to the repository")
	fs.BoolVar(&o.Insecure, "insecure", false, "allow plain HTTP, and certificates that nobody vouches for")
	fs.BoolVarP(&quiet, "quiet", "q", false, "suppress verbose output")
	fs.Bool("disable-content-trust", true, "skip image signing (images are never signed)")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if o.All && hasTag(args[0]) {
			return errors.New("tag can't be used with --all-tags/-a")
		}
		e, err := a.engine()
		if err != nil {
			return err
		}
		p := newPullPrinter(a, a.out, quiet)
		begun := false
		o.Begin = func(r image.Reference) {
			p.restart()
			if !quiet && !begun {
				fmt.Fprintf(a.out, "The push refers to repository [%s]\n", r.Repo())
			}
			begun = true
		}
		o.Step = p.Step
		o.End = func(r image.Reference, res registry.PushResult) {
			for _, platform := range res.Omitted {
				fmt.Fprintf(a.err, "viv: %s is left out of %s: its image is not here\n", platform, r.Familiar())
			}
			if quiet {
				fmt.Fprintln(a.out, r.String())
				return
			}
			fmt.Fprintf(a.out, "%s: digest: %s size: %d\n", r.Tag, res.Digest, res.Size)
		}
		return e.Push(cmd.Context(), args[0], o)
	}
	return c
}

// hasTag tells whether a name is typed with its tag.
func hasTag(name string) bool {
	r, err := image.ParseReference(name)
	return err == nil && len(name) > len(r.Tag) && name[len(name)-len(r.Tag)-1:] == ":"+r.Tag
}
