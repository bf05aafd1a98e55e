package tree

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"vivarium/sandbox/cgroup"
)

// v1 is a directory that looks like a v1 hierarchy with the group /a.
func v1(t *testing.T, files map[string]string) Group {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "a"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, "a", name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	l := cgroup.Layout{Hierarchies: []cgroup.Hierarchy{{Mount: dir, Controllers: []string{"cpu", "memory", "freezer"}}}}
	g, err := Open(l, "a")
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestBytes(t *testing.T) {
	for in, want := range map[string]string{"1": "1", "2k": "2048", "100M": "104857600", "1GiB": "1073741824", "3tb": "3298534883328", "max": "max", " 7 ": "7"} {
		if got, err := Bytes(in); got != want || err != nil {
			t.Errorf("%q: %q %v", in, got, err)
		}
	}
	for _, in := range []string{"", "M", "-1", "1.5G", "9999999999T", "x"} {
		if got, err := Bytes(in); err == nil {
			t.Errorf("%q is %q", in, got)
		}
	}
}

func TestNamesOnV1(t *testing.T) {
	g := v1(t, map[string]string{"memory.limit_in_bytes": "9223372036854771712\n", "memory.memsw.limit_in_bytes": "0", "cpu.shares": "1024\n",
		"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n", "freezer.state": "THAWED\n", "raw.file": "x\n",
		"blkio.throttle.read_bps_device": "8:0 100\n8:16 7\n", "blkio.throttle.write_bps_device": "", "blkio.throttle.read_iops_device": "", "blkio.throttle.write_iops_device": "8:0 5\n"})
	dir := g.Dirs()[0].Path
	for name, want := range map[string]string{"memory.max": "max", "cpu.weight": "100", "cpu.max": "max 100000", "cgroup.freeze": "0", "raw.file": "x",
		"io.max": "8:0 rbps=100 wbps=max riops=max wiops=5\n8:16 rbps=7 wbps=max riops=max wiops=max"} {
		if got, _, err := g.Get(name); got != want || err != nil {
			t.Errorf("%s: %q %v, want %q", name, got, err, want)
		}
	}
	for _, c := range []struct {
		name, value string
		want        []Step
	}{
		{"memory.max", "1K", []Step{{"write", dir + "/memory.limit_in_bytes", "1024"}}},
		{"memory.max", "max", []Step{{"write", dir + "/memory.limit_in_bytes", "-1"}}},
		{"cpu.weight", "100", []Step{{"write", dir + "/cpu.shares", "1024"}}},
		{"cpu.weight", "1", []Step{{"write", dir + "/cpu.shares", "10"}}},
		{"cpu.max", "max", []Step{{"write", dir + "/cpu.cfs_quota_us", "-1"}}},
		{"cpu.max", "5 10", []Step{{"write", dir + "/cpu.cfs_period_us", "10"}, {"write", dir + "/cpu.cfs_quota_us", "5"}}},
		{"cgroup.freeze", "1", []Step{{"write", dir + "/freezer.state", "FROZEN"}}},
		{"io.max", "8:0 wiops=max rbps=1048576", []Step{{"write", dir + "/blkio.throttle.read_bps_device", "8:0 1048576"}, {"write", dir + "/blkio.throttle.write_iops_device", "8:0 0"}}},
		{"raw.file", "as it is", []Step{{"write", dir + "/raw.file", "as it is"}}},
	} {
		if got, err := g.Set(c.name, c.value); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s=%s: %v %v, want %v", c.name, c.value, got, err, c.want)
		}
	}
	for name, value := range map[string]string{"memory.swap.max": "1M", "cpu.max": "1 max", "io.max": "8:0 rbps=x", "cgroup.freeze": "2", "pids.max": "1", "..": "x", "a/b": "x", "": "x"} {
		if got, err := g.Set(name, value); err == nil {
			t.Errorf("%s=%s: %v", name, value, got)
		}
	}
	if _, err := (Group{Layout: g.Layout, Path: "/none"}).Set("memory.max", "1"); !errors.Is(err, ErrNone) {
		t.Errorf("a group that is not there: %v", err)
	}
}

func TestCreateSteps(t *testing.T) {
	g := v1(t, nil)
	mount := g.Layout.Hierarchies[0].Mount
	deep := Group{Layout: g.Layout, Path: "/a/b/c"}
	steps, err := deep.Create([]string{"memory"})
	if err != nil || !slices.Equal(steps, []Step{{Op: "mkdir", Path: mount + "/a/b"}, {Op: "mkdir", Path: mount + "/a/b/c"}}) {
		t.Errorf("%v %v", steps, err)
	}
	if _, err := deep.Create([]string{"moon"}); err == nil {
		t.Error("a controller that nobody has")
	}
	if err := Do(steps); err != nil {
		t.Fatal(err)
	}
	steps, err = g.Remove(true)
	if err != nil || !slices.Equal(steps, []Step{{Op: "rmdir", Path: mount + "/a/b/c"}, {Op: "rmdir", Path: mount + "/a/b"}, {Op: "rmdir", Path: mount + "/a"}}) {
		t.Errorf("%v %v", steps, err)
	}
	if err := Do(steps); err != nil {
		t.Error(err)
	}
	if _, err := Open(g.Layout, "/a/../../etc"); !errors.Is(err, cgroup.ErrPath) {
		t.Errorf("a path that leads out: %v", err)
	}
	if err := Do([]Step{{Op: "write", Path: mount + "/new", Value: "x"}}); err == nil {
		t.Error("a file was made")
	}
}

