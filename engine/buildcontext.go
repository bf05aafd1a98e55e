package engine

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"vivarium/image/build"
	"vivarium/image/store"
	"vivarium/layer"
)

// A build's context may be a directory of this machine, a git repository, or an archive: of
// standard input, or what a URL names (docs.docker.com/build/concepts/context). What is none
// of these is a Dockerfile without a context.

// RemoteContext tells whether PATH of `build` names something that has to be fetched.
func RemoteContext(where string) bool { return build.IsURL(where) || isGitHub(where) }

// isGitHub accepts "github.com/OWNER/NAME", for which Docker puts "https://" in front.
func isGitHub(s string) bool { return strings.HasPrefix(s, "github.com/") }

// maxDockerfile bounds a Dockerfile that is read.
const maxDockerfile = 16 << 20

// fetchContext makes a directory, in a transaction's own, of a context that is none.
func (opt *BuildOptions) fetchContext(ctx context.Context, t *store.Tx) error {
	dir, err := os.MkdirTemp(t.Dir(), "context-")
	if err != nil {
		return fmt.Errorf("make a directory for the build's context: %w", err)
	}
	where := opt.Context
	if isGitHub(where) {
		where = "https://" + strings.TrimSuffix(where, "/")
		if base, frag, ok := strings.Cut(where, "#"); !strings.HasSuffix(base, ".git") {
			if where = base + ".git"; ok {
				where += "#" + frag
			}
		}
	}
	switch {
	case where == "":
		err = opt.readContext(ctx, opt.Input, dir)
	case build.IsGit(where):
		var log bytes.Buffer
		if opt.Context, err = cloneGit(ctx, where, dir, false, &log); err != nil {
			err = errorf(ErrInvalid, "unable to prepare context: %v\n%s", err, strings.TrimSpace(log.String()))
		}
	default:
		var d *build.Download
		if d, err = fetchURL(ctx, where); err != nil {
			return errorf(ErrInvalid, "unable to prepare context: %v", err)
		}
		err = errors.Join(opt.readContext(ctx, d, dir), d.Close())
	}
	if err != nil || opt.Dockerfile != nil {
		return err
	}
	opt.Dockerfile, err = readDockerfile(opt.Context, opt.DockerfileName)
	return err
}

// readContext unpacks an archive into a directory, or takes a plain text for the Dockerfile.
func (opt *BuildOptions) readContext(ctx context.Context, r io.Reader, dir string) error {
	plain, how, err := store.Decompress(bufio.NewReaderSize(r, 1<<20))
	if err != nil {
		return errorf(ErrInvalid, "unable to prepare context: %v", err)
	}
	defer plain.Close()
	in := bufio.NewReader(plain)
	const tarMagic = 257 // where "ustar" stands in the first block (tar(5))
	head, err := in.Peek(tarMagic + 5)
	if err != nil && err != io.EOF {
		return errorf(ErrInvalid, "unable to prepare context: %v", err)
	}
	if len(head) < tarMagic || string(head[tarMagic:]) != "ustar" {
		if how != store.Plain {
			return errorf(ErrInvalid, "unable to prepare context: what is compressed is no tar archive")
		}
		if opt.Context = ""; opt.Dockerfile != nil {
			return errorf(ErrInvalid, "unable to prepare context: it is no archive")
		}
		opt.DockerfileName = "Dockerfile"
		opt.Dockerfile, err = ReadDockerfile(in)
		return err
	}
	root, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	owner := layer.Owner{} // files of a context have no owner: all that is copied is root's
	if err := layer.CopyIn(ctx, root, "/", in, layer.CopyOptions{Owner: &owner, Unprivileged: os.Geteuid() != 0}); err != nil {
		return errorf(ErrInvalid, "unable to prepare context: %v", err)
	}
	opt.Context = dir
	return nil
}

// ReadDockerfile reads a Dockerfile, which has a bound.
func ReadDockerfile(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxDockerfile+1))
	if err == nil && len(text) > maxDockerfile {
		err = errorf(ErrInvalid, "the Dockerfile has more than %d bytes", maxDockerfile)
	}
	return text, err
}

// readDockerfile reads the Dockerfile of a fetched context, in which links lead nowhere else.
func readDockerfile(dir, name string) ([]byte, error) {
	if name == "" {
		name = "Dockerfile"
	}
	root, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := build.OpenIn(root, path.Clean("/"+name))
	if err != nil {
		return nil, errorf(ErrInvalid, "failed to read dockerfile: open %s in the context: %v", name, err)
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, errorf(ErrInvalid, "failed to read dockerfile: %s in the context is no file", name)
	}
	return ReadDockerfile(f)
}
