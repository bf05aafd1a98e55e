package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/layer"
)

// layerPipeline is the three stages of one layer: receive (read, write the
// blob, hash), inflate, and unpack (hash, write files).
type layerPipeline struct {
	t    *Tx
	spec LayerSpec
	fs   *os.File
}

type received struct {
	desc ocispec.Descriptor
	err  error
}

type inflated struct {
	kind Compression
	err  error
}

func (p *layerPipeline) run(ctx context.Context, r io.Reader) (ocispec.Descriptor, digest.Digest, *layer.Unpacked, error) {
	packed, plain := newBlockPipe(), newBlockPipe()
	recv := make(chan received, 1)
	infl := make(chan inflated, 1)
	go func() { recv <- p.receive(ctx, r, packed) }()
	go func() { infl <- p.inflate(packed, plain) }()

	sum := sha256.New()
	un, err := layer.Unpack(ctx, p.fs, &hashReader{r: plain, sum: sum, report: p.spec.Unpacked, wrote: p.t.wrote}, unpackOptions(p.spec))
	plain.closeRead()
	in := <-infl
	packed.closeRead()
	// The blob is received to its end even if it cannot be unpacked: if its
	// digest is wrong, that is the reason, and the message to give.
	got := <-recv
	desc := got.desc
	if err := firstCause(got.err, in.err, err); err != nil {
		if got.err == nil {
			_ = p.spec.Partial.Restart() // whole, and good for nothing
		}
		return desc, "", nil, err
	}
	if desc.MediaType == "" {
		desc.MediaType = in.kind.layerType()
	}
	diffID := digest.NewDigest(digest.SHA256, sum)
	if p.spec.DiffID != "" && diffID != p.spec.DiffID {
		return desc, "", nil, fmt.Errorf("layer %s: %w: unpacked it has %s, and its image says %s", desc.Digest, ErrDigest, diffID, p.spec.DiffID)
	}
	return desc, diffID, un, nil
}

// firstCause picks the error that caused the others: a stage that fails makes
// those after it fail with its error, and those before it stop.
func firstCause(recv, infl, unpack error) error {
	if recv != nil && !errors.Is(recv, errClosed) {
		return recv
	}
	if infl != nil && !errors.Is(infl, errClosed) {
		return infl
	}
	return unpack
}

func (p *layerPipeline) receive(ctx context.Context, r io.Reader, out *blockPipe) (res received) {
	res.desc = p.spec.Blob
	defer func() { out.closeWrite(res.err) }()
	var w *blobWriter
	if p.spec.NoBlob {
		w = &blobWriter{t: p.t, want: p.spec.Blob, sum: sha256.New()}
	} else if p.spec.Partial != nil {
		if w, res.err = p.t.newPartialWriter(p.spec.Partial, p.spec.Blob); res.err != nil {
			return res
		}
	} else if w, res.err = p.t.newBlobWriter(p.spec.Blob); res.err != nil {
		return res
	}
	if res.err = p.receiveAll(ctx, r, w, out); res.err != nil {
		var broke brokenSource
		switch {
		case p.spec.NoBlob:
		case errors.As(res.err, &broke):
			w.interrupted()
		default:
			w.abort()
		}
		return res
	}
	if p.spec.NoBlob {
		if got := digest.NewDigest(digest.SHA256, w.sum); w.known() && got != w.want.Digest {
			res.err = fmt.Errorf("blob %s: %w: the content has %s", w.want.Digest, ErrDigest, got)
		}
		return res
	}
	res.desc, res.err = w.done()
	return res
}

// brokenSource is an error of where the blob comes from, not of the blob.
type brokenSource struct{ error }

func (b brokenSource) Unwrap() error { return b.error }

func (p *layerPipeline) receiveAll(ctx context.Context, r io.Reader, w *blobWriter, out *blockPipe) error {
	listening := true
	pass := func(b []byte) {
		if listening && out.send(b) != nil {
			listening = false
		}
	}
	for left := p.spec.Partial.Size(); left > 0; {
		b := out.block()
		n, err := w.f.Read(b[:min(left, int64(len(b)))])
		if err != nil {
			return fmt.Errorf("read what there is of blob %s: %w", w.want.Digest, err)
		}
		left -= int64(n)
		w.again(b[:n])
		pass(b[:n])
	}
	for {
		if ctx.Err() != nil {
			return brokenSource{context.Cause(ctx)}
		}
		b := out.block()
		n, err := readSome(r, b)
		if n > 0 {
			if werr := p.keep(w, b[:n]); werr != nil {
				return werr
			}
			pass(b[:n])
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return brokenSource{err}
		}
		if !listening && !w.known() {
			return errClosed // no digest to compare with: the rest is of no use
		}
	}
}

func (p *layerPipeline) keep(w *blobWriter, b []byte) error {
	if p.spec.NoBlob {
		w.sum.Write(b)
		return nil
	}
	return w.write(b)
}

// readSome fills at least a quarter of the block, so that slow networks do
// not make many small blocks, and fast ones few large.
func readSome(r io.Reader, b []byte) (n int, err error) {
	for n < len(b)/4 && err == nil {
		var k int
		k, err = r.Read(b[n:])
		n += k
	}
	return n, err
}

func (p *layerPipeline) inflate(in, out *blockPipe) (res inflated) {
	defer func() {
		in.closeRead()
		out.closeWrite(res.err)
	}()
	z, kind, err := Decompress(in)
	if err != nil {
		return inflated{0, err}
	}
	defer z.Close()
	if (kind == Bzip2 || kind == Xz) && p.spec.Blob.Digest == "" {
		return inflated{kind, fmt.Errorf("a layer cannot be packed with %s (OCI knows gzip and zstd)", kind)}
	}
	return inflated{kind, copyBlocks(out, z)}
}

// hashReader hashes what is read, and reports how much.
type hashReader struct {
	r      io.Reader
	sum    hash.Hash
	report func(int64)
	total  int64
	told   int64
	wrote  func(int)
}

func (h *hashReader) Read(b []byte) (int, error) {
	n, err := h.r.Read(b)
	h.sum.Write(b[:n])
	h.total += int64(n)
	h.wrote(n)
	if h.report != nil && (h.total-h.told >= 1<<20 || err != nil) {
		h.told = h.total
		h.report(h.total)
	}
	return n, err
}
