package seccomp

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	moby "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// data is struct seccomp_data.
type data struct {
	nr, audit uint32
	args      [6]uint64
}

// machine runs a program; x/net/bpf loads words in big-endian order, so data is
// laid out that way, with the halves of arguments where the architecture has
// them.
type machine struct{ vm *bpf.VM }

func newMachine(t testing.TB, insns []unix.SockFilter) machine {
	t.Helper()
	raw := make([]bpf.RawInstruction, len(insns))
	for i, in := range insns {
		raw[i] = bpf.RawInstruction{Op: in.Code, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	prog, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("the program has an instruction that is not BPF")
	}
	vm, err := bpf.NewVM(prog)
	if err != nil {
		t.Fatalf("the program is not valid: %v", err)
	}
	return machine{vm}
}

func (m machine) run(t testing.TB, d data, big bool) uint32 {
	t.Helper()
	var mem [64]byte
	binary.BigEndian.PutUint32(mem[0:], d.nr)
	binary.BigEndian.PutUint32(mem[4:], d.audit)
	for i, v := range d.args {
		low, high := 16+8*i, 20+8*i
		if big {
			low, high = high, low
		}
		binary.BigEndian.PutUint32(mem[low:], uint32(v))
		binary.BigEndian.PutUint32(mem[high:], uint32(v>>32))
	}
	r, err := m.vm.Run(mem[:])
	if err != nil {
		t.Fatal(err)
	}
	return uint32(r)
}

// reference says what a profile means, straight from its text.
type reference struct {
	cfg   *specs.LinuxSeccomp
	archs []specs.Arch
}

func (r reference) archOf(d data) (archID, bool) {
	for _, name := range r.archs {
		id, _ := findArch(name)
		x32 := d.nr >= x32Bit && d.nr != ^uint32(0)
		if arches[id].audit == d.audit && (d.audit != unix.AUDIT_ARCH_X86_64 || x32 == (id == archX32)) {
			return id, true
		}
	}
	return 0, false
}

func (r reference) want(d data) uint32 {
	id, ok := r.archOf(d)
	if !ok {
		return unix.SECCOMP_RET_KILL_THREAD
	}
	def, _ := action(r.cfg.DefaultAction, r.cfg.DefaultErrnoRet)
	highest, any := uint32(0), false
	conditional := uint32(0)
	found := false
	for _, s := range r.cfg.Syscalls {
		ret, _ := action(s.Action, s.ErrnoRet)
		for _, name := range s.Names {
			nr, ok := Number(arches[id].name, name)
			if ok {
				any = true
				highest = max(highest, nr)
			}
			if ret == def {
				continue
			}
			if ok && nr == d.nr && len(s.Args) == 0 {
				return ret
			}
			if ok && nr == d.nr && !found && holds(arches[id], s.Args, d.args) {
				conditional, found = ret, true
			}
			if !arches[id].multi || (len(s.Args) > 0 && !stricter(ret, def)) {
				continue
			}
			// Its multiplexer counts as named by the profile too.
			through, number := multiplexer(name)
			if nr, ok := Number(arches[id].name, through); ok {
				highest = max(highest, nr)
				if !found && nr == d.nr && multiplexes(through, number, d.args[0]) {
					conditional, found = ret, true
				}
			}
		}
	}
	if found {
		return conditional
	}
	if any && d.nr > highest && def != unix.SECCOMP_RET_ALLOW && def != unix.SECCOMP_RET_LOG {
		return unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	}
	return def
}

func multiplexes(through string, number, arg uint64) bool {
	if through == "ipc" {
		return arg&0xffff == number
	}
	return arg&0xffffffff == number
}

func holds(m arch, conds []specs.LinuxSeccompArg, args [6]uint64) bool {
	var count [6]int
	all, some := true, false
	for _, c := range conds {
		count[c.Index]++
		v := args[c.Index]
		value, two := c.Value, c.ValueTwo
		if !m.wide {
			v, value, two = v&0xffffffff, value&0xffffffff, two&0xffffffff
		}
		ok := map[specs.LinuxSeccompOperator]bool{
			specs.OpEqualTo: v == value, specs.OpNotEqual: v != value,
			specs.OpLessThan: v < value, specs.OpLessEqual: v <= value,
			specs.OpGreaterThan: v > value, specs.OpGreaterEqual: v >= value,
			specs.OpMaskedEqual: v&value == two&value,
		}[c.Op]
		all, some = all && ok, some || ok
	}
	if slices.Max(count[:]) > 1 {
		return some
	}
	return all
}

// compare tries a filter on every number near a rule and on random ones.
func compare(t testing.TB, cfg *specs.LinuxSeccomp, native specs.Arch, rng *rand.Rand, tries int) {
	t.Helper()
	f, err := CompileFor(cfg, native)
	if err != nil {
		t.Fatal(err)
	}
	ref := reference{cfg, append([]specs.Arch{native}, cfg.Architectures...)}
	m := newMachine(t, f.Insns)
	values := []uint64{0, 1, ^uint64(0), 1 << 32, 1<<32 - 1, 1 << 31}
	for _, s := range cfg.Syscalls {
		for _, a := range s.Args {
			values = append(values, a.Value, a.Value+1, a.Value-1, a.ValueTwo, a.Value|1<<40, a.Value<<32)
		}
	}
	check := func(d data) {
		id, _ := ref.archOf(d)
		if got, want := m.run(t, d, arches[id].big), ref.want(d); got != want {
			t.Fatalf("arch %#x nr %#x args %#x: got %#x, want %#x", d.audit, d.nr, d.args, got, want)
		}
	}
	random := func(audit, nr uint32) data {
		d := data{nr: nr, audit: audit}
		for i := range d.args {
			d.args[i] = values[rng.IntN(len(values))]
			if rng.IntN(4) == 0 {
				d.args[i] = rng.Uint64()
			}
		}
		return d
	}
	audits := []uint32{unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_AARCH64, 0, unix.AUDIT_ARCH_PPC}
	for _, name := range ref.archs {
		id, _ := findArch(name)
		audits = append(audits, arches[id].audit)
		for _, s := range cfg.Syscalls {
			for _, n := range s.Names {
				if nr, ok := Number(name, n); ok {
					for off := range uint32(3) {
						check(random(arches[id].audit, nr+off-1))
					}
				}
			}
		}
	}
	for range tries {
		nr := uint32(rng.IntN(600))
		switch rng.IntN(8) {
		case 0:
			nr = rng.Uint32()
		case 1:
			nr |= x32Bit
		case 2:
			nr = ^uint32(0)
		}
		check(random(audits[rng.IntN(len(audits))], nr))
	}
}

func dockerProfile(t testing.TB, caps ...string) *specs.LinuxSeccomp {
	t.Helper()
	p, err := moby.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestDockerProfileMeansTheSame(t *testing.T) {
	for _, caps := range [][]string{nil, {"CAP_SYS_ADMIN", "CAP_SYS_CHROOT"}} {
		cfg := dockerProfile(t, caps...)
		rng := rand.New(rand.NewPCG(1, 2))
		compare(t, cfg, specs.ArchX86_64, rng, 20000)
		f, _ := Compile(cfg)
		t.Logf("caps %v: %d instructions", caps, len(f.Insns))
	}
}

func TestOtherArchitectures(t *testing.T) {
	for i := range arches {
		cfg := dockerProfile(t)
		cfg.Architectures = []specs.Arch{specs.ArchARM, specs.ArchX86}
		compare(t, cfg, arches[i].name, rand.New(rand.NewPCG(uint64(i), 3)), 3000)
	}
}

// randomProfile makes profiles of a few names, so that rules meet.
func randomProfile(rng *rand.Rand) *specs.LinuxSeccomp {
	names := []string{"read", "write", "open", "openat", "socket", "connect", "semop", "shmget", "clone", "clone3", "personality",
		"socketcall", "ipc", "ptrace", "futex", "execve", "ioctl", "no_such_call", "kcmp", "mseal", "process_madvise"}
	actions := []specs.LinuxSeccompAction{specs.ActAllow, specs.ActErrno, specs.ActKillProcess, specs.ActKillThread, specs.ActTrap, specs.ActTrace, specs.ActLog}
	values := []uint64{0, 1, 2, 3, 38, 0x7e020000, 1 << 32, 1<<32 + 1, ^uint64(0), 0xffffffff}
	cfg := &specs.LinuxSeccomp{DefaultAction: actions[rng.IntN(len(actions))]}
	for range rng.IntN(3) {
		cfg.Architectures = append(cfg.Architectures, arches[rng.IntN(int(archCount))].name)
	}
	for range rng.IntN(40) {
		s := specs.LinuxSyscall{Action: actions[rng.IntN(len(actions))]}
		if s.Action == specs.ActErrno && rng.IntN(2) == 0 {
			e := uint(rng.IntN(100))
			s.ErrnoRet = &e
		}
		for range 1 + rng.IntN(3) {
			s.Names = append(s.Names, names[rng.IntN(len(names))])
		}
		for range rng.IntN(4) {
			s.Args = append(s.Args, specs.LinuxSeccompArg{
				Index: uint(rng.IntN(3)), Op: operators[rng.IntN(len(operators))],
				Value: values[rng.IntN(len(values))], ValueTwo: values[rng.IntN(len(values))],
			})
		}
		cfg.Syscalls = append(cfg.Syscalls, s)
	}
	return cfg
}

// sameArg gives many rules on one argument, so that jumps get long.
func sameArg(n int, step uint64) *specs.LinuxSeccomp {
	cfg := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}
	for i := range n {
		e := uint(i % 100)
		cfg.Syscalls = append(cfg.Syscalls, specs.LinuxSyscall{
			Names: []string{"socket"}, Action: specs.ActErrno, ErrnoRet: &e,
			Args: []specs.LinuxSeccompArg{{Index: 0, Value: uint64(i) * step, Op: specs.OpEqualTo}},
		})
	}
	return cfg
}

func TestRandomProfiles(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	for range 400 {
		compare(t, randomProfile(rng), arches[rng.IntN(int(archCount))].name, rng, 200)
	}
}

func TestLongJumps(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 8))
	compare(t, sameArg(300, 1), specs.ArchX86_64, rng, 2000)
	compare(t, sameArg(300, 1<<31), specs.ArchX86_64, rng, 2000)
	if _, err := CompileFor(sameArg(2000, 3), specs.ArchX86_64); err == nil {
		t.Error("a program above the kernel's limit is not refused")
	}
}

