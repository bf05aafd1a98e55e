package tree

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"vivarium/sandbox/cgroup/handle"
)

// Freeze says what is written to stop the processes of the group and of those below it,
// or to let them go on. [handle.Handle] does it and waits.
func (g Group) Freeze(stop bool) ([]Step, error) {
	value := "0"
	if stop {
		value = "1"
	}
	return g.Set("cgroup.freeze", value)
}

// Kill says what is written and whom signals are sent to so that no process is left in
// the group and in those below it, as they are now. [handle.Handle] does it, again and
// again while there are new ones.
func (g Group) Kill() ([]Step, error) {
	h, err := g.Layout.Handle(g.Path)
	if err != nil {
		return nil, err
	}
	pids, err := h.Procs()
	if err != nil {
		return nil, err
	}
	var steps, thaw []Step
	if h.Freezer != "" && there(h.Freezer) {
		if thaw, err = g.leaveFreezer(h, pids); err != nil {
			return nil, err
		}
	}
	if kill := filepath.Join(h.Unified, "cgroup.kill"); h.Unified != "" && there(kill) {
		steps = append(append(steps, Step{Op: "write", Path: kill, Value: "1"}), thaw...)
		at, err := handle.Handle{Unified: h.Unified}.Procs()
		if err != nil {
			return nil, err
		}
		pids = slices.DeleteFunc(pids, func(pid int) bool { return slices.Contains(at, pid) })
	}
	if len(pids) == 0 {
		return steps, nil
	}
	freeze, err := g.Freeze(true)
	if err != nil {
		return append(steps, Step{Op: "kill", Value: numbers(pids)}), nil // they may fork meanwhile, and are killed in more rounds
	}
	if len(thaw) == 0 {
		if thaw, err = g.Freeze(false); err != nil {
			return nil, err
		}
	}
	return append(append(append(steps, freeze...), Step{Op: "kill", Value: numbers(pids)}), thaw...), nil
}

// leaveFreezer says how the processes get out of a v1 freezer, in which they would not
// even die: it is thawed, and those that are in one below are taken into it.
func (g Group) leaveFreezer(h handle.Handle, pids []int) ([]Step, error) {
	steps, err := g.Freeze(false)
	if err != nil {
		return nil, err
	}
	own := fieldsOf(filepath.Join(h.Freezer, "cgroup.procs"))
	for _, pid := range pids {
		if n := strconv.Itoa(pid); !slices.Contains(own, n) {
			steps = append(steps, Step{Op: "write", Path: filepath.Join(h.Freezer, "cgroup.procs"), Value: n})
		}
	}
	return steps, nil
}

func numbers(pids []int) string {
	var words []string
	for _, pid := range pids {
		words = append(words, strconv.Itoa(pid))
	}
	return strings.Join(words, " ")
}
