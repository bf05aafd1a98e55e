package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"vivarium/lab"
)

// What is said beside the experiments themselves.
var (
	labVerified    = lab.Text{EN: "Verified.", ZH: "已验证。"}
	labNotVerified = lab.Text{EN: "Not verified:", ZH: "未通过验证："}
	labNotRun      = lab.Text{EN: "Not run: the experiment needs root.", ZH: "未运行：这个实验需要 root。"}
	labColon       = lab.Text{EN: ":", ZH: "："}
	labSum         = lab.Text{EN: "%d of %d experiments were verified.", ZH: "%[2]d 个实验中 %[1]d 个已验证。"}
	labSumLeft     = lab.Text{EN: "%d of %d experiments were verified, %d were not run.", ZH: "%[2]d 个实验中 %[1]d 个已验证，%[3]d 个未运行。"}
)

type labRow struct{ ID, Title string }

type labStep struct {
	Say, Run, Output string
	Code             int
	Kept             string `json:",omitempty"` // the variable that later steps find the output in
	Error            string `json:",omitempty"`
}

type labResult struct {
	ID, Title string
	Directory string `json:",omitempty"` // in which the commands ran; its last part is $LAB
	Passed    bool
	LeftOut   string `json:",omitempty"` // why it was not run
	Nearest   string `json:",omitempty"` // why something else was shown that comes nearest
	Error     string `json:",omitempty"`
	Steps     []labStep
}

func newLab(a *app) *cobra.Command {
	var all, asJSON, step bool
	var lang string
	c := &cobra.Command{
		Use: "lab [OPTIONS] [EXPERIMENT...]", Short: "Run experiments that show what containers are made of",
		Long: "Run experiments that show what containers are made of. Without arguments it lists them. Each shows the commands that one would\n" +
			"type by hand, runs them really, verifies what they show, and cleans up. The exit status is 1 if one did not show what it should.",
		Example: "  viv lab\n  viv lab pid\n  viv lab --all --lang zh",
	}
	fs := c.Flags()
	fs.BoolVar(&all, "all", false, "run all; without root those that need none")
	fs.BoolVar(&asJSON, "json", false, "print what happened as JSON, a line an experiment")
	fs.BoolVar(&step, "step", false, "wait for the enter key before each command")
	fs.StringVar(&lang, "lang", "", "en or zh; by the locale if nothing is given")
	c.ValidArgsFunction = experiments
	completeFlag(c, "lang", oneOf("en", "zh"))
	c.RunE = func(cmd *cobra.Command, args []string) error {
		switch lang {
		case "":
			lang = localeLang()
		case "en", "zh":
		default:
			return fmt.Errorf("--lang %q: there are en and zh", lang)
		}
		list, err := chosen(args, all)
		if err != nil {
			return err
		}
		if len(args) == 0 && !all {
			var rows []any
			for _, e := range list {
				rows = append(rows, labRow{e.ID, e.Title.In(lang)})
			}
			l := listing{table: "{{.ID}}\t{{.Title}}", headers: headers{"ID": "EXPERIMENT", "Title": "TITLE"}}
			if asJSON {
				l.format = "json"
			}
			return l.print(a.out, false, rows)
		}
		r := &labRunner{a: a, ctx: cmd.Context(), lang: lang, asJSON: asJSON, all: all}
		if step {
			r.keys = bufio.NewReader(a.in)
		}
		if r.viv, err = ownCommandLine(cmd); err != nil {
			return err
		}
		return r.runAll(list)
	}
	return c
}

func localeLang() string {
	for _, name := range []string{"LC_ALL", "LC_MESSAGES", "LANG"} {
		if v := os.Getenv(name); v != "" {
			if strings.HasPrefix(v, "zh") {
				return "zh"
			}
			break
		}
	}
	return "en"
}

func chosen(args []string, all bool) ([]lab.Experiment, error) {
	if all || len(args) == 0 {
		if all && len(args) > 0 {
			return nil, errors.New("give experiments, or --all, not both")
		}
		return lab.Experiments(), nil
	}
	var list []lab.Experiment
	for _, id := range args {
		e, ok := lab.Find(id)
		if !ok {
			return nil, fmt.Errorf("there is no experiment %q: 'viv lab' lists them", id)
		}
		list = append(list, e)
	}
	return list, nil
}

// ownCommandLine is viv with the global flags that it was called with.
func ownCommandLine(cmd *cobra.Command) ([]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	viv := []string{self}
	for _, name := range []string{"root", "state", "storage-driver"} {
		if f := cmd.Root().PersistentFlags().Lookup(name); f != nil && f.Changed {
			viv = append(viv, "--"+name, f.Value.String())
		}
	}
	return viv, nil
}

