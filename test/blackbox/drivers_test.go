package blackbox

import (
	"archive/tar"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vivarium/internal/testenv"
	"vivarium/unionfs/aufs"
)

var storageDrivers = []string{"overlay", "aufs", "copy"}

// eachDriver runs a test on each storage driver, in an engine with an image of several layers.
func eachDriver(t *testing.T, test func(t *testing.T, e *testenv.Instance, driver string)) {
	vivOnly(t, "docker's daemon has one storage driver")
	testenv.Root(t)
	for _, d := range storageDrivers {
		t.Run(d, func(t *testing.T) {
			if _, err := os.Stat("/dev/fuse"); err != nil && d == "aufs" {
				t.Skip("needs /dev/fuse")
			}
			e := testenv.Engine(t)
			e.MustViv("tag", e.Load("layered"), box)
			test(t, e, d)
		})
	}
}

// TestStorageDrivers takes a container through its life: it keeps its driver, whatever
// later commands say.
func TestStorageDrivers(t *testing.T) {
	eachDriver(t, func(t *testing.T, e *testenv.Instance, d string) {
		name, shown := "c-"+d, map[string]string{"overlay": "overlay2", "aufs": "aufs", "copy": "copy"}[d]
		want(t, e.Viv("--storage-driver", d, "info", "-f", "{{.Driver}}"), 0, shown+"\n")
		e.MustViv("--storage-driver", d, "run", "-d", "--name", name, "--network", "none", box, "sh", "-c", "echo x >/made; rm /data/a; "+waiting)
		e.Command("logs", "-f", name).Start().Expect("up")
		want(t, e.Viv("inspect", "-f", "{{.GraphDriver.Name}}", name), 0, shown+"\n")
		want(t, e.Viv("exec", name, "cat", "/made", "/full/new"), 0, "x\nnew\n")
		fails(t, e.Viv("exec", name, "ls", "/data/b"), 1) // a whiteout of the image
		want(t, e.Viv("diff", name), 0, "C /data\nD /data/a\nA /made\n")
		host := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(host, []byte("from outside\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		e.MustViv("cp", host, name+":/running")
		want(t, e.Viv("exec", name, "cat", "/running"), 0, "from outside\n")
		if got := exported(t, e, name); !strings.Contains(got, " made ") || strings.Contains(got, " data/a ") || strings.Contains(got, " proc/1/") {
			t.Errorf("exported while it runs: %s", got)
		}
		e.MustViv("kill", name)
		e.MustViv("wait", name)
		e.MustViv("cp", host, name+":/stopped")
		e.MustViv("cp", name+":/made", host)
		if b, err := os.ReadFile(host); err != nil || string(b) != "x\n" {
			t.Errorf("copied out: %q, %v", b, err)
		}
		if got := exported(t, e, name); !strings.Contains(got, " stopped ") || !strings.Contains(got, " full/new ") {
			t.Errorf("exported: %s", got)
		}
		e.MustViv("start", name) // on its own driver
		want(t, e.Viv("exec", name, "cat", "/made", "/stopped"), 0, "x\nfrom outside\n")
		want(t, e.Viv("exec", "-u", "app", name, "id", "-un"), 0, "app\n")
		if rw := e.MustViv("ps", "-s", "--format", "{{.Size}}"); !strings.HasPrefix(rw, "28B ") {
			t.Errorf("size of the container: %s", rw)
		}
		if got := e.MustViv("inspect", "--anatomy", name); !strings.Contains(got, shown) || !strings.Contains(got, "/"+map[string]string{"copy": "rootfs"}[d]) {
			t.Errorf("anatomy: %s", got)
		}
		if res := e.Viv("layer", "--format", "json", name); d == "copy" {
			fails(t, res, 1, "no layer of its own", "commit it")
		} else if !strings.Contains(res.Stdout, `"running"`) || res.Code != 0 {
			t.Errorf("layers: %v", res)
		}
		if d == "aufs" {
			point := e.MustViv("inspect", "-f", "{{.GraphDriver.Data.MergedDir}}", name)
			where := e.MustViv("union", "where", "--format", "{{.State}}", point+"/running")
			want(t, e.Viv("union", "where", "--format", "{{.State}}", point+"/data/b"), 1, "whiteout\nhidden\n")
			if where != "shown" {
				t.Errorf("the union of a container tells %q", where)
			}
		}
		fails(t, e.Viv("--storage-driver", d, "run", "--name", "none-"+d, "--network", "none", box, "/no-such"), 127, "no-such")
		e.MustViv("rm", "none-"+d)
		e.MustViv("rm", "-f", name)
		want(t, e.Viv("--storage-driver", d, "run", "--rm", "--network", "none", "-v", "/data", box, "sh", "-c", "cat /data/a; exit 3"), 3, "a2\n")
	})
}

// exported lists the names of an export, each between spaces.
func exported(t *testing.T, e *testenv.Instance, name string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "export.tar")
	e.MustViv("export", "-o", file, name)
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out := " "
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out += h.Name + " "
	}
}

