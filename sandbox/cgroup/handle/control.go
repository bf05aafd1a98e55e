package handle

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Freeze stops all processes of the container and returns when they are
// stopped. If that takes longer than timeout they are let go on, and the error
// is ErrTimeout.
func (h Handle) Freeze(timeout time.Duration) error {
	end := time.Now().Add(timeout)
	var err error
	switch {
	case h.Freezer != "":
		err = freezeV1(h.Freezer, end)
	case h.Unified != "":
		if err = write(h.Unified+"/cgroup.freeze", "1"); err == nil {
			err = waitEvent(h.Unified, "frozen", 1, end)
		}
	default:
		return errors.New("freeze container: neither the freezer controller nor a v2 hierarchy is mounted")
	}
	if err == nil {
		return nil
	}
	if thaw := h.thaw(); thaw != nil && !gone(thaw) {
		return errors.Join(err, thaw)
	}
	return err
}

// Thaw lets frozen processes go on. Thawing what is not frozen is no error.
func (h Handle) Thaw() error {
	if h.Freezer == "" && h.Unified == "" {
		return errors.New("thaw container: neither the freezer controller nor a v2 hierarchy is mounted")
	}
	return h.thaw()
}

func (h Handle) thaw() error {
	if h.Freezer != "" {
		return write(h.Freezer+"/freezer.state", "THAWED")
	}
	return write(h.Unified+"/cgroup.freeze", "0")
}

// Frozen says whether the container is frozen.
func (h Handle) Frozen() (bool, error) {
	switch {
	case h.Freezer != "":
		state, err := freezerState(h.Freezer)
		return state == "FROZEN", err
	case h.Unified != "":
		n, _, err := field(h.Unified+"/cgroup.events", "frozen")
		if err != nil {
			return false, fail("read the events of cgroup", h.Unified, err)
		}
		return n == 1, nil
	}
	return false, nil
}

func freezerState(dir string) (string, error) {
	b, err := os.ReadFile(dir + "/freezer.state")
	if err != nil {
		return "", fail("read the state of freezer", dir, err)
	}
	return strings.TrimSpace(string(b)), nil
}

// freezeV1 freezes a v1 cgroup. A task that was forked while the others were
// being frozen can leave the state at FREEZING; writing FROZEN again takes it
// too (freezer-subsystem.rst). There is no event for it.
func freezeV1(dir string, end time.Time) error {
	for try := 0; ; try++ {
		if err := write(dir+"/freezer.state", "FROZEN"); err != nil {
			return err
		}
		state, err := freezerState(dir)
		if err != nil || state == "FROZEN" {
			return err
		}
		if err := pause(try, end); err != nil {
			return fail("wait until the freezer is FROZEN, it is "+state+", in cgroup", dir, err)
		}
	}
}

// Kill kills every process in the container's cgroups and returns when none is
// left: all have ended, though their parents may not have waited for them yet.
func (h Handle) Kill(timeout time.Duration) error {
	end := time.Now().Add(timeout)
	if h.Unified != "" {
		if err := h.killUnified(end); err != nil {
			return err
		}
	}
	if len(h.V1) == 0 {
		return nil
	}
	// Also with cgroup.kill: on a hybrid machine a process may have been moved
	// out of the v2 cgroup only.
	return h.killRounds(end)
}

// killUnified kills through cgroup.kill (5.14), which also catches what forks
// meanwhile, and else by signals.
func (h Handle) killUnified(end time.Time) error {
	err := write(h.Unified+"/cgroup.kill", "1")
	switch {
	case err == nil:
		// A v1 freezer holds a process even from dying until it is thawed.
		if h.Freezer != "" {
			if err := h.thaw(); err != nil && !gone(err) {
				return err
			}
			h.leaveFreezers()
		}
		return waitEvent(h.Unified, "populated", 0, end)
	case !gone(err):
		return err
	case len(h.V1) > 0:
		return nil // the rounds of signals do it
	}
	return h.killRounds(end)
}

// leaveFreezers takes the processes that are in another v1 freezer, also one below
// the container's own, into that, which is thawed: in one that is frozen they would
// not even die. One that cannot be moved is waited for like any other.
func (h Handle) leaveFreezers() {
	if h.Freezer == "" {
		return
	}
	dir, err := openAt(unix.AT_FDCWD, h.Freezer)
	if err != nil {
		return
	}
	own, err := procs(dir)
	dir.Close()
	if err != nil {
		return
	}
	all, err := h.Procs()
	if err != nil {
		return
	}
	for _, pid := range all {
		if !slices.Contains(own, pid) {
			write(h.Freezer+"/cgroup.procs", strconv.Itoa(pid))
		}
	}
}

