package vm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"vivarium/internal/testenv"
	"vivarium/test/vm/protocol"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// patterns are the packages whose tests are run once more in the machine: those
// that deal with control groups, or with what Debian's kernel does otherwise.
var patterns = []string{
	"./internal/kernel", "./sandbox/...", "./monitor/...", "./layer", "./unionfs",
	"./network", "./engine/...", "./cmd/viv-oci", "./lab", "./test/vm/proof", "./test/blackbox",
}

// apart are packages of those that are not about the kernel.
var apart = []string{"vivarium/internal/archtest", "vivarium/internal/lazyjson"}

// left are tests that say nothing of the kernel and need many runs, which take
// the emulated processor half a second each: the host has run them.
var left = map[string]string{
	"vivarium/cmd/viv-oci":     "^Test(Killed|Notify|Spec|RootlessManyIDs)$", // compared with runc; newuidmap is missing
	"vivarium/lab":             "^Test(Signals|ReaderGone|Interrupted|SweepLeavesOthers)$",
	"vivarium/layer":           "^TestCopyInUnderExchange$",
	"vivarium/sandbox":         "^TestCopyTreeRace$",
	"vivarium/sandbox/spawn":   "^TestCollectorRuns$",
	"vivarium/sandbox/seccomp": "^Test(OtherArchitectures|RandomProfiles|DockerProfileMeansTheSame)$",
	"vivarium/test/blackbox": "^Test(Pull.*|CopyAndManifest|CorruptArchives|ExitCodes|TwoHundredAtOnce|KilledAnywhere|ImageConfig|SystemdMakesTheGroups" +
		"|StorageDriver.*|DriversMakeTheSameLayers|KilledUnionServer|Union.*|Ns(Run|RunSubordinate|Enter|OfContainer)|CompletionOfArguments|Lab|Layer|Anatomy|Nonsense.*|MissingCommand|ImagesThatAreNot|NameInUse|Ps.*|ImagesList|VolumeList|NetworkList|Login.*|CredentialHelper|DescriptorsOfTheCaller" +
		"|Build[^M].*|KilledAnywhereOnDrivers|DriversAndUserNamespaces|LayerView|LostStatus|EachStepOfThePlan|Squash|SeveralArguments|Remove.*|RenameRefused|Top|LogsOptions|InspectKinds|EventsOptions|Copy(Out|Into)|NameFiles|Health.*|CheckOfLeftovers|PortForms)$",
}

// tools are programs of the host that tests call in the machine, too: busybox has
// them not, or with less.
var tools = []string{"ip", "ipcmk", "ipcrm", "ipcs", "lsns", "nft", "nsenter", "ps", "tar", "taskset", "unshare"}

// TestPackages runs the packages' tests in the machine; each test there is a
// subtest here. VIV_TEST_VM_PACKAGES, a list of patterns, chooses others, and
// VIV_TEST_VM_RUN tests of them by a regular expression.
func TestPackages(t *testing.T) {
	needsMachine(t)
	dir := t.TempDir()
	files, jobs := compile(t, dir, packagesToTest(t))
	// As people have it: a tmpfs has no user.* attributes (before Linux 6.6).
	disk := Disk{Image: filepath.Join(dir, "disk"), Mount: "/data", Type: "ext4", Scratch: true}
	if err := NewDisk(disk.Image, disk.Type, 8<<30); err != nil {
		t.Fatal(err)
	}
	m, err := Boot(Config{Dir: dir, Files: files, Jobs: jobs, Disks: []Disk{disk}, Timeout: 15 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	results, err := m.Wait()
	if err != nil {
		t.Error(err)
	}
	ran := map[string]bool{}
	for _, res := range results {
		ran[res.Name] = true
		t.Run(strings.TrimPrefix(res.Name, "vivarium/"), func(t *testing.T) { retell(t, res) })
	}
	for _, job := range jobs {
		if !ran[job.Name] {
			t.Errorf("%s was not run", job.Name)
		}
	}
}

func needsMachine(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a machine, which -short leaves out")
	}
}

// pkg is what `go list` says of a package.
type pkg struct {
	ImportPath, Dir string
	TestGoFiles     []string
	XTestGoFiles    []string
}

func packagesToTest(t *testing.T) []pkg {
	t.Helper()
	chosen := patterns
	if s := os.Getenv("VIV_TEST_VM_PACKAGES"); s != "" {
		chosen = strings.Fields(s)
	}
	root := moduleRoot(t)
	cmd := exec.Command("go", append([]string{"list", "-e", "-json=ImportPath,Dir,TestGoFiles,XTestGoFiles"}, chosen...)...)
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("list the packages: %v", err)
	}
	var packages []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var p pkg
		if err := d.Decode(&p); err != nil {
			t.Fatal(err)
		}
		if len(p.TestGoFiles)+len(p.XTestGoFiles) > 0 && !slices.Contains(apart, p.ImportPath) {
			packages = append(packages, p)
		}
	}
	if len(packages) == 0 {
		t.Fatalf("no package with tests matches %q", chosen)
	}
	return packages
}

