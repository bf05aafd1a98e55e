package cgroup

import (
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"vivarium/sandbox/cgroup/handle"
)

const bound = 20 * time.Second

// live is a container's cgroups on this machine, removed at the end.
type live struct {
	t      *testing.T
	layout Layout
	path   string
	setup  Setup
}

func newLive(t *testing.T, res *specs.LinuxResources) *live {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making cgroups needs root")
	}
	layout, err := Detect()
	if err != nil {
		t.Fatal(err)
	}
	if layout.Mode() == None {
		t.Skip("no cgroup hierarchy is mounted")
	}
	top := "/viv-test-" + rand.Text()
	l := &live{t: t, layout: layout, path: top + "/c"}
	if l.setup, err = Compile(layout, l.path, res, Options{}); err != nil {
		t.Fatal(err)
	}
	topHandle, err := layout.Handle(top)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(topHandle.Kill(bound), topHandle.Remove(bound)); err != nil {
			t.Error(err)
		}
		for i := range layout.Hierarchies {
			if exists(layout.Hierarchies[i].Mount + top) {
				t.Errorf("%s%s is left behind", layout.Hierarchies[i].Mount, top)
			}
		}
	})
	for _, d := range l.setup.Dirs {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, w := range l.setup.Writes {
		if err := w.Do(); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// start runs a shell script in the cgroups: the shell, which has one thread,
// writes itself into the tasks files, as a container's first process does.
func (l *live) start(script string) *exec.Cmd {
	l.t.Helper()
	var join strings.Builder
	for _, f := range l.setup.Tasks {
		join.WriteString("echo 0 > " + f + " || exit 99\n")
	}
	if l.setup.CgroupDir != "" {
		join.WriteString("echo 0 > " + l.setup.CgroupDir + "/cgroup.procs || exit 98\n")
	}
	join.WriteString("echo in\n" + script)
	cmd := exec.Command("/bin/sh", "-c", join.String())
	out, err := cmd.StdoutPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	var line [3]byte
	if n, err := out.Read(line[:]); err != nil || string(line[:n]) != "in\n" {
		l.t.Fatalf("the process did not get into its cgroups: %q %v", line[:n], err)
	}
	return cmd
}

func TestLimitsReachTheKernel(t *testing.T) {
	l := newLive(t, &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: ptr(int64(64 << 20)), Swap: ptr(int64(96 << 20))},
		CPU:    &specs.LinuxCPU{Shares: ptr(uint64(512)), Quota: ptr(int64(50000)), Period: ptr(uint64(100000)), Cpus: "0"},
		Pids:   &specs.LinuxPids{Limit: ptr(int64(20))},
	})
	cmd := l.start("exec sleep 1000")
	procs, err := l.setup.Handle.Procs()
	if err != nil || len(procs) != 1 || procs[0] != cmd.Process.Pid {
		t.Errorf("processes %v %v; want %d", procs, err, cmd.Process.Pid)
	}
	s, err := ReadStats(l.layout, l.path)
	if err != nil {
		t.Fatal(err)
	}
	if s.Memory.Limit != 64<<20 || s.Pids.Limit != 20 || s.Pids.Current != 1 || s.Memory.Usage == 0 || s.CPU.Total == 0 {
		t.Errorf("figures %+v", s)
	}
	if mask := statusField(t, cmd.Process.Pid, "Cpus_allowed_list"); mask != "0" {
		t.Errorf("it may run on CPUs %s", mask)
	}

	// An update in both directions.
	for _, limit := range []int64{200 << 20, 32 << 20} {
		_, err := Update(l.layout, l.path, &specs.LinuxResources{
			Memory: &specs.LinuxMemory{Limit: &limit, Swap: ptr(2 * limit)}, Pids: &specs.LinuxPids{Limit: ptr(int64(-1))},
			CPU: &specs.LinuxCPU{Quota: ptr(int64(20000))}}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if s, err = ReadStats(l.layout, l.path); err != nil || s.Memory.Limit != uint64(limit) || s.Pids.Limit != NoLimit {
			t.Errorf("after the update: %+v %v", s, err)
		}
	}
	if _, err := Update(l.layout, l.path, &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "4095"}}, Options{}); err == nil || !strings.Contains(err.Error(), "cpuset.cpus") {
		t.Errorf("a CPU that is not there: %v", err)
	}
}

