package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"vivarium/engine"
	"vivarium/sandbox/cgroup"
	"vivarium/sandbox/cgroup/tree"
)

func newCgroupGroup(a *app) *cobra.Command {
	return group(a, "Make, fill, limit and look at control groups, of v1 and v2 alike", []verb{
		{"subsystems", newCgroupSubsystems}, {"ls list", newCgroupLs}, {"tree", newCgroupTree}, {"mount", newCgroupMount},
		{"create", newCgroupCreate}, {"rm remove", newCgroupRm}, {"attach", newCgroupAttach}, {"set", newCgroupSet}, {"get", newCgroupGet},
		{"stat", newCgroupStat}, {"watch", newCgroupWatch}, {"freeze", newCgroupFreeze}, {"thaw", newCgroupThaw}, {"kill", newCgroupKill},
		{"where", newCgroupWhere},
	})
}

// controlGroup finds a group by its path below the mount points, or by the name of a
// container.
func (a *app) controlGroup(ctx context.Context, word string) (tree.Group, error) {
	l, err := cgroup.Detect()
	if err != nil {
		return tree.Group{}, err
	}
	g, err := tree.Open(l, word)
	if err != nil || strings.HasPrefix(word, "/") || len(g.Dirs()) > 0 {
		return g, err
	}
	e, err := a.engine()
	if err != nil {
		return g, nil
	}
	c, err := e.Container(word)
	if err != nil {
		if errors.Is(err, engine.ErrNoSuchContainer) {
			return g, nil
		}
		return g, err
	}
	return tree.Open(l, c.CgroupPath())
}

// steps shows or does.
func (a *app) steps(list []tree.Step, err error, dryRun, tell bool) error {
	if err != nil {
		return err
	}
	if dryRun || tell {
		for _, s := range list {
			fmt.Fprintln(a.out, s)
		}
	}
	if dryRun {
		return nil
	}
	return tree.Do(list)
}

func dryRunFlag(c *cobra.Command) *bool {
	return c.Flags().Bool("dry-run", false, "print what would be written, and write nothing")
}

type subsystemRow struct{ Subsystem, Version, Mountpoint string }

func newCgroupSubsystems(a *app) *cobra.Command {
	l := listing{table: "{{.Subsystem}}\t{{.Version}}\t{{.Mountpoint}}", headers: headers{"Subsystem": "SUBSYSTEM", "Version": "VERSION", "Mountpoint": "MOUNTPOINT"}}
	c := &cobra.Command{Use: "subsystems [OPTIONS]", Short: "List the controllers, and the hierarchies that have them", Args: noArgs}
	c.Flags().StringVar(&l.format, "format", "", "a Go template, 'table TEMPLATE' or json")
	c.RunE = func(*cobra.Command, []string) error {
		layout, err := cgroup.Detect()
		if err != nil {
			return err
		}
		list, err := tree.Subsystems(layout)
		if err != nil {
			return err
		}
		var rows []any
		for _, s := range list {
			row := subsystemRow{Subsystem: s.Name, Mountpoint: s.Mount}
			if s.Version != 0 {
				row.Version = "v" + strconv.Itoa(s.Version)
			}
			rows = append(rows, row)
		}
		return l.print(a.out, false, rows)
	}
	return c
}

type cgroupRow struct{ Group, Processes, Memory, MemoryMax, Pids, Container string }

func (a *app) rowOfGroup(g tree.Group, names map[string]string) cgroupRow {
	row := cgroupRow{Group: g.Path, Processes: strconv.Itoa(len(g.Processes())), Container: names[g.Path]}
	size := func(name string) string {
		v, _, err := g.Get(name)
		if err != nil {
			return ""
		}
		if n, err := strconv.ParseFloat(v, 64); err == nil {
			return units.BytesSize(n)
		}
		return v
	}
	row.Memory, row.MemoryMax = size("memory.current"), size("memory.max")
	if v, _, err := g.Get("pids.current"); err == nil {
		row.Pids = v
	}
	return row
}

// containerGroups gives the names of containers by the paths of their groups.
func (a *app) containerGroups(ctx context.Context) map[string]string {
	names := map[string]string{}
	e, err := a.engine()
	if err != nil {
		return names
	}
	list, err := e.List(ctx, engine.ListOptions{All: true})
	if err != nil {
		return names
	}
	for _, c := range list {
		names[c.Container.CgroupPath()] = strings.TrimPrefix(c.Container.Name, "/")
	}
	return names
}

