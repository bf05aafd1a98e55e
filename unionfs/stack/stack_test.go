package stack

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vivarium/internal/testenv"
	"vivarium/unionfs/aufs"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// tree makes files below a directory: "dir/", "file", "link -> to", and what a union
// type deletes: "-name", "!dir/" for an opaque directory.
func tree(t *testing.T, kind, dir string, entries ...string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		opaque := strings.HasPrefix(e, "!")
		e = strings.TrimPrefix(e, "!")
		name, content, _ := strings.Cut(e, "=")
		path := filepath.Join(dir, strings.TrimPrefix(name, "-"))
		var err error
		switch {
		case strings.HasPrefix(e, "-") && kind == AUFS:
			path = filepath.Join(filepath.Dir(path), aufs.Prefix+filepath.Base(path))
			fallthrough
		case !strings.HasPrefix(e, "-") && !strings.HasSuffix(name, "/"):
			os.MkdirAll(filepath.Dir(path), 0o755)
			err = os.WriteFile(path, []byte(content), 0o644)
		case strings.HasPrefix(e, "-"):
			os.MkdirAll(filepath.Dir(path), 0o755)
			err = unix.Mknod(path, unix.S_IFCHR, 0)
		default:
			err = os.MkdirAll(path, 0o755)
		}
		if err == nil && opaque {
			if kind == AUFS {
				err = os.WriteFile(filepath.Join(path, aufs.Opaque), nil, 0o444)
			} else {
				err = unix.Setxattr(path, "trusted.overlay.opaque", []byte("y"), 0)
			}
		}
		if err != nil {
			t.Fatalf("%s: %v", e, err)
		}
	}
	return dir
}

func stackOf(t *testing.T, kind string, trees ...[]string) Stack {
	t.Helper()
	if kind == Overlay && os.Geteuid() != 0 {
		t.Skip("needs root: makes device nodes")
	}
	var branches []aufs.Branch
	root := t.TempDir()
	for i, entries := range trees {
		b := aufs.Branch{Path: tree(t, kind, filepath.Join(root, fmt.Sprint("b", i)), entries...), Perm: aufs.RO, WH: true}
		if i == 0 {
			b.Perm = aufs.RW
		}
		branches = append(branches, b)
	}
	s, err := New(kind, branches)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var kinds = []string{AUFS, Overlay}

func TestWhere(t *testing.T) {
	for _, kind := range kinds {
		s := stackOf(t, kind,
			[]string{"dir/new=n", "-gone", "!made/", "file=top", "was/", "link=x"},
			[]string{"dir/old=o", "gone=1", "made/hidden=h", "-deep", "file=middle", "was=file"},
			[]string{"dir/old=lower", "gone=2", "made/hidden=h", "deep/x/y=d", "file=bottom", "was/inner=i", "link/z=z"})
		for name, want := range map[string]string{
			"dir/new":     "0 shown",
			"dir":         "0 shown, 1 merged, 2 merged",
			"dir/old":     "1 shown, 2 hidden",
			"gone":        "0 whiteout, 1 hidden, 2 hidden",
			"made":        "0 shown, 0 opaque, 1 hidden, 2 hidden",
			"made/hidden": "0 opaque, 1 hidden, 2 hidden",
			"deep/x/y":    "1 whiteout, 2 hidden",
			"file":        "0 shown, 1 hidden, 2 hidden",
			"was":         "0 shown, 1 hidden, 2 hidden",
			"was/inner":   "1 blocked, 2 hidden",
			"link/z":      "0 blocked, 2 hidden",
			"none":        "",
			"":            "0 shown, 1 merged, 2 merged",
			"/dir//new/":  "0 shown",
		} {
			places, err := s.Where(name)
			if err != nil {
				t.Errorf("%s %s: %v", kind, name, err)
			}
			var got []string
			for _, p := range places {
				got = append(got, fmt.Sprint(p.Branch, " ", p.State))
			}
			if strings.Join(got, ", ") != want {
				t.Errorf("%s %q: %s, want %s", kind, name, strings.Join(got, ", "), want)
			}
		}
	}
}

func TestDiff(t *testing.T) {
	for _, kind := range kinds {
		s := stackOf(t, kind,
			[]string{"dir/new=n", "-gone", "!made/", "made/fresh=f", "file=top", "-never"},
			[]string{"dir/old=o", "gone=1", "made/hidden=h", "file=middle", "kept=k"})
		changes, err := s.Diff()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, c := range changes {
			got = append(got, string(c.Kind)+" "+c.Path)
		}
		want := []string{"C /dir", "A /dir/new", "C /file", "D /gone", "C /made", "A /made/fresh", "D /made/hidden"}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", kind, got, want)
		}
	}
}

