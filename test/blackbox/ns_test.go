package blackbox

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vivarium/internal/testenv"
)

// TestNsRun runs the same words with viv ns run and with unshare(1).
func TestNsRun(t *testing.T) {
	vivOnly(t, "Docker has no such command")
	testenv.Root(t)
	e := testenv.Engine(t)
	dir := t.TempDir()
	for _, args := range []string{
		"--uts -- sh -c 'hostname inside; hostname'",
		"-m -- sh -c 'mount -t tmpfs t /mnt && grep -c \" /mnt \" /proc/self/mountinfo'",
		"-m --propagation unchanged -- sh -c 'echo x'",
		"-U -- id -u",
		"-U -r -- sh -c 'id -u; id -g; cat /proc/self/uid_map /proc/self/setgroups'",
		"-r --map-current-user -- id -u",
		"--map-user 17 --map-group 18 -- sh -c 'id -u; id -g'",
		"-p -f --mount-proc -- sh -c 'echo $$; cat /proc/1/comm'",
		"-r -p -f --mount-proc -- sh -c 'echo $$'",
		"-n -- sh -c 'ip -o link | wc -l'",
		"-i -C -- sh -c 'echo ok'",
		"-T --boottime 100000 --monotonic 5 -f -- sh -c 'grep -c . /proc/self/timens_offsets; grep boottime /proc/self/timens_offsets'",
		"-w / -- pwd",
		"-R " + dir + " -- /bin/true",
		"-u -- sh -c 'exit 7'",
		"-u -- sh -c 'kill -9 $$'",
		"-u -- /no/such/command",
		"-u -- /etc/passwd",
	} {
		line := func(program string) testenv.Result {
			return e.Tool("sh", "-c", program+" "+args+" 2>/dev/null").Run()
		}
		ours, theirs := line(testenv.Binary(t, "viv")+" ns run"), line("unshare")
		if ours.Code != theirs.Code || strings.Join(strings.Fields(ours.Stdout), " ") != strings.Join(strings.Fields(theirs.Stdout), " ") {
			t.Errorf("%s:\nviv: %d %q\nunshare: %d %q", args, ours.Code, ours.Stdout, theirs.Code, theirs.Stdout)
		}
	}
	want(t, e.Viv("ns", "run", "--map-users", "1000,0,5", "--map-groups", "2000,0,5", "--setuid", "0", "--setgid", "0", "sh", "-c",
		"cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '; id -u; grep -c CapEff:.00000[1-9a-f] /proc/self/status"), 0, " 0 1000 5\n 0 2000 5\n0\n1\n")
	fails(t, e.Viv("ns", "run", "--propagation", "wide", "-m", "true"), 1, "propagation")
	fails(t, e.Viv("ns", "run", "--monotonic", "5", "true"), 1, "time namespace")
	fails(t, e.Viv("ns", "run", "--map-users", "1,2", "true"), 1, "OUTER,INNER,COUNT")
}

// TestNsPersist keeps a namespace by a bind mount, after its last process.
func TestNsPersist(t *testing.T) {
	vivOnly(t, "Docker has no such command")
	testenv.Root(t)
	e := testenv.Engine(t)
	at := filepath.Join(t.TempDir(), "uts")
	want(t, e.Viv("ns", "run", "--uts="+at, "hostname", "kept"), 0, "")
	defer func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Error(err)
		}
	}()
	want(t, e.Tool("nsenter", "--uts="+at, "hostname").Run(), 0, "kept\n")
}

