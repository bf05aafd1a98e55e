package lab_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"vivarium/internal/testenv"
	"vivarium/lab"
)

// TestWithoutRoot: what needs no root passes for somebody else, too, and of the rest it
// is said that it was not run.
func TestWithoutRoot(t *testing.T) {
	testenv.Root(t)
	if os.Getenv("VIV_TEST_VM") != "" {
		t.Skip("says nothing of control groups, and takes long here")
	}
	const someone = 12345
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	program, err := os.ReadFile(testenv.Binary(t, "viv"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/viv", program, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{os.Chmod(os.TempDir(), 0o711), os.Chown(dir, someone, someone)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	as := func(args ...string) *exec.Cmd {
		c := exec.Command(args[0], args[1:]...)
		c.Env = append(os.Environ(), "HOME="+dir, "TMPDIR="+dir)
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: someone, Gid: someone, Groups: []uint32{}}}
		return c
	}
	if err := as("unshare", "--user", "true").Run(); err != nil {
		t.Skipf("user namespaces are not for everybody here: %v", err)
	}
	out, err := as(dir+"/viv", "lab", "--all", "--lang", "en", "--json").Output()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	experiments := lab.Experiments()
	if len(lines) != len(experiments) {
		t.Fatalf("%d of %d experiments: %s", len(lines), len(experiments), out)
	}
	for i, e := range experiments {
		var got struct {
			ID, LeftOut, Error string
			Passed             bool
		}
		if err := json.Unmarshal([]byte(lines[i]), &got); err != nil {
			t.Fatal(err)
		}
		if got.ID != e.ID || got.Passed != e.Rootless || (got.LeftOut == "") != e.Rootless {
			t.Errorf("%s: %+v", e.ID, got)
		}
	}
	if left, _ := filepath.Glob(dir + "/viv-lab-*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if err := as(dir+"/viv", "lab", "memory").Run(); err == nil {
		t.Error("one that needs root succeeds without")
	}
}
