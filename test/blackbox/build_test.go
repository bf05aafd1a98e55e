package blackbox

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"vivarium/internal/testenv"
)

// contextDir makes a build context of these files; a name that ends with a slash is a
// directory, a content that begins with "-> " a symbolic link.
func contextDir(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		full := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			err = os.Symlink(target, full)
		} else if strings.HasSuffix(name, "/") {
			err = os.MkdirAll(full, 0o755)
		} else {
			err = os.WriteFile(full, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// build builds a context and returns the ID of the image.
func build(t *testing.T, e *testenv.Instance, dir string, args ...string) string {
	t.Helper()
	return strings.TrimSpace(e.MustViv(append(append([]string{"build", "-q"}, args...), dir)...))
}

// inImage runs a shell command in an image.
func inImage(t *testing.T, e *testenv.Instance, image, command string) string {
	t.Helper()
	return e.MustViv("run", "--rm", "--network", "none", "--user", "0", "--entrypoint", "", image, "sh", "-c", command)
}

// TestBuild is a Dockerfile with most of what people write, built, looked at, and built
// again out of the cache as the same image.
func TestBuild(t *testing.T) {
	vivOnly(t, "the image is not one of a registry")
	e := newBox(t)
	dir := contextDir(t, map[string]string{
		"Dockerfile": `# a comment
ARG BASE=box
FROM ${BASE} AS base
ARG WHO=world
ENV GREETING="hello" PLACE=${WHO}
RUN echo "$GREETING $PLACE" > /greeting
WORKDIR /srv
WORKDIR sub
RUN pwd > /where
COPY --chown=app:staff --chmod=640 a.txt b.txt ./
COPY dir /copied
ADD files.tar /unpacked/

FROM base AS unneeded
RUN exit 1

FROM box
LABEL one=1 two="2 3"
COPY --from=base /greeting /copied /
COPY --from=base --chown=0 /srv/sub/a.txt /out/
RUN <<EOF
echo first > /heredoc
echo second >> /heredoc
EOF
COPY <<one <<two /inline/
text of one
one
text of two
two
USER app
EXPOSE 80 53/udp
VOLUME /data
STOPSIGNAL SIGUSR1
HEALTHCHECK --interval=5s CMD true
ENTRYPOINT ["cat"]
CMD ["/greeting"]
`,
		"a.txt": "a", "b.txt": "b", "dir/inner/file": "inner", "dir/link": "-> inner/file", ".dockerignore": "dir/no*\n", "dir/not": "no",
	})
	testenv.Tool(t, "tar", "-C", dir, "-cf", filepath.Join(dir, "files.tar"), "--owner=7", "--group=8", "--numeric-owner", "a.txt").Run()
	id := build(t, e, dir, "-t", "made", "--label", "three=3")
	want(t, e.Viv("run", "--rm", "--network", "none", "made"), 0, "hello world\n")
	got := inImage(t, e, "made", "cat /heredoc /inline/one /inline/two; readlink /link; cat /inner/file; ls /; stat -c '%U %G %a' /out/a.txt")
	for _, s := range []string{"first\nsecond\n", "text of one\ntext of two\n", "inner/file\ninner", "root root 640"} {
		if !strings.Contains(got, s) {
			t.Errorf("the image lacks %q: %s", s, got)
		}
	}
	if strings.Contains(got, "not\n") {
		t.Errorf("what .dockerignore names was copied: %s", got)
	}
	config := e.MustViv("inspect", "--type", "image", "-f", "{{json .Config}}", "made")
	var c struct {
		User, StopSignal      string
		Entrypoint, Cmd       []string
		Labels                map[string]string
		ExposedPorts, Volumes map[string]struct{}
		Healthcheck           struct{ Test []string }
	}
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		t.Fatal(err)
	}
	if c.User != "app" || c.StopSignal != "SIGUSR1" || len(c.Entrypoint) != 1 || c.Labels["two"] != "2 3" || c.Labels["three"] != "3" ||
		len(c.ExposedPorts) != 2 || len(c.Volumes) != 1 || len(c.Healthcheck.Test) != 2 {
		t.Errorf("the settings are not those of the Dockerfile: %s", config)
	}
	if again := build(t, e, dir, "-t", "made", "--label", "three=3"); again != id {
		t.Errorf("the second build gave %s, the first %s", again, id)
	}
	id = build(t, e, dir, "--target", "base", "--build-arg", "WHO=you")
	got = inImage(t, e, id, "cat /greeting /where; stat -c '%u %g' /unpacked/a.txt; stat -c '%U %G %a' /srv/sub/a.txt")
	if got != "hello you\n/srv/sub\n7 8\napp staff 640" {
		t.Errorf("the stage base has %q", got)
	}
}

// TestBuildCache looks at what makes a step run again and what does not.
func TestBuildCache(t *testing.T) {
	vivOnly(t, "the image is not one of a registry")
	e := newBox(t)
	files := map[string]string{"Dockerfile": "FROM box\nCOPY file /\nRUN cat /proc/sys/kernel/random/uuid > /uuid\n", "file": "1"}
	dir := contextDir(t, files)
	uuid := func(args ...string) string { t.Helper(); return inImage(t, e, build(t, e, dir, args...), "cat /uuid") }
	first := uuid()
	if uuid() != first {
		t.Error("nothing was changed, and the command ran again")
	}
	now := filepath.Join(dir, "file")
	if err := os.Chtimes(now, time.Now(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if uuid() != first {
		t.Error("a time was changed, and the command ran again")
	}
	if uuid("--no-cache") == first {
		t.Error("the command did not run again with --no-cache")
	}
	if err := os.WriteFile(now, []byte("2"), 0o644); err != nil {
		t.Fatal(err)
	}
	second := uuid()
	if second == first {
		t.Error("a file was changed, and the command did not run again")
	}
	if err := os.Chmod(now, 0o600); err != nil {
		t.Fatal(err)
	}
	if uuid() == second {
		t.Error("a mode was changed, and the command did not run again")
	}
	e.MustViv("builder", "prune", "-f")
	if res := e.Viv("build", dir); !strings.Contains(res.Stderr, "COPY file /\n") || strings.Contains(res.Stderr, "[3/3] RUN cat /proc/sys/kernel/random/uuid > /uuid\n#3 CACHED") {
		t.Errorf("the pruned cache was used: %v", res)
	}
}

// TestBuildCacheUse: df measures the build cache, and the prunes give it back by age, by
// room and with everything else.
func TestBuildCacheUse(t *testing.T) {
	vivOnly(t, "the figures are ours")
	e := newBox(t)
	dir := contextDir(t, map[string]string{"Dockerfile": `FROM box AS first
RUN head -c 100000 /dev/zero > /early
FROM box AS second
RUN --mount=type=cache,target=/cache head -c 30000 /dev/zero > /cache/file; head -c 50000 /dev/zero > /late
FROM box
COPY --from=first /early /copied
`})
	row := func() string {
		t.Helper()
		return e.MustViv("system", "df", "--format", "{{if eq .Type \"Build Cache\"}}{{.TotalCount}} {{.Active}} {{.Size}} {{.Reclaimable}}{{end}}")
	}
	if got := strings.TrimSpace(row()); got != "0 0 0B 0B" {
		t.Errorf("before any build: %q", got)
	}
	build(t, e, dir, "-t", "used")
	if got := strings.TrimSpace(row()); got != "2 1 100kB 100kB (100%)" {
		t.Errorf("with an image that has one of two layers: %q", got)
	}
	build(t, e, dir, "--target", "second")
	e.MustViv("image", "prune", "-f")
	if got := strings.TrimSpace(row()); got != "4 1 180kB 180kB (100%)" {
		t.Errorf("with a cache directory and an image that went: %q", got)
	}
	for _, args := range [][]string{{"--filter", "until=1h"}, {"--all", "--filter", "until=1h"}, {"--keep-storage", "1m"}, {"--all", "--keep-storage", "1m"}, {"--filter", "id=sha256:x"}} {
		if out := e.MustViv(append([]string{"builder", "prune", "-f"}, args...)...); strings.TrimSpace(out) != "Total reclaimed space: 0B" {
			t.Errorf("builder prune %v removed %s", args, out)
		}
	}
	// The copy was made after the layer that it is of, and the image has it.
	if out := e.MustViv("builder", "prune", "-f", "--keep-storage", "160k"); !strings.Contains(out, "sha256:") {
		t.Errorf("nothing was removed: %s", out)
	}
	if got := strings.TrimSpace(row()); !strings.HasSuffix(got, " 80kB 80kB (100%)") {
		t.Errorf("the layer that was used first should have gone: %q", got)
	}
	if out := e.MustViv("system", "prune", "-f", "--filter", "label=none"); strings.Contains(out, "build cache") {
		t.Errorf("what has no labels was removed by its label: %s", out)
	}
	if out := e.MustViv("system", "prune", "-f"); !strings.Contains(out, "Deleted build cache objects:\nsha256:") {
		t.Errorf("system prune left the build cache: %s", out)
	}
	if got := strings.TrimSpace(row()); got != "1 0 30kB 30kB (100%)" {
		t.Errorf("after system prune: %q", got)
	}
	if out := e.MustViv("system", "prune", "-f", "--all"); !strings.Contains(out, "cache:") {
		t.Errorf("system prune --all left the cache directory: %s", out)
	}
	if got := strings.TrimSpace(row()); got != "0 0 0B 0B" {
		t.Errorf("after system prune --all: %q", got)
	}
	fails(t, e.Viv("builder", "prune", "-f", "--filter", "color=red"), 1, "invalid filter 'color'")
}

// TestBuildFails looks at errors: the code, the place, and what is kept of the build.
func TestBuildFails(t *testing.T) {
	vivOnly(t, "the wording is ours where Docker's names its daemon")
	e := newBox(t)
	for _, c := range []struct {
		file  string
		words []string
	}{
		{"FROM box\nRUN echo said; exit 3\n", []string{"exit code: 3", "Dockerfile:2", ">>> RUN echo said", "said"}},
		{"FROM box\nRUNN true\n", []string{"unknown instruction: RUNN", "Dockerfile:2"}},
		{"FROM box\nCOPY nothing /\n", []string{"/nothing", "not found", "Dockerfile:2"}},
		{"FROM box\nCOPY --from=box /nothing /\n", []string{"/nothing", "not found"}},
		{"FROM box\nCOPY a b /c\n", []string{"must be a directory"}},
		{"FROM box\nUSER nobody-here\nRUN true\n", []string{"nobody-here"}},
		{"FROM box\nRUN [\"/no/such\"]\n", []string{"/no/such"}},
		{"FROM box\nRUN --network=host true\n", []string{"network.host"}},
		{"RUN true\n", []string{"no build stage"}},
		{"", []string{"no instructions"}},
		{"FROM no-such-image-anywhere:never\n", []string{"no-such-image-anywhere"}},
		{"FROM box AS a\nCOPY --from=a /x /\n", []string{"circular"}},
	} {
		dir := contextDir(t, map[string]string{"Dockerfile": c.file, "a": "", "b": ""})
		res := e.Viv("build", dir)
		if res.Code != 1 {
			t.Errorf("%q: want exit status 1, got %v", c.file, res)
		}
		for _, w := range c.words {
			if !strings.Contains(res.Stderr, w) {
				t.Errorf("%q: stderr lacks %q: %v", c.file, w, res)
			}
		}
	}
	if res := e.Viv("build", "--target", "none", contextDir(t, map[string]string{"Dockerfile": "FROM box\n"})); res.Code != 1 || !strings.Contains(res.Stderr, "none") {
		t.Errorf("a target that is not there: %v", res)
	}
}

// TestBuildMounts is RUN --mount in all its kinds.
func TestBuildMounts(t *testing.T) {
	vivOnly(t, "the image is not one of a registry")
	e := newBox(t)
	dir := contextDir(t, map[string]string{
		"Dockerfile": `FROM box AS other
RUN mkdir /tree && echo one > /tree/one
RUN echo two > /tree/two
FROM box
RUN --mount=type=bind,target=/ctx cat /ctx/sub/file > /from-context && ! touch /ctx/new 2>/dev/null && test ! -e /ctx/left-out
RUN --mount=type=bind,from=other,source=/tree,target=/other,rw cat /other/one /other/two > /from-stage && echo lost > /other/one
RUN --mount=type=cache,target=/cache,id=c echo line >> /cache/lines
RUN --mount=type=cache,target=/cache,id=c wc -l < /cache/lines > /lines
RUN --mount=type=tmpfs,target=/scratch grep -q '/scratch tmpfs' /proc/mounts && touch /scratch/x
RUN --mount=type=secret,id=word cat /run/secrets/word > /told
RUN --mount=type=secret,id=word,env=WORD echo $WORD >> /told
RUN --network=none test ! -e /sys/class/net/eth0
`,
		"sub/file": "text\n", "left-out": "", ".dockerignore": "left-out\n", "secret": "abracadabra\n",
	})
	id := build(t, e, dir, "--secret", "id=word,src="+filepath.Join(dir, "secret"))
	got := inImage(t, e, id, "cat /from-context /from-stage /lines /told; ls -A /")
	if !strings.HasPrefix(got, "text\none\ntwo\n1\nabracadabra\nabracadabra\n") {
		t.Errorf("the commands saw %q", got)
	}
	if strings.Contains(got, "ctx\n") || strings.Contains(got, "cache\n") || strings.Contains(got, "run\n") {
		t.Errorf("mount points are left in the image: %q", got)
	}
	if res := e.Viv("build", contextDir(t, map[string]string{"Dockerfile": "FROM box\nRUN --mount=type=secret,id=none,required=true true\n"})); res.Code != 1 || !strings.Contains(res.Stderr, "none") {
		t.Errorf("a secret that is required and missing: %v", res)
	}
}

// TestBuildStaysInside has a context, a stage and an archive that try to reach what is
// outside of them.
func TestBuildStaysInside(t *testing.T) {
	vivOnly(t, "the image is not one of a registry")
	e := newBox(t)
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("of the host"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, file := range map[string]string{
		"a link out of the context":           "FROM box\nCOPY link /taken\n",
		"a path out of the context":           "FROM box\nCOPY ../../../../../.." + outside + " /taken\n",
		"a directory link":                    "FROM box\nCOPY dirlink/outside /taken\n",
		"a link out of a stage":               "FROM box AS s\nRUN ln -s " + outside + " /l\nFROM box\nCOPY --from=s /l /taken\n",
		"a bind of a link":                    "FROM box\nRUN --mount=type=bind,source=dirlink,target=/m cp /m/outside /taken\n",
		"the host's file system in a command": "FROM box\nRUN cat " + outside + " > /taken\n",
	} {
		dir := contextDir(t, map[string]string{"Dockerfile": file, "link": "-> " + outside, "dirlink": "-> " + filepath.Dir(outside)})
		if res := e.Viv("build", dir); res.Code != 1 {
			t.Errorf("%s: want a failed build, got %v", name, res)
		}
	}
	// A link in the image leads inside the image.
	dir := contextDir(t, map[string]string{"Dockerfile": "FROM box\nRUN ln -s " + outside + " /dest && ln -s / /up\nCOPY file /dest\nCOPY file /up/up/../../../in\n", "file": "mine"})
	id := build(t, e, dir)
	if b, err := os.ReadFile(outside); err != nil || string(b) != "of the host" {
		t.Errorf("the host's file has %q (%v)", b, err)
	}
	if got := inImage(t, e, id, "cat /in "+outside); got != "minemine" {
		t.Errorf("the image has %q", got)
	}
}

// TestBuildReproducible builds the same at two times in two stores.
func TestBuildReproducible(t *testing.T) {
	vivOnly(t, "it looks at digests of our own layers")
	files := map[string]string{"Dockerfile": "FROM scratch\nCOPY a /a\nADD d /d\nWORKDIR /w\nCOPY <<x /x\ntext\nx\n", "a": "1", "d/e/f": "2"}
	manifest := func() string {
		e := newBox(t)
		e.MustViv("build", "-q", "-t", "same", "--build-arg", "SOURCE_DATE_EPOCH=1700000000", contextDir(t, files))
		return e.MustViv("inspect", "--type", "image", "-f", "{{.Descriptor.Digest}} {{.Created}}", "same")
	}
	one, two := manifest(), manifest()
	if one != two || !strings.Contains(one, "2023-11-14T22:13:20Z") {
		t.Errorf("the same was built as %s and as %s", one, two)
	}
}

// TestBuildKilled kills a build in the middle of a command: the next commands find a store
// that is whole, and nothing of the build.
func TestBuildKilled(t *testing.T) {
	vivOnly(t, "the reference has a daemon")
	e := newBox(t)
	dir := contextDir(t, map[string]string{"Dockerfile": "FROM box\nRUN echo one > /one\nRUN echo begun; sleep 1000\n"})
	cmd := e.Command("build", "--progress", "plain", "-t", "killed", dir)
	cmd.Terminal = true
	p := cmd.Start()
	p.Expect(" begun")
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.Wait()
	e.MustViv("ps")
	if out := e.MustViv("system", "check"); strings.Contains(out, "damaged") {
		t.Errorf("after the kill: %s", out)
	}
	if res := e.Viv("inspect", "--type", "image", "killed"); res.Code == 0 {
		t.Errorf("an image that was not built is there: %v", res)
	}
	res := e.Viv("build", "--target", "none", dir)
	if res.Code != 1 {
		t.Errorf("want a failure, got %v", res)
	}
}

// TestBuildKilledKeepsSteps kills a build in its third command: the next one begins there,
// and a prune takes what the killed one left.
func TestBuildKilledKeepsSteps(t *testing.T) {
	vivOnly(t, "the reference has a daemon")
	e := newBox(t)
	dir := contextDir(t, map[string]string{"file": "content\n",
		"Dockerfile": "FROM box\nRUN echo one > /one\nCOPY file /two\nRUN test -e /dev/shm/no || { cat /one /two; echo be''gun; sleep 1000; }\n"})
	kill := func() {
		t.Helper()
		cmd := e.Command("build", "--progress", "plain", dir)
		cmd.Terminal = true
		p := cmd.Start()
		p.Expect(" begun") // which is no part of the step's name
		for end := time.Now().Add(time.Minute); journaledSteps(t, e) < 2; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("the steps that are done are written down nowhere")
			}
		}
		if err := p.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		p.Wait()
	}
	kill()
	replaceIn(t, filepath.Join(dir, "Dockerfile"), "test -e /dev/shm/no", "true")
	res := e.Viv("build", "--progress", "plain", "-t", "went-on", dir)
	if res.Code != 0 || !strings.Contains(res.Stderr, "#2 CACHED") || !strings.Contains(res.Stderr, "#3 CACHED") || strings.Contains(res.Stderr, "#4 CACHED") {
		t.Errorf("the steps that were done run again: %v", res)
	}
	if got := inImage(t, e, "went-on", "cat /one /two"); got != "one\ncontent" {
		t.Errorf("the image has %q", got)
	}
	e.MustViv("rmi", "went-on")
	e.MustViv("builder", "prune", "-f")
	replaceIn(t, filepath.Join(dir, "Dockerfile"), "RUN true ||", "RUN test -e /dev/shm/no ||")
	kill()
	if out := e.MustViv("builder", "prune", "-f"); !strings.Contains(out, "sha256:") {
		t.Errorf("what the killed build had done was not pruned: %s", out)
	}
	if left := filesBelow(t, filepath.Join(e.Root, "build/steps")); len(left) != 0 {
		t.Errorf("after the prune: %v", left)
	}
	e.MustViv("ps") // which ends what the killed build ran
	if out := e.MustViv("system", "check"); out != "all is well" {
		t.Errorf("after the kill: %s", out)
	}
}

// journaledSteps counts the layers that a build at work says to be whole.
func journaledSteps(t *testing.T, e *testenv.Instance) (n int) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(e.Root, "tmp/image-*/steps"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		n += strings.Count(string(b), `"tree"`)
	}
	return n
}

func replaceIn(t *testing.T, file, old, with string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(b), old, with, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
}

func filesBelow(t *testing.T, dir string) (names []string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

// TestBuildInterrupted cancels a build: what was done before stays in the cache.
func TestBuildInterrupted(t *testing.T) {
	vivOnly(t, "the words are ours")
	e := newBox(t)
	dir := contextDir(t, map[string]string{"Dockerfile": "FROM box\nRUN echo one > /one\nRUN test -e /no || { echo begun; sleep 1000; }\n"})
	cmd := e.Command("build", "--progress", "plain", dir)
	cmd.Terminal = true
	p := cmd.Start()
	p.Expect(" begun")
	if err := p.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if res := p.Wait(); res.Code != 1 {
		t.Errorf("want exit status 1, got %v", res)
	}
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM box\nRUN echo one > /one\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if res := e.Viv("build", dir); res.Code != 0 || !strings.Contains(res.Stderr, "#2 CACHED") {
		t.Errorf("the step that was done runs again: %v", res)
	}
}

// TestBuildsAtOnce runs the same build several times at the same time, while another
// command collects garbage.
func TestBuildsAtOnce(t *testing.T) {
	vivOnly(t, "the image is not one of a registry")
	e := newBox(t)
	dir := contextDir(t, map[string]string{"Dockerfile": "FROM box\nRUN echo one > /one\nCOPY file /two\nRUN cat /one /two > /three\n", "file": "two\n"})
	var running []*testenv.Process
	for _, tag := range []string{"b1", "b2", "b3", "b4"} {
		running = append(running, e.Command("build", "-q", "-t", tag, dir).Start(), e.Command("image", "prune", "-f").Start())
	}
	for _, p := range running {
		if res := p.Wait(); res.Code != 0 {
			t.Errorf("%v", res)
		}
	}
	for _, tag := range []string{"b1", "b2", "b3", "b4"} {
		if got := inImage(t, e, tag, "cat /three"); got != "one\ntwo" {
			t.Errorf("%s has %q", tag, got)
		}
	}
}

// TestNotesBuild is the walk of the notes: write a Dockerfile, build it, look at the
// images, at the history, and at the layers on disk.
func TestNotesBuild(t *testing.T) {
	vivOnly(t, "it looks at the store")
	e := newBox(t)
	e.MustViv("tag", box, "ubuntu:latest")
	dir := contextDir(t, map[string]string{"Dockerfile": "FROM ubuntu\nRUN echo \"Hello world\" > /tmp/newfile\n"})
	cmd := e.Command("build", "-t", "changed-ubuntu", ".")
	cmd.Dir = dir
	if res := cmd.Run(); res.Code != 0 {
		t.Fatal(res)
	}
	if got := e.MustViv("images", "--format", "{{.Repository}}:{{.Tag}}"); !strings.Contains(got, "changed-ubuntu:latest") || !strings.Contains(got, "ubuntu:latest") {
		t.Errorf("the images are %q", got)
	}
	history := strings.Split(strings.TrimSpace(e.MustViv("history", "--no-trunc", "--format", "{{.ID}}|{{.CreatedBy}}|{{.Size}}", "changed-ubuntu")), "\n")
	id := strings.TrimSpace(e.MustViv("images", "-q", "--no-trunc", "changed-ubuntu"))
	if history[0] != id+`|RUN /bin/sh -c echo "Hello world" > /tmp/newfile|12B` || len(history) != 2 {
		t.Errorf("the history is %q", history)
	}
	upper := strings.TrimSpace(e.MustViv("inspect", "--type", "image", "-f", "{{.GraphDriver.Data.UpperDir}}", "changed-ubuntu"))
	var found []string
	err := filepath.WalkDir(upper, func(p string, d os.DirEntry, err error) error {
		found = append(found, strings.TrimPrefix(p, upper))
		return err
	})
	if err != nil || strings.Join(found, " ") != " /tmp /tmp/newfile" {
		t.Errorf("the new layer %s has %q (%v)", upper, found, err)
	}
	if b, err := os.ReadFile(upper + "/tmp/newfile"); err != nil || string(b) != "Hello world\n" {
		t.Errorf("the new file has %q (%v)", b, err)
	}
	want(t, e.Viv("run", "--rm", "--network", "none", "changed-ubuntu", "cat", "/tmp/newfile"), 0, "Hello world\n")
}

// TestBuildAddURL adds what a web server on the loopback has.
func TestBuildAddURL(t *testing.T) {
	vivOnly(t, "the server is in the engine's network")
	e := newBox(t)
	l, err := e.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/files/thing.txt" {
				http.NotFound(w, r)
				return
			}
			w.Header().Set("Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT")
			_, _ = w.Write([]byte("thing\n"))
		}))
	}()
	t.Cleanup(func() { l.Close() })
	url := "http://" + l.Addr().String() + "/files/"
	dir := func(file string) string { return contextDir(t, map[string]string{"Dockerfile": "FROM box\n" + file}) }
	id := build(t, e, dir("ADD "+url+"thing.txt /got/\nADD --chmod=644 --checksum=sha256:"+fmt.Sprintf("%x", sha256.Sum256([]byte("thing\n")))+" "+url+"thing.txt /named\n"))
	if got := inImage(t, e, id, "stat -c '%a %Y' /got/thing.txt; stat -c %a /named; cat /named"); got != "600 1136214245\n644\nthing" {
		t.Errorf("the image has %q", got)
	}
	for _, bad := range []string{"ADD " + url + "none /x\n", "ADD --checksum=sha256:" + strings.Repeat("0", 64) + " " + url + "thing.txt /x\n"} {
		if res := e.Viv("build", dir(bad)); res.Code != 1 {
			t.Errorf("%s: want a failure, got %v", bad, res)
		}
	}
}

