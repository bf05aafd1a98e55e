package registry

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"vivarium/image"
)

const sampleConf = `
unqualified-search-registries = ["registry.example.com", "docker.io"]
short-name-mode = "permissive"
[[registry]]
prefix = "example.com/foo"
location = "internal.example.net:5000/bar"
insecure = true
[[registry.mirror]]
location = "mirror.example.net/foo"
[[registry.mirror]]
location = "digests.example.net/foo"
pull-from-mirror = "digest-only"
[[registry]]
location = "docker.io"
[[registry.mirror]]
location = "hub.example.net"
insecure = true
[[registry]]
prefix = "example.com/foo/secret"
blocked = true
[[registry]]
prefix = "*.wild.example"
location = "tame.example"
`

func TestEndpoints(t *testing.T) {
	var c Conf
	if err := c.add([]byte(sampleConf)); err != nil {
		t.Fatal(err)
	}
	sum := "@sha256:" + strings.Repeat("0", 64)
	for in, want := range map[string]string{
		"example.com/foo/app:v1":     "mirror.example.net/foo/app:v1 internal.example.net:5000/bar/app:v1!",
		"example.com/foo/app" + sum:  "mirror.example.net/foo/app" + sum + " digests.example.net/foo/app" + sum + " internal.example.net:5000/bar/app" + sum + "!",
		"example.com/food:v1":        "example.com/food:v1",
		"example.com/foo/secretly:x": "mirror.example.net/foo/secretly:x internal.example.net:5000/bar/secretly:x!",
		"example.com/foo/secret/x":   "blocked",
		"example.com/foo/secret:x":   "blocked",
		"ubuntu":                     "hub.example.net/library/ubuntu:latest! docker.io/library/ubuntu:latest",
		"a.wild.example/x/y:v1":      "tame.example/x/y:v1",
		"wild.example/x:v1":          "wild.example/x:v1",
		"other.example/x:v1":         "other.example/x:v1",
	} {
		ref, err := image.ParseReference(in)
		if err != nil {
			t.Fatal(err)
		}
		list, err := c.endpoints(ref)
		var got []string
		for i, e := range list {
			s := e.ref.String()
			if e.insecure {
				s += "!"
			}
			if e.mirror != (i < len(list)-1) {
				t.Errorf("%s: %s, mirror %v", in, s, e.mirror)
			}
			got = append(got, s)
		}
		if errors.Is(err, ErrBlocked) {
			got = []string{"blocked"}
		} else if err != nil {
			t.Errorf("%s: %v", in, err)
		}
		if g := strings.Join(got, " "); g != want {
			t.Errorf("%s:\n got %s\nwant %s", in, g, want)
		}
	}
	if got := fmt.Sprint(c.Candidates("ubuntu:v1"), c.Candidates("a/b"), c.Candidates("q.io/b")); got != "[registry.example.com/ubuntu:v1 docker.io/ubuntu:v1] [registry.example.com/a/b docker.io/a/b] [q.io/b]" {
		t.Error(got)
	}
	// A later file replaces what an earlier one says of the same prefix.
	if err := c.add([]byte("[[registry]]\nprefix='example.com/foo/secret'\nlocation='open.example'")); err != nil {
		t.Fatal(err)
	}
	ref, _ := image.ParseReference("example.com/foo/secret/x:v1")
	if list, err := c.endpoints(ref); err != nil || list[0].ref.String() != "open.example/x:v1" {
		t.Errorf("%v %v", list, err)
	}
	for _, bad := range []string{"[[registry]]", "x = [", "unqualified-search-registries=['a b']", "[[registry]]\nlocation='https://x'",
		"[[registry]]\nlocation='x.io'\n[[registry.mirror]]\n", "[[registry]]\nlocation='x.io'\n[[registry.mirror]]\nlocation='y'\npull-from-mirror='never'"} {
		if err := new(Conf).add([]byte(bad)); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
}

func TestLoadConf(t *testing.T) {
	file := t.TempDir() + "/r.conf"
	t.Setenv("CONTAINERS_REGISTRIES_CONF", file)
	if _, err := LoadConf(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that was named and is not there: %v", err)
	}
	if err := os.WriteFile(file, []byte(sampleConf), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := LoadConf(); err != nil || len(c.registries) != 4 {
		t.Errorf("%+v %v", c, err)
	}
}

func FuzzRegistriesConf(f *testing.F) {
	f.Add(sampleConf, "example.com/foo/app:v1")
	f.Add("[[registry]]\nprefix='*.a'\nlocation='b'", "x.a/y")
	f.Fuzz(func(t *testing.T, conf, name string) {
		var c Conf
		if c.add([]byte(conf)) != nil {
			return
		}
		ref, err := image.ParseReference(name)
		if err != nil {
			return
		}
		list, err := c.endpoints(ref)
		if err == nil && (len(list) == 0 || list[len(list)-1].mirror) {
			t.Errorf("%v", list)
		}
		for _, e := range list {
			if err == nil && (e.ref.Digest != ref.Digest || e.ref.Tag != ref.Tag) {
				t.Errorf("%s becomes %s", ref, e.ref)
			}
		}
	})
}
