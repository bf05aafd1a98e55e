package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// A flight marker is a file <state>/inflight/<id>. It is there from before the
// first trace of a container's making or start until after the last trace of
// its run. The command that makes or starts the container holds its flock;
// afterwards the monitor's own lock tells that somebody cares. A marker that
// nobody cares for is what the next command sweeps: it finds all leftovers by
// reading one directory.
type flight struct {
	id   string
	path string
	file *os.File
}

// takeFlight makes and locks the marker of id, with the name that the container will have.
func (e *Engine) takeFlight(ctx context.Context, id, name string) (*flight, error) {
	path := e.flightsDir() + "/" + id
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("mark container %s as in flight: %w", short(id), err)
		}
		// A sweep that comes between open and flock holds it for a moment, and
		// may remove the file.
		if err := flockContext(ctx, f); err != nil {
			return nil, fmt.Errorf("mark container %s as in flight: %w", short(id), err)
		}
		if sameFile(f, path) {
			fl := &flight{id: id, path: path, file: f}
			return fl, fl.setName(name)
		}
		f.Close()
	}
}

// setName notes the name, so that a sweep can release it.
func (fl *flight) setName(name string) error {
	if name == "" {
		return nil
	}
	if _, err := fl.file.WriteAt([]byte(name+"\n"), 0); err != nil {
		return fmt.Errorf("mark container %s as in flight: %w", short(fl.id), err)
	}
	return nil
}

// leave releases the lock and leaves the marker: the run goes on without this command.
func (fl *flight) leave() {
	if fl != nil {
		fl.file.Close()
	}
}

// land removes the marker: nothing of the run is left.
func (fl *flight) land() {
	if fl != nil {
		os.Remove(fl.path)
		fl.file.Close()
	}
}

// monitorLock is the file whose flock the container's monitor holds.
func (e *Engine) monitorLock(id string) string { return e.runDir(id) + "/monitor.lock" }

// inFlight tells whether a command is making or starting id at this moment.
func (e *Engine) inFlight(id string) bool { return lockBusy(e.flightsDir() + "/" + id) }

// lockBusy tells whether somebody holds the flock of the file.
func lockBusy(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(flock(f, unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// abandoned locks the marker of id if nobody cares for it: no command, and no monitor.
// Nil: somebody does, or there is no marker.
func (e *Engine) abandoned(id string) (*flight, string) {
	path := e.flightsDir() + "/" + id
	f, err := os.Open(path)
	if err != nil {
		return nil, ""
	}
	if flock(f, unix.LOCK_EX|unix.LOCK_NB) != nil || !sameFile(f, path) || lockBusy(e.monitorLock(id)) {
		f.Close()
		return nil, ""
	}
	buf := make([]byte, 300)
	n, _ := f.ReadAt(buf, 0)
	name, _, _ := strings.Cut(string(buf[:n]), "\n")
	return &flight{id: id, path: path, file: f}, name
}
