package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vivarium/sandbox/cgroup"
	"vivarium/sandbox/state"
)

// event is one line of events.
type event struct {
	Type string `json:"type"`
	ID   string `json:"id"`
	Data any    `json:"data,omitempty"`
}

// The figures have the names that runc gives them (its package types).
type figures struct {
	CPU     cpuFigures         `json:"cpu"`
	CPUSet  map[string]any     `json:"cpuset"`
	Memory  memoryFigures      `json:"memory"`
	Pids    pidsFigures        `json:"pids"`
	Blkio   blkioFigures       `json:"blkio"`
	Hugetlb map[string]hugetlb `json:"hugetlb"`
	RDT     struct{}           `json:"intel_rdt"`
	Network []struct{}         `json:"network_interfaces"`
}

type cpuFigures struct {
	Usage struct {
		Total        uint64   `json:"total,omitempty"`
		Percpu       []uint64 `json:"percpu,omitempty"`
		PercpuKernel []uint64 `json:"percpu_kernel,omitempty"`
		PercpuUser   []uint64 `json:"percpu_user,omitempty"`
		Kernel       uint64   `json:"kernel"`
		User         uint64   `json:"user"`
	} `json:"usage"`
	Throttling struct {
		Periods   uint64 `json:"periods,omitempty"`
		Throttled uint64 `json:"throttledPeriods,omitempty"`
		Time      uint64 `json:"throttledTime,omitempty"`
	} `json:"throttling"`
	PSI *psi `json:"psi,omitempty"`
}

type memoryEntry struct {
	Limit   uint64 `json:"limit"`
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

type memoryFigures struct {
	Cache     uint64            `json:"cache,omitempty"`
	Usage     memoryEntry       `json:"usage"`
	Swap      memoryEntry       `json:"swap"`
	Kernel    memoryEntry       `json:"kernel"`
	KernelTCP memoryEntry       `json:"kernelTCP"`
	Raw       map[string]uint64 `json:"raw,omitempty"`
	PSI       *psi              `json:"psi,omitempty"`
}

type pidsFigures struct {
	Current uint64 `json:"current,omitempty"`
	Limit   uint64 `json:"limit,omitempty"`
}

type blkioFigures struct {
	Bytes    []blkioEntry `json:"ioServiceBytesRecursive,omitempty"`
	Serviced []blkioEntry `json:"ioServicedRecursive,omitempty"`
	PSI      *psi         `json:"psi,omitempty"`
}

type blkioEntry struct {
	Major uint64 `json:"major,omitempty"`
	Minor uint64 `json:"minor,omitempty"`
	Op    string `json:"op,omitempty"`
	Value uint64 `json:"value,omitempty"`
}

type hugetlb struct {
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

type psi struct {
	Some psiLine `json:"some"`
	Full psiLine `json:"full"`
}

type psiLine struct {
	Avg10  float64 `json:"avg10"`
	Avg60  float64 `json:"avg60"`
	Avg300 float64 `json:"avg300"`
	Total  uint64  `json:"total"` // microseconds
}

func (a *app) events() *command {
	var once bool
	interval := 5 * time.Second
	return &command{
		args: "<container-id>", about: "display container events such as OOM notifications, cpu, memory, and IO usage statistics", min: 1, max: 1,
		options: []option{
			value("interval", "how often figures are shown (default: 5s)", func(s string) error {
				d, err := time.ParseDuration(s)
				if err != nil {
					return errors.New("parse error")
				}
				interval = d
				return nil
			}),
			flag("stats", "", &once, "display the container's figures once"),
		},
		run: func(args []string) (int, error) {
			if interval <= 0 {
				return 0, errors.New("duration interval must be greater than 0")
			}
			return 0, a.watch(args[0], once, interval)
		},
	}
}

// watch prints the figures, once, or again and again with the container's OOM
// kills between them, until it ends.
func (a *app) watch(id string, once bool, interval time.Duration) error {
	path, groups, status, err := a.runtime.Groups(id)
	if err != nil {
		return err
	}
	if status == state.Stopped {
		return fmt.Errorf("container with id %s is not running", id)
	}
	// A user who may make no groups has none, and nothing is counted: as with runc.
	uncounted := groups.Unified == "" && len(groups.V1) == 0
	layout, err := cgroup.Detect()
	if err != nil {
		return err
	}
	if uncounted {
		layout = cgroup.Layout{}
	}
	out := json.NewEncoder(os.Stdout)
	show := func() error {
		f, err := newFigures(), error(nil)
		if !uncounted {
			f, err = readFigures(layout, path)
		}
		if err != nil {
			return err
		}
		return out.Encode(event{"stats", id, f})
	}
	if once {
		return show()
	}
	return a.stream(id, path, layout, interval, out, show)
}

func (a *app) stream(id, path string, layout cgroup.Layout, interval time.Duration, out *json.Encoder, show func() error) error {
	i, err := a.runtime.State(id)
	if err != nil {
		return err
	}
	first, err := unix.PidfdOpen(i.Pid, 0)
	if err != nil {
		return fmt.Errorf("open the first process of container %s: %w", id, err)
	}
	defer unix.Close(first)
	oom, err := watchOOM(layout, path)
	if err != nil {
		return err
	}
	defer oom.close()
	for next := time.Now().Add(interval); ; {
		set := []unix.PollFd{{Fd: int32(first), Events: unix.POLLIN}, {Fd: int32(oom.fd), Events: unix.POLLIN}}
		n, err := unix.Poll(set, int(max(time.Until(next), 0)/time.Millisecond)+1)
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("wait for events of container %s: %w", id, err)
		}
		if n > 0 && set[1].Revents != 0 {
			for range oom.count() {
				if err := out.Encode(event{Type: "oom", ID: id}); err != nil {
					return err
				}
			}
		}
		if n > 0 && set[0].Revents != 0 {
			return nil
		}
		if !time.Now().Before(next) {
			if err := show(); err != nil && !errors.Is(err, cgroup.ErrGone) {
				return err
			}
			next = time.Now().Add(interval)
		}
	}
}

// oomWatch is a descriptor that can be read when a process was killed for want
// of memory. fd is -1 where nothing tells of it: poll(2) passes over that.
type oomWatch struct {
	fd   int
	last uint64
	file string // v2: memory.events
}

func watchOOM(layout cgroup.Layout, path string) (*oomWatch, error) {
	w, err := layout.OOMWatch(path)
	o := &oomWatch{fd: -1, file: w.Inotify}
	if err != nil {
		return nil, err
	}
	switch {
	case w.Inotify != "":
		o.last = keyed(w.Inotify)["oom_kill"]
		if o.fd, err = unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK); err == nil {
			_, err = unix.InotifyAddWatch(o.fd, w.Inotify, unix.IN_MODIFY)
		}
	case w.OOMControl != "":
		err = o.register(w)
	}
	if err != nil {
		o.close()
		return nil, fmt.Errorf("watch for OOM kills: %w", err)
	}
	return o, nil
}

