package program

import (
	"errors"
	"unsafe"
)

// magic starts an encoded program; its last digit is the format's version.
const magic = "vivprog4"

// ErrFormat says that bytes are not a program of this version.
var ErrFormat = errors.New("decode program: not a program of this version")

const (
	opSize    = int(unsafe.Sizeof(Op{}))
	relocSize = int(unsafe.Sizeof(Reloc{}))
)

// Encode gives the program as bytes, in the machine's byte order and alignment:
// a program is made and run on one machine, and is run where it lies.
func (p *Program) Encode() []byte {
	b := make([]byte, 0, 1024+opSize*(len(p.Before)+len(p.Child)+len(p.After)+len(p.Undo))+len(p.Data)+relocSize*len(p.Relocs)+128*len(p.Steps))
	b = append(b, magic...)
	for _, v := range []uint64{p.CloneFlags, uint64(p.CgroupSlot), boolBits(p.Terminal, p.Hold, p.Pinned), uint64(p.Candidates), uint64(p.ExecOp), p.ForkFlags, uint64(p.LabelSlot), uint64(p.LabelOp)} {
		b = putU64(b, v)
	}
	b = putString(b, p.UIDMap)
	b = putString(b, p.GIDMap)
	b = putString(b, p.LabelText)
	b = putString(b, p.LabelFile)
	for _, ops := range [][]Op{p.Before, p.Child, p.After, p.Undo} {
		b = putU64(b, uint64(len(ops)))
		b = append(b, raw(ops)...)
	}
	b = putString(b, p.Data)
	b = putU64(b, uint64(len(p.Relocs)))
	b = append(b, raw(p.Relocs)...)
	b = putU64(b, uint64(len(p.Steps)))
	for _, s := range p.Steps {
		b = putString(b, s.Kind)
		b = putString(b, s.Why)
	}
	return b
}

// raw is the memory of a slice without pointers.
func raw[T Op | Reloc](s []T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), len(s)*int(unsafe.Sizeof(*new(T))))
}

func boolBits(bits ...bool) (n uint64) {
	for i, b := range bits {
		if b {
			n |= 1 << i
		}
	}
	return n
}

// putU64 and u64 do without encoding/binary, which brings reflect with it.
func putU64(b []byte, v uint64) []byte {
	return append(b, (*[8]byte)(unsafe.Pointer(&v))[:]...)
}

// putString adds a length and bytes, filled up to a multiple of eight so that
// what follows is aligned.
func putString[S string | []byte](b []byte, s S) []byte {
	b = append(putU64(b, uint64(len(s))), s...)
	for len(b)%8 != 0 {
		b = append(b, 0)
	}
	return b
}

// reader takes fields off encoded bytes; after a short read bad stays set.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) bytes(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.bad = true
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) u64() uint64 {
	b := r.bytes(8)
	if b == nil {
		return 0
	}
	var v uint64
	copy((*[8]byte)(unsafe.Pointer(&v))[:], b)
	return v
}

func (r *reader) text() []byte {
	n := r.u64()
	out := r.bytes(n)
	if n%8 != 0 {
		r.bytes(8 - n%8)
	}
	return out
}

// list reads a slice of T where it lies.
func list[T Op | Reloc](r *reader) []T {
	n := r.u64()
	size := uint64(unsafe.Sizeof(*new(T)))
	if n > uint64(len(r.b))/size {
		r.bad = true
		return nil
	}
	b := r.bytes(n * size)
	if len(b) == 0 {
		return nil
	}
	return unsafe.Slice((*T)(unsafe.Pointer(&b[0])), n)
}

// Decode reads a program and checks that nothing in it points outside: an index
// beyond a list, an address beyond the data, a slot beyond the table. Nothing
// is copied: b, which must be aligned to eight bytes, is the program from now
// on, and running it changes b.
func Decode(b []byte) (*Program, error) {
	if len(b) < len(magic) || string(b[:len(magic)]) != magic || uintptr(unsafe.Pointer(&b[0]))%8 != 0 {
		return nil, ErrFormat
	}
	r := &reader{b: b[len(magic):]}
	p := &Program{CloneFlags: r.u64(), CgroupSlot: int16(r.u64())}
	flags := r.u64()
	p.Terminal, p.Hold, p.Pinned = flags&1 != 0, flags&2 != 0, flags&4 != 0
	p.Candidates, p.ExecOp, p.ForkFlags = int(r.u64()), int(r.u64()), r.u64()
	p.LabelSlot, p.LabelOp = int16(r.u64()), int(r.u64())
	p.UIDMap, p.GIDMap = string(r.text()), string(r.text())
	p.LabelText, p.LabelFile = string(r.text()), string(r.text())
	p.Before, p.Child, p.After, p.Undo = list[Op](r), list[Op](r), list[Op](r), list[Op](r)
	p.Data = r.text()
	p.Relocs = list[Reloc](r)
	p.encodedSteps = r.b
	for range 2 * min(r.u64(), uint64(len(b))) {
		r.text()
	}
	if r.bad || !p.valid() {
		return nil, ErrFormat
	}
	return p, nil
}

// StepAt gives a step, which is needed only when something has failed.
func (p *Program) StepAt(i int) (s Step, ok bool) {
	if p.encodedSteps == nil {
		if i < 0 || i >= len(p.Steps) {
			return Step{}, false
		}
		return p.Steps[i], true
	}
	r := &reader{b: p.encodedSteps}
	n := r.u64()
	if i < 0 || uint64(i) >= n {
		return Step{}, false
	}
	for range i + 1 {
		s = Step{Kind: string(r.text()), Why: string(r.text())}
	}
	return s, !r.bad
}

func (p *Program) valid() bool {
	if p.CgroupSlot < None || p.CgroupSlot >= MaxSlots || p.ExecOp < 0 || p.ExecOp > len(p.Child) || p.Candidates < 0 ||
		p.LabelSlot < None || p.LabelSlot >= MaxSlots || p.LabelOp < 0 || p.LabelOp > len(p.Child) {
		return false
	}
	for _, r := range p.Relocs {
		if uint64(r.At)+8 > uint64(len(p.Data)) || uint64(r.To) > uint64(len(p.Data)) {
			return false
		}
	}
	for _, ops := range [][]Op{p.Before, p.Child, p.After, p.Undo} {
		for i := range ops {
			if !p.validOp(&ops[i]) {
				return false
			}
		}
	}
	return true
}

func (p *Program) validOp(op *Op) bool {
	if op.Dst < None || op.Dst >= MaxSlots || op.Nr < lastOp {
		return false
	}
	size := uint64(len(p.Data))
	for i, k := range op.Kinds {
		v := op.Args[i]
		if k > Slot || (k == Slot && v >= MaxSlots) || ((k == Ptr || k == Str) && v >= size) {
			return false
		}
	}
	inside := func(at, n uint64) bool { return at < size && at+n <= size }
	switch op.Nr {
	case PokeInt, Load:
		return inside(op.Args[0], 4) && op.Args[1] < MaxSlots
	case PokeText:
		return inside(op.Args[0], 12) && op.Args[1] < MaxSlots
	case Check:
		return inside(op.Args[0], 8)
	case UserNS:
		return inside(op.Args[0], 1) && inside(op.Args[1], 1)
	case Fork:
		return inside(op.Args[1], 4)
	case ExecStub:
		return op.Args[0] < MaxSlots && op.Args[3] < MaxSlots && inside(op.Args[1], 8) && inside(op.Args[2], 8) && inside(op.Args[4], 1)
	}
	return true
}
