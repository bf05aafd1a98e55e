package store_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/ulikunitz/xz"

	"vivarium/image"
	"vivarium/image/imagetest"
	"vivarium/image/store"
)

func TestMain(m *testing.M) {
	if root := os.Getenv("VIV_TEST_CRASH_ROOT"); root != "" {
		crashChild(root)
		return
	}
	os.Exit(m.Run())
}

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

// add puts an image into the store as a pull would.
func add(t testing.TB, s *store.Store, img *imagetest.Image, source string, names ...string) image.Image {
	t.Helper()
	got, err := put(s, img, source, names...)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func put(s *store.Store, img *imagetest.Image, source string, names ...string) (image.Image, error) {
	ctx := context.Background()
	tx, err := s.Begin(ctx)
	if err != nil {
		return image.Image{}, err
	}
	defer tx.Close()
	if err := tx.LockLayers(ctx, img.DiffIDs); err != nil {
		return image.Image{}, err
	}
	if _, err := tx.PutBytes(img.ConfigBytes); err != nil {
		return image.Image{}, err
	}
	for i, l := range img.Desc.Layers {
		if _, _, err := tx.PutLayer(ctx, bytes.NewReader(img.Blobs[l.Digest]), store.LayerSpec{Blob: l, DiffID: img.DiffIDs[i]}); err != nil {
			return image.Image{}, err
		}
	}
	return tx.Commit(ctx, store.CommitSpec{Manifest: img.Manifest, MediaType: img.Type, Names: names, Source: source})
}

func sample(t testing.TB, what string) *imagetest.Image {
	t.Helper()
	return imagetest.Make(t, imagetest.PackGzip, nil,
		imagetest.Tar(t, imagetest.Dir("etc/", 0o755), imagetest.File("etc/base", "base")),
		imagetest.Tar(t, imagetest.Dir("etc/", 0o755), imagetest.File("etc/what", what)))
}

const (
	full = "docker.io/library/one:latest"
	repo = "docker.io/library/one"
)

func TestResolve(t *testing.T) {
	needRoot(t)
	s, _ := open(t)
	img := sample(t, "one")
	list := digest.FromString("list")
	add(t, s, img, repo+"@"+string(list), full)
	hex := img.ID().Encoded()
	for _, ref := range []string{
		"one", "one:latest", "library/one", "docker.io/one", full, "index.docker.io/library/one", hex, hex[:12], "sha256:" + hex, "sha256:" + hex[:7],
		string(list), string(img.Digest()), "one@" + string(list), "one:other@" + string(list), "one@" + string(img.Digest()),
	} {
		got, err := s.Resolve(ref)
		if err != nil {
			t.Errorf("%s: %v", ref, err)
			continue
		}
		if got.ID != img.ID() || len(got.Layers) != 2 || got.Size != int64(len("base")+len("one")) || got.Layers[1].Size != 3 {
			t.Errorf("%s: %+v", ref, got)
		}
		if len(got.Config.Config.Cmd) != 1 || !got.Created.Equal(*img.Config.Created) {
			t.Errorf("%s: config %+v", ref, got.Config)
		}
	}
	for _, ref := range []string{"two", "one:v2", "quay.io/one", "ffff" + hex[:4], "one@" + string(digest.FromString("x"))} {
		if _, err := s.Resolve(ref); !errors.Is(err, image.ErrNotFound) {
			t.Errorf("%s: %v", ref, err)
		}
	}
	for _, ref := range []string{"", "One", "a b", "x:", "../etc", "-"} {
		if _, err := s.Resolve(ref); !errors.Is(err, image.ErrReference) {
			t.Errorf("%q: %v", ref, err)
		}
	}
}

func TestResolveAmbiguous(t *testing.T) {
	needRoot(t)
	s, _ := open(t)
	ids := make(map[byte]int)
	var first byte
	for i := 0; first == 0; i++ { // 17 images share a first digit at the latest
		img := sample(t, fmt.Sprint(i))
		add(t, s, img, "", fmt.Sprintf("docker.io/library/i%d:latest", i))
		d := img.ID().Encoded()[0]
		if ids[d]++; ids[d] == 2 {
			first = d
		}
	}
	if _, err := s.Resolve(string(first)); !errors.Is(err, image.ErrAmbiguous) {
		t.Errorf("%v", err)
	}
}

func lines(r []store.Removed) string {
	var out []string
	for _, x := range r {
		out = append(out, x.String())
	}
	return strings.Join(out, "\n")
}

func TestTagAndRemove(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	s, root := open(t)
	img := sample(t, "one")
	list := digest.FromString("list")
	add(t, s, img, repo+"@"+string(list), full)
	for _, n := range []string{"two:v1", "one:v2"} {
		if err := s.Tag(ctx, "one", n); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.Resolve("two:v1")
	if err != nil || strings.Join(got.RepoTags(), " ") != "one:latest one:v2 two:v1" || len(got.RepoDigests) != 1 {
		t.Fatalf("%v %v %v", got.RepoTags(), got.RepoDigests, err)
	}
	if _, err := s.Remove(ctx, image.ShortID(img.ID()), false); !errors.Is(err, store.ErrInUse) || !strings.Contains(err.Error(), "multiple repositories") {
		t.Errorf("by ID with several repositories: %v", err)
	}
	r, err := s.Remove(ctx, "two:v1", false)
	if err != nil || lines(r) != "Untagged: two:v1" {
		t.Errorf("%s %v", lines(r), err)
	}
	if r, err = s.Remove(ctx, "one:v2", false); err != nil || lines(r) != "Untagged: one:v2" {
		t.Errorf("%s %v", lines(r), err)
	}
	chains := image.ChainIDs(img.DiffIDs)
	want := "Untagged: one:latest\nUntagged: one@" + string(list) + "\nDeleted: " + string(img.ID()) + "\nDeleted: " + string(chains[1]) + "\nDeleted: " + string(chains[0])
	if r, err = s.Remove(ctx, "one", false); err != nil || lines(r) != want {
		t.Errorf("got\n%s\n%v\nwant\n%s", lines(r), err, want)
	}
	for _, pattern := range []string{"/images/blobs/sha256/*", "/layers/*/*", "/tmp/*"} {
		if left, _ := filepath.Glob(root + pattern); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
	}
	if _, err := s.Remove(ctx, "one", false); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("%v", err)
	}
}

func TestRemoveUsed(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	s, _ := open(t)
	img := add(t, s, sample(t, "one"), "", full)
	u := store.User{Container: "box", Image: img.ID, Layers: img.LowerDirs(), Running: true}
	s.Users = func(context.Context) ([]store.User, error) { return []store.User{u}, nil }
	for ref, force := range map[string]bool{"one": false, string(img.ID): true} {
		if _, err := s.Remove(ctx, ref, force); !errors.Is(err, store.ErrInUse) || !strings.Contains(err.Error(), "box") {
			t.Errorf("running, %s, force %v: %v", ref, force, err)
		}
	}
	if r, err := s.Remove(ctx, "one", true); err != nil || lines(r) != "Untagged: one:latest" {
		t.Errorf("running, its name, forced: %q %v", lines(r), err)
	}
	if list, err := s.List(); err != nil || len(list) != 1 || len(list[0].Names) != 0 {
		t.Errorf("untagged while it is used: %v %v", list, err)
	}
	if err := s.Tag(ctx, string(img.ID), "one"); err != nil {
		t.Fatal(err)
	}
	u.Running = false
	if _, err := s.Remove(ctx, "one", false); !errors.Is(err, store.ErrInUse) {
		t.Errorf("stopped: %v", err)
	}
	if _, err := s.Remove(ctx, "one", true); err != nil {
		t.Errorf("stopped, forced: %v", err)
	}
	for _, l := range img.Layers {
		if _, err := os.Stat(l.Dir); err != nil {
			t.Errorf("a container lost its layer: %v", err)
		}
	}
	s.Users = nil
	if _, err := s.GC(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(img.Layers[0].Dir); err == nil {
		t.Error("layer is still there without its container")
	}
}

func TestRetagLeavesDangling(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	s, _ := open(t)
	old, young := sample(t, "old"), sample(t, "new")
	add(t, s, old, "", full)
	add(t, s, young, "", full)
	got, err := s.Resolve(string(old.ID()))
	if err != nil || len(got.Names) != 0 {
		t.Fatalf("%v %v", got.Names, err)
	}
	list, err := s.List()
	if err != nil || len(list) != 2 {
		t.Fatalf("%d images, %v", len(list), err)
	}
	removed, freed, err := s.Prune(ctx, false, nil)
	if err != nil || freed == 0 || !strings.Contains(lines(removed), string(old.ID())) || strings.Contains(lines(removed), string(young.ID())) {
		t.Errorf("%s %d %v", lines(removed), freed, err)
	}
	// The base layer is shared with the image that stays.
	if got, err := s.Resolve("one"); err != nil || got.ID != young.ID() {
		t.Errorf("%v", err)
	}
	if _, _, err := s.Prune(ctx, true, func(image.Image) bool { return false }); err != nil {
		t.Error(err)
	}
	if _, _, err := s.Prune(ctx, true, nil); err != nil {
		t.Error(err)
	}
	if list, _ := s.List(); len(list) != 0 {
		t.Errorf("left: %v", list)
	}
}

// TestLayerDependsOnParents: the same layer, with a directory that it does not
// name, above two bases in which that directory differs.
func TestLayerDependsOnParents(t *testing.T) {
	needRoot(t)
	s, _ := open(t)
	top := imagetest.Tar(t, imagetest.File("d/f", "x"), imagetest.Link("h", "base"))
	own := imagetest.Tar(t, imagetest.File("own", "x"))
	modes := make(map[string]bool)
	var shared []string
	for i, mode := range []int64{0o711, 0o700} {
		base := imagetest.Tar(t, imagetest.Dir("d/", mode), imagetest.File("base", fmt.Sprint(i)))
		img := add(t, s, imagetest.Make(t, imagetest.PackGzip, nil, base, top, own, top), "", fmt.Sprintf("docker.io/library/i%d:latest", i))
		st, err := os.Stat(img.Layers[1].Dir + "/d")
		if err != nil || st.Mode().Perm() != os.FileMode(mode) {
			t.Errorf("mode %v, want %o (%v)", st.Mode(), mode, err)
		}
		if b, err := os.ReadFile(img.Layers[1].Dir + "/h"); err != nil || string(b) != fmt.Sprint(i) {
			t.Errorf("hard link: %q %v", b, err)
		}
		modes[img.Layers[1].Dir] = true
		shared = append(shared, img.Layers[2].Dir)
	}
	if len(modes) != 2 || shared[0] != shared[1] {
		t.Errorf("dependent layers %v, shared %v", modes, shared)
	}
}

func TestCheckAndRepair(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	img := sample(t, "one")
	for name, tt := range map[string]struct {
		damage func(root string) error
		usable bool // after repair
	}{
		"nothing": {func(string) error { return nil }, true},
		"layer without record": {func(root string) error {
			return os.Remove(root + "/layers/sha256/" + img.DiffIDs[1].Encoded() + "/layer.json")
		}, true},
		"layer is gone": {func(root string) error { return os.RemoveAll(root + "/layers/sha256/" + img.DiffIDs[0].Encoded()) }, true},
		"blob is gone": {func(root string) error {
			return os.Remove(root + "/images/blobs/sha256/" + img.Desc.Layers[0].Digest.Encoded())
		}, false},
		"blob is damaged": {func(root string) error {
			return os.WriteFile(root+"/images/blobs/sha256/"+img.Desc.Layers[1].Digest.Encoded(), []byte("x"), 0o644)
		}, false},
		"config is damaged": {func(root string) error {
			return os.WriteFile(root+"/images/blobs/sha256/"+img.ID().Encoded(), []byte("{}"), 0o644)
		}, false},
		"manifest is gone": {func(root string) error { return os.Remove(root + "/images/blobs/sha256/" + img.Digest().Encoded()) }, false},
		"index is damaged": {func(root string) error { return os.WriteFile(root+"/images/index.json", []byte("{"), 0o644) }, false},
		"stray blob": {func(root string) error {
			d := digest.FromString("stray")
			return os.WriteFile(root+"/images/blobs/sha256/"+d.Encoded(), []byte("stray"), 0o644)
		}, true},
		"staging of a dead process": {func(root string) error { return os.MkdirAll(root+"/tmp/image-dead/layer-1/fs", 0o755) }, true},
		"half an index":             {func(root string) error { return os.WriteFile(root+"/images/.new-1", nil, 0o644) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			s, root := open(t)
			add(t, s, img, "", full)
			if err := tt.damage(root); err != nil {
				t.Fatal(err)
			}
			found, err := s.Check(ctx, false)
			if err != nil {
				t.Fatal(err)
			}
			if (name == "nothing") != (len(found) == 0) {
				t.Fatalf("found %v", found)
			}
			found, err = s.Check(ctx, true)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range found {
				if !p.Repaired {
					t.Errorf("%v", p)
				}
			}
			if found, err = s.Check(ctx, false); err != nil || len(found) != 0 {
				t.Errorf("after the repair: %v, %v", found, err)
			}
			_, err = s.Resolve("one")
			if tt.usable && err != nil || !tt.usable && !errors.Is(err, image.ErrNotFound) {
				t.Errorf("after the repair: %v", err)
			}
			if name == "index is damaged" {
				if _, err := s.Resolve(string(img.ID())); err != nil {
					t.Errorf("the image is lost: %v", err)
				}
			}
			add(t, s, img, "", full)
			if _, err := s.Resolve("one"); err != nil {
				t.Errorf("after another pull: %v", err)
			}
		})
	}
}

// TestGCBesideAdding collects garbage again and again while images come.
func TestGCBesideAdding(t *testing.T) {
	needRoot(t)
	s, _ := open(t)
	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				ended <- nil
				return
			default:
				if _, err := s.GC(context.Background()); err != nil {
					ended <- err
					return
				}
			}
		}
	}()
	var wg sync.WaitGroup
	for w := range 3 {
		wg.Go(func() {
			for i := range 5 {
				name := fmt.Sprintf("docker.io/library/w%d:%d", w, i)
				if _, err := put(s, sample(t, fmt.Sprint(w, i)), "", name); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if list, err := s.List(); err != nil || len(list) != 15 {
		t.Errorf("%d images, %v", len(list), err)
	}
	if found, err := s.Check(context.Background(), false); err != nil || len(found) != 0 {
		t.Errorf("%v %v", found, err)
	}
}

func crashChild(root string) {
	s, err := store.Open(root)
	if err != nil {
		panic(err)
	}
	var t testing.T
	for i := 0; ; i++ {
		img := imagetest.Make(&t, imagetest.PackGzip, nil,
			imagetest.Tar(&t, imagetest.Dir("etc/", 0o755), imagetest.File("etc/base", "base")),
			imagetest.Tar(&t, imagetest.File("x/what", fmt.Sprint(i))))
		name := fmt.Sprintf("docker.io/library/crash:%d", i%3)
		if _, err := put(s, img, "", name); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		if _, err := s.Remove(context.Background(), fmt.Sprintf("crash:%d", (i+1)%3), true); err != nil && !errors.Is(err, image.ErrNotFound) {
			fmt.Println(err)
			os.Exit(1)
		}
	}
}

// TestKilledAtAnyInstant kills a process that adds and removes images, at
// many instants, and looks at what is left each time.
func TestKilledAtAnyInstant(t *testing.T) {
	needRoot(t)
	s, root := open(t)
	for i := range 25 {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), "VIV_TEST_CRASH_ROOT="+root)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(7+i*9) * time.Millisecond) // any instant is as good as another
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if out.Len() != 0 {
			t.Fatalf("child failed: %s", out.String())
		}
		list, err := s.List()
		if err != nil {
			t.Fatalf("list after kill: %v", err)
		}
		for _, img := range list {
			if _, err := s.Resolve(string(img.ID)); err != nil {
				t.Errorf("image is listed and cannot be used: %v", err)
			}
		}
		if _, err := s.Check(context.Background(), true); err != nil {
			t.Fatal(err)
		}
		found, err := s.Check(context.Background(), false)
		if err != nil || len(found) != 0 {
			t.Fatalf("after the repair: %v %v", found, err)
		}
		if left, _ := filepath.Glob(root + "/tmp/*"); len(left) != 0 {
			t.Fatalf("left: %v", left)
		}
	}
}

