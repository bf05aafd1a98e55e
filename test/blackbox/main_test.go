// Package blackbox holds the suites that know nothing of the engine but its command
// line. What they expect is what Docker does: VIV_TEST_REFERENCE=docker runs every
// test that is not about Vivarium alone on a docker daemon of its own, to prove it.
package blackbox

import (
	"os"
	"strings"
	"testing"

	"vivarium/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// box is the name under which tests import the busybox root file system.
const box = "box"

// newBox makes an engine that has the image box.
func newBox(t *testing.T) *testenv.Instance {
	t.Helper()
	testenv.Root(t)
	e := testenv.Engine(t)
	e.Import("busybox", box)
	return e
}

// vivOnly leaves a test out of a reference run.
func vivOnly(t *testing.T, why string) {
	t.Helper()
	if testenv.Reference() {
		t.Skip("not on the reference: " + why)
	}
}

// oneV2 says whether control groups are the unified hierarchy alone.
func oneV2() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil
}

// want fails the test unless a command ended with the code and its standard output
// is exactly this.
func want(t *testing.T, res testenv.Result, code int, stdout string) {
	t.Helper()
	if res.Code != code || res.Stdout != stdout {
		t.Errorf("want exit status %d and stdout %q, got %v", code, stdout, res)
	}
}

// fails fails the test unless a command failed with the code and one line on
// standard error that has the given words.
func fails(t *testing.T, res testenv.Result, code int, words ...string) {
	t.Helper()
	if res.Code != code {
		t.Errorf("want exit status %d, got %v", code, res)
	}
	for _, word := range words {
		if !strings.Contains(strings.ToLower(res.Stderr), strings.ToLower(word)) {
			t.Errorf("stderr lacks %q: %v", word, res)
		}
	}
	if strings.TrimSpace(res.Stderr) == "" {
		t.Errorf("failed without a word: %v", res)
	}
	if !testenv.Reference() {
		// A hint at the help may follow, as Docker's does.
		message, _, _ := strings.Cut(strings.TrimSpace(res.Stderr), "\nSee 'viv ")
		if lines := strings.Count(message, "\n") + 1; lines != 1 {
			t.Errorf("want one clear line on stderr, got %d: %v", lines, res)
		}
	}
	if strings.Contains(res.Stderr, "goroutine ") {
		t.Errorf("a crash: %v", res)
	}
}
