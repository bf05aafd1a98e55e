package bundle

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// minMemory is the least memory limit with which a container can be started.
const minMemory = 6 << 20

// refuse is fmt.Errorf for messages that begin with a capital, because Docker's do
// and scripts look for them.
func refuse(format string, a ...any) error { return fmt.Errorf(format, a...) }

// Validate checks everything that depends neither on an image nor on the host. The
// first fault is returned, worded as Docker does.
func (o Options) Validate() error {
	for _, check := range []func() error{
		o.checkModes, o.checkConflicts, o.checkProcess, o.checkMemory, o.checkCPU, o.checkLists, o.checkLife,
	} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (o *Options) checkModes() error {
	h := &o.HostConfig
	for _, m := range []struct {
		flag, mode string
		joins      bool
		allowed    []string
		err        string
	}{
		{"--pid", h.PidMode, true, []string{"private", "host"}, "invalid PID mode"},
		{"--ipc", h.IpcMode, true, []string{"private", "shareable", "none", "host"}, "invalid IPC mode"},
		{"--uts", h.UTSMode, false, []string{"private", "host"}, "invalid UTS mode"},
		{"--cgroupns", h.CgroupnsMode, false, []string{"private", "host"}, "invalid CGROUP mode"},
		{"--userns", h.UsernsMode, false, []string{"private", "host"}, "invalid USER mode"},
		{"--timens", h.TimensMode, false, []string{"private", "host"}, "invalid TIME mode"},
		{"--network", h.NetworkMode, true, nil, "invalid network mode"},
	} {
		if name, ok := strings.CutPrefix(m.mode, "container:"); ok && m.joins {
			if name == "" {
				return fmt.Errorf("%s: invalid container format container:<name|id>", m.flag)
			}
			continue
		}
		if m.mode != "" && m.allowed != nil && !slices.Contains(m.allowed, m.mode) {
			return fmt.Errorf("%s: %s: %s", m.flag, m.err, m.mode)
		}
	}
	if (len(o.UIDMappings) > 0 || len(o.GIDMappings) > 0) && h.UsernsMode != "private" {
		return errors.New("conflicting options: --uidmap and --gidmap need --userns private")
	}
	return nil
}

func (o *Options) checkConflicts() error {
	c, h, n := &o.Config, &o.HostConfig, &o.Network
	if h.UTSMode == "host" && c.Hostname != "" {
		return errors.New("conflicting options: hostname and the UTS mode")
	}
	if h.UTSMode == "host" && c.Domainname != "" {
		return errors.New("conflicting options: domainname and the UTS mode")
	}
	addressed := n.IPAddress != "" || n.IPv6Address != "" || len(n.LinkLocal) > 0
	if addressed && (h.NetworkMode == "host" || h.NetworkMode == "none" || isContainer(h.NetworkMode)) {
		return errors.New("conflicting options: IP address and the network mode")
	}
	if h.UsernsMode == "private" && h.Privileged {
		return errors.New("conflicting options: privileged mode is incompatible with user namespaces, use --userns host")
	}
	if h.UsernsMode == "private" && (h.NetworkMode == "host" || isContainer(h.NetworkMode)) {
		return errors.New("conflicting options: cannot share the network namespace when user namespaces are enabled")
	}
	if h.UsernsMode == "private" && (h.PidMode == "host" || isContainer(h.PidMode)) {
		return errors.New("conflicting options: cannot share the PID namespace when user namespaces are enabled")
	}
	if !isContainer(h.NetworkMode) {
		return nil
	}
	for _, x := range []struct {
		set bool
		err string
	}{
		{c.Hostname != "", "hostname and the network mode"},
		{len(h.Links) > 0, "links and the network mode"},
		{n.MacAddress != "", "mac-address and the network mode"},
		{len(h.Dns) > 0, "dns and the network mode"},
		{len(h.ExtraHosts) > 0, "custom host-to-IP mapping and the network mode"},
		{len(o.Publish) > 0 || h.PublishAllPorts, "port publishing and the container type network mode"},
		{len(o.Expose) > 0, "port exposing and the container type network mode"},
		{len(n.Aliases) > 0, "network aliases and the network mode"},
	} {
		if x.set {
			return errors.New("conflicting options: " + x.err)
		}
	}
	return nil
}

func (o *Options) checkProcess() error {
	c, h := &o.Config, &o.HostConfig
	if c.WorkingDir != "" && !strings.HasPrefix(c.WorkingDir, "/") {
		return fmt.Errorf("the working directory '%s' is invalid, it needs to be an absolute path", c.WorkingDir)
	}
	if len(c.Hostname) > 64 || len(c.Domainname) > 64 {
		return fmt.Errorf("invalid hostname or domainname %q: the kernel takes at most 64 bytes", c.Hostname+"."+c.Domainname)
	}
	// Both are written to files of lines: /etc/hostname and /etc/hosts.
	if strings.ContainsFunc(c.Hostname+c.Domainname, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return fmt.Errorf("invalid hostname or domainname %q: it holds a space or a control character", c.Hostname+"."+c.Domainname)
	}
	if strings.Count(c.User, ":") > 1 {
		return fmt.Errorf("invalid user %q: it must be name|uid[:group|gid]", c.User)
	}
	for _, list := range [][]string{c.Env, c.Cmd, c.Entrypoint} {
		for _, s := range list {
			if strings.ContainsRune(s, 0) {
				return fmt.Errorf("invalid argument or variable %q: it holds a zero byte", s)
			}
		}
	}
	if h.OomScoreAdj < -1000 || h.OomScoreAdj > 1000 {
		return refuse("Invalid value %d, range for oom score adj is [-1000, 1000]", h.OomScoreAdj)
	}
	if h.ShmSize < 0 {
		return errors.New("SHM size can not be less than 0")
	}
	return nil
}

func (o *Options) checkMemory() error {
	r := &o.HostConfig.Resources
	switch {
	case r.Memory < 0 || r.Memory > 0 && r.Memory < minMemory:
		return refuse("Minimum memory limit allowed is 6MB")
	case r.Memory > 0 && r.MemorySwap > 0 && r.MemorySwap < r.Memory:
		return refuse("Minimum memoryswap limit should be larger than memory limit, see usage")
	case r.Memory == 0 && r.MemorySwap > 0:
		return refuse("You should always set the Memory limit when using Memoryswap limit, see usage")
	case r.MemorySwap < -1:
		return errors.New("invalid memoryswap limit: it must be -1 (unlimited) or positive")
	case r.MemoryReservation < 0 || r.MemoryReservation > 0 && r.MemoryReservation < minMemory:
		return refuse("Minimum memory reservation allowed is 6MB")
	case r.Memory > 0 && r.MemoryReservation > r.Memory:
		return refuse("Minimum memory limit can not be less than memory reservation limit, see usage")
	case r.KernelMemory < 0 || r.KernelMemory > 0 && r.KernelMemory < minMemory:
		return refuse("Minimum kernel memory limit allowed is 6MB")
	}
	if s := r.MemorySwappiness; s != nil && (*s < -1 || *s > 100) {
		return fmt.Errorf("invalid value: %d. Valid memory swappiness range is 0-100", *s)
	}
	return nil
}

func (o *Options) checkCPU() error {
	r := &o.HostConfig.Resources
	switch {
	case r.NanoCpus != 0 && r.CpuPeriod != 0:
		return refuse("Conflicting options: Nano CPUs and CPU Period cannot both be set")
	case r.NanoCpus != 0 && r.CpuQuota != 0:
		return refuse("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
	case r.NanoCpus < 0 || r.NanoCpus > 0 && r.NanoCpus < 1e7:
		return refuse("Range of CPUs is from 0.01 to the number of CPUs of the host")
	case r.CpuShares < 0:
		return fmt.Errorf("invalid CPU shares (%d): value must be a positive integer", r.CpuShares)
	case r.CpuPeriod != 0 && (r.CpuPeriod < 1000 || r.CpuPeriod > 1000000):
		return errors.New("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
	case r.CpuQuota > 0 && r.CpuQuota < 1000:
		return errors.New("CPU cfs quota can not be less than 1ms (i.e. 1000)")
	case r.CpuRealtimePeriod < 0 || r.CpuRealtimeRuntime < 0:
		return errors.New("CPU real-time period and runtime cannot be negative")
	case r.CpuRealtimePeriod != 0 && r.CpuRealtimeRuntime > r.CpuRealtimePeriod:
		return errors.New("CPU real-time runtime cannot be higher than CPU real-time period")
	case r.BlkioWeight > 0 && (r.BlkioWeight < 10 || r.BlkioWeight > 1000):
		return refuse("Range of blkio weight is from 10 to 1000")
	}
	if _, err := parseCPUList(r.CpusetCpus); err != nil {
		return refuse("Invalid value %s for cpuset cpus: %w", r.CpusetCpus, err)
	}
	if _, err := parseCPUList(r.CpusetMems); err != nil {
		return refuse("Invalid value %s for cpuset mems: %w", r.CpusetMems, err)
	}
	return nil
}

// checkLists runs the parser of each option that is kept as a string: Options may
// come from elsewhere than the command line.
func (o *Options) checkLists() error {
	h := &o.HostConfig
	if _, err := normalizeCaps("CapAdd", h.CapAdd); err != nil {
		return err
	}
	if _, err := normalizeCaps("CapDrop", h.CapDrop); err != nil {
		return err
	}
	if _, err := parseSecurity(h.SecurityOpt); err != nil {
		return err
	}
	if _, err := Mounts(nil, *o); err != nil {
		return err
	}
	for name := range h.Sysctls {
		if !isNamespacedSysctl(name) {
			return fmt.Errorf("sysctl '%s' is not allowed", name)
		}
	}
	for _, r := range h.DeviceCgroupRules {
		if _, err := ParseDeviceCgroupRule(r); err != nil {
			return err
		}
	}
	for _, u := range h.Ulimits {
		if err := u.check(); err != nil {
			return err
		}
	}
	return nil
}

func (o *Options) checkLife() error {
	c, h := &o.Config, &o.HostConfig
	if err := h.RestartPolicy.check(); err != nil {
		return err
	}
	if h.AutoRemove && h.RestartPolicy.Name != "" && h.RestartPolicy.Name != "no" {
		return errors.New("conflicting options: cannot specify both --restart and --rm")
	}
	if c.StopSignal != "" {
		if _, err := ParseStopSignal(c.StopSignal); err != nil {
			return err
		}
	}
	if c.StopTimeout != nil && *c.StopTimeout < -1 {
		return fmt.Errorf("invalid stop timeout %d: it must be -1 (for ever) or more", *c.StopTimeout)
	}
	switch o.Pull {
	case "", "always", "missing", "never":
	default:
		return fmt.Errorf(`invalid pull option: '%s': must be one of "always", "missing" or "never"`, o.Pull)
	}
	return nil
}

// maxCPU bounds the numbers of a CPU list, so that "0-4000000000" costs nothing.
const maxCPU = 8191

// parseCPUList reads "0-3,5" into the numbers that it names.
func parseCPUList(s string) (map[int]bool, error) {
	if s == "" {
		return nil, nil
	}
	set := map[int]bool{}
	for part := range strings.SplitSeq(s, ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		a, err1 := strconv.ParseUint(from, 10, 16)
		b, err2 := strconv.ParseUint(to, 10, 16)
		if err1 != nil || err2 != nil || a > b || b > maxCPU {
			return nil, fmt.Errorf("invalid format: %s", s)
		}
		for i := a; i <= b; i++ {
			set[int(i)] = true
		}
	}
	return set, nil
}

// fitHost checks o against the host and drops limits that its kernel lacks.
func (o *Options) fitHost(f Facts) ([]Warning, error) {
	r := &o.HostConfig.Resources
	if f.CPUs > 0 && r.NanoCpus > int64(f.CPUs)*1e9 {
		return nil, refuse("Range of CPUs is from 0.01 to %d.00, as there are only %d CPUs available", f.CPUs, f.CPUs)
	}
	for _, s := range []struct{ what, want, have string }{
		{"CPUs", r.CpusetCpus, f.CpusetCpus}, {"memory nodes", r.CpusetMems, f.CpusetMems},
	} {
		if s.want == "" || s.have == "" {
			continue
		}
		want, err := parseCPUList(s.want)
		if err != nil {
			return nil, err
		}
		have, err := parseCPUList(s.have)
		if err != nil {
			return nil, fmt.Errorf("read available %s: %w", s.what, err)
		}
		for n := range want {
			if !have[n] {
				return nil, refuse("Requested %s are not available - requested %s, available: %s", s.what, s.want, s.have)
			}
		}
	}
	return o.dropLacking(f), nil
}

// dropLacking clears the limits that the kernel cannot impose.
func (o *Options) dropLacking(f Facts) []Warning {
	h, l := &o.HostConfig, f.Lacks
	r := &h.Resources
	var warns []Warning
	drop := func(lacking, set bool, clear func(), text string) {
		if lacking && set {
			clear()
			warns = append(warns, Warning(text))
		}
	}
	const no, gone = "Your kernel does not support ", " or the cgroup is not mounted. "
	drop(l.Memory, r.Memory > 0, func() { r.Memory, r.MemorySwap = 0, 0 }, no+"memory limit capabilities"+gone+"Limitation discarded.")
	drop(l.Swap, r.Memory > 0 && r.MemorySwap != -1, func() { r.MemorySwap = -1 }, no+"swap limit capabilities"+gone+"Memory limited without swap.")
	drop(l.MemoryReservation, r.MemoryReservation > 0, func() { r.MemoryReservation = 0 }, no+"memory soft limit capabilities"+gone+"Limitation discarded.")
	drop(l.MemorySwappiness || f.CgroupVersion == 2, r.MemorySwappiness != nil && *r.MemorySwappiness != -1, func() { r.MemorySwappiness = nil }, no+"memory swappiness capabilities"+gone+"Memory swappiness discarded.")
	drop(l.KernelMemory || f.CgroupVersion == 2, r.KernelMemory > 0, func() { r.KernelMemory = 0 }, no+"kernel memory limit capabilities"+gone+"Limitation discarded.")
	drop(l.OomKillDisable || f.CgroupVersion == 2, r.OomKillDisable != nil && *r.OomKillDisable, func() { r.OomKillDisable = nil }, no+"OomKillDisable. OomKillDisable discarded.")
	drop(l.Pids, r.PidsLimit != nil && *r.PidsLimit > 0, func() { r.PidsLimit = nil }, no+"PIDs limit capabilities"+gone+"PIDs limit discarded.")
	drop(l.CPUShares, r.CpuShares > 0, func() { r.CpuShares = 0 }, no+"CPU shares"+gone+"Shares discarded.")
	drop(l.CPUCfs, r.NanoCpus > 0 || r.CpuPeriod > 0 || r.CpuQuota > 0, func() { r.NanoCpus, r.CpuPeriod, r.CpuQuota = 0, 0, 0 }, no+"CPU CFS scheduler"+gone+"CPU period and quota discarded.")
	drop(l.CPURealtime || f.CgroupVersion == 2, r.CpuRealtimePeriod > 0 || r.CpuRealtimeRuntime > 0, func() { r.CpuRealtimePeriod, r.CpuRealtimeRuntime = 0, 0 }, no+"CPU real-time scheduler"+gone+"CPU real-time settings discarded.")
	drop(l.Cpuset, r.CpusetCpus != "" || r.CpusetMems != "", func() { r.CpusetCpus, r.CpusetMems = "", "" }, no+"cpuset"+gone+"CPUset discarded.")
	drop(l.BlkioWeight, r.BlkioWeight > 0, func() { r.BlkioWeight = 0 }, no+"Block I/O weight"+gone+"Weight discarded.")
	drop(l.BlkioWeightDevice, len(r.BlkioWeightDevice) > 0, func() { r.BlkioWeightDevice = nil }, no+"Block I/O weight_device"+gone+"Weight-device discarded.")
	throttled := len(r.BlkioDeviceReadBps)+len(r.BlkioDeviceWriteBps)+len(r.BlkioDeviceReadIOps)+len(r.BlkioDeviceWriteIOps) > 0
	drop(l.BlkioThrottle, throttled, func() {
		r.BlkioDeviceReadBps, r.BlkioDeviceWriteBps, r.BlkioDeviceReadIOps, r.BlkioDeviceWriteIOps = nil, nil, nil, nil
	}, no+"Block I/O limits of devices"+gone+"They are discarded.")
	if r.OomKillDisable != nil && *r.OomKillDisable && r.Memory == 0 {
		warns = append(warns, "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources.")
	}
	if h.NetworkMode == "host" && (len(o.Publish) > 0 || h.PublishAllPorts) {
		warns = append(warns, "Published ports are discarded when using host network mode")
	}
	return warns
}
