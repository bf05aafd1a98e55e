package plan

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"vivarium/sandbox/cgroup"
	"vivarium/sandbox/program"
)

var update = flag.Bool("update", false, "write the golden files anew")

func testSpec() *specs.Spec {
	mode := os.FileMode(0o600)
	uid := uint32(7)
	return &specs.Spec{
		Root:     &specs.Root{Path: "/images/box", Readonly: true},
		Hostname: "box",
		Process: &specs.Process{
			Args: []string{"sh", "-c", "true"}, Env: []string{"PATH=/bin:/usr/bin", "A=b"}, Cwd: "/work",
			User:         specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{4, 5}},
			Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN"}, Effective: []string{"CAP_CHOWN"}, Permitted: []string{"CAP_CHOWN"}},
			Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200}},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"newinstance", "ptmxmode=0666"}},
			{Destination: "/data/of/it", Type: "bind", Source: "/", Options: []string{"rbind", "ro", "rprivate"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}, {Type: specs.UTSNamespace},
				{Type: specs.IPCNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.CgroupNamespace}},
			Devices:       []specs.LinuxDevice{{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229, FileMode: &mode, UID: &uid}},
			MaskedPaths:   []string{"/proc/kcore"},
			ReadonlyPaths: []string{"/proc/sys"},
			Sysctl:        map[string]string{"net.ipv4.ip_forward": "1"},
			Seccomp: &specs.LinuxSeccomp{DefaultAction: specs.ActAllow,
				Syscalls: []specs.LinuxSyscall{{Names: []string{"reboot"}, Action: specs.ActErrno}}},
		},
	}
}

func testOptions() Options {
	return Options{ID: "box", LastCap: 5, LSM: &LSM{}, Resctrl: "/no/resctrl",
		Layout: &cgroup.Layout{Hierarchies: []cgroup.Hierarchy{{Mount: "/cg/devices", Controllers: []string{"devices"}}}}}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; if that is right, run the test with -update.\n%s", name, firstDifference(got, string(want)))
	}
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range g {
		if i >= len(w) || g[i] != w[i] {
			return "got  " + g[i] + "\nwant " + strings.Join(w[min(i, len(w)):min(i+1, len(w))], "")
		}
	}
	return "the end is missing"
}

func TestExplain(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*specs.Spec, *Options)
	}{
		{"default", func(*specs.Spec, *Options) {}},
		{"terminal", func(s *specs.Spec, o *Options) {
			s.Process.Terminal = true
			s.Process.NoNewPrivileges = true
		}},
		{"overlay", func(s *specs.Spec, o *Options) {
			o.Root = &Root{FSType: "overlay", Params: []Param{{Key: "lowerdir+", Value: "/l1"}, {Key: "volatile", Flag: true}}}
			o.NetNS, o.MakeCwd = true, true
		}},
		{"classic", func(s *specs.Spec, o *Options) {
			o.Root = &Root{FSType: "overlay", Data: "lowerdir=/l2:/l1,upperdir=/u,workdir=/w"}
		}},
		{"userns", func(s *specs.Spec, o *Options) {
			o.Root = &Root{FSType: "overlay", Params: []Param{{Key: "lowerdir+", Value: "/l1"}, {Key: "upperdir", Value: "/c/upper"}, {Key: "workdir", Value: "/c/work"}}}
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
			s.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: 1000, Size: 10}}
			s.Linux.GIDMappings = []specs.LinuxIDMapping{{HostID: 2000, Size: 10}}
			o.NetNS = true
		}},
		{"join", func(s *specs.Spec, o *Options) {
			for i := range s.Linux.Namespaces {
				if s.Linux.Namespaces[i].Type != specs.MountNamespace {
					s.Linux.Namespaces[i].Path = "/proc/1/ns/" + string(s.Linux.Namespaces[i].Type)
				}
			}
		}},
		{"numa", func(s *specs.Spec, o *Options) {
			s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0-1", Flags: []specs.MemoryPolicyFlagType{specs.MpolFStaticNodes}}
		}},
		{"copyup", func(s *specs.Spec, o *Options) {
			o.Hooks = true
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/var", Type: "tmpfs", Options: []string{"tmpcopyup", "uid=5"}})
		}},
		{"idmap", func(s *specs.Spec, o *Options) {
			s.Mounts[3].UIDMappings = []specs.LinuxIDMapping{{HostID: 1000, Size: 10}}
			s.Mounts[3].GIDMappings = []specs.LinuxIDMapping{{HostID: 2000, Size: 10}}
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/all", Source: "/", Options: []string{"rbind", "ridmap=uids=0-1000-10;gids=0-2000-10"}},
				specs.Mount{Destination: "/new", Type: "tmpfs", Options: []string{"idmap=uids=0-7-1#1-9-1;gids=0-8-1"}})
		}},
		{"notify", func(s *specs.Spec, o *Options) {
			o.Hooks = true
			s.Linux.Seccomp.ListenerPath = "/run/agent"
			s.Linux.Seccomp.Syscalls[0].Action = specs.ActNotify
		}},
		{"labels", func(s *specs.Spec, o *Options) {
			o.LSM = &LSM{AppArmor: true, SELinux: true}
			s.Process.SelinuxLabel, s.Linux.MountLabel = "a:b:c:s0:c1", "a:b:d:s0:c1"
		}},
		{"rdt", func(s *specs.Spec, o *Options) {
			s.Linux.IntelRdt = &specs.LinuxIntelRdt{L3CacheSchema: "L3:0=f", Schemata: []string{"MB:0=20"}, EnableMonitoring: true}
		}},
		{"joinuser", func(s *specs.Spec, o *Options) {
			s.Linux.Namespaces[4].Path = "/proc/1/ns/net"
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: "/proc/1/ns/user"})
		}},
		{"userjoin", func(s *specs.Spec, o *Options) {
			s.Linux.Namespaces[4].Path = "/proc/1/ns/net"
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
			s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 1000, HostID: 1000, Size: 10}}
			s.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 1000, HostID: 2000, Size: 10}}
		}},
		{"time", func(s *specs.Spec, o *Options) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
			s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 100}, "monotonic": {Secs: -5, Nanosecs: 3}}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, o := testSpec(), testOptions()
			c.change(s, &o)
			p, err := Compile(s, o)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, c.name+".txt", p.Text())
			b, err := p.JSON()
			if err != nil {
				t.Fatal(err)
			}
			var steps []Explained
			if err := json.Unmarshal(b, &steps); err != nil || len(steps) < 10 {
				t.Errorf("JSON has %d steps: %v", len(steps), err)
			}
		})
	}
}

