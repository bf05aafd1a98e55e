package engine

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"vivarium/bundle"
	"vivarium/monitor/wire"
	"vivarium/sandbox/cgroup"
	"vivarium/sandbox/cgroup/handle"
)

// cgroupWait bounds the waits for control groups to freeze, to empty and to go.
const cgroupWait = 10 * time.Second

// defaultCgroupParent is the parent of all containers' control groups.
const defaultCgroupParent = "/viv"

var hostLayout = sync.OnceValues(func() (*cgroup.Layout, error) {
	l, err := cgroup.Detect()
	if err != nil {
		return nil, err
	}
	return &l, nil
})

// cgroupVersion is the version that has the controllers: 1 on a hybrid machine.
func cgroupVersion(l *cgroup.Layout) int {
	if l.Mode() == cgroup.V2 {
		return 2
	}
	return 1
}

// cgroupLacks probes which of the limits that o asks for this kernel cannot impose.
func cgroupLacks(l *cgroup.Layout, o *bundle.Resources) bundle.CgroupLacks {
	var lacks bundle.CgroupLacks
	p := lackProbe{l}
	if o.Memory|o.MemoryReservation|o.MemorySwap|o.KernelMemory != 0 || o.OomKillDisable != nil || o.MemorySwappiness != nil {
		lacks.Memory = !p.has("memory")
		lacks.Swap = !p.file("memory", "memory.memsw.limit_in_bytes", "memory.swap.max")
		lacks.MemoryReservation = !p.file("memory", "memory.soft_limit_in_bytes", "memory.low")
		lacks.MemorySwappiness = !p.file("memory", "memory.swappiness", "")
		lacks.KernelMemory = !p.file("memory", "memory.kmem.limit_in_bytes", "")
		lacks.OomKillDisable = !p.file("memory", "memory.oom_control", "")
	}
	if o.CpuShares|o.CpuQuota|o.CpuPeriod|o.NanoCpus|o.CpuRealtimePeriod|o.CpuRealtimeRuntime != 0 {
		lacks.CPUShares = !p.has("cpu")
		lacks.CPUCfs = !p.file("cpu", "cpu.cfs_quota_us", "cpu.max")
		lacks.CPURealtime = !p.file("cpu", "cpu.rt_runtime_us", "")
	}
	if o.CpusetCpus != "" || o.CpusetMems != "" {
		lacks.Cpuset = !p.has("cpuset")
	}
	if o.BlkioWeight != 0 || len(o.BlkioWeightDevice) > 0 {
		lacks.BlkioWeight = !p.file("blkio", "blkio.bfq.weight", "io.bfq.weight") && !p.file("blkio", "blkio.weight", "io.weight")
		lacks.BlkioWeightDevice = !p.file("blkio", "blkio.bfq.weight_device", "io.bfq.weight") && !p.file("blkio", "blkio.weight_device", "io.weight")
	}
	if len(o.BlkioDeviceReadBps)+len(o.BlkioDeviceWriteBps)+len(o.BlkioDeviceReadIOps)+len(o.BlkioDeviceWriteIOps) > 0 {
		lacks.BlkioThrottle = !p.file("blkio", "blkio.throttle.read_bps_device", "io.max")
	}
	if o.PidsLimit != nil {
		lacks.Pids = !p.has("pids")
	}
	return lacks
}

// lackProbe looks for controllers and their files. On v2 most files are not in
// the root group; there the controller's presence has to do.
type lackProbe struct{ l *cgroup.Layout }

func (p lackProbe) find(controller string) *cgroup.Hierarchy {
	v2 := controller
	if controller == "blkio" {
		v2 = "io"
	}
	for i := range p.l.Hierarchies {
		h := &p.l.Hierarchies[i]
		if h.V2 && slices.Contains(h.Controllers, v2) || !h.V2 && slices.Contains(h.Controllers, controller) {
			return h
		}
	}
	return nil
}

func (p lackProbe) has(controller string) bool { return p.find(controller) != nil }

