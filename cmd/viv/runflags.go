package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"vivarium/bundle"
	"vivarium/image"
	"vivarium/network"
)

// createFlags holds the flags that `viv create` and `viv run` share, as they came
// from the command line. Flags whose grammar belongs to a pflag.Value are checked
// while they are read; Options checks the rest.
type createFlags struct {
	fs *pflag.FlagSet
	o  bundle.Options

	quiet         bool
	healthCmd     string
	health        image.Healthcheck
	noHealthcheck bool
	stopTimeout   int

	attach                                  listFlag
	interactive                             bool
	env, envFile, label, labelFile          []string
	entrypoint, restart, macs               string
	volumes, tmpfs, mounts, devices         listFlag
	securityOpt, sysctl, annotation, logOpt listFlag
	ulimit, deviceRules, uidMap, gidMap     listFlag
	networks, links                         []string
	shmSize, memory, memoryRes, memorySwap  sizeFlag
	kernelMemory                            sizeFlag
	cpus                                    string
	pidsLimit, swappiness                   int64
	blkioWeight                             uint16
	oomKillDisable, init                    bool
	weightDevice                            listFlag
	readBps, writeBps, readIOps, writeIOps  listFlag
	dns, extraHosts                         listFlag
}

// listFlag is a flag that may be given several times; each argument is checked by
// parse as it comes, so that the message names the flag.
type listFlag struct {
	args  []string
	kind  string
	parse func(string) error
}

func (l *listFlag) String() string { return strings.Join(l.args, ",") }
func (l *listFlag) Type() string   { return l.kind }
func (l *listFlag) Set(s string) error {
	if l.parse != nil {
		if err := l.parse(s); err != nil {
			return err
		}
	}
	l.args = append(l.args, s)
	return nil
}

// sizeFlag is an amount of bytes with an optional unit.
type sizeFlag struct {
	n     int64
	parse func(string) (int64, error)
}

func (s *sizeFlag) String() string {
	if s.n == 0 {
		return ""
	}
	return strconv.FormatInt(s.n, 10)
}
func (s *sizeFlag) Type() string { return "bytes" }
func (s *sizeFlag) Set(v string) (err error) {
	parse := s.parse
	if parse == nil {
		parse = bundle.ParseMemory
	}
	s.n, err = parse(v)
	return err
}

// refusedFlag stands for a flag of Docker's that does nothing here: using it is an
// error that says why, which is better than "unknown flag" and than silence.
type refusedFlag struct{ kind, why string }

func (r *refusedFlag) String() string   { return "" }
func (r *refusedFlag) Type() string     { return r.kind }
func (r *refusedFlag) Set(string) error { return errors.New(r.why) }

// check turns a parser into the parse function of a listFlag.
func check[T any](parse func(string) (T, error)) func(string) error {
	return func(s string) error {
		_, err := parse(s)
		return err
	}
}

// addCreateFlags defines on fs every container flag of `viv create` and `viv run`.
// Flags end at the image's name: what follows belongs to the container's command.
func addCreateFlags(fs *pflag.FlagSet) *createFlags {
	f := &createFlags{fs: fs}
	fs.SetInterspersed(false)
	fs.SetNormalizeFunc(normalizeAlias)
	// Defined here because cobra would give it the short form -h, which is the host name's.
	fs.Bool("help", false, "print the usage")
	f.addProcess(fs)
	f.addFiles(fs)
	f.addNetwork(fs)
	f.addIsolation(fs)
	f.addLimits(fs)
	f.addLife(fs)
	addRefused(fs)
	return f
}

// normalizeAlias maps Docker's older spellings to the present ones.
func normalizeAlias(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	switch name {
	case "net":
		name = "network"
	case "net-alias":
		name = "network-alias"
	case "dns-opt":
		name = "dns-option"
	}
	return pflag.NormalizedName(name)
}

func (f *createFlags) list(fs *pflag.FlagSet, l *listFlag, name, short, kind, help string, parse func(string) error) {
	l.kind, l.parse = kind, parse
	fs.VarP(l, name, short, help)
}

