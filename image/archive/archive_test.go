package archive_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image"
	"vivarium/image/archive"
	"vivarium/image/imagetest"
	"vivarium/image/store"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: layers are unpacked with their owners")
	}
}

func open(t testing.TB) (*store.Store, string) {
	t.Helper()
	root := t.TempDir()
	s, err := store.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	return s, root
}

func sample(t testing.TB) *imagetest.Image {
	t.Helper()
	return imagetest.Make(t, imagetest.PackGzip, nil,
		imagetest.Tar(t, imagetest.Dir("etc/", 0o755), imagetest.File("etc/a", "a")),
		imagetest.Tar(t, imagetest.Dir("etc/", 0o755), imagetest.File("etc/.wh.a", ""), imagetest.File("etc/b", "b")))
}

// skopeoArchive writes the image with skopeo as KIND (docker-archive or
// oci-archive).
func skopeoArchive(t testing.TB, img *imagetest.Image, kind, name string) string {
	t.Helper()
	skopeo := imagetest.Tool(t, "skopeo")
	dir := t.TempDir()
	img.Layout(t, dir+"/src", "x")
	out := filepath.Join(dir, "out.tar")
	imagetest.Run(t, skopeo, "copy", "--insecure-policy", "oci:"+dir+"/src:x", kind+":"+out+":"+name)
	return out
}

// pipe hides that the reader is a file.
type pipe struct{ io.Reader }

