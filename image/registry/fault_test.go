package registry_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image"
	"vivarium/image/imagetest"
	"vivarium/image/registry"
	"vivarium/image/store"
)

// fake is a registry that does as it is told.
type fake struct {
	img   *imagetest.Image
	tags  map[string][]byte // tag or digest -> manifest
	fault func(w http.ResponseWriter, r *http.Request, body []byte) bool
	blobs sync.Map // digest -> *atomic.Int64, how often it was asked for
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	what := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	var body []byte
	switch {
	case r.URL.Path == "/v2/":
	case strings.Contains(r.URL.Path, "/manifests/"):
		body = f.tags[what]
		if body == nil {
			body = f.img.Blobs[digest.Digest(what)]
		}
		if what == "v1" && body == nil {
			body = f.img.Manifest
		}
	case strings.Contains(r.URL.Path, "/blobs/"):
		n, _ := f.blobs.LoadOrStore(what, new(atomic.Int64))
		n.(*atomic.Int64).Add(1)
		body = f.img.Blobs[digest.Digest(what)]
	}
	if f.fault != nil && f.fault(w, r, body) {
		return
	}
	if body == nil && r.URL.Path != "/v2/" {
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`)
		return
	}
	from := 0
	if rg := r.Header.Get("Range"); rg != "" {
		fmt.Sscanf(rg, "bytes=%d-", &from)
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(body)-1, len(body)))
		w.Header().Set("Content-Length", strconv.Itoa(len(body)-from))
		w.WriteHeader(http.StatusPartialContent)
	}
	_, _ = w.Write(body[from:])
}

func (f *fake) asked(d digest.Digest) int64 {
	n, ok := f.blobs.Load(string(d))
	if !ok {
		return 0
	}
	return n.(*atomic.Int64).Load()
}

// quick limits make faults show at once; none of them decides a race.
var quick = registry.Limits{Connect: 5 * time.Second, Response: 300 * time.Millisecond, Idle: 300 * time.Millisecond, Tries: 3, Pause: time.Millisecond}

func serve(t testing.TB, f *fake) string {
	t.Helper()
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func simple(t testing.TB) *imagetest.Image {
	t.Helper()
	body := make([]byte, 300<<10)
	for i := range body {
		body[i] = byte(i * i >> 3)
	}
	return imagetest.Make(t, imagetest.PackGzip, nil,
		imagetest.Tar(t, imagetest.Dir("etc/", 0o755), imagetest.File("etc/a", string(body))),
		imagetest.Tar(t, imagetest.Dir("etc/", 0o755), imagetest.File("etc/b", "b")))
}

// leftovers lists every file below root, except locks and the empty layout.
func leftovers(t testing.TB, root string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(root, p)
		if err == nil && !d.IsDir() && rel != "images/oci-layout" && rel != "locks/store" && rel != "locks/index" {
			out = append(out, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func isBlob(r *http.Request) bool { return strings.Contains(r.URL.Path, "/blobs/") }

func TestPullFaults(t *testing.T) {
	needRoot(t)
	img := simple(t)
	layer := img.Desc.Layers[0]
	isLayer := func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, string(layer.Digest)) }
	status := func(code int, match func(*http.Request) bool) func(http.ResponseWriter, *http.Request, []byte) bool {
		return func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
			if !match(r) {
				return false
			}
			w.WriteHeader(code)
			return true
		}
	}
	isManifest := func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/") }
	hang := func(match func(*http.Request) bool) func(http.ResponseWriter, *http.Request, []byte) bool {
		return func(w http.ResponseWriter, r *http.Request, body []byte) bool {
			if match(r) {
				<-r.Context().Done()
				return true
			}
			return false
		}
	}
	layerBody := func(change func(w http.ResponseWriter, body []byte)) func(http.ResponseWriter, *http.Request, []byte) bool {
		return func(w http.ResponseWriter, r *http.Request, body []byte) bool {
			if isLayer(r) {
				change(w, append([]byte(nil), body...))
				return true
			}
			return false
		}
	}
	redirect := func(match func(*http.Request) bool, to string) func(http.ResponseWriter, *http.Request, []byte) bool {
		return func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
			if !match(r) {
				return false
			}
			if to != "" {
				w.Header().Set("Location", to)
			}
			w.WriteHeader(http.StatusTemporaryRedirect)
			return true
		}
	}
	for name, tt := range map[string]struct {
		fault func(http.ResponseWriter, *http.Request, []byte) bool
		is    error
		text  string
	}{
		"401":               {status(401, isManifest), registry.ErrDenied, "401"},
		"401 at the door":   {status(401, func(r *http.Request) bool { return true }), registry.ErrDenied, "credentials"},
		"403":               {status(403, isManifest), registry.ErrDenied, "403"},
		"404":               {status(404, isManifest), registry.ErrNotFound, "404"},
		"404 of a layer":    {status(404, isLayer), registry.ErrNotFound, string(layer.Digest)},
		"429":               {status(429, isManifest), registry.ErrBusy, "429"},
		"500":               {status(500, isManifest), registry.ErrRegistry, "500"},
		"500 at the door":   {status(500, func(r *http.Request) bool { return r.URL.Path == "/v2/" }), registry.ErrRegistry, "500"},
		"503 of a layer":    {status(503, isLayer), registry.ErrRegistry, "503"},
		"hangs at the door": {hang(func(r *http.Request) bool { return true }), registry.ErrTimeout, ""},
		"hangs at manifest": {hang(isManifest), registry.ErrTimeout, "manifest"},
		"hangs at layer":    {hang(isLayer), registry.ErrTimeout, ""},
		"layer stops coming": {func(w http.ResponseWriter, r *http.Request, body []byte) bool {
			if !isLayer(r) || r.Header.Get("Range") != "" {
				return hang(isLayer)(w, r, body)
			}
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			_, _ = w.Write(body[:1000])
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return true
		}, registry.ErrTimeout, "1000 of"},
		"flipped bit": {layerBody(func(w http.ResponseWriter, b []byte) {
			b[len(b)/2] ^= 1
			_, _ = w.Write(b)
		}), store.ErrDigest, string(layer.Digest)},
		"too short": {layerBody(func(w http.ResponseWriter, b []byte) { _, _ = w.Write(b[:len(b)-10]) }), nil, string(layer.Digest)},
		"too long":  {layerBody(func(w http.ResponseWriter, b []byte) { _, _ = w.Write(append(b, "more"...)) }), store.ErrTooLong, "more than"},
		"wrong manifest for digest": {func(w http.ResponseWriter, r *http.Request, body []byte) bool {
			if isManifest(r) {
				w.Header().Set("Docker-Content-Digest", string(layer.Digest))
			}
			return false
		}, store.ErrDigest, "manifest"},
		"manifest that is no JSON": {func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
			if isManifest(r) {
				fmt.Fprint(w, "<html>login here</html>")
			}
			return isManifest(r)
		}, nil, "manifest"},
		"schema 1": {func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
			if isManifest(r) {
				w.Header().Set("Content-Type", "application/vnd.docker.distribution.manifest.v1+prettyjws")
				fmt.Fprint(w, `{"schemaVersion":1,"name":"x"}`)
			}
			return isManifest(r)
		}, registry.ErrUnsupported, "schema 1"},
		"endless layer": {layerBody(func(w http.ResponseWriter, b []byte) {
			for {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		}), store.ErrTooLong, "more than"},
		"endless config": {func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
			for strings.HasSuffix(r.URL.Path, string(img.ID())) {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					return true
				}
			}
			return false
		}, store.ErrTooLong, "more than"},
		"config with another digest": {func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
			mine := strings.HasSuffix(r.URL.Path, string(img.ID()))
			if mine {
				fmt.Fprint(w, strings.Repeat(" ", int(img.Desc.Config.Size)))
			}
			return mine
		}, store.ErrDigest, string(img.ID())},
		"redirect to nowhere":            {redirect(isLayer, "http://127.0.0.1:1/blob"), nil, "127.0.0.1:1"},
		"redirect of a manifest":         {redirect(isManifest, "http://127.0.0.1:1/manifest"), nil, "127.0.0.1:1"},
		"redirect to a name that is not": {redirect(isLayer, "http://nowhere.invalid/blob"), nil, "nowhere.invalid"},
		"redirect to a file":             {redirect(isLayer, "file:///etc/passwd"), nil, ""},
		"redirect to itself":             {redirect(isLayer, "?again"), nil, "redirect"},
		"redirect without a place":       {redirect(isLayer, ""), nil, ""},
		"endless manifest": {func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
			for isManifest(r) {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					return true
				}
			}
			return false
		}, store.ErrTooLong, "manifest"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr := serve(t, &fake{img: img, fault: tt.fault})
			st, root := openStore(t)
			res, err := registry.Pull(context.Background(), st, addr+"/x:v1", registry.Options{Limits: quick, Keychain: authn.NewMultiKeychain()})
			if err == nil {
				t.Fatalf("pulled %s", res.Image.ID)
			}
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("error is not %v: %v", tt.is, err)
			}
			if !strings.Contains(err.Error(), tt.text) || strings.Contains(err.Error(), "\n") {
				t.Errorf("not one clear line with %q: %v", tt.text, err)
			}
			if left := leftovers(t, root); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestPullNothingListens(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	addr := strings.TrimPrefix(s.URL, "http://")
	s.Close()
	st, _ := openStore(t)
	_, err := registry.Pull(context.Background(), st, addr+"/x:v1", registry.Options{Limits: quick})
	if !errors.Is(err, registry.ErrRegistry) || !strings.Contains(err.Error(), "nothing listens") {
		t.Errorf("%v", err)
	}
}

// TestPullRecovers lets each thing fail for a while.
func TestPullRecovers(t *testing.T) {
	needRoot(t)
	img := simple(t)
	for name, fault := range map[string]func(n int64, w http.ResponseWriter, r *http.Request, body []byte) bool{
		"500 twice": func(n int64, w http.ResponseWriter, _ *http.Request, _ []byte) bool {
			w.WriteHeader(500)
			return true
		},
		"429 with Retry-After": func(n int64, w http.ResponseWriter, _ *http.Request, _ []byte) bool {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(429)
			return true
		},
		"reset": func(n int64, w http.ResponseWriter, _ *http.Request, _ []byte) bool {
			panic(http.ErrAbortHandler)
		},
		"cut off": func(n int64, w http.ResponseWriter, r *http.Request, body []byte) bool {
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			_, _ = w.Write(body[:len(body)/2])
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		},
		"cut off, and ranges ignored": func(n int64, w http.ResponseWriter, r *http.Request, body []byte) bool {
			if n == 1 {
				w.Header().Set("Content-Length", strconv.Itoa(len(body)))
				_, _ = w.Write(body[:len(body)/2])
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			}
			_, _ = w.Write(body)
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			var n sync.Map
			f := &fake{img: img}
			f.fault = func(w http.ResponseWriter, r *http.Request, body []byte) bool {
				if !isBlob(r) {
					return false
				}
				c, _ := n.LoadOrStore(r.URL.Path, new(atomic.Int64))
				if k := c.(*atomic.Int64).Add(1); k <= 2 && (k == 1 || !strings.HasPrefix(name, "cut off") || strings.Contains(name, "ignored")) {
					return fault(k, w, r, body)
				}
				return false
			}
			st, _ := openStore(t)
			res, err := registry.Pull(context.Background(), st, serve(t, f)+"/x:v1", registry.Options{Limits: quick})
			if err != nil {
				t.Fatal(err)
			}
			if res.Image.ID != img.ID() {
				t.Errorf("got %s", res.Image.ID)
			}
		})
	}
}

func TestPullHostileLayers(t *testing.T) {
	needRoot(t)
	for name, b := range map[string][]byte{
		"climbs out":   imagetest.Tar(t, imagetest.File("../../evil", "x")),
		"through":      imagetest.Tar(t, imagetest.Link("x", "../../../etc/passwd")),
		"is no tar":    []byte(strings.Repeat("this is no tar ", 100)),
		"is cut off":   imagetest.Tar(t, imagetest.File("f", strings.Repeat("x", 5000)))[:2000],
		"link missing": imagetest.Tar(t, imagetest.Link("x", "nothing")),
	} {
		t.Run(name, func(t *testing.T) {
			f := &fake{img: imagetest.Make(t, imagetest.PackGzip, nil, b)}
			st, root := openStore(t)
			if _, err := registry.Pull(context.Background(), st, serve(t, f)+"/x:v1", registry.Options{Limits: quick}); err == nil {
				t.Fatal("was pulled")
			}
			if left := leftovers(t, root); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestPullWrongDiffID(t *testing.T) {
	needRoot(t)
	f := &fake{img: imagetest.Make(t, imagetest.PackGzip, func(c *ocispec.Image) {
		c.RootFS.DiffIDs = []digest.Digest{digest.FromString("another")}
	}, imagetest.Tar(t, imagetest.File("f", "x")))}
	st, root := openStore(t)
	_, err := registry.Pull(context.Background(), st, serve(t, f)+"/x:v1", registry.Options{Limits: quick})
	if !errors.Is(err, store.ErrDigest) {
		t.Errorf("%v", err)
	}
	if left := leftovers(t, root); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestPullBomb(t *testing.T) {
	needRoot(t)
	f := &fake{img: imagetest.Make(t, imagetest.PackGzip, nil, imagetest.Tar(t, imagetest.File("zeros", strings.Repeat("\x00", 32<<20))))}
	st, root := openStore(t)
	_, err := registry.Pull(context.Background(), st, serve(t, f)+"/x:v1", registry.Options{Limits: quick, MaxLayerBytes: 1 << 20})
	if err == nil || !strings.Contains(err.Error(), "larger than allowed") {
		t.Errorf("%v", err)
	}
	if left := leftovers(t, root); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestPullCancelled(t *testing.T) {
	needRoot(t)
	img := simple(t)
	ctx, cancel := context.WithCancel(context.Background())
	f := &fake{img: img, fault: func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
		if strings.HasSuffix(r.URL.Path, string(img.Desc.Layers[1].Digest)) {
			cancel()
			<-r.Context().Done()
			return true
		}
		return false
	}}
	st, root := openStore(t)
	_, err := registry.Pull(ctx, st, serve(t, f)+"/x:v1", registry.Options{})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if left := leftovers(t, root); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestPullsAtOnceFetchOnce(t *testing.T) {
	needRoot(t)
	img := simple(t)
	f := &fake{img: img}
	addr := serve(t, f)
	st, root := openStore(t)
	var wg sync.WaitGroup
	errs := make([]error, 6)
	for i := range errs {
		wg.Go(func() {
			_, errs[i] = registry.Pull(context.Background(), st, fmt.Sprintf("%s/x%d:v1", addr, i), registry.Options{})
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	for _, l := range img.Desc.Layers {
		if n := f.asked(l.Digest); n != 1 {
			t.Errorf("layer %s was fetched %d times", l.Digest, n)
		}
	}
	got, err := st.Resolve(string(img.ID()))
	if err != nil || len(got.Names) != 6 {
		t.Errorf("names %v, %v", got.Names, err)
	}
	if left, _ := filepath.Glob(root + "/locks/layer-*"); len(left) != 0 {
		t.Errorf("locks left: %v", left)
	}
}

func TestPullSharedLayers(t *testing.T) {
	needRoot(t)
	base := imagetest.Tar(t, imagetest.Dir("d/", 0o755), imagetest.File("d/base", "b"))
	one := imagetest.Make(t, imagetest.PackGzip, nil, base, imagetest.Tar(t, imagetest.File("one", "1")))
	two := imagetest.Make(t, imagetest.PackGzip, nil, base, imagetest.Tar(t, imagetest.File("two", "2")))
	f := &fake{img: one, tags: map[string][]byte{"one": one.Manifest, "two": two.Manifest}}
	for d, b := range two.Blobs {
		one.Blobs[d] = b
	}
	addr := serve(t, f)
	st, _ := openStore(t)
	var dirs []string
	for _, tag := range []string{"one", "two"} {
		res, err := registry.Pull(context.Background(), st, addr+"/x:"+tag, registry.Options{})
		if err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, res.Image.Layers[0].Dir)
	}
	if n := f.asked(one.Desc.Layers[0].Digest); n != 1 || dirs[0] != dirs[1] {
		t.Errorf("base layer fetched %d times, in %v", n, dirs)
	}
}

func TestPullIndexAndPlatform(t *testing.T) {
	needRoot(t)
	own := simple(t)
	arm := imagetest.Make(t, imagetest.PackGzip, func(c *ocispec.Image) { c.Architecture, c.Variant = "arm", "v6" }, imagetest.Tar(t, imagetest.File("arm", "")))
	def := image.DefaultPlatform()
	idx := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[
		{"mediaType":%q,"digest":%q,"size":%d,"platform":{"os":"linux","architecture":"arm","variant":"v6"}},
		{"mediaType":%q,"digest":%q,"size":%d,"platform":{"os":"linux","architecture":%q}},
		{"mediaType":%q,"digest":%q,"size":3,"platform":{"os":"unknown","architecture":"unknown"}}]}`,
		store.MediaTypeDockerList, arm.Type, arm.Digest(), len(arm.Manifest), own.Type, own.Digest(), len(own.Manifest), def.Architecture,
		own.Type, digest.FromString("attestation"))
	for d, b := range arm.Blobs {
		own.Blobs[d] = b
	}
	top := digest.FromString(idx)
	addr := serve(t, &fake{img: own, tags: map[string][]byte{"multi": []byte(idx), string(top): []byte(idx)}})
	st, _ := openStore(t)
	res, err := registry.Pull(context.Background(), st, addr+"/x:multi", registry.Options{})
	if err != nil || res.Image.ID != own.ID() || res.Digest != top {
		t.Fatalf("%s %s %v", res.Image.ID, res.Digest, err)
	}
	if want := addr + "/x@" + string(top); len(res.Image.RepoDigests) != 1 || res.Image.RepoDigests[0] != want {
		t.Errorf("digests %v, want %s", res.Image.RepoDigests, want)
	}
	v7, _ := image.ParsePlatform("linux/arm/v7")
	res, err = registry.Pull(context.Background(), st, addr+"/x@"+string(top), registry.Options{Platform: &v7})
	if err != nil || res.Image.ID != arm.ID() || len(res.Image.Names) != 0 {
		t.Errorf("v7 on v6: %s %v %v", res.Image.ID, res.Image.Names, err)
	}
	s390, _ := image.ParsePlatform("s390x")
	if _, err = registry.Pull(context.Background(), st, addr+"/x:multi", registry.Options{Platform: &s390}); !errors.Is(err, image.ErrNoPlatform) {
		t.Errorf("s390x: %v", err)
	}
}

