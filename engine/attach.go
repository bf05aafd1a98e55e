package engine

import (
	"context"
	"os"
	"syscall"

	"vivarium/monitor/client"
	"vivarium/monitor/wire"
)

// Attach connects to the output and input of a running container.
func (e *Engine) Attach(ctx context.Context, ref string) (*client.Session, error) {
	c, err := e.Container(ref)
	if err != nil {
		return nil, err
	}
	st, err := e.state(ctx, c)
	if err != nil {
		return nil, err
	}
	switch {
	case st.State == wire.Paused:
		return nil, errorf(ErrPaused, "You cannot attach to a paused container, unpause it first")
	case st.State == wire.Restarting:
		return nil, errorf(ErrNotRunning, "You cannot attach to a restarting container, wait until it is running")
	case !running(st):
		return nil, errorf(ErrNotRunning, "You cannot attach to a stopped container, start it first")
	}
	s, err := e.session(ctx, c, true)
	if err == nil {
		e.emit(containerEvent(c, "attach"))
	}
	return s, err
}

// Signal passes a signal on to the container's first process, and nothing else:
// it is for what a terminal's user sends to the command in the foreground.
func (e *Engine) Signal(ctx context.Context, id string, sig syscall.Signal) error {
	st, err := client.ReadStatus(e.containerDir(id))
	if err != nil || !running(st) {
		return err
	}
	return signalProcess(st, sig)
}

func hostName() string {
	name, _ := os.Hostname()
	return name
}

// makeRunDir makes the directory of a container's run anew.
func (e *Engine) makeRunDir(id string) error {
	if err := os.RemoveAll(e.runDir(id)); err != nil {
		return err
	}
	return os.Mkdir(e.runDir(id), 0o700)
}
