package registry_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image"
	"vivarium/image/imagetest"
	"vivarium/image/registry"
	"vivarium/image/store"
)

// taker is a registry that takes pushes, as distribution-spec has them, and does as
// it is told.
type taker struct {
	mu        sync.Mutex
	blobs     map[string][]byte // REPO@DIGEST
	manifests map[string][]byte // REPO:TAG or REPO@DIGEST
	sessions  map[string][]byte
	n         int
	fault     func(w http.ResponseWriter, r *http.Request, kind string, n int) bool
	seen      map[string]int
	server    *httptest.Server
}

func newTaker(t testing.TB) *taker {
	t.Helper()
	k := &taker{blobs: map[string][]byte{}, manifests: map[string][]byte{}, sessions: map[string][]byte{}, seen: map[string]int{}}
	k.server = httptest.NewServer(k)
	t.Cleanup(k.server.Close)
	return k
}

func (k *taker) addr() string { return strings.TrimPrefix(k.server.URL, "http://") }

func (k *taker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/v2/")
	repo, rest, kind := "", "", "door"
	for _, word := range []string{"/blobs/uploads/", "/blobs/", "/manifests/"} {
		if i := strings.Index(path, word); i >= 0 {
			repo, rest, kind = path[:i], path[i+len(word):], strings.Trim(word[strings.LastIndex(word[:len(word)-1], "/"):], "/")
			break
		}
	}
	k.mu.Lock()
	k.seen[r.Method+" "+kind]++
	n := k.seen[r.Method+" "+kind]
	k.mu.Unlock()
	if k.fault != nil && k.fault(w, r, kind, n) {
		return
	}
	switch kind {
	case "door":
	case "blobs":
		k.mu.Lock()
		b := k.blobs[repo+"@"+rest]
		k.mu.Unlock()
		k.answer(w, b)
	case "manifests":
		k.manifest(w, r, repo, rest)
	case "uploads":
		k.upload(w, r, repo, rest)
	}
}

func (k *taker) answer(w http.ResponseWriter, b []byte) {
	if b == nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	_, _ = w.Write(b)
}

func (k *taker) manifest(w http.ResponseWriter, r *http.Request, repo, what string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if r.Method != http.MethodPut {
		k.answer(w, k.manifests[repo+"@"+what])
		return
	}
	b, _ := io.ReadAll(r.Body)
	var m struct {
		Config    *ocispec.Descriptor
		Layers    []ocispec.Descriptor
		Manifests []ocispec.Descriptor
	}
	if json.Unmarshal(b, &m) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if m.Config != nil {
		m.Layers = append(m.Layers, *m.Config)
	}
	for _, d := range m.Layers {
		if len(k.blobs[repo+"@"+string(d.Digest)]) != int(d.Size) {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, `{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"%s"}]}`, d.Digest)
			return
		}
	}
	for _, d := range m.Manifests {
		if k.manifests[repo+"@"+string(d.Digest)] == nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
	}
	d := digest.FromBytes(b)
	k.manifests[repo+"@"+string(d)], k.manifests[repo+":"+what] = b, b
	w.Header().Set("Docker-Content-Digest", string(d))
	w.WriteHeader(http.StatusCreated)
}

