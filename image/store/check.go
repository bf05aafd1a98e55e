package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"vivarium/image"
	"vivarium/layer"
)

// Problem is one thing that Check found wrong.
type Problem struct {
	Object   string // image, blob, layer or directory
	Detail   string
	Repaired bool
}

func (p Problem) String() string {
	state := "not repaired"
	if p.Repaired {
		state = "repaired"
	}
	return fmt.Sprintf("%s: %s (%s)", p.Object, p.Detail, state)
}

// Check verifies everything: the index, every blob's digest, every layer's
// record and tree, and what dead processes left. With repair it mends what it
// can: leftovers and garbage are deleted, layers unpacked again from good
// blobs, damaged blobs removed, and images that lack blobs lose their place in
// the index, so that a pull fetches them again.
func (s *Store) Check(ctx context.Context, repair bool) ([]Problem, error) {
	if _, err := os.Stat(s.imagesDir()); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	c := &checker{s: s, repair: repair, bad: make(map[digest.Digest]bool)}
	for _, step := range []func(context.Context) error{c.leftovers, c.blobs, c.layerDirs, c.images, c.garbage} {
		if err := step(ctx); err != nil {
			return c.out, fmt.Errorf("check image store: %w", err)
		}
	}
	return c.out, nil
}

type checker struct {
	s      *Store
	repair bool
	bad    map[digest.Digest]bool
	// noIndex: what is needed cannot be told, so nothing is garbage.
	noIndex bool
	out     []Problem
}

func (c *checker) found(object, format string, args ...any) *Problem {
	c.out = append(c.out, Problem{Object: object, Detail: fmt.Sprintf(format, args...)})
	return &c.out[len(c.out)-1]
}

// leftovers reports staging directories of dead processes, and temporary files
// of index writers.
func (c *checker) leftovers(ctx context.Context) error {
	if err := c.s.ensure(); err != nil {
		return err
	}
	hold, err := acquireExclusive(ctx, c.s)
	if err != nil {
		return err
	}
	dead, _, err := c.s.leasesLocked()
	hold.release()
	if err != nil {
		return err
	}
	swept := c.repair && c.s.sweep(ctx) == nil
	for _, dir := range dead {
		c.found("directory "+dir, "left by a process that is gone").Repaired = swept
	}
	return c.newFiles(ctx)
}

// newFiles finds what a killed replaceFile left. With the index locked, none
// is in use.
func (c *checker) newFiles(ctx context.Context) error {
	return c.s.withIndexLock(ctx, func() error {
		list, err := filepath.Glob(c.s.imagesDir() + "/.new-*")
		if err != nil {
			return err
		}
		for _, f := range list {
			p := c.found("file "+f, "left by a process that is gone")
			if c.repair {
				p.Repaired = os.Remove(f) == nil
			}
		}
		return nil
	})
}

// blobs computes every digest again.
func (c *checker) blobs(ctx context.Context) error {
	dir := c.s.imagesDir() + "/blobs/sha256"
	list, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		full := filepath.Join(dir, e.Name())
		want := digest.NewDigestFromEncoded(digest.SHA256, e.Name())
		if want.Validate() != nil {
			c.found("file "+full, "is no blob; it is left alone")
			continue
		}
		got, err := digestOf(full)
		if errors.Is(err, fs.ErrNotExist) {
			continue // collected meanwhile
		}
		if err == nil && got == want {
			continue
		}
		c.bad[want] = true
		p := c.found("blob "+string(want), "%s", badBlob(got, err))
		if c.repair {
			p.Repaired = os.Remove(full) == nil
		}
	}
	return nil
}

func badBlob(got digest.Digest, err error) string {
	if err != nil {
		return "cannot be read: " + err.Error()
	}
	return "its content has digest " + string(got)
}

func digestOf(path string) (digest.Digest, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	d := digest.SHA256.Digester()
	if _, err := io.Copy(d.Hash(), f); err != nil {
		return "", err
	}
	return d.Digest(), nil
}

