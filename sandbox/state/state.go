package state

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"vivarium/sandbox/cgroup/handle"
)

// Status is what a container is doing; runtime-spec, runtime.md "State", and
// "paused", which runc added.
type Status string

// The states.
const (
	Creating Status = "creating"
	Created  Status = "created"
	Running  Status = "running"
	Paused   Status = "paused"
	Stopped  Status = "stopped"
)

// State is the record of one container.
type State struct {
	OCIVersion  string            `json:"ociVersion"`
	ID          string            `json:"id"`
	Pid         int               `json:"pid"` // 0 until there is a process
	StartTime   uint64            `json:"startTime"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations,omitempty"`

	CgroupPath string        `json:"cgroupPath"`
	Cgroups    handle.Handle `json:"cgroups"`
	// SystemdSlice and SystemdUnit name the unit that systemd keeps the groups for.
	SystemdSlice string `json:"systemdSlice,omitempty"`
	SystemdUnit  string `json:"systemdUnit,omitempty"`
	// Rdt are the directories of resctrl that are the container's, in the order
	// in which to remove them.
	Rdt []string `json:"rdt,omitempty"`
	// SharedPids: the container has no pid namespace of its own, so its
	// processes do not end with the first.
	SharedPids bool `json:"sharedPids,omitempty"`
	// RootMount is what was mounted at Rootfs before, where the container has no
	// mount namespace at all: what lies there now and is not that is its own.
	RootMount uint64 `json:"rootMount,omitempty"`
	// Hooks: the spec has hooks that start and delete have to run.
	Hooks bool `json:"hooks,omitempty"`
	// Held: the process waits at the FIFO until start.
	Held bool `json:"held,omitempty"`
}

// Status finds out what the container is doing, from the kernel, not from what
// was written last.
func (d *Dir) Status(s *State) (Status, error) {
	if s.Pid == 0 {
		if d.Locked() {
			return Creating, nil
		}
		return Stopped, nil // its maker was killed
	}
	alive, err := s.Alive()
	if err != nil {
		return "", err
	}
	if !alive {
		return Stopped, nil
	}
	frozen, err := s.Cgroups.Frozen()
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("find out whether container %s is paused: %w", s.ID, err)
	}
	if frozen {
		return Paused, nil
	}
	if s.Held && d.Waiting() {
		return Created, nil
	}
	return Running, nil
}

// Waiting says whether the process waits at its FIFO: then the FIFO has a
// reader (fifo(7): opening for write without blocking fails with ENXIO else).
func (d *Dir) Waiting() bool {
	fd, err := unix.Openat(d.fd, FifoFile, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
}

// Alive says whether the container's first process runs: the process of its
// number that was started when it was, and has not begun to exit.
func (s *State) Alive() (bool, error) {
	p, err := ReadProcess(s.Pid)
	if err == unix.ENOENT || err == unix.ESRCH {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at process %d of container %s: %w", s.Pid, s.ID, err)
	}
	return p.StartTime == s.StartTime && !p.Exiting, nil
}

// Process is what /proc/PID/stat tells of a process.
type Process struct {
	StartTime uint64 // in clock ticks since boot: with the pid it names one process
	Exiting   bool   // a zombie, or on the way to be one
}

// ReadProcess reads /proc/PID/stat (proc_pid_stat(5)). The error is the bare
// errno; ENOENT or ESRCH when there is no such process.
func ReadProcess(pid int) (Process, error) {
	b, err := readSmall("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return Process{}, err
	}
	return parseStat(b)
}

// parseStat finds the fields behind the command's name, which may contain
// anything, also ") ".
func parseStat(b []byte) (Process, error) {
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return Process{}, unix.EPROTO
	}
	// State is field 3, flags 9, the number of threads 20, the start time 22.
	f := bytes.Fields(b[i+1:])
	if len(f) < 20 || len(f[0]) != 1 {
		return Process{}, unix.EPROTO
	}
	flags, err := strconv.ParseUint(string(f[6]), 10, 64)
	if err != nil {
		return Process{}, unix.EPROTO
	}
	start, err := strconv.ParseUint(string(f[19]), 10, 64)
	if err != nil {
		return Process{}, unix.EPROTO
	}
	// The first process of a pid namespace stays in state S while it waits for
	// the zombies of others in there; only the flag tells that it is over. A
	// first thread that has ended leaves the process alive with the others.
	const exiting = 0x4 // PF_EXITING, include/linux/sched.h
	over := f[0][0] == 'Z' || f[0][0] == 'X' || flags&exiting != 0
	lastThread := len(f[17]) == 1 && f[17][0] <= '1'
	return Process{StartTime: start, Exiting: over && lastThread}, nil
}

func readSmall(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var b [1024]byte
	for {
		n, err := unix.Read(fd, b[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		return b[:n], nil
	}
}
