package registry_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vivarium/image/imagetest"
	"vivarium/image/registry"
	"vivarium/image/store"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: layers are unpacked with their owners and device nodes")
	}
}

func openStore(t testing.TB) (*store.Store, string) {
	t.Helper()
	root := t.TempDir()
	s, err := store.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	return s, root
}

func sampleLayers(t testing.TB) [][]byte {
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("busybox-static is not installed")
	}
	bb := imagetest.File("bin/busybox", string(busybox))
	bb.Mode = 0o755
	return [][]byte{
		imagetest.Tar(t, imagetest.Dir("./", 0o755), imagetest.Dir("bin/", 0o755), bb, imagetest.Symlink("bin/sh", "busybox"), imagetest.Dir("etc/", 0o755), imagetest.File("etc/gone", "x")),
		imagetest.Tar(t, imagetest.Dir("etc/", 0o755), imagetest.File("etc/.wh.gone", ""), imagetest.File("etc/new", "new")),
		imagetest.Tar(t, imagetest.File("srv/implicit/file", "f"), imagetest.Link("srv/hard", "etc/new")),
	}
}

func TestPullFromRegistry(t *testing.T) {
	needRoot(t)
	addr := imagetest.Registry(t)
	for name, pack := range map[string]imagetest.Pack{"gzip": imagetest.PackGzip, "zstd": imagetest.PackZstd, "plain": imagetest.PackPlain} {
		t.Run(name, func(t *testing.T) {
			img := imagetest.Make(t, pack, nil, sampleLayers(t)...)
			ref := addr + "/team/" + name + ":v1"
			img.Push(t, ref)
			st, root := openStore(t)
			res, err := registry.Pull(context.Background(), st, ref, registry.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if res.Image.ID != img.ID() || res.Digest != img.Digest() || !res.Fresh {
				t.Errorf("got ID %s digest %s fresh %v, want %s %s true", res.Image.ID, res.Digest, res.Fresh, img.ID(), img.Digest())
			}
			if got := res.Image.Names; len(got) != 1 || got[0] != ref {
				t.Errorf("names %v, want [%s]", got, ref)
			}
			if b, err := os.ReadFile(res.Image.Layers[2].Dir + "/srv/hard"); err != nil || string(b) != "new" {
				t.Errorf("hard link into the lower layer: %q, %v", b, err)
			}
			if left, _ := filepath.Glob(root + "/tmp/*"); len(left) != 0 {
				t.Errorf("left in tmp: %v", left)
			}
			again, err := registry.Pull(context.Background(), st, ref, registry.Options{})
			if err != nil || again.Fresh {
				t.Errorf("second pull: fresh %v, error %v", again.Fresh, err)
			}
			out := imagetest.Run(t, imagetest.Tool(t, "skopeo"), "inspect", "oci:"+root+"/images:"+ref)
			if !strings.Contains(out, string(img.Digest())) {
				t.Errorf("skopeo does not see the digest: %s", out)
			}
		})
	}
}
