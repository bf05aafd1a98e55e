package spawn

import (
	"syscall"
	"unsafe"

	"vivarium/sandbox/program"
)

// Trace notes when each step of a program begins. It puts a look at the clock
// before each step, in parent and child, so a traced start is a little slower
// than others: about a tenth of a microsecond a step.
type Trace struct {
	memory []byte // a page or two that parent and child share: one time for each mark
	marks  []Mark
}

// Mark is the beginning of a step.
type Mark struct {
	Phase Phase
	Step  program.Step
	At    int64 // CLOCK_MONOTONIC in nanoseconds; 0: the step was passed over
}

const clockMonotonic = 1

// Now is the clock of the marks.
func Now() int64 {
	var ts syscall.Timespec
	syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockMonotonic, uintptr(unsafe.Pointer(&ts)), 0)
	return ts.Sec*1e9 + ts.Nsec
}

// Marks gives what has been noted so far, in the order of the program.
func (t *Trace) Marks() []Mark {
	out := make([]Mark, len(t.marks))
	for i, m := range t.marks {
		ts := (*syscall.Timespec)(unsafe.Pointer(&t.memory[i*timespecSize]))
		m.At = ts.Sec*1e9 + ts.Nsec
		out[i] = m
	}
	return out
}

// Close gives the memory back. The child must have come to its execve.
func (t *Trace) Close() error {
	memory := t.memory
	t.memory = nil
	if memory == nil {
		return nil
	}
	return syscall.Munmap(memory)
}

const timespecSize = int(unsafe.Sizeof(syscall.Timespec{}))

// instrument puts the marks into a program whose addresses have been resolved.
func (t *Trace) instrument(l *loaded) error {
	steps := 0
	for _, ops := range [...][]program.Op{l.Before, l.Child, l.After} {
		for i := range ops {
			if beginsStep(ops, i) {
				steps++
			}
		}
	}
	var err error
	t.memory, err = syscall.Mmap(-1, 0, max(steps, 1)*timespecSize, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED|syscall.MAP_ANON)
	if err != nil {
		return err
	}
	l.Before, _ = t.mark(l.Program, Before, l.Before)
	child := l.Child
	var places []int
	l.Child, places = t.mark(l.Program, Child, child)
	if l.ExecOp < len(child) {
		l.ExecOp = place(child, places, l.ExecOp)
	}
	l.After, _ = t.mark(l.Program, After, l.After)
	return nil
}

func beginsStep(ops []program.Op, i int) bool { return i == 0 || ops[i].Step != ops[i-1].Step }

// place is where an op now is, behind its mark if it has one.
func place(ops []program.Op, places []int, i int) int {
	if beginsStep(ops, i) {
		return places[i] + 1
	}
	return places[i]
}

// mark gives the ops with a mark before each step, and where each op, or its
// mark, now is; skips lead to the same ops as before.
func (t *Trace) mark(p *program.Program, phase Phase, ops []program.Op) (out []program.Op, places []int) {
	places = make([]int, len(ops)+1)
	for i := range ops {
		places[i] = len(out)
		if beginsStep(ops, i) {
			at := uint64(uintptr(unsafe.Pointer(&t.memory[len(t.marks)*timespecSize])))
			t.marks = append(t.marks, Mark{Phase: phase, Step: stepOf(p, ops, i)})
			out = append(out, program.Op{Nr: syscall.SYS_CLOCK_GETTIME, Dst: program.None, Step: ops[i].Step,
				Tolerate: [3]uint16{program.AnyError}, Args: [6]uint64{clockMonotonic, at}})
		}
		out = append(out, ops[i])
	}
	places[len(ops)] = len(out)
	for i := range ops {
		self := place(ops, places, i)
		op := &out[self]
		lead := func(skip int) int { return places[min(i+1+skip, len(ops))] - self - 1 }
		if op.Nr == program.Skip {
			op.Args[0] = uint64(lead(int(op.Args[0])))
			continue
		}
		if op.SkipOK > 0 {
			op.SkipOK = uint16(lead(int(op.SkipOK)))
		}
		if op.SkipErr > 0 {
			op.SkipErr = uint16(lead(int(op.SkipErr)))
		}
	}
	return out, places
}
