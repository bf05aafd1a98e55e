package unionfs

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vivarium/layer"
	"vivarium/unionfs/unionfstest"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts")
	}
}

func mkdirs(t *testing.T, dirs ...string) {
	t.Helper()
	for _, d := range dirs {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// overlayDriver makes the union below a directory of this name.
// overlayDriver makes overlays as the engine does: in the old way where the kernel
// has no other.
func overlayDriver(base string, opts OverlayOptions) unionfstest.Driver {
	opts.Joined = opts.Joined || !LowerPlus()
	return func(t *testing.T, lower []string) *os.File {
		dir := filepath.Join(t.TempDir(), base)
		mkdirs(t, dir+"/upper", dir+"/work")
		r, err := Overlay(lower, dir+"/upper", dir+"/work", opts)
		if err != nil {
			t.Fatal(err)
		}
		root, err := Mount(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { root.Close() })
		return root
	}
}

func TestOverlay(t *testing.T) {
	needRoot(t)
	if !LowerPlus() {
		t.Log("this kernel's overlay has no lowerdir+")
	}
	for name, d := range map[string]unionfstest.Driver{
		"plain":             overlayDriver("x", OverlayOptions{}),
		"ephemeral":         overlayDriver("x", OverlayOptions{Ephemeral: true}),
		"joined":            overlayDriver("x", OverlayOptions{Joined: true}),
		"odd names":         overlayDriver(`a:b\c, d`, OverlayOptions{}),
		"odd names, joined": overlayDriver(`a:b\c, d`, OverlayOptions{Joined: true}),
		"long names":        overlayDriver(strings.Repeat("n", 240)+"/"+strings.Repeat("m", 240), OverlayOptions{}),
	} {
		t.Run(name, func(t *testing.T) { unionfstest.Run(t, d) })
	}
}

// TestOverlayChanges: what is packed of an upper directory.
func TestOverlayChanges(t *testing.T) {
	unionfstest.Changes(t, func(t *testing.T, lower []string) unionfstest.Writable {
		dir := t.TempDir()
		l := Layer{Upper: dir + "/upper", Work: dir + "/work", Lower: lower}
		mkdirs(t, l.Upper, l.Work)
		root, err := ByOverlay{}.Open(context.Background(), l)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { root.Close() })
		return unionfstest.Writable{Root: "/proc/self/fd/" + itoa(root.Fd()), Changes: func() layer.Upper {
			up, err := ByOverlay{}.Changes(l)
			if err != nil {
				t.Fatal(err)
			}
			return up
		}}
	})
}

// TestHostAsLowerLayer is the image "host": "/" below, upper and work on it.
func TestHostAsLowerLayer(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	mkdirs(t, dir+"/upper", dir+"/work")
	for _, joined := range []bool{!LowerPlus(), true} {
		r, err := Overlay([]string{"/"}, dir+"/upper", dir+"/work", OverlayOptions{Ephemeral: false, Joined: joined})
		if err != nil {
			t.Fatal(err)
		}
		root, err := Mount(r)
		if err != nil {
			t.Fatal(err)
		}
		sub, err := os.ReadDir("/proc/self/fd/" + itoa(root.Fd()) + "/proc")
		if err != nil || len(sub) != 0 {
			t.Errorf("a mount of the host shows through: %d entries, %v", len(sub), err)
		}
		if _, err := os.Stat("/proc/self/fd/" + itoa(root.Fd()) + "/etc/passwd"); err != nil {
			t.Error(err)
		}
		name := filepath.Join("/proc/self/fd/"+itoa(root.Fd()), "viv-test-file")
		if err := os.WriteFile(name, []byte("x"), 0o600); err != nil {
			t.Error(err)
		}
		root.Close()
	}
	if _, err := os.Lstat("/viv-test-file"); err == nil {
		t.Error("wrote into the host")
	}
	up, err := os.Open(dir + "/upper")
	if err != nil {
		t.Fatal(err)
	}
	defer up.Close()
	got, err := layer.Changes(context.Background(), layer.Upper{Dir: up, Lower: []string{"/"}})
	if err != nil || len(got) != 1 || got[0] != (layer.Change{Kind: layer.Added, Path: "/viv-test-file"}) {
		t.Errorf("changes: %v %v", got, err)
	}
}

func itoa(fd uintptr) string {
	s := ""
	for n := int(fd); ; n /= 10 {
		s = string(rune('0'+n%10)) + s
		if n < 10 {
			return s
		}
	}
}

// TestMountIsDetached makes sure that no mount shows, before and after.
func TestMountIsDetached(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	mkdirs(t, dir+"/a", dir+"/b", dir+"/upper", dir+"/work")
	for _, joined := range []bool{!LowerPlus(), true} {
		r, err := Overlay([]string{dir + "/a", dir + "/b"}, dir+"/upper", dir+"/work", OverlayOptions{Joined: joined})
		if err != nil {
			t.Fatal(err)
		}
		root, err := Mount(r)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil || strings.Contains(string(b), dir) {
			t.Errorf("the mount is attached somewhere (%v)", err)
		}
		var st unix.Statfs_t
		if err := unix.Fstatfs(int(root.Fd()), &st); err != nil || st.Type != unix.OVERLAYFS_SUPER_MAGIC {
			t.Errorf("type %x, %v", st.Type, err)
		}
		root.Close()
	}
}

func TestUpperOnlyChanges(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	mkdirs(t, dir+"/low/d", dir+"/upper", dir+"/work")
	if err := os.WriteFile(dir+"/low/d/f", []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := Overlay([]string{dir + "/low"}, dir+"/upper", dir+"/work", OverlayOptions{Joined: !LowerPlus()})
	if err != nil {
		t.Fatal(err)
	}
	root, err := Mount(r)
	if err != nil {
		t.Fatal(err)
	}
	p := "/proc/self/fd/" + itoa(root.Fd())
	for _, step := range []error{os.Remove(p + "/d/f"), os.Remove(p + "/d"), os.Mkdir(p+"/d", 0o755), os.WriteFile(p+"/d/g", nil, 0o644), os.Chmod(p+"/d/g", 0o600)} {
		if step != nil {
			t.Fatal(step)
		}
	}
	root.Close()
	up, err := os.Open(dir + "/upper")
	if err != nil {
		t.Fatal(err)
	}
	defer up.Close()
	got, err := layer.Changes(context.Background(), layer.Upper{Dir: up, Lower: []string{dir + "/low"}})
	want := []layer.Change{{Kind: layer.Modified, Path: "/d"}, {Kind: layer.Deleted, Path: "/d/f"}, {Kind: layer.Added, Path: "/d/g"}}
	if err != nil || len(got) != 3 || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
}

func TestOverlayRecipe(t *testing.T) {
	r, err := Overlay([]string{"/c", "/b", "/c", "/a:x"}, "/up", "/w", OverlayOptions{Ephemeral: true})
	if err != nil {
		t.Fatal(err)
	}
	want := "lowerdir+=/c,lowerdir+=/b,lowerdir+=/a:x,upperdir=/up,workdir=/w,redirect_dir=off,metacopy=off,index=off,volatile"
	if r.Classic || r.Data() != want {
		t.Errorf("got  %s\nwant %s", r.Data(), want)
	}
	r, err = Overlay([]string{"/b", `/a:x,\`}, "", "", OverlayOptions{Joined: true})
	if err != nil {
		t.Fatal(err)
	}
	if want := `lowerdir=/b:/a\:x\,\\,redirect_dir=off,metacopy=off,index=off`; !r.Classic || r.Data() != want {
		t.Errorf("got  %s\nwant %s", r.Data(), want)
	}
}

func TestOverlayRefuses(t *testing.T) {
	many := make([]string, 501)
	long := make([]string, 40)
	for i := range many {
		many[i] = "/" + itoa(uintptr(i))
	}
	for i := range long {
		long[i] = "/" + strings.Repeat("x", 200) + itoa(uintptr(i))
	}
	for name, f := range map[string]func() (Recipe, error){
		"no layer":   func() (Recipe, error) { return Overlay(nil, "/u", "/w", OverlayOptions{}) },
		"half upper": func() (Recipe, error) { return Overlay([]string{"/a"}, "/u", "", OverlayOptions{}) },
		"relative":   func() (Recipe, error) { return Overlay([]string{"a"}, "/u", "/w", OverlayOptions{}) },
		"one layer":  func() (Recipe, error) { return Overlay([]string{"/a"}, "", "", OverlayOptions{}) },
		"too many":   func() (Recipe, error) { return Overlay(many, "/u", "/w", OverlayOptions{}) },
		"too long":   func() (Recipe, error) { return Overlay(long, "/u", "/w", OverlayOptions{Joined: true}) },
	} {
		if r, err := f(); err == nil {
			t.Errorf("%s: got %v", name, r)
		}
	}
}
