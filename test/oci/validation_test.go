package oci

import (
	"context"
	"os"
	"os/exec"
	"testing"

	"vivarium/internal/testenv"
	"vivarium/test/oci/validation"
)

// TestRuntimeTools runs the validation programs of opencontainers/runtime-tools on
// runc, on crun and on viv-oci. What one of the others passes, viv-oci passes, on
// control groups v1 alone and with the empty v2 beside.
func TestRuntimeTools(t *testing.T) {
	need(t, "runc", "crun", "unshare", "go")
	if runtimeName() != "" {
		t.Skip("the references are measured along with viv-oci")
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	programs, err := validation.Build(ctx, "programs")
	if err != nil {
		t.Fatal(err)
	}
	find := func(name string) string {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	// The root of a user namespace has to get to its bundle, which lies there.
	if err := os.Chmod(os.TempDir(), 0o711); err != nil {
		t.Fatal(err)
	}
	results, err := programs.RunAll(ctx, validation.Sides(find("runc"), find("crun"), testenv.Binary(t, "viv-oci")))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range programs.Names {
		t.Run(name, func(t *testing.T) { compare(t, name, results[name]) })
	}
}

func compare(t *testing.T, name string, by map[string]validation.Result) {
	for _, side := range []string{validation.Viv, validation.Hybrid} {
		our := by[side]
		for _, peer := range []string{validation.Runc, validation.Crun} {
			if our.Verdict.Rank() >= by[peer].Verdict.Rank() || validation.Stricter[name] != "" && our.Verdict != validation.Failed {
				continue
			}
			t.Errorf("it %s on %s and %s on %s:\n%s", by[peer].Verdict, peer, our.Verdict, side, our.Why())
		}
		switch why := validation.Reasons[name]; {
		case our.Verdict != validation.Passed && why == "":
			t.Errorf("it %s on %s, and nobody has said why:\n%s", our.Verdict, side, our.Why())
		case our.Verdict == validation.Passed && why != "":
			t.Logf("it passes here, where it was said not to: %s", why)
		}
	}
}
