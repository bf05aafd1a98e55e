package store_test

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"vivarium/image/imagetest"
	"vivarium/image/store"
)

// initImage is an image of one layer.
func initImage(t *testing.T, entries ...imagetest.Entry) *imagetest.Image {
	t.Helper()
	return imagetest.Make(t, imagetest.PackGzip, nil, imagetest.Tar(t, entries...))
}

func trees(t *testing.T, s *store.Store, ref string) []string {
	t.Helper()
	img, err := s.Resolve(ref)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, l := range img.Layers {
		out = append(out, l.Dir)
	}
	return out
}

func list(t *testing.T, dir string) string {
	t.Helper()
	out, err := exec.Command("find", dir, "-mindepth", "1", "-printf", "%P %y %m %U:%G %s\\n").Output()
	if err != nil {
		t.Fatal(err)
	}
	var l []string
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); f[1] == "d" {
			line = strings.Join(f[:4], " ") + "\n" // a directory's size is its file system's affair
		}
		l = append(l, line)
	}
	return sortedLines(l)
}

func TestInitLayerOfAnEmptyImage(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	s, _ := open(t)
	add(t, s, initImage(t, imagetest.File("hello", "x")), "", full)
	below := trees(t, s, "one")
	if tree, known, err := s.FindInit(below); tree != "" || known || err != nil {
		t.Fatalf("before: %q %v %v", tree, known, err)
	}
	tree, err := s.InitLayer(ctx, below)
	if err != nil {
		t.Fatal(err)
	}
	want := sortedLines([]string{"dev d 755 0:0\n", "dev/console f 755 0:0 0\n", "dev/pts d 755 0:0\n", "dev/shm d 755 0:0\n",
		"etc d 755 0:0\n", "etc/hostname f 755 0:0 0\n", "etc/hosts f 755 0:0 0\n", "etc/resolv.conf f 755 0:0 0\n",
		"proc d 755 0:0\n", "sys d 755 0:0\n"})
	if got := list(t, tree); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if again, err := s.InitLayer(ctx, below); again != tree || err != nil {
		t.Errorf("again: %q, %v", again, err)
	}
	if !store.IsInit(tree) || store.IsInit(below[0]) {
		t.Errorf("IsInit(%q) = %v, IsInit(%q) = %v", tree, store.IsInit(tree), below[0], store.IsInit(below[0]))
	}
}

// TestInitLayerLooksLikeTheImage: what the image has stays as it looks, links are
// followed, and what is in the way of a target stays.
func TestInitLayerLooksLikeTheImage(t *testing.T) {
	needRoot(t)
	s, _ := open(t)
	etc := imagetest.Dir("usr/etc", 0o750)
	etc.Uid, etc.Gid = 3, 4
	add(t, s, initImage(t, etc, imagetest.File("usr/etc/hosts", "mine"), imagetest.Symlink("etc", "usr/etc"),
		imagetest.Symlink("usr/etc/resolv.conf", "../../run/resolv.conf"), imagetest.Symlink("usr/etc/hostname", "hostname"),
		imagetest.File("dev", "no directory"), imagetest.Dir("proc", 0o555), imagetest.Dir("sys", 0o555)), "", full)
	below := trees(t, s, "one")
	tree, err := s.InitLayer(context.Background(), below)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := list(t, tree), sortedLines([]string{"run d 755 0:0\n", "run/resolv.conf f 755 0:0 0\n"}); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}

	add(t, s, initImage(t, etc, imagetest.File("usr/etc/hosts", "mine"), imagetest.Symlink("etc", "usr/etc")), "", "docker.io/library/two:latest")
	below = trees(t, s, "two")
	if tree, err = s.InitLayer(context.Background(), below); err != nil {
		t.Fatal(err)
	}
	got := list(t, tree)
	if !strings.Contains(got, "usr/etc d 750 3:4\n") || !strings.Contains(got, "usr/etc/resolv.conf f") || strings.Contains(got, "usr/etc/hosts ") {
		t.Errorf("got\n%s", got)
	}
	for _, p := range []string{"", "/usr", "/usr/etc"} {
		var a, b unix.Stat_t
		if err := unix.Stat(tree+p, &a); err != nil {
			t.Fatal(err)
		}
		if err := unix.Stat(below[0]+p, &b); err != nil {
			t.Fatal(err)
		}
		if a.Mode != b.Mode || a.Uid != b.Uid || a.Gid != b.Gid || a.Mtim != b.Mtim {
			t.Errorf("%q is %o %d:%d %v in the init layer and %o %d:%d %v in the image", p, a.Mode, a.Uid, a.Gid, a.Mtim, b.Mode, b.Uid, b.Gid, b.Mtim)
		}
	}
}

