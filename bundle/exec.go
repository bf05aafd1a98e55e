package bundle

import (
	"fmt"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// ExecOptions is what a user can say about one more process in a container.
type ExecOptions struct {
	Args []string
	// Env is put over the container's variables; a name without a value removes one.
	Env []string
	// User is name|uid[:group|gid]; empty: the container's.
	User string
	// GroupAdd are the container's own --group-add, for a User of its own.
	GroupAdd []string
	// Cwd is absolute; empty: the container's.
	Cwd string
	Tty bool
	// Privileged gives all capabilities that this host has (see AvailableCaps).
	Privileged bool
	// Available are the capabilities to give with Privileged; nil: all that are known.
	Available []string
}

// ExecProcess returns the OCI process of an exec in the container of spec. passwd
// and group are the container's files as they are now. Limits, AppArmor profile
// and no-new-privileges are the container's, also with Privileged, as with Docker.
func ExecProcess(spec *specs.Spec, o ExecOptions, passwd, group []byte) (*specs.Process, error) {
	if len(o.Args) == 0 || o.Args[0] == "" {
		return nil, refuse("No exec command specified")
	}
	for _, s := range slices.Concat(o.Args, o.Env) {
		if strings.ContainsRune(s, 0) {
			return nil, fmt.Errorf("invalid argument or variable %q: it holds a zero byte", s)
		}
	}
	if o.Cwd != "" && !strings.HasPrefix(o.Cwd, "/") {
		return nil, refuse("Cwd must be an absolute path")
	}
	p := *spec.Process
	p.Args, p.Terminal, p.ConsoleSize = o.Args, o.Tty, nil
	if o.Cwd != "" {
		p.Cwd = path.Clean(o.Cwd)
	}
	var home string
	if o.User != "" {
		var err error
		if p.User, home, err = LookupUser(o.User, o.GroupAdd, passwd, group); err != nil {
			return nil, err
		}
		if home == "" {
			home = "/"
		}
	}
	p.Env = execEnv(spec.Process, o, home, passwd)
	p.Capabilities = execCapabilities(spec.Process, &p, o)
	return &p, nil
}

// execEnv changes the container's variables for an exec. TERM is only there for a
// terminal. HOME follows the user, unless the container has one that is not its own
// user's: then it was set by hand, and stays.
func execEnv(c *specs.Process, o ExecOptions, home string, passwd []byte) []string {
	env := slices.Clone(c.Env)
	term := envIndex(env, "TERM")
	switch {
	case o.Tty && term < 0:
		env = append(env, "TERM=xterm")
	case !o.Tty && c.Terminal && term >= 0 && env[term] == "TERM=xterm":
		env = slices.Delete(env, term, term+1)
	}
	if home != "" {
		_, own, err := LookupUser(fmt.Sprint(c.User.UID), nil, passwd, nil)
		if own == "" {
			own = "/"
		}
		if i := envIndex(env, "HOME"); i < 0 {
			env = append(env, "HOME="+home)
		} else if err == nil && env[i] == "HOME="+own {
			env[i] = "HOME=" + home
		}
	}
	return overlayEnv(env, o.Env)
}

// execCapabilities gives root the container's bounding set and another user none,
// which is what execve(2) would leave of any other choice.
func execCapabilities(c, p *specs.Process, o ExecOptions) *specs.LinuxCapabilities {
	var list []string
	switch {
	case o.Privileged && o.Available != nil:
		list = o.Available
	case o.Privileged:
		list = allCaps[:]
	case c.Capabilities != nil:
		list = c.Capabilities.Bounding
	}
	caps := &specs.LinuxCapabilities{Bounding: slices.Clone(list)}
	if p.User.UID == 0 {
		caps.Effective, caps.Permitted = caps.Bounding, caps.Bounding
	}
	return caps
}
