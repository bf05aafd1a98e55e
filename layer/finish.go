package layer

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// Finish takes from the parents (layer directories, top-most first, complete)
// what the tar left out, so that the directory merges to what unpacking on top
// of them would have given:
//
//   - a directory that no entry named gets the mode, owner, attributes and
//     times of the merged directory below; where that is a symbolic link, its
//     content goes to where the link leads,
//   - a hard link to a file of a lower layer gets a copy of that file, under
//     both names, as overlay's own copy-up would give it.
//
// Then directories get their final modes and times.
func (u *Unpacked) Finish(ctx context.Context, parents []string) error {
	f := &finisher{Unpacked: u, cache: newDirCache(int(u.dir.Fd()))}
	defer f.cache.flush()
	f.cache.missing = f.makeBelow
	var err error
	if f.below, err = OpenView(parents); err != nil {
		return err
	}
	defer f.below.Close()
	own, err := unix.FcntlInt(u.dir.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("duplicate descriptor of layer directory: %w", err)
	}
	defer unix.Close(own)
	f.merged = &View{roots: append([]int{own}, f.below.roots...)}

	if err := f.settleImplicit(ctx); err != nil {
		return err
	}
	if err := f.settleLinks(ctx); err != nil {
		return err
	}
	if err := f.settleImplicit(ctx); err != nil { // those that links needed
		return err
	}
	return f.settleDirs()
}

type finisher struct {
	*Unpacked
	cache         *dirCache
	below, merged *View
}

func (f *finisher) makeBelow(parent *dirRef, base string) error {
	full := joinName(parent.path, base)
	if err := unix.Mkdirat(parent.fd, base, 0o755); err != nil {
		return fmt.Errorf("make directory %q: %w", full, err)
	}
	f.implicit[full] = true
	return nil
}

// hidden reports whether this layer hides the layers below at name.
func (f *finisher) hidden(name string) bool {
	for n := name; n != ""; n, _ = splitName(n) {
		if f.opaque[n] {
			return true
		}
	}
	return false
}

// settleImplicit goes through the implicit directories from the top down, so
// that what is above a directory is real when its turn comes.
func (f *finisher) settleImplicit(ctx context.Context) error {
	for len(f.implicit) > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		names := make([]string, 0, len(f.implicit))
		for n := range f.implicit {
			names = append(names, n)
		}
		sort.Strings(names)
		for _, name := range names {
			moved, err := f.settleOne(name)
			if err != nil {
				return fmt.Errorf("take attributes of %q from lower layers: %w", name, err)
			}
			if moved {
				break // the set has changed
			}
		}
		f.cache.trim()
	}
	return nil
}

func (f *finisher) settleOne(name string) (moved bool, err error) {
	if !f.implicit[name] {
		return false, nil
	}
	dir, e, err := f.lookBelow(name)
	if dir != nil {
		defer dir.close()
	}
	if err != nil {
		return false, err
	}
	switch {
	case e != nil && e.isLink():
		return true, f.moveThrough(name)
	case e != nil && e.isDir():
		return false, f.adopt(name, e)
	}
	delete(f.implicit, name)
	return false, nil // mode 0755, root: as it was made
}

func (f *finisher) lookBelow(name string) (*viewDir, *viewEntry, error) {
	if f.hidden(name) {
		return nil, nil, nil
	}
	return f.below.find(name)
}

