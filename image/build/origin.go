package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"vivarium/layer"
)

// origin is what files are copied from: a context, a stage or an image.
type origin struct {
	name   string
	root   *os.File
	own    bool          // root is to be closed
	end    io.Closer     // what is closed then, if it is not root itself
	local  bool          // a directory of this machine: owners are not taken over
	ignore *ignoreRules  // of a context; nil: nothing is left out
	chain  digest.Digest // of a stage or image: what its files depend on
}

func (o *origin) close() {
	switch {
	case !o.own:
	case o.end != nil:
		o.end.Close()
	default:
		o.root.Close()
	}
}

// dirOrigin is a directory of this machine.
func dirOrigin(name string, dir *os.File, ignore *ignoreRules) *origin {
	return &origin{name: name, root: dir, local: true, ignore: ignore}
}

// source finds what --from names; empty is the build's context.
func (b *builder) source(ctx context.Context, from string) (*origin, error) {
	if from == "" || from == "context" && b.f.stage(from, true) == nil {
		if b.o.Context == nil {
			return nil, errors.New("there is no build context: it was a Dockerfile alone")
		}
		ignore, err := b.ignore()
		if err != nil {
			return nil, err
		}
		return dirOrigin("context", b.o.Context, ignore), nil
	}
	ref := from
	if c, ok := b.o.Contexts[strings.ToLower(from)]; ok {
		if c.Dir != nil {
			return b.namedDir(from, c.Dir)
		}
		ref = c.Image
	} else if d := b.f.stage(from, false); d != nil {
		st, err := b.wait(ctx, d)
		if err != nil {
			return nil, err
		}
		if b.dry {
			return nil, errUnplanned
		}
		return b.unionOrigin(ctx, from, st.chain, st.lower())
	}
	if ref == "scratch" {
		return b.unionOrigin(ctx, from, newHasher("scratch").sum(), nil)
	}
	f, err := b.image(ctx, ref, &b.o.Platform)
	if err != nil {
		return nil, err
	}
	lower := (&stage{layers: f.layers}).lower()
	return b.unionOrigin(ctx, from, f.chain, lower)
}

func (b *builder) namedDir(name string, dir *os.File) (*origin, error) {
	content, err := readIn(dir, ".dockerignore")
	if err != nil && !errors.Is(err, layer.ErrNotFound) {
		return nil, err
	}
	ignore, err := parseIgnore(content)
	if err != nil {
		return nil, fmt.Errorf("named context %s: %w", name, err)
	}
	return dirOrigin(name, dir, ignore), nil
}

// unionOrigin is what layers (top-most first) look like together, to be read only.
func (b *builder) unionOrigin(ctx context.Context, name string, chain digest.Digest, lower []string) (*origin, error) {
	root, err := b.openUnion(ctx, lower)
	if err != nil {
		return nil, fmt.Errorf("open the files of %s: %w", name, err)
	}
	return &origin{name: name, root: root.File, own: true, end: root, chain: chain}, nil
}

