package engine

import (
	"strconv"

	"vivarium/bundle"
	"vivarium/monitor/client"
)

// startEvents are what happens when a container starts, in Docker's order.
func (e *Engine) startEvents(c *Container, attached bool) []Event {
	var list []Event
	if attached {
		list = append(list, containerEvent(c, "attach"))
	}
	list = append(list, e.networkEvents(c, "connect")...)
	for _, m := range c.Mounts {
		if m.Type == bundle.MountVolume {
			list = append(list, objectEvent("volume", "mount", m.Name, map[string]string{
				"container": c.ID, "destination": m.Destination, "driver": m.Driver,
				"propagation": m.Propagation, "read/write": strconv.FormatBool(m.RW)}))
		}
	}
	return append(list, containerEvent(c, "start"))
}

// endEvents are what happens when a container has ended.
func (e *Engine) endEvents(c *Container, exitCode int) []Event {
	var list []Event
	if st, err := client.ReadStatus(e.containerDir(c.ID)); err == nil && st.OOMKilled {
		list = append(list, containerEvent(c, "oom"))
	}
	list = append(list, containerEvent(c, "die", "exitCode", strconv.Itoa(exitCode)))
	list = append(list, e.networkEvents(c, "disconnect")...)
	for _, m := range c.Mounts {
		if m.Type == bundle.MountVolume {
			list = append(list, objectEvent("volume", "unmount", m.Name, map[string]string{"container": c.ID, "driver": m.Driver}))
		}
	}
	return list
}

// networkEvents is the event of a network that the container joins or leaves; one
// that shares another container's has none.
func (e *Engine) networkEvents(c *Container, action string) []Event {
	driver, ok := networkDrivers[c.networkMode()]
	if !ok {
		return nil
	}
	return []Event{objectEvent("network", action, e.networkID(c.networkMode()), map[string]string{
		"container": c.ID, "name": c.networkMode(), "type": driver})}
}
