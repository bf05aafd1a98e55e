package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"text/tabwriter"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"vivarium/engine"
)

// layerFlags are the options of layer.
type layerFlags struct {
	changes, worst int
	format         string
	ci, text       bool
	lowest         float64
}

func newLayer(a *app) *cobra.Command {
	var f layerFlags
	c := &cobra.Command{
		Use: "layer [OPTIONS] IMAGE|CONTAINER", Short: "Show what each layer adds, changes and deletes, and what is wasted", Args: exactArgs(1),
		Long: "Show what each layer adds, changes and deletes, and what is wasted: bytes that a layer above has anew, or deletes. With --ci\n" +
			"the exit status is 1 if less than a part of the bytes is to be seen. On a terminal the layers and their trees are shown in a\n" +
			"full-screen view, with keys; --text, or any other option, prints instead.",
	}
	fs := c.Flags()
	fs.IntVar(&f.changes, "changes", 0, "list the names that the layer of this number changes, 1 is the lowest")
	fs.IntVar(&f.worst, "worst", 10, "how many of the names that waste most are listed")
	fs.StringVar(&f.format, "format", "", "json")
	fs.BoolVar(&f.text, "text", false, "print, on a terminal too")
	fs.BoolVar(&f.ci, "ci", false, "fail below --lowest-efficiency")
	fs.Float64Var(&f.lowest, "lowest-efficiency", 0.9, "the lowest efficiency that --ci lets through, 0 to 1")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if f.format != "" && f.format != "json" {
			return fmt.Errorf("--format %q: there is json", f.format)
		}
		if f.lowest < 0 || f.lowest > 1 {
			return fmt.Errorf("--lowest-efficiency %v is not between 0 and 1", f.lowest)
		}
		e, err := a.engine()
		if err != nil {
			return err
		}
		r, err := e.Layers(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		view := !f.text && !f.ci && f.format == "" && f.changes == 0 && !cmd.Flags().Changed("worst")
		if view && term.IsTerminal(int(a.in.Fd())) && term.IsTerminal(int(a.out.Fd())) {
			return a.viewLayers(cmd.Context(), r)
		}
		return a.showLayers(r, &f)
	}
	return c
}

func (a *app) showLayers(r *engine.LayersReport, f *layerFlags) error {
	if f.changes < 0 || f.changes > len(r.Layers) {
		return fmt.Errorf("--changes %d: %s has %d layers", f.changes, r.Name, len(r.Layers))
	}
	var err error
	switch {
	case f.format == "json":
		err = a.layersAsJSON(r)
	case f.changes > 0:
		c := r.Changes.Each[f.changes-1]
		for _, list := range []struct {
			kind  string
			names []string
		}{{"A", c.Added}, {"C", c.Changed}, {"D", c.Deleted}} {
			for _, name := range list.names {
				fmt.Fprintf(a.out, "%s /%s\n", list.kind, printable(name))
			}
		}
	default:
		err = a.layersAsText(r, f.worst)
	}
	if err != nil {
		return err
	}
	if got := r.Changes.Efficiency(); f.ci && got < f.lowest {
		return fmt.Errorf("the efficiency of %s is %.4f, below %.4f", r.Name, got, f.lowest)
	}
	return nil
}

func (a *app) layersAsText(r *engine.LayersReport, worst int) error {
	size := func(n int64) string { return units.HumanSizeWithPrecision(float64(n), 3) }
	w := tabwriter.NewWriter(a.out, 0, 1, 3, ' ', 0)
	fmt.Fprintln(w, "LAYER\tSIZE\tADDED\tCHANGED\tDELETED\tHIDES\tCREATED BY")
	for n, c := range r.Changes.Each {
		fmt.Fprintf(w, "%d\t%s\t%d\t%d\t%d\t%s\t%s\n", n+1, size(c.Bytes), len(c.Added), len(c.Changed), len(c.Deleted), size(c.Hidden),
			printable(ellipsis(r.Layers[n].CreatedBy, 60)))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(a.out, "\nefficiency %.2f%%: %s of %s are not to be seen\n", 100*r.Changes.Efficiency(), size(r.Changes.Wasted), size(r.Changes.Bytes))
	for n, one := range r.Changes.Worst {
		if n == worst {
			break
		}
		fmt.Fprintf(a.out, "  %s\t%s times\t/%s\n", size(one.Bytes), strconv.Itoa(one.Times), printable(one.Path))
	}
	return nil
}

func (a *app) layersAsJSON(r *engine.LayersReport) error {
	b, err := json.Marshal(struct {
		*engine.LayersReport
		Efficiency float64
	}{r, r.Changes.Efficiency()})
	if err == nil {
		_, err = fmt.Fprintln(a.out, string(b))
	}
	return err
}
