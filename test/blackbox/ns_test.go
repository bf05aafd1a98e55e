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

// utilLinux gives the path of a program: by its name alone busybox's shell runs its own.
func utilLinux(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v (it is one of util-linux)", err)
	}
	return path
}

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
		"-R / -w /proc -- pwd",
		"-c -m -- sh -c 'echo ok'",
		"-c -- grep Cap /proc/self/status",
		"-c --keep-caps -- grep Cap /proc/self/status",
		"-U -- grep Cap /proc/self/status",
		"-U -m --keep-caps -- grep Cap /proc/self/status",
		"--map-user daemon --map-group daemon -- sh -c 'id -u; id -g'",
		"--map-user nobody-of-that-name -- true",
		"-r --setgroups allow -- true",
		"-u --setuid 5 --setgid 6 -- sh -c 'id -u; id -G'",
		"--kill-child -- sh -c 'echo x'",
		"--kill-child=SIGTERM -p -f -- sh -c 'exit 4'",
		"-m --propagation slave -- sh -c 'findmnt -n -o PROPAGATION /'",
		"-m --propagation shared -- sh -c 'findmnt -n -o PROPAGATION /'",
		"-p -f --mount-proc=/proc -- readlink /proc/self",
		"-T -f --boottime 1000000 -p --mount-proc -- sh -c 'cut -d. -f1 /proc/uptime | head -c 1'",
		"-r -T -f --monotonic 7 -- /no/such/command",
		"-u -- sh -c 'exit 7'",
		"-u -- sh -c 'kill -9 $$'",
		"-u -- /no/such/command",
		"-u -- /etc/passwd",
	} {
		line := func(program string) testenv.Result {
			return e.Tool("sh", "-c", program+" "+args+" 2>/dev/null").Run()
		}
		ours, theirs := line(testenv.Binary(t, "viv")+" ns run"), line(utilLinux(t, "unshare"))
		if ours.Code != theirs.Code || strings.Join(strings.Fields(ours.Stdout), " ") != strings.Join(strings.Fields(theirs.Stdout), " ") {
			t.Errorf("%s:\nviv: %d %q\nunshare: %d %q", args, ours.Code, ours.Stdout, theirs.Code, theirs.Stdout)
		}
	}
	want(t, e.Viv("ns", "run", "--map-users", "1000,0,5", "--map-groups", "2000,0,5", "--setuid", "0", "--setgid", "0", "sh", "-c",
		"cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '; id -u; grep -c CapEff:.00000[1-9a-f] /proc/self/status"), 0, " 0 1000 5\n 0 2000 5\n0\n1\n")
	fails(t, e.Viv("ns", "run", "--propagation", "wide", "-m", "true"), 1, "propagation")
	fails(t, e.Viv("ns", "run", "--monotonic", "5", "true"), 1, "time namespace")
	fails(t, e.Viv("ns", "run", "--map-users", "1,2", "true"), 1, "OUTER,INNER,COUNT")
	// Of newer versions of unshare(1).
	want(t, e.Viv("ns", "run", "--map-users", "0:1000:5", "--map-groups", "0:2000:5", "sh", "-c", "cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '"), 0, " 0 1000 5\n 0 2000 5\n")
	want(t, e.Viv("ns", "run", "--map-users", "all", "cat", "/proc/self/uid_map"), 0, e.Tool("cat", "/proc/self/uid_map").Run().Stdout)
	want(t, e.Viv("ns", "run", "--clear-env", "--uts", "sh", "-c", "tr '\\0' ' ' </proc/$$/environ"), 0, "")
}

