package main

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"vivarium/engine"
)

func version() string { return engine.Version() }

// versionInfo has the names of `docker version`; there is no server beside the client.
type versionInfo struct {
	Client versionPart
	Server versionPart
}

type versionPart struct {
	Version, GoVersion, Os, Arch string
}

func newVersion(a *app) *cobra.Command {
	var format string
	c := &cobra.Command{Use: "version [OPTIONS]", Short: "Show the version information", Args: noArgs}
	c.Flags().StringVarP(&format, "format", "f", "", "a Go template or json")
	c.RunE = func(*cobra.Command, []string) error {
		p := versionPart{Version: version(), GoVersion: runtime.Version(), Os: runtime.GOOS, Arch: runtime.GOARCH}
		switch format {
		case "":
			_, err := fmt.Fprintf(a.out, "viv:\n Version:     %s\n Go version:  %s\n OS/Arch:     %s/%s\n", p.Version, p.GoVersion, p.Os, p.Arch)
			return err
		case "json":
			return printJSON(a.out, versionInfo{p, p}, true)
		}
		t, err := parseTemplate(format)
		if err != nil {
			return err
		}
		return executeAll(a.out, t, []any{versionInfo{p, p}})
	}
	return c
}

func newInfo(a *app) *cobra.Command {
	var format string
	c := &cobra.Command{Use: "info [OPTIONS]", Short: "Display information about the engine and its host", Args: noArgs}
	c.Flags().StringVarP(&format, "format", "f", "", "a Go template or json")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		e, err := a.engine()
		if err != nil {
			return err
		}
		i, err := e.Info(cmd.Context())
		if err != nil {
			return err
		}
		switch format {
		case "":
			a.printInfo(i)
			return nil
		case "json":
			return printJSON(a.out, i, true)
		}
		t, err := parseTemplate(format)
		if err != nil {
			return err
		}
		return executeInspect(a.out, t, i)
	}
	return c
}

func (a *app) printInfo(i *engine.Info) {
	for _, l := range [][2]string{
		{"Containers", fmt.Sprint(i.Containers)}, {" Running", fmt.Sprint(i.ContainersRunning)}, {" Paused", fmt.Sprint(i.ContainersPaused)},
		{" Stopped", fmt.Sprint(i.ContainersStopped)}, {"Images", fmt.Sprint(i.Images)}, {"Server Version", i.ServerVersion},
		{"Storage Driver", i.Driver}, {"Logging Driver", i.LoggingDriver}, {"Cgroup Driver", i.CgroupDriver}, {"Cgroup Version", i.CgroupVersion},
		{"Security Options", strings.Join(i.SecurityOptions, " ")}, {"Kernel Version", i.KernelVersion}, {"Operating System", i.OperatingSystem},
		{"OSType", i.OSType}, {"Architecture", i.Architecture}, {"CPUs", fmt.Sprint(i.NCPU)},
		{"Total Memory", units.BytesSize(float64(i.MemTotal))}, {"Name", i.Name}, {"Root Dir", i.DockerRootDir}, {"State Dir", i.StateDir},
	} {
		fmt.Fprintf(a.out, "%s: %s\n", l[0], l[1])
	}
	for _, w := range i.Warnings {
		fmt.Fprintln(a.err, "WARNING:", w)
	}
}

// checkLong is the help of system check.
const checkLong = `Verify the store, and mend what a crash left.

It looks at:
  containers   records that cannot be read, a status that is not so any more,
               --rm containers that stayed, names that belong to nobody
  leftovers    of killed commands: markers of runs that were cut off, staging
               directories, run directories, control groups
  network      addresses, interfaces and published ports of containers that do
               not run
  images       the digest of every blob, the records of layers, the index, and
               what no image and no container needs

What it finds is mended: leftovers are deleted, layers unpacked again, and an
image whose blobs are damaged is taken out of the index, so that a pull fetches
it again. A container whose record is damaged is removed with its files. Volumes
with a name are never touched. With --dry-run it only says what it would do.

It may run at any time: what other commands work on is left alone. A line is
printed for each finding. The exit code is 0 when all is well or was mended, and 1
when something is left, which with --dry-run is every finding.`

