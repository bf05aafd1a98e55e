package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/pflag"

	"vivarium/bundle"
	"vivarium/engine"
	"vivarium/monitor/client"
	"vivarium/monitor/wire"
	"vivarium/network"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares with testdata/name.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs:\n%s\nwant:\n%s", name, got, want)
	}
}

var now = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// summaries are containers in each state.
func summaries() []engine.Summary {
	ago := func(d time.Duration) int64 { return now.Add(-d).UnixNano() }
	mk := func(n byte, name string, st wire.Status) engine.Summary {
		return engine.Summary{State: st, Networks: map[string]string{"bridge": ""}, Container: &engine.Container{
			ID: strings.Repeat(string(n), 64), Name: name, Created: now.Add(-3 * time.Hour), Image: "busybox:latest", Path: "sh", Args: []string{"-c", "sleep 1000; echo done"},
		}}
	}
	list := []engine.Summary{
		mk('a', "up", wire.Status{State: wire.Running, StartedAt: ago(2 * time.Minute)}),
		mk('b', "frozen", wire.Status{State: wire.Paused, StartedAt: ago(26 * time.Hour)}),
		mk('c', "again", wire.Status{State: wire.Restarting, ExitCode: 1, FinishedAt: ago(5 * time.Second)}),
		mk('d', "over", wire.Status{State: wire.Exited, ExitCode: 137, FinishedAt: ago(40 * 24 * time.Hour)}),
		mk('e', "new", wire.Status{State: wire.Created}),
	}
	list[0].Ports = []network.PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: network.TCP}}
	list[0].Container.Options.Config.Labels = map[string]string{"b": "2", "a": "1"}
	list[0].Container.Mounts = []engine.MountPoint{{Type: bundle.MountVolume, Name: "a-volume-with-a-long-name", Destination: "/d"}, {Type: bundle.MountBind, Source: "/srv"}}
	return list
}

func psRows(noTrunc bool) []any {
	var rows []any
	for _, s := range summaries() {
		rows = append(rows, psRowOf(&s, now, noTrunc))
	}
	return rows
}

func TestPsFormats(t *testing.T) {
	for _, tc := range []struct {
		file, format   string
		quiet, noTrunc bool
	}{
		{"ps", "", false, false},
		{"ps-no-trunc", "table {{.ID}}\t{{.Command}}\t{{.Mounts}}", false, true},
		{"ps-quiet", "", true, false},
		{"ps-table", "table {{.Names}}\t{{.State}}\t{{.Label \"a\"}}\t{{.Networks}}", false, false},
		{"ps-template", "{{.Names}}: {{upper .State}} {{json .Ports}} {{.Labels}} {{.LocalVolumes}} {{.Mounts}}", false, false},
		{"ps-json", "json", false, false},
	} {
		l := listing{headers: psHeaders, quiet: "{{.ID}}", table: psTable, format: tc.format}
		rows := psRows(tc.noTrunc)
		for i, r := range rows { // in local time, whose zone is not the test's
			row := r.(psRow)
			row.CreatedAt = "then"
			rows[i] = row
		}
		var b bytes.Buffer
		if err := l.print(&b, tc.quiet, rows); err != nil {
			t.Errorf("%s: %v", tc.file, err)
		}
		golden(t, tc.file, b.String())
	}
}

func TestBadTemplates(t *testing.T) {
	for _, format := range []string{"{{.ID", "{{.NoSuchField}}", "{{nofunc .ID}}", "table {{.ID | nope}}"} {
		l := listing{headers: psHeaders, table: psTable, format: format}
		if err := l.print(&bytes.Buffer{}, false, psRows(false)); err == nil || !strings.HasPrefix(err.Error(), "template parsing error: ") {
			t.Errorf("%q: %v", format, err)
		}
	}
}

func TestInspectTemplates(t *testing.T) {
	v := &engine.Inspection{ID: "abc", State: engine.InspectState{Running: true}}
	v.HostConfig.Memory = 134217728
	for format, want := range map[string]string{
		"{{.Id}} {{.ID}}":                "", // the two cannot be mixed
		"{{.Id}}":                        "abc\n",
		"{{.ID}}":                        "abc\n",
		"{{.State.Running}}":             "true\n",
		"{{.HostConfig.Memory}}":         "134217728\n",
		"{{json .State.Running}}":        "true\n",
		"{{.Id}} {{.HostConfig.Memory}}": "abc 134217728\n", // through JSON a size stays a size
	} {
		tmpl, err := parseTemplate(format)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		err = executeInspect(&b, tmpl, v)
		if b.String() != want || (want == "") != (err != nil) {
			t.Errorf("%q: %q, %v; want %q", format, b.String(), err, want)
		}
	}
}

