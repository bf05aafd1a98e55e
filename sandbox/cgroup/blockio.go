package cgroup

import (
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Weights of OCI, which are those of the BFQ scheduler on v1.
const (
	minIOWeight = 10
	maxIOWeight = 1000
)

func (c *compiler) blockIO(r *specs.LinuxBlockIO) {
	throttled := len(r.ThrottleReadBpsDevice) + len(r.ThrottleWriteBpsDevice) + len(r.ThrottleReadIOPSDevice) + len(r.ThrottleWriteIOPSDevice)
	weight := r.Weight != nil && *r.Weight != 0
	leaf := r.LeafWeight != nil && *r.LeafWeight != 0
	if throttled == 0 && !weight && !leaf && len(r.WeightDevice) == 0 {
		return
	}
	controller := "blkio"
	if h := c.layout.with("io"); h != nil && h.V2 {
		controller = "io"
	}
	g, ok := c.group(controller, "block I/O limits")
	if !ok {
		return
	}
	if weight {
		g.ioWeight("", *r.Weight, "block I/O weight")
	}
	if leaf {
		g.leafWeight("", *r.LeafWeight)
	}
	for _, d := range r.WeightDevice {
		dev := g.device(d.Major, d.Minor)
		if d.Weight != nil && *d.Weight != 0 {
			g.ioWeight(dev, *d.Weight, "block I/O weight for device "+dev)
		}
		if d.LeafWeight != nil && *d.LeafWeight != 0 {
			g.leafWeight(dev, *d.LeafWeight)
		}
	}
	g.throttle(r.ThrottleReadBpsDevice, "read_bps", "rbps", "at most this many bytes read from the device in a second")
	g.throttle(r.ThrottleWriteBpsDevice, "write_bps", "wbps", "at most this many bytes written to the device in a second")
	g.throttle(r.ThrottleReadIOPSDevice, "read_iops", "riops", "at most this many reads of the device in a second")
	g.throttle(r.ThrottleWriteIOPSDevice, "write_iops", "wiops", "at most this many writes to the device in a second")
}

func (g group) device(major, minor int64) string {
	if major < 0 || minor < 0 || major >= maxDeviceNumber || minor >= maxDeviceNumber {
		g.c.fail("block I/O limit: %d:%d is no device", major, minor)
	}
	return itoa(major) + ":" + itoa(minor)
}

func (g group) throttle(list []specs.LinuxThrottleDevice, v1, v2, why string) {
	if len(list) == 0 {
		return
	}
	file := "blkio.throttle." + v1 + "_device"
	if !g.h.V2 && !g.has(file, "tasks", false) {
		g.c.lack("block I/O throttling", "the kernel is built without CONFIG_BLK_DEV_THROTTLING")
		return
	}
	for _, d := range list {
		dev := g.device(d.Major, d.Minor)
		switch {
		case !g.h.V2:
			g.set(file, dev+" "+utoa(d.Rate), why)
		case d.Rate == 0: // on v1 that means no limit
			g.set("io.max", dev+" "+v2+"=max", why)
		default:
			g.set("io.max", dev+" "+v2+"="+utoa(d.Rate), why)
		}
	}
}

// ioWeight writes a weight for all devices (dev empty) or for one. The file
// depends on the I/O scheduler: BFQ, CFQ (before 5.0), or v2's iocost.
func (g group) ioWeight(dev string, w uint16, option string) {
	if w < minIOWeight || w > maxIOWeight {
		g.c.fail("%s %d: it is %d to %d", option, w, minIOWeight, maxIOWeight)
		return
	}
	value := utoa(uint64(w))
	var file string
	switch {
	case g.h.V2 && g.has("io.bfq.weight", "io.max", false):
		file = "io.bfq.weight"
	case g.h.V2:
		// iocost's scale is 1 to 10000.
		file, value = "io.weight", utoa(1+(uint64(w)-minIOWeight)*9999/(maxIOWeight-minIOWeight))
		if !g.has(file, "io.max", true) {
			g.c.lack(option, "the kernel has neither the BFQ scheduler nor CONFIG_BLK_CGROUP_IOCOST")
			return
		}
	case g.has("blkio.weight", "tasks", false):
		file = "blkio.weight"
		if dev != "" {
			file = "blkio.weight_device"
		}
	case g.has("blkio.bfq.weight", "tasks", g.hasBFQ()):
		file = "blkio.bfq.weight"
		if dev != "" {
			file = "blkio.bfq.weight_device"
		}
	default:
		g.c.lack(option, "the kernel has no scheduler for block I/O with weights (CONFIG_BFQ_GROUP_IOSCHED)")
		return
	}
	if dev != "" {
		value = dev + " " + value
	}
	g.set(file, value, "the share of block I/O when others want it too")
}

// hasBFQ: BFQ's weight is not in the top cgroup, but its statistics are.
func (g group) hasBFQ() bool { return exists(g.h.Mount + "/blkio.bfq.io_service_bytes") }

// leafWeight is only known to CFQ.
func (g group) leafWeight(dev string, w uint16) {
	if g.h.V2 || !g.has("blkio.leaf_weight", "tasks", false) {
		g.c.lack("block I/O leaf weight", "it belonged to the CFQ scheduler, which left the kernel with 5.0")
		return
	}
	file, value := "blkio.leaf_weight", utoa(uint64(w))
	if dev != "" {
		file, value = "blkio.leaf_weight_device", strings.Join([]string{dev, value}, " ")
	}
	g.set(file, value, "the share of block I/O against the cgroups below")
}
