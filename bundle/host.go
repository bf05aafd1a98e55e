package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ReadHost fills in those facts about the host that Spec needs for o: nothing that
// the options do not ask for is read. The caller adds what is its own: IDs, paths,
// cgroup version, the image's passwd and group.
func ReadHost(o Options) (Facts, error) {
	f := Facts{CPUs: runtime.NumCPU()}
	h := &o.HostConfig
	var err error
	if f.LastCap, err = lastCap(); err != nil {
		return f, err
	}
	if h.Privileged || addsAllCaps(h.CapAdd) {
		f.BoundingCaps = boundingCaps(f.LastCap)
	}
	if h.Privileged {
		if f.HostDevices, err = HostDevices("/dev"); err != nil {
			return f, err
		}
	}
	if paths := o.DevicePaths(); len(paths) > 0 {
		if f.Devices, err = LookupDevices(paths); err != nil {
			return f, err
		}
	}
	if h.UTSMode == "host" || h.NetworkMode == "host" {
		if f.Hostname, err = os.Hostname(); err != nil {
			return f, fmt.Errorf("read host name: %w", err)
		}
	}
	if h.CpusetCpus != "" {
		f.CpusetCpus = readLine("/sys/devices/system/cpu/online")
	}
	if h.CpusetMems != "" {
		f.CpusetMems = readLine("/sys/devices/system/node/online")
	}
	f.AppArmor = strings.HasPrefix(readLine("/sys/module/apparmor/parameters/enabled"), "Y")
	return f, nil
}

func addsAllCaps(add []string) bool {
	for _, c := range add {
		if strings.EqualFold(c, "ALL") || strings.EqualFold(c, "CAP_ALL") {
			return true
		}
	}
	return false
}

// readLine returns a file's first line, or nothing if it cannot be read: the
// facts that come from it are optional.
func readLine(name string) string {
	b, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(line)
}

func lastCap() (int, error) {
	n, err := strconv.Atoi(readLine("/proc/sys/kernel/cap_last_cap"))
	if err != nil {
		return 0, fmt.Errorf("read the last capability from /proc/sys/kernel/cap_last_cap: %w", err)
	}
	return n, nil
}

// AvailableCaps lists the capabilities that the kernel knows and this process may
// give away.
func AvailableCaps() ([]string, error) {
	last, err := lastCap()
	if err != nil {
		return nil, err
	}
	return boundingCaps(last), nil
}

// boundingCaps lists the capabilities in this process's bounding set.
func boundingCaps(last int) []string {
	list := []string{}
	for i, name := range allCaps {
		if i > last {
			break
		}
		if n, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(i), 0, 0, 0); err == nil && n == 1 {
			list = append(list, name)
		}
	}
	return list
}

// HostDevices lists the device nodes below dir, without those of containers and
// terminals that each container has by itself. Nodes that vanish meanwhile are
// left out.
func HostDevices(dir string) ([]specs.LinuxDevice, error) {
	var list []specs.LinuxDevice
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
				return nil
			}
			return err
		}
		if e.IsDir() {
			switch e.Name() {
			case "pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev":
				return fs.SkipDir
			}
			return nil
		}
		if e.Name() == "console" {
			return nil
		}
		d, ok, err := deviceAt(p)
		if ok {
			list = append(list, d)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list host devices in %s: %w", dir, err)
	}
	return list, nil
}

// LookupDevices finds the nodes at each path; symbolic links are followed, a
// directory stands for the nodes below it. The nodes are named by the path as it
// was asked for.
func LookupDevices(paths []string) (map[string][]specs.LinuxDevice, error) {
	found := make(map[string][]specs.LinuxDevice, len(paths))
	for _, p := range paths {
		real, err := filepath.EvalSymlinks(p)
		if err != nil {
			return nil, fmt.Errorf("error gathering device information while adding custom device %q: %w", p, err)
		}
		list, err := nodesAt(real)
		if err != nil {
			return nil, err
		}
		for i := range list {
			list[i].Path = p + strings.TrimPrefix(list[i].Path, real)
		}
		if len(list) == 0 {
			return nil, fmt.Errorf("error gathering device information while adding custom device %q: not a device node", p)
		}
		found[p] = list
	}
	return found, nil
}

func nodesAt(p string) ([]specs.LinuxDevice, error) {
	info, err := os.Lstat(p)
	if err != nil {
		return nil, fmt.Errorf("error gathering device information while adding custom device: %w", err)
	}
	if info.IsDir() {
		return HostDevices(p)
	}
	d, ok, err := deviceAt(p)
	if !ok {
		return nil, err
	}
	return []specs.LinuxDevice{d}, nil
}

// deviceAt describes the node at p; ok is false where there is another kind of file.
func deviceAt(p string) (d specs.LinuxDevice, ok bool, err error) {
	var st unix.Stat_t
	if err := unix.Lstat(p, &st); err != nil {
		return d, false, &fs.PathError{Op: "lstat", Path: p, Err: err}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		d.Type = "c"
	case unix.S_IFBLK:
		d.Type = "b"
	default:
		return d, false, nil
	}
	mode := os.FileMode(st.Mode & 0o777)
	d.Path, d.FileMode, d.UID, d.GID = p, &mode, &st.Uid, &st.Gid
	d.Major, d.Minor = int64(unix.Major(uint64(st.Rdev))), int64(unix.Minor(uint64(st.Rdev)))
	return d, true, nil
}