func TestPortList(t *testing.T) {
	one := netip.MustParseAddr("127.0.0.1")
	for _, tc := range []struct {
		ports []network.PortMapping
		want  string
	}{
		{nil, ""},
		{[]network.PortMapping{{ContainerPort: 80, Protocol: network.TCP}}, "80/tcp"},
		{[]network.PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: network.TCP}}, "0.0.0.0:8080->80/tcp"},
		{[]network.PortMapping{{HostIP: one, HostPort: 53, ContainerPort: 53, Protocol: network.UDP}}, "127.0.0.1:53->53/udp"},
		{[]network.PortMapping{
			{HostPort: 9001, ContainerPort: 81, Protocol: network.TCP}, {HostPort: 9000, ContainerPort: 80, Protocol: network.TCP},
			{HostPort: 9002, ContainerPort: 82, Protocol: network.TCP}, {HostPort: 9500, ContainerPort: 83, Protocol: network.TCP},
		}, "0.0.0.0:9000-9002->80-82/tcp, 0.0.0.0:9500->83/tcp"},
		{[]network.PortMapping{{ContainerPort: 80, Protocol: network.TCP}, {ContainerPort: 81, Protocol: network.TCP}}, "80-81/tcp"},
	} {
		if got := portList(tc.ports); got != tc.want {
			t.Errorf("%v: %q, want %q", tc.ports, got, tc.want)
		}
	}
}

