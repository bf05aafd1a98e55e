package systemd

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"vivarium/sandbox/cgroup"
	"vivarium/sandbox/cgroup/devicebpf"
)

// deviceAllow is an element of DeviceAllow, of type a(ss).
type deviceAllow struct {
	Path        string
	Permissions string
}

// devices adds the rules about devices to properties, for control groups v1:
// there systemd writes devices.allow anew whenever it reloads, from what it
// knows. (On v2 a program of ours is attached to the group beside systemd's, and
// both have to let a device through.) Where systemd has no words for the rules,
// which can take back what others allow, nothing is said.
func (l *list) devices(list []specs.LinuxDeviceCgroup) {
	rules, err := cgroup.DeviceRules(list)
	if err != nil {
		l.fail(err)
		return
	}
	if devicebpf.Unrestricted(rules) {
		l.add("DevicePolicy", "auto")
		l.add("DeviceAllow", []deviceAllow{})
		return
	}
	for len(rules) > 0 && rules[0].Everything() && !rules[0].Allow {
		rules = rules[1:] // as "strict" begins
	}
	names, err := majorNames()
	if err != nil {
		l.fail(err)
		return
	}
	allow := []deviceAllow{}
	for _, r := range rules {
		paths := devicePaths(r, names)
		if paths == nil {
			return
		}
		for _, p := range paths {
			allow = append(allow, deviceAllow{p, accessText(r.Access)})
		}
	}
	l.add("DevicePolicy", "strict")
	l.add("DeviceAllow", allow)
}

func accessText(access uint8) string {
	text := ""
	for i, bit := range [...]uint8{devicebpf.Read, devicebpf.Write, devicebpf.Mknod} {
		if access&bit != 0 {
			text += string("rwm"[i])
		}
	}
	return text
}

// devicePaths says which devices a rule allows in DeviceAllow's words
// (systemd.resource-control(5)); nil, if these have none for it. A major number
// that no driver has stands for no device.
func devicePaths(r devicebpf.Rule, names map[string][]string) []string {
	kind := map[byte]string{'c': "char", 'b': "block"}[r.Type]
	anyMajor, anyMinor := r.Major == devicebpf.Any, r.Minor == devicebpf.Any
	switch {
	case !r.Allow:
		return nil
	case r.Type == 'a' && anyMajor && anyMinor:
		return []string{"char-*", "block-*"}
	case kind == "":
		return nil
	case anyMajor && anyMinor:
		return []string{kind + "-*"}
	case anyMajor:
		return nil
	case anyMinor:
		return append([]string{}, names[kind+strconv.FormatInt(r.Major, 10)]...)
	}
	return []string{fmt.Sprintf("/dev/%s/%d:%d", kind, r.Major, r.Minor)}
}

// majorNames reads /proc/devices: the names of "char4" are "char-/dev/vc/0",
// "char-tty" and others.
func majorNames() (map[string][]string, error) {
	f, err := os.Open("/proc/devices")
	if err != nil {
		return nil, fmt.Errorf("read the names of devices: %w", err)
	}
	defer f.Close()
	names := map[string][]string{}
	kind := ""
	for lines := bufio.NewScanner(f); lines.Scan(); {
		switch line := lines.Text(); line {
		case "Character devices:":
			kind = "char"
		case "Block devices:":
			kind = "block"
		default:
			if field := strings.Fields(line); len(field) == 2 {
				names[kind+field[0]] = append(names[kind+field[0]], kind+"-"+field[1])
			}
		}
	}
	return names, nil
}
