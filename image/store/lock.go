package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// fileLock is a held flock(2). It goes with the process, however that ends.
type fileLock struct {
	f    *os.File
	path string
}

// acquire takes the lock; how is LOCK_SH or LOCK_EX. It waits as long as the
// context allows.
func acquire(ctx context.Context, path string, how int) (*fileLock, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if errors.Is(err, os.ErrNotExist) {
			if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
				continue
			}
		}
		if err != nil {
			return nil, fmt.Errorf("open lock %s: %w", path, err)
		}
		if err := flockWait(ctx, f, how); err != nil {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		// Whoever held it may have removed the file: then this is a lock on nothing.
		if sameFile(f, path) {
			return &fileLock{f, path}, nil
		}
		f.Close()
	}
}

func sameFile(f *os.File, path string) bool {
	var a, b unix.Stat_t
	return unix.Fstat(int(f.Fd()), &a) == nil && unix.Stat(path, &b) == nil && a.Dev == b.Dev && a.Ino == b.Ino
}

// flockWait owns f and closes it on failure. flock cannot be interrupted by
// the context, so the wait is left to a goroutine, which gives the lock back
// if nobody wants it any more.
func flockWait(ctx context.Context, f *os.File, how int) error {
	fd := int(f.Fd())
	err := flock(fd, how|unix.LOCK_NB)
	if err == nil {
		return nil
	}
	if err != unix.EWOULDBLOCK {
		f.Close()
		return err
	}
	done := make(chan error, 1)
	go func() { done <- flock(fd, how) }()
	select {
	case err := <-done:
		if err != nil {
			f.Close()
		}
		return err
	case <-ctx.Done():
		go func() {
			<-done
			f.Close()
		}()
		return fmt.Errorf("another process holds it: %w", context.Cause(ctx))
	}
}

func flock(fd, how int) error {
	for {
		if err := unix.Flock(fd, how); err != unix.EINTR {
			return err
		}
	}
}

func (l *fileLock) release() {
	if l != nil {
		l.f.Close()
	}
}

// releaseAndRemove is for exclusive locks that are named after an object and
// would pile up.
func (l *fileLock) releaseAndRemove() {
	if l != nil {
		os.Remove(l.path)
		l.f.Close()
	}
}

// acquireExclusive keeps all others from placing objects.
func acquireExclusive(ctx context.Context, s *Store) (*fileLock, error) {
	return acquire(ctx, s.lockPath("store"), unix.LOCK_EX)
}
