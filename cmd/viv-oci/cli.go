package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"vivarium/sandbox"
	"vivarium/sandbox/state"
)

// version is that of the release; the commit is set when the binary is built.
const version = "0.1.0"

var commit = "unknown"

// parts are what this build can do, in the words of crun's --version.
const parts = "+SYSTEMD +SELINUX +APPARMOR +CAP +SECCOMP +EBPF"

// program is the name under which this was called: an engine that finds us in
// the place of another runtime shows that one's name.
var program = "viv-oci"

// command is one word of the command line.
type command struct {
	name, args, about string
	options           []option
	strict            bool // what follows the first argument is not ours to parse
	min, max          int  // how many arguments; max < 0 for any number
	run               func(args []string) (code int, err error)
}

// asCrun says that this was installed in the place of crun: where that and runc
// differ, it does as crun does.
func asCrun() bool { return program == "crun" }

// app is one call of the program.
type app struct {
	log     logger
	runtime sandbox.Runtime
	trace   string // a file
	// rootless is "true", "false", or "auto" or empty: see startsProcess.
	rootless string
}

// exitError is an error with an exit code of its own.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// cli is the whole program; it gives the exit code.
func cli(args []string) int {
	if len(os.Args) > 0 && os.Args[0] != "" {
		program = filepath.Base(os.Args[0])
	}
	a := &app{}
	a.runtime.Crun = asCrun()
	rest, code, done := a.global(args)
	if done {
		return code
	}
	c := a.command(rest[0])
	if c == nil {
		a.log.error("No help topic for '" + rest[0] + "'")
		return 3
	}
	return a.execute(c, rest[1:])
}

// global takes the flags before the command.
func (a *app) global(args []string) (rest []string, code int, done bool) {
	var logFormat, ignored string
	var showVersion bool
	options := []option{
		text("root", "", &a.runtime.Store.Root, "directory for the state of containers (should be on a tmpfs)"),
		text("log", "", &a.log.path, "file to write logs to (default: standard error)"),
		text("log-format", "", &logFormat, "format of logs: text or json"),
		flag("debug", "", &a.log.debug, "log more"),
		{name: "cgroup-manager", set: a.cgroupManager, help: "who makes the control groups: cgroupfs, systemd, or disabled"},
		flag("systemd-cgroup", "", &a.runtime.Systemd, "let systemd make the control groups; cgroupsPath is slice:prefix:name"),
		text("trace", "", &a.trace, "file to write to when each step of run or create began, and how long it took"),
		text("rootless", "", &a.rootless, "ignore cgroup permission errors: true, false or auto"),
		text("criu", "", &ignored, "accepted, and of no effect"),
		flag("version", "v", &showVersion, "print the version"),
		flag("V", "", &showVersion, "print the version, as crun has it"),
	}
	rest, err := parse(args, options, true)
	a.log.json = logFormat == "json"
	switch {
	case showVersion:
		fmt.Printf("%s version %s\ncommit: %s\nspec: %s\n%s\n", program, version, commit, specs.Version, parts)
		return nil, 0, true
	case errors.Is(err, errHelp) || err == nil && (len(rest) == 0 || rest[0] == "help"):
		fmt.Print(a.usage(options))
		return nil, 0, true
	case err != nil:
		fmt.Printf("Incorrect Usage: %v\n\n%s", err, a.usage(options))
		a.log.error(err.Error())
		return nil, 1, true
	}
	if logFormat != "" && logFormat != "text" && logFormat != "json" {
		a.log.error("invalid log-format: " + logFormat)
		return nil, 1, true
	}
	switch a.rootless {
	case "", "auto", "true", "false":
	default:
		a.log.error(fmt.Sprintf("invalid value for --rootless: %q is none of true, false, auto", a.rootless))
		return nil, 1, true
	}
	a.prepare()
	return rest, 0, false
}

// cgroupManager takes crun's flag for what runc has --systemd-cgroup for.
func (a *app) cgroupManager(name string) error {
	a.runtime.Systemd, a.runtime.NoCgroups = name == "systemd", name == "disabled"
	if name != "systemd" && name != "disabled" && name != "cgroupfs" {
		return errors.New("it is none of cgroupfs, systemd, disabled")
	}
	return nil
}

// startsProcess is called by the commands that start a process: only they have to
// know whether rights may be missing.
func (a *app) startsProcess() {
	switch a.rootless {
	case "true":
		a.runtime.Rootless = true
	case "", "auto":
		a.runtime.Rootless = os.Geteuid() != 0 || inUserNamespace()
	}
}

// inUserNamespace says whether we are in another user namespace than the first,
// where every id is mapped to itself (user_namespaces(7)).
func inUserNamespace() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	f := strings.Fields(string(text))
	return err == nil && (len(f) != 3 || f[0] != "0" || f[1] != "0" || f[2] != "4294967295")
}