func TestPullWithCredentials(t *testing.T) {
	needRoot(t)
	img := simple(t)
	f := &fake{img: img, fault: func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
		if u, p, _ := r.BasicAuth(); u == "joe" && p == "secret" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(401)
		return true
	}}
	addr := serve(t, f)
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("DOCKER_CONFIG", home)
	t.Setenv("PATH", home+":"+os.Getenv("PATH"))
	st, _ := openStore(t)
	if _, err := registry.Pull(context.Background(), st, addr+"/x:v1", registry.Options{Limits: quick}); !errors.Is(err, registry.ErrDenied) {
		t.Errorf("without credentials: %v", err)
	}
	for name, conf := range map[string]string{
		"file":   fmt.Sprintf(`{"auths":{%q:{"auth":"am9lOnNlY3JldA=="}}}`, addr),
		"helper": fmt.Sprintf(`{"credHelpers":{%q:"viv-test"}}`, addr),
	} {
		helper := "#!/bin/sh\necho '{\"Username\":\"joe\",\"Secret\":\"secret\"}'\n"
		if err := errors.Join(os.WriteFile(home+"/config.json", []byte(conf), 0o600), os.WriteFile(home+"/docker-credential-viv-test", []byte(helper), 0o700)); err != nil {
			t.Fatal(err)
		}
		st, _ := openStore(t)
		if _, err := registry.Pull(context.Background(), st, addr+"/x:v1", registry.Options{Limits: quick}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPlainHTTPIsRefused(t *testing.T) {
	st, _ := openStore(t)
	// RFC 1918 space, on which go-containerregistry alone would fall back.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1") // so that nothing leaves this machine
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	_, err := registry.Pull(ctx, st, "10.255.255.1:5000/x:v1", registry.Options{Limits: quick})
	if err == nil {
		t.Error("pulled over plain HTTP")
	}
}

func TestProgress(t *testing.T) {
	needRoot(t)
	img := imagetest.Make(t, imagetest.PackGzip, nil, imagetest.Tar(t, imagetest.File("noise", noise(8<<20))), imagetest.Tar(t, imagetest.File("b", "b")))
	seen := make(map[digest.Digest]map[registry.Status]bool)
	order := []registry.Status{registry.StatusWaiting, registry.StatusDownloading, registry.StatusExtracting, registry.StatusComplete}
	last := make(map[digest.Digest]int)
	st, _ := openStore(t)
	_, err := registry.Pull(context.Background(), st, serve(t, &fake{img: img})+"/x:v1", registry.Options{Progress: func(e registry.Event) {
		if seen[e.Layer] == nil {
			seen[e.Layer] = make(map[registry.Status]bool)
		}
		seen[e.Layer][e.Status] = true
		now := slices.Index(order, e.Status)
		if now < last[e.Layer] {
			t.Errorf("a layer is %q after it was %q", e.Status, order[last[e.Layer]])
		}
		last[e.Layer] = now
		if e.Status == registry.StatusDownloading && (e.Current > e.Total || e.Total == 0) {
			t.Errorf("%+v", e)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range img.Desc.Layers {
		for _, s := range order {
			if !seen[l.Digest][s] {
				t.Errorf("layer %s was never %q", l.Digest, s)
			}
		}
	}
}
