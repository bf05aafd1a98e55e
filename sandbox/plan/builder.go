package plan

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"vivarium/sandbox/program"
)

// builder collects ops in order. An address in the program is an offset into
// its data, which only grows.
type builder struct {
	prog    *program.Program
	ops     *[]program.Op // the list that is being written
	strings map[string]uint64
	next    int16 // the next slot that nobody has
	err     error // the first thing that could not be planned
}

func newBuilder() *builder {
	b := &builder{
		prog:    &program.Program{CgroupSlot: program.None},
		strings: make(map[string]uint64, 128),
		next:    program.FirstOwn,
	}
	b.prog.Data = make([]byte, 0, 8192)
	b.prog.Child = make([]program.Op, 0, 384)
	b.ops = &b.prog.Child
	return b
}

// arg is an argument of an op.
type arg struct {
	kind program.Kind
	v    uint64
}

// n passes a number; negative ones are sign-extended as the kernel expects.
func n[T ~int | ~uint32 | ~uint64 | ~uint | ~int32](v T) arg { return arg{program.Imm, uint64(v)} }

func slot(s int16) arg { return arg{program.Slot, uint64(s)} }

// str passes a NUL-terminated string; equal strings share their place.
func (b *builder) str(s string) arg { return arg{program.Str, b.text(s)} }

func (b *builder) text(s string) uint64 {
	if at, ok := b.strings[s]; ok {
		return at
	}
	at := uint64(len(b.prog.Data))
	b.prog.Data = append(append(b.prog.Data, s...), 0)
	b.strings[s] = at
	return at
}

// ptr passes the address of an offset in the data.
func ptr(at uint64) arg { return arg{program.Ptr, at} }

// buf reserves size bytes, aligned to a word, and gives their offset.
func (b *builder) buf(size int) uint64 {
	for len(b.prog.Data)%8 != 0 {
		b.prog.Data = append(b.prog.Data, 0)
	}
	at := uint64(len(b.prog.Data))
	b.prog.Data = append(b.prog.Data, make([]byte, size)...)
	return at
}

// words stores 64-bit words and gives their offset.
func (b *builder) words(w ...uint64) uint64 {
	at := b.buf(8 * len(w))
	for i, v := range w {
		*(*uint64)(unsafe.Pointer(&b.prog.Data[at+uint64(8*i)])) = v
	}
	return at
}

func (b *builder) words32(w ...uint32) uint64 {
	at := b.buf(4 * len(w))
	for i, v := range w {
		*(*uint32)(unsafe.Pointer(&b.prog.Data[at+uint64(4*i)])) = v
	}
	return at
}

func (b *builder) bytes(p []byte) uint64 {
	at := b.buf(len(p))
	copy(b.prog.Data[at:], p)
	return at
}

// reloc lets the word at an offset hold the address of another.
func (b *builder) reloc(at, to uint64) {
	b.prog.Relocs = append(b.prog.Relocs, program.Reloc{At: uint32(at), To: uint32(to)})
}

// pointers stores a NULL-terminated array of addresses of strings.
func (b *builder) pointers(list []string) uint64 {
	offsets := make([]uint64, len(list))
	for i, s := range list {
		offsets[i] = b.text(s)
	}
	at := b.buf(8 * (len(list) + 1))
	for i, o := range offsets {
		b.reloc(at+uint64(8*i), o)
	}
	return at
}

// slot takes a slot for a descriptor.
func (b *builder) slot() int16 {
	if b.next >= program.MaxSlots {
		b.fail(errorf("plan: more than %d descriptors are needed at once", program.MaxSlots))
		return program.MaxSlots - 1
	}
	b.next++
	return b.next - 1
}

func (b *builder) fail(err error) {
	if b.err == nil {
		b.err = err
	}
}

// begin starts a step: the ops that follow belong to it.
func (b *builder) begin(kind, why string) {
	b.prog.Steps = append(b.prog.Steps, program.Step{Kind: kind, Why: why})
}

func (b *builder) in(list *[]program.Op) { b.ops = list }

// undoFirst adds to the ops that run after a failure, before those that are
// there: what they do must be possible again. Each may fail.
func (b *builder) undoFirst(add func()) {
	rest, current := b.prog.Undo, b.ops
	b.prog.Undo = nil
	b.in(&b.prog.Undo)
	add()
	for i := range b.prog.Undo {
		b.prog.Undo[i].Tolerate[0] = program.AnyError
	}
	b.prog.Undo = append(b.prog.Undo, rest...)
	b.ops = current
}

// ref names an op that has been added, to say more about it.
type ref struct {
	ops *[]program.Op
	i   int
}

func (r ref) op() *program.Op { return &(*r.ops)[r.i] }

// do adds a system call.
func (b *builder) do(nr int, args ...arg) ref {
	op := program.Op{Nr: int32(nr), Dst: program.None, Step: uint16(len(b.prog.Steps) - 1)}
	for i, a := range args {
		op.Kinds[i], op.Args[i] = a.kind, a.v
	}
	*b.ops = append(*b.ops, op)
	return ref{b.ops, len(*b.ops) - 1}
}

// into keeps the result in a slot.
func (r ref) into(s int16) ref { r.op().Dst = s; return r }

// tolerate lets the program go on after these errors.
func (r ref) tolerate(errs ...unix.Errno) ref {
	for i, e := range errs {
		r.op().Tolerate[i] = uint16(e)
	}
	return r
}

// tolerateAll lets it go on after any error.
func (r ref) tolerateAll() ref { r.op().Tolerate[0] = program.AnyError; return r }

// onErrorSkipTo makes a tolerated error jump to the place that is written next.
func (b *builder) onErrorSkipHere(r ref) { r.op().SkipErr = uint16(len(*r.ops) - r.i - 1) }

// onSuccessSkipHere makes success jump to the place that is written next.
func (b *builder) onSuccessSkipHere(r ref) { r.op().SkipOK = uint16(len(*r.ops) - r.i - 1) }

// word is the 64-bit word at an offset, good until the data grows.
func (b *builder) word(at uint64) *uint64 {
	return (*uint64)(unsafe.Pointer(&b.prog.Data[at]))
}
