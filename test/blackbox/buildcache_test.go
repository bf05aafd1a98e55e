package blackbox

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vivarium/internal/testenv"
)

// uncached is a Dockerfile whose commands give something else each time that they run.
const uncached = `FROM box AS first
RUN cat /proc/sys/kernel/random/uuid > /first
COPY file /file
FROM box
COPY --from=first /first /first
RUN cat /proc/sys/kernel/random/uuid > /second
WORKDIR /made
`

// forget makes an engine that has built nothing: what it knows are the base images.
func forget(e *testenv.Instance, images ...string) {
	for _, i := range images {
		e.MustViv("rmi", "-f", i)
	}
	e.MustViv("image", "prune", "-f")
	e.MustViv("builder", "prune", "-f", "--all")
}

// TestBuildCacheOutside writes the cache of a build to a directory, to a registry and
// into the image, and builds from there again with nothing in the store.
func TestBuildCacheOutside(t *testing.T) {
	vivOnly(t, "the registry is in the engine's own network")
	e := newBox(t)
	host := e.Registry(nil)
	dir := contextDir(t, map[string]string{"Dockerfile": uncached, "file": "text"})
	local := filepath.Join(t.TempDir(), "cache")
	res := e.Viv("build", "-t", "made", "--cache-to", "type=local,mode=max,dest="+local, "--cache-to", "type=registry,mode=max,ref="+host+"/cache:max",
		"--cache-to", host+"/cache:min", dir)
	if res.Code != 0 || strings.Count(res.Stderr, "exporting cache to ") != 3 {
		t.Fatalf("%v", res)
	}
	look := func(image string) string {
		t.Helper()
		return inImage(t, e, image, "cat /first /second; pwd")
	}
	first := look("made")
	for _, from := range []string{"type=local,src=" + local, "type=registry,ref=" + host + "/cache:max", host + "/cache:max"} {
		forget(e, "made")
		res := e.Viv("build", "-t", "made", "--cache-from", from, dir)
		// The first stage is not needed: what is copied out of it is there.
		if res.Code != 0 || strings.Count(res.Stderr, " CACHED") != 4 || strings.Contains(res.Stderr, "[first") || look("made") != first {
			t.Errorf("from %s: %v", from, res)
		}
	}
	if res := e.Viv("build", "-t", "made", dir); strings.Count(res.Stderr, " CACHED") < 4 || look("made") != first {
		t.Errorf("what came from outside is not in the cache: %v", res)
	}
	forget(e, "made")
	if res := e.Viv("build", "--target", "first", "--cache-from", host+"/cache:max", dir); res.Code != 0 || strings.Count(res.Stderr, " CACHED") != 3 {
		t.Errorf("the first stage from the larger cache: %v", res)
	}
	if out := e.MustViv("system", "check"); out != "all is well" {
		t.Errorf("after builds from caches: %s", out)
	}

	// The smaller one has the steps of the image only.
	forget(e, "made")
	res = e.Viv("build", "-t", "made", "--cache-from", "nobody/nowhere:x", "--cache-from", "type=local,src="+local+"/none", "--cache-from", host+"/cache:min", dir)
	if res.Code != 0 || strings.Count(res.Stderr, "ERROR: ") != 2 || strings.Contains(res.Stderr, "[first") || look("made") != first {
		t.Errorf("from a cache with the image's steps: %v", res)
	}

	// What the copy depends on has changed: the stage is needed after all, and only it.
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("other"), 0o644); err != nil {
		t.Fatal(err)
	}
	forget(e, "made")
	res = e.Viv("build", "-t", "made", "--cache-from", host+"/cache:max", dir)
	if res.Code != 0 || !strings.Contains(res.Stderr, "[first 3/3] COPY file /file\n") || strings.Count(res.Stderr, "RUN cat") != 2 ||
		strings.Split(look("made"), "\n")[0] != strings.Split(first, "\n")[0] {
		t.Errorf("after a change: %v", res)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}

	// A layer that is damaged is made again.
	forget(e, "made")
	blobs, err := filepath.Glob(local + "/blobs/sha256/*")
	if err != nil || len(blobs) == 0 {
		t.Fatalf("no blobs in %s (%v)", local, err)
	}
	for _, b := range blobs {
		content, err := os.ReadFile(b)
		if err != nil {
			t.Fatal(err)
		}
		if content[0] == '{' {
			continue // manifest and config
		}
		if err := os.WriteFile(b, append([]byte("x"), content[1:]...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	res = e.Viv("build", "-t", "made", "--cache-from", "type=local,src="+local, dir)
	if res.Code != 0 || !strings.Contains(res.Stderr, "not taken from the cache") || look("made") == first {
		t.Errorf("from a damaged cache: %v", res)
	}
}

// TestBuildCachePlatforms has the steps of all platforms in one cache.
func TestBuildCachePlatforms(t *testing.T) {
	vivOnly(t, "the reference's builder knows no such caches")
	e := newBox(t)
	dir := contextDir(t, map[string]string{"Dockerfile": severalPlatforms})
	local := filepath.Join(t.TempDir(), "cache")
	args := func(more ...string) []string {
		return append(append([]string{"build", "--platform", "linux/amd64,linux/s390x", "-t", "several"}, more...), dir)
	}
	e.MustViv(args("--cache-to", "type=local,mode=max,dest="+local)...)
	forget(e, "several")
	res := e.Viv(args("--cache-from", "type=local,src="+local)...)
	if res.Code != 0 {
		t.Fatalf("%v", res)
	}
	// Only the caches themselves are read anew.
	if imports, done := strings.Count(res.Stderr, "importing cache"), strings.Count(res.Stderr, " DONE "); imports != 2 || done != imports {
		t.Errorf("%d steps were carried out: %s", done-imports, res.Stderr)
	}
}

// TestBuildCacheInline has the cache in the image that is pushed.
func TestBuildCacheInline(t *testing.T) {
	vivOnly(t, "the registry is in the engine's own network")
	e := newBox(t)
	host := e.Registry(nil)
	dir := contextDir(t, map[string]string{"Dockerfile": "FROM box\nRUN cat /proc/sys/kernel/random/uuid > /uuid\nENV A=1\nRUN echo x > /x\n"})
	name := host + "/app:v1"
	id := build(t, e, dir, "--push", "-t", name, "--cache-to", "type=inline")
	forget(e, name)
	if got := build(t, e, dir, "-t", name, "--cache-to", "type=inline", "--cache-from", name); got != id {
		t.Errorf("with the image's cache %s was built, and before %s", got, id)
	}
	forget(e, name)
	if got := build(t, e, dir, "-t", name, "--build-arg", "BUILDKIT_INLINE_CACHE=1"); got == id {
		t.Error("without a cache, the same image was built")
	}
	plain := build(t, e, dir, "--push", "-t", host+"/plain:v1")
	if res := e.Viv("build", "--cache-from", host+"/plain:v1", dir); res.Code != 0 || !strings.Contains(res.Stderr, "no build cache") {
		t.Errorf("from image %s, which has no cache inside: %v", plain, res)
	}
}

// TestBuildCacheRefused: what a cache cannot be is said before anything is built.
func TestBuildCacheRefused(t *testing.T) {
	vivOnly(t, "the words are ours")
	e := newBox(t)
	dir := contextDir(t, map[string]string{"Dockerfile": "FROM box\nRUN true\n", "taken": ""})
	for flag, word := range map[string]string{
		"--cache-to=type=gha":                    "unknown type of cache",
		"--cache-from=type=inline":               "unknown type of cache",
		"--cache-to=type=local":                  "dest is required",
		"--cache-from=type=local":                "src is required",
		"--cache-to=type=registry":               "ref is required",
		"--cache-to=dest=x":                      "type is required",
		"--cache-to=type=inline,mode=all":        "min or max",
		"--cache-from=type=local,src=x,mode=max": "unknown key",
		"--cache-to=UPPER":                       "build cache",
	} {
		if res := e.Viv("build", flag, dir); res.Code == 0 || !strings.Contains(res.Stderr, word) || strings.Contains(res.Stderr, "FROM") {
			t.Errorf("%s: %v", flag, res)
		}
	}
	taken := filepath.Join(dir, "taken")
	fails(t, e.Viv("build", "-q", "--cache-to", "type=local,dest="+taken, dir), 1, "export cache to "+taken)
	if res := e.Viv("build", "--cache-to", "type=local,ignore-error=true,dest="+taken, dir); res.Code != 0 {
		t.Errorf("with ignore-error: %v", res)
	}
}
