package registry

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image"
	"vivarium/image/store"
)

// Signatures as cosign keeps them: an image of tag sha256-HEX.sig beside the image of
// digest sha256:HEX. Each of its layers is a payload, whose signature is an annotation
// (cosign's specs/SIGNATURE_SPEC.md).
const (
	payloadType    = "application/vnd.dev.cosign.simplesigning.v1+json"
	signatureName  = "dev.cosignproject.cosign/signature"
	payloadSubject = "cosign container image signature"
	maxPayload     = 1 << 20
	maxSignatures  = 128
)

// signature is one payload with what signs it.
type signature struct {
	payload []byte
	sig     []byte
}

// verify checks the image against the policy. A signature of the index that names
// the image is as good as one of the image's own manifest.
func (p *puller) verify(ctx context.Context) error {
	var signed []requirement
	for _, r := range p.opts.Policy.requirements(p.ref) {
		if r.Type == "sigstoreSigned" {
			signed = append(signed, r)
		}
	}
	if len(signed) == 0 {
		return nil
	}
	digests := []digest.Digest{p.top}
	if own := digest.FromBytes(p.raw); own != p.top {
		digests = append(digests, own)
	}
	met := make([]error, len(signed))
	for i := range met {
		met[i] = errors.New("it has no signature")
	}
	for _, d := range digests {
		sigs, err := p.signatures(ctx, d)
		if err != nil {
			return fmt.Errorf("get the signatures of %s: %w", d, err)
		}
		for i, r := range signed {
			for _, s := range sigs {
				if met[i] != nil {
					met[i] = r.verify(p.ref, d, s)
				}
			}
		}
	}
	for _, err := range met {
		if err != nil {
			return fmt.Errorf("%w: %s: %v", ErrPolicy, p.opts.Policy.file, err)
		}
	}
	return nil
}

// verify checks one signature of the image with digest d.
func (r requirement) verify(ref image.Reference, d digest.Digest, s signature) error {
	key, err := r.key()
	if err != nil {
		return err
	}
	sum := sha256.Sum256(s.payload)
	if !ecdsa.VerifyASN1(key, sum[:], s.sig) {
		return errors.New("no signature of it is by the key of the policy")
	}
	var p struct {
		Critical struct {
			Identity struct {
				Reference string `json:"docker-reference"`
			} `json:"identity"`
			Image struct {
				Digest digest.Digest `json:"docker-manifest-digest"`
			} `json:"image"`
			Type string `json:"type"`
		} `json:"critical"`
	}
	if err := json.Unmarshal(s.payload, &p); err != nil {
		return fmt.Errorf("decode the signed payload: %w", err)
	}
	switch c := p.Critical; {
	case c.Type != payloadSubject:
		return fmt.Errorf("what is signed is no image but %q", oneLine(c.Type))
	case c.Image.Digest != d:
		return fmt.Errorf("what is signed is %s, and this is %s", oneLine(string(c.Image.Digest)), d)
	case !r.names(ref, c.Identity.Reference):
		return fmt.Errorf("it is signed as %q, which the policy does not take for %s", oneLine(c.Identity.Reference), ref.String())
	}
	return nil
}

// signatures fetches what is attached to a digest; nothing is no error.
func (p *puller) signatures(ctx context.Context, d digest.Digest) ([]signature, error) {
	raw, kind, err := p.c.getManifest(ctx, "sha256-"+d.Encoded()+".sig", "")
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil || isIndex(kind) {
		return nil, err
	}
	m, err := store.ParseManifest(raw)
	if err != nil {
		return nil, err
	}
	if len(m.Layers) > maxSignatures {
		return nil, fmt.Errorf("%w: it has %d signatures", ErrUnsupported, len(m.Layers))
	}
	var list []signature
	for _, l := range m.Layers {
		sig, err := base64.StdEncoding.DecodeString(l.Annotations[signatureName])
		if err != nil || len(sig) == 0 || !strings.HasPrefix(l.MediaType, payloadType) || l.Size > maxPayload {
			continue
		}
		payload, err := p.payload(ctx, l)
		if err != nil {
			return nil, err
		}
		list = append(list, signature{payload, sig})
	}
	return list, nil
}

func (p *puller) payload(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
	r, err := p.c.blob(ctx, d, 0, nil)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, d.Size+1))
	if err != nil {
		return nil, err
	}
	if got := digest.FromBytes(b); got != d.Digest {
		return nil, fmt.Errorf("blob %s: %w: the content has %s", d.Digest, store.ErrDigest, got)
	}
	return b, nil
}
