package bundle

import (
	"encoding/csv"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/docker/go-units"
)

// Types of Mount and MountPoint.
const (
	MountBind   = "bind"
	MountVolume = "volume"
	MountTmpfs  = "tmpfs"
)

// Mount is one --mount, with Docker's field names.
type Mount struct {
	Type          string
	Source        string         `json:",omitempty"`
	Target        string         `json:",omitempty"`
	ReadOnly      bool           `json:",omitempty"`
	Consistency   string         `json:",omitempty"`
	BindOptions   *BindOptions   `json:",omitempty"`
	VolumeOptions *VolumeOptions `json:",omitempty"`
	TmpfsOptions  *TmpfsOptions  `json:",omitempty"`
}

// BindOptions are the keys that only a bind mount has.
type BindOptions struct {
	Propagation            string `json:",omitempty"` // private, rprivate, slave, rslave, shared, rshared
	NonRecursive           bool   `json:",omitempty"`
	CreateMountpoint       bool   `json:",omitempty"` // make a missing source directory
	ReadOnlyNonRecursive   bool   `json:",omitempty"`
	ReadOnlyForceRecursive bool   `json:",omitempty"`
}

// VolumeOptions are the keys that only a volume has.
type VolumeOptions struct {
	NoCopy       bool              `json:",omitempty"` // do not fill a new volume from the image
	Labels       map[string]string `json:",omitempty"`
	Subpath      string            `json:",omitempty"`
	DriverConfig *VolumeDriver     `json:",omitempty"`
}

// VolumeDriver names a volume driver and its options.
type VolumeDriver struct {
	Name    string            `json:",omitempty"`
	Options map[string]string `json:",omitempty"`
}

// TmpfsOptions are the keys that only a tmpfs has.
type TmpfsOptions struct {
	SizeBytes int64  `json:",omitempty"`
	Mode      uint32 `json:",omitempty"` // permission bits; 0: the default, 1777
}

// mountModes puts each word of a -v mode into a group; a mode may have one of each.
func mountModeGroup(word string) string {
	switch word {
	case "rw", "ro":
		return "access"
	case "private", "rprivate", "slave", "rslave", "shared", "rshared":
		return "propagation"
	case "z", "Z":
		return "label"
	case "nocopy":
		return "copy"
	case "consistent", "cached", "delegated", "default":
		return "consistency"
	}
	return ""
}

// parseMountMode splits a -v mode as "ro,z" into its words by group.
func parseMountMode(mode string) (map[string]string, bool) {
	if mode == "" {
		return nil, true
	}
	groups := make(map[string]string, 2)
	for word := range strings.SplitSeq(mode, ",") {
		g := mountModeGroup(word)
		if g == "" || groups[g] != "" {
			return nil, false
		}
		groups[g] = word
	}
	return groups, true
}

// ParseVolume reads one argument of -v: "[source:]destination[:mode]", where the
// source is an absolute path (a bind mount) or a volume's name, and mode is a list
// of words: ro or rw; z or Z; a propagation (bind only); nocopy (volume only). A
// sole destination is an anonymous volume.
func ParseVolume(arg string) (MountPoint, error) {
	m, err := parseVolume(arg)
	if err != nil {
		return MountPoint{}, fmt.Errorf("invalid volume specification: '%s'%w", arg, err)
	}
	return m, nil
}

// errVolumeForm has no text: the argument itself says all.
var errVolumeForm = errors.New("")