func TestExec(t *testing.T) {
	s := testSpec()
	p, err := CompileExec(s, s.Process, ExecTarget{Pid: 7, Tasks: []string{"/cg/tasks"}}, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "exec.txt", p.Text())
	s.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0", Final: "0-1"}
	if p, err = CompileExec(s, s.Process, ExecTarget{Pid: 7, CgroupDir: "/cg/box"}, testOptions()); err != nil {
		t.Fatal(err)
	}
	golden(t, "affinity.txt", p.Text())
}

// TestRefusals: what is not done is refused, each with its name in the error.
func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		word   string
		change func(*specs.Spec)
	}{
		{"process", func(s *specs.Spec) { s.Process = nil }},
		{"linux", func(s *specs.Spec) { s.Linux = nil }},
		{"root", func(s *specs.Spec) { s.Root = nil }},
		{"process.args", func(s *specs.Spec) { s.Process.Args = nil }},
		{"mount namespace", func(s *specs.Spec) {
			s.Linux.Namespaces = s.Linux.Namespaces[1:]
			s.Root.Path = "/"
		}},
		{"twice", func(s *specs.Spec) { s.Linux.Namespaces = append(s.Linux.Namespaces, s.Linux.Namespaces[0]) }},
		{"not known", func(s *specs.Spec) { s.Linux.Namespaces[0].Type = "moon" }},
		{"selinux label", func(s *specs.Spec) { s.Process.SelinuxLabel = "x" }},
		{"apparmor not supported", func(s *specs.Spec) { s.Process.ApparmorProfile = "x" }},
		{"no name of a directory", func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{ClosID: "../x"} }},
		{"must exist already", func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{ClosID: "none"} }},
		{"more than one line", func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{Schemata: []string{"L3:0=1\nMB:0=1"}} }},
		{"working directory", func(s *specs.Spec) { s.Process.Cwd = "relative" }},
		{"/proc/sys", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/proc/sys", Type: "tmpfs"})
		}},
		{"/proc/../proc/self", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/proc/../proc/self", Type: "bind", Source: "/", Options: []string{"bind"}})
		}},
		{"the root itself", func(s *specs.Spec) { s.Mounts = append(s.Mounts, specs.Mount{Destination: "/..", Type: "tmpfs"}) }},
		{"/no/such/file", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "bind", Source: "/no/such/file"})
		}},
		{"without a NET namespace", func(s *specs.Spec) {
			s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"a": {}}
			s.Linux.Namespaces, s.Linux.Sysctl = append(s.Linux.Namespaces[:4:4], s.Linux.Namespaces[5:]...), nil
		}},
		{"linux.netDevices", func(s *specs.Spec) { s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"a": {}} }},
		{"kernel.panic", func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel.panic": "1"} }},
		{"net.ipv4.ip_forward", func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[:4] }},
		{"RLIMIT_MOON", func(s *specs.Spec) { s.Process.Rlimits[0].Type = "RLIMIT_MOON" }},
		{"twice", func(s *specs.Spec) { s.Process.Rlimits = append(s.Process.Rlimits, s.Process.Rlimits[0]) }},
		{"host name", func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces[:2:2], s.Linux.Namespaces[3:]...)
		}},
		{"rootfsPropagation", func(s *specs.Spec) { s.Linux.RootfsPropagation = "wide" }},
		{"type", func(s *specs.Spec) { s.Linux.Devices[0].Type = "x" }},
		{"devpts", func(s *specs.Spec) { s.Process.Terminal = true; s.Mounts = s.Mounts[:2] }},
		{"tmpcopyup", func(s *specs.Spec) { s.Mounts[1].Options = append(s.Mounts[1].Options, "tmpcopyup") }},
		{"no tmpfs", func(s *specs.Spec) { s.Mounts[2].Options = append(s.Mounts[2].Options, "tmpcopyup") }},
		{"or a user namespace", func(s *specs.Spec) { s.Mounts[3].Options = append(s.Mounts[3].Options, "idmap") }},
		{"both uidMappings and gidMappings", func(s *specs.Spec) { s.Mounts[3].UIDMappings = []specs.LinuxIDMapping{{Size: 1}} }},
		{"CONTAINER-HOST-SIZE", func(s *specs.Spec) { s.Mounts[3].Options = append(s.Mounts[3].Options, "idmap=uids=0-1;gids=0-1-1") }},
		{"both uids= and gids=", func(s *specs.Spec) { s.Mounts[3].Options = append(s.Mounts[3].Options, "ridmap=uids=0-1-1") }},
		{"neither", func(s *specs.Spec) { s.Mounts[3].Options = append(s.Mounts[3].Options, "idmap=users=0-1-1") }},
		{"time namespace", func(s *specs.Spec) { s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {}} }},
		{"clock", func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
			s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"moon": {}}
		}},
	} {
		s := testSpec()
		c.change(s)
		_, err := Compile(s, testOptions())
		if err == nil || !strings.Contains(err.Error(), c.word) {
			t.Errorf("%s: got error %v", c.word, err)
		}
	}
}