func (f *createFlags) addProcess(fs *pflag.FlagSet) {
	c := &f.o.Config
	f.list(fs, &f.attach, "attach", "a", "stream", "attach to stdin, stdout or stderr", checkStream)
	fs.BoolVarP(&f.interactive, "interactive", "i", false, "keep stdin open even if nothing is attached")
	fs.BoolVarP(&c.Tty, "tty", "t", false, "give the container a terminal")
	fs.StringArrayVarP(&f.env, "env", "e", nil, "set an environment variable: NAME=value, or NAME to pass yours on")
	fs.StringArrayVar(&f.envFile, "env-file", nil, "read environment variables from a file")
	fs.StringVarP(&c.WorkingDir, "workdir", "w", "", "working directory in the container")
	fs.StringVarP(&c.User, "user", "u", "", "user (name or ID), with an optional :group")
	fs.StringArrayVar(&f.o.HostConfig.GroupAdd, "group-add", nil, "an additional group of the process (name or ID)")
	fs.StringVar(&f.entrypoint, "entrypoint", "", "program to run instead of the image's entrypoint")
	fs.BoolVar(&f.init, "init", false, "run a small init that reaps processes and passes signals on")
	fs.StringArrayVarP(&f.label, "label", "l", nil, "label the container: name=value")
	fs.StringArrayVar(&f.labelFile, "label-file", nil, "read labels from a file")
	f.list(fs, &f.annotation, "annotation", "", "name=value", "annotation for the OCI runtime", nil)
}

func (f *createFlags) addFiles(fs *pflag.FlagSet) {
	h := &f.o.HostConfig
	f.list(fs, &f.volumes, "volume", "v", "volume", "bind a host path or a volume: [source:]destination[:mode]", nil)
	f.list(fs, &f.mounts, "mount", "", "mount", "mount: type=bind|volume|tmpfs,source=…,target=…[,…]", check(bundle.ParseMount))
	f.list(fs, &f.tmpfs, "tmpfs", "", "path[:options]", "mount a tmpfs", func(s string) error {
		_, _, err := bundle.ParseTmpfs(s)
		return err
	})
	fs.StringVar(&h.VolumeDriver, "volume-driver", "", "driver of the volumes of -v (only local)")
	fs.StringArrayVar(&h.VolumesFrom, "volumes-from", nil, "take the mounts of another container")
	fs.BoolVar(&h.ReadonlyRootfs, "read-only", false, "make the root file system read-only")
	f.list(fs, &f.devices, "device", "", "device", "add a host device: host[:container][:rwm]", check(bundle.ParseDevice))
	f.list(fs, &f.deviceRules, "device-cgroup-rule", "", "rule", `allow devices: "c 42:* rwm"`, check(bundle.ParseDeviceCgroupRule))
	fs.Var(&f.shmSize, "shm-size", "size of /dev/shm")
}

func (f *createFlags) addNetwork(fs *pflag.FlagSet) {
	h, n := &f.o.HostConfig, &f.o.Network
	fs.StringArrayVar(&f.networks, "network", nil, "network: bridge, none, host, container:NAME, or a network's name")
	fs.StringArrayVar(&n.Aliases, "network-alias", nil, "another name of the container on its network")
	fs.StringVar(&n.IPAddress, "ip", "", "IPv4 address of the container")
	fs.StringVar(&n.IPv6Address, "ip6", "", "IPv6 address of the container")
	fs.StringArrayVar(&n.LinkLocal, "link-local-ip", nil, "link-local address of the container")
	fs.StringVar(&f.macs, "mac-address", "", "Ethernet address of the container")
	fs.StringArrayVar(&f.links, "link", nil, "link to another container")
	fs.StringArrayVarP(&f.o.Publish, "publish", "p", nil, "publish a port: [[address:]host:]container[/protocol]")
	fs.BoolVarP(&h.PublishAllPorts, "publish-all", "P", false, "publish all exposed ports on random ports")
	fs.StringArrayVar(&f.o.Expose, "expose", nil, "expose a port or a range of ports")
	f.list(fs, &f.dns, "dns", "", "address", "name server of the container", check(bundle.ParseIP))
	fs.StringArrayVar(&h.DnsSearch, "dns-search", nil, "DNS search domain")
	fs.StringArrayVar(&h.DnsOptions, "dns-option", nil, "option for resolv.conf")
	f.list(fs, &f.extraHosts, "add-host", "", "name:address", "add a line to /etc/hosts", check(bundle.ParseExtraHost))
	fs.StringVarP(&f.o.Config.Hostname, "hostname", "h", "", "host name of the container")
	fs.StringVar(&f.o.Config.Domainname, "domainname", "", "NIS domain name of the container")
}

