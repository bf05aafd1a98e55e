package blackbox

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"vivarium/internal/testenv"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// health waits until a container is in a state of health, as ps shows it.
func health(t *testing.T, e *testenv.Instance, name, want string) {
	t.Helper()
	eventually(t, name+" to be "+want, func() bool {
		return strings.HasSuffix(e.MustViv("ps", "--filter", "name=^/"+name+"$", "--format", "{{.Status}}"), " ("+want+")")
	})
}

// quick are flags of a check that is soon done.
func quick(command string, more ...string) []string {
	return append([]string{"--network", "none", "--health-cmd", command, "--health-interval", "200ms", "--health-retries", "2"}, more...)
}

func TestHealth(t *testing.T) {
	e := newBox(t)
	since := time.Now().Format(time.RFC3339Nano)
	detached(t, e, append(quick("cat /well || { echo not well; exit 1; }"), "--name", "one", box, "sleep", "1000")...)
	detached(t, e, "--name", "none", "--network", "none", box, "sleep", "1000")
	if got := e.MustViv("ps", "--filter", "name=none", "--format", "{{.Status}}"); strings.Contains(got, "(") {
		t.Errorf("status without a check: %q", got)
	}
	health(t, e, "one", "unhealthy")
	var h struct {
		Status        string
		FailingStreak int
		Log           []struct {
			Start, End time.Time
			ExitCode   int
			Output     string
		}
	}
	if err := json.Unmarshal([]byte(inspect(t, e, "one", "{{json .State.Health}}")), &h); err != nil {
		t.Fatal(err)
	}
	if h.Status != "unhealthy" || h.FailingStreak < 2 || len(h.Log) < 2 || h.Log[0].ExitCode != 1 || !strings.Contains(h.Log[0].Output, "not well\n") || h.Log[0].End.Before(h.Log[0].Start) {
		t.Errorf("health: %+v", h)
	}
	want(t, e.Viv("ps", "--filter", "health=unhealthy", "--format", "{{.Names}}"), 0, "one\n")
	want(t, e.Viv("ps", "--filter", "health=none", "--format", "{{.Names}}"), 0, "none\n")
	e.MustViv("exec", "one", "sh", "-c", "echo fine >/well")
	health(t, e, "one", "healthy")
	want(t, e.Viv("inspect", "-f", "{{.State.Health.Status}} {{.State.Health.FailingStreak}}", "one"), 0, "healthy 0\n")
	e.MustViv("exec", "one", "rm", "/well")
	health(t, e, "one", "unhealthy")
	e.MustViv("stop", "-t", "0", "one")
	until := time.Now().Format(time.RFC3339Nano)
	out := e.MustViv("events", "--since", since, "--until", until, "--filter", "container=one", "--filter", "event=health_status", "--format", "{{.Action}}")
	if out != "health_status: unhealthy\nhealth_status: healthy\nhealth_status: unhealthy" {
		t.Errorf("events: %q", out)
	}
	if got := e.MustViv("ps", "-a", "--filter", "name=one", "--format", "{{.Status}}"); strings.Contains(got, "health") {
		t.Errorf("status of one that has ended: %q", got)
	}
	e.MustViv("start", "one")
	health(t, e, "one", "unhealthy") // /well has stayed away
}

// TestHealthTakesTooLong has a check that does not end, and one that cannot begin.
func TestHealthTakesTooLong(t *testing.T) {
	e := newBox(t)
	detached(t, e, append(quick("echo begun; sleep 1000", "--health-timeout", "1s"), "--name", "slow", box, "sleep", "1000")...)
	health(t, e, "slow", "unhealthy")
	if got := inspect(t, e, "slow", "{{(index .State.Health.Log 0).ExitCode}} {{(index .State.Health.Log 0).Output}}"); !strings.HasPrefix(got, "-1 ") || !strings.Contains(got, "exceeded timeout (1s)") {
		t.Errorf("a check that takes too long: %q", got)
	}
	if top := e.MustViv("top", "slow", "-o", "pid,args"); strings.Count(top, "sleep 1000") > 2 {
		t.Errorf("checks that took too long run on: %q", top)
	}
}

// TestHealthStartPeriod does not count what fails while a container starts.
func TestHealthStartPeriod(t *testing.T) {
	e := newBox(t)
	detached(t, e, append(quick("test -e /well", "--health-start-period", "1h"), "--name", "starter", box, "sleep", "1000")...)
	eventually(t, "failed checks", func() bool {
		return inspect(t, e, "starter", "{{len .State.Health.Log}}") >= "3"
	})
	want(t, e.Viv("inspect", "-f", "{{.State.Health.Status}} {{.State.Health.FailingStreak}}", "starter"), 0, "starting 0\n")
	e.MustViv("exec", "starter", "touch", "/well")
	health(t, e, "starter", "healthy")
	e.MustViv("exec", "starter", "rm", "/well") // it has started: now they count
	health(t, e, "starter", "unhealthy")
}

