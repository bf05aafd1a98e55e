// Command bench measures Vivarium beside the engines that people have: podman,
// docker, and for the OCI runtime crun and runc. Every row runs each side in turn,
// round by round, on the same machine in the same minutes; figures are medians.
//
// It needs root and works in mount and network namespaces of its own, on
// directories of its own, so that nothing of it is left behind.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// options are the command line.
type options struct {
	rounds int
	only   string
	out    string
	bin    string
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 20, "how often each side of a row runs")
	flag.StringVar(&o.only, "only", "", "run only rows whose name contains this")
	flag.StringVar(&o.out, "out", "docs/BENCHMARKS.md", "where the table goes; empty writes none")
	flag.StringVar(&o.bin, "bin", "bin", "where viv and viv-oci are")
	flag.Parse()
	if err := start(o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// inside marks the process that has its own namespaces.
const inside = "VIV_BENCH_INSIDE"

func start(o options) error {
	if os.Geteuid() != 0 {
		return errors.New("needs root")
	}
	if os.Getenv(inside) == "" {
		return enter()
	}
	if err := isolate(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "viv-bench-")
	if err != nil {
		return err
	}
	b := &bench{dir: dir, rounds: o.rounds}
	// A signal must not keep what was started from being stopped.
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-interrupted
		b.stop.Store(true)
	}()
	runErr := b.run(o)
	return errors.Join(runErr, b.cleanUp())
}

// enter runs this program again in new mount and network namespaces.
func enter() error {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET}
	// Both get a terminal's interrupt; only the child has something to do about it.
	signal.Ignore(os.Interrupt)
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	}
	return err
}

// isolate makes the namespaces usable. crun refuses a machine that has control
// groups v1 and v2 at the same time, so an empty v2 hierarchy is hidden, from all
// sides alike.
func isolate() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find the loopback link: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set the loopback link up: %w", err)
	}
	const unified = "/sys/fs/cgroup/unified"
	var st unix.Statfs_t
	if err := unix.Statfs(unified, &st); err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		if err := unix.Unmount(unified, 0); err != nil {
			return fmt.Errorf("hide the v2 hierarchy: %w", err)
		}
	}
	return nil
}

// run measures all rows that are asked for and writes the table.
func (b *bench) run(o options) error {
	bin, err := filepath.Abs(o.bin)
	if err != nil {
		return err
	}
	if err := b.prepare(bin); err != nil {
		return err
	}
	var done []result
	for _, row := range b.rows() {
		if o.only != "" && !strings.Contains(row.name, o.only) {
			continue
		}
		if b.stop.Load() {
			return errors.New("interrupted")
		}
		fmt.Printf("== %s\n", row.name)
		res := row.measure(b)
		res.row = row
		fmt.Print(res.text())
		done = append(done, res)
	}
	if len(done) == 0 {
		return fmt.Errorf("no row's name contains %q", o.only)
	}
	if o.out == "" {
		return nil
	}
	return os.WriteFile(o.out, []byte(b.report(done)), 0o644)
}

// cleanUp stops and removes all that was started, last first.
func (b *bench) cleanUp() error {
	var errs []error
	for _, f := range slices.Backward(b.cleanups) {
		errs = append(errs, f())
	}
	errs = append(errs, unmountBelow(b.dir), os.RemoveAll(b.dir), removeGroups())
	return errors.Join(errs...)
}

// unmountBelow unmounts what an engine left mounted, deepest first.
func unmountBelow(dir string) error {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var points []string
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			points = append(points, fields[4])
		}
	}
	var errs []error
	for _, p := range slices.Backward(points) {
		if err := unix.Unmount(p, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", p, err))
		}
	}
	return errors.Join(errs...)
}

// removeGroups removes the empty control groups that the peers leave. Those in use
// by another engine are not empty and stay.
func removeGroups() error {
	for _, name := range []string{"docker", "libpod_parent", "runc-bench", "viv"} {
		for _, pattern := range []string{"/sys/fs/cgroup/*/" + name, "/sys/fs/cgroup/" + name} {
			dirs, err := filepath.Glob(pattern)
			if err != nil {
				return err
			}
			for _, dir := range dirs {
				_ = os.Remove(dir)
			}
		}
	}
	return nil
}
