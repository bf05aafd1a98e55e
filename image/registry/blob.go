package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image/store"
)

// blobReader reads one blob, and goes on where it was cut off. What it gives
// is not verified; the store does that.
type blobReader struct {
	c    *client
	ctx  context.Context
	desc ocispec.Descriptor
	body io.ReadCloser
	off  int64
	// stuck counts tries that brought nothing.
	stuck  int
	report func(int64)
}

func (c *client) blob(ctx context.Context, desc ocispec.Descriptor, report func(int64)) (*blobReader, error) {
	b := &blobReader{c: c, ctx: ctx, desc: desc, report: report}
	if err := b.open(); err != nil {
		return nil, err
	}
	return b, nil
}

func (b *blobReader) open() error {
	header := http.Header{}
	if b.off > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", b.off))
	}
	resp, err := b.c.get(b.ctx, "blobs", string(b.desc.Digest), header, http.StatusOK, http.StatusPartialContent)
	if err != nil {
		return err
	}
	b.body = resp.Body
	if b.off == 0 {
		return nil
	}
	var start int64 // a server that knows no ranges sends all again
	if resp.StatusCode == http.StatusPartialContent {
		if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-", &start); err != nil || start > b.off {
			return fmt.Errorf("resume blob %s: %w: asked for bytes from %d, got %q", b.desc.Digest, ErrRegistry, b.off, resp.Header.Get("Content-Range"))
		}
	}
	if _, err := io.CopyN(io.Discard, b.body, b.off-start); err != nil {
		return fmt.Errorf("resume blob %s: %w", b.desc.Digest, err)
	}
	return nil
}

func (b *blobReader) Read(p []byte) (int, error) {
	for {
		n, err := b.body.Read(p)
		if n > 0 {
			b.off += int64(n)
			b.stuck = 0
			if b.report != nil {
				b.report(b.off)
			}
			return n, nil // an error with it comes again at the next call
		}
		if err == nil {
			continue
		}
		if err == io.EOF && b.off >= b.desc.Size {
			return 0, io.EOF
		}
		if err := b.resume(err); err != nil {
			return 0, err
		}
	}
}

// resume asks for the rest after the transfer broke with cause.
func (b *blobReader) resume(cause error) error {
	for pause := b.c.limits.Pause; ; pause *= 2 {
		if b.ctx.Err() != nil {
			return context.Cause(b.ctx)
		}
		if b.stuck++; b.stuck >= b.c.limits.Tries {
			return b.giveUp(cause)
		}
		b.body.Close()
		if err := sleep(b.ctx, pause); err != nil {
			return err
		}
		err := b.open()
		if err == nil {
			return nil
		}
		if errors.Is(err, ErrDenied) || errors.Is(err, ErrNotFound) {
			return err
		}
		cause = err
	}
}

func (b *blobReader) giveUp(cause error) error {
	if cause == io.EOF || errors.Is(cause, io.ErrUnexpectedEOF) {
		cause = store.ErrTruncated
	}
	return fmt.Errorf("get blob %s: registry %s: %w: %d of %d bytes came in %d tries", b.desc.Digest, b.c.ref.Domain, cause, b.off, b.desc.Size, b.stuck)
}

func (b *blobReader) Close() error { return b.body.Close() }
