package cgroup

import (
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// isList says whether s is a list of numbers and ranges, "0-3,7" (cpuset(7)).
func isList(s string) bool {
	for part := range strings.SplitSeq(strings.TrimSpace(s), ",") {
		lo, hi, ranged := strings.Cut(part, "-")
		if lo == "" || strings.Trim(lo, "0123456789") != "" || ranged && (hi == "" || strings.Trim(hi, "0123456789") != "") {
			return false
		}
	}
	return true
}

func (c *compiler) cpuset(r *specs.LinuxCPU) {
	if r.Cpus == "" && r.Mems == "" {
		return
	}
	if r.Cpus != "" && !isList(r.Cpus) {
		c.fail("cpuset cpus %q is not a list like 0-3,7", r.Cpus)
		return
	}
	if r.Mems != "" && !isList(r.Mems) {
		c.fail("cpuset mems %q is not a list like 0-3,7", r.Mems)
		return
	}
	g, ok := c.group("cpuset", "cpuset")
	if !ok {
		return
	}
	if r.Cpus != "" {
		g.set("cpuset.cpus", strings.TrimSpace(r.Cpus), "the CPUs it may run on")
	}
	if r.Mems != "" {
		g.set("cpuset.mems", strings.TrimSpace(r.Mems), "the memory nodes it may use")
	}
}

// initCpuset gives new v1 cpusets the CPUs and memory nodes of the cgroup above.
// They begin empty, and an empty cpuset takes no process (ENOSPC). What the
// container is given itself is left to cpuset.
func (c *compiler) initCpuset(r *specs.LinuxResources) {
	h := c.layout.with("cpuset")
	if h == nil || h.V2 {
		return
	}
	for _, file := range [...]string{"cpuset.cpus", "cpuset.mems"} {
		given := r.CPU != nil && (file == "cpuset.cpus" && r.CPU.Cpus != "" || file == "cpuset.mems" && r.CPU.Mems != "")
		below := ancestors(c.rel)
		above := ""
		first := len(below)
		for above == "" && first > 0 { // the lowest that has some
			first--
			above = readTrim(h.Mount + below[first] + "/" + file)
		}
		if above != "" {
			first++
		} else {
			above = readTrim(h.Mount + "/" + file)
		}
		for _, a := range below[first:] {
			if a == c.rel && given {
				continue
			}
			c.setup.Writes = append(c.setup.Writes, Write{Dir: h.Mount + a, File: file, Value: above, Why: "an empty cpuset takes no process, so it begins as the one above"})
		}
	}
}

func readTrim(path string) string {
	b, err := readFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
