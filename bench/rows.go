package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// crowd is how many containers "at once" means.
const crowd = 100

// rows are the table of the design that can be measured, with its targets.
func (b *bench) rows() []row {
	rows := engineRows()
	for i := range rows {
		rows[i].engines = true
	}
	return append(rows, unionRows()...)
}

func engineRows() []row {
	return []row{
		{name: "OCI run of /bin/true", unit: "ms", runtimes: true, measure: ociRun(plain), targets: map[string]float64{"crun": 0.5}},
		{name: "OCI run, Docker's seccomp profile", unit: "ms", runtimes: true, measure: ociRun(filtered), targets: map[string]float64{"crun": 0.2}},
		{name: "OCI create, start, delete of /bin/true", unit: "ms", runtimes: true, measure: ociLife, targets: map[string]float64{"crun": 0.5}},
		{name: "OCI run, 100 at once", unit: "ms", runtimes: true, measure: ociCrowd, targets: map[string]float64{"crun": 0.5}},
		{name: "OCI run, most memory of the runtime", unit: "MB", runtimes: true, measure: ociMemory, targets: map[string]float64{"crun": 2}},
		{name: "OCI exec of /bin/true", unit: "ms", runtimes: true, measure: ociExec, targets: map[string]float64{"crun": 0.75}},
		{
			name: "run --rm from an image, no network", unit: "ms", measure: engineRun("--network", "none"),
			targets: map[string]float64{"docker": 1.0 / 20, "podman": 1.0 / 12},
		},
		{
			name: "run --rm from an image, bridged", unit: "ms", measure: engineRun(),
			targets: map[string]float64{"docker": 1.0 / 14, "podman": 1.0 / 10},
		},
		{name: "exec in a running container", unit: "ms", measure: engineExec, targets: map[string]float64{"docker": 1.0 / 5}},
		{name: "memory of a detached container's monitor, PSS", unit: "MB", measure: monitorMemory, targets: map[string]float64{"podman": 1}},
		{
			name: "100 containers started at once", unit: "ms", measure: atOnce,
			targets: map[string]float64{"docker": 1.0 / 15, "podman": 1.0 / 8},
		},
		{
			name: "ps with 100 containers", unit: "ms", measure: list,
			targets: map[string]float64{"docker": 1, "podman": 1.0 / 3},
		},
		{
			name: "pull and unpack 336 MB in 5 layers", unit: "ms", measure: pull("large", pullLayers, pullBytes),
			targets: map[string]float64{"docker": 0.25, "podman": 0.4},
		},
		{
			name: "pull and unpack 30 MB in 60 layers", unit: "ms", measure: pull("small", smallLayers, smallBytes),
			targets: map[string]float64{"docker": 0.25, "podman": 0.4},
		},
		{name: "pull of a layer of 1 GB, most memory", unit: "MB", measure: pullMemory, targets: map[string]float64{"podman": 1}},
		{
			name: "build of nine RUN steps, nothing cached", unit: "ms", measure: buildRuns(false),
			targets: map[string]float64{"buildah": 1.0 / 3, "docker": 1.0 / 3, "buildkit": 1.0 / 3},
		},
		{
			name: "build of nine RUN steps, all cached", unit: "ms", measure: buildRuns(true),
			targets: map[string]float64{"buildah": 1.0 / 3, "docker": 1.0 / 3, "buildkit": 1.0 / 3},
		},
		{
			name: "build with a context of 50,000 files, one changed", unit: "ms", measure: buildContext,
			targets: map[string]float64{"buildah": 0.25, "docker": 0.25, "buildkit": 0.25},
		},
	}
}

func engineRun(flags ...string) func(b *bench) result {
	return func(b *bench) result {
		var sides []side
		for _, e := range b.engines() {
			s := side{name: e.name, absent: e.absent}
			if s.absent == "" {
				s.run = command(e.run(append([]string{"--rm"}, flags...), "true")...)
			}
			sides = append(sides, s)
		}
		return b.timed(b.rounds, sides...)
	}
}

