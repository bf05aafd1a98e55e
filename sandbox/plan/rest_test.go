package plan

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"vivarium/sandbox/cgroup"
)

func TestParseList(t *testing.T) {
	for list, want := range map[string]string{"": "", "0": "0x1", "0-3,7": "0x8f", "1, 3": "0xa", "63": "0x8000000000000000"} {
		if got := AffinityMask(list); got != want {
			t.Errorf("%q: %s, want %s", list, got, want)
		}
	}
	if m, err := parseList("64-65"); err != nil || len(m) != 16 || m[8] != 3 {
		t.Errorf("64-65: %v, %v", m, err)
	}
	for _, bad := range []string{"x", "3-1", "0-9876543210", "-1", "99999", "1-"} {
		if m, err := parseList(bad); err == nil {
			t.Errorf("%q: %v", bad, m)
		}
	}
}

func TestHasSchema(t *testing.T) {
	const now = "    MB:0= 20;1= 70\n    L3:0=00f;1=fff\n"
	for want, ok := range map[string]bool{"L3:0=f": true, "L3:0=F;1=fff": true, "L3:1=f": false, "MB:1=70": true, "MB:0=70": false, "L2:0=f": false, "L3:2=f": false} {
		if got := hasSchema(now, want); got != ok {
			t.Errorf("%s: %v", want, got)
		}
	}
}

// TestRdtClass: a class that exists is as the older fields say.
func TestRdtClass(t *testing.T) {
	top := t.TempDir()
	if err := os.Mkdir(filepath.Join(top, "gold"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(top, "gold/schemata"), []byte("L3:0=f;1=f\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		rdt  specs.LinuxIntelRdt
		want string // of the error
		dirs int
	}{
		{specs.LinuxIntelRdt{ClosID: "gold"}, "", 0},
		{specs.LinuxIntelRdt{ClosID: "gold", L3CacheSchema: "L3:0=f"}, "", 0},
		{specs.LinuxIntelRdt{ClosID: "gold", L3CacheSchema: "L3:0=7"}, "differ", 0},
		{specs.LinuxIntelRdt{ClosID: "gold", Schemata: []string{"L3:0=7"}, EnableMonitoring: true}, "", 1},
		{specs.LinuxIntelRdt{ClosID: "new", L3CacheSchema: "L3:0=7"}, "", 0},
		{specs.LinuxIntelRdt{EnableMonitoring: true}, "", 2},
		{specs.LinuxIntelRdt{}, "", 1},
		{specs.LinuxIntelRdt{ClosID: "/", MemBwSchema: "MB:0=10"}, "", 0},
	} {
		s, o := testSpec(), testOptions()
		s.Linux.IntelRdt, o.Resctrl = &c.rdt, top
		p, err := Compile(s, o)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v", c.rdt, err)
		}
		if err == nil && len(p.RdtDirs()) != c.dirs {
			t.Errorf("%+v: to be removed: %q", c.rdt, p.RdtDirs())
		}
	}
}

// TestDelegate: the group is given away only where all that the spec names holds.
func TestDelegate(t *testing.T) {
	const chown = `fchownat(AT_FDCWD, "/cg/viv/box/cgroup.procs", `
	user := func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		s.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: 100000, Size: 10}}
		s.Linux.GIDMappings = s.Linux.UIDMappings
		s.Process.User.UID = 3
	}
	for _, c := range []struct {
		name   string
		change func(*specs.Spec, *Options)
		owner  string
	}{
		{"as it is", func(*specs.Spec, *Options) {}, "1000"},
		{"user namespace", func(s *specs.Spec, _ *Options) { user(s) }, "100003"},
		{"a user without an id", func(s *specs.Spec, _ *Options) { user(s); s.Process.User.UID = 11 }, ""},
		{"root", func(s *specs.Spec, _ *Options) { s.Process.User.UID = 0 }, ""},
		{"read-only", func(s *specs.Spec, _ *Options) { s.Mounts[len(s.Mounts)-1].Options = []string{"ro"} }, ""},
		{"not shown", func(s *specs.Spec, _ *Options) { s.Mounts = s.Mounts[:len(s.Mounts)-1] }, ""},
		{"no cgroup namespace", func(s *specs.Spec, _ *Options) { s.Linux.Namespaces = s.Linux.Namespaces[:5] }, ""},
		{"v1", func(_ *specs.Spec, o *Options) { o.Layout = testOptions().Layout }, ""},
	} {
		s, o := testSpec(), testOptions()
		o.Layout = &cgroup.Layout{Hierarchies: []cgroup.Hierarchy{{Mount: "/cg", V2: true}}}
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup"})
		c.change(s, &o)
		p, err := Compile(s, o)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if c.owner == "" && strings.Contains(p.Text(), "fchownat(AT_FDCWD") || c.owner != "" && !strings.Contains(p.Text(), chown+c.owner+", -1, ") {
			t.Errorf("%s: the owner is to be %q, but\n%s", c.name, c.owner, p.Text())
		}
	}
}
