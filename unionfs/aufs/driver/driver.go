// Package driver is the driver of unions with the semantics of AUFS. Each is served by a
// process of its own, viv-union, as long as it is mounted.
//
// The union of a container is mounted below the engine's state directory, from where the
// container takes it into its own mount namespace: a container that is started again by its
// monitor finds it there. Its server ends when it is unmounted and nobody uses it any more.
// When the server is killed every access fails with ENOTCONN until the container is started
// again; the branches are whole.
//
// A union that a command opens for itself is attached to no tree, and ends with the command,
// however that ends.
package driver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vivarium/layer"
	"vivarium/unionfs"
	"vivarium/unionfs/aufs"
)

// Driver is the driver.
type Driver struct {
	Program string // of viv-union, an absolute path
}

// Name is aufs.
func (Driver) Name() string { return unionfs.DriverAUFS }

// Make makes nothing: the server makes what AUFS keeps on a branch.
func (Driver) Make(context.Context, unionfs.Layer) error { return nil }

// Recipe takes the union from where Begin has mounted it.
func (Driver) Recipe(l unionfs.Layer) (unionfs.Recipe, error) {
	if l.Point == "" {
		return unionfs.Recipe{}, errors.New("a union of FUSE needs a directory where it is mounted")
	}
	r := unionfs.Bind(l.Point)
	r.Driver, r.Lower = unionfs.DriverAUFS, l.Lower
	return r, nil
}

// Begin mounts the union at its point.
func (d Driver) Begin(ctx context.Context, l unionfs.Layer) error {
	if err := d.End(l); err != nil { // of a server that was killed
		return err
	}
	if err := os.Mkdir(l.Point, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("mount union: %w", err)
	}
	s, err := d.start(ctx, l, l.Point, false)
	if err != nil {
		return errors.Join(err, d.End(l))
	}
	go func() { _ = s.cmd.Wait() }() // it goes on without this process; if that is still here at its end, it is reaped
	return nil
}

// endTime is how long a server may take to end when nobody uses its union.
const endTime = 10 * time.Second

// End unmounts the union, and waits for the end of its server.
func (Driver) End(l unionfs.Layer) error {
	if l.Point == "" {
		return nil
	}
	mounted, err := isMounted(l.Point)
	if err != nil {
		return err
	}
	if !mounted {
		return removePoint(l.Point)
	}
	server := -1
	if st, err := aufs.ReadState(l.Point); err == nil { // else it is dead already
		if server, err = unix.PidfdOpen(st.PID, 0); err == nil {
			defer unix.Close(server)
		} else {
			server = -1
		}
	}
	for mounted {
		if err := unix.Unmount(l.Point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount the union %s: %w", l.Point, err)
		}
		if mounted, err = isMounted(l.Point); err != nil {
			return err
		}
	}
	if server >= 0 && !ended(server, endTime) {
		// Somebody's mount namespace holds it, who has nothing to do with it.
		if err := unix.PidfdSendSignal(server, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
			return fmt.Errorf("end the server of the union %s: %w", l.Point, err)
		}
		if !ended(server, endTime) {
			return fmt.Errorf("the server of the union %s does not end", l.Point)
		}
	}
	return removePoint(l.Point)
}

func removePoint(point string) error {
	if err := os.Remove(point); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the mount point of a union: %w", err)
	}
	return nil
}

// isMounted tells whether something is mounted on a directory, without a word to who
// serves it.
func isMounted(dir string) (bool, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW|unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, unix.STATX_TYPE, &st)
	switch err {
	case nil:
		return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
	case unix.ENOENT, unix.ENOTDIR:
		return false, nil
	case unix.ENOTCONN: // its server is dead
		return true, nil
	}
	return false, fmt.Errorf("look at %s: %w", dir, err)
}

func ended(pidfd int, limit time.Duration) bool {
	until := time.Now().Add(limit)
	for left := limit; left > 0; left = time.Until(until) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if n > 0 {
			return true
		}
		if err != nil && err != unix.EINTR {
			return false
		}
	}
	return false
}

