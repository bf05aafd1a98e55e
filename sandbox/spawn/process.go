package spawn

import (
	"syscall"
	"unsafe"

	"vivarium/sandbox/program"
)

// Report is one message of the child.
type Report struct {
	Kind byte
	File int // the terminal's master with ReportTerminal, else -1; the caller's
	// Second is the other descriptor of ReportCopy and ReportIdmap, else -1; the caller's.
	Second int
	Value  int    // what belongs to ReportListener
	Err    *Error // with ReportFailed
}

// ErrDied says that the child ended before its execve without a report: it was
// killed, or its parent let it go.
var ErrDied = &Error{Phase: Child, Step: program.Step{Kind: "start", Why: "the container's first process was killed before it ran the command"}, Errno: syscall.ESRCH}

// Wait takes reports until one of Terminal, Ready or Failed comes, or until the
// command runs (ReportExec). timeout is in milliseconds, below 0 for none.
func (p *Process) Wait(timeout int) (Report, error) {
	exec := false
	for {
		r, n, err := p.recv(timeout)
		switch {
		case err != nil:
			return Report{File: -1, Second: -1}, err
		case n == 0 && exec:
			return Report{Kind: ReportExec, File: -1, Second: -1}, nil
		case n == 0:
			return Report{File: -1, Second: -1}, ErrDied
		case r.Kind == ReportExec:
			exec = true
		case r.Kind == ReportFailed:
			return r, r.Err
		default:
			return r, nil
		}
	}
}

func (p *Process) recv(timeout int) (Report, int, error) {
	if err := pollIn(p.sync, timeout); err != nil {
		return Report{}, 0, err
	}
	var words [3]uint32
	buf := (*[reportSize]byte)(unsafe.Pointer(&words))[:]
	var oob [64]byte
	var n, oobn int
	var err error
	for {
		n, oobn, _, _, err = syscall.Recvmsg(p.sync, buf, oob[:], syscall.MSG_CMSG_CLOEXEC)
		// A reset tells, once, that the child ended with our byte unread; what it
		// had reported before is there still.
		if err != syscall.EINTR && err != syscall.ECONNRESET {
			break
		}
	}
	if err != nil || n == 0 {
		return Report{}, 0, err
	}
	if n != reportSize {
		return Report{}, 0, syscall.EPROTO
	}
	r := Report{Kind: byte(words[0]), Value: int(words[1])}
	r.File, r.Second = rights(oob[:oobn])
	if r.Kind == ReportFailed {
		i := int(words[1])
		r.Err = &Error{Phase: Child, Op: i, Step: stepOf(p.prog, p.prog.Child, i), Errno: syscall.Errno(words[2])}
	}
	return r, n, nil
}

// rights gives the descriptors of an SCM_RIGHTS message (unix(7)), -1 for none.
func rights(oob []byte) (first, second int) {
	first, second = -1, -1
	if len(oob) < syscall.CmsgLen(4) {
		return
	}
	h := (*syscall.Cmsghdr)(unsafe.Pointer(&oob[0]))
	if h.Level != syscall.SOL_SOCKET || h.Type != syscall.SCM_RIGHTS {
		return
	}
	at := syscall.CmsgLen(0)
	first = int(*(*int32)(unsafe.Pointer(&oob[at])))
	if int(h.Len) >= syscall.CmsgLen(8) && len(oob) >= syscall.CmsgLen(8) {
		second = int(*(*int32)(unsafe.Pointer(&oob[at+4])))
	}
	return
}

type pollFd struct {
	fd     int32
	events int16
	_      int16 // what has come
}

// pollIn waits until fd can be read; ETIMEDOUT after timeout milliseconds.
func pollIn(fd, timeout int) error {
	if timeout < 0 {
		return nil
	}
	if e := pollEither(fd, -1, timeout); e != 0 {
		return e
	}
	return nil
}

// pollEither waits until one of two descriptors can be read; -1 stands for none.
func pollEither(first, second, timeout int) syscall.Errno {
	p := [2]pollFd{{fd: int32(first), events: 1}, {fd: int32(second), events: 1}}
	ts := syscall.NsecToTimespec(int64(timeout) * 1e6)
	for {
		n, _, e := syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 2, uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
		if e == syscall.EINTR {
			continue
		}
		if e == 0 && n == 0 {
			e = syscall.ETIMEDOUT
		}
		return e
	}
}

// Go lets a child that waits go on.
func (p *Process) Go() error {
	_, err := syscall.Write(p.sync, []byte{'G'})
	return err
}

// Kill ends the process, if it still runs.
func (p *Process) Kill() {
	syscall.Syscall6(sysPidfdSendSignal, uintptr(p.PidFD), uintptr(syscall.SIGKILL), 0, 0, 0, 0)
}

func (p *Process) reap() {
	for p.Pid > 0 {
		if _, err := syscall.Wait4(p.Pid, nil, 0, nil); err != syscall.EINTR {
			return
		}
	}
}

const sysPidfdSendSignal = 424

// Abandon kills and reaps the process and closes its descriptors.
func (p *Process) Abandon() {
	p.Kill()
	p.reap()
	p.Close()
}

// CloseSync gives up the sync socket when no more reports are awaited.
func (p *Process) CloseSync() {
	if p.sync >= 0 {
		syscall.Close(p.sync)
		p.sync = -1
	}
}

// Close gives up the process's descriptors; the process runs on.
func (p *Process) Close() {
	p.CloseSync()
	if p.PidFD >= 0 {
		syscall.Close(p.PidFD)
		p.PidFD = -1
	}
}

// ForeignSync marks a process that another parent started: it has no sync socket.
func (p *Process) ForeignSync() { p.sync = -1 }

// FailureOf reads a report that a stub left in the FIFO at which it had waited:
// the errno of its execve, or 0 when it is no such report.
func FailureOf(b []byte) syscall.Errno {
	if len(b) != reportSize {
		return 0
	}
	var words [3]uint32
	copy((*[reportSize]byte)(unsafe.Pointer(&words))[:], b)
	if words[0] != ReportFailed {
		return 0
	}
	return syscall.Errno(words[2])
}
