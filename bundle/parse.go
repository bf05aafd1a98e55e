package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"net"
	"net/netip"
	"path"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ParseMemory reads an amount of bytes with an optional unit of 1024: "128m",
// "1.5GiB", "4096". Negative amounts are an error.
func ParseMemory(s string) (int64, error) {
	n, err := units.RAMInBytes(s)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("invalid size: '%s'", s)
	}
	return n, nil
}

// ParseMemorySwap is ParseMemory that also takes -1, unlimited swap.
func ParseMemorySwap(s string) (int64, error) {
	if s == "-1" {
		return -1, nil
	}
	return ParseMemory(s)
}

// ParseCPUs reads a number of CPUs ("1.5", "3/2") and returns it in units of 1e-9.
func ParseCPUs(s string) (int64, error) {
	// An exponent would make big.Rat build a number of that many digits.
	if len(s) > 64 || strings.ContainsAny(s, "eEpPxX") {
		return 0, fmt.Errorf("failed to parse %v as a rational number", s)
	}
	r, ok := new(big.Rat).SetString(s)
	if !ok {
		return 0, fmt.Errorf("failed to parse %v as a rational number", s)
	}
	n := r.Mul(r, big.NewRat(1e9, 1))
	if !n.IsInt() {
		return 0, errors.New("value is too precise")
	}
	if !n.Num().IsInt64() {
		return 0, fmt.Errorf("number of CPUs %s is too large", s)
	}
	return n.Num().Int64(), nil
}

// ulimits are the names of --ulimit, each RLIMIT_ and the upper-case name. The
// address-space limit is not among them: Docker refuses it too.
func isUlimit(name string) bool {
	switch name {
	case "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile",
		"nproc", "rss", "rtprio", "rttime", "sigpending", "stack":
		return true
	}
	return false
}

// ParseUlimit reads "name=soft[:hard]"; -1 is unlimited.
func ParseUlimit(arg string) (Ulimit, error) {
	name, limits, ok := strings.Cut(arg, "=")
	if !ok {
		return Ulimit{}, fmt.Errorf("invalid ulimit argument: %s", arg)
	}
	softText, hardText, two := strings.Cut(limits, ":")
	if strings.Contains(hardText, ":") {
		return Ulimit{}, fmt.Errorf("too many limit value arguments - %s, can only have up to two, `soft[:hard]`", limits)
	}
	if !two {
		hardText = softText
	}
	u := Ulimit{Name: name}
	var err error
	if u.Soft, err = parseLimit(softText); err != nil {
		return Ulimit{}, err
	}
	if u.Hard, err = parseLimit(hardText); err != nil {
		return Ulimit{}, err
	}
	return u, u.check()
}

func parseLimit(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < -1 {
		return 0, fmt.Errorf("invalid ulimit value: %q", s)
	}
	return n, nil
}

func (u Ulimit) check() error {
	if !isUlimit(u.Name) {
		return fmt.Errorf("invalid ulimit type: %s", u.Name)
	}
	if u.Hard != -1 && u.Soft == -1 {
		return fmt.Errorf("ulimit soft limit must be less than or equal to hard limit: soft: -1 (unlimited), hard: %d", u.Hard)
	}
	if u.Hard != -1 && u.Soft > u.Hard {
		return fmt.Errorf("ulimit soft limit must be less than or equal to hard limit: %d > %d", u.Soft, u.Hard)
	}
	return nil
}

// ParseDevice reads one --device: "host[:container][:permissions]", where
// permissions are of "rwm".
func ParseDevice(arg string) (DeviceMapping, error) {
	parts := strings.Split(arg, ":")
	d := DeviceMapping{PathOnHost: parts[0], CgroupPermissions: "rwm"}
	switch len(parts) {
	case 1:
	case 2:
		if validDeviceMode(parts[1]) {
			d.CgroupPermissions = parts[1]
		} else {
			d.PathInContainer = parts[1]
		}
	case 3:
		if !validDeviceMode(parts[2]) {
			return DeviceMapping{}, fmt.Errorf("bad mode specified: %s", parts[2])
		}
		d.PathInContainer, d.CgroupPermissions = parts[1], parts[2]
	default:
		return DeviceMapping{}, fmt.Errorf("invalid device specification: %s", arg)
	}
	if d.PathInContainer == "" {
		d.PathInContainer = d.PathOnHost
	}
	for _, p := range []string{d.PathOnHost, d.PathInContainer} {
		if !strings.HasPrefix(p, "/") || strings.ContainsRune(p, 0) {
			return DeviceMapping{}, fmt.Errorf("bad format for path: %s is not an absolute path", p)
		}
	}
	d.PathOnHost, d.PathInContainer = path.Clean(d.PathOnHost), path.Clean(d.PathInContainer)
	return d, nil
}

