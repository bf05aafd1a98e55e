package sandbox

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"vivarium/sandbox/spawn"
)

// explain says in runc's words why a command could not be executed; callers
// find exit codes by them. root is the container's root directory.
func explain(err error, args []string, root string) error {
	var e *spawn.Error
	switch {
	case !errors.As(err, &e):
		return err
	case e.Step.Kind == "scheduler" && e.Errno == unix.EPERM:
		// A deadline needs the whole machine (sched_setattr(2)).
		return fmt.Errorf("%w (the process scheduler can't be used together with AllowedCPUs that are not all)", err)
	case e.Step.Kind != "exec" || len(args) == 0:
		return err
	}
	return newExecError(args[0], e.Errno, root)
}

// ExecError says that the command itself could not be executed.
type ExecError struct {
	Name string
	Err  unix.Errno
	// There says that the command is a file: what is missing is its interpreter.
	There bool
}

func newExecError(name string, errno unix.Errno, root string) *ExecError {
	e := &ExecError{Name: name, Err: errno}
	if errno != unix.ENOENT || !hasSlash(name) {
		return e
	}
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return e
	}
	defer unix.Close(dir)
	fd, err := unix.Openat2(dir, name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
	if err == nil {
		unix.Close(fd)
		e.There = true
	}
	return e
}

func (e *ExecError) Error() string {
	cause := e.Err.Error()
	if e.There {
		return "exec " + e.Name + ": " + cause
	}
	if e.Err == unix.ENOENT || e.Err == unix.ENOTDIR {
		cause = "stat " + e.Name + ": " + cause
		if !hasSlash(e.Name) {
			cause = "executable file not found in $PATH"
		}
	}
	return fmt.Sprintf("exec: %q: %s", e.Name, cause)
}

func (e *ExecError) Unwrap() error { return e.Err }

func hasSlash(s string) bool {
	for i := range len(s) {
		if s[i] == '/' {
			return true
		}
	}
	return false
}
