package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"vivarium/bundle"
	"vivarium/engine"
)

func newUpdate(a *app) *cobra.Command {
	u := updateCommand{}
	c := &cobra.Command{Use: "update [OPTIONS] CONTAINER [CONTAINER...]", Short: "Update configuration of one or more containers"}
	u.define(c.Flags())
	return eachContainer(a, c, func(ctx context.Context, e *engine.Engine, ref string) error {
		o, err := u.options()
		if err != nil {
			return err
		}
		warnings, err := e.Update(ctx, ref, o)
		a.warn(warnings)
		return err
	})
}

// updateCommand holds the flags of update; only those that were given change something.
type updateCommand struct {
	fs                                     *pflag.FlagSet
	memory, reservation, swap              sizeFlag
	cpus, restart                          string
	shares, period, quota, rtPeriod, rtRun int64
	cpusetCpus, cpusetMems                 string
	pids                                   int64
	blkio                                  uint16
}

func (u *updateCommand) define(fs *pflag.FlagSet) {
	u.fs = fs
	u.swap.parse = bundle.ParseMemorySwap
	fs.VarP(&u.memory, "memory", "m", "memory limit")
	fs.Var(&u.reservation, "memory-reservation", "memory soft limit")
	fs.Var(&u.swap, "memory-swap", "limit of memory and swap together; -1: unlimited swap")
	fs.StringVar(&u.cpus, "cpus", "", "number of CPUs")
	fs.Int64VarP(&u.shares, "cpu-shares", "c", 0, "CPU shares (relative weight)")
	fs.Int64Var(&u.period, "cpu-period", 0, "period of the CPU quota in microseconds")
	fs.Int64Var(&u.quota, "cpu-quota", 0, "CPU time in each period in microseconds")
	fs.Int64Var(&u.rtPeriod, "cpu-rt-period", 0, "period of real-time scheduling in microseconds")
	fs.Int64Var(&u.rtRun, "cpu-rt-runtime", 0, "real-time CPU time in each period in microseconds")
	fs.StringVar(&u.cpusetCpus, "cpuset-cpus", "", "CPUs to run on, as 0-3 or 0,1")
	fs.StringVar(&u.cpusetMems, "cpuset-mems", "", "memory nodes to use, as 0-3 or 0,1")
	fs.Int64Var(&u.pids, "pids-limit", 0, "number of processes; -1: unlimited")
	fs.Uint16Var(&u.blkio, "blkio-weight", 0, "block I/O weight, 10 to 1000")
	fs.StringVar(&u.restart, "restart", "", "when to restart: no, always, on-failure[:N], unless-stopped")
}

func (u *updateCommand) options() (engine.UpdateOptions, error) {
	var o engine.UpdateOptions
	if u.fs.NFlag() == 0 {
		return o, errors.New("you must provide one or more flags when using this command")
	}
	if u.fs.Changed("restart") {
		p, err := bundle.ParseRestartPolicy(u.restart)
		if err != nil {
			return o, err
		}
		o.Restart = &p
		if u.fs.NFlag() == 1 {
			return o, nil
		}
	}
	var nano int64
	if u.cpus != "" {
		var err error
		if nano, err = bundle.ParseCPUs(u.cpus); err != nil {
			return o, err
		}
	}
	o.Change = func(r *bundle.Resources) { u.change(r, nano) }
	return o, nil
}

func (u *updateCommand) change(r *bundle.Resources, nano int64) {
	set := u.fs.Changed
	for name, v := range map[string]struct{ to, from *int64 }{
		"memory": {&r.Memory, &u.memory.n}, "memory-reservation": {&r.MemoryReservation, &u.reservation.n},
		"memory-swap": {&r.MemorySwap, &u.swap.n}, "cpus": {&r.NanoCpus, &nano}, "cpu-shares": {&r.CpuShares, &u.shares},
		"cpu-period": {&r.CpuPeriod, &u.period}, "cpu-quota": {&r.CpuQuota, &u.quota},
		"cpu-rt-period": {&r.CpuRealtimePeriod, &u.rtPeriod}, "cpu-rt-runtime": {&r.CpuRealtimeRuntime, &u.rtRun},
	} {
		if set(name) {
			*v.to = *v.from
		}
	}
	// A limit that is raised over the old limit of memory and swap takes that along,
	// as when the container was made.
	if set("memory") && !set("memory-swap") && r.MemorySwap > 0 && r.MemorySwap < r.Memory {
		r.MemorySwap = 2 * r.Memory
	}
	if set("cpuset-cpus") {
		r.CpusetCpus = u.cpusetCpus
	}
	if set("cpuset-mems") {
		r.CpusetMems = u.cpusetMems
	}
	if set("pids-limit") {
		n := u.pids
		r.PidsLimit = &n
	}
	if set("blkio-weight") {
		r.BlkioWeight = u.blkio
	}
}
