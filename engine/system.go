package engine

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"

	"vivarium/monitor/client"
	"vivarium/monitor/wire"
)

// Info is what `viv info` tells of the engine and its host.
type Info struct {
	Containers        int
	ContainersRunning int
	ContainersPaused  int
	ContainersStopped int
	Images            int
	Driver            string
	LoggingDriver     string
	CgroupDriver      string
	CgroupVersion     string
	KernelVersion     string
	OperatingSystem   string
	OSType            string
	Architecture      string
	NCPU              int
	MemTotal          int64
	Name              string
	DockerRootDir     string // the name that scripts know
	StateDir          string
	ServerVersion     string
	SecurityOptions   []string
	Warnings          []string
}

// Info looks at the engine and its host.
func (e *Engine) Info(ctx context.Context) (*Info, error) {
	driver, err := e.newDriver(ctx, true)
	if err != nil {
		return nil, err
	}
	i := &Info{Driver: shownDriver(driver), LoggingDriver: "json-file", CgroupDriver: "cgroupfs", OSType: "linux", NCPU: runtime.NumCPU(),
		MemTotal: int64(memTotal()), Name: hostName(), DockerRootDir: e.Root, StateDir: e.State, ServerVersion: Version(),
		SecurityOptions: []string{"name=seccomp,profile=builtin"}, Warnings: []string{}}
	l, err := hostLayout()
	if err != nil {
		return nil, err
	}
	i.CgroupVersion = map[int]string{1: "1", 2: "2"}[cgroupVersion(l)]
	var u unix.Utsname
	if err := unix.Uname(&u); err == nil {
		i.KernelVersion, i.Architecture = unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Machine[:])
	}
	i.OperatingSystem = osName()
	images, err := e.Images(ctx, "", nil)
	if err != nil {
		return nil, err
	}
	i.Images = len(images)
	cs, err := e.all()
	if err != nil {
		return nil, err
	}
	for _, c := range cs {
		st, err := e.state(ctx, c)
		if err != nil {
			return nil, err
		}
		i.Containers++
		switch st.State {
		case wire.Running, wire.Restarting:
			i.ContainersRunning++
		case wire.Paused:
			i.ContainersPaused++
		default:
			i.ContainersStopped++
		}
	}
	return i, nil
}

func osName() string {
	b, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "Linux"
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			return strings.Trim(v, `"'`)
		}
	}
	return "Linux"
}

// version is set by the linker.
var version = ""

// Version is the engine's version: that of the build, or of the source it was built from.
func Version() string {
	if version != "" {
		return version
	}
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" {
		return strings.Trim(b.Main.Version, "()")
	}
	return "devel"
}

// Usage is what one kind of object takes on disk, in bytes.
type Usage struct {
	Type              string
	Total, Active     int
	Size, Reclaimable int64
}

// DiskUsage measures images, containers, volumes and the build cache.
func (e *Engine) DiskUsage(ctx context.Context) ([]Usage, error) {
	im, err := e.imageUsage(ctx)
	if err != nil {
		return nil, err
	}
	co, err := e.containerUsage()
	if err != nil {
		return nil, err
	}
	vo, err := e.volumeUsage(ctx)
	if err != nil {
		return nil, err
	}
	bu, err := e.buildUsage(ctx)
	return []Usage{im, co, vo, bu}, err
}

func (e *Engine) imageUsage(ctx context.Context) (Usage, error) {
	u := Usage{Type: "Images"}
	list, err := e.Images(ctx, "", nil)
	if err != nil {
		return u, err
	}
	seen, used := map[string]bool{}, map[string]bool{}
	for _, active := range []bool{true, false} { // shared layers count for those in use
		for _, img := range list {
			if (img.Containers > 0) != active {
				continue
			}
			u.Total++
			if active {
				u.Active++
			}
			for _, l := range img.Layers {
				if active {
					used[l.Dir] = true
				}
				if seen[l.Dir] {
					continue
				}
				seen[l.Dir] = true
				u.Size += l.Size
				if !used[l.Dir] {
					u.Reclaimable += l.Size
				}
			}
		}
	}
	s, err := e.images()
	if err != nil {
		return u, err
	}
	others, err := s.IndexedLayers() // of other platforms
	for _, l := range others {
		if !seen[l.Dir] {
			u.Size += l.Size
			u.Reclaimable += l.Size
		}
	}
	return u, err
}

func (e *Engine) containerUsage() (Usage, error) {
	u := Usage{Type: "Containers"}
	cs, err := e.all()
	if err != nil {
		return u, err
	}
	for _, c := range cs {
		_, size, err := diskUsage(e.containerDir(c.ID) + "/" + c.ownDir())
		if err != nil {
			return u, err
		}
		u.Total++
		u.Size += size
		st, err := client.ReadStatus(e.containerDir(c.ID))
		if err == nil && live(st) {
			u.Active++
		} else {
			u.Reclaimable += size
		}
	}
	return u, nil
}

func (e *Engine) volumeUsage(ctx context.Context) (Usage, error) {
	u := Usage{Type: "Local Volumes"}
	list, err := e.Volumes(ctx, nil)
	if err != nil {
		return u, err
	}
	users, err := e.volumeUsers()
	if err != nil {
		return u, err
	}
	for _, v := range list {
		_, size, err := diskUsage(v.Mountpoint)
		if err != nil {
			return u, err
		}
		u.Total++
		u.Size += size
		if len(users[v.Name]) > 0 {
			u.Active++
		} else {
			u.Reclaimable += size
		}
	}
	return u, nil
}
