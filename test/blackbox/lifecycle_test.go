package blackbox

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"vivarium/internal/testenv"
)

var fullID = regexp.MustCompile(`^[0-9a-f]{64}$`)

// detached starts a container in the background and returns its identifier.
func detached(t *testing.T, e *testenv.Instance, args ...string) string {
	t.Helper()
	id := e.MustViv(append([]string{"run", "-d"}, args...)...)
	if !fullID.MatchString(id) {
		t.Fatalf("run -d printed %q, want an identifier of 64 digits", id)
	}
	return id
}

func inspect(t *testing.T, e *testenv.Instance, container, format string) string {
	t.Helper()
	return e.MustViv("inspect", "--format", format, container)
}

func TestDetached(t *testing.T) {
	e := newBox(t)
	id := detached(t, e, "--name", "one", "-l", "color=red", box, "sh", "-c", "echo out; echo err >&2; exec sleep 1000")
	if got := e.MustViv("ps", "--format", "{{.ID}} {{.Names}} {{.Image}}"); got != id[:12]+" one box" {
		t.Errorf("ps: %q", got)
	}
	if got := e.MustViv("ps", "-q", "--no-trunc", "--filter", "label=color=red"); got != id {
		t.Errorf("ps by label: %q", got)
	}
	if got := e.MustViv("ps", "-q", "--filter", "label=color=blue"); got != "" {
		t.Errorf("ps by another label: %q", got)
	}
	if got := inspect(t, e, "one", "{{.State.Status}} {{.State.Running}} {{.Id}}"); got != "running true "+id {
		t.Errorf("inspect: %q", got)
	}
	follow := e.Command("logs", "-f", id)
	p := follow.Start()
	p.Expect("out")
	e.MustViv("stop", "-t", "1", id[:12])
	res := p.Wait()
	if res.Code != 0 || res.Stdout != "out\n" || res.Stderr != "err\n" {
		t.Errorf("logs -f: %v", res)
	}
	if got := inspect(t, e, "one", "{{.State.Status}} {{.State.ExitCode}}"); got != "exited 137" {
		t.Errorf("after stop of a process that ignores SIGTERM (as first processes do): %q", got)
	}
	if got := e.MustViv("ps", "-q"); got != "" {
		t.Errorf("ps shows a stopped container: %q", got)
	}
	if got := e.MustViv("ps", "-a", "--format", "{{.Status}}"); !strings.HasPrefix(got, "Exited (137) ") {
		t.Errorf("status: %q", got)
	}
	if got := e.MustViv("rm", "one"); got != "one" {
		t.Errorf("rm printed %q", got)
	}
	fails(t, e.Viv("inspect", "one"), 1, "one")
}

func TestWaitAndStop(t *testing.T) {
	e := newBox(t)
	trap := "trap 'echo caught; exit 7' TERM; echo ready; while :; do sleep 1 & wait $!; done"
	id := detached(t, e, box, "sh", "-c", trap)
	e.Command("logs", "-f", id).Start().Expect("ready")
	waiter := e.Command("wait", id).Start()
	e.MustViv("stop", id)
	want(t, waiter.Wait(), 0, "7\n")
	want(t, e.Viv("logs", id), 0, "ready\ncaught\n")
	want(t, e.Viv("wait", id), 0, "7\n")

	other := detached(t, e, "--stop-signal", "USR1", box, "sh", "-c", strings.ReplaceAll(trap, "TERM", "USR1"))
	e.Command("logs", "-f", other).Start().Expect("ready")
	e.MustViv("stop", other)
	want(t, e.Viv("wait", other), 0, "7\n")
}

func TestKill(t *testing.T) {
	e := newBox(t)
	id := detached(t, e, box, "sleep", "1000")
	e.MustViv("kill", id)
	want(t, e.Viv("wait", id), 0, "137\n")
	fails(t, e.Viv("kill", id), 1, "not running")
	id = detached(t, e, box, "sh", "-c", "trap 'exit 9' HUP; echo ready; while :; do sleep 1 & wait $!; done")
	e.Command("logs", "-f", id).Start().Expect("ready")
	e.MustViv("kill", "-s", "HUP", id)
	want(t, e.Viv("wait", id), 0, "9\n")
	fails(t, e.Viv("kill", "-s", "NOSUCH", id), 1, "nosuch")
	fails(t, e.Viv("kill", "no-such-container"), 1, "no-such-container")
}

