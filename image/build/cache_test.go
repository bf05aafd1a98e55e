package build

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image/store"
)

func someSteps() []store.Step {
	blob := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromString("blob"), Size: 4}
	at := time.Unix(1700000000, 0).UTC()
	return []store.Step{
		{Key: digest.FromString("1"), DiffID: digest.FromString("diff"), Blob: blob, Size: 7, Created: at, Name: "RUN one"},
		{Key: digest.FromString("2"), DiffID: digest.FromString("diff"), Blob: blob, Size: 7, Created: at, Name: "RUN two"},
		{Key: digest.FromString("3"), Alias: digest.FromString("1")},
	}
}

func TestCacheRoundTrip(t *testing.T) {
	manifest, config, err := cacheManifest(someSteps())
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeCache(manifest, config)
	if err != nil || !reflect.DeepEqual(got, someSteps()) {
		t.Errorf("got %+v (%v)", got, err)
	}
	if m, err := store.ParseManifest(manifest); err != nil || len(m.Layers) != 1 {
		t.Errorf("the manifest has %d layers (%v)", len(m.Layers), err)
	}
	if _, err := decodeCache(manifest, append(config, ' ')); err == nil {
		t.Error("another config was taken")
	}
}

// FuzzDecodeCache: a cache from outside is refused, or each of its steps can be used.
func FuzzDecodeCache(f *testing.F) {
	manifest, config, err := cacheManifest(someSteps())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(config, manifest, true)
	f.Add([]byte(`{"viv.buildcache":`+string(config)+`}`), manifest, false)
	f.Add([]byte(`{"version":1,"steps":[{"key":"sha256:0","layer":-1}]}`), manifest, true)
	f.Add([]byte(`{"viv.buildcache":null}`), []byte(`{"schemaVersion":2}`), false)
	f.Fuzz(func(t *testing.T, config, manifest []byte, own bool) {
		var m ocispec.Manifest
		if json.Unmarshal(manifest, &m) != nil {
			return
		}
		// A digest that fits by chance would take a while.
		m.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))}
		if own {
			m.Config.MediaType = CacheMediaType
		}
		raw, err := json.Marshal(m)
		if err != nil {
			return
		}
		steps, err := decodeCache(raw, config)
		if err != nil && steps != nil {
			t.Error("steps beside an error")
		}
		for _, st := range steps {
			if err := st.Check(); err != nil {
				t.Errorf("%+v: %v", st, err)
			}
		}
	})
}

// TestCacheDir writes two caches into one directory, and reads them; what leads out of
// the directory is not read.
func TestCacheDir(t *testing.T) {
	root := t.TempDir()
	s, err := store.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	content := []byte("blob")
	if err := os.MkdirAll(filepath.Dir(s.BlobPath(digest.FromBytes(content))), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.BlobPath(digest.FromBytes(content)), content, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "a", "cache")
	manifest, config, err := cacheManifest(someSteps())
	if err != nil {
		t.Fatal(err)
	}
	for _, tag := range []string{"one", "two", "one"} {
		if err := WriteCacheDir(dir, tag, manifest, config, s); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ReadCacheDir(dir, ""); err == nil {
		t.Error("one of two caches was chosen")
	}
	c, err := ReadCacheDir(dir, "one")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	steps, err := decodeCache(c.Manifest, c.Config)
	if err != nil || len(steps) != 3 {
		t.Fatalf("%d steps (%v)", len(steps), err)
	}
	r, err := c.Open(t.Context(), steps[0].Blob)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if b, err := io.ReadAll(r); err != nil || string(b) != "blob" {
		t.Errorf("the blob has %q (%v)", b, err)
	}
	blob := filepath.Join(dir, "blobs/sha256", steps[0].Blob.Digest.Encoded())
	if err := os.Remove(blob); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(s.BlobPath(steps[0].Blob.Digest), blob); err != nil {
		t.Fatal(err)
	}
	if r, err := c.Open(t.Context(), steps[0].Blob); err == nil {
		r.Close()
		t.Error("a link out of the directory was followed")
	}
	for _, bad := range []digest.Digest{"", "sha256:../../x", "md5:d41d8cd98f00b204e9800998ecf8427e"} {
		if r, err := c.Open(t.Context(), ocispec.Descriptor{Digest: bad}); err == nil {
			r.Close()
			t.Errorf("a blob %q was opened", bad)
		}
	}
}

// TestPastCopyRoundTrip: what is written of a copy is read again.
func TestPastCopyRoundTrip(t *testing.T) {
	key := digest.FromString("step")
	sum := [32]byte{1, 2, 3}
	files := []seenFile{
		{rel: "a/b", stamp: stamp{1, 2, 3, -4, 5}, meta: "m", sum: &sum},
		{rel: "link", stamp: stamp{ino: 7}, meta: "n"},
	}
	b := encodePast(key, files)
	got, known, err := decodePast(b)
	if err != nil || got != key || len(known) != 2 || *known["a/b"].sum != sum || known["a/b"].stamp != files[0].stamp || known["link"].sum != nil || known["link"].meta != "n" {
		t.Fatalf("%v, %v, %v", got, known, err)
	}
	p := &pastCopy{path: t.TempDir() + "/sub/record"}
	if err := p.write(b); err != nil {
		t.Fatal(err)
	}
	if p.read(); p.key != key || p.find("a/b", files[0].stamp) == nil || p.find("a/b", stamp{}) != nil {
		t.Errorf("read back: %+v", p)
	}
	full, err := os.ReadFile(p.path)
	if err != nil {
		t.Fatal(err)
	}
	full[len(pastVersion)+90]++
	q := &pastCopy{path: p.path}
	if err := os.WriteFile(p.path, full, 0o600); err != nil {
		t.Fatal(err)
	}
	if q.read(); q.key != "" || q.files != nil {
		t.Errorf("a damaged record was believed: %+v", q)
	}
}

func FuzzDecodePast(f *testing.F) {
	sum := [32]byte{9}
	f.Add(encodePast(digest.FromString("x"), []seenFile{{rel: "a", meta: "b", sum: &sum}, {rel: "c"}}))
	f.Add([]byte(pastVersion))
	f.Fuzz(func(t *testing.T, b []byte) {
		key, files, err := decodePast(b)
		if err != nil {
			return
		}
		var list []seenFile
		for _, file := range files {
			list = append(list, *file)
		}
		key2, files2, err := decodePast(encodePast(key, list))
		if err != nil || key2 != key || len(files2) != len(files) {
			t.Fatalf("what was read is not written the same: %v", err)
		}
	})
}