func statusField(t *testing.T, pid int, key string) string {
	t.Helper()
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && k == key {
			return strings.TrimSpace(v)
		}
	}
	t.Fatalf("no %s in the status of a process", key)
	return ""
}

func TestDevicesOnV1(t *testing.T) {
	l := newLive(t, &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}})
	if l.layout.with("devices") == nil {
		t.Skip("the devices controller is not on v1 here; devicebpf tests v2")
	}
	cmd := l.start("exec 3</dev/zero || exit 1; (exec 3</dev/kmsg) 2>/dev/null && exit 2; mknod " + filepath.Join(t.TempDir(), "n") + " c 1 3 || exit 3; exit 0")
	if err := cmd.Wait(); err != nil {
		t.Errorf("the device rules do not hold (exit status 1: zero refused, 2: kmsg allowed, 3: mknod refused): %v", err)
	}
}

func TestFreezeAndThaw(t *testing.T) {
	l := newLive(t, nil)
	cmd := l.start("while :; do :; done")
	h := l.setup.Handle
	if err := h.Freeze(bound); err != nil {
		t.Fatal(err)
	}
	if frozen, err := h.Frozen(); err != nil || !frozen {
		t.Errorf("frozen: %v %v", frozen, err)
	}
	before := cpuTicks(t, cmd.Process.Pid)
	// A frozen process cannot be killed; the signal waits. Whether it is
	// frozen shows in the CPU time of something that never sleeps.
	busy(t)
	if after := cpuTicks(t, cmd.Process.Pid); after != before {
		t.Errorf("a frozen process ran: %s, then %s", before, after)
	}
	if err := h.Thaw(); err != nil {
		t.Fatal(err)
	}
	if frozen, err := h.Frozen(); err != nil || frozen {
		t.Errorf("frozen after thawing: %v %v", frozen, err)
	}
	if err := h.Thaw(); err != nil {
		t.Errorf("thawing what is not frozen: %v", err)
	}
}

// busy uses some CPU time, so that a running process gets some too.
func busy(t *testing.T) {
	cmd := exec.Command("/bin/sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
}

func cpuTicks(t *testing.T, pid int) string {
	t.Helper()
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/schedstat")
	if err != nil {
		t.Fatal(err)
	}
	run, _, _ := strings.Cut(string(b), " ")
	return run
}

// TestKill: everything ends, also what forks all the time, what is frozen and
// what is in cgroups below.
func TestKill(t *testing.T) {
	for name, script := range map[string]string{
		"one":     "exec sleep 1000",
		"forking": "while :; do (sleep 0.01; exec sleep 1000) & sleep 0.001; done",
		"session": "setsid sleep 1000 & setsid sleep 1000 & exec sleep 1000",
	} {
		for _, frozen := range []bool{false, true} {
			t.Run(name+strconv.FormatBool(frozen), func(t *testing.T) {
				l := newLive(t, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(200))}})
				cmd := l.start(script)
				h := l.setup.Handle
				if frozen {
					if err := h.Freeze(bound); err != nil {
						t.Fatal(err)
					}
				}
				if err := h.Kill(bound); err != nil {
					t.Fatal(err)
				}
				if procs, err := h.Procs(); err != nil || len(procs) > 0 {
					t.Errorf("left: %v %v", procs, err)
				}
				cmd.Wait()
				if cmd.ProcessState.Exited() {
					t.Errorf("it ended by itself: %v", cmd.ProcessState)
				}
				if err := h.Remove(bound); err != nil {
					t.Error(err)
				}
				if err := h.Remove(bound); err != nil {
					t.Errorf("removing what is gone: %v", err)
				}
				if _, err := ReadStats(l.layout, l.path); !errors.Is(err, ErrGone) {
					t.Errorf("figures of what is gone: %v", err)
				}
			})
		}
	}
}

// TestKillV1Only takes the way without cgroup.kill.
func TestKillV1Only(t *testing.T) {
	l := newLive(t, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(200))}})
	h := l.setup.Handle
	if len(h.V1) == 0 {
		t.Skip("there is no v1 hierarchy here")
	}
	for name, h := range map[string]handle.Handle{"freezer": {V1: h.V1, Freezer: h.Freezer}, "signals": {V1: h.V1}} {
		l.start("while :; do (sleep 0.01; exec sleep 1000) & sleep 0.001; done")
		if err := h.Kill(bound); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if procs, err := l.setup.Handle.Procs(); err != nil || len(procs) > 0 {
			t.Errorf("%s: left %v %v", name, procs, err)
		}
	}
}

