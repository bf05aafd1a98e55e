package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"vivarium/sandbox/netdevice"
	"vivarium/sandbox/plan"
	"vivarium/sandbox/spawn"
	"vivarium/sandbox/state"
)

// HookNames lists the hooks that are run.
func HookNames() []string {
	return []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"}
}

// hookTimeout ends a hook that has no timeout of its own.
const hookTimeout = 10 * time.Minute

func hasHooks(s *specs.Spec) bool {
	h := s.Hooks
	//lint:ignore SA1019 old specs carry it, and Docker 20.10 writes it
	return h != nil && len(h.Prestart)+len(h.CreateRuntime)+len(h.CreateContainer)+len(h.StartContainer)+len(h.Poststart)+len(h.Poststop) > 0
}

func startHooks(s *specs.Spec) bool { return s.Hooks != nil && len(s.Hooks.StartContainer) > 0 }

// unprivileged says whether we lack root's rights over namespaces.
func unprivileged() bool { return os.Geteuid() != 0 }

// hookRun is what hooks of one container at one moment have in common.
type hookRun struct {
	spec   *specs.Spec
	rec    *state.State
	status state.Status
	bundle string
	state  []byte // what each reads from its standard input
}

func newHookRun(spec *specs.Spec, rec *state.State, status state.Status) (*hookRun, error) {
	s := specs.State{Version: rec.OCIVersion, ID: rec.ID, Status: specs.ContainerState(status), Pid: rec.Pid, Bundle: rec.Bundle, Annotations: rec.Annotations}
	if status == state.Stopped {
		s.Pid = 0
	}
	b, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("write the state for hooks: %w", err)
	}
	return &hookRun{spec: spec, rec: rec, status: status, bundle: rec.Bundle, state: b}, nil
}

// each runs hooks in order, until one fails.
func (r *hookRun) each(kind string, hooks []specs.Hook, run func(*specs.Hook, *hookFiles) error) error {
	for i := range hooks {
		if err := r.one(kind, i, &hooks[i], run); err != nil {
			return err
		}
	}
	return nil
}

func (r *hookRun) one(kind string, i int, hook *specs.Hook, run func(*specs.Hook, *hookFiles) error) error {
	f, err := newHookFiles(r.state)
	defer f.close()
	if err == nil {
		err = run(hook, f)
	}
	if err != nil { // in the words of runc 1.1, and those of later ones
		return fmt.Errorf("error running hook: error running %s hook #%d: %w%s", kind, i, err, f.said())
	}
	return nil
}

// hookFiles are a hook's standard descriptors: files in memory, which need
// nobody to copy, and cannot keep us waiting when the hook leaves a process
// behind that holds them.
type hookFiles struct{ in, out *os.File }

func newHookFiles(input []byte) (*hookFiles, error) {
	f := &hookFiles{}
	for _, to := range []**os.File{&f.in, &f.out} {
		fd, err := unix.MemfdCreate("hook", unix.MFD_CLOEXEC)
		if err != nil {
			return f, fmt.Errorf("make a file in memory: %w", err)
		}
		*to = os.NewFile(uintptr(fd), "hook")
	}
	if _, err := f.in.Write(input); err != nil {
		return f, fmt.Errorf("write the state: %w", err)
	}
	_, err := f.in.Seek(0, io.SeekStart)
	return f, err
}

// said gives the end of what the hook has written.
func (f *hookFiles) said() string {
	if f.out == nil {
		return ""
	}
	const most = 2 << 10
	size, err := f.out.Seek(0, io.SeekEnd)
	if err != nil || size == 0 {
		return ""
	}
	b := make([]byte, min(size, most))
	n, _ := f.out.ReadAt(b, size-int64(len(b)))
	return ", output: " + string(bytes.TrimSpace(b[:n]))
}

func (f *hookFiles) close() {
	for _, file := range []*os.File{f.in, f.out} {
		if file != nil {
			file.Close()
		}
	}
}

func timeoutOf(h *specs.Hook) time.Duration {
	if h.Timeout != nil && *h.Timeout > 0 {
		return time.Duration(*h.Timeout) * time.Second
	}
	return hookTimeout
}

// outside runs a hook in our own namespaces.
func (r *hookRun) outside(h *specs.Hook, f *hookFiles) error {
	ctx, stop := context.WithTimeout(context.Background(), timeoutOf(h))
	defer stop()
	c := exec.CommandContext(ctx, h.Path)
	if len(h.Args) > 0 {
		c.Args = h.Args
	}
	c.Env = h.Env // nil, where the spec has none, stands for ours: runc and crun do the same
	c.Dir = r.bundle
	c.Stdin, c.Stdout, c.Stderr = f.in, f.out, f.out
	err := c.Run()
	if ctx.Err() != nil {
		return fmt.Errorf("%s: ended after %v, its timeout", h.Path, timeoutOf(h))
	}
	return err
}

// inside runs a hook that a plan brings into the container of a process.
func (r *hookRun) inside(p *plan.Plan, h *specs.Hook, f *hookFiles, pidfd int) error {
	child, err := spawn.Start(p.Program(), spawn.Options{Stdin: int(f.in.Fd()), Stdout: int(f.out.Fd()), Stderr: int(f.out.Fd()), NetNS: -1, PidFD: pidfd})
	if err != nil {
		return explain(err, []string{h.Path}, r.rec.Rootfs)
	}
	if err := r.awaitCommand(child); err != nil {
		child.Abandon()
		return explain(err, []string{h.Path}, r.rec.Rootfs)
	}
	defer child.Close()
	return waitHook(child, h)
}

