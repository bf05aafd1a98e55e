package blackbox

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"vivarium/internal/testenv"
)

// phases of a plan and their numbers for --fault.
var phases = []struct {
	name   string
	number int
}{{"before", 1}, {"child", 2}, {"after", 3}}

// TestEachStepOfThePlan lets the process that works through the plan be killed
// at every step of it: the monitor before the clone, the new process after it.
// The run says so, and the next command finds nothing of it.
func TestEachStepOfThePlan(t *testing.T) {
	e := newBox(t)
	vivOnly(t, "only viv prints its plan")
	var steps []struct {
		Phase, Kind, Why string
		Calls            []string
	}
	// The first container's plan also prepares the control group of all.
	want(t, e.Viv("run", "--rm", "--network", "none", box, "true"), 0, "")
	out := e.MustViv("run", "--explain=json", "--network", "none", box, "true")
	if err := json.Unmarshal([]byte(out), &steps); err != nil {
		t.Fatal(err)
	}
	for _, ph := range phases {
		op := 0
		last := -1
		for _, s := range steps {
			if s.Phase == ph.name {
				last += len(s.Calls)
			}
		}
		for _, s := range steps {
			if s.Phase != ph.name {
				continue
			}
			reached := false
			for range s.Calls {
				if op%stride() == 0 || !reached || op == last {
					reached = killAt(t, e, ph.name, ph.number, op, op == last) || reached
				}
				op++
			}
			if !reached {
				t.Errorf("no op of this step %s the clone was reached: %s: %s", ph.name, s.Kind, s.Why)
			}
		}
	}
	if got := e.MustViv("system", "check"); !strings.Contains(got, "all is well") {
		t.Errorf("system check says %q", got)
	}
}

// stride is how many ops a kill may pass over in a step that was reached. An
// emulated processor needs half a second for each, and goes on in longer steps.
func stride() int {
	if os.Getenv("VIV_TEST_VM") != "" {
		return 16
	}
	return 1
}

// killAt runs a container that is killed at an op of a phase, and looks for what is
// left. It says whether the op was reached: those of a way that the kernel did not
// go are jumped over.
func killAt(t *testing.T, e *testenv.Instance, phase string, number, op int, last bool) bool {
	t.Helper()
	res := e.Viv("run", "--rm", "--network", "none", "--fault", fmt.Sprintf("%d:%d", number, op), box, "true")
	reached := true
	switch {
	case res.Code == 0:
		reached = false
	case res.Code == 137 && last: // between the last report and execve
	case res.Code == 125 && strings.Count(strings.TrimSpace(res.Stderr), "\n") <= 1:
	default:
		t.Errorf("killed at op %d %s: %v", op, phase, res)
	}
	if got := e.MustViv("ps", "-aq"); got != "" {
		t.Fatalf("killed at op %d %s: a container is left: %s", op, phase, got)
	}
	if op%20 == 0 {
		for _, leak := range e.Leaks() {
			t.Fatalf("killed at op %d %s: left after the next command: %s", op, phase, leak)
		}
	}
	return reached
}
