package spawn

import (
	"syscall"
	"unsafe"

	"vivarium/sandbox/program"
)

// The last execve of a container goes through the stub: a static ELF program of
// a few hundred bytes in a sealed memfd, whose only work is to execve the real
// program. So /proc/self/exe never is a writable program of the host while a
// file that the container chose ("#!/proc/self/exe", an ELF interpreter of that
// name) is executed (CVE-2019-5736).
//
// Its environment starts with the paths to try, in order; the real environment
// follows. When none can be executed it reports the error over the sync socket,
// as the child before it does: EACCES if one was found but may not be executed,
// else the last error.
//
// Where a security module is to give the process a label at its execve, the stub
// is what says so: the label is for the next execve, and that of the stub is not
// the one that is meant.
//
// Between OCI create and start the stub is what waits: it says that it is ready,
// lets the sync socket go, and reads a byte from a FIFO that it holds open for
// both. From then on a failure is reported through that FIFO. SIGTERM ends
// it there: the kernel drops what the first process of a PID namespace has no
// handler for, and callers of pidfd_send_signal(2) know nothing of stubs.

const (
	sysExecveat = 322*amd64 + 281*(1-amd64)
	sysBPF      = 321*amd64 + 280*(1-amd64)
	sysMemfd    = 319*amd64 + 279*(1-amd64)
	atEmptyPath = 0x1000

	mfdCloexec      = 1
	mfdAllowSealing = 2
	mfdExec         = 0x10 // Linux 6.3; needed where vm.memfd_noexec is 1

	fAddSeals = 1033
	allSeals  = 0xf // SEAL, SHRINK, GROW, WRITE

	elfHeader = 64 + 56 // file header, one program header
	elfBase   = 0x400000
)

// makeStub gives the descriptor of a sealed memfd with the stub in it. hold is
// the FIFO to wait at, or -1; label what comes behind labelCode, or nothing.
func makeStub(sync, candidates, op, hold int, label []byte) (int, error) {
	name := [...]byte{'v', 'i', 'v', 0}
	flags := uintptr(mfdCloexec | mfdAllowSealing)
	fd, _, e := syscall.RawSyscall(sysMemfd, uintptr(unsafe.Pointer(&name)), flags|mfdExec, 0)
	if e == syscall.EINVAL { // before Linux 6.3
		fd, _, e = syscall.RawSyscall(sysMemfd, uintptr(unsafe.Pointer(&name)), flags, 0)
	}
	if e != 0 {
		return -1, e
	}
	elf := stubELF(uint32(sync), uint32(candidates), uint32(op), uint32(hold), label)
	n, err := syscall.Write(int(fd), elf)
	if err == nil && n != len(elf) {
		err = syscall.EIO
	}
	if err == nil {
		if _, _, e := syscall.RawSyscall(syscall.SYS_FCNTL, fd, fAddSeals, allSeals); e != 0 {
			err = e
		}
	}
	if err != nil {
		syscall.Close(int(fd))
		return -1, err
	}
	return int(fd), nil
}

// hold is the FIFO at which the stub waits, or -1.
func (l *loaded) hold(s *slots) int {
	if l.ExecOp >= len(l.Child) || l.Child[l.ExecOp].Nr != program.ExecStub || l.Child[l.ExecOp].Args[5] == 0 {
		return -1
	}
	return int(s[(l.Child[l.ExecOp].Args[5]-1)&(program.MaxSlots-1)])
}

// label is what comes behind labelCode; nothing without one.
func (l *loaded) label(s *slots) []byte {
	if l.LabelFile == "" {
		return nil
	}
	b := make([]byte, 12, 12+len(l.LabelText)+len(l.LabelFile)+2)
	put32(b[0:], uint32(s[l.LabelSlot&(program.MaxSlots-1)]))
	put32(b[4:], uint32(l.LabelOp))
	put32(b[8:], uint32(len(l.LabelText)))
	b = append(append(b, l.LabelText...), 0)
	return append(append(b, l.LabelFile...), 0)
}

// stubELF is the whole file: an ELF header, one loadable read-and-execute
// segment that covers the file, the code, and its six words (elf(5)); with a
// label, the code for that, at which it starts then.
func stubELF(sync, candidates, op, hold uint32, label []byte) []byte {
	const start, end = elfHeader, elfHeader + len(stubCode) + 24
	b := make([]byte, end, end+len(labelCode)+len(label))
	entry := uint64(elfBase + start)
	if len(label) > 0 {
		b = append(append(b, labelCode[:]...), label...)
		entry = elfBase + uint64(end)
	}
	size := uint64(len(b))
	copy(b[:], "\x7fELF\x02\x01\x01") // 64 bits, little-endian, version 1
	put16(b[16:], 2)                  // ET_EXEC
	put16(b[18:], elfMachine)
	put32(b[20:], 1)
	put64(b[24:], entry)
	put64(b[32:], 64) // program headers
	put16(b[52:], 64)
	put16(b[54:], 56)
	put16(b[56:], 1)
	ph := b[64:]
	put32(ph[0:], 1) // PT_LOAD
	put32(ph[4:], 5) // PF_R | PF_X
	put64(ph[16:], elfBase)
	put64(ph[24:], elfBase)
	put64(ph[32:], size)
	put64(ph[40:], size)
	put64(ph[48:], 0x1000)
	copy(b[elfHeader:], stubCode[:])
	words := b[elfHeader+len(stubCode):]
	put32(words[0:], sync)
	put32(words[4:], candidates)
	put32(words[8:], op)
	put32(words[12:], ReportFailed)
	put32(words[16:], hold)
	put32(words[20:], ReportReady)
	return b
}

func put16(b []byte, v uint16) { b[0], b[1] = byte(v), byte(v>>8) }
func put32(b []byte, v uint32) { put16(b, uint16(v)); put16(b[2:], uint16(v>>16)) }
func put64(b []byte, v uint64) { put32(b, uint32(v)); put32(b[4:], uint32(v>>32)) }