func (r *labRunner) runAll(list []lab.Experiment) error {
	if err := lab.Sweep(); err != nil {
		fmt.Fprintf(r.a.err, "viv: %s\n", message(err)) // what is new is not in its way
	}
	// Whoever reads may go in the middle, and what was begun is to be cleaned up.
	ctx, stop := signal.NotifyContext(r.ctx, syscall.SIGPIPE)
	defer stop()
	r.ctx = ctx
	verified, failed := 0, 0
	for _, e := range list {
		err := r.run(e)
		switch {
		case err == nil:
			verified++
		case !errors.Is(err, lab.ErrNeedsRoot) || !r.all:
			failed++
		}
		if r.ctx.Err() != nil {
			break
		}
	}
	if len(list) > 1 {
		if left := len(list) - verified - failed; left > 0 {
			r.say(labSumLeft.In(r.lang)+"\n", verified, len(list), left)
		} else {
			r.say(labSum.In(r.lang)+"\n", verified, len(list))
		}
	}
	if failed > 0 {
		return exitError{codeError}
	}
	return nil
}

// labRunner runs experiments, and tells of them as they go.
type labRunner struct {
	a      *app
	ctx    context.Context
	viv    []string
	lang   string
	asJSON bool
	all    bool          // those that need root are left out without it
	keys   *bufio.Reader // nil: nobody is waited for
	result labResult
}

func (r *labRunner) run(e lab.Experiment) error {
	r.result = labResult{ID: e.ID, Title: e.Title.In(r.lang), Steps: []labStep{}}
	r.say("## %s\n\n%s\n", e.Title.In(r.lang), e.About.In(r.lang))
	err := e.Run(r.ctx, lab.Options{Viv: r.viv, Lang: r.lang, Before: r.before, After: r.after,
		Begin: func(dir string) {
			r.result.Directory = dir
			r.say("\n    $ mkdir %s && cd %[1]s && export LAB=%s\n", dir, filepath.Base(dir))
		},
		Why: func(why string) {
			r.result.Nearest = why
			r.say("\n%s\n", why)
		}})
	r.result.Passed = err == nil
	switch {
	case errors.Is(err, lab.ErrNeedsRoot):
		r.result.LeftOut = err.Error()
		r.say("\n%s\n\n", labNotRun.In(r.lang))
	case err != nil:
		r.result.Error = err.Error()
		r.say("\n%s %v\n\n", labNotVerified.In(r.lang), err)
	default:
		r.say("\n%s\n\n", labVerified.In(r.lang))
	}
	if r.asJSON {
		b, err := json.Marshal(r.result)
		if err != nil {
			return err
		}
		fmt.Fprintln(r.a.out, string(b))
	}
	return err
}

func (r *labRunner) say(format string, args ...any) {
	if !r.asJSON {
		fmt.Fprintf(r.a.out, format, args...)
	}
}

func (r *labRunner) before(d lab.Done) error {
	r.say("\n%s%s\n\n", d.Say, labColon.In(r.lang))
	open := 0 // parentheses: what is in them is one command
	for line := range strings.Lines(d.Run) {
		prompt := "$"
		if open > 0 {
			prompt = ">"
		}
		r.say("    %s %s\n", prompt, strings.TrimSuffix(line, "\n"))
		open += strings.Count(line, "(") - strings.Count(line, ")")
	}
	if r.keys == nil {
		return nil
	}
	pressed := make(chan error, 1)
	go func() {
		_, err := r.keys.ReadString('\n')
		pressed <- err
	}()
	select {
	case err := <-pressed:
		if err != nil {
			return fmt.Errorf("wait for the enter key: %w", err)
		}
		return nil
	case <-r.ctx.Done():
		return context.Cause(r.ctx)
	}
}

func (r *labRunner) after(d lab.Done) {
	s := labStep{Say: d.Say, Run: d.Run, Output: d.Output, Code: d.Code, Kept: d.Kept}
	if d.Err != nil {
		s.Error = d.Err.Error()
	}
	r.result.Steps = append(r.result.Steps, s)
	for line := range strings.Lines(d.Output) {
		r.say("    %s\n", printable(strings.ReplaceAll(strings.TrimSuffix(line, "\n"), "\t", "    ")))
	}
	if d.Kept != "" {
		r.say("    $ %s='%s'\n", d.Kept, printable(d.Output))
	}
}
