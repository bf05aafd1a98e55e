// Package validation builds the validation programs of opencontainers/runtime-tools
// and runs them against OCI runtimes.
package validation

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"vivarium/internal/testenv"
)

const module = "github.com/opencontainers/runtime-tools"

// Programs are the built programs.
type Programs struct {
	// Dir holds them, with what they look for in their working directory.
	Dir string
	// Names lists them, without runtimetest, which runs in the containers.
	Names []string
}

// Build builds the programs from the module in the directory source, or finds those
// that were built before. They are static: runtimetest runs in a container's root.
func Build(ctx context.Context, source string) (Programs, error) {
	key := sha256.New()
	for _, name := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join(source, name))
		if err != nil {
			return Programs{}, fmt.Errorf("find the programs' module: %w", err)
		}
		key.Write(text)
	}
	key.Write([]byte(goruntime.Version()))
	dir, err := testenv.Cached("runtime-tools-"+hex.EncodeToString(key.Sum(nil)[:8]), func(dir string) error {
		return build(ctx, source, dir)
	})
	if err != nil {
		return Programs{}, err
	}
	p := Programs{Dir: dir}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return Programs{}, err
	}
	for _, e := range entries {
		if e.Name() != "runtimetest" && !strings.HasPrefix(e.Name(), "rootfs-") {
			p.Names = append(p.Names, e.Name())
		}
	}
	return p, nil
}

func build(ctx context.Context, source, dir string) error {
	run := func(args ...string) ([]byte, error) {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir = source
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
		var said bytes.Buffer
		cmd.Stderr = &said
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("go %s in %s: %w\n%s", args[0], source, err, said.Bytes())
		}
		return out, nil
	}
	if _, err := run("build", "-trimpath", "-ldflags=-s -w", "-o", dir+"/", module+"/validation/...", module+"/cmd/runtimetest"); err != nil {
		return err
	}
	out, err := run("list", "-m", "-json", module)
	if err != nil {
		return err
	}
	var m struct{ Dir string }
	if err := json.Unmarshal(out, &m); err != nil {
		return fmt.Errorf("read where the module is: %w", err)
	}
	name := "rootfs-" + goruntime.GOARCH + ".tar.gz"
	rootfs, err := os.ReadFile(filepath.Join(m.Dir, name))
	if err != nil {
		return fmt.Errorf("the programs have no root file system for this machine: %w", err)
	}
	return os.WriteFile(filepath.Join(dir, name), rootfs, 0o644)
}

// Runtime is a runtime with the control groups that it sees.
type Runtime struct {
	Name string
	Path string
	// Hybrid leaves the v2 hierarchy in sight that is mounted beside v1.
	Hybrid bool
	// OldSpec gives it the specification as one of version 1.0.2: crun 1.8 refuses
	// one whose version it has not heard of.
	OldSpec bool
}

// Names of the sides that are compared.
const (
	Runc   = "runc"
	Crun   = "crun"
	Viv    = "viv-oci"
	Hybrid = "viv-oci, hybrid"
)

// Sides are the peers and our own runtime, with control groups v1 alone, and once
// more our own with the empty v2 hierarchy beside.
func Sides(runc, crun, viv string) []Runtime {
	return []Runtime{
		{Name: Runc, Path: runc},
		{Name: Crun, Path: crun, OldSpec: true},
		{Name: Viv, Path: viv},
		{Name: Hybrid, Path: viv, Hybrid: true},
	}
}

// Verdict is what came of a program.
type Verdict string

// Verdicts, from worst to best. TAP counts a program that complains as passed: it
// has an error to tell, and no test that it belongs to.
const (
	Failed    Verdict = "fails"
	Complains Verdict = "complains"
	Passed    Verdict = "passes"
)

// Rank orders verdicts: a higher one is better.
func (v Verdict) Rank() int { return map[Verdict]int{Failed: 0, Complains: 1, Passed: 2}[v] }