// validDeviceMode reports whether s is one to three different letters of "rwm".
func validDeviceMode(s string) bool {
	if s == "" || len(s) > 3 {
		return false
	}
	for i := range len(s) {
		if !strings.Contains("rwm", s[i:i+1]) || strings.Contains(s[:i], s[i:i+1]) {
			return false
		}
	}
	return true
}

// ParseDeviceCgroupRule reads one --device-cgroup-rule: "type major:minor access",
// where the type is a, b or c and a number may be *.
func ParseDeviceCgroupRule(arg string) (specs.LinuxDeviceCgroup, error) {
	bad := fmt.Errorf("invalid device cgroup format '%s'", arg)
	f := strings.Fields(arg)
	if len(f) != 3 || (f[0] != "a" && f[0] != "b" && f[0] != "c") || !validDeviceMode(f[2]) {
		return specs.LinuxDeviceCgroup{}, bad
	}
	majText, minText, ok := strings.Cut(f[1], ":")
	maj, err1 := parseDeviceNumber(majText)
	mnr, err2 := parseDeviceNumber(minText)
	if !ok || err1 != nil || err2 != nil {
		return specs.LinuxDeviceCgroup{}, bad
	}
	return specs.LinuxDeviceCgroup{Allow: true, Type: f[0], Major: &maj, Minor: &mnr, Access: f[2]}, nil
}

// parseDeviceNumber gives -1 for *, which stands for every number in an OCI spec.
func parseDeviceNumber(s string) (int64, error) {
	if s == "*" {
		return -1, nil
	}
	n, err := strconv.ParseUint(s, 10, 32)
	return int64(n), err
}

// ParseWeightDevice reads "path:weight", the weight 0 or 10 to 1000.
func ParseWeightDevice(arg string) (WeightDevice, error) {
	p, w, ok := strings.Cut(arg, ":")
	if !ok || p == "" {
		return WeightDevice{}, fmt.Errorf("bad format: %s", arg)
	}
	if !strings.HasPrefix(p, "/dev/") {
		return WeightDevice{}, fmt.Errorf("bad format for device path: %s", arg)
	}
	n, err := strconv.ParseUint(w, 10, 16)
	if err != nil || n > 0 && (n < 10 || n > 1000) {
		return WeightDevice{}, fmt.Errorf("invalid weight for device: %s", arg)
	}
	return WeightDevice{Path: p, Weight: uint16(n)}, nil
}

// ParseThrottleBps reads "path:rate", the rate in bytes a second with an optional unit.
func ParseThrottleBps(arg string) (ThrottleDevice, error) {
	p, rate, err := cutThrottle(arg)
	if err != nil {
		return ThrottleDevice{}, err
	}
	n, err := units.RAMInBytes(rate)
	if err != nil || n < 0 {
		return ThrottleDevice{}, fmt.Errorf("invalid rate for device: %s. The correct format is <device-path>:<number>[<unit>]. Number must be a positive integer. Unit is optional and can be kb, mb, or gb", arg)
	}
	return ThrottleDevice{Path: p, Rate: uint64(n)}, nil
}

// ParseThrottleIOps reads "path:rate", the rate in operations a second.
func ParseThrottleIOps(arg string) (ThrottleDevice, error) {
	p, rate, err := cutThrottle(arg)
	if err != nil {
		return ThrottleDevice{}, err
	}
	n, err := strconv.ParseUint(rate, 10, 64)
	if err != nil {
		return ThrottleDevice{}, fmt.Errorf("invalid rate for device: %s. The correct format is <device-path>:<number>. Number must be a positive integer", arg)
	}
	return ThrottleDevice{Path: p, Rate: n}, nil
}

func cutThrottle(arg string) (p, rate string, err error) {
	p, rate, ok := strings.Cut(arg, ":")
	if !ok || p == "" {
		return "", "", fmt.Errorf("bad format: %s", arg)
	}
	if !strings.HasPrefix(p, "/dev/") {
		return "", "", fmt.Errorf("bad format for device path: %s", arg)
	}
	return p, rate, nil
}

