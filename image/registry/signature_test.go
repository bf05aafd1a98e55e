package registry_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image/imagetest"
	"vivarium/image/registry"
)

// sign attaches a signature to a digest, as cosign does.
func sign(t *testing.T, f *fake, key *ecdsa.PrivateKey, d digest.Digest, payload string) {
	t.Helper()
	sum := sha256.Sum256([]byte(payload))
	sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	put := func(b []byte) digest.Digest {
		f.img.Blobs[digest.FromBytes(b)] = b
		return digest.FromBytes(b)
	}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: put([]byte("{}")), Size: 2}}
	m.SchemaVersion = 2
	m.Layers = []ocispec.Descriptor{{MediaType: "application/vnd.dev.cosign.simplesigning.v1+json", Digest: put([]byte(payload)), Size: int64(len(payload)),
		Annotations: map[string]string{"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString(sig)}}}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	f.tags["sha256-"+d.Encoded()+".sig"] = b
}

func TestPullSigned(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	newKey := func(name string) *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKIXPublicKey(&k.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+"/"+name, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return k
	}
	good, evil := newKey("good.pub"), newKey("evil.pub")
	content := fmt.Sprintf(`{"default":[{"type":"sigstoreSigned","keyPath":%q,"signedIdentity":{"type":"matchRepository"}}]}`, dir+"/good.pub")
	if err := os.WriteFile(dir+"/policy.json", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	policy, err := registry.LoadPolicy(dir + "/policy.json")
	if err != nil {
		t.Fatal(err)
	}
	const form = `{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},"type":%q},"optional":null}`
	const kind = "cosign container image signature"
	for name, tt := range map[string]struct {
		sign func(f *fake, img *imagetest.Image, repo string)
		text string // "": it is allowed
	}{
		"good": {func(f *fake, img *imagetest.Image, repo string) {
			sign(t, f, good, img.Digest(), fmt.Sprintf(form, repo, img.Digest(), kind))
		}, ""},
		"none": {func(*fake, *imagetest.Image, string) {}, "no signature"},
		"other key": {func(f *fake, img *imagetest.Image, repo string) {
			sign(t, f, evil, img.Digest(), fmt.Sprintf(form, repo, img.Digest(), kind))
		}, "by the key"},
		"other image": {func(f *fake, img *imagetest.Image, repo string) {
			sign(t, f, good, img.Digest(), fmt.Sprintf(form, repo, digest.FromString("x"), kind))
		}, "what is signed is"},
		"other name": {func(f *fake, img *imagetest.Image, repo string) {
			sign(t, f, good, img.Digest(), fmt.Sprintf(form, repo+"y", img.Digest(), kind))
		}, "signed as"},
		"no image": {func(f *fake, img *imagetest.Image, repo string) {
			sign(t, f, good, img.Digest(), fmt.Sprintf(form, repo, img.Digest(), "a cake"))
		}, "a cake"},
		"no manifest": {func(f *fake, img *imagetest.Image, _ string) {
			f.tags["sha256-"+img.Digest().Encoded()+".sig"] = []byte("{")
		}, "signatures"},
	} {
		t.Run(name, func(t *testing.T) {
			img := simple(t)
			f := &fake{img: img, tags: map[string][]byte{}}
			addr := serve(t, f)
			tt.sign(f, img, addr+"/x")
			st, root := openStore(t)
			_, err := registry.Pull(context.Background(), st, addr+"/x:v1", registry.Options{Limits: quick, Policy: policy})
			if tt.text == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.text) || name != "no manifest" && !errors.Is(err, registry.ErrPolicy) {
				t.Errorf("%v, want %q", err, tt.text)
			}
			if left := leftovers(t, root); len(left) != 0 || f.asked(img.Desc.Layers[0].Digest) != 0 {
				t.Errorf("something was fetched: %v", left)
			}
		})
	}
}
