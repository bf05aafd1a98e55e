package blackbox

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
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
WORKDIR /work
WORKDIR sub
RUN pwd > /where
COPY --chown=alice:staff --chmod=640 a.txt b.txt ./
COPY dir /copied
ADD files.tar /unpacked/

FROM base AS unneeded
RUN exit 1

FROM box
LABEL one=1 two="2 3"
COPY --from=base /greeting /copied /
COPY --from=base --chown=0 /work/sub/a.txt /out/
RUN <<EOF
echo first > /heredoc
echo second >> /heredoc
EOF
COPY <<one <<two /inline/
text of one
one
text of two
two
USER alice
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
	if c.User != "alice" || c.StopSignal != "SIGUSR1" || len(c.Entrypoint) != 1 || c.Labels["two"] != "2 3" || c.Labels["three"] != "3" ||
		len(c.ExposedPorts) != 2 || len(c.Volumes) != 1 || len(c.Healthcheck.Test) != 2 {
		t.Errorf("the settings are not those of the Dockerfile: %s", config)
	}
	if again := build(t, e, dir, "-t", "made", "--label", "three=3"); again != id {
		t.Errorf("the second build gave %s, the first %s", again, id)
	}
	id = build(t, e, dir, "--target", "base", "--build-arg", "WHO=you")
	got = inImage(t, e, id, "cat /greeting /where; stat -c '%u %g' /unpacked/a.txt; stat -c '%U %G %a' /work/sub/a.txt")
	if got != "hello you\n/work/sub\n7 8\nalice staff 640" {
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