// Result is what a program left.
type Result struct {
	Verdict        Verdict
	Stdout, Stderr string
	Err            error
}

// Why gives the lines that say what is wrong.
func (r Result) Why() string {
	var out []string
	lines := strings.Split(r.Stdout, "\n")
	for i, line := range lines {
		switch {
		case strings.HasPrefix(line, "not ok"):
			out = append(out, lines[i:min(i+6, len(lines))]...)
		case r.Verdict == Complains && strings.Contains(line, `"error"`):
			out = append(out, line)
		}
	}
	if r.Err != nil {
		out = append(out, r.Err.Error())
	}
	return strings.Join(append(out, r.Stderr), "\n")
}

// judge reads TAP (testanything.org, version 13) as its harnesses do: the exit
// status, and the test points.
func judge(stdout string, err error) Verdict {
	points, complaint := 0, false
	for line := range strings.Lines(stdout) {
		switch {
		case strings.HasPrefix(line, "not ok"):
			return Failed
		case strings.HasPrefix(line, "ok"):
			points++
		case strings.Contains(line, `"error": "`) && !strings.Contains(line, `"error": ""`):
			complaint = true
		}
	}
	switch {
	case err != nil:
		return Failed
	case points == 0 && complaint:
		return Complains
	}
	return Passed
}

// enter makes a mount namespace fit for a runtime, runs the program, and removes the
// containers that it left.
const enter = `
hide=$1 program=$2
mount -t tmpfs -o mode=755 tmpfs /run
if [ "$hide" = hide ] && mountpoint -q /sys/fs/cgroup/unified; then
	umount /sys/fs/cgroup/unified
fi
# Where no hierarchy is mounted, runtimes make directories and files all the same, on
# what is the host's: they make them on something that goes with us.
for hierarchy in /sys/fs/cgroup/*; do
	[ -L "$hierarchy" ] || mountpoint -q "$hierarchy" || [ -f "$hierarchy" ] || mount -t tmpfs -o mode=755 tmpfs "$hierarchy"
done
# crun gives its standard descriptors to the user of the container, and programs have
# /dev/null there: the machine's is not to change hands.
mkdir /run/dev
mount -t tmpfs -o mode=755 tmpfs /run/dev
mknod -m 666 /run/dev/null c 1 3
mount --bind /run/dev/null /dev/null
mkdir /run/oci
"$program"
code=$?
for id in $(ls /run/oci); do
	"$RUNTIME" delete --force "$id" >/dev/null 2>&1
done
exit $code
`

// limit bounds one program; the longest waits for ten seconds, three times.
const limit = 2 * time.Minute

// raceTries is how often a program of [Races] runs again.
const raceTries = 4

// shared are the programs that use control groups whose names are in the programs.
func shared(program string) bool {
	return strings.Contains(program, "cgroups") || strings.HasPrefix(program, "delete_")
}

// groups is held by a program that is [shared].
var groups sync.Mutex

// Run runs a program on a runtime, in a mount namespace of its own.
func (p Programs) Run(ctx context.Context, name string, r Runtime) Result {
	if shared(name) {
		groups.Lock()
		defer groups.Unlock()
		defer removeGroups()
	}
	dir, err := os.MkdirTemp("", "o")
	if err != nil {
		return Result{Verdict: Failed, Err: err}
	}
	defer os.RemoveAll(dir)
	// The root of a user namespace has to get to its bundle.
	if err := os.Chmod(dir, 0o711); err != nil {
		return Result{Verdict: Failed, Err: err}
	}
	wrapper := filepath.Join(dir, "runtime")
	if err := os.WriteFile(wrapper, []byte(r.script()), 0o755); err != nil {
		return Result{Verdict: Failed, Err: err}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("ran longer than %s", limit))
	defer cancel()
	hide := "hide"
	if r.Hybrid {
		hide = "show"
	}
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "sh", "-c", enter, "sh", hide, filepath.Join(p.Dir, name))
	cmd.Dir = p.Dir
	cmd.Env = append(os.Environ(), "RUNTIME="+wrapper, "TMPDIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return Result{Verdict: judge(stdout.String(), err), Stdout: stdout.String(), Stderr: stderr.String(), Err: err}
}

