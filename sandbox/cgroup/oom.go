package cgroup

// OOMWatch says how to learn of processes killed for want of memory while a
// container runs. Handle.OOMKills gives the count at any time.
type OOMWatch struct {
	// Inotify is a v2 file to watch for IN_MODIFY (memory.events); "" on v1.
	Inotify string
	// On v1 an eventfd is registered: the line "<eventfd> <descriptor of
	// OOMControl>" is written to EventControl, and the eventfd counts.
	OOMControl, EventControl string
}

// OOMWatch gives what to watch for the container at cgroupPath; all fields are
// empty if the memory controller is not available.
func (l Layout) OOMWatch(cgroupPath string) (OOMWatch, error) {
	rel, err := CleanPath(cgroupPath)
	if err != nil {
		return OOMWatch{}, err
	}
	h := l.with("memory")
	switch {
	case h == nil:
		return OOMWatch{}, nil
	case h.V2:
		return OOMWatch{Inotify: h.Mount + rel + "/memory.events"}, nil
	}
	dir := h.Mount + rel
	return OOMWatch{OOMControl: dir + "/memory.oom_control", EventControl: dir + "/cgroup.event_control"}, nil
}
