package registry_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image"
	"vivarium/image/imagetest"
	"vivarium/image/registry"
	"vivarium/image/store"
)

// sources pushes an image for each of two processors and an index of both.
func sources(t *testing.T, addr string) (idx ocispec.Index, names map[digest.Digest]string) {
	t.Helper()
	st, _ := openStore(t)
	idx = ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}
	idx.SchemaVersion = 2
	names = map[digest.Digest]string{}
	for _, arch := range []string{"amd64", "arm64"} {
		img := imagetest.Make(t, imagetest.PackGzip, func(c *ocispec.Image) { c.Architecture = arch }, append(sampleLayers(t), imagetest.Tar(t, imagetest.File(arch, noise(1<<20))))...)
		ref := addr + "/src/" + arch + ":v1"
		stored(t, st, img, ref)
		if _, err := registry.Push(t.Context(), st, ref, registry.PushOptions{}); err != nil {
			t.Fatal(err)
		}
		m, err := registry.Inspect(t.Context(), ref, registry.CopyOptions{})
		if err != nil || m.Descriptor.Digest != img.Digest() || m.Descriptor.Platform == nil || m.Descriptor.Platform.Architecture != arch || string(m.Raw) != string(img.Manifest) {
			t.Fatalf("inspect %s: %+v %v", ref, m.Descriptor, err)
		}
		idx.Manifests = append(idx.Manifests, m.Descriptor)
		names[img.Digest()] = ref
	}
	return idx, names
}

func TestCopyBetweenRegistries(t *testing.T) {
	needRoot(t)
	a, b := imagetest.Registry(t), imagetest.Registry(t)
	idx, names := sources(t, a)
	res, err := registry.PutIndex(t.Context(), a+"/multi:v1", idx, names, registry.CopyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := json.Marshal(idx)
	if res.Digest != digest.FromBytes(raw) {
		t.Errorf("the index is %s", res.Digest)
	}
	seen := map[registry.Status]int{}
	note := func(e registry.Event) { seen[e.Status]++ }
	for _, to := range []string{b + "/far/multi:v2", b + "/other/multi", a + "/near:v1"} {
		clear(seen)
		got, err := registry.Copy(t.Context(), a+"/multi:v1", to, registry.CopyOptions{Progress: note})
		if err != nil || got.Digest != res.Digest {
			t.Fatalf("to %s: %+v %v", to, got, err)
		}
		if same := strings.HasPrefix(to, a); same != (seen[registry.StatusMounted] > 0) || same == (seen[registry.StatusPushed] > 0) {
			t.Errorf("to %s: %v", to, seen)
		}
		st, _ := openStore(t)
		for _, arch := range []string{"amd64", "arm64"} {
			back, err := registry.Pull(t.Context(), st, to, registry.Options{Platform: &ocispec.Platform{OS: "linux", Architecture: arch}})
			if err != nil || back.Digest != res.Digest {
				t.Errorf("pull of %s for %s: %v", to, arch, err)
			}
		}
	}
	clear(seen)
	if _, err := registry.Copy(t.Context(), a+"/multi:v1", b+"/far/multi:v3", registry.CopyOptions{Progress: note}); err != nil || len(seen) > 0 {
		t.Errorf("a new tag of what is there: %v %v", seen, err)
	}
	one, err := registry.Copy(t.Context(), a+"/multi:v1", b+"/one:arm", registry.CopyOptions{Platform: &ocispec.Platform{OS: "linux", Architecture: "arm64"}})
	if err != nil || names[one.Digest] != a+"/src/arm64:v1" {
		t.Errorf("one platform: %+v %v", one, err)
	}
	if _, err := registry.Copy(t.Context(), a+"/multi:v1", b+"/one@"+string(one.Digest), registry.CopyOptions{}); !errors.Is(err, store.ErrDigest) {
		t.Errorf("to the digest of another: %v", err)
	}
}

func TestCopyFails(t *testing.T) {
	needRoot(t)
	a, k := imagetest.Registry(t), newTaker(t)
	_, names := sources(t, a)
	var from string
	for _, from = range names {
	}
	for name, c := range map[string]struct {
		from, to string
		is       error
	}{
		"nothing there":  {a + "/src/none:v1", k.addr() + "/x:v1", registry.ErrNotFound},
		"no such name":   {a + "/src/UPPER:v1", k.addr() + "/x:v1", image.ErrReference},
		"no such target": {from, "::", image.ErrReference},
	} {
		if _, err := registry.Copy(t.Context(), c.from, c.to, registry.CopyOptions{}); !errors.Is(err, c.is) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := registry.Copy(ctx, from, k.addr()+"/x:v1", registry.CopyOptions{Progress: func(e registry.Event) {
		if e.Status == registry.StatusPushing {
			cancel()
		}
	}}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if len(k.manifests) > 0 {
		t.Error("a manifest came before its blobs")
	}
}

func TestSearch(t *testing.T) {
	needRoot(t)
	addr := imagetest.Registry(t)
	sources(t, addr)
	names := func(list []registry.Found) string {
		var out []string
		for _, f := range list {
			out = append(out, f.Name)
		}
		return strings.Join(out, " ")
	}
	for term, want := range map[string]string{"src": addr + "/src/amd64 " + addr + "/src/arm64", "arm": addr + "/src/arm64", "none": ""} {
		list, err := registry.Search(t.Context(), addr+"/"+term, 10, registry.CopyOptions{})
		if err != nil || names(list) != want {
			t.Errorf("%s: %v %v", term, list, err)
		}
	}
	if list, err := registry.Search(t.Context(), addr+"/src", 1, registry.CopyOptions{}); err != nil || len(list) != 1 {
		t.Errorf("limit: %v %v", list, err)
	}
	if _, err := registry.Search(t.Context(), addr+"/", 10, registry.CopyOptions{}); err == nil {
		t.Error("an empty term is accepted")
	}
	k := newTaker(t)
	k.fault = func(w http.ResponseWriter, r *http.Request, _ string, _ int) bool {
		switch r.URL.Path {
		case "/v1/search":
			if r.URL.Query().Get("q") != "bad" {
				_, _ = w.Write([]byte(`{"results":[{"name":"lib/x","description":"a b","star_count":3,"is_official":true},{"name":"y"}]}`))
				return true
			}
			_, _ = w.Write([]byte("<html>"))
			return true
		}
		return false
	}
	list, err := registry.Search(t.Context(), k.addr()+"/x", 5, registry.CopyOptions{})
	if err != nil || len(list) != 2 || list[0] != (registry.Found{Name: k.addr() + "/lib/x", Description: "a b", Stars: 3, Official: true}) {
		t.Errorf("the first API: %+v %v", list, err)
	}
	if _, err := registry.Search(t.Context(), k.addr()+"/bad", 5, registry.CopyOptions{}); !errors.Is(err, registry.ErrRegistry) {
		t.Errorf("nonsense: %v", err)
	}
}
