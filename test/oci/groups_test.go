package oci

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// groupRoots lists the mounted hierarchies of control groups.
func groupRoots(t *testing.T) []string {
	t.Helper()
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return []string{"/sys/fs/cgroup"}
	}
	dirs, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no control groups at /sys/fs/cgroup: %v", err)
	}
	for i := range dirs {
		dirs[i] = filepath.Dir(dirs[i])
	}
	return dirs
}

// unmounted names a hierarchy of v1 that processes are in, and that is not mounted
// here; "" if there is none.
func unmounted(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		f := strings.SplitN(line, ":", 3)
		name := strings.TrimPrefix(f[1], "name=")
		if _, err := os.Stat("/sys/fs/cgroup/" + name); name != "" && err != nil {
			return name
		}
	}
	return ""
}

// groupParent is the control group below which an engine makes its own. When the
// test ends, containers' groups must be gone from it; what the engine keeps for
// itself, empty, is removed.
func groupParent(t *testing.T, name string) string {
	t.Helper()
	parent := fmt.Sprintf("/viv-%s-%d", name, os.Getpid())
	t.Cleanup(func() {
		for _, root := range groupRoots(t) {
			removeGroup(t, root+parent)
		}
	})
	return parent
}

// removeGroup removes a group with all below it, if no process is in them.
func removeGroup(t *testing.T, top string) {
	var dirs []string
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		t.Errorf("walk the control groups below %s: %v", top, err)
	}
	for _, dir := range slices.Backward(dirs) {
		// A group is busy until the kernel has put the last process away, which
		// gives no event on v1.
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			err := os.Remove(dir)
			if err == nil || errors.Is(err, fs.ErrNotExist) {
				break
			}
			if time.Now().After(end) {
				procs, _ := os.ReadFile(dir + "/cgroup.procs")
				t.Errorf("control group %s is left, with processes %q: %v", dir, procs, err)
				break
			}
		}
	}
}

// limit reads a file of the control group that a process is in, of one controller
// and by its name on v1 or on v2, from outside.
func limit(t *testing.T, pid int, controller, v1, v2 string) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		switch {
		case slices.Contains(strings.Split(f[1], ","), controller):
			return readLine(t, filepath.Join("/sys/fs/cgroup", f[1], f[2], v1))
		case f[0] == "0" && strings.Count(string(text), "\n") == 1:
			return readLine(t, filepath.Join("/sys/fs/cgroup", f[2], v2))
		}
	}
	t.Fatalf("process %d is in no control group of %s:\n%s", pid, controller, text)
	return ""
}

func readLine(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// number reads what a command printed as a number.
func number(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(s))
	if err != nil {
		t.Fatal(err)
	}
	return n
}
