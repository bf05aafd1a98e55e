package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A test that neither ends nor lets go of its output, whatever go test does to it,
// must not keep the runner from its report.
func TestDeadlineEndsWhatHangs(t *testing.T) {
	dir := t.TempDir()
	pid := filepath.Join(dir, "pid")
	for name, text := range map[string]string{
		"go.mod": "module hanging\n\ngo 1.26\n",
		"hang_test.go": `package hanging

import (
	"os"
	"os/exec"
	"strconv"
	"testing"
)

func TestHangs(t *testing.T) {
	// A process that outlives all, with the test's output in its hands.
	cmd := exec.Command("setsid", "sleep", "600")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(` + "`" + pid + "`" + `, []byte(strconv.Itoa(cmd.Process.Pid)+" "+strconv.Itoa(os.Getpid())), 0o600); err != nil {
		t.Fatal(err)
	}
	select {}
}
`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	t.Cleanup(func() { killPids(t, pid) })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for ctx.Err() == nil { // the deadline comes when the test hangs, not while it is built
			if text, err := os.ReadFile(pid); err == nil && len(text) > 0 {
				cancel()
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	var out strings.Builder
	r := &run{ctx: ctx, grace: 100 * time.Millisecond, tally: newTally(&out, false)}
	if err := r.goTest(nil, "./..."); err == nil {
		t.Error("a run that was cut off gave no error")
	}
	if r.tally.total().failed == 0 || !strings.Contains(strings.Join(r.tally.fails, " "), "TestHangs") {
		t.Errorf("the test that hangs is not among the failed: %v", r.tally.fails)
	}
}

// killPids ends the process that the hanging test left, and the test itself, which go test
// leaves when it is ended.
func killPids(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		return
	}
	for _, field := range strings.Fields(string(text)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		process, err := os.FindProcess(pid)
		if err == nil {
			err = process.Kill()
		}
		if err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("end the process %d that the hanging test left: %v", pid, err)
		}
	}
}
