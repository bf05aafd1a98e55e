package blackbox

import (
	"strings"
	"testing"
)

// TestCommit makes images of containers that run and that have ended.
func TestCommit(t *testing.T) {
	e := newBox(t)
	upAndWaiting(t, e, "runs")
	e.MustViv("exec", "runs", "sh", "-c", "echo new > /new; rm /etc/group; mkdir /dir")
	id := strings.TrimSpace(e.MustViv("commit", "-a", "somebody", "-m", "what was done", "-c", `CMD ["cat","/new"]`, "-c", "ENV A=1 B=2", "-c", "LABEL l=x", "runs", "kept:1"))
	if got := state(t, e, "runs"); got != "running 0" {
		t.Errorf("after the commit the container is %s", got)
	}
	want(t, e.Viv("run", "--rm", "--network", "none", "kept:1"), 0, "new\n")
	want(t, e.Viv("run", "--rm", "--network", "none", "kept:1", "sh", "-c", "echo $A$B; ls -d /dir; ls /etc/group 2>/dev/null"), 1, "12\n/dir\n")
	if got := e.MustViv("inspect", "--type", "image", "-f", "{{.Author}} {{.Comment}} {{.Config.Labels.l}} {{.Id}}", "kept:1"); strings.TrimSpace(got) != "somebody what was done x "+id {
		t.Errorf("the image is %q", got)
	}
	if lines := strings.Split(strings.TrimSpace(e.MustViv("history", "-q", "--no-trunc", "kept:1")), "\n"); lines[0] != id || len(lines) < 2 {
		t.Errorf("the history has %q", lines)
	}
	e.MustViv("kill", "runs")
	e.MustViv("commit", "-p=false", "runs")
	fails(t, e.Viv("commit", "-c", "RUN true", "runs"), 1, "RUN is not a valid change command")
	fails(t, e.Viv("commit", "no-such"), 1, "no such container")
	fails(t, e.Viv("commit", "runs", "BAD NAME"), 1)
}
