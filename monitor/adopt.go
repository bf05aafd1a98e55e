package monitor

import (
	"syscall"
	"unsafe"

	"vivarium/monitor/wire"
	"vivarium/sandbox/program"
	"vivarium/sandbox/spawn"
)

const (
	sysPidfdOpen = 434

	// ioctl PIDFD_GET_INFO, _IOWR(0xFF, 11, struct pidfd_info of 64 bytes), and
	// the bit that asks for the exit status (linux/pidfd.h, Linux 6.13 and 6.15).
	pidfdGetInfo  = 3<<30 | 64<<16 | 0xff<<8 | 11
	pidfdInfoExit = 1 << 3
)

// adopt takes over a container whose monitor died.
func (m *monitor) adopt() error {
	pid := m.cfg.AdoptPid
	fd, _, e := syscall.RawSyscall(sysPidfdOpen, uintptr(pid), 0, 0)
	if e != 0 {
		return &spawn.Error{Step: program.Step{Kind: "adopt", Why: "open the container's process"}, Errno: e}
	}
	if startTicks(pid) != m.cfg.AdoptTicks {
		syscall.Close(int(fd))
		return &spawn.Error{Step: program.Step{Kind: "adopt", Why: "recognise the container's process"}, Errno: syscall.ESRCH}
	}
	m.proc = &spawn.Process{Pid: pid, PidFD: int(fd)}
	m.proc.ForeignSync()
	m.pid = pid
	m.streams = [2]stream{{fd: -1}, {fd: -1}}
	if !m.cfg.TTY {
		for i, name := range [2]string{"stdout", "stderr"} {
			read, err := syscall.Open(m.cfg.StateDir+"/"+name, syscall.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC|syscall.O_NOFOLLOW, 0)
			if err == nil {
				m.streams[i] = stream{fd: read, kind: "oe"[i], log: i + 1}
			}
		}
	}
	m.status.State, m.status.Pid, m.status.StartTicks = wire.Running, pid, m.cfg.AdoptTicks
	m.status.StartedAt = m.cfg.AdoptStarted
	m.writeStatus()
	return nil
}

// exitCode waits for our child, or asks the pidfd about a process that is not
// ours. Where the kernel cannot tell, it is 255.
func (m *monitor) exitCode() int {
	if m.cfg.AdoptPid == m.pid {
		return m.foreignExitCode()
	}
	var ws syscall.WaitStatus
	for {
		_, err := syscall.Wait4(m.pid, &ws, 0, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return 255
		}
		return statusCode(ws)
	}
}

func statusCode(ws syscall.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}

// foreignExitCode takes the status of a process that another parent reaps, or
// does not: once it is reaped the pidfd has it (Linux 6.15), and before that a
// zombie's /proc/PID/stat has it in field 52, for those who may trace it.
func (m *monitor) foreignExitCode() int {
	for wait := int64(1e5); wait < 1e9; wait *= 2 {
		var info [64]byte // struct pidfd_info: mask first, exit_code at 60
		*(*uint64)(unsafe.Pointer(&info[0])) = pidfdInfoExit
		_, _, e := syscall.RawSyscall(syscall.SYS_IOCTL, uintptr(m.proc.PidFD), pidfdGetInfo, uintptr(unsafe.Pointer(&info)))
		if e == 0 && *(*uint64)(unsafe.Pointer(&info[0]))&pidfdInfoExit != 0 {
			return statusCode(syscall.WaitStatus(*(*uint32)(unsafe.Pointer(&info[60]))))
		}
		// Read once: by the next time the process may have been reaped.
		if stat := statFields(m.pid); len(stat) > 0 && stat[0] == 'Z' && statField(stat, 22) == m.cfg.AdoptTicks {
			return statusCode(syscall.WaitStatus(statField(stat, 52)))
		}
		ts := syscall.NsecToTimespec(wait)
		syscall.Nanosleep(&ts, nil)
	}
	return 255
}
