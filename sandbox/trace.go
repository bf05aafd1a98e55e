package sandbox

import (
	"fmt"
	"io"
	"slices"

	"vivarium/sandbox/program"
	"vivarium/sandbox/spawn"
)

// Trace notes when the runtime and the process that it starts come to each step.
// A nil Trace notes nothing.
type Trace struct {
	runtime []spawn.Mark
	process spawn.Trace
	end     int64
}

// Note begins a step of the runtime's own.
func (t *Trace) Note(what string) {
	if t != nil {
		t.runtime = append(t.runtime, spawn.Mark{Step: program.Step{Why: what}, At: spawn.Now()})
	}
}

// ofProcess is what spawn takes.
func (t *Trace) ofProcess() *spawn.Trace {
	if t == nil {
		return nil
	}
	return &t.process
}

// step is a line of the table.
type step struct {
	who      string
	at, took int64 // nanoseconds
	what     string
}

// steps puts all marks in order of time. A step of the runtime takes until the
// runtime's next, one of the process until the process's next.
func (t *Trace) steps() []step {
	var list []step
	for _, m := range t.runtime {
		list = append(list, step{who: "runtime", at: m.At, what: m.Step.Why})
	}
	for _, m := range t.process.Marks() {
		who := "runtime"
		if m.Phase == spawn.Child {
			who = "process"
		}
		if m.At != 0 {
			list = append(list, step{who: who, at: m.At, what: m.Step.Kind + ": " + m.Step.Why})
		}
	}
	slices.SortStableFunc(list, func(a, b step) int { return int(a.at - b.at) })
	next := map[string]int64{"runtime": t.end}
	for i := len(list) - 1; i >= 0; i-- {
		s := &list[i]
		if until := next[s.who]; until != 0 {
			s.took = until - s.at
		}
		next[s.who] = s.at
	}
	return list
}

// Write ends the trace, and writes a line for each step: when it began and how long
// it took, in microseconds, by whom and what for. The last step of the process,
// which executes the command, has no end that could be seen.
func (t *Trace) Write(w io.Writer) error {
	t.end = spawn.Now()
	list := t.steps()
	if _, err := fmt.Fprintf(w, "%8s %8s  %-7s  %s\n", "AT_US", "TOOK_US", "WHO", "STEP"); err != nil {
		return err
	}
	for _, s := range list {
		took := "-"
		if s.took != 0 {
			took = fmt.Sprintf("%.1f", float64(s.took)/1e3)
		}
		if _, err := fmt.Fprintf(w, "%8.1f %8s  %-7s  %s\n", float64(s.at-list[0].at)/1e3, took, s.who, s.what); err != nil {
			return err
		}
	}
	return t.process.Close()
}
