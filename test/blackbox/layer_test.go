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
