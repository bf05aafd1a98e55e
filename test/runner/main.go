// Command runner runs the project's test suites and closes with one plain line,
// "N passed, N failed, N skipped", counted from what `go test -json` said.
//
//	go run ./test/runner [-fuzztime D] [-deadline D] [-v] SUITE...
//
// Suites: lint, unit, race, blackbox, oci, vm, fuzz. Without one: unit, blackbox, vm.
// The exit status is 0 only if at least one test ran, none failed and every
// step of every suite worked. The runner ends when its deadline has come, even if
// a test hangs in the kernel and cannot be killed: then the report says where.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// run carries what the suites share.
type run struct {
	ctx      context.Context
	fuzzTime time.Duration
	// grace is how long a command has to end when it is told to.
	grace time.Duration
	tally *tally
	// broken names the steps that failed without being a test: a linter, a build.
	broken []string
}

func main() {
	fuzzTime := flag.Duration("fuzztime", 10*time.Second, "how long each fuzz target runs")
	deadline := flag.Duration("deadline", 0, "how long all suites together may take; 0: as long as they like")
	verbose := flag.Bool("v", false, "print every test, not only those that fail")
	flag.Parse()
	suites := flag.Args()
	if len(suites) == 0 {
		suites = []string{"unit", "blackbox", "vm"}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *deadline > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, *deadline, fmt.Errorf("the deadline of %s for all suites has come", *deadline))
		defer cancel()
	}
	r := &run{ctx: ctx, fuzzTime: *fuzzTime, grace: 30 * time.Second, tally: newTally(os.Stdout, *verbose)}
	os.Exit(r.suites(suites))
}

// suites runs the named suites in order and returns the exit status. One that
// fails does not keep the next from running: CI is to show all that is wrong.
func (r *run) suites(names []string) int {
	steps := map[string]func() error{
		"lint": r.lint, "unit": r.unit, "race": r.race,
		"blackbox": r.blackbox, "oci": r.oci, "vm": r.vm, "fuzz": r.fuzz,
	}
	for _, name := range names {
		if steps[name] == nil {
			fmt.Fprintf(os.Stderr, "runner: unknown suite %q: one of lint, unit, race, blackbox, oci, vm, fuzz\n", name)
			return 2
		}
	}
	ran := 0
	for _, name := range names {
		start := time.Now()
		fmt.Printf("=== suite %s\n", name)
		err := context.Cause(r.ctx)
		if err == nil {
			err = steps[name]()
		}
		if err != nil {
			fmt.Printf("--- suite %s: %v\n", name, err)
			r.broken = append(r.broken, name)
		}
		if name != "lint" {
			ran++
		}
		fmt.Printf("=== suite %s took %s\n", name, time.Since(start).Round(time.Second))
	}
	return r.close(ran > 0)
}

// close prints the end of the report. Lint alone runs no tests, and says so by
// having no closing line.
func (r *run) close(tests bool) int {
	r.tally.printSkips()
	r.tally.printFailures()
	for _, name := range r.broken {
		fmt.Fprintf(r.tally.out, "suite %s did not succeed\n", name)
	}
	total := r.tally.total()
	if total.failed > 0 || len(r.broken) > 0 {
		printKernelErrors(r.tally.out)
	}
	if tests {
		fmt.Fprintf(r.tally.out, "%d passed, %d failed, %d skipped\n", total.passed, total.failed, total.skipped)
	}
	switch {
	case total.failed > 0, len(r.broken) > 0:
		return 1
	case tests && total.passed == 0:
		fmt.Fprintln(os.Stderr, "runner: no test ran")
		return 1
	}
	return 0
}

// printKernelErrors shows what the kernel complained of: after a crash of its own,
// tests fail and hang that have nothing to do with it.
func printKernelErrors(out io.Writer) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	text, err := exec.CommandContext(ctx, "dmesg", "--level", "emerg,alert,crit").Output()
	if err != nil || len(text) == 0 {
		return // not readable, or nothing to tell
	}
	lines := strings.SplitAfter(string(text), "\n")
	fmt.Fprintf(out, "the kernel's own log has errors, the last of them:\n%s", strings.Join(lines[max(0, len(lines)-60):], ""))
}

// apart are the packages that have a suite of their own.
var apart = []string{"vivarium/test/blackbox", "vivarium/test/oci", "vivarium/test/vm", "vivarium/test/vm/proof"}

// packages lists the packages of the module that the unit suites run on.
func (r *run) packages() ([]string, error) {
	out, err := r.output("go", "list", "./...")
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(strings.Fields(out), func(p string) bool { return slices.Contains(apart, p) }), nil
}

func (r *run) lint() error {
	files, err := r.output("git", "ls-files", "--cached", "--others", "--exclude-standard", "--", "*.go")
	if err != nil {
		return err
	}
	var broken []string
	for _, step := range []struct {
		name string
		argv []string
	}{
		{"gofmt", append([]string{"gofmt", "-l"}, strings.Fields(files)...)},
		{"go vet", []string{"go", "vet", "./..."}},
		// What knows of processors; the rest compiles for all or for none.
		{"go vet for arm64", []string{"env", "GOARCH=arm64", "CGO_ENABLED=0", "go", "vet", "./sandbox/...", "./monitor/...", "./internal/...", "./cmd/viv-oci", "./cmd/viv-monitor"}},
		{"staticcheck", []string{"go", "tool", "staticcheck", "./..."}},
	} {
		out, err := r.output(step.argv[0], step.argv[1:]...)
		// gofmt -l succeeds whatever it finds: its output is the finding.
		if err == nil && strings.TrimSpace(out) == "" {
			continue
		}
		fmt.Print(out)
		broken = append(broken, step.name)
	}
	if len(broken) > 0 {
		return fmt.Errorf("found something: %s", strings.Join(broken, ", "))
	}
	return nil
}

