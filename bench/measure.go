package main

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// bench is one run of all rows.
type bench struct {
	dir      string
	bin      string
	rounds   int
	stop     atomic.Bool
	cleanups []func() error
	viv      *engine
	docker   *engine
	podman   *engine
	runtimes []ociRuntime
	rootfs   string // tar
}

// ours marks the sides of a row that are Vivarium.
func ours(side string) bool { return strings.HasPrefix(side, "viv") }

// row is one line of the table.
type row struct {
	name string
	unit string
	// runtimes says that the sides are OCI runtimes, not engines.
	runtimes bool
	// targets are what Vivarium is to reach: peer -> factor of the peer's figure.
	targets map[string]float64
	measure func(b *bench) result
	// engines says that the row needs the engines.
	engines bool
}

// figure is what came out for one side of a row.
type figure struct {
	side   string
	values []float64
	err    error
}

func (f figure) median() float64 {
	if len(f.values) == 0 {
		return math.NaN()
	}
	v := slices.Sorted(slices.Values(f.values))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

func (f figure) least() float64 {
	if len(f.values) == 0 {
		return math.NaN()
	}
	return slices.Min(f.values)
}

// result is a measured row. note says why there is nothing, where that is so.
type result struct {
	row     row
	figures []figure
	note    string
}

// side is one contestant of a timed row. before and after run around every timed
// command, outside the measured time.
type side struct {
	name          string
	run           func() error
	before, after func() error
	// absent says why the side cannot run; empty if it can.
	absent string
}

// timed runs every side once to warm up and then rounds times, in an order that
// turns from round to round.
func (b *bench) timed(rounds int, sides ...side) result {
	figures := make([]figure, len(sides))
	for i, s := range sides {
		figures[i].side = s.name
		if s.absent != "" {
			figures[i].err = errors.New(s.absent)
		}
	}
	for round := -1; round < rounds && !b.stop.Load(); round++ {
		for n := range sides {
			i := (n + round + 1) % len(sides)
			if figures[i].err != nil {
				continue
			}
			took, err := sides[i].once()
			if err != nil {
				figures[i].err = err
				figures[i].values = nil
				continue
			}
			if round >= 0 {
				figures[i].values = append(figures[i].values, took.Seconds()*1000)
			}
		}
	}
	return result{figures: figures}
}

// sampled takes one side's figure five times, unless absent says why it cannot.
func (b *bench) sampled(side, absent string, sample func() (float64, error)) figure {
	f := figure{side: side}
	if absent != "" {
		f.err = errors.New(absent)
	}
	for range 5 {
		if f.err != nil || b.stop.Load() {
			break
		}
		value, err := sample()
		if err != nil {
			f.err = err
			break
		}
		f.values = append(f.values, value)
	}
	return f
}

func (s side) once() (time.Duration, error) {
	if s.before != nil {
		if err := s.before(); err != nil {
			return 0, err
		}
	}
	start := time.Now()
	err := s.run()
	took := time.Since(start)
	if s.after != nil {
		err = errors.Join(err, s.after())
	}
	return took, err
}

// command makes a function that runs a program to its end; its output is part of the
// error if it fails.
func command(argv ...string) func() error {
	return func() error {
		var out bytes.Buffer
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Stdout, cmd.Stderr = &out, &out
		// An engine whose monitor keeps the output open must not hang the rest.
		cmd.WaitDelay = 10 * time.Second
		timer := time.AfterFunc(5*time.Minute, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("start %s: %w", argv[0], err)
		}
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, tail(out.String()))
		}
		return nil
	}
}

// output runs a program and returns what it printed on standard output.
func output(argv ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, tail(stderr.String()))
	}
	return strings.TrimSpace(stdout.String()), nil
}

// tail is the last line of a text.
func tail(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}
