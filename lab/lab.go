// Package lab runs experiments that show what a container is made of: each shows the
// commands that one would type by hand, runs them really, and verifies what they are
// said to show.
package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
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
	// OwnStore: its images are in a store of its own, in its directory, and go with that.
	OwnStore bool
	Steps    []Step
	// Cleanup are commands that are run at the end, whatever has happened; once more, if they
	// were cut off themselves.
	Cleanup []string
	// Needs is a command that fails where the kernel cannot do what is shown; Instead
	// is shown there.
	Needs   string
	Instead *Nearest
}

// Nearest is what comes nearest to an experiment, and why it is shown instead.
type Nearest struct {
	Why   Text
	Steps []Step
}

// Step is one command, and what it has to show.
type Step struct {
	Say Text
	Run string // for sh(1); see words
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
	Kept   string // the variable that the output is kept in, "" for none
	Err    error  // what it should have shown and did not
}

// Options of Run.
type Options struct {
	// Viv is the command line of viv, with its global flags.
	Viv  []string
	Lang string
	// Without leaves out what the experiment is about.
	Without bool
	// Nearest shows what is shown where the kernel cannot do the experiment.
	Nearest bool
	// Begin is called with the directory that the commands run in. Why is called if what
	// comes nearest is shown instead, with the reason. Before is called with each step
	// before it is run, After with its outcome; an error of Before ends the experiment.
	// Each may be nil.
	Begin  func(dir string)
	Why    func(string)
	Before func(Done) error
	After  func(Done)
}

// What Run can return.
var (
	ErrNotShown  = errors.New("the experiment did not show what it should")
	ErrNeedsRoot = errors.New("the experiment needs root")
)

// Run runs an experiment in a directory of its own, and cleans up, also when ctx ends
// in the middle. The error wraps ErrNotShown if something else came out.
//
// As root it has a mount namespace of its own, too: what it mounts nobody else can hold
// on to, and it is gone with the process however that ends.
func (e Experiment) Run(ctx context.Context, o Options) error {
	if !e.Rootless && os.Geteuid() != 0 {
		return ErrNeedsRoot
	}
	return inMountNamespace(func() error { return e.run(ctx, o) })
}

func (e Experiment) run(ctx context.Context, o Options) (err error) {
	p, err := makePlace(e, o.Viv)
	if err != nil {
		return err
	}
	r := &run{place: p, vars: map[string]string{"LAB": p.name()}, o: o}
	defer func() { err = errors.Join(err, r.place.leave(e)) }()
	if o.Begin != nil {
		o.Begin(p.dir)
	}
	steps, err := r.choose(ctx, e)
	if err != nil {
		return err
	}
	for _, s := range steps {
		if err := r.step(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// inMountNamespace calls fn in a new mount namespace, as root, on a thread that ends
// afterwards: commands that it starts are in there, too.
func inMountNamespace(fn func() error) error {
	if os.Geteuid() != 0 {
		return fn()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			done <- fmt.Errorf("make a mount namespace: %w", err)
			return
		}
		// What others unmount is to go here, too.
		if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
			done <- fmt.Errorf("keep mounts to the new mount namespace: %w", err)
			return
		}
		done <- fn()
	}()
	return <-done
}

// choose gives the steps: those of what comes nearest where the kernel cannot do better.
func (r *run) choose(ctx context.Context, e Experiment) ([]Step, error) {
	if e.Instead == nil {
		return e.Steps, nil
	}
	_, code, err := r.place.sh(ctx, e.Needs, r.vars)
	if err != nil {
		return nil, err
	}
	if code == 0 && !r.o.Nearest {
		return e.Steps, nil
	}
	if r.o.Why != nil {
		r.o.Why(e.Instead.Why.In(r.o.Lang))
	}
	return e.Instead.Steps, nil
}

type run struct {
	place *place
	vars  map[string]string
	o     Options
}

// words are parts of commands that differ between root and others, whom a user
// namespace gives the right to make the rest.
func words(command string) string {
	own, theirs := "", ""
	if os.Geteuid() != 0 {
		own, theirs = "--user --map-root-user ", "--user "
	}
	return strings.NewReplacer("{user} ", own, "{their user} ", theirs).Replace(command)
}

func (r *run) step(ctx context.Context, s Step) error {
	command := s.Run
	if r.o.Without && s.Without != "" {
		command = s.Without
	}
	if command == "-" {
		return nil
	}
	command = words(command)
	d := Done{Say: s.Say.In(r.o.Lang), Run: command, Kept: s.Save}
	if r.o.Before != nil {
		if err := r.o.Before(d); err != nil {
			return err
		}
	}
	out, code, err := r.place.sh(ctx, command, r.vars)
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
