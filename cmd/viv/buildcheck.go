package main

import (
	"context"
	"fmt"
	"io"

	"vivarium/engine"
	"vivarium/image/build"
)

// check prints what the checks find in the Dockerfile, as `docker build --check` does: a finding
// makes the exit code 1.
func (f *buildFlags) check(ctx context.Context, a *app, o engine.BuildOptions) error {
	e, err := a.engine()
	if err != nil {
		return err
	}
	found, err := e.CheckBuild(ctx, o)
	if err == nil {
		fmt.Fprintf(a.out, "Check complete, %s\n", count(len(found)))
	}
	printFindings(a.out, found)
	switch {
	case err != nil:
		return (&buildPrinter{a: a}).failure(err)
	case len(found) > 0:
		return exitError{1}
	}
	return nil
}

func count(findings int) string {
	switch findings {
	case 0:
		return "no warnings found."
	case 1:
		return "1 warning has been found!"
	}
	return fmt.Sprintf("%d warnings have been found!", findings)
}

func printFindings(w io.Writer, found []*build.Warning) {
	for _, f := range found {
		fmt.Fprintf(w, "\nWARNING: %s", f.Rule)
		if f.URL != "" {
			fmt.Fprintf(w, " - %s", f.URL)
		}
		fmt.Fprintf(w, "\n%s\n%s", f.Text, f.Excerpt)
	}
}
