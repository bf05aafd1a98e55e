package namespace_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vivarium/sandbox/namespace"
)

func TestMain(m *testing.M) {
	namespace.Main()
	flag.Parse()
	c := exec.Command("true")
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER}
	if err := c.Run(); errors.Is(err, os.ErrPermission) {
		// They show what anybody can do where user namespaces are for everybody.
		if err := flag.Set("test.skip", "^Example(Command|Of|Entry)"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func TestList(t *testing.T) {
	own, err := namespace.Of(os.Getpid())
	if err != nil || own[namespace.UTS] == 0 {
		t.Fatalf("%v %v", own, err)
	}
	list, err := namespace.List()
	if err != nil {
		t.Fatal(err)
	}
	for k, inode := range own {
		i := slices.IndexFunc(list, func(n namespace.Namespace) bool { return n.Kind == k && n.Inode == inode })
		if i < 0 || !slices.Contains(list[i].PIDs, os.Getpid()) || !slices.IsSorted(list[i].PIDs) {
			t.Errorf("%s %d is not listed with this process", k, inode)
		}
	}
	some, err := namespace.List(namespace.UTS)
	if err != nil || slices.ContainsFunc(some, func(n namespace.Namespace) bool { return n.Kind != namespace.UTS }) {
		t.Errorf("%v %v", some, err)
	}
	if _, err := namespace.Of(1 << 30); !errors.Is(err, unix.ESRCH) {
		t.Errorf("no process: %v", err)
	}
}

func TestParse(t *testing.T) {
	for name, want := range map[string]namespace.Kind{"uts": namespace.UTS, "mount": namespace.Mount, "mnt": namespace.Mount, "network": namespace.Net} {
		if k, err := namespace.Parse(name); k != want || err != nil {
			t.Errorf("%s: %s %v", name, k, err)
		}
	}
	if _, err := namespace.Parse("moon"); err == nil {
		t.Error("moon is a kind")
	}
}

// TestUserNamespace needs no root where the kernel lets anybody make one.
func TestUserNamespace(t *testing.T) {
	c := namespace.Command{Args: []string{"sh", "-c", "test $(id -u) = 0 && exit 42"}, New: []namespace.Kind{namespace.User, namespace.UTS},
		UIDs: []namespace.Map{{Inside: 0, Outside: os.Geteuid(), Count: 1}}, GIDs: []namespace.Map{{Inside: 0, Outside: os.Getegid(), Count: 1}}}
	code, err := c.Run()
	if errors.Is(err, os.ErrPermission) {
		t.Skip("user namespaces are not for everybody here")
	}
	if code != 42 || err != nil {
		t.Errorf("%d %v", code, err)
	}
}

// TestParent: a namespace that was made in another has it as its parent and owner.
func TestParent(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes namespaces")
	}
	c := exec.Command("sleep", "1000")
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWPID}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { c.Process.Kill(); c.Wait() }()
	own, err := namespace.Of(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	list, err := namespace.List(namespace.User, namespace.PID)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, ns := range list {
		if ns.PIDs[0] != c.Process.Pid {
			continue
		}
		n++
		if ns.Parent != own[ns.Kind] {
			t.Errorf("%s: parent %d, want %d", ns.Kind, ns.Parent, own[ns.Kind])
		}
	}
	if n != 2 {
		t.Errorf("%d namespaces of the process in %v", n, list)
	}
	code, err := namespace.Entry{PID: c.Process.Pid, Kinds: namespace.Kinds(), KeepIDs: true, Args: []string{"/bin/sh", "-c", fmt.Sprintf("readlink /proc/self/ns/user | grep -vq %d", own[namespace.User])}}.Run()
	if code != 0 || err != nil {
		t.Errorf("enter: %d %v", code, err)
	}
}

func TestExampleUTS(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes a namespace")
	}
	if _, err := exec.LookPath("go"); err != nil {
		t.Skipf("no Go here: %v", err)
	}
	program := t.TempDir() + "/uts"
	if out, err := exec.Command("go", "build", "-o", program, "vivarium/examples/uts").CombinedOutput(); err != nil {
		t.Fatalf("build the example: %v %s", err, out)
	}
	before, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(program, "-c", "hostname inside; hostname; exit 3").Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 || strings.TrimSpace(string(out)) != "inside" {
		t.Errorf("%q %v", out, err)
	}
	if after, _ := os.Hostname(); after != before {
		t.Errorf("the machine is called %s", after)
	}
}