// TestBuildOutput takes the files of a build, and the image as an archive.
func TestBuildOutput(t *testing.T) {
	vivOnly(t, "the image is not one of a registry")
	e := newBox(t)
	dir := contextDir(t, map[string]string{"Dockerfile": "FROM box AS b\nRUN mkdir /o && echo out > /o/file\nFROM scratch\nCOPY --from=b /o /\n"})
	dest := filepath.Join(t.TempDir(), "dest")
	e.MustViv("build", "-q", "-o", dest, dir)
	if b, err := os.ReadFile(dest + "/file"); err != nil || string(b) != "out\n" {
		t.Errorf("the directory has %q (%v)", b, err)
	}
	archive := filepath.Join(t.TempDir(), "a.tar")
	e.MustViv("build", "-q", "-o", "type=tar,dest="+archive, dir)
	if res := testenv.Tool(t, "tar", "-tf", archive).Run(); strings.TrimSpace(res.Stdout) != "file" {
		t.Errorf("the archive has %v", res)
	}
	for _, kind := range []string{"oci", "docker"} {
		e.MustViv("build", "-q", "-t", "arch", "-o", "type="+kind+",dest="+archive, dir)
		e.MustViv("rmi", "arch")
		if got := e.MustViv("load", "-i", archive); !strings.Contains(got, "arch:latest") {
			t.Errorf("an archive of type %s was loaded as %q", kind, got)
		}
	}
	if res := e.Viv("build", "-o", "type=none", dir); res.Code != 1 || !strings.Contains(res.Stderr, "none") {
		t.Errorf("an unknown output: %v", res)
	}
}

