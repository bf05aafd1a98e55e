package blackbox

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vivarium/internal/testenv"
)

// TestUnionOfTheNotes is a walk that notes on AUFS often have: four layers of an
// image and one of a container, mounted, changed, and looked at.
func TestUnionOfTheNotes(t *testing.T) {
	vivOnly(t, "Docker has no such command")
	testenv.Root(t)
	e := testenv.Engine(t)
	dir := t.TempDir()
	in := func(names ...string) string { return filepath.Join(append([]string{dir}, names...)...) }
	for _, name := range []string{"container-layer", "image-layer1", "image-layer2", "image-layer3", "image-layer4", "mnt"} {
		must(t, os.Mkdir(in(name), 0o755))
		if strings.HasPrefix(name, "image") {
			plantFile(t, "I am "+name+"\n", in(name, name+".txt"))
			plantFile(t, name+"\n", in(name, "all.txt"))
		}
	}
	viv := func(args ...string) testenv.Result {
		c := e.Command(append([]string{"union"}, args...)...)
		c.Dir = dir
		return c.Run()
	}
	options := "dirs=./container-layer:./image-layer4:./image-layer3:./image-layer2:./image-layer1"
	want(t, viv("mount", "-o", options, "none", "./mnt"), 0, "")
	t.Cleanup(func() {
		if err := unix.Unmount(in("mnt"), unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			t.Error(err)
		}
	})
	want(t, e.Tool("cat", in("mnt", "all.txt"), in("mnt", "image-layer1.txt")).Run(), 0, "image-layer4\nI am image-layer1\n")
	must(t, os.WriteFile(in("mnt", "image-layer4.txt"), []byte("write to mnt's image-layer4.txt\n"), 0o644))
	must(t, os.Remove(in("mnt", "image-layer2.txt")))
	// The image is as it was; what was written is in the layer of the container.
	want(t, e.Tool("cat", in("image-layer4", "image-layer4.txt"), in("container-layer", "image-layer4.txt")).Run(), 0,
		"I am image-layer4\nwrite to mnt's image-layer4.txt\n")
	if _, err := os.Lstat(in("container-layer", ".wh.image-layer2.txt")); err != nil {
		t.Errorf("no whiteout: %v", err)
	}

	want(t, viv("ls", "--format", "{{.Index}} {{.Permissions}} {{.Branch}}", "mnt"), 0,
		"0 rw "+in("container-layer")+"\n1 ro "+in("image-layer4")+"\n2 ro "+in("image-layer3")+"\n3 ro "+in("image-layer2")+"\n4 ro "+in("image-layer1")+"\n")
	if r := viv("ls", "-q"); !strings.Contains(r.Stdout, in("mnt")+"\n") {
		t.Errorf("ls: %v", r)
	}
	want(t, viv("diff", "mnt"), 0, "D /image-layer2.txt\nC /image-layer4.txt\n")
	want(t, viv("where", "--format", "{{.Index}} {{.State}}", "mnt/all.txt"), 0, "1 shown\n2 hidden\n3 hidden\n4 hidden\n")
	r := viv("where", "--format", "{{.Index}} {{.State}} {{.Name}}", "mnt/image-layer2.txt")
	if r.Code != 1 || r.Stdout != "0 whiteout /image-layer2.txt\n3 hidden /image-layer2.txt\n" {
		t.Errorf("where a deleted file was: %v", r)
	}
	want(t, viv("check", "mnt"), 0, "")
	fails(t, viv("commit", "mnt"), 1, "mounted")

	must(t, os.Mkdir(in("more"), 0o755))
	want(t, viv("branch", "add", "--at", "1", "mnt", "./more"), 0, "")
	want(t, viv("branch", "mod", "mnt", "./more=rw"), 0, "")
	want(t, viv("ls", "--format", "{{.Permissions}} {{.Branch}}", "mnt"), 0,
		"rw "+in("container-layer")+"\nrw "+in("more")+"\nro "+in("image-layer4")+"\nro "+in("image-layer3")+"\nro "+in("image-layer2")+"\nro "+in("image-layer1")+"\n")
	want(t, viv("branch", "del", "mnt", "./more"), 0, "")
	fails(t, viv("branch", "del", "mnt", "./more"), 1, "more")
	fails(t, viv("branch", "mod", "mnt", "./image-layer1"), 1, "permissions")

	want(t, viv("umount", "mnt"), 0, "mnt\n")
	fails(t, viv("umount", "mnt"), 1, "no union")
	fails(t, viv("where", "mnt/all.txt"), 1, "no union")
	want(t, viv("commit", "-o", options), 0, "")
	if _, err := os.Lstat(in("container-layer", "image-layer4.txt")); err == nil {
		t.Error("commit leaves a file where it was")
	}
	lower := "dirs=./image-layer4=ro+wh:./image-layer3:./image-layer2:./image-layer1"
	want(t, viv("where", "--format", "{{.Index}} {{.State}}", "-o", lower, "image-layer4.txt"), 0, "0 shown\n")
	if r := viv("where", "-o", lower, "image-layer2.txt"); r.Code != 1 {
		t.Errorf("a deleted file is back: %v", r)
	}
}

func TestUnionRefused(t *testing.T) {
	vivOnly(t, "Docker has no such command")
	testenv.Root(t)
	e := testenv.Engine(t)
	dir := t.TempDir()
	fails(t, e.Viv("union", "mount", "-o", "dirs="+dir+"/none", "none", dir), 1, "none")
	fails(t, e.Viv("union", "mount", "-o", "udba=never", dir), 1, "udba")
	fails(t, e.Viv("union", "mount", dir), 1, "no branches")
	fails(t, e.Viv("union", "ls", dir), 1, "no union")
	fails(t, e.Viv("union", "branch", "add", dir, dir), 1, "no union")
	fails(t, e.Viv("union", "check", "-o", "dirs="+dir, "--type", "zfs"), 1, "zfs")
	fails(t, e.Viv("union", "diff", "-o", "dirs="+dir, dir), 1, "not both")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
