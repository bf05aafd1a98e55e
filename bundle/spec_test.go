package bundle

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

var update = flag.Bool("update", false, "write the golden files")

const testID = "0123456789abcccccccccccccccccccccccccccccccccccccccccccccccccccc"

const (
	testPasswd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n"
	testGroup  = "root:x:0:\nwheel:x:10:root,app\napp:x:1000:\n"
)

func mode(m os.FileMode) *os.FileMode { return &m }

func node(p, typ string, major, minor int64, m os.FileMode) specs.LinuxDevice {
	var zero uint32
	return specs.LinuxDevice{Path: p, Type: typ, Major: major, Minor: minor, FileMode: mode(m), UID: &zero, GID: &zero}
}

// testFacts is a host as the one on which Docker's specs in testdata/docker were made.
func testFacts() Facts {
	return Facts{
		ID: testID, RootPath: "/rootfs", CgroupVersion: 1, LastCap: 40, CPUs: 2,
		CpusetCpus: "0-1", CpusetMems: "0", Hostname: "vm", PeerHostname: "peerpeerpeer",
		Passwd: []byte(testPasswd), Group: []byte(testGroup),
		HostsPath: "/c/hosts", HostnamePath: "/c/hostname", ResolvConfPath: "/c/resolv.conf",
		InitPath: "/usr/bin/docker-init",
		HostDevices: []specs.LinuxDevice{
			node("/dev/full", "c", 1, 7, 0o666), node("/dev/fuse", "c", 10, 229, 0o600),
			node("/dev/loop0", "b", 7, 0, 0o600), node("/dev/null", "c", 1, 3, 0o666),
		},
		Devices: map[string][]specs.LinuxDevice{
			"/dev/fuse": {node("/dev/fuse", "c", 10, 229, 0o600)},
			"/dev/null": {node("/dev/null", "c", 1, 3, 0o666)},
			"/dev/vda":  {node("/dev/vda", "b", 254, 0, 0o660)},
			"/dev/net":  {node("/dev/net/tun", "c", 10, 200, 0o600)},
		},
		VolumePaths: map[string]string{"/b": "/vol/named/_data", "/c": "/vol/anonymous", "/h": "/vol/anonymous", "/data": "/vol/anonymous"},
		UIDMappings: []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}},
		GIDMappings: []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}},
	}
}

func ptr[T any](v T) *T { return &v }

// sleepOptions is `run --network none IMAGE sleep 100`.
func sleepOptions() Options {
	var o Options
	o.Config.Cmd = []string{"sleep", "100"}
	o.HostConfig.NetworkMode = "none"
	return o
}

type specCase struct {
	name   string
	golden string // "" for none
	docker string // the file of testdata/docker to be equal to; "" for none
	set    func(o *Options, f *Facts)
}