// awaitCommand waits until the hook's program runs.
func (r *hookRun) awaitCommand(child *spawn.Process) error {
	for {
		rep, err := child.Wait(int(setupTimeout / time.Millisecond))
		if err != nil || rep.Kind != spawn.ReportListener {
			return err
		}
		if err := passListener(r.spec, r.rec, child, r.status, rep.Value); err != nil {
			return err
		}
		if err := child.Go(); err != nil && err != unix.EPIPE {
			return err
		}
	}
}

// waitHook waits for a hook's end; a pidfd can be read then.
func waitHook(child *spawn.Process, h *specs.Hook) error {
	set := []unix.PollFd{{Fd: int32(child.PidFD), Events: unix.POLLIN}}
	late := false
	for end := time.Now().Add(timeoutOf(h)); ; {
		left := max(time.Until(end), 0)
		n, err := unix.Poll(set, int((left+time.Millisecond-1)/time.Millisecond))
		if n > 0 {
			break
		}
		if err != nil && err != unix.EINTR || left == 0 {
			late = true
			child.Kill()
			break
		}
	}
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(child.Pid, &status, 0, nil)
		if err == unix.EINTR {
			continue
		}
		switch {
		case err != nil:
			return fmt.Errorf("wait for the hook: %w", err)
		case late:
			return fmt.Errorf("%s: ended after %v, its timeout", h.Path, timeoutOf(h))
		case status.Signaled():
			return fmt.Errorf("signal: %v", status.Signal())
		case status.ExitStatus() != 0:
			return fmt.Errorf("exit status %d", status.ExitStatus())
		}
		return nil
	}
}

// moveDevices moves the spec's network devices to the process, which waits.
func (l *launch) moveDevices() error {
	devices := l.spec.Linux.NetDevices
	if len(devices) == 0 {
		return nil
	}
	netns, err := unix.Open("/proc/"+strconv.Itoa(l.proc.Pid)+"/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the container's network namespace: %w", err)
	}
	l.devices, err = netdevice.Move(devices, netns)
	return err
}

// createHooks runs the hooks of create while the process waits for them.
func (l *launch) createHooks() error {
	if l.spec.Hooks == nil {
		return nil
	}
	r, err := newHookRun(l.spec, l.rec, state.Creating)
	if err != nil {
		return err
	}
	h := l.spec.Hooks
	// Those of prestart were to run after start was called, when all is created.
	before, err := newHookRun(l.spec, l.rec, state.Created)
	if err != nil {
		return err
	}
	//lint:ignore SA1019 old specs carry it, and Docker 20.10 writes it
	if err := before.each("prestart", h.Prestart, before.outside); err != nil {
		return err
	}
	if err := r.each("createRuntime", h.CreateRuntime, r.outside); err != nil {
		return err
	}
	dir := l.rec.Rootfs
	if l.r.Crun {
		dir = l.rec.Bundle
	}
	return r.each("createContainer", h.CreateContainer, func(h *specs.Hook, f *hookFiles) error {
		p, err := plan.CompileHook(l.spec, h, dir, unprivileged())
		if err != nil {
			return err
		}
		return r.inside(p, h, f, l.proc.PidFD)
	})
}

// startHooks runs the hooks that come before the command, in the container.
func (o *opened) startHooks(spec *specs.Spec) error {
	if !startHooks(spec) {
		return nil
	}
	r, err := newHookRun(spec, o.rec, state.Created)
	if err != nil {
		return err
	}
	pidfd, err := unix.PidfdOpen(o.rec.Pid, 0)
	if err != nil {
		return fmt.Errorf("open process %d: %w", o.rec.Pid, err)
	}
	defer unix.Close(pidfd)
	if alive, err := o.rec.Alive(); err != nil || !alive {
		return errors.Join(ErrNotRunning, err)
	}
	target, err := o.target(nil)
	if err != nil {
		return err
	}
	return r.each("startContainer", spec.Hooks.StartContainer, func(h *specs.Hook, f *hookFiles) error {
		p, err := plan.CompileInnerHook(spec, h, target, unprivileged())
		if err != nil {
			return err
		}
		return r.inside(p, h, f, pidfd)
	})
}

// poststartHooks runs the hooks that come after the command has begun.
func (o *opened) poststartHooks(spec *specs.Spec) error {
	r, err := newHookRun(spec, o.rec, state.Running)
	if err != nil {
		return err
	}
	return r.each("poststart", spec.Hooks.Poststart, r.outside)
}

// poststopHooks runs the hooks that come when all is gone. One that fails keeps
// nothing from being done; runtime-spec, runtime.md "Lifecycle".
func (r *Runtime) poststopHooks(spec *specs.Spec, rec *state.State) {
	if spec == nil || spec.Hooks == nil {
		return
	}
	run, err := newHookRun(spec, rec, state.Stopped)
	if err != nil {
		r.warn(err.Error())
		return
	}
	for i := range spec.Hooks.Poststop {
		if err := run.one("poststop", i, &spec.Hooks.Poststop[i], run.outside); err != nil {
			r.warn(err.Error())
		}
	}
}
