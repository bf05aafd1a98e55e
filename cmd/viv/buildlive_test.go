package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"vivarium/image/build"
)

func TestLiveFrame(t *testing.T) {
	at := time.Unix(1000, 0)
	d := newLiveDisplay(nil, nil)
	d.color, d.began, d.stop = false, at, make(chan struct{}) // nothing draws by itself
	start := func(n int, name string) { d.event(build.Event{Kind: build.Started, Step: n, Name: name, At: at}) }
	start(1, "[1/3] FROM box")
	start(2, "[2/3] RUN <<E\nmore\nE")
	start(3, "[3/3] RUN sleep 10 with a name that is much too long for the line")
	d.event(build.Event{Kind: build.Cached, Step: 1})
	d.event(build.Event{Kind: build.Output, Step: 3, Data: []byte("one\ntwo\x1b[31m red\x1b[0m\nthree\x1b[2Jcle")})
	d.event(build.Event{Kind: build.Done, Step: 2, Took: 1500 * time.Millisecond})
	d.event(build.Event{Kind: build.Warned, Warning: &build.Warning{Rule: "R", Text: "look", Line: 2}})
	d.notes = []string{"naming to x"}
	got := strings.Join(d.frame(at.Add(2500*time.Millisecond), 40, 24, false), "\n")
	want := `[+] Building 2.5s (2/3)
 => CACHED [1/3] FROM box           0.0s
 => [2/3] RUN <<E ...               1.5s
 => [3/3] RUN sleep 10 with a name  2.5s
 => => # one
 => => # two red
 => => # threecle
 => => naming to x
WARN: R: look (line 2)`
	if got != want {
		t.Errorf("the frame is\n%s\nwant\n%s", got, want)
	}
	for rows := 1; rows < 12; rows++ {
		lines := d.frame(at, 40, rows, false)
		if len(lines) > max(rows-1, 3) { // head, note and warning stay
			t.Errorf("%d rows: %d lines", rows, len(lines))
		}
	}
	// What runs is the last to go.
	if got := strings.Join(d.frame(at, 40, 5, false), "\n"); !strings.Contains(got, "sleep 10") || strings.Contains(got, "FROM box") {
		t.Errorf("in five rows:\n%s", got)
	}
	d.event(build.Event{Kind: build.Failed, Step: 3, Took: time.Second})
	if got := strings.Join(d.frame(at, 60, 5, true), "\n"); !strings.Contains(got, "FINISHED") || !strings.Contains(got, "ERROR [3/3]") || strings.Contains(got, "# ") || !strings.Contains(got, "FROM box") {
		t.Errorf("the last frame:\n%s", got)
	}
}

// TestLiveDraws plays what is written on a screen: each frame stands where the last one stood.
func TestLiveDraws(t *testing.T) {
	var out bytes.Buffer
	d := newLiveDisplay(&out, func() (int, int) { return 40, 10 })
	d.color, d.began, d.stop = false, time.Now(), make(chan struct{})
	for i := range 30 {
		d.event(build.Event{Kind: build.Started, Step: i, Name: fmt.Sprintf("step %d", i), At: time.Now()})
		d.event(build.Event{Kind: build.Output, Step: i, Data: []byte(strings.Repeat("line\n", i%5))})
		d.draw(false)
		d.event(build.Event{Kind: build.Done, Step: i})
	}
	d.end()
	text := screen(out.String())
	if len(text) != 31 || !strings.HasPrefix(text[0], "[+] Building") || !strings.Contains(text[0], "(30/30) FINISHED") || !strings.HasPrefix(text[30], " => step 29") {
		t.Errorf("the terminal shows\n%s", strings.Join(text, "\n"))
	}
	if strings.Count(out.String(), "\x1b[?25l") != strings.Count(out.String(), "\x1b[?25h") {
		t.Error("the cursor stays hidden")
	}
}

// screen is what a terminal of endless height shows of the sequences that the display uses.
func screen(s string) []string {
	lines, row := []string{""}, 0
	for i := 0; i < len(s); {
		switch {
		case s[i] == '\r':
			i++
		case s[i] == '\n':
			if row++; row == len(lines) {
				lines = append(lines, "")
			}
			i++
		case s[i] == 0x1b:
			end := escapeEnd(s, i)
			var n int
			switch seq := s[i:end]; {
			case strings.HasSuffix(seq, "A"):
				fmt.Sscanf(seq, "\x1b[%dA", &n)
				row -= n
			case strings.HasSuffix(seq, "B"):
				fmt.Sscanf(seq, "\x1b[%dB", &n)
				row += n
			case seq == "\x1b[J":
				lines = append(lines[:row], "")
			}
			i = end
		default:
			end := i + strings.IndexAny(s[i:]+"\n", "\x1b\n")
			lines[row] = s[i:end]
			i = end
		}
	}
	return lines[:len(lines)-1]
}

func TestVisible(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                           "plain",
		"10%\r50%\r100%":                  "100%",
		"dos\r":                           "dos",
		"a\tb":                            "a    b",
		"\x1b[1;31mred\x1b[0m":            "red",
		"\x1b]0;title\x07text":            "text",
		"\x1b]8;;x\x1b\\link\x1b]8;;\x1b": "link",
		"bell\x07 \x00nul":                "bell nul",
		"cut\x1b[":                        "cut",
		"bad \xff byte":                   "bad \ufffd byte",
		"世界":                              "世界",
		"\u009b2Jc1":                      "2Jc1",
	} {
		if got := visible(in); got != want {
			t.Errorf("%q shows %q, want %q", in, got, want)
		}
	}
}

func FuzzVisible(f *testing.F) {
	f.Add("a\x1b[2Jb\r\n\x9b\xff")
	f.Fuzz(func(t *testing.T, s string) {
		s, _, _ = strings.Cut(s, "\n")
		for _, r := range visible(s) {
			if r < 0x20 || r >= 0x7f && r < 0xa0 {
				t.Errorf("%q shows the control character %q", s, r)
			}
		}
		if w := width(clip(visible(s), 10)); w > 10 {
			t.Errorf("%q takes %d columns of 10", s, w)
		}
	})
}

func TestRawDisplay(t *testing.T) {
	var out bytes.Buffer
	p := &rawDisplay{out: json.NewEncoder(&out), steps: map[int]*rawVertex{}}
	at := time.Unix(1000, 0).UTC()
	p.event(build.Event{Kind: build.Started, Step: 1, Name: "RUN x", At: at})
	p.event(build.Event{Kind: build.Output, Step: 1, Data: []byte("text\n"), At: at})
	p.event(build.Event{Kind: build.Failed, Step: 1, Err: errors.New("no"), At: at})
	p.event(build.Event{Kind: build.Warned, Warning: &build.Warning{Text: "look"}})
	p.note("naming to x")
	var all []rawStatus
	for dec := json.NewDecoder(&out); dec.More(); {
		var s rawStatus
		if err := dec.Decode(&s); err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	if len(all) != 5 || all[0].Vertexes[0].Name != "RUN x" || all[1].Logs[0].Vertex != all[0].Vertexes[0].Digest || string(all[1].Logs[0].Data) != "text\n" ||
		all[2].Vertexes[0].Error != "no" || all[2].Vertexes[0].Completed == nil || string(all[3].Warnings[0].Short) != "look" || all[4].Vertexes[0].Name != "naming to x" {
		t.Errorf("%+v", all)
	}
}
