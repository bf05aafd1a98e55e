package oci

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vivarium/internal/testenv"
)

// TestPodman runs Debian's podman on the runtime.
func TestPodman(t *testing.T) {
	need(t, "podman", "conmon")
	dir := ownDir(t, "p")
	r := newRuntime(t, dir)
	e := &engine{
		t: t, name: "podman", runtime: r,
		prefix: []string{
			"podman", "--root", dir + "/root", "--runroot", dir + "/run", "--tmpdir", dir + "/tmp",
			"--network-config-dir", dir + "/net", "--storage-driver", "overlay",
			"--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", r.path,
		},
		flags: []string{
			"--network", "none", "--log-driver", "k8s-file", "--cgroup-parent", groupParent(t, "podman"),
			// Its defaults are above the hard limits of a machine without CAP_SYS_RESOURCE.
			"--ulimit", "nofile=1000:1000", "--ulimit", "nproc=1000:1000",
		},
		// Without -t it gives each container ten seconds to end by itself.
		remove: []string{"rm", "-f", "-t", "0"},
		build: []string{
			"--network", "none", "--isolation", "oci", "--cgroup-parent", groupParent(t, "buildah"),
			"--ulimit", "nofile=1000:1000", "--ulimit", "nproc=1000:1000",
		},
		env: []string{"BUILDAH_RUNTIME=" + r.path, "HOME=" + dir, "XDG_RUNTIME_DIR="},
	}
	load(e)
	e.work(t)
}

// load makes the test image known to an engine.
func load(e *engine) {
	e.t.Helper()
	out := e.must("load", "-i", testenv.Image(e.t, "busybox").Archive)
	_, ref, ok := strings.Cut(out, "Loaded image: ")
	if !ok {
		e.t.Fatalf("load said %q", out)
	}
	ref = strings.TrimSpace(ref)
	e.must("tag", ref, box)
	e.t.Cleanup(func() { e.must("rmi", "-f", box, ref) })
}

// TestBuildah builds and runs by buildah itself.
func TestBuildah(t *testing.T) {
	need(t, "buildah")
	dir := ownDir(t, "b")
	r := newRuntime(t, dir)
	e := &engine{
		t: t, name: "buildah", runtime: r,
		prefix: []string{"buildah", "--root", dir + "/root", "--runroot", dir + "/run", "--storage-driver", "overlay"},
		env:    []string{"BUILDAH_RUNTIME=" + r.path, "HOME=" + dir, "BUILDAH_ISOLATION=oci"},
	}
	id := e.must("from", "--ulimit", "nofile=1000:1000", "--ulimit", "nproc=1000:1000", "--cgroup-parent", groupParent(t, "buildah"),
		"--network", "none", "docker-archive:"+testenv.Image(t, "busybox").Archive)
	t.Cleanup(func() { e.must("rm", id) })
	want(t, e.do("run", "--runtime", r.path, id, "--", "sh", "-c", "echo made >/made; id -u"), 0, "0\n")
	want(t, e.do("run", "--runtime", r.path, "--user", "alice", "--tty=false", id, "--", "sh", "-c", "cat /made; id -u"), 0, "made\n1000\n")
	if res := e.do("run", "--runtime", r.path, id, "--", "sh", "-c", "exit 9"); res.Code != 9 {
		t.Errorf("%v", res)
	}
	c := e.command("run", "--runtime", r.path, "--tty", id, "--", "sh", "-c", "test -t 0 && echo a terminal")
	c.Terminal = true
	if res := c.Run(); res.Code != 0 || !strings.Contains(res.Stdout, "a terminal") {
		t.Errorf("%v", res)
	}
	root := e.must("mount", id)
	if _, err := os.Stat(filepath.Join(root, "made")); err != nil {
		t.Error(err)
	}
	e.must("umount", id)
	r.wasAsked("create", "start", "delete")
}
