package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// ioLimits are the keys of io.max (Documentation/admin-guide/cgroup-v2.rst, "IO Interface
// Files") and the files that they are on v1 (cgroup-v1/blkio-controller.rst).
var ioLimits = [][2]string{
	{"rbps", "blkio.throttle.read_bps_device"}, {"wbps", "blkio.throttle.write_bps_device"},
	{"riops", "blkio.throttle.read_iops_device"}, {"wiops", "blkio.throttle.write_iops_device"},
}

// setIOMax writes the files that io.max is on v1. "8:0 rbps=1048576 wiops=max"; there 0
// takes a limit away.
func (g Group) setIOMax(dirs []Dir, value string) ([]Step, error) {
	f := strings.Fields(value)
	if len(f) < 2 {
		return nil, fmt.Errorf("io.max %q: give MAJOR:MINOR and rbps=, wbps=, riops= or wiops=", value)
	}
	var major, minor uint32
	if n, err := fmt.Sscanf(f[0], "%d:%d", &major, &minor); n != 2 || err != nil {
		return nil, fmt.Errorf("io.max %q: %q is no MAJOR:MINOR of a device", value, f[0])
	}
	limits := map[string]string{}
	for _, word := range f[1:] {
		key, limit, _ := strings.Cut(word, "=")
		if limit == "max" {
			limit = "0"
		}
		if _, err := strconv.ParseUint(limit, 10, 64); err != nil || !slices.ContainsFunc(ioLimits, func(l [2]string) bool { return l[0] == key }) {
			return nil, fmt.Errorf("io.max %q: %q is none of rbps, wbps, riops and wiops with a number or max", value, word)
		}
		limits[key] = limit
	}
	for _, d := range dirs {
		if !there(filepath.Join(d.Path, ioLimits[0][1])) {
			continue
		}
		var steps []Step
		for _, l := range ioLimits {
			if limit, ok := limits[l[0]]; ok {
				steps = append(steps, Step{Op: "write", Path: filepath.Join(d.Path, l[1]), Value: fmt.Sprintf("%d:%d %s", major, minor, limit)})
			}
		}
		return steps, nil
	}
	return nil, g.unknown("io.max")
}

// getIOMax reads them as io.max shows them: a line a device that has a limit.
func (g Group) getIOMax(dirs []Dir) (value, file string, err error) {
	for _, d := range dirs {
		byDevice := map[string]map[string]string{}
		for _, l := range ioLimits {
			v, err := read(filepath.Join(d.Path, l[1]))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return "", "", err
			}
			file = filepath.Join(d.Path, ioLimits[0][1])
			for line := range strings.Lines(v) {
				device, limit, _ := strings.Cut(strings.TrimSpace(line), " ")
				if byDevice[device] == nil {
					byDevice[device] = map[string]string{}
				}
				byDevice[device][l[0]] = limit
			}
		}
		if file == "" {
			continue
		}
		var lines []string
		for _, device := range slices.Sorted(maps.Keys(byDevice)) {
			line := device
			for _, l := range ioLimits {
				limit := byDevice[device][l[0]]
				if limit == "" {
					limit = "max"
				}
				line += " " + l[0] + "=" + limit
			}
			lines = append(lines, line)
		}
		return strings.Join(lines, "\n"), file, nil
	}
	return "", "", g.unknown("io.max")
}
