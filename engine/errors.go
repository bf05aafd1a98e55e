package engine

import (
	"errors"
	"fmt"
)

// Errors of looking an object up.
var (
	ErrNoSuchContainer = errors.New("no such container")
	ErrNoSuchImage     = errors.New("no such image")
	ErrNoSuchVolume    = errors.New("no such volume")
	ErrNoSuchObject    = errors.New("no such object")
	ErrAmbiguous       = errors.New("ambiguous reference")
)

// Errors of a state that does not allow what was asked.
var (
	ErrNameInUse   = errors.New("name in use")
	ErrNotRunning  = errors.New("container is not running")
	ErrRunning     = errors.New("container is running")
	ErrPaused      = errors.New("container is paused")
	ErrNotPaused   = errors.New("container is not paused")
	ErrVolumeInUse = errors.New("volume in use")
	ErrBusy        = errors.New("another command holds the container")
)

// Errors of what was asked.
var (
	ErrInvalid     = errors.New("invalid argument")
	ErrUnsupported = errors.New("not supported")
)

// Error is a failure in the words that Docker's users know. errors.Is finds
// Kind, one of the sentinels of this package, and everything that Err wraps.
type Error struct {
	Kind error
	Msg  string
	Err  error // the cause, which the text shows after Msg, or nil

	cause error // one that Msg has in its words already
}

func (e *Error) Error() string {
	if e.Err != nil {
		return e.Msg + ": " + e.Err.Error()
	}
	return e.Msg
}

// Unwrap gives kind and cause to errors.Is and errors.As.
func (e *Error) Unwrap() []error {
	list := []error{e.Kind}
	for _, err := range []error{e.Err, e.cause} {
		if err != nil {
			list = append(list, err)
		}
	}
	return list
}

func errorf(kind error, format string, args ...any) error {
	return &Error{Kind: kind, Msg: fmt.Sprintf(format, args...)}
}

// StartFailed is a container that was made and whose program could not be run. It
// is there still, unless it was one that goes with its end.
type StartFailed struct {
	ID  string
	err error
}

func (e *StartFailed) Error() string { return e.err.Error() }

func (e *StartFailed) Unwrap() error { return e.err }

func noSuchContainer(ref string) error {
	return errorf(ErrNoSuchContainer, "No such container: %s", ref)
}

func nameInUse(name, id string) error {
	return errorf(ErrNameInUse, "Conflict. The container name %q is already in use by container %q. "+
		"You have to remove (or rename) that container to be able to reuse that name.", "/"+name, id)
}

func notRunning(c *Container) error {
	return errorf(ErrNotRunning, "Container %s is not running", c.ID)
}
