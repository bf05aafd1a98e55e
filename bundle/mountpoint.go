package bundle

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// MountPoint is one mount that the user or the image asks for, wherever it was
// said. The first fields are those that inspect prints under "Mounts".
type MountPoint struct {
	Type        string
	Name        string `json:",omitempty"` // of the volume; empty for an anonymous one until the engine names it
	Source      string // bind: the host path
	Destination string
	Driver      string `json:",omitempty"`
	Mode        string
	RW          bool
	Propagation string

	// NoCopy: a new volume is not filled from the image.
	NoCopy bool `json:"-"`
	// CreateSource: a missing bind source is made as a directory (-v does, --mount does not).
	CreateSource bool `json:"-"`
	// Labels and DriverOptions are for a volume that has to be made.
	Labels        map[string]string `json:"-"`
	DriverOptions map[string]string `json:"-"`
	// NonRecursive binds without submounts; RecursiveReadOnly makes those read-only too.
	NonRecursive      bool `json:"-"`
	RecursiveReadOnly bool `json:"-"`
	// TmpfsOptions are the mount options of a tmpfs.
	TmpfsOptions []string `json:"-"`
}

// Mounts lists the mounts that o and the image ask for, in the order of Docker:
// -v, --mount, anonymous volumes (-v without a source, and the image's) where
// nothing else stands on their destination, --tmpfs. The engine makes the volumes
// of it and gives their directories to Spec as Facts.VolumePaths. Two explicit
// mounts on one destination are an error.
func Mounts(img *ocispec.ImageConfig, o Options) ([]MountPoint, error) {
	var list []MountPoint
	for _, b := range o.HostConfig.Binds {
		m, err := ParseVolume(b)
		if err != nil {
			return nil, err
		}
		if m.Type == MountVolume {
			m.Driver = o.HostConfig.VolumeDriver
		}
		list = append(list, m)
	}
	for i := range o.HostConfig.Mounts {
		m, err := o.HostConfig.Mounts[i].point()
		if err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	var tmpfs []MountPoint
	for _, dst := range slices.Sorted(maps.Keys(o.HostConfig.Tmpfs)) {
		m, err := tmpfsPoint(dst, o.HostConfig.Tmpfs[dst])
		if err != nil {
			return nil, err
		}
		tmpfs = append(tmpfs, m)
	}
	explicit := slices.Concat(list, tmpfs)
	if err := checkDuplicates(explicit); err != nil {
		return nil, err
	}
	anonymous, err := anonymousVolumes(img, o.Config.Volumes, explicit)
	if err != nil {
		return nil, err
	}
	return slices.Concat(list, anonymous, tmpfs), nil
}

// Inherit joins the list of Mounts with the mounts of other containers
// (--volumes-from): it returns what stays of list, and what is added to it. As in Docker an explicit mount of o stands before an inherited
// one on its destination, and an anonymous volume gives way to it; of two inherited
// ones the first stays.
func Inherit(list []MountPoint, o Options, inherited []MountPoint) (own, added []MountPoint, err error) {
	if len(inherited) == 0 {
		return list, nil, nil
	}
	o.Config.Volumes = nil
	explicit, err := Mounts(nil, o)
	if err != nil {
		return nil, nil, err
	}
	at := func(list []MountPoint, destination string) bool {
		return slices.ContainsFunc(list, func(m MountPoint) bool { return m.Destination == destination })
	}
	for _, m := range inherited {
		if !at(explicit, m.Destination) && !at(added, m.Destination) {
			added = append(added, m)
		}
	}
	own = slices.DeleteFunc(slices.Clone(list), func(m MountPoint) bool { return at(added, m.Destination) })
	return own, added, nil
}

func checkDuplicates(list []MountPoint) error {
	for i := range list {
		for j := range i {
			if list[i].Destination == list[j].Destination {
				return refuse("Duplicate mount point: %s", list[i].Destination)
			}
		}
	}
	return nil
}

// anonymousVolumes lists the volumes of -v without a source and of the image that
// no explicit mount stands in for.
func anonymousVolumes(img *ocispec.ImageConfig, volumes map[string]struct{}, explicit []MountPoint) ([]MountPoint, error) {
	var imgVolumes map[string]struct{}
	if img != nil {
		imgVolumes = img.Volumes
	}
	if len(volumes)+len(imgVolumes) == 0 {
		return nil, nil
	}
	taken := map[string]bool{}
	for i := range explicit {
		taken[explicit[i].Destination] = true
	}
	var list []MountPoint
	for _, set := range []map[string]struct{}{volumes, imgVolumes} {
		for _, dst := range slices.Sorted(maps.Keys(set)) {
			m := MountPoint{Type: MountVolume, Destination: path.Join("/", dst), RW: true}
			if err := m.check(); err != nil {
				return nil, err
			}
			if !taken[m.Destination] {
				taken[m.Destination] = true
				list = append(list, m)
			}
		}
	}
	return list, nil
}

// refuseMount words the refusal of a mount as Docker does.
func refuseMount(typ, format string, a ...any) error {
	return fmt.Errorf("invalid mount config for type %q: %s", typ, fmt.Sprintf(format, a...))
}

// point checks a --mount and brings it to the common form.
func (m *Mount) point() (MountPoint, error) {
	p := MountPoint{Type: m.Type, Destination: m.Target, RW: !m.ReadOnly}
	switch m.Type {
	case MountBind:
		if m.Source == "" {
			return p, refuseMount(m.Type, "field Source must not be empty")
		}
		p.Source = path.Clean(m.Source)
		if b := m.BindOptions; b != nil {
			p.Propagation, p.NonRecursive, p.CreateSource = b.Propagation, b.NonRecursive, b.CreateMountpoint
			p.RecursiveReadOnly = b.ReadOnlyForceRecursive
		}
	case MountVolume:
		p.Name = m.Source
		if p.Name == "" && m.ReadOnly {
			return p, refuseMount(m.Type, "must not set ReadOnly mode when using anonymous volumes")
		}
		if v := m.VolumeOptions; v != nil {
			if v.Subpath != "" {
				// A container could plant a symbolic link there that leads out of the volume.
				return p, refuseMount(m.Type, "volume-subpath is not supported: use a volume of its own for the directory")
			}
			p.NoCopy, p.Labels = v.NoCopy, v.Labels
			if v.DriverConfig != nil {
				p.Driver, p.DriverOptions = v.DriverConfig.Name, v.DriverConfig.Options
			}
		}
	case MountTmpfs:
		if m.Source != "" {
			return p, refuseMount(m.Type, "field Source must not be specified")
		}
		p.TmpfsOptions = m.tmpfsOptions()
	default:
		return p, refuseMount(m.Type, "mount type unknown or not supported: use bind, volume or tmpfs")
	}
	return p, p.check()
}

func (m *Mount) tmpfsOptions() []string {
	var opts []string
	if m.ReadOnly {
		opts = append(opts, "ro")
	}
	if t := m.TmpfsOptions; t != nil && t.Mode != 0 {
		opts = append(opts, "mode="+strconv.FormatUint(uint64(t.Mode), 8))
	}
	if t := m.TmpfsOptions; t != nil && t.SizeBytes != 0 {
		opts = append(opts, "size="+formatTmpfsSize(t.SizeBytes))
	}
	return mergeTmpfsOptions(opts)
}

// formatTmpfsSize writes a size with the largest unit that divides it.
func formatTmpfsSize(n int64) string {
	for _, u := range []struct {
		shift uint
		name  string
	}{{30, "g"}, {20, "m"}, {10, "k"}} {
		if n&(1<<u.shift-1) == 0 {
			return strconv.FormatInt(n>>u.shift, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}

// check verifies the fields that all forms share, and cleans the paths.
func (p *MountPoint) check() error {
	if !strings.HasPrefix(p.Destination, "/") {
		return refuseMount(p.Type, "invalid mount path: '%s' mount path must be absolute", p.Destination)
	}
	if strings.ContainsRune(p.Destination+p.Source, 0) {
		return refuseMount(p.Type, "a path cannot hold a zero byte")
	}
	p.Destination = path.Clean(p.Destination)
	if p.Destination == "/" {
		return refuseMount(p.Type, "invalid specification: destination can't be '/'")
	}
	switch p.Type {
	case MountBind:
		if !strings.HasPrefix(p.Source, "/") {
			return refuseMount(p.Type, "invalid mount path: '%s' mount path must be absolute", p.Source)
		}
		if p.Propagation == "" {
			p.Propagation = "rprivate"
		}
		if mountModeGroup(p.Propagation) != "propagation" {
			return refuseMount(p.Type, "invalid propagation mode: %s", p.Propagation)
		}
	case MountVolume:
		if p.Name != "" {
			if err := CheckVolumeName(p.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// CheckVolumeName reports whether name can be a volume's: two or more of
// [a-zA-Z0-9_.-], beginning with a letter or digit.
func CheckVolumeName(name string) error {
	for i := range len(name) {
		c := name[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || c != '_' && c != '.' && c != '-') {
			return fmt.Errorf("%q includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path", name)
		}
	}
	if len(name) < 2 {
		return errors.New("volume name is too short, names should be at least two alphanumeric characters")
	}
	if len(name) > 255 {
		return errors.New("volume name is too long, names have at most 255 characters")
	}
	return nil
}

// ParseTmpfs reads one argument of --tmpfs: "destination[:options]".
func ParseTmpfs(arg string) (dst, options string, err error) {
	dst, options, _ = strings.Cut(arg, ":")
	if _, err := tmpfsPoint(dst, options); err != nil {
		return "", "", err
	}
	return dst, options, nil
}

func tmpfsPoint(dst, options string) (MountPoint, error) {
	p := MountPoint{Type: MountTmpfs, Destination: dst, RW: true}
	if !strings.HasPrefix(dst, "/") {
		return p, fmt.Errorf("invalid mount path: '%s' mount path must be absolute", dst)
	}
	var opts []string
	if options != "" {
		opts = strings.Split(options, ",")
	}
	for _, o := range opts {
		if !validTmpfsOption(o) {
			return p, fmt.Errorf("invalid tmpfs option %q for %s", o, dst)
		}
		if o == "ro" {
			p.RW = false
		}
	}
	p.TmpfsOptions = mergeTmpfsOptions(opts)
	return p, p.check()
}

// tmpfsFlagGroup names what a flag decides; the last of each group counts.
func tmpfsFlagGroup(o string) string {
	switch o {
	case "exec", "noexec":
		return "exec"
	case "suid", "nosuid":
		return "suid"
	case "dev", "nodev":
		return "dev"
	case "ro", "rw":
		return "ro"
	case "sync", "async":
		return "sync"
	case "dirsync":
		return "dirsync"
	case "atime", "noatime", "relatime", "norelatime", "strictatime", "nostrictatime":
		return "atime"
	case "diratime", "nodiratime":
		return "diratime"
	case "private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable":
		return "propagation"
	case "defaults":
		return "defaults"
	}
	return ""
}

func validTmpfsOption(o string) bool {
	if tmpfsFlagGroup(o) != "" {
		return true
	}
	k, v, has := strings.Cut(o, "=")
	if !has || v == "" {
		return false
	}
	switch k {
	case "mode", "uid", "gid", "nr_inodes", "nr_blocks", "size", "mpol", "huge":
		return true
	}
	return false
}

// mergeTmpfsOptions puts the user's options over Docker's defaults.
func mergeTmpfsOptions(user []string) []string {
	out := make([]string, 0, 4+len(user))
	for _, d := range []string{"noexec", "nosuid", "nodev", "rprivate"} {
		group := tmpfsFlagGroup(d)
		if !slices.ContainsFunc(user, func(u string) bool { return tmpfsFlagGroup(u) == group }) {
			out = append(out, d)
		}
	}
	for i, u := range user {
		key := tmpfsFlagGroup(u)
		if key == "" {
			key, _, _ = strings.Cut(u, "=")
		}
		later := slices.ContainsFunc(user[i+1:], func(x string) bool {
			k := tmpfsFlagGroup(x)
			if k == "" {
				k, _, _ = strings.Cut(x, "=")
			}
			return k == key
		})
		if !later && u != "defaults" {
			out = append(out, u)
		}
	}
	return out
}
