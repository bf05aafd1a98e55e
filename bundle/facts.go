package bundle

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Facts is what Spec has to know about the host and the container, and does not
// read itself.
type Facts struct {
	// ID is the container's full ID (64 hexadecimal digits).
	ID string
	// RootPath becomes spec.Root.Path; empty when the root is made in the
	// container's own mount namespace ("rootfs" is written then, because the
	// OCI schema wants a path).
	RootPath string

	// CgroupVersion is 1 (also for hybrid hosts) or 2.
	CgroupVersion int
	// CgroupParent is the default parent; empty: "/viv".
	CgroupParent string
	// Lacks says which limits this kernel cannot impose. The zero value: none.
	Lacks CgroupLacks
	// LastCap is the number of the last capability that the kernel knows
	// (/proc/sys/kernel/cap_last_cap); 0: every capability we know.
	LastCap int
	// BoundingCaps, if not nil, are the capabilities that this process itself may give
	// away; --privileged and --cap-add ALL are cut down to them, as Docker does.
	BoundingCaps []string
	// CPUs is the number of CPUs of the host, for the check of --cpus; 0: unchecked.
	CPUs int
	// CpusetCpus and CpusetMems are what the host has, as in "0-3"; empty: unchecked.
	CpusetCpus, CpusetMems string
	// Hostname is the host's name, for --uts host.
	Hostname string
	// AppArmor says that the host can confine with AppArmor.
	AppArmor bool
	// DefaultAppArmorProfile is put in the spec where AppArmor is on; empty: none.
	DefaultAppArmorProfile string
	// CompiledSeccomp says that the caller has Docker's default seccomp profile
	// compiled: where a container has it (DefaultSeccomp) the spec is without.
	CompiledSeccomp bool
	// UIDMappings and GIDMappings are the default of a private user namespace.
	UIDMappings, GIDMappings []specs.LinuxIDMapping

	// Passwd and Group are the content of the image's /etc/passwd and /etc/group;
	// nil where it has none.
	Passwd, Group []byte

	// HostDevices are all device nodes of the host, for --privileged (see HostDevices).
	HostDevices []specs.LinuxDevice
	// Devices has the nodes at each path of Options.DevicePaths (see LookupDevices);
	// a directory stands for all nodes below it.
	Devices map[string][]specs.LinuxDevice

	// Namespaces are the paths of namespaces to join, for the modes container:ID.
	// A network entry is also used where the mode says nothing, so that the engine
	// can make the namespace first. Without an entry the namespace is made new; where
	// the engine hands its descriptor to the plan, the spec says the same.
	Namespaces map[specs.LinuxNamespaceType]string
	// PeerHostname is the host name of the container whose network namespace is joined.
	PeerHostname string

	// HostsPath, HostnamePath and ResolvConfPath are generated files that are bound
	// over the image's; empty: not bound.
	HostsPath, HostnamePath, ResolvConfPath string
	// ShmPath, if not empty, is a directory that becomes /dev/shm (for IPC modes
	// shareable and container:ID); else each container gets a tmpfs of its own.
	ShmPath string
	// VolumePaths has the data directory of each volume, by destination.
	VolumePaths map[string]string
	// Inherited are the mounts of the containers that HostConfig.VolumesFrom names;
	// see Inherit. Not nil where there are such containers.
	Inherited []MountPoint
	// InitPath is the init program that --init binds at InitTarget; empty: --init is refused.
	InitPath string
}

// CgroupLacks says which limits cannot be imposed on this host. Such an option is
// dropped with a warning, as Docker does.
type CgroupLacks struct {
	Memory, Swap, MemoryReservation, MemorySwappiness, KernelMemory, OomKillDisable bool
	CPUShares, CPUCfs, CPURealtime, Cpuset                                          bool
	BlkioWeight, BlkioWeightDevice, BlkioThrottle                                   bool
	Pids                                                                            bool
}

// InitTarget is where --init puts the init program in the container.
const InitTarget = "/sbin/docker-init"
