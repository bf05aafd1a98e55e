package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// limits collects the flags of update: what is not given stays as it is.
type limits struct{ res specs.LinuxResources }

func (l *limits) cpu() *specs.LinuxCPU {
	if l.res.CPU == nil {
		l.res.CPU = &specs.LinuxCPU{}
	}
	return l.res.CPU
}

func (l *limits) memory() *specs.LinuxMemory {
	if l.res.Memory == nil {
		l.res.Memory = &specs.LinuxMemory{}
	}
	return l.res.Memory
}

func unsigned(to func() **uint64) func(string) error {
	return func(s string) error {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			return errors.New("parse error")
		}
		*to() = &n
		return nil
	}
}

func signed(to func() **int64) func(string) error {
	return func(s string) error {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return errors.New("parse error")
		}
		*to() = &n
		return nil
	}
}

// size reads bytes, with a unit k, m, g or t (of 1024) behind; -1 for no limit.
func size(to func() **int64) func(string) error {
	return func(s string) error {
		shift := 0
		digits := s
		if s != "" && s[len(s)-1] == 'b' || s != "" && s[len(s)-1] == 'B' {
			digits = s[:len(s)-1]
		}
		if digits != "" {
			for i, unit := range "kmgt" {
				if last := digits[len(digits)-1] | 0x20; rune(last) == unit {
					shift, digits = 10*(i+1), digits[:len(digits)-1]
					break
				}
			}
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || n < -1 || n > 1<<62>>shift {
			return errors.New("parse error")
		}
		n <<= shift
		*to() = &n
		return nil
	}
}

func value(name, help string, set func(string) error) option {
	return option{name: name, help: help, set: set}
}

func (l *limits) options() []option {
	return []option{
		value("blkio-weight", "per cgroup weight, from 10 to 1000", func(s string) error {
			n, err := strconv.ParseUint(s, 10, 16)
			if err != nil {
				return errors.New("parse error")
			}
			w := uint16(n)
			l.res.BlockIO = &specs.LinuxBlockIO{Weight: &w}
			return nil
		}),
		value("cpu-period", "CPU CFS period (in usecs)", unsigned(func() **uint64 { return &l.cpu().Period })),
		value("cpu-quota", "CPU CFS hardcap limit (in usecs) in a period", signed(func() **int64 { return &l.cpu().Quota })),
		value("cpu-burst", "CPU CFS burst (in usecs)", unsigned(func() **uint64 { return &l.cpu().Burst })),
		value("cpu-share", "CPU shares (relative weight vs. other containers)", unsigned(func() **uint64 { return &l.cpu().Shares })),
		value("cpu-shares", "the same", unsigned(func() **uint64 { return &l.cpu().Shares })),
		value("cpu-rt-period", "CPU realtime period (in usecs)", unsigned(func() **uint64 { return &l.cpu().RealtimePeriod })),
		value("cpu-rt-runtime", "CPU realtime hardcap limit (in usecs)", signed(func() **int64 { return &l.cpu().RealtimeRuntime })),
		value("cpu-idle", "1 to run only when nothing else does", signed(func() **int64 { return &l.cpu().Idle })),
		value("cpuset-cpus", "CPU(s) to use", func(s string) error { l.cpu().Cpus = s; return nil }),
		value("cpuset-mems", "memory node(s) to use", func(s string) error { l.cpu().Mems = s; return nil }),
		value("memory", "memory limit (in bytes)", size(func() **int64 { return &l.memory().Limit })),
		value("memory-reservation", "memory reservation or soft limit (in bytes)", size(func() **int64 { return &l.memory().Reservation })),
		value("memory-swap", "memory and swap together; -1 for no limit", size(func() **int64 { return &l.memory().Swap })),
		value("pids-limit", "how many processes and threads", func(s string) error {
			n, err := strconv.ParseInt(s, 10, 64)
			if err != nil {
				return errors.New("parse error")
			}
			l.res.Pids = &specs.LinuxPids{Limit: &n}
			return nil
		}),
	}
}

func (a *app) update() *command {
	var l limits
	var file, cache, bandwidth string
	return &command{
		args: "<container-id>", about: "update container resource constraints", min: 1, max: 1,
		options: append(l.options(),
			text("resources", "r", &file, "file with the resources to update, or - for standard input; all other options are ignored then"),
			text("l3-cache-schema", "", &cache, "Intel RDT/CAT L3 cache schema (not supported)"),
			text("mem-bw-schema", "", &bandwidth, "Intel RDT/MBA memory bandwidth schema (not supported)"),
		),
		run: func(args []string) (int, error) {
			if cache+bandwidth != "" {
				return 0, errors.New("resources of Intel RDT are not supported: leave out --l3-cache-schema and --mem-bw-schema")
			}
			if file != "" {
				if err := readResources(file, &l.res); err != nil {
					return 0, err
				}
			}
			return 0, a.runtime.Update(args[0], &l.res)
		},
	}
}

func readResources(file string, res *specs.LinuxResources) error {
	in := io.Reader(os.Stdin)
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return fmt.Errorf("read the resources: %w", err)
		}
		defer f.Close()
		in = f
	}
	*res = specs.LinuxResources{}
	if err := json.NewDecoder(in).Decode(res); err != nil {
		return fmt.Errorf("read the resources: %w", err)
	}
	return nil
}