// TestWeights: what was set is read back, as near as shares allow.
func TestWeights(t *testing.T) {
	for w := 1; w <= 10000; w += 7 {
		shares, err := weightToShares(Group{}, "", strconv.Itoa(w))
		if err != nil {
			t.Fatal(err)
		}
		if got := sharesToWeight("", shares); got != strconv.Itoa(w) {
			t.Errorf("weight %d is %s shares, and those %s", w, shares, got)
		}
	}
}

// TestExampleLimit: what wants more memory than the example's limit is killed, and
// the group is gone afterwards.
func TestExampleLimit(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes a control group")
	}
	if _, err := exec.LookPath("go"); err != nil {
		t.Skipf("no Go here: %v", err)
	}
	program := filepath.Join(t.TempDir(), "limit")
	build := exec.Command("go", "build", "-o", program, "vivarium/examples/limit")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the example: %v %s", err, out)
	}
	for _, c := range []struct {
		size string
		want string
	}{{"10M", "rmdir "}, {"200M", "the command ended with: signal: killed"}} {
		out, err := exec.Command(program, "dd", "if=/dev/zero", "of=/dev/null", "bs="+c.size, "count=1").CombinedOutput()
		if !strings.Contains(string(out), c.want) || (err != nil) != (c.size == "200M") || !strings.Contains(string(out), "memory") {
			t.Errorf("%s: %v %s", c.size, err, out)
		}
	}
	for _, pattern := range []string{"/sys/fs/cgroup/limit-*", "/sys/fs/cgroup/*/limit-*"} {
		if left, _ := filepath.Glob(pattern); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}
}

// TestStopSteps: what would be written, on v1 without a freezer of its own, with one, and on v2.
func TestStopSteps(t *testing.T) {
	files := map[string]string{"cgroup.procs": "12\n13\n", "freezer.state": "THAWED\n"}
	g := v1(t, files)
	dir := g.Dirs()[0].Path
	kill, thaw := Step{Op: "kill", Value: "12 13"}, Step{"write", dir + "/freezer.state", "THAWED"}
	if got, err := g.Kill(); err != nil || !slices.Equal(got, []Step{{"write", dir + "/freezer.state", "FROZEN"}, kill, thaw}) {
		t.Errorf("v1: %v %v", got, err)
	}
	if got := kill.String(); got != "kill -9 12 13" {
		t.Error(got)
	}
	if err := Do([]Step{kill}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a signal: %v", err)
	}
	delete(files, "freezer.state")
	g = v1(t, files)
	g.Layout.Hierarchies[0].Controllers = []string{"memory"}
	if got, err := g.Kill(); err != nil || !slices.Equal(got, []Step{kill}) {
		t.Errorf("v1 without a freezer: %v %v", got, err)
	}
	if got, err := g.Freeze(true); err == nil {
		t.Errorf("v1 without a freezer: %v", got)
	}
	files["cgroup.kill"], files["cgroup.freeze"] = "", "0\n"
	g = v1(t, files)
	h := &g.Layout.Hierarchies[0]
	h.V2, h.Controllers = true, nil
	dir = g.Dirs()[0].Path
	if got, err := g.Kill(); err != nil || !slices.Equal(got, []Step{{"write", dir + "/cgroup.kill", "1"}}) {
		t.Errorf("v2: %v %v", got, err)
	}
	if got, err := g.Freeze(false); err != nil || !slices.Equal(got, []Step{{"write", dir + "/cgroup.freeze", "0"}}) {
		t.Errorf("v2: %v %v", got, err)
	}
}

// TestSwapOnV1: swap is what is counted beyond memory, read and written.
func TestSwapOnV1(t *testing.T) {
	g := v1(t, map[string]string{"memory.limit_in_bytes": "1000\n", "memory.memsw.limit_in_bytes": "1500\n", "memory.usage_in_bytes": "10\n", "memory.memsw.usage_in_bytes": "9\n"})
	for name, want := range map[string]string{"memory.swap.max": "500", "memory.swap.current": "0"} {
		if got, _, err := g.Get(name); got != want || err != nil {
			t.Errorf("%s: %q %v, want %q", name, got, err, want)
		}
	}
	steps, err := g.Set("memory.swap.max", "500")
	if err != nil || len(steps) != 1 || steps[0].Value != "1500" {
		t.Errorf("%v %v", steps, err)
	}
}

// FuzzSet: whatever is to be set, only files of the group are written.
func FuzzSet(f *testing.F) {
	for _, seed := range [][2]string{{"memory.max", "1G"}, {"cpu.max", "max 1"}, {"io.max", "8:0 rbps=1"}, {"cpu.weight", "0"}, {"cgroup.freeze", "1"}, {"../x", "1"}, {"a\x00", ""}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, name, value string) {
		g := v1(t, map[string]string{"memory.limit_in_bytes": "1", "cpu.cfs_quota_us": "-1", "cpu.shares": "2", "freezer.state": "THAWED", "blkio.throttle.read_bps_device": ""})
		steps, err := g.Set(name, value)
		for _, s := range steps {
			if err != nil || s.Op != "write" || filepath.Dir(s.Path) != g.Dirs()[0].Path {
				t.Errorf("%q=%q: %v %v", name, value, s, err)
			}
		}
	})
}
