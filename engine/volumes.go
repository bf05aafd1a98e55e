package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Volume is a directory that containers share and that outlives them.
type Volume struct {
	Name       string
	Driver     string
	Mountpoint string
	CreatedAt  time.Time
	Labels     map[string]string
	Options    map[string]string
	Scope      string
	// Anonymous volumes were made for one container and have no name that a person chose.
	Anonymous bool `json:"Anonymous,omitempty"`
}

// VolumeOptions says what volume to make.
type VolumeOptions struct {
	Name    string // "": a random one
	Driver  string // "" or "local"
	Labels  map[string]string
	Options map[string]string
}

func (e *Engine) volumeStaging(id string) string { return e.Root + "/tmp/v-" + id }
func (e *Engine) volumeDir(name string) string   { return filepath.Join(e.volumesDir(), name) }
func (e *Engine) volumeData(name string) string  { return filepath.Join(e.volumesDir(), name, "_data") }

// VolumeCreate makes a volume; one that is there already is given as it is.
func (e *Engine) VolumeCreate(ctx context.Context, opt VolumeOptions) (Volume, error) {
	anonymous := opt.Name == ""
	id, err := newID()
	if err != nil {
		return Volume{}, err
	}
	if anonymous {
		opt.Name = id
	}
	v, _, err := e.volumeCreate(opt, anonymous, id)
	return v, err
}

// checkVolume refuses names, drivers and options that cannot be.
func checkVolume(opt VolumeOptions) error {
	if opt.Driver != "" && opt.Driver != "local" {
		return errorf(ErrUnsupported, "error looking up volume plugin %s: plugin %q not found", opt.Driver, opt.Driver)
	}
	if len(opt.Options) > 0 {
		return errorf(ErrUnsupported, "create %s: options of the local volume driver are not supported: bind the directory with --mount type=bind instead", opt.Name)
	}
	if checkName(opt.Name) != nil {
		return errorf(ErrInvalid, "create %s: %q includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. "+
			"If you intended to pass a host directory, use absolute path", opt.Name, opt.Name)
	}
	return nil
}

// volumeCreate makes a volume, and tells whether it was not there before. id
// names the staging directory: a container's, whose sweep removes it too.
func (e *Engine) volumeCreate(opt VolumeOptions, anonymous bool, id string) (v Volume, made bool, err error) {
	if err := checkVolume(opt); err != nil {
		return v, false, err
	}
	v, err = e.volume(opt.Name)
	if err == nil || !errors.Is(err, ErrNoSuchVolume) {
		return v, false, err
	}
	v = Volume{Name: opt.Name, Driver: "local", Mountpoint: e.volumeData(opt.Name), CreatedAt: time.Now(),
		Labels: opt.Labels, Options: opt.Options, Scope: "local", Anonymous: anonymous}
	made, err = e.commitVolume(v, e.volumeStaging(id))
	if err != nil {
		return v, false, fmt.Errorf("create volume %s: %w", opt.Name, err)
	}
	if made {
		e.emit(objectEvent("volume", "create", v.Name, map[string]string{"driver": "local"}))
	}
	return v, made, nil
}

// commitVolume makes the volume aside and renames it to its place. Losing the
// race to another command is no error: then its volume is the volume.
func (e *Engine) commitVolume(v Volume, tmp string) (bool, error) {
	if err := os.Mkdir(tmp, 0o711); err != nil {
		return false, err
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o711); err != nil {
		return false, err
	}
	if err := os.Mkdir(tmp+"/_data", 0o755); err != nil {
		return false, err
	}
	b, err := json.Marshal(v)
	if err != nil {
		return false, err
	}
	if err := os.WriteFile(tmp+"/volume.json", b, 0o600); err != nil {
		return false, err
	}
	if err := os.Rename(tmp, e.volumeDir(v.Name)); err != nil {
		if errors.Is(err, os.ErrExist) {
			return false, nil
		}
		return false, err
	}
	return true, nil
}

func (e *Engine) volume(name string) (Volume, error) {
	var v Volume
	if checkName(name) != nil {
		return v, errorf(ErrNoSuchVolume, "get %s: no such volume", name)
	}
	b, err := os.ReadFile(e.volumeDir(name) + "/volume.json")
	if errors.Is(err, os.ErrNotExist) {
		return v, errorf(ErrNoSuchVolume, "get %s: no such volume", name)
	}
	if err == nil {
		err = json.Unmarshal(b, &v)
	}
	if err != nil {
		return v, fmt.Errorf("read the record of volume %s: %w", name, err)
	}
	v.Mountpoint = e.volumeData(name)
	return v, nil
}

