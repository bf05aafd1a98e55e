// Command limit runs a command that may use 100 MB of memory. It makes a control
// group, writes the limit into it, and lets the command be born there: the kernel
// ends it when it wants more. Needs root, and works with control groups v1 and v2.
//
//	# go run ./examples/limit stress --vm-bytes 200m --vm-keep -m 1
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"

	"vivarium/sandbox/cgroup"
	"vivarium/sandbox/cgroup/tree"
)

func main() {
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "limit:", err)
		code = 1
	}
	os.Exit(code)
}

func run(command []string) (code int, err error) {
	if len(command) == 0 {
		return 0, errors.New("give a command")
	}
	layout, err := cgroup.Detect()
	if err != nil {
		return 0, err
	}
	group, err := tree.Open(layout, "/limit-"+strconv.Itoa(os.Getpid()))
	if err != nil {
		return 0, err
	}
	if err := do(group.Create([]string{"memory"})); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, do(group.Remove(false))) }()
	for _, name := range []string{"memory.max", "memory.swap.max"} {
		value := map[string]string{"memory.max": "100M", "memory.swap.max": "0"}[name]
		if err := do(group.Set(name, value)); err != nil && name == "memory.max" { // not every kernel counts swap
			return 0, err
		}
	}
	// Whoever is started by a process in the group is in it, too.
	if err := do(group.Attach(os.Getpid())); err != nil {
		return 0, err
	}
	c := exec.Command(command[0], command[1:]...)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = c.Run()
	root, openErr := tree.Open(layout, "/")
	if openErr != nil {
		return 0, openErr
	}
	// To remove the group we leave it, for the root group of its hierarchy.
	root.Layout.Hierarchies = nil
	for _, d := range group.Dirs() {
		root.Layout.Hierarchies = append(root.Layout.Hierarchies, d.Hierarchy)
	}
	if err := do(root.Attach(os.Getpid())); err != nil {
		return 0, err
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		fmt.Println("the command ended with:", exit)
		return 1, nil
	}
	return 0, err
}

// do prints steps as one would type them, and carries them out.
func do(steps []tree.Step, err error) error {
	if err != nil {
		return err
	}
	for _, s := range steps {
		fmt.Println(s)
	}
	return tree.Do(steps)
}