func newCgroupLs(a *app) *cobra.Command {
	var quiet bool
	l := listing{table: "{{.Group}}\t{{.Processes}}\t{{.Pids}}\t{{.Memory}}\t{{.MemoryMax}}\t{{.Container}}", quiet: "{{.Group}}",
		headers: headers{"Group": "GROUP", "Processes": "PROCESSES", "Pids": "PIDS", "Memory": "MEMORY", "MemoryMax": "LIMIT", "Container": "CONTAINER"}}
	c := &cobra.Command{ValidArgsFunction: a.groupsAnd(nil), Use: "ls [OPTIONS] [GROUP]", Short: "List a control group, and those directly below it", Args: rangeArgs(0, 1)}
	c.Flags().StringVar(&l.format, "format", "", "a Go template, 'table TEMPLATE' or json")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "only display paths")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		g, err := a.controlGroup(cmd.Context(), append(args, "/")[0])
		if err != nil {
			return err
		}
		children, err := g.Children()
		if err != nil {
			return err
		}
		names := a.containerGroups(cmd.Context())
		rows := []any{a.rowOfGroup(g, names)}
		for _, name := range children {
			rows = append(rows, a.rowOfGroup(tree.Group{Layout: g.Layout, Path: strings.TrimSuffix(g.Path, "/") + "/" + name}, names))
		}
		return l.print(a.out, quiet, rows)
	}
	return c
}

func newCgroupTree(a *app) *cobra.Command {
	var processes bool
	c := &cobra.Command{ValidArgsFunction: a.groupsAnd(nil), Use: "tree [OPTIONS] [GROUP]", Short: "Show control groups with what is below them, with processes, usage and limits", Args: rangeArgs(0, 1)}
	c.Flags().BoolVarP(&processes, "processes", "p", false, "list the processes")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		top, err := a.controlGroup(cmd.Context(), append(args, "/")[0])
		if err != nil {
			return err
		}
		names := a.containerGroups(cmd.Context())
		var show func(g tree.Group, name string, depth int) error
		show = func(g tree.Group, name string, depth int) error {
			row := a.rowOfGroup(g, names)
			line := strings.Repeat("  ", depth) + name
			for _, part := range [][2]string{{"processes ", row.Processes}, {"memory ", row.Memory}, {"of ", row.MemoryMax}, {"container ", row.Container}} {
				if part[1] != "" && part[1] != "0" && (part[0] != "of " || part[1] != "max") {
					line += "  " + part[0] + part[1]
				}
			}
			fmt.Fprintln(a.out, line)
			if processes {
				for _, pid := range g.Processes() {
					comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
					fmt.Fprintf(a.out, "%s- %d %s\n", strings.Repeat("  ", depth+1), pid, printable(strings.TrimSpace(string(comm))))
				}
			}
			children, err := g.Children()
			if errors.Is(err, tree.ErrNone) || errors.Is(err, os.ErrNotExist) {
				return nil // removed meanwhile
			}
			if err != nil {
				return err
			}
			for _, child := range children {
				if err := show(tree.Group{Layout: g.Layout, Path: strings.TrimSuffix(g.Path, "/") + "/" + child}, child, depth+1); err != nil {
					return err
				}
			}
			return nil
		}
		if len(top.Dirs()) == 0 {
			_, err := top.Children()
			return err
		}
		return show(top, top.Path, 0)
	}
	return c
}

func newCgroupMount(a *app) *cobra.Command {
	var options string
	c := &cobra.Command{
		Use: "mount -o OPTIONS DIR", Short: "Mount a v1 hierarchy", Args: exactArgs(1),
		Example: "  viv cgroup mount -o none,name=test ./tree\n  viv cgroup mount -o memory ./memory",
	}
	c.Flags().StringVarP(&options, "options", "o", "", "controllers, or none,name=NAME for a hierarchy without any (cgroups(7))")
	dry := dryRunFlag(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		if options == "" {
			return errors.New("say which controllers, or none,name=NAME, with -o")
		}
		if *dry {
			fmt.Fprintf(a.out, "mount -t cgroup -o %s cgroup %s\n", options, args[0])
			return nil
		}
		if err := unix.Mount("cgroup", args[0], "cgroup", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, options); err != nil {
			return fmt.Errorf("mount a hierarchy with %s on %s: %w", options, args[0], err)
		}
		return nil
	}
	return c
}

