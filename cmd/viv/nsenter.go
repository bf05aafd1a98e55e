package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"vivarium/sandbox/cgroup"
	"vivarium/sandbox/cgroup/tree"
	"vivarium/sandbox/namespace"
)

// enterFlags are the options of nsenter(1).
type enterFlags struct {
	kinds                            []*nsFlag
	entry                            namespace.Entry
	target, setuid, setgid           string
	all, parent, env, groups, noFork bool
	above                            *os.File // of --user-parent, open until the command is there
}

// newNsEnter has the options of nsenter(1); the target can be a container.
func newNsEnter(a *app) *cobra.Command {
	f := &enterFlags{kinds: nsFlags()}
	c := &cobra.Command{
		Use: "enter [OPTIONS] [-t TARGET] [--] [COMMAND [ARG...]]", Short: "Run a command in namespaces of a process or of a container",
		Long: "Run a command in namespaces of a process, of a container or of files, with the options of nsenter(1). Without a command it is\n" +
			"your shell. A file is one of /proc/PID/ns, or what one of these is bound to.",
		Example: "  viv ns enter -t web --net ip addr\n  viv ns enter --target 4711 --all\n  viv ns enter --net=/run/netns/blue ip addr",
	}
	f.define(c.Flags())
	completeFlag(c, "target", a.runningContainers(1))
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if f.entry.Args = args; len(args) == 0 {
			f.entry.Args = namespace.Shell()
		}
		if f.target != "" {
			pid, err := a.process(cmd.Context(), f.target)
			if err != nil {
				return err
			}
			f.entry.PID = pid
		}
		if err := f.read(c.Flags()); err != nil {
			return err
		}
		return a.ended(f.entry.Run())
	}
	return c
}

func (f *enterFlags) define(fs *pflag.FlagSet) {
	fs.SetInterspersed(false)
	fs.StringVarP(&f.target, "target", "t", "", "process, or name of a container")
	fs.BoolVarP(&f.all, "all", "a", false, "all namespaces")
	for _, k := range f.kinds {
		fs.StringVarP(&k.value, k.name, k.short, "", "the "+k.name+" namespace of the target, or with =FILE the one of a file")
		fs.Lookup(k.name).NoOptDefVal = " "
	}
	fs.BoolVar(&f.parent, "user-parent", false, "the user namespace that the other namespaces belong to; with --user the one above that")
	fs.StringVarP(&f.setuid, "setuid", "S", "", "set the user id in the namespace; follow for the target's")
	fs.StringVarP(&f.setgid, "setgid", "G", "", "set the group id in the namespace; follow for the target's")
	fs.BoolVar(&f.entry.KeepIDs, "preserve-credentials", false, "do not become root in a user namespace")
	fs.StringVarP(&f.entry.Root, "root", "r", "", "set the root directory, to the target's if nothing is given")
	fs.Lookup("root").NoOptDefVal = " "
	fs.StringVarP(&f.entry.Dir, "wd", "w", "", "set the working directory, to the target's if nothing is given")
	fs.Lookup("wd").NoOptDefVal = " "
	fs.StringVarP(&f.entry.InnerDir, "wdns", "W", "", "set the working directory, as it is called in the namespaces")
	fs.BoolVarP(&f.env, "env", "e", false, "give the command the environment of the target")
	fs.BoolVarP(&f.groups, "join-cgroup", "c", false, "enter the control groups of the target")
	fs.BoolVarP(&f.noFork, "no-fork", "F", false, "accepted: the command is always a child")
	fs.MarkHidden("no-fork")
}

