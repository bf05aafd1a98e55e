package server

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"vivarium/internal/pseudolink"
)

// pseudoLink is a file that has several names on a branch below and was copied up
// under one of them. The copy has one name more, in .wh..wh.plnk of its branch, and
// the names below that were not copied lead there.
//
// The file's name is INO.TAG.SHOWN: its number below, the branch below, and how
// many of its names below still lead to it: those that nothing on a branch above
// hides. Its other names are counted by the copy's own link count. So all of it
// survives a remount.
type pseudoLink struct {
	br     *branch // that the copy is on
	lower  objectKey
	copied objectKey
	ino    uint64 // number below, as in the name
	tag    string // branch below, as in the name

	mu    sync.Mutex
	shown int // names below that lead here
}

// linkTable is all pseudo-links.
type linkTable struct {
	mu       sync.RWMutex
	byLower  map[objectKey]*pseudoLink
	byCopied map[objectKey]*pseudoLink
}

// file is the name in .wh..wh.plnk.
func (l *pseudoLink) file() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return pseudolink.Name(l.ino, l.tag, l.shown)
}

// hide notes that one more name below is seen no longer.
func (l *pseudoLink) hide() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.shown == 0 {
		return nil
	}
	err := unix.Renameat(l.br.links, pseudolink.Name(l.ino, l.tag, l.shown), l.br.links, pseudolink.Name(l.ino, l.tag, l.shown-1))
	if err == nil {
		l.shown--
	}
	return err
}

func (l *pseudoLink) names() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.shown
}

// linkOf finds the pseudo-link that a file on a branch below leads to.
func (f *FS) linkOf(st *unix.Stat_t, br *branch) *pseudoLink {
	if st.Nlink < 2 {
		return nil
	}
	f.links.mu.RLock()
	defer f.links.mu.RUnlock()
	l := f.links.byLower[keyOf(st)]
	if l == nil || l.br.index >= br.index {
		return nil
	}
	return l
}

// isLinked finds the pseudo-link whose copy this is.
func (f *FS) isLinked(copied objectKey) *pseudoLink {
	f.links.mu.RLock()
	defer f.links.mu.RUnlock()
	return f.links.byCopied[copied]
}

// linkedCount is the number of names of a copy that has a pseudo-link.
func linkedCount(l *pseudoLink, st *unix.Stat_t) uint32 {
	return uint32(max(int(st.Nlink)-1, 0) + l.names())
}

// addLink makes the pseudo-link of a copy that lies at base in dir and is not yet
// seen by anybody. lower is the file that it was copied from, of which shown names
// will be left when the copy hides one.
func (f *FS) addLink(dir int, base string, br *branch, copied objectKey, lower *unix.Stat_t, from *branch, shown int) (*pseudoLink, error) {
	l := &pseudoLink{br: br, lower: keyOf(lower), copied: copied, ino: lower.Ino, tag: from.tag, shown: max(shown, 0)}
	err := unix.Linkat(dir, base, br.links, l.file(), 0)
	if err == unix.EEXIST { // of a file that was there before, and was not removed
		if err = unix.Unlinkat(br.links, l.file(), 0); err == nil {
			err = unix.Linkat(dir, base, br.links, l.file(), 0)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("make pseudo-link: %w", err)
	}
	f.putLink(l)
	return l, nil
}

func (f *FS) putLink(l *pseudoLink) {
	f.links.mu.Lock()
	defer f.links.mu.Unlock()
	if f.links.byCopied == nil {
		f.links.byCopied = map[objectKey]*pseudoLink{}
	}
	f.links.byLower[l.lower] = l
	f.links.byCopied[l.copied] = l
}

// dropLink removes a pseudo-link of which no name is left.
func (f *FS) dropLink(l *pseudoLink) {
	f.links.mu.Lock()
	delete(f.links.byLower, l.lower)
	delete(f.links.byCopied, l.copied)
	f.links.mu.Unlock()
	_ = unix.Unlinkat(l.br.links, l.file(), 0)
}

// loadLinks reads the pseudo-links that an earlier mount left.
func (f *FS) loadLinks() {
	for _, br := range f.branches {
		if br.links < 0 {
			continue
		}
		names, err := readNames(br.links)
		if err != nil {
			continue
		}
		for _, e := range names {
			f.loadLink(br, e.base)
		}
	}
}

func (f *FS) loadLink(br *branch, base string) {
	ino, tag, shown, ok := pseudolink.Parse(base)
	if !ok {
		return
	}
	var st unix.Stat_t
	if unix.Fstatat(br.links, base, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return
	}
	for _, from := range f.branches[br.index+1:] {
		if from.tag != tag {
			continue
		}
		l := &pseudoLink{br: br, lower: objectKey{from.dev, ino}, copied: keyOf(&st), ino: ino, tag: tag, shown: shown}
		f.putLink(l)
		f.keepIno(l.copied, f.ino(l.lower))
		return
	}
}
