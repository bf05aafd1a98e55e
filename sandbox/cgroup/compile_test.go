package cgroup

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

var regenerate = flag.Bool("golden", false, "write the golden files anew")

// fakeRoot makes a root with mounts and files: a name that ends in "/" is a
// directory.
func fakeRoot(t testing.TB, mountinfo string, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	put := func(name, content string) {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "/") {
			if err := os.MkdirAll(path, 0o755); err != nil {
				t.Fatal(err)
			}
			return
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("proc/self/mountinfo", mountinfo)
	for name, content := range files {
		put(name, content)
	}
	return root
}

const rest = "22 27 0:21 / /proc rw,relatime - proc proc rw\n27 1 254:0 / / rw - ext4 /dev/vda rw\n"

func v1Lines(controllers ...string) string {
	out := rest
	for i, c := range controllers {
		out += fmt.Sprintf("%d 31 0:%d / /sys/fs/cgroup/%s rw,relatime shared:9 - cgroup cgroup rw,%s\n", 40+i, 40+i, c, c)
	}
	return out
}

var v1Files = map[string]string{
	"sys/fs/cgroup/cpuset/cpuset.cpus":                            "0-3\n",
	"sys/fs/cgroup/cpuset/cpuset.mems":                            "0\n",
	"sys/fs/cgroup/memory/memory.memsw.limit_in_bytes":            "9223372036854771712\n",
	"sys/fs/cgroup/memory/memory.swappiness":                      "60\n",
	"sys/fs/cgroup/memory/memory.use_hierarchy":                   "1\n",
	"sys/fs/cgroup/memory/memory.kmem.tcp.limit_in_bytes":         "9223372036854771712\n",
	"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us":                  "-1\n",
	"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_burst_us":                  "0\n",
	"sys/fs/cgroup/cpu,cpuacct/cpu.rt_runtime_us":                 "950000\n",
	"sys/fs/cgroup/cpu,cpuacct/cpu.idle":                          "0\n",
	"sys/fs/cgroup/blkio/blkio.bfq.io_service_bytes":              "",
	"sys/fs/cgroup/blkio/blkio.throttle.read_bps_device":          "",
	"sys/fs/cgroup/blkio/blkio.throttle.write_bps_device":         "",
	"sys/fs/cgroup/blkio/blkio.throttle.read_iops_device":         "",
	"sys/fs/cgroup/blkio/blkio.throttle.write_iops_device":        "",
	"sys/fs/cgroup/devices/":                                      "",
	"sys/fs/cgroup/freezer/":                                      "",
	"sys/fs/cgroup/pids/":                                         "",
	"sys/fs/cgroup/net_cls,net_prio/":                             "",
	"sys/fs/cgroup/hugetlb/other/hugetlb.2MB.limit_in_bytes":      "1\n",
	"sys/fs/cgroup/hugetlb/other/hugetlb.2MB.rsvd.limit_in_bytes": "1\n",
	"sys/fs/cgroup/hugetlb/other/tasks":                           "",
	"sys/fs/cgroup/rdma/":                                         "",
	"sys/fs/cgroup/systemd/":                                      "",
}

func v1Root(t testing.TB) string {
	lines := v1Lines("cpuset", "cpu,cpuacct", "memory", "devices", "freezer", "blkio", "pids", "net_cls,net_prio", "hugetlb", "rdma") +
		"60 31 0:60 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n" +
		"61 31 0:61 / /sys/fs/cgroup/mine rw - cgroup cgroup rw,name=mine\n"
	return fakeRoot(t, lines, v1Files)
}

func hybridRoot(t testing.TB) string {
	files := map[string]string{
		"sys/fs/cgroup/unified/cgroup.controllers":     "hugetlb rdma\n",
		"sys/fs/cgroup/unified/cgroup.subtree_control": "",
	}
	for k, v := range v1Files {
		if !strings.Contains(k, "hugetlb") && !strings.Contains(k, "rdma") && !strings.Contains(k, "net_") {
			files[k] = v
		}
	}
	lines := v1Lines("cpuset", "cpu,cpuacct", "memory", "devices", "freezer", "blkio", "pids") +
		"61 31 0:61 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n"
	return fakeRoot(t, lines, files)
}

func v2Root(t testing.TB) string {
	return fakeRoot(t, rest+"61 31 0:61 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n", map[string]string{
		"sys/fs/cgroup/cgroup.controllers":                "cpuset cpu io memory hugetlb pids rdma misc\n",
		"sys/fs/cgroup/cgroup.subtree_control":            "memory pids\n",
		"sys/fs/cgroup/cgroup.procs":                      "1\n2\n",
		"sys/fs/cgroup/viv/cgroup.subtree_control":        "pids\n",
		"sys/fs/cgroup/viv/cgroup.type":                   "domain\n",
		"sys/fs/cgroup/viv/cgroup.procs":                  "",
		"sys/fs/cgroup/system.slice/io.max":               "",
		"sys/fs/cgroup/system.slice/io.weight":            "default 100\n",
		"sys/fs/cgroup/system.slice/cpu.weight":           "100\n",
		"sys/fs/cgroup/system.slice/cpu.idle":             "0\n",
		"sys/fs/cgroup/system.slice/cpu.max.burst":        "0\n",
		"sys/fs/cgroup/system.slice/hugetlb.2MB.max":      "max\n",
		"sys/fs/cgroup/system.slice/memory.max":           "max\n",
		"sys/fs/cgroup/system.slice/memory.swap.max":      "max\n",
		"sys/fs/cgroup/system.slice/hugetlb.1GB.max":      "max\n",
		"sys/fs/cgroup/system.slice/hugetlb.2MB.rsvd.max": "max\n",
	})
}

func ptr[T any](v T) *T { return &v }

// everything is a spec with all limits that v1 and v2 share.
func everything() *specs.LinuxResources {
	dev := specs.LinuxBlockIODevice{Major: 8, Minor: 16}
	throttle := func(rate uint64) []specs.LinuxThrottleDevice {
		return []specs.LinuxThrottleDevice{{LinuxBlockIODevice: dev, Rate: rate}}
	}
	r := &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: ptr(int64(128 << 20)), Swap: ptr(int64(256 << 20)), Reservation: ptr(int64(64 << 20))},
		CPU: &specs.LinuxCPU{Shares: ptr(uint64(512)), Quota: ptr(int64(50000)), Period: ptr(uint64(100000)), Burst: ptr(uint64(1000)),
			Cpus: "0-1", Mems: "0"},
		Pids: &specs.LinuxPids{Limit: ptr(int64(100))},
		BlockIO: &specs.LinuxBlockIO{Weight: ptr(uint16(500)),
			WeightDevice:          []specs.LinuxWeightDevice{{LinuxBlockIODevice: dev, Weight: ptr(uint16(10))}},
			ThrottleReadBpsDevice: throttle(1 << 20), ThrottleWriteBpsDevice: throttle(2 << 20),
			ThrottleReadIOPSDevice: throttle(100), ThrottleWriteIOPSDevice: throttle(0)},
		HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}},
		Rdma:           map[string]specs.LinuxRdma{"mlx5_1": {HcaHandles: ptr(uint32(3)), HcaObjects: ptr(uint32(10000))}, "mlx4_0": {HcaObjects: ptr(uint32(5))}},
	}
	//lint:ignore SA1019 that it is left out with a warning is to be tested
	r.Memory.Kernel = ptr(int64(1 << 20))
	return r
}

