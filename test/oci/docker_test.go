package oci

import (
	"os"
	"os/exec"
	"testing"
)

// TestDocker runs Debian's dockerd, with a containerd of its own, on the runtime.
func TestDocker(t *testing.T) {
	need(t, "dockerd", "containerd", "docker")
	dir := ownDir(t, "d")
	r := newRuntime(t, dir)
	socket := dir + "/sock"
	daemon(t, dir, socket, "dockerd",
		"--data-root", dir+"/data", "--exec-root", dir+"/x", "--pidfile", dir+"/pid", "--host", "unix://"+socket,
		"--bridge", "none", "--iptables=false", "--ip6tables=false", "--cgroup-parent", groupParent(t, "docker"),
		"--add-runtime", "tested="+r.path, "--default-runtime", "tested")
	// Debian's client belongs to Debian's daemon; another in the path may be newer.
	client := "/usr/bin/docker"
	if _, err := os.Stat(client); err != nil {
		if client, err = exec.LookPath("docker"); err != nil {
			t.Fatal(err)
		}
	}
	e := &engine{
		t: t, name: "docker", runtime: r,
		prefix: []string{client, "-H", "unix://" + socket},
		env:    []string{"DOCKER_BUILDKIT=0", "DOCKER_CONFIG=" + dir},
		flags:  []string{"--network", "none"},
		build:  []string{"--network", "none"},
		remove: []string{"rm", "-f"},
	}
	load(e)
	e.work(t)
}
