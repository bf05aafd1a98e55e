package server

import (
	"hash/maphash"
	"strconv"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// opens is how a file is open. Under node.mu.
//
// The kernel reads and writes a file by itself where it can (passthrough): what is
// on a branch that can be written to stays where it is. A file that may be copied
// up while somebody reads it goes through the page cache of the union. The kernel
// takes one of both at a time for each file, and one backing file
// (fs/fuse/iomode.c).
type opens struct {
	total   int32
	writers int32
	cached  int32
	passed  int32
	backing int32
	lower   []int // descriptors of files that may be copied up
}

// Handles of open files are their descriptors, marked with how they are open.
const (
	passedMark = 1 << 32
	lowerMark  = 1 << 33
	directMark = 1 << 34
	writerMark = 1 << 35
)

func fdOf(fh uint64) int { return int(uint32(fh)) }

func procFD(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// openAt opens what base in dir is, or what dir refers to, and follows nothing.
func openAt(dir int, base string, flags int) (int, error) {
	flags |= unix.O_CLOEXEC | unix.O_LARGEFILE
	if base == "" {
		return unix.Open(procFD(dir), flags, 0)
	}
	return unix.Openat(dir, base, flags|unix.O_NOFOLLOW, 0)
}

// branchFlags are the flags of a user's open that the branch is to see. What a
// union does by itself is left out: append comes with offsets, and direct I/O would
// need the buffers aligned.
func branchFlags(user uint32) int {
	flags := int(user) & (unix.O_ACCMODE | unix.O_TRUNC | unix.O_SYNC | unix.O_DSYNC | unix.O_NOATIME)
	if flags&unix.O_ACCMODE == unix.O_WRONLY {
		// The kernel may have to read a page before it changes a part of it.
		flags = flags&^unix.O_ACCMODE | unix.O_RDWR
	}
	return flags
}

// Open opens a file; for writing, it is copied up first.
func (f *FS) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if in.NodeId == controlID {
		return f.openControl(in, out)
	}
	n, ok := f.begin(in.NodeId)
	if !ok {
		return fuse.Status(unix.ESTALE)
	}
	defer f.end()
	if n.dir {
		return fuse.EISDIR
	}
	f.lock(n)
	defer n.mu.Unlock()
	return fuse.ToStatus(f.openNode(n, in, out))
}

func (f *FS) openNode(n *node, in *fuse.OpenIn, out *fuse.OpenOut) error {
	trunc := in.Flags&unix.O_TRUNC != 0
	if in.Flags&unix.O_ACCMODE != unix.O_RDONLY || trunc {
		if err := f.writableNode(n, !trunc); err != nil {
			return err
		}
	}
	dir, base, err := f.ref(n)
	if err != nil {
		return err
	}
	fd, err := openAt(dir, base, branchFlags(in.Flags))
	if err != nil {
		return err
	}
	if trunc && in.Mode&fuse.OPEN_KILL_SUIDGID != 0 {
		if err := dropSetID(fd); err != nil {
			unix.Close(fd)
			return err
		}
	}
	f.startIO(n, fd, in.Flags, out)
	return nil
}

// startIO decides how an open file is read and written. n.mu is held.
func (f *FS) startIO(n *node, fd int, flags uint32, out *fuse.OpenOut) {
	f.opened.Add(1)
	n.open.total++
	out.Fh = uint64(fd)
	if flags&unix.O_ACCMODE != unix.O_RDONLY {
		n.open.writers++
		out.Fh |= writerMark
	}
	out.OpenFlags = fuse.FOPEN_NOFLUSH
	if !n.place.Load().br.writable() && f.anyWritable() {
		n.open.lower = append(n.open.lower, fd)
		out.Fh |= lowerMark
	} else if n.open.cached == 0 && !endsSetID(fd, flags) && f.pass(n, fd) {
		out.Fh |= passedMark
		out.OpenFlags |= fuse.FOPEN_PASSTHROUGH
		out.BackingID = n.open.backing
		n.open.passed++
		return
	}
	if n.open.passed > 0 {
		// Its pages cannot be in two caches: this one has none.
		out.OpenFlags |= fuse.FOPEN_DIRECT_IO
		out.Fh |= directMark
		return
	}
	out.OpenFlags |= fuse.FOPEN_KEEP_CACHE
	n.open.cached++
	if flags&unix.O_ACCMODE == unix.O_RDONLY {
		f.giveContent(n, fd)
	}
}

// storeUpTo is the size of files that are given to the kernel as a whole when they are opened,
// which saves it from asking for the content.
const storeUpTo = 64 << 10

// contentKey tells one content of a file from another, as well as stat(2) can.
func contentKey(st *unix.Stat_t) uint64 {
	h := maphash.Comparable(contentSeed, [4]int64{int64(st.Ino), st.Size, st.Mtim.Sec, st.Mtim.Nsec})
	return max(h, 1)
}

var contentSeed = maphash.MakeSeed()

// giveContent puts a small file into the page cache of the union. n.mu is held. The kernel may
// wait here for somebody who reads the same page, whose request nobody has read: for that there
// is device.watch, for it is seldom.
func (f *FS) giveContent(n *node, fd int) {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size == 0 || st.Size > storeUpTo {
		return
	}
	key := contentKey(&st)
	if n.stored == key {
		return // it is there, or the kernel needed the memory
	}
	buf := contentBuffers.Get().(*[storeUpTo]byte)
	defer contentBuffers.Put(buf)
	size, err := unix.Pread(fd, buf[:st.Size], 0)
	if err == nil && int64(size) == st.Size && f.server.InodeNotifyStoreCache(n.id, 0, buf[:size]) == fuse.OK {
		n.stored = key
	}
}

var contentBuffers = sync.Pool{New: func() any { return new([storeUpTo]byte) }}

// endsSetID tells whether writing may have to end setuid or setgid bits: the kernel
// writes to a passed file with the server's rights, which leave them.
func endsSetID(fd int, flags uint32) bool {
	if flags&unix.O_ACCMODE == unix.O_RDONLY {
		return false
	}
	var st unix.Stat_t
	return unix.Fstat(fd, &st) != nil || st.Mode&(unix.S_ISUID|unix.S_ISGID) != 0
}

func (f *FS) anyWritable() bool {
	for _, b := range f.branches {
		if b.writable() {
			return true
		}
	}
	return false
}

// pass registers the file as the one behind the node, if the kernel takes it.
func (f *FS) pass(n *node, fd int) bool {
	if n.open.passed > 0 {
		return true
	}
	if f.noPass.Load() {
		return false
	}
	id, errno := f.server.RegisterBackingFd(&fuse.BackingMap{Fd: int32(fd)})
	if errno != 0 {
		// Not permitted, or the branch is stacked too high itself: so it is with
		// every file.
		f.noPass.Store(true)
		return false
	}
	n.open.backing = id
	return true
}

// reopen lets everybody who has the file open, to read it, read the copy. n.mu is
// held.
func (f *FS) reopen(n *node) {
	for _, fd := range n.open.lower {
		dir, base, err := f.ref(n)
		if err != nil {
			return
		}
		up, err := openAt(dir, base, unix.O_RDONLY)
		if err != nil {
			return // they go on to read what was there
		}
		_ = unix.Dup3(up, fd, unix.O_CLOEXEC)
		unix.Close(up)
	}
}

// Release closes a file.
func (f *FS) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	if in.NodeId == controlID {
		f.closeControl(in.Fh)
		return
	}
	f.opened.Add(-1)
	n := f.node(in.NodeId)
	fd := fdOf(in.Fh)
	if n == nil {
		unix.Close(fd)
		return
	}
	f.lock(n)
	defer n.mu.Unlock()
	n.open.total--
	if in.Fh&writerMark != 0 {
		n.open.writers--
	}
	switch {
	case in.Fh&passedMark != 0:
		if n.open.passed--; n.open.passed == 0 {
			f.server.UnregisterBackingFd(n.open.backing)
		}
	case in.Fh&directMark == 0:
		n.open.cached--
	}
	if in.Fh&lowerMark != 0 {
		for i, have := range n.open.lower {
			if have == fd {
				n.open.lower = append(n.open.lower[:i:i], n.open.lower[i+1:]...)
				break
			}
		}
	}
	unix.Close(fd)
}