func newCgroupCreate(a *app) *cobra.Command {
	var controllers []string
	c := &cobra.Command{ValidArgsFunction: a.groupsAnd(nil), Use: "create [OPTIONS] GROUP", Short: "Make a control group, with those above it", Args: exactArgs(1)}
	c.Flags().StringSliceVarP(&controllers, "controllers", "g", nil, "only for these controllers (memory,cpu,name=NAME)")
	dry := dryRunFlag(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		l, err := cgroup.Detect()
		if err != nil {
			return err
		}
		g, err := tree.Open(l, args[0])
		if err != nil {
			return err
		}
		list, err := g.Create(controllers)
		return a.steps(list, err, *dry, false)
	}
	return c
}

func newCgroupRm(a *app) *cobra.Command {
	var all bool
	c := &cobra.Command{ValidArgsFunction: a.groupsAnd(nil), Use: "rm [OPTIONS] GROUP", Short: "Remove a control group that has no processes", Args: exactArgs(1)}
	c.Flags().BoolVarP(&all, "recursive", "r", false, "with those below it")
	dry := dryRunFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		g, err := a.controlGroup(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		list, err := g.Remove(all)
		return a.steps(list, err, *dry, false)
	}
	return c
}

func newCgroupAttach(a *app) *cobra.Command {
	c := &cobra.Command{ValidArgsFunction: a.groupsAnd(nil), Use: "attach [OPTIONS] GROUP PID [PID...]", Short: "Move processes into a control group", Args: minArgs(2)}
	dry := dryRunFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		g, err := a.controlGroup(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		for _, word := range args[1:] {
			pid, err := strconv.Atoi(word)
			if err != nil || pid < 1 {
				return fmt.Errorf("%q is no process number", word)
			}
			list, err := g.Attach(pid)
			if err := a.steps(list, err, *dry, false); err != nil {
				return err
			}
		}
		return nil
	}
	return c
}

func newCgroupSet(a *app) *cobra.Command {
	c := &cobra.Command{
		ValidArgsFunction: a.groupsAnd(groupFiles("=")),
		Use:               "set [OPTIONS] GROUP NAME=VALUE [NAME=VALUE...]", Short: "Write values of a control group, and tell where", Args: minArgs(2),
		Long: "Write values of a control group, and tell where. Names are those of v2 (memory.max, cpu.max, pids.max, cpu.weight ...), which are\n" +
			"translated where v1 is mounted, or names of files. Sizes may have K, M, G or T behind them.",
		Example: "  viv cgroup set /test memory.max=100M pids.max=50",
	}
	dry := dryRunFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		g, err := a.controlGroup(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		for _, pair := range args[1:] {
			name, value, ok := strings.Cut(pair, "=")
			if !ok {
				return fmt.Errorf("%q: give NAME=VALUE", pair)
			}
			list, err := g.Set(name, value)
			if err := a.steps(list, err, *dry, true); err != nil {
				return err
			}
		}
		return nil
	}
	return c
}

type valueRow struct{ Name, Value, File string }

func newCgroupGet(a *app) *cobra.Command {
	l := listing{table: "{{.Name}}\t{{.Value}}\t{{.File}}", headers: headers{"Name": "NAME", "Value": "VALUE", "File": "FILE"}}
	c := &cobra.Command{ValidArgsFunction: a.groupsAnd(groupFiles("")), Use: "get [OPTIONS] GROUP [NAME...]", Short: "Read values of a control group, by the names that set takes", Args: minArgs(1)}
	c.Flags().StringVar(&l.format, "format", "", "a Go template, 'table TEMPLATE' or json")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		g, err := a.controlGroup(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		names := args[1:]
		if len(names) == 0 {
			names = tree.Names()
		}
		var rows []any
		for _, name := range names {
			value, file, err := g.Get(name)
			if err != nil {
				if len(args) == 1 && !errors.Is(err, tree.ErrNone) {
					continue // not everything is everywhere
				}
				return err
			}
			if len(names) == 1 && l.format == "" {
				fmt.Fprintln(a.out, value)
				return nil
			}
			rows = append(rows, valueRow{name, value, file})
		}
		return l.print(a.out, false, rows)
	}
	return c
}
