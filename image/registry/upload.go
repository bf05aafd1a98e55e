package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// opener gives a blob's content from a place on.
type opener func(ctx context.Context, from int64) (io.ReadCloser, error)

// request is one request of a push.
type request struct {
	method string
	url    string
	header http.Header
	body   io.Reader // nil: none
	size   int64     // of the body
	wait   time.Duration
	ok     []int
}

// send makes one request and reads no more of its answer than the head. The answer
// has to begin within r.wait after the last byte of the body, and the body has to be
// taken without pauses longer than the idle limit.
func (c *client) send(ctx context.Context, r request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(c.limits.Connect+r.wait, func() { cancel(ErrTimeout) })
	defer timer.Stop()
	var body io.Reader
	if r.body != nil && r.size > 0 {
		body = &watchedBody{r.body, timer, c.limits.Idle, r.wait, r.size}
		if small, ok := r.body.(*bytes.Reader); ok {
			body = small // net/http can send it once more
		}
	}
	req, err := http.NewRequestWithContext(ctx, r.method, r.url, body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.ContentLength = r.size
	}
	for k, v := range r.header {
		req.Header[k] = v
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	defer resp.Body.Close()
	if err := transport.CheckError(resp, r.ok...); err != nil {
		return resp, err
	}
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
	return resp, nil
}

// watchedBody pushes the time limit of its request on as the network takes more.
type watchedBody struct {
	io.Reader
	timer      *time.Timer
	idle, wait time.Duration
	left       int64
}

func (w *watchedBody) Read(b []byte) (int, error) {
	w.timer.Stop() // where the content comes from has limits of its own
	n, err := w.Reader.Read(b)
	if w.left -= int64(n); w.left <= 0 || err != nil {
		w.timer.Reset(w.wait)
	} else {
		w.timer.Reset(w.idle)
	}
	return n, err
}

// hasBlob asks whether the repository has the blob.
func (c *client) hasBlob(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	_, err := c.send(ctx, request{method: http.MethodHead, url: c.url("blobs", string(d.Digest)), wait: c.limits.Response, ok: []int{http.StatusOK}})
	if err == nil {
		return true, nil
	}
	var te *transport.Error
	if errors.As(err, &te) && te.StatusCode == http.StatusNotFound {
		return false, nil
	}
	return false, c.explain("look for blob "+string(d.Digest), err)
}

// upload is one blob on its way to the repository.
type upload struct {
	c        *client
	desc     ocispec.Descriptor
	open     opener
	report   func(int64)
	location string // of the session
}

// start begins a session. With from, another repository of the registry that should
// have the blob, the registry may just take it from there; then mounted is true.
func (u *upload) start(ctx context.Context, from string) (mounted bool, err error) {
	at := u.c.url("blobs", "uploads/")
	if from != "" {
		at += "?" + url.Values{"mount": {string(u.desc.Digest)}, "from": {from}}.Encode()
	}
	resp, err := u.c.send(ctx, request{method: http.MethodPost, url: at, wait: u.c.limits.Response, ok: []int{http.StatusAccepted, http.StatusCreated}})
	if err != nil {
		return false, err
	}
	if resp.StatusCode == http.StatusCreated && from != "" {
		return true, nil
	}
	return false, u.follow(resp)
}

// follow takes the address of the next request from an answer.
func (u *upload) follow(resp *http.Response) error {
	loc, err := resp.Location()
	if err != nil {
		return fmt.Errorf("%w: it does not say where to upload to (no Location)", ErrRegistry)
	}
	u.location = loc.String()
	return nil
}

// run brings the blob into the repository. What has arrived of it is not sent again
// if the registry says so; else it starts anew.
func (u *upload) run(ctx context.Context) error {
	var sent, best int64
	pause := u.c.limits.Pause
	for try := 1; ; {
		err := u.attempt(ctx, &sent)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		wait, again := u.c.tryAgain(err, pause)
		if sent > best { // it got on
			best, try, pause = sent, 1, u.c.limits.Pause
		}
		if try++; !again || try > u.c.limits.Tries {
			return u.c.explain("upload blob "+string(u.desc.Digest), err)
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
		pause *= 2
		sent = u.arrived(ctx)
	}
}

// tryAgain judges an error of an upload.
func (c *client) tryAgain(err error, pause time.Duration) (time.Duration, bool) {
	var te *transport.Error
	if !errors.As(err, &te) {
		return pause, isReset(err) || errors.Is(err, ErrTimeout) || errors.Is(err, errSource)
	}
	switch te.StatusCode {
	case http.StatusUnauthorized: // the token may have run out in the middle; the next request gets another
		return pause, true
	case http.StatusNotFound, http.StatusRequestedRangeNotSatisfiable, http.StatusConflict: // the session is gone, or elsewhere
		return pause, true
	case http.StatusTooManyRequests:
		return max(pause, time.Second), true
	}
	return pause, te.StatusCode >= 500 || te.StatusCode == 499
}

// errSource marks that the content could not be read to its end.
var errSource = errors.New("the source broke off")

// monolithic is up to which size a blob is sent by one request.
const monolithic = 4 << 20

func (u *upload) attempt(ctx context.Context, sent *int64) error {
	if u.location == "" {
		*sent = 0
		if _, err := u.start(ctx, ""); err != nil {
			return err
		}
	}
	rest := u.desc.Size - *sent
	if *sent == 0 && rest <= monolithic {
		return u.put(ctx, 0, rest)
	}
	if rest > 0 {
		if err := u.patch(ctx, sent); err != nil {
			return err
		}
	}
	return u.put(ctx, u.desc.Size, 0)
}

// patch sends the rest of the blob by one request (distribution-spec, "pushing a blob
// in chunks"). The first has no Content-Range: some registries take it as a promise
// of chunks in order and refuse it without a length that they like.
func (u *upload) patch(ctx context.Context, sent *int64) error {
	body, err := u.content(ctx, *sent)
	if err != nil {
		return err
	}
	defer body.Close()
	header := http.Header{"Content-Type": {"application/octet-stream"}}
	if *sent > 0 {
		header.Set("Content-Range", fmt.Sprintf("%d-%d", *sent, u.desc.Size-1))
	}
	resp, err := u.c.send(ctx, request{method: http.MethodPatch, url: u.location, header: header, body: body, size: u.desc.Size - *sent,
		wait: u.c.limits.Finish, ok: []int{http.StatusAccepted, http.StatusNoContent, http.StatusCreated}})
	if err != nil {
		return sourceError(body, err)
	}
	*sent = u.desc.Size
	return u.follow(resp)
}

// put ends the session, with the whole blob or after all of it was sent.
func (u *upload) put(ctx context.Context, from, size int64) error {
	at, err := url.Parse(u.location)
	if err != nil {
		return fmt.Errorf("%w: upload address %q: %v", ErrRegistry, oneLine(u.location), err)
	}
	q := at.Query()
	q.Set("digest", string(u.desc.Digest))
	at.RawQuery = q.Encode()
	r := request{method: http.MethodPut, url: at.String(), header: http.Header{"Content-Type": {"application/octet-stream"}},
		size: size, wait: u.c.limits.Finish, ok: []int{http.StatusCreated, http.StatusNoContent}}
	var body *countedBody
	if size > 0 {
		if body, err = u.content(ctx, from); err != nil {
			return err
		}
		defer body.Close()
		r.body = body
	}
	if _, err = u.c.send(ctx, r); err != nil {
		if body != nil {
			err = sourceError(body, err)
		}
		if u.desc.Size <= monolithic {
			u.location = "" // how much of one request arrived is not asked
		}
	}
	return err
}

// arrived asks how much of the blob the registry has, by GET of the session
// (distribution-spec, "get the upload status"). If it does not tell, the session is
// given up.
func (u *upload) arrived(ctx context.Context) int64 {
	if u.location == "" {
		return 0
	}
	resp, err := u.c.send(ctx, request{method: http.MethodGet, url: u.location, wait: u.c.limits.Response, ok: []int{http.StatusNoContent, http.StatusOK, http.StatusAccepted}})
	if err == nil && u.follow(resp) == nil {
		_, last, ok := strings.Cut(strings.TrimPrefix(resp.Header.Get("Range"), "bytes="), "-")
		n, perr := strconv.ParseInt(last, 10, 64)
		switch {
		case !ok || perr != nil || n < 0 || n >= u.desc.Size:
		case n == 0: // distribution says 0-0 for nothing
			return 0
		default:
			return n + 1
		}
	}
	u.location = ""
	return 0
}

// content opens the blob from a place on, and counts what is read of it.
func (u *upload) content(ctx context.Context, from int64) (*countedBody, error) {
	r, err := u.open(ctx, from)
	if err != nil {
		return nil, err
	}
	return &countedBody{r, u.report, from, nil}, nil
}

type countedBody struct {
	io.ReadCloser
	report func(int64)
	n      int64
	failed error
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n += int64(n)
	if n > 0 && b.report != nil {
		b.report(b.n)
	}
	if err != nil && err != io.EOF {
		b.failed = err
	}
	return n, err
}

// sourceError prefers the reason why the content could not be read: the registry
// only sees a request that was cut off.
func sourceError(b *countedBody, err error) error {
	if b.failed != nil {
		return fmt.Errorf("%w: %w", errSource, b.failed)
	}
	return err
}

// putManifest stores a manifest under a tag or its digest, and checks what the
// registry calls it.
func (c *client) putManifest(ctx context.Context, raw []byte, kind, what string) error {
	want := digest.FromBytes(raw)
	resp, err := c.send(ctx, request{method: http.MethodPut, url: c.url("manifests", what), header: http.Header{"Content-Type": {kind}},
		body: bytes.NewReader(raw), size: int64(len(raw)), wait: c.limits.Finish, ok: []int{http.StatusCreated, http.StatusOK, http.StatusAccepted}})
	if err != nil {
		return c.explain("put manifest "+what, err)
	}
	if got := resp.Header.Get("Docker-Content-Digest"); got != "" && strings.HasPrefix(got, "sha256:") && got != string(want) {
		return fmt.Errorf("put manifest %s: %w: registry %s calls it %s, and it is %s", what, ErrRegistry, c.ref.Domain, oneLine(got), want)
	}
	return nil
}

// hasManifest asks whether the repository has a manifest of this digest.
func (c *client) hasManifest(ctx context.Context, d digest.Digest) bool {
	_, err := c.send(ctx, request{method: http.MethodHead, url: c.url("manifests", string(d)), header: http.Header{"Accept": {acceptManifests}},
		wait: c.limits.Response, ok: []int{http.StatusOK}})
	return err == nil
}
