package blackbox

import (
	"strings"
	"syscall"
	"testing"

	"vivarium/internal/testenv"
)

func TestInit(t *testing.T) {
	e := newBox(t)
	check(t, e, []runCase{
		{name: "is the first process", flags: []string{"--init"}, command: `tr '\0' '\n' < /proc/1/cmdline | head -n 2; [ $$ != 1 ]`, stdout: "/sbin/docker-init\n--\n"},
		{name: "status", flags: []string{"--init"}, command: "exit 42", code: 42},
		{name: "a signal", flags: []string{"--init"}, command: "kill -KILL $$", code: 137},
		{name: "input", flags: []string{"--init", "-i"}, args: []string{"cat"}, stdin: "through\n", stdout: "through\n"},
		{name: "user", flags: []string{"--init", "-u", "12:34"}, command: "id -u; id -g", stdout: "12\n34\n"},
		{name: "entrypoint", flags: []string{"--init", "--entrypoint", "echo"}, args: []string{"a", "b c"}, stdout: "a b c\n"},
		{name: "read-only", flags: []string{"--init", "--read-only"}, command: "echo fine", stdout: "fine\n"},
		{name: "cannot be written", flags: []string{"--init"}, command: `for f in /sbin/docker-init /proc/1/exe; do (: >> $f) 2>/dev/null || echo no; done`, stdout: "no\nno\n"},
		{name: "environment", flags: []string{"--init"}, command: `env | cut -d= -f1 | sort | tr '\n' ' '`, stdout: "HOME HOSTNAME PATH PWD SHLVL "},
	})
	for _, c := range []struct {
		command string
		code    int
		word    string
	}{{"no-such-command", 127, "no such file"}, {"/etc/not-executable", 126, "permission denied"}, {"/etc", 126, "permission denied"}} {
		fails(t, e.Viv("run", "--rm", "--init", box, c.command), c.code, c.command, c.word)
	}
}

// TestInitReaps leaves orphans to the init: none may stay as a zombie.
func TestInitReaps(t *testing.T) {
	e := newBox(t)
	id := detached(t, e, "--init", box, "sh", "-c", "for i in 1 2 3 4 5 6 7 8; do (true &); done; exec sleep 1000")
	eventually(t, "the orphans to be reaped", func() bool {
		res := e.Viv("exec", id, "sh", "-c", "cat /proc/[0-9]*/stat")
		return res.Code == 0 && strings.Contains(res.Stdout, "(sleep)") && !strings.Contains(res.Stdout, ") Z ")
	})
}

func TestInitForwardsSignals(t *testing.T) {
	e := newBox(t)
	for _, sig := range []string{"TERM", "USR1", "WINCH"} {
		id := detached(t, e, "--init", box, "sh", "-c", "trap 'echo got; exit 33' "+sig+"; echo ready; while :; do sleep 0.05; done")
		eventually(t, "the trap to be set", func() bool { return e.MustViv("logs", id) == "ready" })
		e.MustViv("kill", "-s", sig, id)
		want(t, e.Viv("wait", id), 0, "33\n")
		want(t, e.Viv("logs", id), 0, "ready\ngot\n")
	}
	// stop asks a command that would not hear as the first process; an init that
	// has been started hears at once.
	for range 1 + 19/stride() {
		id := detached(t, e, "--init", box, "sleep", "1000")
		e.MustViv("stop", "-t", "60", id)
		if got := inspect(t, e, id, "{{.State.ExitCode}}"); got != "143" {
			t.Fatalf("the command ended with %s, want 143", got)
		}
	}
	p := e.Command("run", "--rm", "--init", box, "sh", "-c", "trap 'exit 34' INT; echo ready; while :; do sleep 0.05; done").Start()
	p.Expect("ready")
	if err := p.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if res := p.Wait(); res.Code != 34 {
		t.Errorf("after SIGINT to run: %v", res)
	}
}

// TestInitTerminal gives the command the terminal: its keys are for the command.
func TestInitTerminal(t *testing.T) {
	e := newBox(t)
	cmd := e.Command("run", "--rm", "-it", "--init", box, "sh", "-c",
		"test -t 0 && trap 'echo interrupted; exit 35' INT; echo ready; while :; do sleep 0.05; done")
	cmd.Terminal = true
	p := cmd.Start()
	p.Expect("ready")
	p.Type("\x03")
	if res := p.Wait(); res.Code != 35 || !strings.Contains(res.Stdout, "interrupted") {
		t.Errorf("after ^C: %v", res)
	}
	// The command is in the foreground of its terminal.
	cmd = e.Command("run", "--rm", "-it", "--init", box, "sh", "-c", `awk "{ print (\$5 == \$8) ? \"fore\" \"ground\" : \"back\" }" /proc/$$/stat; exit 36`)
	cmd.Terminal = true
	p = cmd.Start()
	p.Expect("foreground")
	if res := p.Wait(); res.Code != 36 {
		t.Errorf("the shell: %v", res)
	}
}

// TestInitOfTheHost runs the init above the machine's own root.
func TestInitOfTheHost(t *testing.T) {
	vivOnly(t, "the image host is Vivarium's own")
	testenv.Root(t)
	e := testenv.Engine(t)
	want(t, e.Viv("run", "--rm", "--init", "--network", "none", "host", "sh", "-c", "exit 6"), 6, "")
}
