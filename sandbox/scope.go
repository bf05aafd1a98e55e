package sandbox

import (
	"errors"
	"fmt"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"vivarium/sandbox/cgroup"
	"vivarium/sandbox/state"
	"vivarium/sandbox/systemd"
)

// HoldScope is the only argument with which this program is a placeholder: it
// waits until its standard input ends (Placeholder).
const HoldScope = "hold-scope"

// Placeholder waits for the end of standard input, which comes when whoever
// started it dies before it has killed it. systemd makes a scope for
// processes that are there, and ends it when the last has gone; the container's
// first process is born in the scope's groups, with their limits. So something
// else has to be in them before.
func Placeholder() int {
	var b [1]byte
	for {
		if n, err := os.Stdin.Read(b[:]); n == 0 || err != nil {
			return 0
		}
	}
}

// nameScope finds the unit in which systemd is to keep the container, and the
// path of its groups. systemd may be called by a user, who has units of his own.
func (l *launch) nameScope() error {
	unit, err := systemd.ParsePath(l.spec.Linux.CgroupsPath, l.dir.ID, os.Geteuid() != 0)
	if err != nil {
		return err
	}
	if l.spec.Linux.CgroupsPath, err = unit.CgroupPath(); err != nil {
		return err
	}
	l.unit = &unit
	return nil
}

// makeScope lets systemd make the unit. The result lets its placeholder go.
func (l *launch) makeScope() (release func(), err error) {
	if l.unit == nil {
		return func() {}, nil
	}
	layout, err := cgroup.Detect()
	if err != nil {
		return nil, err
	}
	pid, release, err := startPlaceholder()
	if err != nil {
		return nil, fmt.Errorf("start a placeholder for the scope: %w", err)
	}
	m, err := systemd.Connect()
	if err == nil {
		defer m.Close()
		err = m.Start(&systemd.Scope{Unit: *l.unit, ID: l.dir.ID, Pid: pid, Resources: l.spec.Linux.Resources,
			Annotations: l.spec.Annotations, V2: layout.Mode() == cgroup.V2})
	}
	if err != nil {
		release()
		return nil, err
	}
	return release, nil
}

func startPlaceholder() (pid int, release func(), err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, nil, err
	}
	defer r.Close()
	p, err := os.StartProcess("/proc/self/exe", []string{"viv-oci", HoldScope}, &os.ProcAttr{Dir: "/", Env: []string{}, Files: []*os.File{r}})
	if err != nil {
		return 0, nil, errors.Join(err, w.Close())
	}
	return p.Pid, func() {
		// The container's process has a copy of the pipe until it executes.
		_ = p.Kill()
		_, _ = p.Wait()
		w.Close()
	}, nil
}

// unitOf is the unit on a container's record.
func unitOf(rec *state.State) systemd.Unit {
	return systemd.Unit{Slice: rec.SystemdSlice, Name: rec.SystemdUnit}
}

// stopScope lets systemd end the container's unit. Where systemd itself has gone
// there is no unit either.
func stopScope(rec *state.State) error {
	if rec.SystemdUnit == "" || !systemd.Running() {
		return nil
	}
	m, err := systemd.Connect()
	if err != nil {
		return err
	}
	defer m.Close()
	return m.Stop(unitOf(rec))
}

// updateScope tells systemd of changed limits, so that it keeps them when it
// writes the groups anew.
func updateScope(rec *state.State, res *specs.LinuxResources, v2 bool) error {
	m, err := systemd.Connect()
	if err != nil {
		return err
	}
	defer m.Close()
	return m.Update(unitOf(rec), res, v2)
}
