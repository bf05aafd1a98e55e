package main_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// hookBox is a container with one hook of each kind. Each appends to a file
// what it saw: its kind, the status and the pid that it was told, its root and
// its host name.
func hookBox(t *testing.T) (b *box, log string) {
	b = newBox(t, sh("echo command - - >>/hooklog; exec sleep 1000")...)
	rootfs := filepath.Join(b.bundle, "rootfs")
	log = filepath.Join(rootfs, "hooklog")
	hook := func(kind, file, inside string) []specs.Hook {
		script := `read -r state; status=${state#*'"status":"'}; status=${status%%'"'*}
[ -e ` + inside + ` ] && where=host || where=container
echo "$0 $status $where $(busybox readlink /proc/self/ns/mnt) $ONLY $#" >>` + file
		return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", script, kind, "x"}, Env: []string{"ONLY=this", "PATH=/bin:/usr/bin"}}}
	}
	b.spec.Hooks = &specs.Hooks{
		//lint:ignore SA1019 old specs carry it, and Docker 20.10 writes it
		Prestart:        hook("prestart", log, rootfs),
		CreateRuntime:   hook("createRuntime", log, rootfs),
		CreateContainer: hook("createContainer", log, rootfs),
		StartContainer:  hook("startContainer", "/hooklog", rootfs),
		Poststart:       hook("poststart", log, rootfs),
		Poststop:        hook("poststop", log+".stop", rootfs),
	}
	b.save()
	return b, log
}

func lines(t *testing.T, file string) []string {
	t.Helper()
	raw, err := os.ReadFile(file)
	must(t, err)
	var out []string
	for line := range strings.Lines(string(raw)) {
		out = append(out, strings.Join(strings.Fields(line), " "))
	}
	return out
}

