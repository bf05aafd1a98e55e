package oci

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vivarium/internal/testenv"
)

// viv is our engine, with which others exchange images.
type viv struct {
	t    *testing.T
	dir  string
	path string
}

func newViv(t *testing.T) *viv {
	t.Helper()
	v := &viv{t: t, dir: t.TempDir(), path: testenv.Binary(t, "viv")}
	t.Cleanup(func() {
		v.must("system", "reset", "-f")
	})
	v.must("load", "-i", testenv.Image(t, "busybox").Archive)
	v.must("tag", testenv.Image(t, "busybox").Ref, "box")
	return v
}

func (v *viv) do(args ...string) testenv.Result {
	return testenv.Tool(v.t, v.path, append([]string{"--root", v.dir + "/root", "--state", v.dir + "/state"}, args...)...).Run()
}

func (v *viv) must(args ...string) string {
	v.t.Helper()
	res := v.do(args...)
	if res.Code != 0 {
		v.t.Fatalf("%v", res)
	}
	return strings.TrimSuffix(res.Stdout, "\n")
}

// build builds an image in several layers, with what images are made of: a whiteout, links,
// modes, owners, an attribute of a file, settings.
func (v *viv) build() {
	v.t.Helper()
	dir := v.t.TempDir()
	file := `FROM box
RUN echo first >/gone && echo base >/changed && mkdir -m 1777 /sticky
RUN rm /gone && echo changed >/changed && ln /changed /other && ln -s changed /link && chown 7:8 /changed && chmod 4750 /changed
COPY --chown=app . /copied
ENV COLOR=red
USER app
WORKDIR /copied
LABEL made.by=viv
CMD ["sh", "-c", "` + looks + `"]
`
	for name, text := range map[string]string{"Dockerfile": file, "sub/file": "of the context\n"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			v.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			v.t.Fatal(err)
		}
	}
	v.must("build", "-q", "--network", "none", "-t", "made", dir)
}

// looks prints what such an image has, and seen is what it prints.
const (
	looks = `test -e /gone || echo gone; stat -c '%a %u:%g %h' /changed /sticky; readlink /link; cat sub/file; stat -c %u:%g sub/file; echo $COLOR; id -u; pwd`
	seen  = "gone\n4750 7:8 2\n1777 0:0 2\nchanged\nof the context\n1000:1000\nred\n1000\n/copied\n"
)

// testImages exchanges images with an engine, both ways.
func testImages(t *testing.T, e *engine) {
	v := newViv(t)
	v.build()
	archive := filepath.Join(t.TempDir(), "made.tar")
	v.must("save", "-o", archive, "made")
	e.must("load", "-i", archive)
	name := "made"
	if e.name == "podman" {
		name = "docker.io/library/made"
	}
	t.Cleanup(func() { e.must("rmi", "-f", name) })
	want(t, e.run("--rm", name).Run(), 0, seen)
	if got := e.must("inspect", "--type", "image", "-f", `{{index .Config.Labels "made.by"}} {{.Config.User}} {{len .RootFS.Layers}}`, name); got != "viv app 5" {
		t.Errorf("the image says %q", got)
	}

	dir := t.TempDir()
	file := fmt.Sprintf("FROM %s\nRUN echo first >/gone && mkdir /deep && echo x >/deep/file\nRUN rm -r /gone /deep && mkdir /deep && echo y >/deep/other\nUSER app\nENV A=b\nCMD ls /deep; test -e /gone || echo gone; id -u; echo $A\n", box)
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(file), 0o644); err != nil {
		t.Fatal(err)
	}
	e.must(append(append([]string{"build", "-t", "localhost/theirs"}, e.build...), dir)...)
	t.Cleanup(func() { e.must("rmi", "-f", "localhost/theirs") })
	theirs := filepath.Join(t.TempDir(), "theirs.tar")
	e.must("save", "-o", theirs, "localhost/theirs")
	v.must("load", "-i", theirs)
	want(t, v.do("run", "--rm", "--network", "none", "localhost/theirs"), 0, "other\ngone\n1000\nb\n")
}

