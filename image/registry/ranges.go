package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// A connection may be slower than the network: a registry or a store behind it gives each a
// share, and one window of TCP is only so wide. So a big blob that the unpacking waits for
// is fetched in ranges, some at the same time. They come out in order, and each is held in
// memory until its turn.

const (
	// rangesAtOnce is how many ranges of one blob are fetched at the same time.
	rangesAtOnce = 4
	// rangedBlobs is how many blobs of a pull may be, which bounds the memory.
	rangedBlobs = 2
)

// ranges is a blob that is fetched so.
type ranges struct {
	ctx    context.Context
	cancel context.CancelFunc
	queue  chan chan error // one for each range, in order
	bufs   chan []byte     // of the ranges, in order
	free   chan []byte
	fetch  sync.WaitGroup
	buf    []byte // the range that is read, and what is left of it
	rest   []byte
	done   func()
}

// worthRanges tells whether most of the time was spent waiting for the one connection.
func (b *blobReader) worthRanges() bool {
	if b.part || b.noRange || b.end-b.off <= rangesAtOnce*b.c.limits.Range {
		return false
	}
	took := time.Since(b.began)
	return took >= b.c.limits.Split && b.waited > took/2
}

// inRanges goes on in ranges, if not too many blobs are fetched so.
func (b *blobReader) inRanges() {
	select {
	case b.c.ranged <- struct{}{}:
	default:
		return
	}
	b.body.Close()
	r := &ranges{queue: make(chan chan error, rangesAtOnce), bufs: make(chan []byte, rangesAtOnce), free: make(chan []byte, rangesAtOnce)}
	r.ctx, r.cancel = context.WithCancel(b.ctx)
	r.done = func() { <-b.c.ranged }
	for range rangesAtOnce {
		r.free <- make([]byte, b.c.limits.Range)
	}
	b.ranges = r
	r.fetch.Go(func() { r.ask(b, b.off, b.end) })
}

// ask begins to fetch range after range, whenever there is memory for one.
func (r *ranges) ask(b *blobReader, from, end int64) {
	defer close(r.queue)
	for from < end && r.ctx.Err() == nil {
		var buf []byte
		select {
		case buf = <-r.free:
		case <-r.ctx.Done():
			return
		}
		to := min(from+int64(cap(buf)), end)
		buf = buf[:to-from]
		part := &blobReader{c: b.c, ctx: r.ctx, desc: b.desc, off: from, end: to, part: true}
		result := make(chan error, 1)
		r.queue <- result
		r.bufs <- buf
		r.fetch.Go(func() { result <- part.readAll(buf) })
		from = to
	}
}

// readAll fetches a range.
func (b *blobReader) readAll(buf []byte) error {
	if err := b.open(); err != nil {
		return err
	}
	defer b.Close()
	if _, err := io.ReadFull(b, buf); err != nil {
		return fmt.Errorf("get blob %s: %w", b.desc.Digest, err)
	}
	return nil
}

// read gives what comes next.
func (r *ranges) read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.buf != nil {
			r.free <- r.buf[:cap(r.buf)]
			r.buf = nil
		}
		result, ok := <-r.queue
		if !ok {
			if r.ctx.Err() != nil {
				return 0, context.Cause(r.ctx)
			}
			return 0, io.EOF
		}
		r.buf = <-r.bufs
		if err := <-result; err != nil {
			return 0, err
		}
		r.rest = r.buf
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func (r *ranges) stop() {
	r.cancel()
	r.fetch.Wait()
	r.done()
}

// readRanges reads from the ranges. If the registry does not answer them as it should, it
// goes on with one connection.
func (b *blobReader) readRanges(p []byte) (int, error) {
	n, err := b.ranges.read(p)
	b.off += int64(n)
	if n > 0 && b.report != nil {
		b.report(b.off)
	}
	if !errors.Is(err, errRange) {
		return n, err
	}
	b.ranges.stop()
	b.ranges, b.noRange, b.body = nil, true, http.NoBody
	return n, b.open()
}
