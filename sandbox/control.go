package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"vivarium/sandbox/cgroup"
	"vivarium/sandbox/cgroup/handle"
	"vivarium/sandbox/spawn"
	"vivarium/sandbox/state"
)

// Info is what state and list show of a container.
type Info struct {
	Version     string            `json:"ociVersion"`
	ID          string            `json:"id"`
	Pid         int               `json:"pid"` // 0 when stopped
	Status      state.Status      `json:"status"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Owner       string            `json:"owner"`
}

// opened is a container that a command works on.
type opened struct {
	dir    *state.Dir
	rec    *state.State
	status state.Status
}

func (r *Runtime) open(id string, lock bool) (*opened, error) {
	var dir *state.Dir
	var err error
	if lock {
		dir, err = r.Store.OpenLocked(id, lockTimeout)
	} else {
		dir, err = r.Store.Open(id)
	}
	if err != nil {
		return nil, err
	}
	o := &opened{dir: dir}
	if o.rec, err = dir.Load(); err == nil {
		o.status, err = dir.Status(o.rec)
	}
	if err != nil {
		dir.Close()
		return nil, err
	}
	return o, nil
}

// spec reads the spec as it was at create.
func (o *opened) spec() (*specs.Spec, error) {
	s, _, err := readSpec(o.dir.File(state.SpecFile))
	return s, err
}

func (o *opened) info() Info {
	i := Info{Version: o.rec.OCIVersion, ID: o.rec.ID, Pid: o.rec.Pid, Status: o.status, Bundle: o.rec.Bundle,
		Rootfs: o.rec.Rootfs, Created: o.rec.Created, Annotations: o.rec.Annotations}
	if i.Status == state.Stopped {
		i.Pid = 0
	}
	return i
}

// State tells what a container is and does.
func (r *Runtime) State(id string) (Info, error) {
	o, err := r.open(id, false)
	if err != nil {
		return Info{}, err
	}
	defer o.dir.Close()
	return o.info(), nil
}

// List tells it of all containers, with their owners. One that cannot be read
// is warned of, and left out.
func (r *Runtime) List() ([]Info, error) {
	ids, err := r.Store.List()
	if err != nil {
		return nil, err
	}
	var out []Info
	for _, id := range ids {
		o, err := r.open(id, false)
		if err != nil {
			r.warn("load container " + id + ": " + err.Error())
			continue
		}
		i := o.info()
		if uid, err := o.dir.Owner(); err == nil {
			i.Owner = userName(uid)
		}
		o.dir.Close()
		out = append(out, i)
	}
	return out, nil
}

func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return "#" + id
}

// Start lets a created container's process run its command. With a notify socket
// (sd_notify(3)) of the caller's it waits until the command says that it is ready,
// or ends, if the container was created with one.
func (r *Runtime) Start(id, notifySocket string) error {
	o, err := r.open(id, true)
	if err != nil {
		return err
	}
	defer o.dir.Close()
	switch o.status {
	case state.Created:
	case state.Stopped:
		return errors.New("cannot start a container that has stopped")
	case state.Running:
		return errors.New("cannot start an already running container")
	default:
		return fmt.Errorf("cannot start a container in the %s state", o.status)
	}
	notify, err := listenNotify(o.dir, notifySocket)
	if err != nil {
		return err
	}
	defer notify.Close()
	pidfd := -1
	if notify != nil {
		if pidfd, err = unix.PidfdOpen(o.rec.Pid, 0); err != nil {
			return fmt.Errorf("open process %d: %w", o.rec.Pid, err)
		}
		defer unix.Close(pidfd)
	}
	if o.rec.Hooks {
		err = r.startWithHooks(o)
	} else {
		err = o.letRun()
	}
	if err != nil || notify == nil {
		return err
	}
	o.dir.Unlock() // others may work on it while we wait
	return notify.Pass(o.rec.Pid, pidfd)
}

// startWithHooks destroys the container when a hook fails, as runtime-spec,
// runtime.md "Lifecycle", says for both kinds that are run here.
func (r *Runtime) startWithHooks(o *opened) error {
	spec, err := o.spec()
	if err != nil {
		return err
	}
	err = o.startHooks(spec)
	if err == nil {
		if err := o.letRun(); err != nil {
			return err
		}
		err = o.poststartHooks(spec)
	}
	if err != nil {
		return errors.Join(err, r.destroyLocked(o))
	}
	return nil
}

// letRun lets a process that waits run its command.
func (o *opened) letRun() error {
	if err := o.release(); err != nil {
		return err
	}
	o.status = state.Running
	return o.dir.RemoveFifoLocked()
}

// release gives the waiting process its byte, and returns when it has let the
// FIFO go: by executing the command, which succeeded then, or by ending.
func (o *opened) release() error {
	path := o.dir.File(state.FifoFile)
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("reach the waiting process of container %s: %w", o.rec.ID, err)
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte{'G'}); err != nil {
		return fmt.Errorf("start the waiting process of container %s: %w", o.rec.ID, err)
	}
	// Of a pipe without readers poll(2) says POLLERR, whatever was asked for.
	set := []unix.PollFd{{Fd: int32(fd)}}
	for end := time.Now().Add(startTimeout); ; {
		left := time.Until(end)
		if left <= 0 {
			return fmt.Errorf("wait until container %s has started: nothing happened for %v", o.rec.ID, startTimeout)
		}
		n, err := unix.Poll(set, int(left/time.Millisecond)+1)
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("wait until container %s has started: %w", o.rec.ID, err)
		}
		if n > 0 {
			break
		}
	}
	return o.failure(path)
}

// failure reads the stub's report, if it left one: it could not execute the
// command. What was written stays in the FIFO as long as somebody has it open.
func (o *opened) failure(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("read the report of the process of container %s: %w", o.rec.ID, err)
	}
	defer unix.Close(fd)
	var b [16]byte
	n, err := unix.Read(fd, b[:])
	if err != nil || n == 0 {
		return nil
	}
	if e := spawn.FailureOf(b[:n]); e != 0 {
		name := ""
		if spec, err := o.spec(); err == nil && spec.Process != nil && len(spec.Process.Args) > 0 {
			name = spec.Process.Args[0]
		}
		return fmt.Errorf("unable to start container process: %w", newExecError(name, e, o.rec.Rootfs))
	}
	return nil
}

// Kill sends a signal to the container's first process, or to all.
func (r *Runtime) Kill(id string, sig unix.Signal, all bool) error {
	o, err := r.open(id, false)
	if err != nil {
		return err
	}
	defer o.dir.Close()
	if all || (o.rec.SharedPids && sig == unix.SIGKILL) {
		return o.signalAll(sig)
	}
	if o.status == state.Stopped || o.rec.Pid == 0 {
		return ErrNotRunning
	}
	if err := o.signal(sig); err != nil {
		return err
	}
	if o.status == state.Paused && sig == unix.SIGKILL {
		// On v1 a frozen process does not even die.
		return o.rec.Cgroups.Thaw()
	}
	return nil
}

// signal opens the process first and looks then whether it is the right one, so
// that another with the same number is never hit.
func (o *opened) signal(sig unix.Signal) error {
	fd, err := unix.PidfdOpen(o.rec.Pid, 0)
	if err == unix.ESRCH {
		return ErrNotRunning
	}
	if err != nil {
		return fmt.Errorf("unable to signal init: %w", err)
	}
	defer unix.Close(fd)
	if alive, err := o.rec.Alive(); err != nil || !alive {
		return ErrNotRunning
	}
	if o.status == state.Created && !o.rec.SharedPids && endsProcess(sig) {
		// The kernel drops it: the first process of a PID namespace has no handler
		// as long as it waits for start (pid_namespaces(7)). That of runc would end.
		sig = unix.SIGKILL
	}
	err = unix.PidfdSendSignal(fd, sig, nil, 0)
	if err == unix.ESRCH {
		return ErrNotRunning
	}
	if err != nil {
		return fmt.Errorf("unable to signal init: %w", err)
	}
	return nil
}

// endsProcess says whether a signal ends a process that does not handle it (signal(7)).
func endsProcess(sig unix.Signal) bool {
	switch sig {
	case 0, unix.SIGCHLD, unix.SIGCONT, unix.SIGURG, unix.SIGWINCH, unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU:
		return false
	}
	return true
}

func (o *opened) signalAll(sig unix.Signal) error {
	h := o.rec.Cgroups
	if sig == unix.SIGKILL {
		if err := h.Kill(killTimeout); err != nil {
			return fmt.Errorf("kill the processes of the container: %w", err)
		}
		return nil
	}
	// Frozen processes cannot fork away from the list. A group that does not
	// freeze is signalled all the same.
	if o.status != state.Paused {
		if err := h.Freeze(freezeTimeout); err == nil {
			defer h.Thaw()
		}
	}
	pids, err := h.Procs()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, sig); err != nil && err != unix.ESRCH {
			return fmt.Errorf("signal process %d of container %s: %w", pid, o.rec.ID, err)
		}
	}
	return nil
}

// Delete removes a container that has stopped, or was never started; with force
// also one that runs, and no error if there is none.
func (r *Runtime) Delete(id string, force bool) error {
	err := r.delete(id, force)
	if force && errors.Is(err, state.ErrNotExist) {
		return nil
	}
	return err
}

func (r *Runtime) delete(id string, force bool) error {
	dir, err := r.Store.OpenLocked(id, lockTimeout)
	if err != nil {
		return err
	}
	defer dir.Close()
	rec, err := dir.Load()
	if errors.Is(err, state.ErrNotExist) {
		// Whoever took the name was killed before anything was made.
		return errors.Join(err, dir.RemoveLocked())
	}
	if err != nil && !force {
		return err
	}
	if err != nil {
		r.warn("delete container " + id + " without its record: " + err.Error())
		return dir.RemoveLocked()
	}
	status, err := dir.Status(rec)
	if err != nil {
		return err
	}
	// The lock is ours, so "stopped" also is one whose maker was killed.
	if status != state.Stopped && status != state.Created && !force {
		return fmt.Errorf("cannot delete container %s that is not stopped: %s", id, status)
	}
	return r.destroyLocked(&opened{dir: dir, rec: rec, status: status})
}

// destroyLocked ends all that is left of a container, and then its record.
func (r *Runtime) destroyLocked(o *opened) error {
	if o.status != state.Stopped {
		if err := o.killFirst(); err != nil {
			return err
		}
	}
	if err := errors.Join(stopScope(o.rec), removeGroups(o.rec)); err != nil {
		return err
	}
	if err := unmountRoot(o.rec); err != nil {
		return err
	}
	if o.rec.Hooks {
		spec, err := o.spec()
		if err != nil {
			r.warn(err.Error())
		}
		r.poststopHooks(spec, o.rec)
	}
	return o.dir.RemoveLocked()
}

// killFirst kills the first process, which may not be in its groups yet, or
// have been moved out of them, and waits for its end.
func (o *opened) killFirst() error {
	fd, err := unix.PidfdOpen(o.rec.Pid, 0)
	if err == unix.ESRCH {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", o.rec.Pid, err)
	}
	defer unix.Close(fd)
	if alive, err := o.rec.Alive(); err != nil || !alive {
		return err
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
		return fmt.Errorf("kill process %d: %w", o.rec.Pid, err)
	}
	if o.status == state.Paused {
		if err := o.rec.Cgroups.Thaw(); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Pause stops all processes of a container.
func (r *Runtime) Pause(id string) error {
	o, err := r.open(id, true)
	if err != nil {
		return err
	}
	defer o.dir.Close()
	if o.status != state.Running && o.status != state.Created {
		return ErrNotRunning
	}
	return o.rec.Cgroups.Freeze(freezeTimeout)
}

// Resume lets a paused container go on.
func (r *Runtime) Resume(id string) error {
	o, err := r.open(id, true)
	if err != nil {
		return err
	}
	defer o.dir.Close()
	if o.status != state.Paused {
		return ErrNotPaused
	}
	return o.rec.Cgroups.Thaw()
}

// Processes gives the pids of a container's processes, as the host counts them.
func (r *Runtime) Processes(id string) ([]int, error) {
	o, err := r.open(id, false)
	if err != nil {
		return nil, err
	}
	defer o.dir.Close()
	return o.rec.Cgroups.Procs()
}

// Update changes limits of a container; what res leaves out stays.
func (r *Runtime) Update(id string, res *specs.LinuxResources) error {
	o, err := r.open(id, true)
	if err != nil {
		return err
	}
	defer o.dir.Close()
	if o.status == state.Stopped {
		return ErrNotRunning
	}
	layout, err := cgroup.Detect()
	if err != nil {
		return err
	}
	if o.rec.SystemdUnit != "" {
		if err := updateScope(o.rec, res, layout.Mode() == cgroup.V2); err != nil {
			return err
		}
	}
	warnings, err := cgroup.Update(layout, o.rec.CgroupPath, res, cgroup.Options{})
	for _, w := range warnings {
		r.warn(w)
	}
	return err
}

// Groups gives where the limits and figures of a container are.
func (r *Runtime) Groups(id string) (path string, h handle.Handle, status state.Status, err error) {
	o, err := r.open(id, false)
	if err != nil {
		return "", h, "", err
	}
	defer o.dir.Close()
	return o.rec.CgroupPath, o.rec.Cgroups, o.status, nil
}