func moduleRoot(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(strings.TrimSpace(string(out)))
}

// compile makes the packages' test programs, the project's own binaries, and a job
// for each package. A package's testdata goes where its tests look for it.
func compile(t *testing.T, dir string, packages []pkg) (map[string]string, []protocol.Job) {
	t.Helper()
	files := map[string]string{}
	var jobs []protocol.Job
	env := []string{"VIV_TEST_VM=1", "VIV_BIN_DIR=/opt/viv", "TMPDIR=/data", "HOME=/root"}
	root := moduleRoot(t)
	for i, p := range packages {
		program := filepath.Join(dir, fmt.Sprintf("%d.test", i))
		goBuild(t, root, "test", "-c", "-ldflags=-s -w", "-o", program, p.ImportPath)
		at := "/src/" + strings.TrimPrefix(p.ImportPath, "vivarium/")
		files[at+"/package.test"] = program
		if data := filepath.Join(p.Dir, "testdata"); exists(data) {
			files[at+"/testdata"] = data
		}
		jobs = append(jobs, protocol.Job{
			Name: p.ImportPath, Path: at + "/package.test", Dir: at, Env: env,
			Args: []string{"-test.v=test2json", "-test.timeout=8m", "-test.skip=" + left[p.ImportPath], "-test.run=" + os.Getenv("VIV_TEST_VM_RUN")},
		})
	}
	for _, name := range tools {
		if err := AddProgram(files, name); err != nil {
			t.Fatal(err)
		}
	}
	for _, from := range []string{"./cmd/viv", "./cmd/viv-oci", "./cmd/viv-monitor", "./cmd/viv-union", "./test/blackbox/syscalls"} {
		name := filepath.Base(from)
		program := filepath.Join(dir, name)
		goBuild(t, root, "build", "-trimpath", "-ldflags=-s -w", "-o", program, from)
		files["/opt/viv/"+name] = program
	}
	return files, jobs
}

