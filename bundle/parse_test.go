package bundle

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// wantErr checks err against the text that it must hold; "" is no error.
func wantErr(t *testing.T, input string, err error, text string) {
	t.Helper()
	switch {
	case text == "" && err != nil:
		t.Errorf("%q: %v", input, err)
	case text != "" && err == nil:
		t.Errorf("%q: no error, want %q", input, text)
	case text != "" && !strings.Contains(err.Error(), text):
		t.Errorf("%q: the error is %q, want %q", input, err, text)
	}
}

func TestParseVolume(t *testing.T) {
	bind := func(src, dst, mode, prop string, rw bool) MountPoint {
		return MountPoint{Type: "bind", Source: src, Destination: dst, Mode: mode, Propagation: prop, RW: rw, CreateSource: true}
	}
	for _, c := range []struct {
		in   string
		want MountPoint
		err  string
	}{
		{"/a", MountPoint{Type: "volume", Destination: "/a", RW: true}, ""},
		{"/a/../b/", MountPoint{Type: "volume", Destination: "/b", RW: true}, ""},
		{"/src:/dst", bind("/src", "/dst", "", "rprivate", true), ""},
		{"/src/:/dst:ro", bind("/src", "/dst", "ro", "rprivate", false), ""},
		{"/src:/dst:rw,z,rshared", bind("/src", "/dst", "rw,z,rshared", "rshared", true), ""},
		{"/src:/dst:Z,ro,slave,cached", bind("/src", "/dst", "Z,ro,slave,cached", "slave", false), ""},
		{"/src:/dst:", bind("/src", "/dst", "", "rprivate", true), ""},
		{"vol:/dst:nocopy", MountPoint{Type: "volume", Name: "vol", Destination: "/dst", Mode: "nocopy", RW: true, NoCopy: true}, ""},
		{"my-vol_1.x:/dst:ro", MountPoint{Type: "volume", Name: "my-vol_1.x", Destination: "/dst", Mode: "ro"}, ""},

		{"", MountPoint{}, "invalid volume specification"},
		{":/a", MountPoint{}, "empty section between colons"},
		{"/a:", MountPoint{}, "empty section between colons"},
		{"a:b:c:d", MountPoint{}, "invalid volume specification: 'a:b:c:d'"},
		{"/a:/b:foo", MountPoint{}, "invalid mode: foo"},
		{"/a:/b:ro,rw", MountPoint{}, "invalid mode: ro,rw"},
		{"/a:/b:ro,", MountPoint{}, "invalid mode: ro,"},
		{"/a:/b:z,Z", MountPoint{}, "invalid mode: z,Z"},
		{"/a:ro", MountPoint{}, "cannot have a mode"},
		{"/a:a", MountPoint{}, "invalid mount path: 'a' mount path must be absolute"},
		{"a", MountPoint{}, "mount path must be absolute"},
		{"/", MountPoint{}, "destination can't be '/'"},
		{"/a:/x/..", MountPoint{}, "destination can't be '/'"},
		{"named:/a:rshared", MountPoint{}, "field BindOptions must not be specified"},
		{"/x:/a:nocopy", MountPoint{}, "field VolumeOptions must not be specified"},
		{"a b:/c", MountPoint{}, "includes invalid characters"},
		{"../x:/c", MountPoint{}, "includes invalid characters"},
		{"v:/c", MountPoint{}, "too short"},
		{"/a\x00b:/c", MountPoint{}, "zero byte"},
	} {
		got, err := ParseVolume(c.in)
		wantErr(t, c.in, err, c.err)
		if err == nil && !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q is %+v, not %+v", c.in, got, c.want)
		}
	}
}