func specCases() []specCase {
	return []specCase{
		{"default", "default-v1", "default", func(o *Options, f *Facts) {}},
		{"default v2", "default-v2", "", func(o *Options, f *Facts) { f.CgroupVersion = 2 }},
		{"tty", "tty", "tty", func(o *Options, f *Facts) { o.Config.Tty, o.Config.OpenStdin = true, true }},
		{"user", "user", "user", func(o *Options, f *Facts) { o.Config.User = "app" }},
		{"user and groups", "groups", "user2", func(o *Options, f *Facts) {
			o.Config.User, o.HostConfig.GroupAdd = "1234:wheel", []string{"55", "app"}
		}},
		{"limits", "limits", "limits", func(o *Options, f *Facts) {
			h := &o.HostConfig
			h.Memory, h.MemoryReservation, h.MemorySwap, h.MemorySwappiness = 128<<20, 64<<20, 256<<20, ptr(int64(10))
			h.NanoCpus, h.CpuShares, h.CpusetCpus, h.CpusetMems, h.PidsLimit = 15e8, 512, "0-1", "0", ptr(int64(100))
			h.Ulimits = []Ulimit{{Name: "nofile", Soft: 1024, Hard: 2048}, {Name: "core", Soft: -1, Hard: -1}}
			h.BlkioDeviceReadBps = []ThrottleDevice{{"/dev/vda", 1 << 20}}
			h.BlkioDeviceWriteIOps = []ThrottleDevice{{"/dev/vda", 100}}
		}},
		{"limits with defaults", "", "limits2", func(o *Options, f *Facts) {
			h := &o.HostConfig
			h.Memory, h.CpuQuota, h.CpuPeriod, h.PidsLimit = 128<<20, 50000, 100000, ptr(int64(-1))
			h.Ulimits, h.OomScoreAdj, h.OomKillDisable = []Ulimit{{Name: "core"}}, 100, ptr(true)
		}},
		{"volumes", "volumes", "volumes", setVolumes},
		{"read-only", "readonly", "readonly", func(o *Options, f *Facts) {
			o.HostConfig.ReadonlyRootfs, o.Config.WorkingDir = true, "/foo"
			o.HostConfig.Tmpfs = map[string]string{"/run": ""}
			o.HostConfig.Binds = []string{"/run:/x"}
		}},
		{"capabilities and devices", "caps", "caps", func(o *Options, f *Facts) {
			h := &o.HostConfig
			h.CapDrop, h.CapAdd = []string{"ALL"}, []string{"chown", "CAP_SYS_ADMIN"}
			h.Devices = []DeviceMapping{{"/dev/fuse", "/dev/xfuse", "rw"}}
			h.DeviceCgroupRules = []string{"c 42:* rwm"}
			h.SecurityOpt = []string{"no-new-privileges", "systempaths=unconfined", "seccomp=unconfined"}
		}},
		{"capability added and dropped", "", "capadd", func(o *Options, f *Facts) {
			o.HostConfig.CapDrop, o.HostConfig.CapAdd = []string{"mknod", "CAP_CHOWN"}, []string{"sys_ptrace"}
		}},
		{"all capabilities but one", "", "capall", func(o *Options, f *Facts) {
			f.LastCap = 37 // Docker 20.10 knows no newer ones
			o.HostConfig.CapDrop, o.HostConfig.CapAdd = []string{"sys_admin"}, []string{"ALL"}
		}},
		{"device directory", "", "devdir", func(o *Options, f *Facts) {
			o.HostConfig.Devices = []DeviceMapping{{"/dev/net", "/dev/n2", "rwm"}}
		}},
		{"host namespaces", "ns-host", "hostns", func(o *Options, f *Facts) {
			h := &o.HostConfig
			h.NetworkMode, h.PidMode, h.IpcMode, h.UTSMode, h.CgroupnsMode = "host", "host", "host", "host", "host"
		}},
		{"private namespaces", "ns-private", "privns", func(o *Options, f *Facts) {
			h := &o.HostConfig
			h.IpcMode, h.CgroupnsMode, h.Init = "private", "private", ptr(true)
		}},
		{"a container's namespaces", "ns-container", "cont", func(o *Options, f *Facts) {
			h := &o.HostConfig
			h.NetworkMode, h.PidMode, h.IpcMode = "container:peer", "container:peer", "container:peer"
			f.Namespaces = map[specs.LinuxNamespaceType]string{
				specs.NetworkNamespace: "/proc/42/ns/net", specs.PIDNamespace: "/proc/42/ns/pid", specs.IPCNamespace: "/proc/42/ns/ipc",
			}
			f.ShmPath = "/c/mounts/shm"
		}},
		{"no IPC", "ns-ipc-none", "ipcnone", func(o *Options, f *Facts) { o.HostConfig.IpcMode = "none" }},
		{"user namespace", "ns-user", "", func(o *Options, f *Facts) { o.HostConfig.UsernsMode = "private" }},
		{"time namespace", "ns-time", "", func(o *Options, f *Facts) { o.HostConfig.TimensMode = "private" }},
		{"shareable IPC, sysctls, environment", "sysctl", "shareipc", func(o *Options, f *Facts) {
			h := &o.HostConfig
			h.IpcMode, h.ShmSize, f.ShmPath = "shareable", 128<<20, "/c/mounts/shm"
			h.Sysctls = map[string]string{"kernel.msgmax": "65536", "net.ipv4.ip_forward": "1"}
			o.Config.Hostname, o.Config.Env = "foo", []string{"X=1", "PATH=/bin", "HOSTNAME=z"}
		}},
		{"privileged", "privileged", "privileged", func(o *Options, f *Facts) {
			f.LastCap = 37
			o.HostConfig.Privileged = true
			o.HostConfig.Devices = []DeviceMapping{{"/dev/null", "/dev/nul2", "rwm"}}
		}},
		{"privileged and read-only", "", "privro", func(o *Options, f *Facts) {
			f.LastCap = 37
			o.HostConfig.Privileged, o.HostConfig.ReadonlyRootfs = true, true
		}},
	}
}

