package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
	"unicode"

	"vivarium/image/build"
)

const (
	// liveTick is how often a live display is drawn.
	liveTick = 100 * time.Millisecond
	// liveOutput is how many lines of a running step's output are shown.
	liveOutput = 6
	// liveLine bounds what is kept of a line of output.
	liveLine = 4 << 10
)

// liveDisplay shows the steps of a build on a terminal, as BuildKit's does: each on a line
// with its time, and below one that runs the end of its output. What was drawn is drawn over.
type liveDisplay struct {
	w     io.Writer
	size  func() (columns, rows int)
	color bool

	mu    sync.Mutex
	began time.Time
	steps []*liveStep
	byNum map[int]*liveStep
	notes []string
	warns []string
	drawn int // lines of the last frame, which the cursor is below
	stop  chan struct{}
	ended sync.WaitGroup
}

type liveStep struct {
	name   string
	began  time.Time
	took   time.Duration
	kind   build.EventKind // how it ended; Started: it has not
	lines  []string
	unread string // a line that is not complete
}

func newLiveDisplay(w io.Writer, size func() (int, int)) *liveDisplay {
	return &liveDisplay{w: w, size: size, color: os.Getenv("NO_COLOR") == "", byNum: map[int]*liveStep{}}
}

func (d *liveDisplay) event(e build.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.start()
	if e.Kind == build.Warned {
		d.warns = append(d.warns, warningText(e.Warning))
		return
	}
	if e.Kind == build.Started {
		s := &liveStep{name: oneLine(e.Name), began: e.At}
		d.steps, d.byNum[e.Step] = append(d.steps, s), s
		return
	}
	s := d.byNum[e.Step]
	if e.Kind == build.Output {
		s.output(e.Data)
		return
	}
	s.kind, s.took, s.lines, s.unread = e.Kind, e.Took, nil, ""
}

// start begins to draw, at the first event. The lock is held.
func (d *liveDisplay) start() {
	if d.stop != nil {
		return
	}
	d.began, d.stop = time.Now(), make(chan struct{})
	d.ended.Go(func() {
		tick := time.NewTicker(liveTick)
		defer tick.Stop()
		for {
			select {
			case <-d.stop:
				return
			case <-tick.C:
				d.mu.Lock()
				d.draw(false)
				d.mu.Unlock()
			}
		}
	})
}

func (d *liveDisplay) note(what string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.start()
	d.notes = append(d.notes, what)
}

func (d *liveDisplay) end() {
	d.mu.Lock()
	if d.stop == nil {
		d.mu.Unlock()
		return
	}
	close(d.stop)
	d.mu.Unlock()
	d.ended.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.draw(true)
	d.stop, d.drawn = nil, 0
}

// draw writes a frame over the last one. The cursor is hidden for that time only, so that a
// killed build leaves it.
func (d *liveDisplay) draw(last bool) {
	columns, rows := d.size()
	lines := d.frame(time.Now(), columns, rows, last)
	var b strings.Builder
	b.WriteString("\x1b[?25l")
	if d.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", d.drawn)
	}
	for _, l := range lines {
		b.WriteString("\r" + l + "\x1b[K\n")
	}
	b.WriteString("\x1b[J\x1b[?25h")
	_, _ = io.WriteString(d.w, b.String()) // a terminal that is gone does not end the build
	d.drawn = len(lines)
}

// frame is what is drawn. All but the last has to fit the terminal: steps that have ended
// go first, from the top, then output.
func (d *liveDisplay) frame(now time.Time, columns, rows int, last bool) []string {
	done := 0
	for _, s := range d.steps {
		if s.kind != build.Started {
			done++
		}
	}
	head := fmt.Sprintf("[+] Building %.1fs (%d/%d)", now.Sub(d.began).Seconds(), done, len(d.steps))
	if last {
		head += " FINISHED"
	}
	room := rows - 2 - len(d.notes) - len(d.warns)
	shown, output := d.steps, liveOutput
	for !last && len(shown) > 0 && height(shown, output) > room {
		if i := firstEnded(shown); i >= 0 {
			shown = append(append([]*liveStep(nil), shown[:i]...), shown[i+1:]...)
		} else if output > 0 {
			output--
		} else {
			shown = shown[1:]
		}
	}
	lines := []string{clip(head, columns)}
	for _, s := range shown {
		lines = append(lines, s.text(now, columns, output, d.color)...)
	}
	for _, n := range d.notes {
		lines = append(lines, clip(" => => "+n, columns))
	}
	for _, w := range d.warns {
		lines = append(lines, clip(w, columns))
	}
	return lines
}

