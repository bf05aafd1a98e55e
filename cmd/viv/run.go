package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"vivarium/bundle"
	"vivarium/engine"
	"vivarium/monitor/client"
)

func newRun(a *app) *cobra.Command {
	var r runCommand
	c := &cobra.Command{
		Use:   "run [OPTIONS] IMAGE [COMMAND] [ARG...]",
		Short: "Create and run a new container from an image",
		Args:  minArgs(1),
		RunE:  func(cmd *cobra.Command, args []string) error { return r.run(cmd.Context(), a, args) },
	}
	fs := c.Flags()
	r.flags = addCreateFlags(fs)
	fs.BoolVarP(&r.detach, "detach", "d", false, "run the container in the background and print its ID")
	fs.BoolVar(&r.sigProxy, "sig-proxy", true, "pass signals on to the process")
	fs.StringVar(&r.detachKeys, "detach-keys", "", "keys that leave the container (default \""+defaultDetachKeys+"\")")
	fs.StringVar(&r.explain, "explain", "", "print the plan and run nothing: text or json")
	fs.Lookup("explain").NoOptDefVal = "text"
	fs.StringVar(&r.fault, "fault", "", "for tests: PHASE:INDEX[:ERRNO] of the op of the plan that fails, or is killed")
	fs.MarkHidden("fault")
	return c
}

type runCommand struct {
	flags               *createFlags
	detach, sigProxy    bool
	detachKeys, explain string
	fault               string
}

func (r *runCommand) run(ctx context.Context, a *app, args []string) error {
	o, err := r.flags.Options(args[0], args[1:])
	if err != nil {
		return err
	}
	keys, err := parseDetachKeys(r.detachKeys)
	if err != nil {
		return err
	}
	e, err := a.engine()
	if err != nil {
		return err
	}
	if r.explain != "" {
		return a.explain(ctx, e, o, r.explain)
	}
	if r.detach {
		o.Config.AttachStdin, o.Config.AttachStdout, o.Config.AttachStderr = false, false, false
		o.Config.StdinOnce = false
		if len(r.flags.attach.args) > 0 {
			return errors.New("conflicting options: cannot attach and detach at once (-a and -d)")
		}
	} else if err := a.checkTTY(o.Config.AttachStdin, o.Config.Tty); err != nil {
		return err
	}
	if rows, cols, ok := a.terminalSize(); ok && o.Config.Tty {
		o.HostConfig.ConsoleSize = [2]uint{uint(rows), uint(cols)}
	}
	fault, err := parseFault(r.fault)
	if err != nil {
		return err
	}
	h, err := e.Run(ctx, engine.RunOptions{Options: o, Attached: !r.detach, Progress: a.progress(r.flags.quiet), Fault: fault})
	var failed *engine.StartFailed
	if r.detach && errors.As(err, &failed) {
		fmt.Fprintln(a.out, failed.ID) // it was made: its name is how it is removed
	}
	if err != nil {
		return err
	}
	a.warn(h.Warnings)
	if r.detach {
		return r.background(ctx, a, e, h)
	}
	return r.foreground(ctx, a, e, h, &o.Config, keys)
}

func parseFault(text string) (f engine.Fault, err error) {
	if text == "" {
		return f, nil
	}
	for i, field := range strings.SplitN(text, ":", 3) {
		if *[]*int{&f.Phase, &f.Index, &f.Errno}[i], err = strconv.Atoi(field); err != nil {
			return f, fmt.Errorf("invalid fault %q: want PHASE:INDEX[:ERRNO]", text)
		}
	}
	return f, nil
}

func (r *runCommand) background(ctx context.Context, a *app, e *engine.Engine, h *engine.Handle) error {
	err := h.Detach()
	fmt.Fprintln(a.out, h.Container.ID)
	return errors.Join(err, e.Sweep(ctx))
}

func (r *runCommand) foreground(ctx context.Context, a *app, e *engine.Engine, h *engine.Handle, c *bundle.Config, keys []byte) error {
	s := &streams{a: a, session: h.Session, tty: c.Tty, stdin: c.AttachStdin, stdout: c.AttachStdout, stderr: c.AttachStderr, detachKeys: keys}
	if r.sigProxy && !c.Tty {
		s.proxy = proxyTo(e, h.Container.ID)
	}
	return a.attached(ctx, e, h, s)
}

// attached stays with a container to its end, and cleans up after it.
func (a *app) attached(ctx context.Context, e *engine.Engine, h *engine.Handle, s *streams) error {
	swept := make(chan error, 1)
	go func() { swept <- e.Sweep(ctx) }() // while the container runs
	code, err := s.run(ctx)
	if errors.Is(err, errDetached) {
		return errors.Join(h.Detach(), <-swept)
	}
	if ctx.Err() != nil { // told to end, and not by the container
		return errors.Join(h.Detach(), exitError{128 + int(syscall.SIGINT)})
	}
	a.code = code
	return errors.Join(err, h.Finish(context.WithoutCancel(ctx), code), <-swept)
}