func (r *run) unit() error {
	packages, err := r.packages()
	if err != nil {
		return err
	}
	return r.goTest(nil, append([]string{"-timeout=10m"}, packages...)...)
}

// spawnPackage makes processes by a raw clone whose child runs Go code without
// a Go runtime. The race detector's instrumentation calls into its own C
// runtime there, which such a child must not do.
const spawnPackage = "vivarium/sandbox/spawn"

// alone are packages in which the race detector has nothing to find, and takes long.
var alone = map[string]string{
	"vivarium/internal/archtest": "it reads sources",
	"vivarium/internal/lazyjson": "it has no goroutines",
	"vivarium/internal/testenv":  "it is about tests",
	"vivarium/lab":               "its work is done by other processes",
	"vivarium/sandbox/seccomp":   "it has no goroutines",
	// The server of unions has the same cases in its own tests.
	"vivarium/unionfs/unionfstest": "its drivers have no goroutines",
}

// race runs the race detector where it can work: on packages whose tests do not
// link spawnPackage.
func (r *run) race() error {
	if _, err := exec.LookPath("gcc"); err != nil {
		return fmt.Errorf("the race detector needs a C compiler: install gcc: %w", err)
	}
	all, err := r.packages()
	if err != nil {
		return err
	}
	args := append([]string{"list", "-test", "-f", `{{.ImportPath}} {{join .Deps " "}}`}, all...)
	out, err := r.output("go", args...)
	if err != nil {
		return err
	}
	excluded := linking(out, spawnPackage)
	var packages []string
	for _, p := range all {
		if excluded[p] {
			fmt.Printf("race: leaving out %s: it links %s\n", p, spawnPackage)
			continue
		}
		if why := alone[p]; why != "" {
			fmt.Printf("race: leaving out %s: %s\n", p, why)
			continue
		}
		packages = append(packages, p)
	}
	return r.goTest([]string{"CGO_ENABLED=1"}, append([]string{"-race", "-timeout=15m"}, packages...)...)
}

// linking returns the packages whose tests link dep, from lines of "package
// deps..." as `go list -test` writes them: the test binary of p is "p.test", and
// packages recompiled for a test carry its name in brackets.
func linking(list, dep string) map[string]bool {
	found := map[string]bool{}
	for line := range strings.Lines(list) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		p := strings.TrimSuffix(fields[0], ".test")
		if p == dep || slices.Contains(fields[1:], dep) {
			found[p] = true
		}
	}
	return found
}

func (r *run) blackbox() error {
	return r.onBinaries("./test/blackbox/...", "viv", "viv-oci", "viv-monitor", "viv-union")
}

// oci runs other people's engines and validation programs on viv-oci; install-deps
// brings them with the argument oci.
func (r *run) oci() error { return r.onBinaries("./test/oci", "viv-oci") }

// onBinaries runs a suite on programs that are built once, as they are delivered.
func (r *run) onBinaries(packages string, names ...string) error {
	bin, err := os.MkdirTemp("", "viv-bin-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(bin)
	for _, name := range names {
		build := exec.CommandContext(r.ctx, "go", "build", "-trimpath", "-o", bin+"/"+name, "./cmd/"+name)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	return r.goTest([]string{"VIV_BIN_DIR=" + bin}, "-timeout=20m", packages)
}

func (r *run) vm() error {
	return r.goTest(nil, "-timeout=20m", "./test/vm/...")
}

// fuzz runs each fuzz target by itself: `go test -fuzz` takes one at a time.
func (r *run) fuzz() error {
	packages, err := r.packages()
	if err != nil {
		return err
	}
	for _, p := range packages {
		out, err := r.output("go", "test", "-list", "^Fuzz", p)
		if err != nil {
			return err
		}
		for line := range strings.Lines(out) {
			target := strings.TrimSpace(line)
			if !strings.HasPrefix(target, "Fuzz") {
				continue
			}
			err := r.goTest(nil, "-run=^$", "-fuzz=^"+target+"$", "-fuzztime="+r.fuzzTime.String(), p)
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// goTest runs `go test -json` and counts what it says. A test that fails is no
// error here: the tally knows it. An error is a go test that said nothing of why
// it failed.
//
// As root, packages run one after the other: they look at the same control
// groups, links and processes.
func (r *run) goTest(env []string, args ...string) error {
	base := []string{"test", "-json", "-count=1"}
	if os.Geteuid() == 0 {
		base = append(base, "-p=1")
	}
	cmd := exec.CommandContext(r.ctx, "go", append(base, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = r.grace
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("start go test: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start go test: %w", err)
	}
	// A test that cannot be killed keeps its end of the pipe.
	release := context.AfterFunc(r.ctx, func() {
		time.AfterFunc(r.grace, func() {
			_ = cmd.Process.Kill()
			_ = stdout.Close()
		})
	})
	defer release()
	before := r.tally.total().failed
	if err := r.tally.read(stdout); err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if r.ctx.Err() == nil {
			return fmt.Errorf("read go test's events: %w", err)
		}
	} else if err := cmd.Wait(); err != nil && r.tally.total().failed == before {
		return fmt.Errorf("go test failed with no test at fault: %w", err)
	}
	return context.Cause(r.ctx)
}

// output runs a command and returns what it printed on both streams.
func (r *run) output(name string, args ...string) (string, error) {
	var out strings.Builder
	cmd := exec.CommandContext(r.ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("run %s %s: %w\n%s", name, strings.Join(args[:min(2, len(args))], " "), err, out.String())
	}
	return out.String(), nil
}
