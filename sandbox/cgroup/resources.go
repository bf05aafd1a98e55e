package cgroup

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// resources compiles all limits but the device rules.
func (c *compiler) resources(r *specs.LinuxResources) {
	if r.Memory != nil {
		c.memory(r.Memory)
	}
	if r.CPU != nil {
		c.cpu(r.CPU)
		c.cpuset(r.CPU)
	}
	if r.Pids != nil && r.Pids.Limit != nil {
		c.pids(*r.Pids.Limit)
	}
	if r.BlockIO != nil {
		c.blockIO(r.BlockIO)
	}
	for _, l := range r.HugepageLimits {
		c.hugepages(l)
	}
	if r.Network != nil {
		c.network(r.Network)
	}
	c.rdma(r.Rdma)
	c.unified(r.Unified)
}

// limit spells a v2 limit, of which a negative one means none.
func limit(n int64) string {
	if n < 0 {
		return "max"
	}
	return itoa(n)
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

func utoa(n uint64) string { return strconv.FormatUint(n, 10) }

// pids: as in runc, 0 becomes 1, the smallest limit that systemd takes; both
// let no process fork.
func (c *compiler) pids(n int64) {
	g, ok := c.group("pids", "pids limit")
	if !ok {
		return
	}
	if n == 0 {
		n = 1
	}
	g.set("pids.max", limit(n), "at most this many processes and threads")
}

// Bounds of the kernel (kernel/sched/core.c).
const (
	minQuota        = 1000 // microseconds
	minPeriod       = 1000
	maxPeriod       = 1000000
	defaultPeriod   = 100000
	minShares       = 2
	maxShares       = 262144
	maxDeviceNumber = 1 << 20
)

func (c *compiler) cpu(r *specs.LinuxCPU) {
	if r.Shares == nil && r.Quota == nil && r.Period == nil && r.Burst == nil && r.Idle == nil &&
		r.RealtimePeriod == nil && r.RealtimeRuntime == nil {
		return
	}
	g, ok := c.group("cpu", "cpu limits")
	if !ok {
		return
	}
	if r.Quota != nil && *r.Quota > 0 && *r.Quota < minQuota {
		c.fail("cpu quota %d: the kernel takes at least %d microseconds", *r.Quota, minQuota)
	}
	if r.Period != nil && *r.Period != 0 && (*r.Period < minPeriod || *r.Period > maxPeriod) {
		c.fail("cpu period %d: the kernel takes %d to %d microseconds", *r.Period, minPeriod, maxPeriod)
	}
	g.idleAndWeight(r)
	if g.h.V2 {
		g.bandwidthV2(r)
		return
	}
	g.bandwidthV1(r)
	g.realtime(r)
}

// idleAndWeight keeps an order: an idle cgroup refuses a weight.
func (g group) idleAndWeight(r *specs.LinuxCPU) {
	idle := r.Idle != nil && *r.Idle != 0
	if r.Idle != nil && !idle {
		g.idle("0")
	}
	if r.Shares != nil && *r.Shares != 0 {
		if g.h.V2 {
			g.set("cpu.weight", utoa(SharesToWeight(*r.Shares)), fmt.Sprintf("%s CPU shares in v2's scale", utoa(*r.Shares)))
		} else {
			g.set("cpu.shares", utoa(min(max(*r.Shares, minShares), maxShares)), "the share of the CPU when others want it too")
		}
	}
	if idle {
		g.idle(itoa(*r.Idle)) // what is neither 0 nor 1, the kernel refuses
	}
}

func (g group) idle(value string) {
	if !g.has("cpu.idle", g.witness("cpu.weight"), g.h.V2) {
		g.c.lack("cpu idle", "the kernel has no cpu.idle (it came with 5.15)")
		return
	}
	g.set("cpu.idle", value, "run only when the CPU has nothing else to do")
}

// witness is a file that every cgroup with the controller has.
func (g group) witness(v2 string) string {
	if g.h.V2 {
		return v2
	}
	return "tasks"
}

// SharesToWeight converts OCI CPU shares (2 to 262144, default 1024) to a v2
// weight (1 to 10000, default 100). It is the quadratic function, in the
// logarithm, through these three pairs that runc 1.3 and crun 1.23 use; the
// linear one before it made the default 39, less than what others have.
func SharesToWeight(shares uint64) uint64 {
	switch {
	case shares == 0:
		return 0
	case shares <= minShares:
		return 1
	case shares >= maxShares:
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}

func (g group) bandwidthV1(r *specs.LinuxCPU) {
	quota := r.Quota != nil && *r.Quota != 0
	period := r.Period != nil && *r.Period != 0
	if (quota || period || r.Burst != nil) && !g.has("cpu.cfs_quota_us", "tasks", false) {
		g.c.lack("cpu quota", "the kernel is built without CONFIG_CFS_BANDWIDTH")
		return
	}
	if r.Burst != nil && !g.has("cpu.cfs_burst_us", "tasks", false) {
		g.c.lack("cpu burst", "the kernel has no cpu.cfs_burst_us (it came with 5.14)")
		r = &specs.LinuxCPU{Quota: r.Quota, Period: r.Period}
	}
	if g.c.update && r.Burst != nil && quota {
		// A burst above the new quota would make the kernel refuse it.
		g.set("cpu.cfs_burst_us", "0", "lift the burst while the quota changes")
	}
	var p, q *Write
	if period {
		p = g.write("cpu.cfs_period_us", utoa(*r.Period), "the period of the CPU quota in microseconds")
	}
	if quota {
		q = g.write("cpu.cfs_quota_us", itoa(max(*r.Quota, -1)), "CPU time for each period in microseconds")
	}
	g.ratio(p, q)
	if r.Burst != nil {
		g.set("cpu.cfs_burst_us", utoa(*r.Burst), "CPU time that may be saved up")
	}
}

// ratio writes a period and what of it may be used; nil for what stays. With what
// was allowed before, the new period may ask for more than the group above has, or
// than there is: then it goes in after that.
func (g group) ratio(period, share *Write) {
	w := &g.c.setup.Writes
	both := period != nil && share != nil && g.c.update
	if period != nil {
		*w = append(*w, *period)
		(*w)[len(*w)-1].Optional = both
	}
	if share != nil {
		*w = append(*w, *share)
	}
	if both {
		*w = append(*w, *period)
	}
}

func (g group) bandwidthV2(r *specs.LinuxCPU) {
	quota := r.Quota != nil && *r.Quota != 0
	period := r.Period != nil && *r.Period != 0
	if quota || period {
		q, p := "max", utoa(defaultPeriod)
		if g.c.update { // both stand in one file: keep the one that is not given
			if now := strings.Fields(g.read("cpu.max")); len(now) == 2 {
				q, p = now[0], now[1]
			}
		}
		if quota {
			q = limit(*r.Quota)
		}
		if period {
			p = utoa(*r.Period)
		}
		if g.c.update && r.Burst != nil {
			g.set("cpu.max.burst", "0", "lift the burst while the quota changes")
		}
		g.set("cpu.max", q+" "+p, "CPU time for each period in microseconds")
	}
	if r.Burst != nil {
		if !g.has("cpu.max.burst", "cpu.weight", true) {
			g.c.lack("cpu burst", "the kernel has no cpu.max.burst (it came with 5.14)")
		} else {
			g.set("cpu.max.burst", utoa(*r.Burst), "CPU time that may be saved up")
		}
	}
	if r.RealtimePeriod != nil && *r.RealtimePeriod != 0 || r.RealtimeRuntime != nil && *r.RealtimeRuntime != 0 {
		g.c.lack("cpu realtime limits", "cgroup v2 has none")
	}
}

func (g group) realtime(r *specs.LinuxCPU) {
	period := r.RealtimePeriod != nil && *r.RealtimePeriod != 0
	runtime := r.RealtimeRuntime != nil && *r.RealtimeRuntime != 0
	if !period && !runtime {
		return
	}
	if !g.has("cpu.rt_runtime_us", "tasks", false) {
		g.c.lack("cpu realtime limits", "the kernel is built without CONFIG_RT_GROUP_SCHED")
		return
	}
	var p, budget *Write
	if period {
		p = g.write("cpu.rt_period_us", utoa(*r.RealtimePeriod), "the period of the realtime budget in microseconds")
	}
	if runtime {
		budget = g.write("cpu.rt_runtime_us", itoa(*r.RealtimeRuntime), "realtime budget in microseconds; the cgroups above must have as much")
	}
	g.ratio(p, budget)
}

// network: both controllers exist on v1 only.
func (c *compiler) network(r *specs.LinuxNetwork) {
	if r.ClassID != nil {
		if g, ok := c.group("net_cls", "network class"); ok {
			g.set("net_cls.classid", utoa(uint64(*r.ClassID)), "the class of its packets, for tc")
		}
	}
	if len(r.Priorities) == 0 {
		return
	}
	g, ok := c.group("net_prio", "network priorities")
	if !ok {
		return
	}
	for _, p := range r.Priorities {
		if p.Name == "" || strings.ContainsAny(p.Name, " \t\n") {
			c.fail("network priority: %q is no interface name", p.Name)
			continue
		}
		g.set("net_prio.ifpriomap", p.Name+" "+utoa(uint64(p.Priority)), "the priority of its packets on an interface")
	}
}

func (c *compiler) rdma(r map[string]specs.LinuxRdma) {
	if len(r) == 0 {
		return
	}
	g, ok := c.group("rdma", "rdma limits")
	if !ok {
		return
	}
	for _, dev := range slices.Sorted(maps.Keys(r)) {
		if dev == "" || strings.ContainsAny(dev, " \t\n") {
			c.fail("rdma limit: %q is no device name", dev)
			continue
		}
		value := dev
		if h := r[dev].HcaHandles; h != nil {
			value += " hca_handle=" + utoa(uint64(*h))
		}
		if o := r[dev].HcaObjects; o != nil {
			value += " hca_object=" + utoa(uint64(*o))
		}
		if value != dev {
			g.set("rdma.max", value, "handles and objects of an RDMA device")
		}
	}
}

// hugepages: the reservation limit holds where the kernel has one (5.7), and
// the usage limit always, as in runc.
func (c *compiler) hugepages(l specs.LinuxHugepageLimit) {
	if !isPageSize(l.Pagesize) {
		c.fail("hugepage limit: page size %q is not of the form 64KB, 2MB or 1GB", l.Pagesize)
		return
	}
	g, ok := c.group("hugetlb", "hugepage limit")
	if !ok {
		return
	}
	suffix := ".limit_in_bytes"
	if g.h.V2 {
		suffix = ".max"
	}
	file, why := "hugetlb."+l.Pagesize+suffix, "at most this many bytes in huge pages of "+l.Pagesize
	if !g.has(file, g.witness("hugetlb.2MB.max"), true) {
		c.lack("hugepage limit for "+l.Pagesize, "the kernel has no huge pages of this size")
		return
	}
	g.set(file, utoa(l.Limit), why)
	if rsvd := "hugetlb." + l.Pagesize + ".rsvd" + suffix; g.has(rsvd, g.witness("hugetlb.2MB.max"), true) {
		g.set(rsvd, utoa(l.Limit), why+", reserved ones included")
		w := &c.setup.Writes[len(c.setup.Writes)-1]
		w.Optional = true // before 5.7 there is no such file
	}
}

func isPageSize(s string) bool {
	digits := strings.TrimRight(s, "KMGB")
	unit := s[len(digits):]
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return false
	}
	return unit == "KB" || unit == "MB" || unit == "GB"
}

// notResources are v2 files that act on processes or on the tree.
var notResources = []string{"cgroup.procs", "cgroup.threads", "cgroup.kill", "cgroup.freeze", "cgroup.type", "cgroup.subtree_control"}

// unified are values for v2 files by name, written last so that they win.
func (c *compiler) unified(files map[string]string) {
	if len(files) == 0 {
		return
	}
	h := c.layout.unified()
	if h == nil {
		c.lack("unified resources", "invalid configuration, no cgroup v2 hierarchy is mounted")
		return
	}
	for _, file := range slices.Sorted(maps.Keys(files)) {
		controller, rest, ok := strings.Cut(file, ".")
		option := fmt.Sprintf("unified resource %q", file)
		switch {
		case !ok || controller == "" || rest == "" || strings.ContainsAny(file, "/\n\x00"):
			c.fail("%s is no name of a cgroup file: the specified key has not the form CONTROLLER.VALUE `%s`", option, file)
			continue
		case slices.Contains(notResources, file):
			c.fail("%s is not a resource but changes processes or the tree of cgroups", option)
			continue
		case controller != "cgroup" && !slices.Contains(h.Controllers, controller):
			c.lack(option, fmt.Sprintf("invalid configuration, the requested cgroup controller `%s` is not available in the v2 hierarchy", controller))
			continue
		}
		if controller != "cgroup" {
			c.need(controller)
		}
		g := group{c, h, h.Mount + c.rel}
		// A file that takes several keys takes one line in each write.
		for line := range strings.Lines(files[file]) {
			g.set(file, strings.TrimSpace(line), "as the spec's unified map says")
		}
	}
}
