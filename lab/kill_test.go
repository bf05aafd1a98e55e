package lab_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"vivarium/internal/testenv"
	"vivarium/lab"
)

// running is `viv lab` with one experiment, and what it has said.
type running struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
	close func() error
}

func startLab(t *testing.T, viv []string, args ...string) *running {
	t.Helper()
	c := exec.Command(viv[0], append(append(viv[1:len(viv):len(viv)], "lab", "--lang", "en"), args...)...)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return &running{c, bufio.NewScanner(out), out.Close}
}

// until reads until a step is announced.
func (r *running) until(say string) error {
	for r.lines.Scan() {
		if r.lines.Text() == say+":" {
			return nil
		}
	}
	return fmt.Errorf("it ended before %q", say)
}

// end reads the rest and gives the exit status.
func (r *running) end() syscall.WaitStatus {
	for r.lines.Scan() {
	}
	_ = r.cmd.Wait()
	return r.cmd.ProcessState.Sys().(syscall.WaitStatus)
}

func directories(t *testing.T) []string {
	t.Helper()
	dirs, err := filepath.Glob(os.TempDir() + "/viv-lab-*")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, dir := range dirs {
		names = append(names, filepath.Base(dir))
	}
	return names
}

// TestSignals: viv lab that is told to end in the midst of a command cleans up; after
// one that is killed, the next does.
func TestSignals(t *testing.T) {
	o := options(t)
	if os.Getenv("VIV_TEST_VM") != "" {
		t.Skip("says nothing of the kernel, and takes minutes here")
	}
	asked := []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP}
	for i, e := range lab.Experiments() {
		for k, signal := range []syscall.Signal{asked[i%len(asked)], syscall.SIGKILL} {
			step := e.Steps[(i+2*k)%len(e.Steps)]
			name := fmt.Sprintf("%s, %v at %q", e.ID, signal, step.Say.EN)
			r := startLab(t, o.Viv, e.ID)
			err := r.until(step.Say.EN)
			names := directories(t)
			if err := r.cmd.Process.Signal(signal); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			status := r.end()
			if err != nil || len(names) != 1 {
				t.Fatalf("%s: %v, in %v", name, err, names)
			}
			if signal == syscall.SIGKILL {
				if status.Signal() != signal {
					t.Errorf("%s: it ended with %#x", name, status)
				}
				if err := lab.Sweep(); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			} else if status.ExitStatus() > 1 || status.ExitStatus() == 0 && step.Say != e.Steps[len(e.Steps)-1].Say {
				t.Errorf("%s: it ended with %#x", name, status)
			}
			if l := left(t, os.TempDir(), names); len(l) > 0 {
				t.Errorf("%s: left %v", name, l)
			}
		}
	}
}

// TestReaderGone: it cleans up, too, when nobody reads any more what it says.
func TestReaderGone(t *testing.T) {
	o := options(t)
	r := startLab(t, o.Viv, "calls")
	if err := r.until("The UTS namespace of this shell"); err != nil {
		t.Error(err)
	}
	names := directories(t)
	if err := r.close(); err != nil {
		t.Error(err)
	}
	if err := r.cmd.Wait(); err == nil {
		t.Error("it succeeds")
	}
	if l := left(t, os.TempDir(), names); len(names) != 1 || len(l) > 0 {
		t.Errorf("left of %v: %v", names, l)
	}
}

// TestSweepLeavesOthers: one that runs, and what is not of the lab, stays.
func TestSweepLeavesOthers(t *testing.T) {
	o := options(t)
	foreign := os.TempDir() + "/viv-lab-notes"
	if err := os.Mkdir(foreign, 0o755); err != nil { // others can look into it: the lab's are 0700
		t.Fatal(err)
	}
	defer os.Remove(foreign)
	c := testenv.Tool(t, o.Viv[0], append(o.Viv[1:], "lab", "--lang", "en", "--step", "uts")...)
	in, keys, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Stdin = in
	p := c.Start()
	in.Close()
	p.Expect("$ hostname")
	before := directories(t)
	if err := lab.Sweep(); err != nil {
		t.Error(err)
	}
	if after := directories(t); len(before) != 2 || fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("%v were there, and then %v", before, after)
	}
	if _, err := keys.WriteString("\n\n\n"); err != nil {
		t.Error(err)
	}
	keys.Close()
	if res := p.Wait(); res.Code != 0 || !strings.Contains(res.Stdout, "Verified.") {
		t.Errorf("the one that ran: %v", res)
	}
	if after := directories(t); len(after) != 1 {
		t.Errorf("left: %v", after)
	}
}
