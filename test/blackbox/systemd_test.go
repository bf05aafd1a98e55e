package blackbox

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vivarium/internal/testenv"
)

// TestSystemdMakesTheGroups runs systemd itself in a container of ours, and in
// there the OCI runtime with --systemd-cgroup: the container is a unit of it, whose
// limits systemd knows, keeps when it reloads, and forgets with the unit.
func TestSystemdMakesTheGroups(t *testing.T) {
	e := newHost(t)
	const systemd = "/lib/systemd/systemd"
	if _, err := os.Stat(systemd); err != nil {
		t.Fatalf("%v (test/install-deps installs what tests need)", err)
	}
	dir := t.TempDir()
	// A goal of its own: none of the machine's units is started.
	write(t, dir+"/viv-test.target", "[Unit]\nDescription=nothing\nDefaultDependencies=no\n")
	bundle(t, dir+"/bundle", "test-viv.slice:viv:one")
	id := detached(t, e, "--privileged", "--cgroupns", "private", "--network", "none", "--tmpfs", "/run", "--stop-signal", "RTMIN+3", "-e", "container=viv",
		"-v", dir+"/viv-test.target:/etc/systemd/system/viv-test.target:ro", "-v", dir+"/bundle:/opt/bundle",
		"-v", filepath.Dir(testenv.Binary(t, "viv-oci"))+":/opt/viv:ro", "host", systemd, "--unit=viv-test.target")
	inside := func(args ...string) string {
		t.Helper()
		return e.MustViv(append([]string{"exec", id}, args...)...)
	}
	oci := func(args ...string) string {
		t.Helper()
		return inside(append([]string{"/opt/viv/viv-oci", "--root", "/run/oci", "--systemd-cgroup"}, args...)...)
	}
	eventually(t, "systemd to be up", func() bool {
		return strings.Contains(e.Viv("exec", id, "systemctl", "is-system-running").Stdout, "running")
	})
	oci("run", "-d", "-b", "/opt/bundle", "one")
	const unit, group = "viv-one.scope", "/test.slice/test-viv.slice/viv-one.scope"
	show := func(property string) string {
		t.Helper()
		return inside("systemctl", "show", "--value", "-p", property, unit)
	}
	check := func(when string, limit, tasks string) {
		t.Helper()
		for property, want := range map[string]string{"ActiveState": "active", "ControlGroup": group, "Slice": "test-viv.slice",
			"MemoryLimit": limit, "TasksMax": tasks, "CPUQuotaPerSecUSec": "500ms"} {
			if got := show(property); got != want {
				t.Errorf("%s: %s is %q, want %q", when, property, got, want)
			}
		}
		if got := inside("cat", "/sys/fs/cgroup/memory"+group+"/memory.limit_in_bytes"); got != limit {
			t.Errorf("%s: the group's limit is %s, want %s", when, got, limit)
		}
		if got := inside("cat", "/sys/fs/cgroup/devices"+group+"/devices.list"); !strings.Contains(got, "c 1:3 rwm") || strings.Contains(got, "a *:* rwm") {
			t.Errorf("%s: devices that the container may use: %q", when, got)
		}
	}
	check("after run", "67108864", "20")
	inside("systemctl", "daemon-reload")
	check("after a reload", "67108864", "20")
	oci("update", "--memory", "33554432", "--pids-limit", "11", "one")
	inside("systemctl", "daemon-reload")
	check("after an update", "33554432", "11")
	if got := oci("exec", "one", "sh", "-c", "cat /proc/self/cgroup"); !strings.Contains(got, ":memory:"+group) && !strings.Contains(got, ":memory:/\n") {
		t.Errorf("exec is in other groups: %s", got)
	}
	oci("kill", "one", "KILL")
	oci("delete", "-f", "one")
	if got := show("LoadState"); got != "not-found" {
		t.Errorf("the unit is %s after delete", got)
	}
	if got := inside("find", "/sys/fs/cgroup", "-name", unit); got != "" {
		t.Errorf("groups are left: %s", got)
	}
	e.MustViv("rm", "-f", id)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// bundle makes an OCI bundle of busybox, with limits.
func bundle(t *testing.T, dir, cgroupsPath string) {
	t.Helper()
	if err := os.MkdirAll(dir+"/rootfs/bin", 0o755); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/rootfs/bin/busybox", program, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "cat", "sleep"} {
		if err := os.Symlink("busybox", dir+"/rootfs/bin/"+name); err != nil {
			t.Fatal(err)
		}
	}
	namespaces := []map[string]string{}
	for _, kind := range []string{"pid", "mount", "ipc", "uts", "network"} {
		namespaces = append(namespaces, map[string]string{"type": kind})
	}
	spec, err := json.Marshal(map[string]any{
		"ociVersion": "1.2.0",
		"root":       map[string]any{"path": "rootfs"},
		"process":    map[string]any{"args": []string{"sleep", "1000"}, "env": []string{"PATH=/bin"}, "cwd": "/"},
		"mounts":     []map[string]any{{"destination": "/proc", "type": "proc", "source": "proc"}},
		"linux": map[string]any{
			"cgroupsPath": cgroupsPath, "namespaces": namespaces,
			"resources": map[string]any{
				"devices": []map[string]any{{"allow": false, "access": "rwm"}},
				"memory":  map[string]any{"limit": 64 << 20}, "pids": map[string]any{"limit": 20},
				"cpu": map[string]any{"quota": 50000, "period": 100000},
			},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/config.json", string(spec))
}