func setVolumes(o *Options, f *Facts) {
	h := &o.HostConfig
	h.Binds = []string{"/run:/a:ro", "named:/b:nocopy", "/dev/shm:/z/b"}
	o.Config.Volumes = map[string]struct{}{"/c": {}}
	h.Tmpfs = map[string]string{"/e": "", "/f": "size=10m,exec"}
	h.Mounts = []Mount{
		{Type: "bind", Source: "/run", Target: "/g", ReadOnly: true, BindOptions: &BindOptions{Propagation: "rprivate"}},
		{Type: "volume", Target: "/h"},
		{Type: "tmpfs", Target: "/i", TmpfsOptions: &TmpfsOptions{SizeBytes: 1 << 20, Mode: 0o700}},
	}
}

func (c specCase) make(t *testing.T) *specs.Spec {
	t.Helper()
	o, f := sleepOptions(), testFacts()
	c.set(&o, &f)
	before, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	s, _, err := Spec(nil, o, f)
	if err != nil {
		t.Fatal(err)
	}
	if after, _ := json.Marshal(o); !bytes.Equal(before, after) {
		t.Errorf("Spec changed its options:\nbefore %s\nafter  %s", before, after)
	}
	return s
}

func TestGolden(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the golden files hold the seccomp profile of amd64")
	}
	for _, c := range specCases() {
		if c.golden == "" {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			got, err := json.MarshalIndent(c.make(t), "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, '\n')
			name := filepath.Join("testdata", "golden", c.golden+".json")
			if *update {
				if err := os.WriteFile(name, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("the spec differs from %s (go test -update writes it):\n%s", name, firstDifference(got, want))
			}
		})
	}
}

func firstDifference(got, want []byte) string {
	g, w := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return "got  " + g[i] + "\nwant " + w[i]
		}
	}
	return "one is longer"
}

// TestLikeDocker compares with specs that dockerd 20.10 gave to its runtime for
// the same options. What differs on purpose is named in forget.
func TestLikeDocker(t *testing.T) {
	for _, c := range specCases() {
		if c.docker == "" {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			b, err := os.ReadFile(filepath.Join("testdata", "docker", c.docker+".json"))
			if err != nil {
				t.Fatal(err)
			}
			var want specs.Spec
			if err := json.Unmarshal(b, &want); err != nil {
				t.Fatal(err)
			}
			got := c.make(t)
			forget(got, &want)
			g, w := generic(t, got), generic(t, &want)
			for _, key := range []string{"root", "hostname", "mounts", "process", "linux"} {
				compare(t, key, g[key], w[key])
			}
		})
	}
}

