package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"vivarium/image"
)

// ErrInUse says that an image cannot be removed as asked. The text says by
// what it is used, and whether force would help.
var ErrInUse = errors.New("image is in use")

// Removed is one line of what `docker rmi` prints: one of the two is set.
type Removed struct {
	Untagged string
	Deleted  digest.Digest
}

func (r Removed) String() string {
	if r.Untagged != "" {
		return "Untagged: " + r.Untagged
	}
	return "Deleted: " + string(r.Deleted)
}

// Tag gives the image that ref means one more name.
func (s *Store) Tag(ctx context.Context, ref, name string) error {
	target, err := image.ParseReference(name)
	if err != nil {
		return err
	}
	if target.Digest != "" {
		return fmt.Errorf("tag %s: a new name cannot have a digest", name)
	}
	return s.updateIndex(ctx, func(entries []entry) ([]entry, error) {
		e, err := find(entries, ref)
		if err != nil {
			return nil, err
		}
		if e.id, err = s.entryID(e); err != nil {
			return nil, err
		}
		// The digest belongs to the repository that it was pulled from.
		if e.sourceRepo() != target.Repo() {
			e.source = ""
		}
		e.name = target.String()
		return setName(entries, e), nil
	})
}

// Remove removes a name, or an image with all its names, as `docker rmi` does:
// a name of several is only untagged; the last one takes the image along. An
// image that containers use is kept. With force it goes if none of them runs, and
// its layers stay until those containers are gone; if one does, and ref is a name,
// the image only loses that.
//
// Errors: image.ErrNotFound, image.ErrAmbiguous, ErrInUse.
func (s *Store) Remove(ctx context.Context, ref string, force bool) ([]Removed, error) {
	users, err := s.users(ctx)
	if err != nil {
		return nil, err
	}
	var out []Removed
	var layers map[digest.Digest][]digest.Digest
	remove := func(entries []entry) ([]entry, error) {
		e, err := find(entries, ref)
		if err != nil {
			return nil, err
		}
		r := &removal{s: s, ref: ref, force: force, users: users, layers: make(map[digest.Digest][]digest.Digest)}
		left, err := r.apply(entries, e)
		out, layers = r.out, r.layers
		return left, err
	}
	if err := s.withReserve(func() error { return s.updateIndex(ctx, remove) }); err != nil {
		return nil, err
	}
	err = s.withReserve(func() (err error) {
		out, err = s.collectRemoved(ctx, out, layers)
		return err
	})
	s.keepReserve()
	return out, err
}

func (s *Store) users(ctx context.Context) ([]User, error) {
	if s.Users == nil {
		return nil, nil
	}
	users, err := s.Users(ctx)
	if err != nil {
		return nil, fmt.Errorf("find containers that use images: %w", err)
	}
	return users, nil
}

// collectRemoved collects the garbage, and adds a line for each layer of the
// removed images that is gone. Docker names layers by their chain IDs.
func (s *Store) collectRemoved(ctx context.Context, out []Removed, layers map[digest.Digest][]digest.Digest) ([]Removed, error) {
	c, err := s.GC(ctx)
	if err != nil {
		return out, err
	}
	gone := make(map[digest.Digest]bool)
	for _, d := range c.Layers {
		gone[d] = true
	}
	told := make(map[digest.Digest]bool)
	for _, r := range append([]Removed(nil), out...) {
		ids := layers[r.Deleted]
		chains := image.ChainIDs(ids)
		for i := len(ids) - 1; i >= 0; i-- {
			if (gone[ids[i]] || gone[chains[i]]) && !told[chains[i]] {
				told[chains[i]] = true
				out = append(out, Removed{Deleted: chains[i]})
			}
		}
	}
	return out, nil
}

// removal is one Remove at work, with the index locked.
type removal struct {
	s      *Store
	ref    string
	force  bool
	users  []User
	out    []Removed
	layers map[digest.Digest][]digest.Digest // diff IDs of removed images
}

func (r *removal) apply(entries []entry, e entry) ([]entry, error) {
	id, err := r.s.entryID(e)
	if err != nil {
		id = "" // broken images can be removed too, by name
	}
	same := func(o entry) bool { return o.desc.Digest == e.desc.Digest || (id != "" && o.id == id) }
	byName := e.name != "" && !isIDRef(r.ref, id)
	var names, sources []string
	for _, o := range entries {
		if !same(o) {
			continue
		}
		if o.name != "" {
			names = append(names, o.name)
		}
		if o.source != "" {
			sources = append(sources, o.source)
		}
	}
	if byName && len(names) > 1 {
		return r.untag(entries, e), nil
	}
	if !byName && !r.force && len(repos(names)) > 1 {
		return nil, fmt.Errorf("remove image %s: %w: it is referenced in multiple repositories (%s); remove the names one by one, or use force", r.ref, ErrInUse, strings.Join(repos(names), ", "))
	}
	if err := r.checkUsers(id); err != nil {
		if byName && r.force {
			return r.unname(entries, e, same, names, sources), nil
		}
		return nil, err
	}
	return r.removeAll(entries, e, id, same, names, sources), nil
}