func newCheck(a *app) *cobra.Command {
	var dry bool
	var format string
	c := &cobra.Command{Use: "check [OPTIONS]", Short: "Verify the store, and mend what a crash left", Long: checkLong, Args: noArgs}
	c.Flags().BoolVarP(&dry, "dry-run", "n", false, "only say what is wrong, and change nothing")
	c.Flags().StringVar(&format, "format", "", "json")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		e, err := a.engine()
		if err != nil {
			return err
		}
		list, err := e.Check(cmd.Context(), !dry)
		left := 0
		for _, f := range list {
			if !f.Repaired {
				left++
			}
			if format != "json" {
				fmt.Fprintln(a.out, findingText(f))
			}
		}
		if format == "json" {
			if err := printJSON(a.out, list, false); err != nil {
				return err
			}
		} else if len(list) == 0 && err == nil {
			fmt.Fprintln(a.out, "all is well")
		}
		if err != nil {
			return err
		}
		if left > 0 {
			return exitError{codeError}
		}
		return nil
	}
	return c
}

func findingText(f engine.Finding) string {
	s := f.Object + ": " + f.Problem
	switch {
	case f.Err != nil:
		return s + "; could not be mended: " + message(f.Err)
	case f.Repaired:
		return s + "; mended"
	}
	return s
}

var dfHeaders = headers{"Type": "TYPE", "TotalCount": "TOTAL", "Active": "ACTIVE", "Size": "SIZE", "Reclaimable": "RECLAIMABLE"}

type dfRow struct{ Active, Reclaimable, Size, TotalCount, Type string }

func newDf(a *app) *cobra.Command {
	l := listing{table: "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}", headers: dfHeaders}
	c := &cobra.Command{Use: "df [OPTIONS]", Short: "Show disk usage", Args: noArgs}
	c.Flags().StringVar(&l.format, "format", "", "a Go template, 'table TEMPLATE' or json")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		e, err := a.engine()
		if err != nil {
			return err
		}
		list, err := e.DiskUsage(cmd.Context())
		if err != nil {
			return err
		}
		var rows []any
		for _, u := range list {
			r := dfRow{Type: u.Type, TotalCount: fmt.Sprint(u.Total), Active: fmt.Sprint(u.Active), Size: units.HumanSize(float64(u.Size)),
				Reclaimable: units.HumanSize(float64(u.Reclaimable))}
			if u.Size > 0 {
				r.Reclaimable += fmt.Sprintf(" (%d%%)", u.Reclaimable*100/u.Size)
			}
			rows = append(rows, r)
		}
		return l.print(a.out, false, rows)
	}
	return c
}

func newSystemReset(a *app) *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "reset [OPTIONS]", Short: "Remove everything that the engine has made on this machine", Args: noArgs,
		Long: "Remove everything that the engine has made on this machine: all containers, also those that run, all images and volumes, the\n" +
			"build cache, the bridge with its firewall table, and its control groups.",
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "do not prompt for confirmation")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if !force && !a.confirm("WARNING! This will remove all containers, images, volumes and networks, and the build cache.") {
			return nil
		}
		e, err := a.engine()
		if err != nil {
			return err
		}
		return e.Reset(cmd.Context())
	}
	return c
}