func parseVolume(arg string) (MountPoint, error) {
	parts := strings.Split(arg, ":")
	var src, dst, mode string
	switch len(parts) {
	case 1:
		dst = parts[0]
	case 2:
		src, dst = parts[0], parts[1]
	case 3:
		src, dst, mode = parts[0], parts[1], parts[2]
	default:
		return MountPoint{}, errVolumeForm
	}
	if dst == "" || (len(parts) > 1 && src == "") {
		return MountPoint{}, errors.New(": empty section between colons")
	}
	if _, ok := parseMountMode(dst); ok && len(parts) == 2 {
		return MountPoint{}, errors.New(": a volume without source cannot have a mode")
	}
	words, ok := parseMountMode(mode)
	if !ok {
		return MountPoint{}, fmt.Errorf(": invalid mode: %s", mode)
	}
	m := MountPoint{Type: MountVolume, Destination: dst, Mode: mode, RW: words["access"] != "ro"}
	if strings.HasPrefix(src, "/") {
		m.Type, m.Source, m.Propagation = MountBind, path.Clean(src), words["propagation"]
		m.CreateSource = true
		if words["copy"] != "" {
			return MountPoint{}, errors.New(`: invalid mount config for type "bind": field VolumeOptions must not be specified`)
		}
	} else {
		m.Name, m.NoCopy = src, words["copy"] != ""
		if words["propagation"] != "" {
			return MountPoint{}, errors.New(`: invalid mount config for type "volume": field BindOptions must not be specified`)
		}
	}
	if err := m.check(); err != nil {
		return MountPoint{}, fmt.Errorf(": %w", err)
	}
	return m, nil
}

// ParseMount reads one argument of --mount: comma-separated key=value fields
// (quoted as in CSV). Fields that do not belong to the type are an error.
func ParseMount(arg string) (Mount, error) {
	r := csv.NewReader(strings.NewReader(strings.TrimSpace(arg)))
	fields, err := r.Read()
	if err != nil {
		return Mount{}, fmt.Errorf("parse mount %q: %w", arg, err)
	}
	p := mountParser{m: Mount{Type: MountVolume}}
	for _, f := range fields {
		if err := p.field(f); err != nil {
			return Mount{}, err
		}
	}
	return p.finish()
}

// mountParser collects the fields of one --mount.
type mountParser struct{ m Mount }

func (p *mountParser) bind() *BindOptions {
	if p.m.BindOptions == nil {
		p.m.BindOptions = &BindOptions{}
	}
	return p.m.BindOptions
}

func (p *mountParser) volume() *VolumeOptions {
	if p.m.VolumeOptions == nil {
		p.m.VolumeOptions = &VolumeOptions{}
	}
	return p.m.VolumeOptions
}

func (p *mountParser) driver() *VolumeDriver {
	v := p.volume()
	if v.DriverConfig == nil {
		v.DriverConfig = &VolumeDriver{}
	}
	return v.DriverConfig
}

func (p *mountParser) tmpfs() *TmpfsOptions {
	if p.m.TmpfsOptions == nil {
		p.m.TmpfsOptions = &TmpfsOptions{}
	}
	return p.m.TmpfsOptions
}

func (p *mountParser) field(f string) error {
	key, val, has := strings.Cut(f, "=")
	key = strings.ToLower(key)
	if !has {
		switch key {
		case "readonly", "ro", "volume-nocopy", "bind-nonrecursive", "bind-create-src":
			val = "true"
		default:
			return fmt.Errorf("invalid field '%s' must be a key=value pair", f)
		}
	}
	switch {
	case strings.HasPrefix(key, "bind-"):
		return p.bindField(key, val, f)
	case strings.HasPrefix(key, "volume-"):
		return p.volumeField(key, val, f)
	case strings.HasPrefix(key, "tmpfs-"):
		return p.tmpfsField(key, val, f)
	}
	var err error
	switch key {
	case "type":
		p.m.Type = strings.ToLower(val)
	case "source", "src":
		p.m.Source = val
	case "target", "dst", "destination":
		p.m.Target = val
	case "readonly", "ro":
		p.m.ReadOnly, err = parseMountBool(key, val)
	case "consistency":
		p.m.Consistency = strings.ToLower(val)
	default:
		return fmt.Errorf("unexpected key '%s' in '%s'", key, f)
	}
	return err
}

func parseMountBool(key, val string) (bool, error) {
	b, err := strconv.ParseBool(val)
	if err != nil {
		return false, fmt.Errorf("invalid value for %s: %s", key, val)
	}
	return b, nil
}

