package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"vivarium/sandbox/cgroup"
	"vivarium/sandbox/cgroup/handle"
	"vivarium/sandbox/cgroup/tree"
)

type cgroupStat struct {
	CPU, UserCPU, SystemCPU                 string
	Memory, MemoryPeak, MemoryLimit         string
	Anonymous, Cache, Swap                  string
	OOMKills, Pids, PidsLimit               string
	Read, Written                           string
	CPUPressure, MemoryPressure, IOPressure string
}

func bytesOf(n uint64) string { return units.BytesSize(float64(n)) }
func countOf(n uint64) string { return strconv.FormatUint(n, 10) }

func limit(n uint64, show func(uint64) string) string {
	if n == cgroup.NoLimit {
		return "max"
	}
	return show(n)
}

func statOf(g tree.Group) (cgroupStat, error) {
	if len(g.Dirs()) == 0 {
		return cgroupStat{}, fmt.Errorf("control group %s: %w", g.Path, tree.ErrNone)
	}
	s, err := cgroup.ReadStats(g.Layout, g.Path)
	if err != nil {
		return cgroupStat{}, err
	}
	read, written := s.IOBytes()
	out := cgroupStat{CPU: s.CPU.Total.String(), UserCPU: s.CPU.User.String(), SystemCPU: s.CPU.System.String(),
		Memory: bytesOf(s.Memory.Usage), MemoryPeak: bytesOf(s.Memory.Max), MemoryLimit: limit(s.Memory.Limit, bytesOf), Anonymous: bytesOf(s.Memory.RSS), Cache: bytesOf(s.Memory.Cache), Swap: bytesOf(s.Memory.Swap),
		OOMKills: countOf(s.Memory.OOMKills), Pids: countOf(s.Pids.Current), PidsLimit: limit(s.Pids.Limit, countOf), Read: bytesOf(read), Written: bytesOf(written)}
	for _, p := range []struct {
		from *cgroup.Pressure
		to   *string
	}{{s.Pressure.CPU, &out.CPUPressure}, {s.Pressure.Memory, &out.MemoryPressure}, {s.Pressure.IO, &out.IOPressure}} {
		if p.from != nil {
			*p.to = fmt.Sprintf("%.2f%%", p.from.Some.Avg10)
		}
	}
	return out, nil
}

func newCgroupStat(a *app) *cobra.Command {
	var format string
	c := &cobra.Command{ValidArgsFunction: a.groupsAnd(nil), Use: "stat [OPTIONS] GROUP", Short: "Show what a control group uses", Args: exactArgs(1)}
	c.Flags().StringVar(&format, "format", "", "a Go template, or json")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		g, err := a.controlGroup(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		s, err := statOf(g)
		if err != nil {
			return err
		}
		if format == "" {
			format = "cpu        {{.CPU}} (user {{.UserCPU}}, system {{.SystemCPU}})\nmemory     {{.Memory}} of {{.MemoryLimit}}, at most {{.MemoryPeak}}\n" +
				"           anonymous {{.Anonymous}}, cache {{.Cache}}, swap {{.Swap}}\noom kills  {{.OOMKills}}\npids       {{.Pids}} of {{.PidsLimit}}\n" +
				"io         read {{.Read}}, written {{.Written}}{{if .CPUPressure}}\npressure   cpu {{.CPUPressure}}, memory {{.MemoryPressure}}, io {{.IOPressure}} (some, 10 s){{end}}"
		}
		l := listing{format: format}
		return l.print(a.out, false, []any{s})
	}
	return c
}

