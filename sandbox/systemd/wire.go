package systemd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// The messages of the D-Bus specification, version 0.43, as far as systemd's manager
// needs them. A library for all of D-Bus would make every start of the runtime a
// twentieth longer, and most starts ask nothing of systemd.

// Types of messages, and codes of header fields ("Message Protocol").
const (
	methodCall, methodReturn, errorReply, signalMessage = 1, 2, 3, 4

	fieldPath, fieldInterface, fieldMember, fieldErrorName, fieldReplySerial, fieldDestination, fieldSignature = 1, 2, 3, 4, 5, 6, 8
)

// maxBody bounds what is read: systemd's answers are short.
const maxBody = 1 << 20

// message is one message. Of a received one, body is as it came.
type message struct {
	kind                                                   byte
	serial, reply                                          uint32
	path, iface, member, errorName, destination, signature string
	body                                                   []byte
	order                                                  binary.ByteOrder // of a received one
}

// Property is one property of a unit. The value's Go type tells its D-Bus type:
// string s, bool b, byte y, int16 n, uint16 q, int32 i, uint32 u, int64 x, uint64
// t, float64 d, and arrays of bytes, uint32, strings, and pairs of strings.
type Property struct {
	Name  string
	Value any
}

// encoder appends values in the native form of a little-endian machine, each at a
// multiple of its size.
type encoder struct{ b []byte }

func (e *encoder) align(n int) {
	for len(e.b)%n != 0 {
		e.b = append(e.b, 0)
	}
}

func (e *encoder) u32(v uint32) {
	e.align(4)
	e.b = binary.LittleEndian.AppendUint32(e.b, v)
}

func (e *encoder) u64(v uint64) {
	e.align(8)
	e.b = binary.LittleEndian.AppendUint64(e.b, v)
}

func (e *encoder) text(s string) {
	e.u32(uint32(len(s)))
	e.b = append(append(e.b, s...), 0)
}

func (e *encoder) signature(s string) {
	e.b = append(e.b, byte(len(s)))
	e.b = append(append(e.b, s...), 0)
}

// array writes what each writes, behind its length in bytes. The padding before
// the first element does not count.
func (e *encoder) array(alignment int, each func()) {
	e.u32(0)
	at := len(e.b) - 4
	e.align(alignment)
	start := len(e.b)
	each()
	binary.LittleEndian.PutUint32(e.b[at:], uint32(len(e.b)-start))
}

// variant writes a value behind its signature.
func (e *encoder) variant(value any) error {
	switch v := value.(type) {
	case string:
		e.signature("s")
		e.text(v)
	case bool:
		e.signature("b")
		n := uint32(0)
		if v {
			n = 1
		}
		e.u32(n)
	case byte:
		e.signature("y")
		e.b = append(e.b, v)
	case int16:
		e.signature("n")
		e.align(2)
		e.b = binary.LittleEndian.AppendUint16(e.b, uint16(v))
	case uint16:
		e.signature("q")
		e.align(2)
		e.b = binary.LittleEndian.AppendUint16(e.b, v)
	case int32:
		e.signature("i")
		e.u32(uint32(v))
	case uint32:
		e.signature("u")
		e.u32(v)
	case int64:
		e.signature("x")
		e.u64(uint64(v))
	case uint64:
		e.signature("t")
		e.u64(v)
	case float64:
		e.signature("d")
		e.u64(math.Float64bits(v))
	default:
		return e.arrayVariant(value)
	}
	return nil
}

func (e *encoder) arrayVariant(value any) error {
	switch v := value.(type) {
	case []byte:
		e.signature("ay")
		e.array(1, func() { e.b = append(e.b, v...) })
	case []uint32:
		e.signature("au")
		e.array(4, func() {
			for _, n := range v {
				e.u32(n)
			}
		})
	case []string:
		e.signature("as")
		e.array(4, func() {
			for _, s := range v {
				e.text(s)
			}
		})
	case []deviceAllow:
		e.signature("a(ss)")
		e.array(8, func() {
			for _, d := range v {
				e.align(8)
				e.text(d.Path)
				e.text(d.Permissions)
			}
		})
	default:
		return fmt.Errorf("a value of type %T has no form in D-Bus here", value)
	}
	return nil
}

// properties writes an array of names and variants, a(sv).
func (e *encoder) properties(list []Property) error {
	var failed error
	e.array(8, func() {
		for _, p := range list {
			e.align(8)
			e.text(p.Name)
			if err := e.variant(p.Value); err != nil {
				failed = errors.Join(failed, fmt.Errorf("property %s: %w", p.Name, err))
			}
		}
	})
	return failed
}

