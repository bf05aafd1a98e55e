package testenv

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Instance is an engine of a test's own: its directories, its network namespace,
// and ways to call the binaries on it.
type Instance struct {
	// Root and State are the directories behind --root and --state.
	Root, State string
	// OCIState is what viv-oci gets as its --root.
	OCIState string
	// Reference says that commands go to docker instead of viv (see [Reference]).
	Reference bool

	t      testing.TB
	netns  *os.File
	ids    *watcher
	prefix []string // program and leading arguments of every engine command
}

// Reference says whether the suites run on docker, to prove that what they expect
// is what docker does: VIV_TEST_REFERENCE=docker.
func Reference() bool { return os.Getenv("VIV_TEST_REFERENCE") == "docker" }

// Engine makes a fresh engine. As root it works in a network namespace of its
// own, with only a loopback link, so that neither the host nor an engine of
// another test shares bridges, addresses and ports with it. When the test ends,
// its containers are removed, and whatever is left of them fails the test.
func Engine(t testing.TB) *Instance {
	t.Helper()
	if Reference() {
		return referenceEngine(t)
	}
	process.mu.Lock()
	process.engines++
	number := process.engines
	process.mu.Unlock()
	base := tempDir()
	e := &Instance{
		Root:  filepath.Join(base, fmt.Sprintf("r%d", number)),
		State: filepath.Join(base, fmt.Sprintf("s%d", number)),
		t:     t,
	}
	e.OCIState = filepath.Join(e.State, "oci")
	e.prefix = []string{Binary(t, "viv"), "--root", e.Root, "--state", e.State}
	e.prepare()
	t.Cleanup(e.finish)
	return e
}

func (e *Instance) prepare() {
	e.t.Helper()
	for _, dir := range []string{e.Root, e.State} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			e.t.Fatalf("make the engine's directory: %v", err)
		}
	}
	var err error
	if e.ids, err = watch(e.Root, e.State); err != nil {
		e.t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if e.netns, err = newNetns(); err != nil {
			e.t.Fatal(err)
		}
	}
}

// Command prepares an engine command: viv with its --root and --state.
func (e *Instance) Command(args ...string) *Command {
	all := append(append([]string{}, e.prefix[1:]...), args...)
	return &Command{Path: e.prefix[0], Args: all, t: e.t, netns: e.netns}
}

// Viv runs an engine command to its end.
func (e *Instance) Viv(args ...string) Result {
	e.t.Helper()
	return e.Command(args...).Run()
}

// MustViv runs an engine command that must succeed and returns its standard
// output without the last newline.
func (e *Instance) MustViv(args ...string) string {
	e.t.Helper()
	res := e.Viv(args...)
	if res.Code != 0 {
		e.t.Fatalf("%v", res)
	}
	return strings.TrimSuffix(res.Stdout, "\n")
}

// OCICommand prepares a call of the OCI runtime, viv-oci with its --root.
func (e *Instance) OCICommand(args ...string) *Command {
	all := append([]string{"--root", e.OCIState}, args...)
	return &Command{Path: Binary(e.t, "viv-oci"), Args: all, t: e.t, netns: e.netns}
}

// OCI runs the OCI runtime to its end.
func (e *Instance) OCI(args ...string) Result {
	e.t.Helper()
	return e.OCICommand(args...).Run()
}

// Tool prepares any other program, in the engine's network namespace.
func (e *Instance) Tool(name string, args ...string) *Command {
	e.t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		e.t.Fatalf("find %s: %v (test/install-deps installs what tests need)", name, err)
	}
	return &Command{Path: path, Args: args, t: e.t, netns: e.netns}
}

// Tool prepares a program that is no command of an engine under test, in the
// network namespace of the test process.
func Tool(t testing.TB, path string, args ...string) *Command {
	return &Command{Path: path, Args: args, t: t}
}

// Containers returns the identifiers of all containers that this engine has had,
// as far as they were seen.
func (e *Instance) Containers() []string {
	if e.ids == nil {
		return nil
	}
	return e.ids.seen()
}

// finish removes the test's containers and checks that nothing is left of them.
func (e *Instance) finish() {
	e.t.Helper()
	e.removeContainers()
	for _, leak := range poll(e.Leaks) {
		e.t.Error("left behind:", leak)
	}
	if err := e.ids.close(); err != nil {
		e.t.Errorf("stop the watch: %v", err)
	}
	if e.netns != nil {
		e.netns.Close()
	}
	for _, dir := range []string{e.Root, e.State} {
		if err := os.RemoveAll(dir); err != nil {
			e.t.Errorf("remove the engine's directory: %v", err)
		}
	}
}

