package namespace

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"vivarium/sandbox/plan"
)

// Map maps ids of a new user namespace to ids outside of it.
type Map struct{ Inside, Outside, Count int }

// Command is a command to be run in new namespaces.
type Command struct {
	Args []string // the first is looked for in PATH
	New  []Kind
	// Persist binds namespaces to files, which are made: they stay when the last
	// process has ended, until the files are unmounted.
	Persist map[Kind]string

	UIDs, GIDs []Map // of a new user namespace; none: it has no ids
	// Setgroups allows setgroups(2) in a new user namespace (user_namespaces(7)).
	Setgroups bool

	// Propagation is that of all mounts in a new mount namespace: "private" (or ""),
	// "slave", "shared", or "unchanged".
	Propagation string
	MountProc   string // where a proc of the new PID namespace is mounted; "" for nowhere
	Root        string // becomes the root directory; "" to keep it
	Dir         string // working directory, in Root; "" to keep it
	UID, GID    *int   // to become, in the namespace
	// KeepCaps keeps the capabilities that the command has in a new user namespace also
	// if it is not root there.
	KeepCaps bool
	NoEnv    bool // the command gets no environment

	Monotonic, Boottime int64 // offsets of the clocks of a new time namespace, seconds
	// KillWithParent ends the command when who has started it ends.
	KillWithParent syscall.Signal
}

// stage0 names a process that is to become the command: see Main.
const stage0 = "viv-namespace"

// init keeps the main goroutine of such a process on the main thread: offsets of
// clocks can only be written for that.
func init() {
	if len(os.Args) == 1 && os.Args[0] == stage0 {
		runtime.LockOSThread()
	}
}

// Main has to be the first thing that a program calls that calls Run: a process that
// runs in new namespaces has work to do in them before it becomes the command, and
// is this program once more until then. It returns at once otherwise.
func Main() {
	if len(os.Args) != 1 || os.Args[0] != stage0 {
		return
	}
	err := become()
	code := 1
	var failed *ExecError
	if errors.As(err, &failed) {
		code = failed.Code()
	}
	fmt.Fprintln(os.Stderr, "viv:", err)
	os.Exit(code)
}

// Run runs a command with the descriptors 0, 1 and 2, and gives its exit code: 128
// and the number of the signal that has ended it. Signals that come meanwhile are
// passed on to it.
func (c Command) Run() (int, error) {
	if len(c.Args) == 0 {
		return 0, errors.New("there is no command")
	}
	if err := c.check(); err != nil {
		return 0, err
	}
	config, err := json.Marshal(c)
	if err != nil {
		return 0, err
	}
	in, out, err := socketpair()
	if err != nil {
		return 0, err
	}
	defer out.Close()
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: []string{stage0}, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, ExtraFiles: []*os.File{in}}
	cmd.SysProcAttr = c.attributes()
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2)
	defer signal.Stop(signals)
	runtime.LockOSThread() // the signal at a parent's end is one at its thread's (prctl(2))
	defer runtime.UnlockOSThread()
	err = cmd.Start()
	in.Close()
	if err != nil {
		return 0, fmt.Errorf("make the namespaces: %w", err)
	}
	err = c.persist(cmd.Process.Pid)
	if err == nil && c.byHelper() {
		err = c.mapByHelper(cmd.Process.Pid)
	}
	if err != nil {
		out.Close() // it waits for more, and ends
		_ = cmd.Wait()
		return 0, err
	}
	// The process waits for this: until now it was only born.
	if _, err := out.Write(config); err != nil {
		_ = cmd.Wait()
		return 0, fmt.Errorf("start the command: %w", err)
	}
	if at := c.Persist[Time]; at != "" {
		if err := c.persistTime(cmd.Process.Pid, at, out); err != nil {
			out.Close()
			_ = cmd.Wait()
			return 0, err
		}
	}
	out.Close()
	ended := make(chan struct{})
	go func() {
		for {
			select {
			case s := <-signals:
				// From the terminal it has come to the command, too.
				if s != unix.SIGINT && s != unix.SIGQUIT {
					_ = cmd.Process.Signal(s)
				}
			case <-ended:
				return
			}
		}
	}()
	err = cmd.Wait()
	close(ended)
	return exitCode(cmd, err)
}

