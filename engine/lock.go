package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lockWait bounds how long a command waits for another one that works on the
// same container. The longest work under a lock is a copy of the container's files.
const lockWait = 60 * time.Second

// lockFile opens path (a directory or a file) and takes its exclusive flock, however long it takes.
// Only for locks that are held for moments.
func lockFile(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := flock(f, unix.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// lock takes the container's lock: the flock of its directory. Close releases it.
// The container may have been removed while the lock was waited for; then the
// answer is ErrNoSuchContainer.
func (e *Engine) lock(ctx context.Context, id string) (*os.File, error) {
	f, err := os.Open(e.containerDir(id))
	if errors.Is(err, os.ErrNotExist) {
		return nil, noSuchContainer(id)
	}
	if err != nil {
		return nil, fmt.Errorf("lock container %s: %w", short(id), err)
	}
	if err := flockContext(ctx, f); err != nil {
		return nil, fmt.Errorf("lock container %s: %w", short(id), err)
	}
	if !sameFile(f, e.containerDir(id)) {
		f.Close()
		return nil, noSuchContainer(id)
	}
	return f, nil
}

// flockContext waits for the lock until the context ends or lockWait has gone by.
// On failure f is closed, at once or when the kernel lets go of it.
func flockContext(ctx context.Context, f *os.File) error {
	err := flock(f, unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.EWOULDBLOCK) {
		f.Close()
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, lockWait, ErrBusy)
	defer cancel()
	got := make(chan error)
	go func() {
		err := flock(f, unix.LOCK_EX)
		select {
		case got <- err:
		case <-ctx.Done():
			f.Close()
		}
	}()
	select {
	case err := <-got:
		if err != nil {
			f.Close()
		}
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// sameFile tells whether path still is the open file f.
func sameFile(f *os.File, path string) bool {
	var a, b unix.Stat_t
	return unix.Fstat(int(f.Fd()), &a) == nil && unix.Stat(path, &b) == nil && a.Dev == b.Dev && a.Ino == b.Ino
}

// short is the form of an ID that people read.
func short(id string) string {
	if len(id) > 12 {
		return id[:12]
	}
	return id
}
