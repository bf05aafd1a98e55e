package devicebpf

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// run is an interpreter of the few instructions that programs here have. It
// decodes them itself, so that a mistake in encoding shows.
func run(t testing.TB, code []byte, kind uint8, access uint8, major, minor uint32) bool {
	t.Helper()
	var r [11]uint64
	ctx := map[int16]uint32{0: uint32(access)<<16 | uint32(kind), 4: major, 8: minor}
	for pc, steps := 0, 0; ; pc++ {
		if steps++; steps > len(code) {
			t.Fatal("the program does not end")
		}
		in := code[8*pc : 8*pc+8]
		dst, src := in[1]&15, in[1]>>4
		if bigEndian() {
			dst, src = src, dst
		}
		off := int16(binary.NativeEndian.Uint16(in[2:]))
		imm := int32(binary.NativeEndian.Uint32(in[4:]))
		jump := false
		switch in[0] {
		case 0x61:
			r[dst] = uint64(ctx[off])
		case 0xbf:
			r[dst] = r[src]
		case 0xb7:
			r[dst] = uint64(int64(imm))
		case 0x54:
			r[dst] = uint64(uint32(r[dst]) & uint32(imm))
		case 0x74:
			r[dst] = uint64(uint32(r[dst]) >> uint32(imm))
		case 0x55:
			jump = r[dst] != uint64(int64(imm))
		case 0x56:
			jump = uint32(r[dst]) != uint32(imm)
		case 0x15:
			jump = r[dst] == uint64(int64(imm))
		case 0x95:
			return r[0] == 1
		default:
			t.Fatalf("opcode %#x", in[0])
		}
		if jump {
			pc += int(off)
		}
	}
}

// allowed says what rules mean: the last rule that matches decides on each kind
// of access.
func allowed(rules []Rule, kind byte, access uint8, major, minor int64) bool {
	for bit := uint8(1); bit < 8; bit <<= 1 {
		if access&bit == 0 {
			continue
		}
		ok := false
		for _, r := range rules {
			if r.Access&bit != 0 && (r.Type == 'a' || r.Type == kind) && (r.Major == Any || r.Major == major) && (r.Minor == Any || r.Minor == minor) {
				ok = r.Allow
			}
		}
		if !ok {
			return false
		}
	}
	return true
}

func check(t testing.TB, rng *rand.Rand) {
	numbers := []int64{Any, 0, 1, 5, 136, 1<<20 - 1}
	var rules []Rule
	for range rng.IntN(10) {
		rules = append(rules, Rule{
			Allow: rng.IntN(2) == 0, Type: "abc"[rng.IntN(3)], Access: uint8(1 + rng.IntN(7)),
			Major: numbers[rng.IntN(len(numbers))], Minor: numbers[rng.IntN(len(numbers))],
		})
	}
	code := Compile(rules)
	free := Unrestricted(rules)
	for kind, number := range map[byte]uint8{'b': devBlock, 'c': devChar} {
		for access := uint8(1); access < 8; access++ {
			for _, major := range numbers[1:] {
				for _, minor := range numbers[1:] {
					want := allowed(rules, kind, access, major, minor)
					if got := run(t, code, number, access, uint32(major), uint32(minor)); got != want {
						t.Fatalf("%c %d:%d access %d: %v, want %v; rules %+v", kind, major, minor, access, got, want, rules)
					}
					if free && !want {
						t.Fatalf("called unrestricted, but %c %d:%d is denied; rules %+v", kind, major, minor, rules)
					}
				}
			}
		}
	}
}

func TestProgramMeansTheRules(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 2000 {
		check(t, rng)
	}
}

func FuzzProgram(f *testing.F) {
	f.Add(uint64(1), uint64(1))
	f.Fuzz(func(t *testing.T, a, b uint64) { check(t, rand.New(rand.NewPCG(a, b))) })
}

func TestUnrestricted(t *testing.T) {
	all := Rule{Allow: true, Type: 'a', Major: Any, Minor: Any, Access: AllAccess}
	none := all
	none.Allow = false
	for i, tc := range []struct {
		rules []Rule
		want  bool
	}{
		{nil, false}, {[]Rule{all}, true}, {[]Rule{none}, false}, {[]Rule{all, none}, false}, {[]Rule{none, all}, true},
		{[]Rule{all, {Type: 'c', Major: 1, Minor: 1, Access: Read}}, false},
		{[]Rule{all, {Allow: true, Type: 'c', Major: 1, Minor: 1, Access: Read}}, true},
		{[]Rule{{Allow: true, Type: 'c', Major: Any, Minor: Any, Access: AllAccess}}, false},
	} {
		if got := Unrestricted(tc.rules); got != tc.want {
			t.Errorf("case %d: %v", i, got)
		}
	}
}