// TestBuildPush pushes what it builds, under all names, beside other outputs.
func TestBuildPush(t *testing.T) {
	vivOnly(t, "the registry is in the engine's own network")
	e := newBox(t)
	host := e.Registry(nil)
	dir := contextDir(t, map[string]string{"Dockerfile": "FROM box\nRUN echo pushed > /file\n"})
	pull := func(names ...string) {
		t.Helper()
		for _, n := range names {
			e.Viv("rmi", n)
			e.MustViv("pull", "-q", n)
			if got := inImage(t, e, n, "cat /file"); got != "pushed" {
				t.Errorf("%s has %q", n, got)
			}
		}
	}
	one, two, three := host+"/a/one:v1", host+"/b/two:v2", host+"/a/three:latest"
	res := e.Viv("build", "--push", "-t", one, "-t", two, dir)
	if res.Code != 0 || strings.Count(res.Stderr, "pushing "+host) != 2 {
		t.Errorf("--push: %v", res)
	}
	pull(one, two)
	files := filepath.Join(t.TempDir(), "files")
	archive := filepath.Join(t.TempDir(), "a.tar")
	e.MustViv("build", "-q", "-o", "type=image,push=true,name="+three, "-o", "type=local,dest="+files, "-o", "type=oci,dest="+archive, dir)
	pull(three)
	if b, err := os.ReadFile(files + "/file"); err != nil || string(b) != "pushed\n" {
		t.Errorf("the directory has %q (%v)", b, err)
	}
	e.MustViv("rmi", three)
	if got := e.MustViv("load", "-i", archive); !strings.Contains(got, three) {
		t.Errorf("the archive was loaded as %q", got)
	}
	fails(t, e.Viv("build", "--push", dir), 1, "tag is needed when pushing to registry")
	fails(t, e.Viv("build", "-o", "type=registry,name="+host+"/UPPER", dir), 1, "invalid tag")
	// What cannot be pushed is built all the same.
	fails(t, e.Viv("build", "-q", "--push", "-t", "127.0.0.1:1/refused:v1", dir), 1, "127.0.0.1:1")
	if got := inImage(t, e, "127.0.0.1:1/refused:v1", "cat /file"); got != "pushed" {
		t.Errorf("what could not be pushed has %q", got)
	}
	fails(t, e.Viv("build", "-o", "-", "-o", "type=oci", dir), 125, "only one output")
}

