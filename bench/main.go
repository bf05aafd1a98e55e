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
	"io/fs"
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
	// rootfs is the tar of a root file system for OCI bundles, where there are no engines
	// to be measured, but the runtimes alone: in the machine with control groups v2.
	rootfs string
	// machine says whether that machine is booted after the other rows.
	machine bool
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 20, "how often each side of a row runs")
	flag.StringVar(&o.only, "only", "", "run only rows whose name contains this")
	flag.StringVar(&o.out, "out", "docs/BENCHMARKS.md", "where the table goes; empty writes none")
	flag.StringVar(&o.bin, "bin", "bin", "where viv and viv-oci are")
	flag.StringVar(&o.rootfs, "runtimes", "", "measure only the OCI runtimes, with the root file system of this tar")
	flag.BoolVar(&o.machine, "v2", true, "measure the OCI runtimes in a virtual machine with control groups v2, too")
	flag.Parse()
	if err := start(o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// wants tells whether a row is asked for.
func (o options) wants(r row) bool {
	return strings.Contains(r.name, o.only) && (r.runtimes || o.rootfs == "")
}

// emulated tells whether a row is to be measured in the virtual machine, too.
func (o options) emulated(r row) bool { return o.rootfs == "" && r.runtimes && o.wants(r) }

// inside marks the process that has its own namespaces.
const inside = "VIV_BENCH_INSIDE"

func start(o options) error {
	if os.Geteuid() != 0 {
		return errors.New("needs root")
	}
	if os.Getenv(inside) == "" {
		if err := enter(); err != nil || !o.machine || !slices.ContainsFunc(new(bench).rows(), o.emulated) {
			return err
		}
		return onV2(o)
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
	cmd.Args[0] = os.Args[0]
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("enter namespaces of our own: %w", err)
	}
	// The child has to clean up: this process stays until it has. A terminal's
	// interrupt reaches both, a SIGTERM only this one.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		for sig := range signals {
			if sig == syscall.SIGTERM {
				_ = cmd.Process.Signal(sig)
			}
		}
	}()
	err := cmd.Wait()
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
	// The peers write outside of the directories that they are given; nobody else is
	// to see that, and a containerd of the machine is not to be used.
	for _, dir := range []string{"/run", "/var/lib/containers"} {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil {
			return fmt.Errorf("hide %s: %w", dir, err)
		}
	}
	const unified = "/sys/fs/cgroup/unified"
	var st unix.Statfs_t
	if err := unix.Statfs(unified, &st); err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		if err := unix.Unmount(unified, 0); err != nil {
			return fmt.Errorf("hide the v2 hierarchy: %w", err)
		}
		// The peers would make directories on what is below, which is the host's.
		if err := unix.Mount("tmpfs", unified, "tmpfs", 0, "mode=0755"); err != nil {
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
	b.bin = bin
	wanted := slices.DeleteFunc(b.rows(), func(r row) bool { return !o.wants(r) })
	switch {
	case o.rootfs != "":
		b.rootfs = o.rootfs
		err = b.prepareRuntimes(bin)
	case slices.ContainsFunc(wanted, func(r row) bool { return r.engines }):
		err = b.prepare(bin)
	}
	if err != nil {
		return err
	}
	var done []result
	for _, row := range wanted {
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
	text := section(done)
	if o.rootfs == "" {
		text = b.report(done) + b.traceTable(plain)
	}
	return os.WriteFile(o.out, []byte(text), 0o644)
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

// groupParent is the control group under which the peers put theirs.
const groupParent = "/viv-bench"

// removeGroups removes what the peers leave of their control groups.
func removeGroups() error {
	var errs []error
	for _, pattern := range []string{"/sys/fs/cgroup/*" + groupParent, "/sys/fs/cgroup" + groupParent} {
		tops, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		for _, top := range tops {
			var st unix.Statfs_t
			switch err := unix.Statfs(top, &st); {
			case err != nil:
			case st.Type == unix.TMPFS_MAGIC: // buildah takes a directory without a hierarchy for one
				errs = append(errs, os.RemoveAll(top))
			default:
				errs = append(errs, removeTree(top))
			}
		}
	}
	return errors.Join(errs...)
}

// removeTree removes a directory of control groups, the inner ones first.
func removeTree(top string) error {
	var dirs []string
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	for _, dir := range slices.Backward(dirs) {
		err = errors.Join(err, os.Remove(dir))
	}
	return err
}
