package bundle

import (
	"fmt"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// allCaps lists the capabilities by number (capability.h).
var allCaps = [...]string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID",
	"CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE",
	"CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW",
	"CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
	"CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE",
	"CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE",
	"CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE",
	"CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ",
	"CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// DefaultCapabilities returns Docker's fourteen, in its order.
func DefaultCapabilities() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW",
		"CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE",
		"CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	}
}

// normalizeCaps gives capability names their full upper-case form; "ALL" stays.
// option is the field's name for messages.
func normalizeCaps(option string, names []string) ([]string, error) {
	out := make([]string, 0, len(names))
	for _, n := range names {
		c := strings.ToUpper(n)
		if c == "ALL" || c == "CAP_ALL" {
			out = append(out, "ALL")
			continue
		}
		if !strings.HasPrefix(c, "CAP_") {
			c = "CAP_" + c
		}
		if !slices.Contains(allCaps[:], c) {
			return nil, fmt.Errorf("invalid %s: unknown capability: %q", option, c)
		}
		out = append(out, c)
	}
	return out, nil
}

// available returns the capabilities that the kernel knows and that this process
// may give away.
func (b *builder) available() []string {
	n := len(allCaps)
	if b.host.LastCap > 0 {
		n = min(n, b.host.LastCap+1)
	}
	list := slices.Clone(allCaps[:n])
	if b.host.BoundingCaps != nil {
		list = slices.DeleteFunc(list, func(c string) bool { return !slices.Contains(b.host.BoundingCaps, c) })
	}
	return list
}

// capabilityList applies --privileged, --cap-add and --cap-drop. With ALL on both
// sides the additions win, as with Docker.
func (b *builder) capabilityList() ([]string, error) {
	h := &b.o.HostConfig
	add, err := normalizeCaps("CapAdd", h.CapAdd)
	if err != nil {
		return nil, err
	}
	drop, err := normalizeCaps("CapDrop", h.CapDrop)
	if err != nil {
		return nil, err
	}
	dropped := func(c string) bool { return slices.Contains(drop, c) }
	switch {
	case h.Privileged:
		return b.available(), nil
	case slices.Contains(add, "ALL"):
		return slices.DeleteFunc(b.available(), dropped), nil
	case slices.Contains(drop, "ALL"):
		return uniq(add), nil
	}
	return uniq(append(slices.DeleteFunc(DefaultCapabilities(), dropped), add...)), nil
}

func uniq(list []string) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// capabilities sets the sets of the process. Inheritable and ambient stay empty
// (CVE-2022-24769); a user other than root begins without any, and may gain those
// of the bounding set from files.
func (b *builder) capabilities() error {
	list, err := b.capabilityList()
	if err != nil {
		return err
	}
	c := &specs.LinuxCapabilities{Bounding: list}
	if b.s.Process.User.UID == 0 {
		c.Effective, c.Permitted = list, list
	}
	b.s.Process.Capabilities = c
	b.s.Process.NoNewPrivileges = b.sec.noNewPrivileges
	return nil
}