func TestParseMount(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Mount
		err  string
	}{
		{"type=bind,src=/a,dst=/b", Mount{Type: "bind", Source: "/a", Target: "/b"}, ""},
		{"target=/b,source=v1", Mount{Type: "volume", Source: "v1", Target: "/b"}, ""},
		{"type=bind,source=/a,destination=/b,readonly,bind-propagation=rslave", Mount{Type: "bind", Source: "/a", Target: "/b", ReadOnly: true, BindOptions: &BindOptions{Propagation: "rslave"}}, ""},
		{"type=bind,src=/a,dst=/b,ro=false,bind-nonrecursive", Mount{Type: "bind", Source: "/a", Target: "/b", BindOptions: &BindOptions{NonRecursive: true}}, ""},
		{"type=bind,src=/a,dst=/b,ro,bind-recursive=readonly", Mount{Type: "bind", Source: "/a", Target: "/b", ReadOnly: true, BindOptions: &BindOptions{ReadOnlyForceRecursive: true}}, ""},
		{"TYPE=volume,dst=/b,volume-nocopy,volume-label=a=b,volume-driver=local,volume-opt=o=x", Mount{Type: "volume", Target: "/b",
			VolumeOptions: &VolumeOptions{NoCopy: true, Labels: map[string]string{"a": "b"}, DriverConfig: &VolumeDriver{Name: "local", Options: map[string]string{"o": "x"}}}}, ""},
		{`type=bind,"src=/a,b",dst=/c`, Mount{Type: "bind", Source: "/a,b", Target: "/c"}, ""},
		{"type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1770", Mount{Type: "tmpfs", Target: "/t", TmpfsOptions: &TmpfsOptions{SizeBytes: 1 << 20, Mode: 0o1770}}, ""},

		{"", Mount{}, "parse mount"},
		{"type=foo", Mount{}, "target is required"},
		{"type=foo,dst=/a", Mount{}, "mount type unknown"},
		{"src=a", Mount{}, "target is required"},
		{"type=,dst=/a", Mount{}, "type is required"},
		{"type=bind,foo=bar", Mount{}, "unexpected key 'foo' in 'foo=bar'"},
		{"type=bind,bind-foo=bar", Mount{}, "unexpected key 'bind-foo'"},
		{"type=bind,foo", Mount{}, "invalid field 'foo' must be a key=value pair"},
		{"type=bind,dst=/a", Mount{}, "field Source must not be empty"},
		{"type=bind,src=rel,dst=/a", Mount{}, "mount path must be absolute"},
		{"type=tmpfs,dst=/a,src=b", Mount{}, `invalid mount config for type "tmpfs": field Source must not be specified`},
		{"type=volume,dst=/a,bind-propagation=shared", Mount{}, "cannot mix 'bind-*' options with mount type 'volume'"},
		{"type=bind,src=/a,dst=/b,volume-nocopy", Mount{}, "cannot mix 'volume-*' options with mount type 'bind'"},
		{"type=bind,src=/a,dst=/b,tmpfs-size=1", Mount{}, "cannot mix 'tmpfs-*' options with mount type 'bind'"},
		{"type=bind,src=/a,dst=/b,bind-propagation=x", Mount{}, "invalid propagation mode: x"},
		{"type=bind,src=/a,dst=/b,bind-recursive=readonly", Mount{}, "requires 'readonly'"},
		{"type=bind,src=/a,dst=/b,readonly=maybe", Mount{}, "invalid value for readonly: maybe"},
		{"type=tmpfs,dst=/t,tmpfs-mode=9", Mount{}, "invalid value for tmpfs-mode: 9"},
		{"type=tmpfs,dst=/t,tmpfs-size=-1", Mount{}, "invalid value for tmpfs-size"},
		{"src=v1,dst=/t,volume-subpath=../x", Mount{}, "volume-subpath is not supported"},
		{"dst=/t,readonly", Mount{}, "must not set ReadOnly mode when using anonymous volumes"},
	} {
		got, err := ParseMount(c.in)
		wantErr(t, c.in, err, c.err)
		if err == nil && !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q is %+v, not %+v", c.in, got, c.want)
		}
	}
}

