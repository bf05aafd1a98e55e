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
	t.Run("user namespace", func(t *testing.T) { podmanUserNS(t, e.on(t)) })
	t.Run("pod", func(t *testing.T) { podmanPod(t, e.on(t)) })
	t.Run("hooks", func(t *testing.T) { podmanHooks(t, e.on(t)) })
	t.Run("descriptors", func(t *testing.T) { podmanDescriptors(t, e.on(t)) })
}

func podmanUserNS(t *testing.T, e *engine) {
	// The root of the namespace has to get to its root file system.
	for dir := filepath.Dir(e.runtime.path); ; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o711); err != nil {
			t.Fatal(err)
		}
		if dir == os.TempDir() {
			break
		}
	}
	flags := []string{"--uidmap", "0:100000:5000", "--gidmap", "0:200000:5000"}
	res := e.run(append(flags, "--rm", box, "sh", "-c", "id -u; cat /proc/self/uid_map /proc/self/gid_map; touch /mine && ls -ln /mine")...).Run()
	if got := strings.Join(strings.Fields(res.Stdout), " "); res.Code != 0 || !strings.HasPrefix(got, "0 0 100000 5000 0 200000 5000 -rw-r--r-- 1 0 0 ") {
		t.Errorf("%v", res)
	}
	id := e.start(append(flags, box, "sleep", "1000")...)
	want(t, e.do("exec", "-u", "1000", id, "sh", "-c", "id -u"), 0, "1000\n")
	// A second one shares it, by path.
	res = e.run("--rm", "--userns", "container:"+id, box, "cat", "/proc/self/uid_map").Run()
	if got := strings.Join(strings.Fields(res.Stdout), " "); res.Code != 0 || got != "0 100000 5000" {
		t.Errorf("%v", res)
	}
}

// podmanPod: containers share the namespaces of one that waits.
func podmanPod(t *testing.T, e *engine) {
	var flags []string
	for i := 0; i < len(e.flags); i += 2 {
		if f := e.flags[i]; f == "--network" || f == "--cgroup-parent" {
			flags = append(flags, f, e.flags[i+1])
		}
	}
	// The pod's own container takes no limits, so it has to be given podman's.
	conf := filepath.Join(filepath.Dir(e.runtime.path), "containers.conf")
	if err := os.WriteFile(conf, []byte("[containers]\ndefault_ulimits = [\"nofile=1000:1000\", \"nproc=1000:1000\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	e.env = append(e.env, "CONTAINERS_CONF="+conf)
	pod := e.must(append(append([]string{"pod", "create"}, flags...), "--infra-image", box, "--infra-command", "sleep 1000", "--hostname", "shared", "--share", "ipc,net,uts,pid")...)
	t.Cleanup(func() { e.must("pod", "rm", "-f", "-t", "0", pod) })
	var rest []string
	for i := 0; i < len(e.flags); i += 2 {
		if f := e.flags[i]; f == "--ulimit" || f == "--log-driver" {
			rest = append(rest, f, e.flags[i+1])
		}
	}
	res := e.do(append(append([]string{"run", "--rm", "--pod", pod}, rest...), box, "sh", "-c", "hostname; ps | grep -c '[s]leep 1000'")...)
	want(t, res, 0, "shared\n1\n")
}

// podmanHooks: hooks of a directory reach the specification, and are run.
func podmanHooks(t *testing.T, e *engine) {
	dir := t.TempDir()
	hook := filepath.Join(dir, "hook")
	if err := os.WriteFile(hook, []byte("#!/bin/sh\nexec cat >>"+dir+"/$1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	stages := []string{"prestart", "createRuntime", "poststart", "poststop"}
	for _, stage := range stages {
		text := `{"version": "1.0.0", "hook": {"path": "` + hook + `", "args": ["hook", "` + stage + `"]}, "when": {"always": true}, "stages": ["` + stage + `"]}`
		if err := os.WriteFile(filepath.Join(dir, stage+".json"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	e.prefix = append(e.prefix, "--hooks-dir", dir)
	id := e.start("--annotation", "a=b", box, "true")
	e.must("wait", id)
	e.must("rm", "-f", "-i", id)
	for _, stage := range stages {
		text, err := os.ReadFile(filepath.Join(dir, stage))
		if err != nil || !strings.Contains(string(text), `"id":"`+id) || !strings.Contains(string(text), `"a":"b"`) {
			t.Errorf("the hook of %s read %q: %v", stage, text, err)
		}
	}
}

// podmanDescriptors: a descriptor of the caller is handed on, to run and to exec.
func podmanDescriptors(t *testing.T, e *engine) {
	script := `exec "$@" 3</proc/self/comm` // its reader is podman by then
	shell := func(args ...string) testenv.Result {
		c := testenv.Tool(t, "sh", append(append([]string{"-c", script, "sh"}, e.prefix...), args...)...)
		c.Env = e.env
		return c.Run()
	}
	want(t, shell(append(append([]string{"run"}, e.flags...), "--rm", "--preserve-fds", "1", box, "sh", "-c", "cat <&3")...), 0, "podman\n")
	id := e.start(box, "sleep", "1000")
	want(t, shell("exec", "--preserve-fds", "1", id, "sh", "-c", "cat <&3"), 0, "podman\n")
	want(t, shell("exec", id, "sh", "-c", "test -e /proc/self/fd/3 || echo none"), 0, "none\n")
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
	want(t, e.do("run", "--runtime", r.path, "--user", "app", "--tty=false", id, "--", "sh", "-c", "cat /made; id -u"), 0, "made\n1000\n")
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
