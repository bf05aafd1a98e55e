package bundle

import (
	"errors"
	"fmt"
	"slices"

	"github.com/moby/profiles/seccomp"
)

// confine sets the seccomp filter and the AppArmor profile. The rules of the
// default profile depend on the capabilities, so these must be set already. They
// also depend on the kernel's release (4.8 and later are alike), which the library
// asks for itself, once.
func (b *builder) confine() error {
	if err := b.appArmor(); err != nil {
		return err
	}
	var err error
	switch profile := b.sec.profile(&b.o); {
	case profile == "unconfined":
	case profile == "builtin" && b.host.CompiledSeccomp:
	case profile == "builtin":
		if b.s.Linux.Seccomp, err = seccomp.GetDefaultProfile(b.s); err != nil {
			return fmt.Errorf("make default seccomp profile: %w", err)
		}
	default:
		if b.s.Linux.Seccomp, err = seccomp.LoadProfile(profile, b.s); err != nil {
			return fmt.Errorf("load seccomp profile: %w", err)
		}
	}
	return nil
}

// profile is the seccomp profile: "unconfined", "builtin" or JSON.
func (s *security) profile(o *Options) string {
	switch {
	case s.seccomp != "":
		return s.seccomp
	case o.HostConfig.Privileged:
		return "unconfined"
	}
	return "builtin"
}

// DefaultSeccomp tells whether a container with these options has Docker's
// default seccomp profile.
func DefaultSeccomp(o *Options) (bool, error) {
	s, err := parseSecurity(o.HostConfig.SecurityOpt)
	return s.profile(o) == "builtin", err
}

func (b *builder) appArmor() error {
	profile := b.sec.apparmor
	if !b.host.AppArmor {
		// Docker ignores it; a container that was asked to be confined and is not
		// is worse than an error.
		if profile != "" && profile != "unconfined" {
			return errors.New("--security-opt apparmor: this host has no AppArmor")
		}
		return nil
	}
	switch {
	case profile != "":
	case b.o.HostConfig.Privileged:
		profile = "unconfined"
	default:
		profile = b.host.DefaultAppArmorProfile
	}
	b.s.Process.ApparmorProfile = profile
	return nil
}

func (b *builder) maskPaths() error {
	h := &b.o.HostConfig
	b.s.Linux.MaskedPaths, b.s.Linux.ReadonlyPaths = slices.Clone(h.MaskedPaths), slices.Clone(h.ReadonlyPaths)
	return nil
}
