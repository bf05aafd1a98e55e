package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"vivarium/internal/lazyjson"
	"vivarium/sandbox"
)

// execFlags say what is executed.
type execFlags struct {
	process, cwd, user, label, apparmor string
	env, caps, cgroups                  []string
	groups                              []uint32
	tty, noNewPrivs, detach             bool
}

func (a *app) exec() *command {
	var o sandbox.ExecOptions
	var f execFlags
	return &command{
		args: "<container-id> <command> [command options]  || -p process.json <container-id>", about: "execute a new process inside the container",
		strict: true, min: 1, max: -1,
		options: []option{
			text("console-socket", "", &o.ConsoleSocket, "path to an AF_UNIX socket which receives the master of the terminal"),
			text("pidfd-socket", "", &o.PidFDSocket, "path to an AF_UNIX socket which receives a pidfd of the process"),
			text("cwd", "", &f.cwd, "current working directory in the container"),
			list("env", "e", &f.env, "set environment variables"),
			flag("tty", "t", &f.tty, "allocate a pseudo-TTY"),
			text("user", "u", &f.user, "UID (format: <uid>[:<gid>])"),
			{name: "additional-gids", short: "g", set: f.addGroup, help: "additional gids"},
			text("process", "p", &f.process, "path to the process.json"),
			flag("detach", "d", &f.detach, "detach from the container's process"),
			text("pid-file", "", &o.PidFile, "file to write the process id to"),
			text("process-label", "", &f.label, "set the SELinux label of the process"),
			text("apparmor", "", &f.apparmor, "set the apparmor profile for the process"),
			flag("no-new-privs", "", &f.noNewPrivs, "set the no new privileges value for the process"),
			list("cap", "c", &f.caps, "add a capability to the bounding set for the process"),
			number("preserve-fds", &o.PreserveFDs, "pass N additional file descriptors to the container"),
			list("cgroup", "", &f.cgroups, "run the process in an (existing) sub-cgroup: [<controller>:]<cgroup>"),
			flag("ignore-paused", "", &o.IgnorePaused, "allow exec in a paused container"),
		},
		run: func(args []string) (int, error) {
			o.Detached = f.detach
			o.Debug = func(msg string) { a.log.debugf("%s", msg) }
			code, err := a.execProcess(args[0], args[1:], &f, o)
			if err != nil {
				return 0, &exitError{255, fmt.Errorf("exec failed: %w", err)}
			}
			return code, nil
		},
	}
}

func (a *app) execProcess(id string, args []string, f *execFlags, o sandbox.ExecOptions) (int, error) {
	a.startsProcess()
	var err error
	var env []string
	if o.PreserveFDs, env, err = preserved(o.PreserveFDs); err != nil {
		return 0, err
	}
	if o.Cgroups, err = subGroups(f.cgroups); err != nil {
		return 0, err
	}
	var fg *foreground
	if !o.Detached {
		fg = newForeground(a.runtime.Warn)
		defer fg.close()
		o.BeforeCommand = fg.listen
	}
	p, err := a.runtime.Exec(id, func(spec *specs.Spec) (*specs.Process, error) {
		p, err := f.build(spec, args)
		if err == nil {
			p.Env = append(p.Env, env...)
		}
		return p, err
	}, o)
	if err != nil {
		return 0, err
	}
	defer p.Close()
	if fg == nil {
		return 0, nil
	}
	return fg.wait(p)
}

// build makes the process from a file, or from the container's own and flags.
func (f *execFlags) build(spec *specs.Spec, args []string) (*specs.Process, error) {
	if f.process != "" {
		b, err := os.ReadFile(f.process)
		if err != nil {
			return nil, fmt.Errorf("read the process: %w", err)
		}
		p := new(specs.Process)
		if err := lazyjson.Unmarshal(b, p); err != nil {
			return nil, fmt.Errorf("read the process %s: %w", f.process, err)
		}
		return p, check(p)
	}
	if len(args) == 0 {
		return nil, errors.New("process args cannot be empty")
	}
	p := new(specs.Process)
	*p = *spec.Process
	p.Args = args
	p.Terminal = f.tty
	p.ConsoleSize = nil
	if f.tty {
		// In place before the process looks.
		p.ConsoleSize = ownSize()
	}
	if f.cwd != "" {
		p.Cwd = f.cwd
	}
	if f.label != "" {
		p.SelinuxLabel = f.label
	}
	if f.apparmor != "" {
		p.ApparmorProfile = f.apparmor
	}
	// Of the container's own process crun does not take it over, runc does.
	p.NoNewPrivileges = f.noNewPrivs || p.NoNewPrivileges && !asCrun()
	p.Env = append(append([]string(nil), p.Env...), f.env...)
	p.Capabilities = addCaps(p.Capabilities, f.caps)
	if err := f.setUser(p); err != nil {
		return nil, err
	}
	return p, check(p)
}

func check(p *specs.Process) error {
	switch {
	case p.Cwd == "":
		return errors.New("cwd property must not be empty")
	case p.Cwd[0] != '/':
		return errors.New("cwd must be an absolute path")
	case len(p.Args) == 0:
		return errors.New("args must not be empty")
	}
	return nil
}

// addCaps gives the process more capabilities, as runc does: none of them is
// inheritable (CVE-2022-29162).
func addCaps(c *specs.LinuxCapabilities, add []string) *specs.LinuxCapabilities {
	if len(add) == 0 {
		return c
	}
	var out specs.LinuxCapabilities
	if c != nil {
		out = *c
	}
	for _, set := range []*[]string{&out.Bounding, &out.Effective, &out.Permitted, &out.Ambient} {
		*set = append(append([]string(nil), *set...), add...)
	}
	return &out
}

func (f *execFlags) setUser(p *specs.Process) error {
	if f.user != "" {
		uid, gid, both := strings.Cut(f.user, ":")
		n, err := strconv.ParseUint(uid, 10, 32)
		if err != nil {
			return fmt.Errorf("parsing %s as int for uid failed: %w", uid, err)
		}
		p.User.UID = uint32(n)
		if both {
			if n, err = strconv.ParseUint(gid, 10, 32); err != nil {
				return fmt.Errorf("parsing %s as int for gid failed: %w", gid, err)
			}
			p.User.GID = uint32(n)
		}
	}
	p.User.AdditionalGids = append(slices.Clone(p.User.AdditionalGids), f.groups...)
	return nil
}

// addGroup takes one --additional-gids.
func (f *execFlags) addGroup(text string) error {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return errors.New("a group is a number from 0 to 4294967295")
	}
	f.groups = append(f.groups, uint32(n))
	return nil
}

// subGroups reads --cgroup: "path", or "controller,controller:path".
func subGroups(list []string) (map[string]string, error) {
	if len(list) == 0 {
		return nil, nil
	}
	out := make(map[string]string)
	for _, s := range list {
		controllers, path, ok := strings.Cut(s, ":")
		if !ok {
			controllers, path = "", s
		}
		for c := range strings.SplitSeq(controllers, ",") {
			if _, twice := out[c]; twice {
				return nil, fmt.Errorf("--cgroup gives a path twice: %q", s)
			}
			out[c] = path
		}
	}
	return out, nil
}
