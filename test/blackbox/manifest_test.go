package blackbox

import (
	"encoding/json"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/internal/testenv"
)

// TestCopyAndManifest copies an image between repositories, makes a list of two, and
// finds them.
func TestCopyAndManifest(t *testing.T) {
	testenv.Root(t)
	vivOnly(t, "the registry is in the engine's own network")
	e := testenv.Engine(t)
	ref := pushed(t, e, "layered", &trouble{})
	host, _, _ := strings.Cut(ref, "/")
	res := e.Viv("copy", ref, host+"/far/copy:v2")
	if res.Code != 0 || !strings.Contains(res.Stdout, host+"/far/copy:v2: digest: sha256:") {
		t.Errorf("copy: %v", res)
	}
	digest := e.MustViv("copy", "-q", ref, host+"/far/other")
	if !strings.HasPrefix(digest, "sha256:") || strings.Contains(digest, "\n") {
		t.Errorf("copy -q: %q", digest)
	}
	want(t, e.Viv("images", "-q"), 0, "") // nothing came here
	fails(t, e.Viv("copy", host+"/none:v1", host+"/far/none:v1"), 1, "not found")
	fails(t, e.Viv("copy", "--platform", "linux/s390x/v9/x", ref, host+"/far/none:v1"), 1, "platform")
	fails(t, e.Viv("copy", ref), 125, "requires")

	list := host + "/multi:v1"
	want(t, e.Viv("manifest", "create", list, ref, host+"/far/other"), 0, "Created manifest list "+list+"\n")
	fails(t, e.Viv("manifest", "create", list, ref), 1, "--amend")
	want(t, e.Viv("manifest", "annotate", "--arch", "riscv64", "--variant", "v9", list, host+"/far/other"), 0, "")
	fails(t, e.Viv("manifest", "annotate", "--arch", "arm", list, host+"/nobody"), 1, "does not exist in")
	var idx ocispec.Index
	if err := json.Unmarshal([]byte(e.MustViv("manifest", "inspect", list)), &idx); err != nil || len(idx.Manifests) != 2 || idx.Manifests[1].Platform.Architecture != "riscv64" || string(idx.Manifests[1].Digest) != digest {
		t.Errorf("%+v %v", idx, err)
	}
	pushed := e.MustViv("manifest", "push", "--purge", list)
	fails(t, e.Viv("manifest", "rm", list), 1, "No such manifest")
	var got struct {
		Ref        string
		Descriptor ocispec.Descriptor
		Manifest   ocispec.Index
	}
	if err := json.Unmarshal([]byte(e.MustViv("manifest", "inspect", "-v", list)), &got); err != nil || got.Ref != list || string(got.Descriptor.Digest) != pushed || len(got.Manifest.Manifests) != 2 {
		t.Errorf("%+v %v", got, err)
	}
	fails(t, e.Viv("manifest", "create", host+"/nested", list), 1, "is an index itself")
	e.MustViv("pull", "-q", list)
	want(t, e.Viv("run", "--rm", "--network", "none", list, "cat", "/full/new"), 0, "new\n")

	want(t, e.Viv("search", "--format", "{{.Name}}", host+"/far"), 0, host+"/far/copy\n"+host+"/far/other\n")
	want(t, e.Viv("search", "-f", "stars=1", "--format", "{{.Name}}", host+"/far"), 0, "")
	fails(t, e.Viv("search", "-f", "moon=1", host+"/far"), 1, "invalid filter")
	fails(t, e.Viv("search", "--limit", "101", host+"/far"), 1, "limit")
}
