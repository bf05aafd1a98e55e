package registry

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"vivarium/image"
)

// ErrPolicy says that policy.json does not allow an image.
var ErrPolicy = errors.New("the signature policy does not allow this image")

// Policy is what containers-policy.json(5) says. The zero Policy allows everything.
type Policy struct {
	file   string
	Def    []requirement                       `json:"default"`
	Scopes map[string]map[string][]requirement `json:"transports"`
}

// requirement is one of a list, all of which have to be met.
type requirement struct {
	Type     string    `json:"type"`
	KeyPath  string    `json:"keyPath"`
	KeyData  string    `json:"keyData"`
	Identity *identity `json:"signedIdentity"`

	// Known to the format, and not supported here.
	KeyType  string          `json:"keyType"`
	KeyPaths []string        `json:"keyPaths"`
	Fulcio   json.RawMessage `json:"fulcio"`
	PKI      json.RawMessage `json:"pki"`
	RekorKey json.RawMessage `json:"rekorPublicKeyPath"`
	RekorDat json.RawMessage `json:"rekorPublicKeyData"`
}

// identity is which name has to stand in a signature.
type identity struct {
	Type       string `json:"type"`
	Reference  string `json:"dockerReference"`
	Repository string `json:"dockerRepository"`
	Prefix     string `json:"prefix"`
	Signed     string `json:"signedPrefix"`
}

// LoadPolicy reads the policy at path, or if that is empty
// $HOME/.config/containers/policy.json, else /etc/containers/policy.json. Where there
// is none of these two, everything is allowed.
func LoadPolicy(path string) (*Policy, error) {
	if path != "" {
		return readPolicy(path)
	}
	paths := []string{"/etc/containers/policy.json"}
	if home, err := os.UserHomeDir(); err == nil {
		paths = append([]string{home + "/.config/containers/policy.json"}, paths...)
	}
	for _, path := range paths {
		p, err := readPolicy(path)
		if !errors.Is(err, fs.ErrNotExist) {
			return p, err
		}
	}
	return &Policy{}, nil
}

func readPolicy(path string) (*Policy, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read signature policy: %w", err)
	}
	p, err := parsePolicy(b)
	if err != nil {
		return nil, fmt.Errorf("read signature policy %s: %w", path, err)
	}
	p.file = path
	return p, nil
}

// parsePolicy is strict: what is not understood could be what forbids an image.
func parsePolicy(b []byte) (*Policy, error) {
	var p Policy
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return nil, err
	}
	if d.More() {
		return nil, errors.New("there is something after its end")
	}
	if len(p.Def) == 0 {
		return nil, errors.New("it has no default")
	}
	lists := [][]requirement{p.Def}
	for transport, scopes := range p.Scopes {
		for scope, list := range scopes {
			if len(list) == 0 {
				return nil, fmt.Errorf("%s %q: the list of requirements is empty", transport, scope)
			}
			lists = append(lists, list)
		}
	}
	for _, list := range lists {
		for _, r := range list {
			if err := r.check(); err != nil {
				return nil, err
			}
		}
	}
	return &p, nil
}

func (r requirement) check() error {
	switch r.Type {
	case "insecureAcceptAnything", "reject", "signedBy":
		return nil
	case "sigstoreSigned":
	default:
		return fmt.Errorf("unknown requirement %q", r.Type)
	}
	if r.Identity == nil {
		return nil
	}
	switch i := r.Identity; i.Type {
	case "matchRepoDigestOrExact", "matchExact", "matchRepository":
	case "exactReference":
		if _, err := image.ParseReference(i.Reference); err != nil {
			return err
		}
	case "exactRepository":
		if _, err := image.ParseReference(i.Repository); err != nil {
			return err
		}
	case "remapIdentity":
		if i.Prefix == "" || i.Signed == "" {
			return errors.New("remapIdentity needs prefix and signedPrefix")
		}
	default:
		return fmt.Errorf("unknown signedIdentity %q", i.Type)
	}
	return nil
}

