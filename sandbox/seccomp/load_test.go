package seccomp

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"unsafe"

	moby "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const childVariable = "VIVARIUM_SECCOMP_TEST_CHILD"

// TestMain lets the test binary be the child that loads a filter for real: a
// filter stays with its thread, so the tests' own process must not have it.
func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		os.Exit(loadAndTry())
	}
	os.Exit(m.Run())
}

// loadAndTry loads a filter and says by its exit status whether the kernel
// follows it: 0 if so, another number for the first thing that is wrong.
func loadAndTry() int {
	runtime.LockOSThread()
	e := uint(unix.EOWNERDEAD)
	f, err := Compile(&specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow,
		Syscalls: []specs.LinuxSyscall{
			{Names: []string{"sethostname"}, Action: specs.ActErrno, ErrnoRet: &e},
			{Names: []string{"socket"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 0, Value: unix.AF_ALG, Op: specs.OpEqualTo}}},
			{Names: []string{"personality"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 0, Value: 0xff, ValueTwo: 0xff, Op: specs.OpMaskedEqual}}},
		},
	})
	if err != nil {
		return 2
	}
	if err := load(f.Insns); err != nil {
		return 3
	}
	if err := unix.Sethostname([]byte("x")); !errors.Is(err, unix.EOWNERDEAD) {
		return 4
	}
	if _, err := unix.Socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0); !errors.Is(err, unix.EPERM) {
		return 5
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 6
	}
	if unix.Close(fd) != nil {
		return 7
	}
	docker, err := moby.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{}}})
	if err != nil {
		return 12
	}
	filter, err := Compile(docker)
	if err != nil {
		return 8
	}
	if err := load(filter.Insns); err != nil {
		return 9
	}
	if err := unix.Mount("none", "/", "tmpfs", 0, ""); !errors.Is(err, unix.EPERM) {
		return 10
	}
	if unix.Getpid() != os.Getpid() {
		return 11
	}
	return 0
}

func load(insns []unix.SockFilter) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	prog := unix.SockFprog{Len: uint16(len(insns)), Filter: &insns[0]}
	err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&prog)), 0, 0)
	runtime.KeepAlive(insns)
	return err
}

func TestKernelFollowsTheFilter(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childVariable+"=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("the child that loads a filter: %v (its exit status is the step that failed) %s", err, out)
	}
}

func TestLayoutIsTheKernels(t *testing.T) {
	f, err := Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := len(f.Bytes()), 8*len(f.Insns); got != want || got == 0 {
		t.Errorf("%d bytes for %d instructions", got, len(f.Insns))
	}
}