// TestSquash makes one layer of several: by a build, above the base image or of all, and of
// an image that is there.
func TestSquash(t *testing.T) {
	vivOnly(t, "the reference's builder does not squash")
	e := newBox(t)
	dir := contextDir(t, map[string]string{"Dockerfile": `FROM box AS base
RUN mkdir /d && echo 1 > /d/one && echo 1 > /d/two && echo 1 > /gone && ln /d/one /hard
FROM base
RUN echo big > /big && echo 2 > /d/two
RUN rm -r /big /gone /bin/sleep && rm -r /d && mkdir /d && echo 3 > /d/three
ENV KEPT=yes
ONBUILD RUN false
CMD ["cat", "/d/three"]
`})
	layers := func(image string) string {
		t.Helper()
		return e.MustViv("inspect", "--type", "image", "-f", "{{len .RootFS.Layers}}", image)
	}
	look := func(image string) string {
		t.Helper()
		return inImage(t, e, image, "echo $KEPT; find / -xdev ! -path '/proc/*' ! -path '/sys/*' ! -path '/dev/*' ! -path '/etc/host*' ! -path '/etc/resolv.conf' | sort; cat /hard")
	}
	first := build(t, e, dir, "-t", "plain")
	seen, base := look("plain"), layers("box")
	if !strings.Contains(seen, "/d/three\n") || strings.Contains(seen, "/d/one\n") || strings.Contains(seen, "/big\n") {
		t.Fatalf("the image has %s", seen)
	}
	id := build(t, e, dir, "--squash", "-t", "squashed")
	e.MustViv("squash", "-t", "later", "--from", "box", "plain")
	for _, name := range []string{"squashed", "later"} {
		if got := layers(name); base != "1" || got != "2" {
			t.Errorf("%s has %s layers, and the base %s", name, got, base)
		}
		if got := look(name); got != seen {
			t.Errorf("%s has %s, want %s", name, got, seen)
		}
		if got := strings.Count(e.MustViv("history", "--format", "{{.Comment}}", name), "merge of 3 layers"); got != 1 {
			t.Errorf("the history of %s says %d times that layers were merged", name, got)
		}
	}
	if again := build(t, e, dir, "--squash"); again != id {
		t.Errorf("the second build gave %s, the first %s", again, id)
	}
	build(t, e, dir, "--squash-all", "-t", "all")
	e.MustViv("squash", "-t", "all-later", "plain")
	for _, name := range []string{"all", "all-later"} {
		if got := layers(name); got != "1" {
			t.Errorf("%s has %s layers", name, got)
		}
		if got := look(name); got != seen {
			t.Errorf("%s has %s, want %s", name, got, seen)
		}
	}
	if got := e.MustViv("inspect", "--type", "image", "-f", "{{.Id}} {{json .Config.Cmd}}", "plain"); got != first+` ["cat","/d/three"]` {
		t.Errorf("the image itself was changed: %s", got)
	}
	want(t, e.Viv("run", "--rm", "--network", "none", "all-later"), 0, "3\n")
	if out := e.MustViv("system", "check"); out != "all is well" {
		t.Errorf("after squashing: %s", out)
	}
	fails(t, e.Viv("squash", "--from", "plain", "box"), 1, "does not begin with the layers of plain")
	fails(t, e.Viv("squash", "nobody"), 1, "nobody")
}

