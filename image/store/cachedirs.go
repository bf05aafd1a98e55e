package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// CacheSharing says what happens when two commands want the same cache directory.
type CacheSharing string

// The ways to share (Dockerfile reference, RUN --mount=type=cache, sharing).
const (
	CacheShared  CacheSharing = "shared"  // both have it
	CachePrivate CacheSharing = "private" // the second gets another one
	CacheLocked  CacheSharing = "locked"  // the second waits
)

func (s *Store) cachesDir() string { return s.BuildDir() + "/caches" }

// CacheDir gives the directory with this name that outlives builds, which is made by
// fill if it is not there. release has to be called when it is not used any more: as
// long as it is used it is not pruned.
func (s *Store) CacheDir(ctx context.Context, id string, sharing CacheSharing, fill func(dir string) error) (dir string, release func() error, err error) {
	if err := os.MkdirAll(s.cachesDir(), 0o711); err != nil {
		return "", nil, fmt.Errorf("make cache directory: %w", err)
	}
	sum := sha256.Sum256([]byte(id))
	name := hex.EncodeToString(sum[:])
	for n := 0; ; n++ {
		base := s.cachesDir() + "/" + name
		if n > 0 {
			base = fmt.Sprintf("%s.%d", base, n)
		}
		lock, err := s.lockCache(ctx, base, sharing)
		if err == unix.EWOULDBLOCK {
			continue
		}
		if err != nil {
			return "", nil, err
		}
		if err := makeCache(base, fill); err != nil {
			lock.Close()
			return "", nil, err
		}
		now := time.Now()
		_ = os.Chtimes(base+".lock", now, now) // only the order of pruning depends on it
		return base, lock.Close, nil
	}
}

// lockCache takes the lock of a cache directory, which pruning takes too.
func (s *Store) lockCache(ctx context.Context, base string, sharing CacheSharing) (*os.File, error) {
	for {
		f, err := os.OpenFile(base+".lock", os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return nil, fmt.Errorf("lock cache directory: %w", err)
		}
		how := unix.LOCK_EX
		if sharing == CacheShared || sharing == "" {
			how = unix.LOCK_SH
		}
		if sharing == CachePrivate {
			err = flock(int(f.Fd()), how|unix.LOCK_NB)
		} else {
			err = flockWait(ctx, f, how)
		}
		if err != nil {
			f.Close()
			return nil, err
		}
		if sameFile(f, base+".lock") {
			return f, nil
		}
		f.Close() // pruned while it was waited for
	}
}

// makeCache makes the directory aside and renames it, so that it is whole or not there.
func makeCache(base string, fill func(string) error) error {
	if _, err := os.Lstat(base); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(base), ".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := fill(tmp); err != nil {
		return err
	}
	err = os.Rename(tmp, base)
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
		return nil // made by another one that shares it
	}
	return err
}

// CacheUse is one cache directory.
type CacheUse struct {
	Name string
	Used time.Time
	Size int64
	path string
}

// Caches lists the cache directories, which for that are walked.
func (s *Store) Caches() ([]CacheUse, error) {
	list, err := listDir(s.cachesDir(), "cache directories")
	if err != nil {
		return nil, err
	}
	var out []CacheUse
	for _, e := range list {
		if !e.IsDir() || e.Name()[0] == '.' {
			continue
		}
		u := CacheUse{Name: e.Name(), path: s.cachesDir() + "/" + e.Name()}
		if st, err := os.Stat(u.path + ".lock"); err == nil {
			u.Used = st.ModTime()
		}
		_ = filepath.WalkDir(u.path, func(_ string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil // a size is a figure, and files come and go
			}
			if info, err := d.Info(); err == nil && d.Type().IsRegular() {
				u.Size += info.Size()
			}
			return nil
		})
		out = append(out, u)
	}
	return out, nil
}

// RemoveCache removes a cache directory; false if a build uses it.
func (s *Store) RemoveCache(u CacheUse) (bool, error) {
	f, err := os.OpenFile(u.path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return false, fmt.Errorf("remove cache directory: %w", err)
	}
	defer f.Close()
	if flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return false, nil
	}
	if err := os.RemoveAll(u.path); err != nil {
		return false, fmt.Errorf("remove cache directory: %w", err)
	}
	return true, os.Remove(u.path + ".lock")
}
