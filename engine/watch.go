package engine

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// watch wakes when something in a directory is written, made or renamed.
type watch struct {
	file   *os.File
	events chan error
	stop   chan struct{}
}

func newWatch(dir string) (*watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	mask := uint32(unix.IN_MODIFY | unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR)
	if _, err := unix.InotifyAddWatch(fd, dir, mask); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("inotify watch on %s: %w", dir, err)
	}
	w := &watch{file: os.NewFile(uintptr(fd), "inotify"), events: make(chan error, 1), stop: make(chan struct{})}
	go w.run()
	return w, nil
}

func (w *watch) run() {
	buf := make([]byte, 64<<10)
	for {
		_, err := w.file.Read(buf)
		if err != nil {
			select {
			case w.events <- err:
			case <-w.stop:
			}
			return
		}
		select {
		case w.events <- nil:
		default: // a wake-up is pending already
		}
	}
}

// wait returns at the next change, or at one since the last wait.
func (w *watch) wait(ctx context.Context) error {
	select {
	case err := <-w.events:
		if errors.Is(err, os.ErrClosed) {
			return nil
		}
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w *watch) Close() error {
	close(w.stop)
	return w.file.Close()
}
