package testenv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// discard is a log that nobody reads.
var discard = log.New(io.Discard, "", 0)

// reference is the one docker daemon of the test process.
var reference struct {
	once   sync.Once
	socket string
	err    error
}

// referenceEngine stands in for an engine with a docker daemon, which all tests of
// the process share; so these tests must not run in parallel.
func referenceEngine(t testing.TB) *Instance {
	t.Helper()
	Root(t)
	reference.once.Do(func() { reference.socket, reference.err = startDocker() })
	if reference.err != nil {
		t.Fatalf("start docker as the reference: %v", reference.err)
	}
	e := &Instance{
		Root: filepath.Join(tempDir(), "d"), State: filepath.Join(tempDir(), "x"), Reference: true, t: t,
		prefix: []string{dockerClient(), "-H", "unix://" + reference.socket},
	}
	t.Cleanup(e.removeContainers)
	return e
}

// Docker is the reference engine beside the one that is tested, on a daemon of its
// own. It skips the test where Docker is not installed.
func Docker(t testing.TB) *Instance {
	t.Helper()
	if _, err := exec.LookPath("dockerd"); err != nil {
		t.Skip("dockerd is not installed (test/install-deps bench installs it)")
	}
	return referenceEngine(t)
}

// dockerClient prefers Debian's client, which belongs to Debian's daemon; another in
// the path may be newer.
func dockerClient() string {
	const debian = "/usr/bin/docker"
	if _, err := os.Stat(debian); err == nil {
		return debian
	}
	return "docker"
}

// removeGroups removes the empty control groups that dockerd leaves behind.
func removeGroups(parent string) {
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + parent)
	for _, dir := range append(dirs, "/sys/fs/cgroup"+parent) {
		_ = os.Remove(dir)
	}
}

// startDocker starts dockerd on directories of its own, away from the host's
// network and packet filter, and returns its socket once it answers.
func startDocker() (string, error) {
	dir := tempDir()
	socket := filepath.Join(dir, "docker.sock")
	parent := fmt.Sprintf("/viv-reference-%d", os.Getpid())
	logFile, err := os.Create(filepath.Join(dir, "dockerd.log"))
	if err != nil {
		return "", err
	}
	defer logFile.Close()
	cmd := exec.Command("dockerd",
		"--data-root", filepath.Join(dir, "d"), "--exec-root", filepath.Join(dir, "x"),
		"--pidfile", filepath.Join(dir, "dockerd.pid"), "--host", "unix://"+socket,
		"--cgroup-parent", parent, "--bridge=none", "--iptables=false", "--ip6tables=false")
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("start dockerd: %w", err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	onExit(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-exited:
		case <-time.After(DefaultTimeout):
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			<-exited
		}
		// Of containers on the host's network, dockerd leaves this mount.
		_ = syscall.Unmount(filepath.Join(dir, "x/netns/default"), syscall.MNT_DETACH)
		for _, name := range []string{"d", "x", "docker.sock", "dockerd.pid", "dockerd.log"} {
			_ = os.RemoveAll(filepath.Join(dir, name))
		}
		removeGroups(parent)
	})
	if err := answers(socket, exited); err != nil {
		text, _ := os.ReadFile(logFile.Name())
		return "", fmt.Errorf("%w\n%s", err, lastLines(string(text), 20))
	}
	return socket, nil
}

// answers waits until something accepts connections on a socket.
func answers(socket string, exited chan error) error {
	ctx, cancel := context.WithTimeout(context.Background(), DefaultTimeout)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if conn, err := net.Dial("unix", socket); err == nil {
			return conn.Close()
		}
		select {
		case err := <-exited:
			exited <- err
			return fmt.Errorf("dockerd ended: %w", err)
		case <-ctx.Done():
			return errors.New("dockerd did not open its socket in time")
		case <-tick.C:
		}
	}
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