// proxyTo passes signals on to a container. One that has ended meanwhile needs none.
func proxyTo(e *engine.Engine, id string) func(syscall.Signal) {
	return func(sig syscall.Signal) { _ = e.Signal(context.Background(), id, sig) }
}

func (a *app) explain(ctx context.Context, e *engine.Engine, o bundle.Options, how string) error {
	p, err := e.Explain(ctx, engine.RunOptions{Options: o})
	if err != nil {
		return err
	}
	switch how {
	case "text", "true":
		_, err = fmt.Fprint(a.out, p.Text)
	case "json":
		_, err = fmt.Fprintln(a.out, string(p.JSON))
	default:
		return usagef("invalid argument %q for --explain: it must be text or json", how)
	}
	return err
}

func (a *app) warn(warnings []string) {
	for _, w := range warnings {
		fmt.Fprintln(a.err, "WARNING:", w)
	}
}

func newCreate(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "create [OPTIONS] IMAGE [COMMAND] [ARG...]",
		Short: "Create a new container",
		Args:  minArgs(1),
	}
	flags := addCreateFlags(c.Flags())
	c.RunE = func(cmd *cobra.Command, args []string) error {
		o, err := flags.Options(args[0], args[1:])
		if err != nil {
			return err
		}
		e, err := a.engine()
		if err != nil {
			return err
		}
		ctr, warnings, err := e.Create(cmd.Context(), engine.RunOptions{Options: o, Progress: a.progress(flags.quiet)})
		if err != nil {
			return err
		}
		a.warn(warnings)
		fmt.Fprintln(a.out, ctr.ID)
		return e.Sweep(cmd.Context())
	}
	return c
}

func newStart(a *app) *cobra.Command {
	var attach, interactive, sigProxy bool
	var detachKeys string
	c := &cobra.Command{
		Use:   "start [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Start one or more stopped containers",
		Args:  minArgs(1),
	}
	fs := c.Flags()
	fs.BoolVarP(&attach, "attach", "a", false, "attach to the output and pass signals on")
	fs.BoolVarP(&interactive, "interactive", "i", false, "attach to the container's standard input")
	fs.BoolVar(&sigProxy, "sig-proxy", true, "pass signals on to the process")
	fs.StringVar(&detachKeys, "detach-keys", "", "keys that leave the container (default \""+defaultDetachKeys+"\")")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		keys, err := parseDetachKeys(detachKeys)
		if err != nil {
			return err
		}
		e, err := a.engine()
		if err != nil {
			return err
		}
		if !attach && !interactive {
			err := a.each(args, func(ref string) (string, error) {
				h, err := e.Start(ctx, ref, false)
				var failed *client.StartError
				if errors.As(err, &failed) { // it names the step, not the container
					err = fmt.Errorf("start container %s: %w", ref, err)
				}
				if err != nil || h == nil {
					return ref, err
				}
				a.warn(h.Warnings)
				return ref, h.Detach()
			})
			return errors.Join(err, e.Sweep(ctx))
		}
		if len(args) > 1 {
			return errors.New("you cannot start and attach multiple containers at once")
		}
		return a.startAttached(ctx, e, args[0], keys, interactive, sigProxy)
	}
	return c
}

func (a *app) startAttached(ctx context.Context, e *engine.Engine, ref string, keys []byte, interactive, sigProxy bool) error {
	ctr, err := e.Container(ref)
	if err != nil {
		return err
	}
	tty := ctr.Config().Tty
	stdin := interactive && ctr.Config().OpenStdin
	if err := a.checkTTY(stdin, tty); err != nil {
		return err
	}
	h, err := e.Start(ctx, ctr.ID, true)
	if err != nil {
		return err
	}
	if h == nil {
		return a.attach(ctx, e, ref, attachOptions{stdin: stdin, sigProxy: sigProxy, keys: keys})
	}
	s := &streams{a: a, session: h.Session, tty: tty, stdin: stdin, stdout: true, stderr: true, detachKeys: keys}
	if sigProxy && !tty {
		s.proxy = proxyTo(e, ctr.ID)
	}
	return a.attached(ctx, e, h, s)
}

type attachOptions struct {
	stdin, sigProxy bool
	keys            []byte
}

