package plan

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"vivarium/sandbox/program"
)

// idmap is how the ids of a mount are to be mapped: those that are in its file
// system are the container ids of the maps, those that are seen the host ids.
type idmap struct {
	asked, recursive bool
	uids, gids       []specs.LinuxIDMapping // none: those of the container's user namespace

	relativeUIDs, relativeGIDs []bool // of those by the option, which were marked with "@"
}

// idmapOf reads what a mount says: in its own mappings, as runtime-spec,
// config.md "Linux mount options" has it, or in the option as crun has it.
func idmapOf(m *specs.Mount, o mountOpts) (idmap, error) {
	out := o.idmap
	if len(m.UIDMappings)+len(m.GIDMappings) == 0 {
		return out, nil
	}
	if len(out.uids)+len(out.gids) > 0 {
		return out, errorf("id maps are given by the option idmap and by the mount's own mappings")
	}
	if len(m.UIDMappings) == 0 || len(m.GIDMappings) == 0 {
		return out, errorf("both uidMappings and gidMappings are needed")
	}
	out.asked, out.uids, out.gids = true, m.UIDMappings, m.GIDMappings
	return out, nil
}

// parseIdmap reads the option "idmap", "ridmap", or one of them with
// "=uids=0-1000-1#…;gids=…": container id, host id, how many. With "@" before it
// the host id is one of the container's user namespace (crun(1)).
func parseIdmap(option string) (idmap, error) {
	name, value, has := strings.Cut(option, "=")
	out := idmap{asked: true, recursive: name == "ridmap"}
	if !has || value == "" {
		return out, nil
	}
	for part := range strings.SplitSeq(value, ";") {
		which, list, _ := strings.Cut(part, "=")
		into, relative := &out.uids, &out.relativeUIDs
		switch which {
		case "uids":
		case "gids":
			into, relative = &out.gids, &out.relativeGIDs
		default:
			return out, errorf("mount option %q: %q is neither uids= nor gids=", option, part)
		}
		for triple := range strings.SplitSeq(list, "#") {
			triple, marked := strings.CutPrefix(triple, "@")
			*relative = append(*relative, marked)
			m, err := parseTriple(strings.TrimPrefix(triple, "+")) // a sign, which crun reads over
			if err != nil {
				return out, errorf("mount option %q: %w", option, err)
			}
			*into = append(*into, m)
		}
	}
	if len(out.uids) == 0 || len(out.gids) == 0 {
		return out, errorf("mount option %q: both uids= and gids= are needed", option)
	}
	return out, nil
}

func parseTriple(s string) (specs.LinuxIDMapping, error) {
	var v [3]uint32
	fields := strings.Split(s, "-")
	if len(fields) != len(v) {
		return specs.LinuxIDMapping{}, errorf("%q is not CONTAINER-HOST-SIZE", s)
	}
	for i, f := range fields {
		n, err := strconv.ParseUint(f, 10, 32)
		if err != nil {
			return specs.LinuxIDMapping{}, errorf("%q is not CONTAINER-HOST-SIZE, three numbers", s)
		}
		v[i] = uint32(n)
	}
	return specs.LinuxIDMapping{ContainerID: v[0], HostID: v[1], Size: v[2]}, nil
}

// absolute gives maps with host ids only: those marked with "@" are found in the
// container's own maps, by the id with which they begin.
func absolute(maps []specs.LinuxIDMapping, relative []bool, own []specs.LinuxIDMapping) ([]specs.LinuxIDMapping, error) {
	if !slices.Contains(relative, true) {
		return maps, nil
	}
	out := slices.Clone(maps)
	for i, marked := range relative {
		if !marked {
			continue
		}
		at := slices.IndexFunc(own, func(m specs.LinuxIDMapping) bool {
			return out[i].ContainerID >= m.ContainerID && out[i].ContainerID-m.ContainerID < m.Size
		})
		if at < 0 {
			return nil, errorf("id %d of an id map with @ is not in the user namespace of the container", out[i].ContainerID)
		}
		out[i].HostID += own[at].HostID - own[at].ContainerID
	}
	return out, nil
}

// idmapNamespace is the slot of a user namespace with the maps. Only its maps
// matter, so it is one that is made before the clone, whether the container has
// one with the same maps or not.
func (c *compiler) idmapNamespace(m idmap) (int16, error) {
	uids, err := absolute(m.uids, m.relativeUIDs, c.spec.Linux.UIDMappings)
	if err != nil {
		return 0, err
	}
	gids, err := absolute(m.gids, m.relativeGIDs, c.spec.Linux.GIDMappings)
	if err != nil {
		return 0, err
	}
	path := ""
	if len(uids) == 0 {
		uids, gids = c.spec.Linux.UIDMappings, c.spec.Linux.GIDMappings
		path = c.ns.join[unix.CLONE_NEWUSER]
		if path == "" && c.ns.fresh&unix.CLONE_NEWUSER == 0 {
			return 0, errorf("an id-mapped mount needs uidMappings and gidMappings, or a user namespace of the container")
		}
	}
	key := path
	if path == "" {
		key = idMap(uids) + ";" + idMap(gids)
	}
	if s, ok := c.idmaps[key]; ok {
		return s, nil
	}
	b := c.b
	ops := b.ops
	b.in(&b.prog.Before)
	defer b.in(ops)
	var s int16
	if path != "" {
		b.begin("idmap", "open the user namespace "+path+", for mounts with its ids")
		s, _ = b.openat(n(cwd), path, unix.O_RDONLY)
	} else {
		b.begin("idmap", "make a user namespace for its id maps, which mounts take")
		s = b.slot()
		b.do(int(program.UserNS), n(b.text(idMap(uids))), n(b.text(idMap(gids)))).into(s)
	}
	if c.idmaps == nil {
		c.idmaps = make(map[string]int16)
	}
	c.idmaps[key] = s
	return s, nil
}

// mapIDs maps the ids of a detached mount (mount_setattr(2), MOUNT_ATTR_IDMAP,
// Linux 5.12).
func (c *compiler) mapIDs(mount, userns int16, recursive bool, what string) {
	b := c.b
	b.begin("idmap", "map the ids of "+what+", which its file system has to allow")
	flags := unix.AT_EMPTY_PATH
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	attr := b.words(unix.MOUNT_ATTR_IDMAP, 0, 0, 0)
	b.do(int(program.PokeInt), n(attr+24), n(int(userns)))
	b.do(unix.SYS_MOUNT_SETATTR, slot(mount), b.str(""), n(flags), ptr(attr), n(unix.MOUNT_ATTR_SIZE_VER0))
}

// letMapIDs lets the parent do so, who has the rights over the file system.
func (c *compiler) letMapIDs(mount, userns int16, recursive bool, what string) {
	c.b.begin("idmap", "let the parent map the ids of "+what+", which its file system has to allow, and wait")
	c.requests++
	below := uint32(0)
	if recursive {
		below = 1
	}
	c.b.sendFiles(program.SlotSync, 'I', below, mount, userns)
	c.b.await()
}

// sourcePath is where a bind mount's source is on the host.
func (c *compiler) sourcePath(m *specs.Mount) string {
	if filepath.IsAbs(m.Source) {
		return m.Source
	}
	return filepath.Join(c.opt.BundleDir, m.Source)
}