func (a *app) prepare() {
	a.runtime.Warn = a.log.warn
	if a.log.debug {
		a.runtime.Debug = func(msg string) { a.log.debugf("%s", msg) }
	}
	if a.runtime.Store.Root == "" {
		a.runtime.Store.Root = "/run/viv-oci"
		if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" && os.Geteuid() != 0 {
			a.runtime.Store.Root = dir + "/viv-oci"
		}
	}
	if abs, err := filepath.Abs(a.runtime.Store.Root); err == nil {
		a.runtime.Store = state.Store{Root: abs}
	}
}

func (a *app) execute(c *command, args []string) int {
	rest, err := parse(args, c.options, c.strict)
	if errors.Is(err, errHelp) {
		fmt.Print(c.usage())
		return 0
	}
	if err == nil {
		err = c.count(rest)
	}
	if err != nil {
		fmt.Printf("Incorrect Usage: %v\n\n%s", err, c.usage())
		a.log.error(err.Error())
		return 1
	}
	a.log.debugf("%s %s", c.name, strings.Join(rest, " "))
	code, err := a.traced(c, rest)
	if err == nil {
		return code
	}
	var missing *sandbox.ExecError
	if errors.As(err, &missing) && missing.There && a.log.path == "" {
		// As the failing process itself says it with runc, where it is past the point
		// from which errors come back.
		fmt.Fprintln(os.Stderr, missing)
	} else {
		a.log.error(err.Error())
	}
	var with *exitError
	if errors.As(err, &with) {
		return with.code
	}
	return 1
}

// traced runs a command, and writes down where its time went if --trace asks.
func (a *app) traced(c *command, args []string) (code int, err error) {
	if a.trace == "" {
		return c.run(args)
	}
	if c.name != "run" && c.name != "create" {
		return 0, fmt.Errorf("--trace: %s has no steps to write down, only run and create", c.name)
	}
	f, err := os.Create(a.trace)
	if err != nil {
		return 0, fmt.Errorf("--trace: %w", err)
	}
	a.runtime.Trace = new(sandbox.Trace)
	code, err = c.run(args)
	if written := errors.Join(a.runtime.Trace.Write(f), f.Close()); written != nil {
		err = errors.Join(err, fmt.Errorf("--trace: write %s: %w", a.trace, written))
	}
	return code, err
}

func (c *command) count(args []string) error {
	switch {
	case c.min == c.max && len(args) != c.min:
		return &usageError{fmt.Sprintf("%s: %q requires exactly %d argument(s)", program, c.name, c.min)}
	case len(args) < c.min:
		return &usageError{fmt.Sprintf("%s: %q requires a minimum of %d argument(s)", program, c.name, c.min)}
	case c.max >= 0 && len(args) > c.max:
		return &usageError{fmt.Sprintf("%s: %q requires a maximum of %d argument(s)", program, c.name, c.max)}
	}
	return nil
}

// makers of the commands; one is called, so that a start does not pay for all.
var makers = []struct {
	name string
	make func(*app) *command
}{
	{"create", (*app).create}, {"delete", (*app).delete}, {"events", (*app).events}, {"exec", (*app).exec},
	{"features", (*app).features}, {"kill", (*app).kill}, {"list", (*app).list}, {"pause", (*app).pause},
	{"ps", (*app).ps}, {"resume", (*app).resume}, {"run", (*app).run}, {"spec", (*app).spec},
	{"start", (*app).start}, {"state", (*app).state}, {"update", (*app).update},
}

// notHere are commands of runc that this runtime does not have. Their help says so.
func notHere(name string) *command {
	if name != "checkpoint" && name != "restore" {
		return nil
	}
	why := fmt.Errorf("%s: not supported: this runtime does not save the memory of processes", name)
	return &command{name: name, args: "<container-id>", about: "not supported by this runtime", max: -1,
		run: func([]string) (int, error) { return 0, why }}
}

func (a *app) command(name string) *command {
	for i := range makers {
		if makers[i].name == name {
			c := makers[i].make(a)
			c.name = name
			return c
		}
	}
	return notHere(name)
}

func (a *app) usage(options []option) string {
	var b strings.Builder
	b.WriteString("NAME:\n   " + program + " - Open Container Initiative runtime\n\nUSAGE:\n   " + program + " [global options] command [command options] [arguments...]\n\nCOMMANDS:\n")
	for i := range makers {
		name := makers[i].name
		b.WriteString("   " + name + strings.Repeat(" ", 10-len(name)) + makers[i].make(a).about + "\n")
	}
	writeOptions(&b, "\nGLOBAL OPTIONS:\n", options)
	return b.String()
}
