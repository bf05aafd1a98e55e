package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"vivarium/internal/testenv"
)

// engine is a container engine with the way to call it.
type engine struct {
	name   string
	prefix []string
	// flags are needed by every run on a machine like this.
	flags []string
	image string
	// pull is the verb that pulls from a registry without TLS.
	pull []string
	// remove is the verb that removes a container at once, running or not.
	remove []string
	// absent says why the engine cannot be measured; empty if it can.
	absent string
}

// command is the argument list of an engine command.
func (e *engine) command(args ...string) []string { return slices.Concat(e.prefix, args) }

// run is the argument list of a `run`.
func (e *engine) run(flags []string, command ...string) []string {
	return slices.Concat(e.prefix, []string{"run"}, flags, e.flags, []string{e.image}, command)
}

// engines are all sides of an engine row, Vivarium first.
func (b *bench) engines() []*engine { return []*engine{b.viv, b.docker, b.podman} }

// prepare finds or starts every side. One that is missing is said in its rows.
func (b *bench) prepare(bin string) error {
	files, err := testRootfs()
	if err != nil {
		return err
	}
	b.rootfs = files
	b.viv = b.prepareViv(bin)
	b.docker = b.prepareDocker()
	b.podman = b.preparePodman()
	for _, e := range b.engines() {
		if e.absent != "" {
			continue
		}
		if err := command(e.command("import", b.rootfs, e.image)...)(); err != nil {
			e.absent = "import of the test image: " + err.Error()
		}
	}
	return b.prepareRuntimes(bin)
}

func testRootfs() (string, error) {
	files, err := testenv.ImageFiles("busybox")
	if err != nil {
		return "", fmt.Errorf("make the test image: %w", err)
	}
	return files.Rootfs, nil
}

func (b *bench) prepareViv(bin string) *engine {
	e := &engine{name: "viv", image: "bench", pull: []string{"pull", "-q"}, remove: []string{"rm", "-f"}}
	path := filepath.Join(bin, "viv")
	if _, err := os.Stat(path); err != nil {
		e.absent = "not built: " + err.Error()
		return e
	}
	e.prefix = []string{path, "--root", filepath.Join(b.dir, "viv"), "--state", filepath.Join(b.dir, "vs")}
	b.cleanups = append(b.cleanups, e.removeAll)
	return e
}

func (b *bench) preparePodman() *engine {
	e := &engine{
		name: "podman", image: "localhost/bench:latest", pull: []string{"pull", "-q", "--tls-verify=false"},
		// Its defaults are above the hard limits of a machine without CAP_SYS_RESOURCE.
		flags: []string{"--ulimit", "nofile=1000:1000", "--ulimit", "nproc=1000:1000", "--cgroup-parent", groupParent},
		// Without -t it gives each container ten seconds to end by itself.
		remove: []string{"rm", "-f", "-t", "0"},
	}
	path, err := exec.LookPath("podman")
	if err != nil {
		e.absent = err.Error()
		return e
	}
	dir := filepath.Join(b.dir, "podman")
	e.prefix = []string{
		path, "--root", dir + "/root", "--runroot", dir + "/run", "--tmpdir", dir + "/tmp",
		"--network-config-dir", dir + "/net", "--cgroup-manager", "cgroupfs", "--storage-driver", "overlay",
	}
	b.cleanups = append(b.cleanups, e.removeAll)
	return e
}

func (b *bench) prepareDocker() *engine {
	e := &engine{name: "docker", image: "bench", pull: []string{"pull", "-q"}, remove: []string{"rm", "-f"}}
	daemon, err := exec.LookPath("dockerd")
	if err != nil {
		e.absent = err.Error()
		return e
	}
	// Debian's client belongs to Debian's daemon; another in the path may be newer.
	client := "/usr/bin/docker"
	if _, err := os.Stat(client); err != nil {
		if client, err = exec.LookPath("docker"); err != nil {
			e.absent = err.Error()
			return e
		}
	}
	dir := filepath.Join(b.dir, "docker")
	socket := filepath.Join(b.dir, "docker.sock")
	e.prefix = []string{client, "-H", "unix://" + socket}
	err = b.daemon("dockerd", socket, daemon,
		"--data-root", dir+"/data", "--exec-root", dir+"/exec", "--pidfile", dir+"/pid", "--host", "unix://"+socket,
		"--cgroup-parent", groupParent)
	if err != nil {
		e.absent = err.Error()
		return e
	}
	b.cleanups = append(b.cleanups, e.removeAll)
	return e
}

// removeAll removes all containers of an engine.
func (e *engine) removeAll() error {
	out, err := output(e.command("ps", "-aq")...)
	if err != nil {
		return fmt.Errorf("list the containers that are left: %w", err)
	}
	if ids := strings.Fields(out); len(ids) > 0 {
		return command(e.command(slices.Concat(e.remove, ids)...)...)()
	}
	return nil
}

// daemon starts a server and waits until it accepts connections on a socket or an
// address; it is stopped when the benchmark ends.
func (b *bench) daemon(name, address string, argv ...string) error {
	path := filepath.Join(b.dir, name+".log")
	log, err := os.Create(path)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = cmd.Wait()
	}()
	b.cleanups = append(b.cleanups, func() error {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-exited:
			return nil
		case <-time.After(time.Minute):
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			<-exited
			return fmt.Errorf("stop %s: it did not end within a minute and was killed", name)
		}
	})
	if err := accepts(address, exited); err != nil {
		text, _ := os.ReadFile(path)
		return fmt.Errorf("%s: %w: %s", name, err, tail(string(text)))
	}
	return nil
}

func accepts(address string, exited chan struct{}) error {
	network := "tcp"
	if strings.HasPrefix(address, "/") {
		network = "unix"
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for {
		if conn, err := net.Dial(network, address); err == nil {
			return conn.Close()
		}
		select {
		case <-exited:
			return errors.New("ended at once")
		case <-deadline:
			return errors.New("does not answer after a minute")
		case <-tick.C:
		}
	}
}
