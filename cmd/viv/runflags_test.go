package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"vivarium/bundle"
)

// parseRun reads a command line as `viv create` does.
func parseRun(args ...string) (bundle.Options, error) {
	fs := pflag.NewFlagSet("create", pflag.ContinueOnError)
	f := addCreateFlags(fs)
	if err := fs.Parse(args); err != nil {
		return bundle.Options{}, err
	}
	return f.Options(fs.Arg(0), fs.Args()[1:])
}

func TestCreateFlags(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	envFile, labelFile := write("env", "A=file\nB=file\n"), write("labels", "l=file\nm\n")
	profile := write("seccomp.json", "{\n \"defaultAction\": \"SCMP_ACT_ALLOW\"\n}\n")
	t.Setenv("VIV_TEST_PASSED", "on")
	yes, ten, three := true, int64(10), 3
	for _, c := range []struct {
		args string
		get  func(o bundle.Options) any
		want any
	}{
		{"-itm 128m img sh -c -x", func(o bundle.Options) any {
			return []any{o.Config.Tty, o.Config.OpenStdin, o.HostConfig.Memory, o.Config.Image, o.Config.Cmd}
		}, []any{true, true, int64(128 << 20), "img", []string{"sh", "-c", "-x"}}},
		{"img -t --rm", func(o bundle.Options) any { return []any{o.Config.Tty, o.HostConfig.AutoRemove, o.Config.Cmd} }, []any{false, false, []string{"-t", "--rm"}}},
		{"--env-file " + envFile + " -e B=flag -e VIV_TEST_PASSED img", func(o bundle.Options) any { return o.Config.Env }, []string{"A=file", "B=file", "B=flag", "VIV_TEST_PASSED=on"}},
		{"--label-file " + labelFile + " -l l=flag img", func(o bundle.Options) any { return o.Config.Labels }, map[string]string{"l": "flag", "m": ""}},
		{"--entrypoint= img", func(o bundle.Options) any { return o.Config.Entrypoint }, []string{""}},
		{"img", func(o bundle.Options) any { return o.Config.Entrypoint }, []string(nil)},
		{"-v /a:/b:ro -v /c -v vol:/d img", func(o bundle.Options) any { return []any{o.HostConfig.Binds, o.Config.Volumes} },
			[]any{[]string{"/a:/b:ro", "vol:/d"}, map[string]struct{}{"/c": {}}}},
		{"--mount type=bind,src=/a,dst=/b --tmpfs /t:size=1m img", func(o bundle.Options) any { return []any{o.HostConfig.Mounts, o.HostConfig.Tmpfs} },
			[]any{[]bundle.Mount{{Type: "bind", Source: "/a", Target: "/b"}}, map[string]string{"/t": "size=1m"}}},
		{"--net host --dns-opt a --dns-option b img", func(o bundle.Options) any { return []any{o.HostConfig.NetworkMode, o.HostConfig.DnsOptions} }, []any{"host", []string{"a", "b"}}},
		{"-h name -u 1:2 -w /x img", func(o bundle.Options) any { return []any{o.Config.Hostname, o.Config.User, o.Config.WorkingDir} }, []any{"name", "1:2", "/x"}},
		{"-p 80:80 -p 53/udp -P --expose 90 img", func(o bundle.Options) any { return []any{o.Publish, o.HostConfig.PublishAllPorts, o.Expose} },
			[]any{[]string{"80:80", "53/udp"}, true, []string{"90"}}},
		{"--security-opt seccomp=" + profile + " --security-opt no-new-privileges img", func(o bundle.Options) any { return o.HostConfig.SecurityOpt },
			[]string{`seccomp={"defaultAction":"SCMP_ACT_ALLOW"}`, "no-new-privileges"}},
		{"--memory-swap -1 --memory-swappiness 10 --cpus 1.5 -c 5 --init --pids-limit 10 img", func(o bundle.Options) any {
			h := o.HostConfig
			return []any{h.MemorySwap, *h.MemorySwappiness, h.NanoCpus, h.CpuShares, *h.Init, *h.PidsLimit}
		}, []any{int64(-1), ten, int64(15e8), int64(5), yes, ten}},
		{"img", func(o bundle.Options) any {
			h := o.HostConfig
			return []bool{h.MemorySwappiness == nil, h.Init == nil, h.PidsLimit == nil, h.OomKillDisable == nil, o.Config.StopTimeout == nil}
		}, []bool{true, true, true, true, true}},
		{"--stop-timeout 3 --stop-signal INT --restart on-failure:2 --log-opt max-size=1m img", func(o bundle.Options) any {
			return []any{*o.Config.StopTimeout, o.Config.StopSignal, o.HostConfig.RestartPolicy, o.HostConfig.LogConfig.Config}
		}, []any{three, "INT", bundle.RestartPolicy{Name: "on-failure", MaximumRetryCount: 2}, map[string]string{"max-size": "1m"}}},
		{"--ulimit nofile=1:2 --device /dev/null:r --device-read-bps /dev/sda:1k img", func(o bundle.Options) any {
			return []any{o.HostConfig.Ulimits, o.HostConfig.Devices, o.HostConfig.BlkioDeviceReadBps}
		}, []any{[]bundle.Ulimit{{Name: "nofile", Soft: 1, Hard: 2}}, []bundle.DeviceMapping{{PathOnHost: "/dev/null", PathInContainer: "/dev/null", CgroupPermissions: "r"}},
			[]bundle.ThrottleDevice{{Path: "/dev/sda", Rate: 1024}}}},
		{"--userns private --uidmap 0:1000:10 --annotation a=b --sysctl net.x=1 img", func(o bundle.Options) any {
			return []any{o.UIDMappings[0].HostID, o.HostConfig.Annotations, o.HostConfig.Sysctls}
		}, []any{uint32(1000), map[string]string{"a": "b"}, map[string]string{"net.x": "1"}}},
		{"--no-healthcheck --disable-content-trust=false --add-host a:1.2.3.4 --mac-address 02-00-00-00-00-01 img", func(o bundle.Options) any {
			return []any{o.HostConfig.ExtraHosts, o.Network.MacAddress}
		}, []any{[]string{"a:1.2.3.4"}, "02:00:00:00:00:01"}},
		{"-a stderr img", func(o bundle.Options) any {
			return []bool{o.Config.AttachStdin, o.Config.AttachStdout, o.Config.AttachStderr}
		}, []bool{false, false, true}},
	} {
		o, err := parseRun(strings.Fields(c.args)...)
		if err != nil {
			t.Errorf("%s: %v", c.args, err)
			continue
		}
		if got := c.get(o); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %#v, want %#v", c.args, got, c.want)
		}
	}
}

