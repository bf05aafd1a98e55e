package engine

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	p, err := parseStat([]byte("4711 (a) b (c) S 42 4711 4711 34816 -1 4194304 1 2 3 4 150 50 0 0 20 0 1 0 123456 9 9\n"))
	if err != nil {
		t.Fatal(err)
	}
	if p.pid != 4711 || p.ppid != 42 || p.comm != "a) b (c" || p.cpu != 2*time.Second || p.start != 1234560*time.Millisecond || ttyName(p.tty) != "pts/0" {
		t.Errorf("%+v", p)
	}
	for _, bad := range []string{"", "1 (x", "1 (x) S", "x (y) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20"} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestTTYName(t *testing.T) {
	for nr, want := range map[int]string{0: "?", 136 << 8: "pts/0", 136<<8 | 7: "pts/7", 136<<8 | 255 | 1<<20: "pts/511", 4<<8 | 1: "tty1", 4<<8 | 64: "ttyS0"} {
		if got := ttyName(nr); got != want {
			t.Errorf("%#x: %q, want %q", nr, got, want)
		}
	}
}

func TestParsePS(t *testing.T) {
	out := "USER   PID COMMAND\nroot     1 init of the host\nroot    42 sh -c a b\nbob     43 sleep\n"
	res, err := parsePS(out, []int{42, 43})
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Processes) != 2 || !slices.Equal(res.Processes[0], []string{"root", "42", "sh -c a b"}) {
		t.Errorf("%q", res.Processes)
	}
	if _, err := parsePS("CMD\nx\n", []int{1}); !errors.Is(err, ErrInvalid) {
		t.Errorf("without a PID column: %v", err)
	}
}

func TestTopOfThisProcess(t *testing.T) {
	res, err := topProc([]int{os.Getpid(), 1 << 22})
	if err != nil || len(res.Processes) != 1 || len(res.Processes[0]) != len(res.Titles) {
		t.Fatalf("%+v, %v", res, err)
	}
	if cmd := res.Processes[0][7]; !strings.Contains(cmd, "test") {
		t.Errorf("command %q", cmd)
	}
}

func TestParseNetDev(t *testing.T) {
	rx, tx := parseNetDev([]byte("Inter-|   Receive  |  Transmit\n face |bytes\n    lo: 5 0 0 0 0 0 0 0 5 0 0 0 0 0 0 0\n  eth0:100 1 0 0 0 0 0 0 200 1 0 0 0 0 0 0\n  eth1: 1 1 0 0 0 0 0 0 2 1 0 0 0 0 0 0\n"))
	if rx != 101 || tx != 202 {
		t.Errorf("%d, %d", rx, tx)
	}
}

func TestCPUPercent(t *testing.T) {
	a := Sample{CPU: time.Second, SystemCPU: 10 * time.Second, CPUs: 2}
	b := Sample{CPU: 2 * time.Second, SystemCPU: 12 * time.Second, CPUs: 2}
	if got := cpuPercent(a, b); got != 100 {
		t.Errorf("one of two CPUs busy: %v", got)
	}
	if got := cpuPercent(b, a); got != 0 {
		t.Errorf("backwards: %v", got)
	}
}

func TestDiskUsage(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/a", make([]byte, 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(dir+"/a", dir+"/b"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/", dir+"/root"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir+"/sub", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/sub/c", make([]byte, 500), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, size, err := diskUsage(dir); err != nil || size != 1500 {
		t.Errorf("%d, %v; want 1500: a hard link counts once, a link is not followed", size, err)
	}
}

// TestEvents records events, reads them back with filters, and follows new ones.
func TestEvents(t *testing.T) {
	e := newEngine(t)
	c := &Container{ID: strings.Repeat("a", 64), Name: "web", Image: "busybox:latest"}
	c.Options.Config.Labels = map[string]string{"tier": "front"}
	start := time.Now().Add(-time.Second)
	e.emit(containerEvent(c, "create"), containerEvent(c, "start"))
	e.emit(objectEvent("volume", "create", "data", nil))
	collect := func(filters ...string) string {
		f, err := ParseFilters(filters)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		err = e.Events(t.Context(), EventsOptions{Since: start, Until: time.Now(), Filters: f}, func(ev Event) error {
			got = append(got, ev.Type+":"+ev.Action)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		return strings.Join(got, " ")
	}
	for _, tc := range []struct {
		filters []string
		want    string
	}{
		{nil, "container:create container:start volume:create"},
		{[]string{"type=volume"}, "volume:create"},
		{[]string{"event=start"}, "container:start"},
		{[]string{"container=web", "event=create"}, "container:create"},
		{[]string{"container=aaaaaaaaaaaa"}, "container:create container:start"},
		{[]string{"image=busybox"}, "container:create container:start"},
		{[]string{"label=tier=front", "event=start"}, "container:start"},
		{[]string{"label=tier=back"}, ""},
	} {
		if got := collect(tc.filters...); got != tc.want {
			t.Errorf("%q: %q, want %q", tc.filters, got, tc.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got := make(chan string, 10)
	done := make(chan error, 1)
	go func() {
		done <- e.Events(ctx, EventsOptions{Since: start}, func(ev Event) error { got <- ev.Action; return nil })
	}()
	for range 3 {
		<-got
	}
	e.emit(containerEvent(c, "die", "exitCode", "7"))
	if a := <-got; a != "die" {
		t.Errorf("followed %q", a)
	}
	// The log is rotated away and begun anew.
	if err := os.Rename(e.eventsFile(), e.eventsFile()+".1"); err != nil {
		t.Fatal(err)
	}
	e.emit(containerEvent(c, "destroy"))
	if a := <-got; a != "destroy" {
		t.Errorf("after rotation %q", a)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
