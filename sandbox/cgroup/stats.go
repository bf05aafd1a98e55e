package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// NoLimit is the value of a limit that is not set.
const NoLimit = ^uint64(0)

// Stats are the figures of a container. A part is zero where its controller is
// not available; the pointers are nil where the kernel does not tell.
type Stats struct {
	CPU      CPUStats
	Memory   MemoryStats
	Pids     PidsStats
	IO       []DeviceIO
	Pressure Pressures
}

// CPUStats are times since the cgroup was made.
type CPUStats struct {
	Total, User, System time.Duration
	// Periods is how often the quota's period has passed with something to
	// run, Throttled how often the quota was used up, for ThrottledTime.
	Periods, Throttled uint64
	ThrottledTime      time.Duration
}

// MemoryStats are bytes.
type MemoryStats struct {
	Usage    uint64
	Max      uint64 // highest usage so far; 0 where the kernel does not tell
	Limit    uint64 // or NoLimit
	Cache    uint64 // of Usage, page cache
	Inactive uint64 // of Cache, what can be reclaimed at once
	RSS      uint64 // of Usage, anonymous memory
	Swap     uint64
	OOMKills uint64 // processes killed for want of memory
	Failures uint64 // how often the limit was hit; late v1 kernels (6.18) no longer count it
}

// WorkingSet is what docker stats shows as usage: without the inactive cache.
func (m MemoryStats) WorkingSet() uint64 {
	if m.Inactive > m.Usage {
		return 0
	}
	return m.Usage - m.Inactive
}

// PidsStats count processes and threads.
type PidsStats struct {
	Current uint64
	Limit   uint64 // or NoLimit
}

// DeviceIO counts what went to and from one block device.
type DeviceIO struct {
	Major, Minor          uint64
	ReadBytes, WriteBytes uint64
	Reads, Writes         uint64
}

// IOBytes sums over the devices.
func (s Stats) IOBytes() (read, written uint64) {
	for _, d := range s.IO {
		read += d.ReadBytes
		written += d.WriteBytes
	}
	return read, written
}

// Pressures are v2's pressure stall figures.
type Pressures struct{ CPU, Memory, IO *Pressure }

// Pressure is how much of the time some or all processes had to wait.
type Pressure struct{ Some, Full PressureLine }

// PressureLine holds percentages over 10, 60 and 300 seconds and the sum.
type PressureLine struct {
	Avg10, Avg60, Avg300 float64
	Total                time.Duration
}

// ErrGone is in the chain of errors about a container whose cgroups are not
// there: it has ended.
var ErrGone = errors.New("the cgroup does not exist")

// ReadStats reads the figures of the container at cgroupPath.
func ReadStats(l Layout, cgroupPath string) (Stats, error) {
	rel, err := CleanPath(cgroupPath)
	if err != nil {
		return Stats{}, err
	}
	r := &statsReader{layout: l, rel: rel}
	var s Stats
	found := false
	for i := range l.Hierarchies {
		found = found || exists(l.Hierarchies[i].Mount+rel)
	}
	if !found {
		return Stats{}, fmt.Errorf("read the figures of cgroup %s: %w", cgroupPath, ErrGone)
	}
	r.cpu(&s.CPU)
	r.memory(&s.Memory)
	r.pids(&s.Pids)
	s.IO = r.io()
	r.pressure(&s.Pressure)
	if r.err != nil {
		return Stats{}, fmt.Errorf("read the figures of cgroup %s: %w", cgroupPath, r.err)
	}
	return s, nil
}

// statsReader keeps the first error; a file that is missing is none, for a
// controller may not be there, and the container may end meanwhile.
type statsReader struct {
	layout Layout
	rel    string
	err    error
}

// dir gives the cgroup of a controller, "" if it is not available.
func (r *statsReader) dir(controller string) (dir string, v2 bool) {
	h := r.layout.with(controller)
	if h == nil {
		return "", false
	}
	return h.Mount + r.rel, h.V2
}

func (r *statsReader) file(path string) []byte {
	b, err := readFile(path)
	if err != nil && r.err == nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EOPNOTSUPP) {
		r.err = err
	}
	return b
}

