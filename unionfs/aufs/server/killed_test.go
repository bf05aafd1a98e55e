package server_test

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// changes are the system calls that change a branch.
var changes = map[uint64]bool{
	unix.SYS_MKDIRAT: true, unix.SYS_LINKAT: true, unix.SYS_UNLINKAT: true, unix.SYS_RENAMEAT: true, unix.SYS_RENAMEAT2: true,
	unix.SYS_SYMLINKAT: true, unix.SYS_MKNODAT: true, unix.SYS_FCHOWNAT: true, unix.SYS_FCHMODAT: true, unix.SYS_FCHMODAT2: true,
	unix.SYS_FCHMOD: true, unix.SYS_UTIMENSAT: true, unix.SYS_SETXATTR: true, unix.SYS_REMOVEXATTR: true, unix.SYS_FTRUNCATE: true,
	unix.SYS_PWRITE64: true, unix.SYS_COPY_FILE_RANGE: true,
}

// killAt kills a process before the system call of the given number, counted from 0, of those
// that change a branch. It returns when the process follows its threads' calls; ended gives
// whether it came to that call.
func killAt(t *testing.T, pid, call int) (ended chan bool) {
	t.Helper()
	ready, ended := make(chan error, 1), make(chan bool, 1)
	go func() {
		runtime.LockOSThread() // who traces is a thread; not unlocked, it ends with what it traces
		ended <- trace(pid, call, ready)
	}()
	must(t, <-ready)
	return ended
}

// trace follows all threads of a process (ptrace(2)) until it ends.
func trace(pid, call int, ready chan error) (killed bool) {
	seized := map[int]bool{}
	for {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			ready <- err
			return false
		}
		fresh := 0
		for _, task := range tasks {
			tid, _ := strconv.Atoi(task.Name())
			if seized[tid] {
				continue
			}
			fresh++
			seized[tid] = true
			if err := unix.PtraceSeize(tid); err != nil && err != unix.ESRCH {
				ready <- err
				return false
			}
			_ = unix.PtraceInterrupt(tid)
		}
		if fresh == 0 {
			break
		}
	}
	const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE
	var told bool
	waiting := maps.Clone(seized)
	for {
		var status unix.WaitStatus
		tid, err := unix.Wait4(-1, &status, unix.WALL|unix.WNOTHREAD, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil { // nobody is left
			if !told {
				ready <- err
			}
			return killed
		}
		if !status.Stopped() {
			continue
		}
		if waiting[tid] {
			_ = unix.PtraceSetOptions(tid, options)
			delete(waiting, tid)
		}
		signal := 0
		switch stop := status.StopSignal(); {
		case stop == unix.SIGTRAP|0x80:
			if !killed && changing(tid) {
				if call == 0 {
					killed = true
					_ = unix.Kill(pid, unix.SIGKILL)
					continue
				}
				call--
			}
		case status>>16 == 0: // a signal, and no event
			signal = int(stop)
		}
		_ = unix.PtraceSyscall(tid, signal)
		if len(waiting) == 0 && !told {
			told = true
			ready <- nil
		}
	}
}

// changing tells whether a thread that has stopped is about to do a call that changes a branch.
func changing(tid int) bool {
	var info [88]byte // struct ptrace_syscall_info: op, …, nr at 24, args at 32
	const getSyscallInfo, entry = 0x420e, 1
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, getSyscallInfo, uintptr(tid), uintptr(len(info)), uintptr(unsafe.Pointer(&info)), 0, 0)
	if errno != 0 || info[0] != entry {
		return false
	}
	nr := *(*uint64)(unsafe.Pointer(&info[24]))
	flags := *(*uint64)(unsafe.Pointer(&info[48]))
	return changes[nr] || nr == unix.SYS_OPENAT && flags&unix.O_CREAT != 0
}

// tree is what users see of a union: names with kind, mode, content, and which are of one file.
func tree(t *testing.T, root string) string {
	t.Helper()
	var out strings.Builder
	numbers := map[uint64]int{}
	must(t, filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		if err != nil || p == root {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		fmt.Fprintf(&out, "%s %o", strings.TrimPrefix(p, root), st.Mode)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			if numbers[st.Ino] == 0 {
				numbers[st.Ino] = len(numbers) + 1
			}
			fmt.Fprintf(&out, " %q file %d", b, numbers[st.Ino])
		case unix.S_IFLNK:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			fmt.Fprintf(&out, " -> %s", to)
		}
		out.WriteByte('\n')
		return nil
	}))
	return out.String()
}

