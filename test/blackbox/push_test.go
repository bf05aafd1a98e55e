package blackbox

import (
	"regexp"
	"strings"
	"testing"

	"vivarium/internal/testenv"
)

// TestPush pushes what was pulled to another name, and what was imported.
func TestPush(t *testing.T) {
	testenv.Root(t)
	vivOnly(t, "the registry is in the engine's own network")
	e := testenv.Engine(t)
	ref := pushed(t, e, "layered", &trouble{})
	host, _, _ := strings.Cut(ref, "/")
	e.MustViv("pull", "-q", ref)
	digest := func() string { return e.MustViv("images", "--digests", "--format", "{{.Digest}}", ref) }
	pulled := digest()
	other := host + "/other/copy"
	e.MustViv("tag", ref, other+":v1")
	res := e.Viv("push", other+":v1")
	if !regexp.MustCompile(`^The push refers to repository \[`+regexp.QuoteMeta(other)+`\]\n(?s:.*)\nv1: digest: `+pulled+` size: \d+\n$`).MatchString(res.Stdout) || res.Code != 0 {
		t.Errorf("push: %v", res)
	}
	if res := e.Viv("push", "-q", other+":v1"); res.Code != 0 || res.Stdout != other+":v1\n" {
		t.Errorf("push -q: %v", res)
	}
	e.MustViv("tag", ref, other+":v2")
	want(t, e.Viv("push", "-q", "--all-tags", "--disable-content-trust", other), 0, other+":v1\n"+other+":v2\n")
	fails(t, e.Viv("push", "-a", other+":v1"), 1, "tag can't be used with --all-tags")
	fails(t, e.Viv("push", host+"/nobody:v1"), 1, "An image does not exist locally with the tag: "+host+"/nobody:v1")
	fails(t, e.Viv("push", "host"), 1, "cannot be pushed")

	e.Import("busybox", "box")
	e.MustViv("tag", "box", host+"/box:v1")
	e.MustViv("push", "-q", host+"/box:v1")
	id := e.MustViv("images", "-q", "--no-trunc", "box")
	e.MustViv("rmi", "box", host+"/box:v1", ref, other+":v1", other+":v2")
	e.MustViv("pull", "-q", host+"/box:v1")
	if got := e.MustViv("images", "-q", "--no-trunc", host+"/box"); got != id {
		t.Errorf("what was pulled back has ID %s, and was %s", got, id)
	}
	want(t, e.Viv("pull", "-q", "--all-tags", other), 0, other+"\n")
	want(t, e.Viv("images", "--format", "{{.Tag}}", other), 0, "v1\nv2\n")
	fails(t, e.Viv("pull", "-a", other+":v1"), 1, "tag can't be used with --all-tags")
	want(t, e.Viv("run", "--rm", "--network", "none", host+"/box:v1", "echo", "here"), 0, "here\n")
	want(t, e.Viv("run", "--rm", "--network", "none", other+":v2", "cat", "/full/new"), 0, "new\n")
}
