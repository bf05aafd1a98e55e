// Package spawn runs programs: the parent's ops, a raw clone3, and the child's
// ops directly after it, until execve. Nothing is executed a second time to get
// into the container, and no C is linked.
//
// The child of a multi-threaded Go process has one thread and none of the
// runtime's services. The fork discipline is that of package syscall: signals
// blocked and the stack guard spoiled around the clone (runtime_BeforeFork,
// runtime_AfterFork), ForkLock held, and only nosplit code in the child, which
// does nothing but system calls.
package spawn

import (
	"runtime"
	"syscall"
	"unsafe"

	"vivarium/sandbox/program"
)

//go:linkname runtimeBeforeFork syscall.runtime_BeforeFork
func runtimeBeforeFork()

//go:linkname runtimeAfterFork syscall.runtime_AfterFork
func runtimeAfterFork()

const (
	sysClone3    = 435
	sysPidfdOpen = 434

	cloneParent       = 0x8000
	clonePidfd        = 0x1000
	cloneClearSighand = 0x100000000
	cloneIntoCgroup   = 0x200000000
	cloneNewUser      = 0x10000000
)

// Reports of the child, each 12 bytes on the sync socket: the kind, the index
// of an op, an errno, in the machine's byte order.
const (
	ReportFailed   = 'F' // op failed with errno
	ReportTerminal = 'T' // the terminal's master comes as a descriptor
	ReportReady    = 'R' // the child waits for Go
	ReportHooks    = 'H' // the child waits for Go, for hooks to be run before it changes its root
	ReportExec     = 'X' // the next thing is execve: end of file now means success
	ReportListener = 'L' // the child waits for Go; Value is its descriptor of a seccomp listener
	ReportCopy     = 'C' // the child waits for Go, until the tree File is copied to Second
	ReportIdmap    = 'I' // the child waits for Go, until the mount File has the ids of the user namespace Second; Value 1: those below it too
	ReportForked   = 'P' // File is a pidfd of the process that the child has forked
	reportSize     = 12
)

// Options is what a program leaves to its runner.
type Options struct {
	Stdin, Stdout, Stderr int // what becomes descriptors 0, 1, 2
	NetNS                 int // a network namespace, or -1
	PidFD                 int // of the process whose namespaces are joined, or -1
	Fault                 Fault
	Trace                 *Trace // notes when each step begins; nil: nobody asks
}

// Error says which op of which phase failed.
type Error struct {
	Phase Phase
	Op    int
	Step  program.Step
	Errno syscall.Errno
}

func (e *Error) Error() string { return e.Step.Why + ": " + e.Errno.Error() }
func (e *Error) Unwrap() error { return e.Errno }

// Process is a child that runs its program. Its descriptors belong to the
// caller of Start once it has returned; Close gives them up.
type Process struct {
	Pid   int
	PidFD int
	sync  int
	prog  *program.Program
}

// cloneArgs is struct clone_args of clone3(2), as of Linux 5.7.
type cloneArgs struct {
	flags, pidfd, childTid, parentTid, exitSignal, stack, stackSize, tls, setTid, setTidSize, cgroup uint64
}

// Start runs p's first part and clones the child, which goes on by itself; its
// reports come by Wait. p is used up, but has to stay in memory until the last
// report. After an error nothing is left: the child is reaped, what Before made
// is undone.
func Start(p *program.Program, o Options) (*Process, error) {
	l := load(p)
	defer runtime.KeepAlive(p)
	l.inject(o.Fault)
	if o.Trace != nil {
		if err := o.Trace.instrument(l); err != nil {
			return nil, err
		}
	}
	if p.Pinned {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
	}
	s := newSlots(o)
	defer closeOwn(s)
	return l.start(s)
}

func newSlots(o Options) *slots {
	s := new(slots)
	for i := range s {
		s[i] = -1
	}
	s[program.SlotStdin], s[program.SlotStdout], s[program.SlotStderr] = int32(o.Stdin), int32(o.Stdout), int32(o.Stderr)
	s[program.SlotNetNS], s[program.SlotPidFD] = int32(o.NetNS), int32(o.PidFD)
	return s
}

func closeOwn(s *slots) {
	for _, fd := range s[program.FirstOwn:] {
		if fd > 2 {
			syscall.Close(int(fd))
		}
	}
}

func (l *loaded) start(s *slots) (*Process, error) {
	if n, e := l.runBefore(s); e != 0 {
		return nil, l.undo(s, l.failure(Before, l.Before, n, e))
	}
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, l.undo(s, l.failure(Before, l.Before, len(l.Before), errnoOf(err)))
	}
	defer syscall.Close(pair[1])
	s[program.SlotSync] = int32(pair[1])
	stub, err := makeStub(pair[1], l.Candidates, l.ExecOp, l.hold(s), l.label(s))
	if err != nil {
		syscall.Close(pair[0])
		return nil, l.undo(s, l.failure(Before, l.Before, len(l.Before), errnoOf(err)))
	}
	defer syscall.Close(stub)
	s[program.SlotStub] = int32(stub)

	pid, pidfd, e := l.fork(s, pair[0])
	if e != 0 {
		syscall.Close(pair[0])
		err := l.failure(Before, l.Before, len(l.Before), e)
		err.Step = program.Step{Kind: "clone", Why: "clone the container's first process with its namespaces"}
		return nil, l.undo(s, err)
	}
	proc := &Process{Pid: pid, PidFD: pidfd, sync: pair[0], prog: l.Program}
	failed := l.forked(proc)
	s[program.SlotParent], s[program.SlotChild] = int32(pair[0]), int32(proc.Pid)
	if failed == nil {
		failed = l.after(s, proc)
	}
	if failed != nil {
		proc.Kill()
		proc.reap()
		proc.Close()
		return nil, l.undo(s, failed)
	}
	return proc, nil
}

