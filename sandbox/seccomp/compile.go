// Package seccomp compiles an OCI seccomp profile to a classic BPF program.
//
// It is pure: nothing is loaded. The program finds the system call by binary
// search over ranges with the same outcome and looks at arguments only at the
// leaves, so that the kernel (5.11 and later) can cache what is always allowed.
//
// Where the OCI specification leaves a choice we do as libseccomp and runc:
//
//   - The native architecture is always in the filter, whether listed or not;
//     a call of an architecture that is not in the filter kills the thread.
//   - A name that no listed architecture has is skipped.
//   - A rule whose action is the default action is skipped.
//   - An unconditional rule for a call wins over conditional ones; of several
//     unconditional ones the first wins; conditional ones are tried in order.
//   - Several conditions on the same argument in one rule are alternatives.
//   - A call with a number above the highest one in the profile gives ENOSYS
//     instead of a denying default action, for the profile's author cannot have
//     known it, and programs fall back on ENOSYS but not on EPERM.
//   - Flags that are absent (not: empty) mean SECCOMP_FILTER_FLAG_SPEC_ALLOW.
package seccomp

import (
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// MaxInsns is the kernel's limit for one program (BPF_MAXINSNS).
const MaxInsns = 4096

// Filter is what seccomp(SECCOMP_SET_MODE_FILTER) needs.
type Filter struct {
	Insns        []unix.SockFilter
	Flags        uint32 // SECCOMP_FILTER_FLAG_*, with NEW_LISTENER if Notify
	Notify       bool   // seccomp(2) returns a listener that must be passed on
	ListenerPath string // socket that takes the listener
	Metadata     string // opaque, for the listener
}

// Bytes gives the instructions as struct sock_filter lie in memory on this
// machine. The result aliases Insns.
func (f *Filter) Bytes() []byte {
	if len(f.Insns) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&f.Insns[0])), len(f.Insns)*int(unsafe.Sizeof(f.Insns[0])))
}

// Compile compiles a profile for the architecture of this machine. A nil
// profile gives a filter without instructions: nothing is to be loaded.
func Compile(cfg *specs.LinuxSeccomp) (Filter, error) {
	return CompileFor(cfg, Native())
}

// CompileFor is Compile for another native architecture.
func CompileFor(cfg *specs.LinuxSeccomp, native specs.Arch) (Filter, error) {
	if cfg == nil {
		return Filter{}, nil
	}
	f, err := compile(cfg, native)
	if err != nil {
		return Filter{}, fmt.Errorf("compile seccomp profile: %w", err)
	}
	return f, nil
}

func compile(cfg *specs.LinuxSeccomp, native specs.Arch) (Filter, error) {
	p, err := parse(cfg, native)
	if err != nil {
		return Filter{}, err
	}
	f := Filter{Notify: p.notify, Metadata: cfg.ListenerMetadata}
	if f.Flags, err = flags(cfg, p.notify); err != nil {
		return Filter{}, err
	}
	switch {
	case p.notify && cfg.ListenerPath == "":
		return Filter{}, errors.New("SCMP_ACT_NOTIFY is used without a listenerPath that takes the notifications")
	case cfg.ListenerPath == "" && cfg.ListenerMetadata != "":
		return Filter{}, errors.New("listenerMetadata is set without a listenerPath")
	}
	if p.notify {
		f.ListenerPath = cfg.ListenerPath
	}
	f.Insns = p.assemble()
	if len(f.Insns) > MaxInsns {
		return Filter{}, fmt.Errorf("the program has %d instructions, the kernel takes %d: use fewer argument conditions or architectures", len(f.Insns), MaxInsns)
	}
	return f, nil
}

func flags(cfg *specs.LinuxSeccomp, notify bool) (uint32, error) {
	var bits uint32
	if cfg.Flags == nil {
		bits = unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
	}
	for _, f := range cfg.Flags {
		switch f {
		case "SECCOMP_FILTER_FLAG_TSYNC":
			bits |= unix.SECCOMP_FILTER_FLAG_TSYNC
		case specs.LinuxSeccompFlagLog:
			bits |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			bits |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		case specs.LinuxSeccompFlagWaitKillableRecv:
			// Without a listener the kernel refuses this flag.
			if notify {
				bits |= unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
			}
		default:
			return 0, fmt.Errorf("unknown flag %q", f)
		}
	}
	if notify {
		bits |= unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
		if bits&unix.SECCOMP_FILTER_FLAG_TSYNC != 0 {
			// Both change what the return value means; the kernel takes
			// them together only so (5.7).
			bits |= unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH
		}
	}
	return bits, nil
}

// profile is a parsed LinuxSeccomp.
type profile struct {
	archs  []archID // native first, no doubles
	def    uint32   // SECCOMP_RET_* of the default action
	enosys bool     // newer calls than the profile's give ENOSYS
	rules  []rule
	refs   [archCount][]uint64 // call number <<32 | index of rule
	last   [archCount]uint32   // highest call number named; none if no call is
	notify bool
	names  finder
}

