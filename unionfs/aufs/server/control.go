package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"vivarium/unionfs/aufs"
)

// control is the file by which a mounted union is looked at and changed: what is
// read is an aufs.State as JSON, what is written is one aufs.Command.
type control struct {
	mu     sync.Mutex
	next   uint64
	byID   map[uint64]*controlHandle
	change sync.Mutex // one at a time
}

type controlHandle struct {
	text    []byte
	failure string
}

func (f *FS) controlAttr(out *fuse.Attr) {
	*out = fuse.Attr{Ino: controlID, Mode: unix.S_IFREG | 0o600, Nlink: 1, Owner: fuse.Owner{Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid())}, Blksize: 4096}
}

func (f *FS) controlEntry(out *fuse.EntryOut) {
	out.NodeId = controlID
	f.controlAttr(&out.Attr)
}

func (f *FS) openControl(_ *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	f.control.mu.Lock()
	defer f.control.mu.Unlock()
	f.control.next++
	if f.control.byID == nil {
		f.control.byID = map[uint64]*controlHandle{}
	}
	f.control.byID[f.control.next] = &controlHandle{}
	out.Fh = f.control.next
	out.OpenFlags = fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NOFLUSH
	return fuse.OK
}

func (f *FS) closeControl(fh uint64) {
	f.control.mu.Lock()
	defer f.control.mu.Unlock()
	delete(f.control.byID, fh)
}

func (f *FS) controlHandle(fh uint64) *controlHandle {
	f.control.mu.Lock()
	defer f.control.mu.Unlock()
	return f.control.byID[fh]
}

func (f *FS) readControl(in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	h := f.controlHandle(in.Fh)
	if h == nil {
		return nil, fuse.EBADF
	}
	if in.Offset == 0 {
		text, err := json.Marshal(f.State(h.failure))
		if err != nil {
			return nil, fuse.EIO
		}
		h.text = append(text, '\n')
	}
	if in.Offset >= uint64(len(h.text)) {
		return fuse.ReadResultData(nil), fuse.OK
	}
	n := copy(buf[:min(int(in.Size), len(buf))], h.text[in.Offset:])
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

func (f *FS) writeControl(in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	h := f.controlHandle(in.Fh)
	if h == nil {
		return 0, fuse.EBADF
	}
	if err := f.command(string(data)); err != nil {
		h.failure = err.Error()
		var errno unix.Errno
		if !errors.As(err, &errno) {
			errno = unix.EINVAL
		}
		return 0, fuse.Status(errno)
	}
	h.failure = ""
	return uint32(len(data)), fuse.OK
}

// State describes the union.
func (f *FS) State(failure string) aufs.State {
	f.mu.RLock()
	defer f.mu.RUnlock()
	s := aufs.State{PID: os.Getpid(), Create: f.opts.Create, Copyup: f.opts.Copyup, UDBA: f.opts.UDBA, Open: f.opened.Load(), Failure: failure}
	for _, b := range f.branches {
		s.Branches = append(s.Branches, aufs.StateBranch{ID: b.id, Path: b.Path, Perm: b.Perm, WH: b.WH, Overlay: b.Overlay})
	}
	f.links.mu.RLock()
	s.Links = len(f.links.byLower)
	f.links.mu.RUnlock()
	return s
}

// command does what was written: "add PLACE BRANCH", "append BRANCH", "del DIR" or
// "mod BRANCH". Branches are spelled as in options, with absolute paths.
func (f *FS) command(text string) error {
	f.control.change.Lock()
	defer f.control.change.Unlock()
	verb, rest, _ := strings.Cut(strings.TrimSuffix(text, "\n"), " ")
	switch verb {
	case "add":
		where, branch, _ := strings.Cut(rest, " ")
		at, err := strconv.Atoi(where)
		if err != nil {
			return fmt.Errorf("add: %q is no place in the stack: %w", where, unix.EINVAL)
		}
		return f.addSpec(at, branch)
	case "append":
		f.mu.RLock()
		at := len(f.branches)
		f.mu.RUnlock()
		return f.addSpec(at, rest)
	case "del":
		return f.DelBranch(rest)
	case "mod":
		b, err := aufs.ParseBranch(rest, aufs.RO)
		if err != nil {
			return err
		}
		return f.ModBranch(b.Path, b.Perm, b.WH)
	}
	return fmt.Errorf("%q is no command of a union: %w", verb, unix.EINVAL)
}

func (f *FS) addSpec(at int, text string) error {
	b, err := aufs.ParseBranch(text, aufs.RO)
	if err != nil {
		return err
	}
	return f.AddBranch(at, b)
}
