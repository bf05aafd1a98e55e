package blackbox

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

const severalPlatforms = `FROM --platform=$BUILDPLATFORM box AS build
ARG TARGETPLATFORM TARGETOS TARGETARCH TARGETVARIANT
RUN echo $TARGETPLATFORM $TARGETOS $TARGETARCH $TARGETVARIANT > /out
FROM --platform=$BUILDPLATFORM box AS same
RUN cat /proc/sys/kernel/random/uuid > /uuid
FROM scratch
COPY --from=build /out /out
COPY --from=same /uuid /uuid
ENTRYPOINT ["/out"]
`

// fileOf reads a file of an image, which need not be one that can be run here.
func fileOf(t *testing.T, e interface{ MustViv(...string) string }, image, platform, file string) string {
	t.Helper()
	id := e.MustViv("create", "--network", "none", "--platform", platform, image)
	defer e.MustViv("rm", id)
	dest := filepath.Join(t.TempDir(), "file")
	e.MustViv("cp", id+":"+file, dest)
	b, err := os.ReadFile(dest)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// TestBuildPlatforms builds for several platforms: an index in the store, in a registry
// and in an archive, and files for each.
func TestBuildPlatforms(t *testing.T) {
	vivOnly(t, "the registry is in the engine's own network")
	e := newBox(t)
	host := e.Registry(nil)
	name := host + "/several:v1"
	dir := contextDir(t, map[string]string{"Dockerfile": severalPlatforms})
	want3 := map[string]string{"linux/amd64": "linux/amd64 linux amd64", "linux/arm64": "linux/arm64 linux arm64", "linux/arm/v7": "linux/arm/v7 linux arm v7"}
	platforms := []string{"--platform", "linux/amd64,linux/arm64", "--platform", "linux/arm/v7"}
	build := func(args ...string) string {
		t.Helper()
		res := e.Viv(slices.Concat([]string{"build"}, platforms, args, []string{dir})...)
		if res.Code != 0 {
			t.Fatalf("%v", res)
		}
		return res.Stderr
	}
	files, archive := filepath.Join(t.TempDir(), "files"), filepath.Join(t.TempDir(), "a.tar")
	build("--push", "-t", name, "-o", "type=local,dest="+files, "-o", "type=oci,dest="+archive)
	uuids := map[string]bool{}
	for p, text := range want3 {
		out := filepath.Join(files, strings.ReplaceAll(p, "/", "_"))
		b, err := os.ReadFile(filepath.Join(out, "out"))
		if err != nil || strings.TrimSpace(string(b)) != text {
			t.Errorf("the files for %s have %q (%v)", p, b, err)
		}
		u, err := os.ReadFile(filepath.Join(out, "uuid"))
		if err != nil {
			t.Error(err)
		}
		uuids[string(u)] = true
		if got := fileOf(t, e, name, p, "/out"); got != text {
			t.Errorf("the image for %s has %q", p, got)
		}
	}
	if len(uuids) != 1 {
		t.Errorf("a step that does not depend on the platform ran %d times", len(uuids))
	}
	if got := platformsIn(t, []byte(e.MustViv("manifest", "inspect", name))); !slices.Equal(got, []string{"linux/amd64", "linux/arm/v7", "linux/arm64"}) {
		t.Errorf("the registry has %v", got)
	}
	if got := platformsInArchive(t, archive); len(got) != 3 {
		t.Errorf("the archive has %v", got)
	}
	if log := build("-t", name); strings.Contains(log, " DONE") && strings.Count(log, " CACHED") < 6 {
		t.Errorf("the second build did it all again: %s", log)
	}
	if got := e.MustViv("images", "-a", "--format", "{{.Repository}}", "--filter", "dangling=true"); got != "" {
		t.Errorf("images without a name were left: %s", got)
	}

	// Nothing of it is garbage as long as the name is there, and all when it is not.
	e.MustViv("image", "prune", "-f")
	e.MustViv("builder", "prune", "-f")
	if got := fileOf(t, e, name, "linux/arm64", "/out"); got != want3["linux/arm64"] {
		t.Errorf("after the prunes, the image for linux/arm64 has %q", got)
	}
	e.MustViv("tag", name, host+"/other:v1")
	e.MustViv("rmi", name)
	e.MustViv("push", "-q", host+"/other:v1")
	if got := platformsIn(t, []byte(e.MustViv("manifest", "inspect", host+"/other:v1"))); len(got) != 3 {
		t.Errorf("under its other name, %v were pushed", got)
	}
	e.MustViv("rmi", host+"/other:v1", "box")
	if left := filesBelow(t, filepath.Join(e.Root, "images/blobs/sha256")); len(left) != 0 {
		t.Errorf("%d blobs are left", len(left))
	}
	if out := e.MustViv("system", "check"); out != "all is well" {
		t.Errorf("after removing all: %s", out)
	}
	fails(t, e.Viv("build", "-q", "--platform", "linux/amd64,linux/arm64", "-o", "type=tar,dest="+archive, dir), 1, "one platform only")
	fails(t, e.Viv("build", "-q", "--platform", "linux/amd64,", dir), 1, "platform")
}

// TestBuildOnOtherPlatform builds on images of another platform, of the store and of a
// registry; names go on meaning what they did, and commands are refused.
func TestBuildOnOtherPlatform(t *testing.T) {
	vivOnly(t, "the registry is in the engine's own network")
	if runtime.GOARCH == "s390x" {
		t.Skip("it is this machine's own")
	}
	e := newBox(t)
	host := e.Registry(nil)
	name := host + "/base:v1"
	e.MustViv("build", "-q", "--platform", "linux/"+runtime.GOARCH+",linux/s390x", "--push", "-t", name, contextDir(t, map[string]string{"Dockerfile": severalPlatforms}))
	dir := contextDir(t, map[string]string{"Dockerfile": "FROM " + name + "\nCOPY file /file\n", "file": "text"})
	check := func(where string) {
		t.Helper()
		out := filepath.Join(t.TempDir(), "out")
		e.MustViv("build", "-q", "--platform", "linux/s390x", "-o", out, dir)
		if b, err := os.ReadFile(out + "/out"); err != nil || string(b) != "linux/s390x linux s390x\n" {
			t.Errorf("on the image of the %s, it has %q (%v)", where, b, err)
		}
	}
	check("store")
	e.MustViv("rmi", name)
	check("registry")
	if got := e.MustViv("images", "--format", "{{.Repository}}:{{.Tag}}", "--filter", "dangling=false"); strings.Contains(got, name) {
		t.Errorf("the base image got its name: %s", got)
	}
	e.MustViv("pull", "-q", name)
	check("registry, beside the one for this machine")
	if got := e.MustViv("inspect", "--type", "image", "-f", "{{.Architecture}}", name); got != runtime.GOARCH {
		t.Errorf("the name means the image for %s now", got)
	}
	if list, err := filepath.Glob("/proc/sys/fs/binfmt_misc/qemu-s390x"); err != nil || len(list) > 0 {
		t.Skipf("programs for s390x may run here: %v %v", list, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM "+name+"\nRUN [\"/out\"]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if res := e.Viv("build", "--platform", "linux/s390x", dir); res.Code != 1 || !strings.Contains(res.Stderr, "programs for linux/s390x cannot be run on linux/"+runtime.GOARCH) {
		t.Errorf("a command of another platform: %v", res)
	}
}

// platformsIn lists the platforms of an index, sorted.
func platformsIn(t *testing.T, raw []byte) (out []string) {
	t.Helper()
	var idx struct {
		Manifests []struct {
			Platform struct{ OS, Architecture, Variant string }
		}
	}
	if err := json.Unmarshal(raw, &idx); err != nil {
		t.Fatal(err)
	}
	for _, m := range idx.Manifests {
		p := m.Platform
		out = append(out, strings.TrimSuffix(p.OS+"/"+p.Architecture+"/"+p.Variant, "/"))
	}
	slices.Sort(out)
	return out
}

// platformsInArchive lists the platforms of the one index that index.json names, if all
// that it names is there.
func platformsInArchive(t *testing.T, archive string) []string {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	blobs := map[string][]byte{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if blobs[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	list := func(raw []byte) (names []string) {
		var idx struct{ Manifests []struct{ Digest string } }
		if err := json.Unmarshal(raw, &idx); err != nil {
			t.Fatal(err)
		}
		for _, m := range idx.Manifests {
			names = append(names, "blobs/"+strings.ReplaceAll(m.Digest, ":", "/"))
		}
		return names
	}
	top := list(blobs["index.json"])
	if len(top) != 1 {
		t.Fatalf("index.json names %v", top)
	}
	for _, m := range list(blobs[top[0]]) {
		if blobs[m] == nil {
			t.Errorf("%s is missing", m)
		}
	}
	return platformsIn(t, blobs[top[0]])
}