func TestDetachKeys(t *testing.T) {
	for in, want := range map[string]string{"": "\x10\x11", "ctrl-p,ctrl-q": "\x10\x11", "ctrl-a": "\x01", "a,b": "ab", "ctrl-[": "\x1b", "ctrl-@,x": "\x00x", "Ctrl-P": "\x10"} {
		if got, err := parseDetachKeys(in); err != nil || string(got) != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	for _, in := range []string{"ctrl-", "ctrl-1", "ab", "ctrl-a,", "ctrl-ab"} {
		if got, err := parseDetachKeys(in); err == nil {
			t.Errorf("%q is taken for %q", in, got)
		}
	}
}

func TestKeyFilter(t *testing.T) {
	for _, tc := range []struct {
		keys  string
		reads []string
		want  string
		done  bool
	}{
		{"\x10\x11", []string{"abc"}, "abc", false},
		{"\x10\x11", []string{"a\x10\x11b"}, "a", true},
		{"\x10\x11", []string{"a\x10", "\x11"}, "a", true},
		{"\x10\x11", []string{"a\x10", "b"}, "a\x10b", false},
		{"\x10\x11", []string{"\x10\x10\x11"}, "\x10", true},
		{"\x10\x11", []string{"\x10\x10", "x"}, "\x10\x10x", false},
		{"q", []string{"abq"}, "ab", true},
		{"", []string{"\x10\x11"}, "\x10\x11", false},
	} {
		k := newKeyFilter([]byte(tc.keys))
		var got []byte
		done := false
		for _, r := range tc.reads {
			var out []byte
			out, done = k.filter([]byte(r))
			got = append(got, out...)
		}
		if string(got) != tc.want || done != tc.done {
			t.Errorf("%q of %q: %q, %v; want %q, %v", tc.reads, tc.keys, got, done, tc.want, tc.done)
		}
	}
}

func TestApplyChange(t *testing.T) {
	var c ispec.ImageConfig
	for _, ch := range []string{
		`CMD ["sh","-c","x"]`, `ENTRYPOINT run it`, `ENV A=1 B="two words"`, `env OLD some value`, `LABEL x=y z='a b'`,
		`EXPOSE 80 53/udp`, `VOLUME /data`, `VOLUME ["/a b"]`, `USER bob`, `WORKDIR /w`, `STOPSIGNAL SIGUSR1`,
	} {
		if err := applyChange(&c, ch); err != nil {
			t.Errorf("%s: %v", ch, err)
		}
	}
	if got := fmt.Sprintf("%v %v %v %s %s %s", c.Cmd, c.Entrypoint, c.Env, c.User, c.WorkingDir, c.StopSignal); got != `[sh -c x] [/bin/sh -c run it] [A=1 B=two words OLD=some value] bob /w SIGUSR1` {
		t.Error(got)
	}
	if len(c.ExposedPorts) != 2 || len(c.Volumes) != 2 || c.Labels["z"] != "a b" {
		t.Errorf("%+v", c)
	}
	for _, bad := range []string{"", "CMD", "RUN x", "EXPOSE x", "LABEL =x", `ENV A="`, "VOLUME [x"} {
		if err := applyChange(&ispec.ImageConfig{}, bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestLogText(t *testing.T) {
	l := engine.LogLine{Log: "hello\n", Time: time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC), Attrs: map[string]string{"b": "2", "a": "1"}}
	for _, tc := range []struct {
		timestamps, details bool
		want                string
	}{
		{false, false, "hello\n"}, {true, false, "2026-01-02T03:04:05.000000600Z hello\n"},
		{false, true, "a=1,b=2 hello\n"}, {true, true, "2026-01-02T03:04:05.000000600Z a=1,b=2 hello\n"},
	} {
		if got := logText(l, tc.timestamps, tc.details); got != tc.want {
			t.Errorf("%q, want %q", got, tc.want)
		}
	}
}

func TestSplitCopy(t *testing.T) {
	for arg, want := range map[string][2]string{"web:/etc": {"web", "/etc"}, "/a:b": {"", "/a:b"}, "./a:b": {"", "./a:b"}, "file": {"", "file"}, "web:": {"web", ""}} {
		if c, p := splitCopy(arg); c != want[0] || p != want[1] {
			t.Errorf("%q: %q, %q", arg, c, p)
		}
	}
}

func TestFirstWord(t *testing.T) {
	for line, want := range map[string]string{
		"ps -a": "ps", "--root /x run": "run", "--root=/x -D images": "images", "--state run ps": "ps", "--storage-driver copy run": "run", "": "", "--help": "", "-v": "",
	} {
		if got := firstWord(strings.Fields(line)); got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

// TestEveryCommandCanBeMade makes the whole tree, looks for words that are there
// twice, and prints each command's help.
func TestEveryCommandCanBeMade(t *testing.T) {
	a := &app{in: os.Stdin, out: os.Stdout, err: os.Stderr}
	seen := map[string]bool{}
	for _, v := range topVerbs() {
		for name := range strings.FieldsSeq(v.names) {
			if seen[name] {
				t.Errorf("two commands are called %s", name)
			}
			seen[name] = true
		}
	}
	root := a.rootCommand(nil)
	for _, c := range root.Commands() {
		var b bytes.Buffer
		c.SetOut(&b)
		if err := c.Help(); err != nil || !strings.Contains(b.String(), c.Short) {
			t.Errorf("help of %s: %v", c.Name(), err)
		}
		if one := a.rootCommand([]string{c.Name()}); len(one.Commands()) != 1 {
			t.Errorf("%s grows %d branches", c.Name(), len(one.Commands()))
		}
	}
}

// result runs a command line on an engine of the test's own.
func result(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	dir := t.TempDir()
	out, err := os.Create(dir + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	errOut, err := os.Create(dir + "/err")
	if err != nil {
		t.Fatal(err)
	}
	defer errOut.Close()
	in, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	code = run(append([]string{"--root", dir + "/r", "--state", dir + "/s"}, args...), in, out, errOut)
	o, _ := os.ReadFile(dir + "/out")
	e, _ := os.ReadFile(dir + "/err")
	return code, string(o), string(e)
}

func TestExitCodes(t *testing.T) {
	// A monitor is started first, beside the rest; here it has nothing to do.
	t.Setenv("VIV_MONITOR", "/bin/true")
	for _, tc := range []struct {
		line   string
		code   int
		stderr string // a part
	}{
		{"ps", 0, ""},
		{"volume ls -q", 0, ""},
		{"version", 0, ""},
		{"nosuch", 125, "'nosuch' is not a viv command"},
		{"ps --nosuch", 125, "unknown flag: --nosuch. See 'viv ps --help'."},
		{"ps extra", 125, `"viv ps" accepts no arguments`},
		{"rm", 125, `"viv rm" requires at least 1 argument.`},
		{"rename one", 125, `"viv rename" requires exactly 2 arguments`},
		{"run", 125, `"viv run" requires at least 1 argument`},
		{"run --memory x host", 125, `invalid argument "x"`},
		{"run UPPER:", 125, "invalid reference format"},
		{"stop nosuch", 1, "No such container: nosuch"},
		{"inspect nosuch", 1, "No such object: nosuch"},
		{"inspect --type wrong x", 1, "not a valid value for --type"},
		{"exec nosuch true", 1, "No such container: nosuch"},
		{"logs nosuch", 1, "No such container: nosuch"},
		{"ps --filter x", 125, "bad format of filter"},
		{"ps --filter nosuch=1", 1, "invalid filter 'nosuch'"},
		{"kill -s NOPE x", 1, "No such container"},
		{"volume rm nosuch", 1, "no such volume"},
		{"cp a b", 1, "must specify at least one container source"},
		{"cp a:/x b:/y", 1, "copying between containers is not supported"},
		{"update nosuch", 1, "you must provide one or more flags"},
		{"logs --since yesterday x", 1, "failed to parse value as time or duration"},
	} {
		code, _, stderr := result(t, strings.Fields(tc.line)...)
		if code != tc.code || !strings.Contains(stderr, tc.stderr) {
			t.Errorf("%s: exit code %d, stderr %q; want %d, %q", tc.line, code, stderr, tc.code, tc.stderr)
		}
		if tc.code != 0 && strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s: not one line: %q", tc.line, stderr)
		}
	}
}

func TestFailOfARun(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(dir + "/err")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	a := &app{err: f}
	root := a.rootCommand([]string{"run"})
	cmd, _, err := root.Find([]string{"run"})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		err  error
		code int
	}{
		{errors.New("x"), 125},
		{fmt.Errorf("start: %w", &client.StartError{Step: "execute nosuch", Errno: 2, Code: 127}), 127},
		{&client.StartError{Step: "execute file", Errno: 13, Code: 126}, 126},
		{exitError{42}, 42},
	} {
		if got := a.fail(cmd, tc.err); got != tc.code {
			t.Errorf("%v: %d, want %d", tc.err, got, tc.code)
		}
	}
}

func TestVolumesByCommandLine(t *testing.T) {
	dir := t.TempDir()
	viv := func(args ...string) (int, string) {
		t.Helper()
		out, err := os.Create(dir + "/out")
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		code := run(append([]string{"--root", dir + "/r", "--state", dir + "/s"}, args...), os.Stdin, out, out)
		b, _ := os.ReadFile(dir + "/out")
		return code, string(b)
	}
	if code, out := viv("volume", "create", "--label", "k=v", "data"); code != 0 || out != "data\n" {
		t.Errorf("create: %d, %q", code, out)
	}
	if code, out := viv("volume", "ls", "--filter", "label=k=v"); code != 0 || out != "DRIVER    VOLUME NAME\nlocal     data\n" {
		t.Errorf("ls: %d, %q", code, out)
	}
	if code, out := viv("volume", "inspect", "-f", "{{.Name}} {{.Driver}} {{.Labels.k}}", "data"); code != 0 || out != "data local v\n" {
		t.Errorf("inspect: %d, %q", code, out)
	}
	if code, out := viv("inspect", "--format", "{{.Mountpoint}}", "data"); code != 0 || out != dir+"/r/volumes/data/_data\n" {
		t.Errorf("inspect of any kind: %d, %q", code, out)
	}
	if code, out := viv("volume", "rm", "data"); code != 0 || out != "data\n" {
		t.Errorf("rm: %d, %q", code, out)
	}
}

func TestUpdateNeedsAndKeeps(t *testing.T) {
	u := updateCommand{}
	u.define(pflag.NewFlagSet("update", pflag.ContinueOnError))
	if _, err := u.options(); err == nil {
		t.Error("an update of nothing is taken")
	}
	if err := u.fs.Parse([]string{"-m", "64m", "--pids-limit", "5", "--restart", "on-failure:3"}); err != nil {
		t.Fatal(err)
	}
	o, err := u.options()
	if err != nil {
		t.Fatal(err)
	}
	r := bundle.Resources{Memory: 1, MemorySwap: 1 << 20, CpuShares: 7}
	o.Change(&r)
	if r.Memory != 64<<20 || r.MemorySwap != 128<<20 || r.CpuShares != 7 || *r.PidsLimit != 5 || o.Restart.MaximumRetryCount != 3 {
		t.Errorf("%+v, %+v", r, o.Restart)
	}
}

func TestProxiedSignals(t *testing.T) {
	list := proxied()
	for _, s := range []os.Signal{os.Kill} {
		if slices.Contains(list, s) {
			t.Errorf("%v cannot be caught", s)
		}
	}
	if !slices.Contains(list, os.Interrupt) {
		t.Error("an interrupt is for the container")
	}
}