func TestParseTmpfs(t *testing.T) {
	for _, c := range []struct {
		in   string
		want []string
		err  string
	}{
		{"/t", []string{"noexec", "nosuid", "nodev", "rprivate"}, ""},
		{"/t:exec,size=10m", []string{"nosuid", "nodev", "rprivate", "exec", "size=10m"}, ""},
		{"/t:size=1k,size=2k,ro,rw", []string{"noexec", "nosuid", "nodev", "rprivate", "size=2k", "rw"}, ""},
		{"/t:defaults", []string{"noexec", "nosuid", "nodev", "rprivate"}, ""},
		{"t", nil, "invalid mount path: 't' mount path must be absolute"},
		{"/t:foo", nil, `invalid tmpfs option "foo"`},
		{"/t:size=", nil, `invalid tmpfs option "size="`},
		{"/t:source=/dev/sda", nil, "invalid tmpfs option"},
		{"/", nil, "destination can't be '/'"},
	} {
		dst, opts, err := ParseTmpfs(c.in)
		wantErr(t, c.in, err, c.err)
		if err != nil {
			continue
		}
		if p, err := tmpfsPoint(dst, opts); err != nil || !slices.Equal(p.TmpfsOptions, c.want) {
			t.Errorf("%q gives %q, %v, not %q", c.in, p.TmpfsOptions, err, c.want)
		}
	}
}

func TestParseDevice(t *testing.T) {
	for _, c := range []struct {
		in   string
		want DeviceMapping
		err  string
	}{
		{"/dev/null", DeviceMapping{"/dev/null", "/dev/null", "rwm"}, ""},
		{"/dev/null:r", DeviceMapping{"/dev/null", "/dev/null", "r"}, ""},
		{"/dev/null:/dev/x", DeviceMapping{"/dev/null", "/dev/x", "rwm"}, ""},
		{"/dev/null:/dev/x:mr", DeviceMapping{"/dev/null", "/dev/x", "mr"}, ""},
		{"/dev/null::r", DeviceMapping{"/dev/null", "/dev/null", "r"}, ""},
		{"/dev/null:/a:b", DeviceMapping{}, "bad mode specified: b"},
		{"/dev/null:/a:rr", DeviceMapping{}, "bad mode specified: rr"},
		{"/dev/null:/a:r:w", DeviceMapping{}, "invalid device specification"},
		{"null", DeviceMapping{}, "not an absolute path"},
		{"/dev/null:x", DeviceMapping{}, "not an absolute path"},
		{"", DeviceMapping{}, "not an absolute path"},
	} {
		got, err := ParseDevice(c.in)
		wantErr(t, c.in, err, c.err)
		if err == nil && got != c.want {
			t.Errorf("%q is %+v, not %+v", c.in, got, c.want)
		}
	}
}

func TestParseDeviceCgroupRule(t *testing.T) {
	for in, ok := range map[string]bool{
		"c 1:3 rwm": true, "a *:* m": true, "b 8:* r": true,
		"xx": false, "c 1 r": false, "c 1:3": false, "d 1:3 r": false, "c 1:x r": false, "c 1:3 rx": false, "c -1:3 r": false, "c 1:4294967296 r": false,
	} {
		if _, err := ParseDeviceCgroupRule(in); (err == nil) != ok {
			t.Errorf("%q: %v", in, err)
		}
	}
	r, err := ParseDeviceCgroupRule("c 42:* rw")
	if err != nil || !r.Allow || r.Type != "c" || *r.Major != 42 || *r.Minor != -1 || r.Access != "rw" {
		t.Errorf("the rule is %+v, %v", r, err)
	}
}

func TestParseUlimit(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Ulimit
		err  string
	}{
		{"nofile=5", Ulimit{"nofile", 5, 5}, ""},
		{"nofile=5:7", Ulimit{"nofile", 7, 5}, ""},
		{"core=-1", Ulimit{"core", -1, -1}, ""},
		{"core=0:-1", Ulimit{"core", -1, 0}, ""},
		{"x=1", Ulimit{}, "invalid ulimit type: x"},
		{"nofile=5:2", Ulimit{}, "ulimit soft limit must be less than or equal to hard limit: 5 > 2"},
		{"nofile=-1:2", Ulimit{}, "soft: -1 (unlimited), hard: 2"},
		{"nofile", Ulimit{}, "invalid ulimit argument: nofile"},
		{"nofile=", Ulimit{}, "invalid ulimit value"},
		{"nofile=1:", Ulimit{}, "invalid ulimit value"},
		{"nofile=1:2:3", Ulimit{}, "too many limit value arguments"},
		{"nofile=-2", Ulimit{}, "invalid ulimit value"},
	} {
		got, err := ParseUlimit(c.in)
		wantErr(t, c.in, err, c.err)
		if err == nil && got != c.want {
			t.Errorf("%q is %+v, not %+v", c.in, got, c.want)
		}
	}
}

