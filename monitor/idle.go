package monitor

import (
	"syscall"
	"unsafe"
)

// A monitor mostly waits, and there is one for each container, so it waits with
// none of its binary's pages in memory: the kernel counts them to each process
// that maps them. The wait is done by a few instructions in a page of their own:
// they wait a moment; if nothing comes they give the binary's pages back, and
// wait on. What the program needs later comes back from the page cache.
//
// The moment is long enough for the Go scheduler to notice that nothing runs
// and to go to sleep too, so that it touches no page afterwards.
const idleDelay = 100 // milliseconds

// idleBlock is what the instructions work with: epoll_pwait(2)'s arguments, and
// two ranges for madvise(2). Their offsets stand in the code.
var idleBlock struct {
	epfd, events, count, delay uint64
	ranges                     [2]struct{ addr, length uint64 }
}

var events [8]syscall.EpollEvent

// idleCode is the page with the instructions, nil if it could not be made.
var idleCode unsafe.Pointer

//go:linkname entersyscall runtime.entersyscall
func entersyscall()

//go:linkname exitsyscall runtime.exitsyscall
func exitsyscall()

// callIdle calls the code, in assembly.
func callIdle(code, block unsafe.Pointer) int64

// idleWait is a blocking system call as the scheduler sees it.
//
//go:nosplit
func idleWait(code, block unsafe.Pointer) int64 {
	entersyscall()
	r := callIdle(code, block)
	exitsyscall()
	return r
}

// prepareIdle makes the page and finds the binary's mappings.
func prepareIdle(epfd int) {
	idleBlock.epfd, idleBlock.count, idleBlock.delay = uint64(epfd), uint64(len(events)), idleDelay
	idleBlock.events = uint64(uintptr(unsafe.Pointer(&events)))
	if !findText() {
		return
	}
	page, err := syscall.Mmap(-1, 0, 4096, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		return
	}
	copy(page, idleInstructions[:])
	if syscall.Mprotect(page, syscall.PROT_READ|syscall.PROT_EXEC) == nil {
		idleCode = unsafe.Pointer(&page[0])
	}
}

// waitIdle waits for events without a bound.
func waitIdle(epfd int) (int, syscall.Errno) {
	if idleCode == nil {
		return epollWait(epfd, events[:], -1)
	}
	n := idleWait(idleCode, unsafe.Pointer(&idleBlock))
	if n < 0 {
		return 0, syscall.Errno(-n)
	}
	return int(n), 0
}

// findText reads from /proc/self/maps which ranges are the binary's, mapped and
// not writable: "start-end perms offset dev inode path" (proc_pid_maps(5)).
func findText() bool {
	b := readSmall("/proc/self/maps")
	found := 0
	for len(b) > 0 && found < len(idleBlock.ranges) {
		line := b
		for i, c := range b {
			if c == '\n' {
				line = b[:i]
				break
			}
		}
		b = b[min(len(line)+1, len(b)):]
		start, rest := hex(line)
		if len(rest) == 0 || rest[0] != '-' {
			return false
		}
		end, rest := hex(rest[1:])
		if len(rest) < 3 || rest[2] == 'w' || !hasPath(rest) {
			break // the binary's mappings come first, its writable ones after these
		}
		idleBlock.ranges[found].addr, idleBlock.ranges[found].length = uint64(start), uint64(end-start)
		found++
	}
	return found > 0
}

func hasPath(line []byte) bool {
	for _, c := range line {
		if c == '/' {
			return true
		}
	}
	return false
}

func hex(b []byte) (v uintptr, rest []byte) {
	for i, c := range b {
		switch {
		case c >= '0' && c <= '9':
			v = v<<4 | uintptr(c-'0')
		case c >= 'a' && c <= 'f':
			v = v<<4 | uintptr(c-'a'+10)
		default:
			return v, b[i:]
		}
	}
	return v, nil
}
