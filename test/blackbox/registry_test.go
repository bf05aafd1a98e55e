package blackbox

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"vivarium/internal/testenv"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// trouble makes a registry misbehave once it is switched on.
type trouble struct {
	on     atomic.Bool
	handle func(w http.ResponseWriter, r *http.Request, next http.Handler)
}

func (f *trouble) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f.on.Load() {
			f.handle(w, r, next)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// pushed serves a registry that holds the test image, with OCI's media types, and
// returns its reference.
func pushed(t *testing.T, e *testenv.Instance, image string, f *trouble) string {
	t.Helper()
	img, err := testenv.Image(t, image).OCIImage()
	if err != nil {
		t.Fatal(err)
	}
	ref := e.Registry(f.wrap) + "/test/" + image + ":v1"
	push(t, e, ref, img)
	f.on.Store(f.handle != nil)
	return ref
}

func push(t *testing.T, e *testenv.Instance, ref string, img v1.Image) {
	t.Helper()
	pushBy(t, e.Dial, ref, img)
}

func pushBy(t *testing.T, dial dialer, ref string, img v1.Image) {
	t.Helper()
	tag, err := name.NewTag(ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DialContext: dial, DisableKeepAlives: true}
	if err := remote.Write(tag, img, remote.WithTransport(transport)); err != nil {
		t.Fatal(err)
	}
}

func TestPull(t *testing.T) {
	testenv.Root(t)
	vivOnly(t, "the registry is in the engine's own network")
	e := testenv.Engine(t)
	ref := pushed(t, e, "layered", &trouble{})
	out := e.Viv("pull", ref)
	if out.Code != 0 || strings.ContainsAny(out.Stdout, "\r\x1b") {
		t.Errorf("pull without a terminal prints plain lines: %v", out)
	}
	want(t, e.Viv("run", "--rm", "--pull", "never", ref, "cat", "/full/new"), 0, "new\n")
	if res := e.Viv("pull", "-q", ref); res.Code != 0 || res.Stdout != ref+"\n" {
		t.Errorf("pull -q: %v", res)
	}
	digests := e.MustViv("images", "--digests", "--format", "{{.Digest}}")
	base := strings.TrimSuffix(ref, ":v1")
	want(t, e.Viv("run", "--rm", base+"@"+digests, "true"), 0, "")
	for _, tool := range []string{"skopeo"} {
		path, err := exec.LookPath(tool)
		if err != nil {
			t.Fatalf("find %s: %v", tool, err)
		}
		out, err := exec.Command(path, "inspect", "--raw", "oci:"+e.Root+"/images:"+ref).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "schemaVersion") {
			t.Errorf("%s cannot read the engine's images: %v\n%s", tool, err, out)
		}
	}
	e.MustViv("rmi", ref)
	// run pulls what is missing.
	want(t, e.Viv("run", "--rm", ref, "cat", "/full/new"), 0, "new\n")

	docker, err := testenv.Image(t, "layered").DockerImage()
	if err != nil {
		t.Fatal(err)
	}
	other := base + "-docker:v1"
	push(t, e, other, docker)
	want(t, e.Viv("run", "--rm", other, "cat", "/full/new"), 0, "new\n")
}