func (f *createFlags) addIsolation(fs *pflag.FlagSet) {
	h := &f.o.HostConfig
	fs.StringArrayVar(&h.CapAdd, "cap-add", nil, "add a capability, or ALL")
	fs.StringArrayVar(&h.CapDrop, "cap-drop", nil, "drop a capability, or ALL")
	fs.BoolVar(&h.Privileged, "privileged", false, "give all capabilities and devices, and take the masks away")
	f.list(fs, &f.securityOpt, "security-opt", "", "option", "no-new-privileges, seccomp=FILE|unconfined, apparmor=…, systempaths=unconfined, mask=…, unmask=…", nil)
	f.list(fs, &f.sysctl, "sysctl", "", "name=value", "set a kernel parameter of the container's namespaces", func(s string) error {
		_, _, err := bundle.ParseSysctl(s)
		return err
	})
	fs.StringVar(&h.PidMode, "pid", "", "PID namespace: private, host or container:NAME")
	fs.StringVar(&h.IpcMode, "ipc", "", "IPC namespace: private, shareable, none, host or container:NAME")
	fs.StringVar(&h.UTSMode, "uts", "", "UTS namespace: private or host")
	fs.StringVar(&h.CgroupnsMode, "cgroupns", "", "cgroup namespace: private or host")
	fs.StringVar(&h.UsernsMode, "userns", "", "user namespace: host or private")
	fs.StringVar(&h.TimensMode, "timens", "", "time namespace: host or private")
	f.list(fs, &f.uidMap, "uidmap", "", "container:host[:size]", "user IDs of a private user namespace", check(bundle.ParseIDMapping))
	f.list(fs, &f.gidMap, "gidmap", "", "container:host[:size]", "group IDs of a private user namespace", check(bundle.ParseIDMapping))
	fs.StringVar(&h.CgroupParent, "cgroup-parent", "", "parent control group")
}