// changeAll changes files in every way that there is, and gives what it has made one time.
const changeAll = `set -e
cd /
echo new >new; rm data/a; rm -r full; mkdir full; echo n >full/n
ln etc/motd etc/hard; ln -s etc/motd link; mkfifo fifo; mknod null c 1 3
chmod 600 etc/group; chown 12:34 home/app; chmod 755 bin/busybox
mv home house; mkdir home
mkdir -p a/b/c; echo x >a/b/c/d; ln a/b/c/d a/e
mv etc/not-executable etc/executable
rm -r var; echo file >var
mkdir t; echo t >t/t; mv t tree
find new full etc/hard etc/group etc/executable etc link fifo null house home a tree var bin data bin/busybox -exec touch -hd @1700000000 {} +
`

// TestDriversMakeTheSameLayers: what a container changed, and what a Dockerfile makes, has the
// same digest whatever the driver was: whiteouts, opaque directories, hard links, renames.
func TestDriversMakeTheSameLayers(t *testing.T) {
	layers, images := map[string]string{}, map[string]string{}
	files := map[string]string{"Dockerfile": "FROM " + box + `
COPY file tree/ /data/
RUN <<EOF
` + changeAll + `EOF
RUN rm -r /tree /a/b && mkdir /tree && echo again >/tree/new && chmod 0 /tree/new
COPY --link --from=` + box + ` /data/a /linked/
WORKDIR /made/dir
ADD file /tree/
RUN --mount=type=bind,from=` + box + `,target=/from,rw cp /from/full/new . && touch /from/x
`, "file": "f", "tree/b": "b", "tree/c": "c"}
	context := contextDir(t, files)
	eachDriver(t, func(t *testing.T, e *testenv.Instance, d string) {
		name := "same-" + d
		res := e.Viv("--storage-driver", d, "run", "--name", name, "--network", "none", box, "sh", "-c", changeAll)
		want(t, res, 0, "")
		e.MustViv("commit", name, name)
		layers[d] = e.MustViv("inspect", "--type", "image", "-f", "{{json .RootFS.Layers}}", name)
		layers[d+" diff"] = e.MustViv("diff", name)
		e.MustViv("rm", name)
		e.MustViv("--storage-driver", d, "build", "--no-cache", "--network", "none", "-t", name, "--build-arg", "SOURCE_DATE_EPOCH=1700000000", context)
		images[d] = e.MustViv("inspect", "--type", "image", "-f", "{{.Id}} {{json .RootFS.Layers}}", name)
		want(t, e.Viv("--storage-driver", d, "run", "--rm", "--network", "none", name, "sh", "-c", "cat /tree/* /made/dir/new; ls / /a /full | tr '\\n' ' '"), 0,
			"fagain\nnew\n/: a bin data dev etc fifo full home house link linked made new null proc root sys tmp tree usr var  /a: e  /full: n ")
	})
	for _, d := range storageDrivers[1:] {
		for _, what := range []string{"", " diff"} {
			if layers[d+what] != layers["overlay"+what] {
				t.Errorf("committed on %s%s:\n%s\non overlay:\n%s", d, what, layers[d+what], layers["overlay"+what])
			}
		}
		if images[d] != images["overlay"] {
			t.Errorf("built on %s:\n%s\non overlay:\n%s", d, images[d], images["overlay"])
		}
	}
}

