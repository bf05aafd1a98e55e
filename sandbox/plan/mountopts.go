package plan

import (
	"strings"

	"golang.org/x/sys/unix"
)

// mountOpts is what the options of one OCI mount mean.
type mountOpts struct {
	set, clear       uint64 // MOUNT_ATTR_* of the mount itself
	recSet, recClear uint64 // the same for it and all below
	propagation      uint64
	recPropagation   bool
	bind, recursive  bool
	data             []Param // what is left is the file system's own
	copyUp           bool
	copySymlink      bool
	idmap            idmap
}

// attrs are the options that set (or clear) attributes; runtime-spec, config.md
// "Linux mount options". With an "r" before the name they hold recursively.
var attrs = map[string]struct {
	attr  uint64
	clear bool
}{
	"ro": {unix.MOUNT_ATTR_RDONLY, false}, "rw": {unix.MOUNT_ATTR_RDONLY, true},
	"nosuid": {unix.MOUNT_ATTR_NOSUID, false}, "suid": {unix.MOUNT_ATTR_NOSUID, true},
	"nodev": {unix.MOUNT_ATTR_NODEV, false}, "dev": {unix.MOUNT_ATTR_NODEV, true},
	"noexec": {unix.MOUNT_ATTR_NOEXEC, false}, "exec": {unix.MOUNT_ATTR_NOEXEC, true},
	"nodiratime": {unix.MOUNT_ATTR_NODIRATIME, false}, "diratime": {unix.MOUNT_ATTR_NODIRATIME, true},
	"nosymfollow": {unix.MOUNT_ATTR_NOSYMFOLLOW, false}, "symfollow": {unix.MOUNT_ATTR_NOSYMFOLLOW, true},
	// The access time settings are one field of the attributes: each clears it whole.
	"noatime": {unix.MOUNT_ATTR_NOATIME, false}, "atime": {unix.MOUNT_ATTR_NOATIME, true},
	"relatime": {unix.MOUNT_ATTR_RELATIME, false}, "norelatime": {unix.MOUNT_ATTR_RELATIME, true},
	"strictatime": {unix.MOUNT_ATTR_STRICTATIME, false}, "nostrictatime": {unix.MOUNT_ATTR_STRICTATIME, true},
}

var propagations = map[string]uint64{
	"private": unix.MS_PRIVATE, "shared": unix.MS_SHARED, "slave": unix.MS_SLAVE, "unbindable": unix.MS_UNBINDABLE,
}

// superFlags are options that fsconfig(2) takes as flags of the superblock.
var superFlags = map[string]bool{"sync": true, "dirsync": true, "lazytime": true, "mand": true}

func parseMountOptions(options []string) (mountOpts, error) {
	var m mountOpts
	for _, o := range options {
		if err := m.add(o); err != nil {
			return m, err
		}
	}
	return m, nil
}

func (m *mountOpts) add(o string) error {
	if a, ok := attrs[o]; ok {
		addAttr(&m.set, &m.clear, a.attr, a.clear)
		return nil
	}
	if a, ok := attrs[strings.TrimPrefix(o, "r")]; ok && strings.HasPrefix(o, "r") {
		addAttr(&m.recSet, &m.recClear, a.attr, a.clear)
		return nil
	}
	if p, ok := propagations[o]; ok {
		m.propagation, m.recPropagation = p, false
		return nil
	}
	if p, ok := propagations[strings.TrimPrefix(o, "r")]; ok {
		m.propagation, m.recPropagation = p, true
		return nil
	}
	switch o {
	case "bind":
		m.bind = true
	case "rbind":
		m.bind, m.recursive = true, true
	case "defaults", "async", "nomand", "nolazytime", "loud", "silent", "iversion", "noiversion", "nodirsync":
		// what a mount has without saying so, or what the kernel ignores
	case "remount":
		return errorf("mount option %q: there is nothing to remount in a new container", o)
	case "copy-symlink":
		m.copySymlink = true
	case "tmpcopyup":
		m.copyUp = true
	default:
		if name, _, _ := strings.Cut(o, "="); name == "idmap" || name == "ridmap" {
			var err error
			m.idmap, err = parseIdmap(o)
			return err
		}
		m.addData(o)
	}
	return nil
}

func addAttr(set, clear *uint64, attr uint64, off bool) {
	if attr&unix.MOUNT_ATTR__ATIME != 0 || attr == unix.MOUNT_ATTR_RELATIME {
		*clear |= unix.MOUNT_ATTR__ATIME
		*set &^= unix.MOUNT_ATTR__ATIME
		if !off {
			*set |= attr
		}
		return
	}
	if off {
		*clear |= attr
		*set &^= attr
		return
	}
	*set |= attr
	*clear &^= attr
}

func (m *mountOpts) addData(o string) {
	key, value, has := strings.Cut(o, "=")
	if !has || superFlags[o] {
		m.data = append(m.data, Param{Key: key, Flag: true})
		return
	}
	m.data = append(m.data, Param{Key: key, Value: value})
}
