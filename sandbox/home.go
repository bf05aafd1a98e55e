package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// setEnv makes the environment of a process: of variables that are given twice
// the last counts, and one that has no HOME, or an empty one, gets the one that
// its user has in the passwd file of the container, or "/", as with runc; engines
// rely on it. root is the container's root directory, which is not trusted.
func setEnv(p *specs.Process, root string) error {
	seen := make(map[string]bool, len(p.Env))
	env := make([]string, 0, len(p.Env)+1)
	for _, e := range slices.Backward(p.Env) {
		name, value, ok := strings.Cut(e, "=")
		switch {
		case !ok:
			return errors.New("invalid environment variable: missing '='")
		case name == "":
			return errors.New("invalid environment variable: name cannot be empty")
		case strings.IndexByte(name, 0) >= 0:
			return fmt.Errorf("invalid environment variable name %q: contains nul byte (\\x00)", name)
		case strings.IndexByte(value, 0) >= 0:
			return fmt.Errorf("invalid environment variable %q: contains nul byte (\\x00)", name)
		}
		if seen[name] || name == "HOME" && value == "" {
			seen[name] = true
			continue
		}
		seen[name] = true
		env = append(env, e)
	}
	slices.Reverse(env)
	if !slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, "HOME=") }) {
		env = append(env, "HOME="+homeOf(root, p.User.UID))
	}
	p.Env = env
	return nil
}

func homeOf(root string, uid uint32) string {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "/"
	}
	defer unix.Close(dir)
	how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(dir, "etc/passwd", &how)
	if err != nil {
		return "/"
	}
	f := os.NewFile(uintptr(fd), "passwd")
	defer f.Close()
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return "/" // a FIFO or a device could keep us waiting
	}
	const most = 4 << 20
	b, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return "/"
	}
	want := strconv.FormatUint(uint64(uid), 10)
	for line := range strings.Lines(string(b)) {
		// name:password:uid:gid:comment:home:shell (passwd(5))
		f := strings.Split(strings.TrimSuffix(line, "\n"), ":")
		if len(f) >= 6 && f[2] == want && f[5] != "" {
			return f[5]
		}
	}
	return "/"
}