func newCgroupWatch(a *app) *cobra.Command {
	var interval time.Duration
	var format string
	var count int
	c := &cobra.Command{ValidArgsFunction: a.groupsAnd(nil), Use: "watch [OPTIONS] GROUP", Short: "Show what a control group uses, a line each interval, until it is gone", Args: exactArgs(1)}
	c.Flags().DurationVarP(&interval, "interval", "i", time.Second, "time between the lines")
	c.Flags().IntVarP(&count, "count", "n", 0, "end after so many lines; 0 for never")
	c.Flags().StringVar(&format, "format", "", "a Go template, or json")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if interval < 10*time.Millisecond {
			return fmt.Errorf("--interval %v is shorter than 10ms", interval)
		}
		g, err := a.controlGroup(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if format == "" {
			format = "cpu {{.CPU}}  memory {{.Memory}} of {{.MemoryLimit}}  pids {{.Pids}}  read {{.Read}}  written {{.Written}}  oom kills {{.OOMKills}}" +
				"{{if .CPUPressure}}  pressure {{.CPUPressure}} {{.MemoryPressure}} {{.IOPressure}}{{end}}"
		}
		l := listing{format: format}
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
		defer stop()
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for n := 1; ; n++ {
			s, err := statOf(g)
			if errors.Is(err, tree.ErrNone) && n > 1 || errors.Is(err, cgroup.ErrGone) {
				return nil
			}
			if err != nil {
				return err
			}
			if err := l.print(a.out, false, []any{s}); err != nil {
				return err
			}
			if n == count {
				return nil
			}
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
		}
	}
	return c
}

// onGroup makes a verb that does one thing to a whole group; show says how.
func onGroup(a *app, use, short string, show func(tree.Group) ([]tree.Step, error), do func(handle.Handle) error) *cobra.Command {
	c := &cobra.Command{ValidArgsFunction: a.groupsAnd(nil), Use: use + " [OPTIONS] GROUP", Short: short, Args: exactArgs(1)}
	dry := dryRunFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		g, err := a.controlGroup(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if len(g.Dirs()) == 0 {
			return fmt.Errorf("control group %s: %w", g.Path, tree.ErrNone)
		}
		if g.Path == "/" {
			return errors.New("not to the root group: it has everything")
		}
		if *dry {
			list, err := show(g)
			return a.steps(list, err, true, false)
		}
		h, err := g.Layout.Handle(g.Path)
		if err != nil {
			return err
		}
		return do(h)
	}
	return c
}

// groupTimeout bounds how long the processes of a group may take to stop or to end.
const groupTimeout = 10 * time.Second

func newCgroupFreeze(a *app) *cobra.Command {
	return onGroup(a, "freeze", "Stop all processes of a control group, and of those below it",
		func(g tree.Group) ([]tree.Step, error) { return g.Freeze(true) },
		func(h handle.Handle) error { return h.Freeze(groupTimeout) })
}

func newCgroupThaw(a *app) *cobra.Command {
	return onGroup(a, "thaw", "Let the processes of a frozen control group go on",
		func(g tree.Group) ([]tree.Step, error) { return g.Freeze(false) }, handle.Handle.Thaw)
}

func newCgroupKill(a *app) *cobra.Command {
	return onGroup(a, "kill", "Kill all processes of a control group, and of those below it", tree.Group.Kill,
		func(h handle.Handle) error { return h.Kill(groupTimeout) })
}

func newCgroupWhere(a *app) *cobra.Command {
	l := listing{table: "{{.Subsystem}}\t{{.Group}}", headers: headers{"Subsystem": "SUBSYSTEM", "Group": "GROUP"}}
	c := &cobra.Command{ValidArgsFunction: a.runningContainers(1), Use: "where [OPTIONS] PID", Short: "Show in which control groups a process is, or a container", Args: exactArgs(1)}
	c.Flags().StringVar(&l.format, "format", "", "a Go template, 'table TEMPLATE' or json")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		pid, err := a.process(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		list, err := tree.Where(pid)
		if err != nil {
			return err
		}
		var rows []any
		for _, m := range list {
			if m.Controllers == "" {
				m.Controllers = "-"
			}
			rows = append(rows, struct{ Subsystem, Group string }{m.Controllers, m.Path})
		}
		return l.print(a.out, false, rows)
	}
	return c
}
