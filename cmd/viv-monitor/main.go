// Command viv-monitor is the process beside each container of viv; see package
// monitor. It is a binary of its own because every container pays for what it
// links: in one with viv-oci it would wait with a fifth more memory.
//
// Under the name docker-init or viv-init it is the first process inside a
// container that runs with --init; see package monitor/initproc. Under the name
// viv-wait it waits between two health checks; see monitor.Wait.
package main

import (
	_ "unsafe" // for linkname

	"vivarium/monitor"
	"vivarium/monitor/initproc"
)

// arguments are os.Args, without package os.
//
//go:linkname arguments os.runtime_args
func arguments() []string

func main() {
	if args := arguments(); len(args) > 0 {
		switch base(args[0]) {
		case "docker-init", "viv-init":
			initproc.Main(args)
		case "viv-wait":
			monitor.Wait(args)
		}
	}
	monitor.Main()
}

// base is the last part of the name that the program was started as.
func base(name string) string {
	for i := len(name) - 1; i >= 0; i-- {
		if name[i] == '/' {
			return name[i+1:]
		}
	}
	return name
}
