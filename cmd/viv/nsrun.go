package main

import (
	"errors"
	"fmt"
	"os"
	"os/user"
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
	value       string // a file; " " if none is given
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
	kinds                                   []*nsFlag
	command                                 namespace.Command
	mapRoot, mapCurrent, mapAuto, mapSub    bool
	mapUser, mapGroup, killChild, setgroups string
	setuid, setgid                          string
	mapUsers, mapGroups                     []string
	fork, forwardSignals                    bool
}

func newNsRun(a *app) *cobra.Command {
	f := &runFlags{kinds: nsFlags()}
	c := &cobra.Command{
		Use: "run [OPTIONS] [--] [COMMAND [ARG...]]", Short: "Run a command in new namespaces",
		Long: "Run a command in new namespaces, with the options of unshare(1). The command is a child, as with --fork, and without one it\n" +
			"is your shell.",
		Example: "  viv ns run --uts sh -c 'hostname inside; hostname'\n  viv ns run --user --map-root-user --pid --mount-proc ps",
	}
	f.define(c.Flags())
	completeFlag(c, "propagation", oneOf("slave", "shared", "private", "unchanged"))
	completeFlag(c, "setgroups", oneOf("allow", "deny"))
	c.RunE = func(_ *cobra.Command, args []string) error {
		if f.command.Args = args; len(args) == 0 {
			f.command.Args = namespace.Shell()
		}
		if err := f.read(c.Flags()); err != nil {
			return err
		}
		return a.ended(f.command.Run())
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
	fs.BoolVar(&f.forwardSignals, "forward-signals", true, "accepted: signals are always passed on to the command")
	fs.MarkHidden("forward-signals")
	fs.BoolVarP(&f.mapRoot, "map-root-user", "r", false, "map the current user to root (implies --user)")
	fs.BoolVarP(&f.mapCurrent, "map-current-user", "c", false, "map the current user to itself (implies --user)")
	fs.StringVar(&f.mapUser, "map-user", "", "map the current user to an id or the user of a name (implies --user)")
	fs.StringVar(&f.mapGroup, "map-group", "", "map the current group to an id or the group of a name (implies --user)")
	fs.StringArrayVar(&f.mapUsers, "map-users", nil, "map a range: INNER:OUTER:COUNT, or OUTER,INNER,COUNT; auto, subids or all (implies --user)")
	fs.StringArrayVar(&f.mapGroups, "map-groups", nil, "map a range of groups, in the same words (implies --user)")
	fs.BoolVar(&f.mapAuto, "map-auto", false, "map the first subordinate ids, from 0 on: --map-users auto --map-groups auto")
	fs.BoolVar(&f.mapSub, "map-subids", false, "map the first subordinate ids to themselves: --map-users subids --map-groups subids")
	fs.StringVar(&f.killChild, "kill-child", "", "send the command a signal when viv ends (SIGKILL if none is given)")
	fs.Lookup("kill-child").NoOptDefVal = "SIGKILL"
	fs.StringVar(&f.command.MountProc, "mount-proc", "", "mount a proc file system, on /proc if nothing is given (implies --mount)")
	fs.Lookup("mount-proc").NoOptDefVal = "/proc"
	fs.StringVar(&f.command.Propagation, "propagation", "private", "of the mounts: slave, shared, private or unchanged")
	fs.StringVar(&f.setgroups, "setgroups", "", "allow or deny setgroups(2) in the user namespace")
	fs.BoolVar(&f.command.KeepCaps, "keep-caps", false, "keep the capabilities in the user namespace, also if not root there")
	fs.BoolVar(&f.command.NoEnv, "clear-env", false, "give the command no environment")
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
	users := idMaps{own: os.Geteuid(), find: userID, all: namespace.AllUIDs, subordinate: namespace.SubordinateUIDs}
	groups := idMaps{own: os.Getegid(), find: groupID, all: namespace.AllGIDs, subordinate: namespace.SubordinateGIDs}
	for _, special := range []struct {
		on   bool
		word string
	}{{f.mapAuto, "auto"}, {f.mapSub, "subids"}} {
		if special.on {
			f.mapUsers, f.mapGroups = append(f.mapUsers, special.word), append(f.mapGroups, special.word)
		}
	}
	var err error
	if o.UIDs, err = users.read(f.single(f.mapUser, users.own), f.mapUsers); err != nil {
		return err
	}
	group := f.single(f.mapGroup, groups.own)
	if o.GIDs, err = groups.read(group, f.mapGroups); err != nil {
		return err
	}
	if o.UID, err = idOption("setuid", f.setuid); err != nil {
		return err
	}
	if o.GID, err = idOption("setgid", f.setgid); err != nil {
		return err
	}
	switch f.setgroups {
	case "":
		o.Setgroups = len(f.mapGroups) > 0 || group == "" && o.GID != nil && os.Geteuid() == 0
	case "deny":
	case "allow":
		if group != "" && len(f.mapGroups) == 0 {
			return errors.New("--setgroups allow and a map of the current group alone exclude each other (user_namespaces(7))")
		}
		o.Setgroups = true
	default:
		return fmt.Errorf("--setgroups %q: give allow or deny", f.setgroups)
	}
	return nil
}

// single is what the current id is mapped to.
func (f *runFlags) single(word string, own int) string {
	switch {
	case word != "":
		return word
	case f.mapRoot:
		return "0"
	case f.mapCurrent:
		return strconv.Itoa(own)
	}
	return ""
}

// ended gives the exit code of a command on.
func (a *app) ended(code int, err error) error {
	var failed *namespace.ExecError
	if errors.As(err, &failed) {
		fmt.Fprintln(a.err, "viv:", message(err))
		code, err = failed.Code(), nil
	}
	if err == nil && code != 0 {
		err = exitError{code}
	}
	return err
}

// idMaps reads maps of users, or of groups.
type idMaps struct {
	own         int
	find        func(name string) (string, error)
	all         func() ([]namespace.Map, error)
	subordinate func() (namespace.Map, error)
}

func (m *idMaps) read(single string, ranges []string) ([]namespace.Map, error) {
	var out []namespace.Map
	for _, word := range ranges {
		list, err := m.readRange(word)
		if err != nil {
			return nil, err
		}
		out = append(out, list...)
	}
	if single == "" {
		return out, nil
	}
	n, err := strconv.ParseUint(single, 10, 31)
	if err != nil {
		if single, err = m.find(single); err == nil {
			n, err = strconv.ParseUint(single, 10, 31)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%q is no id, and no name of one: %w", single, err)
	}
	own := namespace.Map{Inside: int(n), Outside: m.own, Count: 1}
	return append([]namespace.Map{own}, namespace.Without(out, own.Inside)...), nil
}

func (m *idMaps) readRange(word string) ([]namespace.Map, error) {
	switch word {
	case "all":
		return m.all()
	case "auto", "subids":
		r, err := m.subordinate()
		if word == "subids" {
			r.Inside = r.Outside
		}
		return []namespace.Map{r}, err
	}
	var a, b, count int
	n, err := fmt.Sscanf(word, "%d:%d:%d", &a, &b, &count)
	if n != 3 || err != nil {
		n, err = fmt.Sscanf(word, "%d,%d,%d", &b, &a, &count)
	}
	if n != 3 || err != nil || a < 0 || b < 0 || count < 1 {
		return nil, fmt.Errorf("range of ids %q: give INNER:OUTER:COUNT, OUTER,INNER,COUNT, auto, subids or all", word)
	}
	return []namespace.Map{{Inside: a, Outside: b, Count: count}}, nil
}

func userID(name string) (string, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return name, err
	}
	return u.Uid, nil
}

func groupID(name string) (string, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		return name, err
	}
	return g.Gid, nil
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
