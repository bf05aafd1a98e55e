// Package cgroup turns OCI resource limits into ordered file writes, for cgroup
// v1, v2 and the hybrid of both, and reads and controls the cgroups of a
// running container.
//
// Compile only reads (what the kernel offers); everything that is to be changed
// is returned as plain data, so that a plan can print it before it is done.
// Which hierarchy has which controller is found by looking, never by version.
package cgroup

import (
	"vivarium/sandbox/cgroup/devicebpf"
	"vivarium/sandbox/cgroup/handle"
)

// Setup is what a container's cgroups need, in order: Dirs, Writes, the device
// program, then the process is put into them.
type Setup struct {
	// Dirs are to be made in this order with mode 0755; that one exists
	// already is no error.
	Dirs []string
	// Writes are to be done before the process is attached.
	Writes []Write
	// Tasks are the v1 files into which the container's first process writes
	// "0" while it has one thread. Written so, by the process itself, no
	// lock of all process creation is taken.
	Tasks []string
	// CgroupDir is the v2 directory to open for clone3 with
	// CLONE_INTO_CGROUP; empty if there is no v2 hierarchy.
	CgroupDir string
	// Devices are the device rules for a program attached to CgroupDir
	// (devicebpf.Compile); nil on v1, where they are among Writes, and where
	// everything is allowed.
	Devices []devicebpf.Rule
	// Remove are the directories to remove afterwards, in order.
	Remove []string
	// Handle finds the container's cgroups again.
	Handle handle.Handle
	// Warnings say which limits could not be set and were left out, where
	// Options.Lenient allows that.
	Warnings []string
}

// Write is one value for one file of a cgroup.
type Write struct {
	Dir      string // absolute
	File     string
	Value    string
	Optional bool   // a failure is of no consequence
	Why      string // a plain reason, for people
}

// Path is the file to write.
func (w Write) Path() string { return w.Dir + "/" + w.File }

// Options are choices beside the OCI resources.
type Options struct {
	// Lenient leaves limits out that this kernel does not have and reports
	// them in Setup.Warnings, as Docker does; otherwise they are errors.
	Lenient bool
	// NoDeviceRules leaves devices as they are in the parent cgroup, for
	// engines without the right to change them (rootless).
	NoDeviceRules bool
}
