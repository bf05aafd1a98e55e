package spawn_test

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"vivarium/sandbox/spawn"
)

// TestTrace runs the same with and without marks: the marks change nothing, not
// where skips lead, and are in order of time.
func TestTrace(t *testing.T) {
	const script = "hostname; cat /proc/keys; ls /proc/acpi; ls /sys/fs/cgroup; cat /proc/self/limits"
	plain, traced := newBox(t, "sh", "-c", script), newBox(t, "sh", "-c", script)
	traced.trace = new(spawn.Trace)
	before := spawn.Now()
	for _, b := range []*box{plain, traced} {
		if ws, err := b.run(spawn.Fault{}); err != nil || ws != 0 {
			t.Fatalf("%v, %v: %s", ws, err, b.out.String())
		}
	}
	after := spawn.Now()
	if plain.out.String() != traced.out.String() {
		t.Errorf("without marks:\n%s\nwith:\n%s", plain.out.String(), traced.out.String())
	}
	marks := traced.trace.Marks()
	last := map[spawn.Phase]int64{}
	kinds := map[string]int{}
	for _, m := range marks {
		if m.At == 0 {
			continue
		}
		if m.At < before || m.At > after || m.At < last[m.Phase] {
			t.Errorf("%s step %q is at %d, the one before at %d, all between %d and %d", m.Phase, m.Step.Why, m.At, last[m.Phase], before, after)
		}
		last[m.Phase] = m.At
		kinds[m.Step.Kind]++
	}
	for _, kind := range []string{"cgroup", "mount", "mask", "exec"} {
		if kinds[kind] == 0 {
			t.Errorf("no step of kind %s has a mark: %v", kind, kinds)
		}
	}
	if last[spawn.Before] > last[spawn.Child] {
		t.Error("the child ended before the parent began")
	}
	if err := traced.trace.Close(); err != nil {
		t.Error(err)
	}
}

// TestTraceOfAFailure wants the same error with marks as without.
func TestTraceOfAFailure(t *testing.T) {
	var want *spawn.Error
	for _, trace := range []*spawn.Trace{nil, new(spawn.Trace)} {
		b := newBox(t, "no-such-command")
		b.trace = trace
		_, err := b.run(spawn.Fault{})
		var got *spawn.Error
		if !errors.As(err, &got) || got.Errno != syscall.ENOENT || !strings.Contains(got.Step.Why, "no-such-command") {
			t.Fatalf("error %v", err)
		}
		if want != nil && (got.Step != want.Step || got.Phase != want.Phase) {
			t.Errorf("with marks %+v, without %+v", got, want)
		}
		want = got
	}
}