// adopt copies the attributes of the directory below; times and the bits that
// change what is made inside wait for settleDirs.
func (f *finisher) adopt(name string, e *viewEntry) error {
	parentName, base := splitName(name)
	parent, err := f.cache.dir(parentName, false)
	if err != nil {
		return err
	}
	xattrs, err := listXattrs(e.parent, base)
	if err != nil {
		return err
	}
	if !f.opts.Unprivileged {
		if err := unix.Fchownat(parent.fd, base, int(e.st.Uid), int(e.st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("set owner: %w", err)
		}
	}
	f.dirs[name] = &dirMeta{mode: e.st.Mode & 0o7777, times: [2]unix.Timespec{e.st.Atim, e.st.Mtim}, xattrs: xattrs}
	delete(f.implicit, name)
	return nil
}

// moveThrough moves the content of a directory, in whose place the layers
// below have a symbolic link, to where that link leads.
func (f *finisher) moveThrough(name string) error {
	target, err := f.below.resolve(name, true)
	if err != nil {
		return err
	}
	if target == name || strings.HasPrefix(target+"/", name+"/") {
		return fmt.Errorf("symbolic link leads into itself, to %q", target)
	}
	parentName, base := splitName(name)
	parent, err := f.cache.dir(parentName, false)
	if err != nil {
		return err
	}
	from, err := f.cache.dir(name, false)
	if err != nil {
		return err
	}
	to, err := f.cache.dir(target, true)
	if err != nil {
		return err
	}
	if err := f.mergeInto(from.fd, to.fd, name, to.path); err != nil {
		return err
	}
	if err := unix.Unlinkat(parent.fd, base, unix.AT_REMOVEDIR); err != nil {
		return fmt.Errorf("remove emptied directory: %w", err)
	}
	f.forget(name)
	f.cache.flush()
	return nil
}

// mergeInto moves all entries of one directory into another. Directories that
// both have are merged; otherwise what is moved wins.
func (f *finisher) mergeInto(from, to int, fromName, toName string) error {
	fd, err := unix.Openat(from, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %q: %w", fromName, err)
	}
	names, err := readNames(fd)
	unix.Close(fd)
	if err != nil {
		return fmt.Errorf("list %q: %w", fromName, err)
	}
	for _, n := range names {
		if err := f.moveEntry(from, to, n, joinName(fromName, n), joinName(toName, n)); err != nil {
			return err
		}
	}
	return nil
}

func (f *finisher) moveEntry(from, to int, base, fromName, toName string) error {
	var a, b unix.Stat_t
	if err := unix.Fstatat(from, base, &a, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("stat %q: %w", fromName, err)
	}
	err := unix.Fstatat(to, base, &b, unix.AT_SYMLINK_NOFOLLOW)
	exists := err == nil
	if exists && a.Mode&unix.S_IFMT == unix.S_IFDIR && b.Mode&unix.S_IFMT == unix.S_IFDIR {
		return f.mergeDirs(from, to, base, fromName, toName)
	}
	if exists {
		if err := removeAll(to, base); err != nil {
			return err
		}
		f.forget(toName)
	}
	if err := unix.Renameat(from, base, to, base); err != nil {
		return fmt.Errorf("move %q to %q: %w", fromName, toName, err)
	}
	f.renamed(fromName, toName)
	return nil
}

func (f *finisher) mergeDirs(from, to int, base, fromName, toName string) error {
	a, err := unix.Openat(from, base, oDir, 0)
	if err != nil {
		return fmt.Errorf("open %q: %w", fromName, err)
	}
	defer unix.Close(a)
	b, err := unix.Openat(to, base, oDir, 0)
	if err != nil {
		return fmt.Errorf("open %q: %w", toName, err)
	}
	defer unix.Close(b)
	if err := f.mergeInto(a, b, fromName, toName); err != nil {
		return err
	}
	if m := f.dirs[fromName]; m != nil {
		f.dirs[toName] = m
		delete(f.implicit, toName)
	}
	f.forget(fromName)
	if err := unix.Unlinkat(from, base, unix.AT_REMOVEDIR); err != nil {
		return fmt.Errorf("remove emptied directory %q: %w", fromName, err)
	}
	return nil
}

// renamed moves what is remembered of a tree to its new name.
func (f *finisher) renamed(from, to string) {
	newName := func(k string) (string, bool) {
		if k == from {
			return to, true
		}
		rest, ok := strings.CutPrefix(k, from+"/")
		return to + "/" + rest, ok
	}
	for _, m := range []map[string]bool{f.implicit, f.opaque} {
		for k := range m {
			if n, ok := newName(k); ok {
				delete(m, k)
				m[n] = true
			}
		}
	}
	for k, v := range f.dirs {
		if n, ok := newName(k); ok {
			delete(f.dirs, k)
			f.dirs[n] = v
		}
	}
	for i := range f.links {
		if n, ok := newName(f.links[i].name); ok {
			f.links[i].name = n
		}
	}
}

func (f *finisher) settleLinks(ctx context.Context) error {
	for _, l := range f.links {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := f.settleLink(l); err != nil {
			return fmt.Errorf("make hard link %q to %q: %w", l.name, l.target, err)
		}
		f.cache.trim()
	}
	f.links = nil
	return nil
}

func (f *finisher) settleLink(l pendingLink) error {
	parentName, base := splitName(l.name)
	parent, err := f.cache.dir(parentName, true)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if unix.Fstatat(parent.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && !isWhiteout(&st) {
		return nil // a later entry of the tar took the name
	}
	target, err := f.merged.resolve(l.target, false)
	if err != nil {
		return err
	}
	tdirName, tbase := splitName(target)
	if err := f.copyUp(target); err != nil {
		return err
	}
	tdir, err := f.cache.dir(tdirName, false)
	if err != nil {
		return err
	}
	if parent, err = f.cache.dir(parentName, true); err != nil {
		return err
	}
	if target == l.name {
		return nil
	}
	if err := removeAll(parent.fd, base); err != nil {
		return err
	}
	return unix.Linkat(tdir.fd, tbase, parent.fd, base, 0)
}

// copyUp makes sure that this layer has the file itself.
func (f *finisher) copyUp(name string) error {
	dir, e, err := f.merged.find(name)
	if dir != nil {
		defer dir.close()
	}
	if err != nil {
		return err
	}
	if e == nil {
		return errors.New("the target is in this layer no more than in those below")
	}
	if f.inOwn(name) {
		return nil
	}
	if e.isDir() {
		return errors.New("the target is a directory")
	}
	dirName, base := splitName(name)
	parent, err := f.cache.dir(dirName, true)
	if err != nil {
		return err
	}
	return copyNode(e.parent, base, parent.fd, base, &e.st)
}

// inOwn reports whether the layer's own directory has the name.
func (f *finisher) inOwn(name string) bool {
	dirName, base := splitName(name)
	dir, err := f.cache.dir(dirName, false)
	if err != nil {
		return false
	}
	var st unix.Stat_t
	return unix.Fstatat(dir.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW) == nil
}

// settleDirs gives directories what had to wait, deepest first, so that no
// time is changed by what comes after.
func (u *Unpacked) settleDirs() error {
	names := make([]string, 0, len(u.dirs))
	for n := range u.dirs {
		names = append(names, n)
	}
	sort.Sort(sort.Reverse(sort.StringSlice(names)))
	cache := newDirCache(int(u.dir.Fd()))
	defer cache.flush()
	for _, n := range names {
		if err := u.settleDir(cache, n); err != nil {
			return fmt.Errorf("set attributes of directory %q: %w", n, err)
		}
		cache.trim()
	}
	return nil
}

func (u *Unpacked) settleDir(cache *dirCache, name string) error {
	m := u.dirs[name]
	parentName, base := splitName(name)
	if name == "" {
		base = "."
	}
	parent, err := cache.dir(parentName, false)
	if err != nil {
		return err
	}
	fd, err := unix.Openat(parent.fd, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.EACCES && unix.Geteuid() != 0 {
		return setTimes(parent.fd, base, m.times) // its mode shuts its owner out
	}
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer unix.Close(fd)
	for attr, value := range m.xattrs {
		if err := unix.Fsetxattr(fd, attr, []byte(value), 0); err != nil && !ignorableXattr(err) {
			return fmt.Errorf("set attribute %s: %w", attr, err)
		}
	}
	if err := unix.Fchmod(fd, m.mode); err != nil {
		return fmt.Errorf("set mode: %w", err)
	}
	return setTimes(parent.fd, base, m.times)
}
