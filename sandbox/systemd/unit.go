// Package systemd lets systemd make the control groups of a container: a scope
// unit below a slice (systemd.scope(5)), as runc's --systemd-cgroup does. Limits
// that systemd has a property for are given to it, so that it knows them when it
// writes the groups anew; all of them are written to the groups' files as well.
package systemd

import (
	"errors"
	"fmt"
	"strings"
)

// Unit names the systemd unit of a container.
type Unit struct {
	Slice string // "system.slice", "machine-viv.slice"
	Name  string // "viv-ID.scope"
}

// ErrPath says that a cgroupsPath is not of the form that names a unit.
var ErrPath = errors.New("not of the form slice:prefix:name")

// ParsePath reads an OCI cgroupsPath of the form slice:prefix:name, as runc
// documents it (docs/systemd.md): an empty slice is system.slice, or user.slice
// for an engine without root, a slice without its suffix gets it; an empty prefix
// leaves the name alone; a name that ends in ".slice" is a slice itself.
// An empty path is ":viv:ID".
func ParsePath(path, id string, rootless bool) (Unit, error) {
	if path == "" {
		path = ":viv:" + id
	}
	part := strings.Split(path, ":")
	if len(part) != 3 {
		return Unit{}, fmt.Errorf("cgroupsPath %q for systemd: %w", path, ErrPath)
	}
	u := Unit{Slice: part[0]}
	switch {
	case u.Slice != "" && !strings.HasSuffix(u.Slice, sliceSuffix):
		u.Slice += sliceSuffix
	case u.Slice == "" && rootless:
		u.Slice = "user.slice"
	case u.Slice == "":
		u.Slice = "system.slice"
	}
	if part[2] == "" {
		return Unit{}, fmt.Errorf("cgroupsPath %q for systemd has no name: %w", path, ErrPath)
	}
	u.Name = part[2]
	if !strings.HasSuffix(u.Name, sliceSuffix) {
		if part[1] != "" {
			u.Name = part[1] + "-" + u.Name
		}
		u.Name += ".scope"
	}
	for _, name := range []string{u.Slice, u.Name} {
		if err := checkName(name); err != nil {
			return Unit{}, fmt.Errorf("cgroupsPath %q for systemd: %w", path, err)
		}
	}
	_, err := expandSlice(u.Slice)
	return u, err
}

const sliceSuffix = ".slice"

// checkName holds a name to what systemd.unit(5) allows: letters, digits and
// ":-_.\@", at most 255 characters.
func checkName(name string) error {
	if len(name) > 255 {
		return fmt.Errorf("unit name %q has more than 255 characters", name)
	}
	for _, r := range name {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', strings.ContainsRune(`:-_.\@`, r):
		default:
			return fmt.Errorf("unit name %q has the character %q, which systemd does not take", name, r)
		}
	}
	return nil
}

// CgroupPath is where systemd makes the unit's group, below the mount point of
// each hierarchy.
func (u Unit) CgroupPath() (string, error) {
	slice, err := expandSlice(u.Slice)
	if err != nil {
		return "", err
	}
	if strings.HasSuffix(u.Name, sliceSuffix) {
		return expandSlice(u.Name)
	}
	return strings.TrimSuffix(slice, "/") + "/" + u.Name, nil
}

// expandSlice gives the path of a slice: a dash in its name is a step down
// (systemd.slice(5)), "a-b.slice" is /a.slice/a-b.slice; "-.slice" is the root.
func expandSlice(slice string) (string, error) {
	name, ok := strings.CutSuffix(slice, sliceSuffix)
	if !ok || name == "" || strings.Contains(name, "/") {
		return "", fmt.Errorf("invalid slice name: %s", slice)
	}
	if name == "-" {
		return "/", nil
	}
	path, prefix := "", ""
	for step := range strings.SplitSeq(name, "-") {
		if step == "" {
			return "", fmt.Errorf("invalid slice name: %s", slice)
		}
		path += "/" + prefix + step + sliceSuffix
		prefix += step + "-"
	}
	return path, nil
}
