package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"vivarium/engine"
	"vivarium/image/registry"
)

// searchRow has Docker's names of the columns.
type searchRow struct {
	Name, Description, StarCount, IsOfficial, IsAutomated string
}

func newSearch(a *app) *cobra.Command {
	var filters []string
	var limit int
	var noTrunc, insecure bool
	l := listing{table: "{{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}",
		headers: headers{"Name": "NAME", "Description": "DESCRIPTION", "StarCount": "STARS", "IsOfficial": "OFFICIAL", "IsAutomated": "AUTOMATED"}}
	c := &cobra.Command{
		Use: "search [OPTIONS] TERM", Short: "Search Docker Hub, or another registry, for images", Args: exactArgs(1),
		Long: "Search Docker Hub, or another registry, for images. HOST/TERM asks another registry: by its search, or if it has none by the list of its repositories.",
	}
	fs := c.Flags()
	fs.StringArrayVarP(&filters, "filter", "f", nil, "filter output (stars=N, is-official=true|false, is-automated=true|false)")
	fs.StringVar(&l.format, "format", "", "a Go template, 'table TEMPLATE' or json")
	fs.IntVar(&limit, "limit", 25, "max number of search results")
	fs.BoolVar(&noTrunc, "no-trunc", false, "don't truncate output")
	fs.BoolVar(&insecure, "insecure", false, "allow plain HTTP, and certificates that nobody vouches for")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		keep, err := searchFilter(filters)
		if err != nil {
			return err
		}
		e, err := a.engine()
		if err != nil {
			return err
		}
		found, err := e.Search(cmd.Context(), args[0], limit, insecure)
		if err != nil {
			return err
		}
		var rows []any
		for _, f := range found {
			if !keep(f) {
				continue
			}
			row := searchRow{Name: f.Name, Description: strings.Join(strings.Fields(f.Description), " "), StarCount: strconv.Itoa(f.Stars), IsOfficial: ok(f.Official), IsAutomated: ok(f.Automated)}
			if !noTrunc {
				row.Description = ellipsis(row.Description, 45)
			}
			rows = append(rows, row)
		}
		return l.print(a.out, false, rows)
	}
	return c
}

func ok(yes bool) string {
	if yes {
		return "[OK]"
	}
	return ""
}

// searchFilter gives what the filters let through.
func searchFilter(filters []string) (func(registry.Found) bool, error) {
	var tests []func(registry.Found) bool
	for _, f := range filters {
		key, value, _ := strings.Cut(f, "=")
		bad := &engine.Error{Kind: engine.ErrInvalid, Msg: fmt.Sprintf("invalid filter '%s'", f)}
		switch key {
		case "stars":
			n, err := strconv.Atoi(value)
			if err != nil {
				return nil, bad
			}
			tests = append(tests, func(f registry.Found) bool { return f.Stars >= n })
		case "is-official", "is-automated":
			want, err := strconv.ParseBool(value)
			if err != nil {
				return nil, bad
			}
			tests = append(tests, func(f registry.Found) bool {
				if key == "is-official" {
					return f.Official == want
				}
				return f.Automated == want
			})
		default:
			return nil, bad
		}
	}
	return func(f registry.Found) bool {
		for _, t := range tests {
			if !t(f) {
				return false
			}
		}
		return true
	}, nil
}