func v1Only() *specs.LinuxResources {
	r := everything()
	r.Memory.KernelTCP, r.Memory.Swappiness, r.Memory.DisableOOMKiller, r.Memory.UseHierarchy = ptr(int64(1<<20)), ptr(uint64(0)), ptr(true), ptr(true)
	r.CPU.RealtimePeriod, r.CPU.RealtimeRuntime, r.CPU.Idle = ptr(uint64(1000000)), ptr(int64(1000)), ptr(int64(1))
	r.Network = &specs.LinuxNetwork{ClassID: ptr(uint32(0x100001)), Priorities: []specs.LinuxInterfacePriority{{Name: "eth0", Priority: 5}}}
	r.Devices = []specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"},
		{Allow: true, Type: "c", Major: ptr(int64(10)), Minor: ptr(int64(229)), Access: "rwm"},
		{Allow: true, Type: "b", Major: ptr(int64(8)), Access: "r"},
		{Allow: false, Type: "c", Major: ptr(int64(10)), Access: "w"},
	}
	return r
}

func v2Only() *specs.LinuxResources {
	r := everything()
	r.Unified = map[string]string{"memory.high": "100M", "cgroup.max.descendants": "10", "io.latency": "8:16 target=10\n8:0 target=20\n"}
	r.CPU.Idle = ptr(int64(1))
	r.Devices = []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}, {Allow: true, Type: "c", Major: ptr(int64(10)), Minor: ptr(int64(229)), Access: "rw"}}
	return r
}

