package blackbox

import (
	"encoding/json"
	"strings"
	"testing"

	"vivarium/internal/testenv"
)

func TestLab(t *testing.T) {
	vivOnly(t, "Docker has no such command")
	testenv.Root(t)
	e := testenv.Engine(t)
	if r := e.Viv("lab", "--lang", "en"); r.Code != 0 || !strings.Contains(r.Stdout, "uts") || !strings.Contains(r.Stdout, "the host name") {
		t.Errorf("list: %v", r)
	}
	if r := e.Viv("lab", "--lang", "zh", "uts"); r.Code != 0 || !strings.Contains(r.Stdout, "主机名") || !strings.Contains(r.Stdout, "\n    bird\n") || !strings.HasSuffix(r.Stdout, "已验证。\n\n") {
		t.Errorf("uts: %v", r)
	}
	var got struct {
		ID     string
		Passed bool
		Steps  []struct{ Run, Output string }
	}
	if err := json.Unmarshal([]byte(e.MustViv("lab", "--json", "pid")), &got); err != nil || got.ID != "pid" || !got.Passed || got.Steps[0].Output != "1" {
		t.Errorf("%+v %v", got, err)
	}
	step := e.Command("lab", "--step", "--lang", "en", "uts")
	step.Stdin = strings.NewReader("\n\n\n")
	if r := step.Run(); r.Code != 0 || !strings.Contains(r.Stdout, "Verified.") {
		t.Errorf("--step: %v", r)
	}
	fails(t, e.Viv("lab", "moon"), 1, "no experiment")
	fails(t, e.Viv("lab", "--lang", "xx"), 1, "--lang")
	fails(t, e.Viv("lab", "--all", "pid"), 1, "not both")
}