// layerDirs reports layers without a good record. Layers come by one rename,
// so only damage can make one.
func (c *checker) layerDirs(ctx context.Context) error {
	for _, dir := range []string{c.s.root + "/layers/sha256", c.s.root + "/layers/chain"} {
		list, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range list {
			full := filepath.Join(dir, e.Name())
			_, err := layer.ReadRecord(full)
			if st, serr := os.Stat(full + "/" + layer.TreeName); err == nil && (serr != nil || !st.IsDir()) {
				err = errors.New("its tree is missing")
			}
			if err == nil {
				continue
			}
			p := c.found("layer "+full, "incomplete: %v", err)
			if c.repair {
				p.Repaired = c.dropLayer(ctx, full) == nil
			}
		}
	}
	return c.initDirs(ctx)
}

// initDirs reports init layers that somebody wrote into; the next start makes a
// new one.
func (c *checker) initDirs(ctx context.Context) error {
	list, err := os.ReadDir(c.s.initRoot())
	if err != nil {
		return err
	}
	for _, e := range list {
		full := filepath.Join(c.s.initRoot(), e.Name())
		err := checkInit(full)
		if err == nil {
			continue
		}
		p := c.found("init layer "+full, "damaged: %v", err)
		if c.repair {
			p.Repaired = c.dropLayer(ctx, full) == nil
		}
	}
	return nil
}

func (c *checker) dropLayer(ctx context.Context, full string) error {
	hold, err := acquireExclusive(ctx, c.s)
	if err != nil {
		return err
	}
	defer hold.release()
	bin, err := os.MkdirTemp(c.s.tmpDir(), stagePrefix)
	if err != nil {
		return err
	}
	if err := os.Rename(full, filepath.Join(bin, "layer")); err != nil {
		return err
	}
	return os.RemoveAll(bin)
}

