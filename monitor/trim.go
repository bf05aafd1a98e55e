package monitor

import (
	"syscall"
)

// trim gives back the pages of the binary that starting up has touched: they
// are clean copies of the file, and what the loop needs of them comes back from
// the page cache at its next use. A monitor mostly waits.
func trim() {
	fd, err := syscall.Open("/proc/self/maps", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer syscall.Close(fd)
	var buf [4096]byte
	n, err := syscall.Read(fd, buf[:])
	if err != nil {
		return
	}
	for b := buf[:n]; len(b) > 0; {
		line := b
		for i, c := range b {
			if c == '\n' {
				line = b[:i]
				break
			}
		}
		b = b[min(len(line)+1, len(b)):]
		dropMapping(line)
	}
}

// dropMapping drops the pages of one line of /proc/self/maps if it is a mapping
// of a file that is not writable (proc_pid_maps(5): start-end perms offset dev inode path).
func dropMapping(line []byte) {
	start, rest := hex(line)
	if len(rest) == 0 || rest[0] != '-' {
		return
	}
	end, rest := hex(rest[1:])
	if len(rest) < 6 || rest[2] == 'w' || rest[len(rest)-1] == ']' {
		return
	}
	for _, c := range rest {
		if c == '/' {
			syscall.RawSyscall(syscall.SYS_MADVISE, start, end-start, syscall.MADV_DONTNEED)
			return
		}
	}
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
