package registry_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image"
	"vivarium/image/archive"
	"vivarium/image/imagetest"
	"vivarium/image/registry"
	"vivarium/image/store"
)

// pushDocker copies the image to the registry with Docker's media types, and
// returns the digest that it has there.
func pushDocker(t *testing.T, img *imagetest.Image, ref string) digest.Digest {
	t.Helper()
	skopeo := imagetest.Tool(t, "skopeo")
	dir := t.TempDir()
	img.Layout(t, dir, "x")
	imagetest.Run(t, skopeo, "copy", "--insecure-policy", "--dest-tls-verify=false", "--format", "v2s2", "oci:"+dir+":x", "docker://"+ref)
	raw := imagetest.Run(t, skopeo, "inspect", "--tls-verify=false", "--raw", "docker://"+ref)
	if !strings.Contains(raw, store.MediaTypeDockerManifest) {
		t.Fatalf("the registry has no Docker manifest: %s", raw)
	}
	return digest.FromString(raw)
}

func pullDocker(t *testing.T, st *store.Store, ref string, want digest.Digest, id digest.Digest) image.Image {
	t.Helper()
	res, err := registry.Pull(context.Background(), st, ref, registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	// By its ID an image may be found through another name of it.
	img, err := st.Resolve(ref)
	if err != nil || res.Digest != want || img.ID != id || img.Manifest.Digest != want {
		t.Fatalf("pull %s gives digest %s, ID %s, manifest %s, %v; want %s, %s", ref, res.Digest, img.ID, img.Manifest.Digest, err, want, id)
	}
	return img
}

func noProblems(t *testing.T, st *store.Store) {
	t.Helper()
	problems, err := st.Check(context.Background(), false)
	if err != nil || len(problems) != 0 {
		t.Errorf("check finds %v, %v", problems, err)
	}
}

// TestDockerMediaTypes pulls an image with Docker's media types: others read it
// from the layout as OCI's, and its digest stays that of the registry.
func TestDockerMediaTypes(t *testing.T) {
	needRoot(t)
	addr := imagetest.Registry(t)
	skopeo := imagetest.Tool(t, "skopeo")
	img := imagetest.Make(t, imagetest.PackGzip, nil, sampleLayers(t)...)
	ref := addr + "/team/docker:v1"
	want := pushDocker(t, img, ref)
	st, root := openStore(t)
	got := pullDocker(t, st, ref, want, img.ID())
	noProblems(t, st)
	if again, err := registry.Pull(context.Background(), st, ref, registry.Options{}); err != nil || again.Fresh {
		t.Errorf("second pull: fresh %v, error %v", again.Fresh, err)
	}
	byDigest := addr + "/team/docker@" + string(want)
	for _, r := range []string{byDigest, string(want), string(img.ID())} {
		if found, err := st.Resolve(r); err != nil || found.ID != img.ID() {
			t.Errorf("resolve %s: %s, %v", r, found.ID, err)
		}
	}
	if d := got.RepoDigests; len(d) != 1 || d[0] != byDigest {
		t.Errorf("RepoDigests are %v, want %s", d, byDigest)
	}

	layout := "oci:" + root + "/images:" + ref
	if out := imagetest.Run(t, skopeo, "inspect", layout); !strings.Contains(out, string(got.OCIManifest.Digest)) {
		t.Errorf("skopeo inspect does not see the converted manifest: %s", out)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal([]byte(imagetest.Run(t, skopeo, "inspect", "--raw", layout)), &m); err != nil {
		t.Fatal(err)
	}
	if m.MediaType != ocispec.MediaTypeImageManifest || m.Config.MediaType != ocispec.MediaTypeImageConfig || m.Config.Digest != img.ID() {
		t.Errorf("the manifest in the layout is %+v", m)
	}
	for i, l := range m.Layers {
		if l.MediaType != ocispec.MediaTypeImageLayerGzip || l.Digest != img.Desc.Layers[i].Digest {
			t.Errorf("layer %d in the layout is %+v, want %s", i, l, img.Desc.Layers[i].Digest)
		}
	}
	// Back to the registry as OCI, and as Docker's: the very same there again.
	imagetest.Run(t, skopeo, "copy", "--insecure-policy", "--dest-tls-verify=false", "--preserve-digests", layout, "docker://"+addr+"/back/oci:v1")
	imagetest.Run(t, skopeo, "copy", "--insecure-policy", "--dest-tls-verify=false", "--format", "v2s2", layout, "docker://"+addr+"/back/docker:v1")
	second, _ := openStore(t)
	pullDocker(t, second, addr+"/back/oci:v1", got.OCIManifest.Digest, img.ID())
	pullDocker(t, second, addr+"/back/docker:v1", want, img.ID())
	noProblems(t, second)
	pullDocker(t, second, addr+"/team/docker@"+string(want), want, img.ID())

	// One image, of which nothing stays when it is removed.
	list, err := second.List()
	if err != nil || len(list) != 1 || len(list[0].RepoDigests) != 3 {
		t.Errorf("the second store lists %+v, %v", list, err)
	}
	for _, s := range []*store.Store{st, second} {
		if _, err := s.Remove(context.Background(), string(img.ID()), true); err != nil {
			t.Fatal(err)
		}
		noProblems(t, s)
	}
	if left, _ := filepath.Glob(root + "/images/blobs/sha256/*"); len(left) != 0 {
		t.Errorf("blobs are left: %v", left)
	}
}

// TestDockerMediaTypesRepair loses the converted manifest, then the index.
func TestDockerMediaTypesRepair(t *testing.T) {
	needRoot(t)
	addr := imagetest.Registry(t)
	img := imagetest.Make(t, imagetest.PackGzip, nil, sampleLayers(t)...)
	ref := addr + "/team/docker:v1"
	want := pushDocker(t, img, ref)
	st, root := openStore(t)
	got := pullDocker(t, st, ref, want, img.ID())
	converted := st.BlobPath(got.OCIManifest.Digest)
	repair := func() {
		t.Helper()
		problems, err := st.Check(context.Background(), true)
		if err != nil || len(problems) == 0 {
			t.Fatalf("repair finds %v, %v", problems, err)
		}
		for _, p := range problems {
			if !p.Repaired {
				t.Errorf("%v", p)
			}
		}
		noProblems(t, st)
	}
	for _, harm := range []func() error{
		func() error { return os.Remove(converted) },
		func() error { return os.WriteFile(converted, []byte("{}"), 0o644) },
	} {
		if err := harm(); err != nil {
			t.Fatal(err)
		}
		repair()
		imagetest.Run(t, imagetest.Tool(t, "skopeo"), "inspect", "oci:"+root+"/images:"+ref)
		if found, err := st.Resolve(ref); err != nil || found.Manifest.Digest != want {
			t.Errorf("after the repair: %+v, %v", found.Manifest, err)
		}
	}
	if err := os.WriteFile(root+"/images/index.json", []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	repair()
	list, err := st.List()
	if err != nil || len(list) != 1 || list[0].Manifest.Digest != want || list[0].OCIManifest.Digest != got.OCIManifest.Digest {
		t.Errorf("after the index was made anew: %+v, %v", list, err)
	}
	if err := st.Tag(context.Background(), string(img.ID()), ref); err != nil {
		t.Fatal(err)
	}
	imagetest.Run(t, imagetest.Tool(t, "skopeo"), "inspect", "oci:"+root+"/images:"+ref)
	// Nothing of it is in the way of removing it.
	if _, err := st.Remove(context.Background(), ref, false); err != nil {
		t.Fatal(err)
	}
	noProblems(t, st)
}

// TestDockerMediaTypesSave saves such an image, and loads it again.
func TestDockerMediaTypesSave(t *testing.T) {
	needRoot(t)
	addr := imagetest.Registry(t)
	skopeo := imagetest.Tool(t, "skopeo")
	img := imagetest.Make(t, imagetest.PackGzip, nil, sampleLayers(t)...)
	ref := addr + "/team/docker:v1"
	want := pushDocker(t, img, ref)
	st, _ := openStore(t)
	pullDocker(t, st, ref, want, img.ID())
	for kind, format := range map[string]archive.Format{"docker-archive": archive.Docker, "oci-archive": archive.OCI} {
		path := filepath.Join(t.TempDir(), "image.tar")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := archive.Save(context.Background(), st, f, []string{ref}, format); err != nil {
			t.Fatal(err)
		}
		imagetest.Run(t, skopeo, "inspect", kind+":"+path)
		imagetest.Run(t, skopeo, "inspect", "oci-archive:"+path)
		second, _ := openStore(t)
		if _, err := f.Seek(0, 0); err != nil {
			t.Fatal(err)
		}
		loaded, err := archive.Load(context.Background(), second, f, archive.LoadOptions{})
		if err != nil || len(loaded) != 1 || loaded[0].ID != img.ID() {
			t.Errorf("load %s: %+v, %v", kind, loaded, err)
		}
		noProblems(t, second)
	}
}
