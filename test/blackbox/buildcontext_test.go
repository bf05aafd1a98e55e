package blackbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"vivarium/internal/testenv"
)

// TestBuildLargeContext changes a large context in all the ways that there are, and builds
// it each time from what is known of the last build and from nothing: the layers have the
// same files. What did not change is on the disk once.
func TestBuildLargeContext(t *testing.T) {
	vivOnly(t, "it looks at the store")
	for _, file := range []string{
		"FROM box\nWORKDIR /src\nCOPY . .\n", // the directory is there already
		"FROM scratch\nCOPY . /\n",
		"FROM box\nCOPY --link --chown=7:8 --chmod=a+r,g+w . /src/\n",
		"FROM box\nRUN mkdir -p /real/sub && ln -s real /link\nCOPY . /link\n",
	} {
		t.Run(strings.ReplaceAll(strings.TrimSpace(file[5:]), "\n", " "), func(t *testing.T) { largeContext(t, file) })
	}
}

func largeContext(t *testing.T, file string) {
	e := newBox(t)
	dir := contextDir(t, map[string]string{"Dockerfile": file, ".dockerignore": "Dockerfile\n*.out\n", "top": "at the top", "link": "-> sub/00/file-000", "empty/": ""})
	for i := range 300 {
		name := filepath.Join(dir, "sub", fmt.Sprintf("%02d", i/50), fmt.Sprintf("file-%03d", i))
		err := os.MkdirAll(filepath.Dir(name), 0o755)
		if err == nil {
			err = os.WriteFile(name, fmt.Appendf(nil, "content %d\n", i), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	in := func(name string) string { return filepath.Join(dir, "sub", name) }
	steps := []func() error{
		func() error { return nil },
		func() error {
			st, err := os.Stat(in("00/file-011"))
			return firstError(err,
				os.WriteFile(in("00/file-001"), []byte("CONTENT 1\n"), 0o644),
				os.Chmod(in("00/file-002"), 0o600),
				os.Chtimes(in("00/file-003"), time.Unix(1, 0), time.Unix(1, 0)),
				syscall.Setxattr(in("00/file-004"), "user.color", []byte("red"), 0),
				os.Rename(in("00/file-005"), in("01/file-005")),
				os.Remove(in("00/file-006")),
				os.Remove(in("00/file-007")), os.Symlink("file-008", in("00/file-007")),
				os.Remove(in("00/file-009")), os.Mkdir(in("00/file-009"), 0o755),
				os.Link(in("00/file-010"), in("00/file-010-too")),
				// The same size and the same time.
				os.WriteFile(in("00/file-011"), []byte("CONTENT 11\n"), 0o644),
				os.Chtimes(in("00/file-011"), st.ModTime(), st.ModTime()),
			)
		},
		func() error {
			return firstError(os.Rename(in("02"), in("x")), os.Rename(in("03"), in("02")), os.Rename(in("x"), in("03")))
		},
	}
	for i, do := range steps {
		if err := do(); err != nil {
			t.Fatal(err)
		}
		settle(t)
		build(t, e, dir, "-t", "again")
		build(t, e, dir, "-t", "anew", "--no-cache")
		again, anew := topLayer(t, e, "again"), topLayer(t, e, "anew")
		for name, ours := range again {
			if ours != anew[name] {
				t.Errorf("step %d: %s is %s, and made anew %s", i, name, ours, anew[name])
			}
		}
		if len(again) != len(anew) || len(again) < 300 {
			t.Errorf("step %d: the layer has %d files, and made anew %d", i, len(again), len(anew))
		}
	}
	shared := 0
	err := filepath.WalkDir(e.Root+"/layers", func(p string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.HasPrefix(d.Name(), "file-") {
			if info, err := d.Info(); err == nil && info.Sys().(*syscall.Stat_t).Nlink > 1 {
				shared++
			}
		}
		return err
	})
	if err != nil || shared < 250 {
		t.Errorf("%d files of the layers are shared (%v)", shared, err)
	}
	// What is shared is still each layer's own for whoever removes one.
	e.MustViv("rmi", "-f", "again", "anew")
	e.MustViv("system", "check")
}

func firstError(list ...error) error {
	for _, err := range list {
		if err != nil {
			return err
		}
	}
	return nil
}

// settle waits until a change is so old that clocks of file systems tell it from the next.
func settle(t *testing.T) {
	t.Helper()
	probe := filepath.Join(t.TempDir(), "probe")
	if err := os.WriteFile(probe, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(probe, &st); err != nil {
		t.Fatal(err)
	}
	for time.Since(time.Unix(st.Ctim.Sec, st.Ctim.Nsec)) < 150*time.Millisecond {
		time.Sleep(10 * time.Millisecond)
	}
}

// topLayer lists what the topmost layer of an image has, each file as one line.
func topLayer(t *testing.T, e *testenv.Instance, image string) map[string]string {
	t.Helper()
	dir := strings.TrimSpace(e.MustViv("inspect", "--type", "image", "-f", "{{.GraphDriver.Data.UpperDir}}", image))
	out := map[string]string{}
	first := map[uint64]string{} // of a file with two names in this layer
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(p, &st); err != nil {
			return err
		}
		name := strings.TrimPrefix(p, dir)
		line := fmt.Sprintf("%o %d:%d", st.Mode, st.Uid, st.Gid)
		if !d.IsDir() {
			line += fmt.Sprintf(" %d.%09d", st.Mtim.Sec, st.Mtim.Nsec)
		}
		switch {
		case d.Type().IsRegular():
			content, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %q", content)
			color := make([]byte, 16)
			if n, err := syscall.Getxattr(p, "user.color", color); err == nil {
				line += " color=" + string(color[:n])
			}
			if other, ok := first[st.Ino]; ok {
				line += " is " + other
			}
			first[st.Ino] = name
		case d.Type() == os.ModeSymlink:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			line += " -> " + to
		}
		out[name] = line
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
