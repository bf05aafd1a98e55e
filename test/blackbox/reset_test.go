package blackbox

import (
	"errors"
	"os"
	"strings"
	"testing"
)

// TestReset leaves nothing of an engine that has run, and the next command begins anew.
func TestReset(t *testing.T) {
	vivOnly(t, "Docker has no such command")
	e := newBox(t)
	e.MustViv("run", "-d", "--name", "bridged", "-v", "kept:/data", box, "sleep", "1000")
	if r := e.Tool("ip", "-o", "link").Run(); !strings.Contains(r.Stdout, "vivbr") {
		t.Fatalf("no bridge: %v", r)
	}
	r := e.Command("system", "reset")
	r.Stdin = strings.NewReader("n\n")
	if res := r.Run(); res.Code != 0 || e.MustViv("ps", "-q") == "" {
		t.Errorf("reset that was not confirmed: %v", res)
	}
	want(t, e.Viv("system", "reset", "-f"), 0, "")
	for _, dir := range []string{e.Root, e.State, e.Root + ".removed"} {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", dir, err)
		}
	}
	if r := e.Tool("sh", "-c", "ip -o link; nft list ruleset").Run(); strings.Contains(r.Stdout, "viv") {
		t.Errorf("left of the network: %v", r)
	}
	want(t, e.Viv("ps", "-aq"), 0, "")
	want(t, e.Viv("images", "-q"), 0, "")
	want(t, e.Viv("volume", "ls", "-q"), 0, "")
	e.Import("busybox", box)
	want(t, e.Viv("run", "--rm", "--network", "none", box, "echo", "anew"), 0, "anew\n")
}