func TestPullFromATroubledRegistry(t *testing.T) {
	testenv.Root(t)
	vivOnly(t, "the registry is in the engine's own network")
	blob := func(r *http.Request) bool {
		return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/")
	}
	for _, c := range []struct {
		name   string
		words  []string
		handle func(w http.ResponseWriter, r *http.Request, next http.Handler)
	}{
		{"401", []string{"401"}, func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
		}},
		{"404", []string{"not found"}, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if strings.Contains(r.URL.Path, "/manifests/") {
				http.Error(w, `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`, http.StatusNotFound)
				return
			}
			next.ServeHTTP(w, r)
		}},
		{"429", []string{"429"}, func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
		}},
		{"500", []string{"500"}, func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
			w.WriteHeader(http.StatusInternalServerError)
		}},
		{"wrong digest", []string{"digest"}, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if blob(r) {
				// As long as what was asked for, but with another first byte.
				good := httptest.NewRecorder()
				next.ServeHTTP(good, r)
				content := good.Body.Bytes()
				content[0] ^= 0xff
				w.Header().Set("Content-Length", fmt.Sprint(len(content)))
				_, _ = w.Write(content)
				return
			}
			next.ServeHTTP(w, r)
		}},
		{"cut off", nil, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if blob(r) {
				w.Header().Set("Content-Length", "1000000")
				fmt.Fprint(w, "short")
				panic(http.ErrAbortHandler)
			}
			next.ServeHTTP(w, r)
		}},
		{"not a manifest", nil, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if strings.Contains(r.URL.Path, "/manifests/") {
				w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
				fmt.Fprint(w, "{{{")
				return
			}
			next.ServeHTTP(w, r)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := testenv.Engine(t)
			ref := pushed(t, e, "busybox", &trouble{handle: c.handle})
			cmd := e.Command("pull", "-q", ref)
			cmd.Timeout = 2 * time.Minute
			fails(t, cmd.Run(), 1, c.words...)
			if got := e.MustViv("images", "-q"); got != "" {
				t.Errorf("a failed pull left an image: %q", got)
			}
			run := e.Command("run", "--rm", ref, "true")
			run.Timeout = 2 * time.Minute
			fails(t, run.Run(), 125)
		})
	}
}

// TestPullInsecure pulls over plain HTTP from another machine: only if that is asked for.
func TestPullInsecure(t *testing.T) {
	testenv.Root(t)
	vivOnly(t, "Docker has a list of such registries in its configuration")
	e := testenv.Engine(t)
	outside := e.Outside()
	l, err := outside.Listen("tcp", testenv.OutsideAddress+":5000")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0))), ReadHeaderTimeout: testenv.DefaultTimeout}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close() })
	img, err := testenv.Image(t, "busybox").OCIImage()
	if err != nil {
		t.Fatal(err)
	}
	ref := testenv.OutsideAddress + ":5000/test/plain:v1"
	pushBy(t, outside.Dial, ref, img)
	leavesNothing(t, e, func() { fails(t, e.Viv("pull", "-q", ref), 1, "plain HTTP", "--insecure") })
	want(t, e.Viv("pull", "-q", "--insecure", ref), 0, ref+"\n")
	want(t, e.Viv("run", "--rm", "--network", "none", ref, "echo", "here"), 0, "here\n")
}

// TestDescriptorsOfTheCaller starts a container from a shell that holds a lock: it is
// the shell's, and free when that has ended.
func TestDescriptorsOfTheCaller(t *testing.T) {
	e := newBox(t)
	file := filepath.Join(t.TempDir(), "lock")
	cmd := e.Command("run", "-d", "--network", "none", "--health-cmd", "true", box, "sleep", "1000")
	shell := e.Tool("sh", append([]string{"-c", `exec 9>"$0"; flock 9; "$@"`, file, cmd.Path}, cmd.Args...)...)
	if res := shell.Run(); res.Code != 0 {
		t.Fatalf("%v", res)
	}
	want(t, e.Tool("flock", "-n", file, "echo", "free").Run(), 0, "free\n")
}

// TestPullInterrupted interrupts a pull from a registry that hangs.
func TestPullInterrupted(t *testing.T) {
	testenv.Root(t)
	vivOnly(t, "the registry is in the engine's own network")
	e := testenv.Engine(t)
	asked := make(chan struct{}, 16)
	ref := pushed(t, e, "busybox", &trouble{handle: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.Contains(r.URL.Path, "/blobs/") {
			asked <- struct{}{}
			<-r.Context().Done()
			return
		}
		next.ServeHTTP(w, r)
	}})
	p := e.Command("pull", "-q", ref).Start()
	select {
	case <-asked:
	case <-time.After(testenv.DefaultTimeout):
		t.Fatal("pull did not ask for a blob")
	}
	if err := p.Signal(2); err != nil {
		t.Fatal(err)
	}
	if res := p.Wait(); res.Code == 0 {
		t.Errorf("an interrupted pull succeeded: %v", res)
	}
	if got := e.MustViv("images", "-q"); got != "" {
		t.Errorf("an interrupted pull left an image: %q", got)
	}
}
