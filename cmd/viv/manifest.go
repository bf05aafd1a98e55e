package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"vivarium/engine"
)

func newCopy(a *app) *cobra.Command {
	var o engine.CopyImageOptions
	var quiet bool
	c := &cobra.Command{
		Use: "copy [OPTIONS] SOURCE TARGET", Short: "Copy an image from one registry to another", Args: exactArgs(2),
		Long: "Copy an image from one registry to another, or an index with all its images. Nothing is unpacked or kept here, and\n" +
			"manifests stay as they are. What the registry has already is mounted, and not sent.",
	}
	fs := c.Flags()
	fs.StringVar(&o.Platform, "platform", "", "copy only the image of this platform (os/arch[/variant])")
	fs.BoolVar(&o.Insecure, "insecure", false, "allow plain HTTP, and certificates that nobody vouches for")
	fs.BoolVarP(&quiet, "quiet", "q", false, "only display the digest")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		e, err := a.engine()
		if err != nil {
			return err
		}
		p := newPullPrinter(a, a.out, quiet)
		p.restart()
		o.Step = p.Step
		res, err := e.CopyImage(cmd.Context(), args[0], args[1], o)
		if err != nil {
			return err
		}
		if quiet {
			fmt.Fprintln(a.out, res.Digest)
			return nil
		}
		fmt.Fprintf(a.out, "%s: digest: %s size: %d\n", args[1], res.Digest, res.Size)
		return nil
	}
	return c
}

func newManifestGroup(a *app) *cobra.Command {
	return group(a, "Make indexes of images for several platforms, and look at manifests", []verb{
		{"create", newManifestCreate}, {"annotate", newManifestAnnotate}, {"inspect", newManifestInspect},
		{"push", newManifestPush}, {"rm", newManifestRm},
	})
}

func newManifestCreate(a *app) *cobra.Command {
	var amend, insecure bool
	c := &cobra.Command{Use: "create [OPTIONS] LIST IMAGE [IMAGE...]", Short: "Make a list of images that are in registries", Args: minArgs(2)}
	c.Flags().BoolVarP(&amend, "amend", "a", false, "add to a list that is there")
	c.Flags().BoolVar(&insecure, "insecure", false, "allow plain HTTP, and certificates that nobody vouches for")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		e, err := a.engine()
		if err != nil {
			return err
		}
		name, err := e.ManifestCreate(cmd.Context(), args[0], args[1:], amend, insecure)
		if err == nil {
			fmt.Fprintln(a.out, "Created manifest list", name)
		}
		return err
	}
	return c
}

func newManifestAnnotate(a *app) *cobra.Command {
	var change engine.ManifestChange
	c := &cobra.Command{Use: "annotate [OPTIONS] LIST IMAGE", Short: "Say for which platform an image of a list is", Args: exactArgs(2)}
	fs := c.Flags()
	fs.StringVar(&change.OS, "os", "", "set operating system")
	fs.StringVar(&change.Architecture, "arch", "", "set architecture")
	fs.StringVar(&change.Variant, "variant", "", "set architecture variant")
	fs.StringVar(&change.OSVersion, "os-version", "", "set operating system version")
	fs.StringSliceVar(&change.OSFeatures, "os-features", nil, "set operating system features")
	c.RunE = func(_ *cobra.Command, args []string) error {
		e, err := a.engine()
		if err != nil {
			return err
		}
		return e.ManifestAnnotate(args[0], args[1], change)
	}
	return c
}

func newManifestInspect(a *app) *cobra.Command {
	var insecure, verbose bool
	c := &cobra.Command{Use: "inspect [OPTIONS] [LIST] IMAGE", Short: "Show the manifest of an image, or a list", Args: rangeArgs(1, 2)}
	c.Flags().BoolVar(&insecure, "insecure", false, "allow plain HTTP, and certificates that nobody vouches for")
	c.Flags().BoolVarP(&verbose, "verbose", "v", false, "also show name, type, digest, size and platform")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		e, err := a.engine()
		if err != nil {
			return err
		}
		if len(args) == 1 {
			l, err := e.ManifestList(args[0])
			if err == nil {
				return a.indented(l.Index())
			}
			if !errors.Is(err, engine.ErrNoSuchImage) {
				return err
			}
		} else if _, err := e.ManifestList(args[0]); err != nil {
			return err
		}
		m, err := e.ManifestOf(cmd.Context(), args[len(args)-1], insecure)
		if err != nil {
			return err
		}
		if verbose {
			return a.indented(struct {
				Ref        string
				Descriptor any
				Manifest   json.RawMessage
			}{m.Ref, m.Descriptor, m.Raw})
		}
		return a.indented(json.RawMessage(m.Raw))
	}
	return c
}

// indented prints a value as Docker prints manifests.
func (a *app) indented(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, b, "", "   "); err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.out, out.String())
	return err
}

func newManifestPush(a *app) *cobra.Command {
	var insecure, purge bool
	c := &cobra.Command{Use: "push [OPTIONS] LIST", Short: "Push a list, and those of its images that are elsewhere", Args: exactArgs(1)}
	c.Flags().BoolVar(&insecure, "insecure", false, "allow plain HTTP, and certificates that nobody vouches for")
	c.Flags().BoolVarP(&purge, "purge", "p", false, "forget the list after the push")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		e, err := a.engine()
		if err != nil {
			return err
		}
		res, err := e.ManifestPush(cmd.Context(), args[0], insecure, nil)
		if err != nil {
			return err
		}
		fmt.Fprintln(a.out, res.Digest)
		if purge {
			return e.ManifestRemove(args[0])
		}
		return nil
	}
	return c
}

func newManifestRm(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "rm LIST [LIST...]", Short: "Forget lists that were made here", Args: minArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			return a.each(args, func(name string) (string, error) { return "", e.ManifestRemove(name) })
		},
	}
}
