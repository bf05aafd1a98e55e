package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// ociRuntime is an OCI runtime with the way to call it.
type ociRuntime struct {
	name   string
	prefix []string
	absent string
}

// Bundles of the OCI rows.
const (
	plain    = "plain"    // what `runc spec` says, with /bin/true
	filtered = "filtered" // the same with Docker's seccomp profile
	waiting  = "waiting"  // the same with a process that waits
)

// prepareRuntimes finds the runtimes and writes the bundles, from the specification
// that `runc spec` writes.
func (b *bench) prepareRuntimes(bin string) error {
	for name, path := range map[string]string{"viv-oci": filepath.Join(bin, "viv-oci"), "crun": "crun", "runc": "runc"} {
		r := ociRuntime{name: name}
		found, err := exec.LookPath(path)
		if err != nil {
			r.absent = err.Error()
		}
		r.prefix = []string{found, "--root", filepath.Join(b.dir, "oci-"+name)}
		b.runtimes = append(b.runtimes, r)
	}
	slices.SortFunc(b.runtimes, func(x, y ociRuntime) int { return order(x.name) - order(y.name) })
	rootfs := filepath.Join(b.dir, "rootfs")
	if err := os.Mkdir(rootfs, 0o755); err != nil {
		return err
	}
	if err := command("tar", "-xf", b.rootfs, "-C", rootfs)(); err != nil {
		return err
	}
	for _, name := range []string{plain, filtered, waiting} {
		if err := b.writeBundle(name, rootfs); err != nil {
			return fmt.Errorf("write the bundle %s: %w", name, err)
		}
	}
	return nil
}

func order(name string) int { return slices.Index([]string{"viv-oci", "crun", "runc"}, name) }

func (b *bench) writeBundle(name, rootfs string) error {
	dir := filepath.Join(b.dir, "bundle-"+name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := command("runc", "spec", "--bundle", dir)(); err != nil {
		return err
	}
	path := filepath.Join(dir, "config.json")
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var spec specs.Spec
	if err := json.Unmarshal(text, &spec); err != nil {
		return err
	}
	spec.Root.Path = rootfs
	spec.Process.Terminal = false
	spec.Process.Args = []string{"/bin/true"}
	switch name {
	case filtered:
		if spec.Linux.Seccomp, err = seccomp.GetDefaultProfile(&spec); err != nil {
			return err
		}
	case waiting:
		spec.Process.Args = []string{"/bin/sleep", "100000"}
	}
	if text, err = json.Marshal(&spec); err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o644)
}

// ociRun times `run` of a bundle from its start to the end of its process.
func ociRun(bundle string) func(b *bench) result {
	return func(b *bench) result {
		var sides []side
		for _, r := range b.runtimes {
			argv := slices.Concat(r.prefix, []string{"run", "--bundle", filepath.Join(b.dir, "bundle-"+bundle), "bench-" + bundle})
			sides = append(sides, side{name: r.name, absent: r.absent, run: command(argv...)})
		}
		return b.timed(b.rounds*2, sides...)
	}
}

// ociExec times `exec` of /bin/true in a container that waits.
func ociExec(b *bench) result {
	var sides []side
	remove := map[string]func() error{}
	for _, r := range b.runtimes {
		s := side{name: r.name, absent: r.absent}
		if s.absent == "" {
			id := "bench-exec-" + r.name
			bundle := filepath.Join(b.dir, "bundle-"+waiting)
			if err := detach(slices.Concat(r.prefix, []string{"run", "--detach", "--bundle", bundle, id})...); err != nil {
				s.absent = err.Error()
			}
			remove[r.name] = command(slices.Concat(r.prefix, []string{"delete", "--force", id})...)
			s.run = command(slices.Concat(r.prefix, []string{"exec", id, "/bin/true"})...)
		}
		sides = append(sides, s)
	}
	res := b.timed(b.rounds*2, sides...)
	for _, name := range slices.Sorted(maps.Keys(remove)) {
		if err := remove[name](); err != nil {
			res.note += fmt.Sprintf("remove the container of %s: %v ", name, err)
		}
	}
	return res
}

// detach runs a command that leaves a process behind, which keeps its output: so
// there is none.
func detach(argv ...string) error {
	if err := exec.Command(argv[0], argv[1:]...).Run(); err != nil {
		return fmt.Errorf("%v: %w", argv, err)
	}
	return nil
}
