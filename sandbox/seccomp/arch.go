package seccomp

import (
	"runtime"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

//go:generate go run ./gentable

// call is one system call and its number on each architecture.
type call struct {
	name string
	nr   [archCount]uint32
}

// none marks an architecture that does not have a call.
const none = ^uint32(0)

// x32Bit distinguishes the calls of x32 from those of x86_64: both have the
// same AUDIT_ARCH.
const x32Bit = 0x40000000

// archID is a column of the table; gentable knows the same order.
type archID int

const (
	archX86_64 archID = iota
	archX86
	archX32
	archAARCH64
	archARM
	archRISCV64
	archLOONGARCH64
	archPPC64LE
	archPPC64
	archPPC
	archS390X
	archMIPS
	archMIPSEL
	archMIPS64
	archMIPSEL64
	archCount
)

// arch says how an architecture looks to a filter.
type arch struct {
	name   specs.Arch
	goarch string
	audit  uint32 // seccomp_data.arch
	wide   bool   // arguments are compared in 64 bits; libseccomp's 32-bit ABIs compare the low half
	big    bool   // big-endian: the high half of an argument comes first
	multi  bool   // has the multiplexers socketcall(2) and ipc(2)
}

var arches = [archCount]arch{
	archX86_64:      {specs.ArchX86_64, "amd64", unix.AUDIT_ARCH_X86_64, true, false, false},
	archX86:         {specs.ArchX86, "386", unix.AUDIT_ARCH_I386, false, false, true},
	archX32:         {specs.ArchX32, "", unix.AUDIT_ARCH_X86_64, false, false, false},
	archAARCH64:     {specs.ArchAARCH64, "arm64", unix.AUDIT_ARCH_AARCH64, true, false, false},
	archARM:         {specs.ArchARM, "arm", unix.AUDIT_ARCH_ARM, false, false, false},
	archRISCV64:     {specs.ArchRISCV64, "riscv64", unix.AUDIT_ARCH_RISCV64, true, false, false},
	archLOONGARCH64: {specs.ArchLOONGARCH64, "loong64", unix.AUDIT_ARCH_LOONGARCH64, true, false, false},
	archPPC64LE:     {specs.ArchPPC64LE, "ppc64le", unix.AUDIT_ARCH_PPC64LE, true, false, true},
	archPPC64:       {specs.ArchPPC64, "ppc64", unix.AUDIT_ARCH_PPC64, true, true, true},
	archPPC:         {specs.ArchPPC, "ppc", unix.AUDIT_ARCH_PPC, false, true, true},
	archS390X:       {specs.ArchS390X, "s390x", unix.AUDIT_ARCH_S390X, true, true, true},
	archMIPS:        {specs.ArchMIPS, "mips", unix.AUDIT_ARCH_MIPS, false, true, true},
	archMIPSEL:      {specs.ArchMIPSEL, "mipsle", unix.AUDIT_ARCH_MIPSEL, false, false, true},
	archMIPS64:      {specs.ArchMIPS64, "mips64", unix.AUDIT_ARCH_MIPS64, true, true, false},
	archMIPSEL64:    {specs.ArchMIPSEL64, "mips64le", unix.AUDIT_ARCH_MIPSEL64, true, false, false},
}

// Native is the architecture this binary runs on, or "" if there is no table
// for it.
func Native() specs.Arch {
	for i := range arches {
		if arches[i].goarch == runtime.GOARCH {
			return arches[i].name
		}
	}
	return ""
}

// Number gives the number of a system call on an architecture as a filter sees
// it (for x32 with its high bit set); false if the table has no such pair.
func Number(a specs.Arch, name string) (uint32, bool) {
	id, ok := findArch(a)
	if !ok {
		return 0, false
	}
	c := (&finder{}).find(name)
	if c == nil || c.nr[id] == none {
		return 0, false
	}
	return c.nr[id], true
}

func findArch(name specs.Arch) (archID, bool) {
	for i := range arches {
		if arches[i].name == name {
			return archID(i), true
		}
	}
	return 0, false
}

// finder looks names up in the table. Profiles list names in order, so it
// begins where the last one was found.
type finder struct{ pos int }

// find gives the call with a name, nil if there is none.
func (f *finder) find(name string) *call {
	low, high := 0, len(calls)
	if name >= calls[f.pos].name {
		low = f.pos
		for step := 1; low+step < high; step *= 2 {
			if calls[low+step].name > name {
				high = low + step
				break
			}
			low += step
		}
	} else {
		high = f.pos
	}
	for low+1 < high {
		if mid := int(uint(low+high) / 2); calls[mid].name <= name {
			low = mid
		} else {
			high = mid
		}
	}
	if low >= high || calls[low].name != name {
		return nil
	}
	f.pos = low
	return &calls[low]
}