func generic(t *testing.T, s *specs.Spec) map[string]any {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// compare goes down into objects, so that a difference is shown where it is.
func compare(t *testing.T, at string, got, want any) {
	t.Helper()
	g, ok1 := got.(map[string]any)
	w, ok2 := want.(map[string]any)
	if !ok1 || !ok2 {
		if !reflect.DeepEqual(got, want) {
			a, _ := json.Marshal(got)
			b, _ := json.Marshal(want)
			t.Errorf("%s:\n got  %s\n want %s", at, a, b)
		}
		return
	}
	for k := range g {
		compare(t, at+"."+k, g[k], w[k])
	}
	for k := range w {
		if _, ok := g[k]; !ok {
			compare(t, at+"."+k, nil, w[k])
		}
	}
}

func forget(got, want *specs.Spec) {
	// The group has our name.
	want.Linux.CgroupsPath = strings.Replace(want.Linux.CgroupsPath, "/docker/", "/viv/", 1)
	// Docker has masked this path only since 25.
	got.Linux.MaskedPaths = slices.DeleteFunc(got.Linux.MaskedPaths, func(p string) bool { return p == "/sys/devices/virtual/powercap" })
	// HOME is the runtime's with Docker, and the init program its own choice.
	got.Process.Env = slices.DeleteFunc(got.Process.Env, func(e string) bool { return strings.HasPrefix(e, "HOME=") })
	got.Linux.Seccomp = nil
	// Rules that runc adds itself, and one against FUSE that denies what is denied anyway.
	got.Linux.Resources.Devices = slices.DeleteFunc(got.Linux.Resources.Devices, isRuntimeRule)
	want.Linux.Resources.Devices = slices.DeleteFunc(want.Linux.Resources.Devices, func(r specs.LinuxDeviceCgroup) bool {
		return !r.Allow && r.Major != nil
	})
	// Docker writes zeros where nothing is set.
	r := want.Linux.Resources
	if r.BlockIO.Weight != nil && *r.BlockIO.Weight == 0 {
		r.BlockIO.Weight = nil
	}
	if r.CPU.Shares != nil && *r.CPU.Shares == 0 {
		r.CPU.Shares = nil
	}
	if r.Memory.DisableOOMKiller != nil && !*r.Memory.DisableOOMKiller {
		r.Memory.DisableOOMKiller = nil
	}
	for _, s := range []*specs.LinuxResources{r, got.Linux.Resources} {
		if s.BlockIO != nil && reflect.DeepEqual(*s.BlockIO, specs.LinuxBlockIO{}) {
			s.BlockIO = nil
		}
		if s.CPU != nil && *s.CPU == (specs.LinuxCPU{}) {
			s.CPU = nil
		}
		if s.Memory != nil && *s.Memory == (specs.LinuxMemory{}) {
			s.Memory = nil
		}
	}
	// A private /dev/shm may stand at either place of the list.
	order := func(a, b specs.Mount) int { return strings.Compare(a.Destination, b.Destination) }
	slices.SortStableFunc(got.Mounts, order)
	slices.SortStableFunc(want.Mounts, order)
	for _, s := range []*specs.Spec{got, want} {
		slices.SortFunc(s.Process.Rlimits, func(a, b specs.POSIXRlimit) int { return strings.Compare(a.Type, b.Type) })
		slices.SortFunc(s.Linux.Devices, func(a, b specs.LinuxDevice) int { return strings.Compare(a.Path, b.Path) })
	}
	// Docker mounts the host's network namespace at a path of its own to join it.
	want.Linux.Namespaces = slices.DeleteFunc(want.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Path == "/netns/default" })
	for i, n := range want.Linux.Namespaces {
		if strings.HasPrefix(n.Path, "/netns/") {
			want.Linux.Namespaces[i].Path = ""
		}
	}
}

func isRuntimeRule(r specs.LinuxDeviceCgroup) bool {
	if r.Access == "m" {
		return true
	}
	if r.Major == nil {
		return false
	}
	switch [2]int64{*r.Major, *r.Minor} {
	case [2]int64{1, 7}, [2]int64{5, 2}, [2]int64{136, -1}:
		return true
	}
	return false
}