// TestKilledAtEachCall kills the server before each call that changes a branch. A mount that
// follows shows what was there before or what was to be there, and the same can be done again.
func TestKilledAtEachCall(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(root string) error
	}{
		{"copy up", func(r string) error { return os.Chmod(r+"/d/sub/file", 0o600) }},
		{"copy up to write", func(r string) error {
			f, err := os.OpenFile(r+"/d/sub/file", os.O_WRONLY, 0)
			if err == nil {
				err = f.Close()
			}
			return err
		}},
		{"copy up a link", func(r string) error { return os.Chmod(r+"/d/name", 0o600) }},
		{"copy up a directory", func(r string) error { return os.Chmod(r+"/d/sub", 0o700) }},
		{"create", func(r string) error { return create(r + "/d/new") }},
		{"create where something was deleted", func(r string) error { return create(r + "/gone") }},
		{"mkdir where something was deleted", func(r string) error { return os.Mkdir(r+"/gone", 0o755) }},
		{"symlink", func(r string) error { return os.Symlink("to", r+"/d/new") }},
		{"link", func(r string) error { return os.Link(r+"/d/sub/file", r+"/d/new") }},
		{"unlink below", func(r string) error { return os.Remove(r + "/d/sub/file") }},
		{"unlink both", func(r string) error { return os.Remove(r + "/both") }},
		{"unlink a link", func(r string) error { return os.Remove(r + "/d/name") }},
		{"rmdir", func(r string) error { return os.Remove(r + "/empty") }},
		{"rename above", func(r string) error { return os.Rename(r+"/top", r+"/other") }},
		{"rename below", func(r string) error { return os.Rename(r+"/d/sub/file", r+"/d/moved") }},
		{"rename over", func(r string) error { return os.Rename(r+"/top", r+"/d/sub/file") }},
		{"rename over both", func(r string) error { return os.Rename(r+"/d/sub/file", r+"/both") }},
		{"rename a directory", func(r string) error { return os.Rename(r+"/mine", r+"/yours") }},
		{"rename over a directory", func(r string) error { return unix.Rename(r+"/mine", r+"/empty") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var after string
			for call := -1; ; call++ {
				got, before, killed, again := killedAt(t, call, tt.do)
				if call < 0 {
					after = got
					if before == after && tt.name != "copy up to write" {
						t.Fatal("nothing was done")
					}
					continue
				}
				if got != before && got != after {
					t.Errorf("killed before call %d: neither what was there:\n%s\nnor what was to be there:\n%s\nbut:\n%s", call, before, after, got)
				}
				if got == before && again != after {
					t.Errorf("killed before call %d and done again:\n%s\nand not:\n%s", call, again, after)
				}
				if !killed {
					if call == 0 {
						t.Error("no call was seen")
					}
					return
				}
			}
		})
	}
}

func create(p string) error {
	f, err := os.OpenFile(p, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err == nil {
		err = f.Close()
	}
	return err
}

// killedAt does something on a union of its own whose server is killed before a call; with -1
// at the end. It gives what is seen of it before and, by another server, after, and when the
// same was then done again.
func killedAt(t *testing.T, call int, do func(root string) error) (got, before string, killed bool, again string) {
	t.Helper()
	b := dirs(t, 2)
	low, up := b[1], b[0]
	write(t, low+"/d/sub/file", "of the branch below")
	write(t, low+"/d/name", "linked")
	must(t, os.Link(low+"/d/name", low+"/d/name2"))
	write(t, low+"/both", "low")
	write(t, up+"/both", "up")
	write(t, low+"/gone", "x")
	write(t, up+"/.wh.gone", "")
	must(t, os.Mkdir(low+"/empty", 0o755))
	write(t, up+"/top", "of the branch above")
	write(t, up+"/mine/file", "y")
	must(t, os.Mkdir(up+"/empty", 0o755))
	u := mount(t, "dirs="+up+":"+low+",udba=none")
	before = tree(t, u.point)
	if call < 0 {
		must(t, do(u.point))
	} else {
		ended := killAt(t, u.pid, call)
		err := do(u.point)
		if err != nil && !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, unix.ECONNABORTED) {
			t.Errorf("killed before call %d: %v", call, err)
		}
		_ = unix.PidfdSendSignal(u.pidfd, unix.SIGKILL, nil, 0)
		killed = <-ended
	}
	u.kill()
	u.start()
	got = tree(t, u.point)
	if call >= 0 && got == before {
		if err := do(u.point); err != nil {
			t.Errorf("killed before call %d, and done again: %v", call, err)
		}
		again = tree(t, u.point)
	}
	u.stop()
	return got, before, killed, again
}
