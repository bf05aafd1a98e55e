package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"vivarium/sandbox/state"
)

// A service of systemd says that it is ready by a message to the socket that
// NOTIFY_SOCKET names (sd_notify(3)). The container is shown a directory of its
// own under that name, with a socket in it for the command; what matters of its
// messages is passed on. So the command reaches nothing else of the host.
const (
	notifyDir  = "notify" // in the container's directory, and mounted
	notifyFile = "notify" // in that one
)

// showNotify gives the container the directory for its socket. The names in the
// container are crun's: NOTIFY_SOCKET/notify.
func (l *launch) showNotify() error {
	host := l.opt.NotifySocket
	if host == "" {
		return nil
	}
	dir := l.dir.File(notifyDir)
	if err := unix.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("make the directory %s for the notify socket: %w", dir, err)
	}
	// Whatever our umask is, the container's user has to come in.
	if err := unix.Chmod(dir, 0o755); err != nil {
		return fmt.Errorf("open the directory %s to the container: %w", dir, err)
	}
	inside := path.Clean(host)
	if host[0] != '/' { // a name that is no file (unix(7), "abstract")
		inside = "/run/notify"
	}
	l.spec.Mounts = append(slices.Clone(l.spec.Mounts), specs.Mount{Destination: inside, Source: dir, Type: "bind",
		Options: []string{"bind", "nosuid", "noexec", "nodev", "ro"}})
	p := l.spec.Process
	p.Env = slices.DeleteFunc(slices.Clone(p.Env), func(e string) bool { return strings.HasPrefix(e, "NOTIFY_SOCKET=") })
	p.Env = append(p.Env, "NOTIFY_SOCKET="+path.Join(inside, notifyFile))
	return nil
}

// Notify is the socket at which a container's command says that it is ready.
type Notify struct {
	fd   int
	host string
}

// listenNotify opens the socket of a container that was made with one; nil if it
// was not, or there is nobody to pass messages on to.
func listenNotify(dir *state.Dir, host string) (*Notify, error) {
	if host == "" {
		return nil, nil
	}
	at, err := unix.Open(dir.File(notifyDir), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the directory of the notify socket: %w", err)
	}
	defer unix.Close(at)
	// A path of its own may be longer than the 107 bytes of sun_path.
	name := "/proc/self/fd/" + strconv.Itoa(at) + "/" + notifyFile
	if err := unix.Unlink(name); err != nil && err != unix.ENOENT {
		return nil, fmt.Errorf("remove the old notify socket: %w", err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("make the notify socket: %w", err)
	}
	n := &Notify{fd: fd, host: host}
	if err = unix.Bind(fd, &unix.SockaddrUnix{Name: name}); err == nil {
		err = unix.Chmod(name, 0o666) // for whatever user the command is
	}
	if err != nil {
		n.Close()
		return nil, fmt.Errorf("bind the notify socket of container %s: %w", dir.ID, err)
	}
	return n, nil
}

// Close gives the socket up.
func (n *Notify) Close() {
	if n != nil {
		unix.Close(n.fd)
	}
}

// Pass waits until the container says READY=1, and passes that on, with the pid of
// the container's first process as MAINPID; it returns without when that process,
// which pidfd stands for, has ended.
func (n *Notify) Pass(pid, pidfd int) error {
	set := []unix.PollFd{{Fd: int32(n.fd), Events: unix.POLLIN}, {Fd: int32(pidfd), Events: unix.POLLIN}}
	buf := make([]byte, 4096)
	for {
		if _, err := unix.Poll(set, -1); err != nil && err != unix.EINTR {
			return fmt.Errorf("wait for the container's word that it is ready: %w", err)
		}
		for { // before its end is looked at: what it said last is heard
			size, err := unix.Read(n.fd, buf)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				break
			}
			for line := range bytes.Lines(buf[:size]) {
				if string(bytes.TrimSpace(line)) == "READY=1" {
					return n.tell(pid)
				}
			}
		}
		if set[1].Revents != 0 {
			return nil
		}
	}
}

func (n *Notify) tell(pid int) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a socket: %w", err)
	}
	defer unix.Close(fd)
	to := &unix.SockaddrUnix{Name: n.host}
	if err := unix.Sendto(fd, []byte("READY=1"), unix.MSG_NOSIGNAL, to); err != nil {
		return fmt.Errorf("tell %s that the container is ready: %w", n.host, err)
	}
	err = unix.Sendto(fd, []byte("MAINPID="+strconv.Itoa(pid)), unix.MSG_NOSIGNAL, to)
	if err != nil && !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, os.ErrNotExist) { // READY=1 was enough for it
		return fmt.Errorf("tell %s the container's first process: %w", n.host, err)
	}
	return nil
}
