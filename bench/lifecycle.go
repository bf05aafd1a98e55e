package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ociLife times create, start and delete, as an engine calls them: the process
// ends in between.
func ociLife(b *bench) result {
	// A process whose runtime has gone comes to us, and we reap it.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return result{note: fmt.Sprintf("become a subreaper: %v", err)}
	}
	defer func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) }()
	var sides []side
	for _, r := range b.runtimes {
		sides = append(sides, side{name: r.name, absent: r.absent, run: func() error { return b.life(r) }})
	}
	return b.timed(b.rounds*2, sides...)
}

func (b *bench) life(r ociRuntime) error {
	id, pidFile := "bench-life", filepath.Join(b.dir, "pid-"+r.name)
	call := func(args ...string) error { return detach(slices.Concat(r.prefix, args)...) }
	if err := call("create", "--bundle", filepath.Join(b.dir, "bundle-"+plain), "--pid-file", pidFile, id); err != nil {
		return err
	}
	text, err := os.ReadFile(pidFile)
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return err
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if err := call("start", id); err != nil {
		return err
	}
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 60_000)
	for err == unix.EINTR {
		n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 60_000)
	}
	if n != 1 {
		return errors.Join(errors.New("the command does not end"), err)
	}
	if _, err := unix.Wait4(pid, nil, 0, nil); err != nil {
		return fmt.Errorf("reap process %d: %w", pid, err)
	}
	return call("delete", id)
}

// ociCrowd times many runs that are started at the same time.
func ociCrowd(b *bench) result {
	var sides []side
	for _, r := range b.runtimes {
		sides = append(sides, side{name: r.name, absent: r.absent, run: func() error { return b.crowdOf(r) }})
	}
	return b.timed(min(b.rounds, 5), sides...)
}

func (b *bench) crowdOf(r ociRuntime) error {
	ended := make(chan error, crowd)
	for i := range crowd {
		argv := slices.Concat(r.prefix, []string{"run", "--bundle", filepath.Join(b.dir, "bundle-"+plain), "bench-crowd-" + strconv.Itoa(i)})
		go func() { ended <- command(argv...)() }()
	}
	var errs []error
	for range crowd {
		if err := <-ended; err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("%d of %d failed, the first: %w", len(errs), crowd, errs[0])
	}
	return nil
}

// ociMemory reads how much memory the runtime itself used at the most (ru_maxrss
// of getrusage(2)). A small program starts it: the figure of a process begins with
// what whoever forked it had.
func ociMemory(b *bench) result {
	var res result
	for _, r := range b.runtimes {
		res.figures = append(res.figures, b.sampled(r.name, r.absent, func() (float64, error) { return b.peak(r) }))
	}
	return res
}

func (b *bench) peak(r ociRuntime) (megabytes float64, err error) {
	return peak(slices.Concat(r.prefix, []string{"run", "--bundle", filepath.Join(b.dir, "bundle-"+plain), "bench-memory"})...)
}

// peak runs a program, and gives how much memory it used at the most.
func peak(argv ...string) (megabytes float64, err error) {
	out, err := exec.Command("/usr/bin/time", append([]string{"-f", "%M"}, argv...)...).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%v: %w: %s", argv, err, tail(string(out)))
	}
	kilobytes, err := strconv.ParseFloat(tail(string(out)), 64)
	return kilobytes / 1024, err
}

// traced is a step of a run as viv-oci --trace tells it, in microseconds.
type traced struct {
	who, what string
	took      []float64
}

// traceLine is a line of such a trace: AT_US TOOK_US WHO STEP.
var traceLine = regexp.MustCompile(`^ *[0-9.]+ +([0-9.]+) +(\w+) +(.*)$`)

// trace runs a bundle many times and gives each step with all its times.
func (b *bench) trace(bundle string) ([]traced, error) {
	i := slices.IndexFunc(b.runtimes, func(r ociRuntime) bool { return ours(r.name) })
	if i < 0 || b.runtimes[i].absent != "" {
		return nil, errors.New("viv-oci is absent")
	}
	r := b.runtimes[i]
	file := filepath.Join(b.dir, "trace")
	var steps []traced
	for range b.rounds {
		if err := command(slices.Concat(r.prefix, []string{"--trace", file, "run", "--bundle", filepath.Join(b.dir, "bundle-"+bundle), "bench-trace"})...)(); err != nil {
			return nil, err
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(text)) {
			m := traceLine.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
			if m == nil {
				continue
			}
			took, err := strconv.ParseFloat(m[1], 64)
			if err != nil {
				return nil, err
			}
			steps = addStep(steps, m[2], m[3], took)
		}
	}
	return steps, nil
}

// addStep counts a step's time. Steps that only differ in what stands behind a
// colon twice (which file is written) are one.
func addStep(steps []traced, who, what string, took float64) []traced {
	if parts := strings.SplitN(what, ": ", 3); len(parts) == 3 {
		what = parts[0] + ": " + parts[1]
	}
	for i := range steps {
		if steps[i].who == who && steps[i].what == what {
			steps[i].took = append(steps[i].took, took)
			return steps
		}
	}
	return append(steps, traced{who, what, []float64{took}})
}

// traceTable shows the steps that take a hundredth of the whole or more.
func (b *bench) traceTable(bundle string) string {
	steps, err := b.trace(bundle)
	var s strings.Builder
	s.WriteString("\n## Where the time of an OCI run goes\n\n")
	if err != nil {
		fmt.Fprintf(&s, "Not measured: %s\n", cell(err.Error()))
		return s.String()
	}
	fmt.Fprintf(&s, "Medians of %d runs of /bin/true, from `viv-oci --trace`: it begins at main, so the start of the program\n"+
		"itself (about a millisecond, most of it the Go runtime's) comes before. The process sets itself up while the\n"+
		"runtime waits for it. Steps below 20 µs are left out.\n\n| who | step | µs |\n|---|---|---|\n", b.rounds)
	for _, st := range steps {
		f := figure{values: st.took}
		if m := f.median() * float64(len(st.took)) / float64(b.rounds); m >= 20 {
			fmt.Fprintf(&s, "| %s | %s | %.0f |\n", st.who, cell(strings.ReplaceAll(st.what, b.dir, "…")), m)
		}
	}
	return s.String()
}
