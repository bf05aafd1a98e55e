package store

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/ulikunitz/xz"
)

const (
	blockSize  = 256 << 10
	blockQueue = 8
)

// errClosed is what the writer of a pipe sees when its reader gave up.
var errClosed = errors.New("reader gave up")

// blockPipe hands blocks of bytes from one goroutine to another, several
// ahead, so that fetching, inflating and unpacking of one layer overlap.
type blockPipe struct {
	full chan []byte
	free chan []byte
	gone chan struct{} // closed by the reader
	once sync.Once
	err  error // of the writer; read after full is closed
	cur  []byte
	rest []byte
}

func newBlockPipe() *blockPipe {
	p := &blockPipe{full: make(chan []byte, blockQueue), free: make(chan []byte, blockQueue+2), gone: make(chan struct{})}
	return p
}

// block returns an empty block to fill.
func (p *blockPipe) block() []byte {
	select {
	case b := <-p.free:
		return b[:blockSize]
	default:
		return make([]byte, blockSize)
	}
}

// send gives a block away.
func (p *blockPipe) send(b []byte) error {
	select {
	case <-p.gone:
		return errClosed
	default:
	}
	select {
	case p.full <- b:
		return nil
	case <-p.gone:
		return errClosed
	}
}

// closeWrite ends the stream with io.EOF, or with err.
func (p *blockPipe) closeWrite(err error) {
	p.err = err
	close(p.full)
}

func (p *blockPipe) closeRead() { p.once.Do(func() { close(p.gone) }) }

func (p *blockPipe) Read(b []byte) (int, error) {
	for len(p.rest) == 0 {
		if p.cur != nil {
			select {
			case p.free <- p.cur:
			default:
			}
			p.cur = nil
		}
		next, ok := <-p.full
		if !ok {
			if p.err != nil {
				return 0, p.err
			}
			return 0, io.EOF
		}
		p.cur, p.rest = next, next
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// copyBlocks reads r to its end into the pipe.
func copyBlocks(p *blockPipe, r io.Reader) error {
	for {
		b := p.block()
		n, err := io.ReadFull(r, b)
		if n > 0 {
			if serr := p.send(b[:n]); serr != nil {
				return serr
			}
		}
		// ReadFull says ErrUnexpectedEOF itself when the stream ends inside a
		// block; a broken stream says so wrapped (see named).
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// Compression is how a stream is packed.
type Compression int

// The kinds of compression that Decompress knows.
const (
	Plain Compression = iota
	Gzip
	Zstd
	Bzip2
	Xz
)

func (c Compression) String() string { return [...]string{"none", "gzip", "zstd", "bzip2", "xz"}[c] }

// layerType is the media type of a layer that is packed so.
func (c Compression) layerType() string {
	switch c {
	case Gzip:
		return ocispec.MediaTypeImageLayerGzip
	case Zstd:
		return ocispec.MediaTypeImageLayerZstd
	}
	return ocispec.MediaTypeImageLayer
}

// detect tells the compression from the first bytes: what media types say is
// often wrong, and Docker looks at the bytes as well.
func detect(head []byte) (Compression, error) {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return Gzip, nil
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}),
		// A skippable frame, which some writers (zstd:chunked) put first.
		len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.HasPrefix(head[1:], []byte{0x2a, 0x4d, 0x18}):
		return Zstd, nil
	case bytes.HasPrefix(head, []byte("BZh")):
		return Bzip2, nil
	case bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return Xz, nil
	}
	return Plain, nil
}

// Decompress returns the plain stream of r, which may be plain, gzip, zstd, bzip2
// or xz. Close frees what the decompressor holds, not r.
func Decompress(r io.Reader) (io.ReadCloser, Compression, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	head, err := br.Peek(6)
	if err != nil && err != io.EOF {
		return nil, 0, err
	}
	kind, err := detect(head)
	if err != nil {
		return nil, 0, err
	}
	switch kind {
	case Gzip:
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, 0, fmt.Errorf("read gzip header: %w", err)
		}
		return &named{z, "gzip", z.Close}, kind, nil
	case Zstd:
		// One goroutine: layers are unpacked side by side already. The window
		// is what `zstd --ultra --long=27` needs, the most that is usual.
		z, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, 0, fmt.Errorf("read zstd header: %w", err)
		}
		return &named{z, "zstd", func() error { z.Close(); return nil }}, kind, nil
	case Bzip2:
		return &named{bzip2.NewReader(br), "bzip2", func() error { return nil }}, kind, nil
	case Xz:
		z, err := xz.NewReader(br)
		if err != nil {
			return nil, 0, fmt.Errorf("read xz header: %w", err)
		}
		return &named{z, "xz", func() error { return nil }}, kind, nil
	}
	return io.NopCloser(br), Plain, nil
}

// named says in errors which stream was broken. An early end is an error of
// this stream and must not look like one of whoever reads from it.
type named struct {
	io.Reader
	kind  string
	close func() error
}

func (n *named) Close() error { return n.close() }

func (n *named) Read(b []byte) (int, error) {
	k, err := n.Reader.Read(b)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("inflate %s stream: %w", n.kind, err)
	}
	return k, err
}

// Detect tells how a stream is packed, and returns a reader of all of it.
func Detect(r io.Reader) (Compression, io.Reader, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	head, err := br.Peek(6)
	if err != nil && err != io.EOF {
		return 0, nil, err
	}
	kind, err := detect(head)
	return kind, br, err
}
