// Package registry fetches images from registries that speak the OCI
// distribution API (Docker Hub and all others) into the store.
//
// Names, tokens and credentials are go-containerregistry's; the requests for
// manifests and blobs are made here, to control time limits, resumption and
// what a user reads when something fails.
package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"vivarium/image"
)

// Errors of registries. Test with errors.Is; the text names registry, image
// and what to do.
var (
	ErrDenied      = errors.New("access denied")
	ErrNotFound    = errors.New("not found in the registry")
	ErrBusy        = errors.New("too many requests")
	ErrRegistry    = errors.New("registry failed")
	ErrTimeout     = errors.New("registry does not answer")
	ErrUnsupported = errors.New("unsupported image format")
)

// Limits bound what a registry may make us wait for. Zero values are replaced
// by the defaults.
type Limits struct {
	Connect  time.Duration // to connect, and for the TLS handshake: 15 s
	Response time.Duration // from a request to the first bytes of its answer: 30 s
	Idle     time.Duration // between two pieces of an answer, or of what is sent: 30 s
	Finish   time.Duration // from the last byte of an upload to its answer: 5 min
	Tries    int           // of a request, and of resuming a download without progress: 5
	Pause    time.Duration // before the second try, doubled each time: 250 ms
	Split    time.Duration // of one connection for a blob, before several fetch it in ranges: 1 s
	Range    int64         // bytes of such a range: 4 MiB
}

func (l Limits) withDefaults() Limits {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&l.Connect, 15*time.Second)
	def(&l.Response, 30*time.Second)
	def(&l.Idle, 30*time.Second)
	def(&l.Finish, 5*time.Minute)
	def(&l.Pause, 250*time.Millisecond)
	def(&l.Split, time.Second)
	if l.Tries <= 0 {
		l.Tries = 5
	}
	if l.Range <= 0 {
		l.Range = 4 << 20
	}
	return l
}

// maxPause bounds what a Retry-After header can ask for.
const maxPause = 20 * time.Second

// client talks to one repository of one registry.
type client struct {
	ref    image.Reference // domain and path are the repository's
	reg    name.Registry
	limits Limits
	push   bool
	http   *http.Client
	base   *http.Transport

	ranged   chan struct{} // holds one for each blob that is fetched in ranges
	noRanges atomic.Bool   // the registry answers them with something else
}

// access is with what rights a repository is spoken to.
type access struct {
	keys     authn.Keychain // nil: the user's
	insecure bool
	limits   Limits
	push     bool
	// also are more repositories of the registry, which are only read.
	also []string
	// catalog: the registry is asked for its repositories, and not one of them.
	catalog bool
}

func newClient(ctx context.Context, ref image.Reference, as access) (*client, error) {
	var opts []name.Option
	if as.insecure {
		opts = append(opts, name.Insecure)
	}
	host := ref.Domain
	if host == "docker.io" {
		host = name.DefaultRegistry
	}
	reg, err := name.NewRegistry(host, opts...)
	if err != nil {
		return nil, fmt.Errorf("registry name %q: %w", ref.Domain, err)
	}
	c := &client{ref: ref, reg: reg, limits: as.limits.withDefaults(), push: as.push, ranged: make(chan struct{}, rangedBlobs)}
	c.base = newTransport(c.limits, as.insecure)
	if as.push {
		c.base.ResponseHeaderTimeout = 0 // each request has its own; see send
	}
	if err := c.authenticate(ctx, as, as.insecure || isLoopback(ref.Domain)); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// newTransport is the transport below all others: one request, with bounds.
func newTransport(limits Limits, insecure bool) *http.Transport {
	return &http.Transport{
		Proxy:       http.ProxyFromEnvironment,
		DialContext: (&net.Dialer{Timeout: limits.Connect, KeepAlive: 30 * time.Second}).DialContext,
		// HTTP/2 would send all layers through one connection and one window.
		TLSNextProto:          map[string]func(string, *tls.Conn) http.RoundTripper{},
		TLSClientConfig:       &tls.Config{InsecureSkipVerify: insecure}, //nolint:gosec // asked for by --insecure
		TLSHandshakeTimeout:   limits.Connect,
		ResponseHeaderTimeout: limits.Response,
		MaxIdleConnsPerHost:   maxParallel + rangesAtOnce,
		IdleConnTimeout:       30 * time.Second,
		ReadBufferSize:        64 << 10,
		// A layer must arrive as it is stored.
		DisableCompression: true,
	}
}

func (c *client) close() { c.base.CloseIdleConnections() }

func (c *client) authenticate(ctx context.Context, as access, plainHTTP bool) error {
	keys := as.keys
	if keys == nil {
		keys = authn.DefaultKeychain
	}
	repo, err := name.NewRepository(c.reg.RegistryStr()+"/"+c.ref.Path, name.WeakValidation)
	if err != nil {
		return fmt.Errorf("repository name %q: %w", c.ref.Path, err)
	}
	auth, err := authn.Resolve(ctx, keys, repo)
	if err != nil {
		return fmt.Errorf("read credentials for %s (from ~/.docker/config.json): %w", c.ref.Domain, err)
	}
	inner := &retrying{inner: &guard{c.base, plainHTTP}, limits: c.limits}
	ctx, stop := c.bound(ctx)
	defer stop()
	rt, err := transport.NewWithContext(ctx, c.reg, auth, inner, as.scopes(c.ref.Path))
	if err != nil {
		return c.explain("connect", err)
	}
	c.http = &http.Client{Transport: rt}
	return nil
}

// bound gives the handshake of a push, whose transport has no time limit, one.
func (c *client) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if !c.push {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, time.Duration(c.limits.Tries)*(c.limits.Connect+c.limits.Response))
}

