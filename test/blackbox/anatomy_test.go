package blackbox

import (
	"encoding/json"
	"encoding/xml"
	"strings"
	"testing"
)

// TestAnatomy takes a container apart, while it runs and after.
func TestAnatomy(t *testing.T) {
	vivOnly(t, "Docker has no such command")
	e := newBox(t)
	e.MustViv("run", "-d", "--name", "web", "-m", "64m", "--pids-limit", "20", "--network", "none", "--uts", "host", "--tmpfs", "/scratch", box,
		"sh", "-c", "echo new >/file; rm /etc/passwd; exec sleep 1000")
	if r := e.Viv("exec", "web", "sh", "-c", "until [ ! -e /etc/passwd ]; do :; done"); r.Code != 0 {
		t.Fatal(r)
	}
	var a struct {
		Name       string
		Pid        int
		Namespaces []struct {
			Kind   string
			Shared bool
		}
		Groups []string
		Stats  struct {
			Memory struct{ Limit uint64 }
			Pids   struct{ Limit uint64 }
		}
		Union struct {
			Branches []struct {
				Layer   string
				Files   int
				Changes int
			}
		}
		Process struct {
			Effective []string
			Seccomp   string
		}
		Mounts []struct{ Destination, Type string }
	}
	if err := json.Unmarshal([]byte(e.MustViv("inspect", "--anatomy", "--format", "json", "web")), &a); err != nil {
		t.Fatal(err)
	}
	shared := map[string]bool{}
	for _, n := range a.Namespaces {
		shared[n.Kind] = n.Shared
	}
	if !shared["uts"] || shared["pid"] || shared["mnt"] || !shared["user"] {
		t.Errorf("namespaces %+v", a.Namespaces)
	}
	if a.Stats.Memory.Limit != 64<<20 || a.Stats.Pids.Limit != 20 || len(a.Groups) == 0 {
		t.Errorf("groups %v %+v", a.Groups, a.Stats)
	}
	if b := a.Union.Branches; len(b) < 2 || b[0].Layer != "container" || b[0].Changes < 2 || b[len(b)-1].Layer != "1" || b[len(b)-1].Files == 0 {
		t.Errorf("union %+v", a.Union)
	}
	if !strings.Contains(strings.Join(a.Process.Effective, " "), "CAP_CHOWN") || a.Process.Seccomp != "filter" {
		t.Errorf("process %+v", a.Process)
	}
	types := map[string]string{}
	for _, m := range a.Mounts {
		types[m.Destination] = m.Type
	}
	if types["/"] != "overlay" || types["/scratch"] != "tmpfs" || types["/proc"] != "proc" {
		t.Errorf("mounts %+v", types)
	}
	text := e.MustViv("inspect", "--anatomy", "web")
	for _, words := range []string{"the container's own", "of its own", "the host's", "64MiB", "chown", "filter", "/scratch"} {
		if !strings.Contains(text, words) {
			t.Errorf("no %q in\n%s", words, text)
		}
	}
	svg, page := e.MustViv("inspect", "--anatomy", "--format", "svg", "web"), e.MustViv("inspect", "--anatomy", "--format", "html", "web")
	if err := xml.Unmarshal([]byte(svg), new(struct {
		XMLName xml.Name `xml:"http://www.w3.org/2000/svg svg"`
	})); err != nil || !strings.Contains(page, svg[strings.Index(svg, "\n"):strings.LastIndex(svg, "cpu time")]) {
		t.Errorf("%v: the page has another picture than\n%s", err, svg)
	}
	for _, words := range []string{"the container&#39;s own", "64MiB", "chown", "<td>/scratch</td>"} {
		if !strings.Contains(page, words) {
			t.Errorf("no %q in\n%s", words, page)
		}
	}
	e.MustViv("stop", "-t", "0", "web")
	if text := e.MustViv("inspect", "--anatomy", "web"); !strings.Contains(text, "It does not run") || strings.Contains(text, "Namespaces") {
		t.Errorf("stopped:\n%s", text)
	}
	fails(t, e.Viv("inspect", "--anatomy", "--format", "{{.Id}}", "web"), 1, "json")
	fails(t, e.Viv("inspect", "--anatomy", "nobody"), 1, "nobody")
	e.MustViv("rm", "web")
}
