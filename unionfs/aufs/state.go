package aufs

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// State is what the control file of a mounted union says.
type State struct {
	PID      int           `json:"pid"`
	Branches []StateBranch `json:"branches"` // top-most first
	Create   string        `json:"create"`
	Copyup   string        `json:"cpup"`
	UDBA     string        `json:"udba"`
	Open     int64         `json:"open"`            // open files
	Links    int           `json:"pseudoLinks"`     // files that have a pseudo-link
	Failure  string        `json:"error,omitempty"` // of the command written before
}

// StateBranch is one branch of a mounted union.
type StateBranch struct {
	ID   int    `json:"id"`
	Path string `json:"path"`
	Perm Perm   `json:"perm"`
	WH   bool   `json:"wh,omitempty"`
	// Overlay as in Branch.
	Overlay bool `json:"overlay,omitempty"`
}

// Branch is the branch as options have it.
func (b StateBranch) Branch() Branch {
	return Branch{Path: b.Path, Perm: b.Perm, WH: b.WH, Overlay: b.Overlay}
}

// ErrNotMounted says that no union is mounted on a directory.
var ErrNotMounted = errors.New("no union is mounted there")

// ReadState asks the union that is mounted on a directory.
func ReadState(point string) (State, error) {
	b, err := os.ReadFile(filepath.Join(point, Control))
	if errors.Is(err, os.ErrNotExist) {
		err = ErrNotMounted
	}
	if err != nil {
		return State{}, fmt.Errorf("look at union %s: %w", point, err)
	}
	var s State
	if err := json.Unmarshal(b, &s); err != nil {
		return State{}, fmt.Errorf("look at union %s: %w", point, err)
	}
	return s, nil
}

// Command changes the union that is mounted on a directory: "add PLACE BRANCH",
// "append BRANCH", "del DIR", "mod BRANCH", with branches as [Branch.String] spells
// them. The union's own message is the error's, which wraps its errno.
func Command(point, command string) error {
	f, err := os.OpenFile(filepath.Join(point, Control), os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		err = ErrNotMounted
	}
	if err != nil {
		return fmt.Errorf("change union %s: %w", point, err)
	}
	defer f.Close()
	_, err = f.WriteString(command)
	if err == nil {
		return nil
	}
	var s State
	if b, rerr := readAll(f); rerr == nil && json.Unmarshal(b, &s) == nil && s.Failure != "" {
		return &commandError{s.Failure, err}
	}
	return fmt.Errorf("change union %s: %w", point, err)
}

type commandError struct {
	text string
	err  error
}

func (e *commandError) Error() string { return e.text }
func (e *commandError) Unwrap() error { return e.err }

func readAll(f *os.File) ([]byte, error) {
	buf := make([]byte, 1<<20)
	n, err := f.ReadAt(buf, 0)
	if n > 0 {
		err = nil
	}
	return buf[:n], err
}

// What a process that starts viv-union to serve, and not to start a server, says by its
// environment and its descriptors.
const (
	// ReadyEnv: descriptor 3 hears Ready when the union is mounted, or NotReady and why not.
	ReadyEnv = "_VIV_UNION_READY"
	Ready    = "ready"
	NotReady = "error "
	// LifeEnv: the union is attached to no tree; Ready is followed by the number of the
	// descriptor that leads to it, in the process that serves it. It ends when descriptor 4
	// comes to its end.
	LifeEnv = "_VIV_UNION_LIFE"
)
