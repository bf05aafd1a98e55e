package driver_test

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vivarium/internal/testenv"
	"vivarium/layer"
	"vivarium/unionfs"
	"vivarium/unionfs/aufs"
	"vivarium/unionfs/aufs/driver"
	"vivarium/unionfs/unionfstest"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newDriver(t *testing.T) driver.Driver {
	t.Helper()
	testenv.Root(t)
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("needs /dev/fuse")
	}
	return driver.Driver{Program: testenv.Binary(t, "viv-union")}
}

// newLayer makes the directories of a layer above others.
func newLayer(t *testing.T, lower []string) unionfs.Layer {
	t.Helper()
	base := t.TempDir()
	l := unionfs.Layer{Upper: base + "/upper", Work: base + "/work", Point: base + "/point", Lower: lower}
	mode, _, _, err := layer.RootMode(lower)
	must(t, err)
	must(t, os.Mkdir(l.Upper, 0o700))
	must(t, os.Chmod(l.Upper, mode))
	must(t, os.Mkdir(l.Work, 0o700))
	return l
}

func open(t *testing.T, d driver.Driver, l unionfs.Layer) *unionfs.Root {
	t.Helper()
	root, err := d.Open(context.Background(), l)
	must(t, err)
	t.Cleanup(func() {
		if err := root.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	return root
}

// TestSuite runs above layers as images have them, which overlay spells.
func TestSuite(t *testing.T) {
	d := newDriver(t)
	unionfstest.Run(t, func(t *testing.T, lower []string) *os.File { return open(t, d, newLayer(t, lower)).File })
}

func TestChanges(t *testing.T) {
	d := newDriver(t)
	unionfstest.Changes(t, func(t *testing.T, lower []string) unionfstest.Writable {
		l := newLayer(t, lower)
		must(t, d.Begin(context.Background(), l))
		t.Cleanup(func() { must(t, d.End(l)) })
		return unionfstest.Writable{Root: l.Point, Changes: func() layer.Upper {
			up, err := d.Changes(l)
			must(t, err)
			return up
		}}
	})
}

// TestOpenIsSeenByNobody: what a command opens is in no mount namespace but its server's.
func TestOpenIsSeenByNobody(t *testing.T) {
	d := newDriver(t)
	low := t.TempDir()
	must(t, os.WriteFile(low+"/f", nil, 0o644))
	l := newLayer(t, []string{low, t.TempDir()})
	root := open(t, d, l)
	b, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	if strings.Contains(string(b), l.Work) {
		t.Error("the union is mounted where others see it")
	}
	if names, err := root.Readdirnames(-1); err != nil || len(names) != 1 {
		t.Errorf("%v, %v", names, err)
	}
}

// TestLinkedNames: a file below with several names is changed under one, which may be gone
// then; the layer that is packed has it under all that are left, as the union shows it.
func TestLinkedNames(t *testing.T) {
	d := newDriver(t)
	for name, c := range map[string]struct {
		do   func(root string) error
		want map[string]string
		diff string
	}{
		"changed": {func(root string) error { return appendTo(root + "/a/one") }, map[string]string{"a/one": "old+", "a/two": "old+", "b/c/three": "old+"},
			"C /a,C /a/one,C /a/two,C /b,C /b/c,C /b/c/three"},
		"changed and removed": {func(root string) error { return errors.Join(appendTo(root+"/a/one"), os.Remove(root+"/a/one")) },
			map[string]string{"a/two": "old+", "b/c/three": "old+"}, "C /a,D /a/one,C /a/two,C /b,C /b/c,C /b/c/three"},
		"with a directory away": {func(root string) error { return errors.Join(appendTo(root+"/a/one"), os.RemoveAll(root+"/b")) },
			map[string]string{"a/one": "old+", "a/two": "old+"}, "C /a,C /a/one,C /a/two,D /b"},
		"with a name taken": {func(root string) error {
			return errors.Join(appendTo(root+"/a/one"), os.Remove(root+"/a/two"), os.WriteFile(root+"/a/two", []byte("own"), 0o644))
		}, map[string]string{"a/one": "old+", "a/two": "own", "b/c/three": "old+"}, "C /a,C /a/one,C /a/two,C /b,C /b/c,C /b/c/three"},
	} {
		t.Run(name, func(t *testing.T) {
			low := t.TempDir()
			must(t, os.MkdirAll(low+"/a", 0o750))
			must(t, os.MkdirAll(low+"/b/c", 0o711))
			must(t, os.WriteFile(low+"/a/one", []byte("old"), 0o640))
			must(t, os.Link(low+"/a/one", low+"/a/two"))
			must(t, os.Link(low+"/a/one", low+"/b/c/three"))
			l := newLayer(t, []string{t.TempDir(), low})
			must(t, d.Begin(context.Background(), l))
			defer func() { must(t, d.End(l)) }()
			must(t, c.do(l.Point))
			up, err := d.Changes(l)
			must(t, err)
			defer up.Dir.Close()
			list, err := layer.Changes(context.Background(), up)
			must(t, err)
			if got := unionfstest.ChangesText(list); got != c.diff {
				t.Errorf("changes\n got %s\nwant %s", got, c.diff)
			}
			compareLayer(t, up, c.want)
		})
	}
}

func appendTo(name string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString("+")
	return err
}

// compareLayer packs a layer, unpacks it, and looks at all files that it and those below show.
func compareLayer(t *testing.T, up layer.Upper, want map[string]string) {
	t.Helper()
	var tarball bytes.Buffer
	must(t, layer.Diff(context.Background(), &tarball, up))
	dir, whole := t.TempDir(), t.TempDir()
	f, err := os.Open(dir)
	must(t, err)
	defer f.Close()
	_, err = layer.Apply(context.Background(), f, &tarball, up.Lower, layer.ApplyOptions{})
	must(t, err)
	w, err := os.Open(whole)
	must(t, err)
	defer w.Close()
	must(t, layer.Merge(context.Background(), w, append([]string{dir}, up.Lower...)))
	got := map[string]string{}
	must(t, filepath.WalkDir(whole, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(whole, path)
		info, err := e.Info()
		if err == nil && rel == "b/c" && info.Mode().Perm() != 0o711 {
			t.Errorf("a directory above has mode %v", info.Mode())
		}
		if err == nil && e.Type().IsRegular() {
			var b []byte
			b, err = os.ReadFile(path)
			got[rel] = string(b)
		}
		return err
	}))
	if !maps.Equal(got, want) {
		t.Errorf("files\n got %v\nwant %v", got, want)
	}
}

// server is the process that serves a union.
func server(t *testing.T, l unionfs.Layer) (pid, pidfd int) {
	t.Helper()
	st, err := aufs.ReadState(l.Point)
	must(t, err)
	pidfd, err = unix.PidfdOpen(st.PID, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(pidfd) })
	return st.PID, pidfd
}

