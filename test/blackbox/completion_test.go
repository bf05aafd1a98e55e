package blackbox

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// TestCompletionOfArguments: what the shells' scripts ask for, of ns, cgroup and lab.
func TestCompletionOfArguments(t *testing.T) {
	vivOnly(t, "Docker has no such commands")
	e := newBox(t)
	e.MustViv("run", "-d", "--name", "web", "--network", "none", box, "sleep", "1000")
	e.MustViv("create", "--name", "stopped", box, "true")
	group := fmt.Sprintf("/viv-test-%08x", rand.Uint32())
	e.MustViv("cgroup", "create", group+"/inner")
	for _, c := range []struct{ line, want string }{
		{"ns enter -t |", "web"},
		{"ns diff |", "web"},
		{"ns ls -t |", "cgroup ipc mnt net pid time user uts"},
		{"ns run --setgroups |", "allow deny"},
		{"cgroup where |", "web"},
		{"cgroup stat |", "web /"},
		{"cgroup freeze " + group[:14] + "|", group},
		{"cgroup get " + group + "/|", group + "/inner"},
		{"cgroup set web memory.m|", "memory.max="},
		{"cgroup get web memory.p|", "memory.peak"},
		{"cgroup stat web |", ""},
		{"lab un|", "union"},
		{"lab --lang |", "en zh"},
	} {
		fields := append([]string{"__complete"}, strings.Split(strings.TrimSuffix(c.line, "|"), " ")...)
		var got []string
		for line := range strings.Lines(e.MustViv(fields...)) {
			if word, _, _ := strings.Cut(strings.TrimSpace(line), "\t"); !strings.HasPrefix(word, ":") {
				got = append(got, word)
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %q, want %q", c.line, got, c.want)
		}
	}
	e.MustViv("cgroup", "rm", "-r", group)
	e.MustViv("rm", "-f", "web", "stopped")
}
