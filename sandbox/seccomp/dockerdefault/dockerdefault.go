// Package dockerdefault gives Docker's default seccomp profile, as an OCI
// profile and as a compiled filter. For Docker's default capabilities the
// filter was compiled when Vivarium was built, for amd64 and arm64.
package dockerdefault

import (
	"fmt"
	"slices"

	moby "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"vivarium/sandbox/capability"
	"vivarium/sandbox/seccomp"
)

//go:generate go run ./genfilter

// Profile gives Docker's default profile for a container with the bounding set
// bounding ("CAP_CHOWN", …) on this machine's architecture: the set decides
// which system calls are let through.
func Profile(bounding []string) (*specs.LinuxSeccomp, error) {
	p, err := moby.GetDefaultProfile(&specs.Spec{
		Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: bounding}},
	})
	if err != nil {
		return nil, fmt.Errorf("make Docker's default seccomp profile: %w", err)
	}
	return p, nil
}

// Filter gives the compiled form of Profile(bounding). The caller may not
// change its instructions.
func Filter(bounding []string) (seccomp.Filter, error) {
	if insns := precompiled(); insns != nil && sameAsDefault(bounding) {
		return seccomp.Filter{Insns: insns, Flags: unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW}, nil
	}
	p, err := Profile(bounding)
	if err != nil {
		return seccomp.Filter{}, err
	}
	return seccomp.Compile(p)
}

// sameAsDefault says whether the profile for a bounding set is that for
// Docker's default capabilities: both have the same of those that matter.
func sameAsDefault(bounding []string) bool {
	for _, name := range matters {
		bit, err := capability.Bit(name)
		if err != nil || slices.Contains(bounding, name) != capability.Docker.Has(bit) {
			return false
		}
	}
	return true
}
