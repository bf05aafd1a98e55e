package spawn

import (
	"syscall"

	"vivarium/sandbox/program"
)

// forkTimeout bounds, in milliseconds, the wait for a process to fork another.
const forkTimeout = 120_000

// runBefore runs the Before ops. A user namespace is not made by a system call
// alone: somebody has to be born in it.
func (l *loaded) runBefore(s *slots) (int, syscall.Errno) {
	from := 0
	for i := range l.Before {
		op := &l.Before[i]
		if op.Nr != program.UserNS {
			continue
		}
		if n, e := run(l.Before[from:i], s, l.base); e != 0 {
			return from + n, e
		}
		fd, e := userNS(text(l.Data, op.Args[0]), text(l.Data, op.Args[1]))
		if e != 0 {
			return i, e
		}
		if op.Dst >= 0 {
			s[op.Dst] = int32(fd)
		}
		from = i + 1
	}
	n, e := run(l.Before[from:], s, l.base)
	return from + n, e
}

// text is the NUL-terminated string at an offset.
func text(data []byte, at uint64) string {
	b := data[at:]
	for i := range b {
		if b[i] == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// userNS makes a user namespace with these maps, and gives a descriptor of it.
// Its only process waits for the end of a socket, and ends then.
func userNS(uids, gids string) (int, syscall.Errno) {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, errnoOf(err)
	}
	wait := []program.Op{
		{Nr: syscall.SYS_READ, Dst: program.None, Kinds: [6]program.Kind{program.Slot}, Args: [6]uint64{program.SlotSync, 0, 1}},
		{Nr: syscall.SYS_EXIT_GROUP, Dst: program.None},
	}
	p := &program.Program{CloneFlags: cloneNewUser, CgroupSlot: program.None, Child: wait, Data: make([]byte, 8)}
	// The read's buffer; nothing is ever written to it.
	wait[0].Kinds[1] = program.Ptr
	l := load(p)
	s := newSlots(Options{NetNS: -1, PidFD: -1})
	s[program.SlotSync] = int32(pair[1])
	pid, pidfd, e := l.fork(s, pair[0])
	syscall.Close(pair[1])
	if e != 0 {
		syscall.Close(pair[0])
		return -1, e
	}
	proc := &Process{Pid: pid, PidFD: pidfd, sync: pair[0], prog: p}
	fd := -1
	err = writeMaps(pid, uids, gids)
	if err == nil {
		fd, err = syscall.Open("/proc/"+itoa(pid)+"/ns/user", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	}
	proc.Abandon()
	if err != nil {
		return -1, errnoOf(err)
	}
	return fd, 0
}

// forked waits until the child has made the process that is to run the command
// and has ended, and puts that process into its place. Until that process goes
// on, the two are a process group of their own: so it is found even when the
// child is killed before it could tell.
func (l *loaded) forked(p *Process) *Error {
	if !forks(l.Child) {
		return nil
	}
	var err *Error
	if l.CloneFlags&cloneNewUser != 0 {
		err = l.letIn(p)
	}
	if err == nil {
		err = l.takeForked(p)
	}
	if err != nil {
		syscall.Kill(-p.Pid, syscall.SIGKILL)
		p.Kill()
		for {
			if _, e := syscall.Wait4(-p.Pid, nil, 0, nil); e != nil && e != syscall.EINTR {
				break
			}
		}
		return err
	}
	return nil
}

// letIn gives a child that is to fork the ids of its user namespace.
func (l *loaded) letIn(p *Process) *Error {
	if err := l.giveMaps(p); err != nil {
		return err
	}
	if err := p.Go(); err != nil && err != syscall.EPIPE { // EPIPE: it has ended, and told why
		return l.failure(After, l.After, len(l.After), errnoOf(err))
	}
	return nil
}

func (l *loaded) takeForked(p *Process) *Error {
	if e := pollEither(p.sync, p.PidFD, forkTimeout); e != 0 {
		return l.failure(Child, l.Child, 0, e)
	}
	// What a child that is gone has sent is there still; it has not gone without
	// a word as long as there is some.
	rep, n, err := p.recv(0)
	switch {
	case err == syscall.ETIMEDOUT || err == nil && n == 0:
		return ErrDied
	case err != nil:
		return l.failure(Child, l.Child, 0, errnoOf(err))
	case rep.Kind == ReportFailed:
		return rep.Err
	case rep.Kind != ReportForked || rep.File < 0:
		return l.failure(Child, l.Child, 0, syscall.EPROTO)
	}
	pid, err := pidOf(rep.File)
	if err == nil {
		// Until now it waits: so its reports come after the one of its maker.
		err = p.Go()
	}
	if err == syscall.EPIPE || err == syscall.ESRCH {
		syscall.Close(rep.File)
		return ErrDied
	}
	if err != nil {
		syscall.Close(rep.File)
		return l.failure(Child, l.Child, 0, errnoOf(err))
	}
	p.reap()
	syscall.Close(p.PidFD)
	p.Pid, p.PidFD = pid, rep.File
	return nil
}

func forks(ops []program.Op) bool {
	for i := range ops {
		if ops[i].Nr == program.Fork {
			return true
		}
	}
	return false
}

// pidOf gives the number of a pidfd's process in our pid namespace: the process
// that made it may have counted in another (proc_pid_fdinfo(5)).
func pidOf(pidfd int) (int, error) {
	fd, err := syscall.Open("/proc/self/fdinfo/"+itoa(pidfd), syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer syscall.Close(fd)
	var b [512]byte
	n, err := syscall.Read(fd, b[:])
	if err != nil {
		return 0, err
	}
	const key = "\nPid:\t"
	for i := 0; i+len(key) < n; i++ {
		if string(b[i:i+len(key)]) != key {
			continue
		}
		pid := 0
		for _, c := range b[i+len(key) : n] {
			if c < '0' || c > '9' {
				break
			}
			pid = pid*10 + int(c-'0')
		}
		if pid > 0 {
			return pid, nil
		}
	}
	return 0, syscall.ESRCH
}