// childArgs is what the child of a clone needs.
type childArgs struct {
	ops    []program.Op
	slots  *slots
	base   unsafe.Pointer
	parent int // the parent's end of the sync socket
	// pidfd is where the kernel writes it. What the kernel gets the address of
	// as a number must not be on a stack: a stack may move.
	pidfd int32
	mask  [16]byte // a signal set with nothing in it
	// action is what the kernel knows as a struct sigaction (<asm/signal.h>), for SIG_DFL.
	action [32]byte
}

// fork clones the child. Signals are blocked around it, so that none of the
// runtime's handlers runs in the child; it starts with none (CLONE_CLEAR_SIGHAND,
// Linux 5.5) and unblocks them. Those that its caller ignores, as under nohup(1),
// it would ignore, too, and could not even trap (POSIX, sh, "trap"): it takes
// them back.
//
//go:norace
//go:noinline
func (l *loaded) fork(s *slots, parentEnd int) (pid, pidfd int, e syscall.Errno) {
	l.child = childArgs{ops: l.Child, slots: s, base: l.base, parent: parentEnd, pidfd: -1}
	child := &l.child
	args := cloneArgs{flags: l.CloneFlags | clonePidfd | cloneClearSighand, exitSignal: uint64(syscall.SIGCHLD), pidfd: uint64(uintptr(unsafe.Pointer(&child.pidfd)))}
	if l.CgroupSlot >= 0 {
		args.flags |= cloneIntoCgroup
		args.cgroup = uint64(uint32(s[l.CgroupSlot]))
	}
	syscall.ForkLock.Lock()
	runtimeBeforeFork()
	r, _, e := syscall.RawSyscall(sysClone3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
	if e == 0 && r == 0 {
		childMain(child)
	}
	runtimeAfterFork()
	syscall.ForkLock.Unlock()
	return int(r), int(child.pidfd), e
}

// childMain is the child, from the clone to execve. It does not return.
//
//go:norace
//go:nosplit
//go:noinline
//go:nocheckptr
func childMain(c *childArgs) {
	const setMask = 2 // SIG_SETMASK
	syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, setMask, uintptr(unsafe.Pointer(&c.mask)), 0, 8, 0, 0)
	for sig := uintptr(1); sig <= 64; sig++ { // that SIGKILL and SIGSTOP refuse is no matter
		syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&c.action)), 0, 8, 0, 0)
	}
	// With a copy of the parent's end the child would never see it close.
	syscall.RawSyscall(syscall.SYS_CLOSE, uintptr(c.parent), 0, 0)
	n, e := run(c.ops, c.slots, c.base)
	var report [3]uint32
	report[0], report[1], report[2] = ReportFailed, uint32(n), uint32(e)
	syscall.RawSyscall(syscall.SYS_WRITE, uintptr(c.slots[program.SlotSync]), uintptr(unsafe.Pointer(&report)), reportSize)
	for {
		syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 127, 0, 0)
	}
}

// after does the parent's part: the maps of a new user namespace, the After ops.
func (l *loaded) after(s *slots, p *Process) *Error {
	flags := l.CloneFlags
	if forks(l.Child) {
		flags = l.ForkFlags // the maps of a first clone are written
	}
	newUser := flags&cloneNewUser != 0
	if newUser {
		if err := l.giveMaps(p); err != nil {
			return err
		}
	}
	if n, e := run(l.After, s, l.base); e != 0 {
		return l.failure(After, l.After, n, e)
	}
	if newUser {
		if err := p.Go(); err != nil {
			return l.failure(After, l.After, len(l.After), errnoOf(err))
		}
	}
	return nil
}

func (l *loaded) giveMaps(p *Process) *Error {
	if err := writeMaps(p.Pid, l.UIDMap, l.GIDMap); err != nil {
		e := l.failure(After, l.After, len(l.After), errnoOf(err))
		e.Step = program.Step{Kind: "idmap", Why: "write the id maps of the user namespace"}
		return e
	}
	return nil
}

func writeFile(path, text string) error {
	fd, err := syscall.Open(path, syscall.O_WRONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	_, err = syscall.Write(fd, []byte(text))
	return err
}

func (l *loaded) undo(s *slots, err *Error) error {
	run(l.Undo, s, l.base)
	return err
}

func (l *loaded) failure(ph Phase, ops []program.Op, n int, e syscall.Errno) *Error {
	return &Error{Phase: ph, Op: n, Step: stepOf(l.Program, ops, n), Errno: e}
}

func stepOf(p *program.Program, ops []program.Op, n int) program.Step {
	if n >= 0 && n < len(ops) {
		if s, ok := p.StepAt(int(ops[n].Step)); ok {
			return s
		}
	}
	return program.Step{Kind: "start", Why: "start the container's first process"}
}

func errnoOf(err error) syscall.Errno {
	if e, ok := err.(syscall.Errno); ok {
		return e
	}
	return syscall.EIO
}

// itoa does without strconv.
func itoa(n int) string {
	var b [20]byte
	i := len(b)
	for n > 0 || i == len(b) {
		i--
		b[i] = byte('0' + n%10)
		n /= 10
	}
	return string(b[i:])
}