// TestBuildContexts takes the Dockerfile from standard input, and files from named contexts.
func TestBuildContexts(t *testing.T) {
	vivOnly(t, "the image is not one of a registry")
	e := newBox(t)
	one, two := contextDir(t, map[string]string{"f": "one", "x.Dockerfile": "FROM box\nCOPY f /x\n"}), contextDir(t, map[string]string{"f": "two"})
	cmd := e.Command("build", "-q", "-f", "-", "--build-context", "other="+two, "--build-context", "base=docker-image://box", one)
	cmd.Stdin = strings.NewReader("FROM base\nCOPY f /one\nCOPY --from=other f /two\n")
	res := cmd.Run()
	if res.Code != 0 {
		t.Fatal(res)
	}
	if got := inImage(t, e, strings.TrimSpace(res.Stdout), "cat /one /two"); got != "onetwo" {
		t.Errorf("the image has %q", got)
	}
	if got := inImage(t, e, build(t, e, one, "-f", one+"/x.Dockerfile"), "cat /x"); got != "one" {
		t.Errorf("the image has %q", got)
	}
	cmd = e.Command("build", "-")
	cmd.Stdin = strings.NewReader("FROM box\nCOPY f /one\n")
	if res := cmd.Run(); res.Code != 1 || !strings.Contains(res.Stderr, "no build context") {
		t.Errorf("a copy without a context: %v", res)
	}
}