// unsupported names what a requirement asks for and this package cannot check.
func (r requirement) unsupported() string {
	switch {
	case r.Type == "signedBy":
		return "signedBy (GPG signatures)"
	case r.Type != "sigstoreSigned":
		return ""
	case r.Fulcio != nil:
		return "sigstoreSigned with fulcio"
	case r.PKI != nil:
		return "sigstoreSigned with pki"
	case r.RekorKey != nil || r.RekorDat != nil:
		return "sigstoreSigned with a rekor key"
	case r.KeyPaths != nil || (r.KeyPath == "") == (r.KeyData == ""):
		return "sigstoreSigned without exactly one of keyPath and keyData"
	}
	return ""
}

// requirements finds what has to be met, by the most specific scope: the reference,
// the repository, each part of its path, the host, its domains, all of the transport.
func (p *Policy) requirements(ref image.Reference) []requirement {
	if p == nil {
		return nil
	}
	scopes := p.Scopes["docker"]
	for _, s := range scopesOf(ref) {
		if list, ok := scopes[s]; ok {
			return list
		}
	}
	return p.Def
}

func scopesOf(ref image.Reference) []string {
	list := []string{ref.String()}
	if ref.Digest != "" {
		list = []string{ref.Repo() + "@" + ref.Digest}
	}
	for s := ref.Repo(); ; s = s[:strings.LastIndexByte(s, '/')] {
		list = append(list, s)
		if s == ref.Domain {
			break
		}
	}
	host, _, _ := strings.Cut(ref.Domain, ":")
	for {
		_, rest, ok := strings.Cut(host, ".")
		if !ok {
			return append(list, "")
		}
		list = append(list, "*."+rest)
		host = rest
	}
}

// admit refuses what no signature could help, before anything is fetched.
func (p *Policy) admit(ref image.Reference) error {
	for _, r := range p.requirements(ref) {
		if r.Type == "reject" {
			return fmt.Errorf("%w: %s rejects it", ErrPolicy, p.file)
		}
		if what := r.unsupported(); what != "" {
			return fmt.Errorf("%w: %s asks for %s, which is not supported", ErrPolicy, p.file, what)
		}
	}
	return nil
}

// key reads the public key of a requirement.
func (r requirement) key() (*ecdsa.PublicKey, error) {
	b, err := []byte(nil), error(nil)
	if r.KeyPath != "" {
		b, err = os.ReadFile(r.KeyPath)
	} else {
		b, err = base64.StdEncoding.DecodeString(r.KeyData)
	}
	if err != nil {
		return nil, fmt.Errorf("read the key of the signature policy: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, errors.New("read the key of the signature policy: it is no PEM block of a PUBLIC KEY")
	}
	k, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read the key of the signature policy: %w", err)
	}
	pub, ok := k.(*ecdsa.PublicKey)
	if !ok {
		return nil, errors.New("read the key of the signature policy: only ECDSA keys are supported")
	}
	return pub, nil
}

// names tells whether the name in a signature is one for this image.
func (r requirement) names(ref image.Reference, signed string) bool {
	s, err := image.ParseReference(signed)
	if err != nil {
		return false
	}
	tagged := strings.HasSuffix(signed, ":"+s.Tag) // ParseReference fills in latest
	id := identity{Type: "matchRepoDigestOrExact"}
	if r.Identity != nil {
		id = *r.Identity
	}
	switch id.Type {
	case "exactReference":
		want, err := image.ParseReference(id.Reference)
		return err == nil && tagged && want.String() == s.String()
	case "exactRepository":
		want, err := image.ParseReference(id.Repository)
		return err == nil && want.Repo() == s.Repo()
	case "matchRepository":
		return s.Repo() == ref.Repo()
	case "remapIdentity":
		if rest, ok := strings.CutPrefix(ref.Repo(), id.Prefix); ok && (rest == "" || strings.HasPrefix(rest, "/")) {
			mapped, err := image.ParseReference(id.Signed + rest + ref.Suffix())
			if err != nil {
				return false
			}
			ref = mapped
		}
	case "matchExact":
		return ref.Digest == "" && tagged && s.String() == ref.String()
	}
	if ref.Digest != "" {
		return s.Repo() == ref.Repo()
	}
	return tagged && s.String() == ref.String()
}