// TestHealthAfterRestart starts anew with each run of the container.
func TestHealthAfterRestart(t *testing.T) {
	e := newBox(t)
	detached(t, e, append(quick("test ! -e /ill"), "--restart", "always", "--name", "again", box, "sh", "-c", "rm -f /ill; sleep 1000")...)
	health(t, e, "again", "healthy")
	e.MustViv("exec", "again", "touch", "/ill")
	health(t, e, "again", "unhealthy")
	pid, err := strconv.Atoi(inspect(t, e, "again", "{{.State.Pid}}"))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	health(t, e, "again", "healthy")
	if got := inspect(t, e, "again", "{{.RestartCount}}"); got != "1" {
		t.Errorf("restarts: %q", got)
	}
	e.MustViv("pause", "again")
	if got := e.MustViv("ps", "--filter", "name=again", "--format", "{{.Status}}"); !strings.HasSuffix(got, "(Paused)") {
		t.Errorf("status of a paused one: %q", got)
	}
	e.MustViv("unpause", "again")
	e.MustViv("restart", "-t", "0", "again")
	health(t, e, "again", "healthy")
}

// TestHealthOfTheImage uses the check that stands in the image.
func TestHealthOfTheImage(t *testing.T) {
	testenv.Root(t)
	vivOnly(t, "the registry is in the engine's own network")
	e := testenv.Engine(t)
	img, err := testenv.Image(t, "busybox").DockerImage()
	if err != nil {
		t.Fatal(err)
	}
	cf, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg := cf.Config
	cfg.Healthcheck = &v1.HealthConfig{Test: []string{"CMD", "test", "-e", "/etc/passwd"}, Interval: 200 * time.Millisecond}
	if img, err = mutate.Config(img, cfg); err != nil {
		t.Fatal(err)
	}
	ref := e.Registry(func(h http.Handler) http.Handler { return h }) + "/test/healthy:v1"
	push(t, e, ref, img)
	e.MustViv("pull", "-q", ref)
	want(t, e.Viv("inspect", "-f", "{{json .Config.Healthcheck}} {{(index .Config.Env 0) | len | ne 0}}", ref), 0, `{"Test":["CMD","test","-e","/etc/passwd"],"Interval":200000000} true`+"\n")
	detached(t, e, "--name", "image", "--network", "none", ref, "sleep", "1000")
	health(t, e, "image", "healthy")
	want(t, e.Viv("inspect", "-f", "{{json .Config.Healthcheck}}", "image"), 0, `{"Test":["CMD","test","-e","/etc/passwd"],"Interval":200000000}`+"\n")
	detached(t, e, "--name", "off", "--network", "none", "--no-healthcheck", ref, "sleep", "1000")
	want(t, e.Viv("inspect", "-f", "{{json .Config.Healthcheck}} {{json .State.Health}}", "off"), 0, `{"Test":["NONE"]} null`+"\n")
	detached(t, e, "--name", "other", "--network", "none", "--health-cmd", "false", "--health-retries", "1", ref, "sleep", "1000")
	health(t, e, "other", "unhealthy")
	// It lives through an archive.
	dir := t.TempDir()
	e.MustViv("rm", "-f", "image", "off", "other")
	e.MustViv("save", "-o", dir+"/image.tar", ref)
	e.MustViv("rmi", ref)
	e.MustViv("load", "-i", dir+"/image.tar")
	detached(t, e, "--name", "image", "--network", "none", ref, "sleep", "1000")
	health(t, e, "image", "healthy")
}

func TestHealthFlags(t *testing.T) {
	e := newBox(t)
	for range 5 { // ends before the first check, and leaves nothing
		want(t, e.Viv("run", "--rm", "--network", "none", "--health-cmd", "true", "--health-interval", "1ms", box, "echo", "short"), 0, "short\n")
	}
	refuse(t, e, []badRun{
		{args: []string{"--no-healthcheck", "--health-cmd", "true"}, words: []string{"--no-healthcheck conflicts with --health-* options"}},
		{args: []string{"--health-cmd", "true", "--health-interval", "-1s"}, words: []string{"--health-interval cannot be negative"}},
		{args: []string{"--health-cmd", "true", "--health-retries", "-1"}, words: []string{"--health-retries cannot be negative"}},
		{args: []string{"--health-cmd", "true", "--health-interval", "1us"}, words: []string{"interval", "cannot be less than 1ms"}},
		{args: []string{"--health-cmd", "true", "--health-timeout", "x"}, words: []string{"--health-timeout"}},
	})
	e.MustViv("create", "--name", "flags", "--health-cmd", "a b", "--health-interval", "1m", "--health-timeout", "2s", "--health-start-period", "3s", "--health-retries", "4", box, "true")
	want(t, e.Viv("inspect", "-f", "{{json .Config.Healthcheck}}", "flags"), 0, `{"Test":["CMD-SHELL","a b"],"Interval":60000000000,"Timeout":2000000000,"StartPeriod":3000000000,"Retries":4}`+"\n")
}