func (f *createFlags) addLimits(fs *pflag.FlagSet) {
	h := &f.o.HostConfig
	f.memorySwap.parse = bundle.ParseMemorySwap
	fs.VarP(&f.memory, "memory", "m", "memory limit")
	fs.Var(&f.memoryRes, "memory-reservation", "soft memory limit")
	fs.Var(&f.memorySwap, "memory-swap", "limit of memory and swap together; -1: unlimited swap")
	fs.Var(&f.kernelMemory, "kernel-memory", "kernel memory limit")
	fs.Int64Var(&f.swappiness, "memory-swappiness", -1, "swappiness, 0 to 100")
	fs.BoolVar(&f.oomKillDisable, "oom-kill-disable", false, "do not kill on out of memory")
	fs.IntVar(&h.OomScoreAdj, "oom-score-adj", 0, "likelihood of being killed on out of memory, -1000 to 1000")
	fs.StringVar(&f.cpus, "cpus", "", "number of CPUs, as 1.5")
	fs.Int64VarP(&h.CpuShares, "cpu-shares", "c", 0, "CPU shares (relative weight)")
	fs.Int64Var(&h.CpuPeriod, "cpu-period", 0, "period of the CPU quota in microseconds")
	fs.Int64Var(&h.CpuQuota, "cpu-quota", 0, "CPU time in each period in microseconds")
	fs.Int64Var(&h.CpuRealtimePeriod, "cpu-rt-period", 0, "period of real-time scheduling in microseconds")
	fs.Int64Var(&h.CpuRealtimeRuntime, "cpu-rt-runtime", 0, "real-time CPU time in each period in microseconds")
	fs.StringVar(&h.CpusetCpus, "cpuset-cpus", "", "CPUs to run on, as 0-3 or 0,1")
	fs.StringVar(&h.CpusetMems, "cpuset-mems", "", "memory nodes to use, as 0-3 or 0,1")
	fs.Int64Var(&f.pidsLimit, "pids-limit", 0, "number of processes; -1: unlimited")
	fs.Uint16Var(&f.blkioWeight, "blkio-weight", 0, "block I/O weight, 10 to 1000")
	f.list(fs, &f.weightDevice, "blkio-weight-device", "", "path:weight", "block I/O weight of a device", check(bundle.ParseWeightDevice))
	f.list(fs, &f.readBps, "device-read-bps", "", "path:rate", "limit bytes read a second", check(bundle.ParseThrottleBps))
	f.list(fs, &f.writeBps, "device-write-bps", "", "path:rate", "limit bytes written a second", check(bundle.ParseThrottleBps))
	f.list(fs, &f.readIOps, "device-read-iops", "", "path:rate", "limit reads a second", check(bundle.ParseThrottleIOps))
	f.list(fs, &f.writeIOps, "device-write-iops", "", "path:rate", "limit writes a second", check(bundle.ParseThrottleIOps))
	f.list(fs, &f.ulimit, "ulimit", "", "name=soft[:hard]", "set a resource limit", check(bundle.ParseUlimit))
}

func (f *createFlags) addLife(fs *pflag.FlagSet) {
	h := &f.o.HostConfig
	fs.StringVar(&f.o.Name, "name", "", "name of the container")
	fs.BoolVar(&h.AutoRemove, "rm", false, "remove the container and its anonymous volumes when it exits")
	fs.StringVar(&f.restart, "restart", "no", "when to restart: no, always, on-failure[:N], unless-stopped")
	fs.StringVar(&f.o.Config.StopSignal, "stop-signal", "", "signal that asks the container to stop")
	fs.IntVar(&f.stopTimeout, "stop-timeout", 0, "seconds to wait before it is killed; -1: for ever")
	fs.StringVar(&h.ContainerIDFile, "cidfile", "", "write the container's ID to a new file")
	fs.StringVar(&h.LogConfig.Type, "log-driver", "", "log driver: json-file, local or none")
	f.list(fs, &f.logOpt, "log-opt", "", "name=value", "option of the log driver", nil)
	fs.StringVar(&f.o.Platform, "platform", "", "platform of the image: os/arch[/variant]")
	fs.StringVar(&f.o.Pull, "pull", "missing", "when to pull the image: always, missing or never")
	fs.BoolVarP(&f.quiet, "quiet", "q", false, "do not show the progress of a pull")
	fs.StringVar(&f.healthCmd, "health-cmd", "", "command that tells whether the container is well")
	fs.DurationVar(&f.health.Interval, "health-interval", 0, "time between two health checks (default 30s)")
	fs.DurationVar(&f.health.Timeout, "health-timeout", 0, "time that one may take (default 30s)")
	fs.DurationVar(&f.health.StartPeriod, "health-start-period", 0, "time to start, in which failures do not count")
	fs.DurationVar(&f.health.StartInterval, "health-start-interval", 0, "time between two health checks in that period (default 5s)")
	fs.IntVar(&f.health.Retries, "health-retries", 0, "failures in a row that make the container unhealthy (default 3)")
	fs.BoolVar(&f.noHealthcheck, "no-healthcheck", false, "run no health check, also if the image has one")
	fs.Bool("disable-content-trust", true, "skip signatures (they are never verified)")
	_ = fs.MarkHidden("disable-content-trust")
}

