package main

import (
	"maps"
	"strings"
	"testing"
)

func TestTally(t *testing.T) {
	for _, c := range []struct {
		name  string
		lines []string
		want  counts
		shown []string
	}{
		{
			name: "leaf tests count, parents do not",
			lines: []string{
				`{"Action":"start","Package":"p"}`,
				`{"Action":"run","Package":"p","Test":"A"}`,
				`{"Action":"run","Package":"p","Test":"A/one"}`,
				`{"Action":"pass","Package":"p","Test":"A/one"}`,
				`{"Action":"run","Package":"p","Test":"A/two"}`,
				`{"Action":"output","Package":"p","Test":"A/two","Output":"    a_test.go:1: needs root\n"}`,
				`{"Action":"skip","Package":"p","Test":"A/two"}`,
				`{"Action":"pass","Package":"p","Test":"A"}`,
				`{"Action":"output","Package":"p","Output":"ok  \tp\t0.1s\n"}`,
				`{"Action":"pass","Package":"p"}`,
			},
			want:  counts{passed: 1, skipped: 1},
			shown: []string{"ok  \tp"},
		},
		{
			name: "a failed subtest counts once",
			lines: []string{
				`{"Action":"run","Package":"p","Test":"A"}`,
				`{"Action":"run","Package":"p","Test":"A/one"}`,
				`{"Action":"output","Package":"p","Test":"A/one","Output":"broken here\n"}`,
				`{"Action":"fail","Package":"p","Test":"A/one"}`,
				`{"Action":"fail","Package":"p","Test":"A"}`,
				`{"Action":"fail","Package":"p"}`,
			},
			want:  counts{failed: 1},
			shown: []string{"broken here"},
		},
		{
			name: "a parent that fails by itself counts",
			lines: []string{
				`{"Action":"run","Package":"p","Test":"A/one"}`,
				`{"Action":"pass","Package":"p","Test":"A/one"}`,
				`{"Action":"fail","Package":"p","Test":"A"}`,
				`{"Action":"fail","Package":"p"}`,
			},
			want: counts{passed: 1, failed: 1},
		},
		{
			name: "a test that never ends failed",
			lines: []string{
				`{"Action":"run","Package":"p","Test":"A"}`,
				`{"Action":"output","Package":"p","Output":"panic: out\n"}`,
				`{"Action":"fail","Package":"p"}`,
			},
			want:  counts{failed: 1},
			shown: []string{"panic: out"},
		},
		{
			name: "a package that fails with no test at fault",
			lines: []string{
				`{"Action":"run","Package":"p","Test":"A"}`,
				`{"Action":"pass","Package":"p","Test":"A"}`,
				`{"Action":"output","Package":"p","Output":"leak: a mount\n"}`,
				`{"Action":"fail","Package":"p"}`,
			},
			want:  counts{passed: 1, failed: 1},
			shown: []string{"leak: a mount"},
		},
		{
			name: "a slash in a subtest's own name makes no test",
			lines: []string{
				`{"Action":"run","Package":"p","Test":"A"}`,
				`{"Action":"run","Package":"p","Test":"A/mount_/x"}`,
				`{"Action":"pass","Package":"p","Test":"A/mount_/x"}`,
				`{"Action":"pass","Package":"p","Test":"A"}`,
				`{"Action":"pass","Package":"p"}`,
			},
			want: counts{passed: 1},
		},
		{
			name: "a build that fails",
			lines: []string{
				`{"ImportPath":"p","Action":"build-output","Output":"p.go:1: syntax\n"}`,
				`{"ImportPath":"p","Action":"build-fail"}`,
				`{"Action":"start","Package":"p"}`,
				`{"Action":"output","Package":"p","Output":"FAIL\tp [build failed]\n"}`,
				`{"Action":"fail","Package":"p","FailedBuild":"p"}`,
			},
			want:  counts{failed: 1},
			shown: []string{"p.go:1: syntax", "build failed"},
		},
		{
			name:  "a stream that is cut off",
			lines: []string{`{"Action":"start","Package":"p"}`},
			want:  counts{failed: 1},
		},
		{
			name:  "text that is no event is passed on",
			lines: []string{"go: downloading x", `{"Action":"start","Package":"p"}`, `{"Action":"skip","Package":"p"}`},
			shown: []string{"go: downloading x"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			tl := newTally(&out, false)
			if err := tl.read(strings.NewReader(strings.Join(c.lines, "\n") + "\n")); err != nil {
				t.Fatal(err)
			}
			if got := tl.total(); got != c.want {
				t.Errorf("counted %+v, want %+v", got, c.want)
			}
			for _, s := range c.shown {
				if !strings.Contains(out.String(), s) {
					t.Errorf("output lacks %q:\n%s", s, out.String())
				}
			}
		})
	}
}

func TestSkipsAndFailuresAreNamed(t *testing.T) {
	var out strings.Builder
	tl := newTally(&out, false)
	in := `{"Action":"output","Package":"p","Test":"A","Output":"=== RUN   A\n"}
{"Action":"output","Package":"p","Test":"A","Output":"    a_test.go:3: needs root\n"}
{"Action":"skip","Package":"p","Test":"A"}
{"Action":"fail","Package":"p","Test":"B"}
{"Action":"fail","Package":"p"}
`
	if err := tl.read(strings.NewReader(in)); err != nil {
		t.Fatal(err)
	}
	out.Reset()
	tl.printSkips()
	tl.printFailures()
	want := "skipped: p A: a_test.go:3: needs root\nfailed: p B\n"
	if out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

func TestLinking(t *testing.T) {
	list := `v/spawn os
v/monitor os v/spawn
v/image os
v/plan os
v/plan.test os v/plan v/spawn
v/plan [v/plan.test] os
`
	got := linking(list, "v/spawn")
	want := map[string]bool{"v/spawn": true, "v/monitor": true, "v/plan": true}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestExitStatus(t *testing.T) {
	for _, c := range []struct {
		name   string
		counts counts
		broken []string
		tests  bool
		want   int
	}{
		{"passed", counts{passed: 1}, nil, true, 0},
		{"failed", counts{passed: 1, failed: 1}, nil, true, 1},
		{"nothing ran", counts{skipped: 3}, nil, true, 1},
		{"a linter found something", counts{passed: 1}, []string{"lint"}, true, 1},
		{"lint alone", counts{}, nil, false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &run{tally: newTally(&strings.Builder{}, false), broken: c.broken}
			r.tally.done = c.counts
			if got := r.close(c.tests); got != c.want {
				t.Errorf("exit status %d, want %d", got, c.want)
			}
		})
	}
}
