// Package bundle makes the OCI runtime spec of a container from its image's
// configuration, the user's options and facts about the host. It also owns the
// grammar of each option.
//
// Spec is a pure function: it reads no file and starts nothing, so that all of a
// container's settings can be checked, printed and compared before anything is
// made. What it must know about the host comes in as Facts; host.go has functions
// that read some of them. The behaviour, down to the wording of errors, is
// Docker's (dockerd 20.10, observed), unless a comment says otherwise.
package bundle

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// builder is the state of one call of Spec. It never changes what o's slices and
// maps hold: they belong to the caller.
type builder struct {
	img    *ocispec.ImageConfig
	o      Options
	host   Facts
	sec    security
	mounts []MountPoint
	s      *specs.Spec
	warns  []Warning
}

// Spec returns the OCI spec of a container and warnings about options that have no
// effect here. img may be nil (an image without configuration). An error means that
// the options are wrong or contradict each other or the host; nothing has been made.
func Spec(img *ocispec.ImageConfig, o Options, host Facts) (*specs.Spec, []Warning, error) {
	if host.ID == "" {
		return nil, nil, errors.New("make spec: the container has no ID")
	}
	if host.CgroupVersion != 1 && host.CgroupVersion != 2 {
		return nil, nil, fmt.Errorf("make spec: unknown cgroup version %d", host.CgroupVersion)
	}
	b := &builder{img: img, host: host}
	var err error
	if b.o, b.warns, err = Effective(img, o, host); err != nil {
		return nil, nil, err
	}
	if b.sec, err = parseSecurity(b.o.HostConfig.SecurityOpt); err != nil {
		return nil, nil, err
	}
	if b.mounts, err = Mounts(img, b.o); err != nil {
		return nil, nil, err
	}
	if len(o.HostConfig.VolumesFrom) > 0 && host.Inherited == nil {
		return nil, nil, fmt.Errorf("make spec: the mounts of %s (--volumes-from) are not known", strings.Join(o.HostConfig.VolumesFrom, ", "))
	}
	own, added, err := Inherit(b.mounts, b.o, host.Inherited)
	if err != nil {
		return nil, nil, err
	}
	b.mounts = append(own, added...)
	b.s = &specs.Spec{Version: specs.Version, Process: &specs.Process{}, Linux: &specs.Linux{}}
	// The order matters where a step reads what an earlier one has set: the seccomp
	// profile depends on the capabilities, read-only mounts on the root.
	for _, step := range []func() error{
		b.root, b.process, b.capabilities, b.namespaces, b.sysctls, b.allMounts,
		b.devices, b.resources, b.confine, b.maskPaths,
	} {
		if err := step(); err != nil {
			return nil, nil, err
		}
	}
	return b.s, b.warns, nil
}

func (b *builder) warn(format string, a ...any) {
	b.warns = append(b.warns, Warning(fmt.Sprintf(format, a...)))
}

func (b *builder) root() error {
	p := b.host.RootPath
	if p == "" {
		p = "rootfs"
	}
	h := &b.o.HostConfig
	b.s.Root = &specs.Root{Path: p, Readonly: h.ReadonlyRootfs}
	b.s.Annotations = h.Annotations
	parent := h.CgroupParent
	if parent == "" {
		parent = b.host.CgroupParent
	}
	if parent == "" {
		parent = "/viv"
	}
	// Join cleans the parent, so that it cannot climb out of the hierarchy with "..".
	b.s.Linux.CgroupsPath = path.Join("/", parent, b.host.ID)
	return nil
}

func (b *builder) process() error {
	c, p := &b.o.Config, b.s.Process
	p.Terminal = c.Tty
	if size := b.o.HostConfig.ConsoleSize; c.Tty && size[0] != 0 && size[1] != 0 {
		p.ConsoleSize = &specs.Box{Height: size[0], Width: size[1]}
	}
	p.Args = slices.Concat(c.Entrypoint, c.Cmd)
	if len(p.Args) == 0 || p.Args[0] == "" && len(p.Args) == 1 {
		return refuse("No command specified: neither the image nor the command line names a program")
	}
	p.Cwd = path.Join("/", c.WorkingDir)
	score := b.o.HostConfig.OomScoreAdj
	p.OOMScoreAdj = &score
	for _, u := range b.o.HostConfig.Ulimits {
		p.Rlimits = append(p.Rlimits, specs.POSIXRlimit{
			Type: "RLIMIT_" + strings.ToUpper(u.Name),
			Hard: uint64(u.Hard), Soft: uint64(u.Soft), // -1 becomes RLIM_INFINITY
		})
	}
	home, err := b.user()
	if err != nil {
		return err
	}
	b.env(home)
	return b.init()
}

func (b *builder) env(home string) {
	c := &b.o.Config
	env := make([]string, 0, 5+len(c.Env))
	env = append(env, "PATH="+DefaultPath, "HOSTNAME="+Hostname(b.o, b.host))
	if c.Tty {
		env = append(env, "TERM=xterm")
	}
	env = overlayEnv(env, c.Env)
	// runc sets HOME itself when it starts the process; here the spec says it, so
	// that it can be seen and any runtime does the same.
	if envIndex(env, "HOME") < 0 {
		if home == "" {
			home = "/"
		}
		env = append(env, "HOME="+home)
	}
	b.s.Process.Env = env
}

// init puts the init program before the command. Docker ignores --init where the
// container is not the first process of its PID namespace; so do we, and say so.
func (b *builder) init() error {
	h := &b.o.HostConfig
	if h.Init == nil || !*h.Init {
		return nil
	}
	if !isPrivate(h.PidMode) {
		b.warn("--init has no effect with --pid %s", h.PidMode)
		return nil
	}
	if b.host.InitPath == "" {
		return errors.New("--init: there is no init program on this host: put viv-monitor beside viv, or leave --init away")
	}
	b.s.Process.Args = append([]string{InitTarget, "--"}, b.s.Process.Args...)
	return nil
}
