package program

import (
	"errors"
	"unsafe"
)

// magic starts an encoded program; its last digit is the format's version.
const magic = "vivprog1"

// ErrFormat says that bytes are not a program of this version.
var ErrFormat = errors.New("decode program: not a program of this version")

// Encode gives the program as bytes, in the machine's byte order: a program is
// made and run on one machine.
func (p *Program) Encode() []byte {
	b := make([]byte, 0, len(magic)+64+opSize*(len(p.Before)+len(p.Child)+len(p.After)+len(p.Undo))+len(p.Data)+8*len(p.Relocs)+64*len(p.Steps))
	b = append(b, magic...)
	b = putU64(b, p.CloneFlags)
	b = putU64(b, uint64(p.CgroupSlot))
	b = putU64(b, boolBits(p.Terminal, p.Hold))
	b = putU64(b, uint64(p.Candidates))
	b = putU64(b, uint64(p.ExecOp))
	b = putString(b, p.UIDMap)
	b = putString(b, p.GIDMap)
	for _, ops := range [][]Op{p.Before, p.Child, p.After, p.Undo} {
		b = putU64(b, uint64(len(ops)))
		b = append(b, opBytes(ops)...)
	}
	b = putString(b, string(p.Data))
	b = putU64(b, uint64(len(p.Relocs)))
	for _, r := range p.Relocs {
		b = putU64(b, uint64(r.At)<<32|uint64(r.To))
	}
	b = putU64(b, uint64(len(p.Steps)))
	for _, s := range p.Steps {
		b = putString(b, s.Kind)
		b = putString(b, s.Why)
	}
	return b
}

const opSize = int(unsafe.Sizeof(Op{}))

func opBytes(ops []Op) []byte {
	if len(ops) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&ops[0])), len(ops)*opSize)
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

func putString(b []byte, s string) []byte {
	return append(putU64(b, uint64(len(s))), s...)
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

func (r *reader) string() string { return string(r.bytes(r.u64())) }

func (r *reader) ops() []Op {
	n := r.u64()
	if n > uint64(len(r.b)/opSize) {
		r.bad = true
		return nil
	}
	ops := make([]Op, n)
	copy(opBytes(ops), r.bytes(n*uint64(opSize)))
	return ops
}

// Decode reads a program back and checks that nothing in it points outside: an
// index beyond a list, an address beyond the data, a slot beyond the table.
func Decode(b []byte) (*Program, error) {
	if len(b) < len(magic) || string(b[:len(magic)]) != magic {
		return nil, ErrFormat
	}
	r := &reader{b: b[len(magic):]}
	p := &Program{CloneFlags: r.u64(), CgroupSlot: int16(r.u64())}
	flags := r.u64()
	p.Terminal, p.Hold = flags&1 != 0, flags&2 != 0
	p.Candidates, p.ExecOp = int(r.u64()), int(r.u64())
	p.UIDMap, p.GIDMap = r.string(), r.string()
	p.Before, p.Child, p.After, p.Undo = r.ops(), r.ops(), r.ops(), r.ops()
	p.Data = append([]byte(nil), r.bytes(r.u64())...)
	n := r.u64()
	if n > uint64(len(r.b)/8) {
		return nil, ErrFormat
	}
	p.Relocs = make([]Reloc, n)
	for i := range p.Relocs {
		v := r.u64()
		p.Relocs[i] = Reloc{At: uint32(v >> 32), To: uint32(v)}
	}
	n = r.u64()
	if n > uint64(len(r.b)/16) {
		return nil, ErrFormat
	}
	p.Steps = make([]Step, n)
	for i := range p.Steps {
		p.Steps[i] = Step{Kind: r.string(), Why: r.string()}
	}
	if r.bad || !p.valid() {
		return nil, ErrFormat
	}
	return p, nil
}

func (p *Program) valid() bool {
	if p.CgroupSlot < None || p.CgroupSlot >= MaxSlots || p.ExecOp < 0 || p.ExecOp > len(p.Child) || p.Candidates < 0 {
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
	if op.Dst < None || op.Dst >= MaxSlots || int(op.Step) >= max(len(p.Steps), 1) || op.Nr < ExecStub {
		return false
	}
	for i, k := range op.Kinds {
		v := op.Args[i]
		switch k {
		case Imm:
		case Ptr, Str:
			if v >= uint64(len(p.Data)) {
				return false
			}
		case Slot:
			if v >= MaxSlots {
				return false
			}
		default:
			return false
		}
	}
	size := uint64(len(p.Data))
	switch op.Nr {
	case PokeInt:
		return op.Args[0]+4 <= size && op.Args[0] < size && op.Args[1] < MaxSlots
	case PokeText:
		return op.Args[0]+12 <= size && op.Args[0] < size && op.Args[1] < MaxSlots
	case Check:
		return op.Args[0]+8 <= size && op.Args[0] < size
	case ExecStub:
		return op.Args[0] < MaxSlots && op.Args[3] < MaxSlots && op.Args[1] < size && op.Args[2] < size
	}
	return true
}
