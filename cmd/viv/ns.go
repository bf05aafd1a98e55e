package main

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"vivarium/engine"
	"vivarium/sandbox/namespace"
)

func newNsGroup(a *app) *cobra.Command {
	return group(a, "Look at namespaces, run commands in new ones, enter others", []verb{
		{"ls list", newNsLs}, {"tree", newNsTree}, {"run", newNsRun}, {"enter", newNsEnter}, {"diff", newNsDiff},
	})
}

// nsRow has the columns of lsns(8), and the container's name.
type nsRow struct {
	NS, Type, NProcs, PID, User, Command, Container string
	Parent, Owner                                   string
	Files                                           string // that keep it
}

var nsHeaders = headers{"NS": "NS", "Type": "TYPE", "NProcs": "NPROCS", "PID": "PID", "User": "USER", "Command": "COMMAND",
	"Container": "CONTAINER", "Parent": "PNS", "Owner": "ONS", "Files": "KEPT BY"}

func newNsLs(a *app) *cobra.Command {
	var kinds []string
	var pid int
	var quiet bool
	l := listing{table: "{{.NS}}\t{{.Type}}\t{{.Owner}}\t{{.NProcs}}\t{{.PID}}\t{{.User}}\t{{.Container}}\t{{.Command}}{{if not .PID}}kept by {{.Files}}{{end}}", headers: nsHeaders, quiet: "{{.NS}}"}
	c := &cobra.Command{Use: "ls [OPTIONS]", Short: "List the namespaces in which there are processes, or which files keep", Args: noArgs}
	fs := c.Flags()
	fs.StringSliceVarP(&kinds, "type", "t", nil, "only namespaces of a type (cgroup, ipc, mnt, net, pid, time, user, uts)")
	fs.IntVarP(&pid, "task", "p", 0, "only the namespaces of a process")
	fs.StringVar(&l.format, "format", "", "a Go template, 'table TEMPLATE' or json")
	fs.BoolVarP(&quiet, "quiet", "q", false, "only display the numbers")
	completeFlag(c, "type", oneOf(kindNames()...))
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		list, err := namespaces(kinds)
		if err != nil {
			return err
		}
		if pid != 0 {
			own, err := namespace.Of(pid)
			if err != nil {
				return err
			}
			list = slices.DeleteFunc(list, func(n namespace.Namespace) bool { return own[n.Kind] != n.Inode })
		}
		names := a.containersOf(cmd.Context())
		var rows []any
		for _, n := range list {
			rows = append(rows, rowOf(n, names))
		}
		return l.print(a.out, quiet, rows)
	}
	return c
}

func namespaces(types []string) ([]namespace.Namespace, error) {
	var kinds []namespace.Kind
	for _, t := range types {
		k, err := namespace.Parse(t)
		if err != nil {
			return nil, err
		}
		kinds = append(kinds, k)
	}
	return namespace.List(kinds...)
}

// containersOf gives the names of running containers by the pids of their first
// processes. Where there is no engine there are none.
func (a *app) containersOf(ctx context.Context) map[int]string {
	names := map[int]string{}
	e, err := a.engine()
	if err != nil {
		return names
	}
	list, err := e.List(ctx, engine.ListOptions{})
	if err != nil {
		return names
	}
	for _, c := range list {
		if i, err := e.Inspect(ctx, c.Container.ID, false); err == nil && i.State.Pid > 0 {
			names[i.State.Pid] = strings.TrimPrefix(i.Name, "/")
		}
	}
	return names
}

// rowOf describes a namespace by its first process, or by the files that keep it. It is
// a container's if that is its first process.
func rowOf(n namespace.Namespace, names map[int]string) nsRow {
	row := nsRow{NS: strconv.FormatUint(n.Inode, 10), Type: string(n.Kind), NProcs: strconv.Itoa(len(n.PIDs)), Files: printable(strings.Join(n.Files, " "))}
	if n.Parent != 0 {
		row.Parent = strconv.FormatUint(n.Parent, 10)
	}
	if n.Owner != 0 {
		row.Owner = strconv.FormatUint(n.Owner, 10)
	}
	if len(n.PIDs) == 0 {
		return row
	}
	pid := n.PIDs[0]
	row.PID, row.Container = strconv.Itoa(pid), names[pid]
	if info, err := os.Stat("/proc/" + row.PID); err == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			row.User = userName(st.Uid)
		}
	}
	if b, err := os.ReadFile("/proc/" + row.PID + "/cmdline"); err == nil && len(b) > 0 {
		row.Command = printable(strings.TrimSpace(strings.ReplaceAll(string(b), "\x00", " ")))
	} else if b, err := os.ReadFile("/proc/" + row.PID + "/comm"); err == nil {
		row.Command = printable("[" + strings.TrimSpace(string(b)) + "]")
	}
	return row
}

