package seccomp

import (
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// cond is one comparison of an argument. For SCMP_CMP_MASKED_EQ value is the
// mask and two what the masked argument must be.
type cond struct {
	index      uint32
	op         specs.LinuxSeccompOperator
	value, two uint64
}

// conditions gives the alternatives under which a rule holds, each a list of
// conditions that must all be true. As in runc, several conditions on one
// argument turn the whole list into alternatives; profiles rely on it.
func conditions(args []specs.LinuxSeccompArg) ([][]cond, error) {
	if len(args) == 0 {
		return [][]cond{nil}, nil
	}
	conds := make([]cond, len(args))
	var seen [6]bool
	repeated := false
	for i, arg := range args {
		if arg.Index > 5 {
			return nil, fmt.Errorf("argument index %d: a system call has arguments 0 to 5", arg.Index)
		}
		if !slices.Contains(operators[:], arg.Op) {
			return nil, fmt.Errorf("unknown operator %q", arg.Op)
		}
		repeated = repeated || seen[arg.Index]
		seen[arg.Index] = true
		conds[i] = cond{uint32(arg.Index), arg.Op, arg.Value, arg.ValueTwo}
	}
	if !repeated {
		return [][]cond{conds}, nil
	}
	alternatives := make([][]cond, len(conds))
	for i := range conds {
		alternatives[i] = conds[i : i+1]
	}
	return alternatives, nil
}

var operators = [...]specs.LinuxSeccompOperator{
	specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo,
	specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual,
}

// Offsets in struct seccomp_data: int nr; u32 arch; u64 ip; u64 args[6].
const (
	offsetNr   = 0
	offsetArch = 4
	offsetArgs = 16
)

// words gives the offsets of the halves of an argument.
func (a *arch) words(index uint32) (low, high uint32) {
	off := offsetArgs + 8*index
	if a.big {
		return off + 4, off
	}
	return off, off + 4
}

// test puts code that goes to yes if the condition holds, else to no.
func (a *assembler) test(m *arch, c *cond, yes, no label) label {
	switch c.op {
	case specs.OpNotEqual:
		return a.equal(m, c, no, yes)
	case specs.OpGreaterThan:
		return a.greater(m, c, opGT, yes, no)
	case specs.OpGreaterEqual:
		return a.greater(m, c, opGE, yes, no)
	case specs.OpLessThan:
		return a.greater(m, c, opGE, no, yes)
	case specs.OpLessEqual:
		return a.greater(m, c, opGT, no, yes)
	case specs.OpMaskedEqual:
		return a.masked(m, c, yes, no)
	}
	return a.equal(m, c, yes, no)
}

func (a *assembler) equal(m *arch, c *cond, yes, no label) label {
	low, high := m.words(c.index)
	at := a.loadBefore(a.jump(opEQ, uint32(c.value), yes, no), low)
	if m.wide {
		at = a.loadBefore(a.jump(opEQ, uint32(c.value>>32), at, no), high)
	}
	return at
}

func (a *assembler) greater(m *arch, c *cond, op uint16, yes, no label) label {
	low, high := m.words(c.index)
	at := a.loadBefore(a.jump(op, uint32(c.value), yes, no), low)
	if m.wide {
		at = a.jump(opEQ, uint32(c.value>>32), at, no)
		at = a.loadBefore(a.jump(opGT, uint32(c.value>>32), yes, at), high)
	}
	return at
}

func (a *assembler) masked(m *arch, c *cond, yes, no label) label {
	low, high := m.words(c.index)
	half := func(mask, want uint32, offset uint32, yes label) label {
		at := a.jump(opEQ, want&mask, yes, no)
		return a.loadBefore(a.andBefore(at, mask), offset)
	}
	at := half(uint32(c.value), uint32(c.two), low, yes)
	if m.wide && c.value>>32 != 0 {
		at = half(uint32(c.value>>32), uint32(c.two>>32), high, at)
	}
	return at
}
