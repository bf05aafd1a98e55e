package spawn

import (
	"syscall"
	"unsafe"

	"vivarium/sandbox/program"
)

// Fault makes one op of a program fail, for tests: the process that comes to op
// Index of the phase is killed, or the op fails with Errno when that is not 0.
type Fault struct {
	Phase Phase
	Index int
	Errno syscall.Errno
}

// Phase names a list of a program's ops.
type Phase uint8

const (
	NoPhase Phase = iota
	Before
	Child
	After
)

func (p Phase) String() string {
	switch p {
	case Before:
		return "before"
	case Child:
		return "child"
	case After:
		return "after"
	}
	return "none"
}

// loaded is a program whose addresses are those of this process.
type loaded struct {
	*program.Program
	base unsafe.Pointer
	// child is here because the kernel writes into it: load's result is on the
	// heap, which does not move.
	child childArgs
}

// load resolves the addresses of p in place: p cannot be encoded or loaded
// again. Its data stays where it is: the collector does not move it, and the
// child has a copy at the same address.
func load(p *program.Program) *loaded {
	if len(p.Data) == 0 {
		p.Data = make([]byte, 8)
	}
	l := &loaded{Program: p, base: unsafe.Pointer(&p.Data[0])}
	for _, r := range p.Relocs {
		*(*uint64)(unsafe.Pointer(&p.Data[r.At])) = uint64(uintptr(l.base)) + uint64(r.To)
	}
	for _, ops := range [...][]program.Op{p.Before, p.Child, p.After, p.Undo} {
		for i := range ops {
			op := &ops[i]
			if op.Nr < 0 {
				continue
			}
			for k := range op.Kinds {
				if op.Kinds[k] == program.Ptr || op.Kinds[k] == program.Str {
					op.Args[k] += uint64(uintptr(l.base))
					op.Kinds[k] = program.Imm
				}
			}
		}
	}
	return l
}

func (l *loaded) inject(f Fault) {
	var ops []program.Op
	switch f.Phase {
	case Before:
		ops = l.Before
	case Child:
		ops = l.Child
	case After:
		ops = l.After
	}
	if f.Index < 0 || f.Index >= len(ops) {
		return
	}
	op := &ops[f.Index]
	*op = program.Op{Nr: program.Die, Dst: program.None, Step: op.Step}
	if f.Errno != 0 {
		op.Nr, op.Args[0] = program.Fail, uint64(f.Errno)
	}
}