// number reads a file with one number; "max" is NoLimit.
func (r *statsReader) number(path string) uint64 {
	s := string(bytes.TrimSpace(r.file(path)))
	if s == "" {
		return 0
	}
	if s == "max" {
		return NoLimit
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("%s: %w", path, err)
	}
	return n
}

// keyed reads a file of lines "key number".
func (r *statsReader) keyed(path string) map[string]uint64 {
	m := map[string]uint64{}
	for line := range bytes.Lines(r.file(path)) {
		k, v, ok := strings.Cut(strings.TrimSpace(string(line)), " ")
		if n, err := strconv.ParseUint(v, 10, 64); ok && err == nil {
			m[k] = n
		}
	}
	return m
}

func micros(n uint64) time.Duration { return time.Duration(n) * time.Microsecond }

func (r *statsReader) cpu(s *CPUStats) {
	dir, v2 := r.dir("cpu")
	if v2 || dir == "" {
		if h := r.layout.unified(); h != nil && (v2 || r.layout.with("cpuacct") == nil) {
			// cpu.stat has the times even without the controller.
			dir = h.Mount + r.rel
		}
		if dir == "" {
			return
		}
		m := r.keyed(dir + "/cpu.stat")
		s.Total, s.User, s.System = micros(m["usage_usec"]), micros(m["user_usec"]), micros(m["system_usec"])
		s.Periods, s.Throttled, s.ThrottledTime = m["nr_periods"], m["nr_throttled"], micros(m["throttled_usec"])
		return
	}
	m := r.keyed(dir + "/cpu.stat")
	s.Periods, s.Throttled, s.ThrottledTime = m["nr_periods"], m["nr_throttled"], time.Duration(m["throttled_time"])
	if acct, _ := r.dir("cpuacct"); acct != "" {
		s.Total = time.Duration(r.number(acct + "/cpuacct.usage"))
		s.User = time.Duration(r.number(acct + "/cpuacct.usage_user"))
		s.System = time.Duration(r.number(acct + "/cpuacct.usage_sys"))
	}
}

func (r *statsReader) memory(s *MemoryStats) {
	dir, v2 := r.dir("memory")
	if dir == "" {
		return
	}
	if v2 {
		s.Usage = r.number(dir + "/memory.current")
		s.Max = r.number(dir + "/memory.peak")
		s.Limit = r.number(dir + "/memory.max")
		s.Swap = r.number(dir + "/memory.swap.current")
		m := r.keyed(dir + "/memory.stat")
		s.Cache, s.Inactive, s.RSS = m["file"], m["inactive_file"], m["anon"]
		e := r.keyed(dir + "/memory.events")
		s.OOMKills, s.Failures = e["oom_kill"], e["max"]
		return
	}
	s.Usage = r.number(dir + "/memory.usage_in_bytes")
	s.Max = r.number(dir + "/memory.max_usage_in_bytes")
	s.Limit = v1Limit(r.number(dir + "/memory.limit_in_bytes"))
	// Where both limits are the same, the sum with swap is what is hit.
	s.Failures = r.number(dir+"/memory.failcnt") + r.number(dir+"/memory.memsw.failcnt")
	m := r.keyed(dir + "/memory.stat")
	// The total_ figures include the cgroups below, as Usage does.
	s.Cache, s.Inactive, s.RSS, s.Swap = m["total_cache"], m["total_inactive_file"], m["total_rss"], m["total_swap"]
	s.OOMKills = r.keyed(dir + "/memory.oom_control")["oom_kill"]
}

// v1Limit: no limit is the largest number of bytes in whole pages.
func v1Limit(n uint64) uint64 {
	if n >= 1<<62 {
		return NoLimit
	}
	return n
}

func (r *statsReader) pids(s *PidsStats) {
	if dir, _ := r.dir("pids"); dir != "" {
		s.Current = r.number(dir + "/pids.current")
		s.Limit = r.number(dir + "/pids.max")
	}
}

