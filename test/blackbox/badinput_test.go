package blackbox

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"vivarium/internal/testenv"
)

// badRun is a `run` that cannot be done, with words of the reason.
type badRun struct {
	args  []string
	words []string
	// reference says why Docker does not refuse this, or not in these words.
	reference string
}

// leavesNothing runs what must fail, and compares what the engine holds with before.
func leavesNothing(t *testing.T, e *testenv.Instance, fail func()) {
	t.Helper()
	look := func() []string {
		var all []string
		for _, list := range [][]string{{"ps", "-aq", "--no-trunc"}, {"volume", "ls", "-q"}, {"images", "-aq", "--no-trunc"}} {
			all = append(all, strings.Fields(e.MustViv(list...))...)
		}
		slices.Sort(all) // images of one age come in any order
		return all
	}
	before := look()
	var leaks []string
	if !e.Reference {
		leaks = e.Leaks() // of containers that are there
	}
	fail()
	if after := look(); !slices.Equal(before, after) {
		t.Errorf("containers, volumes and images were %q and are %q", before, after)
	}
	if e.Reference {
		return
	}
	// The kernel takes its time with a network namespace, and so with its links.
	eventually(t, "nothing to be left behind", func() bool { return len(e.Leaks()) <= len(leaks) })
}

func refuse(t *testing.T, e *testenv.Instance, list []badRun) {
	t.Helper()
	for _, c := range list {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			if c.reference != "" {
				vivOnly(t, c.reference)
			}
			leavesNothing(t, e, func() {
				fails(t, e.Viv(slices.Concat([]string{"run", "--rm"}, c.args, []string{box, "true"})...), 125, c.words...)
			})
		})
	}
}

func TestNonsenseLimits(t *testing.T) {
	e := newBox(t)
	refuse(t, e, []badRun{
		{args: []string{"-m", "1"}, words: []string{"minimum memory limit"}},
		{args: []string{"-m", "-5"}, words: []string{"-5", "memory"}},
		{args: []string{"--cpus", "-1"}, words: []string{"range of cpus"}},
		{args: []string{"--cpus", "1000"}, words: []string{"range of cpus"}},
		{args: []string{"--cpus", "x"}, words: []string{"x", "--cpus"}},
		{args: []string{"--cpuset-cpus", "999"}, words: []string{"not available", "999"}},
		{args: []string{"--cpuset-cpus", "a"}, words: []string{"invalid value a for cpuset cpus"}},
		{args: []string{"--cpuset-mems", "700"}, words: []string{"not available", "700"}},
		{args: []string{"--cpu-shares", "-1"}, words: []string{"shares"}},
		{args: []string{"--cpu-period", "1"}, words: []string{"cfs period"}},
		{args: []string{"--cpu-quota", "5"}, words: []string{"cfs quota"}},
		{args: []string{"--cpus", "1", "--cpu-quota", "50000"}, words: []string{"conflicting options"}},
		{args: []string{"--pids-limit", "x"}, words: []string{"--pids-limit"}},
		{args: []string{"-m", "64m", "--memory-swap", "32m"}, words: []string{"memoryswap"}},
		{args: []string{"--memory-swap", "64m"}, words: []string{"memoryswap"}},
		{args: []string{"-m", "64m", "--memory-reservation", "128m"}, words: []string{"reservation"}},
		{args: []string{"--memory-swappiness", "101"}, words: []string{"0-100"}},
		{args: []string{"--blkio-weight", "5"}, words: []string{"10 to 1000"}, reference: "where the kernel has no weight, Docker warns and runs"},
		{args: []string{"--blkio-weight-device", "/dev/null:5"}, words: []string{"weight", "/dev/null:5"}},
		{args: []string{"--device-read-bps", "/dev/null:x"}, words: []string{"rate", "/dev/null:x"}},
		{args: []string{"--device-write-iops", "/dev/null:-1"}, words: []string{"rate", "/dev/null:-1"}},
		{args: []string{"--device-read-bps", "no/dev:1mb"}, words: []string{"no/dev:1mb"}},
		{args: []string{"--ulimit", "nofile"}, words: []string{"ulimit", "nofile"}},
		{args: []string{"--ulimit", "nofile=20:10"}, words: []string{"20 > 10"}},
		{args: []string{"--ulimit", "nosuch=1"}, words: []string{"nosuch"}},
		{args: []string{"--ulimit", "nofile=x"}, words: []string{"nofile=x"}},
		{args: []string{"--oom-score-adj", "2000"}, words: []string{"2000", "[-1000, 1000]"}},
		{args: []string{"--shm-size", "x"}, words: []string{"--shm-size"}},
		{args: []string{"--stop-timeout", "x"}, words: []string{"--stop-timeout"}},
		{args: []string{"--stop-signal", "x"}, words: []string{"invalid signal"}},
	})
}

