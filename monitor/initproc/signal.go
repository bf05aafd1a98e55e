package initproc

import (
	"syscall"
	"unsafe"
)

// The runtime's half of package os/signal, which itself would link os.

//go:linkname signalEnable os/signal.signal_enable
func signalEnable(sig uint32)

//go:linkname signalReceive os/signal.signal_recv
func signalReceive() uint32

// numSignals is one more than the last signal (signal(7)).
const numSignals = 65

// caught says which signals are taken from their default. SIGKILL and SIGSTOP
// cannot be; 32 to 34 belong to the C libraries; SIGPROF to the Go runtime, which
// gives it to nobody; SIGCHLD is for the init itself, which waits without it.
func caught(sig uint32) bool {
	switch syscall.Signal(sig) {
	case 0, syscall.SIGKILL, syscall.SIGSTOP, syscall.SIGCHLD, syscall.SIGPROF, 32, 33, 34:
		return false
	}
	return sig < numSignals
}

// catchSignals makes the runtime queue signals for forward. It also keeps those
// from the init that would end or stop it.
func catchSignals() {
	for sig := uint32(1); sig < numSignals; sig++ {
		if caught(sig) {
			signalEnable(sig)
		}
	}
}

// sayReady closes the socket that was left open to us, whose end is what whoever
// starts the container waits for (plan.Options.SaysReady). Its number is not known;
// the runtime's own descriptors, which stay, are files.
func sayReady() {
	for fd := 3; fd < 1024; fd++ {
		if _, err := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_TYPE); err == nil {
			syscall.Close(fd)
			return
		}
	}
}

// forward passes signals on to the command, for ever.
func forward(pid int) {
	for {
		switch sig := syscall.Signal(signalReceive()); sig {
		case syscall.SIGTTIN, syscall.SIGTTOU:
			// Sent by the terminal to whom writes to it from the background. That is
			// the init, not the command.
		default:
			syscall.Kill(pid, sig)
		}
	}
}

func isTerminal(fd int) bool {
	var t syscall.Termios
	_, _, e := syscall.RawSyscall(syscall.SYS_IOCTL, uintptr(fd), syscall.TCGETS, uintptr(unsafe.Pointer(&t)))
	return e == 0
}
