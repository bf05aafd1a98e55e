package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"vivarium/engine"
	"vivarium/monitor/client"
)

// app is what all commands share.
type app struct {
	in, out, err *os.File
	root, state  string
	driver       string
	debug        bool

	code           int // exit code of a command that did not fail
	releaseSignals func()
	opened         *engine.Engine
}

func (a *app) globalFlags(root *cobra.Command) {
	fs := root.PersistentFlags()
	fs.StringVar(&a.root, "root", envOr("VIV_ROOT", defaultRoot()), "directory of images and containers")
	fs.StringVar(&a.state, "state", envOr("VIV_STATE", defaultState()), "directory of what is gone after a reboot")
	fs.StringVar(&a.driver, "storage-driver", os.Getenv("STORAGE_DRIVER"), "what makes the file systems of new containers and builds: overlay, aufs or copy (default the best that works)")
	fs.BoolVarP(&a.debug, "debug", "D", false, "tell errors in full")
	root.Flags().BoolP("version", "v", false, "print the version")
	root.PreRunE = func(cmd *cobra.Command, args []string) error {
		if v, _ := cmd.Flags().GetBool("version"); v {
			fmt.Fprintf(a.out, "viv version %s\n", version())
			cmd.RunE = func(*cobra.Command, []string) error { return nil }
		}
		return nil
	}
}

func envOr(name, def string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return def
}

func defaultRoot() string {
	if os.Geteuid() == 0 {
		return "/var/lib/viv"
	}
	if d := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(d) {
		return d + "/viv"
	}
	return os.Getenv("HOME") + "/.local/share/viv"
}

func defaultState() string {
	if os.Geteuid() == 0 {
		return "/run/viv"
	}
	if d := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(d) {
		return d + "/viv"
	}
	return fmt.Sprintf("/tmp/viv-%d", os.Getuid())
}

// engine opens the engine, once.
func (a *app) engine() (*engine.Engine, error) {
	e, err := a.open(engine.Open)
	if err == nil {
		err = e.SetDriver(a.driver)
	}
	return e, err
}

// lateEngine is the engine for what monitors call at a container's end; nil if it
// is gone by then.
func (a *app) lateEngine() (*engine.Engine, error) { return a.open(engine.OpenExisting) }

func (a *app) open(open func(root, state string) (*engine.Engine, error)) (*engine.Engine, error) {
	if a.opened != nil {
		return a.opened, nil
	}
	root, err := filepath.Abs(a.root)
	if err != nil {
		return nil, err
	}
	state, err := filepath.Abs(a.state)
	if err != nil {
		return nil, err
	}
	e, err := open(root, state)
	if err != nil || e == nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the own program: %w", err)
	}
	e.Monitor, e.Union = monitorPath(self), unionProgram
	e.Callback = []string{self, "--root", root, "--state", state, "cleanup"}
	e.Notice = func(msg string) { fmt.Fprintln(a.err, "viv:", msg) }
	a.opened = e
	return e, nil
}

// monitorPath finds viv-monitor: beside the own program, in PATH, or where VIV_MONITOR says.
func monitorPath(self string) string {
	beside := filepath.Join(filepath.Dir(self), "viv-monitor")
	if _, err := os.Stat(beside); err == nil {
		return beside
	}
	if p, err := exec.LookPath("viv-monitor"); err == nil {
		if p, err := filepath.Abs(p); err == nil {
			return p
		}
	}
	if p := os.Getenv("VIV_MONITOR"); p != "" {
		return p
	}
	return beside // its absence is the error that a user sees
}

// Exit codes of viv itself, as Docker's.
const (
	codeError  = 1
	codeEngine = 125 // viv itself failed, of run: the container did not come to be
)

// exitError ends the program with a code and without a message.
type exitError struct{ code int }

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// fail prints the error and gives the exit code.
func (a *app) fail(cmd *cobra.Command, err error) int {
	var exit exitError
	if errors.As(err, &exit) {
		return exit.code
	}
	path := "viv"
	if cmd != nil {
		path = cmd.CommandPath()
	}
	var usage *usageError
	isRun := path == "viv run" || path == "viv container run"
	switch {
	case errors.As(err, &usage):
		fmt.Fprintf(a.err, "viv: %s. See '%s --help'.\n", strings.TrimSuffix(message(usage), "."), path)
		return codeEngine
	case isRun:
		fmt.Fprintf(a.err, "viv: %s. See '%s --help'.\n", strings.TrimSuffix(message(err), "."), path)
	default:
		fmt.Fprintf(a.err, "viv: %s\n", message(err))
	}
	var start *client.StartError
	if errors.As(err, &start) && start.Code != 0 {
		return start.Code
	}
	if isRun {
		return codeEngine
	}
	return codeError
}

// message keeps an error on one line.
func message(err error) string {
	lines := strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' })
	return strings.Join(lines, "; ")
}

// noMatter is an error that is said and fails nothing: with --force, what was to go
// and is not there.
type noMatter struct{ error }

// each calls fn for every argument, prints the errors and goes on; what fn
// returns is printed on success ("" for nothing).
func (a *app) each(args []string, fn func(string) (string, error)) error {
	failed := false
	for _, arg := range args {
		s, err := fn(arg)
		if err != nil {
			failed = failed || !errors.As(err, new(noMatter))
			fmt.Fprintf(a.err, "viv: %s\n", message(err))
			continue
		}
		if s != "" {
			fmt.Fprintln(a.out, s)
		}
	}
	if failed {
		return exitError{codeError}
	}
	return nil
}