// TestSkopeoWritesIntoTheStore lets another tool add an image, and index.
func TestSkopeoWritesIntoTheStore(t *testing.T) {
	needRoot(t)
	skopeo := imagetest.Tool(t, "skopeo")
	s, root := open(t)
	add(t, s, sample(t, "first"), "", full)
	src := t.TempDir()
	img := sample(t, "second")
	img.Layout(t, src, "x")
	name := "docker.io/library/second:latest"
	imagetest.Run(t, skopeo, "copy", "--insecure-policy", "oci:"+src+":x", "oci:"+root+"/images:"+name)
	if _, err := s.Resolve("second"); !errors.Is(err, store.ErrNotUnpacked) {
		t.Fatalf("before unpacking: %v", err)
	}
	got, err := s.Unpack(context.Background(), "second")
	if err != nil || got.ID != img.ID() || len(got.Names) != 1 || got.Names[0] != name {
		t.Fatalf("%+v %v", got.Names, err)
	}
	if _, err := s.Resolve("second"); err != nil {
		t.Error(err)
	}
	if _, err := s.Resolve("one"); err != nil {
		t.Errorf("skopeo lost the first image: %v", err)
	}
	out := imagetest.Run(t, skopeo, "inspect", "oci:"+root+"/images:"+full)
	if !strings.Contains(out, string(sample(t, "first").Digest())) {
		t.Errorf("skopeo inspect: %s", out)
	}
	dst := t.TempDir()
	imagetest.Run(t, skopeo, "copy", "--insecure-policy", "oci:"+root+"/images:"+name, "oci:"+dst+":y")
	if found, err := s.Check(context.Background(), false); err != nil || len(found) != 0 {
		t.Errorf("%v %v", found, err)
	}
}