// Create makes a file and opens it.
func (f *FS) Create(_ <-chan struct{}, in *fuse.CreateIn, base string, out *fuse.CreateOut) fuse.Status {
	p, ok := f.begin(in.NodeId)
	if !ok {
		return fuse.Status(unix.ESTALE)
	}
	defer f.end()
	s, err := f.slot(p, base, in.Mode&0o7777|unix.S_IFREG, in.Umask, &in.Owner)
	if err == unix.EEXIST && in.Flags&unix.O_EXCL == 0 {
		return f.openExisting(p, in, base, out)
	}
	if err != nil {
		return fuse.ToStatus(err)
	}
	flags := branchFlags(in.Flags)&^unix.O_TRUNC | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(s.dir, base, flags, s.mode&0o7777)
	if err != nil {
		return fuse.ToStatus(err)
	}
	n, err := f.finish(s, &out.EntryOut)
	if err != nil {
		unix.Close(fd)
		_ = unix.Unlinkat(s.dir, base, 0)
		return fuse.ToStatus(err)
	}
	f.lock(n)
	defer n.mu.Unlock()
	f.startIO(n, fd, in.Flags, &out.OpenOut)
	return fuse.OK
}

// openExisting opens a file that was made on a branch after the kernel had looked.
func (f *FS) openExisting(p *node, in *fuse.CreateIn, base string, out *fuse.CreateOut) fuse.Status {
	if s := f.lookup(p, base, &out.EntryOut); !s.Ok() {
		return s
	}
	n := f.node(out.NodeId)
	if n == nil || n.dir {
		return fuse.EISDIR
	}
	f.lock(n)
	defer n.mu.Unlock()
	return fuse.ToStatus(f.openNode(n, &fuse.OpenIn{InHeader: in.InHeader, Flags: in.Flags &^ (unix.O_CREAT | unix.O_EXCL)}, &out.OpenOut))
}

