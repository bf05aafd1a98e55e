package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"vivarium/image/registry"
)

// TestPullOnATerminal plays a pull of many layers on small terminals: each layer keeps its
// one line, and what has scrolled off the screen is left alone.
func TestPullOnATerminal(t *testing.T) {
	for _, columns := range []int{30, 80, 200} {
		var out bytes.Buffer
		p := &pullPrinter{w: &out, live: true, size: func() (int, int) { return columns, 10 }}
		p.restart()
		layer := func(i int) digest.Digest { return digest.FromString(fmt.Sprint(i)) }
		for i := range 15 {
			p.Step(registry.Event{Layer: layer(i), Status: registry.StatusWaiting})
		}
		for i := range 15 {
			p.Step(registry.Event{Layer: layer(i), Status: registry.StatusDownloading, Current: 50e6, Total: 200e6})
			p.meters[layer(i)].rate, p.meters[layer(i)].drawn = 1e6, time.Time{}
			p.Step(registry.Event{Layer: layer(i), Status: registry.StatusDownloading, Current: 100e6, Total: 200e6})
		}
		lines := screen(strings.ReplaceAll(out.String(), "\x1b[2K", ""))
		if len(lines) != 15 {
			t.Fatalf("%d columns: %d lines of 15", columns, len(lines))
		}
		for i, l := range lines {
			if width(l) > columns {
				t.Errorf("%d columns: %q takes %d", columns, l, width(l))
			}
			state := "Waiting"
			if i > 5 { // nine lines are above the cursor's
				state = "Downloading"
			}
			if want := fmt.Sprintf("%s: %s", layer(i).Encoded()[:12], state); !strings.HasPrefix(l, want) {
				t.Errorf("%d columns: line %d is %q, want %q", columns, i, l, want)
			}
		}
		if last := lines[14]; columns >= 80 && (!strings.Contains(last, "100MB/200MB") || !strings.Contains(last, "1MB/s") || !strings.Contains(last, "1m40s left")) {
			t.Errorf("%d columns: %q", columns, last)
		}
	}
}