// show is a Setup as text, without the root of the test.
func show(root string, s Setup) string {
	var b strings.Builder
	for _, d := range s.Dirs {
		fmt.Fprintf(&b, "mkdir %s\n", d)
	}
	for _, w := range s.Writes {
		optional := ""
		if w.Optional {
			optional = "?"
		}
		fmt.Fprintf(&b, "write%s %s %q\n", optional, w.Path(), w.Value)
		if w.Why == "" {
			fmt.Fprintf(&b, "NO REASON\n")
		}
	}
	for _, t := range s.Tasks {
		fmt.Fprintf(&b, "tasks %s\n", t)
	}
	fmt.Fprintf(&b, "into %q\n", s.CgroupDir)
	for _, d := range s.Devices {
		fmt.Fprintf(&b, "device %+v\n", d)
	}
	for _, d := range s.Remove {
		fmt.Fprintf(&b, "rmdir %s\n", d)
	}
	for _, w := range s.Warnings {
		fmt.Fprintf(&b, "warning %s\n", w)
	}
	fmt.Fprintf(&b, "handle %+v\n", s.Handle)
	return strings.ReplaceAll(b.String(), root, "")
}

func TestCompileGolden(t *testing.T) {
	for _, tc := range []struct {
		name string
		root func(testing.TB) string
		mode Mode
		path string
		res  *specs.LinuxResources
		opt  Options
	}{
		{"v1-nothing", v1Root, V1, "/viv/c1", nil, Options{}},
		{"v1-all", v1Root, V1, "/viv/c1", v1Only(), Options{}},
		{"v1-rootless", v1Root, V1, "c1", &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}}, Options{NoDeviceRules: true}},
		{"v1-privileged", v1Root, V1, "/viv/c1", &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}, {Type: "c", Major: ptr(int64(1)), Minor: ptr(int64(1)), Access: "w"}}}, Options{}},
		{"hybrid-nothing", hybridRoot, Hybrid, "/viv/c1", nil, Options{}},
		{"hybrid-all", hybridRoot, Hybrid, "/viv/c1", everything(), Options{}},
		{"hybrid-lenient", hybridRoot, Hybrid, "/viv/c1", v2Only(), Options{Lenient: true}},
		{"v2-nothing", v2Root, V2, "/viv/c1", nil, Options{}},
		{"v2-all", v2Root, V2, "/viv/c1", v2Only(), Options{}},
		{"v2-deep", v2Root, V2, "/a/b/c", &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(0))}}, Options{}},
		{"v2-lenient", v2Root, V2, "/viv/c1", v1Only(), Options{Lenient: true}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root := tc.root(t)
			l, err := DetectAt(root)
			if err != nil {
				t.Fatal(err)
			}
			if l.Mode() != tc.mode {
				t.Errorf("mode %s, want %s", l.Mode(), tc.mode)
			}
			s, err := Compile(l, tc.path, tc.res, tc.opt)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, tc.name, show(root, s))
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *regenerate {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test -golden writes it anew); got:\n%s", path, got)
	}
}

