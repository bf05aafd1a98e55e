package unionfstest_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vivarium/internal/kernel"
	"vivarium/internal/testenv"
	"vivarium/layer"
	"vivarium/unionfs"
	aufs "vivarium/unionfs/aufs/driver"
	"vivarium/unionfs/copy"
	"vivarium/unionfs/unionfstest"
)

// insideEnv is set for a process in a user namespace, which does the suites below its TMPDIR.
const insideEnv = "VIV_TEST_IN_USERNS"

func TestMain(m *testing.M) {
	if os.Getenv(insideEnv) != "" {
		os.Exit(m.Run())
	}
	os.Exit(testenv.Main(m))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fileSystems are those that branches are on: what makes one, and mount's options for it.
var fileSystems = []struct {
	name string
	mkfs []string
	size int64 // bytes; what the tool wants at least
}{
	{"ext4", []string{"mkfs.ext4", "-q", "-F"}, 64 << 20},
	{"xfs", []string{"mkfs.xfs", "-q", "-f"}, 300 << 20},
	{"btrfs", []string{"mkfs.btrfs", "-q", "-f"}, 128 << 20},
	{"tmpfs", nil, 0},
}

// TestFileSystems runs the suites of all drivers on each file system, as root and as root of a
// user namespace.
func TestFileSystems(t *testing.T) {
	if os.Getenv(insideEnv) != "" {
		if !kernel.InUserNamespace() {
			t.Fatal("this is no user namespace")
		}
		suites(t)
		return
	}
	testenv.Root(t)
	programs := filepath.Dir(testenv.Binary(t, "viv-union"))
	for _, fs := range fileSystems {
		t.Run(fs.name, func(t *testing.T) {
			if testing.Short() && fs.mkfs != nil {
				t.Skip("short: only tmpfs")
			}
			t.Setenv("VIV_BIN_DIR", programs)
			t.Setenv("TMPDIR", mounted(t, fs.name, fs.mkfs, fs.size))
			t.Run("root", suites)
			if fs.name == "xfs" || fs.name == "btrfs" {
				t.Run("shared blocks", sharesBlocks)
			}
			t.Run("user namespace", inUserNamespace)
		})
	}
}

// mounted makes a file system in a file and mounts it. It skips the test only where the kernel
// has no such file system, or the tool that makes one is not installed.
func mounted(t *testing.T, name string, mkfs []string, size int64) string {
	t.Helper()
	dir := t.TempDir()
	point, image := dir+"/m", dir+"/image"
	must(t, os.Mkdir(point, 0o755))
	args := []string{"-t", name, "-o", "size=64m", name, point}
	if mkfs != nil {
		if _, err := exec.LookPath(mkfs[0]); err != nil {
			t.Skipf("%s is not installed", mkfs[0])
		}
		must(t, os.WriteFile(image, nil, 0o600))
		must(t, os.Truncate(image, size))
		run(t, mkfs[0], append(mkfs[1:len(mkfs):len(mkfs)], image)...)
		args = []string{"-t", name, "-o", "loop", image, point}
	}
	if out, err := exec.Command("mount", args...).CombinedOutput(); err != nil {
		known, rerr := os.ReadFile("/proc/filesystems")
		if rerr == nil && !strings.Contains(string(known), "\t"+name+"\n") {
			t.Skipf("the kernel has no %s", name)
		}
		t.Fatalf("mount %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	t.Cleanup(func() { must(t, unix.Unmount(point, 0)) })
	must(t, os.Chmod(point, 0o755))
	return point
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// inUserNamespace runs this test again as root of a user namespace that has 65536 ids.
func inUserNamespace(t *testing.T) {
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestFileSystems$", "-test.v")
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	ids := []syscall.SysProcIDMap{{Size: 65536}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: TestFileSystems")) || bytes.Contains(out, []byte("--- SKIP")) {
		t.Errorf("%v\n%s", err, out)
	}
}

// sharesBlocks: a copy takes no room where the file system can share blocks.
func sharesBlocks(t *testing.T) {
	const size = 16 << 20
	lower := t.TempDir()
	f, err := os.Create(lower + "/f")
	must(t, err)
	defer f.Close()
	_, err = io.CopyN(f, rand.Reader, size)
	must(t, err)
	free := func() int64 {
		must(t, unix.Syncfs(int(f.Fd())))
		var st unix.Statfs_t
		must(t, unix.Fstatfs(int(f.Fd()), &st))
		return int64(st.Bfree) * st.Bsize
	}
	before := free()
	l := newLayer(t, copy.Driver{}, []string{lower})
	if took := before - free(); took > size/4 {
		t.Errorf("a copy of %d bytes takes %d", size, took)
	}
	got, err := os.ReadFile(l.Upper + "/f")
	must(t, err)
	want, err := os.ReadFile(lower + "/f")
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Error("the copy has other content")
	}
}

// suites runs everything below the directory for temporary files: first on the bare file
// system, so that what fails on a union is the union's.
func suites(t *testing.T) {
	t.Run("bare", func(t *testing.T) { unionfstest.POSIX(t, func(t *testing.T) string { return t.TempDir() }) })
	for _, d := range []unionfs.Driver{
		unionfs.ByOverlay{Unprivileged: kernel.InUserNamespace()},
		aufs.Driver{Program: testenv.Binary(t, "viv-union")},
		copy.Driver{},
	} {
		t.Run(d.Name(), func(t *testing.T) {
			t.Run("cases", func(t *testing.T) {
				unionfstest.Run(t, func(t *testing.T, lower []string) *os.File { return open(t, d, newLayer(t, d, lower)).File })
			})
			t.Run("changes", func(t *testing.T) {
				unionfstest.Changes(t, func(t *testing.T, lower []string) unionfstest.Writable {
					l := newLayer(t, d, lower)
					return unionfstest.Writable{Root: path(open(t, d, l)), Changes: func() layer.Upper {
						up, err := d.Changes(l)
						must(t, err)
						return up
					}}
				})
			})
			t.Run("POSIX", func(t *testing.T) {
				unionfstest.POSIX(t, func(t *testing.T) string { return path(open(t, d, newLayer(t, d, []string{t.TempDir(), t.TempDir()}))) })
			})
			t.Run("random", func(t *testing.T) {
				lower := []string{t.TempDir(), t.TempDir()}
				o := unionfstest.RandomOptions{Steps: 200, HardLinks: d.Name() != unionfs.DriverOverlay}
				// Overlay keeps the number of a file below by its handle, which root of a user
				// namespace may not open (open_by_handle_at(2)): a name that is looked up anew
				// has the number of the copy.
				o.Renumbers = d.Name() == unionfs.DriverOverlay && kernel.InUserNamespace()
				unionfstest.Random(t, 5, o, lower, func(t *testing.T) unionfstest.Mounted {
					return unionfstest.Mounted{Root: path(open(t, d, newLayer(t, d, lower)))}
				})
			})
		})
	}
}

func newLayer(t *testing.T, d unionfs.Driver, lower []string) unionfs.Layer {
	t.Helper()
	base := t.TempDir()
	l := unionfs.Layer{Upper: base + "/upper", Work: base + "/work", Point: base + "/point", Lower: lower}
	must(t, os.Mkdir(l.Upper, 0o755))
	must(t, os.Mkdir(l.Work, 0o700))
	must(t, d.Make(context.Background(), l))
	return l
}

func open(t *testing.T, d unionfs.Driver, l unionfs.Layer) *unionfs.Root {
	t.Helper()
	root, err := d.Open(context.Background(), l)
	must(t, err)
	t.Cleanup(func() { must(t, root.Close()) })
	return root
}

func path(root *unionfs.Root) string { return fmt.Sprintf("/proc/self/fd/%d", root.Fd()) }