func (k *taker) upload(w http.ResponseWriter, r *http.Request, repo, id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if r.Method == http.MethodPost {
		if from := r.URL.Query().Get("from"); from != "" {
			d := r.URL.Query().Get("mount")
			if b := k.blobs[from+"@"+d]; b != nil {
				k.blobs[repo+"@"+d] = b
				w.WriteHeader(http.StatusCreated)
				return
			}
		}
		k.n++
		id = fmt.Sprint(k.n)
		k.sessions[id] = nil
	} else if _, ok := k.sessions[id]; !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if r.Method == http.MethodPatch || r.Method == http.MethodPut {
		if rg := r.Header.Get("Content-Range"); rg != "" && !strings.HasPrefix(rg, fmt.Sprintf("%d-", len(k.sessions[id]))) {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return
		}
		b, err := io.ReadAll(r.Body)
		k.sessions[id] = append(k.sessions[id], b...) // what came of a request that broke off too
		if err != nil {
			return
		}
	}
	if r.Method == http.MethodPut {
		d := r.URL.Query().Get("digest")
		if string(digest.FromBytes(k.sessions[id])) != d {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"errors":[{"code":"DIGEST_INVALID","message":"digest"}]}`)
			return
		}
		k.blobs[repo+"@"+d] = append([]byte{}, k.sessions[id]...)
		delete(k.sessions, id)
		w.WriteHeader(http.StatusCreated)
		return
	}
	w.Header().Set("Location", "/v2/"+repo+"/blobs/uploads/"+id)
	w.Header().Set("Range", fmt.Sprintf("0-%d", max(len(k.sessions[id])-1, 0)))
	status := http.StatusAccepted
	if r.Method == http.MethodGet {
		status = http.StatusNoContent
	}
	w.WriteHeader(status)
}

// stored brings an image into a store under a name, as a pull from nowhere.
func stored(t testing.TB, st *store.Store, img *imagetest.Image, name string) {
	t.Helper()
	tx, err := st.Begin(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	if _, err := tx.PutBytes(img.ConfigBytes); err != nil {
		t.Fatal(err)
	}
	for i, l := range img.Desc.Layers {
		if _, _, err := tx.PutLayer(context.Background(), strings.NewReader(string(img.Blobs[l.Digest])), store.LayerSpec{Blob: l, DiffID: img.DiffIDs[i]}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := tx.Commit(context.Background(), store.CommitSpec{Manifest: img.Manifest, MediaType: img.Type, Names: []string{name}}); err != nil {
		t.Fatal(err)
	}
}

// noise is content that does not compress.
func noise(n int) string {
	b := make([]byte, n)
	x := uint64(88172645463325252)
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x)
	}
	return string(b)
}

func TestPushToRegistry(t *testing.T) {
	needRoot(t)
	addr := imagetest.Registry(t)
	for name, pack := range map[string]imagetest.Pack{"gzip": imagetest.PackGzip, "zstd": imagetest.PackZstd, "plain": imagetest.PackPlain} {
		t.Run(name, func(t *testing.T) {
			img := imagetest.Make(t, pack, nil, append(sampleLayers(t), imagetest.Tar(t, imagetest.File("noise", noise(6<<20))))...)
			st, _ := openStore(t)
			ref := addr + "/push/" + name + ":v1"
			stored(t, st, img, ref)
			res, err := registry.Push(context.Background(), st, ref, registry.PushOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if same := res.Digest == img.Digest(); same != (name != "plain") {
				t.Errorf("pushed as %s, and is %s", res.Digest, img.Digest())
			}
			got, err := st.Resolve(ref)
			if want := addr + "/push/" + name + "@" + string(res.Digest); err != nil || len(got.RepoDigests) != 1 || got.RepoDigests[0] != want {
				t.Errorf("digests %v, want %s (%v)", got.RepoDigests, want, err)
			}
			again, err := registry.Push(context.Background(), st, ref, registry.PushOptions{Progress: func(e registry.Event) {
				if e.Status == registry.StatusPushing {
					t.Errorf("sent again: %+v", e)
				}
			}})
			if err != nil || again.Digest != res.Digest {
				t.Errorf("pushed again: %s, %v", again.Digest, err)
			}
			dir := t.TempDir()
			imagetest.Run(t, imagetest.Tool(t, "skopeo"), "copy", "--insecure-policy", "--src-tls-verify=false", "docker://"+ref, "oci:"+dir+":x")
			other, _ := openStore(t)
			back, err := registry.Pull(context.Background(), other, ref, registry.Options{})
			if err != nil || back.Image.ID != img.ID() || back.Digest != res.Digest {
				t.Errorf("pulled back %s %s, %v", back.Image.ID, back.Digest, err)
			}
		})
	}
}

// TestPushPacksTheSame: a plain layer packed twice, by two stores, has one digest.
func TestPushPacksTheSame(t *testing.T) {
	needRoot(t)
	img := imagetest.Make(t, imagetest.PackPlain, nil, imagetest.Tar(t, imagetest.File("f", strings.Repeat("hello ", 100000))))
	var digests []digest.Digest
	for range 2 {
		k := newTaker(t)
		st, _ := openStore(t)
		stored(t, st, img, k.addr()+"/x:v1")
		res, err := registry.Push(context.Background(), st, k.addr()+"/x:v1", registry.PushOptions{})
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, res.Digest)
	}
	if digests[0] != digests[1] {
		t.Errorf("packed differently: %v", digests)
	}
}

func TestPushMounts(t *testing.T) {
	needRoot(t)
	img := simple(t)
	k := newTaker(t)
	st, _ := openStore(t)
	stored(t, st, img, k.addr()+"/one:v1")
	if _, err := registry.Push(context.Background(), st, k.addr()+"/one:v1", registry.PushOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := st.Tag(context.Background(), k.addr()+"/one:v1", k.addr()+"/two:v1"); err != nil {
		t.Fatal(err)
	}
	mounted := 0
	opts := registry.PushOptions{Progress: func(e registry.Event) {
		switch e.Status {
		case registry.StatusMounted:
			mounted++
			if e.From != "one" {
				t.Errorf("mounted from %q", e.From)
			}
		case registry.StatusPushing:
			t.Errorf("sent: %+v", e)
		}
	}}
	if _, err := registry.Push(context.Background(), st, k.addr()+"/two:v1", opts); err != nil {
		t.Fatal(err)
	}
	if mounted != 2 {
		t.Errorf("%d layers were mounted", mounted)
	}
	// The repository lost them: they are sent after all.
	k.mu.Lock()
	clear(k.blobs)
	k.mu.Unlock()
	if err := st.Tag(context.Background(), k.addr()+"/one:v1", k.addr()+"/three:v1"); err != nil {
		t.Fatal(err)
	}
	if _, err := registry.Push(context.Background(), st, k.addr()+"/three:v1", registry.PushOptions{}); err != nil {
		t.Error(err)
	}
}

// TestPushGoesOn breaks uploads of a big layer in several ways.
func TestPushGoesOn(t *testing.T) {
	needRoot(t)
	img := imagetest.Make(t, imagetest.PackGzip, nil, imagetest.Tar(t, imagetest.File("noise", noise(8<<20))))
	size := img.Desc.Layers[0].Size
	for name, tt := range map[string]struct {
		fault func(k *taker, w http.ResponseWriter, r *http.Request, kind string, n int) bool
		most  int64 // bytes that may be sent in all
	}{
		"cut off in the middle": {func(k *taker, w http.ResponseWriter, r *http.Request, kind string, n int) bool {
			if r.Method != http.MethodPatch || n > 1 {
				return false
			}
			id := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
			half := make([]byte, size/2)
			_, _ = io.ReadFull(r.Body, half)
			k.mu.Lock()
			k.sessions[id] = half
			k.mu.Unlock()
			panic(http.ErrAbortHandler)
		}, size*3/2 + 2<<20}, // what was in the sockets is sent twice
		"the session is lost": {func(k *taker, w http.ResponseWriter, r *http.Request, kind string, n int) bool {
			if r.Method != http.MethodPatch || n > 1 {
				return false
			}
			k.mu.Lock()
			clear(k.sessions)
			k.mu.Unlock()
			panic(http.ErrAbortHandler)
		}, 3 * size},
		"busy": {func(k *taker, w http.ResponseWriter, r *http.Request, kind string, n int) bool {
			if r.Method != http.MethodPut || n > 2 {
				return false
			}
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}, 3 * size},
	} {
		t.Run(name, func(t *testing.T) {
			k := newTaker(t)
			k.fault = func(w http.ResponseWriter, r *http.Request, kind string, n int) bool {
				return tt.fault(k, w, r, kind, n)
			}
			st, _ := openStore(t)
			stored(t, st, img, k.addr()+"/x:v1")
			var sent, last int64
			opts := registry.PushOptions{Limits: quick, Progress: func(e registry.Event) {
				if e.Status == registry.StatusPushing {
					if e.Current > last {
						sent += e.Current - last
					}
					last = e.Current
				}
			}}
			res, err := registry.Push(context.Background(), st, k.addr()+"/x:v1", opts)
			if err != nil {
				t.Fatal(err)
			}
			if string(k.manifests["x:v1"]) != string(img.Manifest) || res.Digest != img.Digest() {
				t.Error("the manifest is not the image's")
			}
			if sent > tt.most {
				t.Errorf("%d bytes were sent of a layer of %d", sent, size)
			}
		})
	}
}

func TestPushFaults(t *testing.T) {
	needRoot(t)
	img := imagetest.Make(t, imagetest.PackGzip, nil, imagetest.Tar(t, imagetest.File("noise", noise(5<<20))))
	on := func(method, kind string, f func(w http.ResponseWriter, r *http.Request)) func(http.ResponseWriter, *http.Request, string, int) bool {
		return func(w http.ResponseWriter, r *http.Request, k string, _ int) bool {
			if r.Method != method || k != kind {
				return false
			}
			f(w, r)
			return true
		}
	}
	status := func(code int) func(w http.ResponseWriter, r *http.Request) {
		return func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(code) }
	}
	for name, tt := range map[string]struct {
		fault func(http.ResponseWriter, *http.Request, string, int) bool
		is    error
		text  string
	}{
		"403":           {on("POST", "uploads", status(403)), registry.ErrDenied, "viv login"},
		"no Location":   {on("POST", "uploads", status(202)), registry.ErrRegistry, "Location"},
		"500 for ever":  {on("PATCH", "uploads", status(500)), registry.ErrRegistry, "500"},
		"400 of a blob": {on("PUT", "uploads", status(400)), registry.ErrRegistry, "400"},
		"400 manifest":  {on("PUT", "manifests", status(400)), registry.ErrRegistry, "manifest"},
		"hangs in patch": {on("PATCH", "uploads", func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // only then is it seen that the client has gone
			<-r.Context().Done()
		}), registry.ErrTimeout, ""},
		"redirect to nowhere": {on("POST", "uploads", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "http://127.0.0.1:1/nowhere")
			w.WriteHeader(202)
		}), registry.ErrRegistry, ""},
		"other digest": {on("PUT", "manifests", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Docker-Content-Digest", string(digest.FromString("x")))
			w.WriteHeader(201)
		}), registry.ErrRegistry, "calls it"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := newTaker(t)
			k.fault = tt.fault
			st, root := openStore(t)
			ref := k.addr() + "/x:v1"
			stored(t, st, img, ref)
			limits := quick
			limits.Finish, limits.Connect = limits.Response, limits.Response
			_, err := registry.Push(context.Background(), st, ref, registry.PushOptions{Limits: limits, Keychain: authn.NewMultiKeychain()})
			if !errors.Is(err, tt.is) || !strings.Contains(fmt.Sprint(err), tt.text) || strings.Contains(fmt.Sprint(err), "\n") {
				t.Errorf("not one clear line of %v with %q: %v", tt.is, tt.text, err)
			}
			if left, _ := os.ReadDir(root + "/tmp"); len(left) != 0 {
				t.Errorf("left in tmp: %v", left)
			}
			k.mu.Lock()
			defer k.mu.Unlock()
			if len(k.manifests) != 0 {
				t.Error("a manifest was stored")
			}
		})
	}
}

// TestPushToken: a token with the rights to push is asked for, and to read where
// layers are mounted from.
func TestPushToken(t *testing.T) {
	needRoot(t)
	k := newTaker(t)
	var scopes []string
	k.fault = func(w http.ResponseWriter, r *http.Request, _ string, _ int) bool {
		if r.URL.Path == "/token" {
			k.mu.Lock()
			scopes = r.URL.Query()["scope"]
			k.mu.Unlock()
			fmt.Fprint(w, `{"token":"let-me-in"}`)
			return true
		}
		if r.Header.Get("Authorization") == "Bearer let-me-in" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+k.server.URL+`/token",service="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	st, _ := openStore(t)
	stored(t, st, simple(t), k.addr()+"/team/one:v1")
	for _, name := range []string{"one", "two"} {
		if err := st.Tag(context.Background(), k.addr()+"/team/one:v1", k.addr()+"/team/"+name+":v1"); err != nil {
			t.Fatal(err)
		}
		if _, err := registry.Push(context.Background(), st, k.addr()+"/team/"+name+":v1", registry.PushOptions{Keychain: authn.NewMultiKeychain()}); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Join(scopes, " "); got != "repository:team/two:push,pull repository:team/one:pull" {
		t.Errorf("scopes %q", got)
	}
}

func TestPushIndex(t *testing.T) {
	needRoot(t)
	st, root := openStore(t)
	k := newTaker(t)
	own := simple(t)
	arm := imagetest.Make(t, imagetest.PackGzip, func(c *ocispec.Image) { c.Architecture = "arm64" }, imagetest.Tar(t, imagetest.File("arm", "")))
	stored(t, st, own, "own:v1")
	stored(t, st, arm, "arm:v1")
	idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}
	idx.SchemaVersion = 2
	add := func(d digest.Digest, size int, arch string) {
		idx.Manifests = append(idx.Manifests, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: int64(size), Platform: &ocispec.Platform{OS: "linux", Architecture: arch}})
	}
	add(own.Digest(), len(own.Manifest), "amd64")
	add(arm.Digest(), len(arm.Manifest), "arm64")
	ref := k.addr() + "/multi:v1"
	placeIndex(t, root, idx, ref)
	res, err := registry.Push(context.Background(), st, ref, registry.PushOptions{})
	if err != nil || len(res.Omitted) != 0 {
		t.Fatalf("%+v %v", res, err)
	}
	if d := digest.FromBytes(k.manifests["multi:v1"]); d != res.Digest {
		t.Errorf("the tag is %s, and should be %s", d, res.Digest)
	}
	for _, img := range []*imagetest.Image{own, arm} {
		if string(k.manifests["multi@"+string(img.Digest())]) != string(img.Manifest) {
			t.Errorf("manifest %s did not come unchanged", img.Digest())
		}
	}
	add(digest.FromString("not here"), 7, "s390x")
	ref = k.addr() + "/partial:v1"
	placeIndex(t, root, idx, ref)
	if res, err = registry.Push(context.Background(), st, ref, registry.PushOptions{}); err != nil || fmt.Sprint(res.Omitted) != "[linux/s390x]" {
		t.Errorf("%+v %v", res, err)
	}
}