func TestNoInitLayerIsNeeded(t *testing.T) {
	needRoot(t)
	s, root := open(t)
	add(t, s, initImage(t, imagetest.Dir("dev", 0o755), imagetest.Dir("dev/pts", 0o755), imagetest.Dir("dev/shm", 0o755), imagetest.File("dev/console", ""),
		imagetest.Dir("etc", 0o755), imagetest.File("etc/hosts", ""), imagetest.File("etc/hostname", ""), imagetest.File("etc/resolv.conf", ""),
		imagetest.Dir("proc", 0o755), imagetest.Dir("sys", 0o755)), "", full)
	below := trees(t, s, "one")
	for range 2 {
		tree, err := s.InitLayer(context.Background(), below)
		if tree != "" || err != nil {
			t.Fatalf("%q, %v", tree, err)
		}
		if _, known, err := s.FindInit(below); !known || err != nil {
			t.Errorf("not known afterwards: %v", err)
		}
	}
	if got := list(t, root+"/layers/init"); strings.Count(got, "\n") > 1 {
		t.Errorf("got\n%s", got)
	}
}

func TestInitLayersMadeAtOnce(t *testing.T) {
	needRoot(t)
	s, root := open(t)
	add(t, s, initImage(t, imagetest.File("hello", "x")), "", full)
	below := trees(t, s, "one")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			hold, err := s.Hold(context.Background())
			if err != nil {
				t.Error(err)
				return
			}
			defer hold()
			if tree, err := s.InitLayer(context.Background(), below); err != nil || tree == "" {
				t.Errorf("%q, %v", tree, err)
			}
		})
	}
	wg.Wait()
	if got := list(t, root+"/tmp"); strings.TrimSpace(got) != "" {
		t.Errorf("left in staging:\n%s", got)
	}
}

// TestInitLayerLivesWithItsImage: it goes when neither an image nor a container
// needs it, and a damaged one is found.
func TestInitLayerLivesWithItsImage(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	s, root := open(t)
	add(t, s, initImage(t, imagetest.File("hello", "x")), "", full)
	below := trees(t, s, "one")
	tree, err := s.InitLayer(ctx, below)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.GC(ctx); err != nil {
		t.Fatal(err)
	}
	if found, err := s.Check(ctx, true); err != nil || len(found) > 0 {
		t.Fatalf("check: %v, %v", found, err)
	}
	if err := os.WriteFile(tree+"/etc/hosts", []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if found, err := s.Check(ctx, true); err != nil || len(found) != 1 || !found[0].Repaired {
		t.Errorf("check of a damaged one: %v, %v", found, err)
	}
	if _, err := s.InitLayer(ctx, below); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(tree + "/etc/hosts"); err != nil || st.Size() != 0 {
		t.Errorf("not made again: %v", err)
	}
	users := []store.User{{Container: "c", Layers: append(below, tree)}}
	s.Users = func(context.Context) ([]store.User, error) { return users, nil }
	if _, err := s.Remove(ctx, "one", true); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(tree); err != nil {
		t.Errorf("removed below its container: %v", err)
	}
	users = nil
	if _, err := s.GC(ctx); err != nil {
		t.Fatal(err)
	}
	if got := list(t, root+"/layers/init"); strings.TrimSpace(got) != "" {
		t.Errorf("left:\n%s", got)
	}
}

func sortedLines(l []string) string {
	slices.Sort(l)
	return strings.Join(l, "")
}
