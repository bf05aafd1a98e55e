package bundle

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestRefusals has an option, or a pair that contradict each other, and the words
// with which Docker (and so Spec) refuses it.
func TestRefusals(t *testing.T) {
	type opt = *Options
	for _, c := range []struct {
		set func(o opt)
		err string
	}{
		{func(o opt) { o.HostConfig.Memory = 1024 }, "Minimum memory limit allowed is 6MB"},
		{func(o opt) { o.HostConfig.Memory, o.HostConfig.MemorySwap = 10<<20, 5<<20 }, "Minimum memoryswap limit should be larger than memory limit, see usage"},
		{func(o opt) { o.HostConfig.MemorySwap = 5 << 20 }, "You should always set the Memory limit when using Memoryswap limit, see usage"},
		{func(o opt) { o.HostConfig.MemorySwap = -2 }, "invalid memoryswap limit"},
		{func(o opt) { o.HostConfig.MemoryReservation = 1024 }, "Minimum memory reservation allowed is 6MB"},
		{func(o opt) { o.HostConfig.Memory, o.HostConfig.MemoryReservation = 10<<20, 20<<20 }, "Minimum memory limit can not be less than memory reservation limit, see usage"},
		{func(o opt) { o.HostConfig.KernelMemory = 5 << 20 }, "Minimum kernel memory limit allowed is 6MB"},
		{func(o opt) { o.HostConfig.MemorySwappiness = ptr(int64(200)) }, "invalid value: 200. Valid memory swappiness range is 0-100"},
		{func(o opt) { o.HostConfig.OomScoreAdj = 2000 }, "Invalid value 2000, range for oom score adj is [-1000, 1000]"},
		{func(o opt) { o.HostConfig.NanoCpus = 100e9 }, "Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available"},
		{func(o opt) { o.HostConfig.NanoCpus = 5 }, "Range of CPUs is from 0.01"},
		{func(o opt) { o.HostConfig.NanoCpus, o.HostConfig.CpuPeriod = 1e9, 1000 }, "Conflicting options: Nano CPUs and CPU Period cannot both be set"},
		{func(o opt) { o.HostConfig.NanoCpus, o.HostConfig.CpuQuota = 1e9, 1000 }, "Conflicting options: Nano CPUs and CPU Quota cannot both be set"},
		{func(o opt) { o.HostConfig.CpuPeriod = 5 }, "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"},
		{func(o opt) { o.HostConfig.CpuQuota = 5 }, "CPU cfs quota can not be less than 1ms (i.e. 1000)"},
		{func(o opt) { o.HostConfig.CpuShares = -3 }, "invalid CPU shares (-3)"},
		{func(o opt) { o.HostConfig.CpuRealtimePeriod, o.HostConfig.CpuRealtimeRuntime = 5, 6 }, "runtime cannot be higher"},
		{func(o opt) { o.HostConfig.CpusetCpus = "x" }, "Invalid value x for cpuset cpus: invalid format: x"},
		{func(o opt) { o.HostConfig.CpusetCpus = "3-1" }, "Invalid value 3-1 for cpuset cpus"},
		{func(o opt) { o.HostConfig.CpusetCpus = "50" }, "Requested CPUs are not available - requested 50, available: 0-1"},
		{func(o opt) { o.HostConfig.CpusetMems = "7" }, "Requested memory nodes are not available - requested 7, available: 0"},
		{func(o opt) { o.HostConfig.BlkioWeight = 5 }, "Range of blkio weight is from 10 to 1000"},
		{func(o opt) { o.HostConfig.BlkioDeviceReadBps = []ThrottleDevice{{"/dev/null", 1}} }, "not a block device"},
		{func(o opt) { o.HostConfig.ShmSize = -1 }, "SHM size can not be less than 0"},
		{func(o opt) { o.HostConfig.Ulimits = []Ulimit{{"x", 1, 1}} }, "invalid ulimit type: x"},

		{func(o opt) { o.HostConfig.PidMode = "foo" }, "--pid: invalid PID mode"},
		{func(o opt) { o.HostConfig.UTSMode = "container:x" }, "--uts: invalid UTS mode"},
		{func(o opt) { o.HostConfig.IpcMode = "foo" }, "--ipc: invalid IPC mode"},
		{func(o opt) { o.HostConfig.UsernsMode = "foo" }, "--userns: invalid USER mode"},
		{func(o opt) { o.HostConfig.CgroupnsMode = "foo" }, "--cgroupns: invalid CGROUP mode"},
		{func(o opt) { o.HostConfig.TimensMode = "foo" }, "--timens: invalid TIME mode"},
		{func(o opt) { o.HostConfig.NetworkMode = "container:" }, "--network: invalid container format container:<name|id>"},
		{func(o opt) { o.HostConfig.PidMode = "container:x" }, "join the pid namespace of x: the container is not running"},

		{func(o opt) { o.HostConfig.UTSMode, o.Config.Hostname = "host", "foo" }, "conflicting options: hostname and the UTS mode"},
		{func(o opt) { o.HostConfig.NetworkMode, o.Config.Hostname = "container:x", "foo" }, "conflicting options: hostname and the network mode"},
		{func(o opt) { o.HostConfig.NetworkMode, o.Publish = "container:x", []string{"80:80"} }, "conflicting options: port publishing and the container type network mode"},
		{func(o opt) { o.HostConfig.NetworkMode, o.Expose = "container:x", []string{"80"} }, "conflicting options: port exposing and the container type network mode"},
		{func(o opt) { o.HostConfig.NetworkMode, o.HostConfig.Dns = "container:x", []string{"1.1.1.1"} }, "conflicting options: dns and the network mode"},
		{func(o opt) { o.HostConfig.NetworkMode, o.HostConfig.ExtraHosts = "container:x", []string{"a:1.1.1.1"} }, "conflicting options: custom host-to-IP mapping and the network mode"},
		{func(o opt) { o.HostConfig.NetworkMode, o.Network.MacAddress = "container:x", "02:00:00:00:00:01" }, "conflicting options: mac-address and the network mode"},
		{func(o opt) { o.Network.IPAddress = "10.0.0.2" }, "conflicting options: IP address and the network mode"},
		{func(o opt) { o.HostConfig.AutoRemove, o.HostConfig.RestartPolicy.Name = true, "always" }, "conflicting options: cannot specify both --restart and --rm"},
		{func(o opt) { o.HostConfig.RestartPolicy.Name = "foo" }, "invalid restart policy 'foo'"},
		{func(o opt) { o.HostConfig.UsernsMode, o.HostConfig.Privileged = "private", true }, "incompatible with user namespaces"},
		{func(o opt) { o.HostConfig.UsernsMode, o.HostConfig.NetworkMode = "private", "host" }, "cannot share the network namespace when user namespaces are enabled"},
		{func(o opt) { o.UIDMappings = []specs.LinuxIDMapping{{Size: 1}} }, "need --userns private"},
		{func(o opt) {
			o.HostConfig.UsernsMode = "private"
			o.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 5, Size: 10}, {ContainerID: 20, HostID: 14, Size: 1}}
		}, "overlap"},

		{func(o opt) { o.Config.WorkingDir = "foo" }, "the working directory 'foo' is invalid, it needs to be an absolute path"},
		{func(o opt) { o.Config.Hostname = strings.Repeat("x", 65) }, "at most 64 bytes"},
		{func(o opt) { o.Config.Hostname = "a\nb" }, "control character"},
		{func(o opt) { o.Config.User = "nosuch" }, "unable to find user nosuch: no matching entries in passwd file"},
		{func(o opt) { o.Config.User = "a:b:c" }, "invalid user"},
		{func(o opt) { o.Config.Cmd = nil }, "No command specified"},
		{func(o opt) { o.Config.Cmd = []string{"a\x00b"} }, "zero byte"},
		{func(o opt) { o.Config.StopSignal = "FOO" }, "Invalid signal: FOO"},
		{func(o opt) { o.Config.StopTimeout = ptr(-5) }, "invalid stop timeout -5"},
		{func(o opt) { o.Pull = "x" }, `invalid pull option: 'x': must be one of "always", "missing" or "never"`},

		{func(o opt) { o.HostConfig.CapAdd = []string{"foo"} }, `invalid CapAdd: unknown capability: "CAP_FOO"`},
		{func(o opt) { o.HostConfig.CapDrop = []string{"foo"} }, `invalid CapDrop: unknown capability: "CAP_FOO"`},
		{func(o opt) { o.HostConfig.SecurityOpt = []string{"foo"} }, `invalid --security-opt: "foo"`},
		{func(o opt) { o.HostConfig.SecurityOpt = []string{"label=type:x"} }, "SELinux labels are not supported"},
		{func(o opt) { o.HostConfig.SecurityOpt = []string{"apparmor=x"} }, "this host has no AppArmor"},
		{func(o opt) { o.HostConfig.SecurityOpt = []string{"mask=a"} }, "must be absolute"},
		{func(o opt) { o.HostConfig.SecurityOpt = []string{`seccomp={"syscalls":3}`} }, "load seccomp profile"},
		{func(o opt) { o.HostConfig.Sysctls = map[string]string{"kernel.hostname": "x"} }, "sysctl 'kernel.hostname' is not allowed"},
		{func(o opt) {
			o.HostConfig.NetworkMode, o.HostConfig.Sysctls = "host", map[string]string{"net.ipv4.ip_forward": "1"}
		}, "not allowed in the host's network namespace"},
		{func(o opt) {
			o.HostConfig.IpcMode, o.HostConfig.Sysctls = "host", map[string]string{"kernel.msgmax": "1"}
		}, "not allowed in the host's ipc namespace"},
		{func(o opt) { o.HostConfig.Devices = []DeviceMapping{{"/dev/foo", "/dev/foo", "rwm"}} }, `error gathering device information while adding custom device "/dev/foo"`},
		{func(o opt) { o.HostConfig.DeviceCgroupRules = []string{"xx"} }, "invalid device cgroup format 'xx'"},
		{func(o opt) { o.HostConfig.Binds = []string{"/a:/x", "/b:/x"} }, "Duplicate mount point: /x"},
		{func(o opt) {
			o.HostConfig.Binds, o.HostConfig.Tmpfs = []string{"/a:/x"}, map[string]string{"/x": ""}
		}, "Duplicate mount point: /x"},
		{func(o opt) { o.HostConfig.Binds = []string{"vol:/nowhere"} }, "its directory is not known"},
		{func(o opt) { o.HostConfig.VolumesFrom = []string{"c1"} }, "are not known"},
		{func(o opt) { o.HostConfig.Init, o.Name = ptr(true), "noinit" }, "there is no init program on this host"},
	} {
		t.Run(c.err, func(t *testing.T) {
			o, f := sleepOptions(), testFacts()
			c.set(&o)
			if o.Name == "noinit" {
				f.InitPath = ""
			}
			_, _, err := Spec(nil, o, f)
			wantErr(t, "options", err, c.err)
		})
	}
}