// encode gives the message as it is sent.
func (m *message) encode() []byte {
	e := &encoder{b: []byte{'l', m.kind, 0, 1}}
	e.u32(uint32(len(m.body)))
	e.u32(m.serial)
	e.array(8, func() {
		field := func(code byte, kind, value string) {
			if value == "" {
				return
			}
			e.align(8)
			e.b = append(e.b, code)
			e.signature(kind)
			if kind == "g" {
				e.signature(value)
			} else {
				e.text(value)
			}
		}
		field(fieldPath, "o", m.path)
		field(fieldInterface, "s", m.iface)
		field(fieldMember, "s", m.member)
		field(fieldErrorName, "s", m.errorName)
		field(fieldDestination, "s", m.destination)
		field(fieldSignature, "g", m.signature)
		if m.reply != 0 {
			e.align(8)
			e.b = append(e.b, fieldReplySerial)
			e.signature("u")
			e.u32(m.reply)
		}
	})
	e.align(8)
	return append(e.b, m.body...)
}

var errMessage = errors.New("a message that is none of D-Bus")

// decoder takes values from a message. Once something is wrong, everything that it
// gives is empty.
type decoder struct {
	b     []byte
	at    int
	order binary.ByteOrder
	err   error
}

func (d *decoder) take(n int) []byte {
	if d.err == nil && (n < 0 || n > len(d.b)-d.at) {
		d.err = errMessage
	}
	if d.err != nil {
		return nil
	}
	d.at += n
	return d.b[d.at-n : d.at]
}

func (d *decoder) align(n int) {
	if rest := d.at % n; rest != 0 {
		d.take(n - rest)
	}
}

func (d *decoder) byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) u32() uint32 {
	d.align(4)
	if b := d.take(4); b != nil {
		return d.order.Uint32(b)
	}
	return 0
}

func (d *decoder) text() string {
	n := d.u32()
	if n > maxBody {
		d.err = errMessage
	}
	s := string(d.take(int(n)))
	d.take(1)
	return s
}

func (d *decoder) signature() string {
	s := string(d.take(int(d.byte())))
	d.take(1)
	return s
}

// fixedHeader is what tells a message's length.
const fixedHeader = 16

// lengths gives the length of the header's fields, with padding, and of the body.
func lengths(head []byte) (fields, body int, err error) {
	d, err := newDecoder(head)
	if err != nil {
		return 0, 0, err
	}
	d.take(4)
	b := d.u32()
	d.u32()
	f := d.u32()
	if d.err != nil || f > maxBody || b > maxBody {
		return 0, 0, errMessage
	}
	return (int(f) + 7) &^ 7, int(b), nil
}

func newDecoder(b []byte) (*decoder, error) {
	if len(b) < fixedHeader || b[3] != 1 {
		return nil, errMessage
	}
	switch b[0] {
	case 'l':
		return &decoder{b: b, order: binary.LittleEndian}, nil
	case 'B':
		return &decoder{b: b, order: binary.BigEndian}, nil
	}
	return nil, errMessage
}

// decode reads a whole message.
func decode(b []byte) (*message, error) {
	fields, body, err := lengths(b)
	if err != nil || len(b) != fixedHeader+fields+body {
		return nil, errMessage
	}
	d, err := newDecoder(b)
	if err != nil {
		return nil, err
	}
	m := &message{kind: b[1], body: b[fixedHeader+fields:], order: d.order}
	d.take(8)
	m.serial = d.u32()
	end := int(d.u32()) + fixedHeader
	for d.err == nil && d.at < end {
		d.align(8)
		m.field(d)
	}
	return m, d.err
}

func (m *message) field(d *decoder) {
	code, kind := d.byte(), d.signature()
	switch kind {
	case "s", "o":
		text := d.text()
		switch code {
		case fieldPath:
			m.path = text
		case fieldInterface:
			m.iface = text
		case fieldMember:
			m.member = text
		case fieldErrorName:
			m.errorName = text
		case fieldDestination:
			m.destination = text
		}
	case "g":
		m.signature = d.signature()
	case "u":
		if v := d.u32(); code == fieldReplySerial {
			m.reply = v
		}
	default:
		d.err = errMessage
	}
}

// arguments gives a decoder of the body: alignment counts from its beginning.
func (m *message) arguments() *decoder { return &decoder{b: m.body, order: m.order} }
