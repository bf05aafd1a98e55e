package lazyjson

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

var (
	marshaler     = reflect.TypeFor[json.Marshaler]()
	textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()
)

// Marshal writes v as encoding/json does. Types that write themselves, and rare
// kinds of values, are left to that package.
func Marshal(v any) ([]byte, error) {
	e := &encoder{b: make([]byte, 0, 2048)}
	e.value(reflect.ValueOf(v))
	if e.err != nil {
		return nil, e.err
	}
	return e.b, nil
}

type encoder struct {
	b     []byte
	err   error
	depth int
}

// leave gives a value to encoding/json.
func (e *encoder) leave(v reflect.Value) {
	b, err := json.Marshal(v.Interface())
	if err != nil && e.err == nil {
		e.err = err
	}
	e.b = append(e.b, b...)
}

func (e *encoder) null() { e.b = append(e.b, "null"...) }

func (e *encoder) value(v reflect.Value) {
	if !v.IsValid() {
		e.null()
		return
	}
	if e.depth++; e.depth > maxDepth {
		e.err = fmt.Errorf("encode JSON: values are nested too deep")
		return
	}
	defer func() { e.depth-- }()
	t := v.Type()
	if (t.PkgPath() != "" || t.Kind() == reflect.Pointer) && t.Kind() != reflect.Interface && (t.Implements(marshaler) || t.Implements(textMarshaler)) {
		e.leave(v)
		return
	}
	if t.PkgPath() != "" && v.CanAddr() && (reflect.PointerTo(t).Implements(marshaler) || reflect.PointerTo(t).Implements(textMarshaler)) {
		e.leave(v.Addr())
		return
	}
	switch t.Kind() {
	case reflect.Pointer, reflect.Interface:
		e.value(v.Elem())
	case reflect.Struct:
		e.structure(v)
	case reflect.Map:
		e.dictionary(v)
	case reflect.Slice, reflect.Array:
		e.array(v)
	case reflect.String:
		e.text(v.String())
	case reflect.Bool:
		e.b = strconv.AppendBool(e.b, v.Bool())
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		e.b = strconv.AppendInt(e.b, v.Int(), 10)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		e.b = strconv.AppendUint(e.b, v.Uint(), 10)
	default:
		e.leave(v)
	}
}

func (e *encoder) structure(v reflect.Value) {
	e.b = append(e.b, '{')
	e.fields(v, true)
	e.b = append(e.b, '}')
}

// fields writes the fields of a struct; those of one that is embedded count as
// its own. It tells whether the next one is the first.
func (e *encoder) fields(v reflect.Value, first bool) bool {
	t := v.Type()
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("json")
		name, options, _ := strings.Cut(tag, ",")
		if tag == "-" || !f.IsExported() && !f.Anonymous {
			continue
		}
		if f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct {
			first = e.fields(v.Field(i), first)
			continue
		}
		if !f.IsExported() {
			continue
		}
		value := v.Field(i)
		if left(options, value) {
			continue
		}
		if name == "" {
			name = f.Name
		}
		if !first {
			e.b = append(e.b, ',')
		}
		first = false
		e.text(name)
		e.b = append(e.b, ':')
		if hasOption(options, "string") {
			e.quoted(value)
		} else {
			e.value(value)
		}
	}
	return first
}

func hasOption(options, name string) bool {
	for o := range strings.SplitSeq(options, ",") {
		if o == name {
			return true
		}
	}
	return false
}

// left tells whether a field is left out.
func left(options string, v reflect.Value) bool {
	if options == "" {
		return false
	}
	if hasOption(options, "omitempty") {
		switch v.Kind() {
		case reflect.Slice, reflect.Map, reflect.String, reflect.Array:
			if v.Len() == 0 {
				return true
			}
		case reflect.Struct:
		default:
			if v.IsZero() {
				return true
			}
		}
	}
	if !hasOption(options, "omitzero") {
		return false
	}
	if z, ok := v.Interface().(interface{ IsZero() bool }); ok {
		return z.IsZero()
	}
	return v.IsZero()
}

// quoted writes a number or a boolean inside of a string (the option "string").
func (e *encoder) quoted(v reflect.Value) {
	switch v.Kind() {
	case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		e.b = append(e.b, '"')
		e.value(v)
		e.b = append(e.b, '"')
	default:
		e.err = fmt.Errorf("encode JSON: the option string of a %s", v.Type())
	}
}

func (e *encoder) dictionary(v reflect.Value) {
	k := v.Type().Key()
	switch {
	case v.IsNil():
		e.null()
		return
	case k.Kind() != reflect.String || k.Implements(textMarshaler):
		e.leave(v)
		return
	}
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
	e.b = append(e.b, '{')
	for i, key := range keys {
		if i > 0 {
			e.b = append(e.b, ',')
		}
		e.text(key.String())
		e.b = append(e.b, ':')
		e.value(v.MapIndex(key))
	}
	e.b = append(e.b, '}')
}

func (e *encoder) array(v reflect.Value) {
	switch {
	case v.Kind() == reflect.Slice && v.IsNil():
		e.null()
		return
	case v.Type().Elem().Kind() == reflect.Uint8:
		e.leave(v) // base64, or an array of numbers
		return
	}
	e.b = append(e.b, '[')
	for i := range v.Len() {
		if i > 0 {
			e.b = append(e.b, ',')
		}
		e.value(v.Index(i))
	}
	e.b = append(e.b, ']')
}

// text writes a string. One with bytes that need an escape, which is rare, is
// left to encoding/json.
func (e *encoder) text(s string) {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || strings.IndexByte(`"\<>&`, c) >= 0 {
			b, err := json.Marshal(s)
			if err != nil && e.err == nil {
				e.err = err
			}
			e.b = append(e.b, b...)
			return
		}
	}
	e.b = append(append(append(e.b, '"'), s...), '"')
}
