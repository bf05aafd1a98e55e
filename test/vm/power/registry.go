package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// registryServer is a registry of this process, with images that are made up.
type registryServer struct {
	host string
	base v1.Image
}

func newRegistry() (*registryServer, error) {
	// Always the same port, so that names stay good after a power cut.
	l, err := net.Listen("tcp", "127.0.0.1:5000")
	if err != nil {
		return nil, err
	}
	go func() { _ = http.Serve(l, registry.New(registry.Logger(log.New(io.Discard, "", 0)))) }()
	base, err := tarball.ImageFromPath("/box-archive.tar", nil)
	return &registryServer{host: l.Addr().String(), base: base}, err
}

func (s *registryServer) name(n int) string { return fmt.Sprintf("%s/pulled/%d:latest", s.host, n) }

// publish puts a new image under a name: some layers of random files, and in the last one
// a list of their digests.
func (s *registryServer) publish(ref string, r *rand.Rand) error {
	tag, err := name.NewTag(ref, name.Insecure)
	if err != nil {
		return err
	}
	img := s.base
	var sums bytes.Buffer
	for l := range 1 + r.IntN(4) {
		files := map[string][]byte{}
		for f := range 1 + r.IntN(5) {
			path := fmt.Sprintf("/layer-%d/file-%d", l, f)
			content := randomBytes(r, 1+r.IntN(400_000))
			files[path] = content
			fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(content), path)
		}
		if img, err = addLayer(img, files); err != nil {
			return err
		}
	}
	if img, err = addLayer(img, map[string][]byte{"/SUMS": sums.Bytes()}); err != nil {
		return err
	}
	return remote.Write(tag, img)
}

func addLayer(img v1.Image, files map[string][]byte) (v1.Image, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for path, content := range files {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path[1:], Mode: 0o644, Size: int64(len(content))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		return nil, err
	}
	return mutate.AppendLayers(img, layer)
}

func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}