func FuzzCompile(f *testing.F) {
	f.Add(uint64(1), uint64(2))
	f.Add(uint64(99), uint64(0))
	f.Fuzz(func(t *testing.T, a, b uint64) {
		rng := rand.New(rand.NewPCG(a, b))
		compare(t, randomProfile(rng), arches[rng.IntN(int(archCount))].name, rng, 50)
	})
}

func TestNumbersAreTheKernels(t *testing.T) {
	if !slices.IsSortedFunc(calls[:], func(a, b call) int { return map[bool]int{true: -1, false: 1}[a.name < b.name] }) {
		t.Error("the table is not sorted")
	}
	for _, tc := range []struct {
		arch specs.Arch
		name string
		want uint32
	}{
		{specs.ArchX86_64, "openat2", 437}, {specs.ArchX86_64, "execve", 59}, {specs.ArchX32, "execve", x32Bit | 520},
		{specs.ArchX32, "read", x32Bit}, {specs.ArchX86, "socketcall", 102}, {specs.ArchAARCH64, "clone", 220},
		{specs.ArchARM, "set_tls", 0xf0005}, {specs.ArchARM, "arm_fadvise64_64", 270}, {specs.ArchARM, "sync_file_range2", 341},
		{specs.ArchRISCV64, "riscv_flush_icache", 259}, {specs.ArchX86_64, "listns", 470}, {specs.ArchX86, "mseal", 462},
		{specs.ArchMIPS, "read", 4003}, {specs.ArchS390X, "clone3", 435},
	} {
		if got, ok := Number(tc.arch, tc.name); !ok || got != tc.want {
			t.Errorf("%s %s = %d, %v; want %d", tc.arch, tc.name, got, ok, tc.want)
		}
	}
	for _, tc := range []struct {
		arch specs.Arch
		name string
	}{{specs.ArchAARCH64, "open"}, {specs.ArchX86_64, "socketcall"}, {specs.ArchX86_64, "nonsense"}, {"SCMP_ARCH_VAX", "read"}} {
		if nr, ok := Number(tc.arch, tc.name); ok {
			t.Errorf("%s has %s: %d", tc.arch, tc.name, nr)
		}
	}
}

