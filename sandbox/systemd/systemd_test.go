package systemd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestParsePath(t *testing.T) {
	for _, c := range []struct {
		path     string
		rootless bool
		unit     Unit
		cgroup   string
	}{
		{"system.slice:docker:abc", false, Unit{"system.slice", "docker-abc.scope"}, "/system.slice/docker-abc.scope"},
		{"machine:libpod:abc", false, Unit{"machine.slice", "libpod-abc.scope"}, "/machine.slice/libpod-abc.scope"},
		{":cri:abc", false, Unit{"system.slice", "cri-abc.scope"}, "/system.slice/cri-abc.scope"},
		{":cri:abc", true, Unit{"user.slice", "cri-abc.scope"}, "/user.slice/cri-abc.scope"},
		{"a-b-c.slice::abc", false, Unit{"a-b-c.slice", "abc.scope"}, "/a.slice/a-b.slice/a-b-c.slice/abc.scope"},
		{"-.slice:x:y", false, Unit{"-.slice", "x-y.scope"}, "/x-y.scope"},
		{"system.slice:ignored:pod-one.slice", false, Unit{"system.slice", "pod-one.slice"}, "/pod.slice/pod-one.slice"},
		{"", false, Unit{"system.slice", "viv-ID.scope"}, "/system.slice/viv-ID.scope"},
	} {
		u, err := ParsePath(c.path, "ID", c.rootless)
		if err != nil || u != c.unit {
			t.Errorf("%q: %+v, %v; want %+v", c.path, u, err, c.unit)
			continue
		}
		if got, err := u.CgroupPath(); err != nil || got != c.cgroup {
			t.Errorf("%q: group %q, %v; want %q", c.path, got, err, c.cgroup)
		}
	}
	for _, bad := range []string{"/docker/abc", "a:b", "a:b:c:d", "x:y:", "a/b.slice:x:y", "a--b.slice:x:y", "-a.slice:x:y", ".slice:x:y",
		"s.slice:x:a/b", "s.slice:x:a b", "s.slice:x:" + strings.Repeat("n", 256)} {
		if u, err := ParsePath(bad, "ID", false); err == nil {
			t.Errorf("%q is taken: %+v", bad, u)
		}
	}
	if _, err := ParsePath("/docker/abc", "ID", false); !errors.Is(err, ErrPath) {
		t.Errorf("a path for cgroupfs: %v", err)
	}
}

func FuzzParsePath(f *testing.F) {
	for _, s := range []string{"system.slice:docker:abc", ":x:y", "a-b.slice::c.slice", "::", "-.slice:a:b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		u, err := ParsePath(path, "ID", false)
		if err != nil {
			return
		}
		p, err := u.CgroupPath()
		if err == nil && (!strings.HasPrefix(p, "/") || slices.Contains(strings.Split(p, "/"), "..") || strings.Contains(p, "//")) {
			t.Errorf("%q leads to %q", path, p)
		}
	})
}

// texts writes properties as "Name=value", for comparison.
func texts(list []Property) []string {
	var out []string
	for _, p := range list {
		v := p.Value
		if v == uint64(infinity) {
			v = "infinity"
		}
		out = append(out, fmt.Sprintf("%s=%v", p.Name, v))
	}
	return out
}

func ptr[T any](v T) *T { return &v }