// addRefused defines the flags of Docker's that cannot be done.
func addRefused(fs *pflag.FlagSet) {
	refuse := func(why string, names ...string) {
		for _, n := range names {
			fs.Var(&refusedFlag{"value", why}, n, "not supported: "+why)
			_ = fs.MarkHidden(n)
		}
	}
	refuse("containers run under viv's own runtime only", "runtime")
	refuse("there is no GPU support; pass the device nodes with --device", "gpus")
	refuse("the size of a container's layer cannot be limited", "storage-opt")
	refuse("Windows only", "cpu-count", "cpu-percent", "io-maxbandwidth", "io-maxiops", "isolation")
	fs.Var(&refusedFlag{"bool", "there is no daemon whose socket could be shared"}, "use-api-socket", "not supported")
	fs.Lookup("use-api-socket").NoOptDefVal = "true"
	_ = fs.MarkHidden("use-api-socket")
}

// Options reads files that flags name (environment, labels, seccomp profile) and
// returns all of the flags in parsed form. image is the reference, args the
// command. What only the image or the host can decide is checked by bundle.Spec.
func (f *createFlags) Options(image string, args []string) (bundle.Options, error) {
	f.o.Config.Image = image
	f.o.Config.Cmd = nil
	if len(args) > 0 {
		f.o.Config.Cmd = args
	}
	for _, step := range []func() error{
		f.readProcess, f.readLabels, f.readFiles, f.readNetwork, f.readIsolation, f.readLimits, f.readDevices, f.readLife,
	} {
		if err := step(); err != nil {
			return bundle.Options{}, err
		}
	}
	if err := f.o.Validate(); err != nil {
		return bundle.Options{}, err
	}
	return f.o, nil
}

func checkStream(s string) error {
	switch strings.ToLower(s) {
	case "stdin", "stdout", "stderr":
		return nil
	}
	return errors.New("valid streams are STDIN, STDOUT and STDERR")
}

func (f *createFlags) readProcess() error {
	c := &f.o.Config
	c.OpenStdin = f.interactive
	c.AttachStdin, c.AttachStdout, c.AttachStderr = false, false, false
	for _, s := range f.attach.args {
		switch strings.ToLower(s) {
		case "stdin":
			c.AttachStdin = true
		case "stdout":
			c.AttachStdout = true
		case "stderr":
			c.AttachStderr = true
		}
	}
	if len(f.attach.args) == 0 {
		c.AttachStdin, c.AttachStdout, c.AttachStderr = f.interactive, true, true
	}
	c.StdinOnce = c.OpenStdin && c.AttachStdin
	c.Entrypoint = nil
	if f.fs.Changed("entrypoint") {
		c.Entrypoint = []string{f.entrypoint}
	}
	if f.fs.Changed("init") {
		f.o.HostConfig.Init = &f.init
	}
	return f.readEnv()
}

// readEnv puts the files' variables first, so that -e wins over them.
func (f *createFlags) readEnv() error {
	var env []string
	for _, name := range f.envFile {
		file, err := os.Open(name)
		if err != nil {
			return fmt.Errorf("read env file: %w", err)
		}
		list, err := bundle.ParseEnvFile(file, name, os.LookupEnv)
		file.Close()
		if err != nil {
			return err
		}
		env = append(env, list...)
	}
	for _, e := range f.env {
		v, err := bundle.ParseEnv(e, os.LookupEnv)
		if err != nil {
			return fmt.Errorf(`invalid argument %q for "-e, --env" flag: %w`, e, err)
		}
		env = append(env, v)
	}
	f.o.Config.Env = env
	return nil
}

