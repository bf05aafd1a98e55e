package bundle

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// DefaultShmSize is the size of /dev/shm in bytes where --shm-size does not say it.
const DefaultShmSize = 64 << 20

// Effective returns the options with the image's settings and the defaults filled
// in, which is what inspect prints. Applying it again changes nothing. It returns
// an error for options that this host cannot satisfy, and drops, with a warning,
// limits that its kernel lacks. Everything that Validate checks is checked here too,
// on the result. o itself is not changed.
func Effective(img *ocispec.ImageConfig, o Options, host Facts) (Options, []Warning, error) {
	e := o
	mergeImage(&e.Config, img)
	h := &e.HostConfig
	if h.NetworkMode == "" {
		h.NetworkMode = "default"
	}
	if h.IpcMode == "" {
		h.IpcMode = "private"
	}
	if h.CgroupnsMode == "" {
		// On v1 the container then sees the host's paths in /proc/self/cgroup, as
		// with Docker; only v2 has one hierarchy that can be shown by itself.
		h.CgroupnsMode = "private"
		if host.CgroupVersion == 1 {
			h.CgroupnsMode = "host"
		}
	}
	if h.ShmSize == 0 {
		h.ShmSize = DefaultShmSize
	}
	if h.Memory > 0 && h.MemorySwap == 0 {
		h.MemorySwap = 2 * h.Memory
	}
	if h.RestartPolicy.Name == "" {
		h.RestartPolicy.Name = "no"
	}
	if err := e.Validate(); err != nil {
		return e, nil, err
	}
	sec, err := parseSecurity(h.SecurityOpt)
	if err != nil {
		return e, nil, err
	}
	h.MaskedPaths, h.ReadonlyPaths = systemPaths(h, sec)
	// Not where a host name may not be given: the options must stay valid.
	if e.Config.Hostname == "" && isPrivate(h.UTSMode) && !isContainer(h.NetworkMode) {
		e.Config.Hostname = Hostname(e, host)
	}
	warns, err := e.fitHost(host)
	return e, warns, err
}

// Merged returns the container's settings with the image's filled in; img may be nil.
func Merged(img *ocispec.ImageConfig, o Options) Config {
	c := o.Config
	mergeImage(&c, img)
	return c
}

// mergeImage fills c with the image's settings. The rules for entrypoint and
// command are Docker's: an entrypoint from the user also drops the image's command.
func mergeImage(c *Config, img *ocispec.ImageConfig) {
	if img == nil {
		img = &ocispec.ImageConfig{}
	}
	if c.Entrypoint == nil {
		if len(c.Cmd) == 0 {
			c.Cmd = img.Cmd
		}
		c.Entrypoint = img.Entrypoint
	} else if len(c.Entrypoint) == 1 && c.Entrypoint[0] == "" {
		// Not nil: that would bring the image's entrypoint back the next time.
		c.Entrypoint = []string{}
	}
	if c.User == "" {
		c.User = img.User
	}
	if c.WorkingDir == "" {
		if c.WorkingDir = img.WorkingDir; c.WorkingDir != "" {
			c.WorkingDir = path.Join("/", c.WorkingDir)
		}
	}
	if c.StopSignal == "" {
		c.StopSignal = img.StopSignal
	}
	c.Env = mergeEnv(c.Env, img.Env)
	c.Labels = mergeMaps(img.Labels, c.Labels)
	c.ExposedPorts = mergeMaps(img.ExposedPorts, c.ExposedPorts)
	c.Volumes = mergeMaps(img.Volumes, c.Volumes)
}

// mergeMaps returns base with over on top; neither is changed.
func mergeMaps[V any](base, over map[string]V) map[string]V {
	if len(base) == 0 {
		return over
	}
	m := maps.Clone(base)
	maps.Copy(m, over)
	return m
}

