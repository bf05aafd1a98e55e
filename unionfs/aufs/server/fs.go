// Package server serves a union with the semantics of AUFS through FUSE.
//
// Nothing below a branch is reached by a path: directories are held by
// descriptors, each opened below its parent by one name with openat2
// (RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS), and files are one name below such a
// descriptor, never followed. So a branch that somebody else fills cannot lead
// out of itself.
//
// A request holds FS.mu for reading; branches change with it held for writing.
// Below it, in this order: node.mu, FS.dirs, FS.tree, FS.inos.
package server

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"vivarium/unionfs/aufs"
)

const (
	rootID    = fuse.FUSE_ROOT_ID
	controlID = 1<<63 - 1 // node of the control file
	forever   = 365 * 24 * time.Hour
	// tick is short enough that the kernel believes attributes only until its clock's next tick:
	// the stat(2) that has looked a name up need not ask again.
	tick = time.Nanosecond
)

// FS is one union.
type FS struct {
	fuse.RawFileSystem
	opts   aufs.Options
	server *fuse.Server
	device *device // nil where go-fuse reads the requests

	mu       sync.RWMutex
	branches []*branch // top-most first
	nextID   int
	turn     atomic.Uint32 // create=rr

	dirs sync.Mutex // making directories on branches

	tree  sync.RWMutex
	nodes table
	lost  map[uint64]int // node.hidden of nodes that the kernel forgot

	inos sync.RWMutex
	devs []uint64
	xino map[objectKey]uint64

	links linkTable

	dirFDs    atomic.Int64
	maxDirFDs int64
	opened    atomic.Int64 // files that are open
	noPass    atomic.Bool  // the kernel takes no file to read and write by itself
	files     openDirs
	watch     *watcher
	control   control
	temp      atomic.Uint64
	stamp     int64 // of this server, in names of temporary files
}

// New opens the branches of a union. Close closes them.
func New(opts aufs.Options) (*FS, error) {
	f := &FS{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		opts:          opts,
		lost:          map[uint64]int{},
		xino:          map[objectKey]uint64{},
		links:         linkTable{byLower: map[objectKey]*pseudoLink{}},
		stamp:         time.Now().UnixNano(),
		files:         openDirs{byID: map[uint64]*dirHandle{}},
	}
	f.nodes.byIno = map[uint64]*node{}
	f.nodes.byID = make([]*node, rootID+1)
	f.nodes.gens = make([]uint64, rootID+1)
	for _, spec := range opts.Branches {
		b, err := f.open(spec)
		if err != nil {
			f.Close()
			return nil, err
		}
		f.branches = append(f.branches, b)
	}
	f.renumber()
	root := &node{id: rootID, dir: true, lookups: 1}
	f.nodes.byID[rootID] = root
	f.setRootLayers(root)
	var st unix.Stat_t
	if err := unix.Fstat(f.branches[0].root, &st); err != nil {
		f.Close()
		return nil, err
	}
	root.ino = f.ino(keyOf(&st))
	f.nodes.byIno[root.ino] = root
	f.maxDirFDs = dirLimit()
	f.loadLinks()
	return f, nil
}

// open opens one more branch, which is in no list yet.
func (f *FS) open(spec aufs.Branch) (*branch, error) {
	if err := checkOverlap(spec, f.branches); err != nil {
		return nil, err
	}
	b, err := openBranch(spec)
	if err != nil {
		return nil, err
	}
	b.id = f.nextID
	f.nextID++
	f.addDev(b.dev)
	return b, nil
}

func (f *FS) renumber() {
	for i, b := range f.branches {
		b.index = i
	}
}

// setRootLayers stacks the roots of the branches, down to the first opaque one.
func (f *FS) setRootLayers(root *node) {
	ls := make([]*layer, 0, len(f.branches))
	for _, b := range f.branches {
		ls = append(ls, newLayer(b, -1))
		if b.Whiteouts() && exists(b.root, aufs.Opaque) {
			break
		}
	}
	root.layers.Store(&ls)
}

// Close closes the branches. Nobody may use the union any more.
func (f *FS) Close() {
	for _, b := range f.branches {
		b.close()
	}
	f.branches = nil
}

// dirLimit is how many directories may be kept open: most of what the process may
// open, the rest is for the files that users have open.
func dirLimit() int64 {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return 256
	}
	return min(int64(lim.Cur)/2, 1<<16)
}

// begin starts a request on a node; end must be called if ok.
func (f *FS) begin(id uint64) (*node, bool) {
	if f.dirFDs.Load() >= f.maxDirFDs {
		f.shedDirs()
	}
	f.mu.RLock()
	if n := f.node(id); n != nil {
		return n, true
	}
	f.mu.RUnlock()
	return nil, false
}

func (f *FS) end() { f.mu.RUnlock() }

// String names the file system.
func (f *FS) String() string { return "viv-union" }

// Init is called when the kernel has said what it can do.
func (f *FS) Init(s *fuse.Server) { f.server = s }

// entryValid is how long the kernel may believe what a name means. With
// udba=none, and with notify, as long as nobody says otherwise.
func (f *FS) valid(br *branch) time.Duration {
	if f.opts.UDBA == aufs.UDBAReval && (br == nil || br.Perm != aufs.RR) {
		return 0
	}
	return forever
}

func exists(dir int, base string) bool {
	var st unix.Stat_t
	return unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW) == nil
}

func isDir(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFDIR }
