package blackbox

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
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
		Phase string
		Calls []string
	}
	out := e.MustViv("run", "--explain=json", "--network", "none", box, "true")
	if err := json.Unmarshal([]byte(out), &steps); err != nil {
		t.Fatal(err)
	}
	for _, ph := range phases {
		ops := 0
		for _, s := range steps {
			if s.Phase == ph.name {
				ops += len(s.Calls)
			}
		}
		failed := 0
		for i := range ops {
			res := e.Viv("run", "--rm", "--network", "none", "--fault", fmt.Sprintf("%d:%d", ph.number, i), box, "true")
			switch {
			case res.Code == 0: // the op was jumped over
			case res.Code == 137 && i == ops-1: // between the last report and execve
				failed++
			case res.Code == 125 && strings.Count(strings.TrimSpace(res.Stderr), "\n") <= 1:
				failed++
			default:
				t.Errorf("killed at op %d %s: %v", i, ph.name, res)
			}
			if got := e.MustViv("ps", "-aq"); got != "" {
				t.Fatalf("killed at op %d %s: a container is left: %s", i, ph.name, got)
			}
			if i%20 == 0 {
				for _, leak := range e.Leaks() {
					t.Fatalf("killed at op %d %s: left after the next command: %s", i, ph.name, leak)
				}
			}
		}
		if failed < ops/2 {
			t.Errorf("only %d of %d ops %s the clone were reached", failed, ops, ph.name)
		}
	}
	if got := e.MustViv("system", "check"); !strings.Contains(got, "all is well") {
		t.Errorf("system check says %q", got)
	}
}
