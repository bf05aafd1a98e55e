package server

import (
	"encoding/binary"
	"sync"

	"golang.org/x/sys/unix"

	"vivarium/unionfs/aufs"
)

// watcher hears of changes made directly on branches (udba=notify).
type watcher struct {
	fd, stop int // inotify, and an eventfd that ends run

	mu     sync.Mutex
	byWD   map[int32]*node
	have   map[watchKey]int32
	failed bool // there are no more watches: what is not watched is looked at anew
}

type watchKey struct {
	n  *node
	br *branch
}

const watchMask = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVE | unix.IN_MODIFY | unix.IN_ATTRIB | unix.IN_ONLYDIR | unix.IN_EXCL_UNLINK

func newWatcher() (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &watcher{fd: fd, stop: stop, byWD: map[int32]*node{}, have: map[watchKey]int32{}}, nil
}

// watchDir watches the layers of a directory that the kernel is told about. It
// gives false if that is not possible.
func (f *FS) watchDir(n *node) bool {
	w := f.watch
	if w == nil {
		return f.opts.UDBA == aufs.UDBANone
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failed {
		return false
	}
	for _, l := range *n.layers.Load() {
		k := watchKey{n, l.br}
		if _, ok := w.have[k]; ok || l.br.Perm == aufs.RR {
			continue
		}
		fd, err := f.dir(n, l)
		if err != nil {
			continue
		}
		wd, err := unix.InotifyAddWatch(w.fd, procFD(fd), watchMask)
		if err != nil {
			w.failed = true
			return false
		}
		w.have[k] = int32(wd)
		w.byWD[int32(wd)] = n
	}
	return true
}

// unwatch ends the watches of a node that is forgotten.
func (f *FS) unwatch(n *node) {
	w := f.watch
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range *n.layers.Load() {
		k := watchKey{n, l.br}
		if wd, ok := w.have[k]; ok {
			_, _ = unix.InotifyRmWatch(w.fd, uint32(wd))
			delete(w.have, k)
			delete(w.byWD, wd)
		}
	}
}

// run tells the kernel what changed, until stop.
func (w *watcher) run(f *FS) {
	buf := make([]byte, 64<<10)
	for {
		fds := []unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}, {Fd: int32(w.stop), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return
		}
		if fds[1].Revents != 0 {
			return
		}
		n, err := unix.Read(w.fd, buf)
		if err != nil {
			continue
		}
		for _, s := range w.notices(f, buf[:n]) {
			f.tell(s)
		}
	}
}

// notices reads struct inotify_event: wd, mask, cookie, length, name.
func (w *watcher) notices(f *FS, b []byte) []notice {
	var out []notice
	for len(b) >= unix.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(b))
		mask := binary.NativeEndian.Uint32(b[4:])
		size := int(binary.NativeEndian.Uint32(b[12:]))
		base := unix.ByteSliceToString(b[unix.SizeofInotifyEvent : unix.SizeofInotifyEvent+size])
		b = b[unix.SizeofInotifyEvent+size:]
		w.mu.Lock()
		n := w.byWD[wd]
		w.mu.Unlock()
		if n == nil || base == "" || hasPrefix(base, aufs.Temp) && base != aufs.Opaque {
			continue
		}
		if hasPrefix(base, aufs.Prefix) {
			base = base[len(aufs.Prefix):]
		}
		if mask&(unix.IN_MODIFY|unix.IN_ATTRIB) != 0 {
			if id, ok := f.childOf(n, base); ok {
				out = append(out, notice{id: id})
			}
			continue
		}
		n.negative.Store(nil)
		out = append(out, notice{id: n.id, names: []string{base}})
	}
	return out
}

// childOf finds the node that has a name in a directory.
func (f *FS) childOf(p *node, base string) (uint64, bool) {
	f.tree.RLock()
	defer f.tree.RUnlock()
	for _, n := range f.nodes.byID {
		if n == nil {
			continue
		}
		for _, nm := range n.names {
			if nm.parent == p && nm.base == base {
				return n.id, true
			}
		}
	}
	return 0, false
}

func (w *watcher) close() {
	var one [8]byte
	one[0] = 1
	_, _ = unix.Write(w.stop, one[:])
}
