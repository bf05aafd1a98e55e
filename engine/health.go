package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"vivarium/image"
	"vivarium/monitor/client"
	"vivarium/monitor/wire"
)

// Health checks have no daemon. A process of each container that has one waits
// (monitor.Wait), becomes `viv health ID`, which runs the command in the
// container, writes down what came of it, and becomes the waiting one again. It is
// started with the container, holds health.lock of the run directory, and goes with
// the container. Monitor and containers without a check pay nothing.

// Values of Health.Status.
const (
	healthNone      = "none"
	healthStarting  = "starting"
	healthHealthy   = "healthy"
	healthUnhealthy = "unhealthy"
)

// Health is how the health checks of a container went, as inspect shows it.
type Health struct {
	Status        string
	FailingStreak int
	Log           []HealthResult // the last five
}

// HealthResult is what came of one check.
type HealthResult struct {
	Start, End time.Time
	ExitCode   int // -1: it took too long, or could not be run
	Output     string
}

// healthRecord is <root>/containers/<id>/health.json.
type healthRecord struct {
	Health
	StartedAt int64 // of the run that it is about, as in the status
}

const (
	healthLogMax    = 5
	healthOutputMax = 4096
	// healthLockFD is where the process that checks has its lock.
	healthLockFD = 4
	// restartLook is how often a container that is to be started again is looked at.
	restartLook = time.Second
)

func (e *Engine) healthFile(id string) string { return e.containerDir(id) + "/health.json" }
func (e *Engine) healthLock(id string) string { return e.runDir(id) + "/health.lock" }

// healthcheck gives the container's check with the defaults filled in; nil for none.
func (c *Container) healthcheck() *image.Healthcheck {
	hc := c.Config().Healthcheck
	if hc == nil || len(hc.Test) < 2 || hc.Test[0] != "CMD" && hc.Test[0] != "CMD-SHELL" {
		return nil
	}
	return hc.Or(&image.Healthcheck{Interval: 30 * time.Second, Timeout: 30 * time.Second, StartInterval: 5 * time.Second, Retries: 3})
}

// health tells how the container is; nil for one without a check.
func (e *Engine) health(c *Container, st wire.Status) *Health {
	if c.healthcheck() == nil {
		return nil
	}
	rec, err := e.readHealth(c.ID)
	if err != nil || live(st) && rec.StartedAt != st.StartedAt {
		return &Health{Status: healthStarting, Log: []HealthResult{}}
	}
	return &rec.Health
}

func (h *Health) status() string {
	if h == nil {
		return healthNone
	}
	return h.Status
}

func (e *Engine) readHealth(id string) (rec healthRecord, err error) {
	b, err := os.ReadFile(e.healthFile(id))
	if err == nil {
		err = json.Unmarshal(b, &rec)
	}
	return rec, err
}

// writeHealth replaces the record. It is not synced: after a power cut the
// container does not run either.
func (e *Engine) writeHealth(id string, rec healthRecord) error {
	b, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	tmp := e.containerDir(id) + "/.health.json"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, e.healthFile(id))
}

