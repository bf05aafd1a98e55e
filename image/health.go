package image

import (
	"bytes"
	"encoding/json"
	"time"
)

// Healthcheck says how it is found out whether a container is well, in the shape
// that Docker's image configs have (HEALTHCHECK). OCI's have none.
type Healthcheck struct {
	// Test is nothing (the image's, or none), ["NONE"], ["CMD", ARGS...] or
	// ["CMD-SHELL", COMMAND].
	Test          []string      `json:",omitempty"`
	Interval      time.Duration `json:",omitempty"` // between two probes; 0: 30 s
	Timeout       time.Duration `json:",omitempty"` // of one; 0: 30 s
	StartPeriod   time.Duration `json:",omitempty"` // in which failures do not count
	StartInterval time.Duration `json:",omitempty"` // between two probes in that period; 0: 5 s
	Retries       int           `json:",omitempty"` // failures in a row that make it unhealthy; 0: 3
}

// ParseHealthcheck finds the health check of an image config, nil for none.
func ParseHealthcheck(config []byte) (*Healthcheck, error) {
	if !bytes.Contains(config, []byte(`"Healthcheck"`)) {
		return nil, nil
	}
	var c struct {
		Config struct{ Healthcheck *Healthcheck } `json:"config"`
	}
	err := json.Unmarshal(config, &c)
	return c.Config.Healthcheck, err
}

// Or fills what h leaves open with what another says; both may be nil.
func (h *Healthcheck) Or(other *Healthcheck) *Healthcheck {
	if h == nil || other == nil || len(h.Test) > 0 && h.Test[0] == "NONE" {
		if h == nil {
			return other
		}
		return h
	}
	m := *h
	if len(m.Test) == 0 {
		m.Test = other.Test
	}
	for _, f := range [][2]*time.Duration{{&m.Interval, &other.Interval}, {&m.Timeout, &other.Timeout},
		{&m.StartPeriod, &other.StartPeriod}, {&m.StartInterval, &other.StartInterval}} {
		if *f[0] == 0 {
			*f[0] = *f[1]
		}
	}
	if m.Retries == 0 {
		m.Retries = other.Retries
	}
	return &m
}
