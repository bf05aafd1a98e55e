package plan

import (
	"encoding/binary"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The processors that a process may run on, and the memory nodes that it takes
// memory from, are masks of bits in words of the machine.

// maskBits bounds both: more than CONFIG_NR_CPUS and CONFIG_NODES_SHIFT allow.
const maskBits = 8192

// parseList reads a list like "0-3,7" into a mask of whole words, the shortest
// that holds it.
func parseList(list string) ([]byte, error) {
	mask := make([]byte, 8)
	for part := range strings.SplitSeq(list, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		low, high, isRange := strings.Cut(part, "-")
		from, err := strconv.ParseUint(low, 10, 32)
		to := from
		if err == nil && isRange {
			to, err = strconv.ParseUint(high, 10, 32)
		}
		if err != nil || to < from || to >= maskBits {
			return nil, errorf("%q is neither a number below %d nor a range of such", part, maskBits)
		}
		for len(mask)*8 <= int(to) {
			mask = append(mask, make([]byte, 8)...)
		}
		for i := from; i <= to; i++ {
			word := mask[i/64*8:]
			binary.NativeEndian.PutUint64(word, binary.NativeEndian.Uint64(word)|1<<(i%64))
		}
	}
	return mask, nil
}

// AffinityMask gives a list of processors as a number, for logs: "0x3". It is
// empty when the list is, or cannot be read.
func AffinityMask(list string) string {
	mask, err := parseList(list)
	if err != nil || strings.TrimSpace(list) == "" {
		return ""
	}
	s := ""
	for i := len(mask) - 8; i >= 0; i -= 8 {
		s += strconv.FormatUint(binary.NativeEndian.Uint64(mask[i:]), 16)
	}
	return "0x" + s
}

// anyCPU lets the process run wherever its groups allow. It would keep the mask
// of who started the runtime else: since Linux 6.2 entering a cpuset does not
// take back what sched_setaffinity(2) asked for. The kernel masks out of "all"
// what is not allowed.
func (c *compiler) anyCPU() {
	b := c.b
	b.begin("affinity", "let the process run on every processor that its groups allow")
	all := make([]byte, maskBits/8)
	for i := range all {
		all[i] = 0xff
	}
	b.do(unix.SYS_SCHED_SETAFFINITY, n(0), n(len(all)), ptr(b.bytes(all))).tolerateAll()
}

// execAffinity is process.execCPUAffinity.initial: where the process runs before
// it is in the container's groups. With control groups v2 it is born in them,
// so the parent takes the mask for the clone, and takes its own again after.
func (c *compiler) execAffinity() {
	a := c.spec.Process.ExecCPUAffinity
	if a == nil {
		return
	}
	for _, list := range []string{a.Initial, a.Final} {
		if _, err := parseList(list); err != nil {
			c.b.fail(errorf("execCPUAffinity: %w", err))
			return
		}
	}
	if a.Initial == "" {
		return
	}
	mask, _ := parseList(a.Initial)
	b := c.b
	b.prog.Pinned = true
	b.in(&b.prog.Before)
	b.begin("affinity", "run on the processors "+a.Initial+" until the process is in its groups")
	own := b.buf(maskBits / 8)
	b.do(unix.SYS_SCHED_GETAFFINITY, n(0), n(maskBits/8), ptr(own))
	b.do(unix.SYS_SCHED_SETAFFINITY, n(0), n(len(mask)), ptr(b.bytes(mask)))
	b.in(&b.prog.After)
	b.begin("affinity", "run on the own processors again")
	back := func() { b.do(unix.SYS_SCHED_SETAFFINITY, n(0), n(maskBits/8), ptr(own)) }
	back()
	b.undoFirst(back)
	b.in(&b.prog.Child)
}

// finalAffinity is where an executed process runs in the end.
func (c *compiler) finalAffinity() {
	a := c.spec.Process.ExecCPUAffinity
	if a == nil || a.Final == "" {
		if a == nil || a.Initial == "" {
			c.anyCPU()
		}
		return
	}
	mask, err := parseList(a.Final)
	if err != nil {
		return // execAffinity has said so
	}
	b := c.b
	b.begin("affinity", "let the process run on the processors "+a.Final)
	b.do(unix.SYS_SCHED_SETAFFINITY, n(0), n(len(mask)), ptr(b.bytes(mask)))
}

// memoryModes and memoryFlags are those of set_mempolicy(2), linux/mempolicy.h.
var memoryModes = map[specs.MemoryPolicyModeType]int{
	specs.MpolDefault: 0, specs.MpolPreferred: 1, specs.MpolBind: 2, specs.MpolInterleave: 3,
	specs.MpolLocal: 4, specs.MpolPreferredMany: 5, specs.MpolWeightedInterleave: 6,
}

var memoryFlags = map[specs.MemoryPolicyFlagType]int{
	specs.MpolFStaticNodes: 1 << 15, specs.MpolFRelativeNodes: 1 << 14, specs.MpolFNumaBalancing: 1 << 13,
}

// memoryPolicy is from which nodes the process takes memory.
func (c *compiler) memoryPolicy(m *specs.LinuxMemoryPolicy) {
	b := c.b
	mode, ok := memoryModes[m.Mode]
	if !ok {
		b.fail(errorf("invalid memory policy mode %q", m.Mode))
		return
	}
	for _, f := range m.Flags {
		bit, ok := memoryFlags[f]
		if !ok {
			b.fail(errorf("invalid memory policy flag %q", f))
			return
		}
		mode |= bit
	}
	mask, err := parseList(m.Nodes)
	if err != nil {
		b.fail(errorf("invalid memory policy nodes %q: %w", m.Nodes, err))
		return
	}
	count := 0
	for _, part := range mask {
		count += bits.OnesCount8(part)
	}
	if none := m.Mode == specs.MpolDefault || m.Mode == specs.MpolLocal; none && count > 0 {
		b.fail(errorf("invalid memory policy: %s mode requires 0 nodes but got %d", m.Mode, count))
		return
	}
	b.begin("mempolicy", "take memory by the policy "+string(m.Mode)+" (set_mempolicy)")
	if strings.TrimSpace(m.Nodes) == "" {
		b.do(unix.SYS_SET_MEMPOLICY, n(mode), n(0), n(0))
		return
	}
	// The kernel reads one bit less than it is told (get_nodes, mm/mempolicy.c).
	b.do(unix.SYS_SET_MEMPOLICY, n(mode), ptr(b.bytes(mask)), n(len(mask)*8+1))
}

// MemoryPolicyNames lists the modes and flags that are known, sorted.
func MemoryPolicyNames() (modes, flags []string) {
	for m := range memoryModes {
		modes = append(modes, string(m))
	}
	for f := range memoryFlags {
		flags = append(flags, string(f))
	}
	slices.Sort(modes)
	slices.Sort(flags)
	return modes, flags
}
