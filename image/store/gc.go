package store

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"vivarium/image"
	"vivarium/layer"
)

// Collected is what a garbage collection removed.
type Collected struct {
	Blobs, Layers []digest.Digest
	Inits         []digest.Digest // init layers, by the chain ID of the layer below
	Bytes         int64           // as the records and the blobs' sizes say
}

// GC removes blobs and layers that no image, no container and no running
// change needs. It may run at any time.
func (s *Store) GC(ctx context.Context) (Collected, error) {
	var c Collected
	if _, err := os.Stat(s.imagesDir()); errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err := s.ensure(); err != nil {
		return c, err
	}
	if err := s.sweep(ctx); err != nil {
		return c, fmt.Errorf("collect garbage of image store: %w", err)
	}
	trash, err := s.moveGarbage(ctx, &c)
	// Deleting is slow and done without the lock; if it is cut off, the next
	// sweep goes on.
	for _, dir := range trash {
		err = errors.Join(err, removeStaging(dir))
	}
	_, perr := s.sweepPartials(time.Now().Add(-partialAge))
	if err = errors.Join(err, perr); err != nil {
		return c, fmt.Errorf("collect garbage of image store: %w", err)
	}
	return c, nil
}

// sweep removes the staging directories of dead processes, and keeps the steps of builds
// that they had finished.
func (s *Store) sweep(ctx context.Context) error {
	names, err := s.stagings()
	if err != nil || len(names) == 0 {
		return err
	}
	l, err := acquireExclusive(ctx, s)
	if err != nil {
		return fmt.Errorf("sweep image store: %w", err)
	}
	dead, _, err := s.leasesLocked()
	builds, dead := s.adoptLocked(dead)
	l.release()
	for _, t := range builds {
		_ = t.keepJournaled(ctx) // a step that is lost is carried out again
		err = errors.Join(err, t.Close())
	}
	for _, dir := range dead {
		err = errors.Join(err, removeStaging(dir))
	}
	return err
}

// listDir lists a directory of the store; one that is not there yet has nothing.
func listDir(dir, what string) ([]fs.DirEntry, error) {
	list, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list %s: %w", what, err)
	}
	return list, nil
}

func (s *Store) stagings() ([]string, error) {
	list, err := listDir(s.tmpDir(), "staging directories")
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range list {
		if strings.HasPrefix(e.Name(), stagePrefix) {
			out = append(out, filepath.Join(s.tmpDir(), e.Name()))
		}
	}
	return out, nil
}

// leasesLocked tells dead staging directories from live ones, and reads what
// the live ones rely on. A directory is made and leased under the store lock,
// so with that held exclusively one without a locked lease is dead.
func (s *Store) leasesLocked() (dead []string, kept map[string]bool, err error) {
	names, err := s.stagings()
	if err != nil {
		return nil, nil, err
	}
	kept = make(map[string]bool)
	for _, dir := range names {
		f, err := os.OpenFile(filepath.Join(dir, leaseName), os.O_RDWR, 0)
		if errors.Is(err, fs.ErrNotExist) {
			dead = append(dead, dir)
			continue
		}
		if err != nil {
			return dead, kept, fmt.Errorf("read lease: %w", err)
		}
		switch err := flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err {
		case nil:
			dead = append(dead, dir)
		case unix.EWOULDBLOCK:
			sc := bufio.NewScanner(f)
			for sc.Scan() {
				kept[sc.Text()] = true
			}
		default:
			f.Close()
			return dead, kept, fmt.Errorf("test lease: %w", err)
		}
		f.Close()
	}
	return dead, kept, nil
}

// moveGarbage finds garbage and renames it out of the way. It returns the
// directories to delete.
func (s *Store) moveGarbage(ctx context.Context, c *Collected) ([]string, error) {
	l, err := acquireExclusive(ctx, s)
	if err != nil {
		return nil, err
	}
	defer l.release()
	dead, live, err := s.leasesLocked()
	if err != nil {
		return nil, err
	}
	// One with finished steps belongs to whoever adopts it, at the next sweep.
	trash := slices.DeleteFunc(dead, hasJournal)
	if err := s.markLocked(ctx, live); err != nil {
		return trash, err
	}
	bin, err := os.MkdirTemp(s.tmpDir(), stagePrefix)
	if err != nil {
		return trash, err
	}
	trash = append(trash, bin)
	for _, kind := range []struct {
		dir  string
		list *[]digest.Digest
	}{
		{s.imagesDir() + "/blobs/sha256", &c.Blobs},
		{s.root + "/layers/sha256", &c.Layers},
		{s.root + "/layers/chain", &c.Layers},
		{s.initRoot(), &c.Inits},
	} {
		if err := s.discard(kind.dir, live, bin, kind.list, c); err != nil {
			return trash, err
		}
	}
	return trash, s.dropOriginsLocked()
}

