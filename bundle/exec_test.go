package bundle

import (
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func execSpec(t *testing.T, set func(o *Options)) *specs.Spec {
	t.Helper()
	o := sleepOptions()
	set(&o)
	s, _, err := Spec(nil, o, testFacts())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestExecProcess(t *testing.T) {
	const path, host = "PATH=" + DefaultPath, "HOSTNAME=0123456789ab"
	for _, c := range []struct {
		name string
		set  func(o *Options)
		exec ExecOptions
		env  []string
		uid  uint32
		cwd  string
		caps int
	}{
		{"as the container", func(o *Options) { o.Config.WorkingDir = "/srv" }, ExecOptions{}, []string{path, host, "HOME=/root"}, 0, "/srv", 14},
		{"another user", func(o *Options) {}, ExecOptions{User: "app", Cwd: "/x/"}, []string{path, host, "HOME=/home/app"}, 1000, "/x", 0},
		{"root in a user's container", func(o *Options) { o.Config.User = "app" }, ExecOptions{User: "0"}, []string{path, host, "HOME=/root"}, 0, "/", 14},
		{"HOME set by hand", func(o *Options) { o.Config.Env = []string{"HOME=/x"} }, ExecOptions{User: "app"}, []string{path, host, "HOME=/x"}, 1000, "/", 0},
		{"user without an entry", func(o *Options) {}, ExecOptions{User: "77"}, []string{path, host, "HOME=/"}, 77, "/", 0},
		{"terminal", func(o *Options) {}, ExecOptions{Tty: true, Env: []string{"A=1"}}, []string{path, host, "HOME=/root", "TERM=xterm", "A=1"}, 0, "/", 14},
		{"no terminal", func(o *Options) { o.Config.Tty = true }, ExecOptions{}, []string{path, host, "HOME=/root"}, 0, "/", 14},
		{"variable removed", func(o *Options) {}, ExecOptions{Env: []string{"HOSTNAME", "PATH=/x"}}, []string{"PATH=/x", "HOME=/root"}, 0, "/", 14},
		{"privileged", func(o *Options) {}, ExecOptions{Privileged: true}, []string{path, host, "HOME=/root"}, 0, "/", len(allCaps)},
		{"privileged within bounds", func(o *Options) {}, ExecOptions{Privileged: true, Available: []string{"CAP_CHOWN"}}, []string{path, host, "HOME=/root"}, 0, "/", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := execSpec(t, c.set)
			before := slices.Clone(s.Process.Env)
			c.exec.Args = []string{"sh"}
			p, err := ExecProcess(s, c.exec, []byte(testPasswd), []byte(testGroup))
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(p.Env, c.env) || p.User.UID != c.uid || p.Cwd != c.cwd || p.Terminal != c.exec.Tty {
				t.Errorf("the process is %+v", p)
			}
			if len(p.Capabilities.Effective) != c.caps || len(p.Capabilities.Inheritable)+len(p.Capabilities.Ambient) != 0 {
				t.Errorf("the capabilities are %+v", p.Capabilities)
			}
			if !slices.Equal(p.Args, c.exec.Args) || !slices.Equal(s.Process.Env, before) || s.Process.Args[0] != "sleep" {
				t.Errorf("the arguments are %q, or the container's process was changed: %+v", p.Args, s.Process)
			}
		})
	}
}

func TestExecRefusals(t *testing.T) {
	s := execSpec(t, func(*Options) {})
	for want, o := range map[string]ExecOptions{
		"No exec command specified":    {},
		"Cwd must be an absolute path": {Args: []string{"sh"}, Cwd: "x"},
		"unable to find user nosuch":   {Args: []string{"sh"}, User: "nosuch"},
		"zero byte":                    {Args: []string{"sh"}, Env: []string{"A=\x00"}},
	} {
		_, err := ExecProcess(s, o, []byte(testPasswd), []byte(testGroup))
		wantErr(t, want, err, want)
	}
}