func TestResources(t *testing.T) {
	limits := &specs.LinuxResources{
		Memory:  &specs.LinuxMemory{Limit: ptr(int64(64 << 20)), Swap: ptr(int64(96 << 20)), Reservation: ptr(int64(32 << 20))},
		CPU:     &specs.LinuxCPU{Shares: ptr(uint64(1024)), Quota: ptr(int64(55_500)), Period: ptr(uint64(100_000)), Cpus: "0-2,9", Mems: "0"},
		Pids:    &specs.LinuxPids{Limit: ptr(int64(20))},
		BlockIO: &specs.LinuxBlockIO{Weight: ptr(uint16(300))},
	}
	for _, c := range []struct {
		name    string
		r       *specs.LinuxResources
		v2      bool
		release int
		want    []string
	}{
		{"nothing", nil, true, 252, nil},
		{"v1", limits, false, 252, []string{"MemoryLimit=67108864", "CPUShares=1024", "CPUQuotaPeriodUSec=100000",
			"CPUQuotaPerSecUSec=560000", "AllowedCPUs=[7 2]", "AllowedMemoryNodes=[1]", "TasksMax=20", "BlockIOWeight=300"}},
		{"v2", limits, true, 252, []string{"MemoryMax=67108864", "MemoryLow=33554432", "MemorySwapMax=33554432", "CPUWeight=100",
			"CPUQuotaPeriodUSec=100000", "CPUQuotaPerSecUSec=560000", "AllowedCPUs=[7 2]", "AllowedMemoryNodes=[1]", "TasksMax=20"}},
		{"an old systemd", limits, true, 239, []string{"MemoryMax=67108864", "MemoryLow=33554432", "MemorySwapMax=33554432", "CPUWeight=100",
			"CPUQuotaPerSecUSec=560000", "TasksMax=20"}},
		{"no limits", &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(-1)), Swap: ptr(int64(-1))},
			CPU: &specs.LinuxCPU{Quota: ptr(int64(-1))}, Pids: &specs.LinuxPids{Limit: ptr(int64(-1))}}, true, 252,
			[]string{"MemoryMax=infinity", "MemorySwapMax=infinity", "CPUQuotaPerSecUSec=infinity", "TasksMax=infinity"}},
		{"idle", &specs.LinuxResources{CPU: &specs.LinuxCPU{Idle: ptr(int64(1))}}, true, 252, []string{"CPUWeight=0"}},
		{"unified", &specs.LinuxResources{Unified: map[string]string{"memory.high": "max", "memory.min": "4096", "cpu.max": "20000 50000",
			"cpu.weight": "70", "cpuset.cpus": "1", "pids.max": "7", "hugetlb.2MB.max": "0"}}, true, 252,
			[]string{"CPUQuotaPeriodUSec=50000", "CPUQuotaPerSecUSec=400000", "CPUWeight=70", "AllowedCPUs=[2]", "MemoryHigh=infinity", "MemoryMin=4096", "TasksMax=7"}},
	} {
		got, err := Resources(c.r, c.v2, c.release)
		if err != nil || !slices.Equal(texts(got), c.want) {
			t.Errorf("%s: %v, %v; want %v", c.name, texts(got), err, c.want)
		}
	}
}

func TestResourcesRefuse(t *testing.T) {
	for _, r := range []specs.LinuxResources{
		{CPU: &specs.LinuxCPU{Cpus: "3-1"}},
		{CPU: &specs.LinuxCPU{Cpus: "0-99999"}},
		{CPU: &specs.LinuxCPU{Mems: "x"}},
		{Unified: map[string]string{"pids.max": "many"}},
		{Unified: map[string]string{"cpu.max": "0"}},
		{Unified: map[string]string{"cpu.max": "10 0"}},
	} {
		if got, err := Resources(&r, true, 252); err == nil {
			t.Errorf("%+v is taken: %v", r, texts(got))
		}
	}
}

