package initproc

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// asInit makes the test's own program an init, so that the real code runs as the
// first process of a namespace without a build.
const asInit = "INITPROC_TEST"

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == sayArg {
		saySignal()
	}
	if os.Getenv(asInit) != "" {
		Main(os.Args) // never returns
	}
	os.Exit(m.Run())
}

// sayArg makes it a command that says which signal came first.
const sayArg = "say-signal"

func saySignal() {
	c := make(chan os.Signal, 64) // one that finds it full is lost, and SIGURG comes often
	signal.Notify(c)
	fmt.Println("ready")
	for s := range c {
		if s != syscall.SIGURG || os.Getenv("WANT_URG") != "" { // the runtime's own, mostly
			fmt.Println(int(s.(syscall.Signal)))
			os.Exit(33)
		}
	}
}

// initCommand is the init with a command, in a PID namespace if root.
func initCommand(t *testing.T, namespace bool, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), asInit+"=1")
	if namespace {
		if os.Geteuid() != 0 {
			t.Skip("a PID namespace needs root")
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	}
	return cmd
}

func TestExitStatus(t *testing.T) {
	dir := t.TempDir()
	plain, script := filepath.Join(dir, "plain"), filepath.Join(dir, "script")
	if err := os.WriteFile(plain, []byte("exit 9\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(script, []byte("exit 9\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args []string
		code int
		err  string
	}{
		{"success", []string{"--", "true"}, 0, ""},
		{"without dashes", []string{"sh", "-c", "exit 5"}, 5, ""},
		{"255", []string{"--", "sh", "-c", "exit 255"}, 255, ""},
		{"killed", []string{"--", "sh", "-c", "kill -KILL $$"}, 137, ""},
		{"terminated", []string{"--", "sh", "-c", "kill -TERM $$"}, 143, ""},
		{"missing", []string{"--", "no-such-command"}, 127, "exec no-such-command failed: no such file or directory"},
		{"missing path", []string{"--", "/no/such/command"}, 127, "no such file or directory"},
		{"below a file", []string{"--", plain + "/x"}, 127, "not a directory"},
		{"not executable", []string{"--", plain}, 126, "permission denied"},
		{"a directory", []string{"--", dir}, 126, "permission denied"},
		{"a script without #!", []string{"--", script}, 9, ""},
		{"nothing", []string{"--"}, 1, "usage"},
		{"an empty name", []string{"--", ""}, 127, "no such file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := initCommand(t, false, c.args...)
			var stderr strings.Builder
			cmd.Stderr = &stderr
			err := cmd.Run()
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			if got := cmd.ProcessState.ExitCode(); got != c.code {
				t.Errorf("exit status %d, want %d", got, c.code)
			}
			if !strings.Contains(stderr.String(), c.err) || c.err == "" && stderr.String() != "" {
				t.Errorf("stderr is %q, want %q in it", stderr.String(), c.err)
			}
		})
	}
}

// TestForwardsSignals sends the init each signal that can be caught, from outside
// its namespace.
func TestForwardsSignals(t *testing.T) {
	for sig := uint32(1); sig < numSignals; sig++ {
		s := syscall.Signal(sig)
		if !caught(sig) || s == syscall.SIGTTIN || s == syscall.SIGTTOU {
			continue
		}
		t.Run(fmt.Sprint(sig), func(t *testing.T) {
			t.Parallel()
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			cmd := initCommand(t, true, "--", self, sayArg)
			if s == syscall.SIGURG {
				cmd.Env = append(cmd.Env, "WANT_URG=1")
			}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			r := bufio.NewReader(out)
			if line, err := r.ReadString('\n'); line != "ready\n" {
				t.Fatalf("the command said %q, %v", line, err)
			}
			if err := cmd.Process.Signal(s); err != nil {
				t.Fatal(err)
			}
			rest, err := io.ReadAll(r)
			if err != nil || string(rest) != fmt.Sprintf("%d\n", sig) {
				t.Errorf("after the signal the command said %q, %v", rest, err)
			}
			if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 33 {
				t.Errorf("the init ended with %v", err)
			}
		})
	}
}

// TestReaps makes many orphans; the first process of their namespace must leave
// no zombie.
func TestReaps(t *testing.T) {
	cmd := initCommand(t, true, "--", "sh", "-c", `
		i=0; while [ $i -lt 50 ]; do (true & ); i=$((i+1)); done
		echo $$; read go`)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	// The command itself is the one child that is left, once the last orphan was reaped.
	var children []byte
	for range 1000 {
		if children, err = childrenOf(cmd.Process.Pid); err != nil || len(strings.Fields(string(children))) == 1 {
			break
		}
		syscall.Nanosleep(&syscall.Timespec{Nsec: 5e6}, nil)
	}
	if n := len(strings.Fields(string(children))); err != nil || n != 1 {
		t.Errorf("the init has %d children, want the command alone: %v", n, err)
	}
	stdin.Close()
	if cmd.Wait(); cmd.ProcessState.ExitCode() != 1 { // read(1) at the end of input
		t.Errorf("the init ended with %v", cmd.ProcessState)
	}
}

// childrenOf lists the children of all threads of a process.
func childrenOf(pid int) ([]byte, error) {
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	var all []byte
	for _, list := range lists {
		b, err := os.ReadFile(list)
		if err != nil {
			return nil, err
		}
		all = append(all, b...)
	}
	return all, err
}

func TestCandidates(t *testing.T) {
	for _, c := range []struct {
		name, path string
		want       []string
	}{
		{"sh", "PATH=/a:/b", []string{"/a/sh", "/b/sh"}},
		{"sh", "PATH=/a::/b", []string{"/a/sh", "./sh", "/b/sh"}},
		{"sh", "PATH=:/a", []string{"./sh", "/a/sh"}},
		{"sh", "PATH=/a:", []string{"/a/sh", "./sh"}},
		{"sh", "PATH=", []string{"./sh"}},
		{"sh", "HOME=/", []string{"/bin/sh", "/usr/bin/sh"}},
		{"./sh", "PATH=/a", []string{"./sh"}},
		{"/x", "PATH=/a", []string{"/x"}},
		{"", "PATH=/a", nil},
	} {
		if got := candidates(c.name, []string{"A=b", c.path}); !slices.Equal(got, c.want) {
			t.Errorf("candidates(%q, %q) = %q, want %q", c.name, c.path, got, c.want)
		}
	}
}
