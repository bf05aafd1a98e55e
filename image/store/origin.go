package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Origin is a repository that has a blob of this store. A push to another repository
// of the same registry can have it mounted from there.
type Origin struct {
	Repo string // "docker.io/library/ubuntu"
	// Blob is how the repository has it: the store's own blob, or for a plain layer
	// that was packed to be pushed, that.
	Blob ocispec.Descriptor
}

// maxOrigins is of how many repositories of a blob the store keeps account.
const maxOrigins = 16

func (s *Store) originsDir() string { return s.root + "/origins" }

func (s *Store) originsPath(blob digest.Digest) string {
	return s.originsDir() + "/" + blob.Encoded()
}

// Origins tells where the blob is known to be, the latest place first. It is a hint:
// the repository may have lost it.
func (s *Store) Origins(blob digest.Digest) []Origin {
	b, err := readFile(s.originsPath(blob), 1<<20)
	if err != nil {
		return nil
	}
	var list []Origin
	if json.Unmarshal(b, &list) != nil {
		return nil
	}
	return slices.DeleteFunc(list, func(o Origin) bool { return CheckDescriptor(o.Blob) != nil })
}

// AddOrigin notes that a repository has the blob. It is not synchronized to the disk:
// what is lost costs an upload.
func (s *Store) AddOrigin(blob digest.Digest, at Origin) error {
	at.Blob.URLs, at.Blob.Annotations, at.Blob.Data = nil, nil, nil
	list := s.Origins(blob)
	if len(list) > 0 && list[0].Repo == at.Repo && list[0].Blob.Digest == at.Blob.Digest {
		return nil
	}
	list = slices.DeleteFunc(list, func(o Origin) bool { return o.Repo == at.Repo })
	list = append([]Origin{at}, list...)
	b, err := json.Marshal(list[:min(len(list), maxOrigins)])
	if err == nil {
		err = os.MkdirAll(s.originsDir(), 0o711)
	}
	if err != nil {
		return fmt.Errorf("note where blob %s is: %w", blob, err)
	}
	f, err := os.CreateTemp(s.originsDir(), ".new-*")
	if err != nil {
		return fmt.Errorf("note where blob %s is: %w", blob, err)
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), s.originsPath(blob))
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("note where blob %s is: %w", blob, err)
	}
	return nil
}

// addSource notes for an image that was pulled where its layers are.
func (s *Store) addSource(source string, layers []ocispec.Descriptor) {
	repo, _, ok := strings.Cut(source, "@")
	if !ok {
		return
	}
	for _, l := range layers {
		if s.AddOrigin(l.Digest, Origin{repo, l}) != nil {
			return // a full disk, for one; nothing depends on it
		}
	}
}

// dropOriginsLocked forgets the places of blobs that are gone.
func (s *Store) dropOriginsLocked() error {
	list, err := os.ReadDir(s.originsDir())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range list {
		d := digest.NewDigestFromEncoded(digest.SHA256, e.Name())
		if !isSHA256(d) || !s.hasBlob(d, -1) {
			err = errors.Join(err, os.Remove(s.originsDir()+"/"+e.Name()))
		}
	}
	return err
}

// Top tells what a name or an ID means: the manifest of an image, or an index of
// several, as it was pulled or made.
func (s *Store) Top(ref string) (ocispec.Descriptor, error) {
	_, e, err := s.lookup(ref)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if e.index.Digest != "" {
		return e.index, nil
	}
	e.desc.Annotations = nil
	return e.desc, nil
}

// NamesIn gives the full names that the store has for images of a repository.
func (s *Store) NamesIn(repo string) ([]string, error) {
	entries, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.name, repo+":") {
			names = append(names, e.name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// SetSource notes by which REPO@DIGEST the image of this full name is known to its
// registry, after a push. A name that means another image by now is left alone.
func (s *Store) SetSource(ctx context.Context, name string, desc ocispec.Descriptor, source string) error {
	return s.updateIndex(ctx, func(entries []entry) ([]entry, error) {
		for i := range entries {
			if entries[i].name == name && (entries[i].desc.Digest == desc.Digest || entries[i].index.Digest == desc.Digest) {
				entries[i].source = source
			}
		}
		return entries, nil
	})
}

// Pack compresses a plain blob into a file of the staging directory. The same blob
// gives the same bytes every time: the header has no time and no name.
func (t *Tx) Pack(ctx context.Context, blob digest.Digest) (path string, packed ocispec.Descriptor, err error) {
	f, err := os.Open(t.blobFile(blob))
	if err != nil {
		return "", packed, fmt.Errorf("compress layer: %w", err)
	}
	defer f.Close()
	w, err := t.newBlobWriter(ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Size: -1})
	if err != nil {
		return "", packed, err
	}
	err = compressAt(gzip.DefaultCompression, writerFunc(w.write), func(z io.Writer) error {
		buf := make([]byte, blockSize)
		for {
			n, err := f.Read(buf)
			if _, werr := z.Write(buf[:n]); werr != nil {
				return werr
			}
			switch {
			case err == io.EOF:
				return nil
			case err != nil:
				return err
			case ctx.Err() != nil:
				return context.Cause(ctx)
			}
		}
	})
	if err != nil {
		w.abort()
		return "", packed, fmt.Errorf("compress layer: %w", err)
	}
	packed, err = w.done()
	return w.path, packed, err
}

type writerFunc func([]byte) error

func (f writerFunc) Write(b []byte) (int, error) {
	if err := f(b); err != nil {
		return 0, err
	}
	return len(b), nil
}
