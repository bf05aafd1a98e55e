package image

import (
	"runtime"
	"strings"
	"testing"

	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const hex64 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

var references = []string{
	"ubuntu", "ubuntu:22.04", "library/ubuntu", "docker.io/ubuntu", "index.docker.io/ubuntu", "user/repo", "localhost/x", "localhost:5000/x:y",
	"quay.io/a/b/c:t", "[::1]:5000/x", "[fe80::1]/x", "Host/x", "a.b/c", "127.0.0.1:5000/team/app:v1", "ubuntu@sha256:" + hex64, "ubuntu:t@sha256:" + hex64,
	"", " ", "Ubuntu", "ubuntu:", ":tag", "@sha256:" + hex64, "a//b", "/a", "a/", "a:b:c", "a b", "-a", "a-", "a--b", "a__b", "a___b", "a..b", "a._b", "a.-b",
	hex64, "docker.io/" + hex64, "x:" + strings.Repeat("t", 128), "x:" + strings.Repeat("t", 129), strings.Repeat("a", 256), strings.Repeat("a", 240),
	"sha256:" + hex64, "x@sha256:abc", "x@md5:" + hex64, "http://x/y", "x.y:99999/z", "x:y/z", "-x.y/z", "x.-y/z", "x_y/z", "x_y.z/z", "../x", "a/../b", "x:.t", "x:-t", "ä", "x\x00",
	"docker.io", "docker.io/", "localhost", "localhost:5000", "DOCKER.IO/x", "index.docker.io/x/y",
}

// agree compares with the parser that Docker uses.
func agree(t *testing.T, s string) {
	t.Helper()
	got, err := ParseReference(s)
	want, werr := reference.ParseNormalizedNamed(s)
	if werr == nil {
		if d, ok := want.(reference.Digested); ok && !strings.HasPrefix(string(d.Digest()), "sha256:") {
			return // only sha256 is stored here
		}
	}
	if werr == nil && reference.Domain(want) == "" {
		// "x_y.z/a": its first part is told to be a host and is none, and
		// distribution then goes on without any. Refused here.
		if err == nil {
			t.Errorf("%q: accepted without a host: %+v", s, got)
		}
		return
	}
	if (err == nil) != (werr == nil) {
		t.Errorf("%q: %v, and distribution says %v", s, err, werr)
		return
	}
	if err != nil {
		return
	}
	want = reference.TagNameOnly(want)
	if got.String() != want.String() || got.Familiar() != reference.FamiliarString(want) || got.Domain != reference.Domain(want) || got.Path != reference.Path(want) {
		t.Errorf("%q: %s (%s), and distribution says %s (%s)", s, got, got.Familiar(), want, reference.FamiliarString(want))
	}
	again, err := ParseReference(got.String())
	if err != nil || again != got {
		t.Errorf("%q does not survive: %+v %v", s, again, err)
	}
}

func TestParseReferenceAgreesWithDistribution(t *testing.T) {
	for _, s := range references {
		agree(t, s)
	}
}

func FuzzParseReference(f *testing.F) {
	for _, s := range references {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) { agree(t, s) })
}

func TestPlatforms(t *testing.T) {
	for in, want := range map[string]string{
		"linux/amd64": "linux/amd64", "amd64": "linux/amd64", "linux/x86_64": "linux/amd64", "linux/arm64/v8": "linux/arm64", "aarch64": "linux/arm64",
		"linux/arm": "linux/arm/v7", "armhf": "linux/arm/v7", "linux/arm/v6": "linux/arm/v6", "LINUX/386": "linux/386",
		"linux": "linux/" + runtime.GOARCH,
	} {
		p, err := ParsePlatform(in)
		if err != nil || PlatformString(p) != want {
			t.Errorf("%s: %s %v", in, PlatformString(p), err)
		}
	}
	for _, in := range []string{"windows/amd64", "linux/", "a/b/c/d", "li nux/x", "/", "x", "windows"} {
		if p, err := ParsePlatform(in); err == nil {
			t.Errorf("%s: %v", in, p)
		}
	}
	list := func(ps ...string) (out []ocispec.Descriptor) {
		for _, s := range ps {
			f := strings.Split(s+"//", "/")
			out = append(out, ocispec.Descriptor{MediaType: s, Platform: &ocispec.Platform{OS: f[0], Architecture: f[1], Variant: f[2]}})
		}
		return out
	}
	for _, tt := range []struct {
		want, got string
		have      []string
	}{
		{"linux/arm/v7", "linux/arm/v6", []string{"linux/arm/v5", "linux/arm/v6", "linux/arm64/v8"}},
		{"linux/arm/v7", "linux/arm/v7", []string{"linux/arm/v6", "linux/arm/v7"}},
		{"linux/arm/v6", "", []string{"linux/arm/v7"}},
		{"linux/amd64", "linux/amd64", []string{"linux/amd64/v3", "linux/amd64"}},
		{"linux/amd64", "", []string{"windows/amd64", "linux/arm64"}},
		{"linux/arm64", "linux/arm64/v8", []string{"linux/amd64", "linux/arm64/v8"}},
	} {
		p, err := ParsePlatform(tt.want)
		if err != nil {
			t.Fatal(err)
		}
		d, err := ChoosePlatform(list(tt.have...), p)
		if d.MediaType != tt.got || (err == nil) != (tt.got != "") {
			t.Errorf("%s of %v: %q %v", tt.want, tt.have, d.MediaType, err)
		}
	}
}