// rule is one outcome under one set of conditions, all of which must hold.
type rule struct {
	ret   uint32
	conds []cond
}

func parse(cfg *specs.LinuxSeccomp, native specs.Arch) (*profile, error) {
	p := &profile{rules: make([]rule, 0, len(cfg.Syscalls)+32)}
	var err error
	if p.def, err = action(cfg.DefaultAction, cfg.DefaultErrnoRet); err != nil {
		return nil, fmt.Errorf("default action: %w", err)
	}
	if cfg.DefaultAction == specs.ActNotify {
		// The process could not even exec before somebody listens.
		return nil, errors.New("SCMP_ACT_NOTIFY cannot be the default action: the container could not start before its listener answers")
	}
	p.enosys = p.def != unix.SECCOMP_RET_ALLOW && p.def != unix.SECCOMP_RET_LOG
	if err := p.addArches(native, cfg.Architectures); err != nil {
		return nil, err
	}
	for i := range p.last {
		p.last[i] = none
	}
	for i := range cfg.Syscalls {
		if err := p.add(&cfg.Syscalls[i]); err != nil {
			return nil, fmt.Errorf("rule %d (%s): %w", i, first(cfg.Syscalls[i].Names), err)
		}
	}
	return p, nil
}

func first(names []string) string {
	if len(names) == 0 {
		return "no names"
	}
	return names[0]
}

func (p *profile) addArches(native specs.Arch, more []specs.Arch) error {
	for _, name := range append([]specs.Arch{native}, more...) {
		id, ok := findArch(name)
		if !ok {
			return fmt.Errorf("architecture %q: no table of its system calls", name)
		}
		if !slices.Contains(p.archs, id) {
			p.archs = append(p.archs, id)
		}
	}
	return nil
}

// action gives the SECCOMP_RET_* value of an action. The errno of ERRNO and the
// message of TRACE default to EPERM as in runc.
func action(a specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	data := uint32(unix.EPERM)
	if errno != nil {
		if *errno > unix.SECCOMP_RET_DATA {
			return 0, fmt.Errorf("errnoRet %d does not fit in 16 bits", *errno)
		}
		data = uint32(*errno)
	}
	switch a {
	case specs.ActErrno:
		return unix.SECCOMP_RET_ERRNO | data, nil
	case specs.ActTrace:
		return unix.SECCOMP_RET_TRACE | data, nil
	}
	if errno != nil {
		return 0, fmt.Errorf("errnoRet is only for SCMP_ACT_ERRNO and SCMP_ACT_TRACE, not %s", a)
	}
	switch a {
	case specs.ActKill, specs.ActKillThread:
		return unix.SECCOMP_RET_KILL_THREAD, nil
	case specs.ActKillProcess:
		return unix.SECCOMP_RET_KILL_PROCESS, nil
	case specs.ActTrap:
		return unix.SECCOMP_RET_TRAP, nil
	case specs.ActAllow:
		return unix.SECCOMP_RET_ALLOW, nil
	case specs.ActLog:
		return unix.SECCOMP_RET_LOG, nil
	case specs.ActNotify:
		return unix.SECCOMP_RET_USER_NOTIF, nil
	}
	return 0, fmt.Errorf("unknown action %q", a)
}

// add records one entry of the profile for each of its names on each
// architecture.
func (p *profile) add(s *specs.LinuxSyscall) error {
	ret, err := action(s.Action, s.ErrnoRet)
	if err != nil {
		return err
	}
	if ret == unix.SECCOMP_RET_USER_NOTIF {
		if slices.Contains(s.Names, "write") {
			return errors.New("SCMP_ACT_NOTIFY cannot be used for the write syscall: it would stop the runtime before it has passed the listener on")
		}
		p.notify = true
	}
	alternatives, err := conditions(s.Args)
	if err != nil {
		return err
	}
	own := interval{from: len(p.rules)}
	if ret != p.def {
		for _, conds := range alternatives {
			p.rules = append(p.rules, rule{ret, conds})
		}
	}
	own.to = len(p.rules)
	for _, name := range s.Names {
		c := p.names.find(name)
		if c == nil {
			continue
		}
		for _, a := range p.archs {
			p.refer(a, c.nr[a], own)
			if arches[a].multi && ret != p.def {
				p.demultiplex(a, name, ret, len(s.Args) > 0)
			}
		}
	}
	return nil
}

// interval is a range of indices into profile.rules, to excluded.
type interval struct{ from, to int }

// refer records which rules are for a call.
func (p *profile) refer(a archID, nr uint32, rules interval) {
	if nr == none {
		return
	}
	if p.last[a] == none || nr > p.last[a] {
		p.last[a] = nr
	}
	for i := rules.from; i < rules.to; i++ {
		p.refs[a] = append(p.refs[a], uint64(nr)<<32|uint64(i))
	}
}
