package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path"
	"strings"

	"vivarium/image/build"
)

// fetchURL begins to read what a URL names, for ADD.
func fetchURL(ctx context.Context, url string) (*build.Download, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", url, err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", url, errors.Unwrap(err))
	}
	if res.StatusCode < 200 || res.StatusCode >= 300 {
		res.Body.Close()
		return nil, fmt.Errorf("fetch %s: the server says %s", url, res.Status)
	}
	d := &build.Download{ReadCloser: res.Body, Name: path.Base(req.URL.Path)}
	if t, err := http.ParseTime(res.Header.Get("Last-Modified")); err == nil {
		d.Modified = t
	}
	return d, nil
}

// cloneGit copies what URL[#REF[:SUBDIR]] names into an empty directory, with the git
// of this machine.
func cloneGit(ctx context.Context, url, dir string, keepGitDir bool, out io.Writer) error {
	base, frag, _ := strings.Cut(url, "#")
	ref, sub, _ := strings.Cut(frag, ":")
	if sub != "" {
		return fmt.Errorf("ADD %s: a directory of a repository cannot be named: add all of it", url)
	}
	if strings.HasPrefix(base, "-") || strings.HasPrefix(ref, "-") {
		return fmt.Errorf("ADD %s: this is no repository", url)
	}
	git := func(args ...string) error {
		cmd := exec.CommandContext(ctx, "git", append([]string{"-C", dir}, args...)...)
		cmd.Env = append(os.Environ(), "GIT_TERMINAL_PROMPT=0")
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("git %s: %w", args[0], err)
		}
		return nil
	}
	if ref == "" {
		ref = "HEAD"
	}
	for _, args := range [][]string{{"init", "-q"}, {"fetch", "-q", "--depth", "1", base, ref}, {"checkout", "-q", "FETCH_HEAD"}} {
		if err := git(args...); err != nil {
			return fmt.Errorf("ADD %s: %w", url, err)
		}
	}
	if keepGitDir {
		return nil
	}
	return os.RemoveAll(dir + "/.git")
}