// read makes the entry of the flags.
func (f *enterFlags) read(fs *pflag.FlagSet) error {
	e := &f.entry
	e.Files = make(map[namespace.Kind]string)
	for _, k := range f.kinds {
		file := strings.TrimSpace(k.value)
		switch {
		case fs.Changed(k.name) && file != "":
			e.Files[k.kind] = file
		case f.all || fs.Changed(k.name):
			e.Kinds = append(e.Kinds, k.kind)
		}
	}
	if e.PID == 0 && (len(e.Kinds) > 0 || f.env || f.groups || e.Root == " " || e.Dir == " " || f.setuid == "follow" || f.setgid == "follow") {
		return errors.New("no target was given: -t PID or -t CONTAINER")
	}
	if e.Dir != "" && e.InnerDir != "" {
		return errors.New("--wd and --wdns exclude each other")
	}
	for _, d := range []struct {
		to   *string
		link string
	}{{&e.Root, "root"}, {&e.Dir, "cwd"}} {
		if *d.to == " " {
			*d.to = fmt.Sprintf("/proc/%d/%s", e.PID, d.link)
		}
	}
	if err := f.ids(); err != nil {
		return err
	}
	if f.parent {
		if err := f.userParent(); err != nil {
			return err
		}
	}
	return f.ofTarget()
}

// ofTarget reads what is taken over from the target.
func (f *enterFlags) ofTarget() error {
	e := &f.entry
	if f.env {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", e.PID))
		if err != nil {
			return fmt.Errorf("read the environment of process %d: %w", e.PID, err)
		}
		e.Env = []string{}
		for word := range strings.SplitSeq(string(b), "\x00") {
			if strings.Contains(word, "=") {
				e.Env = append(e.Env, word)
			}
		}
	}
	if f.groups {
		l, err := cgroup.Detect()
		if err != nil {
			return err
		}
		if e.Groups, err = tree.ProcsFiles(l, e.PID); err != nil {
			return err
		}
	}
	return nil
}

func (f *enterFlags) ids() error {
	for _, o := range []struct {
		name, word, line, ids string
		to                    **uint32
	}{{"setuid", f.setuid, "Uid:", "uid_map", &f.entry.UID}, {"setgid", f.setgid, "Gid:", "gid_map", &f.entry.GID}} {
		if o.word == "follow" {
			id, err := namespace.IDOf(f.entry.PID, o.line, o.ids, f.has(namespace.User))
			if err != nil {
				return err
			}
			*o.to = &id
			continue
		}
		id, err := idOption(o.name, o.word)
		if err != nil {
			return err
		}
		if id != nil {
			n := uint32(*id)
			*o.to = &n
		}
	}
	return nil
}

func (f *enterFlags) has(k namespace.Kind) bool {
	for _, other := range f.entry.Kinds {
		if other == k {
			return true
		}
	}
	return f.entry.Files[k] != ""
}

// userParent finds the user namespace above (ioctl_ns(2)).
func (f *enterFlags) userParent() error {
	for _, k := range append([]namespace.Kind{namespace.User}, namespace.Kinds()...) {
		if !f.has(k) {
			continue
		}
		path := f.entry.Files[k]
		if path == "" {
			path = fmt.Sprintf("/proc/%d/ns/%s", f.entry.PID, k)
		}
		above, err := namespace.Owner(path, k)
		if err != nil {
			return err
		}
		f.above = above
		f.entry.Files[namespace.User] = fmt.Sprintf("/proc/self/fd/%d", above.Fd())
		return nil
	}
	return errors.New("--user-parent: no other namespace is entered, whose owner it could be")
}

// attached spells short options with a value that may be missing, like -n/run/netns/blue
// (getopt(3)), as pflag reads them: -n=/run/netns/blue.
func attached(args []string, fs *pflag.FlagSet) []string {
	out := append([]string{}, args...)
	for i := 0; i < len(out); i++ {
		word := out[i]
		name, long := strings.CutPrefix(word, "--")
		switch {
		case name == "" && long || !strings.HasPrefix(word, "-") || word == "-":
			return out // here the command begins
		case long:
			if flag := fs.Lookup(name); flag != nil && flag.NoOptDefVal == "" {
				i++ // the next word is its value
			}
			continue
		}
		for at := 1; at < len(word); at++ {
			flag := fs.ShorthandLookup(word[at : at+1])
			if flag == nil {
				break
			}
			if flag.NoOptDefVal == "" {
				if at == len(word)-1 {
					i++
				}
				break
			}
			if at+1 < len(word) && flag.Value.Type() != "bool" && strings.ContainsRune("/.", rune(word[at+1])) {
				out[i] = word[:at+1] + "=" + word[at+1:]
				break
			}
		}
	}
	return out
}
