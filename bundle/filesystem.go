package bundle

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// systemMounts are the file systems that every container has.
func (b *builder) systemMounts() []specs.Mount {
	h := &b.o.HostConfig
	sys := []string{"nosuid", "noexec", "nodev", "ro"}
	cgroup := []string{"ro", "nosuid", "noexec", "nodev"}
	if h.Privileged {
		sys, cgroup = sys[:3], cgroup[1:]
	}
	list := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		// gid 5 is tty in every distribution; the owner of a terminal must be that group.
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: sys},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: cgroup},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
	}
	if h.IpcMode != "none" && h.IpcMode != "host" && b.host.ShmPath == "" {
		list = append(list, specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "shm",
			Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=" + strconv.FormatInt(h.ShmSize, 10)}})
	}
	return list
}

// allMounts lists the system's mounts, then the user's and the generated files,
// parents before what lies below them. A mount of the user's takes the place of a
// system mount on the same destination.
func (b *builder) allMounts() error {
	taken := map[string]bool{}
	for i := range b.mounts {
		taken[b.mounts[i].Destination] = true
	}
	user, err := b.userMounts(taken)
	if err != nil {
		return err
	}
	if isContainer(b.o.HostConfig.IpcMode) && b.host.ShmPath == "" && !taken["/dev/shm"] {
		b.warn("/dev/shm is not shared with %s: only System V IPC and message queues are", strings.TrimPrefix(b.o.HostConfig.IpcMode, "container:"))
	}
	list := slices.DeleteFunc(b.systemMounts(), func(m specs.Mount) bool {
		return taken[m.Destination] || taken["/dev"] && strings.HasPrefix(m.Destination, "/dev/")
	})
	slices.SortStableFunc(user, func(x, y specs.Mount) int {
		return strings.Count(x.Destination, "/") - strings.Count(y.Destination, "/")
	})
	b.s.Mounts = append(list, user...)
	if b.s.Root.Readonly {
		b.readonlyMounts(taken)
	}
	return nil
}

// readonlyMounts makes read-only what --read-only covers beside the root: all but
// the user's own mounts and those that a process cannot run without.
func (b *builder) readonlyMounts(taken map[string]bool) {
	for i := range b.s.Mounts {
		m := &b.s.Mounts[i]
		switch m.Destination {
		case "/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue":
			continue
		}
		if (m.Type == "cgroup" || m.Type == "sysfs") && b.o.HostConfig.Privileged || taken[m.Destination] || slices.Contains(m.Options, "ro") {
			continue
		}
		m.Options = append(m.Options, "ro")
	}
}

func (b *builder) userMounts(taken map[string]bool) ([]specs.Mount, error) {
	list := make([]specs.Mount, 0, len(b.mounts)+5)
	for i := range b.mounts {
		m, err := b.userMount(&b.mounts[i])
		if err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	h := &b.o.HostConfig
	if h.Init != nil && *h.Init && isPrivate(h.PidMode) {
		list = append(list, specs.Mount{Destination: InitTarget, Type: "bind", Source: b.host.InitPath, Options: []string{"bind", "ro"}})
	}
	for _, f := range []struct{ dst, src string }{
		{"/etc/resolv.conf", b.host.ResolvConfPath}, {"/etc/hostname", b.host.HostnamePath}, {"/etc/hosts", b.host.HostsPath},
	} {
		if f.src != "" && !taken[f.dst] {
			opts := []string{"rbind", "rprivate"}
			if h.ReadonlyRootfs {
				opts = []string{"rbind", "ro", "rprivate"}
			}
			list = append(list, specs.Mount{Destination: f.dst, Type: "bind", Source: f.src, Options: opts})
		}
	}
	shm := b.host.ShmPath
	if h.IpcMode == "host" {
		shm = "/dev/shm"
	}
	if shm != "" && h.IpcMode != "none" && !taken["/dev/shm"] {
		list = append(list, specs.Mount{Destination: "/dev/shm", Type: "bind", Source: shm, Options: []string{"rbind", "rprivate"}})
	}
	return list, nil
}

func (b *builder) userMount(p *MountPoint) (specs.Mount, error) {
	m := specs.Mount{Destination: p.Destination, Type: "bind"}
	switch p.Type {
	case MountTmpfs:
		m.Type, m.Source, m.Options = "tmpfs", "tmpfs", p.TmpfsOptions
		return m, nil
	case MountVolume:
		m.Source = b.host.VolumePaths[p.Destination]
		if m.Source == "" {
			return m, fmt.Errorf("mount volume %s at %s: its directory is not known", p.Name, p.Destination)
		}
	case MountBind:
		m.Source = p.Source
		b.rootPropagation(p.Propagation)
	}
	m.Options = []string{"rbind"}
	if p.NonRecursive {
		m.Options[0] = "bind"
	}
	switch {
	case p.RW:
	case p.RecursiveReadOnly:
		m.Options = append(m.Options, "rro")
	default:
		m.Options = append(m.Options, "ro")
	}
	if p.Propagation != "" {
		m.Options = append(m.Options, p.Propagation)
	}
	return m, nil
}

// rootPropagation opens the container's root for mounts that shall travel: below a
// private root neither sharing nor slavery would reach the host's side.
func (b *builder) rootPropagation(mode string) {
	l := b.s.Linux
	switch strings.TrimPrefix(mode, "r") {
	case "shared":
		l.RootfsPropagation = "shared"
	case "slave":
		if l.RootfsPropagation == "" {
			l.RootfsPropagation = "rslave"
		}
	}
}