// Hostname returns the container's host name: the one that was asked for, the
// host's with --uts host or --network host, the peer's with --network
// container:ID, or else the first twelve digits of the ID.
func Hostname(o Options, host Facts) string {
	h := &o.HostConfig
	switch {
	case o.Config.Hostname != "":
		return o.Config.Hostname
	case h.UTSMode == "host" || h.NetworkMode == "host":
		return host.Hostname
	case isContainer(h.NetworkMode) && host.PeerHostname != "":
		return host.PeerHostname
	}
	return host.ID[:min(12, len(host.ID))]
}

// isPrivate reports whether a namespace mode makes a new namespace.
func isPrivate(mode string) bool { return mode != "host" && !isContainer(mode) }

// isContainer reports whether a namespace mode joins a container's namespace.
func isContainer(mode string) bool { return strings.HasPrefix(mode, "container:") }

// defaultMasked are the paths below which the kernel tells about the host what a
// container has no business to know. The last one leaks secrets by way of power
// consumption (CVE-2020-8694); Docker has it since 25.
func defaultMasked() []string {
	return []string{
		"/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi",
		"/sys/firmware", "/sys/devices/virtual/powercap",
	}
}

func defaultReadonly() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

// systemPaths returns the masked and read-only paths: those that h names, or else
// the default ones as the security options change them. Nil stands for none only
// with --privileged.
func systemPaths(h *HostConfig, sec security) (masked, readonly []string) {
	if h.Privileged {
		return nil, nil
	}
	masked, readonly = h.MaskedPaths, h.ReadonlyPaths
	if masked == nil {
		masked = []string{}
		if !sec.systemPathsUnconfined {
			masked = slices.DeleteFunc(defaultMasked(), sec.unmasks)
		}
		masked = append(masked, sec.mask...)
	}
	if readonly == nil {
		readonly = []string{}
		if !sec.systemPathsUnconfined {
			readonly = slices.DeleteFunc(defaultReadonly(), sec.unmasks)
		}
	}
	return masked, readonly
}

// unmasks reports whether an unmask= option takes the mask off p.
func (s *security) unmasks(p string) bool {
	for _, u := range s.unmask {
		if u == "ALL" || u == p {
			return true
		}
		if ok, err := path.Match(u, p); err == nil && ok {
			return true
		}
	}
	return false
}

// security is what all --security-opt together say.
type security struct {
	noNewPrivileges       bool
	seccomp               string // "", "unconfined", "builtin" or JSON
	apparmor              string
	systemPathsUnconfined bool
	mask, unmask          []string
}

func parseSecurity(opts []string) (security, error) {
	var s security
	for _, opt := range opts {
		o, err := ParseSecurityOpt(opt)
		if err != nil {
			return s, err
		}
		switch o.Key {
		case "no-new-privileges":
			s.noNewPrivileges = o.Value == "true" || o.Value == "1" || o.Value == "t" || o.Value == "T" || o.Value == "TRUE" || o.Value == "True"
		case "seccomp":
			s.seccomp = o.Value
		case "apparmor":
			s.apparmor = o.Value
		case "systempaths":
			s.systemPathsUnconfined = true
		case "mask":
			s.mask = append(s.mask, strings.Split(o.Value, ":")...)
		case "unmask":
			s.unmask = append(s.unmask, strings.Split(o.Value, ":")...)
		case "label":
			// Only "no SELinux label" can be promised.
			if o.Value != "disable" {
				return s, fmt.Errorf("--security-opt %s: SELinux labels are not supported, only label=disable", opt)
			}
		}
	}
	for _, p := range s.mask {
		if !strings.HasPrefix(p, "/") {
			return s, fmt.Errorf("--security-opt mask=%s: the path must be absolute", p)
		}
	}
	for _, p := range s.unmask {
		if p != "ALL" && !strings.HasPrefix(p, "/") {
			return s, fmt.Errorf("--security-opt unmask=%s: it must be ALL or absolute paths", p)
		}
	}
	return s, nil
}
