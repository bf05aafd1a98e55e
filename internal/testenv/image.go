package testenv

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"
)

// imageFormat goes into the name of the cached files: a change of what follows is
// a new number.
const imageFormat = "6"

// epoch is the time of every file in the images, so that they are the same in
// every run.
var epoch = time.Unix(1_700_000_000, 0)

// Files are the forms of one test image.
type Files struct {
	// Rootfs is a tar of the whole root file system, for import.
	Rootfs string
	// Layout is an OCI image layout whose index names the image by its reference.
	Layout string
	// Archive is a docker-archive, for load.
	Archive string
	// Ref is the reference that Layout and Archive carry.
	Ref string
}

// entry is a file of a test image.
type entry struct {
	tar.Header
	content []byte
}

// Image makes a test image and returns its files, which are shared: they must not
// be written. Names:
//
//   - busybox: one layer, busybox with its applets as symbolic links in /bin, the
//     users root, app (1000:1000, also in group staff, 50) and nobody;
//   - layered: busybox and two layers above it that add, replace, hide a file by
//     a whiteout, and make a directory opaque;
//   - linked: layered and a layer that needs those below it to be unpacked: a hard
//     link to a file of theirs, and a file in a directory that it does not name.
//
// In all the environment has PATH and IMAGE=<name>, and the command is sh.
func Image(t testing.TB, name string) Files {
	t.Helper()
	files, err := image(name)
	if err != nil {
		t.Fatalf("make the test image %s: %v", name, err)
	}
	return files
}

func image(name string) (Files, error) {
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return Files{}, fmt.Errorf("%w (test/install-deps installs busybox-static)", err)
	}
	cache, err := cacheDir()
	if err != nil {
		return Files{}, err
	}
	sum := sha256.Sum256(append(busybox, imageFormat...))
	dir := filepath.Join(cache, fmt.Sprintf("image-%s-%s", name, hex.EncodeToString(sum[:8])))
	files := Files{
		Rootfs: filepath.Join(dir, "rootfs.tar"), Layout: filepath.Join(dir, "layout"),
		Archive: filepath.Join(dir, "archive.tar"), Ref: "viv-test/" + name + ":latest",
	}
	return files, once(dir, func(staging string) error {
		layers, err := layersOf(name, busybox)
		if err != nil {
			return err
		}
		return writeImage(staging, name, files.Ref, layers)
	})
}

// once makes dir by make in a staging directory, if it does not exist yet. Test
// processes may run at the same time: one makes it, the others wait for the lock.
func once(dir string, fill func(staging string) error) (err error) {
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	staging, err := os.MkdirTemp(filepath.Dir(dir), "staging-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(staging)) }()
	if err := fill(staging); err != nil {
		return err
	}
	return os.Rename(staging, dir)
}

func layersOf(name string, busybox []byte) ([][]entry, error) {
	base, err := busyboxLayer(busybox)
	if err != nil {
		return nil, err
	}
	switch name {
	case "busybox":
		return [][]entry{base}, nil
	case "layered":
		return layered(base), nil
	case "linked":
		return append(layered(base), []entry{
			{Header: tar.Header{Typeflag: tar.TypeLink, Name: "data/motd", Linkname: "etc/motd", Mode: 0o644}},
			file("full/unnamed-parent", 0o644, ""),
		}), nil
	}
	return nil, fmt.Errorf("there is no test image of this name")
}

func layered(base []entry) [][]entry {
	return [][]entry{base, {
		directory("data", 0o755), file("data/a", 0o644, "a1\n"), file("data/b", 0o644, "b1\n"),
		directory("full", 0o750), file("full/old", 0o644, "old\n"),
		file("etc/motd", 0o644, "second layer\n"),
	}, {
		file("data/a", 0o600, "a2\n"), file("data/.wh.b", 0o644, ""),
		directory("full", 0o750), file("full/.wh..wh..opq", 0o644, ""), file("full/new", 0o644, "new\n"),
	}}
}

func busyboxLayer(busybox []byte) ([]entry, error) {
	list, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("list busybox's applets: %w", err)
	}
	layer := []entry{
		directory("bin", 0o755), directory("dev", 0o755), directory("etc", 0o755),
		directory("home", 0o755), directory("proc", 0o755), directory("root", 0o700),
		directory("sys", 0o755), directory("tmp", 0o1777), directory("usr", 0o755),
		directory("var", 0o755),
		file("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"),
		file("etc/group", 0o644, "root:x:0:\nstaff:x:50:app\napp:x:1000:\nnobody:x:65534:\n"),
		file("etc/not-executable", 0o644, "#!/bin/sh\n"),
	}
	home := directory("home/app", 0o755)
	home.Uid, home.Gid = 1000, 1000
	bin := file("bin/busybox", 0o755, "")
	bin.content, bin.Size = busybox, int64(len(busybox))
	layer = append(layer, home, bin)
	for _, applet := range strings.Fields(string(list)) {
		if applet != "busybox" {
			layer = append(layer, entry{Header: tar.Header{
				Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: "busybox", Mode: 0o777,
			}})
		}
	}
	return layer, nil
}

