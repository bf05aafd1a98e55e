// Package engine composes the rooms of the house into what a user asks for: run
// a container, stop it, list them all. It takes a context and plain values,
// returns values, and never prints.
//
// There is no daemon. What lasts is under Root and what is gone after a reboot
// is under State; every command reads it from there. Locks are flock, one an
// object.
package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// storeVersion is the format of the store below Root.
const storeVersion = "1"

// Engine is one engine: a pair of directories.
type Engine struct {
	Root  string // what lasts
	State string // what is gone after a reboot

	// Monitor is the path of viv-monitor.
	Monitor string

	// Union finds the program viv-union; nil: there are no unions of FUSE.
	Union func() (string, error)

	// Callback is the command, absolute path first, that a monitor runs with a
	// container's ID appended when the container has ended and no client
	// cleans up. Empty: nobody is called, and the next sweep does the work.
	Callback []string

	// Notice hears what a user should know beside the result: a container was
	// adopted, a leftover was removed. It is never nil after Open.
	Notice func(msg string)

	// firstSinceBoot is set when State had to be made: nothing that runs can
	// be ours, and everything that says it runs is a leftover.
	firstSinceBoot bool

	driver string // of what is made; see SetDriver
}

// Open opens the engine at root and state, making both when they are missing.
// It scans nothing: it is on the path of every command.
func Open(root, state string) (*Engine, error) { return open(root, state, true) }

// OpenExisting is Open for a command that comes late, when a container has ended: if
// the store or its state is gone by then, nothing is made, and it gives nil.
func OpenExisting(root, state string) (*Engine, error) { return open(root, state, false) }

func open(root, state string, create bool) (*Engine, error) {
	if !filepath.IsAbs(root) || !filepath.IsAbs(state) {
		return nil, errorf(ErrInvalid, "engine directories must be absolute paths: %q, %q", root, state)
	}
	e := &Engine{Root: filepath.Clean(root), State: filepath.Clean(state), Notice: func(string) {}}
	if there, err := e.openRoot(create); err != nil || !there {
		return nil, err
	}
	if err := unix.Access(e.flightsDir(), unix.F_OK); err != nil {
		if !create {
			return nil, nil
		}
		e.firstSinceBoot = true
		for _, d := range []string{e.flightsDir(), filepath.Join(e.State, "containers")} {
			if err := os.MkdirAll(d, 0o700); err != nil {
				return nil, fmt.Errorf("make the state directory: %w", err)
			}
		}
	}
	return e, nil
}

// openRoot checks the store's version, and makes a store where there is none if it
// may. It says whether there is one.
func (e *Engine) openRoot(create bool) (there bool, err error) {
	file := filepath.Join(e.Root, "version")
	b, err := os.ReadFile(file)
	if err == nil {
		if v := strings.TrimSpace(string(b)); v != storeVersion {
			return false, errorf(ErrUnsupported, "the store in %s has format %q, and this viv reads format %q: use another --root", e.Root, v, storeVersion)
		}
		return true, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return false, fmt.Errorf("open the store: %w", err)
	}
	if !create {
		return false, nil
	}
	// 0711: the root of a container whose users are mapped must be reachable.
	if err := os.MkdirAll(e.Root, 0o711); err != nil {
		return false, fmt.Errorf("make the store: %w", err)
	}
	for _, d := range []string{"containers", "names", "volumes", "tmp"} {
		if err := os.MkdirAll(filepath.Join(e.Root, d), 0o711); err != nil {
			return false, fmt.Errorf("make the store: %w", err)
		}
	}
	// Written last and by rename: a store without it is initialized again.
	tmp := fmt.Sprintf("%s.%d", file, os.Getpid())
	if err := os.WriteFile(tmp, []byte(storeVersion+"\n"), 0o644); err != nil {
		return false, fmt.Errorf("make the store: %w", err)
	}
	if err := os.Rename(tmp, file); err != nil {
		return false, fmt.Errorf("make the store: %w", err)
	}
	return true, nil
}

func (e *Engine) containerDir(id string) string { return e.Root + "/containers/" + id }
func (e *Engine) runDir(id string) string       { return e.State + "/containers/" + id }
func (e *Engine) stagingDir(id string) string   { return e.Root + "/tmp/c-" + id }
func (e *Engine) removedDir(id string) string   { return e.Root + "/tmp/rm-" + id }
func (e *Engine) nameLink(name string) string   { return e.Root + "/names/" + name }
func (e *Engine) flightsDir() string            { return e.State + "/inflight" }
func (e *Engine) volumesDir() string            { return e.Root + "/volumes" }

// notice formats a message for the user.
func (e *Engine) notice(format string, args ...any) { e.Notice(fmt.Sprintf(format, args...)) }

// done gives the context's error with what was waited for.
func done(ctx context.Context, what string) error {
	return fmt.Errorf("wait for %s: %w", what, context.Cause(ctx))
}
