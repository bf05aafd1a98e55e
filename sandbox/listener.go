package sandbox

import (
	"encoding/json"
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"vivarium/sandbox/spawn"
	"vivarium/sandbox/state"
)

// passListener takes the listener of a filter from the process that has loaded
// it, where it is the descriptor fd, and sends it to the agent of the spec's
// listenerPath, with what runtime-spec, config-linux.md "The Container Process
// State" says. The process waits meanwhile. pidfd_getfd(2) is there since Linux 5.6.
func passListener(spec *specs.Spec, rec *state.State, proc *spawn.Process, status state.Status, fd int) error {
	cfg := spec.Linux.Seccomp
	listener, err := unix.PidfdGetfd(proc.PidFD, fd, 0)
	if err != nil {
		return fmt.Errorf("take the seccomp listener from process %d: %w", proc.Pid, err)
	}
	defer unix.Close(listener)
	msg, err := json.Marshal(specs.ContainerProcessState{
		Version: specs.Version, Fds: []string{specs.SeccompFdName}, Pid: proc.Pid, Metadata: cfg.ListenerMetadata,
		State: specs.State{Version: rec.OCIVersion, ID: rec.ID, Status: specs.ContainerState(status), Pid: rec.Pid, Bundle: rec.Bundle, Annotations: rec.Annotations},
	})
	if err != nil {
		return fmt.Errorf("write the state for the seccomp agent: %w", err)
	}
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a socket for the seccomp agent: %w", err)
	}
	defer unix.Close(s)
	if err := unix.Connect(s, &unix.SockaddrUnix{Name: cfg.ListenerPath}); err != nil {
		return fmt.Errorf("failed to connect with seccomp agent at the profile's listenerPath %s: %w", cfg.ListenerPath, err)
	}
	// The descriptor comes with the first bytes; the rest may have to follow.
	rights := unix.UnixRights(listener)
	for len(msg) > 0 {
		n, err := unix.SendmsgN(s, msg, rights, nil, unix.MSG_NOSIGNAL)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("send the listener to the seccomp agent at %s: %w", cfg.ListenerPath, err)
		}
		msg, rights = msg[n:], nil
	}
	return nil
}
