// Command viv-monitor is the process beside each container of viv; see package
// monitor. It is a binary of its own because every container pays for what it
// links: in one with viv-oci it would wait with a fifth more memory.
//
// Under the name docker-init or viv-init it is the first process inside a
// container that runs with --init; see package monitor/initproc.
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
	if args := arguments(); len(args) > 0 && isInit(args[0]) {
		initproc.Main(args)
	}
	monitor.Main()
}

// isInit tells by the program's name what it was started as.
func isInit(name string) bool {
	for i := len(name) - 1; i >= 0; i-- {
		if name[i] == '/' {
			name = name[i+1:]
			break
		}
	}
	return name == "docker-init" || name == "viv-init"
}