// TestKilledAnywhereOnDrivers kills what makes containers, at any moment; nothing is left that
// the next commands do not find.
func TestKilledAnywhereOnDrivers(t *testing.T) {
	vivOnly(t, "Docker's client holds nothing")
	e := newBox(t)
	for _, d := range []string{"aufs", "copy"} {
		want(t, e.Viv("--storage-driver", d, "run", "--rm", "--network", "none", box, "true"), 0, "")
		for range 15 {
			p := e.Command("--storage-driver", d, "run", "--rm", "--network", "none", box, "true").Start()
			time.Sleep(time.Duration(rand.IntN(60000)) * time.Microsecond) // any moment of its life
			_ = syscall.Kill(-p.PID(), syscall.SIGKILL)
			p.Wait()
		}
	}
	context := contextDir(t, map[string]string{"Dockerfile": "FROM " + box + "\nRUN echo COMMAND RUNS | tr A-Z a-z; sleep 100\n"})
	for _, d := range []string{"aufs", "copy"} {
		cmd := e.Command("--storage-driver", d, "build", "--progress", "plain", "--network", "none", context)
		cmd.Terminal = true
		p := cmd.Start()
		p.Expect("command runs")
		_ = syscall.Kill(-p.PID(), syscall.SIGKILL)
		p.Wait()
	}
	if ids := strings.Fields(e.MustViv("ps", "-aq")); len(ids) > 0 {
		e.MustViv(append([]string{"rm", "-f"}, ids...)...)
	}
	if res := e.Viv("system", "check"); res.Code != 0 {
		t.Errorf("system check after the next command: %v", res)
	}
}

// TestKilledUnionServer: the container's files are gone until it is started again; then all
// that it had written is there. Nothing is left when it is removed.
func TestKilledUnionServer(t *testing.T) {
	vivOnly(t, "the server of a union")
	e := newBox(t)
	e.MustViv("--storage-driver", "aufs", "run", "-d", "--name", "cut", "--network", "none", box, "sh", "-c", "echo x >/made; "+waiting)
	e.Command("logs", "-f", "cut").Start().Expect("up")
	kill := func() {
		st, err := aufs.ReadState(filepath.Join(e.State, "containers", e.MustViv("inspect", "-f", "{{.Id}}", "cut"), "rootfs"))
		if err != nil {
			t.Fatal(err)
		}
		fd, err := unix.PidfdOpen(st.PID, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
			t.Fatal(err)
		}
		if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 20_000); n != 1 {
			t.Fatalf("the server outlives SIGKILL (%v)", err)
		}
	}
	kill()
	if res := e.Viv("exec", "cut", "cat", "/made"); res.Code == 0 {
		t.Errorf("a dead union is read: %v", res)
	}
	e.MustViv("restart", "-t", "0", "cut")
	want(t, e.Viv("exec", "cut", "cat", "/made"), 0, "x\n")
	kill()
	e.MustViv("rm", "-f", "cut")
}

