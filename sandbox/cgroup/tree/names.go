package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"vivarium/sandbox/cgroup"
)

// old is what a file of v2 is on v1: another name, and sometimes another way to say
// the value (Documentation/admin-guide/cgroup-v1).
type old struct {
	file string
	to   func(g Group, dir, value string) (string, error) // nil: as it is
	from func(dir, value string) string                   // nil: as it is
}

// olds holds those that have an equal on v1.
var olds = map[string]old{
	"memory.max":          {file: "memory.limit_in_bytes", to: bytesOrMax, from: maxOrBytes},
	"memory.low":          {file: "memory.soft_limit_in_bytes", to: bytesOrMax, from: maxOrBytes},
	"memory.current":      {file: "memory.usage_in_bytes"},
	"memory.peak":         {file: "memory.max_usage_in_bytes"},
	"memory.swap.max":     {file: "memory.memsw.limit_in_bytes", to: swapLimit, from: less("memory.limit_in_bytes")},
	"memory.swap.current": {file: "memory.memsw.usage_in_bytes", from: less("memory.usage_in_bytes")},
	"cpu.max.burst":       {file: "cpu.cfs_burst_us"},
	"cpu.weight":          {file: "cpu.shares", to: weightToShares, from: sharesToWeight},
	"cgroup.freeze":       {file: "freezer.state", to: freezerState, from: frozen},
	"io.weight":           {file: "blkio.weight"},
}

// pageCounterMax is from which value on a limit of v1 is none
// (PAGE_COUNTER_MAX, include/linux/page_counter.h, in bytes).
const pageCounterMax = 1<<63 - 1 - 1<<16

// Bytes reads a size: a number with K, M, G or T behind it, or "max".
func Bytes(value string) (string, error) {
	v := strings.TrimSuffix(strings.TrimSuffix(strings.ToUpper(strings.TrimSpace(value)), "B"), "I")
	if v == "MAX" {
		return "max", nil
	}
	shift := 0
	if v != "" {
		if i := strings.IndexByte("KMGT", v[len(v)-1]); i >= 0 {
			shift, v = 10*(i+1), v[:len(v)-1]
		}
	}
	n, err := strconv.ParseUint(v, 10, 63)
	if err != nil || n > (1<<63-1)>>shift {
		return "", fmt.Errorf("%q is no size: give a number, perhaps with K, M, G or T, or max", value)
	}
	return strconv.FormatUint(n<<shift, 10), nil
}

func bytesOrMax(_ Group, _, value string) (string, error) {
	v, err := Bytes(value)
	if v == "max" {
		v = "-1"
	}
	return v, err
}

func maxOrBytes(_, value string) string {
	if n, err := strconv.ParseUint(value, 10, 64); err == nil && n >= pageCounterMax {
		return "max"
	}
	return value
}

// swapLimit: v1 limits memory and swap together.
func swapLimit(_ Group, dir, value string) (string, error) {
	v, err := Bytes(value)
	if err != nil || v == "max" {
		return "-1", err
	}
	b, err := os.ReadFile(filepath.Join(dir, "memory.limit_in_bytes"))
	if err != nil {
		return "", err
	}
	memory, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return "", err
	}
	if memory >= pageCounterMax {
		return "", errors.New("on v1 swap is limited together with memory: set memory.max first")
	}
	swap, _ := strconv.ParseUint(v, 10, 64)
	return strconv.FormatUint(memory+swap, 10), nil
}

// less takes the value of another file off: v1 counts memory and swap together.
func less(other string) func(dir, value string) string {
	return func(dir, value string) string {
		both, err := strconv.ParseUint(value, 10, 64)
		if err != nil || both >= pageCounterMax {
			return maxOrBytes(dir, value)
		}
		b, err := read(filepath.Join(dir, other))
		if err != nil {
			return value
		}
		memory, err := strconv.ParseUint(b, 10, 64)
		if err != nil || memory > both { // it has grown meanwhile
			return "0"
		}
		return strconv.FormatUint(both-memory, 10)
	}
}

// weightToShares is the middle of the shares that cgroup.SharesToWeight makes that
// weight of; 100 is 1024 (both are the default).
func weightToShares(_ Group, _, value string) (string, error) {
	w, err := strconv.ParseUint(strings.TrimSpace(value), 10, 64)
	if err != nil || w < 1 || w > 10000 {
		return "", fmt.Errorf("%q is no weight: give a number from 1 to 10000", value)
	}
	return strconv.FormatUint(max(2, w*1024/100), 10), nil
}

func sharesToWeight(_, value string) string {
	n, err := strconv.ParseUint(value, 10, 64)
	if err != nil {
		return value
	}
	return strconv.FormatUint(max(1, (n*100+512)/1024), 10)
}

func freezerState(_ Group, _, value string) (string, error) {
	switch strings.TrimSpace(value) {
	case "1":
		return "FROZEN", nil
	case "0":
		return "THAWED", nil
	}
	return "", fmt.Errorf("cgroup.freeze is 0 or 1, not %q", value)
}

func frozen(_, value string) string {
	if value == "THAWED" {
		return "0"
	}
	return "1"
}

// sizes are the files whose values are bytes.
var sizes = []string{"memory.max", "memory.high", "memory.low", "memory.min", "memory.swap.max", "memory.swap.high"}

