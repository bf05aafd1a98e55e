package blackbox

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
)

// TestLayer goes through the layers of an image that wastes, and of a container of it.
func TestLayer(t *testing.T) {
	vivOnly(t, "Docker has no such command")
	e := newBox(t)
	dir := t.TempDir()
	plantFile(t, "FROM "+box+"\nRUN head -c 100000 /dev/zero >/big; echo a >/small\nRUN head -c 50000 /dev/zero >/big; rm /small\n", filepath.Join(dir, "Dockerfile"))
	e.MustViv("build", "-q", "-t", "wasteful", dir)
	text := e.MustViv("layer", "wasteful")
	if !strings.Contains(text, "efficiency ") || !strings.Contains(text, "100kB") || !strings.Contains(text, "/big") || !strings.Contains(text, "RUN") {
		t.Errorf("%s", text)
	}
	var r struct {
		Layers  []struct{ CreatedBy string }
		Changes struct {
			Each []struct {
				Changed, Deleted []string
				Hidden           int64
			}
			Wasted int64
		}
		Efficiency float64
	}
	if err := json.Unmarshal([]byte(e.MustViv("layer", "--format", "json", "wasteful")), &r); err != nil {
		t.Fatal(err)
	}
	last := r.Changes.Each[len(r.Changes.Each)-1]
	if len(r.Layers) != len(r.Changes.Each) || r.Changes.Wasted != 100002 || last.Hidden != 100002 || strings.Join(last.Changed, " ") != "big" || strings.Join(last.Deleted, " ") != "small" || r.Efficiency >= 1 {
		t.Errorf("%+v", r)
	}
	want(t, e.Viv("layer", "--changes", "3", "wasteful"), 0, "C /big\nD /small\n")
	fails(t, e.Viv("layer", "--changes", "9", "wasteful"), 1, "3 layers")
	if res := e.Viv("layer", "--ci", "--lowest-efficiency", "1", "wasteful"); res.Code != 1 || !strings.Contains(res.Stderr, "efficiency") {
		t.Errorf("--ci: %v", res)
	}
	e.MustViv("layer", "--ci", "--lowest-efficiency", "0.1", "wasteful")
	fails(t, e.Viv("layer", "--ci", "--lowest-efficiency", "2", "wasteful"), 1, "between 0 and 1")
	e.MustViv("run", "--name", "worker", "--network", "none", "wasteful", "sh", "-c", "echo x >/new")
	if text := e.MustViv("layer", "--changes", "5", "worker"); !strings.Contains(text, "A /new") {
		t.Errorf("of the container: %s", text)
	}
	if text := e.MustViv("layer", "worker"); !strings.Contains(text, " container\n") || !strings.Contains(text, " init: ") {
		t.Errorf("of the container: %s", text)
	}
	fails(t, e.Viv("layer", "host"), 1, "no layers")
	fails(t, e.Viv("layer", "nobody"), 1, "nobody")
	e.MustViv("rm", "worker")
}

// TestLayerView walks through an image on a terminal.
func TestLayerView(t *testing.T) {
	vivOnly(t, "Docker has no such command")
	e := newBox(t)
	dir := t.TempDir()
	plantFile(t, "FROM "+box+"\nRUN mkdir -p /deep/er; head -c 100000 /dev/zero >/deep/er/big; echo a >/small\nRUN head -c 50000 /dev/zero >/deep/er/big; rm /small\n", filepath.Join(dir, "Dockerfile"))
	e.MustViv("build", "-q", "-t", "wasteful", dir)
	cmd := e.Command("layer", "wasteful")
	cmd.Terminal = true
	p := cmd.Start()
	p.Expect("\x1b[?1049h")
	p.Expect("LAYER 3 CHANGES")
	p.Resize(30, 120)
	p.Expect("D -rw-r--r--         2B    small") // which is only in the layer below
	p.Type("\t\x1b[C")                           // to the tree, and open deep
	p.Expect("- deep/")
	p.Type("j\r") // and er in it
	p.Expect("50kB        big")
	p.Type("\tk") // the layer below
	p.Expect("LAYER 2 CHANGES")
	p.Type("c")
	p.Expect("THE TREE UP TO LAYER 2")
	p.Expect("bin/")
	p.Type("q")
	res := p.Wait()
	if res.Code != 0 || !strings.HasSuffix(strings.TrimSpace(res.Stdout), "\x1b[?1049l") {
		t.Errorf("status %d, and at the end %q", res.Code, res.Stdout[max(0, len(res.Stdout)-40):])
	}
	cmd = e.Command("layer", "--text", "wasteful")
	cmd.Terminal = true
	if res := cmd.Run(); !strings.Contains(res.Stdout, "CREATED BY") || strings.Contains(res.Stdout, "\x1b") {
		t.Errorf("--text: %v", res)
	}
}
