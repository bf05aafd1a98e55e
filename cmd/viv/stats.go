package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"vivarium/engine"
	"vivarium/sandbox/cgroup"
)

const statsTable = "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}"

var statsHeaders = headers{
	"ID": "CONTAINER ID", "Container": "CONTAINER", "Name": "NAME", "CPUPerc": "CPU %", "MemUsage": "MEM USAGE / LIMIT",
	"CPUTime": "CPU USER / SYSTEM", "Throttled": "THROTTLED", "MemAnon": "ANON", "MemCache": "CACHE", "Swap": "SWAP", "OOMKills": "OOM KILLS",
	"Pressure": "PRESSURE CPU / MEM / IO", "MemPerc": "MEM %", "NetIO": "NET I/O", "BlockIO": "BLOCK I/O", "PIDs": "PIDS",
}

// statsDetails is the table of --details, which Docker has not: what the memory is
// used for, and how often and how long there was too little of something.
const statsDetails = "{{.Name}}\t{{.CPUTime}}\t{{.Throttled}}\t{{.MemUsage}}\t{{.MemAnon}}\t{{.MemCache}}\t{{.Swap}}\t{{.OOMKills}}\t{{.PIDs}}\t{{.Pressure}}"

type statsRow struct {
	BlockIO, CPUPerc, Container, ID, MemPerc, MemUsage, Name, NetIO, PIDs string
	// Of --details, and for templates.
	CPUTime   string // user / system
	Throttled string // periods in which the quota was used up
	MemAnon   string // of the usage, what is in no file
	MemCache  string // of the usage, pages of files
	Swap      string
	OOMKills  string
	Pressure  string // CPU / memory / I/O: of the last ten seconds, how long some had to wait
}

func newStats(a *app) *cobra.Command {
	var all, noStream, noTrunc, details bool
	l := listing{table: statsTable, headers: statsHeaders}
	c := &cobra.Command{Use: "stats [OPTIONS] [CONTAINER...]", Short: "Display a live stream of container(s) resource usage statistics"}
	fs := c.Flags()
	fs.BoolVarP(&all, "all", "a", false, "show all containers (default shows just running)")
	fs.StringVar(&l.format, "format", "", "a Go template, 'table TEMPLATE' or json")
	fs.BoolVar(&noStream, "no-stream", false, "only pull the first result")
	fs.BoolVar(&noTrunc, "no-trunc", false, "do not truncate output")
	fs.BoolVar(&details, "details", false, "show what memory is used for, OOM kills, throttling and pressure")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		e, err := a.engine()
		if err != nil {
			return err
		}
		if details {
			l.table = statsDetails
		}
		return e.Stats(cmd.Context(), args, all, !noStream, a.samplePrinter(l, !noStream, noTrunc))
	}
	return c
}

// samplePrinter prints samples: on a terminal over the last ones, if they go on.
func (a *app) samplePrinter(l listing, stream, noTrunc bool) func([]engine.Sample) error {
	redraw := stream && term.IsTerminal(int(a.out.Fd()))
	return func(samples []engine.Sample) error {
		rows := make([]any, len(samples))
		for i := range samples {
			rows[i] = statsRowOf(&samples[i], noTrunc)
		}
		if redraw {
			fmt.Fprint(a.out, "\x1b[H\x1b[2J") // home, clear
		}
		return l.print(a.out, false, rows)
	}
}

// topTable is the table of top without a container: all that control groups tell.
const topTable = "{{.Name}}\t{{.CPUPerc}}\t{{.CPUTime}}\t{{.MemUsage}}\t{{.MemAnon}}\t{{.MemCache}}\t{{.Swap}}\t{{.BlockIO}}\t{{.PIDs}}\t{{.OOMKills}}\t{{.Pressure}}"

// topOfAll shows what all running containers use, who uses most of the processors first.
func (a *app) topOfAll(ctx context.Context, format string, noStream bool) error {
	e, err := a.engine()
	if err != nil {
		return err
	}
	show := a.samplePrinter(listing{table: topTable, headers: statsHeaders, format: format}, !noStream, false)
	return e.Stats(ctx, nil, false, !noStream, func(samples []engine.Sample) error {
		slices.SortStableFunc(samples, func(a, b engine.Sample) int { return cmp.Compare(b.CPUPercent, a.CPUPercent) })
		return show(samples)
	})
}

func statsRowOf(s *engine.Sample, noTrunc bool) statsRow {
	r := statsRow{ID: s.ID, Container: s.Ref, Name: s.Name}
	if !noTrunc {
		r.ID = s.ID[:12]
		if s.Ref == s.ID {
			r.Container = r.ID
		}
	}
	if s.CPUs == 0 { // it does not run
		r.CPUPerc, r.MemUsage, r.MemPerc, r.NetIO, r.BlockIO, r.PIDs = "--", "-- / --", "--", "--", "--", "--"
		r.CPUTime, r.Throttled, r.MemAnon, r.MemCache, r.Swap, r.OOMKills, r.Pressure = "--", "--", "--", "--", "--", "--", "--"
		return r
	}
	r.addDetails(&s.Figures)
	r.CPUPerc = fmt.Sprintf("%.2f%%", s.CPUPercent)
	r.MemUsage = bytesOf(s.Memory) + " / " + bytesOf(s.MemoryLimit)
	if s.MemoryLimit > 0 {
		r.MemPerc = fmt.Sprintf("%.2f%%", float64(s.Memory)/float64(s.MemoryLimit)*100)
	}
	size := func(n uint64) string { return units.HumanSizeWithPrecision(float64(n), 3) }
	r.NetIO = size(s.NetRx) + " / " + size(s.NetTx)
	r.BlockIO = size(s.BlockRead) + " / " + size(s.BlockWrite)
	r.PIDs = fmt.Sprint(s.Pids)
	return r
}

func (r *statsRow) addDetails(f *cgroup.Stats) {
	r.CPUTime = f.CPU.User.Round(time.Millisecond).String() + " / " + f.CPU.System.Round(time.Millisecond).String()
	r.Throttled, r.OOMKills = countOf(f.CPU.Throttled), countOf(f.Memory.OOMKills)
	r.MemAnon, r.MemCache, r.Swap = bytesOf(f.Memory.RSS), bytesOf(f.Memory.Cache), bytesOf(f.Memory.Swap)
	r.Pressure = some(f.Pressure.CPU) + " / " + some(f.Pressure.Memory) + " / " + some(f.Pressure.IO)
}

// some is the share of the last ten seconds in which somebody waited; v1 tells nothing.
func some(p *cgroup.Pressure) string {
	if p == nil {
		return "--"
	}
	return fmt.Sprintf("%.2f%%", p.Some.Avg10)
}
