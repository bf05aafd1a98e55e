package seccomp

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// badArch is what a call of an unlisted architecture gets, as in libseccomp.
const badArch = unix.SECCOMP_RET_KILL_THREAD

// leaf is the outcome for a system call: a plain return value, or rules to be
// tried in order, with ret if none holds.
type leaf struct {
	ret   uint32
	rules []uint64 // as in profile.refs; nil for a plain return
	arch  archID
}

// section is the search over the calls of one AUDIT_ARCH.
type section struct {
	p      *profile
	leaves []leaf
	spans  []span
}

// assemble makes the program: a dispatch on the architecture, then a search
// over the call's number for each.
func (p *profile) assemble() []unix.SockFilter {
	a := &assembler{code: make([]unix.SockFilter, 0, 1024)}
	type entry struct {
		audit uint32
		at    label
	}
	var entries []entry
	for i := len(p.archs) - 1; i >= 0; i-- {
		audit := arches[p.archs[i]].audit
		if slices.ContainsFunc(entries, func(e entry) bool { return e.audit == audit }) {
			continue
		}
		s := p.section(audit)
		at := a.search(s.spans, func(i int) label { return s.place(a, i) })
		entries = append(entries, entry{audit, a.loadBefore(at, offsetNr)})
	}
	next := a.ret(badArch)
	for _, e := range entries { // the native architecture was put last and is tested first
		next = a.jump(opEQ, e.audit, e.at, next)
	}
	a.loadBefore(next, offsetArch)
	return a.program()
}

// section lays out all call numbers of an AUDIT_ARCH.
func (p *profile) section(audit uint32) *section {
	s := &section{p: p, spans: make([]span, 0, 256)}
	if audit != unix.AUDIT_ARCH_X86_64 {
		id := p.archs[slices.IndexFunc(p.archs, func(id archID) bool { return arches[id].audit == audit })]
		s.add(id, 0, none)
		return s
	}
	s.addOrKill(archX86_64, 0, x32Bit-1)
	s.addOrKill(archX32, x32Bit, none-1)
	// A tracer skips a call by setting its number to -1, which is not a call
	// of x32 although it has the bit.
	s.addOrKill(archX86_64, none, none)
	return s
}

// addOrKill adds the calls of an architecture, or kills if it is not listed.
func (s *section) addOrKill(id archID, from, to uint32) {
	if !slices.Contains(s.p.archs, id) {
		s.push(from, s.plain(badArch))
		return
	}
	s.add(id, from, to)
}

// beyond is the outcome of calls above the highest one in the profile.
func (p *profile) beyond(id archID) uint32 {
	if p.enosys && p.last[id] != none {
		return unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	}
	return p.def
}

// add lays out the numbers from..to of an architecture.
func (s *section) add(id archID, from, to uint32) {
	refs := s.p.refs[id]
	slices.Sort(refs)
	def := s.plain(s.p.def)
	pos := from
	if from == none {
		refs = nil // no call has this number
	}
	for len(refs) > 0 {
		nr := uint32(refs[0] >> 32)
		n := 1
		for n < len(refs) && uint32(refs[n]>>32) == nr {
			n++
		}
		if nr > pos {
			s.push(pos, def)
		}
		s.push(nr, s.outcome(id, refs[:n]))
		pos = nr + 1
		refs = refs[n:]
	}
	if last := s.p.last[id]; last != none && pos <= last {
		s.push(pos, def)
		pos = last + 1
	}
	if pos <= to {
		s.push(pos, s.plain(s.p.beyond(id)))
	}
}

// push begins a span unless the one before it has the same outcome.
func (s *section) push(start uint32, leaf int) {
	if n := len(s.spans); n > 0 && s.spans[n-1].leaf == leaf {
		return
	}
	s.spans = append(s.spans, span{start, leaf})
}

// plain gives the leaf that returns a value.
func (s *section) plain(ret uint32) int {
	for i := range s.leaves {
		if s.leaves[i].rules == nil && s.leaves[i].ret == ret {
			return i
		}
	}
	s.leaves = append(s.leaves, leaf{ret: ret})
	return len(s.leaves) - 1
}

// outcome gives the leaf for the rules of one call.
func (s *section) outcome(id archID, refs []uint64) int {
	for _, r := range refs {
		if rule := &s.p.rules[uint32(r)]; len(rule.conds) == 0 {
			return s.plain(rule.ret)
		}
	}
	s.leaves = append(s.leaves, leaf{ret: s.p.def, rules: refs, arch: id})
	return len(s.leaves) - 1
}

// place puts the code of a leaf.
func (s *section) place(a *assembler, i int) label {
	l := &s.leaves[i]
	if l.rules == nil {
		return a.ret(l.ret)
	}
	m := &arches[l.arch]
	next := a.ret(l.ret)
	for end := len(l.rules); end > 0; {
		begin := s.run(l.rules[:end])
		r := s.rule(l.rules[begin])
		yes := a.ret(r.ret)
		if end-begin > 1 {
			next = s.placeSet(a, m, l.rules[begin:end], yes, next)
		} else {
			// The first condition is tested first, so it is put last.
			at := yes
			for c := len(r.conds) - 1; c >= 0; c-- {
				at = a.test(m, &r.conds[c], at, next)
			}
			next = at
		}
		end = begin
	}
	return next
}

func (s *section) rule(ref uint64) *rule { return &s.p.rules[uint32(ref)] }

// run finds where the longest tail of rules begins that differ only in the
// value with which one argument is compared for equality, with nothing in the
// upper half: such rules (Docker's profile has thirty for socket) become one
// search.
func (s *section) run(refs []uint64) int {
	last := len(refs) - 1
	if !s.rule(refs[last]).isSmallEqual() {
		return last
	}
	begin := last
	for begin > 0 {
		r, l := s.rule(refs[begin-1]), s.rule(refs[last])
		if !r.isSmallEqual() || r.ret != l.ret || r.conds[0].index != l.conds[0].index {
			break
		}
		begin--
	}
	return begin
}

func (r *rule) isSmallEqual() bool {
	return len(r.conds) == 1 && r.conds[0].op == specs.OpEqualTo && r.conds[0].value < uint64(none)
}

// placeSet puts a test whether an argument is among the values of the rules.
func (s *section) placeSet(a *assembler, m *arch, refs []uint64, yes, no label) label {
	values := make([]uint32, len(refs))
	for i, ref := range refs {
		values[i] = uint32(s.rule(ref).conds[0].value)
	}
	slices.Sort(values)
	values = slices.Compact(values)
	set := &section{}
	if values[0] > 0 {
		set.push(0, 0)
	}
	for i, v := range values {
		set.push(v, 1)
		if i+1 == len(values) || values[i+1] != v+1 {
			set.push(v+1, 0)
		}
	}
	low, high := m.words(s.rule(refs[0]).conds[0].index)
	at := a.search(set.spans, func(i int) label {
		if i == 1 {
			return yes
		}
		return no
	})
	at = a.loadBefore(at, low)
	if m.wide {
		at = a.loadBefore(a.jump(opEQ, 0, at, no), high)
	}
	return at
}
