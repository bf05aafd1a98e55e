package blackbox

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestBuildLive builds on a terminal: output of a step is seen while the step runs, and gone
// when it has ended.
func TestBuildLive(t *testing.T) {
	vivOnly(t, "docker's display is of another version")
	e := newBox(t)
	dir := contextDir(t, map[string]string{"Dockerfile": "FROM box\nRUN --mount=type=cache,target=/gate echo said by the step; until test -e /gate/open; do sleep 0.05; done\nRUN echo second >/file\n"})
	c := e.Command("build", "-t", "live", dir)
	c.Terminal = true
	p := c.Start()
	p.Expect("=> => # said by the step")
	if strings.Contains(p.Stdout(), "FINISHED") {
		t.Error("a build that runs is said to be finished")
	}
	// The step waits for this.
	gate, err := filepath.Glob(e.Root + "/build/caches/*")
	if err == nil && len(gate) > 0 {
		err = os.WriteFile(gate[0]+"/open", nil, 0o644)
	}
	if err != nil || len(gate) == 0 {
		t.Fatal(gate, err)
	}
	res := p.Wait()
	_, last, ok := cutLast(res.Stdout, "[+] Building")
	for _, want := range []string{"(3/3) FINISHED", " => CACHED [1/3] FROM box:latest", " => [2/3] RUN", " => [3/3] RUN echo second", " => => naming to live:latest"} {
		if res.Code != 0 || !ok || !strings.Contains(last, want) {
			t.Errorf("the last frame of %v lacks %q", res, want)
		}
	}
	if strings.Contains(last, "# said by the step") {
		t.Errorf("output stays when its step has ended:\n%s", last)
	}
	if strings.Count(res.Stdout, "\x1b[?25l") != strings.Count(res.Stdout, "\x1b[?25h") {
		t.Errorf("the cursor stays hidden: %q", res.Stdout)
	}

	plain := e.Command("build", "-t", "live", "--progress", "plain", dir)
	plain.Terminal = true
	if res := plain.Run(); res.Code != 0 || strings.Contains(res.Stdout, "\x1b[") || !strings.Contains(res.Stdout, "#3 CACHED") {
		t.Errorf("plain progress on a terminal: %v", res)
	}
	raw := e.Viv("build", "--progress", "rawjson", dir)
	names := map[string]bool{}
	for line := range strings.Lines(raw.Stderr) {
		var s struct {
			Vertexes []struct {
				Name   string
				Cached bool
			}
		}
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		for _, v := range s.Vertexes {
			names[v.Name] = names[v.Name] || v.Cached
		}
	}
	if !names["[3/3] RUN echo second >/file"] {
		t.Errorf("as JSON: %v", raw)
	}
	quiet := e.Command("build", dir)
	quiet.Env = append(quiet.Env, "BUILDKIT_PROGRESS=quiet")
	if res := quiet.Run(); res.Code != 0 || !strings.HasPrefix(res.Stdout, "sha256:") || res.Stderr != "" {
		t.Errorf("quiet by the environment: %v", res)
	}
	fails(t, e.Viv("build", "--progress", "tty", dir), 125, "needs a terminal")
	fails(t, e.Viv("build", "--progress", "loud", dir), 125, "invalid progress mode loud")
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
