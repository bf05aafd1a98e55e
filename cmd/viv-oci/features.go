package main

import (
	"encoding/json"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"

	"vivarium/sandbox"
	"vivarium/sandbox/capability"
	"vivarium/sandbox/plan"
	"vivarium/sandbox/seccomp"
)

func (a *app) features() *command {
	return &command{
		args: "", about: "show the enabled features", min: 0, max: 0,
		run: func([]string) (int, error) {
			f, err := describe()
			if err != nil {
				return 0, err
			}
			b, err := json.MarshalIndent(f, "", "    ")
			if err != nil {
				return 0, err
			}
			_, err = os.Stdout.Write(append(b, '\n'))
			return 0, err
		},
	}
}

// describe tells what the packages below do, from themselves where they can say.
func describe() (*features.Features, error) {
	yes, no := true, false
	modes, memoryFlags := plan.MemoryPolicyNames()
	last, err := capability.LastCap()
	if err != nil {
		return nil, err
	}
	return &features.Features{
		OCIVersionMin: "1.0.0",
		OCIVersionMax: specs.Version,
		Hooks:         sandbox.HookNames(),
		MountOptions:  plan.MountOptionNames(),
		Linux: &features.Linux{
			Namespaces:      plan.NamespaceNames(),
			Capabilities:    capability.All(last).Names(),
			Cgroup:          &features.Cgroup{V1: &yes, V2: &yes, Systemd: &yes, SystemdUser: &yes, Rdma: &no},
			Seccomp:         describeSeccomp(),
			Apparmor:        &features.Apparmor{Enabled: &yes},
			Selinux:         &features.Selinux{Enabled: &yes},
			IntelRdt:        &features.IntelRdt{Enabled: &yes, Schemata: &yes, Monitoring: &yes},
			MemoryPolicy:    &features.MemoryPolicy{Modes: modes, Flags: memoryFlags},
			MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: &yes}},
			NetDevices:      &features.NetDevices{Enabled: &yes},
		},
		Annotations: map[string]string{"io.vivarium.viv-oci.version": version},
	}, nil
}

func describeSeccomp() *features.Seccomp {
	yes := true
	s := &features.Seccomp{Enabled: &yes,
		Actions: []string{"SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
			"SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP"},
		Operators: []string{"SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"},
	}
	for _, a := range []specs.Arch{specs.ArchAARCH64, specs.ArchARM, specs.ArchLOONGARCH64, specs.ArchMIPS, specs.ArchMIPS64, specs.ArchMIPSEL64,
		specs.ArchMIPSEL, specs.ArchPPC, specs.ArchPPC64, specs.ArchPPC64LE, specs.ArchRISCV64, specs.ArchS390X, specs.ArchX32, specs.ArchX86, specs.ArchX86_64} {
		if _, known := seccomp.Number(a, "read"); known {
			s.Archs = append(s.Archs, string(a))
		}
	}
	for _, f := range []string{"SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"} {
		s.KnownFlags = append(s.KnownFlags, f)
		s.SupportedFlags = append(s.SupportedFlags, f)
	}
	return s
}
