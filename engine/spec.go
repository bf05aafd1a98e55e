package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"vivarium/bundle"
	"vivarium/monitor/wire"
	"vivarium/sandbox/plan"
	"vivarium/sandbox/seccomp"
	"vivarium/sandbox/seccomp/dockerdefault"
)

// facts gathers what the spec of the container has to know.
func (r *run) facts(ctx context.Context, o bundle.Options, id string) (bundle.Facts, error) {
	f, err := bundle.ReadHost(o)
	if err != nil {
		return f, err
	}
	layout, err := hostLayout()
	if err != nil {
		return f, err
	}
	r.layout = layout
	f.CompiledSeccomp = true
	f.ID, f.CgroupVersion, f.Lacks = id, cgroupVersion(layout), cgroupLacks(layout, &o.HostConfig.Resources)
	if o.HostConfig.Init != nil && *o.HostConfig.Init {
		f.InitPath = r.e.Monitor // which is an init too, by the name InitTarget
	}
	if o.HostConfig.UsernsMode == "private" && len(o.UIDMappings)+len(o.GIDMappings) == 0 {
		if f.UIDMappings, f.GIDMappings, err = subordinateIDs(); err != nil {
			return f, err
		}
	}
	return f, r.joinPeers(ctx, o, &f)
}

// joinPeers finds the namespaces of the containers that the options name.
func (r *run) joinPeers(ctx context.Context, o bundle.Options, f *bundle.Facts) error {
	h := &o.HostConfig
	for _, j := range []struct {
		kind specs.LinuxNamespaceType
		mode string
		file string
	}{{specs.NetworkNamespace, h.NetworkMode, "net"}, {specs.PIDNamespace, h.PidMode, "pid"}, {specs.IPCNamespace, h.IpcMode, "ipc"}} {
		ref, ok := strings.CutPrefix(j.mode, "container:")
		if !ok {
			continue
		}
		peer, st, err := r.peer(ctx, ref)
		if err != nil {
			return err
		}
		if f.Namespaces == nil {
			f.Namespaces = map[specs.LinuxNamespaceType]string{}
		}
		if running(st) {
			f.Namespaces[j.kind] = fmt.Sprintf("/proc/%d/ns/%s", st.Pid, j.file)
		}
		if j.kind == specs.NetworkNamespace {
			r.netPeer = peer
			f.PeerHostname = peer.hostname()
		}
		if j.kind == specs.IPCNamespace && peer.Options.HostConfig.IpcMode != "shareable" && peer.Options.HostConfig.IpcMode != "host" {
			return errorf(ErrInvalid, "can't join IPC of container %s: non-shareable IPC (hint: use IpcMode:shareable for the donor container)", peer.ID)
		}
	}
	return nil
}

func (r *run) peer(ctx context.Context, ref string) (*Container, wire.Status, error) {
	c, err := r.e.Container(ref)
	if err != nil {
		return nil, wire.Status{}, err
	}
	st, err := r.e.state(ctx, c)
	return c, st, err
}

// hostname is the name that the container's processes see.
func (c *Container) hostname() string {
	if c.Config().Hostname != "" {
		return c.Config().Hostname
	}
	return defaultHostname(c)
}

// makeSpec makes the OCI spec.
func (r *run) makeSpec(ctx context.Context) error {
	f, err := r.host, error(nil)
	if f.ID == "" { // made by an earlier command: not looked at yet
		if f, err = r.facts(ctx, r.c.Options, r.c.ID); err != nil {
			return err
		}
	}
	if f.Passwd, f.Group, err = r.accounts(); err != nil {
		return err
	}
	r.nameFiles(&f)
	f.VolumePaths = map[string]string{}
	if len(r.c.Options.HostConfig.VolumesFrom) > 0 {
		// The others' were resolved when the container was made: they may be gone now.
		f.Inherited = []bundle.MountPoint{}
	}
	for _, m := range r.c.Mounts {
		if f.Inherited != nil && m.Type != bundle.MountTmpfs {
			f.Inherited = append(f.Inherited, m.point())
		}
		if m.Type == bundle.MountVolume {
			f.VolumePaths[m.Destination] = m.Source
		}
	}
	spec, warnings, err := bundle.Spec(&r.c.ImageConfig, r.c.Options, f)
	if err != nil {
		return &Error{Kind: ErrInvalid, Msg: err.Error(), cause: err}
	}
	r.spec = spec
	r.warn(warnings)
	return nil
}

