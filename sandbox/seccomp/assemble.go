package seccomp

import "golang.org/x/sys/unix"

// label is a place in the program, counted from its end: an assembler that
// works backwards knows every jump target before the jump.
type label int

// reach is how far a conditional jump may go: its offsets are one byte. A few
// less than 255, because trampolines are put between the jump and its target.
const reach = 250

// Classic BPF has unconditional jumps of 32 bits but conditional ones of 8; jt
// and jf count from the following instruction.
const (
	opLoad = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	opAnd  = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	opRet  = unix.BPF_RET | unix.BPF_K
	opJump = unix.BPF_JMP | unix.BPF_JA
	opEQ   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	opGT   = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K
	opGE   = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
)

// assembler holds a program in reverse order.
type assembler struct {
	code []unix.SockFilter
	rets []placedRet
}

type placedRet struct {
	value uint32
	at    label
}

func (a *assembler) put(code uint16, k uint32) label {
	a.code = append(a.code, unix.SockFilter{Code: code, K: k})
	return label(len(a.code) - 1)
}

func (a *assembler) distance(to label) int { return len(a.code) - int(to) - 1 }

// loadBefore and andBefore put an instruction that goes on at next, which is
// where the last instruction was put or, if that one was spared, elsewhere.
func (a *assembler) loadBefore(next label, offset uint32) label {
	a.reachNext(next)
	return a.put(opLoad, offset)
}

func (a *assembler) andBefore(next label, mask uint32) label {
	a.reachNext(next)
	return a.put(opAnd, mask)
}

func (a *assembler) reachNext(next label) {
	if d := a.distance(next); d != 0 {
		a.put(opJump, uint32(d))
	}
}

// ret gives a place that returns value, an existing one if it is in reach.
func (a *assembler) ret(value uint32) label {
	for i := range a.rets {
		if a.rets[i].value != value {
			continue
		}
		if a.distance(a.rets[i].at) > reach-50 {
			a.rets[i].at = a.put(opRet, value)
		}
		return a.rets[i].at
	}
	at := a.put(opRet, value)
	a.rets = append(a.rets, placedRet{value, at})
	return at
}

// jump puts a comparison of the accumulator with k. Targets out of reach get a
// trampoline behind it.
func (a *assembler) jump(op uint16, k uint32, yes, no label) label {
	if yes == no {
		return yes
	}
	if a.distance(yes) > reach {
		yes = a.put(opJump, uint32(a.distance(yes)))
	}
	if a.distance(no) > reach {
		no = a.put(opJump, uint32(a.distance(no)))
	}
	a.code = append(a.code, unix.SockFilter{Code: op, K: k, Jt: uint8(a.distance(yes)), Jf: uint8(a.distance(no))})
	return label(len(a.code) - 1)
}

// span is a range of numbers from start to the start of the next span, all
// with the same outcome.
type span struct {
	start uint32
	leaf  int
}

// search puts a binary search for the accumulator over spans, which start at 0
// and are sorted; leaf gives the place of an outcome.
func (a *assembler) search(spans []span, leaf func(int) label) label {
	switch {
	case len(spans) == 1:
		return leaf(spans[0].leaf)
	case len(spans) == 3 && spans[0].leaf == spans[2].leaf && spans[2].start-spans[1].start == 1:
		no := leaf(spans[0].leaf)
		return a.jump(opEQ, spans[1].start, leaf(spans[1].leaf), no)
	}
	mid := len(spans) / 2
	high := a.search(spans[mid:], leaf)
	low := a.search(spans[:mid], leaf)
	return a.jump(opGE, spans[mid].start, high, low)
}

// program gives the instructions in the order in which they run.
func (a *assembler) program() []unix.SockFilter {
	out := make([]unix.SockFilter, len(a.code))
	for i, insn := range a.code {
		out[len(out)-1-i] = insn
	}
	return out
}