// placeIndex puts an index into the store's layout, as another tool would.
func placeIndex(t testing.TB, root string, idx ocispec.Index, name string) {
	t.Helper()
	b, err := json.Marshal(idx)
	if err != nil {
		t.Fatal(err)
	}
	d := digest.FromBytes(b)
	path := root + "/images/index.json"
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var list ocispec.Index
	if err := json.Unmarshal(old, &list); err != nil {
		t.Fatal(err)
	}
	list.Manifests = append(list.Manifests, ocispec.Descriptor{MediaType: idx.MediaType, Digest: d, Size: int64(len(b)), Annotations: map[string]string{ocispec.AnnotationRefName: name}})
	all, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(root+"/images/blobs/sha256/"+d.Encoded(), b, 0o644), os.WriteFile(path, all, 0o644)); err != nil {
		t.Fatal(err)
	}
}

func TestPushWhatIsNotThere(t *testing.T) {
	st, _ := openStore(t)
	if _, err := registry.Push(context.Background(), st, "127.0.0.1:1/x:v1", registry.PushOptions{}); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("%v", err)
	}
	if _, err := registry.Push(context.Background(), st, "x@sha256:"+strings.Repeat("0", 64), registry.PushOptions{}); err == nil {
		t.Error("a digest was pushed")
	}
}