// Set says what to write so that a name has a value. Names are those of v2, whatever
// is mounted, or those of files.
func (g Group) Set(name, value string) ([]Step, error) {
	dirs, err := g.mustDirs()
	if err != nil {
		return nil, err
	}
	if strings.ContainsAny(name, "/\x00") || name == "" || strings.HasPrefix(name, ".") {
		return nil, fmt.Errorf("%q is no file of a control group", name)
	}
	for _, d := range dirs {
		if name == "cgroup.freeze" && freezer(dirs) {
			break
		}
		if file := filepath.Join(d.Path, name); there(file) {
			if d.V2 && slices.Contains(sizes, name) {
				if value, err = Bytes(value); err != nil {
					return nil, fmt.Errorf("%s: %w", name, err)
				}
			}
			return []Step{{Op: "write", Path: file, Value: value}}, nil
		}
	}
	switch name {
	case "cpu.max":
		return g.setQuota(dirs, value)
	case "io.max":
		return g.setIOMax(dirs, value)
	}
	o, ok := olds[name]
	for _, d := range dirs {
		if !ok || !there(filepath.Join(d.Path, o.file)) {
			continue
		}
		if o.to != nil {
			if value, err = o.to(g, d.Path, value); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
		return []Step{{Op: "write", Path: filepath.Join(d.Path, o.file), Value: value}}, nil
	}
	return nil, g.unknown(name)
}

func (g Group) unknown(name string) error {
	return fmt.Errorf("control group %s has no %s: the kernel does not have it, or its controller is not mounted, or the group is not in that hierarchy", g.Path, name)
}

// setQuota writes the two files that cpu.max is on v1.
func (g Group) setQuota(dirs []Dir, value string) ([]Step, error) {
	f := strings.Fields(value)
	if len(f) == 0 || len(f) > 2 {
		return nil, fmt.Errorf("cpu.max %q: give QUOTA or QUOTA PERIOD, microseconds, or max", value)
	}
	for _, n := range f {
		if _, err := strconv.ParseUint(n, 10, 63); err != nil && (n != "max" || n != f[0]) {
			return nil, fmt.Errorf("cpu.max %q: %q is no number of microseconds", value, n)
		}
	}
	for _, d := range dirs {
		quota := filepath.Join(d.Path, "cpu.cfs_quota_us")
		if !there(quota) {
			continue
		}
		var steps []Step
		if len(f) == 2 {
			steps = append(steps, Step{Op: "write", Path: filepath.Join(d.Path, "cpu.cfs_period_us"), Value: f[1]})
		}
		if f[0] == "max" {
			f[0] = "-1"
		}
		return append(steps, Step{Op: "write", Path: quota, Value: f[0]}), nil
	}
	return nil, g.unknown("cpu.max")
}

// Get reads a name, as Set names it, and tells from which file.
func (g Group) Get(name string) (value, file string, err error) {
	dirs, err := g.mustDirs()
	if err != nil {
		return "", "", err
	}
	if strings.ContainsAny(name, "/\x00") || name == "" || strings.HasPrefix(name, ".") {
		return "", "", fmt.Errorf("%q is no file of a control group", name)
	}
	for _, d := range dirs {
		if name == "cgroup.freeze" && freezer(dirs) {
			break
		}
		file := filepath.Join(d.Path, name)
		if v, err := read(file); !errors.Is(err, fs.ErrNotExist) {
			return v, file, err
		}
	}
	if name == "io.max" {
		return g.getIOMax(dirs)
	}
	for _, d := range dirs {
		if name == "cpu.max" {
			quota, err := read(filepath.Join(d.Path, "cpu.cfs_quota_us"))
			if err != nil {
				continue
			}
			period, err := read(filepath.Join(d.Path, "cpu.cfs_period_us"))
			if quota == "-1" {
				quota = "max"
			}
			return quota + " " + period, filepath.Join(d.Path, "cpu.cfs_quota_us"), err
		}
		o, ok := olds[name]
		if !ok {
			continue
		}
		file := filepath.Join(d.Path, o.file)
		v, err := read(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil && o.from != nil {
			v = o.from(d.Path, v)
		}
		return v, file, err
	}
	return "", "", g.unknown(name)
}

// freezer says whether the group has a v1 freezer: it is what freezes it then, also
// where a v2 hierarchy is beside.
func freezer(dirs []Dir) bool {
	return slices.ContainsFunc(dirs, func(d Dir) bool { return !d.V2 && slices.Contains(d.Controllers, "freezer") })
}

func read(path string) (string, error) {
	b, err := os.ReadFile(path)
	return strings.TrimSpace(string(b)), err
}

func there(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// Names are those that Get can be asked for when nothing else is said: what limits
// the group, and how much it uses.
func Names() []string {
	return []string{"cpu.weight", "cpu.max", "cpuset.cpus", "cpuset.mems", "memory.current", "memory.peak", "memory.max", "memory.low",
		"memory.swap.max", "pids.current", "pids.max", "io.weight", "io.max", "cgroup.freeze"}
}

// Subsystem is one controller, and where it is.
type Subsystem struct {
	Name    string
	Version int // of the hierarchy that has it; 0 if none has
	Mount   string
}

// Subsystems lists the controllers of the kernel (cgroups(7), /proc/cgroups) and the
// hierarchies without one, sorted.
func Subsystems(l cgroup.Layout) ([]Subsystem, error) {
	b, err := os.ReadFile("/proc/cgroups")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	seen := map[string]bool{}
	var out []Subsystem
	for _, h := range l.Hierarchies {
		version := 1
		if h.V2 {
			version = 2
		}
		for _, c := range h.Controllers {
			seen[c] = true
			out = append(out, Subsystem{c, version, h.Mount})
		}
		switch {
		case h.Name != "":
			out = append(out, Subsystem{"name=" + h.Name, version, h.Mount})
		case h.V2 && len(h.Controllers) == 0:
			out = append(out, Subsystem{"-", version, h.Mount})
		}
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 4 && f[0][0] != '#' && !seen[f[0]] {
			out = append(out, Subsystem{Name: f[0]})
		}
	}
	slices.SortFunc(out, func(a, b Subsystem) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}