// socketpair is how we talk with the process that becomes the command.
func socketpair() (theirs, ours *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "config"), os.NewFile(uintptr(fds[1]), "config"), nil
}

func exitCode(cmd *exec.Cmd, err error) (int, error) {
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, err
	}
	if st, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && st.Signaled() {
		return 128 + int(st.Signal()), nil
	}
	return cmd.ProcessState.ExitCode(), nil
}

func (c *Command) has(k Kind) bool {
	for _, n := range c.New {
		if n == k {
			return true
		}
	}
	return false
}

func (c *Command) check() error {
	if (len(c.UIDs) > 0 || len(c.GIDs) > 0) && !c.has(User) {
		return errors.New("ids are mapped in a new user namespace only")
	}
	if (c.Monotonic != 0 || c.Boottime != 0) && !c.has(Time) {
		return errors.New("clocks are shifted in a new time namespace only")
	}
	if _, err := propagation(c.Propagation); err != nil {
		return err
	}
	for k := range c.Persist {
		if !c.has(k) {
			return fmt.Errorf("a %s namespace that is not new cannot be kept", k)
		}
	}
	return nil
}

// attributes are what the clone does; a time namespace is for children only, and
// comes later.
func (c *Command) attributes() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Pdeathsig: c.KillWithParent, GidMappingsEnableSetgroups: c.Setgroups}
	for _, k := range c.New {
		if k != Time {
			a.Cloneflags |= k.Flag()
		}
	}
	if c.has(User) {
		// This program is executed in there before it is the command: whoever is not root
		// there loses his rights by that, unless they are ambient (capabilities(7)).
		a.AmbientCaps = capabilities()
	}
	if c.byHelper() {
		return a
	}
	for _, m := range c.UIDs {
		a.UidMappings = append(a.UidMappings, syscall.SysProcIDMap{ContainerID: m.Inside, HostID: m.Outside, Size: m.Count})
	}
	for _, m := range c.GIDs {
		a.GidMappings = append(a.GidMappings, syscall.SysProcIDMap{ContainerID: m.Inside, HostID: m.Outside, Size: m.Count})
	}
	return a
}

func (c *Command) persist(pid int) error {
	for k, at := range c.Persist {
		if k == Time {
			continue // it is made later
		}
		if err := keep(k, file(pid, k), at); err != nil {
			return err
		}
	}
	return nil
}

// persistTime waits until the process has made a time namespace for its children.
func (c *Command) persistTime(pid int, at string, talk *os.File) error {
	var b [1]byte
	if _, err := talk.Read(b[:]); err != nil {
		return nil // it has failed, and said why
	}
	if err := keep(Time, file(pid, Time)+"_for_children", at); err != nil {
		return err
	}
	if _, err := talk.Write(b[:]); err != nil {
		return fmt.Errorf("start the command: %w", err)
	}
	return nil
}

// keep binds a namespace to a file.
func keep(k Kind, from, at string) error {
	f, err := os.OpenFile(at, os.O_CREATE|os.O_RDONLY, 0o644)
	if err != nil {
		return fmt.Errorf("keep the %s namespace: %w", k, err)
	}
	f.Close()
	if err := unix.Mount(from, at, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("keep the %s namespace at %s: %w", k, at, err)
	}
	return nil
}

func propagation(name string) (uintptr, error) {
	switch name {
	case "", "private":
		return unix.MS_REC | unix.MS_PRIVATE, nil
	case "slave":
		return unix.MS_REC | unix.MS_SLAVE, nil
	case "shared":
		return unix.MS_REC | unix.MS_SHARED, nil
	case "unchanged":
		return 0, nil
	}
	return 0, fmt.Errorf("propagation %q is not known: there are private, slave, shared and unchanged", name)
}

// become is the process in the new namespaces, until it is the command.
func become() error {
	in := os.NewFile(3, "config")
	defer in.Close()
	unix.CloseOnExec(3)
	var c Command
	err := json.NewDecoder(in).Decode(&c)
	if errors.Is(err, io.EOF) {
		os.Exit(1) // who started us has said why
	}
	if err != nil {
		return err
	}
	if c.has(Time) {
		return c.inTime(in)
	}
	if err := c.setUp(); err != nil {
		return err
	}
	path, err := lookPath(c.Args[0])
	if err == nil {
		err = syscall.Exec(path, c.Args, c.env())
	}
	return &ExecError{c.Args[0], err}
}

