package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"vivarium/sandbox/cgroup"
)

// Reset takes everything back that the engine has made on this machine: containers,
// also those that run, images, volumes, the build cache, the bridge with its firewall
// table, and what is empty of its control groups. The next command begins anew. Cut
// off, it can be called again.
func (e *Engine) Reset(ctx context.Context) error {
	list, err := e.List(ctx, ListOptions{All: true})
	if err != nil {
		return err
	}
	for _, c := range list {
		err := e.Remove(ctx, c.Container.ID, RemoveOptions{Force: true, Volumes: true})
		if err != nil && !errors.Is(err, ErrNoSuchContainer) {
			return err
		}
	}
	if err := e.network().Teardown(ctx); err != nil {
		return fmt.Errorf("remove the network: %w", err)
	}
	if err := e.removeParentGroups(); err != nil {
		return err
	}
	if err := e.disuniteAll(); err != nil {
		return err
	}
	for _, dir := range []string{e.Root, e.State} {
		if err := removeStore(dir); err != nil {
			return fmt.Errorf("remove the store %s: %w", dir, err)
		}
	}
	return nil
}

// disuniteAll unmounts what is mounted of containers that nobody knows any more.
func (e *Engine) disuniteAll() error {
	entries, err := os.ReadDir(e.State + "/containers")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, ent := range entries {
		if err := e.disunite(&Container{ID: ent.Name(), Driver: driverUnknown}); err != nil {
			return err
		}
	}
	return nil
}

// removeParentGroups removes the group above the containers' in each hierarchy, unless
// another engine of this machine has some there.
func (e *Engine) removeParentGroups() error {
	l, err := cgroup.Detect()
	if err != nil {
		return err
	}
	for _, h := range l.Hierarchies {
		dir := filepath.Join(h.Mount, defaultCgroupParent)
		err := unix.Rmdir(dir)
		switch err {
		case nil, unix.ENOENT, unix.EBUSY, unix.ENOTEMPTY, unix.EROFS, unix.EACCES, unix.EPERM:
		default:
			return fmt.Errorf("remove the control group %s: %w", dir, err)
		}
	}
	return nil
}

// removeStore takes a directory out of sight at once, so that no other command finds
// half of it, and removes it then. One that was taken away before, and not removed to
// its end, goes too.
func removeStore(dir string) error {
	gone := dir + ".removed"
	if err := removeTree(gone); err != nil {
		return err
	}
	err := os.Rename(dir, gone)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EXDEV) { // a mount point: it stays, and is emptied
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, entry := range entries {
			if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
		return nil
	}
	if err != nil {
		return err
	}
	return removeTree(gone)
}