func TestFactsAreChecked(t *testing.T) {
	f := testFacts()
	f.ID = ""
	_, _, err := Spec(nil, sleepOptions(), f)
	wantErr(t, "no ID", err, "has no ID")
	f = testFacts()
	f.CgroupVersion = 0
	_, _, err = Spec(nil, sleepOptions(), f)
	wantErr(t, "no cgroup version", err, "unknown cgroup version 0")
}

func TestCgroupParentStaysBelow(t *testing.T) {
	for parent, want := range map[string]string{"": "/viv/", "/a/b": "/a/b/", "a": "/a/", "../../x": "/x/", "/..": "/"} {
		o := sleepOptions()
		o.HostConfig.CgroupParent = parent
		s, _, err := Spec(nil, o, testFacts())
		if err != nil || s.Linux.CgroupsPath != want+testID {
			t.Errorf("below %q the group is %q, %v", parent, s.Linux.CgroupsPath, err)
		}
	}
}

func TestLookupDevices(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Symlink("/dev/null", link); err != nil {
		t.Fatal(err)
	}
	found, err := LookupDevices([]string{"/dev/null", link})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"/dev/null", link} {
		d := found[p]
		if len(d) != 1 || d[0].Path != p || d[0].Type != "c" || d[0].Major != 1 || d[0].Minor != 3 {
			t.Errorf("%s is %+v", p, d)
		}
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = LookupDevices([]string{file})
	wantErr(t, file, err, "not a device node")
	_, err = LookupDevices([]string{dir + "/none"})
	wantErr(t, "none", err, "no such file or directory")
}