func TestSignalProxy(t *testing.T) {
	e := newBox(t)
	p := e.Command("run", "--rm", box, "sh", "-c", "trap 'echo got it; exit 5' TERM; echo ready; while :; do sleep 1 & wait $!; done").Start()
	p.Expect("ready")
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	want(t, p.Wait(), 5, "ready\ngot it\n")
}

func TestExec(t *testing.T) {
	e := newBox(t)
	id := detached(t, e, "-e", "FROM=run", "-w", "/usr", box, "sleep", "1000")
	for _, c := range []struct {
		name   string
		args   []string
		code   int
		stdout string
	}{
		{"code", []string{id, "sh", "-c", "exit 9"}, 9, ""},
		{"env and workdir", []string{"-e", "MORE=1", id, "sh", "-c", "echo $FROM $MORE; pwd"}, 0, "run 1\n/usr\n"},
		{"workdir", []string{"-w", "/etc", id, "pwd"}, 0, "/etc\n"},
		{"user", []string{"-u", "app", id, "id", "-u"}, 0, "1000\n"},
		{"capabilities", []string{id, "grep", "CapEff", "/proc/self/status"}, 0, "CapEff:\t00000000a80425fb\n"},
		{"seccomp", []string{id, "grep", "Seccomp:", "/proc/self/status"}, 0, "Seccomp:\t2\n"},
		{"descriptors", []string{id, "ls", "/proc/self/fd"}, 0, "0\n1\n2\n3\n"},
		{"same processes", []string{id, "sh", "-c", "tr '\\0' ' ' </proc/1/cmdline"}, 0, "sleep 1000 "},
		{"same control group", []string{id, "sh", "-c", "cmp /proc/1/cgroup /proc/self/cgroup && echo same"}, 0, "same\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			want(t, e.Viv(append([]string{"exec"}, c.args...)...), c.code, c.stdout)
		})
	}
	cmd := e.Command("exec", "-i", id, "cat")
	cmd.Stdin = strings.NewReader("through\n")
	want(t, cmd.Run(), 0, "through\n")
	tty := e.Command("exec", "-it", id, "sh")
	tty.Terminal = true
	p := tty.Start()
	p.Type("tty; exit 4\n")
	if res := p.Wait(); res.Code != 4 || !strings.Contains(res.Stdout, "/dev/pts/") {
		t.Errorf("exec -it: %v", res)
	}
	// Docker says 127 since it took over from runc what failed; 20.10 says 126.
	if res := e.Viv("exec", id, "no-such-command"); res.Code != 127 && !(testenv.Reference() && res.Code == 126) {
		t.Errorf("missing command: %v", res)
	}
	if res := e.Viv("exec", id, "/etc/not-executable"); res.Code != 126 {
		t.Errorf("not executable: %v", res)
	}
	e.MustViv("exec", "-d", id, "sh", "-c", "echo done >/done")
	eventually(t, "the detached exec's file", func() bool { return e.Viv("exec", id, "cat", "/done").Stdout == "done\n" })
	e.MustViv("kill", id)
	e.MustViv("wait", id)
	fails(t, e.Viv("exec", id, "true"), 1, "not running")
}

// eventually waits for what has no event of its own.
func eventually(t *testing.T, what string, happened func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); <-tick.C {
		if happened() {
			return
		}
	}
	t.Fatalf("waited in vain for %s", what)
}

