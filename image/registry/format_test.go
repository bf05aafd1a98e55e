package registry_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image/imagetest"
	"vivarium/image/registry"
)

// packStargz packs a tar as eStargz does (stargz-snapshotter, docs/estargz.md): a gzip member
// for each part, and an empty one at the end, whose extra field says where the index is.
func packStargz(t testing.TB, b []byte) ([]byte, string) {
	t.Helper()
	var out bytes.Buffer
	index := 0
	for part := range slices.Chunk(b, 1024) {
		index = out.Len()
		out.Write(imagetest.Gzip(t, part))
	}
	z, err := gzip.NewWriterLevel(&out, gzip.NoCompression)
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("%016xSTARGZ", index)
	z.Extra = append([]byte{'S', 'G', byte(len(text)), 0}, text...)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), ocispec.MediaTypeImageLayerGzip
}

// packChunked packs a tar as zstd:chunked does (containers/storage,
// pkg/chunked/internal/compression.go): a frame for each part, and then skippable frames
// with the index, the tar's headers, and a footer.
func packChunked(t testing.TB, b []byte) ([]byte, string) {
	t.Helper()
	var out bytes.Buffer
	for part := range slices.Chunk(b, 1024) {
		out.Write(imagetest.Zstd(t, part))
	}
	skip := func(content []byte) {
		head := binary.LittleEndian.AppendUint32([]byte{0x50, 0x2a, 0x4d, 0x18}, uint32(len(content)))
		out.Write(append(head, content...))
	}
	skip(imagetest.Zstd(t, []byte(`{"version":1,"entries":[]}`)))
	skip(imagetest.Zstd(t, []byte("headers")))
	skip(append(make([]byte, 56), "GNUlInUx"...))
	return out.Bytes(), ocispec.MediaTypeImageLayerZstd
}

// packSkipFirst has a skippable frame at the beginning, and a checksum.
func packSkipFirst(t testing.TB, b []byte) ([]byte, string) {
	t.Helper()
	z, err := zstd.NewWriter(nil, zstd.WithEncoderCRC(true))
	if err != nil {
		t.Fatal(err)
	}
	return z.EncodeAll(b, []byte{0x5f, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 'x', 'y', 'z'}), ocispec.MediaTypeImageLayerZstd
}

// TestPullFormats pulls layers in all the forms that registries have. Those with an index for
// lazy pulling are pulled as a whole, and unpacked as the tar says: entries that eStargz has
// in the tar are files, as they are with containerd and Podman.
func TestPullFormats(t *testing.T) {
	needRoot(t)
	wrongType := func(pack imagetest.Pack, kind string) imagetest.Pack {
		return func(t testing.TB, b []byte) ([]byte, string) {
			packed, _ := pack(t, b)
			return packed, kind
		}
	}
	for name, pack := range map[string]imagetest.Pack{
		"gzip": imagetest.PackGzip, "zstd": imagetest.PackZstd, "plain": imagetest.PackPlain,
		"eStargz": packStargz, "zstd:chunked": packChunked, "zstd, skippable frame first": packSkipFirst,
		"Docker's type":        wrongType(imagetest.PackGzip, "application/vnd.docker.image.rootfs.diff.tar.gzip"),
		"Docker's zstd":        wrongType(imagetest.PackZstd, "application/vnd.docker.image.rootfs.diff.tar.zstd"),
		"gzip that says plain": wrongType(imagetest.PackGzip, ocispec.MediaTypeImageLayer),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			img := imagetest.Make(t, pack, nil, imagetest.Tar(t,
				imagetest.Dir("etc/", 0o755), imagetest.File("etc/name", "me"), imagetest.File("noise", noise(20_000)),
				imagetest.File(".prefetch.landmark", "\x0f"), imagetest.File("stargz.index.json", `{"version":1,"entries":[]}`)))
			st, _ := openStore(t)
			res, err := registry.Pull(context.Background(), st, serve(t, &fake{img: img})+"/x:v1", registry.Options{Limits: quick})
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			dir := res.Image.Layers[0].Dir
			err = filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
				names = append(names, strings.TrimPrefix(p, dir))
				return err
			})
			if got := strings.Join(names, " "); err != nil || got != " /.prefetch.landmark /etc /etc/name /noise /stargz.index.json" {
				t.Errorf("the layer has %q (%v)", got, err)
			}
			if b, err := os.ReadFile(dir + "/noise"); err != nil || string(b) != noise(20_000) {
				t.Errorf("a file is not what it was (%v)", err)
			}
			if problems, err := st.Check(context.Background(), false); err != nil || len(problems) != 0 {
				t.Errorf("%v %v", problems, err)
			}
		})
	}
}
