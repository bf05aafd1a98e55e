package namespace_test

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"vivarium/sandbox/namespace"
)

// A shell that calls the machine otherwise, for itself alone. As root the user namespace
// can be left out. The program's main function has to begin with namespace.Main().
func ExampleCommand() {
	c := namespace.Command{
		Args: []string{"sh", "-c", "hostname bird; hostname; id -u"},
		New:  []namespace.Kind{namespace.User, namespace.UTS},
		UIDs: []namespace.Map{{Inside: 0, Outside: os.Geteuid(), Count: 1}},
		GIDs: []namespace.Map{{Inside: 0, Outside: os.Getegid(), Count: 1}},
	}
	code, err := c.Run()
	fmt.Println("exit code", code, err)
	// Output:
	// bird
	// 0
	// exit code 0 <nil>
}

// A container's first process: it is number 1, and its proc shows nobody else.
func ExampleCommand_pid() {
	c := namespace.Command{
		Args:      []string{"sh", "-c", "echo number $$; ls -d /proc/[0-9]*"},
		New:       []namespace.Kind{namespace.User, namespace.PID, namespace.Mount},
		UIDs:      []namespace.Map{{Inside: 0, Outside: os.Geteuid(), Count: 1}},
		GIDs:      []namespace.Map{{Inside: 0, Outside: os.Getegid(), Count: 1}},
		MountProc: "/proc",
	}
	if code, err := c.Run(); err != nil {
		fmt.Println(code, err)
	}
	// Output:
	// number 1
	// /proc/1
}

// Which namespaces a child has of its own, and what it shares with us.
func ExampleOf() {
	child := exec.Command("sleep", "1000")
	child.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWUTS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}},
	}
	if err := child.Start(); err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = child.Process.Kill(); _ = child.Wait() }()
	ours, err := namespace.Of(os.Getpid())
	if err != nil {
		fmt.Println(err)
		return
	}
	theirs, err := namespace.Of(child.Process.Pid)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, k := range []namespace.Kind{namespace.User, namespace.UTS, namespace.Net} {
		fmt.Println(k, "shared:", ours[k] == theirs[k])
	}
	// Output:
	// user shared: false
	// uts shared: false
	// net shared: true
}

// A command is run where another process is. Its output is that of this program's
// descriptor 1.
func ExampleEntry() {
	child := exec.Command("sleep", "1000")
	child.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}},
	}
	if err := child.Start(); err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = child.Process.Kill(); _ = child.Wait() }()
	code, err := namespace.Entry{
		PID:   child.Process.Pid,
		Kinds: []namespace.Kind{namespace.User, namespace.Net},
		// Its network has a loopback interface, and nothing else.
		Args: []string{"sh", "-c", "test $(tail -n +3 /proc/net/dev | cut -d: -f1) = lo"},
	}.Run()
	fmt.Println("exit code", code, err)
	// Output: exit code 0 <nil>
}

// All PID namespaces on the machine, with the number of their processes.
func ExampleList() {
	list, err := namespace.List(namespace.PID)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, n := range list {
		fmt.Println(n.Inode, n.Parent, len(n.PIDs))
	}
}
