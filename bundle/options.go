package bundle

import (
	"encoding/json"
	"maps"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"vivarium/image"
)

// Options is everything that a user can say about one container: what `viv run`
// and `viv create` take, in parsed form. It is plain data and survives JSON, so
// that the engine can keep it in the container's record. Config and HostConfig
// have Docker's field names, because `inspect` prints them and scripts read them.
//
// Options holds what the user said, not what the image adds: Spec, Merged and
// Effective combine the two.
type Options struct {
	// Name is the container's name; empty: the engine picks one.
	Name string `json:"Name,omitempty"`
	// Platform is "os/arch[/variant]"; empty: the host's.
	Platform string `json:"Platform,omitempty"`
	// Pull is "always", "missing" (the default) or "never".
	Pull string `json:"Pull,omitempty"`

	Config     Config
	HostConfig HostConfig
	Network    NetworkOptions

	// Publish and Expose are the raw arguments of -p and --expose.
	Publish []string `json:"Publish,omitempty"`
	Expose  []string `json:"Expose,omitempty"`

	// UIDMappings and GIDMappings make a private user namespace
	// (HostConfig.UsernsMode "private"); empty: Facts has the default.
	UIDMappings []specs.LinuxIDMapping `json:"UIDMappings,omitempty"`
	GIDMappings []specs.LinuxIDMapping `json:"GIDMappings,omitempty"`
}

// Config is the part of a container's settings that could move to another host.
// An image has the same kind of settings as defaults for it.
type Config struct {
	Hostname     string
	Domainname   string
	User         string
	AttachStdin  bool
	AttachStdout bool
	AttachStderr bool
	ExposedPorts map[string]struct{} `json:",omitempty"`
	Tty          bool
	OpenStdin    bool
	StdinOnce    bool
	Env          []string
	Cmd          []string
	Image        string // the reference as the user wrote it
	Volumes      map[string]struct{}
	WorkingDir   string
	// Entrypoint nil: the image's. One empty string: none at all.
	Entrypoint  []string
	OnBuild     []string
	Labels      map[string]string
	StopSignal  string `json:",omitempty"`
	StopTimeout *int   `json:",omitempty"` // seconds; -1: wait for ever
	// Healthcheck nil: the image's.
	Healthcheck *image.Healthcheck `json:",omitempty"`
}

// HostConfig is the part of a container's settings that depends on this host.
type HostConfig struct {
	Binds           []string // arguments of -v that name a source
	ContainerIDFile string
	LogConfig       LogConfig
	NetworkMode     string // "", "default", "bridge", "host", "none", "container:ID", or a network's name
	// PortBindings is for inspect only: the engine fills it from Options.Publish.
	PortBindings    map[string][]PortBinding
	RestartPolicy   RestartPolicy
	AutoRemove      bool
	VolumeDriver    string
	VolumesFrom     []string
	ConsoleSize     [2]uint           // height, width
	Annotations     map[string]string `json:",omitempty"`
	CapAdd          []string
	CapDrop         []string
	CgroupnsMode    string // "", "host", "private"
	Dns             []string
	DnsOptions      []string
	DnsSearch       []string
	ExtraHosts      []string
	GroupAdd        []string
	IpcMode         string // "", "private", "shareable", "none", "host", "container:ID"
	Cgroup          string
	Links           []string
	OomScoreAdj     int
	PidMode         string // "", "private", "host", "container:ID"
	Privileged      bool
	PublishAllPorts bool
	ReadonlyRootfs  bool
	SecurityOpt     []string          // a seccomp profile stands in it as JSON, not as a file name
	Tmpfs           map[string]string `json:",omitempty"`
	UTSMode         string            // "", "private", "host"
	UsernsMode      string            // "", "host", "private"
	TimensMode      string            `json:",omitempty"` // "", "host", "private"
	ShmSize         int64             // bytes; 0: 64 MiB
	Sysctls         map[string]string `json:",omitempty"`
	Runtime         string
	Isolation       string
	Resources
	Mounts        []Mount  `json:",omitempty"` // arguments of --mount
	MaskedPaths   []string // nil: the default ones
	ReadonlyPaths []string // nil: the default ones
	Init          *bool    `json:",omitempty"`
}