func TestFindAnyOrder(t *testing.T) {
	var f finder
	for _, i := range rand.New(rand.NewPCG(4, 4)).Perm(len(calls)) {
		if c := f.find(calls[i].name); c != &calls[i] {
			t.Fatalf("%s is not found", calls[i].name)
		}
		for _, bad := range []string{"", "!", "zzz", calls[i].name + "x"} {
			if c := f.find(bad); c != nil && c.name != bad {
				t.Fatalf("%q finds %s", bad, c.name)
			}
		}
	}
}

// TestDockerNamesAreKnown fails when a profile names calls that our table
// should have: the table is then older than the profile.
func TestDockerNamesAreKnown(t *testing.T) {
	for _, s := range moby.DefaultProfile().Syscalls {
		for _, n := range s.Names {
			if (&finder{}).find(n) == nil {
				t.Errorf("%s is in no table", n)
			}
		}
	}
}

func TestFlagsAndListener(t *testing.T) {
	notify := []specs.LinuxSyscall{{Names: []string{"mount"}, Action: specs.ActNotify}}
	for i, tc := range []struct {
		cfg    specs.LinuxSeccomp
		flags  uint32
		notify bool
		ok     bool
	}{
		{specs.LinuxSeccomp{DefaultAction: specs.ActAllow}, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, false, true},
		{specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{}}, 0, false, true},
		{specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_TSYNC", specs.LinuxSeccompFlagLog}},
			unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_LOG, false, true},
		{specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagWaitKillableRecv}}, 0, false, true},
		{specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"X"}}, 0, false, false},
		{specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: notify, ListenerPath: "/s", ListenerMetadata: "m",
			Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagWaitKillableRecv, "SECCOMP_FILTER_FLAG_TSYNC"}},
			unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV | unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH, true, true},
		{specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: notify}, 0, false, false},
		{specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerMetadata: "m"}, 0, false, false},
		{specs.LinuxSeccomp{DefaultAction: specs.ActNotify, ListenerPath: "/s"}, 0, false, false},
		{specs.LinuxSeccomp{DefaultAction: "SCMP_ACT_DANCE"}, 0, false, false},
		{specs.LinuxSeccomp{}, 0, false, false},
		{specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{"SCMP_ARCH_VAX"}}, 0, false, false},
		{specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}}}}}, 0, false, false},
		{specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Op: "SCMP_CMP_ISH"}}}}}, 0, false, false},
	} {
		f, err := CompileFor(&tc.cfg, specs.ArchX86_64)
		if (err == nil) != tc.ok || f.Flags != tc.flags || f.Notify != tc.notify {
			t.Errorf("case %d: flags %#x notify %v err %v; want %#x %v", i, f.Flags, f.Notify, err, tc.flags, tc.notify)
		}
	}
	if f, err := Compile(nil); err != nil || f.Insns != nil || f.Bytes() != nil {
		t.Errorf("nil profile: %v %v", f, err)
	}
}

func BenchmarkCompileDocker(b *testing.B) {
	cfg := dockerProfile(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Compile(cfg); err != nil {
			b.Fatal(err)
		}
	}
}

func ExampleCompileFor() {
	f, _ := CompileFor(&specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow,
		Syscalls:      []specs.LinuxSyscall{{Names: []string{"mount"}, Action: specs.ActErrno}},
	}, specs.ArchAARCH64)
	for i, in := range f.Insns {
		fmt.Printf("%d: %#02x %d %d %#x\n", i, in.Code, in.Jt, in.Jf, in.K)
	}
	// Output:
	// 0: 0x20 0 0 0x4
	// 1: 0x15 1 0 0xc00000b7
	// 2: 0x06 0 0 0x0
	// 3: 0x20 0 0 0x0
	// 4: 0x15 0 1 0x28
	// 5: 0x06 0 0 0x50001
	// 6: 0x06 0 0 0x7fff0000
}