func (r *statsReader) io() []DeviceIO {
	if dir, v2 := r.dir("io"); v2 {
		return r.ioV2(dir + "/io.stat")
	}
	dir, _ := r.dir("blkio")
	if dir == "" {
		return nil
	}
	var out []DeviceIO
	for _, prefix := range [...]string{"blkio.throttle.", "blkio.bfq.", "blkio."} {
		out = r.ioV1(dir+"/"+prefix+"io_service_bytes_recursive", out, func(d *DeviceIO, read bool, n uint64) {
			if read {
				d.ReadBytes = n
			} else {
				d.WriteBytes = n
			}
		})
		out = r.ioV1(dir+"/"+prefix+"io_serviced_recursive", out, func(d *DeviceIO, read bool, n uint64) {
			if read {
				d.Reads = n
			} else {
				d.Writes = n
			}
		})
		// What passes BFQ passes the throttle too, so the first that has
		// figures has them all.
		if len(out) > 0 {
			return out
		}
	}
	return nil
}

// ioV1 reads lines "8:0 Read 4096".
func (r *statsReader) ioV1(path string, list []DeviceIO, put func(d *DeviceIO, read bool, n uint64)) []DeviceIO {
	for line := range bytes.Lines(r.file(path)) {
		f := strings.Fields(string(line))
		if len(f) != 3 || f[1] != "Read" && f[1] != "Write" {
			continue
		}
		major, minor, ok := deviceNumbers(f[0])
		n, err := strconv.ParseUint(f[2], 10, 64)
		if !ok || err != nil {
			continue
		}
		var d *DeviceIO
		list, d = device(list, major, minor)
		put(d, f[1] == "Read", n)
	}
	return list
}

func device(list []DeviceIO, major, minor uint64) ([]DeviceIO, *DeviceIO) {
	for i := range list {
		if list[i].Major == major && list[i].Minor == minor {
			return list, &list[i]
		}
	}
	list = append(list, DeviceIO{Major: major, Minor: minor})
	return list, &list[len(list)-1]
}

func deviceNumbers(s string) (major, minor uint64, ok bool) {
	a, b, found := strings.Cut(s, ":")
	major, err1 := strconv.ParseUint(a, 10, 32)
	minor, err2 := strconv.ParseUint(b, 10, 32)
	return major, minor, found && err1 == nil && err2 == nil
}

// ioV2 reads lines "8:0 rbytes=1 wbytes=2 rios=3 wios=4 …".
func (r *statsReader) ioV2(path string) []DeviceIO {
	var out []DeviceIO
	for line := range bytes.Lines(r.file(path)) {
		f := strings.Fields(string(line))
		if len(f) == 0 {
			continue
		}
		major, minor, ok := deviceNumbers(f[0])
		if !ok {
			continue
		}
		d := DeviceIO{Major: major, Minor: minor}
		for _, kv := range f[1:] {
			k, v, _ := strings.Cut(kv, "=")
			n, err := strconv.ParseUint(v, 10, 64)
			if err != nil {
				continue
			}
			switch k {
			case "rbytes":
				d.ReadBytes = n
			case "wbytes":
				d.WriteBytes = n
			case "rios":
				d.Reads = n
			case "wios":
				d.Writes = n
			}
		}
		out = append(out, d)
	}
	return out
}

func (r *statsReader) pressure(p *Pressures) {
	h := r.layout.unified()
	if h == nil {
		return
	}
	dir := h.Mount + r.rel
	p.CPU, p.Memory, p.IO = parsePressure(r.file(dir+"/cpu.pressure")), parsePressure(r.file(dir+"/memory.pressure")), parsePressure(r.file(dir+"/io.pressure"))
}

// parsePressure reads "some avg10=0.00 avg60=0.00 avg300=0.00 total=0" and the
// same with "full".
func parsePressure(b []byte) *Pressure {
	var p Pressure
	any := false
	for line := range bytes.Lines(b) {
		f := strings.Fields(string(line))
		if len(f) == 0 {
			continue
		}
		to := &p.Some
		switch f[0] {
		case "some":
		case "full":
			to = &p.Full
		default:
			continue
		}
		any = true
		for _, kv := range f[1:] {
			k, v, _ := strings.Cut(kv, "=")
			x, err := strconv.ParseFloat(v, 64)
			if err != nil {
				continue
			}
			switch k {
			case "avg10":
				to.Avg10 = x
			case "avg60":
				to.Avg60 = x
			case "avg300":
				to.Avg300 = x
			case "total":
				to.Total = time.Duration(x) * time.Microsecond
			}
		}
	}
	if !any {
		return nil
	}
	return &p
}