// scopes are what a token is asked for (distribution's token scope grammar).
func (as access) scopes(path string) []string {
	if as.catalog {
		return []string{transport.CatalogScope}
	}
	action := transport.PullScope
	if as.push {
		action = transport.PushScope // "push,pull"
	}
	list := []string{"repository:" + path + ":" + action}
	for _, repo := range as.also {
		list = append(list, "repository:"+repo+":"+transport.PullScope)
	}
	return list
}

// isLoopback reports hosts for which plain HTTP is as good as HTTPS.
func isLoopback(domain string) bool {
	host := domain
	if h, _, err := net.SplitHostPort(domain); err == nil {
		host = h
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return ip != nil && ip.IsLoopback()
}

var errPlainHTTP = errors.New("it only speaks plain HTTP, which anyone on the way can change; allow it with --insecure if that is meant")

// guard refuses plain HTTP, also after a redirect.
type guard struct {
	inner     http.RoundTripper
	plainHTTP bool
}

func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" && !g.plainHTTP {
		return nil, errPlainHTTP
	}
	return g.inner.RoundTrip(req)
}

// retrying repeats requests that failed for reasons that may pass.
type retrying struct {
	inner  http.RoundTripper
	limits Limits
}

func (r *retrying) RoundTrip(req *http.Request) (*http.Response, error) {
	pause := r.limits.Pause
	for try := 1; ; try++ {
		resp, err := r.inner.RoundTrip(req)
		again, wait := worthRetry(resp, err, pause)
		if !again || try >= r.limits.Tries || (req.Body != nil && req.GetBody == nil) {
			return resp, err
		}
		if resp != nil {
			_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
			resp.Body.Close()
		}
		if err := sleep(req.Context(), wait); err != nil {
			return nil, err
		}
		if req.GetBody != nil {
			body, err := req.GetBody()
			if err != nil {
				return nil, err
			}
			req = req.Clone(req.Context())
			req.Body = body
		}
		pause *= 2
	}
}

// sleep waits between two tries; there is no event to wait for.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// worthRetry tells whether a try failed for a reason that may pass, and how
// long to wait. A time limit that ran out is final: it was long already.
func worthRetry(resp *http.Response, err error, pause time.Duration) (bool, time.Duration) {
	if err != nil {
		return isReset(err), pause
	}
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout:
	default:
		return false, 0
	}
	if after, perr := time.ParseDuration(resp.Header.Get("Retry-After") + "s"); perr == nil && after > pause {
		pause = min(after, maxPause)
	}
	return true, pause
}

// isReset reports a connection that broke while it was in use.
func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}

func (c *client) url(kind, what string) string {
	u := url.URL{Scheme: "https", Host: c.reg.RegistryStr(), Path: "/v2/" + c.ref.Path + "/" + kind + "/" + what}
	return u.String() // the transport puts the right scheme
}

// get makes one request. The body must be closed; reading it fails if nothing
// comes for the idle limit.
func (c *client) get(ctx context.Context, kind, what string, header http.Header, ok ...int) (*http.Response, error) {
	return c.getURL(ctx, c.url(kind, what), "get "+strings.TrimSuffix(kind, "s")+" "+what, header, ok...)
}

func (c *client) getURL(ctx context.Context, at, doing string, header http.Header, ok ...int) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := c.http.Do(req)
	if err == nil {
		err = transport.CheckError(resp, ok...)
		if err != nil {
			resp.Body.Close()
		}
	}
	if err != nil {
		cancel(nil)
		return nil, c.explain(doing, err)
	}
	resp.Body = newIdleBody(ctx, resp.Body, c.limits.Idle, cancel)
	return resp, nil
}