// TestImage checks how an image's settings and the user's meet.
func TestImage(t *testing.T) {
	img := &ocispec.ImageConfig{
		User: "app", Env: []string{"PATH=/img", "A=1", "B=2"}, Entrypoint: []string{"/entry"}, Cmd: []string{"arg"},
		WorkingDir: "/srv", Labels: map[string]string{"l": "image", "m": "image"}, Volumes: map[string]struct{}{"/data": {}},
		StopSignal: "SIGQUIT",
	}
	for _, c := range []struct {
		name       string
		entrypoint []string
		cmd        []string
		want       []string
	}{
		{"the image's", nil, nil, []string{"/entry", "arg"}},
		{"other arguments", nil, []string{"x", "y"}, []string{"/entry", "x", "y"}},
		{"another entrypoint drops the command", []string{"/other"}, nil, []string{"/other"}},
		{"another entrypoint and arguments", []string{"/other"}, []string{"x"}, []string{"/other", "x"}},
		{"no entrypoint", []string{""}, []string{"x"}, []string{"x"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var o Options
			o.Config.Entrypoint, o.Config.Cmd = c.entrypoint, c.cmd
			s, _, err := Spec(img, o, testFacts())
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(s.Process.Args, c.want) {
				t.Errorf("args are %q, not %q", s.Process.Args, c.want)
			}
			e, _, err := Effective(img, o, testFacts())
			if err != nil {
				t.Fatal(err)
			}
			e, err = e.Clone()
			if err != nil {
				t.Fatal(err)
			}
			again, _, err := Spec(img, e, testFacts())
			if err != nil {
				t.Fatal(err)
			}
			compare(t, "spec of the effective options", generic(t, again), generic(t, s))
		})
	}
	var o Options
	o.Config.Env, o.Config.Labels = []string{"B=user", "A"}, map[string]string{"l": "user"}
	s, _, err := Spec(img, o, testFacts())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"PATH=/img", "HOSTNAME=0123456789ab", "B=user", "HOME=/home/app"}
	if !slices.Equal(s.Process.Env, want) {
		t.Errorf("the environment is %q, not %q", s.Process.Env, want)
	}
	if s.Process.Cwd != "/srv" || s.Process.User.UID != 1000 {
		t.Errorf("working directory %s and user %d are not the image's", s.Process.Cwd, s.Process.User.UID)
	}
	if m := s.Mounts[len(s.Mounts)-1]; !slices.ContainsFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == "/data" && m.Source == "/vol/anonymous" }) {
		t.Errorf("the image's volume is not mounted; the last mount is %v", m)
	}
	c := Merged(img, o)
	if c.Labels["l"] != "user" || c.Labels["m"] != "image" || c.StopSignal != "SIGQUIT" {
		t.Errorf("merged settings are %+v", c)
	}
	if img.Labels["l"] != "image" {
		t.Error("Merged changed the image's configuration")
	}
	o.Config.Entrypoint = []string{""}
	if _, _, err := Spec(img, o, testFacts()); err == nil || !strings.Contains(err.Error(), "No command specified") {
		t.Errorf("without a command the error is %v", err)
	}
}

func TestUserMountsReplaceSystemMounts(t *testing.T) {
	o, f := sleepOptions(), testFacts()
	o.HostConfig.Binds = []string{"/dev:/dev", "/x:/etc/hosts"}
	s, _, err := Spec(nil, o, f)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range s.Mounts {
		if strings.HasPrefix(m.Destination, "/dev/") {
			t.Errorf("%s is mounted below the user's /dev", m.Destination)
		}
		if m.Destination == "/etc/hosts" && m.Source != "/x" || m.Destination == "/dev" && m.Type != "bind" {
			t.Errorf("%v is not the user's", m)
		}
	}
}

func TestPropagation(t *testing.T) {
	for mode, want := range map[string]string{"": "", "rprivate": "", "slave": "rslave", "rslave": "rslave", "shared": "shared", "rshared": "shared"} {
		o := sleepOptions()
		o.HostConfig.Binds = []string{"/run:/a:" + mode}
		s, _, err := Spec(nil, o, testFacts())
		if err != nil {
			t.Fatal(err)
		}
		if s.Linux.RootfsPropagation != want {
			t.Errorf("with %q the root's propagation is %q, not %q", mode, s.Linux.RootfsPropagation, want)
		}
	}
}

func TestMasks(t *testing.T) {
	o := sleepOptions()
	o.HostConfig.SecurityOpt = []string{"mask=/foo:/bar", "unmask=/proc/a*:/proc/sys"}
	s, _, err := Spec(nil, o, testFacts())
	if err != nil {
		t.Fatal(err)
	}
	l := s.Linux
	if slices.Contains(l.MaskedPaths, "/proc/acpi") || !slices.Contains(l.MaskedPaths, "/proc/kcore") || !slices.Contains(l.MaskedPaths, "/bar") {
		t.Errorf("masked paths are %q", l.MaskedPaths)
	}
	if slices.Contains(l.ReadonlyPaths, "/proc/sys") || !slices.Contains(l.ReadonlyPaths, "/proc/irq") {
		t.Errorf("read-only paths are %q", l.ReadonlyPaths)
	}
	o.HostConfig.SecurityOpt = []string{"unmask=ALL"}
	if s, _, err = Spec(nil, o, testFacts()); err != nil || len(s.Linux.MaskedPaths)+len(s.Linux.ReadonlyPaths) != 0 {
		t.Errorf("with unmask=ALL still masked: %q %q, %v", s.Linux.MaskedPaths, s.Linux.ReadonlyPaths, err)
	}
}