// ParseRestartPolicy reads "no", "always", "unless-stopped" or "on-failure[:retries]".
func ParseRestartPolicy(arg string) (RestartPolicy, error) {
	if arg == "" {
		return RestartPolicy{Name: "no"}, nil
	}
	name, count, has := strings.Cut(arg, ":")
	p := RestartPolicy{Name: name}
	if has {
		n, err := strconv.Atoi(count)
		if err != nil {
			return RestartPolicy{}, errors.New("invalid restart policy format: maximum retry count must be an integer")
		}
		p.MaximumRetryCount = n
	}
	return p, p.check()
}

func (p RestartPolicy) check() error {
	switch p.Name {
	case "always", "unless-stopped", "no":
		if p.MaximumRetryCount != 0 {
			return fmt.Errorf("maximum retry count cannot be used with restart policy '%s'", p.Name)
		}
	case "on-failure":
		if p.MaximumRetryCount < 0 {
			return errors.New("maximum retry count cannot be negative")
		}
	case "":
	default:
		return fmt.Errorf("invalid restart policy '%s': use no, always, on-failure[:N] or unless-stopped", p.Name)
	}
	return nil
}

// ParseStopSignal gives the number of a signal written as name, with or without
// SIG, or number; also RTMIN+n and RTMAX-n.
func ParseStopSignal(s string) (unix.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > sigRTMax {
			return 0, refuse("Invalid signal: %s", s)
		}
		return unix.Signal(n), nil
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	if n, ok := realTimeSignal(name); ok {
		return n, nil
	}
	if n := unix.SignalNum("SIG" + name); n != 0 {
		return n, nil
	}
	return 0, refuse("Invalid signal: %s", s)
}

// The first two real-time signals of the kernel (32 and 33) belong to the C
// library's threads, so that RTMIN is 34, as in signal(7).
const (
	sigRTMin = 34
	sigRTMax = 64
)

func realTimeSignal(name string) (unix.Signal, bool) {
	for _, b := range []struct {
		prefix, op string
		base, sign int
	}{{"RTMIN", "+", sigRTMin, 1}, {"RTMAX", "-", sigRTMax, -1}} {
		rest, ok := strings.CutPrefix(name, b.prefix)
		if !ok {
			continue
		}
		if rest == "" {
			return unix.Signal(b.base), true
		}
		n, err := strconv.ParseUint(strings.TrimPrefix(rest, b.op), 10, 8)
		if !strings.HasPrefix(rest, b.op) || err != nil || n > sigRTMax-sigRTMin {
			return 0, false
		}
		return unix.Signal(b.base + b.sign*int(n)), true
	}
	return 0, false
}

// SecurityOpt is one parsed --security-opt.
type SecurityOpt struct {
	// Key is one of no-new-privileges, seccomp, apparmor, label, systempaths,
	// mask and unmask.
	Key   string
	Value string
}

// ParseSecurityOpt reads one --security-opt: "key=value" or "key:value" (the old
// form), or no-new-privileges alone. The value of seccomp is "unconfined",
// "builtin" or the profile itself as JSON; a file name has to be read by the caller.
func ParseSecurityOpt(arg string) (SecurityOpt, error) {
	if arg == "no-new-privileges" {
		return SecurityOpt{"no-new-privileges", "true"}, nil
	}
	i := strings.IndexAny(arg, "=:")
	if i < 0 {
		return SecurityOpt{}, fmt.Errorf("invalid --security-opt: %q", arg)
	}
	o := SecurityOpt{arg[:i], arg[i+1:]}
	switch o.Key {
	case "no-new-privileges":
		if _, err := strconv.ParseBool(o.Value); err != nil {
			return SecurityOpt{}, fmt.Errorf("invalid --security-opt: %q", arg)
		}
	case "seccomp":
		if o.Value != "unconfined" && o.Value != "builtin" && !json.Valid([]byte(o.Value)) {
			return SecurityOpt{}, errors.New("invalid --security-opt seccomp: the profile is not valid JSON")
		}
	case "systempaths":
		if o.Value != "unconfined" {
			return SecurityOpt{}, fmt.Errorf("invalid --security-opt: %q", arg)
		}
	case "apparmor", "label", "mask", "unmask":
		if o.Value == "" {
			return SecurityOpt{}, fmt.Errorf("invalid --security-opt: %q", arg)
		}
	default:
		return SecurityOpt{}, fmt.Errorf("invalid --security-opt: %q", arg)
	}
	return o, nil
}