func (f *createFlags) readLabels() error {
	labels := map[string]string{}
	add := func(arg string) error {
		k, v, err := bundle.ParseLabel(arg)
		if err == nil {
			labels[k] = v
		}
		return err
	}
	for _, name := range f.labelFile {
		file, err := os.Open(name)
		if err != nil {
			return fmt.Errorf("read label file: %w", err)
		}
		list, err := bundle.ParseEnvFile(file, name, func(string) (string, bool) { return "", true })
		file.Close()
		if err != nil {
			return err
		}
		for _, l := range list {
			if err := add(l); err != nil {
				return err
			}
		}
	}
	for _, l := range f.label {
		if err := add(l); err != nil {
			return fmt.Errorf(`invalid argument %q for "-l, --label" flag: %w`, l, err)
		}
	}
	f.o.Config.Labels = labels
	return nil
}

func (f *createFlags) readFiles() error {
	c, h := &f.o.Config, &f.o.HostConfig
	if h.VolumeDriver != "" && h.VolumeDriver != "local" {
		return fmt.Errorf("--volume-driver %s is not supported: there is only the driver local", h.VolumeDriver)
	}
	h.Binds, c.Volumes, h.Mounts, h.Tmpfs = nil, nil, nil, nil
	for _, v := range f.volumes.args {
		v, err := absoluteSource(v)
		if err != nil {
			return err
		}
		m, err := bundle.ParseVolume(v)
		if err != nil {
			return err
		}
		if strings.Contains(v, ":") {
			h.Binds = append(h.Binds, v)
			continue
		}
		if c.Volumes == nil {
			c.Volumes = map[string]struct{}{}
		}
		c.Volumes[m.Destination] = struct{}{}
	}
	for _, s := range f.mounts.args {
		m, err := bundle.ParseMount(s)
		if err != nil {
			return err
		}
		h.Mounts = append(h.Mounts, m)
	}
	for _, s := range f.tmpfs.args {
		dst, opts, err := bundle.ParseTmpfs(s)
		if err != nil {
			return err
		}
		if h.Tmpfs == nil {
			h.Tmpfs = map[string]string{}
		}
		h.Tmpfs[dst] = opts
	}
	h.ShmSize = f.shmSize.n
	return nil
}

// absoluteSource makes a source that begins with "." absolute: what is kept in the
// container's record must not depend on a working directory.
func absoluteSource(v string) (string, error) {
	src, rest, ok := strings.Cut(v, ":")
	if !ok || !strings.HasPrefix(src, ".") {
		return v, nil
	}
	abs, err := filepath.Abs(src)
	if err != nil {
		return "", fmt.Errorf("resolve volume source %s: %w", src, err)
	}
	return abs + ":" + rest, nil
}

func (f *createFlags) readNetwork() (err error) {
	h, n := &f.o.HostConfig, &f.o.Network
	if len(f.networks) > 1 {
		return fmt.Errorf("container cannot be connected to several networks at once: %s", strings.Join(f.networks, ", "))
	}
	if len(f.links) > 0 {
		return errors.New("--link is not supported: containers on one network find each other by name")
	}
	h.NetworkMode = "default"
	if len(f.networks) == 1 {
		if h.NetworkMode = f.networks[0]; h.NetworkMode == "" {
			return errors.New("no name set for network")
		}
		if strings.ContainsAny(h.NetworkMode, "=,") {
			return fmt.Errorf("--network %q: the long form with key=value is not supported, use --ip, --network-alias and --mac-address", h.NetworkMode)
		}
	}
	if n.MacAddress = ""; f.macs != "" {
		if n.MacAddress, err = bundle.ParseMAC(f.macs); err != nil {
			return err
		}
	}
	if err := f.readExposed(); err != nil {
		return err
	}
	h.Dns, h.ExtraHosts = nil, nil
	for _, s := range f.dns.args {
		a, err := bundle.ParseIP(s)
		if err != nil {
			return err
		}
		h.Dns = append(h.Dns, a)
	}
	for _, s := range f.extraHosts.args {
		e, err := bundle.ParseExtraHost(s)
		if err != nil {
			return err
		}
		h.ExtraHosts = append(h.ExtraHosts, e)
	}
	return nil
}

