package bpfattach

import (
	"crypto/rand"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vivarium/sandbox/cgroup"
	"vivarium/sandbox/cgroup/devicebpf"
)

// newCgroup makes a v2 cgroup that is removed at the end.
func newCgroup(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making a cgroup and loading a program needs root")
	}
	l, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	h, err := l.Handle("/viv-test-" + rand.Text())
	if err != nil {
		t.Fatal(err)
	}
	if h.Unified == "" {
		t.Skip("no v2 hierarchy is mounted, and only it takes device programs")
	}
	if err := os.Mkdir(h.Unified, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(h.Unified); err != nil {
			t.Error(err)
		}
	})
	return h.Unified
}

// inside runs a shell command in the cgroup.
func inside(t *testing.T, dir, command string) error {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	cmd := exec.Command("/bin/sh", "-c", command)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: fd}
	out, err := cmd.CombinedOutput()
	if err != nil && !strings.Contains(string(out), "Operation not permitted") {
		t.Errorf("%s: %v %s; want it refused as not permitted", command, err, out)
	}
	return err
}

func TestTheKernelFollowsTheRules(t *testing.T) {
	for name, tc := range map[string]struct {
		rules  []devicebpf.Rule
		allow  []string
		refuse []string
	}{
		"some": {
			[]devicebpf.Rule{
				{Type: 'a', Major: devicebpf.Any, Minor: devicebpf.Any, Access: devicebpf.AllAccess},
				{Allow: true, Type: 'c', Major: 1, Minor: devicebpf.Any, Access: devicebpf.Read},
				{Allow: true, Type: 'c', Major: 1, Minor: 3, Access: devicebpf.Write},
				{Allow: false, Type: 'c', Major: 1, Minor: 9, Access: devicebpf.Read},
			},
			[]string{"exec 3</dev/null", "exec 3>/dev/null", "exec 3<>/dev/null", "exec 3</dev/zero"},
			[]string{"exec 3>/dev/zero", "exec 3<>/dev/zero", "exec 3</dev/urandom", "exec 3</dev/ptmx", "mknod " + t.TempDir() + "/node c 1 3"},
		},
		"all but one": {
			[]devicebpf.Rule{
				{Allow: true, Type: 'a', Major: devicebpf.Any, Minor: devicebpf.Any, Access: devicebpf.AllAccess},
				{Type: 'c', Major: 1, Minor: 5, Access: devicebpf.Write},
			},
			[]string{"exec 3</dev/zero", "exec 3<>/dev/null", "exec 3</dev/urandom"},
			[]string{"exec 3>/dev/zero", "exec 3<>/dev/zero"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := newCgroup(t)
			if err := Attach(dir, tc.rules); err != nil {
				t.Fatal(err)
			}
			for _, c := range tc.allow {
				if err := inside(t, dir, c); err != nil {
					t.Errorf("%s is refused: %v", c, err)
				}
			}
			for _, c := range tc.refuse {
				if err := inside(t, dir, c); err == nil {
					t.Errorf("%s is allowed", c)
				}
			}
		})
	}
}

func TestAttachSaysWhatFailed(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("loading a program needs root")
	}
	if err := Attach(t.TempDir(), nil); err == nil || !strings.Contains(err.Error(), "attach the device program") {
		t.Errorf("a directory that is no cgroup: %v", err)
	}
}