// script is the program that stands for a runtime: the validation programs can give
// no flags to one.
func (r Runtime) script() string {
	old := ""
	if r.OldSpec {
		old = `previous=
for argument in "$@"; do
	if [ "$previous" = --bundle ]; then
		sed -i 's/"ociVersion": *"1\.[0-9.]*"/"ociVersion": "1.0.2"/' "$argument/config.json"
	fi
	previous=$argument
done
`
	}
	return fmt.Sprintf("#!/bin/sh\n%sexec %s --root /run/oci \"$@\"\n", old, r.Path)
}

// removeGroups removes the control groups that the programs name and leave: a relative
// path is below viv for our runtime.
func removeGroups() {
	for _, name := range []string{"cgrouptest", "testdir/cgrouptest/container", "testdir/cgrouptest", "testdir", "viv/testdir/cgrouptest", "viv/testdir"} {
		dirs, _ := filepath.Glob("/sys/fs/cgroup/*/" + name)
		for _, dir := range append(dirs, "/sys/fs/cgroup/"+name) {
			_ = os.Remove(dir)
		}
	}
}

// RunAll runs every program on every runtime, several at a time, for most of them
// sleep. The result is by program and name of the runtime.
func (p Programs) RunAll(ctx context.Context, runtimes []Runtime) (map[string]map[string]Result, error) {
	type job struct {
		program string
		runtime Runtime
	}
	jobs := make(chan job)
	results := map[string]map[string]Result{}
	var mu sync.Mutex
	var workers sync.WaitGroup
	for range 4 * goruntime.NumCPU() {
		workers.Go(func() {
			for j := range jobs {
				res := p.Run(ctx, j.program, j.runtime)
				mu.Lock()
				if results[j.program] == nil {
					results[j.program] = map[string]Result{}
				}
				results[j.program][j.runtime.Name] = res
				mu.Unlock()
			}
		})
	}
	for _, name := range p.Names {
		for _, r := range runtimes {
			jobs <- job{name, r}
		}
	}
	close(jobs)
	workers.Wait()
	for name := range Races {
		for _, r := range runtimes {
			for range raceTries {
				if results[name][r.Name].Verdict == Passed || ctx.Err() != nil {
					break
				}
				if again := p.Run(ctx, name, r); again.Verdict.Rank() > results[name][r.Name].Verdict.Rank() {
					results[name][r.Name] = again
				}
			}
		}
	}
	if len(results) == 0 {
		return nil, errors.New("there are no programs")
	}
	return results, context.Cause(ctx)
}

// Table renders the results, in Markdown.
func Table(names []string, runtimes []Runtime, results map[string]map[string]Result) string {
	var b strings.Builder
	b.WriteString("| program |")
	for _, r := range runtimes {
		b.WriteString(" " + r.Name + " |")
	}
	b.WriteString(" why not |\n|---|" + strings.Repeat("---|", len(runtimes)) + "---|\n")
	passed := map[string]int{}
	for _, name := range names {
		b.WriteString("| " + name + " |")
		why := ""
		for _, r := range runtimes {
			v := results[name][r.Name].Verdict
			b.WriteString(" " + string(v) + " |")
			if v == Passed {
				passed[r.Name]++
			} else if r.Name == Viv || r.Name == Hybrid {
				why = Reasons[name]
			}
		}
		b.WriteString(" " + why + " |\n")
	}
	fmt.Fprintf(&b, "| **passed of %d** |", len(names))
	for _, r := range runtimes {
		fmt.Fprintf(&b, " **%d** |", passed[r.Name])
	}
	return b.String() + " |\n"
}
