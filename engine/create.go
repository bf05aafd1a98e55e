package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"vivarium/bundle"
	"vivarium/layer"
	"vivarium/unionfs"
)

// makeRecord gives the container its ID and name and puts its record where
// others see it. In a dry run nothing is made.
func (r *run) makeRecord(ctx context.Context) (err error) {
	c := &Container{
		Created: time.Now(), Image: r.opt.Config.Image, ImageID: r.image.ID,
		ImageConfig: r.image.Config, Layers: r.image.Layers,
	}
	if c.ID, err = newID(); err != nil {
		return err
	}
	if err := r.effective(ctx, c); err != nil {
		return err
	}
	if c.Driver, err = r.e.newDriver(ctx, r.dry); err != nil {
		return err
	}
	if c.ImageID == hostImage && r.e.driver == "" {
		c.Driver = unionfs.DriverOverlay
	}
	if err := errors.Join(c.checkLog(), c.checkNetwork(), r.checkDriver(c)); err != nil {
		return err
	}
	if r.dry {
		if c.Name = r.opt.Name; c.Name == "" {
			c.Name = randomName(0)
		}
		r.c = c
		return r.makeMounts()
	}
	if r.flight, err = r.e.takeFlight(ctx, c.ID, ""); err != nil {
		return err
	}
	if c.Name, err = r.e.reserveName(r.opt.Name, r.flight); err != nil {
		return err
	}
	r.c = c
	if err := r.makeMounts(); err != nil {
		return err
	}
	if err := r.commit(ctx); err != nil {
		return err
	}
	return r.writeCIDFile()
}

// effective fills the image's settings and the defaults in.
func (r *run) effective(ctx context.Context, c *Container) (err error) {
	if r.host, err = r.facts(ctx, r.opt.Options, c.ID); err != nil {
		return err
	}
	var warnings []bundle.Warning
	c.Options, warnings, err = bundle.Effective(&c.ImageConfig, r.opt.Options, r.host)
	if err != nil {
		return &Error{Kind: ErrInvalid, Msg: err.Error(), cause: err}
	}
	r.warn(warnings)
	c.Config().Healthcheck = c.Config().Healthcheck.Or(r.image.Health)
	if argv := slices.Concat(c.Config().Entrypoint, c.Config().Cmd); len(argv) > 0 {
		c.Path, c.Args = argv[0], argv[1:]
	}
	return nil
}

// commit makes the container's directory aside and renames it to its place, so
// that nobody sees a half of it.
func (r *run) commit(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("make container %s: %w", r.c.Name, err)
		}
	}()
	tmp := r.e.stagingDir(r.c.ID)
	if err := os.Mkdir(tmp, 0o711); err != nil {
		return err
	}
	if err := r.makeLayer(ctx, tmp); err != nil {
		return err
	}
	if err := writeRecord(tmp, r.c); err != nil {
		return err
	}
	if err := r.makeVolumes(ctx); err != nil {
		return err
	}
	if err := os.Mkdir(r.e.runDir(r.c.ID), 0o700); err != nil {
		return err
	}
	// Held until the process runs: nobody starts or removes it meanwhile.
	if r.lock, err = lockFile(tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, r.e.containerDir(r.c.ID)); err != nil {
		return err
	}
	r.releaseImage() // the record names it now
	r.e.emit(containerEvent(r.c, "create"))
	return nil
}

// makeLayer makes the container's own layer.
func (r *run) makeLayer(ctx context.Context, tmp string) error {
	mode, uid, gid, err := layer.RootMode(r.image.Lower)
	if err != nil {
		return err
	}
	upper := tmp + "/" + r.c.ownDir()
	if err := os.Mkdir(upper, 0o700); err != nil {
		return err
	}
	// The upper directory's owner and mode are those of the container's "/".
	if uid != 0 || gid != 0 {
		if err := os.Chown(upper, uid, gid); err != nil {
			return err
		}
	}
	if err := os.Chmod(upper, mode); err != nil {
		return err
	}
	if r.image.ID == hostImage {
		if err := r.e.hideEngine(upper); err != nil {
			return err
		}
	}
	if err := os.Mkdir(tmp+"/work", 0o700); err != nil {
		return err
	}
	d, err := r.e.driverNamed(r.c.Driver)
	if err != nil {
		return err
	}
	return d.Make(ctx, r.e.layerIn(tmp, r.c, r.image.Lower))
}

func (r *run) writeCIDFile() error {
	path := r.opt.HostConfig.ContainerIDFile
	if path == "" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, os.ErrExist) {
		return errorf(ErrInvalid, "container ID file found, make sure the other container isn't running or delete %s", path)
	}
	if err != nil {
		return fmt.Errorf("failed to create the container ID file: %w", err)
	}
	_, err = f.WriteString(r.c.ID)
	if err2 := f.Close(); err == nil {
		err = err2
	}
	if err != nil {
		os.Remove(path)
		return fmt.Errorf("write the container ID file: %w", err)
	}
	return nil
}

// makeMounts resolves what the container mounts.
func (r *run) makeMounts() error {
	points, err := bundle.Mounts(&r.image.Config, r.opt.Options)
	if err != nil {
		return &Error{Kind: ErrInvalid, Msg: err.Error()}
	}
	inherited, err := r.e.volumesFrom(r.opt.HostConfig.VolumesFrom)
	if err != nil {
		return err
	}
	own, added, err := bundle.Inherit(points, r.opt.Options, inherited)
	if err != nil {
		return &Error{Kind: ErrInvalid, Msg: err.Error()}
	}
	r.points = own
	for _, p := range own {
		m, err := r.makeMount(p)
		if err != nil {
			return err
		}
		r.c.Mounts = append(r.c.Mounts, m)
	}
	for _, p := range added {
		r.c.Mounts = append(r.c.Mounts, mountPoint(p))
	}
	return nil
}