func TestCreateStartAttach(t *testing.T) {
	e := newBox(t)
	cidfile := filepath.Join(t.TempDir(), "cid")
	id := e.MustViv("create", "--name", "made", "--cidfile", cidfile, "-i", box, "sh", "-c", "echo hello; cat; exit 6")
	if data, err := os.ReadFile(cidfile); err != nil || string(data) != id {
		t.Errorf("cidfile: %q, %v", data, err)
	}
	if got := inspect(t, e, "made", "{{.State.Status}}"); got != "created" {
		t.Errorf("status after create: %q", got)
	}
	cmd := e.Command("start", "-a", "-i", "made")
	cmd.Stdin = strings.NewReader("typed\n")
	want(t, cmd.Run(), 6, "hello\ntyped\n")
	fails(t, e.Viv("create", "--name", "made", box, "true"), 1, "made", "in use")
	fails(t, e.Viv("run", "--name", "made", box, "true"), 125, "made", "in use")
	fails(t, e.Viv("create", "--cidfile", cidfile, box, "true"), 1, "cid")

	id = detached(t, e, "-i", box, "sh", "-c", "echo waiting; read x; echo got $x; read y; exit 8")
	attach := e.Command("attach", id)
	in, out := io.Pipe()
	attach.Stdin = in
	p := attach.Start()
	if _, err := io.WriteString(out, "word\n"); err != nil {
		t.Fatal(err)
	}
	p.Expect("got word\n")
	if _, err := io.WriteString(out, "end\n"); err != nil {
		t.Fatal(err)
	}
	// The command's end does not end the copy from a pipe that nobody closes.
	out.Close()
	if res := p.Wait(); res.Code != 8 {
		t.Errorf("attach: %v", res)
	}
}

func TestDetachKeys(t *testing.T) {
	e := newBox(t)
	cmd := e.Command("run", "-it", "--name", "box1", box, "sh", "-c", "echo ready; read x; echo got $x; exit 2")
	cmd.Terminal = true
	p := cmd.Start()
	p.Expect("ready")
	p.Type("\x10")
	p.Type("\x11")
	if res := p.Wait(); res.Code != 0 {
		t.Errorf("detached by its keys: %v", res)
	}
	if got := inspect(t, e, "box1", "{{.State.Status}}"); got != "running" {
		t.Fatalf("after detaching: %q", got)
	}
	again := e.Command("attach", "box1")
	again.Terminal = true
	p = again.Start()
	p.Type("back\n")
	p.Expect("got back")
	if res := p.Wait(); res.Code != 2 {
		t.Errorf("attached again: %v", res)
	}
}

func TestRestart(t *testing.T) {
	e := newBox(t)
	id := detached(t, e, box, "sh", "-c", "echo start; exec sleep 1000")
	e.Command("logs", "-f", id).Start().Expect("start")
	first := inspect(t, e, id, "{{.State.Pid}}")
	e.MustViv("restart", "-t", "0", id)
	eventually(t, "the second start", func() bool { return e.Viv("logs", id).Stdout == "start\nstart\n" })
	if second := inspect(t, e, id, "{{.State.Pid}}"); second == first {
		t.Errorf("restart kept process %s", first)
	}
	retry := detached(t, e, "--restart", "on-failure:2", box, "sh", "-c", "echo try; exit 3")
	want(t, e.Viv("wait", retry), 0, "3\n")
	eventually(t, "the last try", func() bool {
		return e.MustViv("inspect", "--format", "{{.State.Status}} {{.RestartCount}}", retry) == "exited 2"
	})
	want(t, e.Viv("logs", retry), 0, "try\ntry\ntry\n")
}

func TestPauseUpdateTopStats(t *testing.T) {
	e := newBox(t)
	id := detached(t, e, "-m", "64m", box, "sleep", "1000")
	e.MustViv("pause", id)
	if got := inspect(t, e, id, "{{.State.Status}} {{.State.Paused}}"); got != "paused true" {
		t.Errorf("paused: %q", got)
	}
	fails(t, e.Viv("exec", id, "true"), 1, "paused")
	e.MustViv("unpause", id)
	want(t, e.Viv("exec", id, "true"), 0, "")
	e.MustViv("update", "-m", "32m", "--memory-swap", "32m", id)
	if got := inspect(t, e, id, "{{.HostConfig.Memory}}"); got != "33554432" {
		t.Errorf("updated memory: %q", got)
	}
	file := "/sys/fs/cgroup/memory/memory.limit_in_bytes"
	if oneV2() {
		file = "/sys/fs/cgroup/memory.max"
	}
	want(t, e.Viv("exec", id, "cat", file), 0, "33554432\n")
	if top := e.MustViv("top", id); !strings.Contains(top, "PID") || !strings.Contains(top, "sleep 1000") {
		t.Errorf("top: %q", top)
	}
	stats := e.MustViv("stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}} {{.PIDs}}", id)
	// On this machine's control groups 20.10 has only zeros of one with a limit.
	if !testenv.Reference() && (!strings.Contains(stats, "32MiB") || !strings.HasSuffix(stats, " 1")) {
		t.Errorf("stats: %q", stats)
	}
}