// killRounds freezes, signals everything, thaws and waits, until nothing is
// left. Freezing keeps the processes from forking away from the list.
func (h Handle) killRounds(end time.Time) error {
	for {
		pids, err := h.Procs()
		if err != nil || len(pids) == 0 {
			return err
		}
		// A cgroup that does not freeze in time (a task in D state, a vfork
		// parent) is killed all the same, in more rounds.
		frozen := h.Freeze(min(100*time.Millisecond, time.Until(end))) == nil
		fds, err := h.signalAll()
		if frozen || h.Freezer != "" {
			if thaw := h.thaw(); thaw != nil && !gone(thaw) && err == nil {
				err = thaw
			}
			h.leaveFreezers()
		}
		if err == nil {
			err = waitAll(fds, end)
		}
		for _, fd := range fds {
			unix.Close(fd)
		}
		if err != nil {
			return err
		}
		if time.Now().After(end) {
			return fail("kill the processes of cgroup", h.all()[0], ErrTimeout)
		}
	}
}

// signalAll sends SIGKILL to each process and gives a pidfd for each.
// The pidfd is opened first and the list read again, so that a number which was
// reused by a process outside cannot be hit.
func (h Handle) signalAll() (fds []int, err error) {
	before, err := h.Procs()
	if err != nil {
		return nil, err
	}
	byPid := map[int]int{}
	for _, pid := range before {
		fd, err := unix.PidfdOpen(pid, 0)
		if err == unix.ESRCH {
			continue
		}
		if err != nil {
			return fds, fail("open a process of cgroup", h.all()[0], err)
		}
		byPid[pid] = fd
		fds = append(fds, fd)
	}
	after, err := h.Procs()
	if err != nil {
		return fds, err
	}
	for _, pid := range after {
		fd, ok := byPid[pid]
		if !ok {
			continue // the next round
		}
		if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
			return fds, fail("kill a process of cgroup", h.all()[0], err)
		}
		delete(byPid, pid)
	}
	// What left the list was not signalled, so there is nothing to wait for.
	kept := fds[:0]
	for _, fd := range fds {
		if contains(byPid, fd) {
			unix.Close(fd)
		} else {
			kept = append(kept, fd)
		}
	}
	return kept, nil
}

func contains(m map[int]int, fd int) bool {
	for _, v := range m {
		if v == fd {
			return true
		}
	}
	return false
}

// waitAll waits until the processes have ended: a pidfd is readable then.
func waitAll(fds []int, end time.Time) error {
	for _, fd := range fds {
		if err := pollIn([]int{fd}, end); err != nil {
			return fail("wait for", "a killed process", err)
		}
	}
	return nil
}

// Remove removes the container's cgroups with all that are below them. They
// must be empty or become so within timeout.
func (h Handle) Remove(timeout time.Duration) error {
	end := time.Now().Add(timeout)
	for _, dir := range h.all() {
		if err := remove(dir, dir == h.Unified, end); err != nil {
			return err
		}
	}
	return nil
}

// remove tries the single rmdir first: most containers have no cgroup below.
func remove(dir string, unified bool, end time.Time) error {
	for try := 0; ; try++ {
		err := unix.Rmdir(dir)
		if err == nil || gone(err) {
			return nil
		}
		if err != unix.EBUSY && err != unix.EINTR {
			return fail("remove cgroup", dir, err)
		}
		visit := func(*os.File) error { return nil }
		err = walk(dir, visit, func(above *os.File, name string) error {
			err := unix.Unlinkat(int(above.Fd()), name, unix.AT_REMOVEDIR)
			if err != nil && !gone(err) && err != unix.EBUSY {
				return err
			}
			return nil
		})
		if err != nil {
			return fail("remove what is below cgroup", dir, err)
		}
		if err := unix.Rmdir(dir); err == nil || gone(err) {
			return nil
		}
		if unified {
			err = waitEvent(dir, "populated", 0, end)
		}
		if err == nil {
			err = pause(try, end)
		}
		if err != nil {
			return fail("remove cgroup", dir, errors.Join(unix.EBUSY, err))
		}
	}
}
