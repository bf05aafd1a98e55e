package store_test

import (
	"bytes"
	"os"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image"
	"vivarium/image/imagetest"
	"vivarium/image/store"
)

// TestIndex puts images of three platforms, two of which share a layer, under one name.
func TestIndex(t *testing.T) {
	needRoot(t)
	s, root := open(t)
	shared := imagetest.Tar(t, imagetest.File("shared", "x"))
	own := image.DefaultPlatform()
	other := "s390x"
	if own.Architecture == other {
		other = "arm64"
	}
	var spec store.IndexSpec
	tx, err := s.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	for _, arch := range []string{"riscv64", own.Architecture, other} {
		layers := [][]byte{shared}
		if arch == other {
			layers = append(layers, imagetest.Tar(t, imagetest.File("own", arch)))
		}
		img := imagetest.Make(t, imagetest.PackGzip, func(c *ocispec.Image) { c.Architecture = arch }, layers...)
		if _, err := tx.PutBytes(img.ConfigBytes); err != nil {
			t.Fatal(err)
		}
		for i, l := range img.Desc.Layers {
			if _, _, err := tx.PutLayer(t.Context(), bytes.NewReader(img.Blobs[l.Digest]), store.LayerSpec{Blob: l, DiffID: img.DiffIDs[i]}); err != nil {
				t.Fatal(err)
			}
		}
		spec.Manifests = append(spec.Manifests, img.Manifest)
	}
	spec.Names = []string{"docker.io/library/many:latest"}
	img, err := tx.CommitIndex(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if img.Config.Architecture != own.Architecture || len(img.Names) != 1 {
		t.Errorf("the image is for %s and has the names %v", img.Config.Architecture, img.Names)
	}
	tx.Close()

	// Tagged again and with the garbage gone, all of it is there.
	if err := s.Tag(t.Context(), "many", "again"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Remove(t.Context(), "many", false); err != nil {
		t.Fatal(err)
	}
	for _, arch := range []string{"riscv64", own.Architecture, other} {
		got, err := s.ResolvePlatform("again", ocispec.Platform{OS: "linux", Architecture: arch})
		if err != nil || got.Config.Architecture != arch {
			t.Errorf("for %s there is one for %s (%v)", arch, got.Config.Architecture, err)
		}
	}
	if _, err := s.ResolvePlatform("again", ocispec.Platform{OS: "linux", Architecture: "ppc64le"}); err == nil || !strings.Contains(err.Error(), "riscv64") {
		t.Errorf("for a platform that it lacks: %v", err)
	}
	if list, err := s.IndexedLayers(); err != nil || len(list) != 2 || list[0].Size+list[1].Size != int64(1+len(other)) {
		t.Errorf("the layers of all platforms are %+v (%v)", list, err)
	}
	top, err := s.Top("again")
	if err != nil || top.MediaType != ocispec.MediaTypeImageIndex {
		t.Errorf("the name means %+v (%v)", top, err)
	}
	if list, err := s.Check(t.Context(), false); err != nil || len(list) != 0 {
		t.Errorf("check: %v %v", list, err)
	}

	// Another platform's image that is damaged leaves this machine's.
	gone, err := s.ResolvePlatform("again", ocispec.Platform{OS: "linux", Architecture: other})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(s.BlobPath(gone.ID)); err != nil {
		t.Fatal(err)
	}
	if list, err := s.Check(t.Context(), true); err != nil || len(list) == 0 || !strings.Contains(list[0].Detail, "of another platform") {
		t.Errorf("check with a blob missing: %v %v", list, err)
	}
	if list, err := s.Check(t.Context(), false); err != nil || len(list) != 0 {
		t.Errorf("check after the repair: %v %v", list, err)
	}
	if got, err := s.Resolve("again"); err != nil || got.ID != img.ID {
		t.Errorf("the image of this machine: %v", err)
	}
	if _, err := s.Remove(t.Context(), "again", false); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"/images/blobs/sha256", "/layers/sha256"} {
		if left, err := os.ReadDir(root + dir); err != nil || len(left) != 0 {
			t.Errorf("%s has %d entries (%v)", dir, len(left), err)
		}
	}
}