func goBuild(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// node is one test of the guest with its subtests.
type node struct {
	name, action string
	output       strings.Builder
	children     []*node
}

// retell turns the output of a package's test program into subtests with the same
// names and outcomes.
func retell(t *testing.T, res Result) {
	root, err := parse(res.Output)
	if err != nil {
		t.Fatalf("understand the tests' output: %v\n%s", err, res.Output)
	}
	for _, child := range root.children {
		child.tell(t)
	}
	if res.Code != 0 && !t.Failed() {
		t.Errorf("the test program ended with status %d\n%s", res.Code, root.output.String())
	}
	if res.Code == 0 && len(root.children) == 0 {
		t.Errorf("no test was run\n%s", root.output.String())
	}
}

func (n *node) tell(t *testing.T) {
	t.Run(n.name, func(t *testing.T) {
		for _, child := range n.children {
			child.tell(t)
		}
		out := strings.TrimSpace(n.output.String())
		switch n.action {
		case "pass":
			t.Log(out) // how long it took there
		case "skip":
			t.Skip(out)
		case "fail":
			if !t.Failed() || out != "" {
				t.Errorf("failed in the machine:\n%s", out)
			}
		default:
			t.Errorf("did not end in the machine:\n%s", out)
		}
	})
}

// parse reads a test program's -test.v output through go's own test2json.
func parse(output string) (*node, error) {
	cmd := exec.Command("go", "tool", "test2json")
	cmd.Stdin = strings.NewReader(output)
	events, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("run test2json: %w", err)
	}
	root := &node{}
	all := map[string]*node{"": root}
	for d := json.NewDecoder(bytes.NewReader(events)); d.More(); {
		var e struct{ Action, Test, Output string }
		if err := d.Decode(&e); err != nil {
			return nil, err
		}
		n := all[e.Test]
		if n == nil {
			parent, name := root, e.Test
			if i := strings.LastIndexByte(e.Test, '/'); i >= 0 && all[e.Test[:i]] != nil {
				parent, name = all[e.Test[:i]], e.Test[i+1:]
			}
			n = &node{name: name}
			all[e.Test] = n
			parent.children = append(parent.children, n)
		}
		switch e.Action {
		case "output":
			if !strings.HasPrefix(e.Output, "=== ") {
				n.output.WriteString(e.Output)
			}
		case "pass", "fail", "skip":
			n.action = e.Action
		}
	}
	return root, nil
}

// TestPowerCut proves the helper for crash tests: what was synced before the power
// went is there after the next start, on a file system that mounts.
func TestPowerCut(t *testing.T) {
	needsMachine(t)
	dir := t.TempDir()
	disk := Disk{Image: filepath.Join(dir, "disk"), Mount: "/data", Type: "ext4"}
	if err := NewDisk(disk.Image, disk.Type, 64<<20); err != nil {
		t.Fatal(err)
	}
	script := func(name, text string) []protocol.Job {
		return []protocol.Job{{Name: name, Path: "/bin/sh", Args: []string{"-c", text}}}
	}
	first, err := Boot(Config{
		Dir: t.TempDir(), Disks: []Disk{disk},
		Jobs: script("write", "echo kept >/data/kept; sync; echo synced; echo x >/data/unsynced; echo written; sleep 1000"),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if err := first.Expect("written"); err != nil {
		t.Fatal(err)
	}
	if err := first.PowerCut(); err != nil {
		t.Fatal(err)
	}
	second, err := Boot(Config{Dir: t.TempDir(), Disks: []Disk{disk}, Jobs: script("read", "cat /data/kept; ls /data")})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	results, err := second.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != 1 || results[0].Code != 0 || !strings.HasPrefix(results[0].Output, "kept\n") {
		t.Fatalf("after the power cut: %+v", results)
	}
	if strings.Contains(results[0].Output, "unsynced") {
		t.Error("what was not synced survived: the power cut did not reach the guest's memory")
	}
}

// TestMachineThatFails wants a machine's trouble told apart from success.
func TestMachineThatFails(t *testing.T) {
	needsMachine(t)
	for _, c := range []struct {
		name, script, want string
		timeout            time.Duration
	}{
		{"panic", "echo c >/proc/sysrq-trigger; sleep 1000", "ended before its jobs did", 0},
		{"hang", "sleep 1000", "ran too long", 20 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := Boot(Config{
				Dir: t.TempDir(), Timeout: c.timeout,
				Jobs: []protocol.Job{{Name: "job", Path: "/bin/sh", Args: []string{"-c", c.script}}},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			results, err := m.Wait()
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
			if len(results) != 1 || results[0].Code == 0 {
				t.Errorf("results: %+v", results)
			}
		})
	}
}