func TestCheck(t *testing.T) {
	s := stackOf(t, AUFS, []string{"-gone", "-stray", "both=b", "-both", "!new/", "!over/", ".wh..wh.abc=x", ".wh..wh.orph/5/", ".wh..wh.plnk/7=l"},
		[]string{"gone=1", "both=1", "over/x=x"})
	s.Branches[1].WH = false
	tree(t, AUFS, s.Branches[1].Path, "-nothing")
	found, err := s.Check()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range found {
		got = append(got, fmt.Sprint(f.Branch, " ", f.Path, ": ", f.Kind))
	}
	want := []string{"0 .wh..wh.abc: leftover", "0 .wh..wh.orph/5: orphan", "0 .wh..wh.plnk/7: lonely link", "0 .wh.both: contradiction",
		"0 .wh.stray: stray whiteout", "0 new/.wh..wh..opq: stray whiteout", "1 .wh.nothing: ignored whiteout"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	o := stackOf(t, Overlay, []string{"-gone", "-stray"}, []string{"gone=1"})
	if found, err = o.Check(); err != nil || len(found) != 1 || found[0].Path != "stray" {
		t.Errorf("%+v %v", found, err)
	}
}

// look is all that a union shows, a line a name.
func look(t *testing.T, s Stack, dir string) []string {
	t.Helper()
	list, err := s.list(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, name := range list {
		path := filepath.Join(dir, name)
		places, err := s.Where(path)
		if err != nil {
			t.Fatal(err)
		}
		at := places[slices.IndexFunc(places, func(p Place) bool { return p.State == Shown })]
		real := filepath.Join(s.Branches[at.Branch].Path, path)
		if at.Mode.IsDir() {
			out = append(out, path+"/ "+at.Mode.String())
			out = append(out, look(t, s, path)...)
			continue
		}
		b, err := os.ReadFile(real)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, path+" "+at.Mode.String()+" "+string(b))
	}
	return out
}

// mountedTree is the same of the kernel's union.
func mountedTree(t *testing.T, s Stack) []string {
	t.Helper()
	point := t.TempDir()
	var dirs []string
	for _, b := range s.Branches {
		dirs = append(dirs, b.Path)
	}
	if len(dirs) == 1 {
		dirs = append(dirs, t.TempDir())
	}
	if err := unix.Mount("overlay", point, "overlay", 0, "lowerdir="+strings.Join(dirs, ":")); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(point, 0)
	var out []string
	err := filepath.WalkDir(point, func(path string, d os.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil // the kernel lists a whiteout that hides nothing, in a directory that is on one branch only
		}
		if err != nil || path == point {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(point, path)
		if d.IsDir() {
			out = append(out, rel+"/ "+info.Mode().String())
			return nil
		}
		b, err := os.ReadFile(path)
		out = append(out, rel+" "+info.Mode().String()+" "+string(b))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// randomStack makes three branches of few names, so that they meet.
func randomStack(t *testing.T, kind string, r *rand.Rand) Stack {
	var trees [][]string
	for i := range 3 {
		var entries []string
		taken := map[string]bool{}
		for range 12 {
			depth := 1 + r.IntN(3)
			var parts []string
			for range depth {
				parts = append(parts, string(rune('a'+r.IntN(3))))
			}
			name := strings.Join(parts, "/")
			clash := false
			for n := range taken { // one thing a name, and directories above
				clash = clash || n == name || strings.HasPrefix(n, name+"/") || strings.HasPrefix(name, n+"/") && !strings.HasSuffix(n, "/")
			}
			if clash {
				continue
			}
			switch r.IntN(6) {
			case 0, 1:
				if i < 2 {
					entries = append(entries, "-"+name)
					taken[name] = true
				}
			case 2:
				if i < 2 {
					entries = append(entries, "!"+name+"/")
					taken[name] = true
				}
			case 3:
				entries = append(entries, name+"/")
				taken[name] = true
			default:
				entries = append(entries, fmt.Sprintf("%s=%d", name, i))
				taken[name] = true
			}
		}
		trees = append(trees, entries)
	}
	return stackOf(t, kind, trees...)
}

// cutOff is a context that ends after so many looks at it.
type cutOff struct {
	context.Context
	left int
}

var errCut = errors.New("cut off")

func (c *cutOff) Err() error {
	if c.left--; c.left < 0 {
		return errCut
	}
	return nil
}

// TestCommit: whatever the branches are, and wherever it is cut off, the union
// shows the same; in the end it does so without the top-most branch.
func TestCommit(t *testing.T) {
	for _, kind := range kinds {
		for seed := range uint64(40) {
			s := randomStack(t, kind, rand.New(rand.NewPCG(seed, 7)))
			want := look(t, s, "")
			if kind == Overlay {
				if real := mountedTree(t, s); !slices.Equal(sorted(real), sorted(want)) {
					t.Fatalf("seed %d: the kernel shows\n%s\nand we\n%s", seed, strings.Join(real, "\n"), strings.Join(want, "\n"))
				}
			}
			for steps := 0; ; steps++ {
				err := s.Commit(&cutOff{context.Background(), steps % 4})
				if got := look(t, s, ""); !slices.Equal(got, want) {
					t.Fatalf("%s seed %d, step %d: shows\n%s\nwant\n%s", kind, seed, steps, strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
				if err == nil {
					break
				}
				if !errors.Is(err, errCut) {
					t.Fatalf("%s seed %d: %v", kind, seed, err)
				}
				if steps > 200 {
					err = s.Commit(context.Background())
					if err != nil {
						t.Fatal(err)
					}
					break
				}
			}
			if left, err := names(s.Branches[0].Path); err != nil || len(left) > 0 {
				t.Errorf("%s seed %d: %v is left, %v", kind, seed, left, err)
			}
			rest := Stack{Type: kind, Branches: s.Branches[1:]}
			if got := look(t, rest, ""); !slices.Equal(got, want) {
				t.Errorf("%s seed %d: what is left shows\n%s\nwant\n%s", kind, seed, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			if kind == Overlay {
				if real := mountedTree(t, rest); !slices.Equal(sorted(real), sorted(want)) {
					t.Errorf("seed %d: the kernel shows\n%s\nwant\n%s", seed, strings.Join(real, "\n"), strings.Join(want, "\n"))
				}
			}
		}
	}
}

func sorted(list []string) []string { return slices.Sorted(slices.Values(list)) }

// flat lists what an entry has below, as look does.
func flat(e *entry, dir string) []string {
	var out []string
	for name, below := range e.names {
		path := filepath.Join(dir, name)
		if below.names != nil {
			out = append(out, path+"/")
			out = append(out, flat(below, path)...)
			continue
		}
		out = append(out, fmt.Sprint(path, " ", below.size))
	}
	return out
}

func visible(e *entry) int64 {
	sum := e.size
	for _, below := range e.names {
		sum += visible(below)
	}
	return sum
}

// TestLayers: what is kept in mind of layers is what their union shows, and what is
// not wasted is what can be seen.
func TestLayers(t *testing.T) {
	for _, kind := range kinds {
		for seed := range uint64(60) {
			s := randomStack(t, kind, rand.New(rand.NewPCG(seed, 3)))
			l, root, err := s.layers()
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			for _, line := range look(t, s, "") {
				f := strings.Fields(line)
				if strings.HasSuffix(f[0], "/") {
					want = append(want, f[0])
					continue
				}
				want = append(want, fmt.Sprint(f[0], " ", len(f[2])))
			}
			if got := flat(root, ""); !slices.Equal(sorted(got), sorted(want)) {
				t.Fatalf("%s seed %d: %q, want %q", kind, seed, sorted(got), sorted(want))
			}
			if l.Bytes-l.Wasted != visible(root) {
				t.Errorf("%s seed %d: %d bytes, %d wasted, %d visible", kind, seed, l.Bytes, l.Wasted, visible(root))
			}
		}
	}
	s := stackOf(t, Overlay, []string{"a=12345", "-gone", "!dir/"}, []string{"a=123", "gone=1234567", "dir/x=12"})
	l, err := s.Layers()
	if err != nil || len(l.Each) != 2 {
		t.Fatalf("%+v %v", l, err)
	}
	top := l.Each[1]
	if fmt.Sprint(top.Added, top.Changed, top.Deleted) != "[] [a dir] [dir/x gone]" || top.Bytes != 5 || top.Hidden != 12 || l.Bytes != 17 {
		t.Errorf("%+v", l)
	}
	if want := []Waste{{"gone", 7, 1}, {"a", 3, 1}, {"dir/x", 2, 1}}; !slices.Equal(l.Worst, want) || l.Efficiency() < 0.29 || l.Efficiency() > 0.3 {
		t.Errorf("%+v, efficiency %v", l.Worst, l.Efficiency())
	}
}

func TestCommitKeepsAttributes(t *testing.T) {
	s := stackOf(t, AUFS, []string{"dir/new=n"}, []string{"dir/old=o"})
	top, next := s.Branches[0].Path+"/dir", s.Branches[1].Path+"/dir"
	if err := errors.Join(unix.Chmod(top, 0o2751), unix.Setxattr(top, "user.a", []byte("b"), 0), unix.Setxattr(next, "user.old", []byte("x"), 0)); err != nil {
		t.Skip(err) // a file system without user attributes
	}
	if err := s.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	var value [8]byte
	if err := unix.Stat(next, &st); err != nil || st.Mode&0o7777 != 0o2751 {
		t.Errorf("mode %o, %v", st.Mode, err)
	}
	if n, err := unix.Getxattr(next, "user.a", value[:]); err != nil || string(value[:n]) != "b" {
		t.Errorf("attribute %q, %v", value[:n], err)
	}
	if _, err := unix.Getxattr(next, "user.old", value[:]); err != unix.ENODATA {
		t.Errorf("an attribute that was removed is there: %v", err)
	}
}

func TestRefused(t *testing.T) {
	s := stackOf(t, AUFS, []string{"a=1"}, []string{"b=2"})
	if err := (Stack{Type: AUFS, Branches: s.Branches[:1]}).Commit(t.Context()); err == nil {
		t.Error("a single branch is committed")
	}
	for _, bad := range [][]aufs.Branch{
		{{Path: "/no/such/directory"}}, {s.Branches[0], s.Branches[0]}, {{Path: s.Branches[0].Path + "/a"}},
	} {
		if _, err := New(AUFS, bad); err == nil {
			t.Errorf("%v is accepted", bad)
		}
	}
	if _, err := New("zfs", s.Branches); err == nil {
		t.Error("an unknown type is accepted")
	}
	if _, _, err := Find(s.Branches[0].Path); !errors.Is(err, ErrNoUnion) {
		t.Errorf("a plain directory: %v", err)
	}
}

func TestMountedOverlay(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts")
	}
	dir := t.TempDir()
	lower, upper, work, point := dir+"/lower: with, all", dir+"/upper", dir+"/work", dir+"/mnt"
	tree(t, Overlay, lower, "etc/passwd=x", "etc/group=y")
	for _, d := range []string{upper, work, point} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	escape := strings.NewReplacer(":", `\:`, ",", `\,`)
	if err := unix.Mount("overlay", point, "overlay", 0, "lowerdir="+escape.Replace(lower)+",upperdir="+upper+",workdir="+work); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(point, 0)
	if err := errors.Join(os.Remove(point+"/etc/group"), os.WriteFile(point+"/etc/passwd", []byte("z"), 0o644)); err != nil {
		t.Fatal(err)
	}
	s, name, err := Find(point + "/etc/passwd")
	if err != nil || name != "etc/passwd" || s.Type != Overlay || s.Point != point || len(s.Branches) != 2 || s.Branches[0].Path != upper || s.Branches[1].Path != lower {
		t.Fatalf("%+v %q %v", s, name, err)
	}
	changes, err := s.Diff()
	if err != nil || fmt.Sprint(changes) != fmt.Sprint([]Change{{"/etc", 'C'}, {"/etc/group", 'D'}, {"/etc/passwd", 'C'}}) {
		t.Errorf("%v %v", changes, err)
	}
	if _, name, err := Find(point + "/etc/none/deeper"); err != nil || name != "etc/none/deeper" {
		t.Errorf("%q %v", name, err)
	}
	if err := s.Commit(t.Context()); !errors.Is(err, ErrInUse) {
		t.Errorf("commit of a mounted union: %v", err)
	}
	all, err := All()
	if err != nil || !slices.ContainsFunc(all, func(u Stack) bool { return u.Point == point }) {
		t.Errorf("%v %v", all, err)
	}
}

func FuzzOverlayBranches(f *testing.F) {
	f.Add(`lowerdir=/a:/b,upperdir=/u,workdir=/w`)
	f.Add(`ro,lowerdir+=/a\:b,lowerdir+=/c\054d,datadir+=/e`)
	f.Add(`lowerdir=\`)
	f.Fuzz(func(t *testing.T, options string) {
		for _, b := range overlayBranches(options) {
			if len(b.Path) > len(options) {
				t.Errorf("%q has branch %q", options, b.Path)
			}
		}
	})
}

// TestUsageStaysOnTheBranch: a file system that is mounted below is not of the branch.
func TestUsageStaysOnTheBranch(t *testing.T) {
	testenv.Root(t)
	root := t.TempDir()
	for _, dir := range []string{"a", "mounted"} {
		if err := os.Mkdir(root+"/"+dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("tmpfs", root+"/mounted", "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(root+"/mounted", unix.MNT_DETACH)
	for _, file := range []string{"a/one", "mounted/two", "mounted/three"} {
		if err := os.WriteFile(root+"/"+file, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	u, err := Stack{Type: Overlay, Branches: []aufs.Branch{{Path: root}}}.Usage(0)
	if err != nil || u.Files != 2 {
		t.Errorf("%+v, %v: not a and a/one alone", u, err)
	}
}