func engineExec(b *bench) result {
	var sides []side
	for _, e := range b.engines() {
		s := side{name: e.name, absent: e.absent}
		if s.absent == "" {
			id, err := output(e.run([]string{"-d", "--network", "none"}, "sleep", "100000")...)
			if err != nil {
				s.absent = err.Error()
			} else {
				s.run = command(e.command("exec", id, "true")...)
				defer func() { _ = command(e.command(slices.Concat(e.remove, []string{id})...)...)() }()
			}
		}
		sides = append(sides, s)
	}
	return b.timed(b.rounds, sides...)
}

// monitorMemory reads the proportional set size of the process that stays beside a
// container: the parent of its first process.
func monitorMemory(b *bench) result {
	var res result
	for _, e := range b.engines() {
		res.figures = append(res.figures, b.sampled(e.name, e.absent, e.monitorPSS))
	}
	return res
}

func (e *engine) monitorPSS() (megabytes float64, err error) {
	id, err := output(e.run([]string{"-d", "--network", "none"}, "sleep", "100000")...)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, command(e.command(slices.Concat(e.remove, []string{id})...)...)()) }()
	// What the start left in memory may still be given back.
	time.Sleep(500 * time.Millisecond)
	pid, err := output(e.command("inspect", "--format", "{{.State.Pid}}", id)...)
	if err != nil {
		return 0, err
	}
	parent, err := field("/proc/"+pid+"/status", `PPid:\s*(\d+)`)
	if err != nil {
		return 0, err
	}
	if parent <= 1 {
		return 0, fmt.Errorf("process %s of container %s has no monitor above it", pid, id)
	}
	kilobytes, err := field(fmt.Sprintf("/proc/%d/smaps_rollup", parent), `(?m)^Pss:\s*(\d+)`)
	return float64(kilobytes) / 1000, err
}

// field reads a number out of a file.
func field(path, pattern string) (int, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	m := regexp.MustCompile(pattern).FindSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("find %s in %s: it is not there", pattern, path)
	}
	return strconv.Atoi(string(m[1]))
}

// atOnce starts many detached containers at the same time and waits until the last
// one runs.
func atOnce(b *bench) result {
	var sides []side
	for _, e := range b.engines() {
		s := side{name: e.name, absent: e.absent}
		if s.absent == "" {
			s.run = e.startCrowd
			s.after = e.removeAll
		}
		sides = append(sides, s)
	}
	return b.timed(min(b.rounds, 3), sides...)
}

func (e *engine) startCrowd() error {
	type started struct {
		cmd *exec.Cmd
		out *bytes.Buffer
	}
	var all []started
	var errs []error
	argv := e.run([]string{"-d", "--network", "none"}, "sleep", "100000")
	for range crowd {
		out := &bytes.Buffer{}
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Stdout, cmd.Stderr = out, out
		cmd.WaitDelay = 10 * time.Second
		if err := cmd.Start(); err != nil {
			errs = append(errs, err)
			break
		}
		all = append(all, started{cmd, out})
	}
	for _, s := range all {
		if err := s.cmd.Wait(); err != nil {
			errs = append(errs, fmt.Errorf("%w: %s", err, tail(s.out.String())))
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("%d of %d did not start, the first: %w", len(errs), crowd, errs[0])
	}
	return nil
}

// list times ps while many containers run.
func list(b *bench) result {
	var sides []side
	for _, e := range b.engines() {
		s := side{name: e.name, absent: e.absent}
		if s.absent == "" {
			if err := e.startCrowd(); err != nil {
				s.absent = err.Error()
			}
			defer func() { _ = e.removeAll() }()
			s.run = func() error {
				out, err := output(e.command("ps", "-q")...)
				if n := len(strings.Fields(out)); err == nil && n != crowd {
					err = fmt.Errorf("ps shows %d containers of %d", n, crowd)
				}
				return err
			}
		}
		sides = append(sides, s)
	}
	return b.timed(b.rounds, sides...)
}
