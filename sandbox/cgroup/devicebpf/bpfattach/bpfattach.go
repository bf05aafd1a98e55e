// Package bpfattach loads a device program and attaches it to a v2 cgroup, for
// callers that do not run a plan of system calls.
package bpfattach

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"runtime"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"vivarium/sandbox/cgroup/devicebpf"
)

// Attach makes the rules hold in the v2 cgroup dir. Programs that are attached
// to it or above stay and must allow an access too (BPF_F_ALLOW_MULTI). The
// program lives as long as the cgroup.
func Attach(dir string, rules []devicebpf.Rule) error {
	prog, err := load(rules)
	if err != nil {
		return fmt.Errorf("load the device program for cgroup %s: %w", dir, err)
	}
	defer prog.Close()
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("open cgroup %s: %w", dir, err)
	}
	defer f.Close()
	err = link.RawAttachProgram(link.RawAttachProgramOptions{
		Target: int(f.Fd()), Program: prog, Attach: ebpf.AttachCGroupDevice, Flags: unix.BPF_F_ALLOW_MULTI,
	})
	runtime.KeepAlive(f)
	if err != nil {
		return fmt.Errorf("attach the device program to cgroup %s: %w", dir, err)
	}
	return nil
}

func load(rules []devicebpf.Rule) (*ebpf.Program, error) {
	// The library compares the byte order with these two, not with
	// binary.NativeEndian, to tell how registers are packed.
	var order binary.ByteOrder = binary.LittleEndian
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		order = binary.BigEndian
	}
	insns, err := asm.AppendInstructions(nil, bytes.NewReader(devicebpf.Compile(rules)), order, "linux")
	if err != nil {
		return nil, err
	}
	return ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "viv_devices", Type: ebpf.CGroupDevice, AttachType: ebpf.AttachCGroupDevice,
		Instructions: insns, License: devicebpf.License,
	})
}
