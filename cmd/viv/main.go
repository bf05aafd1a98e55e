// Command viv is the engine's command line: arguments become one call of the
// engine, and its result becomes output. It is the only code that prints.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"vivarium/sandbox/namespace"
)

func main() {
	namespace.Main() // in a process that is to become the command of `viv ns run`
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run runs one command line and gives its exit code.
func run(args []string, in, out, errOut *os.File) int {
	a := &app{in: in, out: out, err: errOut}
	root := a.rootCommand(args)
	root.SetArgs(spelled(root, args))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	a.releaseSignals = cancelOnSignal(cancel)
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil {
		return a.fail(cmd, err)
	}
	return a.code
}

// spelled gives the words of `viv ns enter` in the spelling that the flags read.
func spelled(root *cobra.Command, args []string) []string {
	if firstWord(args) != "ns" {
		return args
	}
	root.InitDefaultHelpFlag() // takes the global flags in
	c, rest, err := root.Traverse(args)
	if err != nil || c.Name() != "enter" {
		return args
	}
	first := len(args) - len(rest)
	return append(args[:first:first], attached(rest, c.Flags())...)
}

// cancelOnSignal cancels what runs when the user wants to end it. release stops
// that and cancels nothing.
func cancelOnSignal(cancel context.CancelFunc) (release func()) {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		<-ch
		cancel()
	}()
	return func() { signal.Stop(ch) }
}

// verb is one word of the command line. Its command is made only when it is
// called, or when all are listed.
type verb struct {
	names string // "ps list ls": the name and its aliases
	make  func(*app) *cobra.Command
}

// is tells whether the word is the verb's name or an alias.
func (v verb) is(word string) bool {
	for name := range strings.FieldsSeq(v.names) {
		if name == word {
			return true
		}
	}
	return false
}

func (v verb) command(a *app) *cobra.Command {
	c := v.make(a)
	names := strings.Fields(v.names)
	if _, args, ok := strings.Cut(c.Use, " "); ok {
		c.Use = names[0] + " " + args
	} else {
		c.Use = names[0]
	}
	c.Aliases = names[1:]
	c.DisableFlagsInUseLine = true
	return c
}

// topVerbs are the words after viv.
func topVerbs() []verb {
	return []verb{
		{"run", newRun}, {"create", newCreate}, {"start", newStart}, {"stop", newStop}, {"kill", newKill},
		{"restart", newRestart}, {"rm", newRm}, {"ps", newPs}, {"logs", newLogs}, {"attach", newAttach},
		{"exec", newExec}, {"wait", newWait}, {"inspect", newInspect}, {"rename", newRename}, {"top", newTop},
		{"stats", newStats}, {"pause", newPause}, {"unpause", newUnpause}, {"update", newUpdate}, {"port", newPort},
		{"cp", newCp}, {"diff", newDiff}, {"export", newExport}, {"events", newEvents}, {"version", newVersion}, {"info", newInfo},
		{"images", newImages}, {"rmi", newRmi}, {"tag", newTag}, {"pull", newPull}, {"push", newPush}, {"copy", newCopy}, {"search", newSearch}, {"load", newLoad}, {"save", newSave},
		{"import", newImport}, {"build", newBuild}, {"commit", newCommit}, {"squash", newSquash}, {"history", newHistory}, {"layer", newLayer}, {"login", newLogin}, {"logout", newLogout},
		{"container", newContainerGroup}, {"image", newImageGroup}, {"volume", newVolumeGroup}, {"union", newUnionGroup}, {"system", newSystemGroup},
		{"network", newNetworkGroup}, {"builder", newBuilderGroup}, {"manifest", newManifestGroup}, {"ns", newNsGroup}, {"cgroup", newCgroupGroup}, {"lab", newLab}, {"completion", newCompletion}, {"cleanup", newCleanup}, {"health", newHealth},
	}
}

// rootCommand makes the command tree, of which only the branch that args name is
// grown: making all commands would be the larger part of a start.
func (a *app) rootCommand(args []string) *cobra.Command {
	root := &cobra.Command{
		Use:           "viv [OPTIONS] COMMAND",
		Short:         "A container engine without a daemon",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("'%s' is not a viv command", args[0])
			}
			return nil
		},
		RunE:                  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		DisableFlagsInUseLine: true,
		TraverseChildren:      true,
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return &usageError{err.Error()} })
	a.globalFlags(root)
	word := firstWord(args)
	for _, v := range topVerbs() {
		if v.is(word) {
			root.AddCommand(v.command(a))
			return root
		}
	}
	for _, v := range topVerbs() {
		root.AddCommand(v.command(a))
	}
	return root
}

// group makes a command that only has others below it.
func group(a *app, short string, verbs []verb) *cobra.Command {
	c := &cobra.Command{
		Short: short,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("'%s' is not a command of '%s'", args[0], cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, v := range verbs {
		c.AddCommand(v.command(a))
	}
	return c
}

// firstWord gives the first argument that is not a global flag or its value.
func firstWord(args []string) string {
	for i := 0; i < len(args); i++ {
		switch arg := args[i]; {
		case arg == "--root" || arg == "--state" || arg == "--storage-driver":
			i++
		case strings.HasPrefix(arg, "-"):
		default:
			return arg
		}
	}
	return ""
}

// usageError is a command line that cannot be understood.
type usageError struct{ msg string }

func (e *usageError) Error() string { return e.msg }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// noArgs, exactArgs and the others check the number of arguments in Docker's words.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return usagef("%q accepts no arguments", cmd.CommandPath())
}

func exactArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == n {
			return nil
		}
		return usagef("%q requires exactly %d argument%s", cmd.CommandPath(), n, plural(n))
	}
}

func minArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= n {
			return nil
		}
		return usagef("%q requires at least %d argument%s", cmd.CommandPath(), n, plural(n))
	}
}

func rangeArgs(min, max int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= min && len(args) <= max {
			return nil
		}
		if min == 0 {
			return usagef("%q requires at most %d argument%s", cmd.CommandPath(), max, plural(max))
		}
		return usagef("%q requires at least %d and at most %d argument%s", cmd.CommandPath(), min, max, plural(max))
	}
}

func plural(n int) string {
	if n == 1 {
		return ""
	}
	return "s"
}
