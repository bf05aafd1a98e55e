package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"vivarium/sandbox"
)

// launchOptions are the flags that create and run share.
func launchOptions(o *sandbox.Options) []option {
	return []option{
		text("bundle", "b", &o.Bundle, "path to the root of the bundle directory, defaults to the current directory"),
		text("config", "f", &o.Config, "file of the spec, relative to the bundle (default: config.json)"),
		text("console-socket", "", &o.ConsoleSocket, "path to an AF_UNIX socket which receives the master of the terminal"),
		text("pidfd-socket", "", &o.PidFDSocket, "path to an AF_UNIX socket which receives a pidfd of the process"),
		text("pid-file", "", &o.PidFile, "file to write the process id to"),
		flag("no-pivot", "", &o.NoPivot, "do not use pivot_root; for a rootfs on a ramdisk"),
		flag("no-new-keyring", "", &o.NoNewKeyring, "do not create a new session keyring for the container"),
		number("preserve-fds", &o.PreserveFDs, "pass N additional file descriptors to the container"),
	}
}

// finish makes paths absolute and checks the descriptors to be passed on.
func (a *app) finish(o *sandbox.Options) error {
	a.startsProcess()
	dir := o.Bundle
	if dir == "" {
		dir = "."
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("find the bundle: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Stat(abs, &st); err != nil {
		return fmt.Errorf("chdir %s: %w", dir, err)
	}
	o.Bundle = abs
	o.NotifySocket = os.Getenv("NOTIFY_SOCKET")
	if o.PreserveFDs, o.ExtraEnv, err = preserved(o.PreserveFDs); err != nil {
		return err
	}
	return nil
}

// preserved counts the descriptors that the process is to keep, from 3 on. Those
// of socket activation come first (sd_listen_fds(3)); without LISTEN_PID they are
// taken to be meant for us. A number at which nothing is open stays so: what we
// open ourselves closes on exec.
func preserved(n int) (int, []string, error) {
	var env []string
	if n < 0 {
		return 0, nil, fmt.Errorf("--preserve-fds %d is below zero", n)
	}
	pid := os.Getenv("LISTEN_PID")
	if v := os.Getenv("LISTEN_FDS"); v != "" && (pid == "" || pid == strconv.Itoa(os.Getpid())) {
		listen, err := strconv.Atoi(v)
		if err != nil || listen < 0 {
			return 0, nil, fmt.Errorf("unable to convert LISTEN_FDS %q to a number", v)
		}
		env = []string{"LISTEN_FDS=" + v, "LISTEN_PID=1"}
		n += listen
	}
	return n, env, nil
}

func (a *app) create() *command {
	var o sandbox.Options
	return &command{
		args: "<container-id>", about: "create a container", min: 1, max: 1,
		options: launchOptions(&o),
		run: func(args []string) (int, error) {
			err := a.finish(&o)
			if err == nil {
				err = a.runtime.Create(args[0], o)
			}
			return 0, failed("create", err)
		},
	}
}

// failed puts the name of the command before an error, as runc does.
func failed(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s failed: %w", program, what, err)
}

func (a *app) start() *command {
	return &command{
		args: "<container-id>", about: "run the command of a created container", min: 1, max: 1,
		run: func(args []string) (int, error) { return 0, a.runtime.Start(args[0], os.Getenv("NOTIFY_SOCKET")) },
	}
}

func (a *app) run() *command {
	var o sandbox.Options
	var keep, ignored bool
	return &command{
		args: "<container-id>", about: "create and run a container", min: 1, max: 1,
		options: append(launchOptions(&o),
			flag("detach", "d", &o.Detached, "detach from the container's process"),
			flag("keep", "", &keep, "do not delete the container after it exits"),
			flag("no-subreaper", "", &ignored, "accepted: processes that lose their parent are not adopted anyway"),
		),
		run: func(args []string) (int, error) {
			err := a.finish(&o)
			if err != nil {
				return 0, failed("run", err)
			}
			code, err := a.runContainer(args[0], o, keep)
			return code, failed("run", err)
		},
	}
}

func (a *app) runContainer(id string, o sandbox.Options, keep bool) (int, error) {
	var f *foreground
	if !o.Detached {
		f = newForeground(a.runtime.Warn)
		defer f.close()
		o.BeforeCommand = f.listen
		o.ConsoleSize = ownSize() // in place before the process looks
	}
	p, err := a.runtime.Run(id, o)
	if err != nil {
		return 0, err
	}
	defer p.Close()
	if f == nil {
		if p.Notify != nil {
			return 0, p.Notify.Pass(p.Pid, p.PidFD)
		}
		return 0, nil
	}
	a.runtime.Trace.Note("wait for the end of the command")
	code, err := f.wait(p)
	a.runtime.Trace.Note("remove what is left")
	if err != nil || keep {
		return code, err
	}
	return code, a.runtime.Delete(id, true)
}