func directory(name string, mode int64) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode}}
}

func file(name string, mode int64, content string) entry {
	return entry{
		Header:  tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content))},
		content: []byte(content),
	}
}

func pack(entries []entry) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		h := e.Header
		h.ModTime, h.Format = epoch, tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			return nil, fmt.Errorf("pack %s: %w", h.Name, err)
		}
		if _, err := w.Write(e.content); err != nil {
			return nil, fmt.Errorf("pack %s: %w", h.Name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

func writeImage(dir, name, ref string, layers [][]entry) error {
	img, err := assemble(name, layers)
	if err != nil {
		return err
	}
	// The root file system as import takes it has no whiteouts: only the base layer
	// is one.
	rootfs, err := pack(layers[0])
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "rootfs.tar"), rootfs, 0o644); err != nil {
		return err
	}
	if err := writeLayout(filepath.Join(dir, "layout"), ref, img); err != nil {
		return err
	}
	return writeArchive(filepath.Join(dir, "archive.tar"), ref, img)
}

func assemble(name string, layers [][]entry) (v1.Image, error) {
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, entries := range layers {
		data, err := pack(entries)
		if err != nil {
			return nil, err
		}
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(data)), nil
		}, tarball.WithMediaType(types.OCILayer))
		if err != nil {
			return nil, fmt.Errorf("make a layer: %w", err)
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			return nil, fmt.Errorf("append a layer: %w", err)
		}
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.Architecture, config.OS = "amd64", "linux"
	config.Created = v1.Time{Time: epoch}
	config.Config.Cmd = []string{"sh"}
	config.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "IMAGE=" + name}
	return mutate.ConfigFile(img, config)
}

func writeLayout(dir, ref string, img v1.Image) error {
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return fmt.Errorf("write an image layout: %w", err)
	}
	err = path.AppendImage(img, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": ref}))
	if err != nil {
		return fmt.Errorf("write the image into its layout: %w", err)
	}
	return nil
}

func writeArchive(path, ref string, img v1.Image) error {
	tag, err := name.NewTag(ref)
	if err != nil {
		return err
	}
	if err := tarball.WriteToFile(path, tag, img); err != nil {
		return fmt.Errorf("write a docker-archive: %w", err)
	}
	return nil
}

// OCIImage reads the test image for go-containerregistry, with OCI's media types.
func (f Files) OCIImage() (v1.Image, error) {
	index, err := layout.ImageIndexFromPath(f.Layout)
	if err != nil {
		return nil, err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	return index.Image(manifest.Manifests[0].Digest)
}

// DockerImage is OCIImage with Docker's media types (schema 2).
func (f Files) DockerImage() (v1.Image, error) { return tarball.ImageFromPath(f.Archive, nil) }

// Import makes the test image name known to the engine as ref.
func (e *Instance) Import(name, ref string) {
	e.t.Helper()
	e.MustViv("import", Image(e.t, name).Rootfs, ref)
}

// Load loads the test image name into the engine and returns its reference.
func (e *Instance) Load(name string) string {
	e.t.Helper()
	files := Image(e.t, name)
	e.MustViv("load", "-i", files.Archive)
	return files.Ref
}

// Registry serves an empty registry on the loopback of the engine's network until
// the test ends, and returns its host:port. Every request passes through wrap, if
// there is one: a place for failures and counters.
func (e *Instance) Registry(wrap func(http.Handler) http.Handler) string {
	e.t.Helper()
	l, err := e.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		e.t.Fatalf("start a registry: %v", err)
	}
	return serveRegistry(e.t, l, wrap)
}

func serveRegistry(t testing.TB, l net.Listener, wrap func(http.Handler) http.Handler) string {
	var handler http.Handler = registry.New(registry.Logger(discard))
	if wrap != nil {
		handler = wrap(handler)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: DefaultTimeout}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
	return l.Addr().String()
}

// Cached returns the directory of this name in the cache that outlives test runs,
// made by fill if it is not there. fill gets an empty directory that becomes the
// cached one only if it returns nil.
func Cached(name string, fill func(dir string) error) (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, name)
	return dir, once(dir, fill)
}

// ImageFiles is [Image] for a caller that is no test.
func ImageFiles(name string) (Files, error) { return image(name) }
