// Package lab runs experiments that show what a container is made of: each shows the
// commands that one would type by hand, runs them really, and verifies what they are
// said to show.
package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Text is a text in the languages of the lab.
type Text struct{ EN, ZH string }

// In gives the text in a language, "en" or "zh".
func (t Text) In(lang string) string {
	if lang == "zh" && t.ZH != "" {
		return t.ZH
	}
	return t.EN
}

// Experiment is one of them.
type Experiment struct {
	ID    string
	Title Text
	About Text
	// Rootless: it needs no root, where the kernel lets everybody make user namespaces.
	Rootless bool
	Steps    []Step
	Cleanup  []string // commands that are run at the end, whatever has happened
}

// Step is one command, and what it has to show.
type Step struct {
	Say Text
	Run string // for sh(1)
	// Without is what is run instead to see that the experiment notices: what it is
	// about is missing then. "" for the same, "-" for nothing.
	Without string
	Save    string // the variable that the output is kept in, for later steps
	// Check looks at the output, without the space around it, and at the variables.
	Check func(out string, v map[string]string) error
	Fails bool // the command has to fail
}

// Done is one step as it went.
type Done struct {
	Say    string
	Run    string
	Output string
	Code   int
	Err    error // what it should have shown and did not
}

// Options of Run.
type Options struct {
	// Viv is the command line of viv, with its global flags.
	Viv  []string
	Lang string
	// Without leaves out what the experiment is about.
	Without bool
	// Before is called with each step before it is run, After with its outcome; an
	// error of the first ends the experiment. Either may be nil.
	Before func(Done) error
	After  func(Done)
}

// ErrNotShown says that an experiment did not show what it is said to.
var ErrNotShown = errors.New("the experiment did not show what it should")

// stepTimeout bounds one command.
const stepTimeout = time.Minute

// Run runs an experiment in a directory of its own, and cleans up, also when ctx ends
// in the middle. The error wraps ErrNotShown if something else came out.
func (e Experiment) Run(ctx context.Context, o Options) (err error) {
	dir, err := os.MkdirTemp("", "viv-lab-")
	if err != nil {
		return err
	}
	r := &run{dir: dir, vars: map[string]string{"LAB": filepath.Base(dir)}, o: o}
	defer func() { err = errors.Join(err, r.cleanUp(e.Cleanup)) }()
	if err := r.wrapper(); err != nil {
		return err
	}
	for _, s := range e.Steps {
		if err := r.step(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

type run struct {
	dir  string
	vars map[string]string
	o    Options
}

// wrapper makes a command viv that has our global flags.
func (r *run) wrapper() error {
	if len(r.o.Viv) == 0 {
		return errors.New("lab: no command line of viv")
	}
	var quoted []string
	for _, w := range r.o.Viv {
		quoted = append(quoted, "'"+strings.ReplaceAll(w, "'", `'\''`)+"'")
	}
	if err := os.MkdirAll(filepath.Join(r.dir, ".bin"), 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.dir, ".bin/viv"), []byte("#!/bin/sh\nexec "+strings.Join(quoted, " ")+" \"$@\"\n"), 0o700)
}

func (r *run) step(ctx context.Context, s Step) error {
	command := s.Run
	if r.o.Without && s.Without != "" {
		command = s.Without
	}
	if command == "-" {
		return nil
	}
	d := Done{Say: s.Say.In(r.o.Lang), Run: command}
	if r.o.Before != nil {
		if err := r.o.Before(d); err != nil {
			return err
		}
	}
	out, code, err := r.sh(ctx, command)
	if err != nil {
		return err
	}
	d.Output, d.Code = strings.TrimSpace(out), code
	if s.Save != "" {
		r.vars[s.Save] = d.Output
	}
	switch {
	case s.Fails && code == 0:
		d.Err = errors.New("it should fail, and does not")
	case !s.Fails && code != 0:
		d.Err = fmt.Errorf("it should succeed, and ends with %d", code)
	case s.Check != nil:
		d.Err = s.Check(d.Output, r.vars)
	}
	if r.o.After != nil {
		r.o.After(d)
	}
	if d.Err != nil {
		return fmt.Errorf("%w: %s: %v\n%s", ErrNotShown, command, d.Err, d.Output)
	}
	return nil
}

// sh runs a command in the experiment's directory; the variables are in its
// environment. What it leaves in the background goes on.
func (r *run) sh(ctx context.Context, command string) (out string, code int, err error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	// A file, not a pipe: what stays in the background may hold it open.
	f, err := os.CreateTemp(r.dir, ".out-")
	if err != nil {
		return "", 0, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	c := exec.CommandContext(ctx, "/bin/sh", "-c", command)
	c.Dir, c.Stdout, c.Stderr = r.dir, f, f
	c.Env = append(os.Environ(), "PATH="+filepath.Join(r.dir, ".bin")+":"+os.Getenv("PATH"), "LC_ALL=C")
	for k, v := range r.vars {
		c.Env = append(c.Env, k+"="+v)
	}
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	err = c.Run()
	if cause := context.Cause(ctx); cause != nil {
		return "", 0, cause
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return "", 0, err
	}
	b, err := os.ReadFile(f.Name())
	return string(bytes.ToValidUTF8(b, []byte("?"))), c.ProcessState.ExitCode(), err
}

// cleanUp runs what an experiment gives for its end, and removes its directory.
func (r *run) cleanUp(commands []string) error {
	var errs []error
	for _, command := range commands {
		if out, code, err := r.sh(context.Background(), command); err != nil || code != 0 {
			errs = append(errs, fmt.Errorf("clean up: %s: ended with %d %v: %s", command, code, err, strings.TrimSpace(out)))
		}
	}
	if len(errs) == 0 { // something may still be mounted there otherwise
		errs = append(errs, os.RemoveAll(r.dir))
	}
	return errors.Join(errs...)
}

// is checks that the output is a text.
func is(want string) func(string, map[string]string) error {
	return func(out string, v map[string]string) error {
		if w := os.Expand(want, func(k string) string { return v[k] }); out != w {
			return fmt.Errorf("it shows %q, not %q", out, w)
		}
		return nil
	}
}

// isNot checks that it is not the value of a variable.
func isNot(name string) func(string, map[string]string) error {
	return func(out string, v map[string]string) error {
		if out == v[name] {
			return fmt.Errorf("it shows %q, as before", out)
		}
		return nil
	}
}

// has checks that the output has all of some texts; one with ! before it must not be there.
func has(words ...string) func(string, map[string]string) error {
	return func(out string, v map[string]string) error {
		for _, w := range words {
			word, not := strings.CutPrefix(os.Expand(w, func(k string) string { return v[k] }), "!")
			if strings.Contains(out, word) == not {
				if not {
					return fmt.Errorf("it shows %q", word)
				}
				return fmt.Errorf("it does not show %q", word)
			}
		}
		return nil
	}
}
