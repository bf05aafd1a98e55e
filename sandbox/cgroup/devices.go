package cgroup

import (
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"vivarium/sandbox/cgroup/devicebpf"
)

// defaultDevices are the rules that hold after those of the spec: the devices
// of config-linux.md, the container's own terminals, and making any device
// node, which does not open it. They are those of runc.
var defaultDevices = [...]devicebpf.Rule{
	{Allow: true, Type: 'c', Major: devicebpf.Any, Minor: devicebpf.Any, Access: devicebpf.Mknod},
	{Allow: true, Type: 'b', Major: devicebpf.Any, Minor: devicebpf.Any, Access: devicebpf.Mknod},
	{Allow: true, Type: 'c', Major: 1, Minor: 3, Access: devicebpf.AllAccess},               // null
	{Allow: true, Type: 'c', Major: 1, Minor: 5, Access: devicebpf.AllAccess},               // zero
	{Allow: true, Type: 'c', Major: 1, Minor: 7, Access: devicebpf.AllAccess},               // full
	{Allow: true, Type: 'c', Major: 1, Minor: 8, Access: devicebpf.AllAccess},               // random
	{Allow: true, Type: 'c', Major: 1, Minor: 9, Access: devicebpf.AllAccess},               // urandom
	{Allow: true, Type: 'c', Major: 5, Minor: 0, Access: devicebpf.AllAccess},               // tty
	{Allow: true, Type: 'c', Major: 5, Minor: 1, Access: devicebpf.AllAccess},               // console
	{Allow: true, Type: 'c', Major: 5, Minor: 2, Access: devicebpf.AllAccess},               // ptmx
	{Allow: true, Type: 'c', Major: 136, Minor: devicebpf.Any, Access: devicebpf.AllAccess}, // pts
}

// DeviceRules gives the rules of a spec with the default ones behind them.
func DeviceRules(list []specs.LinuxDeviceCgroup) ([]devicebpf.Rule, error) {
	// A cgroup begins by denying everything, as in runc: nothing that the spec
	// does not name comes in from outside.
	rules := make([]devicebpf.Rule, 0, len(list)+len(defaultDevices))
	for i, d := range list {
		r, err := deviceRule(d)
		if err != nil {
			return nil, fmt.Errorf("device rule %d: %w", i, err)
		}
		rules = append(rules, r)
	}
	return append(rules, defaultDevices[:]...), nil
}

func deviceRule(d specs.LinuxDeviceCgroup) (devicebpf.Rule, error) {
	r := devicebpf.Rule{Allow: d.Allow, Major: devicebpf.Any, Minor: devicebpf.Any}
	switch d.Type {
	case "", "a":
		r.Type = 'a'
	case "c", "u":
		r.Type = 'c'
	case "b":
		r.Type = 'b'
	default:
		return r, fmt.Errorf("type %q is not a, b or c", d.Type)
	}
	for _, n := range []struct {
		from *int64
		to   *int64
	}{{d.Major, &r.Major}, {d.Minor, &r.Minor}} {
		if n.from == nil || *n.from == devicebpf.Any {
			continue
		}
		if *n.from < 0 || *n.from >= maxDeviceNumber {
			return r, fmt.Errorf("%d is no device number", *n.from)
		}
		*n.to = *n.from
	}
	for _, a := range d.Access {
		switch a {
		case 'r':
			r.Access |= devicebpf.Read
		case 'w':
			r.Access |= devicebpf.Write
		case 'm':
			r.Access |= devicebpf.Mknod
		case 'a': // of no meaning, and passed over by runc
		default:
			return r, fmt.Errorf("access %q has other letters than r, w and m", d.Access)
		}
	}
	if r.Access == 0 { // an absent access is all of it, as for runc
		r.Access = devicebpf.AllAccess
	}
	return r, nil
}

