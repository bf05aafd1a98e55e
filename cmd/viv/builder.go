package main

import (
	"fmt"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"vivarium/engine"
)

func newBuilderGroup(a *app) *cobra.Command {
	return group(a, "Manage builds", []verb{{"build", newBuild}, {"prune", newBuilderPrune}})
}

func newBuilderPrune(a *app) *cobra.Command {
	var o engine.PruneBuildOptions
	var force bool
	var filters []string
	var keep string
	c := &cobra.Command{Use: "prune", Short: "Remove build cache", Args: noArgs}
	fs := c.Flags()
	fs.BoolVarP(&o.All, "all", "a", false, "remove the directories of cache mounts too")
	fs.BoolVarP(&force, "force", "f", false, "do not prompt for confirmation")
	fs.StringArrayVar(&filters, "filter", nil, "provide filter values (e.g. 'until=24h', 'id=<key>')")
	fs.StringVar(&keep, "keep-storage", "", "amount of disk space to keep for cache")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		var err error
		if o.Filters, err = parseFilters(filters); err != nil {
			return err
		}
		if keep != "" {
			n, err := units.RAMInBytes(keep)
			if err != nil || n < 0 {
				return usagef("invalid value for --keep-storage: %s", keep)
			}
			o.Keep = n
		}
		e, err := a.engine()
		if err != nil {
			return err
		}
		warning := "WARNING! This will remove all build cache but the directories of cache mounts."
		if o.All {
			warning = "WARNING! This will remove all build cache."
		}
		if !force && !a.confirm(warning) {
			return nil
		}
		rep, err := e.PruneBuild(cmd.Context(), o)
		a.printPruned("Deleted build cache objects:", rep)
		if err == nil {
			fmt.Fprintf(a.out, "Total reclaimed space: %s\n", units.HumanSize(float64(rep.SpaceReclaimed)))
		}
		return err
	}
	return c
}