// register asks a v1 group to count OOMs in an eventfd (cgroup-v1/memory.rst).
func (o *oomWatch) register(w cgroup.OOMWatch) error {
	control, err := unix.Open(w.OOMControl, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(control)
	if o.fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return err
	}
	return os.WriteFile(w.EventControl, fmt.Appendf(nil, "%d %d", o.fd, control), 0)
}

// count gives how many there were since it was asked last.
func (o *oomWatch) count() uint64 {
	var b [4096]byte
	n, err := unix.Read(o.fd, b[:])
	if o.file != "" {
		now := keyed(o.file)["oom_kill"]
		more := now - o.last
		o.last = now
		return more
	}
	if err != nil || n != 8 {
		return 0
	}
	var v uint64
	for i := range 8 {
		v |= uint64(b[i]) << (8 * i)
	}
	return v
}

func (o *oomWatch) close() {
	if o.fd >= 0 {
		unix.Close(o.fd)
	}
}

func newFigures() *figures {
	return &figures{CPUSet: map[string]any{}, Hugetlb: map[string]hugetlb{}}
}

// readFigures reads everything that the kernel tells of a container.
func readFigures(layout cgroup.Layout, path string) (*figures, error) {
	s, err := cgroup.ReadStats(layout, path)
	if err != nil {
		return nil, err
	}
	f := newFigures()
	f.CPU.Usage.Total, f.CPU.Usage.Kernel, f.CPU.Usage.User = uint64(s.CPU.Total), uint64(s.CPU.System), uint64(s.CPU.User)
	f.CPU.Throttling.Periods, f.CPU.Throttling.Throttled, f.CPU.Throttling.Time = s.CPU.Periods, s.CPU.Throttled, uint64(s.CPU.ThrottledTime)
	f.Pids.Current = s.Pids.Current
	if s.Pids.Limit != cgroup.NoLimit {
		f.Pids.Limit = s.Pids.Limit
	}
	for _, d := range s.IO {
		f.Blkio.Bytes = append(f.Blkio.Bytes, blkioEntry{d.Major, d.Minor, "Read", d.ReadBytes}, blkioEntry{d.Major, d.Minor, "Write", d.WriteBytes})
		f.Blkio.Serviced = append(f.Blkio.Serviced, blkioEntry{d.Major, d.Minor, "Read", d.Reads}, blkioEntry{d.Major, d.Minor, "Write", d.Writes})
	}
	f.CPU.PSI, f.Memory.PSI, f.Blkio.PSI = pressure(s.Pressure.CPU), pressure(s.Pressure.Memory), pressure(s.Pressure.IO)
	dir, v2 := groupOf(layout, path, "memory")
	f.memory(dir, v2, s.Memory)
	if dir, v2 := groupOf(layout, path, "cpuacct"); dir != "" && !v2 {
		f.CPU.perCPU(dir)
	}
	f.cpuset(groupOf(layout, path, "cpuset"))
	f.huge(groupOf(layout, path, "hugetlb"))
	return f, nil
}

func pressure(p *cgroup.Pressure) *psi {
	if p == nil {
		return nil
	}
	line := func(l cgroup.PressureLine) psiLine {
		return psiLine{l.Avg10, l.Avg60, l.Avg300, uint64(l.Total / time.Microsecond)}
	}
	return &psi{line(p.Some), line(p.Full)}
}

