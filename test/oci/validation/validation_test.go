package validation

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestJudge(t *testing.T) {
	complaint := "TAP version 13\n  ---\n  {\n    \"error\": \"hooks MUST be called\"\n  }\n  ...\n1..0\n"
	for _, c := range []struct {
		name, stdout string
		err          error
		want         Verdict
	}{
		{"points", "TAP version 13\nok 1 - a\nok 2 - b\n1..2\n", nil, Passed},
		{"a point that fails", "ok 1 - a\nnot ok 2 - b\n1..2\n", nil, Failed},
		{"an exit status", "ok 1 - a\n1..1\n", errors.New("exit status 1"), Failed},
		{"no point, and nothing to tell", "TAP version 13\n1..0\n", nil, Passed},
		{"no output", "", nil, Passed},
		{"an error without a point", complaint, nil, Complains},
		{"an error and an exit status", complaint, errors.New("exit status 1"), Failed},
		{"the error of a point that passes", "ok 1 - refused\n  ---\n  {\n    \"error\": \"exit status 1\"\n  }\n  ...\n1..1\n", nil, Passed},
		{"no error", "TAP version 13\n  ---\n  {\n    \"error\": \"\"\n  }\n  ...\n1..0\n", nil, Passed},
	} {
		if got := judge(c.stdout, c.err); got != c.want {
			t.Errorf("%s: it %s, want %s", c.name, got, c.want)
		}
	}
}

// TestScript: what stands for a runtime hands everything on, and changes the version
// of a specification only where it is told to, and only a version of the
// specification.
func TestScript(t *testing.T) {
	for _, c := range []struct {
		old        bool
		text, want string
	}{
		{true, `{"ociVersion": "1.3.0", "a": "1.3.0"}`, `{"ociVersion": "1.0.2", "a": "1.3.0"}`},
		{true, `{"ociVersion":"1.3.0"}`, `{"ociVersion": "1.0.2"}`},
		{true, `{"ociVersion": "invalid"}`, `{"ociVersion": "invalid"}`},
		{false, `{"ociVersion": "1.3.0"}`, `{"ociVersion": "1.3.0"}`},
	} {
		dir := t.TempDir()
		config := filepath.Join(dir, "config.json")
		script := filepath.Join(dir, "runtime")
		if err := errors.Join(
			os.WriteFile(config, []byte(c.text), 0o644),
			os.WriteFile(script, []byte(Runtime{Path: "echo", OldSpec: c.old}.script()), 0o755),
		); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(script, "create", "--bundle", dir, "a b").Output()
		if want := "--root /run/oci create --bundle " + dir + " a b\n"; err != nil || string(out) != want {
			t.Errorf("it called %q, %v; want %q", out, err, want)
		}
		if got, _ := os.ReadFile(config); string(got) != c.want {
			t.Errorf("%s became %s", c.text, got)
		}
	}
}

func TestTable(t *testing.T) {
	sides := Sides("runc", "crun", "viv")
	all := func(v Verdict) map[string]Result {
		by := map[string]Result{}
		for _, s := range sides {
			by[s.Name] = Result{Verdict: v}
		}
		return by
	}
	got := Table([]string{"delete", "state"}, sides, map[string]map[string]Result{"delete": all(Failed), "state": all(Passed)})
	for _, want := range []string{
		"| delete | fails | fails | fails | fails | " + Reasons["delete"] + " |\n",
		"| state | passes | passes | passes | passes |  |\n",
		"| **passed of 2** | **1** | **1** | **1** | **1** | |\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the table lacks %q:\n%s", want, got)
		}
	}
}

// TestListsAgree: what is stricter than a peer does not pass, and so has a reason.
func TestListsAgree(t *testing.T) {
	for name := range Stricter {
		if Reasons[name] == "" {
			t.Errorf("%s is stricter, for no reason", name)
		}
	}
}