// discard moves everything in dir that is not live. Blobs are live by their
// digest, layers by their directory.
func (s *Store) discard(dir string, live map[string]bool, bin string, list *[]digest.Digest, c *Collected) error {
	names, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range names {
		d := digest.NewDigestFromEncoded(digest.SHA256, e.Name())
		full := filepath.Join(dir, e.Name())
		if d.Validate() != nil || live[full] || live[string(d)] {
			continue
		}
		size := sizeOf(full, e)
		if err := os.Rename(full, filepath.Join(bin, fmt.Sprintf("%d-%s", len(c.Blobs)+len(c.Layers)+len(c.Inits), e.Name()))); err != nil {
			return err
		}
		c.Bytes += size
		*list = append(*list, d)
	}
	return nil
}

func sizeOf(full string, e fs.DirEntry) int64 {
	if e.IsDir() {
		rec, err := layer.ReadRecord(full)
		if err != nil {
			return 0
		}
		return rec.Size
	}
	if info, err := e.Info(); err == nil {
		return info.Size()
	}
	return 0
}

// markLocked adds what images and containers need.
func (s *Store) markLocked(ctx context.Context, live map[string]bool) error {
	entries, err := s.readIndex()
	if err != nil {
		return err
	}
	// A lease names diff and chain IDs; they stand for these directories.
	for id := range live {
		if d := digest.Digest(id); d.Validate() == nil {
			live[s.sharedLayerDir(d)] = true
			live[s.chainLayerDir(d)] = true
		}
	}
	for _, e := range entries {
		s.markDescriptor(e.desc, live, 0)
		if e.index.Digest != "" {
			s.markDescriptor(e.index, live, 0)
		}
		live[string(e.oci.digest)] = true
	}
	if err := s.markSteps(live); err != nil {
		return err
	}
	if s.Users == nil {
		return nil
	}
	users, err := s.Users(ctx)
	if err != nil {
		return fmt.Errorf("find containers that use images: %w", err)
	}
	for _, u := range users {
		for _, dir := range u.Layers {
			live[filepath.Dir(filepath.Clean(dir))] = true
		}
	}
	return nil
}

// markDescriptor marks a manifest and all it names. What cannot be read marks
// nothing more; Check reports it.
func (s *Store) markDescriptor(d ocispec.Descriptor, live map[string]bool, depth int) {
	live[string(d.Digest)] = true
	if depth > 4 {
		return
	}
	b, err := s.readSmall(d.Digest)
	if err != nil {
		return
	}
	var m struct {
		Config    *ocispec.Descriptor
		Layers    []ocispec.Descriptor
		Manifests []ocispec.Descriptor
	}
	if json.Unmarshal(b, &m) != nil {
		return
	}
	for _, sub := range m.Manifests {
		s.markDescriptor(sub, live, depth+1)
	}
	for _, l := range m.Layers {
		live[string(l.Digest)] = true
	}
	if m.Config != nil {
		live[string(m.Config.Digest)] = true
		s.markConfig(m.Config.Digest, live)
	}
}

func (s *Store) markConfig(d digest.Digest, live map[string]bool) {
	if !isSHA256(d) {
		return
	}
	b, err := s.readSmall(d)
	if err != nil {
		return
	}
	cfg, err := ParseConfig(b)
	if err != nil {
		return
	}
	chains := image.ChainIDs(cfg.RootFS.DiffIDs)
	for i, chain := range chains {
		live[s.sharedLayerDir(cfg.RootFS.DiffIDs[i])] = true
		live[s.chainLayerDir(chain)] = true
	}
	if n := len(chains); n > 0 {
		live[s.initDir(chains[n-1])] = true
	}
}