// images follows every entry of the index.
func (c *checker) images(ctx context.Context) error {
	entries, err := c.s.readIndex()
	if err != nil {
		c.noIndex = !c.repair
		p := c.found("index "+c.s.indexPath(), "%v", err)
		if c.repair {
			err := c.rebuildIndex(ctx)
			p.Repaired = err == nil
			c.noIndex = err != nil
			p.Detail += "; it is kept as index.json.damaged, and images have lost their names"
		}
		return nil
	}
	for _, e := range entries {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := c.image(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

// rebuildIndex keeps a damaged index beside a new one, which lists without
// names the images whose manifests are found among the blobs.
func (c *checker) rebuildIndex(ctx context.Context) error {
	return c.s.withIndexLock(ctx, func() error {
		list, err := os.ReadDir(c.s.imagesDir() + "/blobs/sha256")
		if err != nil {
			return err
		}
		var entries []entry
		converted := make(map[digest.Digest]bool)
		for _, e := range list {
			info, err := e.Info()
			d := digest.NewDigestFromEncoded(digest.SHA256, e.Name())
			if err != nil || info.Size() > maxSmall || d.Validate() != nil || c.bad[d] {
				continue
			}
			b, err := c.s.readSmall(d)
			if err != nil {
				continue
			}
			m, err := ParseManifest(b)
			if err != nil || !c.s.hasBlob(m.Config.Digest, m.Config.Size) {
				continue
			}
			kind := m.MediaType
			if kind == "" {
				kind = ocispec.MediaTypeImageManifest
			}
			desc := ocispec.Descriptor{MediaType: kind, Digest: d, Size: info.Size()}
			found := entry{desc: desc, id: m.Config.Digest}
			if b, err := toOCI(m, kind); err == nil && b != nil {
				found.oci = ociManifest{digest.FromBytes(b), int64(len(b))}
				converted[found.oci.digest] = true
			}
			entries = append(entries, found)
		}
		// A converted manifest is not an image beside its original.
		entries = slices.DeleteFunc(entries, func(e entry) bool { return converted[e.desc.Digest] })
		if err := os.Rename(c.s.indexPath(), c.s.indexPath()+".damaged"); err != nil {
			return err
		}
		return c.s.writeIndexLocked(entries)
	})
}

func (c *checker) image(ctx context.Context, e entry) error {
	name := "image " + describe(e)
	missing := c.missingBlob(e.desc, 0)
	if missing != "" {
		p := c.found(name, "blob %s is missing or damaged", missing)
		if c.repair {
			p.Repaired = c.forget(ctx, e) == nil
		}
		return nil
	}
	if isIndexType(e.desc.MediaType) {
		return nil
	}
	if err := c.platforms(ctx, e, name); err != nil {
		return err
	}
	if oci := e.oci.digest; oci != "" && (c.bad[oci] || !c.s.hasBlob(oci, e.oci.size)) {
		p := c.found(name, "blob %s is missing or damaged: its manifest with OCI's media types", oci)
		if c.repair {
			err := c.s.restoreOCI(ctx, e)
			p.Repaired = err == nil
			if err != nil {
				p.Detail += ": " + err.Error()
			}
		}
	}
	m, err := c.s.readManifest(e.desc)
	if err != nil {
		return err
	}
	b, err := c.s.readSmall(m.Config.Digest)
	if err != nil {
		return err
	}
	cfg, err := ParseConfig(b)
	if err != nil {
		c.found(name, "%v", err)
		return nil
	}
	chains := image.ChainIDs(cfg.RootFS.DiffIDs)
	for i, d := range cfg.RootFS.DiffIDs {
		if c.s.findLayer(d, chains[i]) != "" {
			continue
		}
		p := c.found(name, "layer %s is not unpacked", d)
		if c.repair {
			_, err := c.s.Unpack(ctx, string(m.Config.Digest))
			p.Repaired = err == nil
			if err != nil {
				p.Detail += ": " + err.Error()
			}
		}
		break
	}
	return nil
}

// missingBlob returns the first blob of an image that is not there or bad.
func (c *checker) missingBlob(d ocispec.Descriptor, depth int) digest.Digest {
	if c.bad[d.Digest] || !c.s.hasBlob(d.Digest, -1) {
		return d.Digest
	}
	if isIndexType(d.MediaType) || depth > 0 {
		return "" // other platforms of an index need not be here
	}
	m, err := c.s.readManifest(d)
	if err != nil {
		return d.Digest
	}
	for _, sub := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		if missing := c.missingBlob(sub, depth+1); missing != "" {
			return missing
		}
	}
	return ""
}

func (c *checker) forget(ctx context.Context, e entry) error {
	return c.s.updateIndex(ctx, func(entries []entry) ([]entry, error) {
		out := entries[:0:0]
		for _, o := range entries {
			if o.desc.Digest != e.desc.Digest || o.name != e.name {
				out = append(out, o)
			}
		}
		return out, nil
	})
}

// garbage counts what nothing needs, or removes it.
func (c *checker) garbage(ctx context.Context) error {
	if c.noIndex {
		return nil
	}
	if c.repair {
		got, err := c.s.GC(ctx)
		if err != nil {
			return err
		}
		for _, d := range got.Blobs {
			c.found("blob "+string(d), "nothing needs it").Repaired = true
		}
		for _, d := range got.Layers {
			c.found("layer "+string(d), "nothing needs it").Repaired = true
		}
		for _, d := range got.Inits {
			c.found("init layer "+string(d), "nothing needs it").Repaired = true
		}
		return nil
	}
	hold, err := acquireExclusive(ctx, c.s)
	if err != nil {
		return err
	}
	defer hold.release()
	_, live, err := c.s.leasesLocked()
	if err == nil {
		err = c.s.markLocked(ctx, live)
	}
	if err != nil {
		return err
	}
	for _, dir := range []string{c.s.imagesDir() + "/blobs/sha256", c.s.root + "/layers/sha256", c.s.root + "/layers/chain", c.s.initRoot()} {
		list, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range list {
			full := filepath.Join(dir, e.Name())
			d := digest.NewDigestFromEncoded(digest.SHA256, e.Name())
			if d.Validate() == nil && !live[full] && !live[string(d)] {
				c.found(full, "nothing needs it")
			}
		}
	}
	return nil
}