// isIDRef reports whether the reference was an ID and not a name.
func isIDRef(ref string, id digest.Digest) bool {
	hex, _ := strings.CutPrefix(ref, "sha256:")
	return id != "" && hex != "" && strings.HasPrefix(id.Encoded(), hex)
}

func repos(names []string) []string {
	var out []string
	seen := make(map[string]bool)
	for _, n := range names {
		repo := n
		if p, err := image.ParseReference(n); err == nil {
			repo = p.FamiliarRepo()
		}
		if !seen[repo] {
			seen[repo] = true
			out = append(out, repo)
		}
	}
	return out
}

// untag removes one name of several, and the digest with the last name of its
// repository.
func (r *removal) untag(entries []entry, e entry) []entry {
	r.out = append(r.out, Removed{Untagged: image.Familiar(e.name)})
	out := entries[:0:0]
	covered := e.source == ""
	for _, o := range entries {
		if o.name == e.name && o.desc.Digest == e.desc.Digest {
			continue
		}
		if o.source == e.source {
			covered = true
		}
		out = append(out, o)
	}
	if !covered {
		r.out = append(r.out, Removed{Untagged: image.Familiar(e.source)})
	}
	return out
}

func (r *removal) checkUsers(id digest.Digest) error {
	for _, u := range r.users {
		if id == "" || u.Image != id {
			continue
		}
		if u.Running {
			return fmt.Errorf("remove image %s: %w: running container %s uses it; stop and remove that first", r.ref, ErrInUse, u.Container)
		}
		if !r.force {
			return fmt.Errorf("remove image %s: %w: stopped container %s uses it; remove that first, or use force", r.ref, ErrInUse, u.Container)
		}
	}
	return nil
}

// unname takes the last name from an image, and the digests by which it was pulled.
func (r *removal) unname(entries []entry, e entry, same func(entry) bool, names, sources []string) []entry {
	r.tellUntagged(names, sources)
	out := slices.DeleteFunc(slices.Clone(entries), same)
	e.name, e.source = "", ""
	return append(out, e)
}

// tellUntagged adds a line for each name and each digest.
func (r *removal) tellUntagged(names, sources []string) {
	for _, n := range slices.Concat(names, slices.Compact(slices.Sorted(slices.Values(sources)))) {
		r.out = append(r.out, Removed{Untagged: image.Familiar(n)})
	}
}

func (r *removal) removeAll(entries []entry, e entry, id digest.Digest, same func(entry) bool, names, sources []string) []entry {
	r.tellUntagged(names, sources)
	if id == "" {
		id = e.desc.Digest
	}
	r.out = append(r.out, Removed{Deleted: id})
	if b, err := r.s.readSmall(id); err == nil {
		if cfg, err := ParseConfig(b); err == nil {
			r.layers[id] = cfg.RootFS.DiffIDs
		}
	}
	out := entries[:0:0]
	for _, o := range entries {
		if !same(o) {
			out = append(out, o)
		}
	}
	return out
}

// Prune removes images that no container uses: those without a name, or with
// all, every one. filter, if not nil, chooses among them. It returns what was
// removed and how many bytes that freed.
func (s *Store) Prune(ctx context.Context, all bool, filter func(image.Image) bool) ([]Removed, int64, error) {
	users, err := s.users(ctx)
	if err != nil {
		return nil, 0, err
	}
	used := make(map[digest.Digest]bool)
	for _, u := range users {
		used[u.Image] = true
	}
	images, err := s.List()
	if err != nil {
		return nil, 0, err
	}
	var out []Removed
	layers := make(map[digest.Digest][]digest.Digest)
	remove := func(entries []entry) ([]entry, error) {
		out = nil
		for _, img := range images {
			if used[img.ID] || (len(img.Names) > 0 && !all) || (filter != nil && !filter(img)) {
				continue
			}
			e, err := find(entries, string(img.ID))
			if errors.Is(err, image.ErrNotFound) {
				continue
			}
			if err != nil {
				return nil, err
			}
			r := &removal{s: s, ref: string(img.ID), force: true, users: users, layers: layers}
			if entries, err = r.apply(entries, e); err != nil {
				return nil, err
			}
			out = append(out, r.out...)
		}
		return entries, nil
	}
	if err := s.withReserve(func() error { return s.updateIndex(ctx, remove) }); err != nil {
		return nil, 0, err
	}
	var c Collected
	err = s.withReserve(func() (err error) {
		c, err = s.GC(ctx)
		return err
	})
	s.keepReserve()
	freed, perr := s.sweepPartials(time.Now()) // Docker's prune keeps none either
	return out, c.Bytes + freed, errors.Join(err, perr)
}
