// Package archtest holds the rules of who may import whom, as a test. They
// stand in docs/ARCHITECTURE.md too.
package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const module = "vivarium/"

type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func packages(t *testing.T) map[string]pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Imports,Deps", module+"...")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	all := make(map[string]pkg)
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all[p.ImportPath] = p
	}
}

// in tells whether a package is below one of the rooms.
func in(path string, rooms ...string) bool {
	path = strings.TrimPrefix(path, module)
	for _, r := range rooms {
		if path == r || strings.HasPrefix(path, r+"/") {
			return true
		}
	}
	return false
}

// rules: no package in from imports one in not, because of why.
var rules = []struct {
	from, not []string
	why       string
}{
	{[]string{"sandbox"}, []string{"image", "layer", "unionfs", "bundle", "network", "monitor", "engine", "cmd", "lab"},
		"the sandbox works alone, as an OCI runtime"},
	{[]string{"monitor"}, []string{"image", "layer", "unionfs", "bundle", "network", "engine", "cmd", "lab"},
		"a monitor knows one container, and nothing of where it came from"},
	{[]string{"image"}, []string{"bundle", "sandbox", "network", "monitor", "engine", "cmd", "lab"},
		"an image is there before anything runs"},
	{[]string{"layer"}, []string{"image", "unionfs", "bundle", "sandbox", "network", "monitor", "engine", "cmd", "lab"},
		"a layer is a tar stream and a directory"},
	{[]string{"unionfs"}, []string{"image", "bundle", "sandbox", "network", "monitor", "engine", "cmd", "lab"},
		"a union is made of directories"},
	{[]string{"network"}, []string{"image", "layer", "unionfs", "bundle", "sandbox", "monitor", "engine", "cmd", "lab"},
		"a network attaches to any namespace"},
	{[]string{"bundle"}, []string{"layer", "unionfs", "monitor", "engine", "cmd", "lab"},
		"a bundle is a pure function of image and options"},
	{[]string{"engine"}, []string{"cmd", "lab"}, "the engine never prints and knows no command line"},
	{[]string{"cmd/viv-oci"}, []string{"image", "layer", "unionfs", "bundle", "network", "monitor", "engine", "cmd/viv", "lab"},
		"the runtime starts in a millisecond"},
	{[]string{"internal"}, []string{"image", "layer", "unionfs", "bundle", "sandbox", "network", "monitor", "engine", "cmd", "lab"},
		"internal packages are below everything"},
}

func TestImports(t *testing.T) {
	for path, p := range packages(t) {
		if !strings.HasPrefix(path, module) {
			continue
		}
		for _, r := range rules {
			if !in(path, r.from...) {
				continue
			}
			for _, imp := range p.Imports {
				if strings.HasPrefix(imp, module) && in(imp, r.not...) && !in(imp, r.from...) {
					t.Errorf("%s imports %s: %s", path, imp, r.why)
				}
			}
		}
	}
}

// TestMonitorIsLean: each package that a monitor links is paid for by every
// container.
func TestMonitorIsLean(t *testing.T) {
	all := packages(t)
	for _, dep := range all[module+"cmd/viv-monitor"].Deps {
		switch dep {
		case "fmt", "os/signal", "os", "time", "reflect", "encoding/json", "strconv", "context", "net", "io":
			t.Errorf("the monitor links %s", dep)
		}
		if strings.Contains(dep, ".") || strings.HasPrefix(dep, module) && !in(dep, "monitor", "sandbox/program", "sandbox/spawn") {
			t.Errorf("the monitor links %s, which is not ours", dep)
		}
	}
}

// rawCall finds system calls by number.
var rawCall = regexp.MustCompile(`\b(syscall|unix)\.(Raw)?Syscall6?\(`)

// TestRawSystemCalls: system calls by number stand where they can be watched.
func TestRawSystemCalls(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		// The monitor has its own few: internal/sys links more than it may. To make
		// them all is what the tests' program syscalls is for.
		if in(rel, "internal/sys", "sandbox/spawn", "monitor", "test/blackbox/syscalls") || strings.HasPrefix(rel, ".") {
			return nil
		}
		b, err := os.ReadFile(path)
		if err == nil && rawCall.Match(b) {
			t.Errorf("%s makes raw system calls: they belong into internal/sys", rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
