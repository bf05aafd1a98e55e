package server

import (
	"golang.org/x/sys/unix"

	"vivarium/unionfs/aufs"
)

// copyupBranch chooses the branch that something is copied to, which is shown by
// the branch of index source and lies in p. There is none: EROFS.
func (f *FS) copyupBranch(p *node, source int) (*branch, error) {
	switch f.opts.Copyup {
	case aufs.CopyupBU:
		return f.nearest(source - 1)
	case aufs.CopyupBUP:
		for d := p; d != nil; d = f.above(d) {
			for i := source - 1; i >= 0; i-- {
				if b := f.branches[i]; b.writable() && d.layerOn(b) != nil {
					return b, nil
				}
			}
		}
		return nil, unix.EROFS
	}
	return f.topDownParent(p, source-1)
}

// topDownParent is the highest writable branch down to the index last that has the
// directory, or else the one above it, and so on.
func (f *FS) topDownParent(p *node, last int) (*branch, error) {
	for d := p; d != nil; d = f.above(d) {
		for _, b := range f.branches[:min(last+1, len(f.branches))] {
			if b.writable() && d.layerOn(b) != nil {
				return b, nil
			}
		}
	}
	return nil, unix.EROFS
}

// nearest is the writable branch at index last or nearest above.
func (f *FS) nearest(last int) (*branch, error) {
	for i := last; i >= 0; i-- {
		if f.branches[i].writable() {
			return f.branches[i], nil
		}
	}
	return nil, unix.EROFS
}

func (f *FS) above(n *node) *node {
	if nm, ok := f.firstName(n); ok {
		return nm.parent
	}
	return nil
}

// createBranch chooses the branch for a new name of p. A whiteout or an opaque
// directory ends what can be seen below it, so the branch is one not below that
// (05wbr_policy.txt, "rules or exceptions").
func (f *FS) createBranch(p *node, white *layer, dir bool) (*branch, error) {
	ls := *p.layers.Load()
	last := len(f.branches) - 1
	if white != nil {
		last = white.br.index
	} else if len(ls) > 0 && f.isOpaque(p, ls[len(ls)-1]) {
		last = ls[len(ls)-1].br.index
	}
	br, err := f.byPolicy(p, dir)
	if err != nil {
		return nil, err
	}
	if br.index > last {
		return f.nearest(last)
	}
	return br, nil
}

func (f *FS) isOpaque(p *node, l *layer) bool {
	if l.br.index == len(f.branches)-1 || f.oneWritable() {
		return false // nothing could be chosen below it
	}
	fd, err := f.dir(p, l)
	return err == nil && l.br.opaque(fd)
}

func (f *FS) oneWritable() bool {
	n := 0
	for _, b := range f.branches {
		if b.writable() {
			n++
		}
	}
	return n == 1
}

func (f *FS) byPolicy(p *node, dir bool) (*branch, error) {
	switch {
	case f.opts.Create == aufs.CreateRR && !dir:
		var rw []*branch
		for _, b := range f.branches {
			if b.writable() {
				rw = append(rw, b)
			}
		}
		if len(rw) == 0 {
			return nil, unix.EROFS
		}
		return rw[int(f.turn.Add(1)-1)%len(rw)], nil
	case f.opts.Create == aufs.CreateMFS || f.opts.Create == aufs.CreatePMFS:
		if b := f.mostFree(p, f.opts.Create == aufs.CreatePMFS); b != nil {
			return b, nil
		}
	}
	return f.topDownParent(p, len(f.branches)-1)
}

// mostFree is the writable branch with most free space, of those that have the
// directory if parent is set.
func (f *FS) mostFree(p *node, parent bool) *branch {
	var best *branch
	var most uint64
	for _, b := range f.branches {
		if !b.writable() || parent && p.layerOn(b) == nil {
			continue
		}
		if free := b.freeBytes(f.opts.FreeEvery); best == nil || free > most {
			best, most = b, free
		}
	}
	return best
}
