package build

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"

	"vivarium/image/store"
)

// IsURL tells what ADD fetches: an address of the web, or of a git repository.
func IsURL(s string) bool {
	return strings.HasPrefix(s, "http://") || strings.HasPrefix(s, "https://") || IsGit(s)
}

// IsGit tells what ADD clones (docs.docker.com, Dockerfile reference, "ADD").
func IsGit(s string) bool {
	base, _, _ := strings.Cut(s, "#")
	return strings.HasPrefix(s, "git@") || strings.HasPrefix(s, "git://") || strings.HasPrefix(s, "ssh://") ||
		(strings.HasPrefix(s, "http://") || strings.HasPrefix(s, "https://")) && strings.HasSuffix(base, ".git")
}

// isArchive tells a tar, plain or packed, by its first entry.
func isArchive(f *os.File) bool {
	plain, release, err := inflate(f)
	if err != nil {
		return false
	}
	defer release()
	_, err = tar.NewReader(plain).Next()
	return err == nil || errors.Is(err, tar.ErrInsecurePath)
}

func inflate(r io.Reader) (io.Reader, func(), error) {
	z, _, err := store.Decompress(r)
	if err != nil {
		return nil, nil, err
	}
	return z, func() { z.Close() }, nil
}

// fetch brings what a URL names to a directory of this build.
func (j *copying) fetch(ctx context.Context, st *step, url string) (*part, error) {
	b := j.s.b
	dir, err := os.MkdirTemp(b.t.Dir(), "fetched-")
	if err != nil {
		return nil, err
	}
	p := &part{want: url, url: true}
	if IsGit(url) {
		dir, err = j.clone(ctx, st, url, dir)
		p.want = ""
	} else if p.name, err = j.download(ctx, url, dir); err == nil {
		p.want = p.name
	}
	if err != nil {
		return nil, err
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	p.o = dirOrigin(url, f, nil)
	p.o.own = true
	return p, nil
}

func (j *copying) clone(ctx context.Context, st *step, url, dir string) (string, error) {
	if j.s.b.o.Clone == nil {
		return "", fmt.Errorf("ADD %s: git repositories cannot be fetched here", url)
	}
	in, err := j.s.b.o.Clone(ctx, url, dir, j.keepGit, st)
	if err != nil {
		return "", fmt.Errorf("ADD %w", err)
	}
	return in, nil
}

// download writes the file that a URL names, with mode 0600, as ADD is defined.
func (j *copying) download(ctx context.Context, url, dir string) (name string, err error) {
	if j.s.b.o.Fetch == nil {
		return "", fmt.Errorf("ADD %s: nothing can be fetched here", url)
	}
	d, err := j.s.b.o.Fetch(ctx, url)
	if err != nil {
		return "", err
	}
	defer d.Close()
	name = path.Base(path.Clean("/" + d.Name))
	if name == "/" || name == "." {
		if strings.HasSuffix(j.dest, "/") {
			return "", fmt.Errorf("cannot determine filename for source %q: name a file as destination", url)
		}
		name = path.Base(j.dest)
	}
	f, err := os.OpenFile(dir+"/"+name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	sum := digest.SHA256.Digester()
	if j.checksum != "" {
		sum = j.checksum.Algorithm().Digester()
	}
	_, err = io.Copy(io.MultiWriter(f, sum.Hash()), d)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return "", fmt.Errorf("fetch %s: %w", url, err)
	}
	if j.checksum != "" && sum.Digest() != j.checksum {
		return "", fmt.Errorf("digest mismatch %s: %s", sum.Digest(), j.checksum)
	}
	if !d.Modified.IsZero() {
		return name, os.Chtimes(dir+"/"+name, d.Modified, d.Modified)
	}
	return name, nil
}