// Resources are the limits that control groups and rlimits impose. Zero values
// mean no limit.
type Resources struct {
	CpuShares            int64
	Memory               int64 // bytes
	NanoCpus             int64 // 1e9 is one CPU
	CgroupParent         string
	BlkioWeight          uint16
	BlkioWeightDevice    []WeightDevice
	BlkioDeviceReadBps   []ThrottleDevice
	BlkioDeviceWriteBps  []ThrottleDevice
	BlkioDeviceReadIOps  []ThrottleDevice
	BlkioDeviceWriteIOps []ThrottleDevice
	CpuPeriod            int64 // microseconds
	CpuQuota             int64 // microseconds in each period
	CpuRealtimePeriod    int64
	CpuRealtimeRuntime   int64
	CpusetCpus           string
	CpusetMems           string
	Devices              []DeviceMapping
	DeviceCgroupRules    []string
	KernelMemory         int64
	MemoryReservation    int64
	MemorySwap           int64  // memory and swap together; -1: unlimited swap
	MemorySwappiness     *int64 // 0 to 100; nil or -1: the kernel's
	OomKillDisable       *bool
	PidsLimit            *int64 // nil, 0 or -1: none
	Ulimits              []Ulimit
}

// LogConfig names the log driver and its options.
type LogConfig struct {
	Type   string
	Config map[string]string
}

// PortBinding is one host side of a published port, as inspect prints it.
type PortBinding struct {
	HostIP   string `json:"HostIp"`
	HostPort string
}

// RestartPolicy says when an exited container is started again.
type RestartPolicy struct {
	Name              string // "no", "always", "on-failure", "unless-stopped"
	MaximumRetryCount int    // on-failure only; 0: no limit
}

// WeightDevice is the block I/O weight of one device, 10 to 1000.
type WeightDevice struct {
	Path   string
	Weight uint16
}

// ThrottleDevice is the limit of one device, in bytes or operations a second.
type ThrottleDevice struct {
	Path string
	Rate uint64
}

// DeviceMapping makes a device of the host visible in the container.
type DeviceMapping struct {
	PathOnHost        string
	PathInContainer   string
	CgroupPermissions string // of "rwm"
}

// Ulimit is one resource limit of setrlimit(2); -1 is unlimited.
type Ulimit struct {
	Name string // as ulimit calls it: "nofile"
	Hard int64
	Soft int64
}

// NetworkOptions is what the container asks of its networks.
type NetworkOptions struct {
	IPAddress   string   `json:"IPAddress,omitempty"`
	IPv6Address string   `json:"IPv6Address,omitempty"`
	MacAddress  string   `json:"MacAddress,omitempty"`
	Aliases     []string `json:"Aliases,omitempty"`
	LinkLocal   []string `json:"LinkLocal,omitempty"`
}

// Warning is a sentence for the user about a setting that was changed or has no
// effect. It never stands for a failure.
type Warning string

// Clone returns a deep copy of o.
func (o Options) Clone() (Options, error) {
	b, err := json.Marshal(o)
	if err != nil {
		return Options{}, err
	}
	var c Options
	return c, json.Unmarshal(b, &c)
}

// DevicePaths lists the host paths whose device numbers Spec needs in
// Facts.Devices: of --device, and of block I/O limits.
func (o Options) DevicePaths() []string {
	var set map[string]struct{}
	add := func(p string) {
		if set == nil {
			set = map[string]struct{}{}
		}
		set[p] = struct{}{}
	}
	r := &o.HostConfig.Resources
	for _, d := range r.Devices {
		add(d.PathOnHost)
	}
	for _, d := range r.BlkioWeightDevice {
		add(d.Path)
	}
	for _, l := range [][]ThrottleDevice{r.BlkioDeviceReadBps, r.BlkioDeviceWriteBps, r.BlkioDeviceReadIOps, r.BlkioDeviceWriteIOps} {
		for _, d := range l {
			add(d.Path)
		}
	}
	return slices.Sorted(maps.Keys(set))
}
