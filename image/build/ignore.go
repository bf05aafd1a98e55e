package build

import (
	"bytes"
	"fmt"
	"path"
	"strings"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"

	"vivarium/layer"
)

// ignoreRules are the patterns of a .dockerignore file, or of --exclude flags.
type ignoreRules struct {
	m *patternmatcher.PatternMatcher // nil: nothing is left out
}

// parseIgnore reads a .dockerignore file (docs.docker.com, "Build context", and the
// library that Docker reads it with).
func parseIgnore(content []byte) (*ignoreRules, error) {
	patterns, err := ignorefile.ReadAll(bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("read .dockerignore: %w", err)
	}
	return newIgnore(patterns)
}

func newIgnore(patterns []string) (*ignoreRules, error) {
	if len(patterns) == 0 {
		return &ignoreRules{}, nil
	}
	m, err := patternmatcher.New(patterns)
	if err != nil {
		return nil, fmt.Errorf("read patterns of what is to be left out: %w", err)
	}
	return &ignoreRules{m: m}, nil
}

// dirMatch is what the patterns said of a directory; those of what is in it begin there.
type dirMatch struct {
	rel  string
	info patternmatcher.MatchInfo
}

// filter gives a walk's filter. base is the path of the walk's top as the patterns see
// it. The walk goes through each directory before what is in it, so that each path costs
// one look.
func (ig *ignoreRules) filter(base string) layer.Filter {
	if ig == nil || ig.m == nil {
		return nil
	}
	var open []dirMatch
	return func(rel string, dir bool) (take, descend bool) {
		full := path.Join(base, rel)
		if full == "" || full == "." {
			return true, true
		}
		for len(open) > 0 && open[len(open)-1].rel != "" && !strings.HasPrefix(full, open[len(open)-1].rel+"/") {
			open = open[:len(open)-1]
		}
		left, info, err := ig.match(full, open)
		if err != nil {
			return true, true // patterns were checked when they were read
		}
		if dir {
			open = append(open, dirMatch{full, info})
		}
		// A pattern with "!" may bring back what is in a directory that is left out.
		return !left, !left || ig.m.Exclusions()
	}
}

func (ig *ignoreRules) match(full string, open []dirMatch) (bool, patternmatcher.MatchInfo, error) {
	if len(open) > 0 {
		return ig.m.MatchesUsingParentResults(full, open[len(open)-1].info)
	}
	// The first of a walk: what is above it says too.
	var info patternmatcher.MatchInfo
	var left bool
	var err error
	for i := 0; i <= len(full); i++ {
		if i == len(full) || full[i] == '/' {
			if left, info, err = ig.m.MatchesUsingParentResults(full[:i], info); err != nil {
				return false, info, err
			}
		}
	}
	return left, info, nil
}

// leavesOut tells of one path whether it is left out.
func (ig *ignoreRules) leavesOut(name string) bool {
	f := ig.filter("")
	if f == nil {
		return false
	}
	take, _ := f(strings.TrimPrefix(path.Clean("/"+name), "/"), false)
	return !take
}

// both is a filter that takes what two take; nil takes everything.
func both(a, b layer.Filter) layer.Filter {
	if a == nil {
		return b
	}
	if b == nil {
		return a
	}
	return func(rel string, dir bool) (bool, bool) {
		t1, d1 := a(rel, dir)
		t2, d2 := b(rel, dir)
		return t1 && t2, d1 && d2
	}
}
