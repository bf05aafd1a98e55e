package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ApplyOptions say how a tar becomes a directory. The zero value is a layer,
// unpacked as root, without limits.
type ApplyOptions struct {
	// MaxBytes bounds the sum of the sizes of all files, holes included, and
	// MaxEntries the number of tar entries; 0 is no limit.
	MaxBytes, MaxEntries int64
	// Unprivileged is for a process that is not root: owners stay the
	// caller's, device nodes are left out, and opaque directories are marked
	// with user.overlay.opaque.
	Unprivileged bool

	// Holes makes holes of all blocks of zeros, for a tar of a tree of this machine: what were
	// holes there stay so.
	Holes bool

	// The rest is for archives that are no layers.

	// PlainNames takes ".wh." names literally.
	PlainNames bool
	// KeepTypes refuses to replace a directory by something else, or
	// something else by a directory, as `cp` does.
	KeepTypes bool
	// Owner, if not nil, owns all that is made, whatever the tar says.
	Owner *Owner
}

// Owner is a numeric user and group.
type Owner struct{ UID, GID int }

// Stats are the figures of one unpacked tar.
type Stats struct {
	Bytes   int64 // of all regular files, as the tar says
	Entries int64
}

// Apply unpacks a plain tar stream into the open directory, as a layer above
// parents (layer directories, top-most first). It is Unpack and Finish in one.
func Apply(ctx context.Context, dir *os.File, r io.Reader, parents []string, opts ApplyOptions) (Stats, error) {
	u, err := Unpack(ctx, dir, r, opts)
	if err != nil {
		return Stats{}, err
	}
	return u.Stats, u.Finish(ctx, parents)
}

// Unpacked is a layer whose own tar has been read, and that still has to take
// from its parents what the tar left out.
type Unpacked struct {
	Stats Stats

	dir      *os.File
	opts     ApplyOptions
	prefix   string
	implicit map[string]bool // directories that no entry named
	opaque   map[string]bool
	dirs     map[string]*dirMeta // directories that entries named
	links    []pendingLink
}

// NeedsParents reports whether Finish will look at the parents: if so the
// directory is right above these parents only. It can be called until Finish.
func (u *Unpacked) NeedsParents() bool {
	return len(u.implicit) > 0 || len(u.links) > 0
}

// dirMeta is what is given to a directory when all in it is written, because
// it would change what is made in it (set-group-ID, default ACLs) or is
// changed by it (times).
type dirMeta struct {
	mode   uint32 // all 12 bits
	times  [2]unix.Timespec
	xattrs map[string]string
}

// pendingLink is a hard link to a file that this tar does not hold.
type pendingLink struct{ name, target string }

// Unpack reads the tar to its end and writes all that can be known without the
// parents. It may run while the parents are still being unpacked. dir should be
// a new, empty directory that nobody else writes; on an error its content is
// undefined.
func Unpack(ctx context.Context, dir *os.File, r io.Reader, opts ApplyOptions) (*Unpacked, error) {
	return unpackBelow(ctx, dir, "", r, opts)
}

// unpackBelow unpacks into the resolved directory prefix of dir; symbolic
// links are still resolved in dir.
func unpackBelow(ctx context.Context, dir *os.File, prefix string, r io.Reader, opts ApplyOptions) (*Unpacked, error) {
	u := &unpacker{
		Unpacked: &Unpacked{
			dir: dir, opts: opts, prefix: prefix,
			implicit: make(map[string]bool), opaque: make(map[string]bool), dirs: make(map[string]*dirMeta),
		},
		cache: newDirCache(int(dir.Fd())),
		umask: currentUmask(),
		uid:   unix.Geteuid(), gid: unix.Getegid(),
	}
	u.cache.missing = u.makeImplicit
	defer u.cache.flush()
	if err := u.readAll(ctx, tar.NewReader(r)); err != nil {
		return nil, err
	}
	// What follows the end mark belongs to the stream, and so to its digest.
	if _, err := io.Copy(io.Discard, r); err != nil {
		return nil, fmt.Errorf("read end of archive: %w", err)
	}
	return u.Unpacked, nil
}

