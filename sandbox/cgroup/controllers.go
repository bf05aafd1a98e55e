package cgroup

import (
	"maps"
	"slices"
	"strings"
)

// enableControllers makes the cgroups above the container's pass on its
// controllers, and puts these writes before all others: without them the files
// of the limits do not exist. What is passed on already is left alone. A v2
// container gets all that there are, if it can: for its figures (stats), for
// limits that are set later (update), and to hand them on to cgroups of its own.
func (c *compiler) enableControllers() {
	h := c.layout.unified()
	if h == nil {
		return
	}
	want := map[string]bool{} // -> whether a limit needs it
	for name := range c.needed {
		want[name] = true
	}
	if c.layout.Mode() == V2 {
		for _, name := range h.Controllers {
			want[name] = c.needed[name]
		}
	}
	if len(want) == 0 {
		return
	}
	above := []string{h.Mount}
	for _, a := range ancestors(c.rel) {
		above = append(above, h.Mount+a)
	}
	var writes []Write
	for _, dir := range above[:len(above)-1] {
		writes = append(writes, c.enableIn(dir, want)...)
	}
	c.setup.Writes = append(writes, c.setup.Writes...)
}

func (c *compiler) enableIn(dir string, want map[string]bool) []Write {
	have := strings.Fields(readTrim(dir + "/cgroup.subtree_control"))
	var needed, wished []string
	for _, name := range slices.Sorted(maps.Keys(want)) {
		switch {
		case slices.Contains(have, name):
		case want[name]:
			needed = append(needed, "+"+name)
		default:
			wished = append(wished, "+"+name)
		}
	}
	if len(needed)+len(wished) == 0 {
		return nil
	}
	if occupied(dir) {
		// cgroup-v2.rst, "No Internal Process Constraint". Moving others'
		// processes is not ours to do.
		if len(needed) > 0 {
			c.fail("cgroup %s has processes of its own, so v2 does not let it pass on %s: move them into a cgroup below it (mkdir %s/init; write their numbers to its cgroup.procs): %w",
				dir, strings.Join(needed, " "), dir, ErrUnsupported)
		}
		return nil
	}
	why := "a cgroup has only the controllers that the one above passes on"
	var out []Write
	if len(needed) > 0 {
		out = append(out, Write{Dir: dir, File: "cgroup.subtree_control", Value: strings.Join(needed, " "), Why: why})
	}
	// One write each: a single controller that cannot be had fails the write.
	for _, name := range wished {
		out = append(out, Write{Dir: dir, File: "cgroup.subtree_control", Value: name, Optional: true, Why: why})
	}
	return out
}

// occupied says whether a cgroup may not pass controllers on. The real top
// cgroup, which has no cgroup.type, may even with processes.
func occupied(dir string) bool {
	return exists(dir+"/cgroup.type") && readTrim(dir+"/cgroup.procs") != ""
}