// TestNsRunSubordinate maps the ids that /etc/subuid and /etc/subgid give a user, as
// unshare(1) does, as root and as that user.
func TestNsRunSubordinate(t *testing.T) {
	vivOnly(t, "Docker has no such command")
	testenv.Root(t)
	if _, err := exec.LookPath("newuidmap"); err != nil {
		t.Skip("newuidmap is not installed")
	}
	e := testenv.Engine(t)
	dir, err := os.MkdirTemp("", "")
	must(t, err)
	defer os.RemoveAll(dir)
	program, err := os.ReadFile(testenv.Binary(t, "viv"))
	must(t, err)
	must(t, os.WriteFile(dir+"/viv", program, 0o755))
	must(t, os.WriteFile(dir+"/sub", []byte("root:100000:65536\ndaemon:200000:65536\n"), 0o644))
	must(t, os.Chmod(dir, 0o755))
	must(t, os.Chmod(os.TempDir(), 0o711))
	// A user is one of a running system: the files are ours in a mount namespace only.
	script := "for f in /etc/subuid /etc/subgid; do [ -e $f ] || exit 9; mount --bind " + dir + "/sub $f; done; exec "
	for _, f := range []string{"/etc/subuid", "/etc/subgid"} {
		if _, err := os.Stat(f); err != nil {
			t.Skipf("the package uidmap makes this file: %v", err)
		}
	}
	for who, first := range map[string]string{"": "100000", "setpriv --reuid daemon --regid daemon --clear-groups ": "200000"} {
		for _, args := range []string{
			"--map-auto", "-r --map-auto", "-c --map-auto", "--map-user 5 --map-group 7 --map-users auto --map-groups auto",
			"--map-users $FIRST,0,5 --map-groups $FIRST,0,6", "-r --map-users $FIRST,0,5 --map-groups $FIRST,1,6",
			"--map-user 3 --map-users $FIRST,0,5 --map-group 7 --map-groups $FIRST,10,2",
		} {
			line := func(program string) testenv.Result {
				return e.Tool("unshare", "-m", "sh", "-c", script+who+program+" "+strings.ReplaceAll(args, "$FIRST", first)+" -- sh -c 'cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups; id -u; id -g'").Run()
			}
			ours, theirs := line(dir+"/viv ns run"), line(utilLinux(t, "unshare"))
			if ours.Code != 0 || theirs.Code != 0 || ours.Stdout != theirs.Stdout {
				t.Errorf("%s%s:\nviv: %v\nunshare: %v", who, args, ours, theirs)
			}
		}
		r := e.Tool("unshare", "-m", "sh", "-c", script+who+dir+"/viv ns run --map-subids -- cat /proc/self/gid_map").Run()
		if r.Code != 0 || strings.Join(strings.Fields(r.Stdout), " ") != first+" "+first+" 65536" {
			t.Errorf("%s--map-subids: %v", who, r)
		}
	}
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
	want(t, e.Viv("ns", "enter", "--uts="+at, "hostname"), 0, "kept\n")
	if r := e.Viv("ns", "ls", "-t", "uts", "--format", "{{.NProcs}} {{.Files}}"); !strings.Contains(r.Stdout, "0 "+at+"\n") {
		t.Errorf("ls does not list it: %v", r)
	}
}

// TestNsPersistTime: of a time namespace the children's is kept.
func TestNsPersistTime(t *testing.T) {
	vivOnly(t, "Docker has no such command")
	testenv.Root(t)
	e := testenv.Engine(t)
	at := filepath.Join(t.TempDir(), "time")
	want(t, e.Viv("ns", "run", "--time="+at, "--boottime", "1000000", "true"), 0, "")
	want(t, e.Viv("ns", "enter", "--time="+at, "cut", "-c1-2", "/proc/uptime"), 0, "10\n")
	must(t, unix.Unmount(at, 0))
	fails(t, e.Viv("ns", "run", "--time=/no/such/directory/time", "true"), 1, "keep the time namespace")
	want(t, e.Viv("ns", "run", "--time="+at, "-R", "/no/such/directory", "true"), 1, "")
	must(t, unix.Unmount(at, 0))
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
		"-n$F/net -- sh -c 'ip -o link | wc -l'",
		"--net=$F/net --uts=$F/uts -i$F/ipc -- readlink /proc/self/ns/net /proc/self/ns/uts /proc/self/ns/ipc",
		"-U$F/user -- sh -c 'id -u; cat /proc/self/uid_map'",
		"-U$F/user -n$F/net -p$F/pid -m$F/mnt -C$F/cgroup -- sh -c 'echo $PPID; readlink /proc/self/ns/user /proc/self/ns/net'",
		"-a --net=/proc/self/ns/net -- readlink /proc/self/ns/net /proc/self/ns/uts",
		"-n$F/uts -- true",
		"-n/no/such/file -- true",
		"-r/ -w/tmp -- pwd",
		"-m -W /tmp -- pwd",
		"-m -W /no/such/directory -- pwd",
		"-S 5 -G 6 -n -- sh -c 'id -u; id -G'",
		"-n -- /no/such/command",
		"-n -- /etc/passwd",
		"-u -- sh -c 'kill -15 $$'",
	} {
		line := func(program string) testenv.Result {
			return e.Tool("sh", "-c", fmt.Sprintf("F=/proc/%d/ns; %s -t %d %s 2>/dev/null", c.Process.Pid, program, c.Process.Pid, args)).Run()
		}
		ours, theirs := line(testenv.Binary(t, "viv")+" ns enter"), line(utilLinux(t, "nsenter"))
		if ours.Code != theirs.Code || strings.Join(strings.Fields(ours.Stdout), " ") != strings.Join(strings.Fields(theirs.Stdout), " ") {
			t.Errorf("%s:\nviv: %d %q\nnsenter: %d %q", args, ours.Code, ours.Stdout, theirs.Code, theirs.Stdout)
		}
	}
	files := func(program string) testenv.Result { // without a target
		return e.Tool("sh", "-c", fmt.Sprintf("%s --uts=/proc/%d/ns/uts readlink /proc/self/ns/uts", program, c.Process.Pid)).Run()
	}
	want(t, files(testenv.Binary(t, "viv")+" ns enter"), 0, files(utilLinux(t, "nsenter")).Stdout)
	fails(t, e.Viv("ns", "enter", "-n", "--uts=/proc/self/ns/uts", "true"), 1, "target")
	fails(t, e.Viv("ns", "enter", "--uts=/etc/passwd", "true"), 1, "no uts namespace")
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

