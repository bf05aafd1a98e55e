package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"vivarium/lab"
)

type labRow struct{ ID, Title string }

type labStep struct {
	Say, Run, Output string
	Code             int
	Error            string `json:",omitempty"`
}

type labResult struct {
	ID, Title string
	Passed    bool
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
	fs.BoolVar(&all, "all", false, "run all")
	fs.BoolVar(&asJSON, "json", false, "print what happened as JSON, a line an experiment")
	fs.BoolVar(&step, "step", false, "wait for the enter key before each command")
	fs.StringVar(&lang, "lang", "", "en or zh; by the locale if nothing is given")
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
		return a.runLab(cmd, list, lang, asJSON, step)
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

func (a *app) runLab(cmd *cobra.Command, list []lab.Experiment, lang string, asJSON, step bool) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	viv := []string{self}
	for _, name := range []string{"root", "state"} {
		if f := cmd.Root().PersistentFlags().Lookup(name); f != nil && f.Changed {
			viv = append(viv, "--"+name, f.Value.String())
		}
	}
	keys := bufio.NewReader(a.in)
	failed := 0
	for _, e := range list {
		result := labResult{ID: e.ID, Title: e.Title.In(lang), Steps: []labStep{}}
		if !asJSON {
			fmt.Fprintf(a.out, "## %s\n\n%s\n", e.Title.In(lang), e.About.In(lang))
		}
		o := lab.Options{Viv: viv, Lang: lang,
			Before: func(d lab.Done) error {
				if asJSON {
					return nil
				}
				fmt.Fprintf(a.out, "\n%s:\n\n", d.Say)
				for line := range strings.Lines(d.Run) {
					fmt.Fprintf(a.out, "    $ %s\n", strings.TrimSuffix(line, "\n"))
				}
				if step {
					_, err := keys.ReadString('\n')
					return err
				}
				return nil
			},
			After: func(d lab.Done) {
				s := labStep{Say: d.Say, Run: d.Run, Output: d.Output, Code: d.Code}
				if d.Err != nil {
					s.Error = d.Err.Error()
				}
				result.Steps = append(result.Steps, s)
				if asJSON {
					return
				}
				for line := range strings.Lines(d.Output) {
					fmt.Fprintf(a.out, "    %s\n", printable(strings.TrimSuffix(line, "\n")))
				}
			}}
		err := e.Run(cmd.Context(), o)
		result.Passed = err == nil
		if err != nil {
			failed++
			result.Error = err.Error()
		}
		switch {
		case asJSON:
			b, err := json.Marshal(result)
			if err != nil {
				return err
			}
			fmt.Fprintln(a.out, string(b))
		case err != nil:
			fmt.Fprintf(a.out, "\nNot verified: %v\n\n", err)
		default:
			fmt.Fprint(a.out, "\nVerified.\n\n")
		}
		if cmd.Context().Err() != nil {
			break
		}
	}
	if !asJSON && len(list) > 1 {
		fmt.Fprintf(a.out, "%d of %d experiments were verified.\n", len(list)-failed, len(list))
	}
	if failed > 0 {
		return exitError{codeError}
	}
	return nil
}
