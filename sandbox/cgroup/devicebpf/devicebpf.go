// Package devicebpf compiles device rules to the eBPF program that a v2 cgroup
// has instead of v1's devices controller. It is pure and needs no library: the
// program uses a dozen kinds of instructions. Package bpfattach beside it loads
// and attaches programs; a plan of system calls can do so itself.
package devicebpf

import (
	"encoding/binary"
)

// Access bits, as in the upper half of bpf_cgroup_dev_ctx.access_type.
const (
	Mknod uint8 = 1 << iota
	Read
	Write
	AllAccess = Mknod | Read | Write
)

// Any stands for every major or minor number.
const Any int64 = -1

// Rule allows or denies an access to devices. For each device and each kind of
// access the last rule that matches decides; without one it is denied.
type Rule struct {
	Allow        bool
	Type         byte // 'b', 'c', or 'a' for both
	Major, Minor int64
	Access       uint8
}

// Everything says whether a rule is for all devices and all kinds of access.
func (r Rule) Everything() bool {
	return r.Type == 'a' && r.Major == Any && r.Minor == Any && r.Access&AllAccess == AllAccess
}

// Unrestricted says whether rules allow everything, so that no program is needed.
func Unrestricted(rules []Rule) bool {
	rules = effective(rules)
	for _, r := range rules {
		if !r.Allow {
			return false
		}
	}
	return len(rules) > 0 && rules[0].Everything()
}

// effective drops what comes before the last rule for everything.
func effective(rules []Rule) []Rule {
	for i := len(rules) - 1; i >= 0; i-- {
		if rules[i].Everything() {
			return rules[i:]
		}
	}
	return rules
}

// License is what BPF_PROG_LOAD is told. The program calls no helper, so the
// kernel asks for none in particular.
const License = "Apache"

// Registers. r1 holds the context at entry, r0 the result.
const (
	regResult = 0
	regCtx    = 1
	regType   = 2
	regAccess = 3 // kinds of access that are not yet decided
	regMajor  = 4
	regMinor  = 5
	regTemp   = 6
)

// Opcodes (Documentation/bpf/standardization/instruction-set.rst).
const (
	loadWord = 0x61 // dst = *(u32 *)(src + off)
	movReg   = 0xbf
	movImm   = 0xb7
	andImm32 = 0x54
	rshImm32 = 0x74
	jumpNE   = 0x55 // if dst != imm goto
	jumpNE32 = 0x56
	jumpEQ   = 0x15
	exit     = 0x95
)

// Offsets in struct bpf_cgroup_dev_ctx and the values of BPF_DEVCG_DEV_*.
const (
	ctxAccessType = 0
	ctxMajor      = 4
	ctxMinor      = 8
	devBlock      = 1
	devChar       = 2
)

type insn struct {
	op       uint8
	dst, src uint8
	off      int16
	imm      int32
}

// Compile gives the instructions of the program in this machine's byte order,
// eight bytes each, for BPF_PROG_TYPE_CGROUP_DEVICE. The program returns 1 to
// allow and 0 to deny.
func Compile(rules []Rule) []byte {
	code := []insn{
		{op: loadWord, dst: regType, src: regCtx, off: ctxAccessType},
		{op: movReg, dst: regAccess, src: regType},
		{op: andImm32, dst: regType, imm: 0xffff},
		{op: rshImm32, dst: regAccess, imm: 16},
		{op: loadWord, dst: regMajor, src: regCtx, off: ctxMajor},
		{op: loadWord, dst: regMinor, src: regCtx, off: ctxMinor},
		{op: movImm, dst: regResult, imm: 0},
	}
	rules = effective(rules)
	for i := len(rules) - 1; i >= 0; i-- {
		code = append(code, block(rules[i])...)
	}
	code = append(code, insn{op: exit}) // nothing has allowed it: r0 is 0
	return encode(code)
}

// block is one rule: it falls through to the next if it does not match or
// leaves something undecided.
func block(r Rule) []insn {
	var match []insn // each jumps to the end of the block
	switch r.Type {
	case 'b':
		match = append(match, insn{op: jumpNE, dst: regType, imm: devBlock})
	case 'c':
		match = append(match, insn{op: jumpNE, dst: regType, imm: devChar})
	}
	if r.Major != Any {
		match = append(match, insn{op: jumpNE32, dst: regMajor, imm: int32(uint32(r.Major))})
	}
	if r.Minor != Any {
		match = append(match, insn{op: jumpNE32, dst: regMinor, imm: int32(uint32(r.Minor))})
	}
	var then []insn
	if r.Allow {
		then = []insn{
			{op: andImm32, dst: regAccess, imm: int32(^uint32(r.Access))},
			{op: jumpNE, dst: regAccess, imm: 0, off: 2},
			{op: movImm, dst: regResult, imm: 1},
			{op: exit},
		}
	} else {
		// r0 is 0 until something allows all.
		then = []insn{
			{op: movReg, dst: regTemp, src: regAccess},
			{op: andImm32, dst: regTemp, imm: int32(r.Access)},
			{op: jumpEQ, dst: regTemp, imm: 0, off: 1},
			{op: exit},
		}
	}
	for i := range match {
		match[i].off = int16(len(match) - i - 1 + len(then))
	}
	return append(match, then...)
}

func encode(code []insn) []byte {
	order := binary.NativeEndian
	out := make([]byte, 0, 8*len(code))
	for _, c := range code {
		regs := c.dst | c.src<<4
		if bigEndian() {
			regs = c.dst<<4 | c.src
		}
		out = append(out, c.op, regs)
		out = order.AppendUint16(out, uint16(c.off))
		out = order.AppendUint32(out, uint32(c.imm))
	}
	return out
}

func bigEndian() bool { return binary.NativeEndian.Uint16([]byte{0, 1}) == 1 }
