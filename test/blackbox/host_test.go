package blackbox

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"vivarium/internal/testenv"
)

// newHost makes an engine for the built-in image of the machine's own root.
func newHost(t *testing.T) *testenv.Instance {
	t.Helper()
	testenv.Root(t)
	vivOnly(t, "the image host is Vivarium's")
	return testenv.Engine(t)
}

func TestHostImage(t *testing.T) {
	e := newHost(t)
	want(t, e.Viv("run", "--rm", "host", "sh", "-c", "echo $$"), 0, "1\n")
	want(t, e.Viv("run", "--rm", "host", "cat", "/etc/passwd"), 0, read(t, "/etc/passwd"))
	name := "/viv-test-" + filepath.Base(e.Root)
	id := detached(t, e, "host", "sh", "-c", "echo x >"+name+" && rm /etc/hosts.deny 2>/dev/null; exec sleep 1000")
	eventually(t, "the container's file", func() bool { return e.Viv("exec", id, "cat", name).Stdout == "x\n" })
	if _, err := os.Stat(name); err == nil {
		os.Remove(name)
		t.Error("a container of the image host wrote to the host")
	}
	if diff := strings.Split(e.MustViv("diff", id), "\n"); !slices.Contains(diff, "A "+name) {
		t.Errorf("diff: %q", diff)
	}
	e.MustViv("rm", "-f", id)
}

// TestHostImageShowsNoMounts wants a mount of the host to be an empty directory in a
// container that did not ask for it.
func TestHostImageShowsNoMounts(t *testing.T) {
	e := newHost(t)
	want(t, e.Viv("run", "--rm", "host", "sh", "-c", "ls "+e.Root+" "+e.State+" | grep -c containers"), 1, "0\n")
	out := e.MustViv("run", "--rm", "host", "cat", "/proc/self/mountinfo")
	for line := range strings.Lines(out) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], e.Root) {
			t.Errorf("a mount of the engine is seen inside: %s", line)
		}
	}
}

func TestExplain(t *testing.T) {
	e := newHost(t)
	text := e.MustViv("run", "--rm", "--explain", "host", "true")
	for _, step := range []string{"clone3", "mount", "pivot_root", "exec"} {
		if !strings.Contains(text, step) {
			t.Errorf("the explanation lacks %s:\n%s", step, text)
		}
	}
	if !json.Valid([]byte(e.MustViv("run", "--rm", "--explain=json", "host", "true"))) {
		t.Error("--explain=json prints no JSON")
	}
	if got := e.MustViv("ps", "-aq"); got != "" {
		t.Errorf("printing a plan made a container: %q", got)
	}
	if seen := e.Containers(); len(seen) > 0 {
		t.Errorf("printing a plan touched the store: %q", seen)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestLeakedDescriptors gives the caller of run an open directory of the host
// (CVE-2024-21626).
func TestLeakedDescriptors(t *testing.T) {
	e := newHost(t)
	want(t, e.Viv("run", "--rm", "host", "sh", "-c", "for f in 0 1 2; do test -d /proc/$$/fd/$f/. && echo directory; done; ls /proc/$$/fd; true"), 0, "0\n1\n2\n")
	for _, fd := range []string{"3", "6", "7", "8", "9"} {
		res := e.Viv("run", "--rm", "-w", "/proc/self/fd/"+fd, "host", "cat", "../../../../etc/hostname")
		if res.Code == 0 && strings.TrimSpace(res.Stdout) == hostname(t) {
			t.Errorf("descriptor %s as working directory leads out: %v", fd, res)
		}
	}
}

// TestProgramCannotBeOverwritten has the first process open the runtime by
// /proc/self/exe (CVE-2019-5736).
func TestProgramCannotBeOverwritten(t *testing.T) {
	e := newBox(t)
	vivOnly(t, "is about Vivarium's own binaries")
	before := read(t, testenv.Binary(t, "viv-monitor"))
	e.Viv("run", "--rm", "--entrypoint", "/proc/self/exe", box)
	script := `cat >/evil <<'END'
#!/proc/self/exe
END
chmod +x /evil; exec sleep 1000`
	id := detached(t, e, "--cap-add", "SYS_PTRACE", box, "sh", "-c", script)
	e.Viv("exec", id, "/evil")
	e.Viv("exec", id, "sh", "-c", "for p in /proc/[0-9]*/exe; do echo overwritten 2>/dev/null >$p; done")
	if read(t, testenv.Binary(t, "viv-monitor")) != before {
		t.Error("a container wrote to the runtime's binary")
	}
}

// TestMountTargetsThatLeadOut mounts onto paths that the image makes links out of
// the container (CVE-2021-30465 and others).
func TestMountTargetsThatLeadOut(t *testing.T) {
	e := newBox(t)
	dir := t.TempDir()
	outside := filepath.Join(dir, "outside")
	inside := filepath.Join(dir, "inside")
	for _, d := range []string{outside, inside} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	id := detached(t, e, box, "sh", "-c", "ln -s "+outside+" /link; ln -s ../../../../.."+outside+" /up; exec sleep 1000")
	eventually(t, "the links", func() bool { return e.Viv("exec", id, "readlink", "/up").Code == 0 })
	e.MustViv("export", "-o", filepath.Join(dir, "evil.tar"), id)
	e.MustViv("import", filepath.Join(dir, "evil.tar"), "evil")
	for _, target := range []string{"/link", "/up", "/link/deep"} {
		e.Viv("run", "--rm", "-v", inside+":"+target, "evil", "touch", target+"/mark")
		e.Viv("run", "--rm", "-w", target+"/made", "evil", "touch", "mark")
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
		t.Errorf("a mount target led out of the container: %v, %v", entries, err)
	}
}
