package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vivarium/sandbox"
)

func (a *app) state() *command {
	return &command{
		args: "<container-id>", about: "output the state of a container", min: 1, max: 1,
		run: func(args []string) (int, error) {
			i, err := a.runtime.State(args[0])
			if err != nil {
				return 0, err
			}
			b, err := json.MarshalIndent(i, "", "  ")
			if err != nil {
				return 0, err
			}
			_, err = os.Stdout.Write(b)
			return 0, err
		},
	}
}

func (a *app) kill() *command {
	var all, regex bool
	return &command{
		args: "<container-id> [signal]", about: "send a signal (default: SIGTERM) to the container's first process", min: 1, max: 2,
		options: []option{
			flag("all", "a", &all, "send the signal to all processes inside the container"),
			flag("regex", "r", &regex, "the container ID is a regular expression: all that match it"),
		},
		run: func(args []string) (int, error) {
			name := "SIGTERM"
			if len(args) == 2 && args[1] != "" {
				name = args[1]
			}
			sig, err := parseSignal(name)
			if err != nil {
				return 0, err
			}
			return 0, a.each(args[0], regex, func(id string) error { return a.runtime.Kill(id, sig, all) })
		},
	}
}

// parseSignal takes a number, or a name with or without SIG, in either case;
// also RTMIN+n and RTMAX-n (signal(7): 34 and 64 as the C library counts).
func parseSignal(s string) (unix.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil {
		return unix.Signal(n), nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	const rtMin, rtMax = 34, 64
	for prefix, base := range map[string]int{"SIGRTMIN": rtMin, "SIGRTMAX": rtMax} {
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		n := 0
		if rest != "" {
			var err error
			if n, err = strconv.Atoi(rest); err != nil {
				break
			}
		}
		if n += base; n >= rtMin && n <= rtMax {
			return unix.Signal(n), nil
		}
	}
	return 0, fmt.Errorf("unknown signal %q", s)
}

func (a *app) delete() *command {
	var force, regex bool
	return &command{
		args: "<container-id>", about: "delete any resources held by the container", min: 1, max: 1,
		options: []option{
			flag("force", "f", &force, "delete the container also if it still runs (uses SIGKILL)"),
			flag("regex", "r", &regex, "the container ID is a regular expression: all that match it"),
		},
		run: func(args []string) (int, error) {
			return 0, a.each(args[0], regex, func(id string) error { return a.runtime.Delete(id, force) })
		},
	}
}

// each does something to a container, or to all whose IDs match an expression
// anywhere, as crun's --regex does. One that fails does not save the others.
func (a *app) each(id string, regex bool, do func(id string) error) error {
	if !regex {
		return do(id)
	}
	match, err := regexp.Compile(id)
	if err != nil {
		return fmt.Errorf("--regex: %w", err)
	}
	all, err := a.runtime.Store.List()
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range all {
		if match.MatchString(id) {
			errs = append(errs, do(id))
		}
	}
	return errors.Join(errs...)
}

func (a *app) pause() *command {
	return &command{
		args: "<container-id>", about: "suspend all processes inside the container", min: 1, max: 1,
		run: func(args []string) (int, error) { return 0, a.runtime.Pause(args[0]) },
	}
}

func (a *app) resume() *command {
	return &command{
		args: "<container-id>", about: "resume all processes that have been paused", min: 1, max: 1,
		run: func(args []string) (int, error) { return 0, a.runtime.Resume(args[0]) },
	}
}

func (a *app) list() *command {
	format := "table"
	var quiet bool
	return &command{
		args: "", about: "list the containers of this root", min: 0, max: 0,
		options: []option{
			text("format", "f", &format, "table or json"),
			flag("quiet", "q", &quiet, "display only container IDs"),
		},
		run: func([]string) (int, error) {
			infos, err := a.runtime.List()
			if err != nil {
				return 0, err
			}
			switch {
			case quiet:
				for _, i := range infos {
					fmt.Println(i.ID)
				}
			case format == "json":
				return 0, json.NewEncoder(os.Stdout).Encode(infos)
			case format == "table":
				printTable(infos)
			default:
				return 0, fmt.Errorf("invalid format option")
			}
			return 0, nil
		},
	}
}

// printTable aligns columns as runc does: at least 12 wide, 3 between.
func printTable(infos []sandbox.Info) {
	rows := [][]string{{"ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"}}
	for _, i := range infos {
		rows = append(rows, []string{i.ID, strconv.Itoa(i.Pid), string(i.Status), i.Bundle, i.Created.Format(time.RFC3339Nano), i.Owner})
	}
	var width [6]int
	for _, r := range rows {
		for c, v := range r {
			width[c] = max(width[c], 9, len(v))
		}
	}
	for _, r := range rows {
		var b strings.Builder
		for c, v := range r {
			b.WriteString(v)
			if c < len(r)-1 {
				b.WriteString(strings.Repeat(" ", width[c]+3-len(v)))
			}
		}
		fmt.Println(b.String())
	}
}

func (a *app) ps() *command {
	format := "table"
	return &command{
		args: "<container-id> [ps options]", about: "display the processes running inside a container", min: 1, max: -1, strict: true,
		options: []option{text("format", "f", &format, "table or json")},
		run: func(args []string) (int, error) {
			pids, err := a.runtime.Processes(args[0])
			if err != nil {
				return 0, err
			}
			switch format {
			case "json":
				slices.Sort(pids)
				if pids == nil {
					return 0, json.NewEncoder(os.Stdout).Encode([]int{})
				}
				return 0, json.NewEncoder(os.Stdout).Encode(pids)
			case "table":
				return 0, printProcesses(pids, args[1:])
			}
			return 0, fmt.Errorf("invalid format option")
		},
	}
}

// printProcesses shows the lines of ps(1) that belong to the container.
func printProcesses(pids []int, args []string) error {
	if len(args) == 0 {
		args = []string{"-ef"}
	}
	out, err := exec.Command("ps", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("run ps: %w: %s", err, bytes.TrimSpace(out))
	}
	lines := strings.Split(strings.TrimRight(string(out), "\n"), "\n")
	column := slices.Index(strings.Fields(lines[0]), "PID")
	if column < 0 {
		return fmt.Errorf("couldn't find PID field in ps output")
	}
	fmt.Println(lines[0])
	for _, line := range lines[1:] {
		f := strings.Fields(line)
		if column >= len(f) {
			continue
		}
		if pid, err := strconv.Atoi(f[column]); err == nil && slices.Contains(pids, pid) {
			fmt.Println(line)
		}
	}
	return nil
}
