package cgroup_test

import (
	"fmt"
	"time"

	"vivarium/sandbox/cgroup"
)

// What is mounted here: which controllers are on v1, and which on v2.
func ExampleDetect() {
	l, err := cgroup.Detect()
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, h := range l.Hierarchies {
		fmt.Println(h.Mount, h.V2, h.Controllers)
	}
}

// Figures of a control group, in the same units on v1 and v2.
func ExampleReadStats() {
	l, err := cgroup.Detect()
	if err != nil {
		fmt.Println(err)
		return
	}
	s, err := cgroup.ReadStats(l, "/system.slice")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(s.CPU.Total, s.Memory.Usage, s.Pids.Current)
}

// All processes of a group are stopped, and then killed, in whichever hierarchies it is.
func ExampleLayout_Handle() {
	l := cgroup.Layout{Hierarchies: []cgroup.Hierarchy{{Mount: "/sys/fs/cgroup", V2: true, Controllers: []string{"cpu", "memory", "pids"}}}}
	h, err := l.Handle("/demo")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(h.Unified)
	if pids, err := h.Procs(); err == nil && len(pids) > 0 {
		if err := h.Freeze(time.Second); err != nil {
			fmt.Println(err)
		}
		if err := h.Kill(time.Second); err != nil {
			fmt.Println(err)
		}
	}
	// Output: /sys/fs/cgroup/demo
}