// readIgnore reads the context's .dockerignore; one that is named after the Dockerfile
// goes before it.
func (b *builder) readIgnore() (*ignoreRules, error) {
	for _, name := range []string{b.f.name + ".dockerignore", ".dockerignore"} {
		if path.IsAbs(name) || strings.HasPrefix(name, "../") {
			continue
		}
		content, err := readIn(b.o.Context, name)
		if errors.Is(err, layer.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		return parseIgnore(content)
	}
	return &ignoreRules{}, nil
}

// maxIgnore bounds a .dockerignore file.
const maxIgnore = 4 << 20

// OpenIn opens a file below a directory; links are followed inside it. It is
// layer.ErrNotFound if there is none.
func OpenIn(dir *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat2(int(dir.Fd()), name, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return nil, layer.ErrNotFound
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// readIn reads a small file below a directory.
func readIn(dir *os.File, name string) ([]byte, error) {
	f, err := OpenIn(dir, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxIgnore+1))
	if err == nil && len(b) > maxIgnore {
		err = fmt.Errorf("%s has more than %d bytes", name, maxIgnore)
	}
	return b, err
}

// pick is one file or directory that a copy takes.
type pick struct {
	path string // below the origin's root, without a slash in front
	dir  bool
}

// picks finds what a source of COPY or ADD means: one path, or those that fit a pattern.
func (o *origin) picks(ctx context.Context, source string) ([]pick, error) {
	clean := strings.TrimPrefix(path.Clean("/"+source), "/")
	if strings.ContainsAny(clean, `*?[\`) {
		return o.glob(ctx, clean)
	}
	var found *pick
	top := func(string, bool) (bool, bool) { return true, false }
	err := layer.Walk(ctx, o.root, "/"+clean, true, top, func(e *layer.WalkEntry) error {
		found = &pick{path: clean, dir: e.IsDir()}
		return nil
	})
	if errors.Is(err, layer.ErrNotFound) || err == nil && !found.dir && o.ignore.leavesOut(clean) {
		return nil, fmt.Errorf("%q: not found in %s", "/"+clean, o.name)
	}
	if err != nil {
		return nil, err
	}
	return []pick{*found}, nil
}

// glob finds the paths that fit a pattern, component by component (Go's path.Match).
// That nothing fits is no error, as in BuildKit.
func (o *origin) glob(ctx context.Context, pattern string) ([]pick, error) {
	comps := strings.Split(pattern, "/")
	n := 0
	for n < len(comps)-1 && !strings.ContainsAny(comps[n], `*?[\`) {
		n++
	}
	prefix := path.Join(comps[:n]...)
	rest := comps[n:]
	if _, err := path.Match(strings.Join(rest, "/"), ""); err != nil {
		return nil, fmt.Errorf("pattern %q: %w", pattern, err)
	}
	fits := func(rel string, dir bool) (bool, bool) {
		if rel == "" {
			return false, true
		}
		have := strings.Split(rel, "/")
		if len(have) > len(rest) {
			return false, false
		}
		for i, h := range have {
			if ok, _ := path.Match(rest[i], h); !ok {
				return false, false
			}
		}
		full := len(have) == len(rest)
		return full, !full
	}
	var out []pick
	err := layer.Walk(ctx, o.root, "/"+prefix, true, fits, func(e *layer.WalkEntry) error {
		if full := path.Join(prefix, e.Rel); !e.Implied && (e.IsDir() || !o.ignore.leavesOut(full)) {
			out = append(out, pick{path: full, dir: e.IsDir()})
		}
		return nil
	})
	if errors.Is(err, layer.ErrNotFound) {
		return nil, nil
	}
	return out, err
}

// filter chooses what of a pick is taken: what the context's rules and --exclude leave.
func (o *origin) filter(p pick, exclude *ignoreRules) layer.Filter {
	base := ""
	if !p.dir {
		base = path.Base(p.path)
	}
	return both(o.ignore.filter(p.path), topAlways(exclude.filter(base), p.dir))
}

// topAlways takes the top of a directory, whatever patterns say of what is in it.
func topAlways(f layer.Filter, dir bool) layer.Filter {
	if f == nil {
		return nil
	}
	return func(rel string, d bool) (bool, bool) {
		if rel == "" && dir {
			return true, true
		}
		return f(rel, d)
	}
}

// stamp is what tells that a file has not been changed.
type stamp struct {
	dev, ino, size uint64
	mtime, ctime   int64
}

// settledAt tells whether the last change is so long past that another one now would
// show itself by its time.
func (s stamp) settledAt(now int64) bool { return now-max(s.ctime, s.mtime) >= settled }

func stampOf(st *unix.Stat_t) stamp {
	return stamp{st.Dev, st.Ino, uint64(st.Size), st.Mtim.Nano(), st.Ctim.Nano()}
}

// selection is what a copy takes, as it was when its digest was made.
type selection struct {
	digest digest.Digest
	stamps map[string]stamp // by pick and path below it
	seen   []seenFile
	files  int
}

// reading is one selection being digested.
type reading struct {
	b    *builder
	o    *origin
	h    *hasher
	sel  *selection
	sums []*[32]byte // of the files, in their order
	meta []string    // what is known of each file without reading it
	past *pastCopy   // nil: nothing is known of another time
	jobs chan job
	wg   sync.WaitGroup
	mu   sync.Mutex
	err  error
}

type job struct {
	f     *os.File
	sum   *[32]byte
	stamp stamp
}

// digestOf digests everything that picks take: paths, kinds, modes, owners, attributes,
// links and content; times do not count. past, if not nil, knows what has not changed.
func (b *builder) digestOf(ctx context.Context, o *origin, list []pick, past *pastCopy, filter func(pick) layer.Filter) (*selection, error) {
	r := &reading{b: b, o: o, past: past, h: newHasher("files"), sel: &selection{stamps: map[string]stamp{}}, jobs: make(chan job, 64)}
	for range cap(b.work) {
		r.wg.Go(r.hash)
	}
	var err error
	for _, p := range list {
		links := map[[2]uint64]string{}
		r.sums, r.meta = append(r.sums, nil), append(r.meta, path.Base(p.path))
		err = layer.Walk(ctx, o.root, "/"+p.path, true, filter(p), func(e *layer.WalkEntry) error { return r.visit(p, e, links) })
		if err != nil {
			break
		}
	}
	close(r.jobs)
	r.wg.Wait()
	if err = errors.Join(err, r.err); err != nil {
		return nil, err
	}
	for i, m := range r.meta {
		r.h.add(m)
		if s := r.sums[i]; s != nil {
			r.h.h.Write(s[:])
		}
	}
	r.sel.digest, r.sel.files = r.h.sum(), len(r.meta)
	return r.sel, nil
}

func (r *reading) visit(p pick, e *layer.WalkEntry, links map[[2]uint64]string) error {
	st := stampOf(&e.Stat)
	r.sel.stamps[p.path+"\x00"+e.Rel] = st
	if f := r.past.find(e.Rel, st); f != nil {
		r.meta = append(r.meta, f.meta)
		r.sums = append(r.sums, f.sum)
		r.sel.seen = append(r.sel.seen, *f)
		return nil
	}
	uid, gid := e.Stat.Uid, e.Stat.Gid
	if r.o.local {
		uid, gid = 0, 0
	}
	m := newHasher("file")
	m.add(e.Rel)
	m.number(uint64(e.Stat.Mode), uint64(uid), uint64(gid), e.Stat.Rdev)
	xattrs, err := e.Xattrs()
	if err != nil {
		return err
	}
	for _, k := range slices.Sorted(maps.Keys(xattrs)) {
		m.add(k, xattrs[k])
	}
	var sum *[32]byte
	switch {
	case e.IsLink():
		to, err := e.Link()
		if err != nil {
			return err
		}
		m.add(to)
	case e.IsFile():
		id := [2]uint64{e.Stat.Dev, e.Stat.Ino}
		if first, ok := links[id]; ok && e.Stat.Nlink > 1 {
			m.add("link", first)
			break
		}
		links[id] = e.Rel
		if sum, err = r.content(e); err != nil {
			return err
		}
	}
	r.meta, r.sums = append(r.meta, string(m.sum())), append(r.sums, sum)
	if r.past != nil && !e.IsDir() && e.Stat.Nlink == 1 && st.settledAt(r.b.sums.now) {
		r.sel.seen = append(r.sel.seen, seenFile{rel: e.Rel, stamp: st, meta: r.meta[len(r.meta)-1], sum: sum})
	}
	return nil
}

// content gives the place where the digest of a file's content will be.
func (r *reading) content(e *layer.WalkEntry) (*[32]byte, error) {
	st := stampOf(&e.Stat)
	if sum, ok := r.b.sums.find(st); ok && r.o.local {
		return &sum, nil
	}
	f, err := e.Open()
	if err != nil {
		return nil, err
	}
	sum := new([32]byte)
	r.jobs <- job{f, sum, st}
	return sum, nil
}

func (r *reading) hash() {
	buf := make([]byte, 128<<10)
	for j := range r.jobs {
		err := sumFile(j.f, buf, j.sum)
		j.f.Close()
		if err == nil && r.o.local {
			r.b.sums.add(j.stamp, *j.sum)
		}
		if err != nil {
			r.mu.Lock()
			r.err = errors.Join(r.err, err)
			r.mu.Unlock()
		}
	}
}

// unchanged watches over a copy: a file that is not the one that was digested any more
// makes the copy unfit for the cache.
func (s *selection) unchanged(p pick, changed *bool) func(*layer.WalkEntry) error {
	return func(e *layer.WalkEntry) error {
		if s.stamps[p.path+"\x00"+e.Rel] != stampOf(&e.Stat) {
			*changed = true
		}
		return nil
	}
}
