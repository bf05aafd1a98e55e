package main

import (
	"path"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"vivarium/engine"
	"vivarium/lab"
	"vivarium/sandbox/cgroup"
	"vivarium/sandbox/cgroup/tree"
	"vivarium/sandbox/namespace"
)

// completion gives what an argument can be that begins with a word.
type completion = func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective)

// noFiles ends a completion: names of files make no sense there.
const noFiles = cobra.ShellCompDirectiveNoFileComp

// oneOf completes words of a list.
func oneOf(list ...string) completion {
	return func(_ *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		return beginning(word, list), noFiles
	}
}

// beginning gives those of a list that begin with a word.
func beginning(word string, list []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return !strings.HasPrefix(s, word) })
}

// completeFlag completes the value of a flag.
func completeFlag(c *cobra.Command, name string, fn completion) {
	if err := c.RegisterFlagCompletionFunc(name, fn); err != nil {
		panic(err) // there is no such flag, or twice
	}
}

// runningContainers completes names of running containers, at most so many arguments.
func (a *app) runningContainers(most int) completion {
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= most {
			return nil, noFiles
		}
		e, err := a.engine()
		if err != nil {
			return nil, noFiles
		}
		list, err := e.List(cmd.Context(), engine.ListOptions{})
		if err != nil {
			return nil, noFiles
		}
		var names []string
		for _, c := range list {
			names = append(names, strings.TrimPrefix(c.Container.Name, "/"))
		}
		return beginning(word, names), noFiles
	}
}

// groupsAnd completes one control group, by path or by the container's name, and what
// comes after it with next, if that is not nil.
func (a *app) groupsAnd(next completion) completion {
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		switch {
		case len(args) > 0 && next != nil:
			return next(cmd, args, word)
		case len(args) > 0:
			return nil, noFiles
		case !strings.HasPrefix(word, "/"):
			names, _ := a.runningContainers(1)(cmd, args, word)
			return append(names, beginning(word, []string{"/"})...), noFiles | cobra.ShellCompDirectiveNoSpace
		}
		return groupsBelow(word), noFiles | cobra.ShellCompDirectiveNoSpace
	}
}

// groupsBelow lists the groups whose paths begin with a word.
func groupsBelow(word string) []string {
	l, err := cgroup.Detect()
	if err != nil {
		return nil
	}
	dir := path.Dir(word + "x") // what is typed of the last name does not count
	g, err := tree.Open(l, dir)
	if err != nil {
		return nil
	}
	children, err := g.Children()
	if err != nil {
		return nil
	}
	for i, name := range children {
		children[i] = path.Join(dir, name)
	}
	return beginning(word, children)
}

// groupFiles completes names of values, with a suffix.
func groupFiles(suffix string) completion {
	return func(_ *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		var out []string
		for _, name := range tree.Names() {
			if suffix == "" || !strings.HasSuffix(name, ".current") && !strings.HasSuffix(name, ".peak") {
				out = append(out, name+suffix)
			}
		}
		return beginning(word, out), noFiles | cobra.ShellCompDirectiveNoSpace
	}
}

// experiments completes those that are not named yet.
func experiments(_ *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	var out []string
	for _, e := range lab.Experiments() {
		if !slices.Contains(args, e.ID) {
			out = append(out, e.ID+"\t"+e.Title.In(localeLang()))
		}
	}
	return beginning(word, out), noFiles
}

// kindNames are what namespaces are called.
func kindNames() []string {
	var out []string
	for _, k := range namespace.Kinds() {
		out = append(out, string(k))
	}
	return out
}
