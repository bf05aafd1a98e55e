package blackbox

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vivarium/internal/testenv"
)

// plant is a leftover: how it is made, and what the check must say of it.
type plant struct {
	name string
	make func(t *testing.T, e *testenv.Instance) (path string)
	says string // besides the path's last component, or "" for that alone
}

// strange is an identifier of no container.
func strange(digit string) string { return strings.Repeat(digit, 64) }

// plantFile makes a file with its directories.
func plantFile(t *testing.T, content string, path ...string) string {
	t.Helper()
	file := filepath.Join(path...)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func plantLink(t *testing.T, target string, path ...string) string {
	t.Helper()
	link := filepath.Join(path...)
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	return link
}

var plants = []plant{
	{"a record cut short", func(t *testing.T, e *testenv.Instance) string {
		return filepath.Dir(plantFile(t, `{"ID":"`, e.Root, "containers", strange("1"), "config.json"))
	}, "its record is damaged"},
	{"a container without a record", func(t *testing.T, e *testenv.Instance) string {
		plantFile(t, "", e.Root, "containers", strange("2"), "upper", "file")
		return filepath.Join(e.Root, "containers", strange("2"))
	}, "its record is damaged"},
	{"a control group", func(t *testing.T, e *testenv.Instance) string {
		// One of a container that is there and does not run.
		id := e.MustViv("create", "--network", "none", box, "true")
		return plantGroup(t, id)
	}, "control group"},
	{"a lease of an address", func(t *testing.T, e *testenv.Instance) string {
		// The bridge of an engine that is not at the default place has a name of its own.
		dirs, err := filepath.Glob(filepath.Join(e.State, "network", "*", "addresses"))
		if err != nil || len(dirs) != 1 {
			t.Fatalf("the directory of leases: %q, %v", dirs, err)
		}
		return plantLink(t, strange("4"), dirs[0], "172.29.255.254")
	}, strange("4")},
	{"the staging of a container", func(t *testing.T, e *testenv.Instance) string {
		return filepath.Dir(plantFile(t, "", e.Root, "tmp", "c-"+strange("5"), "config.json"))
	}, "left by a killed command"},
	{"a removal that was cut off", func(t *testing.T, e *testenv.Instance) string {
		return filepath.Dir(plantFile(t, "", e.Root, "tmp", "rm-"+strange("6"), "config.json"))
	}, "left by a killed command"},
	{"the staging of a volume", func(t *testing.T, e *testenv.Instance) string {
		dir := filepath.Dir(plantFile(t, "", e.Root, "tmp", "v-"+strange("7"), "_data"))
		old := time.Now().Add(-24 * time.Hour)
		if err := os.Chtimes(dir, old, old); err != nil {
			t.Fatal(err)
		}
		return dir
	}, "left by a killed command"},
	{"the staging of an image", func(t *testing.T, e *testenv.Instance) string {
		return filepath.Dir(plantFile(t, "", e.Root, "tmp", "image-dead", "blob-1"))
	}, "left by a process that is gone"},
	{"a name of nobody", func(t *testing.T, e *testenv.Instance) string {
		return plantLink(t, strange("8"), e.Root, "names", "nobody")
	}, "reserved for no container"},
	{"a run directory", func(t *testing.T, e *testenv.Instance) string {
		return filepath.Dir(plantFile(t, "", e.State, "containers", strange("9"), "monitor.lock"))
	}, "belongs to no container"},
	{"a layer that nothing needs", func(t *testing.T, e *testenv.Instance) string {
		return filepath.Dir(filepath.Dir(plantFile(t, "", e.Root, "layers", "chain", strange("a"), "fs", "file")))
	}, ""},
	{"an init layer that nothing needs", func(t *testing.T, e *testenv.Instance) string {
		return filepath.Dir(filepath.Dir(plantFile(t, "", e.Root, "layers", "init", strange("b"), "fs", "etc")))
	}, "nothing needs it"},
	{"a blob that nothing needs", func(t *testing.T, e *testenv.Instance) string {
		// The digest of nothing.
		return plantFile(t, "", e.Root, "images", "blobs", "sha256", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
	}, "nothing needs it"},
}

// plantGroup makes the control group of a container in one hierarchy.
func plantGroup(t *testing.T, id string) string {
	t.Helper()
	dir := "/sys/fs/cgroup/viv/" + id
	if !oneV2() {
		dir = "/sys/fs/cgroup/pids/viv/" + id
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(dir) }) // gone, if the test is passed
	return dir
}

// TestCheckOfLeftovers plants each kind of leftover. A dry run names it and leaves
// it; a check names and mends it, says so, and finds nothing afterwards.
func TestCheckOfLeftovers(t *testing.T) {
	vivOnly(t, "docker has no check")
	for _, p := range plants {
		t.Run(p.name, func(t *testing.T) {
			e := newBox(t)
			if strings.Contains(p.name, "address") {
				want(t, e.Viv("run", "--rm", box, "true"), 0, "") // makes the bridge
			}
			want(t, e.Viv("system", "check"), 0, "all is well\n")
			path := p.make(t, e)
			line := func(flags ...string) string {
				res := e.Viv(append([]string{"system", "check"}, flags...)...)
				for line := range strings.Lines(res.Stdout) {
					id := strings.TrimLeft(filepath.Base(path), "crmv-")
					if strings.Contains(line, p.says) && (p.says == strange("4") || strings.Contains(line, id)) {
						if code := map[bool]int{true: 0, false: 1}[len(flags) == 0]; res.Code != code {
							t.Errorf("%v: exit code %d, want %d", flags, res.Code, code)
						}
						return line
					}
				}
				t.Fatalf("check %q does not find it: %v", flags, res)
				return ""
			}
			if l := line("--dry-run"); strings.Contains(l, "mended") {
				t.Errorf("a dry run says %q", l)
			}
			if _, err := os.Lstat(path); err != nil {
				t.Fatalf("a dry run took it: %v", err)
			}
			if l := line(); !strings.Contains(l, "mended") {
				t.Errorf("a check says %q", l)
			}
			if _, err := os.Lstat(path); err == nil {
				t.Errorf("%s is still there", path)
			}
			want(t, e.Viv("system", "check"), 0, "all is well\n")
			want(t, e.Viv("run", "--rm", "--network", "none", box, "echo", "works"), 0, "works\n")
		})
	}
}

// TestDiffOfAnUntouchedContainer: what the engine needs to mount on is no change.
func TestDiffOfAnUntouchedContainer(t *testing.T) {
	e := newBox(t)
	dir := t.TempDir()
	plantFile(t, "x", dir, "file")
	tarball := filepath.Join(dir, "image.tar")
	out := e.Tool("tar", "-C", dir, "-cf", tarball, "file").Run()
	if out.Code != 0 {
		t.Fatalf("%v", out)
	}
	e.MustViv("import", tarball, "bare")
	e.MustViv("create", "--name", "bare", "--network", "none", "bare", "/none")
	if res := e.Viv("start", "bare"); res.Code == 0 {
		t.Fatalf("a program that is not there was started: %v", res)
	}
	want(t, e.Viv("diff", "bare"), 0, "")
}

// TestLostStatus: after a power cut the file that says how a container fares may be empty.
// The container has ended then, and nothing else is disturbed.
func TestLostStatus(t *testing.T) {
	vivOnly(t, "it changes the engine's files")
	e := newBox(t)
	for name, lost := range map[string]string{"nothing": "", "zeros": strings.Repeat("\x00", 200)} {
		id := strings.TrimSpace(e.MustViv("run", "-d", "--network", "none", "--name", name, box, "true"))
		e.MustViv("wait", name)
		if err := os.WriteFile(e.Root+"/containers/"+id+"/status.json", []byte(lost), 0o600); err != nil {
			t.Fatal(err)
		}
		e.MustViv("images")
		if got := e.MustViv("ps", "-a", "--filter", "name="+name, "--format", "{{.Status}}"); !strings.HasPrefix(got, "Exited (255)") {
			t.Errorf("%s: the status is %q", name, got)
		}
		want(t, e.Viv("system", "check"), 0, "all is well\n")
		want(t, e.Viv("start", "-a", name), 0, "")
		e.MustViv("rm", name)
	}
}
