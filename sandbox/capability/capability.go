// Package capability translates between the names of Linux capabilities and
// the bit masks that capset(2) and prctl(2) take. It is pure but for LastCap,
// which reads one file.
package capability

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Set is a set of capabilities: bit n is the capability with number n.
type Set uint64

// names holds all capabilities of include/uapi/linux/capability.h in the order
// of their numbers, without "CAP_".
var names = [...]string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
	"SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW",
	"IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT",
	"SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD",
	"LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG",
	"WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
}

// Known is the number of capabilities that have a name here; the highest bit
// is Known-1.
const Known = len(names)

// Docker is the set that Docker gives a container by default: CHOWN,
// DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP,
// NET_BIND_SERVICE, NET_RAW, SYS_CHROOT, MKNOD, AUDIT_WRITE and SETFCAP.
const Docker Set = 1<<0 | 1<<1 | 1<<3 | 1<<4 | 1<<5 | 1<<6 | 1<<7 | 1<<8 |
	1<<10 | 1<<13 | 1<<18 | 1<<27 | 1<<29 | 1<<31

// ErrUnknown is in the chain of the error for a name that is no capability.
var ErrUnknown = errors.New("unknown capability")

// All is the set of all named capabilities up to last (see LastCap).
func All(last int) Set {
	n := min(last+1, Known)
	if n <= 0 {
		return 0
	}
	return Set(1)<<n - 1
}

// Bit gives the number of a capability. The name is taken in either case, with
// or without "CAP_"; "ALL" is not one capability (see Parse).
func Bit(name string) (int, error) {
	short := strings.ToUpper(strings.TrimSpace(name))
	short = strings.TrimPrefix(short, "CAP_")
	for i, n := range names {
		if n == short {
			return i, nil
		}
	}
	return 0, &unknownError{name}
}

type unknownError struct{ name string }

func (e *unknownError) Error() string {
	return "capability " + strconv.Quote(e.name) + " is unknown: see capabilities(7) for the names"
}

func (e *unknownError) Is(target error) bool { return target == ErrUnknown }

// Parse gives the set of the names. "ALL" stands for everything up to last.
func Parse(list []string, last int) (Set, error) {
	s, unknown := parseKnown(list, last)
	if len(unknown) > 0 {
		return 0, &unknownError{unknown[0]}
	}
	return s, nil
}

// parseKnown is Parse that gives the names that are none apart.
func parseKnown(list []string, last int) (s Set, unknown []string) {
	for _, name := range list {
		if up := strings.ToUpper(strings.TrimSpace(name)); up == "ALL" || up == "CAP_ALL" {
			s |= All(last)
		} else if bit, err := Bit(name); err == nil {
			s |= 1 << bit
		} else {
			unknown = append(unknown, name)
		}
	}
	return s, unknown
}

// Adjust applies Docker's --cap-add and --cap-drop to a base set: with
// ALL in add, everything but the dropped ones; with ALL in drop, only the
// added ones; otherwise the base without the dropped, with the added.
func Adjust(base Set, add, drop []string, last int) (Set, error) {
	adds, err := Parse(add, last)
	if err != nil {
		return 0, err
	}
	drops, err := Parse(drop, last)
	if err != nil {
		return 0, err
	}
	switch {
	case hasAll(add):
		if hasAll(drop) {
			return 0, nil
		}
		return All(last) &^ drops, nil
	case hasAll(drop):
		return adds, nil
	}
	return base&^drops | adds, nil
}

func hasAll(list []string) bool {
	for _, name := range list {
		if up := strings.ToUpper(strings.TrimSpace(name)); up == "ALL" || up == "CAP_ALL" {
			return true
		}
	}
	return false
}

// Has says whether the capability with this number is in the set.
func (s Set) Has(bit int) bool { return bit >= 0 && bit < 64 && s>>bit&1 == 1 }

// Names gives the OCI spelling ("CAP_CHOWN") in the order of the numbers. A bit
// without a name is left out.
func (s Set) Names() []string {
	var out []string
	for i, n := range names {
		if s.Has(i) {
			out = append(out, "CAP_"+n)
		}
	}
	return out
}

// Words splits the set as capset(2) with _LINUX_CAPABILITY_VERSION_3 takes it:
// the lower 32 capabilities first.
func (s Set) Words() [2]uint32 { return [2]uint32{uint32(s), uint32(s >> 32)} }

// Sets are the five sets of a process.
type Sets struct {
	Effective, Permitted, Inheritable, Bounding, Ambient Set
}

// FromSpec gives the masks of an OCI process. Capabilities that the running
// kernel does not have (above last), or that nobody knows, are left out and
// returned as ignored: a runtime is not to fail on them, but to warn
// (runtime-spec, config.md "Linux Process").
// A nil spec means no capability at all. An ambient capability that is not
// both permitted and inheritable is left out and returned as unraised: the kernel would answer EPERM
// (prctl(2), PR_CAP_AMBIENT_RAISE), and the spec that "runc spec" of version
// 1.1 writes has such ones.
func FromSpec(c *specs.LinuxCapabilities, last int) (sets Sets, ignored, unraised []string, err error) {
	if c == nil {
		return Sets{}, nil, nil, nil
	}
	lists := [...]struct {
		names []string
		to    *Set
	}{
		{c.Effective, &sets.Effective}, {c.Permitted, &sets.Permitted}, {c.Inheritable, &sets.Inheritable},
		{c.Bounding, &sets.Bounding}, {c.Ambient, &sets.Ambient},
	}
	have := All(last)
	var beyond Set
	for _, l := range lists {
		s, unknown := parseKnown(l.names, last)
		for _, name := range unknown {
			if !slices.Contains(ignored, name) {
				ignored = append(ignored, name)
			}
		}
		*l.to = s & have
		beyond |= s &^ have
	}
	if bad := sets.Effective &^ sets.Permitted; bad != 0 {
		return Sets{}, nil, nil, errors.New("effective capabilities " + strings.Join(bad.Names(), ", ") + " are not permitted: list them in permitted too")
	}
	can := sets.Permitted & sets.Inheritable
	unraised = (sets.Ambient &^ can).Names()
	sets.Ambient &= can
	return sets, append(beyond.Names(), ignored...), unraised, nil
}

// LastCap reads the highest capability that the running kernel has from
// /proc/sys/kernel/cap_last_cap. A kernel may have more than we have names for.
func LastCap() (int, error) { return lastCap("/proc/sys/kernel/cap_last_cap") }

func lastCap(path string) (int, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("find the kernel's last capability: %w", err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || n < 0 || n > 63 {
		return 0, errors.New("find the kernel's last capability: " + path + " says " + strconv.Quote(string(b)))
	}
	return n, nil
}
