package blackbox

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"vivarium/internal/testenv"
)

// archive packs files, gzipped.
func archive(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	w := tar.NewWriter(z)
	for name, text := range files {
		hdr := tar.Header{Name: name, Mode: 0o644, Size: int64(len(text)), Typeflag: tar.TypeReg, Uid: 12, Gid: 34}
		if target, ok := strings.CutPrefix(text, "-> "); ok {
			hdr.Typeflag, hdr.Linkname, hdr.Size, text = tar.TypeSymlink, target, 0, ""
		}
		if err := w.WriteHeader(&hdr); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// piped runs `build -q`, with what comes on standard input.
func piped(e *testenv.Instance, stdin []byte, args ...string) testenv.Result {
	cmd := e.Command(append([]string{"build", "-q"}, args...)...)
	cmd.Stdin = bytes.NewReader(stdin)
	return cmd.Run()
}

// TestBuildFromArchive: a context on standard input.
func TestBuildFromArchive(t *testing.T) {
	vivOnly(t, "messages are ours")
	e := newBox(t)
	files := map[string]string{"Dockerfile": "FROM box\nCOPY f /f\n", "sub/other": "FROM box\nCOPY f /g\n", "f": "text", "outside": "-> /etc/hostname"}
	res := piped(e, archive(t, files), "-")
	if got := inImage(t, e, strings.TrimSpace(res.Stdout), "cat /f; stat -c %u:%g /f"); got != "text0:0" {
		t.Errorf("%q, %v", got, res)
	}
	res = piped(e, archive(t, files), "-f", "sub/other", "-")
	if got := inImage(t, e, strings.TrimSpace(res.Stdout), "cat /g"); got != "text" {
		t.Errorf("%q, %v", got, res)
	}
	if res := piped(e, []byte("FROM box\nRUN true\n"), "-"); res.Code != 0 {
		t.Error(res)
	}
	cut := archive(t, files)
	for name, c := range map[string]struct {
		in   []byte
		args []string
		want string
	}{
		"cut off":             {cut[:len(cut)-20], []string{"-"}, "unable to prepare context"},
		"no Dockerfile":       {archive(t, map[string]string{"f": "x"}), []string{"-"}, "failed to read dockerfile"},
		"Dockerfile outside":  {archive(t, files), []string{"-f", "outside", "-"}, "failed to read dockerfile"},
		"Dockerfile above":    {archive(t, files), []string{"-f", "../../../../etc/hostname", "-"}, "failed to read dockerfile"},
		"compressed nonsense": {gzipped(t, "FROM box\n"), []string{"-"}, "no tar archive"},
	} {
		if res := piped(e, c.in, c.args...); res.Code != 1 || !strings.Contains(res.Stderr, c.want) {
			t.Errorf("%s: %v", name, res)
		}
	}
}

func gzipped(t *testing.T, text string) []byte {
	t.Helper()
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	if _, err := z.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// repository makes a git repository below dir, and a branch "side" of it.
func repository(t *testing.T, dir string, files, side map[string]string) {
	t.Helper()
	git := func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=t", "-c", "user.email=t@t.test", "-c", "init.defaultBranch=main", "-c", "protocol.file.allow=always"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	git("init", "-q")
	put := func(files map[string]string, message string) {
		for name, text := range files {
			if where, ok := strings.CutPrefix(text, "submodule "); ok {
				from, url, _ := strings.Cut(where, " ") // the address is good in another network namespace
				git("submodule", "--quiet", "add", from, name)
				git("config", "-f", ".gitmodules", "submodule."+name+".url", url)
				continue
			}
			full := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
				t.Fatal(err)
			}
			var err error
			if target, ok := strings.CutPrefix(text, "-> "); ok {
				err = os.Symlink(target, full)
			} else {
				err = os.WriteFile(full, []byte(text), 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		git("add", "-A")
		git("commit", "-q", "-m", message)
	}
	put(files, "first")
	git("checkout", "-q", "-b", "side")
	put(side, "second")
	git("checkout", "-q", "main")
}

// TestBuildFromAddresses: a context that is a repository, an archive or a Dockerfile of the
// web, and ADD of a repository.
func TestBuildFromAddresses(t *testing.T) {
	vivOnly(t, "messages are ours")
	e := newBox(t)
	l, err := e.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	web := "http://" + l.Addr().String()
	repos := t.TempDir()
	repository(t, repos+"/inner.git", map[string]string{"deep": "submodule's"}, map[string]string{"x": "x"})
	repository(t, repos+"/r.git", map[string]string{
		"Dockerfile": "FROM box\nCOPY . /src\n", "f": "main", "sub/Dockerfile": "FROM box\nCOPY g /g\n", "sub/g": "below", "out": "-> /etc",
	}, map[string]string{"f": "side"})
	mux := http.NewServeMux()
	mux.Handle("/git/", &cgi.Handler{Path: gitBackend(t), Root: "/git", Stderr: io.Discard, Env: []string{"GIT_PROJECT_ROOT=" + repos, "GIT_HTTP_EXPORT_ALL=1"}})
	files := map[string][]byte{
		"/context.tar.gz": archive(t, map[string]string{"Dockerfile": "FROM box\nCOPY f /f\n", "f": "packed"}),
		"/Dockerfile":     []byte("FROM box\nRUN echo plain >/f\n"),
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if text, ok := files[r.URL.Path]; ok {
			_, _ = w.Write(text)
			return
		}
		http.NotFound(w, r)
	})
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })

	repo := web + "/git/r.git"
	for _, c := range []struct{ where, look, want string }{
		{repo, "cat /src/f; ls -A /src | tr '\\n' ' '", "mainDockerfile f out sub "},
		{repo + "#side", "cat /src/f", "side"},
		{repo + "#:sub", "cat /g", "below"},
		{repo + "#main:sub", "cat /g", "below"},
		{repo + "#:../sub", "cat /g", "below"}, // above the top is the top
		{web + "/context.tar.gz", "cat /f", "packed"},
		{web + "/Dockerfile", "cat /f", "plain"},
	} {
		res := e.Viv("build", "-q", c.where)
		if res.Code != 0 {
			t.Errorf("%s: %v", c.where, res)
			continue
		}
		if got := inImage(t, e, strings.TrimSpace(res.Stdout), c.look); got != c.want {
			t.Errorf("%s: %q, want %q", c.where, got, c.want)
		}
	}
	for where, want := range map[string]string{
		web + "/git/none.git": "unable to prepare context", web + "/nothing": "404 Not Found", repo + "#none": "unable to prepare context",
		repo + "#:f": "is no directory", repo + "#:out": "is no directory", repo + "#:none": "no such file", repo + "#--upload-pack=x": "this is no repository",
	} {
		if res := e.Viv("build", "-q", where); res.Code != 1 || !strings.Contains(res.Stderr, want) {
			t.Errorf("%s: %v, want %q", where, res, want)
		}
	}

	// A repository with another one in it, from a Dockerfile.
	repository(t, repos+"/outer.git", map[string]string{"in": "submodule " + repos + "/inner.git " + web + "/git/inner.git"}, map[string]string{"y": "y"})
	res := piped(e, []byte("FROM box\nADD "+web+"/git/outer.git /o\nADD --keep-git-dir=true "+repo+"#side:sub /s\n"), "-")
	if got := inImage(t, e, strings.TrimSpace(res.Stdout), "cat /o/in/deep; ls -A /o /o/in | tr '\\n' ' '; cat /s/g"); got != "submodule's/o: .gitmodules in  /o/in: deep below" {
		t.Errorf("%q, %v", got, res)
	}
}

// gitBackend is the program by which git speaks HTTP (git-http-backend(1)).
func gitBackend(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out)) + "/git-http-backend"
}
