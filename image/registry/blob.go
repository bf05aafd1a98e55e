package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

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
	// noRange is set when the registry does not answer ranges as it should.
	noRange bool

	end    int64 // of what is read: of the blob, or of a part of it
	part   bool
	began  time.Time // with the one connection, and how long it was waited for
	waited time.Duration
	ranges *ranges // nil: it is read through one connection
	ranged bool    // it was read in ranges, at least in part
}

// errShort says that a registry gives a blob out as whole that is too short.
var errShort = fmt.Errorf("%w: the registry has no more of it", store.ErrTruncated)

// blob opens a blob from a place on. If that is its end, nothing is asked.
func (c *client) blob(ctx context.Context, desc ocispec.Descriptor, from int64, report func(int64)) (*blobReader, error) {
	b := &blobReader{c: c, ctx: ctx, desc: desc, off: from, report: report, end: desc.Size, noRange: c.noRanges.Load()}
	if from > 0 && from == desc.Size {
		b.body = http.NoBody
		return b, nil
	}
	if err := b.open(); err != nil {
		return nil, err
	}
	return b, nil
}

func (b *blobReader) open() error {
	b.began, b.waited = time.Now(), 0
	if b.part || b.off > 0 && !b.noRange {
		err := b.openRange()
		if !errors.Is(err, errRange) || b.part {
			return err
		}
		b.noRange = true // it takes the whole blob to get on
	}
	resp, err := b.c.get(b.ctx, "blobs", string(b.desc.Digest), nil, http.StatusOK)
	if err != nil {
		return err
	}
	return b.skip(resp.Body, b.off)
}

// errRange says that a registry answers ranges in a way of its own.
var errRange = errors.New("the range was not answered as it was asked for")

// openRange asks for the blob from b.off on.
func (b *blobReader) openRange() error {
	resp, err := b.c.get(b.ctx, "blobs", string(b.desc.Digest), http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", b.off, b.end-1)}},
		http.StatusOK, http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable)
	if err != nil {
		return err
	}
	switch {
	case resp.StatusCode == http.StatusOK && b.part:
	case resp.StatusCode == http.StatusOK: // a server that knows no ranges sends all
		return b.skip(resp.Body, b.off)
	case resp.StatusCode == http.StatusPartialContent:
		var start, end int64
		_, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-%d", &start, &end)
		if err == nil && start <= b.off && end >= start && (resp.ContentLength < 0 || resp.ContentLength == end-start+1) {
			return b.skip(resp.Body, b.off-start)
		}
	}
	resp.Body.Close()
	return errRange
}

// skip takes the body from a place on.
func (b *blobReader) skip(body io.ReadCloser, n int64) error {
	b.body = body
	if _, err := io.CopyN(io.Discard, body, n); err != nil {
		return fmt.Errorf("resume blob %s: %w", b.desc.Digest, err)
	}
	return nil
}

func (b *blobReader) Read(p []byte) (int, error) {
	if b.ranges == nil && b.worthRanges() {
		b.inRanges()
		b.ranged = b.ranges != nil
	}
	if b.ranges != nil {
		return b.readRanges(p)
	}
	for {
		if b.part {
			p = p[:min(int64(len(p)), b.end-b.off)]
		}
		start := time.Now()
		n, err := b.body.Read(p)
		b.waited += time.Since(start)
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
		if err == io.EOF && b.off >= b.end {
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
		if errors.Is(err, ErrDenied) || errors.Is(err, ErrNotFound) || errors.Is(err, errRange) {
			return err
		}
		cause = err
	}
}

func (b *blobReader) giveUp(cause error) error {
	if cause == io.EOF {
		cause = errShort
	} else if errors.Is(cause, io.ErrUnexpectedEOF) {
		cause = store.ErrTruncated
	}
	return fmt.Errorf("get blob %s: registry %s: %w: %d of %d bytes came in %d tries", b.desc.Digest, b.c.ref.Domain, cause, b.off, b.desc.Size, b.stuck)
}

// Close ends the transfer.
func (b *blobReader) Close() error {
	if b.ranges != nil {
		b.ranges.stop()
		return nil
	}
	return b.body.Close()
}