// groupOf is the container's directory for a controller; "" without it.
func groupOf(layout cgroup.Layout, path, controller string) (dir string, v2 bool) {
	rel, err := cgroup.CleanPath(path)
	if err != nil {
		return "", false
	}
	for _, h := range layout.Hierarchies {
		if slices.Contains(h.Controllers, controller) {
			return h.Mount + rel, h.V2
		}
	}
	return "", false
}

func (f *figures) memory(dir string, v2 bool, s cgroup.MemoryStats) {
	m := &f.Memory
	m.Cache = s.Cache
	if dir == "" {
		return
	}
	m.Raw = keyed(dir + "/memory.stat")
	if v2 {
		m.Usage = memoryEntry{s.Limit, s.Usage, s.Max, s.Failures}
		m.Swap = memoryEntry{numberIn(dir + "/memory.swap.max"), s.Swap, numberIn(dir + "/memory.swap.peak"), keyed(dir + "/memory.swap.events")["fail"]}
		return
	}
	entry := func(name string) memoryEntry {
		p := dir + "/memory." + name
		return memoryEntry{numberIn(p + "limit_in_bytes"), numberIn(p + "usage_in_bytes"), numberIn(p + "max_usage_in_bytes"), numberIn(p + "failcnt")}
	}
	m.Usage, m.Swap, m.Kernel, m.KernelTCP = entry(""), entry("memsw."), entry("kmem."), entry("kmem.tcp.")
}

// perCPU reads the times of each CPU: nanoseconds.
func (c *cpuFigures) perCPU(dir string) {
	for _, f := range strings.Fields(textOf(dir + "/cpuacct.usage_percpu")) {
		n, err := strconv.ParseUint(f, 10, 64)
		if err == nil {
			c.Usage.Percpu = append(c.Usage.Percpu, n)
		}
	}
	lines := strings.Split(textOf(dir+"/cpuacct.usage_all"), "\n") // "cpu user system"
	for _, line := range lines[1:] {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		user, err1 := strconv.ParseUint(f[1], 10, 64)
		system, err2 := strconv.ParseUint(f[2], 10, 64)
		if err1 == nil && err2 == nil {
			c.Usage.PercpuUser = append(c.Usage.PercpuUser, user)
			c.Usage.PercpuKernel = append(c.Usage.PercpuKernel, system)
		}
	}
}

func (f *figures) cpuset(dir string, v2 bool) {
	if dir == "" || v2 {
		return
	}
	for _, name := range [...]string{"cpus", "mems"} {
		f.CPUSet[name] = numbersIn(textOf(dir + "/cpuset." + name))
	}
	for _, name := range [...]string{"cpu_exclusive", "mem_hardwall", "mem_exclusive", "memory_migrate", "memory_spread_page",
		"memory_spread_slab", "memory_pressure", "sched_load_balance", "sched_relax_domain_level"} {
		n, err := strconv.ParseInt(textOf(dir+"/cpuset."+name), 10, 64)
		if err == nil {
			f.CPUSet[name] = n
		}
	}
}

// numbersIn reads "0-2,7".
func numbersIn(s string) []uint16 {
	var out []uint16
	for part := range strings.SplitSeq(s, ",") {
		low, high, isRange := strings.Cut(part, "-")
		a, err := strconv.ParseUint(low, 10, 16)
		if err != nil {
			continue
		}
		b := a
		if isRange {
			if b, err = strconv.ParseUint(high, 10, 16); err != nil {
				continue
			}
		}
		for ; a <= b; a++ {
			out = append(out, uint16(a))
		}
	}
	return out
}

func (f *figures) huge(dir string, v2 bool) {
	entries, err := os.ReadDir(dir)
	if dir == "" || err != nil {
		return
	}
	for _, e := range entries {
		size, ok := strings.CutPrefix(e.Name(), "hugetlb.")
		if !ok {
			continue
		}
		if size, ok = strings.CutSuffix(size, map[bool]string{false: ".usage_in_bytes", true: ".current"}[v2]); !ok || strings.Contains(size, ".") {
			continue
		}
		p := dir + "/hugetlb." + size
		if v2 {
			f.Hugetlb[size] = hugetlb{Usage: numberIn(p + ".current"), Failcnt: keyed(p + ".events")["max"]}
			continue
		}
		f.Hugetlb[size] = hugetlb{numberIn(p + ".usage_in_bytes"), numberIn(p + ".max_usage_in_bytes"), numberIn(p + ".failcnt")}
	}
}

// textOf reads a file of a control group; what is not there is empty, for
// kernels differ in what they have, and the container may end meanwhile.
func textOf(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func numberIn(path string) uint64 {
	s := textOf(path)
	if s == "max" {
		return cgroup.NoLimit
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func keyed(path string) map[string]uint64 {
	m := make(map[string]uint64)
	for line := range strings.SplitSeq(textOf(path), "\n") {
		k, v, _ := strings.Cut(line, " ")
		if n, err := strconv.ParseUint(v, 10, 64); err == nil {
			m[k] = n
		}
	}
	return m
}
