package testenv

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

// standIn is an engine of a few lines of shell: enough for the harness's own tests.
const standIn = `#!/bin/sh
while [ $# -gt 0 ]; do
	case $1 in
	--root) root=$2; shift 2 ;;
	--state) state=$2; shift 2 ;;
	*) break ;;
	esac
done
verb=$1
[ $# -eq 0 ] || shift
case $verb in
create) mkdir -p "$root/containers/$1" ;;
ps) ls "$root/containers" ;;
rm) shift; for id in "$@"; do rm -r "$root/containers/$id"; done ;;
echo) echo "$@"; cat; echo oops >&2; exit 7 ;;
die) kill -KILL $$ ;;
hang) sleep 1000 ;;
hold) sleep 1000 & ;;
tty) tty; stty size; read line; echo "got $line" ;;
esac
`

// recorder is a test that may fail without failing the test around it.
type recorder struct {
	testing.TB
	cleanups []func()
	failures []string
}

func (r *recorder) Helper()          {}
func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Error(args ...any) {
	var s []string
	for _, a := range args {
		s = append(s, a.(string))
	}
	r.failures = append(r.failures, strings.Join(s, " "))
}
func (r *recorder) Errorf(format string, args ...any) {
	r.failures = append(r.failures, strings.TrimSpace(format))
}

func (r *recorder) end() {
	for _, f := range slices.Backward(r.cleanups) {
		f()
	}
	r.cleanups = nil
}

func standInEngine(t *testing.T) (*Instance, *recorder) {
	t.Helper()
	Root(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "viv"), []byte(standIn), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("VIV_BIN_DIR", dir)
	t.Setenv("VIV_TEST_REFERENCE", "")
	rec := &recorder{TB: t}
	e := Engine(rec)
	return e, rec
}

func TestCommand(t *testing.T) {
	e, rec := standInEngine(t)
	defer rec.end()
	cmd := e.Command("echo", "hello")
	cmd.Stdin = strings.NewReader("from stdin\n")
	res := cmd.Run()
	if res.Code != 7 || res.Stdout != "hello\nfrom stdin\n" || res.Stderr != "oops\n" {
		t.Errorf("got %v", res)
	}
	if res := e.Viv("die"); res.Code != 128+9 {
		t.Errorf("a killed command: %v", res)
	}
	if len(rec.failures) > 0 {
		t.Errorf("good commands failed the test: %q", rec.failures)
	}
}

func TestCommandThatRunsTooLong(t *testing.T) {
	e, rec := standInEngine(t)
	defer rec.end()
	cmd := e.Command("hang")
	cmd.Timeout = 100 * time.Millisecond
	if res := cmd.Run(); res.Code != -1 || res.Err == nil {
		t.Errorf("got %v", res)
	}
	if len(rec.failures) != 1 {
		t.Errorf("failures: %q", rec.failures)
	}
}

func TestTerminal(t *testing.T) {
	e, rec := standInEngine(t)
	defer rec.end()
	cmd := e.Command("tty")
	cmd.Terminal = true
	p := cmd.Start()
	p.Expect("/dev/pts/")
	p.Type("typed\n")
	p.Expect("got typed")
	if res := p.Wait(); res.Code != 0 || len(rec.failures) > 0 {
		t.Errorf("got %v, failures %q", res, rec.failures)
	}
}

// TestLeaks makes each kind of leak by hand and wants it named, and gone when it
// is mended.
func TestLeaks(t *testing.T) {
	const id = "0123456789abcdef0123456789abcdef"
	for _, c := range []struct {
		name string
		want string
		make func(t *testing.T, e *Instance) (mend func() error)
	}{
		{"mount", "mount ", func(t *testing.T, e *Instance) func() error {
			dir := filepath.Join(e.Root, "m")
			if err := errors.Join(os.Mkdir(dir, 0o700), unix.Mount("tmpfs", dir, "tmpfs", 0, "")); err != nil {
				t.Fatal(err)
			}
			return func() error { return unix.Unmount(dir, 0) }
		}},
		{"cgroup", "control group ", func(t *testing.T, e *Instance) func() error {
			dir := anyCgroup(t) + "/viv-test-" + id
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			return func() error { return os.Remove(dir) }
		}},
		{"process by its directory", "process ", func(t *testing.T, e *Instance) func() error {
			cmd := exec.Command("sleep", "1000")
			cmd.Dir = e.State
			return started(t, cmd)
		}},
		{"process by its arguments", "process ", func(t *testing.T, e *Instance) func() error {
			return started(t, exec.Command("sh", "-c", "sleep 1000; true", e.State+"/x"))
		}},
		{"veth", "link ", func(t *testing.T, e *Instance) func() error {
			link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "viv0123"}, PeerName: "viv0123p"}
			if err := e.Network(func() error { return netlink.LinkAdd(link) }); err != nil {
				t.Fatal(err)
			}
			return func() error { return e.Network(func() error { return netlink.LinkDel(link) }) }
		}},
		{"staging file", "file ", func(t *testing.T, e *Instance) func() error {
			return file0(t, filepath.Join(e.Root, "tmp", "half"))
		}},
		{"lock named after the container", "file ", func(t *testing.T, e *Instance) func() error {
			return file0(t, filepath.Join(e.State, "locks", id))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, rec := standInEngine(t)
			defer func() {
				rec.end()
				if len(rec.failures) > 0 {
					t.Errorf("after mending: %q", rec.failures)
				}
			}()
			e.MustViv("create", id)
			e.removeContainers()
			if left := poll(e.Leaks); len(left) > 0 {
				t.Fatalf("a clean engine leaks: %q", left)
			}
			mend := c.make(t, e)
			leaks := e.Leaks()
			if !slices.ContainsFunc(leaks, func(s string) bool { return strings.HasPrefix(s, c.want) }) {
				t.Errorf("leaks %q, want one that begins with %q", leaks, c.want)
			}
			if err := mend(); err != nil {
				t.Fatalf("mend: %v", err)
			}
		})
	}
}

