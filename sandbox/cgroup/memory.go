package cgroup

import (
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// read gives the trimmed content of a file of the cgroup, "" if there is none.
func (g group) read(file string) string {
	return readTrim(g.dir + "/" + file)
}

// unset says whether an optional number asks for nothing. 0 does, as in runc.
func unset(n *int64) bool { return n == nil || *n == 0 }

// noSwap says whether a memory section limits swap to nothing, and nothing else: so
// crun reads a sum of 0 without a limit of memory. Beside a limit 0 asks for nothing.
func noSwap(r *specs.LinuxMemory) bool { return r.Swap != nil && *r.Swap == 0 && r.Limit == nil }

func (c *compiler) memory(r *specs.LinuxMemory) {
	//lint:ignore SA1019 a spec may have it, and then its user is told
	if !unset(r.Kernel) {
		// The specification lets a runtime leave it out, and no supported
		// kernel has it: since 5.16 a write gives EOPNOTSUPP.
		c.setup.Warnings = append(c.setup.Warnings, "kernel memory limit is left out: it is deprecated and kernels no longer have it")
	}
	if unset(r.Limit) && unset(r.Swap) && !noSwap(r) && unset(r.Reservation) && unset(r.KernelTCP) &&
		r.Swappiness == nil && r.DisableOOMKiller == nil && r.UseHierarchy == nil {
		return
	}
	g, ok := c.group("memory", "memory limits")
	if !ok || !c.plausible(r) {
		return
	}
	if g.h.V2 {
		g.memoryV2(r)
		return
	}
	g.memoryLimitsV1(r)
	g.memoryFlagsV1(r)
}

// plausible refuses combinations that the kernel would refuse with EINVAL only.
func (c *compiler) plausible(r *specs.LinuxMemory) bool {
	before := len(c.errs)
	if !unset(r.Limit) && *r.Limit < -1 || !unset(r.Swap) && *r.Swap < -1 || !unset(r.Reservation) && *r.Reservation < -1 {
		c.fail("memory limits: a negative one other than -1 (no limit) has no meaning")
	}
	if !unset(r.Swap) && *r.Swap > 0 {
		switch {
		case unset(r.Limit) && !c.update:
			c.fail("memory swap limit %d: it is the sum of memory and swap, so a memory limit must be set too", *r.Swap)
		case !unset(r.Limit) && *r.Limit < 0:
			c.fail("memory swap limit %d: there is no memory limit, but it is the sum of memory and swap", *r.Swap)
		case !unset(r.Limit) && *r.Swap < *r.Limit:
			c.fail("memory swap limit %d is the sum of memory and swap, and is below the memory limit %d", *r.Swap, *r.Limit)
		}
	}
	if !unset(r.Limit) && *r.Limit > 0 && !unset(r.Reservation) && *r.Reservation > *r.Limit {
		c.fail("memory reservation %d is above the memory limit %d", *r.Reservation, *r.Limit)
	}
	if r.Swappiness != nil && *r.Swappiness > 100 {
		c.fail("memory swappiness %d: it is 0 to 100", *r.Swappiness)
	}
	return len(c.errs) == before
}

const (
	whyLimit       = "at most this many bytes of memory"
	whySwap        = "at most this many bytes of memory and swap together"
	whyReservation = "memory that is left alone while there is enough"
)

// memoryLimitsV1 writes limit and memsw, the sum of memory and swap. The kernel
// keeps limit <= memsw at all times, so the order depends on the direction.
func (g group) memoryLimitsV1(r *specs.LinuxMemory) {
	swap := r.Swap
	if unset(swap) && !unset(r.Limit) && *r.Limit == -1 {
		// No limit on memory means none on the sum: one that stayed from
		// before would make the kernel refuse the new memory limit.
		if g.c.update && g.has("memory.memsw.limit_in_bytes", "tasks", false) {
			swap = r.Limit
		}
	} else if !unset(swap) && !g.has("memory.memsw.limit_in_bytes", "tasks", false) {
		g.c.lack("memory swap limit", "the kernel does not account swap (boot with swapaccount=1)")
		swap = nil
	}
	first := func() {
		if !unset(r.Limit) {
			g.set("memory.limit_in_bytes", itoa(*r.Limit), whyLimit)
		}
	}
	if unset(swap) {
		g.fitsSum(r)
		first()
	} else if g.c.update && g.raisesSum(*swap) {
		g.set("memory.memsw.limit_in_bytes", itoa(*swap), whySwap)
		first()
	} else {
		first()
		g.set("memory.memsw.limit_in_bytes", itoa(*swap), whySwap)
	}
	if !unset(r.Reservation) {
		g.set("memory.soft_limit_in_bytes", itoa(*r.Reservation), whyReservation)
	}
	if !unset(r.KernelTCP) {
		if !g.has("memory.kmem.tcp.limit_in_bytes", "tasks", false) {
			g.c.lack("kernel TCP memory limit", "the kernel does not have it")
		} else {
			g.set("memory.kmem.tcp.limit_in_bytes", itoa(*r.KernelTCP), "at most this many bytes in TCP buffers")
		}
	}
}

// raisesSum says whether a new memsw is above the present one.
func (g group) raisesSum(swap int64) bool {
	now, err := strconv.ParseInt(g.read("memory.memsw.limit_in_bytes"), 10, 64)
	return err != nil || swap == -1 || swap > now
}

// fitsSum refuses an update that the kernel would refuse with EINVAL.
func (g group) fitsSum(r *specs.LinuxMemory) {
	if !g.c.update || unset(r.Limit) {
		return
	}
	now, err := strconv.ParseInt(g.read("memory.memsw.limit_in_bytes"), 10, 64)
	if err == nil && *r.Limit > now {
		g.c.fail("memory limit %d is above the present limit %d of memory and swap together: raise the swap limit too", *r.Limit, now)
	}
}

func (g group) memoryFlagsV1(r *specs.LinuxMemory) {
	if r.UseHierarchy != nil {
		switch {
		case *r.UseHierarchy:
			g.set("memory.use_hierarchy", "1", "count the memory of cgroups below")
		case exists(g.h.Mount+"/memory.use_hierarchy") && (group{g.c, g.h, g.h.Mount}).read("memory.use_hierarchy") == "0":
			g.set("memory.use_hierarchy", "0", "do not count the memory of cgroups below")
		default:
			g.c.lack("memory without hierarchy", "this kernel always accounts hierarchically")
		}
	}
	if r.Swappiness != nil {
		if g.has("memory.swappiness", "tasks", false) {
			g.set("memory.swappiness", utoa(*r.Swappiness), "how readily its pages are swapped")
		} else {
			g.c.lack("memory swappiness", "the kernel does not have it")
		}
	}
	if r.DisableOOMKiller != nil {
		value := "0"
		if *r.DisableOOMKiller {
			value = "1"
		}
		g.set("memory.oom_control", value, "whether processes wait instead of being killed when memory runs out")
	}
}

// roomV2 says whether what is used now fits into new limits. v2 kills processes to get
// below one; v1 refuses it itself.
func (g group) roomV2(r *specs.LinuxMemory) bool {
	used := func(files ...string) (sum int64) {
		for _, file := range files {
			if n, err := strconv.ParseInt(g.read(file), 10, 64); err == nil {
				sum += n
			}
		}
		return sum
	}
	const below = "rejecting %s limit %d, which is below the present usage %d"
	if now := used("memory.current", "memory.swap.current"); !unset(r.Swap) && *r.Swap > 0 && now > *r.Swap {
		g.c.fail(below, "memory+swap", *r.Swap, now)
		return false
	}
	if now := used("memory.current"); !unset(r.Limit) && *r.Limit > 0 && now > *r.Limit {
		g.c.fail(below, "memory", *r.Limit, now)
		return false
	}
	return true
}

func (g group) memoryV2(r *specs.LinuxMemory) {
	if r.CheckBeforeUpdate != nil && *r.CheckBeforeUpdate && g.c.update && !g.roomV2(r) {
		return
	}
	g.swapV2(r)
	if !unset(r.Limit) {
		g.set("memory.max", limit(*r.Limit), whyLimit)
	}
	if !unset(r.Reservation) {
		g.set("memory.low", limit(*r.Reservation), whyReservation)
	}
	if !unset(r.KernelTCP) {
		g.c.lack("kernel TCP memory limit", "cgroup v2 has none")
	}
	if r.Swappiness != nil {
		g.c.lack("memory swappiness", "cgroup v2 has none")
	}
	if r.DisableOOMKiller != nil && *r.DisableOOMKiller {
		g.c.lack("disabling the OOM killer", "cgroup v2 cannot")
	}
	if r.UseHierarchy != nil && !*r.UseHierarchy {
		g.c.lack("memory without hierarchy", "cgroup v2 always accounts hierarchically")
	}
}

// swapV2 converts OCI's sum of memory and swap to v2's swap alone.
func (g group) swapV2(r *specs.LinuxMemory) {
	swap := int64(-1)
	switch {
	case noSwap(r):
		swap = 0
	case unset(r.Swap) && (unset(r.Limit) || *r.Limit != -1):
		return
	case unset(r.Swap): // no limit on memory
		if !g.c.update {
			return // it is a new cgroup's default
		}
	case *r.Swap > 0:
		memory := r.Limit
		if unset(memory) {
			now, err := strconv.ParseInt(g.read("memory.max"), 10, 64)
			if err != nil || now > *r.Swap {
				g.c.fail("memory swap limit %d: it is the sum of memory and swap, and the present memory limit is %q", *r.Swap, g.read("memory.max"))
				return
			}
			memory = &now
		}
		swap = *r.Swap - *memory
	}
	if !g.has("memory.swap.max", "memory.max", true) {
		if !unset(r.Swap) || noSwap(r) {
			g.c.lack("memory swap limit", "the kernel does not account swap (CONFIG_SWAP, swapaccount=1)")
		}
		return
	}
	g.set("memory.swap.max", limit(swap), "at most this many bytes of swap")
}