// TestRefused: what cannot be had is an error that names the option.
func TestRefused(t *testing.T) {
	mem := func(m specs.LinuxMemory) *specs.LinuxResources { return &specs.LinuxResources{Memory: &m} }
	cpu := func(c specs.LinuxCPU) *specs.LinuxResources { return &specs.LinuxResources{CPU: &c} }
	dev := func(d ...specs.LinuxDeviceCgroup) *specs.LinuxResources { return &specs.LinuxResources{Devices: d} }
	bare := func(t testing.TB) string {
		return fakeRoot(t, v1Lines("memory", "cpu", "blkio"), map[string]string{
			"sys/fs/cgroup/memory/": "", "sys/fs/cgroup/cpu/": "", "sys/fs/cgroup/blkio/": ""})
	}
	for _, tc := range []struct {
		root        func(testing.TB) string
		res         *specs.LinuxResources
		say         string
		unsupported bool
	}{
		{v2Root, mem(specs.LinuxMemory{Swappiness: ptr(uint64(1))}), "swappiness", true},
		{v2Root, mem(specs.LinuxMemory{DisableOOMKiller: ptr(true)}), "OOM killer", true},
		{v2Root, mem(specs.LinuxMemory{KernelTCP: ptr(int64(1))}), "kernel TCP", true},
		{v2Root, mem(specs.LinuxMemory{UseHierarchy: ptr(false)}), "hierarchy", true},
		{v1Root, mem(specs.LinuxMemory{UseHierarchy: ptr(false)}), "hierarchy", true},
		{v1Root, mem(specs.LinuxMemory{Swap: ptr(int64(100))}), "a memory limit must be set", false},
		{v1Root, mem(specs.LinuxMemory{Limit: ptr(int64(200)), Swap: ptr(int64(100))}), "below the memory limit", false},
		{v1Root, mem(specs.LinuxMemory{Limit: ptr(int64(-1)), Swap: ptr(int64(100))}), "no memory limit", false},
		{v1Root, mem(specs.LinuxMemory{Limit: ptr(int64(-7))}), "negative", false},
		{v1Root, mem(specs.LinuxMemory{Limit: ptr(int64(5)), Reservation: ptr(int64(6))}), "reservation", false},
		{v1Root, mem(specs.LinuxMemory{Swappiness: ptr(uint64(101))}), "swappiness 101", false},
		{bare, mem(specs.LinuxMemory{Limit: ptr(int64(5)), Swap: ptr(int64(6))}), "swap", true},
		{bare, mem(specs.LinuxMemory{Swappiness: ptr(uint64(6))}), "swappiness", true},
		{bare, cpu(specs.LinuxCPU{Quota: ptr(int64(5000))}), "quota", true},
		{bare, cpu(specs.LinuxCPU{Idle: ptr(int64(1))}), "idle", true},
		{bare, cpu(specs.LinuxCPU{RealtimeRuntime: ptr(int64(1))}), "realtime", true},
		{bare, cpu(specs.LinuxCPU{Cpus: "0"}), "cpuset", true},
		{v2Root, cpu(specs.LinuxCPU{RealtimeRuntime: ptr(int64(1))}), "realtime", true},
		{v1Root, cpu(specs.LinuxCPU{Quota: ptr(int64(5))}), "quota 5", false},
		{v1Root, cpu(specs.LinuxCPU{Period: ptr(uint64(5))}), "period 5", false},
		{v1Root, cpu(specs.LinuxCPU{Cpus: "0-"}), "cpus", false},
		{v1Root, cpu(specs.LinuxCPU{Mems: "0\n1"}), "mems", false},
		{bare, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(1))}}, "pids", true},
		{bare, &specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{Weight: ptr(uint16(100))}}, "weight", true},
		{v1Root, &specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{Weight: ptr(uint16(5))}}, "10 to 1000", false},
		{v1Root, &specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{LeafWeight: ptr(uint16(50))}}, "leaf", true},
		{bare, &specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{{Rate: 1}}}}, "throttling", true},
		{v1Root, &specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "3MB"}}}, "3MB", true},
		{v1Root, &specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "../x"}}}, "page size", false},
		{bare, &specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB"}}}, "hugepage", true},
		{hybridRoot, &specs.LinuxResources{Network: &specs.LinuxNetwork{ClassID: ptr(uint32(1))}}, "network class", true},
		{v1Root, &specs.LinuxResources{Network: &specs.LinuxNetwork{Priorities: []specs.LinuxInterfacePriority{{Name: "a b"}}}}, "interface", false},
		{v1Root, &specs.LinuxResources{Unified: map[string]string{"memory.high": "1"}}, "unified", true},
		{hybridRoot, &specs.LinuxResources{Unified: map[string]string{"memory.high": "1"}}, "memory.high", true},
		{v2Root, &specs.LinuxResources{Unified: map[string]string{"../x.y": "1"}}, "no name", false},
		{v2Root, &specs.LinuxResources{Unified: map[string]string{"cgroup.procs": "1"}}, "cgroup.procs", false},
		{v1Root, dev(specs.LinuxDeviceCgroup{Type: "x"}), "type", false},
		{v1Root, dev(specs.LinuxDeviceCgroup{Access: "x"}), "access", false},
		{v1Root, dev(specs.LinuxDeviceCgroup{Major: ptr(int64(-2))}), "device number", false},
		{v1Root, dev(specs.LinuxDeviceCgroup{Access: "rwm"}, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Access: "rwm"},
			specs.LinuxDeviceCgroup{Type: "c", Major: ptr(int64(10)), Minor: ptr(int64(229)), Access: "rw"}), "exception", true},
	} {
		l, err := DetectAt(tc.root(t))
		if err != nil {
			t.Fatal(err)
		}
		_, err = Compile(l, "/viv/c1", tc.res, Options{})
		if err == nil || !strings.Contains(err.Error(), tc.say) || errors.Is(err, ErrUnsupported) != tc.unsupported {
			t.Errorf("%+v: error %v; want one that says %q (unsupported: %v)", tc.res, err, tc.say, tc.unsupported)
		}
	}
}

