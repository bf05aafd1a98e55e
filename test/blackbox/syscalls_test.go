package blackbox

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	profile "github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"vivarium/internal/testenv"
	"vivarium/sandbox/seccomp"
)

// calls is what became of each system call that ./syscalls tried in a container.
type calls struct {
	order  []string
	result map[string]string
}

func tryCalls(t *testing.T, e *testenv.Instance, image string, flags ...string) calls {
	t.Helper()
	program := testenv.Program(t, "syscalls", "./test/blackbox/syscalls")
	args := append([]string{"run", "--rm", "-v", program + ":/syscalls:ro"}, flags...)
	c := calls{result: map[string]string{}}
	for line := range strings.Lines(e.MustViv(append(args, image, "/syscalls")...) + "\n") {
		name, result, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		if !ok || c.result[name] != "" {
			t.Fatalf("a line of the system calls' results: %q", line)
		}
		c.order = append(c.order, name)
		c.result[name] = result
	}
	if len(c.order) < 400 {
		t.Fatalf("only %d system calls were tried", len(c.order))
	}
	return c
}

// TestSystemCalls tries every system call with and without the default filter: what
// the current profile of Docker allows must do the same in both, and what it does
// not must fail as it says.
func TestSystemCalls(t *testing.T) {
	e := newBox(t)
	vivOnly(t, "the profile is newer than Docker 20.10's")
	names := callNames(t)
	want := newJudge(t)
	free := tryCalls(t, e, box, "--security-opt", "seccomp=unconfined")
	filtered := tryCalls(t, e, box)
	denied := 0
	for _, c := range filtered.order {
		expected := want.verdict(t, names, c)
		if expected == "" {
			expected = free.result[c]
		} else {
			denied++
		}
		if got := filtered.result[c]; got != expected {
			t.Errorf("%s: %s, want %s; without a filter it is %s", names.title(c), got, expected, free.result[c])
		}
	}
	t.Logf("%d calls tried, %d of them denied by the filter", len(filtered.order), denied)
}

// callTable is the system calls of this machine by number.
type callTable map[uint32]string

func callNames(t *testing.T) callTable {
	t.Helper()
	table := callTable{}
	for _, s := range profile.DefaultProfile().Syscalls {
		for _, name := range s.Names {
			if nr, ok := seccomp.Number(seccomp.Native(), name); ok {
				table[nr] = name
			}
		}
	}
	if len(table) < 300 {
		t.Fatalf("only %d system calls have a name here", len(table))
	}
	return table
}

// title names an attempt for people.
func (c callTable) title(attempt string) string {
	if nr, err := strconv.Atoi(attempt); err == nil {
		return fmt.Sprintf("%d (%s)", nr, c[uint32(nr)])
	}
	return attempt
}

// judge says what Docker's profile does with a call.
type judge struct {
	rules   map[string][]specs.LinuxSyscall
	newest  uint32
	failing string
}

// dockerCapabilities is what Docker gives a container.
var dockerCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

func newJudge(t *testing.T) *judge {
	t.Helper()
	spec := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: dockerCapabilities}}}
	p, err := profile.GetDefaultProfile(spec)
	if err != nil {
		t.Fatal(err)
	}
	j := &judge{rules: map[string][]specs.LinuxSyscall{}, failing: errnoName(p.DefaultErrnoRet)}
	for _, s := range p.Syscalls {
		for _, name := range s.Names {
			j.rules[name] = append(j.rules[name], s)
			if nr, ok := seccomp.Number(seccomp.Native(), name); ok {
				j.newest = max(j.newest, nr)
			}
		}
	}
	return j
}

// verdict is the error by which the profile fails an attempt, or "" for none. A
// number above all that the profile knows is a call that does not exist, so that
// programs fall back (runc 1.0 and newer).
func (j *judge) verdict(t *testing.T, names callTable, attempt string) string {
	t.Helper()
	name, args, err := parseAttempt(attempt, names)
	if err != nil {
		t.Fatal(err)
	}
	if nr, err := strconv.Atoi(attempt); err == nil && uint32(nr) > j.newest {
		return "ENOSYS"
	}
	for _, s := range j.rules[name] {
		if !slices.ContainsFunc(s.Args, func(a specs.LinuxSeccompArg) bool { return !holds(t, a, args[a.Index]) }) {
			if s.Action == specs.ActAllow {
				return ""
			}
			return errnoName(s.ErrnoRet)
		}
	}
	return j.failing
}

func holds(t *testing.T, a specs.LinuxSeccompArg, value uint64) bool {
	t.Helper()
	switch a.Op {
	case specs.OpEqualTo:
		return value == a.Value
	case specs.OpNotEqual:
		return value != a.Value
	case specs.OpLessThan:
		return value < a.Value
	case specs.OpGreaterThan:
		return value > a.Value
	case specs.OpMaskedEqual:
		return value&a.Value == a.ValueTwo
	}
	t.Fatalf("the profile compares with %s, which this test does not know", a.Op)
	return false
}

func errnoName(errno *uint) string {
	if errno == nil {
		return "EPERM"
	}
	return unix.ErrnoName(unix.Errno(*errno))
}

