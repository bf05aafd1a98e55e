package build

import (
	"errors"
	"fmt"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// ExitError says that a command of a RUN instruction ended with another code than 0.
type ExitError struct {
	Command string
	Code    int
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("process %q did not complete successfully: exit code: %d", e.Command, e.Code)
}

// Error is what is wrong with a Dockerfile or with what it says, and where.
type Error struct {
	File        string // as the user called the Dockerfile
	First, Last int    // lines, from 1; 0: no certain line
	Step        string // the step's name, of one that was carried out
	Output      []string
	Err         error

	source []byte
}

func (e *Error) Error() string {
	if e.First > 0 && e.Step == "" {
		return fmt.Sprintf("%s:%d: %v", e.File, e.First, e.Err)
	}
	return e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// around is how many lines an excerpt has before and after those that are meant.
const around = 2

// Excerpt is the part of the Dockerfile that is meant, as BuildKit prints it: with
// numbers, and a mark at each line of the instruction. It is empty without a line.
func (e *Error) Excerpt() string {
	if e.First <= 0 {
		return ""
	}
	var b strings.Builder
	rule := strings.Repeat("-", 20)
	fmt.Fprintf(&b, "%s:%d\n%s\n", e.File, e.First, rule)
	lines := strings.Split(strings.TrimRight(string(e.source), "\n"), "\n")
	for i := max(1, e.First-around); i <= min(len(lines), e.Last+around); i++ {
		mark := "   "
		if i >= e.First && i <= e.Last {
			mark = ">>>"
		}
		fmt.Fprintf(&b, "%4d | %s %s\n", i, mark, strings.TrimRight(lines[i-1], "\r"))
	}
	b.WriteString(rule + "\n")
	return b.String()
}

// at puts the place of an instruction to an error.
func (f *file) at(err error, location []parser.Range) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	e = &Error{File: f.name, Err: err, source: f.source}
	var le *parser.LocationError
	if len(location) == 0 && errors.As(err, &le) && len(le.Locations) > 0 {
		location = le.Locations[0]
	}
	for _, r := range location {
		if e.First == 0 || r.Start.Line < e.First {
			e.First = r.Start.Line
		}
		e.Last = max(e.Last, r.End.Line, r.Start.Line)
	}
	return e
}
