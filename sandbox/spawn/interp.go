package spawn

import (
	"syscall"
	"unsafe"

	"vivarium/sandbox/program"
)

// slots holds the descriptors that a program works with, by slot number.
type slots [program.MaxSlots]int32

// run runs ops until the first error that the op does not tolerate, and gives
// its index. Between clone3 and execve it runs in the child, which has one
// thread, no scheduler and no garbage collector: so it is nosplit, calls
// nothing but system calls, and allocates nothing. base is the address of the
// program's data; see load, which has turned all Ptr and Str arguments into
// addresses before.
//
//go:nosplit
//go:norace
//go:nocheckptr
func run(ops []program.Op, s *slots, base unsafe.Pointer) (int, syscall.Errno) {
	for pc := 0; pc < len(ops); pc++ {
		op := &ops[pc]
		var r uintptr
		var e syscall.Errno
		if op.Nr >= 0 {
			var a [6]uintptr
			for i := range a {
				a[i] = uintptr(op.Args[i])
				if op.Kinds[i] == program.Slot {
					a[i] = uintptr(s[op.Args[i]&(program.MaxSlots-1)])
				}
			}
			for {
				r, _, e = syscall.RawSyscall6(uintptr(op.Nr), a[0], a[1], a[2], a[3], a[4], a[5])
				// The BPF verifier gives up with EAGAIN when a signal is pending,
				// such as one of the scheduler's in the parent (bpf(2)).
				if e != syscall.EINTR && !(e == syscall.EAGAIN && op.Nr == sysBPF) {
					break
				}
			}
		} else {
			e = internal(op, s, base)
		}
		if e != 0 {
			if !tolerated(op, e) {
				return pc, e
			}
			pc += int(op.SkipErr)
			continue
		}
		if op.Dst >= 0 {
			s[op.Dst] = int32(r)
		}
		if op.Nr == syscall.SYS_CLOSE && op.Kinds[0] == program.Slot {
			// The number may be another's soon: nobody must close it again.
			s[op.Args[0]&(program.MaxSlots-1)] = -1
		}
		if op.Nr == program.Skip {
			pc += int(op.Args[0])
			continue
		}
		pc += int(op.SkipOK)
	}
	return len(ops), 0
}

//go:nosplit
//go:norace
func tolerated(op *program.Op, e syscall.Errno) bool {
	for _, t := range op.Tolerate {
		if t == program.AnyError || (t != 0 && syscall.Errno(t) == e) {
			return true
		}
	}
	return false
}

// internal carries out the operations that are not system calls.
//
//go:nosplit
//go:norace
//go:nocheckptr
func internal(op *program.Op, s *slots, base unsafe.Pointer) syscall.Errno {
	at := unsafe.Add(base, op.Args[0])
	switch op.Nr {
	case program.PokeInt:
		*(*int32)(at) = s[op.Args[1]&(program.MaxSlots-1)]
	case program.Load:
		s[op.Args[1]&(program.MaxSlots-1)] = *(*int32)(at)
	case program.PokeText:
		pokeText(at, s[op.Args[1]&(program.MaxSlots-1)])
	case program.Check:
		if *(*uint64)(at)&op.Args[1] != op.Args[2] {
			return syscall.Errno(op.Args[3])
		}
	case program.Fail:
		return syscall.Errno(op.Args[0])
	case program.Die:
		pid, _, _ := syscall.RawSyscall(syscall.SYS_GETPID, 0, 0, 0)
		syscall.RawSyscall(syscall.SYS_KILL, pid, uintptr(syscall.SIGKILL), 0)
		// The first process of a pid namespace cannot kill itself (pid_namespaces(7)).
		syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 128+uintptr(syscall.SIGKILL), 0, 0)
	case program.ExecStub:
		return execStub(op, s, base)
	case program.Fork:
		return forkAgain(op.Args[0], unsafe.Add(base, op.Args[1]))
	case program.UserNS:
		return syscall.ENOSYS // runBefore carries it out
	}
	return 0
}

// forkAgain clones the process once more, as a child of its parent. The clone
// has a copy of our memory and goes on in it.
//
//go:nosplit
//go:norace
//go:nocheckptr
func forkAgain(flags uint64, pidfd unsafe.Pointer) syscall.Errno {
	var args cloneArgs
	args.flags = flags | cloneParent | clonePidfd
	args.pidfd = uint64(uintptr(pidfd))
	r, _, e := syscall.RawSyscall(sysClone3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
	if e == 0 && r != 0 {
		return syscall.ECHILD
	}
	return e
}

// pokeText writes a descriptor number as decimal digits and a NUL.
//
//go:nosplit
//go:norace
//go:nocheckptr
func pokeText(at unsafe.Pointer, v int32) {
	var digits [12]byte
	n := 0
	for v > 0 || n == 0 {
		digits[n] = byte('0' + v%10)
		v /= 10
		n++
	}
	for i := 0; i < n; i++ {
		*(*byte)(unsafe.Add(at, i)) = digits[n-1-i]
	}
	*(*byte)(unsafe.Add(at, n)) = 0
}

// execStub executes the stub, which executes the container's program. The sync
// descriptor, and the FIFO to wait at, must live through the first of the two;
// the stub itself makes them close on the second.
//
//go:nosplit
//go:norace
func execStub(op *program.Op, s *slots, base unsafe.Pointer) syscall.Errno {
	sync := uintptr(s[op.Args[3]&(program.MaxSlots-1)])
	stub := uintptr(s[op.Args[0]&(program.MaxSlots-1)])
	if _, _, e := syscall.RawSyscall(syscall.SYS_FCNTL, sync, syscall.F_SETFD, 0); e != 0 {
		return e
	}
	if hold := op.Args[5]; hold > 0 {
		fifo := uintptr(s[(hold-1)&(program.MaxSlots-1)])
		if _, _, e := syscall.RawSyscall(syscall.SYS_FCNTL, fifo, syscall.F_SETFD, 0); e != 0 {
			return e
		}
	}
	_, _, e := syscall.RawSyscall6(sysExecveat, stub, uintptr(base)+uintptr(op.Args[4]), uintptr(base)+uintptr(op.Args[1]), uintptr(base)+uintptr(op.Args[2]), atEmptyPath, 0)
	return e
}