func TestOccupiedParentIsRefused(t *testing.T) {
	root := fakeRoot(t, rest+"61 31 0:61 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", map[string]string{
		"sys/fs/cgroup/cgroup.controllers": "memory pids\n", "sys/fs/cgroup/cgroup.subtree_control": "",
		"sys/fs/cgroup/cgroup.type": "domain\n", "sys/fs/cgroup/cgroup.procs": "1\n",
	})
	l, err := DetectAt(root)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := Compile(l, "/viv/c", nil, Options{}); err != nil || len(s.Writes) != 2 { // /viv's two, optional
		t.Errorf("no limits: %v %v", s.Writes, err)
	}
	_, err = Compile(l, "/viv/c", &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(5))}}, Options{})
	if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "processes of its own") {
		t.Errorf("got %v", err)
	}
}

func TestCleanPath(t *testing.T) {
	for in, want := range map[string]string{
		"/viv/x": "/viv/x", "x": "/viv/x", "a/b": "/viv/a/b", "/a//b/./c/": "/a/b/c", "/k8s.io/1:2:3": "/k8s.io/1:2:3",
		"": "", "/": "", "//": "", "../x": "", "/a/../../x": "", "system.slice:viv:x": "", ":viv:x": "", "/a\nb": "", "/" + strings.Repeat("x", 300): "",
	} {
		got, err := CleanPath(in)
		if got != want || (err == nil) != (want != "") || err != nil && !errors.Is(err, ErrPath) {
			t.Errorf("CleanPath(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
}

func TestParseMountinfo(t *testing.T) {
	l, err := parseMountinfo([]byte(`30 1 0:30 / /elsewhere rw - cgroup cgroup rw,memory
31 1 0:30 /x /sys/fs/cgroup/memory rw shared:1 master:2 - cgroup cgroup rw,memory
32 1 0:32 / /a\040b rw - cgroup2 cgroup2 rw
33 1 0:33 / /fuse rw - fuse.cgroupfs x rw
34 1 0:34 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,xattr,cpu,cpuacct,release_agent=/x
`))
	if err != nil {
		t.Fatal(err)
	}
	want := []Hierarchy{
		{Mount: "/sys/fs/cgroup/memory", Controllers: []string{"memory"}},
		{Mount: "/a b", V2: true},
		{Mount: "/sys/fs/cgroup/cpu,cpuacct", Controllers: []string{"cpu", "cpuacct"}},
	}
	if !slices.EqualFunc(l.Hierarchies, want, func(a, b Hierarchy) bool { return fmt.Sprint(a) == fmt.Sprint(b) }) {
		t.Errorf("got %+v", l.Hierarchies)
	}
	if _, err := parseMountinfo([]byte("1 2 - cgroup cgroup")); err == nil {
		t.Error("a cut-off line is accepted")
	}
}

func FuzzParseMountinfo(f *testing.F) {
	f.Add([]byte(v1Lines("cpu", "memory")))
	f.Add([]byte(`1 2 3 / /a\04 rw - cgroup2 x y`))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := parseMountinfo(b)
		if err == nil {
			for _, h := range l.Hierarchies {
				if h.V2 && len(h.Controllers) > 0 {
					t.Error("v2 has no controllers among its mount options")
				}
			}
		}
	})
}

func FuzzCleanPath(f *testing.F) {
	for _, s := range []string{"/a/../b", "a:b:c", "x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := CleanPath(s)
		if err == nil && (!strings.HasPrefix(p, "/") || p == "/" || filepath.Clean(p) != p) {
			t.Errorf("CleanPath(%q) = %q", s, p)
		}
	})
}

func TestSharesToWeight(t *testing.T) {
	last := uint64(0)
	for _, tc := range []struct{ shares, weight uint64 }{{0, 0}, {1, 1}, {2, 1}, {1024, 100}, {262144, 10000}, {1 << 40, 10000}} {
		if got := SharesToWeight(tc.shares); got != tc.weight {
			t.Errorf("%d shares are %d, want %d", tc.shares, got, tc.weight)
		}
	}
	for s := uint64(2); s < 300000; s += 97 {
		w := SharesToWeight(s)
		if w < last || w < 1 || w > 10000 {
			t.Fatalf("%d shares are %d, after %d", s, w, last)
		}
		last = w
	}
}

