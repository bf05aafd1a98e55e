package monitor

import (
	"syscall"

	"vivarium/monitor/wire"
)

// policy decides whether a container that has ended runs again, as Docker's
// restart manager does: after 100 ms, twice as long each time up to a minute,
// and 100 ms again once it ran for ten seconds.
type policy struct {
	name     string
	max      int
	restarts int
	delay    int64 // milliseconds
}

const (
	firstDelay  = 100
	maxDelay    = 60_000
	goodRunTime = int64(10e9)
)

func newPolicy(c *wire.Config) policy {
	return policy{name: c.Restart, max: c.RestartMax, restarts: c.RestartCount}
}

// change takes MsgRestart's payload.
func (p *policy) change(body []byte) {
	for i, c := range body {
		if c == 0 && len(body) == i+5 {
			p.name, p.max = string(body[:i]), int(wire.U32(body[i+1:]))
			return
		}
	}
}

func (p *policy) again(exitCode int) bool {
	switch p.name {
	case "always", "unless-stopped":
		return true
	case "on-failure":
		return exitCode != 0 && (p.max == 0 || p.restarts < p.max)
	}
	return false
}

// next gives how long to wait before the next run, in milliseconds, after a run
// of ran nanoseconds.
func (p *policy) next(ran int64) int64 {
	if ran >= goodRunTime || p.delay == 0 {
		p.delay = firstDelay
	} else {
		p.delay = min(p.delay*2, maxDelay)
	}
	return p.delay
}

// restart runs the container again if its policy says so; false at its end. A
// client may change the policy while the delay runs.
func (m *monitor) restart() bool {
	for m.policy.again(m.status.ExitCode) {
		m.letMountsGo() // overlay would find its upper layer in use
		until := now() + m.policy.next(m.status.FinishedAt-m.status.StartedAt)*1e6
		m.status.State = wire.Restarting
		m.writeStatus()
		for left := until - now(); left > 0 && m.policy.again(m.status.ExitCode); left = until - now() {
			m.step(int(left/1e6) + 1)
		}
		if !m.policy.again(m.status.ExitCode) {
			break
		}
		m.policy.restarts++
		m.status.RestartCount = m.policy.restarts
		err := m.start()
		if err == nil {
			return true
		}
		m.status.ExitCode, m.status.Error = startCode(err), err.Error()
		m.status.StartedAt, m.status.FinishedAt = now(), now()
	}
	m.status.State = wire.Exited
	return false
}

// startCode is the exit code of a container whose command could not be run.
func startCode(err error) int {
	switch errno(err) {
	case syscall.ENOENT:
		return 127
	case syscall.EACCES, syscall.ENOEXEC:
		return 126
	}
	return 125
}