// Open makes a union that is attached to no tree: only its server, and who has opened it
// there, can reach it.
func (d Driver) Open(ctx context.Context, l unionfs.Layer) (*unionfs.Root, error) {
	if l.Upper == "" && len(l.Lower) == 1 {
		f, err := os.Open(l.Lower[0])
		return unionfs.NewRoot(f, nil), err
	}
	s, err := d.start(ctx, l, "none", true)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/fd/%d", s.cmd.Process.Pid, s.tree))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open union: %w", err), s.stop())
	}
	return unionfs.NewRoot(f, s.stop), nil
}

// Look opens the union where it is mounted, or mounts it to be read.
func (d Driver) Look(ctx context.Context, l unionfs.Layer) (*unionfs.Root, error) {
	mounted, err := isMounted(l.Point)
	if err != nil || !mounted {
		return d.Open(ctx, l)
	}
	f, err := os.Open(l.Point)
	if err != nil {
		return nil, fmt.Errorf("open union: %w", err)
	}
	return unionfs.NewRoot(f, nil), nil
}

// Changes opens the top-most branch.
func (Driver) Changes(l unionfs.Layer) (layer.Upper, error) {
	return unionfs.OpenUpper(l, layer.SpelledAUFS)
}

// served is a union and the process that serves it.
type served struct {
	cmd  *exec.Cmd
	life *os.File // while it is open the server serves
	tree int      // descriptor of the union in the process
}

// stop ends a server that this process waits for.
func (s *served) stop() error {
	s.life.Close()
	if err := s.cmd.Wait(); err != nil {
		return fmt.Errorf("end the server of a union: %w", err)
	}
	return nil
}

// options are what viv-union is called with.
func options(l unionfs.Layer) string {
	var list []string
	if l.Upper != "" {
		list = append(list, aufs.Branch{Path: l.Upper, Perm: aufs.RW}.String())
	}
	seen := map[string]bool{}
	for _, dir := range l.Lower { // an image may have the same layer twice: the lower one shows nothing
		if !seen[dir] {
			seen[dir] = true
			list = append(list, aufs.Branch{Path: dir, Perm: aufs.RR, Overlay: true}.String())
		}
	}
	// Nobody but the union writes to its branches.
	return "dirs=" + strings.Join(list, ":") + ",udba=none"
}

// start starts a server, and waits until the union is mounted. A private one is attached to no
// tree, and lives no longer than this process.
func (d Driver) start(ctx context.Context, l unionfs.Layer, point string, private bool) (*served, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd := exec.Command(d.Program, "viv", point, "-o", options(l))
	cmd.Env = append(os.Environ(), aufs.ReadyEnv+"=1")
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	s := &served{cmd: cmd}
	var theirs *os.File
	if private {
		cmd.Env = append(cmd.Env, aufs.LifeEnv+"=1")
		if theirs, s.life, err = os.Pipe(); err != nil {
			w.Close()
			return nil, err
		}
		defer theirs.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, theirs)
	}
	err = cmd.Start()
	w.Close()
	if err != nil {
		if s.life != nil {
			s.life.Close()
		}
		return nil, fmt.Errorf("start %s, which serves unions: %w", d.Program, err)
	}
	return s, s.ready(ctx, r)
}

// ready waits for the word of the server.
func (s *served) ready(ctx context.Context, r *os.File) error {
	stop := context.AfterFunc(ctx, func() { _ = s.cmd.Process.Kill() }) // it may have ended
	msg, _ := io.ReadAll(io.LimitReader(r, 1<<16))
	stop()
	if word, tree, _ := strings.Cut(string(msg), " "); word == aufs.Ready && ctx.Err() == nil {
		var err error
		if s.life != nil {
			s.tree, err = strconv.Atoi(tree)
		}
		if err == nil {
			return nil
		}
	}
	if s.life != nil {
		s.life.Close()
	}
	_ = s.cmd.Process.Kill()
	err := s.cmd.Wait()
	if ctx.Err() != nil {
		return fmt.Errorf("mount union: %w", context.Cause(ctx))
	}
	if text, ok := strings.CutPrefix(string(msg), aufs.NotReady); ok {
		return fmt.Errorf("mount union: %s", text)
	}
	return fmt.Errorf("mount union: its server ended before (%v)", err)
}