func TestRename(t *testing.T) {
	e := newBox(t)
	id := detached(t, e, "--name", "before", box, "sleep", "1000")
	detached(t, e, "--name", "taken", box, "sleep", "1000")
	e.MustViv("rename", "before", "after")
	if got := inspect(t, e, "after", "{{.Id}} {{.Name}}"); got != id+" /after" {
		t.Errorf("renamed: %q", got)
	}
	fails(t, e.Viv("inspect", "before"), 1, "before")
	fails(t, e.Viv("rename", "after", "taken"), 1, "taken", "in use")
	fails(t, e.Viv("rm", "after"), 1, "running")
	e.MustViv("rm", "-f", "after", "taken")
}

func TestCopyDiffExport(t *testing.T) {
	e := newBox(t)
	dir := t.TempDir()
	from := filepath.Join(dir, "from")
	if err := os.WriteFile(from, []byte("inside\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	id := detached(t, e, box, "sh", "-c", "rm /etc/not-executable; echo more >>/etc/passwd; mkdir /new; echo ready; exec sleep 1000")
	e.Command("logs", "-f", id).Start().Expect("ready")
	e.MustViv("cp", from, id+":/new/file")
	want(t, e.Viv("exec", id, "cat", "/new/file"), 0, "inside\n")
	want(t, e.Viv("exec", id, "stat", "-c", "%a", "/new/file"), 0, "640\n")
	e.MustViv("cp", id+":/new", filepath.Join(dir, "out"))
	if data, err := os.ReadFile(filepath.Join(dir, "out", "file")); err != nil || string(data) != "inside\n" {
		t.Errorf("copied out: %q, %v", data, err)
	}
	diff := strings.Split(e.MustViv("diff", id), "\n")
	for _, line := range []string{"C /etc", "D /etc/not-executable", "C /etc/passwd", "A /new", "A /new/file"} {
		if !slices.Contains(diff, line) {
			t.Errorf("diff lacks %q: %q", line, diff)
		}
	}
	if len(diff) != 5 {
		t.Errorf("diff has more than what was changed: %q", diff)
	}
	stream := e.MustViv("cp", id+":/new/file", "-")
	if name, data := firstFile(t, stream); name != "file" || data != "inside\n" {
		t.Errorf("copied to a stream: %q %q", name, data)
	}
	fails(t, e.Viv("cp", id+":/no/such", dir), 1, "/no/such")
	out := filepath.Join(dir, "export.tar")
	e.MustViv("export", "-o", out, id)
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	names := tarNames(t, text)
	if !slices.Contains(names, "new/file") || slices.Contains(names, "etc/not-executable") {
		t.Errorf("export has %d entries without the container's changes", len(names))
	}
}

// TestCopyStaysInside has the container lay links that lead out of it.
func TestCopyStaysInside(t *testing.T) {
	e := newBox(t)
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("host secret\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	id := detached(t, e, box, "sh", "-c", "ln -s "+secret+" /leak; ln -s "+dir+" /way-out; echo ready; exec sleep 1000")
	e.Command("logs", "-f", id).Start().Expect("ready")
	e.Viv("cp", "-L", id+":/leak", filepath.Join(dir, "stolen"))
	if data, err := os.ReadFile(filepath.Join(dir, "stolen")); err == nil && strings.Contains(string(data), "secret") {
		t.Error("cp followed a container's link to a file of the host")
	}
	payload := filepath.Join(dir, "payload")
	if err := os.WriteFile(payload, []byte("evil\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	e.Viv("cp", payload, id+":/way-out/secret")
	if data, err := os.ReadFile(secret); err != nil || string(data) != "host secret\n" {
		t.Errorf("cp wrote to the host through a container's link: %q, %v", data, err)
	}
}

func firstFile(t *testing.T, stream string) (name, content string) {
	t.Helper()
	r := tar.NewReader(strings.NewReader(stream))
	h, err := r.Next()
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return h.Name, string(data)
}

// tarNames gives the names in a tar, without a leading "./".
func tarNames(t *testing.T, data []byte) []string {
	t.Helper()
	names := rawNames(t, data)
	for i := range names {
		names[i] = strings.TrimPrefix(names[i], "./")
	}
	return names
}

func rawNames(t *testing.T, data []byte) []string {
	t.Helper()
	var names []string
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
}

func TestLogs(t *testing.T) {
	e := newBox(t)
	id := detached(t, e, box, "sh", "-c", "for i in 1 2 3 4 5; do echo $i; done; printf 'no newline'")
	e.MustViv("wait", id)
	want(t, e.Viv("logs", id), 0, "1\n2\n3\n4\n5\nno newline")
	want(t, e.Viv("logs", "--tail", "2", id), 0, "5\nno newline")
	stamped := e.MustViv("logs", "-t", "--tail", "2", id)
	line, _, _ := strings.Cut(stamped, "\n")
	stamp, text, _ := strings.Cut(line, " ")
	if _, err := time.Parse(time.RFC3339Nano, stamp); err != nil || text != "5" {
		t.Errorf("logs -t: %q", stamped)
	}
	want(t, e.Viv("logs", "--since", time.Now().Add(time.Hour).Format(time.RFC3339), id), 0, "")
	want(t, e.Viv("logs", "--until", "2001-01-01T00:00:00Z", id), 0, "")
}

func TestInspect(t *testing.T) {
	e := newBox(t)
	id := detached(t, e, "--name", "one", "-m", "64m", "--cpus", "0.5", "-e", "A=b", "-l", "k=v", "-h", "hosty",
		"-w", "/usr", "-u", "app", "--read-only", "--restart", "no", "--pids-limit", "50", box, "sleep", "1000")
	var all []struct {
		ID     string `json:"Id"`
		Name   string
		Path   string
		Args   []string
		Config struct {
			Hostname, User, WorkingDir, Image string
			Env, Cmd                          []string
			Labels                            map[string]string
		}
		HostConfig struct {
			Memory, NanoCpus, PidsLimit int64
			ReadonlyRootfs              bool
		}
		State struct {
			Status    string
			Pid       int
			StartedAt time.Time
		}
	}
	if err := json.Unmarshal([]byte(e.MustViv("inspect", "one")), &all); err != nil || len(all) != 1 {
		t.Fatalf("inspect: %v, %d objects", err, len(all))
	}
	c := all[0]
	if c.ID != id || c.Name != "/one" || c.Path != "sleep" || !slices.Equal(c.Args, []string{"1000"}) {
		t.Errorf("identity: %+v", c)
	}
	if c.Config.Hostname != "hosty" || c.Config.User != "app" || c.Config.WorkingDir != "/usr" ||
		c.Config.Image != box || !slices.Contains(c.Config.Env, "A=b") || c.Config.Labels["k"] != "v" {
		t.Errorf("config: %+v", c.Config)
	}
	if c.HostConfig.Memory != 64<<20 || c.HostConfig.NanoCpus != 5e8 || c.HostConfig.PidsLimit != 50 || !c.HostConfig.ReadonlyRootfs {
		t.Errorf("host config: %+v", c.HostConfig)
	}
	if c.State.Status != "running" || c.State.Pid <= 1 || time.Since(c.State.StartedAt) > time.Hour {
		t.Errorf("state: %+v", c.State)
	}
	fails(t, e.Viv("inspect", "--format", "{{.NoSuchField}}", "one"), 1, "NoSuchField")
	if res := e.Viv("inspect", "--format", "{{", "one"); res.Code == 0 || !strings.Contains(res.Stderr, "template") {
		t.Errorf("a broken template: %v", res)
	}
}

func TestEvents(t *testing.T) {
	e := newBox(t)
	since := time.Now().Add(-time.Second).Format(time.RFC3339Nano)
	want(t, e.Viv("run", "--rm", "--name", "short", box, "sh", "-c", "exit 3"), 3, "")
	until := time.Now().Add(time.Second).Format(time.RFC3339Nano)
	out := e.MustViv("events", "--since", since, "--until", until, "--filter", "container=short", "--format", "{{.Action}}")
	got := strings.Fields(out)
	at := -1
	for _, action := range []string{"create", "start", "die", "destroy"} {
		i := slices.Index(got, action)
		if i <= at {
			t.Errorf("events are %q; %s is missing or out of order", got, action)
		}
		at = max(at, i)
	}
}