func TestParseAmounts(t *testing.T) {
	for in, want := range map[string]int64{"0": 0, "128m": 128 << 20, "1.5g": 3 << 29, "4096": 4096, "1KiB": 1024, "-1": -2, "x": -2, "": -2, "-5m": -2} {
		if got, err := ParseMemory(in); err != nil && want != -2 || err == nil && got != want {
			t.Errorf("ParseMemory(%q) is %d, %v", in, got, err)
		}
	}
	if n, err := ParseMemorySwap("-1"); n != -1 || err != nil {
		t.Errorf("ParseMemorySwap(-1) is %d, %v", n, err)
	}
	for _, c := range []struct {
		in   string
		want int64
		err  string
	}{
		{"1.5", 15e8, ""}, {"3/2", 15e8, ""}, {"0.01", 1e7, ""}, {".5", 5e8, ""},
		{"0.0000000001", 0, "value is too precise"}, {"x", 0, "failed to parse x as a rational number"}, {"", 0, "failed to parse"},
		{"1e999999999", 0, "failed to parse"}, {"1/0", 0, "failed to parse"}, {"99999999999999999999", 0, "too large"},
	} {
		got, err := ParseCPUs(c.in)
		wantErr(t, c.in, err, c.err)
		if err == nil && got != c.want {
			t.Errorf("ParseCPUs(%q) is %d, not %d", c.in, got, c.want)
		}
	}
}

func TestParseBlockIO(t *testing.T) {
	if w, err := ParseWeightDevice("/dev/sda:100"); err != nil || w != (WeightDevice{"/dev/sda", 100}) {
		t.Errorf("%v, %v", w, err)
	}
	if d, err := ParseThrottleBps("/dev/sda:1mb"); err != nil || d != (ThrottleDevice{"/dev/sda", 1 << 20}) {
		t.Errorf("%v, %v", d, err)
	}
	if d, err := ParseThrottleIOps("/dev/sda:10"); err != nil || d != (ThrottleDevice{"/dev/sda", 10}) {
		t.Errorf("%v, %v", d, err)
	}
	weight := func(s string) error { _, err := ParseWeightDevice(s); return err }
	bps := func(s string) error { _, err := ParseThrottleBps(s); return err }
	iops := func(s string) error { _, err := ParseThrottleIOps(s); return err }
	for _, c := range []struct {
		f       func(string) error
		in, err string
	}{
		{weight, "/dev/x:1", "invalid weight for device: /dev/x:1"}, {weight, "x", "bad format: x"}, {weight, "/a:10", "bad format for device path"},
		{bps, "/dev/x:z", "invalid rate for device: /dev/x:z"}, {bps, "/dev/x:-1", "invalid rate"}, {bps, "/dev/x", "bad format"},
		{iops, "/dev/x:1m", "invalid rate for device"}, {iops, "x:1", "bad format for device path"},
	} {
		wantErr(t, c.in, c.f(c.in), c.err)
	}
}

func TestParseRestartPolicy(t *testing.T) {
	for _, c := range []struct {
		in   string
		want RestartPolicy
		err  string
	}{
		{"", RestartPolicy{Name: "no"}, ""}, {"always", RestartPolicy{Name: "always"}, ""},
		{"on-failure:3", RestartPolicy{"on-failure", 3}, ""}, {"unless-stopped", RestartPolicy{Name: "unless-stopped"}, ""},
		{"foo", RestartPolicy{}, "invalid restart policy 'foo'"},
		{"always:3", RestartPolicy{}, "maximum retry count cannot be used with restart policy 'always'"},
		{"on-failure:-1", RestartPolicy{}, "maximum retry count cannot be negative"},
		{"on-failure:x", RestartPolicy{}, "maximum retry count must be an integer"},
	} {
		got, err := ParseRestartPolicy(c.in)
		wantErr(t, c.in, err, c.err)
		if err == nil && got != c.want {
			t.Errorf("%q is %+v, not %+v", c.in, got, c.want)
		}
	}
}

