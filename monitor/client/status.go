package client

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"

	"vivarium/internal/lazyjson"
	"vivarium/monitor/wire"
)

// ReadStatus reads <dir>/status.json; a missing file is wire.Created. A start does not wait
// for the disk, so after a power cut the file may be there without what was written last
// (ext4(5), delalloc; XFS leaves zeros): then the container ran, and its end was not seen.
func ReadStatus(dir string) (wire.Status, error) {
	b, err := os.ReadFile(dir + "/status.json")
	if errors.Is(err, fs.ErrNotExist) {
		return wire.Status{State: wire.Created}, nil
	}
	if err != nil {
		return wire.Status{}, fmt.Errorf("read the container's status: %w", err)
	}
	if len(bytes.Trim(b, "\x00")) == 0 {
		return wire.Status{State: wire.Running}, nil
	}
	var st wire.Status
	if err := lazyjson.Unmarshal(b, &st); err != nil {
		return wire.Status{}, fmt.Errorf("read the container's status %s/status.json: %w", dir, err)
	}
	return st, nil
}

// WriteStatus replaces <dir>/status.json. It is the monitor's, so this is only
// for a container that has no monitor and no process any more.
func WriteStatus(dir string, st wire.Status) error {
	b, err := lazyjson.Marshal(st)
	if err != nil {
		return fmt.Errorf("encode the container's status: %w", err)
	}
	tmp := dir + "/.status.json"
	if err := os.WriteFile(tmp, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("write the container's status: %w", err)
	}
	if err := os.Rename(tmp, dir+"/status.json"); err != nil {
		return fmt.Errorf("write the container's status: %w", err)
	}
	return nil
}

// Alive tells whether the container's process of st is there still, and whether
// its monitor is: the same boot, the same pid with the same start time, and no
// zombie.
func Alive(st wire.Status) (process, monitor bool) {
	if st.BootID == "" || st.BootID != BootID() {
		return false, false
	}
	return same(st.Pid, st.StartTicks), same(st.MonitorPid, st.MonitorTicks)
}

// same tells whether pid still is the process that started at ticks.
func same(pid int, ticks uint64) bool {
	if pid <= 0 {
		return false
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	// Field 2 is in parentheses and may hold anything (proc_pid_stat(5)).
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 20 || f[0] == "Z" || f[0] == "X" {
		return false
	}
	started, err := strconv.ParseUint(f[19], 10, 64)
	return err == nil && started == ticks
}

// BootID names this boot of the machine.
var BootID = sync.OnceValue(func() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
})