// Tmpfile makes a file without a name.
func (f *FS) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	p, ok := f.begin(in.NodeId)
	if !ok {
		return fuse.Status(unix.ESTALE)
	}
	defer f.end()
	br, err := f.createBranch(p, nil, false)
	if err != nil {
		return fuse.ToStatus(err)
	}
	l, err := f.upLayer(p, br)
	if err != nil {
		return fuse.ToStatus(err)
	}
	dir, err := f.dir(p, l)
	if err != nil {
		return fuse.ToStatus(err)
	}
	return fuse.ToStatus(f.tmpfile(p, dir, br, in, out))
}

func (f *FS) tmpfile(p *node, dir int, br *branch, in *fuse.CreateIn, out *fuse.CreateOut) error {
	mode := in.Mode & 0o7777
	if !f.hasDefaultACL(p, dir) {
		mode &^= in.Umask & 0o777
	}
	fd, err := unix.Openat(dir, ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, mode)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err = own(dir, fd, "", unix.S_IFREG|mode, in.Uid, in.Gid); err == nil {
		err = unix.Fstat(fd, &st)
	}
	keep := -1
	if err == nil {
		keep, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	}
	if err != nil {
		unix.Close(fd)
		return err
	}
	f.newIno(keyOf(&st))
	n := f.remember(f.ino(keyOf(&st)), false, name{}, func(n *node) { n.place.Store(&place{br: br, fd: keep}) })
	f.fill(n, &st, &out.EntryOut)
	f.lock(n)
	defer n.mu.Unlock()
	f.startIO(n, fd, in.Flags, &out.OpenOut)
	return nil
}