// removeContainers removes what the test left on purpose. An engine that has no
// directory of containers has never had one.
func (e *Instance) removeContainers() {
	e.t.Helper()
	if entries, err := os.ReadDir(filepath.Join(e.Root, containersDir)); err != nil || len(entries) == 0 {
		return
	}
	res := e.Viv("ps", "-aq", "--no-trunc")
	if res.Code != 0 {
		e.t.Errorf("list the containers that are left: %v", res)
		return
	}
	if ids := strings.Fields(res.Stdout); len(ids) > 0 {
		if res := e.Viv(append([]string{"rm", "-f"}, ids...)...); res.Code != 0 {
			e.t.Errorf("remove the containers that are left: %v", res)
		}
	}
}

// Leaks says what this engine's containers leave behind at this moment, one line
// a thing; none if the engine is as if it had never had a container. Images,
// volumes and the bridge may stay.
func (e *Instance) Leaks() []string {
	var leaks []string
	ids := e.Containers()
	for _, dir := range []string{e.Root, e.State} {
		leaks = append(leaks, mountLeaks(dir)...)
		leaks = append(leaks, processesReferringTo(dir)...)
	}
	leaks = append(leaks, processesInCgroups(ids)...)
	leaks = append(leaks, cgroupLeaks(ids)...)
	for _, dir := range []string{
		filepath.Join(e.Root, containersDir), filepath.Join(e.Root, "tmp"),
		filepath.Join(e.State, containersDir), filepath.Join(e.OCIState, containersDir),
	} {
		leaks = append(leaks, entriesOf(dir)...)
	}
	leaks = append(leaks, filesNamedAfter(e.State, ids)...)
	if e.netns != nil {
		leaks = append(leaks, linkLeaks(e.netns)...)
	}
	return leaks
}

func entriesOf(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return []string{err.Error()}
	}
	var found []string
	for _, e := range entries {
		found = append(found, "file "+filepath.Join(dir, e.Name()))
	}
	return found
}

// filesNamedAfter finds files that carry a container's identifier in their name:
// a lock, a lease, a socket.
func filesNamedAfter(dir string, ids []string) []string {
	var found []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		for _, id := range ids {
			if strings.Contains(d.Name(), id) {
				found = append(found, "file "+path)
			}
		}
		return nil
	})
	if err != nil {
		found = append(found, err.Error())
	}
	return found
}

// Binary returns the path of one of the project's programs: from VIV_BIN_DIR, or
// built once for this test process.
func Binary(t testing.TB, name string) string {
	t.Helper()
	if dir := os.Getenv("VIV_BIN_DIR"); dir != "" {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err != nil {
			t.Fatalf("find %s in VIV_BIN_DIR: %v", name, err)
		}
		return path
	}
	process.mu.Lock()
	defer process.mu.Unlock()
	if path := process.binaries[name]; path != "" {
		return path
	}
	path, err := build(name)
	if err != nil {
		t.Fatal(err)
	}
	if process.binaries == nil {
		process.binaries = map[string]string{}
		// The engine finds viv-monitor beside itself.
		process.atExit = append(process.atExit, func() { os.RemoveAll(filepath.Dir(path)) })
	}
	process.binaries[name] = path
	return path
}

// Program returns the path of a static program of the tests' own: name in
// VIV_BIN_DIR, or else what go makes of a package of this module.
func Program(t testing.TB, name, pkg string) string {
	t.Helper()
	if dir := os.Getenv("VIV_BIN_DIR"); dir != "" {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), name)
	if err := compile(root, path, pkg); err != nil {
		t.Fatal(err)
	}
	return path
}

func compile(root, path, pkg string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-o", path, pkg)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return nil
}

// build compiles ./cmd/name as `./run build` does, with the other programs beside viv.
func build(name string) (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(tempDir(), "bin")
	for _, n := range []string{"viv", "viv-oci", "viv-monitor", "viv-union"} {
		if err := compile(root, filepath.Join(dir, n), "./cmd/"+n); err != nil {
			return "", err
		}
	}
	return filepath.Join(dir, name), nil
}