// TestStorageDriverIsProbed: on a file system that can be no upper layer of overlay, as overlay
// itself is none, FUSE is taken, and where viv-union is not installed, a copy.
func TestStorageDriverIsProbed(t *testing.T) {
	vivOnly(t, "docker's daemon has one storage driver")
	testenv.Root(t)
	e := testenv.Engine(t)
	base := t.TempDir()
	for _, d := range []string{"lower", "upper", "work"} {
		if err := os.Mkdir(filepath.Join(base, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	options := "lowerdir=" + base + "/lower,upperdir=" + base + "/upper,workdir=" + base + "/work"
	if err := syscall.Mount("overlay", e.Root, "overlay", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(e.Root, 0); err != nil {
			t.Errorf("unmount the store: %v", err)
		}
	})
	e.Import("busybox", box)
	res := e.Viv("run", "--name", "first", "--network", "none", box, "sh", "-c", "echo x >/f; rm -r /home; mkdir /home; ls /home")
	want(t, res, 0, "")
	if !strings.Contains(res.Stderr, "overlay does not work here") {
		t.Errorf("nobody says why: %v", res)
	}
	if got := inspect(t, e, "first", "{{.Driver}}"); got != "aufs" {
		t.Errorf("the driver is %s", got)
	}
	want(t, e.Viv("run", "--rm", "--network", "none", box, "echo", "again"), 0, "again\n")
	if res := e.Viv("info", "-f", "{{.Driver}}"); res.Stdout != "aufs\n" || res.Stderr != "" {
		t.Errorf("the second time: %v", res)
	}
	want(t, e.Viv("diff", "first"), 0, "A /f\nC /home\nD /home/app\n")

	// Without viv-union: the other programs in a directory of their own.
	bin := t.TempDir()
	for _, name := range []string{"viv", "viv-monitor"} {
		b, err := os.ReadFile(testenv.Binary(t, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(bin, name), b, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	e.MustViv("rm", "first")
	if err := os.Remove(e.Root + "/driver"); err != nil {
		t.Fatal(err)
	}
	cmd := e.Command("run", "--rm", "--network", "none", box, "cat", "/etc/group")
	cmd.Path, cmd.Env = filepath.Join(bin, "viv"), []string{"PATH=" + bin}
	if res := cmd.Run(); res.Code != 0 || !strings.Contains(res.Stdout, "staff") || !strings.Contains(res.Stderr, "aufs does not work here") {
		t.Errorf("without viv-union: %v", res)
	}
	if to, err := os.Readlink(e.Root + "/driver"); err != nil || to != "copy" {
		t.Errorf("noted: %q, %v", to, err)
	}
}

// TestDriversAndUserNamespaces: the files of a copy are seen with the ids of the namespace;
// FUSE cannot do that, and says so.
func TestDriversAndUserNamespaces(t *testing.T) {
	vivOnly(t, "docker maps all containers of a daemon")
	e := newBox(t)
	args := []string{"run", "--rm", "--network", "none", "--userns", "private", "--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536", box,
		"sh", "-c", "stat -c '%u:%g' / /home/app; touch /mine; stat -c %u /mine"}
	want(t, e.Viv(append([]string{"--storage-driver", "copy"}, args...)...), 0, "0:0\n1000:1000\n0\n")
	fails(t, e.Viv(append([]string{"--storage-driver", "aufs"}, args...)...), 125, "user namespace", "overlay or copy")
}

// TestStorageDriverOption: a wrong one, the image host, the variable, and what a store has noted.
func TestStorageDriverOption(t *testing.T) {
	vivOnly(t, "docker's daemon has one storage driver")
	e := newBox(t)
	fails(t, e.Viv("--storage-driver", "btrfs", "ps"), 1, "unknown storage driver", "overlay, aufs and copy")
	fails(t, e.Viv("--storage-driver", "copy", "run", "--rm", "host", "true"), 125, "needs the storage driver overlay")
	driverOf := func(env string) string {
		cmd := e.Command("create", "--network", "none", box, "true")
		cmd.Env = append(cmd.Env, "STORAGE_DRIVER="+env)
		res := cmd.Run()
		if res.Code != 0 {
			t.Fatal(res)
		}
		return e.MustViv("inspect", "-f", "{{.Driver}}", strings.TrimSpace(res.Stdout))
	}
	for env, want := range map[string]string{"": "overlay2", "vfs": "copy", "overlay2": "overlay2"} {
		if got := driverOf(env); got != want {
			t.Errorf("STORAGE_DRIVER=%s: %s, want %s", env, got, want)
		}
	}
	if to, err := os.Readlink(e.Root + "/driver"); err != nil || to != "overlay" {
		t.Errorf("noted: %q, %v", to, err)
	}
	if err := os.Remove(e.Root + "/driver"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("copy", e.Root+"/driver"); err != nil { // as where overlay does not work
		t.Fatal(err)
	}
	want(t, e.Viv("info", "-f", "{{.Driver}}"), 0, "copy\n")
	if got := driverOf(""); got != "copy" {
		t.Errorf("with a store that has noted copy: %s", got)
	}
	want(t, e.Viv("run", "--rm", "--network", "none", "host", "echo", "still"), 0, "still\n")
}