// parseAttempt gives the call that an attempt of ./syscalls made. Those with a
// number have arguments of -1; the others' first is in the name.
func parseAttempt(attempt string, names callTable) (name string, args [6]uint64, err error) {
	for i := range args {
		args[i] = ^uint64(0)
	}
	name, argument, special := strings.Cut(attempt, " ")
	if !special {
		nr, err := strconv.ParseUint(attempt, 10, 32)
		return names[uint32(nr)], args, err
	}
	values := map[string]uint64{
		"unix": unix.AF_UNIX, "inet": unix.AF_INET, "netlink": unix.AF_NETLINK, "packet": unix.AF_PACKET,
		"alg": unix.AF_ALG, "vsock": unix.AF_VSOCK, "kcm": unix.AF_KCM, "xdp": unix.AF_XDP,
		"none": 0, "user": unix.CLONE_NEWUSER, "mount": unix.CLONE_NEWNS, "pid": unix.CLONE_NEWPID,
		"net": unix.CLONE_NEWNET, "ipc": unix.CLONE_NEWIPC, "uts": unix.CLONE_NEWUTS, "cgroup": unix.CLONE_NEWCGROUP,
	}
	value, known := values[argument]
	if !known {
		if value, err = strconv.ParseUint(argument, 0, 64); err != nil {
			return "", args, fmt.Errorf("an attempt that this test does not know: %q", attempt)
		}
	}
	args = [6]uint64{value}
	if name == "clone" {
		args[0] |= uint64(unix.SIGCHLD)
	}
	return name, args, nil
}

// since2010 are the calls that Docker's profile changed its mind about after
// 20.10, each with the reason. TestSystemCalls holds us to the newer profile.
var since2010 = map[string]string{
	"41":           "sockets are allowed by family now: -1 is none",
	"socket alg":   "AF_ALG is denied for the holes that its kernel code had",
	"socket vsock": "AF_VSOCK is denied: it has no namespace and leads to the hypervisor",
	"425":          ioUring,
	"426":          ioUring,
	"427":          ioUring,
	"303":          "name_to_handle_at is allowed: only open_by_handle_at leads out",
	"310":          processVM,
	"311":          processVM,
	"329":          "memory protection keys are allowed",
	"330":          "memory protection keys are allowed",
	"331":          "memory protection keys are allowed",
	"450":          newer,
	"451":          newer,
	"452":          newer,
	"454":          newer,
	"455":          newer,
	"456":          newer,
	"457":          newer,
	"458":          newer,
	"459":          newer,
	"460":          newer,
	"461":          newer,
	"462":          newer,
	"463":          newer,
	"464":          newer,
	"465":          newer,
	"466":          newer,
}

const (
	ioUring   = "io_uring is denied for the holes that it had"
	processVM = "the kernel checks as for ptrace, which is allowed since Linux 4.8"
	newer     = "the system call is newer than Docker 20.10, which takes it for unknown"
)

// TestSystemCallsAreDockers tries them in a container of Docker's, too.
func TestSystemCallsAreDockers(t *testing.T) {
	e := newBox(t)
	vivOnly(t, "starts the reference itself")
	if runtime.GOARCH != "amd64" {
		t.Skip("the differences are listed by amd64's numbers")
	}
	docker := testenv.Docker(t)
	docker.Import("busybox", box)
	names := callNames(t)
	// Without a network a container is the same on both; in the engine's own
	// network namespace Docker's has none.
	theirs, ours := tryCalls(t, docker, box, "--network=none"), tryCalls(t, e, box, "--network=none")
	if !slices.Equal(theirs.order, ours.order) {
		t.Fatalf("other calls were tried in Docker's container: %q, %q", theirs.order, ours.order)
	}
	for _, c := range ours.order {
		a, b := theirs.result[c], ours.result[c]
		if a != b && since2010[c] == "" {
			t.Errorf("%s: %s in a container of Docker's, %s in ours", names.title(c), a, b)
		}
	}
}

// TestInsideIsDockers compares what a process sees of its own confinement:
// capabilities, filter, namespaces of its own, limits, masked and read-only paths.
func TestInsideIsDockers(t *testing.T) {
	e := newBox(t)
	vivOnly(t, "starts the reference itself")
	docker := testenv.Docker(t)
	docker.Import("busybox", box)
	script := `grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups)' /proc/self/status
for n in cgroup ipc mnt net pid user uts; do echo $n $(readlink /proc/self/ns/$n); done
grep -v 'open files' /proc/self/limits
cat /proc/self/oom_score_adj
cut -d' ' -f5- /proc/self/mountinfo | sed -n '/^\/ /d; s,^\(/[^ ]*\) \([^ ]*\) .* - \([^ ]*\) .*,\1 \2 \3,p' | sort`
	inside := func(e *testenv.Instance) []string {
		out := e.MustViv("run", "--rm", "--network=none", box, "sh", "-c", script)
		var lines []string
		for line := range strings.Lines(out) {
			lines = append(lines, ownOrHosts(strings.TrimSpace(line)))
		}
		return lines
	}
	theirs, ours := inside(docker), inside(e)
	for _, line := range theirs {
		if !slices.Contains(ours, line) {
			t.Errorf("only in a container of Docker's: %s", line)
		}
	}
	for _, line := range ours {
		if !slices.Contains(theirs, line) {
			t.Errorf("only in ours: %s", line)
		}
	}
}

// ownOrHosts puts in the place of a namespace's number whose it is.
func ownOrHosts(line string) string {
	name, inside, _ := strings.Cut(line, " ")
	host, err := os.Readlink("/proc/self/ns/" + name)
	switch {
	case err != nil:
		return line
	case host == inside:
		return name + " of the host"
	}
	return name + " of its own"
}