func TestCreateFlagErrors(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	for args, want := range map[string]string{
		"--health-cmd x --no-healthcheck":     "--no-healthcheck conflicts with --health-* options",
		"--runtime runc":                      "own runtime only",
		"--gpus all":                          "no GPU support",
		"--storage-opt size=1":                "cannot be limited",
		"--isolation hyperv":                  "Windows only",
		"--use-api-socket":                    "there is no daemon",
		"--link a":                            "--link is not supported",
		"--volume-driver nfs":                 "there is only the driver local",
		"--network a --network b":             "several networks",
		"--network name=x,ip=1.2.3.4":         "long form",
		"--memory x":                          "invalid size: 'x'",
		"--cpus x":                            "failed to parse x as a rational number",
		"--cpus 1.0000000001":                 "value is too precise",
		"-e =x":                               "invalid environment variable: =x",
		"--env-file " + none:                  "no such file or directory",
		"-l =":                                "invalid label '=': empty name",
		"--security-opt seccomp=" + none:      "opening seccomp profile (" + none + ") failed",
		"--security-opt foo":                  `invalid --security-opt: "foo"`,
		"--restart always --rm":               "conflicting options: cannot specify both --restart and --rm",
		"--pull x":                            "invalid pull option: 'x'",
		"--dns x":                             "IP address is not correctly formatted: x",
		"--mac-address x":                     "x is not a valid mac address",
		"-a foo":                              "valid streams are STDIN, STDOUT and STDERR",
		"--mount type=foo":                    "target is required",
		"-v a:b:c:d":                          "invalid volume specification: 'a:b:c:d'",
		"--stop-timeout x":                    "invalid argument",
		"-m 1k":                               "Minimum memory limit allowed is 6MB",
		"--annotation =x":                     "invalid annotation",
		"--log-opt a":                         "invalid log option",
		"--nosuchflag":                        "unknown flag",
		"--sysctl kernel.core_pattern=x":      "is not allowed",
		"--device-cgroup-rule xx":             "invalid device cgroup format 'xx'",
		"--uts container:x":                   "invalid UTS mode",
		"--tmpfs a":                           "mount path must be absolute",
		"--blkio-weight-device /dev/x:1":      "invalid weight for device",
		"--ulimit nofile=5:2":                 "5 > 2",
		"--uidmap 0:1":                        "need --userns private",
		"--add-host x":                        `bad format for add-host: "x"`,
		"--userns private --gidmap 0:1:0":     "size is 0",
		"--network container:x --dns 1.1.1.1": "dns and the network mode",
	} {
		_, err := parseRun(append(strings.Fields(args), "img", "true")...)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: the error is %v, want %q", args, err, want)
		}
	}
}

// A relative source is relative to where the command was typed.
func TestRelativeVolume(t *testing.T) {
	t.Chdir(t.TempDir())
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	o, err := parseRun("-v", "./a:/b", "-v", ".:/c:ro", "img")
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{wd + "/a:/b", wd + ":/c:ro"}; !slices.Equal(o.HostConfig.Binds, want) {
		t.Errorf("binds are %q, not %q", o.HostConfig.Binds, want)
	}
}

// The flags must live with those that cobra adds by itself, and give the same
// options each time they are asked.
func TestFlagsInCobra(t *testing.T) {
	var f *createFlags
	var first, second bundle.Options
	cmd := &cobra.Command{Use: "create", SilenceUsage: true, SilenceErrors: true, RunE: func(_ *cobra.Command, args []string) (err error) {
		if first, err = f.Options(args[0], args[1:]); err != nil {
			return err
		}
		second, err = f.Options(args[0], args[1:])
		return err
	}}
	f = addCreateFlags(cmd.Flags())
	cmd.SetArgs([]string{"-h", "name", "-v", "/a:/b", "--cap-add", "chown", "--dns", "1.1.1.1", "-e", "A=1", "img", "-h"})
	if err := cmd.Execute(); err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal(first)
	b, _ := json.Marshal(second)
	if string(a) != string(b) {
		t.Errorf("asked twice, the options differ:\n%s\n%s", a, b)
	}
	if first.Config.Hostname != "name" || !slices.Equal(first.Config.Cmd, []string{"-h"}) {
		t.Errorf("-h was read as %q, the command as %q", first.Config.Hostname, first.Config.Cmd)
	}
}