// readExposed collects the ports that --expose and -p name, one key a port, as
// they stand in a container's configuration ("80/tcp").
func (f *createFlags) readExposed() error {
	var ports []network.PortMapping
	for _, arg := range f.o.Expose {
		if strings.Contains(arg, ":") {
			return fmt.Errorf("invalid port format for --expose: %s", arg)
		}
		list, err := network.ParsePort(arg)
		if err != nil {
			return fmt.Errorf("invalid range format for --expose: %s, error: %w", arg, err)
		}
		ports = append(ports, list...)
	}
	for _, arg := range f.o.Publish {
		list, err := network.ParsePort(arg)
		if err != nil {
			return err
		}
		ports = append(ports, list...)
	}
	f.o.Config.ExposedPorts = nil
	for _, p := range ports {
		if f.o.Config.ExposedPorts == nil {
			f.o.Config.ExposedPorts = map[string]struct{}{}
		}
		f.o.Config.ExposedPorts[fmt.Sprintf("%d/%s", p.ContainerPort, p.Protocol)] = struct{}{}
	}
	return nil
}

func (f *createFlags) readIsolation() error {
	h := &f.o.HostConfig
	h.SecurityOpt, h.Sysctls, h.Annotations = nil, nil, nil
	for _, s := range f.securityOpt.args {
		s, err := readSeccomp(s)
		if err != nil {
			return err
		}
		if _, err := bundle.ParseSecurityOpt(s); err != nil {
			return err
		}
		h.SecurityOpt = append(h.SecurityOpt, s)
	}
	for _, s := range f.sysctl.args {
		k, v, err := bundle.ParseSysctl(s)
		if err != nil {
			return err
		}
		if h.Sysctls == nil {
			h.Sysctls = map[string]string{}
		}
		h.Sysctls[k] = v
	}
	for _, s := range f.annotation.args {
		k, v, _ := strings.Cut(s, "=")
		if k == "" {
			return fmt.Errorf("invalid annotation %q: it must be name=value", s)
		}
		if h.Annotations == nil {
			h.Annotations = map[string]string{}
		}
		h.Annotations[k] = v
	}
	f.o.UIDMappings, f.o.GIDMappings = nil, nil
	for _, s := range f.uidMap.args {
		m, err := bundle.ParseIDMapping(s)
		if err != nil {
			return err
		}
		f.o.UIDMappings = append(f.o.UIDMappings, m)
	}
	for _, s := range f.gidMap.args {
		m, err := bundle.ParseIDMapping(s)
		if err != nil {
			return err
		}
		f.o.GIDMappings = append(f.o.GIDMappings, m)
	}
	return nil
}

// readSeccomp puts the content of a profile in the place of its file name.
func readSeccomp(opt string) (string, error) {
	for _, sep := range []string{"=", ":"} {
		name, ok := strings.CutPrefix(opt, "seccomp"+sep)
		if !ok || name == "unconfined" || name == "builtin" {
			continue
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return "", fmt.Errorf("opening seccomp profile (%s) failed: %w", name, err)
		}
		profile, err := bundle.CompactJSON(b)
		if err != nil {
			return "", fmt.Errorf("seccomp profile (%s): %w", name, err)
		}
		return "seccomp=" + profile, nil
	}
	return opt, nil
}

func (f *createFlags) readLimits() (err error) {
	h := &f.o.HostConfig
	h.Memory, h.MemoryReservation, h.MemorySwap, h.KernelMemory = f.memory.n, f.memoryRes.n, f.memorySwap.n, f.kernelMemory.n
	if h.NanoCpus = 0; f.cpus != "" {
		if h.NanoCpus, err = bundle.ParseCPUs(f.cpus); err != nil {
			return fmt.Errorf(`invalid argument %q for "--cpus" flag: %w`, f.cpus, err)
		}
	}
	h.BlkioWeight = f.blkioWeight
	if h.MemorySwappiness = nil; f.fs.Changed("memory-swappiness") {
		h.MemorySwappiness = &f.swappiness
	}
	if h.OomKillDisable = nil; f.fs.Changed("oom-kill-disable") {
		h.OomKillDisable = &f.oomKillDisable
	}
	if h.PidsLimit = nil; f.fs.Changed("pids-limit") {
		h.PidsLimit = &f.pidsLimit
	}
	h.Ulimits, err = ulimitsOf(f.ulimit.args)
	return err
}

