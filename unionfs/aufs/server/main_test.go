package server_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vivarium/internal/testenv"
	"vivarium/unionfs/aufs"
	"vivarium/unionfs/unionfstest"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// union is a mounted union of the test's own.
type union struct {
	t     *testing.T
	point string
	opts  string
	pid   int
	pidfd int
}

// mount mounts a union; the test's end unmounts it, and kills a server that does
// not end then, which aborts the connection.
func mount(t *testing.T, opts string) *union {
	t.Helper()
	testenv.Root(t)
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("needs /dev/fuse")
	}
	u := &union{t: t, point: t.TempDir(), opts: opts}
	u.start()
	t.Cleanup(u.stop)
	return u
}

func (u *union) start() {
	u.t.Helper()
	cmd := exec.Command(testenv.Binary(u.t, "viv-union"), "none", u.point, "-o", u.opts)
	if out, err := cmd.CombinedOutput(); err != nil {
		u.t.Fatalf("mount -o %s: %v\n%s", u.opts, err, out)
	}
	s, err := aufs.ReadState(u.point)
	if err != nil {
		u.t.Fatal(err)
	}
	u.pid = s.PID
	if u.pidfd, err = unix.PidfdOpen(u.pid, 0); err != nil {
		u.t.Fatal(err)
	}
}

// stop unmounts and waits for the server.
func (u *union) stop() {
	if u.pidfd < 0 {
		return
	}
	_ = unix.Unmount(u.point, unix.MNT_DETACH)
	if !u.ended(20 * time.Second) {
		u.t.Errorf("the server did not end after the unmount:%s", u.users())
		_ = unix.PidfdSendSignal(u.pidfd, unix.SIGKILL, nil, 0)
		u.ended(10 * time.Second)
	}
	unix.Close(u.pidfd)
	u.pidfd = -1
}

// users tells who may keep a server that was unmounted: processes in whose mount namespaces it
// still is, and what its own threads do.
func (u *union) users() string {
	var out strings.Builder
	lists, _ := filepath.Glob("/proc/[0-9]*/mountinfo")
	for _, list := range lists {
		if b, err := os.ReadFile(list); err == nil && strings.Contains(string(b), " "+u.point+" ") {
			name, _ := os.ReadFile(filepath.Dir(list) + "/comm")
			fmt.Fprintf(&out, "\nmounted in the namespace of %s, %s", strings.Split(list, "/")[2], strings.TrimSpace(string(name)))
		}
	}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/wchan", u.pid))
	for _, task := range tasks {
		at, _ := os.ReadFile(task)
		fmt.Fprintf(&out, "\na thread of the server waits at %s", at)
	}
	return out.String()
}

// kill ends the server in the middle of whatever it does, and unmounts.
func (u *union) kill() {
	_ = unix.PidfdSendSignal(u.pidfd, unix.SIGKILL, nil, 0)
	if !u.ended(20 * time.Second) {
		u.t.Fatal("the server outlives SIGKILL")
	}
	_ = unix.Unmount(u.point, unix.MNT_DETACH)
	unix.Close(u.pidfd)
	u.pidfd = -1
}

func (u *union) ended(limit time.Duration) bool {
	until := time.Now().Add(limit)
	for time.Now().Before(until) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(u.pidfd), Events: unix.POLLIN}}, int(time.Until(until).Milliseconds())+1)
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return n > 0
		}
	}
	return false
}

func (u *union) remount() string {
	u.stop()
	u.start()
	return u.point
}

func (u *union) path(p string) string { return filepath.Join(u.point, p) }

// dirs makes directories beside each other and gives their paths.
func dirs(t *testing.T, n int) []string {
	t.Helper()
	base := t.TempDir()
	var out []string
	for i := range n {
		d := fmt.Sprintf("%s/b%d", base, i)
		must(t, os.Mkdir(d, 0o755))
		out = append(out, d)
	}
	return out
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, p, body string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(p), 0o755))
	must(t, os.WriteFile(p, []byte(body), 0o644))
}

func read(t *testing.T, p, want string) {
	t.Helper()
	b, err := os.ReadFile(p)
	if err != nil || string(b) != want {
		t.Errorf("%s: %q, %v; want %q", filepath.Base(p), b, err, want)
	}
}

// spell copies a layer that is spelled as overlay wants it and spells it as AUFS does.
func spell(t *testing.T, src, dst string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", src, dst).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v\n%s", err, out)
	}
	err := filepath.WalkDir(dst, func(p string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		var b [1]byte
		if st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 {
			write(t, filepath.Join(filepath.Dir(p), aufs.Prefix+filepath.Base(p)), "")
			return os.Remove(p)
		}
		if n, err := unix.Lgetxattr(p, "trusted.overlay.opaque", b[:]); err == nil && n == 1 {
			write(t, filepath.Join(p, aufs.Opaque), "")
			return unix.Lremovexattr(p, "trusted.overlay.opaque")
		}
		return nil
	})
	must(t, err)
}

// driver makes unions of the suite's layers.
func driver(options string) unionfstest.Driver {
	return func(t *testing.T, lower []string) *os.File {
		base := t.TempDir()
		must(t, os.Mkdir(base+"/upper", 0o755))
		if len(lower) > 0 {
			var st unix.Stat_t
			must(t, unix.Stat(lower[0], &st))
			must(t, os.Chmod(base+"/upper", os.FileMode(st.Mode&0o777)))
		}
		list := []string{base + "/upper=rw"}
		for i, l := range lower {
			d := fmt.Sprintf("%s/l%d", base, i)
			spell(t, l, d)
			list = append(list, d+"=ro+wh")
		}
		u := mount(t, "dirs="+strings.Join(list, ":")+options)
		root, err := os.Open(u.point)
		must(t, err)
		t.Cleanup(func() { root.Close() })
		return root
	}
}
