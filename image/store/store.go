// Package store keeps images on disk: one OCI image layout, which other tools
// can read as it stands, and one directory for each unpacked layer.
//
// The index of the layout (images/index.json) is the only list of images. Each
// name is one descriptor, whose annotation org.opencontainers.image.ref.name is
// the full name; an image that lost its names keeps a descriptor without it.
// So `skopeo inspect oci:ROOT/images:docker.io/library/ubuntu:latest` works.
//
// Who may do what at the same time:
//
//   - Readers take no lock: files are replaced by rename, never changed.
//   - locks/index is held to change index.json.
//   - locks/store is held shared while objects are put in place and named, and
//     exclusively while garbage is found and moved away; both take milliseconds.
//     Downloads happen outside of it. What a download relies on stands in its
//     lease, a flocked file in its staging directory, which garbage collection
//     reads; when the process dies, the lease is void.
//   - locks/layer-HEX is held while that layer is fetched and unpacked.
//
// Order: layer locks (sorted), then store, then index.
package store

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"vivarium/image"
	"vivarium/layer"
)

// Store is the images of one root directory.
type Store struct {
	root string
	// Users tells which containers use what. It is asked, with the store
	// locked, before anything is removed; nil means that there are none.
	Users func(context.Context) ([]User, error)
}

// User is one container that needs an image's layers.
type User struct {
	Container string // name or ID, for messages
	Image     digest.Digest
	Layers    []string // directories, as in image.Layer.Dir
	Running   bool
}

// Open returns the store below root (the engine's --root). It touches nothing:
// directories are made when something is first written.
func Open(root string) (*Store, error) {
	if !filepath.IsAbs(root) {
		abs, err := filepath.Abs(root)
		if err != nil {
			return nil, fmt.Errorf("open image store %s: %w", root, err)
		}
		root = abs
	}
	return &Store{root: filepath.Clean(root)}, nil
}

func (s *Store) imagesDir() string { return s.root + "/images" }
func (s *Store) indexPath() string { return s.root + "/images/index.json" }
func (s *Store) tmpDir() string    { return s.root + "/tmp" }
func (s *Store) lockPath(name string) string {
	return s.root + "/locks/" + name
}

// LayoutDir is the OCI image layout, for other tools.
func (s *Store) LayoutDir() string { return s.imagesDir() }

// BlobPath is where the blob is, or would be.
func (s *Store) BlobPath(d digest.Digest) string {
	return s.imagesDir() + "/blobs/sha256/" + d.Encoded()
}

// sharedLayerDir is the place of a layer that is the same above any others,
// chainLayerDir that of one which took something from those below it.
func (s *Store) sharedLayerDir(diffID digest.Digest) string {
	return s.root + "/layers/sha256/" + diffID.Encoded()
}

func (s *Store) chainLayerDir(chain digest.Digest) string {
	return s.root + "/layers/chain/" + chain.Encoded()
}

// findLayer returns the directory of an unpacked layer, or "".
func (s *Store) findLayer(diffID, chain digest.Digest) string {
	for _, dir := range []string{s.sharedLayerDir(diffID), s.chainLayerDir(chain)} {
		var st unix.Stat_t
		if unix.Stat(dir+"/"+layer.RecordName, &st) == nil {
			return dir
		}
	}
	return ""
}

func (s *Store) hasBlob(d digest.Digest, size int64) bool {
	var st unix.Stat_t
	if unix.Stat(s.BlobPath(d), &st) != nil {
		return false
	}
	return size < 0 || st.Size == size
}

// ensure makes the directories and the files of an empty layout.
func (s *Store) ensure() error {
	for _, dir := range []string{
		s.imagesDir() + "/blobs/sha256", s.root + "/layers/sha256", s.root + "/layers/chain", s.initRoot(), s.tmpDir(), s.root + "/locks",
	} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return fmt.Errorf("make image store: %w", err)
		}
	}
	// The content never changes, so it needs no rename; a file that a killed
	// process cut short is written again.
	layout, content := s.imagesDir()+"/oci-layout", `{"imageLayoutVersion":"1.0.0"}`+"\n"
	if st, err := os.Stat(layout); err == nil && st.Size() == int64(len(content)) {
		return nil
	}
	if err := os.WriteFile(layout, []byte(content), 0o644); err != nil {
		return fmt.Errorf("make image store: %w", err)
	}
	return nil
}

// Hold keeps garbage collection away until release is called. Hold it from
// before Resolve until what needs the layers is known to Users.
func (s *Store) Hold(ctx context.Context) (release func(), err error) {
	l, err := acquire(ctx, s.lockPath("store"), unix.LOCK_SH)
	if err != nil {
		return nil, fmt.Errorf("hold image store: %w", err)
	}
	return l.release, nil
}

// ReadBlob reads a small blob (manifest, config) and checks its digest.
func (s *Store) ReadBlob(d digest.Digest) ([]byte, error) {
	b, err := s.readSmall(d)
	if err != nil {
		return nil, err
	}
	if digest.FromBytes(b) != d {
		return nil, fmt.Errorf("read blob %s: its content does not have this digest; run 'viv system check', then pull the image again", d)
	}
	return b, nil
}

// maxSmall bounds manifests and configs, as registries do (4 MiB for
// manifests, distribution-spec); nothing real is near it.
const maxSmall = 8 << 20

func (s *Store) readSmall(d digest.Digest) ([]byte, error) {
	if !isSHA256(d) {
		return nil, fmt.Errorf("read blob %q: only sha256 digests are supported", d)
	}
	b, err := readFile(s.BlobPath(d), maxSmall)
	if err != nil {
		return nil, fmt.Errorf("read blob %s: %w", d, err)
	}
	return b, nil
}

// readFile is os.ReadFile without the runtime's poller, and with a bound: it
// is most of what resolving an image costs.
func readFile(path string, limit int64) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Size > limit {
		return nil, fmt.Errorf("%s has %d bytes, more than the %d that are sensible", path, st.Size, limit)
	}
	b := make([]byte, st.Size)
	for n := 0; n < len(b); {
		m, err := unix.Read(fd, b[n:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, &os.PathError{Op: "read", Path: path, Err: err}
		}
		if m == 0 {
			return b[:n], nil
		}
		n += m
	}
	return b, nil
}

// replaceFile puts a whole new file in the place of another, durably.
func replaceFile(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return nil
}

// layers fills in the directories of an image's layers; missing names the
// first that is not unpacked.
func (s *Store) layers(diffIDs []digest.Digest, sizes []int64) (layers []image.Layer, missing digest.Digest) {
	chains := image.ChainIDs(diffIDs)
	for i, d := range diffIDs {
		dir := s.findLayer(d, chains[i])
		if dir == "" {
			return nil, d
		}
		l := image.Layer{DiffID: d, Dir: dir + "/" + layer.TreeName}
		if i < len(sizes) {
			l.Size = sizes[i]
		} else if rec, err := layer.ReadRecord(dir); err == nil {
			l.Size = rec.Size
		}
		layers = append(layers, l)
	}
	return layers, ""
}
