package bundle

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// namespaces says which namespaces are new, joined or the host's.
func (b *builder) namespaces() error {
	h := &b.o.HostConfig
	b.addNS(specs.MountNamespace, "")
	if b.netIsPrivate() {
		b.addNS(specs.NetworkNamespace, b.host.Namespaces[specs.NetworkNamespace])
	} else if err := b.join(specs.NetworkNamespace, h.NetworkMode); err != nil {
		return err
	}
	for _, n := range []struct {
		t    specs.LinuxNamespaceType
		mode string
	}{{specs.UTSNamespace, h.UTSMode}, {specs.PIDNamespace, h.PidMode}, {specs.IPCNamespace, h.IpcMode}} {
		if isPrivate(n.mode) {
			b.addNS(n.t, "")
		} else if err := b.join(n.t, n.mode); err != nil {
			return err
		}
	}
	if h.CgroupnsMode == "private" {
		b.addNS(specs.CgroupNamespace, "")
	}
	if h.TimensMode == "private" {
		b.addNS(specs.TimeNamespace, "")
	}
	if isPrivate(h.UTSMode) {
		b.s.Hostname = Hostname(b.o, b.host)
		b.s.Domainname = b.o.Config.Domainname
	}
	return b.userNamespace()
}

func (b *builder) netIsPrivate() bool { return isPrivate(b.o.HostConfig.NetworkMode) }

func (b *builder) addNS(t specs.LinuxNamespaceType, path string) {
	b.s.Linux.Namespaces = append(b.s.Linux.Namespaces, specs.LinuxNamespace{Type: t, Path: path})
}

// join adds the namespace of another container. The host's namespace is joined by
// leaving it away.
func (b *builder) join(t specs.LinuxNamespaceType, mode string) error {
	if mode == "host" {
		return nil
	}
	p := b.host.Namespaces[t]
	if p == "" {
		return fmt.Errorf("join the %s namespace of %s: the container is not running", t, strings.TrimPrefix(mode, "container:"))
	}
	b.addNS(t, p)
	return nil
}

func (b *builder) userNamespace() error {
	if b.o.HostConfig.UsernsMode != "private" {
		return nil
	}
	uid, gid := b.o.UIDMappings, b.o.GIDMappings
	if len(uid) == 0 && len(gid) == 0 {
		uid, gid = b.host.UIDMappings, b.host.GIDMappings
	}
	// One of the two alone serves for both, as podman does it.
	if len(uid) == 0 {
		uid = gid
	} else if len(gid) == 0 {
		gid = uid
	}
	if len(uid) == 0 {
		return errors.New("--userns private: there are no subordinate IDs to use: give --uidmap and --gidmap, or add a line to /etc/subuid and /etc/subgid")
	}
	for _, l := range []struct {
		name string
		maps []specs.LinuxIDMapping
	}{{"--uidmap", uid}, {"--gidmap", gid}} {
		if err := checkMappings(l.name, l.maps); err != nil {
			return err
		}
	}
	b.s.Linux.UIDMappings, b.s.Linux.GIDMappings = slices.Clone(uid), slices.Clone(gid)
	b.addNS(specs.UserNamespace, "")
	return nil
}

// checkMappings refuses what the kernel would (user_namespaces(7)): more than 340
// lines, and ranges that overlap.
func checkMappings(name string, list []specs.LinuxIDMapping) error {
	if len(list) > 340 {
		return fmt.Errorf("%s: %d ranges are more than the kernel's 340", name, len(list))
	}
	overlap := func(a, as, c, cs uint32) bool {
		return uint64(a) < uint64(c)+uint64(cs) && uint64(c) < uint64(a)+uint64(as)
	}
	for i, m := range list {
		for _, n := range list[:i] {
			if overlap(m.ContainerID, m.Size, n.ContainerID, n.Size) || overlap(m.HostID, m.Size, n.HostID, n.Size) {
				return fmt.Errorf("%s: the ranges %d:%d:%d and %d:%d:%d overlap", name,
					n.ContainerID, n.HostID, n.Size, m.ContainerID, m.HostID, m.Size)
			}
		}
	}
	return nil
}

// sysctls sets kernel parameters, only those of namespaces that are the
// container's own: a parameter of a shared namespace would change the other side.
func (b *builder) sysctls() error {
	h := &b.o.HostConfig
	all := map[string]string{}
	if b.netIsPrivate() && h.UsernsMode != "private" {
		// Nothing that a container runs needs root or a capability for low ports and
		// ping: the network is its own.
		all["net.ipv4.ip_unprivileged_port_start"] = "0"
		all["net.ipv4.ping_group_range"] = "0 2147483647"
	}
	for _, name := range slices.Sorted(maps.Keys(h.Sysctls)) {
		if !isNamespacedSysctl(name) {
			return fmt.Errorf("sysctl '%s' is not allowed", name)
		}
		var shared string
		switch {
		case strings.HasPrefix(name, "net."):
			if h.NetworkMode == "host" {
				shared = "network"
			}
		case h.IpcMode == "host":
			shared = "ipc"
		}
		if shared != "" {
			return fmt.Errorf("sysctl %q is not allowed in the host's %s namespace", name, shared)
		}
		all[name] = h.Sysctls[name]
	}
	if len(all) > 0 {
		b.s.Linux.Sysctl = all
	}
	return nil
}
