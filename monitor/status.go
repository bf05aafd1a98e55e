package monitor

import (
	"syscall"

	"vivarium/monitor/jsonlog"
)

// writeStatus replaces status.json: a reader sees the old one or the new one.
func (m *monitor) writeStatus() {
	if m.cfg.Dir == "" {
		return
	}
	b := make([]byte, 0, 384)
	s := &m.status
	b = appendText(append(b, '{'), "state", s.State)
	b = appendNumber(b, "pid", uint64(s.Pid))
	b = appendNumber(b, "startTicks", s.StartTicks)
	b = appendNumber(b, "monitorPid", uint64(s.MonitorPid))
	b = appendNumber(b, "monitorTicks", s.MonitorTicks)
	b = appendText(append(b, ','), "bootID", s.BootID)
	b = appendNumber(b, "startedAt", uint64(s.StartedAt))
	b = appendNumber(b, "finishedAt", uint64(s.FinishedAt))
	b = appendNumber(b, "exitCode", uint64(s.ExitCode))
	b = append(b, `,"oomKilled":`...)
	if s.OOMKilled {
		b = append(b, "true"...)
	} else {
		b = append(b, "false"...)
	}
	b = appendNumber(b, "restartCount", uint64(s.RestartCount))
	b = appendText(append(b, ','), "error", s.Error)
	b = append(b, "}\n"...)
	tmp := m.cfg.Dir + "/.status.json"
	fd, err := syscall.Open(tmp, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_TRUNC|syscall.O_CLOEXEC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return
	}
	n, err := syscall.Write(fd, b)
	syscall.Close(fd)
	if err == nil && n == len(b) {
		syscall.Rename(tmp, m.cfg.Dir+"/status.json")
	}
}

func appendText(b []byte, key, value string) []byte {
	b = append(append(append(b, '"'), key...), `":"`...)
	return append(jsonlog.AppendString(b, []byte(value)), '"')
}

func appendNumber(b []byte, key string, v uint64) []byte {
	b = append(append(append(b, `,"`...), key...), `":`...)
	var digits [20]byte
	i := len(digits)
	for v > 0 || i == len(digits) {
		i--
		digits[i] = byte('0' + v%10)
		v /= 10
	}
	return append(b, digits[i:]...)
}

// scratch is what small files are read into, one at a time: on the stack it
// would make the stack grow, and each size that it had costs pages.
var scratch [4096]byte

// readSmall reads the start of a file of /proc or of a cgroup into scratch.
func readSmall(path string) []byte {
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer syscall.Close(fd)
	n, err := syscall.Read(fd, scratch[:])
	if err != nil {
		return nil
	}
	return scratch[:n]
}

func bootID() string {
	b := readSmall("/proc/sys/kernel/random/boot_id")
	for len(b) > 0 && b[len(b)-1] == '\n' {
		b = b[:len(b)-1]
	}
	return string(b)
}

// startTicks is when a process started, in clock ticks since boot.
func startTicks(pid int) uint64 { return statField(statFields(pid), 22) }

// statFields gives what stands after the second field of /proc/PID/stat, which
// is in parentheses and may hold anything (proc_pid_stat(5)): it begins with
// the third, the state.
func statFields(pid int) []byte {
	b := readSmall("/proc/" + itoa(pid) + "/stat")
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] == ')' {
			return b[min(i+2, len(b)):]
		}
	}
	return nil
}

// statField gives a number of what statFields gave; 0 if there is none.
func statField(stat []byte, field int) (v uint64) {
	at := 3
	for _, c := range stat {
		switch {
		case c == ' ':
			at++
		case at == field && c >= '0' && c <= '9':
			v = v*10 + uint64(c-'0')
		case at > field:
			return v
		}
	}
	return v
}

// oomKilled reads the count after "oom_kill " in memory.oom_control (v1) or
// memory.events (v2).
func oomKilled(path string) bool {
	b := readSmall(path)
	const key = "oom_kill "
	for i := 0; i+len(key) < len(b); i++ {
		if (i == 0 || b[i-1] == '\n') && string(b[i:i+len(key)]) == key {
			return b[i+len(key)] != '0'
		}
	}
	return false
}

// removeCgroup removes a group that nobody is in any more. A process that has
// been reaped leaves it a moment later, so EBUSY is waited for, briefly.
func removeCgroup(dir string) {
	for wait := int64(1e5); ; wait *= 2 {
		err := syscall.Rmdir(dir)
		if err != syscall.EBUSY || wait > 2e8 {
			return
		}
		killGroup(dir)
		ts := syscall.NsecToTimespec(wait)
		syscall.Nanosleep(&ts, nil)
	}
}

// killGroup ends what is left in a group: processes of a container that has no
// pid namespace of its own.
func killGroup(dir string) {
	pid := 0
	for _, c := range readSmall(dir + "/cgroup.procs") {
		if c != '\n' {
			pid = pid*10 + int(c-'0')
			continue
		}
		if pid > 1 {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		pid = 0
	}
}