func hasEnded(t *testing.T, pidfd int) {
	t.Helper()
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 20_000)
	if n != 1 {
		t.Fatalf("the server runs on (%v)", err)
	}
}

// TestLife: who mounts need not stay; the end takes mount, server and mount point away, and
// can be called twice.
func TestLife(t *testing.T) {
	d := newDriver(t)
	l := newLayer(t, []string{t.TempDir(), t.TempDir()})
	must(t, d.Begin(context.Background(), l))
	_, fd := server(t, l)
	must(t, os.WriteFile(l.Point+"/f", []byte("x"), 0o644))
	must(t, d.End(l))
	hasEnded(t, fd)
	if _, err := os.Lstat(l.Point); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the mount point stays: %v", err)
	}
	must(t, d.End(l))
	if b, err := os.ReadFile(l.Upper + "/f"); err != nil || string(b) != "x" {
		t.Errorf("%q, %v", b, err)
	}
}

// TestKilledServer: a dead union is told by ENOTCONN, taken away, and mounted again with
// what was written.
func TestKilledServer(t *testing.T) {
	d := newDriver(t)
	l := newLayer(t, []string{t.TempDir(), t.TempDir()})
	must(t, d.Begin(context.Background(), l))
	must(t, os.WriteFile(l.Point+"/f", []byte("x"), 0o644))
	_, fd := server(t, l)
	must(t, unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0))
	hasEnded(t, fd)
	if _, err := os.Stat(l.Point + "/f"); !errors.Is(err, unix.ENOTCONN) {
		t.Errorf("got %v", err)
	}
	must(t, d.Begin(context.Background(), l))
	if b, err := os.ReadFile(l.Point + "/f"); err != nil || string(b) != "x" {
		t.Errorf("%q, %v", b, err)
	}
	_, fd = server(t, l)
	must(t, unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0))
	hasEnded(t, fd)
	must(t, d.End(l))
	if _, err := os.Lstat(l.Point); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the mount point stays: %v", err)
	}
}

// TestCannotMount: the reason is the server's, and nothing is left.
func TestCannotMount(t *testing.T) {
	d := newDriver(t)
	l := newLayer(t, []string{t.TempDir(), t.TempDir()})
	must(t, os.Remove(l.Upper))
	for _, begin := range []func() error{
		func() error { return d.Begin(context.Background(), l) },
		func() error { _, err := d.Open(context.Background(), l); return err },
	} {
		if err := begin(); err == nil || !strings.Contains(err.Error(), l.Upper) {
			t.Errorf("got %v", err)
		}
	}
	must(t, os.Mkdir(l.Upper, 0o755))
	ctx, cancel := context.WithCancelCause(context.Background())
	stop := errors.New("somebody stopped it")
	cancel(stop)
	if err := d.Begin(ctx, l); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
	d.Program = "/no/such/program"
	if err := d.Begin(context.Background(), l); err == nil || !strings.Contains(err.Error(), d.Program) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Lstat(l.Point); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the mount point stays: %v", err)
	}
}
