package build

import (
	"fmt"
	"strconv"
	"strings"
)

// modeChange is what --chmod says: a number, or changes as chmod(1) reads them.
type modeChange struct {
	text    string
	number  *uint32
	clauses []modeClause
}

type modeClause struct {
	who  uint32 // bits of those that are meant
	op   byte   // '+', '-', '='
	perm string // of "rwxXstugo"
}

func (m *modeChange) String() string {
	if m == nil {
		return ""
	}
	return m.text
}

// parseMode reads an octal number or a list of clauses such as u=rwX,go-w.
func parseMode(s string) (*modeChange, error) {
	bad := fmt.Errorf("invalid chmod parameter: '%s'. it should be octal string and between 0 and 07777", s)
	if s != "" && strings.Trim(s, "01234567") == "" {
		n, err := strconv.ParseUint(s, 8, 32)
		if err != nil || n > 0o7777 {
			return nil, bad
		}
		v := uint32(n)
		return &modeChange{text: s, number: &v}, nil
	}
	m := &modeChange{text: s}
	for text := range strings.SplitSeq(s, ",") {
		n := strings.IndexAny(text, "+-=")
		if n < 0 {
			return nil, bad
		}
		who, rest := uint32(0), text[n:]
		for _, c := range text[:n] {
			bits, ok := map[rune]uint32{'u': 0o4700, 'g': 0o2070, 'o': 0o1007, 'a': 0o7777}[c]
			if !ok {
				return nil, bad
			}
			who |= bits
		}
		if who == 0 {
			who = 0o7777
		}
		for rest != "" {
			end := 1 + strings.IndexAny(rest[1:]+"+", "+-=")
			perm := rest[1:end]
			if strings.Trim(perm, "rwxXstugo") != "" {
				return nil, bad
			}
			m.clauses = append(m.clauses, modeClause{who, rest[0], perm})
			rest = rest[end:]
		}
	}
	return m, nil
}

// apply gives the permission bits of a file that had mode.
func (m *modeChange) apply(mode uint32, dir bool) uint32 {
	if m.number != nil {
		return *m.number
	}
	for _, c := range m.clauses {
		bits := c.bits(mode, dir) & c.who
		switch c.op {
		case '+':
			mode |= bits
		case '-':
			mode &^= bits
		default:
			keep := uint32(0)
			if dir { // as chmod(1): set-id bits of directories stay unless they are named
				keep = mode & 0o6000
			}
			mode = mode&^c.who | bits | keep
		}
	}
	return mode & 0o7777
}

func (c modeClause) bits(mode uint32, dir bool) uint32 {
	var b uint32
	for _, p := range c.perm {
		switch p {
		case 'r':
			b |= 0o444
		case 'w':
			b |= 0o222
		case 'x':
			b |= 0o111
		case 'X':
			if dir || mode&0o111 != 0 {
				b |= 0o111
			}
		case 's':
			b |= 0o6000
		case 't':
			b |= 0o1000
		case 'u':
			b |= (mode >> 6 & 7) * 0o111
		case 'g':
			b |= (mode >> 3 & 7) * 0o111
		case 'o':
			b |= (mode & 7) * 0o111
		}
	}
	return b
}