func height(steps []*liveStep, output int) int {
	n := len(steps)
	for _, s := range steps {
		n += min(output, len(s.tail()))
	}
	return n
}

func firstEnded(steps []*liveStep) int {
	for i, s := range steps {
		if s.kind == build.Done || s.kind == build.Cached {
			return i
		}
	}
	return -1
}

// text is a step's line, and the end of its output.
func (s *liveStep) text(now time.Time, columns, output int, color bool) []string {
	took, mark, paint := s.took, "", ""
	switch s.kind {
	case build.Started:
		took = now.Sub(s.began)
	case build.Cached:
		mark, paint = "CACHED ", "\x1b[34m"
	case build.Failed:
		mark, paint = "ERROR ", "\x1b[31m"
	default:
		paint = "\x1b[34m"
	}
	right := fmt.Sprintf("%.1fs", max(took, 0).Seconds())
	left := clip(" => "+mark+s.name, max(columns-len(right)-1, 1))
	line := left + strings.Repeat(" ", max(columns-width(left)-len(right), 1)) + right
	if color && paint != "" {
		line = paint + line + "\x1b[0m"
	}
	out := []string{line}
	tail := s.tail()
	for _, l := range tail[max(0, len(tail)-output):] {
		out = append(out, clip(" => => # "+l, columns))
	}
	return out
}

func (s *liveStep) tail() []string {
	if s.unread == "" {
		return s.lines
	}
	return append(s.lines[max(0, len(s.lines)-liveOutput+1):len(s.lines):len(s.lines)], visible(s.unread))
}

// output takes what the step's command has written, line by line.
func (s *liveStep) output(b []byte) {
	s.unread += string(b)
	for {
		line, rest, ok := strings.Cut(s.unread, "\n")
		if !ok {
			break
		}
		s.lines, s.unread = append(s.lines, visible(line)), rest
	}
	s.lines = s.lines[max(0, len(s.lines)-liveOutput):]
	if len(s.unread) > liveLine {
		s.unread = s.unread[len(s.unread)-liveLine:]
	}
}

// visible is what a terminal would show of a line, as far as it stays on the line: what
// came behind the last return, without escape sequences (ECMA-48, 5.4) and control
// characters.
func visible(line string) string {
	line = strings.TrimRight(line, "\r")
	line = line[strings.LastIndexByte(line, '\r')+1:]
	var b strings.Builder
	for i := 0; i < len(line); {
		if line[i] == 0x1b {
			i = escapeEnd(line, i)
			continue
		}
		r := []rune(line[i:min(len(line), i+4)])[0]
		n := len(string(r))
		switch {
		case r == '\t':
			b.WriteString("    ")
		case r == unicode.ReplacementChar:
			b.WriteRune(r)
			n = 1
		case !unicode.IsControl(r):
			b.WriteRune(r)
		}
		i += n
	}
	return b.String()
}

// escapeEnd is where an escape sequence that begins at i ends.
func escapeEnd(s string, i int) int {
	i++
	if i >= len(s) {
		return i
	}
	switch s[i] {
	case '[': // CSI: up to a byte from @ to ~
		for i++; i < len(s); i++ {
			if s[i] >= 0x40 && s[i] <= 0x7e {
				return i + 1
			}
		}
		return i
	case ']', 'P', '_', '^', 'X': // a string, up to BEL or ST
		for i++; i < len(s); i++ {
			if s[i] == 7 {
				return i + 1
			}
			if s[i] == 0x1b && i+1 < len(s) && s[i+1] == '\\' {
				return i + 2
			}
		}
		return i
	}
	return i + 1
}

// width is how many columns a text takes, about: scripts that are written in wide
// characters take two each (Unicode Standard Annex 11).
func width(s string) int {
	n := 0
	for _, r := range s {
		n += runeWidth(r)
	}
	return n
}

func runeWidth(r rune) int {
	switch {
	case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		return 0
	case r >= 0x1100 && r <= 0x115f, r >= 0x2e80 && r <= 0xa4cf, r >= 0xac00 && r <= 0xd7a3, r >= 0xf900 && r <= 0xfaff,
		r >= 0xfe30 && r <= 0xfe6f, r >= 0xff00 && r <= 0xff60, r >= 0xffe0 && r <= 0xffe6, r >= 0x1f300 && r <= 0x1faff, r >= 0x20000 && r <= 0x3fffd:
		return 2
	}
	return 1
}

// clip cuts a text to the columns of a terminal.
func clip(s string, columns int) string {
	n := 0
	for i, r := range s {
		if n += runeWidth(r); n > columns {
			return s[:i]
		}
	}
	return s
}
