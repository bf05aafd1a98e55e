package systemd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	sd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
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
	conn    *sd.Conn
	release int
}

// Connect reaches systemd. Close the result.
func Connect(ctx context.Context) (*Manager, error) {
	if !Running() {
		return nil, errors.New("systemd is not running on this host: it cannot make control groups; use the cgroupfs manager of the calling engine")
	}
	connect := sd.NewWithContext
	if os.Geteuid() != 0 {
		connect = sd.NewUserConnectionContext
	}
	conn, err := connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to systemd: %w", err)
	}
	return &Manager{conn: conn, release: release(conn)}, nil
}

func (m *Manager) Close() { m.conn.Close() }

// release is systemd's version, 0 if it does not say: "\"252.39-1~deb12u1\"".
func release(conn *sd.Conn) int {
	text, err := conn.GetManagerProperty("Version")
	if err != nil {
		return 0
	}
	text = strings.TrimPrefix(strings.Trim(text, `"`), "v")
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
func (m *Manager) properties(s *Scope) ([]sd.Property, error) {
	l := new(list)
	l.properties = append(l.properties, sd.PropDescription("viv-oci container "+s.ID))
	if strings.HasSuffix(s.Name, sliceSuffix) {
		l.properties = append(l.properties, sd.PropWants(s.Slice))
	} else {
		l.properties = append(l.properties, sd.PropSlice(s.Slice))
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
func (m *Manager) Start(ctx context.Context, s *Scope) error {
	properties, err := m.properties(s)
	if err != nil {
		return fmt.Errorf("make systemd unit %s: %w", s.Name, err)
	}
	err = m.job(ctx, func(ctx context.Context, done chan<- string) error {
		_, err := m.conn.StartTransientUnitContext(ctx, s.Name, "replace", properties, done)
		return err
	})
	if isError(err, "org.freedesktop.systemd1.UnitExists") {
		// One that failed stays on record until it is reset.
		_ = m.conn.ResetFailedUnitContext(ctx, s.Name)
		err = m.job(ctx, func(ctx context.Context, done chan<- string) error {
			_, err := m.conn.StartTransientUnitContext(ctx, s.Name, "replace", properties, done)
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("make systemd unit %s: %w", s.Name, err)
	}
	return nil
}

// Stop ends the unit and what runs in it. One that is gone is no error.
func (m *Manager) Stop(ctx context.Context, u Unit) error {
	err := m.job(ctx, func(ctx context.Context, done chan<- string) error {
		_, err := m.conn.StopUnitContext(ctx, u.Name, "replace", done)
		return err
	})
	if isError(err, "org.freedesktop.systemd1.NoSuchUnit") {
		return nil
	}
	if err != nil {
		return fmt.Errorf("stop systemd unit %s: %w", u.Name, err)
	}
	_ = m.conn.ResetFailedUnitContext(ctx, u.Name) // fails when it has not failed
	return nil
}

// Update changes limits that systemd has properties for. They hold until the
// unit is gone.
func (m *Manager) Update(ctx context.Context, u Unit, r *specs.LinuxResources, v2 bool) error {
	properties, err := Resources(r, v2, m.release)
	if err == nil && len(properties) > 0 {
		err = m.conn.SetUnitPropertiesContext(ctx, u.Name, true, properties...)
	}
	if err != nil {
		return fmt.Errorf("change systemd unit %s: %w", u.Name, err)
	}
	return nil
}

// job starts a job and waits for its result.
func (m *Manager) job(ctx context.Context, start func(context.Context, chan<- string) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	done := make(chan string, 1)
	if err := start(ctx, done); err != nil {
		return err
	}
	select {
	case result := <-done:
		if result != "done" {
			return fmt.Errorf("its job ended with %q", result)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for its job: %w", ctx.Err())
	}
}

func isError(err error, name string) bool {
	var e dbus.Error
	return errors.As(err, &e) && e.Name == name
}