// inTime makes a time namespace and runs the command as a child, which is in it:
// the offsets can be set only as long as nobody is (time_namespaces(7)). The child is
// forked, for one that is vforked, as package os does it, is not let in before Linux 6.3.
func (c *Command) inTime(talk *os.File) error {
	if err := unix.Unshare(unix.CLONE_NEWTIME); err != nil {
		return fmt.Errorf("make a time namespace: %w", err)
	}
	for clock, seconds := range map[string]int64{"monotonic": c.Monotonic, "boottime": c.Boottime} {
		if seconds == 0 {
			continue
		}
		if err := os.WriteFile("/proc/self/timens_offsets", fmt.Appendf(nil, "%s %d 0\n", clock, seconds), 0); err != nil {
			return fmt.Errorf("shift the clock %s: %w", clock, err)
		}
	}
	if c.Persist[Time] != "" {
		var b [1]byte
		if _, err := talk.Write(b[:]); err != nil {
			return err
		}
		if _, err := talk.Read(b[:]); err != nil {
			os.Exit(1) // who started us has said why
		}
	}
	if err := c.setUp(); err != nil {
		return err
	}
	path, err := lookPath(c.Args[0])
	if err != nil {
		return &ExecError{c.Args[0], err}
	}
	code, err := start(plan.Enter{Args: c.Args, Env: c.env(), Path: path, DeathSignal: unix.SIGKILL}, -1)
	if err == nil {
		os.Exit(code)
	}
	return err
}

func (c *Command) env() []string {
	if c.NoEnv {
		return []string{}
	}
	return os.Environ()
}

// setUp does what has to be done inside before the command is executed.
func (c *Command) setUp() error {
	if c.has(Mount) {
		flags, err := propagation(c.Propagation)
		if err != nil {
			return err
		}
		if flags != 0 {
			if err := unix.Mount("none", "/", "", flags, ""); err != nil {
				return fmt.Errorf("change the propagation of the mounts: %w", err)
			}
		}
	}
	if c.Root != "" {
		if err := unix.Chroot(c.Root); err != nil {
			return fmt.Errorf("change the root directory to %s: %w", c.Root, err)
		}
		if err := unix.Chdir("/"); err != nil {
			return err
		}
	}
	if c.MountProc != "" {
		if err := unix.Mount("proc", c.MountProc, "proc", unix.MS_NOSUID|unix.MS_NOEXEC|unix.MS_NODEV, ""); err != nil {
			return fmt.Errorf("mount proc on %s: %w", c.MountProc, err)
		}
	}
	if c.Dir != "" {
		if err := unix.Chdir(c.Dir); err != nil {
			return fmt.Errorf("change the directory to %s: %w", c.Dir, err)
		}
	}
	if err := c.identity(); err != nil {
		return err
	}
	if c.has(User) && !c.KeepCaps {
		return dropAmbient()
	}
	return nil
}

func (c *Command) identity() error {
	if c.GID != nil {
		if err := syscall.Setgroups(nil); err != nil && !errors.Is(err, unix.EPERM) { // denied in some user namespaces
			return fmt.Errorf("give up the groups: %w", err)
		}
		if err := syscall.Setgid(*c.GID); err != nil {
			return fmt.Errorf("become group %d: %w", *c.GID, err)
		}
	}
	if c.UID != nil {
		if err := syscall.Setuid(*c.UID); err != nil {
			return fmt.Errorf("become user %d: %w", *c.UID, err)
		}
	}
	return nil
}

// lookPath finds a command as execvp(3) does.
func lookPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	if errors.Is(err, exec.ErrDot) {
		err = nil
	}
	if err != nil {
		return "", err
	}
	if filepath.IsAbs(path) {
		return path, nil
	}
	return "./" + path, nil
}

// Shell is the command that is run when none is given: the user's shell.
func Shell() []string {
	if shell := os.Getenv("SHELL"); shell != "" {
		return []string{shell}
	}
	return []string{"/bin/sh"}
}
