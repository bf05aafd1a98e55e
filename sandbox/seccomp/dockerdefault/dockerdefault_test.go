package dockerdefault

import (
	"bytes"
	"embed"
	"reflect"
	"runtime"
	"slices"
	"testing"

	"vivarium/sandbox/capability"
	"vivarium/sandbox/seccomp"
	"vivarium/sandbox/seccomp/dockerdefault/render"
)

// written are the generated files as they are in the folder; embedded, so that
// the test can run on another machine than the one that compiles it.
//
//go:embed filter_amd64.go filter_arm64.go matters.go
var written embed.FS

func TestGeneratedFilesAreCurrent(t *testing.T) {
	files, err := render.Files()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		got, err := written.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not current: run go generate in this folder", name)
		}
	}
}

// TestSameAsTheLibrary holds our expansion of the profile against the
// library's, on a kernel that is new enough.
func TestSameAsTheLibrary(t *testing.T) {
	for _, caps := range [][]string{nil, capability.Docker.Names(), capability.All(40).Names(), {"CAP_BPF"}, {"CAP_SYS_ADMIN"}} {
		want, err := Profile(caps)
		if err != nil {
			t.Fatal(err)
		}
		got, err := render.ForArch(runtime.GOARCH, caps)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("caps %v: the profiles differ", caps)
		}
	}
}

// TestFilterIsTheCompiledProfile covers the sets that take the precompiled
// filter and those that must not.
func TestFilterIsTheCompiledProfile(t *testing.T) {
	without := slices.DeleteFunc(capability.Docker.Names(), func(c string) bool { return c == "CAP_SYS_CHROOT" })
	for _, caps := range [][]string{nil, capability.Docker.Names(), capability.Docker.Names()[:1], without,
		append(capability.Docker.Names(), "CAP_SYS_PTRACE"), append(capability.Docker.Names(), "CAP_NET_ADMIN"), capability.All(40).Names()} {
		p, err := Profile(caps)
		if err != nil {
			t.Fatal(err)
		}
		want, err := seccomp.Compile(p)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Filter(caps)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("caps %v: the filter is not that of the profile", caps)
		}
	}
}

func BenchmarkFilter(b *testing.B) {
	caps := capability.Docker.Names()
	for b.Loop() {
		if _, err := Filter(caps); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkProfile(b *testing.B) {
	caps := capability.Docker.Names()
	for b.Loop() {
		if _, err := Profile(caps); err != nil {
			b.Fatal(err)
		}
	}
}