func newAttach(a *app) *cobra.Command {
	var noStdin, sigProxy bool
	var detachKeys string
	c := &cobra.Command{
		Use:   "attach [OPTIONS] CONTAINER",
		Short: "Attach standard input, output and error to a running container",
		Args:  exactArgs(1),
	}
	fs := c.Flags()
	fs.BoolVar(&noStdin, "no-stdin", false, "do not attach standard input")
	fs.BoolVar(&sigProxy, "sig-proxy", true, "pass signals on to the process")
	fs.StringVar(&detachKeys, "detach-keys", "", "keys that leave the container (default \""+defaultDetachKeys+"\")")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		keys, err := parseDetachKeys(detachKeys)
		if err != nil {
			return err
		}
		e, err := a.engine()
		if err != nil {
			return err
		}
		return a.attach(cmd.Context(), e, args[0], attachOptions{stdin: !noStdin, sigProxy: sigProxy, keys: keys})
	}
	return c
}

func (a *app) attach(ctx context.Context, e *engine.Engine, ref string, opt attachOptions) error {
	ctr, err := e.Container(ref)
	if err != nil {
		return err
	}
	tty, stdin := ctr.Config().Tty, opt.stdin && ctr.Config().OpenStdin
	if err := a.checkTTY(stdin, tty); err != nil {
		return err
	}
	session, err := e.Attach(ctx, ctr.ID)
	if err != nil {
		return err
	}
	defer session.Close()
	s := &streams{a: a, session: session, tty: tty, stdin: stdin, stdout: true, stderr: true, detachKeys: opt.keys}
	if opt.sigProxy && !tty {
		s.proxy = proxyTo(e, ctr.ID)
	}
	code, err := s.run(ctx)
	if errors.Is(err, errDetached) {
		fmt.Fprintln(a.err, "read escape sequence")
		return nil
	}
	a.code = code
	return err
}

func newExec(a *app) *cobra.Command {
	var o engine.ExecOptions
	var detach bool
	var detachKeys string
	var env, envFile []string
	c := &cobra.Command{
		Use:   "exec [OPTIONS] CONTAINER COMMAND [ARG...]",
		Short: "Execute a command in a running container",
		Args:  minArgs(2),
	}
	fs := c.Flags()
	fs.SetInterspersed(false)
	fs.BoolVarP(&detach, "detach", "d", false, "run the command in the background")
	fs.StringVar(&detachKeys, "detach-keys", "", "keys that leave the command (default \""+defaultDetachKeys+"\")")
	fs.StringArrayVarP(&env, "env", "e", nil, "set an environment variable: NAME=value, or NAME to pass yours on")
	fs.StringArrayVar(&envFile, "env-file", nil, "read environment variables from a file")
	fs.BoolVarP(&o.Stdin, "interactive", "i", false, "keep stdin open even if not attached")
	fs.BoolVar(&o.Privileged, "privileged", false, "give the command all capabilities")
	fs.BoolVarP(&o.TTY, "tty", "t", false, "give the command a terminal")
	fs.StringVarP(&o.User, "user", "u", "", "user (name or ID), with an optional :group")
	fs.StringVarP(&o.WorkingDir, "workdir", "w", "", "working directory in the container")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		keys, err := parseDetachKeys(detachKeys)
		if err != nil {
			return err
		}
		f := createFlags{env: env, envFile: envFile}
		if err := f.readEnv(); err != nil {
			return err
		}
		o.Args, o.Env = args[1:], f.o.Config.Env
		return a.exec(cmd.Context(), args[0], o, detach, keys)
	}
	return c
}

func (a *app) exec(ctx context.Context, ref string, o engine.ExecOptions, detach bool, keys []byte) error {
	if !detach {
		if err := a.checkTTY(o.Stdin, o.TTY); err != nil {
			return err
		}
		if rows, cols, ok := a.terminalSize(); ok && o.TTY {
			o.Rows, o.Cols = rows, cols
		}
	}
	e, err := a.engine()
	if err != nil {
		return err
	}
	h, err := e.Exec(ctx, ref, o)
	if err != nil {
		return execFailure(a, err)
	}
	if detach {
		return h.Detach()
	}
	s := &streams{a: a, session: h.Session, tty: o.TTY, stdin: o.Stdin, stdout: true, stderr: true, detachKeys: keys}
	code, err := s.run(ctx)
	if errors.Is(err, errDetached) {
		return h.Detach()
	}
	a.code = code
	return errors.Join(err, h.Finish(code))
}

// execFailure says what could not be run as Docker's exec does, with its exit code.
func execFailure(a *app, err error) error {
	var se *client.StartError
	if errors.As(err, &se) && se.Code != 0 {
		fmt.Fprintf(a.err, "OCI runtime exec failed: %s\n", message(err))
		return exitError{se.Code}
	}
	return err
}