func TestContainersThatAreGoneAreKnown(t *testing.T) {
	e, rec := standInEngine(t)
	defer rec.end()
	e.MustViv("create", "first-container")
	e.MustViv("create", "second-container")
	e.removeContainers()
	want := []string{"first-container", "second-container"}
	if got := poll(func() []string {
		if slices.Equal(e.Containers(), want) {
			return nil
		}
		return e.Containers()
	}); got != nil {
		t.Errorf("recorded %q, want %q", got, want)
	}
}

func TestProcessLeaks(t *testing.T) {
	dir := t.TempDir()
	before := descriptors()
	if leaks := processLeaks(dir, before); len(leaks) > 0 {
		t.Fatalf("leaks from nothing: %q", leaks)
	}
	f, err := os.Create(filepath.Join(dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	kill := started(t, exec.Command("sleep", "1000"))
	leaks := strings.Join(processLeaks(dir, before), "\n")
	for _, want := range []string{"descriptor ", "file ", "child process "} {
		if !strings.Contains(leaks, want) {
			t.Errorf("leaks lack %q:\n%s", want, leaks)
		}
	}
	if err := errors.Join(kill(), f.Close()); err != nil {
		t.Error(err)
	}
}

func TestCacheDirOfSomebodyElseIsRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := ownedPrivately(dir); err != nil {
		t.Errorf("our own directory: %v", err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := ownedPrivately(dir); err == nil {
		t.Error("a directory that all can write was taken")
	}
	link := dir + "-link"
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if err := ownedPrivately(link); err == nil {
		t.Error("a symbolic link was taken")
	}
}

func TestImages(t *testing.T) {
	for _, c := range []struct {
		image  string
		layers int
	}{{"busybox", 1}, {"layered", 3}, {"linked", 4}} {
		t.Run(c.image, func(t *testing.T) {
			files := Image(t, c.image)
			index, err := layout.ImageIndexFromPath(files.Layout)
			if err != nil {
				t.Fatal(err)
			}
			if err := validate.Index(index); err != nil {
				t.Errorf("the layout is broken: %v", err)
			}
			img, err := files.DockerImage()
			if err != nil {
				t.Fatal(err)
			}
			if oci, err := files.OCIImage(); err != nil {
				t.Error(err)
			} else if kind, err := oci.MediaType(); err != nil || kind != types.OCIManifestSchema1 {
				t.Errorf("the layout's image is of type %s, %v", kind, err)
			}
			if err := validate.Image(img); err != nil {
				t.Errorf("the archive is broken: %v", err)
			}
			if layers, err := img.Layers(); err != nil || len(layers) != c.layers {
				t.Errorf("%d layers, %v; want %d", len(layers), err, c.layers)
			}
			if !hasFile(t, files.Rootfs, "bin/busybox") {
				t.Error("the rootfs has no bin/busybox")
			}
		})
	}
	if _, err := image("no-such-image"); err == nil {
		t.Error("an image of an unknown name was made")
	}
}

func TestRegistry(t *testing.T) {
	e, rec := standInEngine(t)
	defer rec.end()
	var requests atomic.Int32
	host := e.Registry(func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			requests.Add(1)
			h.ServeHTTP(w, r)
		})
	})
	ref, err := name.NewTag(host+"/a/b:c", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	img, err := Image(t, "busybox").OCIImage()
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DialContext: e.Dial, DisableKeepAlives: true}
	push := func() (v1.Image, error) {
		if err := remote.Write(ref, img, remote.WithTransport(transport)); err != nil {
			return nil, err
		}
		return remote.Image(ref, remote.WithTransport(transport))
	}
	back, err := push()
	if err != nil {
		t.Fatal(err)
	}
	want, _ := img.Digest()
	if got, _ := back.Digest(); got != want {
		t.Errorf("pulled %s, pushed %s", got, want)
	}
	if requests.Load() == 0 {
		t.Error("the requests did not pass through wrap")
	}
	// The registry is in the engine's network, not in the host's.
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if conn, err := e.Dial(ctx, "tcp", host); err != nil {
		t.Errorf("dial from the engine's network: %v", err)
	} else {
		conn.Close()
	}
}

func TestOutside(t *testing.T) {
	e, rec := standInEngine(t)
	defer rec.end()
	out := e.Outside()
	l, err := out.Listen("tcp", OutsideAddress+":80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(context.Background(), DefaultTimeout)
	defer cancel()
	conn, err := e.Dial(ctx, "tcp", OutsideAddress+":80")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := conn.LocalAddr().String(); !strings.HasPrefix(got, EngineAddress+":") {
		t.Errorf("the engine's side is %s", got)
	}
}

func hasFile(t *testing.T, archive, name string) bool {
	t.Helper()
	data, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Name == name {
			return true
		}
	}
}

func started(t *testing.T, cmd *exec.Cmd) func() error {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() error {
		if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); err != nil {
			return err
		}
		_ = cmd.Wait()
		return nil
	}
}

func file0(t *testing.T, path string) func() error {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return func() error { return os.Remove(path) }
}

// anyCgroup finds a directory in which control groups can be made.
func anyCgroup(t *testing.T) string {
	t.Helper()
	for _, dir := range []string{"/sys/fs/cgroup/pids", "/sys/fs/cgroup"} {
		if _, err := os.Stat(dir + "/cgroup.procs"); err == nil {
			return dir
		}
	}
	t.Fatal("no control group hierarchy is mounted on /sys/fs/cgroup")
	return ""
}