func TestMountOptions(t *testing.T) {
	for _, c := range []struct {
		options string
		want    mountOpts
	}{
		{"ro,nosuid", mountOpts{set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID}},
		{"ro,rw", mountOpts{clear: unix.MOUNT_ATTR_RDONLY}},
		{"rro", mountOpts{recSet: unix.MOUNT_ATTR_RDONLY}},
		{"rbind", mountOpts{bind: true, recursive: true}},
		{"noatime", mountOpts{set: unix.MOUNT_ATTR_NOATIME, clear: unix.MOUNT_ATTR__ATIME}},
		{"noatime,relatime", mountOpts{clear: unix.MOUNT_ATTR__ATIME}},
		{"rslave", mountOpts{propagation: unix.MS_SLAVE, recPropagation: true}},
		{"private", mountOpts{propagation: unix.MS_PRIVATE}},
	} {
		got, err := parseMountOptions(strings.Split(c.options, ","))
		got.data = nil
		if err != nil || !sameOptions(got, c.want) {
			t.Errorf("%s: got %+v, %v; want %+v", c.options, got, err, c.want)
		}
	}
}

func sameOptions(a, b mountOpts) bool {
	return a.set == b.set && a.clear == b.clear && a.recSet == b.recSet && a.recClear == b.recClear &&
		a.propagation == b.propagation && a.recPropagation == b.recPropagation && a.bind == b.bind && a.recursive == b.recursive
}

// FuzzDecode: no bytes may make a program that points outside of itself.
func FuzzDecode(f *testing.F) {
	p, err := Compile(testSpec(), testOptions())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := program.Decode(append([]byte(nil), b...))
		if err != nil {
			if !errors.Is(err, program.ErrFormat) {
				t.Fatal(err)
			}
			return
		}
		for _, ops := range [][]program.Op{q.Before, q.Child, q.After, q.Undo} {
			for _, op := range ops {
				for i, k := range op.Kinds {
					if (k == program.Ptr || k == program.Str) && op.Args[i] >= uint64(len(q.Data)) {
						t.Fatalf("an address points outside: %+v", op)
					}
				}
				q.StepAt(int(op.Step))
			}
		}
	})
}

func BenchmarkCompile(b *testing.B) {
	s, o := testSpec(), testOptions()
	for b.Loop() {
		p, err := Compile(s, o)
		if err != nil {
			b.Fatal(err)
		}
		p.Encode()
	}
}