// wantHooks compares kind, status, whose root it was, and whether the mount
// namespace was the host's.
func wantHooks(t *testing.T, file string, want ...string) {
	t.Helper()
	host, err := os.Readlink("/proc/self/ns/mnt")
	must(t, err)
	got := lines(t, file)
	for i := range got {
		f := strings.Fields(got[i])
		if len(f) == 6 && f[3] == host {
			f[3] = "outside"
		} else if len(f) == 6 {
			f[3] = "inside"
		}
		got[i] = strings.Join(f, " ")
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("hooks ran so:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestHooks(t *testing.T) {
	if reference != "" {
		t.Skip("runc 1.1 runs poststart hooks in create")
	}
	b, log := hookBox(t)
	pid := b.create()
	created := []string{"prestart created host outside this 1", "createRuntime creating host outside this 1", "createContainer creating host inside this 1"}
	wantHooks(t, log, created...)
	b.must("exec", b.id, "true")
	b.must("start", b.id)
	b.eventually("the command has run", func() bool { return len(lines(t, log)) == 6 })
	got := lines(t, log)
	if !strings.HasPrefix(got[3], "startContainer created container mnt:") {
		t.Errorf("the startContainer hook: %q", got[3])
	}
	if rest := strings.Join(got[4:], "\n"); !strings.Contains(rest, "command - -") || !strings.Contains(rest, "poststart running host") {
		t.Errorf("after start: %q", rest)
	}
	b.must("kill", b.id, "KILL")
	b.reap(pid)
	b.must("delete", b.id)
	wantHooks(t, log+".stop", "poststop stopped host outside this 1")
}

func TestHooksOfRun(t *testing.T) {
	b, log := hookBox(t)
	b.spec.Process.Args = sh("echo command - - >>/hooklog")
	b.spec.Hooks.Poststart = nil
	b.save()
	b.must("run", "-b", b.bundle, b.id)
	prestart := "prestart created host outside this 1"
	if reference == "runc" { // which says what is so, not what was to be
		prestart = "prestart creating host outside this 1"
	}
	wantHooks(t, log, prestart, "createRuntime creating host outside this 1", "createContainer creating host inside this 1",
		"startContainer created container inside this 1", "command - -")
	wantHooks(t, log+".stop", "poststop stopped host outside this 1")
}

// TestHookFails: a hook that fails ends the container, and says which it was.
func TestHookFails(t *testing.T) {
	bad := []specs.Hook{{Path: "/bin/true"}, {Path: "/bin/sh", Args: []string{"sh", "-c", "echo broken >&2; exit 3"}}}
	for _, c := range []struct {
		kind string
		put  func(*specs.Hooks)
		verb string
	}{
		//lint:ignore SA1019 old specs carry it, and Docker 20.10 writes it
		{"prestart", func(h *specs.Hooks) { h.Prestart = bad }, "create"},
		{"createRuntime", func(h *specs.Hooks) { h.CreateRuntime = bad }, "create"},
		{"createContainer", func(h *specs.Hooks) { h.CreateContainer = bad }, "create"},
		{"startContainer", func(h *specs.Hooks) { h.StartContainer = bad }, "start"},
		{"poststart", func(h *specs.Hooks) { h.Poststart = bad }, "start"},
		{"poststop", func(h *specs.Hooks) { h.Poststop = bad }, "delete"},
	} {
		t.Run(c.kind, func(t *testing.T) {
			if reference != "" && c.verb == "start" {
				t.Skip("runc 1.1 does not tell, and runs poststart hooks in create")
			}
			b := newBox(t, "sleep", "1000")
			b.spec.Hooks = &specs.Hooks{}
			c.put(b.spec.Hooks)
			b.save()
			switch c.verb {
			case "create":
				r := b.cmd("create", "-b", b.bundle, b.id)
				wantHookError(t, r, c.kind, 1)
				b.fails(1, "container does not exist", "state", b.id)
				b.nothingLeft()
			case "start":
				b.must("create", "-b", b.bundle, b.id)
				wantHookError(t, b.cmd("start", b.id), c.kind, 1)
				b.fails(1, "container does not exist", "state", b.id)
				b.nothingLeft()
			case "delete":
				b.must("create", "-b", b.bundle, b.id)
				wantHookError(t, b.cmd("delete", b.id), c.kind, 0) // a warning
				b.nothingLeft()
			}
		})
	}
}

func wantHookError(t *testing.T, r result, kind string, code int) {
	t.Helper()
	if r.code != code || reference == "" && (!strings.Contains(r.err, "error running "+kind+" hook #1: exit status 3") || !strings.Contains(r.err, "broken")) {
		t.Errorf("exit code %d and %q", r.code, r.err)
	}
}

func TestHookTimeout(t *testing.T) {
	one := 1
	for _, inside := range []bool{false, true} {
		b := newBox(t, "sleep", "1000")
		h := []specs.Hook{{Path: "/bin/sleep", Args: []string{"sleep", "1000"}, Timeout: &one}}
		b.spec.Hooks = &specs.Hooks{CreateRuntime: h}
		if inside {
			b.spec.Hooks = &specs.Hooks{CreateContainer: h}
		}
		b.save()
		b.fails(1, "hook #0", "create", "-b", b.bundle, b.id)
		b.nothingLeft()
	}
}

// TestHookState: what a hook reads is the OCI state, with the annotations.
func TestHookState(t *testing.T) {
	b := newBox(t, "true")
	file := filepath.Join(t.TempDir(), "state")
	b.spec.Annotations = map[string]string{"a": "b"}
	b.spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/dd", Args: []string{"dd", "of=" + file}}}}
	b.save()
	b.must("run", "-b", b.bundle, b.id)
	raw, err := os.ReadFile(file)
	must(t, err)
	var s specs.State
	must(t, json.Unmarshal(raw, &s))
	if s.ID != b.id || s.Status != "creating" || s.Pid == 0 || s.Bundle != b.bundle || s.Version == "" || s.Annotations["a"] != "b" {
		t.Errorf("state %s", raw)
	}
}