func (c *compiler) devices(list []specs.LinuxDeviceCgroup) {
	if c.opt.NoDeviceRules {
		if len(list) > 0 {
			c.setup.Warnings = append(c.setup.Warnings, "device rules are left out: they cannot be changed without privileges")
		}
		return
	}
	rules, err := DeviceRules(list)
	if err != nil {
		c.errs = append(c.errs, err)
		return
	}
	if h := c.layout.with("devices"); h != nil {
		c.devicesV1(group{c, h, h.Mount + c.rel}, rules)
		return
	}
	switch {
	case devicebpf.Unrestricted(rules):
	case c.layout.unified() != nil:
		c.setup.Devices = rules
	default:
		c.lack("device rules", "neither the devices controller nor a v2 hierarchy is mounted")
	}
}

// deviceKey is the device or the devices of one exception of v1.
type deviceKey struct {
	kind         byte
	major, minor int64
}

// covers says whether all devices of b are among those of a; meets, whether some
// are.
func (a deviceKey) covers(b deviceKey) bool {
	return a.kind == b.kind && (a.major == devicebpf.Any || a.major == b.major) && (a.minor == devicebpf.Any || a.minor == b.minor)
}

func (a deviceKey) meets(b deviceKey) bool {
	return a.kind == b.kind && (a.major == devicebpf.Any || b.major == devicebpf.Any || a.major == b.major) &&
		(a.minor == devicebpf.Any || b.minor == devicebpf.Any || a.minor == b.minor)
}

// deviceState is what v1 can express: a default and exceptions from it
// (security/device_cgroup.c), in the order in which the spec named them: who
// reads devices.list finds that again.
type deviceState struct {
	allow      bool
	exceptions []deviceException
}

type deviceException struct {
	deviceKey
	access uint8
}

// devicesV1 folds the rules, of which the last one counts, into v1's form and
// writes that.
func (c *compiler) devicesV1(g group, rules []devicebpf.Rule) {
	var s deviceState
	for _, r := range rules {
		if err := s.apply(r); err != nil {
			c.errs = append(c.errs, err)
			return
		}
	}
	start, file, why := "devices.deny", "devices.allow", "a device that it may use"
	if s.allow {
		start, file, why = "devices.allow", "devices.deny", "a device that it may not use"
	}
	g.set(start, "a", "begin with no exception")
	for _, e := range s.exceptions {
		g.set(file, e.String()+" "+accessString(e.access), why)
	}
}

func (s *deviceState) apply(r devicebpf.Rule) error {
	if r.Everything() {
		s.allow = r.Allow
		s.exceptions = nil
		return nil
	}
	kinds := []byte{r.Type}
	if r.Type == 'a' {
		kinds = []byte{'b', 'c'}
	}
	for _, kind := range kinds {
		if err := s.applyTo(deviceKey{kind, r.Major, r.Minor}, r); err != nil {
			return err
		}
	}
	return nil
}

func (s *deviceState) applyTo(k deviceKey, r devicebpf.Rule) error {
	if r.Allow != s.allow {
		same := func(e deviceException) bool { return e.deviceKey == k }
		if i := slices.IndexFunc(s.exceptions, same); i >= 0 {
			s.exceptions[i].access |= r.Access
		} else {
			s.exceptions = append(s.exceptions, deviceException{k, r.Access})
		}
		return nil
	}
	// The rule says what the default says, so it takes exceptions away.
	for i := range s.exceptions {
		e := &s.exceptions[i]
		if e.access&r.Access == 0 || !k.meets(e.deviceKey) {
			continue
		}
		if !k.covers(e.deviceKey) {
			return fmt.Errorf("device rule for %s: v1 cannot make an exception from the wider rule for %s before it: %w", k, e.deviceKey, ErrUnsupported)
		}
		e.access &^= r.Access
	}
	s.exceptions = slices.DeleteFunc(s.exceptions, func(e deviceException) bool { return e.access == 0 })
	return nil
}

func (k deviceKey) String() string {
	number := func(n int64) string {
		if n == devicebpf.Any {
			return "*"
		}
		return itoa(n)
	}
	return string(k.kind) + " " + number(k.major) + ":" + number(k.minor)
}

func accessString(a uint8) string {
	out := ""
	for i, bit := range [...]uint8{devicebpf.Read, devicebpf.Write, devicebpf.Mknod} {
		if a&bit != 0 {
			out += "rwm"[i : i+1]
		}
	}
	return out
}