func FuzzParseManifest(f *testing.F) {
	img := sample(f, "x")
	f.Add(img.Manifest)
	f.Add(img.ConfigBytes)
	f.Add([]byte(`{"schemaVersion":2,"layers":[{"digest":"sha256:../../x","size":-1}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := store.ParseManifest(b); err == nil {
			for _, d := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
				if len(d.Digest.Encoded()) != 64 || d.Size < 0 {
					t.Errorf("accepted %+v", d)
				}
			}
		}
		if c, err := store.ParseConfig(b); err == nil {
			if chains := image.ChainIDs(c.RootFS.DiffIDs); len(chains) != len(c.RootFS.DiffIDs) {
				t.Error("chain IDs")
			}
		}
		if idx, err := store.ParseIndex(b); err == nil {
			_, _ = image.ChoosePlatform(idx.Manifests, image.DefaultPlatform())
		}
		_, _ = store.SniffManifest(b)
	})
}

func packXz(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := xz.NewWriter(&out)
	if err == nil {
		_, err = w.Write(b)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestDecompressXz(t *testing.T) {
	want := bytes.Repeat([]byte("hello "), 100000)
	packed := packXz(t, want)
	r, kind, err := store.Decompress(bytes.NewReader(packed))
	if err != nil || kind != store.Xz {
		t.Fatalf("%v %v", kind, err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	for _, bad := range [][]byte{packed[:len(packed)/2], packed[:6], append(bytes.Clone(packed[:len(packed)-8]), 0, 0, 0, 0, 0, 0, 0, 0)} {
		r, _, err := store.Decompress(bytes.NewReader(bad))
		if err == nil {
			_, err = io.ReadAll(r)
			r.Close()
		}
		if err == nil {
			t.Errorf("%d of %d bytes are taken", len(bad), len(packed))
		}
	}
}

func FuzzDecompress(f *testing.F) {
	f.Add(packXz(f, []byte("hello")))
	f.Add(imagetest.Gzip(f, []byte("hello")))
	f.Add(imagetest.Zstd(f, []byte("hello")))
	f.Add([]byte("BZh91AY"))
	f.Add([]byte("plain"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, _, err := store.Decompress(bytes.NewReader(b))
		if err != nil {
			return
		}
		defer r.Close()
		buf := make([]byte, 4096)
		for n := 0; n < 1<<20; {
			k, err := r.Read(buf)
			n += k
			if err != nil {
				return
			}
		}
	})
}

func BenchmarkResolve(b *testing.B) {
	needRoot(b)
	s, _ := open(b)
	for i := range 20 {
		add(b, s, sample(b, fmt.Sprint(i)), repo+"@"+string(digest.FromString(fmt.Sprint(i))), fmt.Sprintf("docker.io/library/i%d:latest", i))
	}
	b.ResetTimer()
	for b.Loop() {
		if _, err := s.Resolve("i7"); err != nil {
			b.Fatal(err)
		}
	}
}

func TestIndexIsPlainOCI(t *testing.T) {
	needRoot(t)
	s, root := open(t)
	add(t, s, sample(t, "one"), "", full)
	b, err := os.ReadFile(root + "/images/index.json")
	if err != nil {
		t.Fatal(err)
	}
	var idx ocispec.Index
	if err := json.Unmarshal(b, &idx); err != nil || idx.SchemaVersion != 2 || len(idx.Manifests) != 1 || idx.Manifests[0].Annotations[ocispec.AnnotationRefName] != full {
		t.Errorf("%s %v", b, err)
	}
	if st, _ := os.Stat(root + "/images/index.json"); st.Mode().Perm() != 0o644 {
		t.Errorf("mode %v", st.Mode())
	}
}
