package main_test

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go/features"
)

// TestFeaturesOfSpec13: what runtime-spec 1.3 has, and we have.
func TestFeaturesOfSpec13(t *testing.T) {
	if reference != "" {
		t.Skip("runc from 1.4 on")
	}
	b := newBox(t, "true")
	var f features.Features
	must(t, json.Unmarshal([]byte(b.must("features")), &f))
	l := f.Linux
	for name, on := range map[string]*bool{"idmap": l.MountExtensions.IDMap.Enabled, "netDevices": l.NetDevices.Enabled, "intelRdt": l.IntelRdt.Enabled,
		"intelRdt schemata": l.IntelRdt.Schemata, "intelRdt monitoring": l.IntelRdt.Monitoring, "apparmor": l.Apparmor.Enabled, "selinux": l.Selinux.Enabled} {
		if on == nil || !*on {
			t.Errorf("%s is not enabled", name)
		}
	}
	if len(l.MemoryPolicy.Modes) != 7 || len(l.MemoryPolicy.Flags) != 3 || !slices.Contains(l.Seccomp.Actions, "SCMP_ACT_NOTIFY") {
		t.Errorf("features: %+v, %+v", l.MemoryPolicy, l.Seccomp)
	}
	for _, o := range []string{"idmap", "ridmap", "tmpcopyup", "rro", "rbind"} {
		if !slices.Contains(f.MountOptions, o) {
			t.Errorf("mount option %s is missing", o)
		}
	}
	for _, n := range []string{"time", "user", "cgroup"} {
		if !slices.Contains(l.Namespaces, n) {
			t.Errorf("namespace %s is missing", n)
		}
	}
}