func newSystemPrune(a *app) *cobra.Command {
	var all, force, volumes bool
	var filters []string
	c := &cobra.Command{Use: "prune [OPTIONS]", Short: "Remove unused data", Args: noArgs}
	fs := c.Flags()
	fs.BoolVarP(&all, "all", "a", false, "remove all unused images not just dangling ones, and the directories of cache mounts")
	fs.StringArrayVar(&filters, "filter", nil, "provide filter values (e.g. 'label=<key>=<value>', 'until=24h')")
	fs.BoolVarP(&force, "force", "f", false, "do not prompt for confirmation")
	fs.BoolVar(&volumes, "volumes", false, "prune anonymous volumes")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		f, err := parseFilters(filters)
		if err != nil {
			return err
		}
		if !force && !a.confirm(pruneWarning(all, volumes, filters)) {
			return nil
		}
		e, err := a.engine()
		if err != nil {
			return err
		}
		ctx := cmd.Context()
		var total int64
		add := func(title string, rep engine.PruneReport, err error) error {
			a.printPruned(title, rep)
			total += rep.SpaceReclaimed
			return err
		}
		containers, err1 := e.Prune(ctx, f)
		err = add("Deleted Containers:", containers, err1)
		if volumes {
			v, err2 := e.VolumePrune(ctx, false, nil)
			err = errors.Join(err, add("Deleted Volumes:", v, err2))
		}
		images, err3 := e.ImagePrune(ctx, all, f)
		err = errors.Join(err, add("Deleted Images:", images, err3))
		if labels := slices.ContainsFunc([]string{"label", "label!"}, func(k string) bool { return len(f[k]) > 0 }); !labels { // it has none
			cache, err4 := e.PruneBuild(ctx, engine.PruneBuildOptions{All: all, Filters: f})
			err = errors.Join(err, add("Deleted build cache objects:", cache, err4))
		}
		fmt.Fprintln(a.out, "Total reclaimed space:", units.HumanSize(float64(total)))
		return err
	}
	return c
}

// pruneWarning says what system prune will do, as Docker's does.
func pruneWarning(all, volumes bool, filters []string) string {
	list := []string{"all stopped containers"}
	if volumes {
		list = append(list, "all anonymous volumes not used by at least one container")
	}
	if all {
		list = append(list, "all images without at least one container associated to them", "all build cache")
	} else {
		list = append(list, "all dangling images", "unused build cache")
	}
	s := "WARNING! This will remove:\n  - " + strings.Join(list, "\n  - ") + "\n"
	if len(filters) > 0 {
		s += "\n  Items to be pruned will be filtered with:\n  - " + strings.Join(filters, "\n  - ") + "\n"
	}
	return s
}

var networkHeaders = headers{"ID": "NETWORK ID", "Name": "NAME", "Driver": "DRIVER", "Scope": "SCOPE", "Internal": "INTERNAL", "IPv6": "IPV6", "Labels": "LABELS"}

type networkRow struct{ Driver, ID, Internal, IPv6, Labels, Name, Scope string }

// Label gives the value of one label: networks have none.
func (networkRow) Label(string) string { return "" }

func newNetworkLs(a *app) *cobra.Command {
	var quiet, noTrunc bool
	var filters []string
	l := listing{table: "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}", headers: networkHeaders, quiet: "{{.ID}}"}
	c := &cobra.Command{Use: "ls [OPTIONS]", Short: "List networks", Args: noArgs}
	fs := c.Flags()
	fs.StringArrayVarP(&filters, "filter", "f", nil, "provide filter values (e.g. \"driver=bridge\")")
	fs.StringVar(&l.format, "format", "", "a Go template, 'table TEMPLATE' or json")
	fs.BoolVar(&noTrunc, "no-trunc", false, "don't truncate output")
	fs.BoolVarP(&quiet, "quiet", "q", false, "only display network IDs")
	c.RunE = func(*cobra.Command, []string) error {
		f, err := parseFilters(filters)
		if err != nil {
			return err
		}
		e, err := a.engine()
		if err != nil {
			return err
		}
		list, err := e.Networks(f)
		if err != nil {
			return err
		}
		rows := []any{}
		for _, n := range list {
			id := n.ID
			if !noTrunc {
				id = id[:12]
			}
			rows = append(rows, networkRow{ID: id, Name: n.Name, Driver: n.Driver, Scope: n.Scope, Internal: "false", IPv6: "false"})
		}
		return l.print(a.out, quiet, rows)
	}
	return c
}
