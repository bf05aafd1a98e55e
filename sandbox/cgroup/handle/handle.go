// Package handle works on the cgroups of one container: it finds their
// processes, freezes, kills and removes them.
//
// The monitor of each container links it, so it imports only os and what os
// itself imports. All functions act below the directories of the handle and
// nowhere else. Waits end at a deadline.
package handle

import (
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Handle names the directories of a container's cgroups, absolute. A field is
// empty if the machine has no such hierarchy.
type Handle struct {
	Unified string   `json:"unified,omitempty"` // v2
	Freezer string   `json:"freezer,omitempty"` // v1 freezer
	Memory  string   `json:"memory,omitempty"`  // v1 memory
	V1      []string `json:"v1,omitempty"`      // all v1 directories, also the two above
}

// ErrTimeout is in the chain of errors that say that a deadline has passed.
var ErrTimeout = errors.New("deadline passed")

// all gives the directories of every hierarchy.
func (h Handle) all() []string {
	if h.Unified == "" {
		return h.V1
	}
	return append([]string{h.Unified}, h.V1...)
}

func fail(verb, object string, err error) error {
	return &opError{verb, object, err}
}

// opError is "verb object: err"; fmt is too large for the monitor.
type opError struct {
	verb, object string
	err          error
}

func (e *opError) Error() string { return e.verb + " " + e.object + ": " + e.err.Error() }
func (e *opError) Unwrap() error { return e.err }

// Procs gives the processes in the container's cgroups and in those below
// them, each once. A cgroup that is gone has none.
func (h Handle) Procs() ([]int, error) {
	// All hierarchies hold the same processes unless somebody has moved one;
	// then the union is what the container left behind.
	seen := map[int]bool{}
	var pids []int
	for _, dir := range h.all() {
		err := walk(dir, func(cgroup *os.File) error {
			list, err := procs(cgroup)
			for _, pid := range list {
				if !seen[pid] {
					seen[pid] = true
					pids = append(pids, pid)
				}
			}
			return err
		}, nil)
		if err != nil {
			return nil, fail("list the processes of cgroup", dir, err)
		}
	}
	return pids, nil
}

// procs reads one cgroup.procs. In a threaded v2 cgroup the file cannot be read
// (EOPNOTSUPP); its processes are listed in the threaded domain's root, above.
func procs(cgroup *os.File) ([]int, error) {
	fd, err := unix.Openat(int(cgroup.Fd()), "cgroup.procs", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "cgroup.procs")
	defer f.Close()
	b, err := io.ReadAll(f)
	if errors.Is(err, unix.EOPNOTSUPP) || gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, field := range strings.Fields(string(b)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return nil, err
		}
		if pid > 0 { // 0 stands for a process of another pid namespace
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// gone says whether an error means that a cgroup was removed: a path that is
// missing, or a file whose cgroup went away while it was open.
func gone(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) }

func write(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return fail("open", path, errors.Unwrap(err))
	}
	defer f.Close()
	if _, err := f.WriteString(value); err != nil {
		return fail("write "+strconv.Quote(value)+" to", path, errors.Unwrap(err))
	}
	return nil
}

// field reads the number behind a key of a flat keyed file; false if the key is
// not there.
func field(path, key string) (int64, bool, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, false, err
	}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), " "); ok && k == key {
			n, err := strconv.ParseInt(v, 10, 64)
			return n, err == nil, err
		}
	}
	return 0, false, nil
}

// OOMKills is how many processes of the container the kernel has killed for
// want of memory. It is to be read before the cgroups are removed. On v1
// kernels before 4.13 there is no count, and a cgroup that is under OOM counts
// as one.
func (h Handle) OOMKills() (int64, error) {
	if h.Memory != "" {
		path := h.Memory + "/memory.oom_control"
		n, ok, err := field(path, "oom_kill")
		if err == nil && !ok {
			n, _, err = field(path, "under_oom")
		}
		if err != nil && !gone(err) {
			return 0, fail("read", path, err)
		}
		return n, nil
	}
	if h.Unified == "" {
		return 0, nil
	}
	path := h.Unified + "/memory.events"
	n, _, err := field(path, "oom_kill")
	if gone(err) { // no memory controller here
		return 0, nil
	}
	if err != nil {
		return 0, fail("read", path, err)
	}
	return n, nil
}

// waiter waits for changes of a v2 events file, with an end.
type waiter struct {
	fd  int
	end time.Time
}

// watch begins to watch dir/cgroup.events. The kernel reports a change of the
// file as a modification (cgroup-v2.rst).
func watch(dir string, end time.Time) (*waiter, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fail("watch cgroup", dir, err)
	}
	if _, err := unix.InotifyAddWatch(fd, dir+"/cgroup.events", unix.IN_MODIFY); err != nil {
		unix.Close(fd)
		return nil, fail("watch cgroup", dir, err)
	}
	return &waiter{fd, end}, nil
}

func (w *waiter) close() { unix.Close(w.fd) }

// next waits for a change; ErrTimeout if there is none in time.
func (w *waiter) next() error {
	if err := pollIn([]int{w.fd}, w.end); err != nil {
		return err
	}
	var buf [4096]byte
	if _, err := unix.Read(w.fd, buf[:]); err != nil && err != unix.EAGAIN && err != unix.EINTR {
		return err
	}
	return nil
}

// pollIn waits until one of the descriptors is readable.
func pollIn(fds []int, end time.Time) error {
	set := make([]unix.PollFd, len(fds))
	for i, fd := range fds {
		set[i] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	}
	for {
		left := time.Until(end)
		if left <= 0 {
			return ErrTimeout
		}
		n, err := unix.Poll(set, int(left/time.Millisecond)+1)
		if n > 0 {
			return nil
		}
		if err != nil && err != unix.EINTR {
			return err
		}
	}
}

// waitEvent waits until dir/cgroup.events says key is value. A cgroup that is
// gone is empty and not frozen.
func waitEvent(dir, key string, value int64, end time.Time) error {
	w, err := watch(dir, end)
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer w.close()
	for {
		n, _, err := field(dir+"/cgroup.events", key)
		if gone(err) || err == nil && n == value {
			return nil
		}
		if err != nil {
			return fail("read the events of cgroup", dir, err)
		}
		if err := w.next(); err != nil {
			return fail("wait until "+key+" is "+strconv.FormatInt(value, 10)+" in cgroup", dir, err)
		}
	}
}

// pause is for v1 states, which give no event: a short, growing pause.
func pause(try int, end time.Time) error {
	d := min(time.Millisecond<<min(try, 5), 20*time.Millisecond)
	if time.Until(end) < d {
		return ErrTimeout
	}
	time.Sleep(d)
	return nil
}