func TestRemoveWaitsAndIsBounded(t *testing.T) {
	l := newLive(t, nil)
	cmd := l.start("exec sleep 1000")
	h := l.setup.Handle
	for _, d := range h.V1 {
		if err := os.Mkdir(d+"/below", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	err := h.Remove(10 * time.Millisecond)
	if !errors.Is(err, unix.EBUSY) || !errors.Is(err, handle.ErrTimeout) {
		t.Errorf("a cgroup with a process: %v", err)
	}
	done := make(chan error)
	go func() { done <- h.Remove(bound) }()
	cmd.Process.Kill()
	if err := <-done; err != nil {
		t.Errorf("it did not wait for the end: %v", err)
	}
}

// TestDeepNesting: a container with a writable cgroup file system nests cgroups
// until no path reaches them, and hides a process there.
func TestDeepNesting(t *testing.T) {
	l := newLive(t, nil)
	dirs := slices.Clone(l.setup.Handle.V1)
	if l.setup.CgroupDir != "" {
		dirs = append(dirs, l.setup.CgroupDir)
	}
	// One of each kind is enough.
	for _, dir := range slices.Compact([]string{dirs[0], dirs[len(dirs)-1]}) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.Repeat("x", 250)
		for range 20 {
			if err := unix.Mkdirat(fd, name, 0o755); err != nil {
				t.Fatal(err)
			}
			next, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			unix.Close(fd)
			fd = next
		}
		cmd := exec.Command("/bin/sleep", "1000")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			cmd.Process.Kill()
			cmd.Wait()
		})
		procs, err := unix.Openat(fd, "cgroup.procs", unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Write(procs, []byte(strconv.Itoa(cmd.Process.Pid))); err != nil {
			t.Fatal(err)
		}
		unix.Close(procs)
		unix.Close(fd)
		h := l.setup.Handle
		if found, err := h.Procs(); err != nil || len(found) != 1 || found[0] != cmd.Process.Pid {
			t.Errorf("the hidden process is not found: %v %v", found, err)
		}
		if err := h.Kill(bound); err != nil {
			t.Fatal(err)
		}
		if err := h.Remove(bound); err != nil {
			t.Fatal(err)
		}
		if exists(dir) {
			t.Errorf("%s is left", dir)
		}
	}
}

func TestOOMKillIsCounted(t *testing.T) {
	limit := int64(16 << 20)
	l := newLive(t, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}})
	// The tail of /dev/zero is kept in memory.
	cmd := l.start("exec tail /dev/zero")
	cmd.Wait()
	n, err := l.setup.Handle.OOMKills()
	if err != nil || n != 1 {
		t.Errorf("%d kills, %v", n, err)
	}
	s, err := ReadStats(l.layout, l.path)
	if err != nil || s.Memory.OOMKills != 1 || s.Memory.Max < uint64(limit)/2 {
		t.Errorf("figures %+v %v", s.Memory, err)
	}
	w, err := l.layout.OOMWatch(l.path)
	if err != nil || !exists(w.Inotify+w.OOMControl) {
		t.Errorf("nothing to watch: %+v %v", w, err)
	}
}

func TestWriteSaysWhatFailed(t *testing.T) {
	l := newLive(t, nil)
	g, ok := (&compiler{layout: l.layout, rel: l.path}).group("pids", "x")
	if !ok {
		t.Skip("no pids controller here")
	}
	err := Write{Dir: g.dir, File: "pids.max", Value: "nonsense", Why: "a test"}.Do()
	if !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "pids.max") || !strings.Contains(err.Error(), "a test") {
		t.Errorf("got %v", err)
	}
	if err := (Write{Dir: g.dir, File: "pids.maximum", Value: "1"}).Do(); !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EACCES) {
		t.Errorf("got %v", err)
	}
	if err := (Write{Dir: g.dir, File: "pids.maximum", Value: "1", Optional: true}).Do(); err != nil {
		t.Errorf("optional: %v", err)
	}
}