// spliceFrom is the size from which it is cheaper to let the kernel move data.
const spliceFrom = 64 << 10

// Read reads for the page cache.
func (f *FS) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	if in.NodeId == controlID {
		return f.readControl(in, buf)
	}
	if in.Size >= spliceFrom {
		f.device.relieve()
		return fuse.ReadResultFd(uintptr(fdOf(in.Fh)), int64(in.Offset), int(in.Size)), fuse.OK
	}
	n, err := unix.Pread(fdOf(in.Fh), buf[:min(int(in.Size), len(buf))], int64(in.Offset))
	if err != nil {
		return nil, fuse.ToStatus(err)
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

// Write writes what does not go to the file directly.
func (f *FS) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	if in.NodeId == controlID {
		return f.writeControl(in, data)
	}
	if in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0 {
		if err := dropSetID(fdOf(in.Fh)); err != nil {
			return 0, fuse.ToStatus(err)
		}
	}
	done := 0
	for done < len(data) {
		n, err := unix.Pwrite(fdOf(in.Fh), data[done:], int64(in.Offset)+int64(done))
		if err != nil {
			if done > 0 {
				break
			}
			return 0, fuse.ToStatus(err)
		}
		done += n
	}
	return uint32(done), fuse.OK
}

// dropSetID takes the bits away that a write by somebody without privilege ends:
// setuid, and setgid of what the group may execute.
func dropSetID(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	mode := st.Mode & 0o7777 &^ unix.S_ISUID
	if mode&unix.S_IXGRP != 0 {
		mode &^= unix.S_ISGID
	}
	if mode == st.Mode&0o7777 {
		return nil
	}
	return unix.Fchmod(fd, mode)
}

// Flush is not needed: nothing is kept back, and locks are the kernel's.
func (f *FS) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

// Fsync brings a file to the disk.
func (f *FS) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	if in.NodeId == controlID {
		return fuse.OK
	}
	if in.FsyncFlags&1 != 0 {
		return fuse.ToStatus(unix.Fdatasync(fdOf(in.Fh)))
	}
	return fuse.ToStatus(unix.Fsync(fdOf(in.Fh)))
}

// FsyncDir brings the directory of each writable branch to the disk.
func (f *FS) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	n, ok := f.begin(in.NodeId)
	if !ok {
		return fuse.Status(unix.ESTALE)
	}
	defer f.end()
	for _, l := range *n.layers.Load() {
		if !l.br.writable() {
			continue
		}
		dir, err := f.dir(n, l)
		if err != nil {
			continue // removed meanwhile
		}
		fd, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fuse.ToStatus(err)
		}
		err = unix.Fsync(fd)
		unix.Close(fd)
		if err != nil {
			return fuse.ToStatus(err)
		}
	}
	return fuse.OK
}

// Fallocate changes the space that a file takes.
func (f *FS) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	return fuse.ToStatus(unix.Fallocate(fdOf(in.Fh), in.Mode, int64(in.Offset), int64(in.Length)))
}

// Lseek finds data and holes.
func (f *FS) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	off, err := unix.Seek(fdOf(in.Fh), int64(in.Offset), int(in.Whence))
	out.Offset = uint64(off)
	return fuse.ToStatus(err)
}

// CopyFileRange copies between two files on the branches.
func (f *FS) CopyFileRange(_ <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	from, to := int64(in.OffIn), int64(in.OffOut)
	n, err := unix.CopyFileRange(fdOf(in.FhIn), &from, fdOf(in.FhOut), &to, int(min(in.Len, 1<<30)), int(in.Flags))
	return uint32(max(n, 0)), fuse.ToStatus(err)
}