func TestHostDevices(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making device nodes needs root")
	}
	dir := t.TempDir()
	for _, sub := range []string{"pts", "net"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"zero", "console", "pts/0", "net/tun"} {
		if err := unix.Mknod(filepath.Join(dir, name), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))); err != nil {
			t.Fatal(err)
		}
	}
	list, err := HostDevices(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 2 || list[0].Path != dir+"/net/tun" || list[1].Path != dir+"/zero" || *list[1].FileMode != 0o600 {
		t.Errorf("devices are %+v", list)
	}
	found, err := LookupDevices([]string{dir + "/net"})
	if err != nil || len(found[dir+"/net"]) != 1 {
		t.Errorf("the directory has %+v, %v", found, err)
	}
}

func TestReadHost(t *testing.T) {
	o := sleepOptions()
	o.HostConfig.CapAdd, o.HostConfig.UTSMode, o.HostConfig.CpusetCpus = []string{"all"}, "host", "0"
	f, err := ReadHost(o)
	if err != nil {
		t.Fatal(err)
	}
	name, _ := os.Hostname()
	if f.LastCap < 35 || f.BoundingCaps == nil || f.Hostname != name || f.CpusetCpus == "" || f.CPUs < 1 {
		t.Errorf("facts are %+v", f)
	}
	if f.HostDevices != nil || f.Devices != nil {
		t.Error("devices were read though nothing asks for them")
	}
}
