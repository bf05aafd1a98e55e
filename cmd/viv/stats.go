package main

import (
	"fmt"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"vivarium/engine"
)

const statsTable = "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}"

var statsHeaders = headers{
	"ID": "CONTAINER ID", "Container": "CONTAINER", "Name": "NAME", "CPUPerc": "CPU %", "MemUsage": "MEM USAGE / LIMIT",
	"MemPerc": "MEM %", "NetIO": "NET I/O", "BlockIO": "BLOCK I/O", "PIDs": "PIDS",
}

type statsRow struct {
	BlockIO, CPUPerc, Container, ID, MemPerc, MemUsage, Name, NetIO, PIDs string
}

func newStats(a *app) *cobra.Command {
	var all, noStream, noTrunc bool
	l := listing{table: statsTable, headers: statsHeaders}
	c := &cobra.Command{Use: "stats [OPTIONS] [CONTAINER...]", Short: "Display a live stream of container(s) resource usage statistics"}
	fs := c.Flags()
	fs.BoolVarP(&all, "all", "a", false, "show all containers (default shows just running)")
	fs.StringVar(&l.format, "format", "", "a Go template, 'table TEMPLATE' or json")
	fs.BoolVar(&noStream, "no-stream", false, "only pull the first result")
	fs.BoolVar(&noTrunc, "no-trunc", false, "do not truncate output")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		e, err := a.engine()
		if err != nil {
			return err
		}
		return e.Stats(cmd.Context(), args, all, !noStream, func(samples []engine.Sample) error {
			rows := make([]any, len(samples))
			for i := range samples {
				rows[i] = statsRowOf(&samples[i], noTrunc)
			}
			if !noStream {
				fmt.Fprint(a.out, "\x1b[H\x1b[2J") // home, clear
			}
			return l.print(a.out, false, rows)
		})
	}
	return c
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
		return r
	}
	r.CPUPerc = fmt.Sprintf("%.2f%%", s.CPUPercent)
	r.MemUsage = units.BytesSize(float64(s.Memory)) + " / " + units.BytesSize(float64(s.MemoryLimit))
	if s.MemoryLimit > 0 {
		r.MemPerc = fmt.Sprintf("%.2f%%", float64(s.Memory)/float64(s.MemoryLimit)*100)
	}
	size := func(n uint64) string { return units.HumanSizeWithPrecision(float64(n), 3) }
	r.NetIO = size(s.NetRx) + " / " + size(s.NetTx)
	r.BlockIO = size(s.BlockRead) + " / " + size(s.BlockWrite)
	r.PIDs = fmt.Sprint(s.Pids)
	return r
}