func TestParseStopSignal(t *testing.T) {
	for in, want := range map[string]int{
		"TERM": 15, "SIGKILL": 9, "int": 2, "15": 15, "64": 64, "SIGRTMIN": 34, "RTMIN+3": 37, "rtmax-1": 63, "SIGRTMAX": 64,
		"FOO": 0, "0": 0, "65": 0, "-9": 0, "": 0, "RTMIN+31": 0, "RTMIN-1": 0, "RTMAX-": 0, "SIG": 0,
	} {
		got, err := ParseStopSignal(in)
		if int(got) != want || (err == nil) != (want != 0) {
			t.Errorf("%q is %d, %v, not %d", in, got, err, want)
		}
	}
}

func TestParseSecurityOpt(t *testing.T) {
	for _, c := range []struct {
		in   string
		want SecurityOpt
		err  string
	}{
		{"no-new-privileges", SecurityOpt{"no-new-privileges", "true"}, ""},
		{"no-new-privileges=false", SecurityOpt{"no-new-privileges", "false"}, ""},
		{"seccomp:unconfined", SecurityOpt{"seccomp", "unconfined"}, ""},
		{`seccomp={"a":1}`, SecurityOpt{"seccomp", `{"a":1}`}, ""},
		{"label=type:x", SecurityOpt{"label", "type:x"}, ""},
		{"mask=/a:/b", SecurityOpt{"mask", "/a:/b"}, ""},
		{"foo", SecurityOpt{}, `invalid --security-opt: "foo"`},
		{"foo=bar", SecurityOpt{}, `invalid --security-opt: "foo=bar"`},
		{"seccomp=/file", SecurityOpt{}, "not valid JSON"},
		{"systempaths=x", SecurityOpt{}, "invalid --security-opt"},
		{"apparmor=", SecurityOpt{}, "invalid --security-opt"},
		{"no-new-privileges=maybe", SecurityOpt{}, "invalid --security-opt"},
	} {
		got, err := ParseSecurityOpt(c.in)
		wantErr(t, c.in, err, c.err)
		if err == nil && got != c.want {
			t.Errorf("%q is %+v, not %+v", c.in, got, c.want)
		}
	}
}

