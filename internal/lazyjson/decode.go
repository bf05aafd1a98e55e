// Package lazyjson reads and writes JSON for processes that live for some
// milliseconds. encoding/json prepares itself for every type that a value could
// contain before it looks at the first byte; for the structs of OCI and of the
// engine that takes longer than all else that is done to start a container.
// This package looks at a type when it meets a value of it.
//
// It takes, refuses and writes what encoding/json does, with two differences:
// structs may embed others only without a pointer and without fields of the
// same name, and of a key that stands twice in an object the last one counts,
// and nothing of the first is left.
package lazyjson

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxDepth bounds how deep values are nested, so that the stack is bounded too.
const maxDepth = 1000

// SyntaxError says where and why bytes are not the JSON that was expected.
type SyntaxError struct {
	Offset int
	Reason string
}

func (e *SyntaxError) Error() string {
	return "offset " + strconv.Itoa(e.Offset) + ": " + e.Reason
}

// Unmarshal reads data into the struct to which v points. What data does not
// mention stays as it is.
func Unmarshal(data []byte, v any) error {
	p := reflect.ValueOf(v)
	if p.Kind() != reflect.Pointer || p.IsNil() || p.Elem().Kind() != reflect.Struct {
		return fmt.Errorf("decode JSON into %T: it is no pointer to a struct", v)
	}
	d := &decoder{b: data}
	d.value(p.Elem())
	if d.space(); d.err == nil && d.i < len(d.b) {
		d.fail("there is more behind the end")
	}
	return d.err
}

// decoder keeps the first error; after one, nothing goes on.
type decoder struct {
	b      []byte
	i      int
	depth  int
	err    error
	fields map[reflect.Type][]field
}

type field struct {
	name  string
	index []int // more than one: it is in an embedded struct
}

func (d *decoder) fail(reason string) {
	if d.err == nil {
		d.err = &SyntaxError{d.i, reason}
		d.i = len(d.b)
	}
}

func (d *decoder) space() {
	for d.i < len(d.b) {
		switch d.b[d.i] {
		case ' ', '\t', '\r', '\n':
			d.i++
		default:
			return
		}
	}
}

// next gives the next byte that is no space, without taking it; 0 at the end.
func (d *decoder) next() byte {
	d.space()
	if d.i >= len(d.b) {
		d.fail("the end came too early")
		return 0
	}
	return d.b[d.i]
}

// take takes one byte, if it comes next.
func (d *decoder) take(c byte) bool {
	if d.next() == c && d.err == nil {
		d.i++
		return true
	}
	return false
}

func (d *decoder) expect(c byte) {
	if !d.take(c) {
		d.fail("expected " + strconv.QuoteRune(rune(c)))
	}
}

func (d *decoder) literal(word string) {
	if !strings.HasPrefix(string(d.b[d.i:min(len(d.b), d.i+len(word))]), word) {
		d.fail("expected " + word)
		return
	}
	d.i += len(word)
}

// list takes the items between two brackets; item takes one.
func (d *decoder) list(end byte, item func()) {
	d.i++
	if d.depth++; d.depth > maxDepth {
		d.fail("values are nested too deep")
		return
	}
	defer func() { d.depth-- }()
	if d.take(end) {
		return
	}
	for d.err == nil {
		item()
		if d.take(',') {
			continue
		}
		d.expect(end)
		return
	}
}

func (d *decoder) object(item func(key string)) {
	d.list('}', func() {
		if d.next() != '"' {
			d.fail("expected a key")
			return
		}
		key := d.text()
		d.expect(':')
		item(key)
	})
}

// value reads the next value into v.
func (d *decoder) value(v reflect.Value) {
	c := d.next()
	if c == 'n' {
		d.literal("null")
		switch v.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map, reflect.Interface:
			v.SetZero()
		}
		return
	}
	if own(v.Type()) {
		start := d.i
		d.skip()
		if d.err == nil {
			d.whole(json.Unmarshal(d.b[start:d.i], v.Addr().Interface()))
		}
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		d.value(p.Elem())
		v.Set(p)
	case reflect.Struct:
		d.structure(c, v)
	case reflect.Map:
		d.dictionary(c, v)
	case reflect.Slice:
		d.array(c, v)
	case reflect.Interface:
		start := d.i
		d.skip()
		if d.err == nil {
			d.whole(json.Unmarshal(d.b[start:d.i], v.Addr().Interface()))
		}
	default:
		d.scalar(c, v)
	}
}

