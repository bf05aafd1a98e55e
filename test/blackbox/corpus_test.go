package blackbox

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"vivarium/internal/testenv"
)

// TestBuildCorpus builds each Dockerfile of testdata/build, and where buildah is
// installed builds it with that too: the files of the images and their settings are to be
// the same. A file that begins with "# compare: no, WHY" is built by viv alone.
func TestBuildCorpus(t *testing.T) {
	vivOnly(t, "the corpus is compared with buildah")
	files, err := filepath.Glob("testdata/build/*.Dockerfile")
	if err != nil || len(files) < 40 {
		t.Fatalf("the corpus has %d files (%v)", len(files), err)
	}
	e := newBox(t)
	// buildah gives a PATH to images that have none.
	base := e.Command("build", "-q", "-t", box, "-")
	base.Stdin = strings.NewReader("FROM box\nENV PATH=/bin:/usr/bin\n")
	want(t, base.Run(), 0, strings.TrimSpace(e.MustViv("images", "-q", "--no-trunc", box))+"\n")
	other, why := newBuildah(t, e)
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".Dockerfile")
		t.Run(name, func(t *testing.T) {
			e.MustViv("build", "-q", "--network", "none", "-t", name, "-f", file, "testdata/build/context")
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if first, _, _ := strings.Cut(string(text), "\n"); strings.HasPrefix(first, "# compare: no, ") {
				return
			}
			if other == nil {
				t.Skip(why)
			}
			other.build(t, e, name, file)
			compareTrees(t, treeOf(t, e, name), treeOf(t, e, "other-"+name))
			if ours, theirs := settingsOf(t, e, name), settingsOf(t, e, "other-"+name); ours != theirs {
				t.Errorf("settings differ:\n  viv:     %s\n  buildah: %s", ours, theirs)
			}
		})
	}
}

// buildah is a buildah with storage of its own.
type buildah struct {
	dir  string
	args []string
}

func newBuildah(t *testing.T, e *testenv.Instance) (*buildah, string) {
	t.Helper()
	if _, err := exec.LookPath("buildah"); err != nil {
		return nil, "not compared: buildah is not installed"
	}
	dir := t.TempDir()
	b := &buildah{dir: dir, args: []string{"--root", dir + "/root", "--runroot", dir + "/run", "--storage-driver", "vfs"}}
	e.MustViv("save", "-o", dir+"/box.tar", box)
	id := b.run(t, "pull", "-q", "docker-archive:"+dir+"/box.tar")
	b.run(t, "tag", id, "localhost/box")
	return b, ""
}

func (b *buildah) run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("buildah", append(slices.Clone(b.args), args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("buildah %v: %v: %s", args, err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}

// build builds a file, and loads the image into viv, so that both are looked at by the
// same means.
func (b *buildah) build(t *testing.T, e *testenv.Instance, name, file string) {
	t.Helper()
	b.run(t, "bud", "-q", "--isolation", "chroot", "--format", "docker", "-t", "other-"+name, "-f", file, "testdata/build/context")
	archive := b.dir + "/image.tar"
	os.Remove(archive)
	b.run(t, "push", "-q", "other-"+name, "docker-archive:"+archive+":other-"+name+":latest")
	e.MustViv("load", "-i", archive)
}

// treeOf lists the files of an image, each as one line.
func treeOf(t *testing.T, e *testenv.Instance, image string) map[string]string {
	t.Helper()
	id := strings.TrimSpace(e.MustViv("create", "--network", "none", "--entrypoint", "", image, "true"))
	defer e.MustViv("rm", "-v", id)
	archive := filepath.Join(t.TempDir(), "tree.tar")
	e.MustViv("export", "-o", archive, id)
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out := map[string]string{}
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, tr); err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprintf("%c %04o %d:%d %s %d %x", h.Typeflag, h.Mode, h.Uid, h.Gid, h.Linkname, h.Size, sum.Sum(nil)[:4])
		for _, k := range slices.Sorted(maps.Keys(h.PAXRecords)) {
			if strings.HasPrefix(k, "SCHILY.xattr.") {
				line += " " + k + "=" + h.PAXRecords[k]
			}
		}
		out[strings.TrimSuffix(h.Name, "/")] = line
	}
}

// made are directories and files that engines make for what they mount.
var made = []string{"dev", "proc", "sys", "etc/hosts", "etc/hostname", "etc/resolv.conf", "run"}

func compareTrees(t *testing.T, ours, theirs map[string]string) {
	t.Helper()
	for name := range theirs {
		if _, ok := ours[name]; !ok {
			ours[name] = "(nothing)"
		}
	}
	for _, name := range slices.Sorted(maps.Keys(ours)) {
		theirs, ok := theirs[name]
		if !ok {
			theirs = "(nothing)"
		}
		if slices.ContainsFunc(made, func(m string) bool { return name == m || strings.HasPrefix(name, m+"/") }) {
			continue
		}
		if ours[name] != theirs {
			t.Errorf("/%s differs:\n  viv:     %s\n  buildah: %s", name, ours[name], theirs)
		}
	}
}

// settingsOf are an image's settings without what a builder writes of itself.
func settingsOf(t *testing.T, e *testenv.Instance, image string) string {
	t.Helper()
	var c map[string]any
	if err := json.Unmarshal([]byte(e.MustViv("inspect", "--type", "image", "-f", "{{json .Config}}", image)), &c); err != nil {
		t.Fatal(err)
	}
	if labels, ok := c["Labels"].(map[string]any); ok {
		delete(labels, "io.buildah.version")
		if len(labels) == 0 {
			delete(c, "Labels")
		}
	}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