func TestParseSysctl(t *testing.T) {
	for in, ok := range map[string]bool{
		"net.ipv4.ip_forward=1": true, "kernel.msgmax=1": true, "fs.mqueue.msg_max=10": true, "net.core.somaxconn=": true,
		"kernel.core_pattern=|/x": false, "foo": false, "kernel.hostname=x": false, "net.a/../../kernel.core_pattern=x": false, "net...kernel=1": false, "vm.swappiness=1": false,
	} {
		if _, _, err := ParseSysctl(in); (err == nil) != ok {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestParseNetworkArguments(t *testing.T) {
	for in, want := range map[string]string{
		"a:1.2.3.4": "a:1.2.3.4", "a=1.2.3.4": "a:1.2.3.4", "a:::1": "a:::1", "a:[::1]": "a:::1", "a:host-gateway": "a:host-gateway",
		"x": "", ":1.2.3.4": "", "a:": "", "a:b": "", "a b:1.2.3.4": "", "a\n127.0.0.1 evil:1.2.3.4": "",
	} {
		if got, err := ParseExtraHost(in); got != want || (err == nil) != (want != "") {
			t.Errorf("ParseExtraHost(%q) is %q, %v", in, got, err)
		}
	}
	if s, err := ParseIP("1.2.3.4"); err != nil || s != "1.2.3.4" {
		t.Error(s, err)
	}
	_, err := ParseIP("x")
	wantErr(t, "x", err, "IP address is not correctly formatted: x")
	if s, err := ParseMAC("92-D0-C6-0A-29-33"); err != nil || s != "92:d0:c6:0a:29:33" {
		t.Error(s, err)
	}
	_, err = ParseMAC("x")
	wantErr(t, "x", err, "x is not a valid mac address")
}

func TestParseIDMapping(t *testing.T) {
	if m, err := ParseIDMapping("0:100000:65536"); err != nil || m != (specs.LinuxIDMapping{ContainerID: 0, HostID: 100000, Size: 65536}) {
		t.Error(m, err)
	}
	for _, in := range []string{"", "0", "0:1:0", "0:1:2:3", "a:1", "0:4294967295:1", "4294967295:0", "0:-1"} {
		if m, err := ParseIDMapping(in); err == nil {
			t.Errorf("%q is taken as %+v", in, m)
		}
	}
}

func TestParseLabel(t *testing.T) {
	k, v, err := ParseLabel("a=b=c")
	if k != "a" || v != "b=c" || err != nil {
		t.Error(k, v, err)
	}
	_, _, err = ParseLabel("=")
	wantErr(t, "=", err, "invalid label '=': empty name")
}

func lookupA(name string) (string, bool) { return "mine", name == "A" }

func TestParseEnv(t *testing.T) {
	for in, want := range map[string]string{"X=1": "X=1", "X=": "X=", "A": "A=mine", "B": "B", "=x": "", "": "", "A=\x00": ""} {
		got, err := ParseEnv(in, lookupA)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q is %q, %v", in, got, err)
		}
	}
}

func TestParseEnvFile(t *testing.T) {
	for _, c := range []struct {
		in   string
		want []string
		err  string
	}{
		{"\ufeffX=1\n# c\n\n  Y = z\n", nil, "variable 'Y ' contains whitespaces"},
		{"\ufeffX=1\n  # c\n\n  Y= z # w\nA\nB\nQ=\"q\"\r\n", []string{"X=1", "Y= z # w", "A=mine", `Q="q"`}, ""},
		{"=x", nil, "no variable name on line '=x'"},
		{"a b", nil, "contains whitespaces"},
		{"X=\xff", nil, "invalid bytes at line 1"},
		{"X=1\nY=\x00", nil, "invalid bytes at line 2"},
		{"", nil, ""},
	} {
		got, err := ParseEnvFile(strings.NewReader(c.in), "f", lookupA)
		wantErr(t, c.in, err, c.err)
		if err == nil && !slices.Equal(got, c.want) {
			t.Errorf("%q is %q, not %q", c.in, got, c.want)
		}
	}
}

func TestLookupUser(t *testing.T) {
	for _, c := range []struct {
		spec     string
		extra    []string
		uid, gid uint32
		groups   []uint32
		home     string
		err      string
	}{
		{"", nil, 0, 0, []uint32{0, 10}, "/root", ""},
		{"app", nil, 1000, 1000, []uint32{1000, 10}, "/home/app", ""},
		{"1000", nil, 1000, 1000, []uint32{1000, 10}, "/home/app", ""},
		{"app:wheel", nil, 1000, 10, []uint32{10}, "/home/app", ""},
		{"app:77", nil, 1000, 77, []uint32{77}, "/home/app", ""},
		{"1234:wheel", []string{"app", "55"}, 1234, 10, []uint32{10, 55, 1000}, "/", ""},
		{"77", nil, 77, 0, []uint32{0}, "/", ""},
		{"nosuch", nil, 0, 0, nil, "", "unable to find user nosuch: no matching entries in passwd file"},
		{"0:nosuch", nil, 0, 0, nil, "", "unable to find group nosuch: no matching entries in group file"},
		{"", []string{"nosuch"}, 0, 0, nil, "", "nosuch"},
		{"0:0:0", nil, 0, 0, nil, "", "invalid user"},
		{"+0", nil, 0, 0, nil, "", "invalid user"},
		{"app:+0", nil, 0, 0, nil, "", "invalid user"},
		{"-1", nil, 0, 0, nil, "", "range"},
		{"99999999999", nil, 0, 0, nil, "", "range"},
		{"", []string{"99999999999"}, 0, 0, nil, "", "range"},
		{"a\nroot", nil, 0, 0, nil, "", "invalid user"},
	} {
		u, home, err := LookupUser(c.spec, c.extra, []byte(testPasswd), []byte(testGroup))
		wantErr(t, c.spec, err, c.err)
		if err != nil {
			continue
		}
		if home == "" {
			home = "/"
		}
		if u.UID != c.uid || u.GID != c.gid || !slices.Equal(u.AdditionalGids, c.groups) || home != c.home {
			t.Errorf("%q is %+v with home %q", c.spec, u, home)
		}
	}
}

// A line that is broken off must not make its user root.
func TestBrokenPasswd(t *testing.T) {
	for _, passwd := range []string{"app", "app:x", "app:x::", "app:x:abc:0::/:", "app:x:-5:5::/:", "app:x:5:4294967296::/:", "app:x: 5:5::/:"} {
		if u, _, err := LookupUser("app", nil, []byte(passwd), nil); err == nil {
			t.Errorf("%q makes app %+v", passwd, u)
		}
	}
	if u, _, err := LookupUser("app:g", nil, []byte("bad\napp:x:5:6"), []byte("g:x:\ng:x:7")); err != nil || u.UID != 5 || u.GID != 7 {
		t.Errorf("the short but whole lines give %+v, %v", u, err)
	}
}

func FuzzParseVolume(f *testing.F) {
	for _, s := range []string{"/a", "/a:/b", "vol:/b:ro,z", "/a:/b:rshared,nocopy", ":", "::", "/a:/../..:ro"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseVolume(s)
		if err != nil {
			return
		}
		if !strings.HasPrefix(m.Destination, "/") || m.Destination == "/" || strings.Contains(m.Destination, "/../") {
			t.Errorf("%q mounts at %q", s, m.Destination)
		}
		if m.Type == MountBind && !strings.HasPrefix(m.Source, "/") || m.Type == MountVolume && strings.ContainsAny(m.Name, "/\x00") {
			t.Errorf("%q has the source %q %q", s, m.Source, m.Name)
		}
	})
}

func FuzzParseMount(f *testing.F) {
	for _, s := range []string{"type=bind,src=/a,dst=/b,ro", "dst=/a,volume-opt=a=b", "type=tmpfs,dst=/t,tmpfs-size=1m", `"src=a,b",dst=/c`, "type=volume,src=v1,dst=/b,volume-subpath=a/../.."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseMount(s)
		if err != nil {
			return
		}
		p, err := m.point()
		if err != nil {
			t.Fatalf("%q is parsed but not a mount: %v", s, err)
		}
		if !strings.HasPrefix(p.Destination, "/") || p.Destination == "/" {
			t.Errorf("%q mounts at %q", s, p.Destination)
		}
	})
}

