// Package oci runs other people's engines on our OCI runtime, as their users do, and
// other people's programs that validate a runtime. What is expected of an engine is
// what it does on runc: VIV_TEST_OCI_RUNTIME=runc runs the same tests there.
package oci

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"vivarium/internal/testenv"
)

// inside marks the process that has its own namespaces.
const inside = "VIV_TEST_OCI_INSIDE"

func TestMain(m *testing.M) {
	if os.Geteuid() == 0 && os.Getenv(inside) == "" {
		os.Exit(enter())
	}
	if os.Geteuid() == 0 {
		if err := isolate(); err != nil {
			fmt.Fprintln(os.Stderr, "oci:", err)
			os.Exit(1)
		}
	}
	os.Exit(testenv.Main(m))
}

// enter runs the tests in mount and network namespaces of their own: the engines
// write outside of the directories that they are given, and use what they find
// there.
func enter() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "oci: enter namespaces of our own:", err)
		return 1
	}
	// A terminal's interrupt reaches both; what was meant for this process alone is
	// handed on.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT)
	go func() {
		for sig := range signals {
			if sig != os.Interrupt {
				_ = cmd.Process.Signal(sig)
			}
		}
	}()
	err := cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() >= 0 {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "oci:", err)
		return 1
	}
	return 0
}

// isolate makes the namespaces usable, and hides the directories of the machine's
// own engines.
func isolate() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find the loopback link: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set the loopback link up: %w", err)
	}
	for _, dir := range []string{"/run", "/var/lib/containers", "/var/lib/docker", "/var/lib/containerd"} {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil {
			return fmt.Errorf("hide %s: %w", dir, err)
		}
	}
	return nil
}

// runtimeName is what is tested: empty for our own, or the reference.
func runtimeName() string { return os.Getenv("VIV_TEST_OCI_RUNTIME") }

// need skips the test where a program is missing; in CI nothing may be missing.
func need(t *testing.T, programs ...string) {
	t.Helper()
	testenv.Root(t)
	for _, p := range programs {
		if _, err := exec.LookPath(p); err == nil {
			continue
		}
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is missing (test/install-deps oci installs it)", p)
		}
		t.Skipf("%s is not installed (test/install-deps oci installs it)", p)
	}
}

// runtime is what engines get as their OCI runtime: a program that notes what it is
// asked to do, and hands it on to the runtime that is tested.
type runtime struct {
	t    *testing.T
	path string
	log  string
}

func newRuntime(t *testing.T, dir string) *runtime {
	t.Helper()
	program := ""
	if name := runtimeName(); name != "" {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		program = path
	} else {
		program = testenv.Binary(t, "viv-oci")
	}
	r := &runtime{t: t, path: filepath.Join(dir, "runtime"), log: filepath.Join(dir, "calls")}
	script := fmt.Sprintf("#!/bin/sh\necho \"$*\" >>%s\nexec %s \"$@\"\n", r.log, program)
	if err := os.WriteFile(r.path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return r
}

// wasAsked fails the test unless the engine used each of these commands of the
// runtime: what an engine does by itself proves nothing of it.
func (r *runtime) wasAsked(commands ...string) {
	r.t.Helper()
	text, err := os.ReadFile(r.log)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, c := range commands {
		if !slices.ContainsFunc(strings.Split(string(text), "\n"), func(line string) bool {
			return slices.Contains(strings.Fields(line), c)
		}) {
			r.t.Errorf("the engine never asked the runtime to %s:\n%s", c, text)
		}
	}
}

// ownDir makes a directory with a short name for an engine: sockets lie in it.
func ownDir(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(os.TempDir(), name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unmountBelow(t, dir)
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// unmountBelow unmounts what an engine keeps mounted, deepest first: podman's and
// docker's storage directory lies on a mount of its own.
func unmountBelow(t *testing.T, dir string) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Error(err)
		return
	}
	var points []string
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			points = append(points, f[4])
		}
	}
	for _, p := range slices.Backward(points) {
		if err := unix.Unmount(p, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			t.Errorf("unmount %s: %v", p, err)
		}
	}
}

// daemon starts a server and waits until it accepts connections on its socket. It
// is stopped when the test ends.
func daemon(t *testing.T, dir, socket, program string, args ...string) {
	t.Helper()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", program, err)
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s said at its end:\n%s", program, lastLines(log.Name(), 20))
		}
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-exited:
		case <-time.After(time.Minute):
			t.Errorf("%s did not end within a minute of its signal", program)
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			<-exited
		}
	})
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for {
		if conn, err := net.Dial("unix", socket); err == nil {
			conn.Close()
			return
		}
		select {
		case <-exited:
			t.Fatalf("%s ended at once:\n%s", program, lastLines(log.Name(), 20))
		case <-deadline:
			t.Fatalf("%s does not answer after a minute:\n%s", program, lastLines(log.Name(), 20))
		case <-tick.C:
		}
	}
}

func lastLines(path string, n int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