// TestSkopeo copies what was built between all forms that skopeo knows, and back.
func TestSkopeo(t *testing.T) {
	need(t, "skopeo")
	v := newViv(t)
	v.build()
	layers := v.must("inspect", "--type", "image", "-f", "{{.RootFS.Layers}}", "made")
	dir := t.TempDir()
	v.must("save", "-o", dir+"/docker.tar", "made")
	v.must("save", "--format", "oci-archive", "-o", dir+"/oci.tar", "made")
	for _, c := range [][2]string{
		{"docker-archive:" + dir + "/docker.tar", "oci:" + dir + "/layout:made"},
		{"oci-archive:" + dir + "/oci.tar", "dir:" + dir + "/plain"},
		{"oci:" + dir + "/layout:made", "docker-archive:" + dir + "/again.tar:made:latest"},
	} {
		if res := testenv.Tool(t, "skopeo", "copy", "--insecure-policy", c[0], c[1]).Run(); res.Code != 0 {
			t.Errorf("%v", res)
		}
	}
	v.must("rmi", "-f", "made")
	if out := v.must("load", "-i", dir+"/again.tar"); !strings.Contains(out, "made:latest") {
		t.Errorf("load says %q", out)
	}
	if got := v.must("inspect", "--type", "image", "-f", "{{.RootFS.Layers}}", "made"); got != layers {
		t.Errorf("the layers were %s, and are %s", layers, got)
	}
	want(t, v.do("run", "--rm", "--network", "none", "made"), 0, seen)
}

// TestUmoci unpacks what was built with umoci, changes it there, and runs what comes of it.
func TestUmoci(t *testing.T) {
	need(t, "skopeo", "umoci")
	v := newViv(t)
	v.build()
	dir := t.TempDir()
	tool := func(name string, args ...string) string {
		t.Helper()
		res := testenv.Tool(t, name, args...).Run()
		if res.Code != 0 {
			t.Fatalf("%v", res)
		}
		return res.Stdout
	}
	v.must("save", "-o", dir+"/made.tar", "made")
	tool("skopeo", "copy", "--insecure-policy", "docker-archive:"+dir+"/made.tar", "oci:"+dir+"/layout:made")
	tool("umoci", "unpack", "--image", dir+"/layout:made", dir+"/bundle")
	root := dir + "/bundle/rootfs"
	if b, err := os.ReadFile(root + "/copied/sub/file"); err != nil || string(b) != "of the context\n" {
		t.Errorf("unpacked: %q %v", b, err)
	}
	if _, err := os.Lstat(root + "/gone"); !os.IsNotExist(err) {
		t.Errorf("what was removed is there: %v", err)
	}
	var spec struct{ Process struct{ Cwd string } }
	if b, err := os.ReadFile(dir + "/bundle/config.json"); err != nil || json.Unmarshal(b, &spec) != nil || spec.Process.Cwd != "/copied" {
		t.Errorf("the bundle's working directory is %q (%v)", spec.Process.Cwd, err)
	}
	if err := os.WriteFile(root+"/by-umoci", []byte("new\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(root + "/link"); err != nil {
		t.Fatal(err)
	}
	tool("umoci", "repack", "--image", dir+"/layout:changed", dir+"/bundle")
	tool("umoci", "config", "--image", dir+"/layout:changed", "--config.env", "COLOR=blue")
	tool("skopeo", "copy", "--insecure-policy", "oci:"+dir+"/layout:changed", "oci-archive:"+dir+"/changed.tar:changed")
	loaded := strings.Fields(v.must("load", "-i", dir+"/changed.tar"))
	want(t, v.do("run", "--rm", "--network", "none", loaded[len(loaded)-1], "sh", "-c", "cat /by-umoci; test -e /link || echo gone; echo $COLOR"), 0, "new\ngone\nblue\n")
}
