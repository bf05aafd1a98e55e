package testenv

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// ownedPrivately refuses a directory that somebody else could have put there.
func ownedPrivately(dir string) error {
	var st syscall.Stat_t
	if err := syscall.Lstat(dir, &st); err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	if st.Mode&syscall.S_IFMT != syscall.S_IFDIR || int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		return fmt.Errorf("%s is not a directory that only this user can write: remove it", dir)
	}
	return nil
}

// descriptors lists the open file descriptors of this process with what they
// refer to. Those that the Go runtime opens for itself are left out.
func descriptors() map[string]string {
	found := map[string]string{}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return found
	}
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil {
			continue // the descriptor of the listing itself
		}
		switch target {
		case "anon_inode:[eventpoll]", "anon_inode:[eventfd]":
			continue
		}
		found[e.Name()] = target
	}
	return found
}

// NoDescriptorLeak fails the test if it ends with descriptors open that were not
// when NoDescriptorLeak was called. It is of no use in tests that run in
// parallel.
func NoDescriptorLeak(t testing.TB) {
	t.Helper()
	before := descriptors()
	t.Cleanup(func() {
		for _, leak := range poll(func() []string { return descriptorLeaks(before) }) {
			t.Error("left behind:", leak)
		}
	})
}

func descriptorLeaks(before map[string]string) []string {
	var leaks []string
	for fd, target := range descriptors() {
		// The coverage and fuzzing machinery of the testing package keeps files of
		// its own in the build's temporary directory; ours have other targets.
		if before[fd] != target {
			leaks = append(leaks, fmt.Sprintf("descriptor %s -> %s", fd, target))
		}
	}
	return leaks
}

// processLeaks says what a whole test process has left behind in dir.
func processLeaks(dir string, before map[string]string) []string {
	leaks := descriptorLeaks(before)
	leaks = append(leaks, mountLeaks(dir)...)
	leaks = append(leaks, processesReferringTo(dir)...)
	leaks = append(leaks, children()...)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return append(leaks, err.Error())
	}
	for _, e := range entries {
		leaks = append(leaks, "file "+filepath.Join(dir, e.Name()))
	}
	return leaks
}

// mountLeaks lists the mounts of this mount namespace that lie in dir or come
// from it.
func mountLeaks(dir string) []string {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return []string{err.Error()}
	}
	defer file.Close()
	var leaks []string
	for scan := bufio.NewScanner(file); scan.Scan(); {
		if strings.Contains(scan.Text(), dir+"/") {
			leaks = append(leaks, "mount "+scan.Text())
		}
	}
	return leaks
}

// children lists the child processes of this process that nobody has waited for.
func children() []string {
	var leaks []string
	forEachProcess(func(pid int, proc string) {
		stat, err := os.ReadFile(proc + "/stat")
		if err != nil {
			return
		}
		// The name may hold blanks and parentheses; the fields begin after the last.
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(os.Getpid()) {
			leaks = append(leaks, fmt.Sprintf("child process %s (state %s)", describe(pid), fields[0]))
		}
	})
	return leaks
}

// processesReferringTo lists the processes, other than this one, that have dir in
// their arguments, as a directory, or in an open file.
func processesReferringTo(dir string) []string {
	var leaks []string
	forEachProcess(func(pid int, proc string) {
		if pid != os.Getpid() && refersTo(proc, dir) {
			leaks = append(leaks, "process "+describe(pid))
		}
	})
	return leaks
}

func refersTo(proc, dir string) bool {
	cmdline, err := os.ReadFile(proc + "/cmdline")
	if err != nil {
		return false
	}
	if strings.Contains(string(cmdline), dir+"/") {
		return true
	}
	for _, link := range []string{"/cwd", "/root"} {
		if target, err := os.Readlink(proc + link); err == nil && under(target, dir) {
			return true
		}
	}
	entries, err := os.ReadDir(proc + "/fd")
	if err != nil {
		return false
	}
	for _, e := range entries {
		if target, err := os.Readlink(proc + "/fd/" + e.Name()); err == nil && under(target, dir) {
			return true
		}
	}
	return false
}

// processesInCgroups lists the processes that are in a control group named after
// one of the containers.
func processesInCgroups(ids []string) []string {
	var leaks []string
	forEachProcess(func(pid int, proc string) {
		groups, err := os.ReadFile(proc + "/cgroup")
		if err != nil {
			return
		}
		for _, id := range ids {
			if strings.Contains(string(groups), id) {
				leaks = append(leaks, "container process "+describe(pid))
				return
			}
		}
	})
	return leaks
}

// cgroupLeaks lists the control group directories, in every hierarchy, named
// after one of the containers.
func cgroupLeaks(ids []string) []string {
	if len(ids) == 0 {
		return nil
	}
	var leaks []string
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			// Groups of others come and go while we look.
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		if !d.IsDir() {
			return nil
		}
		for _, id := range ids {
			if strings.Contains(d.Name(), id) {
				leaks = append(leaks, "control group "+path)
				return filepath.SkipDir
			}
		}
		return nil
	})
	if err != nil {
		leaks = append(leaks, fmt.Sprintf("walk the control groups: %v", err))
	}
	return leaks
}

func forEachProcess(visit func(pid int, proc string)) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			visit(pid, "/proc/"+e.Name())
		}
	}
}

// describe names a process for a person.
func describe(pid int) string {
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err == nil && len(cmdline) > 0 {
		return fmt.Sprintf("%d %q", pid, strings.TrimSpace(strings.ReplaceAll(string(cmdline), "\x00", " ")))
	}
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return strconv.Itoa(pid)
	}
	return fmt.Sprintf("%d [%s]", pid, strings.TrimSpace(string(comm)))
}
