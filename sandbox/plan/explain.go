package plan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"vivarium/sandbox/program"
)

// Explained is one step of a plan, as --explain shows it.
type Explained struct {
	Index int      `json:"index"`
	Phase string   `json:"phase"` // "before": in the parent; "clone"; "child"; "after": in the parent again
	Kind  string   `json:"kind"`
	Why   string   `json:"why"`
	Calls []string `json:"calls"`
}

// Explain lists the steps with their system calls.
func (p *Plan) Explain() []Explained {
	var out []Explained
	out = p.explainOps(out, "before", p.prog.Before)
	out = append(out, Explained{Phase: "clone", Kind: "clone", Why: cloneWhy(p.prog.CloneFlags), Calls: []string{p.cloneCall()}})
	out = p.explainOps(out, "after", p.prog.After)
	out = p.explainOps(out, "child", p.prog.Child)
	for i := range out {
		out[i].Index = i + 1
	}
	return out
}

func (p *Plan) explainOps(out []Explained, phase string, ops []program.Op) []Explained {
	last := -1
	for i := range ops {
		op := &ops[i]
		if int(op.Step) != last {
			s := p.prog.Steps[op.Step]
			out = append(out, Explained{Phase: phase, Kind: s.Kind, Why: s.Why})
			last = int(op.Step)
		}
		e := &out[len(out)-1]
		e.Calls = append(e.Calls, p.call(op))
	}
	return out
}

func cloneWhy(flags uint64) string {
	var names []string
	for _, t := range nsTypes {
		if flags&t.flag != 0 {
			names = append(names, string(t.name)+" ("+t.why+")")
		}
	}
	if len(names) == 0 {
		return "clone the process, in no new namespace"
	}
	return "clone the process into new namespaces: " + strings.Join(names, ", ")
}

func (p *Plan) cloneCall() string {
	flags := []string{"CLONE_PIDFD"}
	for _, t := range nsTypes {
		if p.prog.CloneFlags&t.flag != 0 {
			flags = append(flags, cloneNames[t.flag])
		}
	}
	s := "clone3({flags=" + strings.Join(flags, "|")
	if p.prog.CgroupSlot != program.None {
		s += "|CLONE_INTO_CGROUP, cgroup=" + slotName(uint64(p.prog.CgroupSlot))
	}
	return s + ", exit_signal=SIGCHLD})"
}

// Text explains the plan: a numbered step with its reason, and its calls below.
func (p *Plan) Text() string {
	var b strings.Builder
	phase := ""
	for _, s := range p.Explain() {
		if s.Phase != phase {
			phase = s.Phase
			fmt.Fprintf(&b, "%s\n", phaseTitles[phase])
		}
		fmt.Fprintf(&b, "%4d  %-14s %s\n", s.Index, s.Kind, s.Why)
		for _, c := range s.Calls {
			fmt.Fprintf(&b, "                       %s\n", c)
		}
	}
	return b.String()
}

var phaseTitles = map[string]string{
	"before": "In the monitor, before the container's process exists:",
	"clone":  "The clone:",
	"after":  "In the monitor, after the clone:",
	"child":  "In the new process, until it becomes the command:",
}

// JSON explains the plan for programs: an array of Explained.
func (p *Plan) JSON() ([]byte, error) { return json.MarshalIndent(p.Explain(), "", "  ") }

func slotName(s uint64) string {
	switch s {
	case program.SlotSync:
		return "sync"
	case program.SlotStub:
		return "stub"
	case program.SlotStdin:
		return "stdin"
	case program.SlotStdout:
		return "stdout"
	case program.SlotStderr:
		return "stderr"
	case program.SlotNetNS:
		return "netns"
	case program.SlotPidFD:
		return "pidfd"
	case program.SlotParent:
		return "the child's socket"
	case program.SlotChild:
		return "the child's pid"
	}
	return "fd" + u64toa(s-program.FirstOwn+1)
}

// call renders an op as strace would, with descriptors by name.
func (p *Plan) call(op *program.Op) string {
	var args []string
	name, shape := "", ""
	if op.Nr < 0 {
		return p.internalCall(op)
	}
	if s, ok := shapes[int(op.Nr)]; ok {
		name, shape = s.name, s.args
	} else {
		name, shape = "syscall_"+itoa(int(op.Nr)), "xxxxxx"
	}
	for i := range shape {
		args = append(args, p.arg(op, i, shape[i]))
	}
	s := name + "(" + strings.Join(args, ", ") + ")"
	if op.Dst != program.None {
		s += " = " + slotName(uint64(op.Dst))
	}
	return s
}

func (p *Plan) internalCall(op *program.Op) string {
	switch op.Nr {
	case program.PokeInt, program.PokeText:
		return "# pass " + slotName(op.Args[1]) + " on"
	case program.Load:
		return "# take it as " + slotName(op.Args[1])
	case program.Check:
		return "# go on only if it is what it has to be, else " + unix.ErrnoName(unix.Errno(op.Args[3]))
	case program.ExecStub:
		return "execveat(stub, \"\", argv, [" + itoa(p.prog.Candidates) + " paths to try] + envp, AT_EMPTY_PATH), which does execve(path, argv, envp)"
	case program.UserNS:
		uids, gids := quote(p.prog.Data[op.Args[0]:]), quote(p.prog.Data[op.Args[1]:])
		return "unshare(CLONE_NEWUSER) in a process that ends, with uid_map " + uids + ", gid_map " + gids + " = " + slotName(uint64(op.Dst))
	case program.Fork:
		return "clone3({flags=CLONE_PIDFD|CLONE_PARENT|" + flagNames(op.Args[0], flagSets['n']) + "}), and the new process goes on"
	}
	return "# internal"
}

func (p *Plan) arg(op *program.Op, i int, shape byte) string {
	v := op.Args[i]
	switch op.Kinds[i] {
	case program.Slot:
		return slotName(v)
	case program.Str:
		return quote(p.prog.Data[v:])
	case program.Ptr:
		if shape == 'h' {
			return p.openHow(v)
		}
		return "{…}"
	}
	switch shape {
	case 'd':
		if int32(v) == unix.AT_FDCWD {
			return "AT_FDCWD"
		}
		return i64toa(int64(v))
	case 'm':
		return fmt.Sprintf("%#o", uint32(v))
	case 'i':
		return i64toa(int64(v))
	case 'x':
		if v == 0 {
			return "0"
		}
		return fmt.Sprintf("%#x", v)
	}
	if set, ok := flagSets[shape]; ok {
		return flagNames(v, set)
	}
	return "NULL"
}

func (p *Plan) openHow(at uint64) string {
	return "{flags=" + flagNames(*(*uint64)(p.at(at)), flagSets['o']) + ", resolve=" + flagNames(*(*uint64)(p.at(at + 16)), flagSets['r']) + "}"
}

func quote(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	if len(b) > 120 {
		return fmt.Sprintf("%q…", b[:117])
	}
	return fmt.Sprintf("%q", b)
}

type flagName struct {
	bit  uint64
	name string
}

func flagNames(v uint64, set []flagName) string {
	var out []string
	for _, f := range set {
		if f.bit == v {
			return f.name
		}
	}
	for _, f := range set {
		if f.bit != 0 && v&f.bit == f.bit {
			out = append(out, f.name)
			v &^= f.bit
		}
	}
	if v != 0 {
		out = append(out, fmt.Sprintf("%#x", v))
	}
	if len(out) == 0 {
		return "0"
	}
	return strings.Join(out, "|")
}
