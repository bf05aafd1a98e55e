package layer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNotDirectory says that a directory was to be copied onto something else.
var ErrNotDirectory = errors.New("cannot copy to non-directory")

// ErrIsDirectory says that a file was to be copied onto a directory.
var ErrIsDirectory = errors.New("cannot overwrite a directory with a file")

// PlaceOptions say how files are copied into a tree.
type PlaceOptions struct {
	// Owner, if not nil, owns all that is made; else files keep their owners, and
	// directories on the way belong to root.
	Owner *Owner
	// Mode, if not nil, gives the permission bits of a file from its own.
	Mode func(mode uint32, dir bool) uint32
	// Filter chooses among the files; nil takes all.
	Filter Filter
	// Seen, if not nil, is called with each file before it is copied.
	Seen func(*WalkEntry) error
	// Upper, if not nil, is the directory that dst writes to, which is an overlay or this
	// directory itself. What is in a directory that the copy itself has made is written
	// there, beside the overlay: it has not looked into it yet, and is slow.
	Upper *os.File
	// Earlier, if not nil, is a tree that the same copy made at another time, and that
	// nobody writes to. Needs Upper.
	Earlier *Earlier
}

// Earlier has files that need not be copied again: they get a hard link.
type Earlier struct {
	Tree *os.File
	// Same tells of a regular file whether it is what it was at that time, so that its
	// copy is in the tree.
	Same func(*WalkEntry) bool
}

// Place copies a file or the content of a directory from one root into another.
// unsafeDst is what the file will be, or the directory that gets the content; it and
// the directories above it are made, and links on the way followed inside the root.
// Files that are there are replaced; a directory that is there stays, and of those
// below the top gets the copied one's owner and mode. Nobody else writes to dst.
func Place(ctx context.Context, src *os.File, unsafeSrc string, dst *os.File, unsafeDst string, opts PlaceOptions) error {
	p := &placer{opts: opts, links: map[inode]string{}}
	p.cache = newDirCache(int(dst.Fd()))
	p.cache.missing = p.makeDir
	defer p.cache.flush()
	defer p.closeAll()
	err := Walk(ctx, src, unsafeSrc, true, opts.Filter, func(e *WalkEntry) error {
		if opts.Seen != nil {
			if err := opts.Seen(e); err != nil {
				return err
			}
		}
		if e.Rel == "" {
			return p.top(e, unsafeDst)
		}
		return p.below(e)
	})
	if err != nil {
		return err
	}
	return p.popTo("", true)
}

// MakeDirs makes a directory and those above it, which belong to owner, and tells
// whether one was missing. Links are followed inside the root.
func MakeDirs(root *os.File, unsafePath string, owner Owner) (made bool, err error) {
	p := &placer{opts: PlaceOptions{Owner: &owner}}
	p.cache = newDirCache(int(root.Fd()))
	defer p.cache.flush()
	p.cache.missing = func(parent *dirRef, base string) error {
		made = true
		return p.makeDir(parent, base)
	}
	links := 0
	_, err = p.cache.follow(p.cache.root, unsafePath, true, &links)
	if err != nil {
		return made, fmt.Errorf("make directory %q: %w", unsafePath, err)
	}
	return made, nil
}

// placer is one Place at work.
type placer struct {
	opts  PlaceOptions
	cache *dirCache
	open  []placedDir // from the top down to where the walk is
	links map[inode]string
	at    string // where the top of the tree went, if that is a directory
}

// placedDir is a directory that is being filled.
type placedDir struct {
	rel   string
	fd    int
	times *[2]unix.Timespec // given to it when it is full; nil: it was there
	// fresh says that it is the copy's own, and fd is opened below Upper.
	fresh   bool
	earlier int // the same directory of Earlier, or -1
}

func (d *placedDir) close() {
	unix.Close(d.fd)
	if d.earlier >= 0 {
		unix.Close(d.earlier)
	}
}

func (p *placer) closeAll() {
	for i := range p.open {
		p.open[i].close()
	}
	p.open = nil
}