// warn keeps each warning once: making a record and making its spec find the same.
func (r *run) warn(ws []bundle.Warning) {
	for _, w := range ws {
		if !slices.Contains(r.warnings, string(w)) {
			r.warnings = append(r.warnings, string(w))
		}
	}
}

// nameFiles says which hosts, hostname and resolv.conf are mounted: the
// container's own, or those of the container whose network it joins.
func (r *run) nameFiles(f *bundle.Facts) {
	r.ownNetFiles = r.netPeer == nil
	dir := r.e.runDir(r.c.ID)
	if !r.ownNetFiles {
		dir = r.e.runDir(r.netPeer.ID)
		if _, err := os.Stat(dir + "/hosts"); err != nil {
			return
		}
	}
	f.HostsPath, f.HostnamePath, f.ResolvConfPath = dir+"/hosts", dir+"/hostname", dir+"/resolv.conf"
}

// compile turns the spec into the program.
func (r *run) compile(context.Context) error {
	if r.ownNetFiles && !r.dry {
		// The plan looks whether the sources of its mounts are files.
		if err := r.touchNetFiles(); err != nil {
			return err
		}
	}
	recipe, err := r.e.recipe(r.c, r.image)
	if err != nil {
		return err
	}
	root, err := planRoot(recipe)
	if err != nil {
		return err
	}
	filter, err := r.filter()
	if err != nil {
		return err
	}
	r.plan, err = plan.Compile(r.spec, plan.Options{
		Filter: filter, ID: r.c.ID, Root: root, NetNS: r.c.bridged(), OwnStdio: ownStdio(r.c.Config().Tty, r.c.Config().OpenStdin),
		SaysReady: len(r.spec.Process.Args) > 0 && r.spec.Process.Args[0] == bundle.InitTarget,
		MakeCwd:   true, Lenient: true, Layout: r.layout, LastCap: r.host.LastCap,
	})
	if err != nil {
		return fmt.Errorf("plan container %s: %w", r.c.Name, err)
	}
	return nil
}

// filter is Docker's default seccomp profile, compiled when this program was built,
// or nil where the spec has a profile or none is wanted.
func (r *run) filter() (*seccomp.Filter, error) {
	byDefault, err := bundle.DefaultSeccomp(&r.c.Options)
	if err != nil || !byDefault || r.spec.Linux.Seccomp != nil {
		return nil, err
	}
	var bounding []string
	if caps := r.spec.Process.Capabilities; caps != nil {
		bounding = caps.Bounding
	}
	f, err := dockerdefault.Filter(bounding)
	return &f, err
}

// ownStdio says which of the process's standard descriptors are pipes of ours.
func ownStdio(tty, stdin bool) int {
	switch {
	case tty:
		return 0
	case stdin:
		return 0b111
	}
	return 0b110
}

// subordinateIDs gives the ranges of /etc/subuid and /etc/subgid that belong to
// "viv", "dockremap" or "root", the first that is there.
func subordinateIDs() (uid, gid []specs.LinuxIDMapping, err error) {
	if uid, err = readSubordinate("/etc/subuid"); err != nil {
		return nil, nil, err
	}
	gid, err = readSubordinate("/etc/subgid")
	return uid, gid, err
}

func readSubordinate(path string) ([]specs.LinuxIDMapping, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read subordinate IDs: %w", err)
	}
	for _, user := range []string{"viv", "dockremap", "root"} {
		var list []specs.LinuxIDMapping
		next := uint32(0)
		for line := range strings.Lines(string(b)) {
			var start, size uint32
			name, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
			if name != user {
				continue
			}
			if _, err := fmt.Sscanf(rest, "%d:%d", &start, &size); err != nil || size == 0 {
				continue
			}
			list = append(list, specs.LinuxIDMapping{ContainerID: next, HostID: start, Size: size})
			next += size
		}
		if len(list) > 0 {
			return list, nil
		}
	}
	return nil, nil
}