var errIdle = fmt.Errorf("%w: the transfer stopped", ErrTimeout)

// idleBody cancels a request whose answer stops coming.
type idleBody struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	limit  time.Duration
	timer  *time.Timer
}

func newIdleBody(ctx context.Context, body io.ReadCloser, limit time.Duration, cancel context.CancelCauseFunc) *idleBody {
	return &idleBody{ReadCloser: body, ctx: ctx, cancel: cancel, limit: limit,
		timer: time.AfterFunc(limit, func() { cancel(errIdle) })}
}

func (b *idleBody) Read(p []byte) (int, error) {
	// Only the wait for the network counts, not what the reader does between.
	b.timer.Reset(b.limit)
	n, err := b.ReadCloser.Read(p)
	b.timer.Stop()
	if err != nil && err != io.EOF && b.ctx.Err() != nil {
		err = context.Cause(b.ctx)
	}
	return n, err
}

func (b *idleBody) Close() error {
	b.timer.Stop()
	b.cancel(nil)
	return b.ReadCloser.Close()
}

// explain turns an error of the network or the registry into one line that
// says what to do.
func (c *client) explain(doing string, err error) error {
	host := c.ref.Domain
	var te *transport.Error
	var ne net.Error
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, errPlainHTTP), errors.Is(err, http.ErrSchemeMismatch) && c.reg.Scheme() == "https":
		return fmt.Errorf("%s: registry %s: %w", doing, host, errPlainHTTP)
	case errors.As(err, &te):
		return c.explainStatus(doing, te)
	case errors.Is(err, errSource):
		return fmt.Errorf("%s: %w", doing, err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, ErrTimeout), errors.As(err, &ne) && ne.Timeout():
		return fmt.Errorf("%s: %w: registry %s gave no answer in time; try again later, or check the address and proxy", doing, ErrTimeout, host)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%s: %w: nothing listens at %s (connection refused)", doing, ErrRegistry, c.elsewhere(err, host))
	}
	var dns *net.DNSError
	if errors.As(err, &dns) {
		if at := c.elsewhere(err, ""); at != "" {
			return fmt.Errorf("%s: %w: the name of %s cannot be resolved (%s)", doing, ErrRegistry, at, dns.Err)
		}
		return fmt.Errorf("%s: %w: the name of registry %s cannot be resolved (%s)", doing, ErrRegistry, host, dns.Err)
	}
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err // without the URL, which the line has in words
	}
	return fmt.Errorf("%s: %w: registry %s: %v", doing, ErrRegistry, host, err)
}

// elsewhere says which host an error is about, if it is another one than the registry's:
// one that the registry redirects to, or that gives tokens. Else it gives host.
func (c *client) elsewhere(err error, host string) string {
	var ue *url.Error
	if !errors.As(err, &ue) {
		return host
	}
	u, err := url.Parse(ue.URL)
	if err != nil || u.Host == "" || u.Host == c.reg.RegistryStr() {
		return host
	}
	return oneLine(u.Host) + ", where registry " + c.ref.Domain + " sends us,"
}

func (c *client) explainStatus(doing string, te *transport.Error) error {
	host, repo := c.ref.Domain, c.ref.FamiliarRepo()
	detail := fmt.Sprintf("%d %s", te.StatusCode, http.StatusText(te.StatusCode))
	if len(te.Errors) > 0 {
		if msg := oneLine(te.Errors[0].Message); msg != "" {
			detail += ": " + msg
		}
	}
	switch te.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		if c.push {
			return fmt.Errorf("%s: %w: registry %s does not let you push to %s (%s); log in (viv login), and check that the repository is yours", doing, ErrDenied, host, repo, detail)
		}
		return fmt.Errorf("%s: %w: registry %s does not show %s (%s); it does not exist, or needs credentials (viv login)", doing, ErrDenied, host, repo, detail)
	case http.StatusNotFound:
		return fmt.Errorf("%s: %w: registry %s has no %s (%s)", doing, ErrNotFound, host, repo, detail)
	case http.StatusTooManyRequests:
		return fmt.Errorf("%s: %w: registry %s refuses more for now (%s); wait, or log in", doing, ErrBusy, host, detail)
	}
	return fmt.Errorf("%s: %w: %s said %s", doing, ErrRegistry, host, detail)
}

// oneLine keeps what a registry says from spoiling the terminal.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	s = strings.TrimSpace(s)
	if len(s) > 200 {
		s = s[:200] + "..."
	}
	return s
}
