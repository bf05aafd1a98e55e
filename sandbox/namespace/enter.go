package namespace

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"

	"golang.org/x/sys/unix"

	"vivarium/sandbox/plan"
	"vivarium/sandbox/spawn"
)

// Entry is a command to be run in namespaces of a process, or in those that files keep.
type Entry struct {
	PID   int    // 0 if Kinds is empty
	Kinds []Kind // of the process; those that it shares with us already are passed over
	// Files are namespaces by the paths of files like /proc/PID/ns/net, or of what they
	// are bound to.
	Files map[Kind]string
	Args  []string
	Env   []string // nil for ours
	Root  string   // directory that becomes the root; "" for that of the mount namespace
	Dir   string   // working directory, as it is called outside
	// InnerDir is the working directory as it is called inside.
	InnerDir string
	// UID and GID are what it becomes; nil to stay what it is, or in another user
	// namespace to become root, unless KeepIDs is set.
	UID, GID *uint32
	KeepIDs  bool
	Groups   []string // files cgroup.procs, of the control groups that it goes into
}

// Run runs the command with the descriptors 0, 1 and 2, and gives its exit code: 128
// and the number of the signal that has ended it. It is one child that joins all
// namespaces before it is the command: a process with more than one thread, as we
// are, cannot join a user namespace (setns(2)).
func (e Entry) Run() (int, error) {
	if len(e.Args) == 0 {
		return 0, errors.New("there is no command")
	}
	in := plan.Enter{Args: e.Args, Env: e.Env, Root: e.Root, Dir: e.Dir, InnerDir: e.InnerDir, UID: e.UID, GID: e.GID, Groups: e.Groups,
		Files: make(map[uint64]string), Unprivileged: os.Geteuid() != 0}
	if in.Env == nil {
		in.Env = os.Environ()
	}
	pidfd, err := e.namespaces(&in)
	if err != nil {
		return 0, err
	}
	if pidfd >= 0 {
		defer unix.Close(pidfd)
	}
	if (in.Flags&unix.CLONE_NEWUSER != 0 || in.Files[unix.CLONE_NEWUSER] != "") && !e.KeepIDs {
		root := uint32(0)
		if in.UID == nil {
			in.UID = &root
		}
		if in.GID == nil {
			in.GID = &root
		}
	}
	return start(in, pidfd)
}

// namespaces says which are joined, and gives a pidfd of the process, or -1.
func (e *Entry) namespaces(in *plan.Enter) (pidfd int, err error) {
	own, err := Of(os.Getpid())
	if err != nil {
		return -1, err
	}
	for k, path := range e.Files {
		n, err := inodeOf(path, k)
		if err != nil {
			return -1, err
		}
		if n != own[k] { // a user namespace cannot be joined once more
			in.Files[uint64(k.Flag())] = path
		}
	}
	if e.PID == 0 {
		return -1, nil
	}
	if pidfd, err = unix.PidfdOpen(e.PID, 0); err != nil {
		return -1, fmt.Errorf("process %d: %w", e.PID, err)
	}
	theirs, err := Of(e.PID)
	if err != nil {
		unix.Close(pidfd)
		return -1, err
	}
	for _, k := range e.Kinds {
		if theirs[k] != own[k] && e.Files[k] == "" {
			in.Flags |= uint64(k.Flag())
		}
	}
	return pidfd, nil
}

// inodeOf gives the number of the namespace that a file keeps.
func inodeOf(path string, k Kind) (uint64, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open the %s namespace %s: %w", k, path, err)
	}
	defer unix.Close(fd)
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err != nil || uintptr(kind) != k.Flag() {
		return 0, fmt.Errorf("%s is no %s namespace", path, k)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, fmt.Errorf("look at the %s namespace %s: %w", k, path, err)
	}
	return st.Ino, nil
}

// start runs a command that joins namespaces, and waits for it.
func start(in plan.Enter, pidfd int) (int, error) {
	p, err := plan.CompileEnter(in)
	if err != nil {
		return 0, err
	}
	// What the terminal sends comes to the command, which is in our process group.
	ignored := make(chan os.Signal, 1)
	signal.Notify(ignored, unix.SIGINT, unix.SIGQUIT)
	defer signal.Stop(ignored)
	child, err := spawn.Start(p.Program(), spawn.Options{Stdin: 0, Stdout: 1, Stderr: 2, NetNS: -1, PidFD: pidfd})
	if err != nil {
		return 0, err
	}
	defer child.Close()
	if _, err := child.Wait(-1); err != nil {
		child.Abandon()
		return 0, notExecuted(err, in.Args[0])
	}
	if in.DeathSignal != 0 {
		defer passOn(child.PidFD)()
	}
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(child.Pid, &status, 0, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("wait for the command: %w", err)
		}
		if status.Signaled() {
			return 128 + int(status.Signal()), nil
		}
		return status.ExitStatus(), nil
	}
}

// passOn passes signals that come on to a process, until stop is called.
func passOn(pidfd int) (stop func()) {
	signals, done := make(chan os.Signal, 16), make(chan struct{})
	signal.Notify(signals, unix.SIGHUP, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2)
	go func() {
		for {
			select {
			case s := <-signals:
				_ = unix.PidfdSendSignal(pidfd, s.(unix.Signal), nil, 0)
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(done)
	}
}

// notExecuted tells a command that could not be executed from other errors.
func notExecuted(err error, name string) error {
	var e *spawn.Error
	if errors.As(err, &e) && e.Step.Kind == "exec" {
		return &ExecError{name, e.Errno}
	}
	return err
}

// ExecError says that the command itself could not be executed.
type ExecError struct {
	Name string
	Err  error
}

func (e *ExecError) Error() string { return "execute " + e.Name + ": " + e.Err.Error() }
func (e *ExecError) Unwrap() error { return e.Err }

// Code is the exit code that shells and unshare(1) have for it: 127 if there is no
// such command, else 126.
func (e *ExecError) Code() int {
	if errors.Is(e.Err, os.ErrNotExist) || errors.Is(e.Err, exec.ErrNotFound) {
		return 127
	}
	return 126
}