type unpacker struct {
	*Unpacked
	cache    *dirCache
	umask    uint32
	uid, gid int
	buf      []byte
}

// currentUmask reads the umask without setting it: setting it, even for a
// moment, would be seen by every thread of the process. If it cannot be read,
// all bits count as masked, which costs a chmod a file.
var currentUmask = sync.OnceValue(func() uint32 {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0o777
	}
	_, after, ok := strings.Cut(string(b), "\nUmask:")
	var mask uint32
	if _, err := fmt.Sscanf(after, "%o", &mask); !ok || err != nil {
		return 0o777
	}
	return mask
})

func (u *unpacker) readAll(ctx context.Context, tr *tar.Reader) error {
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		hdr, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		// ErrInsecurePath is only reported for some names; cleanName judges all.
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return fmt.Errorf("read archive: %w", err)
		}
		if err := u.count(hdr); err != nil {
			return err
		}
		if err := u.entry(ctx, tr, hdr); err != nil {
			return fmt.Errorf("unpack %q: %w", hdr.Name, err)
		}
		u.cache.trim()
	}
}

func (u *unpacker) count(hdr *tar.Header) error {
	u.Stats.Entries++
	if u.opts.MaxEntries > 0 && u.Stats.Entries > u.opts.MaxEntries {
		return fmt.Errorf("%w: more than %d entries", ErrTooLarge, u.opts.MaxEntries)
	}
	if !isRegular(hdr.Typeflag) {
		return nil
	}
	if u.opts.MaxBytes > 0 && hdr.Size > u.opts.MaxBytes-u.Stats.Bytes {
		return fmt.Errorf("%w: more than %d bytes of files, at %q", ErrTooLarge, u.opts.MaxBytes, hdr.Name)
	}
	u.Stats.Bytes += hdr.Size
	return nil
}

func isRegular(t byte) bool {
	switch t {
	case tar.TypeReg, '\x00', tar.TypeCont, tar.TypeGNUSparse:
		return true
	}
	return false
}

// entry unpacks one entry of the tar.
func (u *unpacker) entry(ctx context.Context, tr *tar.Reader, hdr *tar.Header) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := cleanName(hdr.Name)
	if err != nil {
		return err
	}
	if !u.opts.PlainNames {
		kind, target, err := classify(name)
		if err != nil {
			return err
		}
		switch kind {
		case entryIgnored:
			return nil
		case entryOpaque:
			return u.makeOpaque(target)
		case entryWhiteout:
			return u.makeWhiteout(target)
		}
	}
	if name == "" {
		return u.rootEntry(hdr)
	}
	if err := u.checkOwner(hdr); err != nil {
		return err
	}
	parentName, base := splitName(joinPrefix(u.prefix, name))
	parent, err := u.cache.dir(parentName, true)
	if err != nil {
		return err
	}
	return u.place(ctx, tr, hdr, parent, base)
}

func joinPrefix(prefix, name string) string {
	switch {
	case prefix == "":
		return name
	case name == "":
		return prefix
	}
	return prefix + "/" + name
}

func (u *unpacker) checkOwner(hdr *tar.Header) error {
	const maxID = 1<<32 - 2 // -1 means "unchanged" to chown(2)
	if hdr.Uid < 0 || hdr.Gid < 0 || int64(hdr.Uid) > maxID || int64(hdr.Gid) > maxID {
		return fmt.Errorf("owner %d:%d is out of range", hdr.Uid, hdr.Gid)
	}
	return nil
}

// rootEntry takes the attributes of the layer's own root.
func (u *unpacker) rootEntry(hdr *tar.Header) error {
	if hdr.Typeflag != tar.TypeDir {
		return fmt.Errorf("%w: the root of an archive must be a directory", ErrUnsafe)
	}
	if err := u.checkOwner(hdr); err != nil {
		return err
	}
	if u.prefix != "" || u.opts.KeepTypes {
		return nil // the target of a copy keeps its own attributes
	}
	if err := u.chown(u.cache.root.fd, ".", hdr, true); err != nil {
		return err
	}
	u.dirs[""] = newDirMeta(hdr)
	return nil
}