func TestSeccompProfile(t *testing.T) {
	o := sleepOptions()
	s, _, err := Spec(nil, o, testFacts())
	if err != nil || s.Linux.Seccomp == nil || s.Linux.Seccomp.DefaultAction != specs.ActErrno {
		t.Fatalf("the default profile is %+v, %v", s.Linux.Seccomp, err)
	}
	if allows(s, "mount") || !allows(s, "read") {
		t.Error("the default profile must allow read and not mount")
	}
	o.HostConfig.CapAdd = []string{"SYS_ADMIN"}
	if s, _, err = Spec(nil, o, testFacts()); err != nil || !allows(s, "mount") {
		t.Errorf("with CAP_SYS_ADMIN the profile must allow mount (%v)", err)
	}
	o.HostConfig.SecurityOpt = []string{`seccomp={"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_ERRNO"}]}`}
	o.HostConfig.Privileged = true
	if s, _, err = Spec(nil, o, testFacts()); err != nil || len(s.Linux.Seccomp.Syscalls) != 1 {
		t.Errorf("an explicit profile must hold with --privileged too: %+v, %v", s.Linux.Seccomp, err)
	}
}

func allows(s *specs.Spec, call string) bool {
	return slices.ContainsFunc(s.Linux.Seccomp.Syscalls, func(r specs.LinuxSyscall) bool {
		return r.Action == specs.ActAllow && len(r.Args) == 0 && slices.Contains(r.Names, call)
	})
}

func TestBoundingCaps(t *testing.T) {
	o, f := sleepOptions(), testFacts()
	o.HostConfig.Privileged = true
	f.BoundingCaps = []string{"CAP_CHOWN", "CAP_BPF"}
	s, _, err := Spec(nil, o, f)
	if err != nil || !slices.Equal(s.Process.Capabilities.Bounding, f.BoundingCaps) {
		t.Errorf("capabilities are %v, %v", s.Process.Capabilities, err)
	}
	if c := s.Process.Capabilities; len(c.Inheritable)+len(c.Ambient) != 0 {
		t.Errorf("inheritable or ambient capabilities are set: %v", c)
	}
}

func TestWarnings(t *testing.T) {
	o, f := sleepOptions(), testFacts()
	h := &o.HostConfig
	f.Lacks = CgroupLacks{Swap: true, BlkioWeight: true, Pids: true}
	h.Memory, h.BlkioWeight, h.PidsLimit = 64<<20, 300, ptr(int64(5))
	h.PidMode, h.Init = "host", ptr(true)
	s, warns, err := Spec(nil, o, f)
	if err != nil {
		t.Fatal(err)
	}
	if len(warns) != 4 {
		t.Errorf("warnings are %q", warns)
	}
	r := s.Linux.Resources
	if r.BlockIO != nil || r.Pids != nil || r.Memory.Swap != nil || *r.Memory.Limit != 64<<20 {
		t.Errorf("resources are %+v", r)
	}
	if s.Process.Args[0] != "sleep" || slices.ContainsFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == InitTarget }) {
		t.Error("--init must do nothing in the host's PID namespace")
	}
}

func TestOptionsSurviveJSON(t *testing.T) {
	for _, c := range specCases() {
		o, f := sleepOptions(), testFacts()
		c.set(&o, &f)
		copied, err := o.Clone()
		if err != nil {
			t.Fatal(err)
		}
		a, _, err1 := Spec(nil, o, f)
		b, _, err2 := Spec(nil, copied, f)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		compare(t, c.name, generic(t, b), generic(t, a))
	}
}

func BenchmarkSpec(b *testing.B) {
	o, f := sleepOptions(), testFacts()
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := Spec(nil, o, f); err != nil {
			b.Fatal(err)
		}
	}
}
