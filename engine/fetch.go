package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"

	"vivarium/image/build"
)

// fetchIdle is how long a server may say nothing.
const fetchIdle = time.Minute

// fetchURL begins to read what a URL names, for ADD.
func fetchURL(ctx context.Context, url string) (*build.Download, error) {
	return fetch(ctx, url, fetchIdle)
}

func fetch(ctx context.Context, url string, idle time.Duration) (*build.Download, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(idle, func() { cancel(fmt.Errorf("nothing came for %v", idle)) })
	fail := func(err error) (*build.Download, error) {
		timer.Stop()
		cancel(nil)
		return nil, fmt.Errorf("fetch %s: %w", url, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fail(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return fail(cause)
		}
		return fail(errors.Unwrap(err))
	}
	if res.StatusCode < 200 || res.StatusCode >= 300 {
		res.Body.Close()
		return fail(fmt.Errorf("the server says %s", res.Status))
	}
	timer.Stop()
	d := &build.Download{ReadCloser: &watched{res.Body, ctx, cancel, timer, idle, url}, Name: path.Base(req.URL.Path)}
	if t, err := http.ParseTime(res.Header.Get("Last-Modified")); err == nil {
		d.Modified = t
	}
	return d, nil
}

// watched ends a transfer that stands still.
type watched struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	idle   time.Duration
	url    string
}

func (w *watched) Read(b []byte) (int, error) {
	w.timer.Reset(w.idle)
	n, err := w.ReadCloser.Read(b)
	w.timer.Stop() // whoever reads may take his time
	if cause := context.Cause(w.ctx); err != nil && err != io.EOF && cause != nil {
		err = fmt.Errorf("fetch %s: %w", w.url, cause)
	}
	return n, err
}

func (w *watched) Close() error {
	w.timer.Stop()
	defer w.cancel(nil)
	return w.ReadCloser.Close()
}

// cloneGit copies what URL[#REF[:SUBDIR]] names into an empty directory, with the git
// of this machine, and gives the directory that is meant in it. Its submodules come along, as
// with BuildKit.
func cloneGit(ctx context.Context, url, dir string, keepGitDir bool, out io.Writer) (string, error) {
	base, frag, _ := strings.Cut(url, "#")
	ref, sub, _ := strings.Cut(frag, ":")
	if strings.HasPrefix(base, "-") || strings.HasPrefix(ref, "-") {
		return "", fmt.Errorf("%s: this is no repository", url)
	}
	if ref == "" {
		ref = "HEAD"
	}
	for _, args := range [][]string{
		{"init", "-q"}, {"fetch", "-q", "--depth", "1", "--", base, ref}, {"checkout", "-q", "FETCH_HEAD"},
		{"submodule", "-q", "update", "--init", "--recursive", "--depth", "1"},
	} {
		cmd := exec.CommandContext(ctx, "git", append([]string{"-C", dir}, args...)...)
		cmd.Env = append(os.Environ(), "GIT_TERMINAL_PROMPT=0")
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Run(); err != nil {
			return "", fmt.Errorf("%s: git %s: %w", url, args[0], err)
		}
	}
	if !keepGitDir {
		if err := removeGitDirs(dir); err != nil {
			return "", err
		}
	}
	return subdirectory(dir, sub)
}

// removeGitDirs removes what git itself keeps in a work tree and those of its submodules.
func removeGitDirs(dir string) error {
	return filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != ".git" {
			return err
		}
		if err := os.RemoveAll(name); err != nil {
			return err
		}
		if d.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
}

// subdirectory finds a directory in a tree that others have made: links lead to nothing outside.
func subdirectory(dir, sub string) (string, error) {
	if sub == "" {
		return dir, nil
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	name := strings.TrimPrefix(path.Clean("/"+sub), "/")
	for at := range pathsTo(name) {
		if st, err := root.Lstat(at); err != nil {
			return "", fmt.Errorf("open the directory %s of the repository: %w", sub, err)
		} else if !st.IsDir() {
			return "", fmt.Errorf("open the directory %s of the repository: %s is no directory", sub, at)
		}
	}
	return filepath.Join(dir, name), nil
}

// pathsTo gives a, a/b and a/b/c for a/b/c.
func pathsTo(name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range len(name) {
			if name[i] == '/' && !yield(name[:i]) {
				return
			}
		}
		yield(name)
	}
}
