package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"vivarium/engine"
)

// eachContainer makes a verb that does the same to every container it is given,
// and prints what was given.
func eachContainer(a *app, c *cobra.Command, fn func(context.Context, *engine.Engine, string) error) *cobra.Command {
	if c.Args == nil {
		c.Args = minArgs(1)
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		e, err := a.engine()
		if err != nil {
			return err
		}
		err = a.each(args, func(ref string) (string, error) { return ref, fn(cmd.Context(), e, ref) })
		return errors.Join(err, e.Sweep(cmd.Context()))
	}
	return c
}

func stopFlags(c *cobra.Command, o *engine.StopOptions) {
	var timeout int
	fs := c.Flags()
	fs.StringVarP(&o.Signal, "signal", "s", "", "signal to send to the container")
	fs.IntVarP(&timeout, "timeout", "t", 0, "seconds to wait before the container is killed; -1: for ever")
	fs.IntVar(&timeout, "time", 0, "the same as --timeout")
	fs.MarkHidden("time")
	c.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if fs.Changed("timeout") || fs.Changed("time") {
			o.Timeout = &timeout
		}
		return nil
	}
}

func newStop(a *app) *cobra.Command {
	var o engine.StopOptions
	c := &cobra.Command{Use: "stop [OPTIONS] CONTAINER [CONTAINER...]", Short: "Stop one or more running containers"}
	stopFlags(c, &o)
	return eachContainer(a, c, func(ctx context.Context, e *engine.Engine, ref string) error { return e.Stop(ctx, ref, o) })
}

func newRestart(a *app) *cobra.Command {
	var o engine.StopOptions
	c := &cobra.Command{Use: "restart [OPTIONS] CONTAINER [CONTAINER...]", Short: "Restart one or more containers"}
	stopFlags(c, &o)
	return eachContainer(a, c, func(ctx context.Context, e *engine.Engine, ref string) error { return e.Restart(ctx, ref, o) })
}

func newKill(a *app) *cobra.Command {
	var signal string
	c := &cobra.Command{Use: "kill [OPTIONS] CONTAINER [CONTAINER...]", Short: "Kill one or more running containers"}
	c.Flags().StringVarP(&signal, "signal", "s", "", "signal to send to the container (default KILL)")
	return eachContainer(a, c, func(ctx context.Context, e *engine.Engine, ref string) error { return e.Kill(ctx, ref, signal) })
}

func newPause(a *app) *cobra.Command {
	c := &cobra.Command{Use: "pause CONTAINER [CONTAINER...]", Short: "Pause all processes within one or more containers"}
	return eachContainer(a, c, func(ctx context.Context, e *engine.Engine, ref string) error { return e.Pause(ctx, ref) })
}

func newUnpause(a *app) *cobra.Command {
	c := &cobra.Command{Use: "unpause CONTAINER [CONTAINER...]", Short: "Unpause all processes within one or more containers"}
	return eachContainer(a, c, func(ctx context.Context, e *engine.Engine, ref string) error { return e.Unpause(ctx, ref) })
}

func newRm(a *app) *cobra.Command {
	var o engine.RemoveOptions
	c := &cobra.Command{Use: "rm [OPTIONS] CONTAINER [CONTAINER...]", Short: "Remove one or more containers"}
	fs := c.Flags()
	fs.BoolVarP(&o.Force, "force", "f", false, "kill a running container first")
	fs.BoolVarP(&o.Volumes, "volumes", "v", false, "remove the container's anonymous volumes too")
	return eachContainer(a, c, func(ctx context.Context, e *engine.Engine, ref string) error {
		err := e.Remove(ctx, ref, o)
		if o.Force && errors.Is(err, engine.ErrNoSuchContainer) {
			return noMatter{err}
		}
		return err
	})
}

func newWait(a *app) *cobra.Command {
	c := &cobra.Command{Use: "wait CONTAINER [CONTAINER...]", Short: "Block until one or more containers stop, then print their exit codes", Args: minArgs(1)}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		e, err := a.engine()
		if err != nil {
			return err
		}
		return a.each(args, func(ref string) (string, error) {
			code, err := e.Wait(cmd.Context(), ref, engine.WaitNotRunning)
			return fmt.Sprint(code), err
		})
	}
	return c
}

func newRename(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "rename CONTAINER NEW_NAME", Short: "Rename a container", Args: exactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			return e.Rename(cmd.Context(), args[0], args[1])
		},
	}
}

// newCleanup is what monitors call; nobody types it.
func newCleanup(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "cleanup CONTAINER", Short: "Clean up after a container's end", Args: exactArgs(1), Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.lateEngine()
			if err != nil || e == nil {
				return err
			}
			return e.Cleanup(cmd.Context(), args[0])
		},
	}
}

// newHealth is what the process that checks a container's health becomes; nobody types it.
func newHealth(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "health CONTAINER", Short: "Check a container's health", Args: exactArgs(1), Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.lateEngine()
			if err != nil || e == nil {
				return err
			}
			return e.CheckHealth(cmd.Context(), args[0])
		},
	}
}

func newTop(a *app) *cobra.Command {
	var format string
	var noStream bool
	c := &cobra.Command{
		Use: "top [OPTIONS] [CONTAINER [ps OPTIONS]]", Short: "Display the running processes of a container, or what all containers use",
		Long: "Display the running processes of a container, or what all containers use: without a container it shows what the control groups\n" +
			"of those that run tell, live, who uses most of the processors first; a table that redraws on a terminal, and lines without one.",
		ValidArgsFunction: a.runningContainers(1),
	}
	fs := c.Flags()
	fs.SetInterspersed(false)
	fs.StringVar(&format, "format", "", "without a container: a Go template, 'table TEMPLATE' or json")
	fs.BoolVar(&noStream, "no-stream", false, "without a container: only pull the first result")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return a.topOfAll(cmd.Context(), format, noStream)
		}
		if format != "" || noStream {
			return errors.New("--format and --no-stream are for top without a container")
		}
		e, err := a.engine()
		if err != nil {
			return err
		}
		res, err := e.Top(cmd.Context(), args[0], args[1:])
		if err != nil {
			return err
		}
		w := newTable(a.out)
		fmt.Fprintln(w, strings.Join(res.Titles, "\t"))
		for _, p := range res.Processes {
			fmt.Fprintln(w, strings.Join(p, "\t"))
		}
		return w.Flush()
	}
	return c
}
