// Package testenv is what tests need: root, an engine of their own, images made
// on the spot, and checks that nothing is left behind.
//
// A package whose tests use it has
//
//	func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }
//
// Only what the test process itself made counts as a leak: all of it lies in one
// directory that [Main] makes, and containers are known by the identifiers that
// appeared in there. Other engines may run beside.
package testenv

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// process is what one test process shares.
var process struct {
	// dir holds everything that tests of this process make; it is its TMPDIR.
	dir string
	// userTemp is the TMPDIR from before: caches that outlive the run go there.
	userTemp string
	mu       sync.Mutex
	engines  int
	binaries map[string]string
	atExit   []func()
}

// settle bounds how long a check waits for what the kernel and exiting processes
// take down after the command that caused it has returned.
const settle = 10 * time.Second

// Root skips the test if it does not run as root.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// Main runs the tests of a package and returns the exit status for os.Exit. It
// gives the process a temporary directory of its own, with a short name because
// the paths of sockets are limited to 107 bytes, and fails a run that leaves
// something behind: a file or a mount in that directory, a child process, a
// process that refers to the directory, or an open file descriptor.
func Main(m *testing.M) int {
	process.userTemp = os.TempDir()
	dir, err := shortTempDir(process.userTemp)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testenv: make a temporary directory:", err)
		return 1
	}
	process.dir = dir
	if err := os.Setenv("TMPDIR", dir); err != nil {
		fmt.Fprintln(os.Stderr, "testenv: set TMPDIR:", err)
		return 1
	}
	before := descriptors()
	code := m.Run()
	for _, f := range process.atExit {
		f()
	}
	leaks := poll(func() []string { return processLeaks(dir, before) })
	for _, leak := range leaks {
		fmt.Fprintln(os.Stderr, "testenv: left behind:", leak)
	}
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, "testenv: remove the run's directory:", err)
		code = max(code, 1)
	}
	if len(leaks) > 0 && code == 0 {
		return 1
	}
	return code
}

// shortTempDir makes a directory with a random name of five characters:
// [os.MkdirTemp] takes up to eleven, and the path of a socket below a container's
// identifier of 64 needs them.
func shortTempDir(base string) (string, error) {
	for range 100 {
		dir := filepath.Join(base, fmt.Sprintf("v%04x", rand.N(1<<16)))
		if err := os.Mkdir(dir, 0o700); !errors.Is(err, fs.ErrExist) {
			return dir, err
		}
	}
	return "", fmt.Errorf("make a directory in %s: every name tried is taken", base)
}

// tempDir is the directory for what this process makes, also where a package
// does without Main.
func tempDir() string {
	if process.dir != "" {
		return process.dir
	}
	return os.TempDir()
}

// cacheDir returns a directory that outlives the run and is shared with other
// test processes of the same user.
func cacheDir() (string, error) {
	base := process.userTemp
	if base == "" {
		base = os.TempDir()
	}
	dir := filepath.Join(base, "viv-test-cache")
	if uid := os.Geteuid(); uid != 0 {
		dir = fmt.Sprintf("%s-%d", dir, uid)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make the test cache: %w", err)
	}
	return dir, ownedPrivately(dir)
}

// moduleRoot finds the directory of go.mod, from where this package was compiled.
func moduleRoot() (string, error) {
	_, file, _, ok := runtime.Caller(0)
	if ok && filepath.IsAbs(file) {
		root := filepath.Dir(filepath.Dir(filepath.Dir(file)))
		if _, err := os.Stat(filepath.Join(root, "go.mod")); err == nil {
			return root, nil
		}
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == "/" {
			return "", fmt.Errorf("find the module: no go.mod above the test's directory")
		}
	}
}

// poll calls look until it returns nothing, and returns what it still found after
// the settle time. What it waits for (a process reaped by its parent, a namespace
// taken down by a kernel thread) gives no event.
func poll(look func() []string) []string {
	deadline := time.Now().Add(settle)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		found := look()
		if len(found) == 0 || time.Now().After(deadline) {
			return found
		}
		<-tick.C
	}
}

// onExit registers f to run after the last test of the process.
func onExit(f func()) {
	process.mu.Lock()
	defer process.mu.Unlock()
	process.atExit = append(process.atExit, f)
}

// under says whether path is dir or lies in it.
func under(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, dir+"/")
}