// CompactJSON removes the white space of a seccomp profile, so that the record
// and inspect show it in one line.
func CompactJSON(profile []byte) (string, error) {
	var b bytes.Buffer
	if err := json.Compact(&b, profile); err != nil {
		return "", fmt.Errorf("compacting json for seccomp profile failed: %w", err)
	}
	return b.String(), nil
}

// ParseSysctl reads "name=value" and checks that the name belongs to a namespace.
func ParseSysctl(arg string) (name, value string, err error) {
	name, value, ok := strings.Cut(arg, "=")
	if !ok || !isNamespacedSysctl(name) {
		return "", "", fmt.Errorf("sysctl '%s' is not allowed", arg)
	}
	return name, value, nil
}

func isNamespacedSysctl(name string) bool {
	switch name {
	case "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall",
		"kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced":
		return true
	}
	if strings.ContainsAny(name, "/\x00") || strings.Contains(name, "..") {
		return false
	}
	return strings.HasPrefix(name, "net.") || strings.HasPrefix(name, "fs.mqueue.")
}

// ParseLabel reads "name[=value]".
func ParseLabel(arg string) (name, value string, err error) {
	name, value, _ = strings.Cut(arg, "=")
	if strings.TrimSpace(name) == "" {
		return "", "", fmt.Errorf("invalid label '%s': empty name", arg)
	}
	return name, value, nil
}

// ParseExtraHost reads one --add-host, "name:address" or "name=address", where the
// address may stand in brackets or be "host-gateway". It returns "name:address".
func ParseExtraHost(arg string) (string, error) {
	i := strings.IndexAny(arg, "=:")
	if i <= 0 || i == len(arg)-1 {
		return "", fmt.Errorf("bad format for add-host: %q", arg)
	}
	name, addr := arg[:i], arg[i+1:]
	if strings.ContainsAny(name, " \t\n") {
		return "", fmt.Errorf("bad format for add-host: %q", arg)
	}
	if addr == "host-gateway" {
		return name + ":" + addr, nil
	}
	if len(addr) > 2 && addr[0] == '[' && addr[len(addr)-1] == ']' {
		addr = addr[1 : len(addr)-1]
	}
	if _, err := netip.ParseAddr(addr); err != nil {
		return "", fmt.Errorf("invalid IP address in add-host: %q", addr)
	}
	return name + ":" + addr, nil
}

// ParseIP reads an address of either family and returns its usual spelling.
func ParseIP(arg string) (string, error) {
	a, err := netip.ParseAddr(strings.TrimSpace(arg))
	if err != nil {
		return "", fmt.Errorf("IP address is not correctly formatted: %s", arg)
	}
	return a.String(), nil
}

// ParseMAC reads an Ethernet address of six bytes.
func ParseMAC(arg string) (string, error) {
	hw, err := net.ParseMAC(strings.TrimSpace(arg))
	if err != nil || len(hw) != 6 {
		return "", fmt.Errorf("%s is not a valid mac address", arg)
	}
	return hw.String(), nil
}

// ParseIDMapping reads one --uidmap or --gidmap: "container:host[:size]".
func ParseIDMapping(arg string) (specs.LinuxIDMapping, error) {
	parts := strings.Split(arg, ":")
	nums := [3]uint64{2: 1}
	bad := fmt.Errorf("invalid ID mapping %q: it must be container:host[:size]", arg)
	if len(parts) != 2 && len(parts) != 3 {
		return specs.LinuxIDMapping{}, bad
	}
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 32)
		if err != nil {
			return specs.LinuxIDMapping{}, bad
		}
		nums[i] = n
	}
	// (uid_t)-1 means "leave as it is" to the kernel and is never an ID.
	if nums[2] == 0 || nums[0]+nums[2] > math.MaxUint32 || nums[1]+nums[2] > math.MaxUint32 {
		return specs.LinuxIDMapping{}, fmt.Errorf("invalid ID mapping %q: the size is 0, or the range passes the last ID", arg)
	}
	return specs.LinuxIDMapping{ContainerID: uint32(nums[0]), HostID: uint32(nums[1]), Size: uint32(nums[2])}, nil
}
