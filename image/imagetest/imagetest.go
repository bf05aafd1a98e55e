// Package imagetest makes images and runs registries for the tests of the
// image packages. Only tests import it.
package imagetest

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Entry is one tar entry: a header and the content of a regular file.
type Entry struct {
	tar.Header
	Body string
}

// Dir, File, Link and Symlink make common entries.
func Dir(name string, mode int64) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}}
}

// File makes a regular file.
func File(name, body string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, Body: body}
}

// Link makes a hard link.
func Link(name, target string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o644}}
}

// Symlink makes a symbolic link.
func Symlink(name, target string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}}
}

// Tar writes the entries as a plain tar.
func Tar(t testing.TB, entries ...Entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		h := e.Header
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(e.Body))
		}
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(1700000000, 0)
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatalf("write header of %q: %v", e.Name, err)
		}
		if _, err := w.Write([]byte(e.Body)); err != nil {
			t.Fatalf("write %q: %v", e.Name, err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// Gzip and Zstd pack a stream.
func Gzip(t testing.TB, b []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// Zstd packs a stream with zstd.
func Zstd(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(b, nil)
}

// Image is an image in memory: blobs by digest, and its manifest.
type Image struct {
	Manifest    []byte
	Type        string
	ConfigBytes []byte
	Config      ocispec.Image
	Desc        ocispec.Manifest
	Blobs       map[digest.Digest][]byte
	DiffIDs     []digest.Digest
}

// ID is the digest of the config.
func (i *Image) ID() digest.Digest { return digest.FromBytes(i.ConfigBytes) }

// Digest is the digest of the manifest.
func (i *Image) Digest() digest.Digest { return digest.FromBytes(i.Manifest) }

// Pack packs a plain layer and names its media type.
type Pack func(testing.TB, []byte) ([]byte, string)

// The ways to pack a layer.
func PackGzip(t testing.TB, b []byte) ([]byte, string) {
	return Gzip(t, b), ocispec.MediaTypeImageLayerGzip
}

// PackZstd packs with zstd.
func PackZstd(t testing.TB, b []byte) ([]byte, string) {
	return Zstd(t, b), ocispec.MediaTypeImageLayerZstd
}

// PackPlain does not pack.
func PackPlain(_ testing.TB, b []byte) ([]byte, string) {
	return b, ocispec.MediaTypeImageLayer
}

// Make makes an image of plain layer tars; change, if not nil, edits its config.
func Make(t testing.TB, pack Pack, change func(*ocispec.Image), layers ...[]byte) *Image {
	t.Helper()
	created := time.Unix(1700000000, 0).UTC()
	img := &Image{Type: ocispec.MediaTypeImageManifest, Blobs: make(map[digest.Digest][]byte)}
	img.Config = ocispec.Image{
		Created: &created, Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH},
		Config: ocispec.ImageConfig{Cmd: []string{"/bin/sh"}, Env: []string{"PATH=/bin"}},
		RootFS: ocispec.RootFS{Type: "layers"},
	}
	img.Desc = ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: img.Type}
	for i, l := range layers {
		packed, kind := pack(t, l)
		d := img.put(packed)
		img.DiffIDs = append(img.DiffIDs, digest.FromBytes(l))
		img.Desc.Layers = append(img.Desc.Layers, ocispec.Descriptor{MediaType: kind, Digest: d, Size: int64(len(packed))})
		img.Config.History = append(img.Config.History, ocispec.History{Created: &created, CreatedBy: fmt.Sprint("layer ", i)})
	}
	img.Config.RootFS.DiffIDs = img.DiffIDs
	if change != nil {
		change(&img.Config)
	}
	img.ConfigBytes = marshal(t, img.Config)
	img.Desc.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: img.put(img.ConfigBytes), Size: int64(len(img.ConfigBytes))}
	img.Manifest = marshal(t, img.Desc)
	img.put(img.Manifest)
	return img
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (i *Image) put(b []byte) digest.Digest {
	d := digest.FromBytes(b)
	i.Blobs[d] = b
	return d
}

// Layout writes the image as an OCI layout.
func (i *Image) Layout(t testing.TB, dir, name string) {
	t.Helper()
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		t.Fatal(err)
	}
	for d, b := range i.Blobs {
		write(t, filepath.Join(blobs, d.Encoded()), b)
	}
	idx := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{{
		MediaType: i.Type, Digest: i.Digest(), Size: int64(len(i.Manifest)),
		Annotations: map[string]string{ocispec.AnnotationRefName: name},
	}}}
	write(t, filepath.Join(dir, "index.json"), marshal(t, idx))
	write(t, filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`))
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// Tool skips the test if a program is not installed.
func Tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	return path
}

// Run runs a program to its end and returns what it prints.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// Registry starts Debian's docker-registry on a free port of the loopback and
// returns HOST:PORT. It ends with the test.
func Registry(t testing.TB) string {
	t.Helper()
	bin := Tool(t, "docker-registry")
	dir := t.TempDir()
	addr := freeAddr(t)
	conf := filepath.Join(dir, "config.yml")
	write(t, conf, []byte(fmt.Sprintf(
		"version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s/data}}\nhttp: {addr: %s}\n", dir, addr)))
	cmd := exec.Command(bin, "serve", conf)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	gone := make(chan error, 1)
	go func() { gone <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-gone
	})
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		select {
		case err := <-gone:
			gone <- err
			t.Fatalf("docker-registry ended: %v\n%s", err, log.String())
		default:
		}
		resp, err := http.Get("http://" + addr + "/v2/")
		if err == nil {
			resp.Body.Close()
			return addr
		}
		time.Sleep(20 * time.Millisecond) // it tells nobody when it listens
	}
	t.Fatalf("docker-registry did not answer in 30 s\n%s", log.String())
	return ""
}

func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Push copies the image to a registry with skopeo.
func (i *Image) Push(t testing.TB, ref string) {
	t.Helper()
	skopeo := Tool(t, "skopeo")
	dir := t.TempDir()
	i.Layout(t, dir, "x")
	Run(t, skopeo, "copy", "--insecure-policy", "--dest-tls-verify=false", "--preserve-digests", "oci:"+dir+":x", "docker://"+ref)
}