func TestDevices(t *testing.T) {
	deny := specs.LinuxDeviceCgroup{Access: "rwm"}
	fuse := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: ptr(int64(10)), Minor: ptr(int64(229)), Access: "rw"}
	get := func(rules ...specs.LinuxDeviceCgroup) string {
		l := new(list)
		l.devices(rules)
		if l.err != nil {
			t.Fatal(l.err)
		}
		return strings.Join(texts(l.properties), " ")
	}
	got := get(deny, fuse)
	for _, part := range []string{"DevicePolicy=strict", "{/dev/char/10:229 rw}", "{char-* m}", "{block-* m}", "{/dev/char/1:3 rwm}", "{char-pts rwm}"} {
		if !strings.Contains(got, part) {
			t.Errorf("rules have no %s: %s", part, got)
		}
	}
	if got := get(specs.LinuxDeviceCgroup{Allow: true, Access: "rwm"}); got != "DevicePolicy=auto DeviceAllow=[]" {
		t.Errorf("everything allowed: %s", got)
	}
	taken := fuse
	taken.Allow = false
	if got := get(deny, fuse, taken); got != "" {
		t.Errorf("systemd is told %s of rules that it has no words for", got)
	}
}

func TestAnnotations(t *testing.T) {
	got, err := Annotations(map[string]string{
		"org.systemd.property.TimeoutStopUSec": "uint64 123456789",
		"org.systemd.property.CollectMode":     "'inactive-or-failed'",
		"org.systemd.property.RuntimeMaxSec":   "uint64 2",
		"org.example.other":                    "not ours",
	})
	want := []string{"CollectMode=inactive-or-failed", "RuntimeMaxUSec=2000000", "TimeoutStopUSec=123456789"}
	if err != nil || !reflect.DeepEqual(texts(got), want) {
		t.Errorf("%v, %v; want %v", texts(got), err, want)
	}
	for key, value := range map[string]string{"org.systemd.property.X9": "true", "org.systemd.property.Slice": "[", "org.systemd.property.StopSec": "'soon'"} {
		if got, err := Annotations(map[string]string{key: value}); err == nil {
			t.Errorf("%s=%s is taken: %v", key, value, texts(got))
		}
	}
}

func TestParseVariant(t *testing.T) {
	for text, want := range map[string]any{"true": true, "7": int32(7), "-7": int32(-7), "uint64 5": uint64(5), "int64 -5": int64(-5), "byte 0xff": byte(255),
		"double 1.5": 1.5, "1.5": 1.5, "'a b'": "a b", `"it\"s"`: `it"s`, "['a', \"b\"]": []string{"a", "b"}, "[]": []string{}} {
		if got, err := parseVariant(text); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s is %#v, %v; want %#v", text, got, err, want)
		}
	}
	for _, bad := range []string{"", "maybe", "byte 256", "uint64 -1", "'open", "'a' b", "[1]", "['a' 'b']", "('a', 1)"} {
		if got, err := parseVariant(bad); err == nil {
			t.Errorf("%s is taken: %#v", bad, got)
		}
	}
}

// TestMessages writes a message and reads it again. That others read it as it is
// meant, the tests on systemd itself show.
func TestMessages(t *testing.T) {
	e := new(encoder)
	e.text("unit")
	if err := e.properties([]Property{{"A", "text"}, {"B", true}, {"C", uint64(1) << 60}, {"D", []byte{1, 2}}, {"E", []deviceAllow{{"/dev/null", "rw"}}}}); err != nil {
		t.Fatal(err)
	}
	m := &message{kind: methodCall, serial: 7, path: "/a", iface: "b.c", member: "D", destination: "e.f", signature: "sa(sv)", body: e.b, order: binary.LittleEndian}
	got, err := decode(m.encode())
	if err != nil || !reflect.DeepEqual(got, m) {
		t.Errorf("%+v, %v; want %+v", got, err, m)
	}
	if err := e.properties([]Property{{"X", struct{}{}}}); err == nil {
		t.Error("a value without a form is taken")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add((&message{kind: signalMessage, serial: 1, path: "/a", iface: "b", member: "C", signature: "s", body: []byte{1, 0, 0, 0, 'x', 0}}).encode())
	f.Add((&message{kind: errorReply, serial: 2, reply: 1, errorName: "a.b"}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decode(b)
		if err != nil {
			return
		}
		d := m.arguments()
		d.signature()
		d.text()
		d.u32()
	})
}