func TestLoad(t *testing.T) {
	needRoot(t)
	img := sample(t)
	for _, kind := range []string{"docker-archive", "oci-archive"} {
		file := skopeoArchive(t, img, kind, "docker.io/team/app:v1")
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for how, r := range map[string]io.Reader{
			"file": f, "pipe": pipe{bytes.NewReader(b)}, "gzip": bytes.NewReader(imagetest.Gzip(t, b)), "zstd": bytes.NewReader(imagetest.Zstd(t, b)),
		} {
			t.Run(kind+" "+how, func(t *testing.T) {
				s, root := open(t)
				got, err := archive.Load(context.Background(), s, r, archive.LoadOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if len(got) != 1 || got[0].ID != img.ID() || strings.Join(got[0].RepoTags(), " ") != "team/app:v1" {
					t.Fatalf("%+v", got)
				}
				if b, err := os.ReadFile(got[0].Layers[1].Dir + "/etc/b"); err != nil || string(b) != "b" {
					t.Errorf("%q %v", b, err)
				}
				if left, _ := filepath.Glob(root + "/tmp/*"); len(left) != 0 {
					t.Errorf("left: %v", left)
				}
				if found, err := s.Check(context.Background(), false); err != nil || len(found) != 0 {
					t.Errorf("%v %v", found, err)
				}
			})
		}
	}
}

func TestSaveRoundTrip(t *testing.T) {
	needRoot(t)
	skopeo := imagetest.Tool(t, "skopeo")
	ctx := context.Background()
	s, _ := open(t)
	img := sample(t)
	f, err := os.Open(skopeoArchive(t, img, "oci-archive", "docker.io/team/app:v1"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := archive.Load(ctx, s, f, archive.LoadOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Tag(ctx, "team/app:v1", "other:v2"); err != nil {
		t.Fatal(err)
	}
	for name, format := range map[string]archive.Format{"docker-archive": archive.Docker, "oci-archive": archive.OCI} {
		t.Run(name, func(t *testing.T) {
			var buf bytes.Buffer
			if err := archive.Save(ctx, s, &buf, []string{"team/app:v1", "other:v2"}, format); err != nil {
				t.Fatal(err)
			}
			s2, _ := open(t)
			got, err := archive.Load(ctx, s2, bytes.NewReader(buf.Bytes()), archive.LoadOptions{})
			if err != nil {
				t.Fatal(err)
			}
			last := got[len(got)-1]
			if last.ID != img.ID() || strings.Join(last.RepoTags(), " ") != "other:v2 team/app:v1" {
				t.Errorf("%v %v", last.ID, last.RepoTags())
			}
			file := filepath.Join(t.TempDir(), "x.tar")
			if err := os.WriteFile(file, buf.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
			out := imagetest.Run(t, skopeo, "inspect", "--config", "--raw", name+":"+file+":docker.io/team/app:v1")
			if digest.FromString(strings.TrimRight(out, "\n")) != img.ID() && digest.FromString(out) != img.ID() {
				t.Errorf("skopeo reads another config: %s", out)
			}
		})
	}
	if err := archive.Save(ctx, s, io.Discard, []string{"missing"}, archive.Docker); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("%v", err)
	}
	if err := archive.Save(ctx, s, io.Discard, nil, archive.Docker); err == nil {
		t.Error("saved nothing")
	}
}

// tarFiles writes plain files as a tar, in this order.
func tarFiles(t testing.TB, files ...[2]string) []byte {
	t.Helper()
	var e []imagetest.Entry
	for _, f := range files {
		if to, ok := strings.CutPrefix(f[1], "-> "); ok {
			e = append(e, imagetest.Symlink(f[0], to))
		} else {
			e = append(e, imagetest.File(f[0], f[1]))
		}
	}
	return imagetest.Tar(t, e...)
}

// TestLoadOldDockerArchive reads what `docker save` wrote before version 25:
// directories with layer.tar, of which shared ones are links.
func TestLoadOldDockerArchive(t *testing.T) {
	needRoot(t)
	base := string(imagetest.Tar(t, imagetest.File("base", "b")))
	top := string(imagetest.Tar(t, imagetest.File("top", "t")))
	config := func(layers ...string) string {
		c := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, RootFS: ocispec.RootFS{Type: "layers"}}
		for _, l := range layers {
			c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digest.FromString(l))
		}
		b, _ := json.Marshal(c)
		return string(b)
	}
	one, two := config(base), config(base, top)
	b := tarFiles(t, [2]string{"a/layer.tar", base}, [2]string{"b/layer.tar", "-> ../a/layer.tar"}, [2]string{"c/layer.tar", top},
		[2]string{"one.json", one}, [2]string{"two.json", two},
		[2]string{"manifest.json", `[{"Config":"one.json","RepoTags":["one:1","uno:1"],"Layers":["a/layer.tar"]},{"Config":"two.json","RepoTags":null,"Layers":["b/layer.tar","c/layer.tar"]}]`})
	s, _ := open(t)
	got, err := archive.Load(context.Background(), s, bytes.NewReader(b), archive.LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || len(got[0].Names) != 2 || got[1].ID != digest.FromString(two) || got[1].Layers[0].Dir != got[0].Layers[0].Dir {
		t.Errorf("%+v", got)
	}
}

func TestLoadRefuses(t *testing.T) {
	img := sample(t)
	cfg := string(img.ConfigBytes)
	for name, tt := range map[string]struct {
		b  []byte
		is error
	}{
		"no tar":          {[]byte("hello, this is no tar at all"), archive.ErrFormat},
		"empty":           {nil, archive.ErrFormat},
		"a root fs":       {imagetest.Tar(t, imagetest.File("etc/passwd", "x")), archive.ErrFormat},
		"no config":       {tarFiles(t, [2]string{"manifest.json", `[{"Config":"x.json","Layers":[]}]`}), os.ErrNotExist},
		"no JSON":         {tarFiles(t, [2]string{"manifest.json", `{`}), archive.ErrFormat},
		"no image":        {tarFiles(t, [2]string{"manifest.json", `[]`}), archive.ErrFormat},
		"layers missing":  {tarFiles(t, [2]string{"c", cfg}, [2]string{"manifest.json", `[{"Config":"c","Layers":[]}]`}), archive.ErrFormat},
		"wrong layers":    {tarFiles(t, [2]string{"c", cfg}, [2]string{"l", string(imagetest.Tar(t))}, [2]string{"manifest.json", `[{"Config":"c","Layers":["l","l"]}]`}), store.ErrDigest},
		"bad name":        {tarFiles(t, [2]string{"c", cfg}, [2]string{"manifest.json", `[{"Config":"c","RepoTags":["BAD NAME"],"Layers":[]}]`}), image.ErrReference},
		"link loop":       {tarFiles(t, [2]string{"c", "-> d"}, [2]string{"d", "-> c"}, [2]string{"manifest.json", `[{"Config":"c","Layers":[]}]`}), nil},
		"bad blob":        {tarFiles(t, [2]string{"oci-layout", "{}"}, [2]string{"index.json", `{"schemaVersion":2,"manifests":[{"digest":"` + string(img.Digest()) + `","size":1}]}`}, [2]string{"blobs/sha256/" + img.Digest().Encoded(), "x"}), store.ErrDigest},
		"bad digest":      {tarFiles(t, [2]string{"oci-layout", "{}"}, [2]string{"index.json", `{"schemaVersion":2,"manifests":[{"digest":"sha256:../../x","size":1}]}`}), nil},
		"cut off gzip":    {imagetest.Gzip(t, bytes.Repeat([]byte("x"), 10000))[:20], nil},
		"cut off archive": {imagetest.Tar(t, imagetest.File("a", strings.Repeat("x", 5000)))[:3000], nil},
	} {
		t.Run(name, func(t *testing.T) {
			needRoot(t)
			s, root := open(t)
			got, err := archive.Load(context.Background(), s, bytes.NewReader(tt.b), archive.LoadOptions{})
			if err == nil || len(got) != 0 {
				t.Fatalf("loaded %v", got)
			}
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("error is not %v: %v", tt.is, err)
			}
			for _, p := range []string{"/tmp/*", "/images/blobs/sha256/*", "/layers/*/*"} {
				if left, _ := filepath.Glob(root + p); len(left) != 0 {
					t.Errorf("left: %v", left)
				}
			}
		})
	}
}

func TestImport(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	rootfs := imagetest.Tar(t, imagetest.Dir("bin/", 0o755), imagetest.File("bin/sh", "x"))
	now := time.Unix(1700000000, 0)
	for how, b := range map[string][]byte{"plain": rootfs, "gzip": imagetest.Gzip(t, rootfs), "zstd": imagetest.Zstd(t, rootfs)} {
		t.Run(how, func(t *testing.T) {
			s, root := open(t)
			img, err := archive.Import(ctx, s, bytes.NewReader(b), archive.ImportOptions{
				Config: ocispec.ImageConfig{Cmd: []string{"/bin/sh"}}, Message: "from a tar", Names: []string{"mine:1"}, Now: now,
			})
			if err != nil {
				t.Fatal(err)
			}
			if len(img.Layers) != 1 || img.Layers[0].DiffID != digest.FromBytes(rootfs) || img.Config.Config.Cmd[0] != "/bin/sh" ||
				img.Config.History[0].Comment != "from a tar" || !img.Created.Equal(now) || img.RepoTags()[0] != "mine:1" {
				t.Errorf("%+v", img)
			}
			imagetest.Run(t, imagetest.Tool(t, "skopeo"), "inspect", "oci:"+root+"/images:docker.io/library/mine:1")
		})
	}
	s, _ := open(t)
	if _, err := archive.Import(ctx, s, strings.NewReader(strings.Repeat("no tar ", 200)), archive.ImportOptions{}); err == nil {
		t.Error("imported text")
	}
	if _, err := archive.Import(ctx, s, bytes.NewReader(imagetest.Tar(t, imagetest.File("../x", ""))), archive.ImportOptions{}); err == nil {
		t.Error("imported a tar that climbs out")
	}
	if list, err := s.List(); err != nil || len(list) != 0 {
		t.Errorf("%v %v", list, err)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(tarFiles(f, [2]string{"manifest.json", `[{"Config":"c","RepoTags":["a:b"],"Layers":["l"]}]`}, [2]string{"c", "{}"}))
	f.Add(tarFiles(f, [2]string{"oci-layout", "{}"}, [2]string{"index.json", `{"schemaVersion":2,"manifests":[]}`}))
	f.Add([]byte("x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := tar.NewReader(bytes.NewReader(b)).Next(); err != nil && len(b) > 1<<16 {
			return
		}
		s, _ := open(t)
		_, _ = archive.Load(context.Background(), s, bytes.NewReader(b), archive.LoadOptions{MaxLayerBytes: 1 << 20, MaxLayerEntries: 100})
	})
}