// place makes the file of one entry. What is in its way goes.
func (u *unpacker) place(ctx context.Context, tr *tar.Reader, hdr *tar.Header, parent *dirRef, base string) error {
	switch t := hdr.Typeflag; {
	case t == tar.TypeDir:
		return u.makeDir(hdr, parent, base)
	case isRegular(t):
		return u.makeFile(ctx, tr, hdr, parent, base)
	case t == tar.TypeLink:
		return u.makeLink(hdr, parent, base)
	case t == tar.TypeSymlink:
		err := u.replace(parent, base, func() error { return unix.Symlinkat(hdr.Linkname, parent.fd, base) })
		if err != nil {
			return fmt.Errorf("make symbolic link: %w", err)
		}
		return u.finishNode(hdr, parent, base)
	case t == tar.TypeFifo, t == tar.TypeChar, t == tar.TypeBlock:
		return u.makeNode(hdr, parent, base)
	default:
		return fmt.Errorf("entry has type %q, which no file system knows", t)
	}
}

// replace runs make, and if the name is taken, removes what has it and runs it
// again.
func (u *unpacker) replace(parent *dirRef, base string, make func() error) error {
	err := make()
	if err != unix.EEXIST {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(parent.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	dir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if dir && u.opts.KeepTypes {
		return fmt.Errorf("cannot overwrite directory %q with a non-directory", joinName(parent.path, base))
	}
	if err := removeAll(parent.fd, base); err != nil {
		return err
	}
	if dir || st.Mode&unix.S_IFMT == unix.S_IFLNK {
		u.forget(joinName(parent.path, base))
		// The caller still uses parent, which flush would close.
		defer u.dropBelow(joinName(parent.path, base))
	}
	return make()
}

// forget drops what is remembered of directories that are removed.
func (u *Unpacked) forget(name string) {
	delete(u.implicit, name)
	delete(u.opaque, name)
	delete(u.dirs, name)
	below := name + "/"
	for _, m := range []map[string]bool{u.implicit, u.opaque} {
		for k := range m {
			if strings.HasPrefix(k, below) {
				delete(m, k)
			}
		}
	}
	for k := range u.dirs {
		if strings.HasPrefix(k, below) {
			delete(u.dirs, k)
		}
	}
}

// dropBelow forgets open directories that a removed directory or link led to:
// those under its name, and those whose real place was under it.
func (u *unpacker) dropBelow(name string) {
	below := name + "/"
	gone := make(map[*dirRef]bool)
	for k, e := range u.cache.entries {
		viaName := k == name || strings.HasPrefix(k, below)
		inside := e.path == name || strings.HasPrefix(e.path, below)
		// A nominal path that differs from the real one went through a link,
		// perhaps this one.
		if viaName || inside || k != e.path {
			delete(u.cache.entries, k)
			if e != u.cache.root && inside {
				gone[e] = true
			}
		}
	}
	for e := range gone {
		unix.Close(e.fd)
	}
}

// makeImplicit makes a directory that no entry has named (yet). A whiteout in
// its place means that it hides what is below.
func (u *unpacker) makeImplicit(parent *dirRef, base string) error {
	err := unix.Mkdirat(parent.fd, base, 0o755)
	opaque := false
	if err == unix.EEXIST {
		if err = unix.Unlinkat(parent.fd, base, 0); err == nil {
			opaque = true
			err = unix.Mkdirat(parent.fd, base, 0o755)
		}
	}
	full := joinName(parent.path, base)
	if err != nil {
		return fmt.Errorf("make directory %q: %w", full, err)
	}
	if u.umask&0o755 != 0 {
		if err := u.chmodThere(parent, base, unix.S_IFDIR, 0o755); err != nil {
			return err
		}
	}
	if o := u.opts.Owner; o != nil && (o.UID != u.uid || o.GID != u.gid) {
		if err := unix.Fchownat(parent.fd, base, o.UID, o.GID, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("set owner of %q: %w", full, err)
		}
	}
	u.implicit[full] = true
	if opaque {
		return u.markOpaque(parent, base)
	}
	return nil
}

func (u *unpacker) markOpaque(parent *dirRef, base string) error {
	full := joinName(parent.path, base)
	if err := unix.Lsetxattr(procPath(parent.fd, base), opaqueAttr(u.opts.Unprivileged), []byte("y"), 0); err != nil {
		return fmt.Errorf("mark directory %q opaque: %w", full, err)
	}
	u.opaque[full] = true
	return nil
}

func (u *unpacker) makeOpaque(dirName string) error {
	if dirName == "" {
		// An opaque root hides every layer below; overlay has no such mark
		// for the root of a layer, so each name below would need its own.
		return fmt.Errorf("%w: the root of a layer cannot be opaque", ErrUnsafe)
	}
	dir, err := u.cache.dir(dirName, true)
	if err != nil {
		return err
	}
	if dir.path == "" {
		return fmt.Errorf("%w: %q leads to the root, which cannot be opaque", ErrUnsafe, dirName)
	}
	parentName, base := splitName(dir.path)
	parent, err := u.cache.dir(parentName, false)
	if err != nil {
		return err
	}
	return u.markOpaque(parent, base)
}

// makeWhiteout deletes a name of the layers below. A whiteout never applies to
// the layer that it is in (image-spec, layer.md), so a name that this layer
// has already stays, and hides all that is below it.
func (u *unpacker) makeWhiteout(name string) error {
	parentName, base := splitName(name)
	parent, err := u.cache.dir(parentName, true)
	if err != nil {
		return err
	}
	err = unix.Mknodat(parent.fd, base, unix.S_IFCHR, 0)
	if err == nil {
		return nil
	}
	if err != unix.EEXIST {
		return fmt.Errorf("make whiteout: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(parent.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("stat %q: %w", name, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return u.markOpaque(parent, base)
	}
	return nil
}

func newDirMeta(hdr *tar.Header) *dirMeta {
	return &dirMeta{mode: uint32(hdr.Mode) & 0o7777, times: times(hdr), xattrs: xattrsOf(hdr)}
}

func (u *unpacker) makeDir(hdr *tar.Header, parent *dirRef, base string) error {
	full := joinName(parent.path, base)
	mode := uint32(hdr.Mode) & 0o7777
	err := unix.Mkdirat(parent.fd, base, mode&0o777)
	hides := false
	if err == unix.EEXIST {
		hides, err = u.dirInPlace(parent, base)
	}
	if err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	if err := u.chown(parent.fd, base, hdr, true); err != nil {
		return err
	}
	u.dirs[full] = newDirMeta(hdr)
	delete(u.implicit, full)
	if hides {
		return u.markOpaque(parent, base)
	}
	return nil
}

// dirInPlace makes room for a directory whose name is taken. A directory is
// kept; hides reports that a whiteout was there.
func (u *unpacker) dirInPlace(parent *dirRef, base string) (hides bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstatat(parent.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return false, nil
	}
	hides = isWhiteout(&st) && !u.opts.PlainNames
	if u.opts.KeepTypes && !hides {
		return false, fmt.Errorf("cannot overwrite non-directory %q with a directory", joinName(parent.path, base))
	}
	err = u.replace(parent, base, func() error { return unix.Mkdirat(parent.fd, base, 0o755) })
	return hides, err
}

// chown sets the owner. Linux gives a new file to its maker (the file system's
// own ids, setfsuid(2), are not used here), so the call is spared if that is
// the owner already; always forces it for a name that may have been there.
func (u *unpacker) chown(dirfd int, base string, hdr *tar.Header, always bool) error {
	uid, gid := hdr.Uid, hdr.Gid
	if o := u.opts.Owner; o != nil {
		uid, gid = o.UID, o.GID
	}
	if u.opts.Unprivileged || (!always && uid == u.uid && gid == u.gid) {
		return nil
	}
	if err := unix.Fchownat(dirfd, base, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set owner to %d:%d: %w", uid, gid, err)
	}
	return nil
}

// finishNode sets what a name that is no regular file and no directory has.
func (u *unpacker) finishNode(hdr *tar.Header, parent *dirRef, base string) error {
	if err := u.chown(parent.fd, base, hdr, false); err != nil {
		return err
	}
	for name, value := range xattrsOf(hdr) {
		err := unix.Lsetxattr(procPath(parent.fd, base), name, []byte(value), 0)
		if err != nil && !ignorableXattr(err) {
			return fmt.Errorf("set attribute %s: %w", name, err)
		}
	}
	return setTimes(parent.fd, base, times(hdr))
}

func (u *unpacker) makeNode(hdr *tar.Header, parent *dirRef, base string) error {
	mode := uint32(hdr.Mode) & 0o7777
	kind := map[byte]uint32{tar.TypeFifo: unix.S_IFIFO, tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK}[hdr.Typeflag]
	if u.opts.Unprivileged && kind != unix.S_IFIFO {
		return nil // mknod(2) is refused, and the device could not be opened anyway
	}
	if hdr.Devmajor < 0 || hdr.Devminor < 0 || hdr.Devmajor >= 1<<12 || hdr.Devminor >= 1<<20 {
		return fmt.Errorf("device number %d:%d is out of range", hdr.Devmajor, hdr.Devminor)
	}
	dev := int(unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor)))
	if kind == unix.S_IFCHR && dev == 0 && !u.opts.PlainNames {
		return fmt.Errorf("%w: character device 0:0 is a whiteout in disguise", ErrUnsafe)
	}
	err := u.replace(parent, base, func() error { return unix.Mknodat(parent.fd, base, kind|mode&0o777, dev) })
	if err != nil {
		return fmt.Errorf("make node: %w", err)
	}
	if err := u.finishNode(hdr, parent, base); err != nil {
		return err
	}
	if mode&^0o777 != 0 || mode&u.umask != 0 {
		return u.chmodThere(parent, base, kind, mode)
	}
	return nil
}

// chmodThere changes the mode of a node by descriptor: in a container's tree
// the name may have been exchanged for a link, which fchmodat would follow.
func (u *unpacker) chmodThere(parent *dirRef, base string, kind, mode uint32) error {
	fd, err := unix.Openat(parent.fd, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open to set mode: %w", err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("stat to set mode: %w", err)
	}
	if st.Mode&unix.S_IFMT != kind {
		return errors.New("set mode: the file was exchanged while it was made")
	}
	if err := unix.Chmod(procPath(fd, ""), mode); err != nil {
		return fmt.Errorf("set mode: %w", err)
	}
	return nil
}

func setTimes(dirfd int, base string, ts [2]unix.Timespec) error {
	if err := unix.UtimesNanoAt(dirfd, base, ts[:], unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}

// times returns access and modification time. Times before 1970 are moved
// there: several file systems cannot keep them.
func times(hdr *tar.Header) [2]unix.Timespec {
	spec := func(t time.Time) unix.Timespec {
		if t.Unix() < 0 {
			return unix.Timespec{}
		}
		return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
	}
	m := spec(hdr.ModTime)
	if hdr.AccessTime.IsZero() {
		return [2]unix.Timespec{m, m}
	}
	return [2]unix.Timespec{spec(hdr.AccessTime), m}
}

// paxXattr is the prefix of the PAX records that hold extended attributes, as
// star introduced them.
const paxXattr = "SCHILY.xattr."

func xattrsOf(hdr *tar.Header) map[string]string {
	var out map[string]string
	for k, v := range hdr.PAXRecords {
		name, ok := strings.CutPrefix(k, paxXattr)
		if !ok || hiddenXattr(name) {
			continue
		}
		if out == nil {
			out = make(map[string]string)
		}
		out[name] = v
	}
	return out
}
