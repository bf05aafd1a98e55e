package engine

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"vivarium/bundle"
	"vivarium/internal/lazyjson"
)

// Container is the engine's record of one container: what was asked for and what
// that was resolved to. It is <root>/containers/<id>/config.json. How the
// container fares stands in status.json beside it, which the monitor writes.
type Container struct {
	ID      string
	Name    string
	Created time.Time
	Image   string // as the user wrote it
	ImageID string // "sha256:…", or "host"

	Path string // the first process's program
	Args []string

	// Options is what the user said, with the image's settings and the defaults
	// filled in (bundle.Effective).
	Options bundle.Options
	// ImageConfig is what the image said when the container was made, so that a
	// start does not depend on the image's tag.
	ImageConfig ispec.ImageConfig
	Layers      []string // the layers' directories, base first; none for the image host

	Mounts []MountPoint

	// Driver makes the container's union; none: overlay.
	Driver string `json:",omitempty"`
}

// MountPoint is one mount of a container as inspect shows it.
type MountPoint struct {
	Type        string
	Name        string `json:",omitempty"`
	Source      string
	Destination string
	Driver      string `json:",omitempty"`
	Mode        string
	RW          bool
	Propagation string
	// Anonymous volumes go with the container when it is removed with its volumes.
	Anonymous bool `json:"Anonymous,omitempty"`
}

// Labels are the container's labels, the image's included.
func (c *Container) Labels() map[string]string { return c.Options.Config.Labels }

// Config are the settings that do not depend on this host.
func (c *Container) Config() *bundle.Config { return &c.Options.Config }

// AutoRemove tells whether the container goes when it ends (--rm).
func (c *Container) AutoRemove() bool { return c.Options.HostConfig.AutoRemove }

func (c *Container) logDriver() string {
	if d := c.Options.HostConfig.LogConfig.Type; d != "" {
		return d
	}
	return "json-file"
}

// newID gives 64 random hexadecimal digits.
func newID() (string, error) {
	var b [32]byte
	if _, err := unix.Getrandom(b[:], 0); err != nil {
		return "", fmt.Errorf("make a container ID: %w", err)
	}
	return hex.EncodeToString(b[:]), nil
}

func isID(s string) bool {
	if len(s) != 64 {
		return false
	}
	return isHex(s)
}

func isHex(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f') {
			return false
		}
	}
	return len(s) > 0
}

// Container gives the record of the container that ref names: a full ID, a name,
// or the beginning of an ID that no other has.
func (e *Engine) Container(ref string) (*Container, error) {
	id, err := e.resolveID(ref)
	if err != nil {
		return nil, err
	}
	c, err := e.load(id)
	if errors.Is(err, os.ErrNotExist) {
		return nil, noSuchContainer(ref)
	}
	return c, err
}

func (e *Engine) resolveID(ref string) (string, error) {
	if isID(ref) && e.hasRecord(ref) {
		return ref, nil
	}
	name := strings.TrimPrefix(ref, "/")
	if checkName(name) == nil {
		if id, err := os.Readlink(e.nameLink(name)); err == nil && isID(id) && e.hasRecord(id) {
			return id, nil
		}
	}
	if !isHex(ref) || len(ref) > 64 {
		return "", noSuchContainer(ref)
	}
	ids, err := e.ids()
	if err != nil {
		return "", err
	}
	ids = slices.DeleteFunc(ids, func(id string) bool { return !strings.HasPrefix(id, ref) })
	switch len(ids) {
	case 0:
		return "", noSuchContainer(ref)
	case 1:
		return ids[0], nil
	}
	return "", errorf(ErrAmbiguous, "multiple IDs found with provided prefix: %s", ref)
}

func (e *Engine) hasRecord(id string) bool {
	return unix.Access(e.containerDir(id)+"/config.json", unix.F_OK) == nil
}

// ids lists the IDs of all containers, in no order.
func (e *Engine) ids() ([]string, error) {
	d, err := os.Open(e.Root + "/containers")
	if err != nil {
		return nil, fmt.Errorf("list the containers: %w", err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list the containers: %w", err)
	}
	return slices.DeleteFunc(names, func(s string) bool { return !isID(s) }), nil
}

// load reads a record. os.ErrNotExist: there is none.
func (e *Engine) load(id string) (*Container, error) {
	c, err := readRecord(e.containerDir(id))
	if err != nil {
		return nil, fmt.Errorf("read the record of container %s: %w", short(id), err)
	}
	return c, nil
}

func readRecord(dir string) (*Container, error) {
	b, err := os.ReadFile(dir + "/config.json")
	if err != nil {
		return nil, err
	}
	c := &Container{}
	if err := lazyjson.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("%s/config.json: %w", dir, err)
	}
	return c, nil
}

// all loads every record. One that cannot be read is left out: it must not hide the others.
func (e *Engine) all() ([]*Container, error) {
	ids, err := e.ids()
	if err != nil {
		return nil, err
	}
	cs := make([]*Container, 0, len(ids))
	for _, id := range ids {
		if c, err := e.load(id); err == nil {
			cs = append(cs, c)
		}
	}
	return cs, nil
}

// writeRecord writes the record into dir, which nobody sees yet.
func writeRecord(dir string, c *Container) error {
	b, err := lazyjson.Marshal(c)
	if err != nil {
		return fmt.Errorf("write the record of container %s: %w", short(c.ID), err)
	}
	if err := os.WriteFile(dir+"/config.json", b, 0o600); err != nil {
		return fmt.Errorf("write the record of container %s: %w", short(c.ID), err)
	}
	return nil
}

// saveLocked replaces the record of a container that is there already.
func (e *Engine) saveLocked(c *Container) error {
	b, err := lazyjson.Marshal(c)
	if err == nil {
		err = replaceFile(e.containerDir(c.ID)+"/config.json", b)
	}
	if err != nil {
		return fmt.Errorf("write the record of container %s: %w", short(c.ID), err)
	}
	return nil
}

// replaceFile writes a small file so that a reader, also one after a power cut,
// sees the old or the new content.
func replaceFile(path string, b []byte) error {
	f, err := os.CreateTemp(dirOf(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err2 := f.Close(); err == nil {
		err = err2
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

func dirOf(path string) string { return path[:strings.LastIndexByte(path, '/')] }