// TestNsEnterFollows: what newer versions of nsenter(1) take over from the target.
func TestNsEnterFollows(t *testing.T) {
	vivOnly(t, "Docker has no such command")
	testenv.Root(t)
	e := testenv.Engine(t)
	c := exec.Command("sleep", "1000")
	c.Env = []string{"COLOUR=blue", "PATH=" + os.Getenv("PATH")}
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWUTS, Credential: &syscall.Credential{Uid: 7, Gid: 8},
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 1000, Size: 100}}, GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 1000, Size: 100}}, GidMappingsEnableSetgroups: true}
	must(t, c.Start())
	defer func() { c.Process.Kill(); c.Wait() }()
	pid := fmt.Sprint(c.Process.Pid)
	want(t, e.Viv("ns", "enter", "-t", pid, "-e", "sh", "-c", "echo $COLOUR $HOME"), 0, "blue\n")
	want(t, e.Viv("ns", "enter", "-t", pid, "-U", "-S", "follow", "-G", "follow", "sh", "-c", "id -u; id -g"), 0, "7\n8\n")
	want(t, e.Viv("ns", "enter", "-t", pid, "-S", "follow", "-G", "follow", "sh", "-c", "id -u; id -g"), 0, "1007\n1008\n")
	own := e.Tool("readlink", "/proc/self/ns/user").Run().Stdout
	theirs := e.Viv("ns", "enter", "-t", pid, "-u", "--user-parent", "readlink", "/proc/self/ns/user").Stdout
	if theirs == own || theirs != e.Tool("readlink", "/proc/"+pid+"/ns/user").Run().Stdout {
		t.Errorf("the owner of its uts namespace is %q, not %q", theirs, own)
	}
	want(t, e.Viv("ns", "enter", "-t", pid, "-U", "--user-parent", "readlink", "/proc/self/ns/user"), 0, own)

	group := fmt.Sprintf("/viv-test-%s", pid)
	e.MustViv("cgroup", "create", group)
	e.MustViv("cgroup", "attach", group, pid)
	if r := e.Viv("ns", "enter", "-t", pid, "-c", "cat", "/proc/self/cgroup"); r.Code != 0 || !strings.Contains(r.Stdout, group) {
		t.Errorf("--join-cgroup: %v", r)
	}
	e.MustViv("cgroup", "kill", group)
	want(t, e.Viv("cgroup", "rm", group), 0, "")
}

// TestNsTime: a process in a time namespace is found there.
func TestNsTime(t *testing.T) {
	vivOnly(t, "Docker has no such command")
	testenv.Root(t)
	e := testenv.Engine(t)
	p := e.Command("ns", "run", "--time", "--boottime", "1000000", "sh", "-c", "echo $$; exec sleep 1000").Start()
	p.Expect("\n")
	pid := strings.TrimSpace(p.Stdout())
	line := func(program string) testenv.Result {
		return e.Tool("sh", "-c", program+" -t "+pid+" -T sh -c 'readlink /proc/self/ns/time; cut -c1-2 /proc/uptime'").Run()
	}
	namespace := e.Tool("readlink", "/proc/"+pid+"/ns/time").Run().Stdout
	want(t, line(testenv.Binary(t, "viv")+" ns enter"), 0, namespace+"10\n")
	want(t, line(utilLinux(t, "nsenter")), 0, namespace+"10\n")
	must(t, p.Signal(syscall.SIGTERM))
	p.Wait()
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