func (p *mountParser) bindField(key, val, f string) (err error) {
	switch key {
	case "bind-propagation":
		p.bind().Propagation = strings.ToLower(val)
	case "bind-nonrecursive":
		p.bind().NonRecursive, err = parseMountBool(key, val)
	case "bind-create-src":
		p.bind().CreateMountpoint, err = parseMountBool(key, val)
	case "bind-recursive":
		switch val {
		case "enabled":
		case "disabled":
			p.bind().NonRecursive = true
		case "writable":
			p.bind().ReadOnlyNonRecursive = true
		case "readonly":
			p.bind().ReadOnlyForceRecursive = true
		default:
			return fmt.Errorf(`invalid value for %s: %s (must be "enabled", "disabled", "writable", or "readonly")`, key, val)
		}
		p.bind()
	default:
		return fmt.Errorf("unexpected key '%s' in '%s'", key, f)
	}
	return err
}

func (p *mountParser) volumeField(key, val, f string) (err error) {
	switch key {
	case "volume-nocopy":
		p.volume().NoCopy, err = parseMountBool(key, val)
	case "volume-subpath":
		p.volume().Subpath = val
	case "volume-driver":
		p.driver().Name = val
	case "volume-label":
		v := p.volume()
		if v.Labels == nil {
			v.Labels = map[string]string{}
		}
		k, x, _ := strings.Cut(val, "=")
		v.Labels[k] = x
	case "volume-opt":
		d := p.driver()
		if d.Options == nil {
			d.Options = map[string]string{}
		}
		k, x, _ := strings.Cut(val, "=")
		d.Options[k] = x
	default:
		return fmt.Errorf("unexpected key '%s' in '%s'", key, f)
	}
	return err
}

func (p *mountParser) tmpfsField(key, val, f string) error {
	switch key {
	case "tmpfs-size":
		n, err := units.RAMInBytes(val)
		if err != nil || n < 0 {
			return fmt.Errorf("invalid value for %s: %s", key, val)
		}
		p.tmpfs().SizeBytes = n
	case "tmpfs-mode":
		n, err := strconv.ParseUint(val, 8, 32)
		if err != nil || n > 0o7777 {
			return fmt.Errorf("invalid value for %s: %s", key, val)
		}
		p.tmpfs().Mode = uint32(n)
	default:
		return fmt.Errorf("unexpected key '%s' in '%s'", key, f)
	}
	return nil
}

func (p *mountParser) finish() (Mount, error) {
	m := &p.m
	if m.Type == "" {
		return Mount{}, errors.New("type is required")
	}
	if m.Target == "" {
		return Mount{}, errors.New("target is required")
	}
	if err := m.checkFamilies(); err != nil {
		return Mount{}, err
	}
	if _, err := m.point(); err != nil {
		return Mount{}, err
	}
	return *m, nil
}

// checkFamilies refuses fields that belong to another type of mount, and those
// that contradict each other.
func (m *Mount) checkFamilies() error {
	if m.VolumeOptions != nil && m.Type != MountVolume {
		return fmt.Errorf("cannot mix 'volume-*' options with mount type '%s'", m.Type)
	}
	if m.BindOptions != nil && m.Type != MountBind {
		return fmt.Errorf("cannot mix 'bind-*' options with mount type '%s'", m.Type)
	}
	if m.TmpfsOptions != nil && m.Type != MountTmpfs {
		return fmt.Errorf("cannot mix 'tmpfs-*' options with mount type '%s'", m.Type)
	}
	if b := m.BindOptions; b != nil {
		if (b.ReadOnlyNonRecursive || b.ReadOnlyForceRecursive) && !m.ReadOnly {
			return errors.New("option 'bind-recursive=writable' or 'bind-recursive=readonly' requires 'readonly' to be specified in conjunction")
		}
		if b.ReadOnlyForceRecursive && b.Propagation != "" && b.Propagation != "rprivate" {
			// A propagated submount would arrive writable below a tree that was
			// asked to be read-only throughout.
			return errors.New("option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be specified in conjunction")
		}
	}
	return nil
}
