package engine

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"vivarium/monitor/wire"
	"vivarium/sandbox/cgroup"
)

// Sample is what a container uses at one moment.
type Sample struct {
	ID, Name  string
	Ref       string // how the caller named it, or its ID
	Time      time.Time
	CPU       time.Duration // used so far
	SystemCPU time.Duration // used by the whole machine so far, idle time included
	CPUs      int

	Memory, MemoryLimit   uint64 // bytes, without the reclaimable page cache
	NetRx, NetTx          uint64
	BlockRead, BlockWrite uint64
	Pids, PidsLimit       uint64

	Figures cgroup.Stats // all that its control groups tell

	CPUPercent float64 // of one CPU, since the sample before
}

// Stats calls fn once a second (once, if not stream) with a sample of each
// container that runs: those of refs, or with none of all. Containers that come
// later are shown too if there are no refs.
func (e *Engine) Stats(ctx context.Context, refs []string, all, stream bool, fn func([]Sample) error) error {
	prev := map[string]Sample{}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for round := 0; ; round++ {
		cs, err := e.statsTargets(refs)
		if err != nil {
			return err
		}
		now, err := e.sampleAll(ctx, cs, all || len(refs) > 0, prev)
		if err != nil {
			return err
		}
		for i := range now {
			now[i].Ref = now[i].ID
			if at := slices.IndexFunc(cs, func(c *Container) bool { return c.ID == now[i].ID }); len(refs) > 0 {
				now[i].Ref = refs[at]
			}
		}
		// The first round has nothing to compare with; a person is shown it all the
		// same, and one who asked for a single figure gets the second.
		if stream || round > 0 {
			if err := fn(now); err != nil || !stream {
				return err
			}
		}
		for _, s := range now {
			prev[s.ID] = s
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (e *Engine) statsTargets(refs []string) ([]*Container, error) {
	if len(refs) == 0 {
		cs, err := e.all()
		slices.SortFunc(cs, func(a, b *Container) int { return b.Created.Compare(a.Created) })
		return cs, err
	}
	var cs []*Container
	for _, ref := range refs {
		c, err := e.Container(ref)
		if err != nil {
			return nil, err
		}
		cs = append(cs, c)
	}
	return cs, nil
}

func (e *Engine) sampleAll(ctx context.Context, cs []*Container, stopped bool, prev map[string]Sample) ([]Sample, error) {
	var list []Sample
	for _, c := range cs {
		st, err := e.state(ctx, c)
		if err != nil {
			return nil, err
		}
		if !running(st) {
			if stopped {
				list = append(list, Sample{ID: c.ID, Name: c.Name, Time: time.Now()})
			}
			continue
		}
		s, err := e.sample(c, st)
		if err != nil {
			if _, running := e.stillRunning(ctx, c); !running {
				continue
			}
			return nil, err
		}
		if p, ok := prev[c.ID]; ok {
			s.CPUPercent = cpuPercent(p, s)
		}
		list = append(list, s)
	}
	return list, nil
}

func (e *Engine) stillRunning(ctx context.Context, c *Container) (wire.Status, bool) {
	st, err := e.state(ctx, c)
	return st, err == nil && running(st)
}

// cpuPercent is Docker's figure: the share of the machine's time, times its CPUs.
func cpuPercent(a, b Sample) float64 {
	cpu, sys := b.CPU-a.CPU, b.SystemCPU-a.SystemCPU
	if cpu <= 0 || sys <= 0 {
		return 0
	}
	return float64(cpu) / float64(sys) * float64(b.CPUs) * 100
}

func (e *Engine) sample(c *Container, st wire.Status) (Sample, error) {
	s := Sample{ID: c.ID, Name: c.Name, Time: time.Now(), CPUs: runtime.NumCPU()}
	l, err := hostLayout()
	if err != nil {
		return s, err
	}
	u, err := cgroup.ReadStats(*l, c.CgroupPath())
	if err != nil {
		return s, fmt.Errorf("read the figures of container %s: %w", c.Name, err)
	}
	s.Figures = u
	s.CPU, s.Memory, s.MemoryLimit = u.CPU.Total, u.Memory.WorkingSet(), u.Memory.Limit
	s.BlockRead, s.BlockWrite = u.IOBytes()
	s.Pids = u.Pids.Current
	if u.Pids.Limit != cgroup.NoLimit {
		s.PidsLimit = u.Pids.Limit
	}
	if total := memTotal(); s.MemoryLimit == 0 || s.MemoryLimit > total {
		s.MemoryLimit = total
	}
	if s.SystemCPU, err = systemCPU(); err != nil {
		return s, err
	}
	if c.networkMode() != "host" {
		s.NetRx, s.NetTx = networkBytes(st.Pid)
	}
	return s, nil
}

// systemCPU adds up the first line of /proc/stat, guest time left out: it is in
// user time already (proc_stat(5)).
func systemCPU() (time.Duration, error) {
	f, err := os.Open("/proc/stat")
	if err != nil {
		return 0, fmt.Errorf("read the machine's CPU time: %w", err)
	}
	defer f.Close()
	line, err := bufio.NewReader(f).ReadString('\n')
	if err != nil {
		return 0, fmt.Errorf("read the machine's CPU time: %w", err)
	}
	var ticks uint64
	for i, field := range strings.Fields(line) {
		if i == 0 || i > 8 {
			continue
		}
		n, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read the machine's CPU time: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * (time.Second / clockTicks), nil
}

func memTotal() uint64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			n, _ := strconv.ParseUint(strings.Fields(rest)[0], 10, 64)
			return n * 1024
		}
	}
	return 0
}

// networkBytes adds up the interfaces of the process's network namespace, without lo.
func networkBytes(pid int) (rx, tx uint64) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", pid))
	if err != nil {
		return 0, 0
	}
	return parseNetDev(b)
}

func parseNetDev(b []byte) (rx, tx uint64) {
	for line := range bytes.Lines(b) {
		name, rest, ok := bytes.Cut(line, []byte(":"))
		if !ok || string(bytes.TrimSpace(name)) == "lo" {
			continue
		}
		f := bytes.Fields(rest)
		if len(f) < 9 {
			continue
		}
		r, _ := strconv.ParseUint(string(f[0]), 10, 64)
		t, _ := strconv.ParseUint(string(f[8]), 10, 64)
		rx, tx = rx+r, tx+t
	}
	return rx, tx
}