func (p lackProbe) file(controller, v1, v2 string) bool {
	h := p.find(controller)
	switch {
	case h == nil:
		return false
	case h.V2:
		return v2 != ""
	}
	// A file that the root group lacks (memory.kmem.*, throttling) is below it.
	for _, dir := range []string{h.Mount, h.Mount + defaultCgroupParent} {
		if unix.Access(dir+"/"+v1, unix.F_OK) == nil {
			return true
		}
	}
	return false
}

// CgroupPath is where the container's groups are below each mount point.
func (c *Container) CgroupPath() string {
	parent := c.Options.HostConfig.CgroupParent
	if parent == "" {
		parent = defaultCgroupParent
	}
	return path.Join("/", parent, c.ID)
}

// cgroup finds the container's groups.
func (e *Engine) cgroup(c *Container) (handle.Handle, error) {
	l, err := hostLayout()
	if err != nil {
		return handle.Handle{}, err
	}
	return l.Handle(c.CgroupPath())
}

// procs lists the container's processes.
func (e *Engine) procs(c *Container, st wire.Status) ([]int, error) {
	h, err := e.cgroup(c)
	if err != nil {
		return nil, err
	}
	pids, err := h.Procs()
	if err == nil && len(pids) == 0 {
		pids = []int{st.Pid} // no control groups on this machine
	}
	return pids, err
}

// removeCgroups kills what is left in the container's groups and removes them.
func (e *Engine) removeCgroups(c *Container) error {
	h, err := e.cgroup(c)
	if err != nil {
		return err
	}
	if gone(h) {
		return nil
	}
	if err := h.Kill(cgroupWait); err != nil {
		return fmt.Errorf("kill what is left of container %s: %w", c.Name, err)
	}
	if err := h.Remove(cgroupWait); err != nil {
		return fmt.Errorf("remove the control groups of container %s: %w", c.Name, err)
	}
	return nil
}

// gone tells whether none of the groups is there.
func gone(h handle.Handle) bool {
	for _, dir := range append([]string{h.Unified}, h.V1...) {
		if dir != "" && unix.Access(dir, unix.F_OK) == nil {
			return false
		}
	}
	return true
}

// thaw lets a paused container go on and removes the mark.
func (e *Engine) thaw(c *Container, st wire.Status) error {
	h, err := e.cgroup(c)
	if err != nil {
		return err
	}
	if err := h.Thaw(); err != nil {
		return fmt.Errorf("resume container %s: %w", c.Name, err)
	}
	if err := os.Remove(e.pausedMark(c.ID)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("resume container %s: %w", c.Name, err)
	}
	return nil
}

// checkCgroups finds groups below /viv that belong to no container that runs.
func (e *Engine) checkCgroups(repair bool) []Finding {
	l, err := hostLayout()
	if err != nil {
		return []Finding{{Object: "control groups", Problem: "cannot be found", Err: err}}
	}
	var list []Finding
	seen := map[string]bool{}
	for _, h := range l.Hierarchies {
		entries, err := os.ReadDir(h.Mount + defaultCgroupParent)
		if err != nil {
			continue
		}
		for _, ent := range entries {
			id := ent.Name()
			// Groups of other engines (another --root) stand beside ours, and a
			// container that is not ours is not ours to remove: only one whose
			// record or run directory is here.
			if !isID(id) || seen[id] || !e.knows(id) {
				continue
			}
			seen[id] = true
			if f := e.checkCgroup(id, repair); f != nil {
				list = append(list, *f)
			}
		}
	}
	return list
}

func (e *Engine) knows(id string) bool {
	for _, p := range []string{e.containerDir(id), e.runDir(id), e.removedDir(id), e.stagingDir(id)} {
		if unix.Access(p, unix.F_OK) == nil {
			return true
		}
	}
	return false
}

func (e *Engine) checkCgroup(id string, repair bool) *Finding {
	if e.inFlight(id) || lockBusy(e.monitorLock(id)) {
		return nil
	}
	c, err := e.load(id)
	if err != nil {
		c = &Container{ID: id}
	}
	if e.aliveNow(id) {
		return nil
	}
	f := &Finding{Object: "control group " + c.CgroupPath(), Problem: "is left of a container that does not run"}
	if repair {
		f.Err = e.removeCgroups(c)
		f.Repaired = f.Err == nil
	}
	return f
}
