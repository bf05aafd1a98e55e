package sandbox

import (
	"encoding/json"
	"fmt"
	"os"
)

// crunStatus is what crun keeps of a container in ID/status below its root: tools that expect
// crun read it (crun, libcrun/status.c).
type crunStatus struct {
	Pid       int    `json:"pid"`
	StartTime uint64 `json:"process-start-time"`
	Cgroup    string `json:"cgroup-path"`
	Scope     string `json:"scope"`
	IntelRdt  string `json:"intelrdt"`
	Rootfs    string `json:"rootfs"`
	Systemd   bool   `json:"systemd-cgroup"`
	Bundle    string `json:"bundle"`
	Created   string `json:"created"`
	Owner     string `json:"owner"`
	Detached  bool   `json:"detached"`
	// Descriptors is a list as JSON in a string: what the first three descriptors were.
	Descriptors string `json:"external_descriptors"`
}

func (l *launch) saveCrunStatus() error {
	var open [3]string
	for fd := range open {
		open[fd], _ = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)) // empty: it is closed
	}
	list, err := json.Marshal(open)
	if err != nil {
		return err
	}
	r := l.rec
	s := crunStatus{Pid: r.Pid, StartTime: r.StartTime, Cgroup: r.CgroupPath, Scope: r.SystemdUnit, Rootfs: r.Rootfs,
		Systemd: l.unit != nil, Bundle: r.Bundle, Created: r.Created.Format("2006-01-02T15:04:05.000000Z"), Detached: l.opt.Detached, Descriptors: string(list)}
	if len(r.Rdt) > 0 {
		s.IntelRdt = r.Rdt[len(r.Rdt)-1]
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return l.dir.WriteCrunStatusLocked(b)
}