// startHealth starts what checks the container whose first process is pid.
func (e *Engine) startHealth(c *Container, pid int) error {
	hc := c.healthcheck()
	if hc == nil || len(e.Callback) == 0 {
		return nil
	}
	if err := os.Remove(e.healthFile(c.ID)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("start the health checks of container %s: %w", c.Name, err)
	}
	lock, err := os.OpenFile(e.healthLock(c.ID), os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		return nil // it has ended already, and all of it has gone
	}
	if err != nil {
		return fmt.Errorf("start the health checks of container %s: %w", c.Name, err)
	}
	defer lock.Close()
	if err := flock(lock, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("start the health checks of container %s: %w", c.Name, err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil // it has ended already
	}
	pidfd := os.NewFile(uintptr(fd), "pidfd")
	defer pidfd.Close()
	cmd := &exec.Cmd{
		Path: e.Monitor, Args: e.waitArgs(c.ID, "3", nextCheck(hc, time.Now().UnixNano(), healthStarting)),
		// GOMAXPROCS and GOGC as a monitor's: it waits in one thread and allocates little.
		Env: []string{"GOMAXPROCS=1", "GOGC=off", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, Dir: "/",
		ExtraFiles: []*os.File{pidfd, lock}, SysProcAttr: &unix.SysProcAttr{Setsid: true},
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the health checks of container %s: %w", c.Name, err)
	}
	return cmd.Process.Release()
}

// waitArgs are the arguments of a process that waits and then checks.
func (e *Engine) waitArgs(id, fd string, d time.Duration) []string {
	args := []string{"viv-wait", fd, strconv.FormatInt(max(d.Milliseconds(), 1), 10)}
	args = append(args, e.Callback[:len(e.Callback)-1]...)
	return append(args, "health", id)
}

// nextCheck is how long to wait for the next check of a container that runs since
// started (Unix nanoseconds).
func nextCheck(hc *image.Healthcheck, started int64, status string) time.Duration {
	if left := hc.StartPeriod - time.Since(time.Unix(0, started)); status == healthStarting && left > 0 {
		return min(hc.StartInterval, hc.Interval)
	}
	return hc.Interval
}

// CheckHealth is one turn of what checks a container: a look, a check if it is time
// for one, and the wait for the next turn, as which this process goes on. It
// returns when there is nothing to check any more.
func (e *Engine) CheckHealth(ctx context.Context, id string) error {
	if !e.holdsHealthLock(id) {
		return nil // a later start has a process of its own
	}
	c, err := e.load(id)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	hc := c.healthcheck()
	st, err := client.ReadStatus(e.containerDir(id))
	if err != nil || hc == nil {
		return err
	}
	process, monitor := client.Alive(st)
	if !live(st) || !process && !monitor {
		return nil
	}
	if st.State == wire.Restarting || !process {
		return e.waitForHealth(id, 0, restartLook)
	}
	status := healthStarting
	if !e.isPaused(id, st.Pid) {
		rec, err := e.turn(ctx, c, hc, st)
		if err != nil {
			return err
		}
		status = rec.Status
	}
	return e.waitForHealth(id, st.Pid, nextCheck(hc, st.StartedAt, status))
}

// turn checks once and writes down what came of it.
func (e *Engine) turn(ctx context.Context, c *Container, hc *image.Healthcheck, st wire.Status) (healthRecord, error) {
	rec, err := e.readHealth(c.ID)
	switch {
	case errors.Is(err, os.ErrNotExist): // the first
		rec = healthRecord{Health: Health{Status: healthStarting}, StartedAt: st.StartedAt}
	case err != nil || rec.StartedAt != st.StartedAt: // the monitor has started it again
		rec = healthRecord{Health: Health{Status: healthStarting}, StartedAt: st.StartedAt}
		return rec, e.writeHealth(c.ID, rec)
	}
	res := e.probe(ctx, c, hc)
	before := rec.Status
	rec.take(res, hc, time.Unix(0, st.StartedAt))
	// What the end of the container did to the check says nothing of its health.
	if now, err := client.ReadStatus(e.containerDir(c.ID)); err != nil || now.StartedAt != st.StartedAt || !processAlive(now) {
		return rec, nil
	}
	if err := e.writeHealth(c.ID, rec); err != nil {
		return rec, nil // it has been removed
	}
	if rec.Status != before {
		e.emit(containerEvent(c, "health_status: "+rec.Status))
	}
	return rec, nil
}

// take adds a result: one success is health, Retries failures in a row are none.
// Failures in the start period do not count until there was a success.
func (rec *healthRecord) take(res HealthResult, hc *image.Healthcheck, started time.Time) {
	rec.Log = append(rec.Log, res)
	rec.Log = rec.Log[max(0, len(rec.Log)-healthLogMax):]
	if res.ExitCode == 0 {
		rec.FailingStreak, rec.Status = 0, healthHealthy
		return
	}
	if rec.Status == healthStarting && res.Start.Sub(started) < hc.StartPeriod {
		return
	}
	if rec.FailingStreak++; rec.FailingStreak >= hc.Retries {
		rec.Status = healthUnhealthy
	}
}

// probe runs the check in the container.
func (e *Engine) probe(ctx context.Context, c *Container, hc *image.Healthcheck) HealthResult {
	res := HealthResult{Start: time.Now(), ExitCode: -1}
	ctx, cancel := context.WithTimeout(ctx, hc.Timeout)
	defer cancel()
	args := hc.Test[1:]
	if hc.Test[0] == "CMD-SHELL" {
		args = []string{"/bin/sh", "-c", hc.Test[1]}
	}
	h, err := e.Exec(ctx, c.ID, ExecOptions{Args: args})
	if err != nil {
		res.Output = err.Error()
		var se *client.StartError
		if errors.As(err, &se) && se.Code != 0 {
			res.ExitCode = se.Code
		}
	} else {
		res.Output, res.ExitCode, err = h.collect(ctx, healthOutputMax)
		if ctx.Err() != nil {
			_ = unix.Kill(h.Pid, unix.SIGKILL) // it may just have ended
			res.Output += fmt.Sprintf("Health check exceeded timeout (%v)", hc.Timeout)
		} else if err != nil {
			res.Output += err.Error()
		}
		_ = h.Finish(res.ExitCode) // only removes its record, which goes with the container too
	}
	res.End = time.Now()
	return res
}

// collect waits for the end of a process and keeps the beginning of its output.
func (h *ExecHandle) collect(ctx context.Context, limit int) (output string, code int, err error) {
	var out []byte
	for {
		m, err := recv(ctx, h.Session)
		if err != nil {
			return string(out), -1, err
		}
		switch m.Kind {
		case client.Stdout, client.Stderr:
			out = append(out, m.Data[:min(len(m.Data), limit-len(out))]...)
		case client.Exited:
			return string(out), m.ExitCode, nil
		}
	}
}

// holdsHealthLock tells whether this process was given the lock of this run.
func (e *Engine) holdsHealthLock(id string) bool {
	var mine, now unix.Stat_t
	return unix.Fstat(healthLockFD, &mine) == nil && unix.Stat(e.healthLock(id), &now) == nil && mine.Ino == now.Ino && mine.Dev == now.Dev
}

// waitForHealth makes this process wait for the next turn, which comes early if the
// process pid ends. It returns only if that cannot be done.
func (e *Engine) waitForHealth(id string, pid int, d time.Duration) error {
	fd := "-"
	if pid != 0 {
		n, err := unix.PidfdOpen(pid, 0)
		if err == nil {
			_, err = unix.FcntlInt(uintptr(n), unix.F_SETFD, 0) // it is to stay
		}
		if err != nil {
			return e.waitForHealth(id, 0, restartLook) // ended just now
		}
		fd = strconv.Itoa(n)
	}
	// The check has marked what it did not need.
	_, err := unix.FcntlInt(healthLockFD, unix.F_SETFD, 0)
	if err == nil {
		err = unix.Exec(e.Monitor, e.waitArgs(id, fd, d), os.Environ())
	}
	return fmt.Errorf("wait for the next health check: %w", err)
}
