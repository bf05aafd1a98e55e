package server

import (
	"encoding/binary"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"vivarium/unionfs/aufs"
)

// entry is one name of a directory of a branch.
type entry struct {
	base string
	ino  uint64
	kind uint8 // DT_*
}

// readNames reads a whole directory, without "." and "..".
func readNames(dir int) ([]entry, error) {
	fd, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOATIME, 0)
	if err == unix.EPERM {
		fd, err = unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var out []entry
	buf := make([]byte, 32<<10)
	for {
		n, err := unix.Getdents(fd, buf)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return out, nil
		}
		out = parseDirents(buf[:n], out)
	}
}

// parseDirents reads struct linux_dirent64: ino, off, reclen, type, name.
func parseDirents(b []byte, out []entry) []entry {
	for len(b) >= 19 {
		size := int(binary.NativeEndian.Uint16(b[16:]))
		if size < 19 || size > len(b) {
			return out
		}
		base := b[19:size]
		for i, c := range base {
			if c == 0 {
				base = base[:i]
				break
			}
		}
		if s := string(base); s != "." && s != ".." {
			out = append(out, entry{s, binary.NativeEndian.Uint64(b), b[18]})
		}
		b = b[size:]
	}
	return out
}

// list merges the layers of a directory: what a higher one has or deletes hides
// what lower ones have. Names come in the order of the branches.
func (f *FS) list(n *node) ([]entry, error) {
	ls := *n.layers.Load()
	var out []entry
	var hidden map[string]bool
	for i, l := range ls {
		fd, err := f.dir(n, l)
		if err == unix.ENOENT || err == unix.ESTALE {
			continue
		}
		if err != nil {
			return nil, err
		}
		names, err := readNames(fd)
		if err != nil {
			return nil, err
		}
		last := i+1 == len(ls)
		if !last && hidden == nil {
			hidden = make(map[string]bool, len(names))
		}
		out = mergeLayer(out, names, hidden, l.br, fd, last)
		for j := range out {
			if out[j].kind&translated == 0 {
				out[j].ino, out[j].kind = f.ino(objectKey{l.br.dev, out[j].ino}), out[j].kind|translated
			}
		}
	}
	return out, nil
}

// translated marks an entry whose number is the union's already; DT_* are below.
const translated = 0x80

func mergeLayer(out, names []entry, hidden map[string]bool, br *branch, fd int, last bool) []entry {
	var whites []string
	for _, e := range names {
		if br.Overlay && (e.kind == unix.DT_CHR || e.kind == unix.DT_UNKNOWN) {
			var st unix.Stat_t
			if unix.Fstatat(fd, e.base, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || br.deleted(&st) {
				whites = append(whites, e.base)
				continue
			}
		}
		if reserved(e.base) {
			if !last && br.Whiteouts() && !hasPrefix(e.base, aufs.Temp) {
				whites = append(whites, e.base[len(aufs.Prefix):])
			}
			continue
		}
		if hidden[e.base] || len(e.base) > aufs.MaxName {
			continue
		}
		if !last {
			hidden[e.base] = true
		}
		out = append(out, e)
	}
	if last {
		return out
	}
	for _, w := range whites {
		hidden[w] = true
	}
	return out
}

func hasPrefix(s, prefix string) bool { return len(s) >= len(prefix) && s[:len(prefix)] == prefix }

// dirHandle is an open directory: its listing is made when it is first read, and
// again when somebody starts from the beginning.
type dirHandle struct {
	n       *node
	mu      sync.Mutex
	read    bool
	entries []entry
}

// openDirs is the directories that are open, by handle.
type openDirs struct {
	mu   sync.Mutex
	next uint64
	byID map[uint64]*dirHandle
}

func (o *openDirs) add(h *dirHandle) uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.next++
	o.byID[o.next] = h
	return o.next
}

func (o *openDirs) get(id uint64) *dirHandle {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.byID[id]
}

// open lists the directories.
func (o *openDirs) open() []*node {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []*node
	for _, h := range o.byID {
		out = append(out, h.n)
	}
	return out
}

func (o *openDirs) remove(id uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.byID, id)
}

// OpenDir opens a directory.
func (f *FS) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n, ok := f.begin(in.NodeId)
	if !ok {
		return fuse.Status(unix.ESTALE)
	}
	defer f.end()
	if !n.dir {
		return fuse.ENOTDIR
	}
	out.Fh = f.files.add(&dirHandle{n: n})
	if f.valid(nil) > 0 && f.watchDir(n) {
		out.OpenFlags = fuse.FOPEN_CACHE_DIR | fuse.FOPEN_KEEP_CACHE
	}
	return fuse.OK
}

// ReleaseDir closes a directory.
func (f *FS) ReleaseDir(in *fuse.ReleaseIn) { f.files.remove(in.Fh) }

// entries gives the listing of an open directory from offset on.
func (f *FS) entries(n *node, in *fuse.ReadIn) ([]entry, fuse.Status) {
	h := f.files.get(in.Fh)
	if h == nil {
		return nil, fuse.EBADF
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.read || in.Offset == 0 {
		list, err := f.list(n)
		if err != nil {
			return nil, fuse.ToStatus(err)
		}
		dots := []entry{{".", n.ino, unix.DT_DIR | translated}, {"..", f.parentIno(n), unix.DT_DIR | translated}}
		h.entries, h.read = append(dots, list...), true
	}
	if in.Offset > uint64(len(h.entries)) {
		return nil, fuse.OK
	}
	return h.entries[in.Offset:], fuse.OK
}

func (f *FS) parentIno(n *node) uint64 {
	if nm, ok := f.firstName(n); ok {
		return nm.parent.ino
	}
	return n.ino
}

// ReadDir gives names, numbers and types.
func (f *FS) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	n, ok := f.begin(in.NodeId)
	if !ok {
		return fuse.Status(unix.ESTALE)
	}
	defer f.end()
	list, status := f.entries(n, in)
	for _, e := range list {
		if !out.AddDirEntry(fuse.DirEntry{Name: e.base, Ino: e.ino, Mode: uint32(e.kind&^translated) << 12}) {
			break
		}
	}
	return status
}

// ReadDirPlus gives what a lookup of each name would say as well.
func (f *FS) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	n, ok := f.begin(in.NodeId)
	if !ok {
		return fuse.Status(unix.ESTALE)
	}
	defer f.end()
	list, status := f.entries(n, in)
	for _, e := range list {
		de := fuse.DirEntry{Name: e.base, Ino: e.ino, Mode: uint32(e.kind&^translated) << 12}
		eo := out.AddDirLookupEntry(de)
		if eo == nil {
			break
		}
		if e.base == "." || e.base == ".." {
			continue
		}
		// A name that was removed since the listing was made has node 0, which
		// says: look it up when you need it.
		if s := f.lookup(n, e.base, eo); !s.Ok() || eo.NodeId == 0 {
			*eo = fuse.EntryOut{}
		}
	}
	return status
}
