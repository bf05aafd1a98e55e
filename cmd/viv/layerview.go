package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"vivarium/engine"
)

// layerView is the full-screen view of layers: on the left the layers, on the right the tree as
// the chosen layer leaves it.
type layerView struct {
	r     *engine.LayersReport
	files layerFiles

	rows, cols int
	layer      int  // that is looked at
	inTree     bool // keys go to the tree
	changed    bool // show only what the layer changes
	trees      map[int]*treeNode
	line, top  int // chosen line of the tree, and the first that is shown
	lines      []treeLine
}

func newLayerView(r *engine.LayersReport, files layerFiles) *layerView {
	v := &layerView{r: r, files: files, rows: 24, cols: 80, changed: true, trees: map[int]*treeNode{}}
	v.choose(len(r.Layers) - 1)
	return v
}

// choose looks at a layer.
func (v *layerView) choose(layer int) {
	v.layer = min(max(layer, 0), len(v.r.Layers)-1)
	if v.layer < 0 {
		v.layer = 0
		return
	}
	if v.trees[v.layer] == nil {
		v.trees[v.layer] = layerTree(v.r, v.layer, v.files.isDir)
	}
	v.line, v.top = 0, 0
	v.lines = v.trees[v.layer].lines(v.changed)
}

// key does what a key says, and tells whether the view goes on.
func (v *layerView) key(k string) bool {
	switch k {
	case "q", "\x03", "\x1b":
		return false
	case "\t":
		v.inTree = !v.inTree
	case "c":
		v.changed = !v.changed
		v.choose(v.layer)
	case "up", "k":
		v.move(-1)
	case "down", "j":
		v.move(1)
	case "pgup":
		v.move(-v.height())
	case "pgdn", " ":
		v.move(v.height())
	case "home", "g":
		v.move(-1 << 30)
	case "end", "G":
		v.move(1 << 30)
	case "right", "l":
		v.unfold(true)
	case "left", "h":
		v.unfold(false)
	case "\r":
		if v.inTree && v.line < len(v.lines) {
			v.unfold(!v.lines[v.line].node.open)
		}
		v.inTree = true
	}
	return true
}

func (v *layerView) move(by int) {
	if !v.inTree {
		v.choose(v.layer + by)
		return
	}
	v.line = max(min(v.line+by, len(v.lines)-1), 0)
	v.top = min(max(v.top, v.line-v.height()+1), v.line)
}

// unfold opens or closes the chosen directory; closing one that is closed goes to the one
// that it is in.
func (v *layerView) unfold(open bool) {
	if !v.inTree || v.line >= len(v.lines) {
		return
	}
	l := v.lines[v.line]
	if !open && !l.node.open {
		for v.line > 0 && v.lines[v.line].depth >= l.depth && l.depth > 0 {
			v.line--
		}
	} else {
		l.node.open = open && len(l.node.kids) > 0
		v.lines = v.trees[v.layer].lines(v.changed)
	}
	v.move(0)
}

// height is how many lines of the tree there is room for.
func (v *layerView) height() int { return max(v.rows-3, 1) }

// inverse, and colours of what a layer does to a name.
const (
	plainText = "\x1b[0m"
	inverse   = "\x1b[7m"
	bold      = "\x1b[1m"
)

func markColour(mark byte) string {
	switch mark {
	case 'A':
		return "\x1b[32m"
	case 'C':
		return "\x1b[33m"
	}
	return "\x1b[31m"
}

// screen is all that is shown.
func (v *layerView) screen() string {
	left := min(max(v.cols*2/5, 24), 64)
	right := max(v.cols-left-3, 10)
	list, tree := v.layerLines(left), v.treeLines(right)
	var s strings.Builder
	c := v.r.Changes
	head := fmt.Sprintf(" %s   efficiency %.2f%%   wasted %s of %s", printable(v.r.Name), 100*c.Efficiency(), human(c.Wasted), human(c.Bytes))
	s.WriteString("\x1b[H" + inverse + fit(head, v.cols) + plainText + "\r\n")
	s.WriteString(bold + fit("LAYERS", left) + plainText + " │ " + bold + fit(v.treeTitle(), right) + plainText + "\r\n")
	for i := range v.height() {
		s.WriteString(lineOr(list, i, left) + " │ " + lineOr(tree, i, right) + "\x1b[K\r\n")
	}
	s.WriteString(inverse + fit(" up down choose · tab other side · left right fold · c changes/all · q quit", v.cols) + plainText)
	return s.String()
}

func (v *layerView) treeTitle() string {
	if v.changed {
		return "WHAT LAYER " + fmt.Sprint(v.layer+1) + " CHANGES"
	}
	return "THE TREE UP TO LAYER " + fmt.Sprint(v.layer+1)
}

