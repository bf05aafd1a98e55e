package bundle

import (
	"fmt"
	"path"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// deviceRules are the device nodes that every container may use. Making nodes is
// allowed (there is CAP_MKNOD), using others is not. The OCI runtimes add most of
// them by themselves; here the spec says them all.
func deviceRules() []specs.LinuxDeviceCgroup {
	n := func(v int64) *int64 { return &v }
	list := []specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"},
		{Allow: true, Type: "c", Major: n(-1), Minor: n(-1), Access: "m"},
		{Allow: true, Type: "b", Major: n(-1), Minor: n(-1), Access: "m"},
	}
	for _, d := range [...][2]int64{
		{1, 5}, {1, 3}, {1, 9}, {1, 8}, {1, 7}, // zero null urandom random full
		{5, 0}, {5, 1}, {5, 2}, {136, -1}, // tty console ptmx pts/*
	} {
		list = append(list, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: n(d[0]), Minor: n(d[1]), Access: "rwm"})
	}
	return list
}

// devices adds the nodes of --device, or all with --privileged, and the rules that
// allow them.
func (b *builder) devices() error {
	h := &b.o.HostConfig
	rules := deviceRules()
	if h.Privileged {
		rules = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		b.s.Linux.Devices = append(b.s.Linux.Devices, b.host.HostDevices...)
	}
	have := make(map[string]bool, len(b.s.Linux.Devices))
	for _, d := range b.s.Linux.Devices {
		have[d.Path] = true
	}
	for _, m := range h.Devices {
		nodes := b.host.Devices[m.PathOnHost]
		if len(nodes) == 0 {
			return fmt.Errorf("error gathering device information while adding custom device %q: no such device node", m.PathOnHost)
		}
		for _, d := range nodes {
			d.Path = path.Join(m.PathInContainer, strings.TrimPrefix(d.Path, m.PathOnHost))
			if !have[d.Path] {
				have[d.Path] = true
				b.s.Linux.Devices = append(b.s.Linux.Devices, d)
			}
			if !h.Privileged {
				major, minor := d.Major, d.Minor
				rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: d.Type, Major: &major, Minor: &minor, Access: m.CgroupPermissions})
			}
		}
	}
	for _, r := range h.DeviceCgroupRules {
		rule, err := ParseDeviceCgroupRule(r)
		if err != nil {
			return err
		}
		rules = append(rules, rule)
	}
	b.s.Linux.Resources = &specs.LinuxResources{Devices: rules}
	return nil
}

func (b *builder) resources() error {
	h, r := &b.o.HostConfig, b.s.Linux.Resources
	if b.host.Lacks.Swap {
		// Even "unlimited" could not be written.
		h.MemorySwap = 0
	}
	r.Memory = memoryLimits(&h.Resources)
	r.CPU = cpuLimits(&h.Resources)
	if h.PidsLimit != nil && *h.PidsLimit > 0 {
		limit := *h.PidsLimit
		r.Pids = &specs.LinuxPids{Limit: &limit}
	}
	var err error
	r.BlockIO, err = b.blockIO()
	return err
}

// notZero returns a pointer to a copy of v, or nil for zero, which means unset.
func notZero[T int64 | uint64 | uint16](v T) *T {
	if v == 0 {
		return nil
	}
	return &v
}

func memoryLimits(h *Resources) *specs.LinuxMemory {
	m := specs.LinuxMemory{Limit: notZero(h.Memory), Reservation: notZero(h.MemoryReservation), Swap: notZero(h.MemorySwap)}
	if h.KernelMemory != 0 {
		//lint:ignore SA1019 the flag is Docker's, and kernels before 5.4 obey it
		m.Kernel = notZero(h.KernelMemory)
	}
	if s := h.MemorySwappiness; s != nil && *s >= 0 {
		v := uint64(*s)
		m.Swappiness = &v
	}
	if h.OomKillDisable != nil && *h.OomKillDisable {
		v := true
		m.DisableOOMKiller = &v
	}
	if m == (specs.LinuxMemory{}) {
		return nil
	}
	return &m
}

// cpuPeriod is the length in microseconds of the period in which --cpus is counted.
const cpuPeriod = 100_000

func cpuLimits(h *Resources) *specs.LinuxCPU {
	c := specs.LinuxCPU{
		Period: notZero(uint64(h.CpuPeriod)), Quota: notZero(h.CpuQuota),
		RealtimePeriod: notZero(uint64(h.CpuRealtimePeriod)), RealtimeRuntime: notZero(h.CpuRealtimeRuntime),
		Cpus: h.CpusetCpus, Mems: h.CpusetMems,
	}
	if h.CpuShares > 0 {
		c.Shares = notZero(uint64(h.CpuShares))
	}
	if h.NanoCpus > 0 {
		// In this order nothing overflows before a billion CPUs.
		c.Period, c.Quota = notZero(uint64(cpuPeriod)), notZero(h.NanoCpus/1000*cpuPeriod/1_000_000)
	}
	if c == (specs.LinuxCPU{}) {
		return nil
	}
	return &c
}

func (b *builder) blockIO() (*specs.LinuxBlockIO, error) {
	h := &b.o.HostConfig
	io := &specs.LinuxBlockIO{Weight: notZero(h.BlkioWeight)}
	for _, w := range h.BlkioWeightDevice {
		d, err := b.blockDevice(w.Path)
		if err != nil {
			return nil, err
		}
		weight := w.Weight
		wd := specs.LinuxWeightDevice{Weight: &weight}
		wd.Major, wd.Minor = d.Major, d.Minor
		io.WeightDevice = append(io.WeightDevice, wd)
	}
	for _, l := range []struct {
		from []ThrottleDevice
		to   *[]specs.LinuxThrottleDevice
	}{
		{h.BlkioDeviceReadBps, &io.ThrottleReadBpsDevice}, {h.BlkioDeviceWriteBps, &io.ThrottleWriteBpsDevice},
		{h.BlkioDeviceReadIOps, &io.ThrottleReadIOPSDevice}, {h.BlkioDeviceWriteIOps, &io.ThrottleWriteIOPSDevice},
	} {
		for _, t := range l.from {
			d, err := b.blockDevice(t.Path)
			if err != nil {
				return nil, err
			}
			td := specs.LinuxThrottleDevice{Rate: t.Rate}
			td.Major, td.Minor = d.Major, d.Minor
			*l.to = append(*l.to, td)
		}
	}
	if io.Weight == nil && io.WeightDevice == nil && io.ThrottleReadBpsDevice == nil &&
		io.ThrottleWriteBpsDevice == nil && io.ThrottleReadIOPSDevice == nil && io.ThrottleWriteIOPSDevice == nil {
		return nil, nil
	}
	return io, nil
}

func (b *builder) blockDevice(p string) (specs.LinuxDevice, error) {
	nodes := b.host.Devices[p]
	if len(nodes) != 1 || nodes[0].Type != "b" {
		return specs.LinuxDevice{}, fmt.Errorf("limit block I/O of %s: it is not a block device of this host", p)
	}
	return nodes[0], nil
}