// VolumeInspect gives one volume.
func (e *Engine) VolumeInspect(ctx context.Context, name string) (Volume, error) {
	return e.volume(name)
}

// Volumes lists the volumes by name. Filters: dangling, driver, label, name.
func (e *Engine) Volumes(ctx context.Context, f Filters) ([]Volume, error) {
	if err := f.check("dangling", "driver", "label", "name"); err != nil {
		return nil, err
	}
	var used map[string][]string
	dangling, err := f.bool("dangling", false)
	if err != nil {
		return nil, err
	}
	if _, ok := f["dangling"]; ok {
		if used, err = e.volumeUsers(); err != nil {
			return nil, err
		}
	}
	entries, err := os.ReadDir(e.volumesDir())
	if err != nil {
		return nil, fmt.Errorf("list the volumes: %w", err)
	}
	var list []Volume
	for _, ent := range entries {
		v, err := e.volume(ent.Name())
		if err != nil {
			continue
		}
		if used != nil && dangling == (len(used[v.Name]) > 0) {
			continue
		}
		if f.any("driver", func(d string) bool { return d == v.Driver }) &&
			f.any("name", func(n string) bool { return strings.Contains(v.Name, n) }) &&
			f.all("label", func(l string) bool { return matchLabel(v.Labels, l) }) {
			list = append(list, v)
		}
	}
	return list, nil
}

// volumeUsers gives the containers that have each volume.
func (e *Engine) volumeUsers() (map[string][]string, error) {
	cs, err := e.all()
	if err != nil {
		return nil, err
	}
	users := map[string][]string{}
	for _, c := range cs {
		for _, m := range c.Mounts {
			if m.Name != "" {
				users[m.Name] = append(users[m.Name], c.ID)
			}
		}
	}
	return users, nil
}

// VolumeRemove removes a volume that no container has. With force, one that is
// not there is no error.
func (e *Engine) VolumeRemove(ctx context.Context, name string, force bool) error {
	if _, err := e.volume(name); err != nil {
		if force && errors.Is(err, ErrNoSuchVolume) {
			return nil
		}
		return err
	}
	users, err := e.volumeUsers()
	if err != nil {
		return err
	}
	if ids := users[name]; len(ids) > 0 {
		slices.Sort(ids)
		return errorf(ErrVolumeInUse, "remove %s: volume is in use - [%s]", name, strings.Join(ids, ", "))
	}
	return e.removeVolume(name)
}

func (e *Engine) removeVolume(name string) error {
	gone := e.removedDir(name)
	// What an earlier removal left when it was cut off.
	if err := os.RemoveAll(gone); err != nil {
		return fmt.Errorf("remove volume %s: %w", name, err)
	}
	if err := os.Rename(e.volumeDir(name), gone); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("remove volume %s: %w", name, err)
	}
	if err := os.RemoveAll(gone); err != nil {
		return fmt.Errorf("remove volume %s: %w", name, err)
	}
	e.emit(objectEvent("volume", "destroy", name, map[string]string{"driver": "local"}))
	return nil
}

// PruneReport is what a prune removed.
type PruneReport struct {
	Deleted        []string
	SpaceReclaimed int64
}

// VolumePrune removes volumes that no container has: the anonymous ones, with all
// also those with a name. Filters: label, label!, all.
func (e *Engine) VolumePrune(ctx context.Context, all bool, f Filters) (PruneReport, error) {
	var rep PruneReport
	if err := f.check("label", "label!", "all"); err != nil {
		return rep, err
	}
	all, err := f.bool("all", all)
	if err != nil {
		return rep, err
	}
	list, err := e.Volumes(ctx, Filters{"dangling": {"true"}})
	if err != nil {
		return rep, err
	}
	for _, v := range list {
		if !all && !v.Anonymous || !f.matchLabels(v.Labels) {
			continue
		}
		size, _, err := diskUsage(v.Mountpoint)
		if err != nil {
			return rep, err
		}
		if err := e.removeVolume(v.Name); err != nil {
			return rep, err
		}
		rep.Deleted = append(rep.Deleted, v.Name)
		rep.SpaceReclaimed += size
	}
	return rep, nil
}

// matchLabels applies the filters label and label! of a prune.
func (f Filters) matchLabels(labels map[string]string) bool {
	return f.all("label", func(l string) bool { return matchLabel(labels, l) }) &&
		f.all("label!", func(l string) bool { return !matchLabel(labels, l) })
}