func TestNonsenseIsolation(t *testing.T) {
	e := newBox(t)
	broken := filepath.Join(t.TempDir(), "profile")
	if err := os.WriteFile(broken, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	refuse(t, e, []badRun{
		{args: []string{"--sysctl", "vm.swappiness=1"}, words: []string{"vm.swappiness"}},
		{args: []string{"--sysctl", "kernel.hostname=x"}, words: []string{"kernel.hostname"}},
		{args: []string{"--sysctl", "nonsense"}, words: []string{"nonsense"}},
		{args: []string{"--sysctl", "kernel.shmmax=abc"}, words: []string{"shmmax", "invalid argument"}},
		{args: []string{"--sysctl", "net.ipv4.nosuch=1"}, words: []string{"nosuch"}, reference: "20.10 takes it for a missing command"},
		{args: []string{"--network", "host", "--sysctl", "net.ipv4.ip_forward=1"}, words: []string{"net.ipv4.ip_forward", "host"}},
		{args: []string{"--cap-add", "fly"}, words: []string{"CAP_FLY"}},
		{args: []string{"--cap-drop", "fly"}, words: []string{"CAP_FLY"}},
		{args: []string{"--security-opt", "x"}, words: []string{"--security-opt"}},
		{args: []string{"--security-opt", "seccomp=/no/such/profile"}, words: []string{"/no/such/profile"}},
		{args: []string{"--security-opt", "seccomp=" + broken}, words: []string{"profile", "json"}},
		{args: []string{"--pid", "x"}, words: []string{"pid mode"}},
		{args: []string{"--pid", "container:no-such-container"}, words: []string{"no-such-container"}},
		{args: []string{"--ipc", "x"}, words: []string{"ipc mode"}},
		{args: []string{"--uts", "x"}, words: []string{"uts mode"}},
		{args: []string{"--userns", "x"}, words: []string{"user mode"}},
		{args: []string{"--cgroupns", "x"}, words: []string{"cgroup mode"}},
		{args: []string{"--device", "x"}, words: []string{"not an absolute path"}},
		{args: []string{"--device", "/dev/null:/x:zz"}, words: []string{"mode", "zz"}},
		{args: []string{"--device-cgroup-rule", "z 1:1 r"}, words: []string{"z 1:1 r"}},
		{args: []string{"-u", "nobody-we-know"}, words: []string{"unable to find user nobody-we-know"}},
		{args: []string{"-u", "1:no-such-group"}, words: []string{"unable to find group no-such-group"}},
		{args: []string{"-u", "99999999999"}, words: []string{"0-2147483647"}},
		{args: []string{"--group-add", "no-such-group"}, words: []string{"unable to find group no-such-group"}},
	})
}

func TestNonsenseFiles(t *testing.T) {
	e := newBox(t)
	taken := filepath.Join(t.TempDir(), "taken")
	if err := os.WriteFile(taken, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const later = "20.10 takes it, later versions refuse"
	refuse(t, e, []badRun{
		{args: []string{"-v", "relative"}, words: []string{"absolute"}, reference: later},
		{args: []string{"-v", ""}, words: []string{"volume specification"}, reference: later},
		{args: []string{"-v", ":/x"}, words: []string{"volume specification"}, reference: later},
		{args: []string{"-v", "/a:"}, words: []string{"'/a:'"}},
		{args: []string{"-v", "/a:b"}, words: []string{"absolute"}},
		{args: []string{"-v", "/a:/"}, words: []string{"destination can't be '/'"}},
		{args: []string{"-v", "/a:/b:zz"}, words: []string{"invalid mode: zz"}},
		{args: []string{"-v", "/a:/b:ro:rw"}, words: []string{"/a:/b:ro:rw"}},
		{args: []string{"-v", "a/b:/c"}, words: []string{"invalid characters"}},
		{args: []string{"-v", "/etc:/b", "-v", "/usr:/b"}, words: []string{"duplicate mount point: /b"}},
		{args: []string{"--volumes-from", "no-such-container"}, words: []string{"no-such-container"}},
		{args: []string{"--mount", "x"}, words: []string{"key=value"}},
		{args: []string{"--mount", ""}, words: []string{"--mount"}},
		{args: []string{"--mount", "type=moon,dst=/x"}, words: []string{"mount type unknown"}},
		{args: []string{"--mount", "type=bind,dst=/x"}, words: []string{"source must not be empty"}},
		{args: []string{"--mount", "type=bind,src=/no/such/dir,dst=/x"}, words: []string{"/no/such/dir"}},
		{args: []string{"--mount", "type=bind,src=relative,dst=/x"}, words: []string{"absolute"}},
		{args: []string{"--mount", "type=bind,src=/etc,dst=/x,nosuch=1"}, words: []string{"nosuch"}},
		{args: []string{"--mount", "type=tmpfs,src=a,dst=/x"}, words: []string{"source must not be specified"}},
		{args: []string{"--mount", "type=tmpfs,dst=/x,tmpfs-size=abc"}, words: []string{"tmpfs-size"}},
		{args: []string{"--tmpfs", "x"}, words: []string{"absolute"}},
		{args: []string{"--tmpfs", "/x:nonsense"}, words: []string{"tmpfs option", "nonsense"}},
		{args: []string{"--tmpfs", "/x:size=abc"}, words: []string{"/x", "invalid argument"}},
		{args: []string{"-w", "relative"}, words: []string{"absolute path"}},
		{args: []string{"-w", "/etc/passwd"}, words: []string{"/etc/passwd", "not a directory"}},
		{args: []string{"--cidfile", taken}, words: []string{"container id file found", taken}},
		{args: []string{"--cidfile", "/no/such/dir/cid"}, words: []string{"/no/such/dir/cid"}, reference: "20.10 takes it for a missing command"},
		{args: []string{"--platform", "moon"}, words: []string{"unknown operating system or architecture"}},
	})
	for _, dir := range []string{"/a", "/b"} {
		if _, err := os.Lstat(dir); err == nil {
			t.Errorf("a refused run made %s on the host", dir)
			_ = os.Remove(dir)
		}
	}
}

func TestNonsenseNetwork(t *testing.T) {
	e := newBox(t)
	refuse(t, e, []badRun{
		{args: []string{"-p", "x"}, words: []string{"containerport: x"}},
		{args: []string{"-p", "70000:80"}, words: []string{"hostport: 70000"}},
		{args: []string{"-p", "80:70000"}, words: []string{"containerport: 70000"}},
		{args: []string{"-p", "1-3:1-2"}, words: []string{"invalid ranges"}},
		{args: []string{"-p", "3-1:80"}, words: []string{"hostport: 3-1"}},
		{args: []string{"-p", "1.2.3:80:80"}, words: []string{"ip address: 1.2.3"}},
		{args: []string{"-p", "80/icmp"}, words: []string{"proto: icmp"}},
		{args: []string{"-p", "80:80:80:80"}, words: []string{"ip address"}},
		{args: []string{"-p", ""}, words: []string{"no port specified"}},
		{args: []string{"-p", "192.0.2.1:80:80"}, words: []string{"192.0.2.1:80"}, reference: "the reference runs without a network"},
		{args: []string{"--expose", "x"}, words: []string{"--expose: x"}},
		{args: []string{"--expose", "80-70"}, words: []string{"--expose: 80-70"}},
		{args: []string{"--expose", "80:80"}, words: []string{"--expose: 80:80"}},
		{args: []string{"--ip", "x"}, words: []string{"x"}, reference: "the reference runs without a network"},
		{args: []string{"--ip", "10.0.0.999"}, words: []string{"10.0.0.999"}, reference: "the reference runs without a network"},
		{args: []string{"--ip", "192.0.2.1"}, words: []string{"192.0.2.1"}, reference: "the reference runs without a network"},
		{args: []string{"--network", "none", "--ip", "10.0.0.1"}, words: []string{"ip"}},
		{args: []string{"--network", ""}, words: []string{"no name set for network"}},
		{args: []string{"--network", "no-such-network"}, words: []string{"no-such-network"}},
		{args: []string{"--network", "container:"}, words: []string{"container format"}},
		{args: []string{"--network", "container:no-such-container"}, words: []string{"no-such-container"}},
		{args: []string{"--network", "container:no-such-container", "-p", "80:80"}, words: []string{"conflicting options"}},
		{args: []string{"--mac-address", "zz"}, words: []string{"not a valid mac address"}},
		{args: []string{"--dns", "x"}, words: []string{"ip address"}},
		{args: []string{"--add-host", "x"}, words: []string{"add-host"}},
		{args: []string{"--add-host", "x:1.2"}, words: []string{"add-host", "1.2"}},
		{args: []string{"-h", strings.Repeat("x", 70)}, words: []string{"invalid"}},
	})
}

func TestNonsenseSettings(t *testing.T) {
	e := newBox(t)
	dir := t.TempDir()
	for name, text := range map[string]string{"space": "A B=c\n", "nameless": "=x\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	refuse(t, e, []badRun{
		{args: []string{"-e", ""}, words: []string{"environment variable"}},
		{args: []string{"-e", "=x"}, words: []string{"environment variable: =x"}},
		{args: []string{"--env-file", "/no/such/env"}, words: []string{"/no/such/env"}},
		{args: []string{"--env-file", dir}, words: []string{"is a directory"}},
		{args: []string{"--env-file", filepath.Join(dir, "space")}, words: []string{"variable 'A B' contains whitespaces"}},
		{args: []string{"--env-file", filepath.Join(dir, "nameless")}, words: []string{"no variable name"}},
		{args: []string{"-l", "=x"}, words: []string{"empty name"}},
		{args: []string{"--label-file", "/no/such/labels"}, words: []string{"/no/such/labels"}},
		{args: []string{"--name", "a/b"}, words: []string{"invalid container name (a/b)"}},
		{args: []string{"--name", "-x"}, words: []string{"invalid container name (-x)"}},
		{args: []string{"--restart", "on-failure:x"}, words: []string{"maximum retry count must be an integer"}},
		{args: []string{"--restart", "always"}, words: []string{"conflicting options", "--restart", "--rm"}, reference: "20.10 says it without words of its own"},
		{args: []string{"--rm=false", "--restart", "x"}, words: []string{"restart policy"}},
		{args: []string{"--rm=false", "--restart", "always:3"}, words: []string{"maximum retry count"}},
		{args: []string{"--log-driver", "x"}, words: []string{"log", "x"}},
		{args: []string{"--log-driver", "none", "--log-opt", "max-size=1m"}, words: []string{"log", "none"}},
		{args: []string{"--log-opt", "foo=bar"}, words: []string{"unknown log opt 'foo' for json-file log driver"}},
		{args: []string{"--log-opt", "max-size=x"}, words: []string{"invalid size: 'x'"}},
		{args: []string{"--log-opt", "max-file=0"}, words: []string{"max-file cannot be less than 1"}},
		{args: []string{"--log-opt", "max-file=3"}, words: []string{"max-file"}, reference: "20.10 takes it, without any effect"},
		{args: []string{"-a", "x"}, words: []string{"valid streams"}},
		{args: []string{"--rm=x"}, words: []string{"--rm"}},
		{args: []string{"--no-such-flag"}, words: []string{"--no-such-flag"}},
		{args: []string{"-Z"}, words: []string{"'Z'"}},
		{args: []string{"--pull", "x"}, words: []string{"pull option"}, reference: "20.10 takes it for missing"},
	})
}

// TestNameInUse refuses the name of a container, whatever state that is in.
func TestNameInUse(t *testing.T) {
	e := newBox(t)
	e.MustViv("create", "--name", "taken", box, "true")
	for _, verb := range []struct {
		args []string
		code int
	}{{[]string{"run", "--rm"}, 125}, {[]string{"run", "-d"}, 125}, {[]string{"create"}, 1}} {
		before := e.MustViv("ps", "-aq")
		res := e.Viv(append(verb.args, "--name", "taken", "-v", "/anonymous", box, "true")...)
		fails(t, res, verb.code, `"/taken" is already in use`)
		if after := e.MustViv("ps", "-aq"); after != before {
			t.Errorf("containers were %q and are %q", before, after)
		}
	}
	if got := e.MustViv("volume", "ls", "-q"); got != "" {
		t.Errorf("volumes of refused containers: %q", got)
	}
}

// TestMissingCommand has nothing to execute. With --rm nothing stays, without it the
// container does, with its exit code.
func TestMissingCommand(t *testing.T) {
	e := newBox(t)
	for _, c := range []struct {
		command string
		code    int
	}{
		{"no-such-command", 127}, {"/no/such/file", 127}, {"/etc/not-executable", 126}, {"/etc", 126},
	} {
		t.Run(c.command, func(t *testing.T) {
			leavesNothing(t, e, func() { fails(t, e.Viv("run", "--rm", box, c.command), c.code, c.command) })
			leavesNothing(t, e, func() { fails(t, e.Viv("run", "--rm", "--entrypoint", c.command, box), c.code, c.command) })
			fails(t, e.Viv("run", "--name", "kept", box, c.command), c.code, c.command)
			if got, want := inspect(t, e, "kept", "{{.State.Status}} {{.State.ExitCode}}"), "created "+strconv.Itoa(c.code); got != want {
				t.Errorf("what stays is %q, want %q", got, want)
			}
			res := e.Viv("start", "kept")
			fails(t, res, 1, c.command, "kept")
			e.MustViv("rm", "kept")
		})
	}
}

func TestImagesThatAreNot(t *testing.T) {
	e := newBox(t)
	for _, c := range []struct {
		args  []string
		code  int
		words []string
	}{
		{[]string{"run", "--rm", "--pull=never", "no-such-image", "true"}, 125, []string{"no such image", "no-such-image"}},
		{[]string{"run", "--rm", "some/UPPER", "true"}, 125, []string{"must be lowercase"}},
		{[]string{"run", "--rm", "a:b:c", "true"}, 125, []string{"invalid reference format"}},
		{[]string{"run", "--rm", "", "true"}, 125, []string{"invalid reference format"}},
		{[]string{"run"}, 125, []string{"requires at least 1 argument"}},
		{[]string{"pull", "some/UPPER"}, 1, []string{"must be lowercase"}},
		{[]string{"pull", "a@sha256:123"}, 1, []string{"invalid reference format"}},
		{[]string{"tag", "no-such-image", "other"}, 1, []string{"no such image", "no-such-image"}},
		{[]string{"tag", box, "UPPER"}, 1, []string{"UPPER"}},
		{[]string{"rmi", "no-such-image"}, 1, []string{"no such image", "no-such-image"}},
		{[]string{"history", "no-such-image"}, 1, []string{"no such image", "no-such-image"}},
		{[]string{"save", "-o", filepath.Join(t.TempDir(), "out"), "no-such-image"}, 1, []string{"no such image", "no-such-image"}},
		{[]string{"load", "-i", "/no/such/archive"}, 1, []string{"/no/such/archive"}},
		{[]string{"import", "/no/such/rootfs"}, 1, []string{"/no/such/rootfs"}},
		{[]string{"import", testenv.Image(t, "busybox").Rootfs, "UPPER"}, 1, []string{"must be lowercase"}},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			if slices.Contains(c.args, "--pull=never") {
				vivOnly(t, "20.10 looks for the image all the same")
			}
			leavesNothing(t, e, func() {
				if res := e.Viv(c.args...); res.Code != 1 || len(c.args) > 1 || !testenv.Reference() { // 20.10 ends a bad usage with 1
					fails(t, res, c.code, c.words...)
				}
			})
		})
	}
}