// TestBuildCheck: the checks alone, which build and pull nothing.
func TestBuildCheck(t *testing.T) {
	vivOnly(t, "the store is looked into")
	e := testenv.Engine(t)
	dir := contextDir(t, map[string]string{"Dockerfile": "FROM nowhere.test/none\nRUN false\nCMD echo\n", "good": "FROM none\nRUN false\n",
		"bad": "# check=error=true\nFROM scratch\nCMD echo\n"})
	res := e.Viv("build", "--check", dir)
	if res.Code != 1 || !strings.HasPrefix(res.Stdout, "Check complete, 1 warning has been found!\n\nWARNING: JSONArgsRecommended - https://docs.docker.com/") ||
		!strings.Contains(res.Stdout, "   3 | >>> CMD echo\n") {
		t.Error(res)
	}
	if res := e.Viv("build", "--call=check", "-f", dir+"/good", dir); res.Code != 0 || res.Stdout != "Check complete, no warnings found.\n" {
		t.Error(res)
	}
	if res := e.Viv("build", "--call=nonsense", dir); res.Code == 0 {
		t.Error(res)
	}
	e.MustViv("import", "--platform", "linux/s390x", testenv.Image(t, "busybox").Rootfs, "foreign")
	foreign := contextDir(t, map[string]string{"Dockerfile": "FROM foreign\nLABEL a=b\n"})
	for _, args := range [][]string{{"build", "--check", foreign}, {"build", foreign}} {
		if res := e.Viv(args...); !strings.Contains(res.Stdout+res.Stderr, "InvalidBaseImagePlatform") {
			t.Errorf("%v: %v", args, res)
		}
	}
	e.MustViv("rmi", "-f", "foreign")
	e.MustViv("image", "prune", "-f")
	const want = "lint violation found for rules: JSONArgsRecommended"
	if res := e.Viv("build", "-f", dir+"/bad", dir); res.Code != 1 || !strings.Contains(res.Stderr, want) {
		t.Error(res)
	}
	e.MustViv("build", "-q", "--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skip=all", "-f", dir+"/bad", dir)
	if got := len(strings.Fields(e.MustViv("images", "-q"))); got != 1 {
		t.Errorf("%d images", got)
	}
}

