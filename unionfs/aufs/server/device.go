package server

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// device answers the kernel's requests. go-fuse has them read by several threads in turn: each
// request then wakes a thread on another processor, which takes longer than the answer. Here
// one thread reads and answers, and lets others read only when
//
//   - more requests wait already,
//   - it is about to do what may take long or wait for the kernel (relieve), or
//   - it has not come back from a request for a while (watch).
type device struct {
	fd int
	ps *fuse.ProtocolServer

	threads  atomic.Int32 // that read requests or answer them
	idle     atomic.Int32 // of these, that wait for a request
	busy     atomic.Int32 // for how many more requests two threads may wait
	most     int32        // threads that requests which wait are a reason for
	requests atomic.Uint32
	buffers  sync.Pool

	asleep atomic.Bool
	wake   chan struct{}
	done   chan struct{}
}

const (
	opForget      = 2
	opInit        = 26
	opBatchForget = 42

	// many is for how many requests a second thread stays after more than one had waited.
	many = 128
	// patience is after what time a request is said to take long.
	patience = 2 * time.Millisecond
	// quiet is after how many times patience without a request watch stops looking.
	quiet = 50
)

// slow are requests that wait for a disk or move much data: FSYNC, FSYNCDIR, COPY_FILE_RANGE and
// FALLOCATE. Reading much, and copying up, are seen to where they happen.
var slow = [64]bool{20: true, 30: true, 43: true, 47: true}

// newDevice answers requests that are read from a duplicate of fd. srv has answered the first
// one, and says what was agreed on.
func newDevice(f *FS, srv *fuse.Server, fd int, mo *fuse.MountOptions) (*device, error) {
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	d := &device{fd: own, most: int32(runtime.NumCPU()), ps: fuse.NewProtocolServer(f, mo), wake: make(chan struct{}, 1), done: make(chan struct{})}
	d.buffers.New = func() any { return newBuffers(mo.MaxWrite) }
	if err := d.agree(srv.KernelSettings()); err != nil {
		unix.Close(own)
		return nil, err
	}
	return d, nil
}

// agree tells the part of go-fuse that reads requests what the kernel can do.
func (d *device) agree(kernel *fuse.InitIn) error {
	first := *kernel
	first.Length, first.Opcode = uint32(unsafe.Sizeof(first)), opInit
	in := unsafe.Slice((*byte)(unsafe.Pointer(&first)), unsafe.Sizeof(first))
	if _, status := d.ps.HandleRequest([][]byte{in}, [][]byte{make([]byte, room)}); !status.Ok() {
		return fmt.Errorf("begin to serve: %w", unix.Errno(status))
	}
	return nil
}

// buffers are what a thread reads into and answers from.
type buffers struct {
	in, out   []byte
	ins, outs [1][]byte
}

// room is what a request or an answer may need beside its data.
const room = 8192

func newBuffers(data int) *buffers {
	return &buffers{in: make([]byte, data+room), out: make([]byte, data+room)}
}

// serve answers requests until the union is unmounted.
func (d *device) serve() {
	d.threads.Store(1)
	go d.answer()
	d.watch()
	unix.Close(d.fd)
}

// relieve lets another thread read requests, if none does.
func (d *device) relieve() {
	for d != nil && d.idle.Load() == 0 {
		n := d.threads.Load()
		if n == 0 { // the union is unmounted
			return
		}
		if d.threads.CompareAndSwap(n, n+1) {
			go d.answer()
			return
		}
	}
}

// answer is what a thread does: it reads a request and answers it, until others wait for
// requests, or there will be no more.
func (d *device) answer() {
	defer func() {
		if d.threads.Add(-1) == 0 {
			close(d.done)
		}
	}()
	b := d.buffers.Get().(*buffers)
	defer d.buffers.Put(b)
	for {
		d.idle.Add(1)
		n, err := unix.Read(d.fd, b.in)
		others := d.idle.Add(-1)
		switch err {
		case nil:
		case unix.EINTR, unix.ENOENT, unix.EAGAIN: // ENOENT: who asked was interrupted
			continue
		default: // ENODEV: unmounted
			return
		}
		d.request(b, n, others == 0)
		waiting := int32(1)
		if d.busy.Load() > 0 {
			waiting = 2
		}
		if d.idle.Load() >= waiting {
			return
		}
	}
}

// request answers one request. alone says that no other thread waits for more.
func (d *device) request(b *buffers, size int, alone bool) {
	d.requests.Add(1)
	if d.asleep.Load() && d.asleep.CompareAndSwap(true, false) {
		d.wake <- struct{}{}
	}
	if size < 8 {
		return
	}
	op := binary.NativeEndian.Uint32(b.in[4:])
	if d.busy.Load() > 0 {
		d.busy.Add(-1)
	}
	if alone {
		d.share(op)
	}
	b.ins[0], b.outs[0] = b.in[:size], b.out
	n, status := d.ps.HandleRequest(b.ins[:], b.outs[:])
	if !status.Ok() { // not a request as the kernel makes them
		if op == opForget || op == opBatchForget {
			return
		}
		n = failure(b.in[:size], b.out, status)
	}
	if n > 0 {
		// ENOENT: who asked was interrupted, or has unmounted the union.
		_, _ = unix.Write(d.fd, b.out[:n])
	}
}

// failure writes an answer that is an error, struct fuse_out_header.
func failure(in, out []byte, status fuse.Status) int {
	if len(in) < int(unsafe.Sizeof(fuse.InHeader{})) {
		return 0
	}
	binary.NativeEndian.PutUint32(out, 16)
	binary.NativeEndian.PutUint32(out[4:], uint32(-int32(status)))
	copy(out[8:16], in[8:16])
	return 16
}

// share lets another thread read requests if more of them wait, or if this one takes long.
func (d *device) share(op uint32) {
	if op < uint32(len(slow)) && slow[op] {
		d.relieve()
		return
	}
	// What the kernel forgets, it tells without waiting: nobody is served sooner by more threads.
	if op == opForget || op == opBatchForget || d.threads.Load() > d.most {
		return
	}
	fds := [1]unix.PollFd{{Fd: int32(d.fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(fds[:], 0); err == nil && n > 0 && fds[0].Revents&unix.POLLIN != 0 {
		d.busy.Store(many)
		d.relieve()
	}
}

// watch relieves a thread that takes long, until the union is unmounted. It does not look
// while there are no requests.
func (d *device) watch() {
	tick := time.NewTicker(patience)
	defer tick.Stop()
	last, same := d.requests.Load(), 0
	for {
		select {
		case <-tick.C:
		case <-d.done:
			return
		}
		now := d.requests.Load()
		if now != last {
			last, same = now, 0
			continue
		}
		d.relieve()
		if same++; same < quiet {
			continue
		}
		tick.Stop()
		d.asleep.Store(true)
		if d.requests.Load() == last {
			select {
			case <-d.wake:
			case <-d.done:
				return
			}
		} else if !d.asleep.CompareAndSwap(true, false) {
			<-d.wake
		}
		same = 0
		tick.Reset(patience)
	}
}
