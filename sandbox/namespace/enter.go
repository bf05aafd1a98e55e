package namespace

import (
	"errors"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"vivarium/sandbox/plan"
	"vivarium/sandbox/spawn"
)

// Entry is a command to be run in namespaces of a process.
type Entry struct {
	PID   int
	Kinds []Kind // those that it shares with us already are passed over
	Args  []string
	Root  string // directory that becomes the root; "" for that of the mount namespace
	Dir   string
	// UID and GID are what it becomes; nil to stay what it is, or in another user
	// namespace to become root, unless KeepIDs is set.
	UID, GID *uint32
	KeepIDs  bool
}

// Run runs the command with the descriptors 0, 1 and 2, and gives its exit code: 128
// and the number of the signal that has ended it. It is one child that joins all
// namespaces before it is the command: a process with more than one thread, as we
// are, cannot join a user namespace (setns(2)).
func (e Entry) Run() (int, error) {
	if len(e.Args) == 0 {
		return 0, errors.New("there is no command")
	}
	pidfd, err := unix.PidfdOpen(e.PID, 0)
	if err != nil {
		return 0, fmt.Errorf("process %d: %w", e.PID, err)
	}
	defer unix.Close(pidfd)
	theirs, err := Of(e.PID)
	if err != nil {
		return 0, err
	}
	own, err := Of(os.Getpid())
	if err != nil {
		return 0, err
	}
	in := plan.Enter{Args: e.Args, Env: os.Environ(), Root: e.Root, Dir: e.Dir, UID: e.UID, GID: e.GID}
	for _, k := range e.Kinds {
		if theirs[k] != own[k] {
			in.Flags |= uint64(k.Flag())
		}
	}
	if in.Flags&unix.CLONE_NEWUSER != 0 && !e.KeepIDs {
		root := uint32(0)
		if in.UID == nil {
			in.UID = &root
		}
		if in.GID == nil {
			in.GID = &root
		}
	}
	p, err := plan.CompileEnter(in)
	if err != nil {
		return 0, err
	}
	// What the terminal sends comes to the command, which is in our process group.
	ignored := make(chan os.Signal, 1)
	signal.Notify(ignored, unix.SIGINT, unix.SIGQUIT)
	defer signal.Stop(ignored)
	child, err := spawn.Start(p.Program(), spawn.Options{Stdin: 0, Stdout: 1, Stderr: 2, NetNS: -1, PidFD: pidfd})
	if err != nil {
		return 0, err
	}
	defer child.Close()
	if _, err := child.Wait(-1); err != nil {
		child.Abandon()
		return 0, err
	}
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(child.Pid, &status, 0, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("wait for the command: %w", err)
		}
		if status.Signaled() {
			return 128 + int(status.Signal()), nil
		}
		return status.ExitStatus(), nil
	}
}