// TestBuildFlags: flags of docker build that concern RUN, the cache and what is said of the result.
func TestBuildFlags(t *testing.T) {
	vivOnly(t, "the manifest is read from the store")
	e := newBox(t)
	dir := contextDir(t, map[string]string{"Dockerfile": "FROM box AS one\nRUN cat /proc/sys/kernel/random/uuid >/id\nFROM box\nCOPY --from=one /id /\n" +
		"RUN ulimit -n >/limits; df -k /dev/shm | tail -1 >>/limits\n"})
	meta := t.TempDir() + "/meta"
	flags := []string{"build", "-q", "--ulimit", "nofile=77:88", "--shm-size", "32m", "--annotation", "a.b=c", "--annotation", "manifest:d=e", "--metadata-file", meta, "-t", "flags"}
	first := e.MustViv(append(flags, dir)...)
	if got := inImage(t, e, first, "cat /limits"); !strings.HasPrefix(got, "77") || !strings.Contains(got, " 32768 ") {
		t.Errorf("limits of RUN: %q", got)
	}
	var m struct {
		Config     string `json:"containerimage.config.digest"`
		Digest     string `json:"containerimage.digest"`
		Names      string `json:"image.name"`
		Descriptor struct {
			MediaType string
			Size      int
		} `json:"containerimage.descriptor"`
	}
	text, err := os.ReadFile(meta)
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err != nil {
		t.Fatal(err)
	}
	if m.Config != first || m.Names != "flags:latest" || m.Descriptor.MediaType == "" {
		t.Errorf("metadata %+v, image %s", m, first)
	}
	manifest, err := os.ReadFile(e.Root + "/images/blobs/sha256/" + strings.TrimPrefix(m.Digest, "sha256:"))
	if err != nil || len(manifest) != m.Descriptor.Size || !strings.Contains(string(manifest), `"annotations":{"a.b":"c","d":"e"}`) {
		t.Errorf("manifest %s (%v)", manifest, err)
	}
	if again := e.MustViv(append(flags, dir)...); again != first {
		t.Errorf("built again: %s, before %s", again, first)
	}
	if again := e.MustViv(append(flags, "--no-cache-filter", "one", dir)...); again == first {
		t.Error("the stage that was not to be taken from the cache was")
	}
	if res := e.Viv("build", "--annotation", "index:a=b", dir); res.Code == 0 {
		t.Error(res)
	}
}

// TestBuildWarns: what BuildKit's checks find is said, and the build goes on.
func TestBuildWarns(t *testing.T) {
	vivOnly(t, "the format is ours")
	e := newBox(t)
	res := e.Viv("build", contextDir(t, map[string]string{"Dockerfile": "FROM box as b\nMAINTAINER x\nENV a b\nENV API_TOKEN=$NONE\nCMD echo\nCMD echo\n"}))
	if res.Code != 0 {
		t.Fatal(res)
	}
	for _, rule := range []string{"FromAsCasing", "MaintainerDeprecated", "LegacyKeyValueFormat", "SecretsUsedInArgOrEnv", "UndefinedVar", "JSONArgsRecommended", "MultipleInstructionsDisallowed"} {
		if !strings.Contains(res.Stderr, "WARN: "+rule) {
			t.Errorf("the check %s is silent: %v", rule, res)
		}
	}
}
