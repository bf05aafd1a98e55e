package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// event is one line of `go test -json`; see `go doc test2json`.
type event struct {
	Action      string
	Package     string
	ImportPath  string
	Test        string
	Output      string
	FailedBuild string
}

// counts are numbers of tests.
type counts struct{ passed, failed, skipped int }

// result is one test of one package.
type result struct {
	// action is pass, fail or skip; empty while it has not ended.
	action string
	output strings.Builder
	// seen is false for a part of a name that only looks like a test's: a subtest may
	// have a slash in its own name.
	seen   bool
	parent bool
}

// tally reads test events, prints what a person wants to see of them at once, and
// counts.
type tally struct {
	out     io.Writer
	verbose bool
	done    counts
	skips   []string
	fails   []string
	// open holds the tests of the packages that have not ended, by package and name.
	open map[string]map[string]*result
	// stray holds package output that belongs to no test.
	stray map[string]*strings.Builder
}

func newTally(out io.Writer, verbose bool) *tally {
	return &tally{
		out: out, verbose: verbose,
		open: map[string]map[string]*result{}, stray: map[string]*strings.Builder{},
	}
}

// read takes a stream of events to its end, or until reading fails. A package
// whose end the stream does not tell is counted as failed.
func (t *tally) read(r io.Reader) error {
	defer func() {
		for _, p := range slices.Sorted(maps.Keys(t.open)) {
			t.endPackage(event{Action: "fail", Package: p})
		}
	}()
	lines := bufio.NewReaderSize(r, 1<<20)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			t.line(line)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// line takes one line; one that is no event is go's own text and is passed on.
func (t *tally) line(line string) {
	var e event
	if err := json.Unmarshal([]byte(line), &e); err != nil || e.Action == "" {
		fmt.Fprint(t.out, line)
		return
	}
	switch {
	case e.Action == "build-output":
		fmt.Fprint(t.out, e.Output)
	case e.Action == "build-fail":
	case e.Test == "":
		t.packageEvent(e)
	default:
		t.testEvent(e)
	}
}

func (t *tally) packageEvent(e event) {
	switch e.Action {
	case "start":
		t.tests(e.Package)
	case "output":
		if t.stray[e.Package] == nil {
			t.stray[e.Package] = &strings.Builder{}
		}
		t.stray[e.Package].WriteString(e.Output)
	case "pass", "fail", "skip":
		t.endPackage(e)
	}
}

func (t *tally) tests(p string) map[string]*result {
	if t.open[p] == nil {
		t.open[p] = map[string]*result{}
	}
	return t.open[p]
}

func (t *tally) testEvent(e event) {
	tests := t.tests(e.Package)
	res := tests[e.Test]
	if res == nil || !res.seen {
		if res == nil {
			res = &result{}
			tests[e.Test] = res
		}
		res.seen = true
		for name := e.Test; ; {
			i := strings.LastIndexByte(name, '/')
			if i < 0 {
				break
			}
			name = name[:i]
			if tests[name] == nil {
				tests[name] = &result{}
			}
			tests[name].parent = true
		}
	}
	switch e.Action {
	case "output":
		res.output.WriteString(e.Output)
		if t.verbose {
			fmt.Fprint(t.out, e.Output)
		}
	case "pass", "fail", "skip":
		res.action = e.Action
	}
}

// endPackage counts a package that has ended. Counted are tests without subtests;
// a test that has some counts only if it failed while none of them did (a
// clean-up found a leak, say). A package that failed without a failed test (its
// build, TestMain, a crash between tests) counts as one failure.
func (t *tally) endPackage(e event) {
	tests := t.open[e.Package]
	delete(t.open, e.Package)
	failedBefore := t.done.failed
	for _, name := range slices.Sorted(maps.Keys(tests)) {
		t.endTest(e.Package, name, tests)
	}
	stray := ""
	if b := t.stray[e.Package]; b != nil {
		stray = b.String()
		delete(t.stray, e.Package)
	}
	if e.Action == "fail" && t.done.failed == failedBefore {
		t.done.failed++
		t.fails = append(t.fails, e.Package)
	}
	// Without -v go test prints one line a package; the rest of a good package's
	// output is noise.
	if e.Action != "fail" && !t.verbose {
		stray = lastLine(stray)
	}
	if !strings.Contains(stray, "[no test files]") {
		fmt.Fprint(t.out, stray)
	}
}

func (t *tally) endTest(p, name string, tests map[string]*result) {
	res := tests[name]
	full := p + " " + name
	switch {
	case !res.seen:
	case res.action == "pass":
		if !res.parent {
			t.done.passed++
		}
	case res.action == "skip":
		if !res.parent {
			t.done.skipped++
			t.skips = append(t.skips, full+": "+reason(res.output.String()))
		}
	default: // failed, or never ended
		if !t.verbose {
			fmt.Fprint(t.out, res.output.String())
		}
		if res.parent && childFailed(tests, name) {
			return
		}
		t.done.failed++
		t.fails = append(t.fails, full)
	}
}

func childFailed(tests map[string]*result, parent string) bool {
	for name, res := range tests {
		if strings.HasPrefix(name, parent+"/") && res.action != "pass" && res.action != "skip" {
			return true
		}
	}
	return false
}

// reason finds why a test was skipped in its output: the log line of t.Skip.
func reason(output string) string {
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "=== ") && !strings.HasPrefix(line, "--- ") {
			return line
		}
	}
	return "no reason given"
}

func lastLine(s string) string {
	s = strings.TrimRight(s, "\n")
	if s == "" {
		return ""
	}
	return s[strings.LastIndexByte(s, '\n')+1:] + "\n"
}

func (t *tally) total() counts { return t.done }

func (t *tally) printSkips() {
	for _, s := range t.skips {
		fmt.Fprintln(t.out, "skipped:", s)
	}
}

func (t *tally) printFailures() {
	for _, f := range t.fails {
		fmt.Fprintln(t.out, "failed:", f)
	}
}
