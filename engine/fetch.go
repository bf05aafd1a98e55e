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
