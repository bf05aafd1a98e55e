package engine

import (
	"context"
	"errors"
	"fmt"
	"os"

	"vivarium/unionfs"
	aufs "vivarium/unionfs/aufs/driver"
	"vivarium/unionfs/copy"
)

// driverUnknown is the driver of a container whose record is lost: of each it is asked
// whether something is left.
const driverUnknown = "unknown"

// driverCalled gives a driver's own name for that and for those which Docker and Podman have
// for the same; "" if it is none.
func driverCalled(name string) string {
	switch name {
	case unionfs.DriverOverlay, "overlay2":
		return unionfs.DriverOverlay
	case unionfs.DriverAUFS:
		return unionfs.DriverAUFS
	case unionfs.DriverCopy, "vfs":
		return unionfs.DriverCopy
	}
	return ""
}

// shownDriver is what Docker's users know a driver by.
func shownDriver(name string) string {
	if name == "" || name == unionfs.DriverOverlay {
		return "overlay2"
	}
	return name
}

// SetDriver chooses the driver of new containers and builds; "" is the best that probing finds.
func (e *Engine) SetDriver(name string) error {
	e.driver = driverCalled(name)
	if e.driver == "" && name != "" {
		return errorf(ErrInvalid, "unknown storage driver %q: there are overlay, aufs and copy", name)
	}
	return nil
}

// driverNamed gives a driver by the name that a record has; none is overlay.
func (e *Engine) driverNamed(name string) (unionfs.Driver, error) {
	switch name {
	case "", unionfs.DriverOverlay:
		return unionfs.ByOverlay{}, nil
	case unionfs.DriverCopy:
		return copy.Driver{}, nil
	case unionfs.DriverAUFS:
		if e.Union == nil {
			return nil, errorf(ErrUnsupported, "the storage driver aufs needs viv-union")
		}
		program, err := e.Union()
		if err != nil {
			return nil, fmt.Errorf("storage driver aufs: %w", err)
		}
		return aufs.Driver{Program: program}, nil
	}
	return nil, errorf(ErrUnsupported, "storage driver %q is not known to this viv", name)
}

// newDriver is the name of the driver for something new: what the user chose, else what
// was found for this store when it was first asked. Overlay costs one look.
func (e *Engine) newDriver(ctx context.Context, dry bool) (string, error) {
	if e.driver != "" {
		return e.driver, nil
	}
	link := e.Root + "/driver"
	found, err := os.Readlink(link)
	switch {
	case err == nil:
		if known := driverCalled(found); known != "" {
			return known, nil
		}
		return "", errorf(ErrUnsupported, "%s names the storage driver %q, which this viv does not know", link, found)
	case !errors.Is(err, os.ErrNotExist):
		return "", fmt.Errorf("find the storage driver: %w", err)
	case dry:
		return unionfs.DriverOverlay, nil
	}
	found = e.probeDrivers(ctx)
	if err := os.Symlink(found, link); err != nil && !errors.Is(err, os.ErrExist) {
		return "", fmt.Errorf("note the storage driver: %w", err)
	}
	return found, nil
}

// probeDrivers finds the best driver that works on the store's file system.
func (e *Engine) probeDrivers(ctx context.Context) string {
	for _, name := range []string{unionfs.DriverOverlay, unionfs.DriverAUFS} {
		d, err := e.driverNamed(name)
		if err == nil {
			err = e.probeDriver(ctx, d)
		}
		if err == nil {
			return name
		}
		e.notice("the storage driver %s does not work here: %v", name, err)
	}
	return unionfs.DriverCopy
}

// probeDriver tries a driver in a staging directory, whose flock says that it is in use.
func (e *Engine) probeDriver(ctx context.Context, d unionfs.Driver) error {
	for {
		dir, err := os.MkdirTemp(e.Root+"/tmp", "probe-")
		if err != nil {
			return err
		}
		lock, err := lockFile(dir)
		if err == nil && sameFile(lock, dir) {
			defer lock.Close()
			defer os.RemoveAll(dir)
			return unionfs.Probe(ctx, d, dir)
		}
		if err == nil {
			lock.Close() // somebody took it for one of a killed command, just before
			continue
		}
		if !errors.Is(err, os.ErrNotExist) {
			return errors.Join(err, os.RemoveAll(dir))
		}
	}
}

