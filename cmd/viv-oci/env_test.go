package main_test

import "testing"

// TestEnvironment: what counts of variables that are given twice, or wrongly.
func TestEnvironment(t *testing.T) {
	b := newBox(t, "/bin/busybox", "env")
	base := b.spec.Process.Env
	for _, c := range []struct {
		env  []string
		want string
		only bool // since runc 1.3
	}{
		{[]string{"PATH=/bin", "HOME=/x"}, "PATH=/bin\nHOME=/x\n", false},
		{[]string{"PATH=/bin", "HOME="}, "PATH=/bin\nHOME=/\n", true},
		{[]string{"ONE=two", "PATH=/bin", "ONE=three", "HOME=/y"}, "PATH=/bin\nONE=three\nHOME=/y\n", true},
		{[]string{"PATH=/bin", "EMPTY=", "A=b=c", "HOME=/"}, "PATH=/bin\nEMPTY=\nA=b=c\nHOME=/\n", false},
	} {
		if c.only && reference != "" {
			continue
		}
		b.spec.Process.Env = c.env
		b.save()
		if got := b.must("run", "-b", b.bundle, b.id); got != c.want {
			t.Errorf("%q: %q, want %q", c.env, got, c.want)
		}
	}
	missing, empty := "invalid environment variable: missing '='", "invalid environment variable: name cannot be empty"
	if reference != "" { // runc before 1.3
		missing, empty = `invalid environment variable: "NAME"`, "environment variable name can't be empty"
	}
	for env, words := range map[string]string{"NAME": missing, "=x": empty} {
		b.spec.Process.Env = append([]string{env}, base...)
		b.save()
		b.fails(1, words, "run", "-b", b.bundle, b.id)
	}
	b.spec.Process.Env, b.spec.Process.Args = base, []string{"sleep", "1000"}
	b.save()
	b.detached()
	b.fails(255, missing, "exec", "--env", "NAME", b.id, "true")
	b.fails(255, "parsing x as int for uid failed", "exec", "--user", "x", b.id, "true")
	b.fails(255, "parsing y as int for gid failed", "exec", "--user", "1:y", b.id, "true")
	b.fails(1, "additional-gids", "exec", "--additional-gids", "x", b.id, "true")
	if got := b.must("exec", "-u", "1000", "-g", "5", "-g", "6", "-e", "A=1", "-e", "A=2", b.id, "sh", "-c", "id -u; id -g; id -G; echo $A"); got != "1000\n0\n0 5 6\n2\n" {
		t.Errorf("got %q", got)
	}
}
