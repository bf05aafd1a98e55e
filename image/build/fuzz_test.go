package build

import (
	"path"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// FuzzDockerfile: whatever a Dockerfile says, it is read or refused with a place that
// is in it.
func FuzzDockerfile(f *testing.F) {
	for _, s := range []string{"FROM a\nRUN b\n", "ARG X=1\nFROM $X AS y\nCOPY --from=y a b\n", "FROM a\nRUN <<E\nx\nE\n", "FROM a\nRUN --mount=type=cache,target=/x true", "# check=skip=all\nFROM a", "# escape=`\nFROM a\nENV a=`\n", "FROM a AS b\nFROM b\nONBUILD RUN x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		o := &Options{Dockerfile: []byte(text), Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}}
		file, err := parse(o, func(*Warning) {})
		if e, ok := err.(*Error); ok {
			if e.First > strings.Count(text, "\n")+1 {
				t.Errorf("line %d of a file that ends before it", e.First)
			}
			e.Excerpt()
		}
		if err != nil {
			return
		}
		list := needed(file.stages[len(file.stages)-1])
		if len(list) == 0 || len(list) > len(file.stages) {
			t.Errorf("%d of %d stages are needed", len(list), len(file.stages))
		}
		for _, d := range list {
			for _, dep := range d.after {
				if dep.index >= d.index {
					t.Errorf("stage %d needs stage %d, which comes later", d.index, dep.index)
				}
			}
		}
	})
}

// FuzzIgnore: the walk's filter, which looks at each path once, says what looking at a
// path alone says.
func FuzzIgnore(f *testing.F) {
	f.Add("*.log\n!keep.log\n", "a/keep.log")
	f.Add("a\n!a/b\n", "a/b/c")
	f.Add("**/x\n../y\n/z\n", "q/x/z")
	f.Add("[\n", "a")
	f.Fuzz(func(t *testing.T, patterns, name string) {
		ig, err := parseIgnore([]byte(patterns))
		if err != nil || len(patterns) > 1<<10 || len(name) > 1<<10 {
			return
		}
		name = strings.TrimPrefix(path.Clean("/"+name), "/")
		filter := ig.filter("")
		if filter == nil || name == "" || strings.ContainsAny(name, "\x00\n") {
			return
		}
		filter("", true)
		parts := strings.Split(name, "/")
		taken := false
		for i := range parts {
			take, descend := filter(strings.Join(parts[:i+1], "/"), i < len(parts)-1)
			taken = take
			if !descend && i < len(parts)-1 {
				taken = false
				break
			}
		}
		if taken == ig.leavesOut(name) {
			t.Errorf("patterns %q: the walk takes %q: %v; alone it is left out: %v", patterns, name, taken, ig.leavesOut(name))
		}
	})
}

// FuzzMode: a mode that is accepted gives permission bits and nothing else, the same twice.
func FuzzMode(f *testing.F) {
	for _, s := range []string{"755", "u=rwX,go=rX", "a+x", "g-w,o=", "+t", "u=g", "7777", "u+rw-x"} {
		f.Add(s, uint32(0o644), true)
	}
	f.Fuzz(func(t *testing.T, text string, mode uint32, dir bool) {
		m, err := parseMode(text)
		if err != nil {
			return
		}
		if got := m.apply(mode&0o7777, dir); got&^0o7777 != 0 || got != m.apply(mode&0o7777, dir) {
			t.Errorf("%q makes %o of %o", text, got, mode)
		}
	})
}

// FuzzPorts: what is accepted are ports.
func FuzzPorts(f *testing.F) {
	for _, s := range []string{"80", "53/udp", "7000-7005/tcp", "1.2.3.4:80:90", "-", "1-0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		list, err := parsePorts(text)
		if err == nil && len(list) == 0 || len(list) > 65536 {
			t.Errorf("%q means %d ports", text, len(list))
		}
	})
}