// printable keeps what a process calls itself from acting on a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\uFFFD' {
			return '?'
		}
		return r
	}, s)
}

func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}

func newNsTree(a *app) *cobra.Command {
	var kind string
	c := &cobra.Command{Use: "tree [OPTIONS]", Short: "Show which user or PID namespaces were made in which", Args: noArgs}
	c.Flags().StringVarP(&kind, "type", "t", "user", "user or pid")
	completeFlag(c, "type", oneOf("user", "pid"))
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if kind != "user" && kind != "pid" {
			return fmt.Errorf("namespaces of type %q have no parents: give user or pid", kind)
		}
		list, err := namespaces([]string{kind})
		if err != nil {
			return err
		}
		names := a.containersOf(cmd.Context())
		there := map[uint64]bool{}
		for _, n := range list {
			there[n.Inode] = true
		}
		var show func(above uint64, depth int)
		show = func(above uint64, depth int) {
			for _, n := range list {
				parent := n.Parent
				if !there[parent] {
					parent = 0 // it has no processes, or cannot be seen from here
				}
				if parent != above {
					continue
				}
				row := rowOf(n, names)
				line := fmt.Sprintf("%s%s  %s  pid %s  %s", strings.Repeat("  ", depth), row.NS, row.User, row.PID, row.Command)
				if row.PID == "" {
					line = fmt.Sprintf("%s%s  kept by %s", strings.Repeat("  ", depth), row.NS, row.Files)
				}
				if row.Container != "" {
					line += "  container " + row.Container
				}
				fmt.Fprintln(a.out, line)
				show(n.Inode, depth+1)
			}
		}
		show(0, 0)
		return nil
	}
	return c
}

// process reads a pid, or the name of a running container.
func (a *app) process(ctx context.Context, word string) (int, error) {
	if pid, err := strconv.Atoi(word); err == nil && pid > 0 {
		if _, err := os.Stat("/proc/" + word); err == nil {
			return pid, nil
		}
	}
	e, err := a.engine()
	if err != nil {
		return 0, err
	}
	i, err := e.Inspect(ctx, word, false)
	if err != nil {
		return 0, fmt.Errorf("%q is neither a process nor a container: %w", word, err)
	}
	if i.State.Pid == 0 {
		return 0, fmt.Errorf("container %s is not running", word)
	}
	return i.State.Pid, nil
}

type nsDiffRow struct {
	Type, A, B, Shared string
}

func newNsDiff(a *app) *cobra.Command {
	l := listing{table: "{{.Type}}\t{{.A}}\t{{.B}}\t{{.Shared}}", headers: headers{"Type": "TYPE", "A": "A", "B": "B", "Shared": "SHARED"}}
	c := &cobra.Command{
		Use: "diff [OPTIONS] A B", Short: "Show which namespaces two processes share", Args: exactArgs(2),
		Long:              "Show which namespaces two processes share. A and B are the numbers of processes, or the names of running containers.",
		ValidArgsFunction: a.runningContainers(2),
	}
	c.Flags().StringVar(&l.format, "format", "", "a Go template, 'table TEMPLATE' or json")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		var of [2]map[namespace.Kind]uint64
		for i, word := range args {
			pid, err := a.process(cmd.Context(), word)
			if err != nil {
				return err
			}
			if of[i], err = namespace.Of(pid); err != nil {
				return err
			}
		}
		var rows []any
		for _, k := range namespace.Kinds() {
			if of[0][k] == 0 && of[1][k] == 0 {
				continue
			}
			shared := "no"
			if of[0][k] == of[1][k] {
				shared = "yes"
			}
			rows = append(rows, nsDiffRow{string(k), strconv.FormatUint(of[0][k], 10), strconv.FormatUint(of[1][k], 10), shared})
		}
		return l.print(a.out, false, rows)
	}
	return c
}