func FuzzParseDevice(f *testing.F) {
	for _, s := range []string{"/dev/null", "/dev/null:/a:rwm", "/dev/null:r", "::"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDevice(s)
		if err == nil && (!strings.HasPrefix(d.PathInContainer, "/") || !validDeviceMode(d.CgroupPermissions)) {
			t.Errorf("%q is %+v", s, d)
		}
	})
}

func FuzzParseUlimit(f *testing.F) {
	for _, s := range []string{"nofile=1:2", "core=-1", "x=", "=:"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseUlimit(s)
		if err == nil && u.check() != nil {
			t.Errorf("%q is taken as %+v", s, u)
		}
	})
}

func FuzzLookupUser(f *testing.F) {
	f.Add("app:wheel", testPasswd, testGroup)
	f.Add("0", "root:x:0:0", "::::")
	f.Add("1:2", ":::\n\n", "a:b:-1:")
	f.Fuzz(func(t *testing.T, spec, passwd, group string) {
		u, _, err := LookupUser(spec, nil, []byte(passwd), []byte(group))
		if err == nil && (len(u.AdditionalGids) == 0 || u.AdditionalGids[0] != u.GID) {
			t.Errorf("%q is %+v", spec, u)
		}
		if err == nil && u.UID == 0 && strings.Trim(spec, "0123456789:") != "" && !strings.Contains(passwd, ":") {
			t.Errorf("%q became root without an entry", spec)
		}
	})
}

func FuzzParseEnvFile(f *testing.F) {
	for _, s := range []string{"A=1\nB\n#c", "\ufeffX=", "=\n", "a b=c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		list, err := ParseEnvFile(strings.NewReader(s), "f", lookupA)
		if err != nil {
			return
		}
		for _, e := range list {
			if name, _, ok := strings.Cut(e, "="); !ok || name == "" || strings.ContainsAny(name, " \t\x00\n") {
				t.Errorf("%q gives the variable %q", s, e)
			}
		}
	})
}
