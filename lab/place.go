package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stepTimeout bounds one command.
const stepTimeout = time.Minute

// prefix begins the names of all that experiments make.
const prefix = "viv-lab-"

// place is the directory that an experiment runs in. Its flock is held as long as the
// experiment runs: of a directory without, whoever made it was killed.
type place struct {
	dir  string
	lock *os.File
}

func (p *place) name() string { return filepath.Base(p.dir) }

// makePlace makes a directory with a command viv, that has our global flags, and with
// the experiment's ID, by which Sweep knows how to clean up.
func makePlace(e Experiment, viv []string) (*place, error) {
	if len(viv) == 0 {
		return nil, errors.New("lab: no command line of viv")
	}
	p, err := newDirectory()
	if err != nil {
		return nil, err
	}
	if e.OwnStore {
		viv = append(viv[:len(viv):len(viv)], "--root", p.dir+"/.store", "--state", p.dir+"/.state")
	}
	var quoted []string
	for _, w := range viv {
		quoted = append(quoted, "'"+strings.ReplaceAll(w, "'", `'\''`)+"'")
	}
	err = errors.Join(os.Mkdir(p.dir+"/.bin", 0o700),
		os.WriteFile(p.dir+"/.bin/viv", []byte("#!/bin/sh\nexec "+strings.Join(quoted, " ")+" \"$@\"\n"), 0o700),
		os.WriteFile(p.dir+"/.experiment", []byte(e.ID), 0o600))
	if err != nil {
		return nil, errors.Join(err, p.remove())
	}
	return p, nil
}

// newDirectory makes a directory and locks it. Sweep may have found it in between.
func newDirectory() (*place, error) {
	for range 10 {
		dir, err := os.MkdirTemp("", prefix)
		if err != nil {
			return nil, err
		}
		p, err := lockPlace(dir, unix.LOCK_EX)
		if !errors.Is(err, fs.ErrNotExist) {
			return p, err
		}
	}
	return nil, fmt.Errorf("make a directory in %s: it is removed again and again", os.TempDir())
}

// lockPlace locks a directory; the error is ErrNotExist if it is removed by then.
func lockPlace(dir string, how int) (*place, error) {
	f, err := os.OpenFile(dir, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), how); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	locked, err := f.Stat()
	if err == nil {
		var there os.FileInfo
		if there, err = os.Lstat(dir); err == nil && !os.SameFile(locked, there) {
			err = fs.ErrNotExist
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &place{dir, f}, nil
}

func (p *place) remove() error { return errors.Join(os.RemoveAll(p.dir), p.lock.Close()) }

// cleanUps is how often leave cleans up: tests do it twice, as it comes when one is cut off.
var cleanUps = 1

// leave runs what an experiment gives for its end, ends what still runs, and removes the
// directory, if nothing of that fails: something may still be mounted there otherwise.
func (p *place) leave(e Experiment) error {
	vars := map[string]string{"LAB": p.name()}
	var errs []error
	for _, command := range slices.Repeat(e.Cleanup, cleanUps) {
		if out, code, err := p.sh(context.Background(), command, vars); err != nil || code != 0 {
			errs = append(errs, fmt.Errorf("clean up: %s: ended with %d %v: %s", command, code, err, strings.TrimSpace(out)))
		}
	}
	if err := p.endCommands(); err != nil {
		errs = append(errs, fmt.Errorf("clean up: %w", err))
	}
	if len(errs) > 0 {
		return errors.Join(append(errs, p.lock.Close())...)
	}
	return p.remove()
}

// sh runs a command in the directory; the variables are in its environment. What it
// leaves in the background goes on.
func (p *place) sh(ctx context.Context, command string, vars map[string]string) (out string, code int, err error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	// A file, not a pipe: what stays in the background may hold it open.
	f, err := os.CreateTemp(p.dir, ".out-")
	if err != nil {
		return "", 0, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	c := exec.CommandContext(ctx, "/bin/sh", "-c", command)
	c.Dir, c.Stdout, c.Stderr = p.dir, f, f
	c.Env = append(os.Environ(), "PATH="+p.dir+"/.bin:"+os.Getenv("PATH"), "LC_ALL=C")
	for k, v := range vars {
		c.Env = append(c.Env, k+"="+v)
	}
	// Whatever it starts works in the directory, where Sweep finds it.
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	err = c.Run()
	if cause := context.Cause(ctx); cause != nil {
		return "", 0, cause
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return "", 0, err
	}
	b, err := os.ReadFile(f.Name())
	return string(bytes.ToValidUTF8(b, []byte("?"))), c.ProcessState.ExitCode(), err
}

// Sweep cleans up after experiments of this user that were killed.
func Sweep() error {
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*"))
	if err != nil || len(dirs) == 0 {
		return err
	}
	return inMountNamespace(func() error {
		var errs []error
		for _, dir := range dirs {
			errs = append(errs, sweep(dir))
		}
		return errors.Join(errs...)
	})
}

func sweep(dir string) error {
	// Everybody can make directories there: one is ours only if nobody else can write to it.
	info, err := os.Lstat(dir)
	if err != nil || !info.IsDir() || info.Mode().Perm() != 0o700 || info.Sys().(*syscall.Stat_t).Uid != uint32(os.Geteuid()) {
		return nil
	}
	p, err := lockPlace(dir, unix.LOCK_EX|unix.LOCK_NB)
	// A command of one that was killed holds the lock, too, until it is executed.
	for range 10 {
		if !errors.Is(err, unix.EWOULDBLOCK) {
			break
		}
		time.Sleep(10 * time.Millisecond)
		p, err = lockPlace(dir, unix.LOCK_EX|unix.LOCK_NB)
	}
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, fs.ErrNotExist) {
		return nil // it runs, or is gone
	}
	if err != nil {
		return err
	}
	id, err := os.ReadFile(p.dir + "/.experiment")
	e, ok := Find(string(id))
	if err != nil || !ok {
		return p.remove() // it was killed before its first command
	}
	if err := p.endCommands(); err != nil {
		return errors.Join(err, p.lock.Close())
	}
	if err := p.leave(e); err != nil {
		return fmt.Errorf("clean up after the experiment %s, which was killed: %w", e.ID, err)
	}
	return nil
}

// endCommands kills the processes that work in the directory, which are those that the
// experiment has started, until there are none: they may be starting others.
func (p *place) endCommands() error {
	for end := time.Now().Add(stepTimeout); ; {
		links, err := p.commands()
		if err != nil || len(links) == 0 {
			return err
		}
		for _, link := range links {
			if err := p.endCommand(link, end); err != nil {
				return fmt.Errorf("end the process of %s, which works in %s: %w", link, p.dir, err)
			}
		}
	}
}

// commands gives the links /proc/PID/cwd that lead into the directory. A process that
// has ended has none, though it may not be waited for yet.
func (p *place) commands() ([]string, error) {
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	return slices.DeleteFunc(links, func(link string) bool { return !p.has(link) }), err
}

func (p *place) has(link string) bool {
	at, err := os.Readlink(link)
	return err == nil && (at == p.dir || strings.HasPrefix(at, p.dir+"/"))
}

// endCommand kills a process and waits until it has ended. Its link is looked at once
// more when it cannot be another one's any more.
func (p *place) endCommand(link string, end time.Time) error {
	pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link)))
	if err != nil {
		return err
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err == unix.ESRCH {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if !p.has(link) {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
		return err
	}
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(max(0, time.Until(end).Milliseconds())))
		if err == unix.EINTR {
			continue
		}
		if err == nil && n == 0 {
			err = errors.New("it does not end")
		}
		return err
	}
}