var (
	unmarshaler     = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// own tells whether a type is left to encoding/json: it reads itself, or it is
// bytes.
func own(t reflect.Type) bool {
	if t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8 || t.Kind() == reflect.Array {
		return true
	}
	if t.PkgPath() == "" || t.Kind() == reflect.Interface {
		return false
	}
	p := reflect.PointerTo(t)
	return p.Implements(unmarshaler) || p.Implements(textUnmarshaler)
}

func (d *decoder) whole(err error) {
	if err != nil {
		d.fail(err.Error())
	}
}

func (d *decoder) mismatch(v reflect.Value) {
	d.fail("the value is not a " + v.Type().String())
}

func (d *decoder) structure(c byte, v reflect.Value) {
	if c != '{' {
		d.mismatch(v)
		return
	}
	fields := d.fieldsOf(v.Type())
	d.object(func(key string) {
		i := find(fields, key)
		if i == nil {
			d.skip()
			return
		}
		f := v.FieldByIndex(i)
		f.SetZero()
		d.value(f)
	})
}

// find prefers the exact name, and takes one in other letters, as encoding/json.
func find(fields []field, key string) []int {
	for i := range fields {
		if fields[i].name == key {
			return fields[i].index
		}
	}
	for i := range fields {
		if strings.EqualFold(fields[i].name, key) {
			return fields[i].index
		}
	}
	return nil
}

func (d *decoder) fieldsOf(t reflect.Type) []field {
	if f, ok := d.fields[t]; ok {
		return f
	}
	list := appendFields(nil, t, nil)
	if d.fields == nil {
		d.fields = make(map[reflect.Type][]field, 32)
	}
	d.fields[t] = list
	return list
}

// appendFields adds the fields of a struct; those of one that is embedded count
// as its own.
func appendFields(list []field, t reflect.Type, at []int) []field {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		index := append(at[:len(at):len(at)], i)
		switch {
		case f.Anonymous && name == "":
			list = appendFields(list, f.Type, index)
		case name == "-" || !f.IsExported():
		case name == "":
			list = append(list, field{f.Name, index})
		default:
			list = append(list, field{name, index})
		}
	}
	return list
}

func (d *decoder) dictionary(c byte, v reflect.Value) {
	if c != '{' || v.Type().Key().Kind() != reflect.String {
		d.mismatch(v)
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	d.object(func(key string) {
		item := reflect.New(v.Type().Elem()).Elem()
		d.value(item)
		if d.err == nil {
			v.SetMapIndex(reflect.ValueOf(key).Convert(v.Type().Key()), item)
		}
	})
}

func (d *decoder) array(c byte, v reflect.Value) {
	if c != '[' {
		d.mismatch(v)
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), 0, 0))
	d.list(']', func() {
		n := v.Len()
		if n == v.Cap() {
			v.Grow(1)
		}
		v.SetLen(n + 1)
		v.Index(n).SetZero()
		d.value(v.Index(n))
	})
}

// scalar reads a string, a boolean or a number.
func (d *decoder) scalar(c byte, v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		if c != '"' {
			d.mismatch(v)
			return
		}
		v.SetString(d.text())
	case reflect.Bool:
		if c != 't' && c != 'f' {
			d.mismatch(v)
			return
		}
		d.literal(map[bool]string{true: "true", false: "false"}[c == 't'])
		v.SetBool(c == 't')
	default:
		d.numeric(v)
	}
}

func (d *decoder) numeric(v reflect.Value) {
	start := d.i
	s := d.number()
	if d.err != nil {
		return
	}
	bits := v.Type().Bits
	var err error
	switch v.Kind() {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		var n int64
		n, err = strconv.ParseInt(s, 10, bits())
		v.SetInt(n)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		var n uint64
		n, err = strconv.ParseUint(s, 10, bits())
		v.SetUint(n)
	case reflect.Float32, reflect.Float64:
		var n float64
		n, err = strconv.ParseFloat(s, bits())
		v.SetFloat(n)
	default:
		d.i = start
		d.mismatch(v)
	}
	if err != nil {
		d.i = start
		d.fail("the number " + s + " is no " + v.Type().String())
	}
}

// number takes a number by JSON's grammar: no sign but -, no leading zeros.
func (d *decoder) number() string {
	start := d.i
	digits := func() {
		n := d.i
		for d.i < len(d.b) && d.b[d.i] >= '0' && d.b[d.i] <= '9' {
			d.i++
		}
		if n == d.i {
			d.fail("expected a value of another type, or digits")
		}
	}
	at := func(set string) bool { return d.i < len(d.b) && strings.IndexByte(set, d.b[d.i]) >= 0 }
	if at("-") {
		d.i++
	}
	if at("0") {
		d.i++
	} else {
		digits()
	}
	if at(".") {
		d.i++
		digits()
	}
	if at("eE") {
		if d.i++; at("+-") {
			d.i++
		}
		digits()
	}
	if d.err != nil {
		return ""
	}
	return string(d.b[start:d.i])
}

// text takes a string; the next byte is its quote. One with escapes, which are
// rare, is left to encoding/json.
func (d *decoder) text() string {
	start := d.i
	escaped := false
	for d.i++; d.i < len(d.b); d.i++ {
		switch c := d.b[d.i]; {
		case c == '\\':
			escaped = true
			d.i++
		case c < ' ':
			d.fail("there is a control character in a string")
			return ""
		case c == '"':
			d.i++
			raw := d.b[start+1 : d.i-1]
			if escaped || !utf8.Valid(raw) {
				var s string
				d.whole(json.Unmarshal(d.b[start:d.i], &s))
				return s
			}
			return string(raw)
		}
	}
	d.fail("a string has no end")
	return ""
}

// skip takes a value that nobody wants.
func (d *decoder) skip() {
	switch c := d.next(); c {
	case '{':
		d.object(func(string) { d.skip() })
	case '[':
		d.list(']', d.skip)
	case '"':
		d.text()
	case 't':
		d.literal("true")
	case 'f':
		d.literal("false")
	case 'n':
		d.literal("null")
	default:
		d.number()
	}
}
