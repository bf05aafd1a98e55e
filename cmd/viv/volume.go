package main

import (
	"errors"
	"fmt"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"vivarium/bundle"
	"vivarium/engine"
)

func newVolumeCreate(a *app) *cobra.Command {
	var o engine.VolumeOptions
	var labels, opts []string
	c := &cobra.Command{Use: "create [OPTIONS] [VOLUME]", Short: "Create a volume", Args: rangeArgs(0, 1)}
	fs := c.Flags()
	fs.StringVarP(&o.Driver, "driver", "d", "local", "specify volume driver name")
	fs.StringArrayVar(&labels, "label", nil, "set metadata for a volume")
	fs.StringArrayVarP(&opts, "opt", "o", nil, "set driver specific options")
	fs.StringVar(&o.Name, "name", "", "the volume's name")
	fs.MarkHidden("name")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 {
			if o.Name != "" {
				return errors.New("conflicting options: cannot specify a volume-name through both --name and as a positional arg")
			}
			o.Name = args[0]
		}
		if len(opts) > 0 {
			o.Options = map[string]string{opts[0]: ""}
		}
		for _, l := range labels {
			k, v, err := bundle.ParseLabel(l)
			if err != nil {
				return err
			}
			if o.Labels == nil {
				o.Labels = map[string]string{}
			}
			o.Labels[k] = v
		}
		e, err := a.engine()
		if err != nil {
			return err
		}
		v, err := e.VolumeCreate(cmd.Context(), o)
		if err == nil {
			fmt.Fprintln(a.out, v.Name)
		}
		return err
	}
	return c
}

var volumeHeaders = headers{"Driver": "DRIVER", "Name": "VOLUME NAME", "Labels": "LABELS", "Links": "LINKS", "Mountpoint": "MOUNTPOINT", "Scope": "SCOPE", "Size": "SIZE"}

type volumeRow struct {
	Driver, Labels, Links, Mountpoint, Name, Scope, Size string

	labels map[string]string
}

// Label gives the value of one label.
func (r volumeRow) Label(name string) string { return r.labels[name] }

func newVolumeLs(a *app) *cobra.Command {
	var filters []string
	var quiet bool
	l := listing{table: "{{.Driver}}\t{{.Name}}", headers: volumeHeaders, quiet: "{{.Name}}"}
	c := &cobra.Command{Use: "ls [OPTIONS]", Short: "List volumes", Args: noArgs}
	fs := c.Flags()
	fs.StringArrayVarP(&filters, "filter", "f", nil, "provide filter values (e.g. \"dangling=true\")")
	fs.StringVar(&l.format, "format", "", "a Go template, 'table TEMPLATE' or json")
	fs.BoolVarP(&quiet, "quiet", "q", false, "only display volume names")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		f, err := parseFilters(filters)
		if err != nil {
			return err
		}
		e, err := a.engine()
		if err != nil {
			return err
		}
		list, err := e.Volumes(cmd.Context(), f)
		if err != nil {
			return err
		}
		var rows []any
		for _, v := range list {
			rows = append(rows, volumeRow{Driver: v.Driver, Name: v.Name, Labels: labelList(v.Labels), Mountpoint: v.Mountpoint, Scope: v.Scope,
				Links: "N/A", Size: "N/A", labels: v.Labels})
		}
		return l.print(a.out, quiet, rows)
	}
	return c
}

func newVolumeRm(a *app) *cobra.Command {
	var force bool
	c := &cobra.Command{Use: "rm [OPTIONS] VOLUME [VOLUME...]", Short: "Remove one or more volumes", Args: minArgs(1)}
	c.Flags().BoolVarP(&force, "force", "f", false, "do not mind volumes that are not there")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		e, err := a.engine()
		if err != nil {
			return err
		}
		return a.each(args, func(name string) (string, error) { return name, e.VolumeRemove(cmd.Context(), name, force) })
	}
	return c
}

func newVolumePrune(a *app) *cobra.Command {
	var all bool
	return pruneCommand(a, "Remove unused local volumes", "This will remove anonymous local volumes not used by at least one container.",
		"Deleted Volumes:", func(c *cobra.Command) {
			c.Flags().BoolVarP(&all, "all", "a", false, "remove all unused volumes, not just anonymous ones")
		},
		func(cmd *cobra.Command, e *engine.Engine, f engine.Filters) (engine.PruneReport, error) {
			return e.VolumePrune(cmd.Context(), all, f)
		})
}

func newContainerPrune(a *app) *cobra.Command {
	return pruneCommand(a, "Remove all stopped containers", "This will remove all stopped containers.", "Deleted Containers:", nil,
		func(cmd *cobra.Command, e *engine.Engine, f engine.Filters) (engine.PruneReport, error) {
			return e.Prune(cmd.Context(), f)
		})
}

func newImagePrune(a *app) *cobra.Command {
	var all bool
	return pruneCommand(a, "Remove unused images", "This will remove all dangling images.", "Deleted Images:",
		func(c *cobra.Command) {
			c.Flags().BoolVarP(&all, "all", "a", false, "remove all unused images, not just dangling ones")
		},
		func(cmd *cobra.Command, e *engine.Engine, f engine.Filters) (engine.PruneReport, error) {
			return e.ImagePrune(cmd.Context(), all, f)
		})
}

// pruneCommand makes a verb that asks, prunes and tells what it removed.
func pruneCommand(a *app, short, question, title string, flags func(*cobra.Command), fn func(*cobra.Command, *engine.Engine, engine.Filters) (engine.PruneReport, error)) *cobra.Command {
	var force bool
	var filters []string
	c := &cobra.Command{Use: "prune [OPTIONS]", Short: short, Args: noArgs}
	c.Flags().BoolVarP(&force, "force", "f", false, "do not prompt for confirmation")
	c.Flags().StringArrayVar(&filters, "filter", nil, "provide filter values")
	if flags != nil {
		flags(c)
	}
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		f, err := parseFilters(filters)
		if err != nil {
			return err
		}
		if !force && !a.confirm("WARNING! "+question) {
			return nil
		}
		e, err := a.engine()
		if err != nil {
			return err
		}
		rep, err := fn(cmd, e, f)
		a.printPruned(title, rep)
		if err == nil {
			fmt.Fprintln(a.out, "Total reclaimed space:", units.HumanSize(float64(rep.SpaceReclaimed)))
		}
		return err
	}
	return c
}

func (a *app) printPruned(title string, rep engine.PruneReport) {
	if len(rep.Deleted) == 0 {
		return
	}
	fmt.Fprintln(a.out, title)
	for _, d := range rep.Deleted {
		fmt.Fprintln(a.out, d)
	}
	fmt.Fprintln(a.out)
}

// confirm asks the user; anything but y is no.
func (a *app) confirm(question string) bool {
	fmt.Fprintf(a.out, "%s\nAre you sure you want to continue? [y/N] ", question)
	var answer string
	fmt.Fscanln(a.in, &answer)
	return answer == "y" || answer == "Y" || answer == "yes"
}