// layerLines is the left side: the layers, and more about the chosen one.
func (v *layerView) layerLines(width int) []string {
	if len(v.r.Layers) == 0 {
		return []string{fit("no layers", width)}
	}
	// As many layers as there is room for beside what is said of the chosen one.
	room := max(v.height()-9, 3)
	first := max(0, min(v.layer-room/2, len(v.r.Layers)-room))
	var out []string
	for i := first; i < min(first+room, len(v.r.Layers)); i++ {
		text := fit(fmt.Sprintf("%3d %9s  %s", i+1, human(v.r.Changes.Each[i].Bytes), printable(v.r.Layers[i].CreatedBy)), width)
		if i == v.layer {
			text = highlight(text, !v.inTree)
		}
		out = append(out, text)
	}
	c := v.r.Changes.Each[v.layer]
	out = append(out, "", fit(fmt.Sprintf("added %d  changed %d  deleted %d", len(c.Added), len(c.Changed), len(c.Deleted)), width),
		fit("hides "+human(c.Hidden)+" of the layers below", width), fit(printable(v.r.Layers[v.layer].CreatedBy), width), "", bold+fit("WASTED MOST", width)+plainText)
	for _, w := range v.r.Changes.Worst {
		out = append(out, fit(fmt.Sprintf("%9s  /%s", human(w.Bytes), printable(w.Path)), width))
	}
	for i, text := range out {
		if text == "" {
			out[i] = strings.Repeat(" ", width)
		}
	}
	return out
}

func highlight(text string, here bool) string {
	if here {
		return inverse + text + plainText
	}
	return bold + text + plainText
}

// treeLines is the right side.
func (v *layerView) treeLines(width int) []string {
	if len(v.lines) == 0 {
		return []string{fit("nothing", width)}
	}
	var out []string
	for i := v.top; i < min(v.top+v.height(), len(v.lines)); i++ {
		text := fit(v.treeLine(v.lines[i]), width)
		switch mark := v.lines[i].node.mark; {
		case i == v.line && v.inTree:
			text = highlight(text, true)
		case mark != 0:
			text = markColour(mark) + text + plainText
		}
		out = append(out, text)
	}
	return out
}

func (v *layerView) treeLine(l treeLine) string {
	mark, fold, size, mode := " ", "  ", "", ""
	if l.node.mark != 0 {
		mark = string(rune(l.node.mark))
	}
	if len(l.node.kids) > 0 {
		fold = "+ "
		if l.node.open {
			fold = "- "
		}
	}
	name := printable(l.node.name)
	if st := v.files.stat(l); st != nil {
		mode = st.Mode().String()
		switch {
		case st.Mode().IsRegular():
			size = human(st.Size())
		case st.IsDir():
			name += "/"
		}
	}
	return fmt.Sprintf("%s %-11s %9s  %s%s%s", mark, mode, size, strings.Repeat("  ", l.depth), fold, name)
}

func human(n int64) string { return units.HumanSizeWithPrecision(float64(n), 3) }

// fit makes a text as wide as asked for, in runes.
func fit(s string, width int) string {
	r := []rune(s)
	if len(r) > width {
		return string(r[:max(width-1, 0)]) + "…"
	}
	return s + strings.Repeat(" ", width-len(r))
}

func lineOr(lines []string, i, width int) string {
	if i < len(lines) {
		return lines[i]
	}
	return strings.Repeat(" ", width)
}

// viewLayers shows the view until a key ends it.
func (a *app) viewLayers(ctx context.Context, r *engine.LayersReport) error {
	files, err := openLayerFiles(r)
	if err != nil {
		return fmt.Errorf("open the layers of %s: %w", r.Name, err)
	}
	defer files.close()
	old, err := term.MakeRaw(int(a.in.Fd()))
	if err != nil {
		return fmt.Errorf("put the terminal into raw mode: %w", err)
	}
	defer term.Restore(int(a.in.Fd()), old)
	fmt.Fprint(a.out, "\x1b[?1049h\x1b[?25l\x1b[2J") // the other screen, no cursor, clear
	defer fmt.Fprint(a.out, "\x1b[?25h\x1b[?1049l")
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, unix.SIGWINCH)
	defer signal.Stop(resized)
	keys := make(chan string)
	go readKeys(bufio.NewReader(a.in), keys)
	v := newLayerView(r, files)
	for {
		if rows, cols, ok := a.terminalSize(); ok {
			v.rows, v.cols = int(rows), int(cols)
		}
		fmt.Fprint(a.out, v.screen())
		select {
		case k, ok := <-keys:
			if !ok || !v.key(k) {
				return nil
			}
		case <-resized:
			fmt.Fprint(a.out, "\x1b[2J")
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// keyName is the key of a sequence behind an escape (ECMA-48, xterm's), or nothing.
func keyName(seq string) string {
	switch seq {
	case "[A", "OA":
		return "up"
	case "[B", "OB":
		return "down"
	case "[C", "OC":
		return "right"
	case "[D", "OD":
		return "left"
	case "[H", "OH", "[1~":
		return "home"
	case "[F", "OF", "[4~":
		return "end"
	case "[5~":
		return "pgup"
	case "[6~":
		return "pgdn"
	}
	return ""
}

// readKeys reads keys until the input ends. An escape that nothing follows at once is the key.
func readKeys(in *bufio.Reader, keys chan<- string) {
	defer close(keys)
	for {
		c, _, err := in.ReadRune()
		if err != nil {
			return
		}
		if c != 0x1b || in.Buffered() == 0 {
			keys <- string(c)
			continue
		}
		var seq strings.Builder
		for in.Buffered() > 0 && seq.Len() < 8 {
			b, err := in.ReadByte()
			if err != nil {
				return
			}
			seq.WriteByte(b)
			if s := seq.String(); s != "[" && s != "O" && (b >= 'A' && b <= 'Z' || b == '~' || b >= 'a' && b <= 'z') {
				break
			}
		}
		if name := keyName(seq.String()); name != "" {
			keys <- name
		}
	}
}