// TestUpdateOrder: v1 keeps limit <= memsw at every moment.
func TestUpdateOrder(t *testing.T) {
	files := map[string]string{"sys/fs/cgroup/memory/viv/c1/memory.memsw.limit_in_bytes": "200000000\n"}
	for k, v := range v1Files {
		files[k] = v
	}
	root := fakeRoot(t, v1Lines("memory"), files)
	l, err := DetectAt(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		limit, swap int64
		first       string
	}{{300000000, 400000000, "memory.memsw.limit_in_bytes"}, {50000000, 100000000, "memory.limit_in_bytes"}, {-1, -1, "memory.memsw.limit_in_bytes"}, {-1, 0, "memory.memsw.limit_in_bytes"}} {
		w, _, err := CompileUpdate(l, "/viv/c1", &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &tc.limit, Swap: &tc.swap}}, Options{})
		if err != nil || len(w) != 2 || w[0].File != tc.first {
			t.Errorf("limit %d swap %d: %v %v", tc.limit, tc.swap, w, err)
		}
	}
	if _, _, err := CompileUpdate(l, "/viv/c1", &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(300000000))}}, Options{}); err == nil || !strings.Contains(err.Error(), "raise the swap limit too") {
		t.Errorf("a limit above memsw: %v", err)
	}
	if _, _, err := CompileUpdate(l, "/viv/c1", &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{}}}, Options{}); !errors.Is(err, ErrUnsupported) {
		t.Errorf("device rules: %v", err)
	}
}

func TestUpdateKeepsTheOtherHalfOfCPUMax(t *testing.T) {
	root := fakeRoot(t, rest+"61 31 0:61 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", map[string]string{
		"sys/fs/cgroup/cgroup.controllers": "cpu\n", "sys/fs/cgroup/cgroup.subtree_control": "cpu\n",
		"sys/fs/cgroup/viv/cgroup.subtree_control": "cpu\n", "sys/fs/cgroup/viv/c1/cpu.max": "20000 50000\n",
	})
	l, err := DetectAt(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		cpu  specs.LinuxCPU
		want string
	}{
		{specs.LinuxCPU{Quota: ptr(int64(30000))}, "30000 50000"}, {specs.LinuxCPU{Period: ptr(uint64(100000))}, "20000 100000"},
		{specs.LinuxCPU{Quota: ptr(int64(-1))}, "max 50000"},
	} {
		w, _, err := CompileUpdate(l, "/viv/c1", &specs.LinuxResources{CPU: &tc.cpu}, Options{})
		if err != nil || len(w) != 1 || w[0].Value != tc.want {
			t.Errorf("%v %v; want %q", w, err, tc.want)
		}
	}
}

func TestUpdateBelowUsage(t *testing.T) {
	root := fakeRoot(t, rest+"61 31 0:61 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", map[string]string{
		"sys/fs/cgroup/cgroup.controllers": "memory\n", "sys/fs/cgroup/cgroup.subtree_control": "memory\n",
		"sys/fs/cgroup/viv/cgroup.subtree_control": "memory\n", "sys/fs/cgroup/viv/c1/memory.current": "5000\n", "sys/fs/cgroup/viv/c1/memory.swap.current": "3000\n",
		"sys/fs/cgroup/viv/c1/memory.max": "max\n", "sys/fs/cgroup/viv/c1/memory.swap.max": "max\n",
	})
	l, err := DetectAt(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		limit, swap int64
		check       bool
		want        string
	}{
		{1024, 0, true, "rejecting memory limit 1024, which is below the present usage 5000"},
		{1024, 2048, true, "rejecting memory+swap limit 2048, which is below the present usage 8000"},
		{6000, 7000, true, "rejecting memory+swap limit"},
		{6000, 9000, true, ""}, {-1, -1, true, ""}, {1024, 2048, false, ""},
	} {
		_, _, err := CompileUpdate(l, "/viv/c1", &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &tc.limit, Swap: &tc.swap, CheckBeforeUpdate: &tc.check}}, Options{})
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("limit %d, swap %d, check %v: %v", tc.limit, tc.swap, tc.check, err)
		}
	}
}

func BenchmarkDetectAndCompile(b *testing.B) {
	res := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(1 << 30))}}
	for b.Loop() {
		l, err := Detect()
		if err != nil {
			b.Fatal(err)
		}
		if _, err := Compile(l, "/viv/bench", res, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