// ulimitsOf reads --ulimit name=soft[:hard].
func ulimitsOf(list []string) (out []bundle.Ulimit, err error) {
	for _, s := range list {
		u, err := bundle.ParseUlimit(s)
		if err != nil {
			return nil, err
		}
		out = append(out, u)
	}
	return out, nil
}

func (f *createFlags) readDevices() error {
	h := &f.o.HostConfig
	h.DeviceCgroupRules = f.deviceRules.args
	h.Devices, h.BlkioWeightDevice = nil, nil
	for _, s := range f.devices.args {
		d, err := bundle.ParseDevice(s)
		if err != nil {
			return err
		}
		h.Devices = append(h.Devices, d)
	}
	for _, s := range f.weightDevice.args {
		d, err := bundle.ParseWeightDevice(s)
		if err != nil {
			return err
		}
		h.BlkioWeightDevice = append(h.BlkioWeightDevice, d)
	}
	for _, t := range []struct {
		from  *listFlag
		to    *[]bundle.ThrottleDevice
		parse func(string) (bundle.ThrottleDevice, error)
	}{
		{&f.readBps, &h.BlkioDeviceReadBps, bundle.ParseThrottleBps},
		{&f.writeBps, &h.BlkioDeviceWriteBps, bundle.ParseThrottleBps},
		{&f.readIOps, &h.BlkioDeviceReadIOps, bundle.ParseThrottleIOps},
		{&f.writeIOps, &h.BlkioDeviceWriteIOps, bundle.ParseThrottleIOps},
	} {
		*t.to = nil
		for _, s := range t.from.args {
			d, err := t.parse(s)
			if err != nil {
				return err
			}
			*t.to = append(*t.to, d)
		}
	}
	return nil
}

// readHealth makes the health check of the --health flags; nil if there are none.
func (f *createFlags) readHealth() (*image.Healthcheck, error) {
	h := f.health
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"interval", h.Interval}, {"timeout", h.Timeout}, {"start-period", h.StartPeriod}, {"start-interval", h.StartInterval}, {"retries", time.Duration(h.Retries)}} {
		if d.value < 0 {
			return nil, fmt.Errorf("--health-%s cannot be negative", d.name)
		}
		if d.value > 0 && d.value < time.Millisecond && d.name != "retries" {
			return nil, fmt.Errorf("--health-%s cannot be less than 1ms", d.name)
		}
	}
	if f.healthCmd != "" {
		h.Test = []string{"CMD-SHELL", f.healthCmd}
	}
	set := len(h.Test) > 0 || h.Retries != 0 || h.Interval+h.Timeout+h.StartPeriod+h.StartInterval != 0
	switch {
	case f.noHealthcheck && set:
		return nil, errors.New("--no-healthcheck conflicts with --health-* options")
	case f.noHealthcheck:
		return &image.Healthcheck{Test: []string{"NONE"}}, nil
	case !set:
		return nil, nil
	}
	return &h, nil
}

func (f *createFlags) readLife() (err error) {
	c, h := &f.o.Config, &f.o.HostConfig
	if c.Healthcheck, err = f.readHealth(); err != nil {
		return err
	}
	if h.RestartPolicy, err = bundle.ParseRestartPolicy(f.restart); err != nil {
		return err
	}
	if c.StopTimeout = nil; f.fs.Changed("stop-timeout") {
		c.StopTimeout = &f.stopTimeout
	}
	h.LogConfig.Config = map[string]string{}
	for _, s := range f.logOpt.args {
		k, v, ok := strings.Cut(s, "=")
		if !ok || k == "" {
			return fmt.Errorf("invalid log option %q: it must be name=value", s)
		}
		h.LogConfig.Config[k] = v
	}
	return nil
}