// enter notes a directory that the copy has come to, opened as fd, which it owns. made
// says that it was not there. It tells by what descriptor to write to it.
func (p *placer) enter(e *WalkEntry, fd int, made bool) int {
	d := placedDir{rel: e.Rel, fd: fd, earlier: -1}
	name := joinName(p.at, e.Rel)
	if n := len(p.open); n > 0 {
		_, base := splitName(e.Rel)
		d.fresh = p.open[n-1].fresh
		if above := p.open[n-1].earlier; above >= 0 {
			d.earlier = openDirAt(above, base, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
		}
	} else if p.opts.Earlier != nil {
		d.earlier = openDirAt(int(p.opts.Earlier.Tree.Fd()), name, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
	}
	if made && !d.fresh && p.opts.Upper != nil {
		if own := openDirAt(int(p.opts.Upper.Fd()), name, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS); own >= 0 {
			unix.Close(fd)
			d.fd, d.fresh = own, true
		}
	}
	p.open = append(p.open, d)
	return d.fd
}

// openDirAt opens a directory, or gives -1.
func openDirAt(dirfd int, name string, resolve uint64) int {
	if name == "" {
		name = "."
	}
	fd, err := unix.Openat2(dirfd, name, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: resolve})
	if err != nil {
		return -1
	}
	return fd
}

func (p *placer) makeDir(parent *dirRef, base string) error {
	if err := unix.Mkdirat(parent.fd, base, 0o755); err != nil {
		return fmt.Errorf("make directory %q: %w", joinName(parent.path, base), err)
	}
	if err := unix.Fchmodat(parent.fd, base, 0o755, 0); err != nil { // whatever the umask is
		return err
	}
	if o := p.opts.Owner; o != nil {
		return unix.Fchownat(parent.fd, base, o.UID, o.GID, unix.AT_SYMLINK_NOFOLLOW)
	}
	return nil
}

// top copies the top of the tree: a file to its place, or a directory's looks.
func (p *placer) top(e *WalkEntry, unsafeDst string) error {
	if e.IsDir() {
		_, err := p.cache.resolve(unsafeDst)
		fresh := errors.Is(err, ErrNotFound)
		links := 0
		dir, err := p.cache.follow(p.cache.root, unsafeDst, true, &links)
		if err != nil {
			return fmt.Errorf("%q: %w", unsafeDst, err)
		}
		fd, err := unix.Openat(dir.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open %q: %w", unsafeDst, err)
		}
		p.at = dir.path
		fd = p.enter(e, fd, fresh)
		if fresh {
			p.open[0].times = timesOf(&e.Stat)
			return p.meta(e, fd, ".")
		}
		return nil
	}
	parent, base, err := p.parentOf(unsafeDst)
	if err != nil {
		return err
	}
	return p.file(e, parent.fd, base)
}

// parentOf makes the directories above a path, and follows a link at its end.
func (p *placer) parentOf(unsafeDst string) (*dirRef, string, error) {
	for range maxLinks {
		dirName, base := splitName(strings.TrimRight(unsafeDst, "/"))
		links := 0
		dir, err := p.cache.follow(p.cache.root, "/"+dirName, true, &links)
		if err != nil {
			return nil, "", fmt.Errorf("%q: %w", unsafeDst, err)
		}
		if base == "" || base == "." || base == ".." {
			return nil, "", fmt.Errorf("%q: %w", unsafeDst, ErrIsDirectory)
		}
		target, err := readlinkat(dir.fd, base)
		if err != nil { // no link, or nothing
			return dir, base, nil
		}
		if !strings.HasPrefix(target, "/") {
			target = "/" + joinName(dir.path, target)
		}
		unsafeDst = target
	}
	return nil, "", fmt.Errorf("%q: %w", unsafeDst, unix.ELOOP)
}

// below copies what is in the tree. Its parent is open, because directories come
// before what is in them.
func (p *placer) below(e *WalkEntry) error {
	parentRel, base := splitName(e.Rel)
	if err := p.popTo(parentRel, false); err != nil {
		return err
	}
	if len(p.open) == 0 {
		return fmt.Errorf("copy %q: its directory was left out", e.Rel)
	}
	in := &p.open[len(p.open)-1]
	parent := in.fd
	if !e.IsDir() {
		return p.inside(e, in, base)
	}
	err := unix.Mkdirat(parent, base, 0o700)
	made := err == nil
	if err != nil && err != unix.EEXIST {
		return fmt.Errorf("make directory %q: %w", e.Rel, err)
	}
	fd, err := unix.Openat(parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.ENOTDIR || err == unix.ELOOP {
		return fmt.Errorf("%w: %q", ErrNotDirectory, e.Rel)
	}
	if err != nil {
		return fmt.Errorf("open directory %q: %w", e.Rel, err)
	}
	fd = p.enter(e, fd, made)
	p.open[len(p.open)-1].times = timesOf(&e.Stat)
	return p.meta(e, fd, ".")
}

// popTo leaves the directories that the walk has left, which get their times now.
func (p *placer) popTo(rel string, all bool) error {
	for len(p.open) > 0 {
		d := p.open[len(p.open)-1]
		if !all && d.rel == rel {
			return nil
		}
		p.open = p.open[:len(p.open)-1]
		var err error
		if d.times != nil {
			err = unix.UtimesNanoAt(d.fd, ".", d.times[:], 0)
		}
		d.close()
		if err != nil {
			return fmt.Errorf("set times of %q: %w", d.rel, err)
		}
	}
	return nil
}

func timesOf(st *unix.Stat_t) *[2]unix.Timespec { return &[2]unix.Timespec{st.Atim, st.Mtim} }

// inside copies anything but a directory into one that is open. What nothing can be in the
// way of, and was copied before, is linked.
func (p *placer) inside(e *WalkEntry, d *placedDir, base string) error {
	if !d.fresh {
		return p.file(e, d.fd, base)
	}
	if e.Stat.Mode&unix.S_IFMT == unix.S_IFSOCK {
		return nil
	}
	if done, err := p.linked(e, d.fd, base); done || err != nil {
		return err
	}
	if p.linkEarlier(e, d, base) {
		return nil
	}
	return p.anew(e, d.fd, base)
}

// linkEarlier takes a file over from the earlier copy, if it is there with all that this
// copy would give it.
func (p *placer) linkEarlier(e *WalkEntry, d *placedDir, base string) bool {
	if d.earlier < 0 || !e.IsFile() || !p.opts.Earlier.Same(e) {
		return false
	}
	var st unix.Stat_t
	if unix.Fstatat(d.earlier, base, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return false
	}
	want := p.looks(e)
	if st.Mode != want.Mode || st.Uid != want.Uid || st.Gid != want.Gid || st.Size != want.Size || st.Mtim != want.Mtim {
		return false
	}
	// It fails where a file has as many links as the file system can count (EMLINK).
	return unix.Linkat(d.earlier, base, d.fd, base, 0) == nil
}

// file copies anything but a directory.
func (p *placer) file(e *WalkEntry, dir int, base string) error {
	if e.Stat.Mode&unix.S_IFMT == unix.S_IFSOCK {
		return nil // its listener is not in this tree
	}
	var old unix.Stat_t
	switch err := unix.Fstatat(dir, base, &old, unix.AT_SYMLINK_NOFOLLOW); {
	case err == unix.ENOENT:
	case err != nil:
		return fmt.Errorf("stat %q: %w", base, err)
	case old.Mode&unix.S_IFMT == unix.S_IFDIR:
		return fmt.Errorf("%w: %q", ErrIsDirectory, base)
	default:
		if err := unix.Unlinkat(dir, base, 0); err != nil {
			return fmt.Errorf("replace %q: %w", base, err)
		}
	}
	if done, err := p.linked(e, dir, base); done || err != nil {
		return err
	}
	return p.anew(e, dir, base)
}

// anew copies a file to a name that is free.
func (p *placer) anew(e *WalkEntry, dir int, base string) error {
	if err := copyContent(e, dir, base); err != nil {
		return err
	}
	return p.meta(e, dir, base)
}

// linked makes a hard link where the source has one to a file that was copied.
func (p *placer) linked(e *WalkEntry, dir int, base string) (bool, error) {
	if e.Stat.Nlink < 2 || e.Rel == "" {
		return false, nil
	}
	id := inode{e.Stat.Dev, e.Stat.Ino}
	first, ok := p.links[id]
	if !ok {
		p.links[id] = e.Rel
		return false, nil
	}
	firstDir, firstBase := splitName(first)
	top := p.open[0].fd
	if p.open[len(p.open)-1].fresh && !p.open[0].fresh {
		// A name of the overlay and one beside it cannot be linked.
		top, firstDir = int(p.opts.Upper.Fd()), joinName(p.at, firstDir)
	}
	if firstDir == "" {
		firstDir = "."
	}
	fd, err := unix.Openat2(top, firstDir, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return false, fmt.Errorf("open directory %q: %w", firstDir, err)
	}
	defer unix.Close(fd)
	if err := unix.Linkat(fd, firstBase, dir, base, 0); err != nil {
		return false, fmt.Errorf("link %q to %q: %w", e.Rel, first, err)
	}
	return true, nil
}

func copyContent(e *WalkEntry, dir int, base string) error {
	switch e.Stat.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return copyRegular(e.dirfd, e.base, dir, base)
	case unix.S_IFLNK:
		target, err := e.Link()
		if err != nil {
			return err
		}
		if err := unix.Symlinkat(target, dir, base); err != nil {
			return fmt.Errorf("make symbolic link %q: %w", base, err)
		}
		return nil
	}
	if err := unix.Mknodat(dir, base, e.Stat.Mode, int(e.Stat.Rdev)); err != nil {
		return fmt.Errorf("make node %q: %w", base, err)
	}
	return nil
}

// meta gives a copy its owner, mode, attributes and times.
func (p *placer) meta(e *WalkEntry, dir int, base string) error {
	st := p.looks(e)
	return copyMeta(e.dirfd, e.base, dir, base, &st)
}

// looks are owner, mode and times of a copy.
func (p *placer) looks(e *WalkEntry) unix.Stat_t {
	st := e.Stat
	if o := p.opts.Owner; o != nil {
		st.Uid, st.Gid = uint32(o.UID), uint32(o.GID)
	}
	if p.opts.Mode != nil && !e.IsLink() {
		st.Mode = st.Mode&unix.S_IFMT | p.opts.Mode(st.Mode&0o7777, e.IsDir())
	}
	return st
}