// makeMount resolves one mount. Volumes get their names here, and are made when
// the record that names them has been written: a sweep finds them by it.
func (r *run) makeMount(p bundle.MountPoint) (MountPoint, error) {
	m := mountPoint(p)
	switch p.Type {
	case bundle.MountBind:
		if !r.dry {
			return m, checkBindSource(p)
		}
	case bundle.MountVolume:
		if m.Anonymous = p.Name == ""; m.Anonymous {
			var err error
			if m.Name, err = newID(); err != nil {
				return m, err
			}
		}
		if err := checkVolume(VolumeOptions{Name: m.Name, Driver: p.Driver, Options: p.DriverOptions}); err != nil {
			return m, err
		}
		m.Source, m.Driver = r.e.volumeData(m.Name), "local"
	}
	return m, nil
}

// makeVolumes makes the volumes that are not there, and fills those that are
// empty with what the image has in their place.
func (r *run) makeVolumes(ctx context.Context) error {
	for i, p := range r.points {
		if p.Type != bundle.MountVolume {
			continue
		}
		m := &r.c.Mounts[i]
		v, made, err := r.e.volumeCreate(VolumeOptions{Name: m.Name, Labels: p.Labels}, m.Anonymous, r.c.ID)
		if err != nil {
			return err
		}
		if !p.NoCopy && (made || isEmptyDir(v.Mountpoint)) {
			if err := r.fillVolume(ctx, v, p.Destination); err != nil {
				return err
			}
		}
	}
	return nil
}

func mountPoint(p bundle.MountPoint) MountPoint {
	return MountPoint{Type: p.Type, Name: p.Name, Source: p.Source, Destination: p.Destination, Driver: p.Driver,
		Mode: p.Mode, RW: p.RW, Propagation: p.Propagation}
}

// checkBindSource makes a missing source of -v, and refuses one of --mount.
func checkBindSource(p bundle.MountPoint) error {
	_, err := os.Stat(p.Source)
	if errors.Is(err, os.ErrNotExist) {
		if p.CreateSource {
			if err := os.MkdirAll(p.Source, 0o755); err != nil {
				return fmt.Errorf("make the source of the bind mount %s: %w", p.Destination, err)
			}
			return nil
		}
		return errorf(ErrInvalid, "invalid mount config for type \"bind\": bind source path does not exist: %s", p.Source)
	}
	if err != nil {
		return fmt.Errorf("look at the source of the bind mount %s: %w", p.Destination, err)
	}
	return nil
}

// volumesFrom gives the mounts of other containers (--volumes-from NAME[:MODE]).
func (e *Engine) volumesFrom(refs []string) ([]bundle.MountPoint, error) {
	var list []bundle.MountPoint
	for _, ref := range refs {
		name, mode, given := strings.Cut(ref, ":")
		if given && mode != "ro" && mode != "rw" {
			return nil, errorf(ErrInvalid, "invalid mode for --volumes-from: %s", mode)
		}
		c, err := e.Container(name)
		if err != nil {
			return nil, err
		}
		for _, m := range c.Mounts {
			if m.Type == bundle.MountTmpfs {
				continue
			}
			if given {
				m.RW, m.Mode = mode == "rw", mode
			}
			list = append(list, m.point())
		}
	}
	return list, nil
}

// point is the mount as package bundle knows it.
func (m MountPoint) point() bundle.MountPoint {
	return bundle.MountPoint{Type: m.Type, Name: m.Name, Source: m.Source, Destination: m.Destination, Driver: m.Driver,
		Mode: m.Mode, RW: m.RW, Propagation: m.Propagation}
}

func isEmptyDir(dir string) bool {
	f, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer f.Close()
	names, _ := f.Readdirnames(1)
	return len(names) == 0
}

// wipe removes the traces of a run: control groups, network, run directory; and
// with all, the container itself. Each step can be done again.
func (e *Engine) wipe(c *Container, all bool) error {
	if err := e.removeCgroups(c); err != nil {
		return err
	}
	if err := e.detachNetwork(c); err != nil {
		return err
	}
	if err := e.disunite(c); err != nil {
		return err
	}
	if all {
		if err := e.discardLocked(c, true); err != nil {
			return err
		}
	}
	if err := removeTree(e.runDir(c.ID)); err != nil {
		return fmt.Errorf("remove the run directory of container %s: %w", c.Name, err)
	}
	return nil
}

// discardLocked removes the container's record, name and files. From the rename
// on nobody sees it any more.
func (e *Engine) discardLocked(c *Container, volumes bool) error {
	if err := e.disunite(c); err != nil {
		return err
	}
	gone := e.removedDir(c.ID)
	for _, dir := range []string{e.stagingDir(c.ID), e.volumeStaging(c.ID)} {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove container %s: %w", c.Name, err)
		}
	}
	err := os.Rename(e.containerDir(c.ID), gone)
	seen := err == nil
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove container %s: %w", c.Name, err)
	}
	if err := e.releaseName(c.Name, c.ID); err != nil {
		return err
	}
	// Before the record, which names them, is deleted.
	for _, m := range c.Mounts {
		if volumes && m.Anonymous {
			if err := e.removeVolume(m.Name); err != nil {
				return err
			}
		}
	}
	if err := removeTree(gone); err != nil {
		return fmt.Errorf("remove the files of container %s: %w", c.Name, err)
	}
	if seen {
		e.emit(containerEvent(c, "destroy"))
	}
	return nil
}
