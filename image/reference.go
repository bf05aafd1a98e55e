// Package image holds what an image is, and how images are named. It has no
// state: store keeps images on disk, registry fetches them, archive reads and
// writes them as files.
package image

import (
	"errors"
	"fmt"
	"strings"
)

// ErrReference says that a string is no image name.
var ErrReference = errors.New("invalid reference format")

const (
	defaultDomain = "docker.io"
	legacyDomain  = "index.docker.io"
	officialRepo  = "library"
	defaultTag    = "latest"

	maxRepoName = 255 // domain, slash and path
	maxTag      = 128
)

// Reference is a full image name: Docker's defaults are filled in, so that
// "ubuntu" is docker.io / library/ubuntu : latest. Tag is empty only if there
// is a digest.
type Reference struct {
	Domain string // with port, if any
	Path   string
	Tag    string
	Digest string // "sha256:..."
}

// ParseReference reads a name as people type it. The grammar is the one of
// distribution's reference package, which Docker and every registry share; it
// is written out here because compiling that package's expressions costs every
// start of the program most of a millisecond.
func ParseReference(s string) (Reference, error) {
	fail := func(why string) (Reference, error) {
		return Reference{}, fmt.Errorf("parse image name %q: %w: %s", s, ErrReference, why)
	}
	var r Reference
	rest := s
	if name, dgst, ok := strings.Cut(rest, "@"); ok {
		if !validDigest(dgst) {
			return fail("the part after @ must be sha256: and 64 hexadecimal digits")
		}
		rest, r.Digest = name, dgst
	}
	if i := strings.LastIndexByte(rest, ':'); i >= 0 && !strings.Contains(rest[i:], "/") {
		if !validTag(rest[i+1:]) {
			return fail("a tag has up to 128 letters, digits, '_', '.' and '-', and starts with none of the last two")
		}
		rest, r.Tag = rest[:i], rest[i+1:]
	}
	if isHex(rest) && len(rest) == 64 {
		return fail("64 hexadecimal digits are an image ID, not a name")
	}
	r.Domain, r.Path = splitDomain(rest)
	if !validDomain(r.Domain) {
		return fail("the registry's host name is not valid")
	}
	if !validPath(r.Path) {
		if validPath(strings.ToLower(r.Path)) {
			return fail("repository name must be lowercase")
		}
		return fail("a repository is lower-case letters and digits, with single '.', '_', '__' or dashes between, in parts separated by '/'")
	}
	if len(r.Path) > maxRepoName {
		return fail("repository name must not be more than 255 characters")
	}
	if r.Tag == "" && r.Digest == "" {
		r.Tag = defaultTag
	}
	return r, nil
}

// splitDomain tells a host name from the first part of a path as Docker does:
// by a dot, a colon, an upper-case letter or the name localhost.
func splitDomain(name string) (domain, path string) {
	first, rest, ok := strings.Cut(name, "/")
	if !ok || (!strings.ContainsAny(first, ".:") && first != "localhost" && strings.ToLower(first) == first) {
		domain, path = defaultDomain, name
	} else {
		domain, path = first, rest
	}
	if domain == legacyDomain {
		domain = defaultDomain
	}
	if domain == defaultDomain && !strings.Contains(path, "/") {
		path = officialRepo + "/" + path
	}
	return domain, path
}

func validDigest(d string) bool {
	hex, ok := strings.CutPrefix(d, "sha256:")
	return ok && len(hex) == 64 && isHex(hex)
}

func isHex(s string) bool {
	for i := 0; i < len(s); i++ {
		if !isDigit(s[i]) && (s[i] < 'a' || s[i] > 'f') {
			return false
		}
	}
	return s != ""
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
func isLower(c byte) bool { return 'a' <= c && c <= 'z' || isDigit(c) }
func isAlnum(c byte) bool { return isLower(c) || 'A' <= c && c <= 'Z' }

func validTag(t string) bool {
	if t == "" || len(t) > maxTag || t[0] == '.' || t[0] == '-' {
		return false
	}
	for i := 0; i < len(t); i++ {
		if !isAlnum(t[i]) && t[i] != '_' && t[i] != '.' && t[i] != '-' {
			return false
		}
	}
	return true
}

func validPath(p string) bool {
	for _, comp := range strings.Split(p, "/") {
		if !validComponent(comp) {
			return false
		}
	}
	return true
}

// validComponent checks one part of a path: runs of letters and digits, with
// ".", "_", "__" or any number of dashes between.
func validComponent(c string) bool {
	if c == "" || !isLower(c[0]) || !isLower(c[len(c)-1]) {
		return false
	}
	for i := 0; i < len(c); {
		if isLower(c[i]) {
			i++
			continue
		}
		start := i
		for i < len(c) && !isLower(c[i]) {
			i++
		}
		switch sep := c[start:i]; {
		case sep == "." || sep == "_" || sep == "__":
		case strings.Trim(sep, "-") == "":
		default:
			return false
		}
	}
	return true
}

func validDomain(d string) bool {
	host := d
	if i := strings.LastIndexByte(d, ':'); i >= 0 && !strings.HasSuffix(d, "]") {
		port := d[i+1:]
		if port == "" || strings.Trim(port, "0123456789") != "" {
			return false
		}
		host = d[:i]
	}
	if ip, ok := strings.CutPrefix(host, "["); ok {
		ip, ok = strings.CutSuffix(ip, "]")
		return ok && ip != "" && strings.Trim(ip, "0123456789abcdefABCDEF:") == ""
	}
	for _, label := range strings.Split(host, ".") {
		if label == "" || !isAlnum(label[0]) || !isAlnum(label[len(label)-1]) {
			return false
		}
		for i := 0; i < len(label); i++ {
			if !isAlnum(label[i]) && label[i] != '-' {
				return false
			}
		}
	}
	return true
}

// Repo is domain and path, without tag and digest.
func (r Reference) Repo() string { return r.Domain + "/" + r.Path }

// String is the full name, as the store keeps it.
func (r Reference) String() string { return r.Repo() + r.Suffix() }

// Suffix is tag and digest with their signs: ":latest", "@sha256:...".
func (r Reference) Suffix() string {
	s := ""
	if r.Tag != "" {
		s = ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest
	}
	return s
}

// FamiliarRepo is the repository as Docker prints it, without what is default.
func (r Reference) FamiliarRepo() string {
	if r.Domain != defaultDomain {
		return r.Repo()
	}
	if short, ok := strings.CutPrefix(r.Path, officialRepo+"/"); ok && !strings.Contains(short, "/") {
		return short
	}
	return r.Path
}

// Familiar is the name as Docker prints it: "ubuntu:latest".
func (r Reference) Familiar() string { return r.FamiliarRepo() + r.Suffix() }

// Familiar shortens a full name; what is no name comes back as it is.
func Familiar(name string) string {
	r, err := ParseReference(name)
	if err != nil {
		return name
	}
	return r.Familiar()
}
