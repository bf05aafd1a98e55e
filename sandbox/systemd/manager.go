package systemd

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// timeout bounds each job of systemd.
const timeout = 30 * time.Second

// Running tells whether systemd is the machine's init, as sd_booted(3) does.
func Running() bool {
	info, err := os.Lstat("/run/systemd/system")
	return err == nil && info.IsDir()
}

// Manager is a connection to systemd: the machine's, or without root the user's.
type Manager struct {
	bus     *bus
	release int
}

// Connect reaches systemd. Close the result.
func Connect() (*Manager, error) {
	if !Running() {
		return nil, errors.New("systemd is not running on this host: it cannot make control groups; use the cgroupfs manager of the calling engine")
	}
	b, err := dial()
	if err != nil {
		return nil, fmt.Errorf("connect to systemd: %w", err)
	}
	m := &Manager{bus: b}
	if m.release, err = m.askRelease(); err == nil {
		err = b.subscribe()
	}
	if err != nil {
		b.close()
		return nil, fmt.Errorf("ask systemd: %w", err)
	}
	return m, nil
}

func (m *Manager) Close() { m.bus.close() }

// askRelease asks for systemd's version: "252.39-1~deb12u1" is 252.
func (m *Manager) askRelease() (int, error) {
	e := new(encoder)
	e.text(managerIface)
	e.text("Version")
	get := &message{path: managerPath, iface: "org.freedesktop.DBus.Properties", member: "Get", signature: "ss", body: e.b}
	if !m.bus.direct {
		get.destination = managerName
	}
	answer, err := m.bus.call(get)
	if err != nil {
		return 0, err
	}
	d := answer.arguments()
	if d.signature() != "s" {
		return 0, errMessage
	}
	return parseRelease(d.text()), d.err
}

// parseRelease reads the number that a version begins with, 0 if it has none.
func parseRelease(text string) int {
	text = strings.TrimPrefix(text, "v")
	end := strings.IndexFunc(text, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(text)
	}
	n, _ := strconv.Atoi(text[:end])
	return n
}

// Scope is what a new unit is made of.
type Scope struct {
	Unit
	ID          string
	Pid         int // the first process in it
	Resources   *specs.LinuxResources
	Annotations map[string]string
	V2          bool // the controllers are on v2
}

// properties are those of a scope, or of a slice, which takes no processes.
func (m *Manager) properties(s *Scope) ([]Property, error) {
	l := new(list)
	l.add("Description", "viv-oci container "+s.ID)
	if strings.HasSuffix(s.Name, sliceSuffix) {
		l.add("Wants", []string{s.Slice})
	} else {
		l.add("Slice", s.Slice)
		l.add("Delegate", true) // systemd leaves what is below alone
		l.add("PIDs", []uint32{uint32(s.Pid)})
	}
	for _, account := range []string{"MemoryAccounting", "CPUAccounting", "TasksAccounting"} {
		l.add(account, true)
	}
	if s.V2 {
		l.add("IOAccounting", true)
	} else {
		l.add("BlockIOAccounting", true)
	}
	l.add("DefaultDependencies", false) // a container is not stopped before its engine
	if s.Resources != nil && !s.V2 {
		l.devices(s.Resources.Devices)
	}
	if l.err != nil {
		return nil, l.err
	}
	limits, err := Resources(s.Resources, s.V2, m.release)
	if err != nil {
		return nil, err
	}
	extra, err := Annotations(s.Annotations)
	return append(append(l.properties, limits...), extra...), err
}

// Start makes the unit, and waits until its groups are there with the process in
// them.
func (m *Manager) Start(s *Scope) error {
	properties, err := m.properties(s)
	if err != nil {
		return fmt.Errorf("make systemd unit %s: %w", s.Name, err)
	}
	e := new(encoder)
	e.text(s.Name)
	e.text("replace")
	if err := e.properties(properties); err != nil {
		return fmt.Errorf("make systemd unit %s: %w", s.Name, err)
	}
	e.array(8, func() {}) // no units beside it
	err = m.job("StartTransientUnit", "ssa(sv)a(sa(sv))", e.b)
	if isError(err, "org.freedesktop.systemd1.UnitExists") {
		// One that failed stays on record until it is reset.
		m.resetFailed(s.Name)
		err = m.job("StartTransientUnit", "ssa(sv)a(sa(sv))", e.b)
	}
	if err != nil {
		return fmt.Errorf("make systemd unit %s: %w", s.Name, err)
	}
	return nil
}

// Stop ends the unit and what runs in it. One that is gone is no error.
func (m *Manager) Stop(u Unit) error {
	e := new(encoder)
	e.text(u.Name)
	e.text("replace")
	err := m.job("StopUnit", "ss", e.b)
	if isError(err, "org.freedesktop.systemd1.NoSuchUnit") {
		return nil
	}
	if err != nil {
		return fmt.Errorf("stop systemd unit %s: %w", u.Name, err)
	}
	m.resetFailed(u.Name)
	return nil
}

// resetFailed lets systemd forget a unit that failed; that another one has not is
// no error.
func (m *Manager) resetFailed(name string) {
	e := new(encoder)
	e.text(name)
	_, _ = m.bus.manager("ResetFailedUnit", "s", e.b)
}

// Update changes limits that systemd has properties for. They hold until the
// unit is gone.
func (m *Manager) Update(u Unit, r *specs.LinuxResources, v2 bool) error {
	properties, err := Resources(r, v2, m.release)
	if err == nil && len(properties) > 0 {
		e := new(encoder)
		e.text(u.Name)
		e.u32(1) // for as long as the unit runs
		if err = e.properties(properties); err == nil {
			m.bus.until = time.Now().Add(timeout)
			_, err = m.bus.manager("SetUnitProperties", "sba(sv)", e.b)
		}
	}
	if err != nil {
		return fmt.Errorf("change systemd unit %s: %w", u.Name, err)
	}
	return nil
}

// job starts a job and waits for its result.
func (m *Manager) job(member, signature string, body []byte) error {
	m.bus.until = time.Now().Add(timeout)
	answer, err := m.bus.manager(member, signature, body)
	if err != nil {
		return err
	}
	d := answer.arguments()
	path := d.text()
	if d.err != nil {
		return d.err
	}
	for {
		removed, err := m.bus.signal("JobRemoved")
		if err != nil {
			return fmt.Errorf("wait for the end of its job: %w", err)
		}
		d := removed.arguments() // uoss: number, path, unit, result
		d.u32()
		job := d.text()
		d.text()
		result := d.text()
		if d.err != nil {
			return d.err
		}
		if job == path {
			if result != "done" {
				return fmt.Errorf("its job ended with %q", result)
			}
			return nil
		}
	}
}

func isError(err error, name string) bool {
	var e *remoteError
	return errors.As(err, &e) && e.name == name
}
