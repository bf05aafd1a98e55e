package engine

import (
	"context"
	"slices"
	"strings"
	"time"

	"vivarium/image/store"
)

// PruneBuildOptions say what of the build cache goes.
type PruneBuildOptions struct {
	All     bool    // directories of cache mounts too
	Filters Filters // until: not used since then; id: the beginning of a key
	Keep    int64   // bytes that may stay, of what was used last
}

// cachePrefix stands before the name of a cache mount's directory, where steps have the
// algorithm of their key's digest.
const cachePrefix = "cache:"

// cached is one thing of the build cache.
type cached struct {
	key  string
	used time.Time
	size int64
}

// PruneBuild removes what builds have kept: steps, and with All cache directories. What a
// build uses right now stays as long as that build needs it.
func (e *Engine) PruneBuild(ctx context.Context, opt PruneBuildOptions) (PruneReport, error) {
	var rep PruneReport
	if err := opt.Filters.check("until", "id"); err != nil {
		return rep, err
	}
	until, err := opt.Filters.until()
	if err != nil {
		return rep, err
	}
	s, err := e.images()
	if err != nil {
		return rep, err
	}
	var caches []store.CacheUse
	if opt.All {
		if caches, err = s.Caches(); err != nil {
			return rep, err
		}
	}
	stays, err := newest(s, caches, opt.Keep)
	if err != nil {
		return rep, err
	}
	drop := func(key string, used time.Time) bool {
		return !stays[key] && (until.IsZero() || used.Before(until)) && opt.Filters.any("id", func(id string) bool { return matchKey(key, id) })
	}
	gone, c, err := s.PruneSteps(ctx, func(st store.Step) bool { return drop(string(st.Key), st.Used) })
	if err != nil {
		return rep, err
	}
	rep.SpaceReclaimed = c.Bytes
	for _, st := range gone {
		if st.Alias == "" {
			rep.Deleted = append(rep.Deleted, string(st.Key))
		}
	}
	for _, u := range caches {
		if !drop(cachePrefix+u.Name, u.Used) {
			continue
		}
		removed, err := s.RemoveCache(u)
		if err != nil {
			return rep, err
		}
		if removed {
			rep.Deleted, rep.SpaceReclaimed = append(rep.Deleted, cachePrefix+u.Name), rep.SpaceReclaimed+u.Size
		}
	}
	return rep, nil
}

// matchKey tells whether id is the beginning of a key, with or without what stands
// before the colon.
func matchKey(key, id string) bool {
	_, hex, _ := strings.Cut(key, ":")
	return strings.HasPrefix(key, id) || strings.HasPrefix(hex, id)
}

// newest are the keys of what was used last and has at most so many bytes together; a
// layer that several steps made counts once.
func newest(s *store.Store, caches []store.CacheUse, bytes int64) (map[string]bool, error) {
	stays := map[string]bool{}
	if bytes <= 0 {
		return stays, nil
	}
	steps, err := s.Steps()
	if err != nil {
		return nil, err
	}
	var list []cached
	seen := map[string]bool{}
	for _, st := range slices.Backward(steps) { // last used first
		c := cached{string(st.Key), st.Used, st.Size}
		if seen[string(st.DiffID)] {
			c.size = 0
		}
		seen[string(st.DiffID)] = true
		list = append(list, c)
	}
	for _, u := range caches {
		list = append(list, cached{cachePrefix + u.Name, u.Used, u.Size})
	}
	slices.SortStableFunc(list, func(a, b cached) int { return b.used.Compare(a.used) })
	for _, c := range list {
		if bytes -= c.size; bytes < 0 {
			break
		}
		stays[c.key] = true
	}
	return stays, nil
}

// buildUsage measures the build cache. What images have too counts with the images,
// and makes a step active; what only the cache keeps can be given back.
func (e *Engine) buildUsage(ctx context.Context) (Usage, error) {
	u := Usage{Type: "Build Cache"}
	images, err := e.Images(ctx, "", nil)
	if err != nil {
		return u, err
	}
	counted := map[string]bool{}
	for _, img := range images {
		for _, l := range img.Layers {
			counted[string(l.DiffID)] = true
		}
	}
	s, err := e.images()
	if err != nil {
		return u, err
	}
	others, err := s.IndexedLayers()
	if err != nil {
		return u, err
	}
	for _, l := range others {
		counted[string(l.DiffID)] = true
	}
	steps, err := s.Steps()
	if err != nil {
		return u, err
	}
	own := map[string]bool{}
	for _, st := range steps {
		switch d := string(st.DiffID); {
		case st.Alias != "":
			continue
		case counted[d]:
			u.Active++
		case !own[d]:
			own[d] = true
			u.Size += st.Size
		}
		u.Total++
	}
	caches, err := s.Caches()
	if err != nil {
		return u, err
	}
	for _, c := range caches {
		u.Total++
		u.Size += c.Size
	}
	u.Reclaimable = u.Size
	return u, nil
}
