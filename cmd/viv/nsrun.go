package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"vivarium/sandbox/namespace"
)

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

// runFlags are the options of unshare(1).
type runFlags struct {
	kinds                                                   []*nsFlag
	command                                                 namespace.Command
	mapRoot, mapCurrent, fork, keepCaps                     bool
	mapUser, mapGroup, killChild, setgroups, setuid, setgid string
	mapUsers, mapGroups                                     []string
}

func newNsRun(*app) *cobra.Command {
	f := &runFlags{kinds: nsFlags()}
	c := &cobra.Command{
		Use: "run [OPTIONS] [--] [COMMAND [ARG...]]", Short: "Run a command in new namespaces",
		Long: "Run a command in new namespaces, with the options of unshare(1). The command is a child, as with --fork, and without one it\n" +
			"is your shell.",
		Example: "  viv ns run --uts sh -c 'hostname inside; hostname'\n  viv ns run --user --map-root-user --pid --mount-proc ps",
	}
	f.define(c.Flags())
	c.RunE = func(_ *cobra.Command, args []string) error {
		if f.command.Args = args; len(args) == 0 {
			f.command.Args = namespace.Shell()
		}
		if err := f.read(c.Flags()); err != nil {
			return err
		}
		return ended(f.command.Run())
	}
	return c
}

func (f *runFlags) define(fs *pflag.FlagSet) {
	fs.SetInterspersed(false)
	for _, k := range f.kinds {
		fs.StringVarP(&k.value, k.name, k.short, "", "a new "+k.name+" namespace; with =FILE it is kept there by a bind mount")
		fs.Lookup(k.name).NoOptDefVal = " "
	}
	fs.BoolVarP(&f.fork, "fork", "f", true, "accepted: the command is always a child")
	fs.BoolVarP(&f.mapRoot, "map-root-user", "r", false, "map the current user to root (implies --user)")
	fs.BoolVarP(&f.mapCurrent, "map-current-user", "c", false, "map the current user to itself (implies --user)")
	fs.StringVar(&f.mapUser, "map-user", "", "map the current user to an id (implies --user)")
	fs.StringVar(&f.mapGroup, "map-group", "", "map the current group to an id (implies --user)")
	fs.StringArrayVar(&f.mapUsers, "map-users", nil, "map a range: OUTER,INNER,COUNT (implies --user)")
	fs.StringArrayVar(&f.mapGroups, "map-groups", nil, "map a range: OUTER,INNER,COUNT (implies --user)")
	fs.StringVar(&f.killChild, "kill-child", "", "send the command a signal when viv ends (SIGKILL if none is given)")
	fs.Lookup("kill-child").NoOptDefVal = "SIGKILL"
	fs.StringVar(&f.command.MountProc, "mount-proc", "", "mount a proc file system, on /proc if nothing is given (implies --mount)")
	fs.Lookup("mount-proc").NoOptDefVal = "/proc"
	fs.StringVar(&f.command.Propagation, "propagation", "private", "of the mounts: slave, shared, private or unchanged")
	fs.StringVar(&f.setgroups, "setgroups", "", "allow or deny setgroups(2) in the user namespace")
	fs.BoolVar(&f.keepCaps, "keep-caps", false, "accepted: capabilities are kept as execve(2) keeps them")
	fs.MarkHidden("keep-caps")
	fs.StringVarP(&f.command.Root, "root", "R", "", "run the command with this root directory")
	fs.StringVarP(&f.command.Dir, "wd", "w", "", "change the working directory")
	fs.StringVarP(&f.setuid, "setuid", "S", "", "set the user id in the namespace")
	fs.StringVarP(&f.setgid, "setgid", "G", "", "set the group id in the namespace")
	fs.Int64Var(&f.command.Monotonic, "monotonic", 0, "offset of the monotonic clock in a time namespace, seconds")
	fs.Int64Var(&f.command.Boottime, "boottime", 0, "offset of the clock since the boot in a time namespace, seconds")
}

// read makes the command of the flags.
func (f *runFlags) read(fs *pflag.FlagSet) error {
	o := &f.command
	wanted := map[namespace.Kind]bool{namespace.Mount: o.MountProc != ""}
	for _, k := range f.kinds {
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
	if err := f.ids(); err != nil {
		return err
	}
	wanted[namespace.User] = wanted[namespace.User] || len(o.UIDs)+len(o.GIDs) > 0
	if f.killChild != "" {
		if o.KillWithParent = unix.SignalNum(strings.ToUpper(f.killChild)); o.KillWithParent == 0 {
			return fmt.Errorf("--kill-child %q: unknown signal", f.killChild)
		}
	}
	for _, k := range namespace.Kinds() {
		if wanted[k] {
			o.New = append(o.New, k)
		}
	}
	return nil
}

// ids reads who the command is to be.
func (f *runFlags) ids() error {
	o := &f.command
	var err error
	for _, m := range []struct {
		word   string
		ranges []string
		own    int
		to     *[]namespace.Map
	}{{f.mapUser, f.mapUsers, os.Geteuid(), &o.UIDs}, {f.mapGroup, f.mapGroups, os.Getegid(), &o.GIDs}} {
		if f.mapRoot && m.word == "" {
			m.word = "0"
		}
		if f.mapCurrent && m.word == "" {
			m.word = strconv.Itoa(m.own)
		}
		if *m.to, err = mappings(m.word, m.own, m.ranges); err != nil {
			return err
		}
	}
	if o.UID, err = idOption("setuid", f.setuid); err != nil {
		return err
	}
	if o.GID, err = idOption("setgid", f.setgid); err != nil {
		return err
	}
	switch f.setgroups {
	case "":
		o.Setgroups = o.GID != nil && os.Geteuid() == 0
	case "deny":
	case "allow":
		o.Setgroups = true
	default:
		return fmt.Errorf("--setgroups %q: give allow or deny", f.setgroups)
	}
	return nil
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