// TestNsEnter runs the same words with viv ns enter and with nsenter(1), in a process
// that has all namespaces of its own.
func TestNsEnter(t *testing.T) {
	vivOnly(t, "Docker has no such command")
	testenv.Root(t)
	e := testenv.Engine(t)
	c := exec.Command("sleep", "1000")
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWUTS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 1000, Size: 100}}, GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 1000, Size: 100}}, GidMappingsEnableSetgroups: true}
	must(t, c.Start())
	defer func() { c.Process.Kill(); c.Wait() }()
	for _, args := range []string{
		"-n -- sh -c 'ip -o link | wc -l'",
		"-U -- sh -c 'id -u; cat /proc/self/uid_map'",
		"-U -S 5 -G 6 -- sh -c 'id -u; id -g'",
		"-U --preserve-credentials -- id -u",
		"-a -- sh -c 'readlink /proc/self/ns/uts /proc/self/ns/user /proc/self/ns/net'",
		"-U -p -m -- sh -c 'echo $PPID'",
		"-u -i -C -- readlink /proc/self/ns/ipc /proc/self/ns/cgroup",
		"-n -w -- pwd",
		"-n -r -- pwd",
		"-u -- sh -c 'exit 9'",
		"-u -- sh -c 'kill -15 $$'",
	} {
		line := func(program string) testenv.Result {
			return e.Tool("sh", "-c", fmt.Sprintf("%s -t %d %s 2>/dev/null", program, c.Process.Pid, args)).Run()
		}
		ours, theirs := line(testenv.Binary(t, "viv")+" ns enter"), line("nsenter")
		if ours.Code != theirs.Code || strings.Join(strings.Fields(ours.Stdout), " ") != strings.Join(strings.Fields(theirs.Stdout), " ") {
			t.Errorf("%s:\nviv: %d %q\nnsenter: %d %q", args, ours.Code, ours.Stdout, theirs.Code, theirs.Stdout)
		}
	}
	fails(t, e.Viv("ns", "enter", "-u", "true"), 1, "target")
	fails(t, e.Viv("ns", "enter", "-t", "nobody", "true"), 1, "neither a process nor a container")

	// What lsns lists, we list.
	pid := fmt.Sprint(c.Process.Pid)
	theirs := e.Tool("lsns", "-n", "-r", "-o", "NS,TYPE,NPROCS,PID,USER", "-p", pid).Run()
	ours := e.Viv("ns", "ls", "-p", pid, "--format", "{{.NS}} {{.Type}} {{.NProcs}} {{.PID}} {{.User}}")
	own := func(out string) map[string]bool { // those that only this process is in
		set := map[string]bool{}
		for _, l := range strings.Split(strings.TrimSpace(out), "\n") {
			if f := strings.Fields(l); len(f) == 5 && f[3] == pid {
				set[l] = true
			}
		}
		return set
	}
	a, b := own(ours.Stdout), own(theirs.Stdout)
	for l := range b {
		if !a[l] {
			t.Errorf("lsns has %q, and we %v", l, a)
		}
	}
	if len(b) < 6 || len(a) != len(b) {
		t.Errorf("%d and %d namespaces: %v %v", len(a), len(b), ours, theirs)
	}
	r := e.Viv("ns", "diff", "--format", "{{.Type}} {{.Shared}}", pid, fmt.Sprint(os.Getpid()))
	want(t, r, 0, "cgroup no\nipc no\nmnt no\nnet no\npid no\ntime yes\nuser no\nuts no\n")
	if r := e.Viv("ns", "tree", "-t", "pid"); r.Code != 0 || !strings.Contains(r.Stdout, "\n  ") || !strings.Contains(r.Stdout, "pid "+pid+" ") {
		t.Errorf("tree: %v", r)
	}
}

// TestNsOfContainer: a container is found by its name.
func TestNsOfContainer(t *testing.T) {
	vivOnly(t, "Docker has no such command")
	e := newBox(t)
	e.MustViv("run", "-d", "--name", "web", "--network", "none", "--hostname", "inside", box, "sleep", "1000")
	want(t, e.Viv("ns", "enter", "-t", "web", "--uts", "hostname"), 0, "inside\n")
	want(t, e.Viv("ns", "enter", "-t", "web", "-a", "cat", "/proc/1/comm"), 0, "sleep\n")
	if r := e.Viv("ns", "ls", "-t", "uts", "--format", "{{.Container}} {{.Command}}"); !strings.Contains(r.Stdout, "web sleep 1000\n") {
		t.Errorf("ls: %v", r)
	}
	if r := e.Viv("ns", "diff", "--format", "{{.Type}} {{.Shared}}", "web", fmt.Sprint(os.Getpid())); !strings.Contains(r.Stdout, "pid no\n") || !strings.Contains(r.Stdout, "user yes\n") {
		t.Errorf("diff: %v", r)
	}
	e.MustViv("rm", "-f", "web")
}
