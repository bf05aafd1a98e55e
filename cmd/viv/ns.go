package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

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
}

var nsHeaders = headers{"NS": "NS", "Type": "TYPE", "NProcs": "NPROCS", "PID": "PID", "User": "USER", "Command": "COMMAND",
	"Container": "CONTAINER", "Parent": "PNS", "Owner": "ONS"}

func newNsLs(a *app) *cobra.Command {
	var kinds []string
	var pid int
	var quiet bool
	l := listing{table: "{{.NS}}\t{{.Type}}\t{{.NProcs}}\t{{.PID}}\t{{.User}}\t{{.Container}}\t{{.Command}}", headers: nsHeaders, quiet: "{{.NS}}"}
	c := &cobra.Command{Use: "ls [OPTIONS]", Short: "List the namespaces in which there are processes", Args: noArgs}
	fs := c.Flags()
	fs.StringSliceVarP(&kinds, "type", "t", nil, "only namespaces of a type (cgroup, ipc, mnt, net, pid, time, user, uts)")
	fs.IntVarP(&pid, "task", "p", 0, "only the namespaces of a process")
	fs.StringVar(&l.format, "format", "", "a Go template, 'table TEMPLATE' or json")
	fs.BoolVarP(&quiet, "quiet", "q", false, "only display the numbers")
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

// rowOf describes a namespace by its first process. It is a container's if that is
// its first process.
func rowOf(n namespace.Namespace, names map[int]string) nsRow {
	pid := n.PIDs[0]
	row := nsRow{NS: strconv.FormatUint(n.Inode, 10), Type: string(n.Kind), NProcs: strconv.Itoa(len(n.PIDs)), PID: strconv.Itoa(pid), Container: names[pid]}
	if n.Parent != 0 {
		row.Parent = strconv.FormatUint(n.Parent, 10)
	}
	if n.Owner != 0 {
		row.Owner = strconv.FormatUint(n.Owner, 10)
	}
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
		Long: "Show which namespaces two processes share. A and B are the numbers of processes, or the names of running containers.",
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

// nsFlag is a flag that chooses a kind, with a file: --uts, --uts=FILE.
type nsFlag struct {
	kind        namespace.Kind
	name, short string
	value       string
	chosen      bool
}

func nsFlags() []*nsFlag {
	return []*nsFlag{
		{kind: namespace.Mount, name: "mount", short: "m"}, {kind: namespace.UTS, name: "uts", short: "u"}, {kind: namespace.IPC, name: "ipc", short: "i"},
		{kind: namespace.Net, name: "net", short: "n"}, {kind: namespace.PID, name: "pid", short: "p"}, {kind: namespace.User, name: "user", short: "U"},
		{kind: namespace.Cgroup, name: "cgroup", short: "C"}, {kind: namespace.Time, name: "time", short: "T"},
	}
}

// newNsRun has the options of unshare(1).
func newNsRun(*app) *cobra.Command {
	kinds := nsFlags()
	var o namespace.Command
	var mapRoot, mapCurrent, fork, keepCaps bool
	var mapUser, mapGroup, killChild, setgroups, setuid, setgid string
	var mapUsers, mapGroups []string
	c := &cobra.Command{
		Use: "run [OPTIONS] [--] [COMMAND [ARG...]]", Short: "Run a command in new namespaces",
		Long: "Run a command in new namespaces, with the options of unshare(1). The command is a child, as with --fork, and without one it\n" +
			"is your shell.",
		Example: "  viv ns run --uts sh -c 'hostname inside; hostname'\n  viv ns run --user --map-root-user --pid --mount-proc ps",
	}
	fs := c.Flags()
	fs.SetInterspersed(false)
	for _, k := range kinds {
		fs.StringVarP(&k.value, k.name, k.short, "", "a new "+k.name+" namespace; with =FILE it is kept there by a bind mount")
		fs.Lookup(k.name).NoOptDefVal = " "
	}
	fs.BoolVarP(&fork, "fork", "f", true, "accepted: the command is always a child")
	fs.BoolVarP(&mapRoot, "map-root-user", "r", false, "map the current user to root (implies --user)")
	fs.BoolVarP(&mapCurrent, "map-current-user", "c", false, "map the current user to itself (implies --user)")
	fs.StringVar(&mapUser, "map-user", "", "map the current user to an id (implies --user)")
	fs.StringVar(&mapGroup, "map-group", "", "map the current group to an id (implies --user)")
	fs.StringArrayVar(&mapUsers, "map-users", nil, "map a range: OUTER,INNER,COUNT (implies --user)")
	fs.StringArrayVar(&mapGroups, "map-groups", nil, "map a range: OUTER,INNER,COUNT (implies --user)")
	fs.StringVar(&killChild, "kill-child", "", "send the command a signal when viv ends (SIGKILL if none is given)")
	fs.Lookup("kill-child").NoOptDefVal = "SIGKILL"
	fs.StringVar(&o.MountProc, "mount-proc", "", "mount a proc file system, on /proc if nothing is given (implies --mount)")
	fs.Lookup("mount-proc").NoOptDefVal = "/proc"
	fs.StringVar(&o.Propagation, "propagation", "private", "of the mounts: slave, shared, private or unchanged")
	fs.StringVar(&setgroups, "setgroups", "", "allow or deny setgroups(2) in the user namespace")
	fs.BoolVar(&keepCaps, "keep-caps", false, "accepted: capabilities are kept as execve(2) keeps them")
	fs.MarkHidden("keep-caps")
	fs.StringVarP(&o.Root, "root", "R", "", "run the command with this root directory")
	fs.StringVarP(&o.Dir, "wd", "w", "", "change the working directory")
	fs.StringVarP(&setuid, "setuid", "S", "", "set the user id in the namespace")
	fs.StringVarP(&setgid, "setgid", "G", "", "set the group id in the namespace")
	fs.Int64Var(&o.Monotonic, "monotonic", 0, "offset of the monotonic clock in a time namespace, seconds")
	fs.Int64Var(&o.Boottime, "boottime", 0, "offset of the clock since the boot in a time namespace, seconds")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if o.Args = args; len(args) == 0 {
			o.Args = namespace.Shell()
		}
		wanted := map[namespace.Kind]bool{}
		for _, k := range kinds {
			if !fs.Changed(k.name) {
				continue
			}
			wanted[k.kind] = true
			if v := strings.TrimSpace(k.value); v != "" {
				if o.Persist == nil {
					o.Persist = map[namespace.Kind]string{}
				}
				o.Persist[k.kind] = v
			}
		}
		var err error
		for _, m := range []struct {
			word   string
			ranges []string
			own    int
			to     *[]namespace.Map
		}{{mapUser, mapUsers, os.Geteuid(), &o.UIDs}, {mapGroup, mapGroups, os.Getegid(), &o.GIDs}} {
			if mapRoot && m.word == "" {
				m.word = "0"
			}
			if mapCurrent && m.word == "" {
				m.word = strconv.Itoa(m.own)
			}
			if *m.to, err = mappings(m.word, m.own, m.ranges); err != nil {
				return err
			}
			wanted[namespace.User] = wanted[namespace.User] || len(*m.to) > 0
		}
		switch setgroups {
		case "", "deny":
		case "allow":
			o.Setgroups = true
		default:
			return fmt.Errorf("--setgroups %q: give allow or deny", setgroups)
		}
		if o.UID, err = idOption("setuid", setuid); err != nil {
			return err
		}
		if o.GID, err = idOption("setgid", setgid); err != nil {
			return err
		}
		if o.GID != nil {
			o.Setgroups = o.Setgroups || setgroups == "" && os.Geteuid() == 0
		}
		if killChild != "" {
			if o.KillWithParent = unix.SignalNum(strings.ToUpper(killChild)); o.KillWithParent == 0 {
				return fmt.Errorf("--kill-child %q: unknown signal", killChild)
			}
		}
		if o.MountProc != "" {
			wanted[namespace.Mount] = true
		}
		for _, k := range namespace.Kinds() {
			if wanted[k] {
				o.New = append(o.New, k)
			}
		}
		return ended(o.Run())
	}
	return c
}

// ended gives the exit code of a command on.
func ended(code int, err error) error {
	if err == nil && code != 0 {
		err = exitError{code}
	}
	return err
}

func mappings(word string, own int, ranges []string) ([]namespace.Map, error) {
	var out []namespace.Map
	if word != "" {
		n, err := strconv.ParseUint(word, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("%q is no id", word)
		}
		out = append(out, namespace.Map{Inside: int(n), Outside: own, Count: 1})
	}
	for _, r := range ranges {
		var outer, inner, count int
		if n, err := fmt.Sscanf(r, "%d,%d,%d", &outer, &inner, &count); n != 3 || err != nil || outer < 0 || inner < 0 || count < 1 {
			return nil, fmt.Errorf("range of ids %q: give OUTER,INNER,COUNT", r)
		}
		out = append(out, namespace.Map{Inside: inner, Outside: outer, Count: count})
	}
	return out, nil
}

func idOption(name, word string) (*int, error) {
	if word == "" {
		return nil, nil
	}
	n, err := strconv.ParseUint(word, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("--%s %q: not an id", name, word)
	}
	id := int(n)
	return &id, nil
}

// newNsEnter has the options of nsenter(1); the target can be a container.
func newNsEnter(a *app) *cobra.Command {
	kinds := nsFlags()
	var entry namespace.Entry
	var target, setuid, setgid string
	var all, noFork bool
	c := &cobra.Command{
		Use: "enter [OPTIONS] -t TARGET [--] [COMMAND [ARG...]]", Short: "Run a command in namespaces of a process or of a container",
		Long:    "Run a command in namespaces of a process or of a container, with the options of nsenter(1). Without a command it is your shell.",
		Example: "  viv ns enter -t web --net ip addr\n  viv ns enter --target 4711 --all",
	}
	fs := c.Flags()
	fs.SetInterspersed(false)
	fs.StringVarP(&target, "target", "t", "", "process, or name of a container")
	fs.BoolVarP(&all, "all", "a", false, "all namespaces")
	for _, k := range kinds {
		fs.BoolVarP(&k.chosen, k.name, k.short, false, "the "+k.name+" namespace")
	}
	fs.StringVarP(&setuid, "setuid", "S", "", "set the user id in the namespace")
	fs.StringVarP(&setgid, "setgid", "G", "", "set the group id in the namespace")
	fs.BoolVar(&entry.KeepIDs, "preserve-credentials", false, "do not become root in a user namespace")
	fs.StringVarP(&entry.Root, "root", "r", "", "set the root directory, to the target's if nothing is given")
	fs.Lookup("root").NoOptDefVal = " "
	fs.StringVarP(&entry.Dir, "wd", "w", "", "set the working directory, to the target's if nothing is given")
	fs.Lookup("wd").NoOptDefVal = " "
	fs.BoolVarP(&noFork, "no-fork", "F", false, "accepted: the command is always a child")
	fs.MarkHidden("no-fork")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if target == "" {
			return errors.New("no target was given: -t PID or -t CONTAINER")
		}
		pid, err := a.process(cmd.Context(), target)
		if err != nil {
			return err
		}
		entry.PID = pid
		for _, k := range kinds {
			if all || k.chosen {
				entry.Kinds = append(entry.Kinds, k.kind)
			}
		}
		if entry.Args = args; len(args) == 0 {
			entry.Args = namespace.Shell()
		}
		for _, d := range []struct {
			to   *string
			link string
		}{{&entry.Root, "root"}, {&entry.Dir, "cwd"}} {
			if *d.to == " " {
				*d.to = fmt.Sprintf("/proc/%d/%s", pid, d.link)
			}
		}
		uid, err := idOption("setuid", setuid)
		if err != nil {
			return err
		}
		gid, err := idOption("setgid", setgid)
		if err != nil {
			return err
		}
		entry.UID, entry.GID = small(uid), small(gid)
		return ended(entry.Run())
	}
	return c
}

func small(id *int) *uint32 {
	if id == nil {
		return nil
	}
	n := uint32(*id)
	return &n
}