// layerIn is the writable layer of a container whose directory is dir.
func (e *Engine) layerIn(dir string, c *Container, lower []string) unionfs.Layer {
	l := unionfs.Layer{Upper: dir + "/" + c.ownDir(), Work: dir + "/work", Lower: lower, Ephemeral: c.AutoRemove()}
	if c.Driver == unionfs.DriverAUFS {
		l.Point = e.unionPoint(c.ID)
	}
	return l
}

func (e *Engine) layerOf(c *Container, lower []string) unionfs.Layer {
	return e.layerIn(e.containerDir(c.ID), c, lower)
}

// unionPoint is where the union of a container is mounted that cannot be made inside it.
func (e *Engine) unionPoint(id string) string { return e.runDir(id) + "/rootfs" }

// ownDir is the name of the directory of the container's own files.
func (c *Container) ownDir() string {
	if c.Driver == unionfs.DriverCopy {
		return "rootfs"
	}
	return "upper"
}

// checkDriver refuses what a driver cannot do.
func (r *run) checkDriver(c *Container) error {
	if c.Driver == unionfs.DriverOverlay || c.Driver == "" {
		return nil
	}
	if r.image.ID == hostImage {
		return errorf(ErrUnsupported, "the image %q needs the storage driver overlay: its lower layer is this machine itself", hostImage)
	}
	if c.Driver == unionfs.DriverAUFS && len(r.host.UIDMappings)+len(c.Options.UIDMappings) > 0 {
		return errorf(ErrUnsupported, "a user namespace needs the storage driver overlay or copy: FUSE's mounts cannot have their ids mapped")
	}
	return nil
}

// unite makes what the container's root is taken from, where the driver needs that.
func (r *run) unite(ctx context.Context) error {
	if r.c.Driver != unionfs.DriverAUFS {
		return nil
	}
	d, err := r.e.driverNamed(r.c.Driver)
	if err != nil {
		return err
	}
	if err := d.Begin(ctx, r.e.layerOf(r.c, r.image.Lower)); err != nil {
		return fmt.Errorf("unite the layers of container %s: %w", r.c.Name, err)
	}
	return nil
}

// disunite takes away what unite has made. The container's processes have ended.
func (e *Engine) disunite(c *Container) error {
	if c.Driver != unionfs.DriverAUFS && c.Driver != driverUnknown {
		return nil
	}
	return aufs.Driver{}.End(unionfs.Layer{Point: e.unionPoint(c.ID)})
}

// ownSize is how many bytes the container's own files have, beside its image's.
func (e *Engine) ownSize(ctx context.Context, c *Container) (int64, error) {
	if c.Driver != unionfs.DriverCopy {
		_, size, err := diskUsage(e.containerDir(c.ID) + "/" + c.ownDir())
		return size, err
	}
	changes, err := e.changes(ctx, c)
	if err != nil {
		return 0, err
	}
	root, err := os.OpenRoot(e.containerDir(c.ID) + "/" + c.ownDir())
	if err != nil {
		return 0, err
	}
	defer root.Close()
	var size int64
	for _, ch := range changes {
		if info, err := root.Lstat(ch.Path[1:]); err == nil && info.Mode().IsRegular() {
			size += info.Size()
		}
	}
	return size, nil
}

// openUnion opens what the container's files are from outside of it: to be changed if it does
// not run and the caller holds its lock, or to be looked at.
func (e *Engine) openUnion(ctx context.Context, c *Container, write bool) (*unionfs.Root, error) {
	src, err := e.containerSource(c)
	if err != nil {
		return nil, err
	}
	d, err := e.driverNamed(c.Driver)
	if err != nil {
		return nil, err
	}
	l := e.layerOf(c, src.Lower)
	if write {
		return d.Open(ctx, l)
	}
	return d.Look(ctx, l)
}
