package main

import (
	"encoding/json"
	"fmt"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"vivarium/sandbox/plan"
	"vivarium/sandbox/spawn"
)

func run(args []string) int {
	b, err := os.ReadFile("config.json")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	var spec specs.Spec
	if err := json.Unmarshal(b, &spec); err != nil {
		fmt.Println(err)
		return 1
	}
	wd, _ := os.Getwd()
	p, err := plan.Compile(&spec, plan.Options{ID: args[1], BundleDir: wd})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if args[0] == "explain" {
		fmt.Print(p.Text())
		return 0
	}
	proc, err := spawn.Start(p.Program(), spawn.Options{Stdin: 0, Stdout: 1, Stderr: 2, NetNS: -1, PidFD: -1})
	if err != nil {
		fmt.Println("start:", err)
		return 1
	}
	if _, err := proc.Wait(10000); err != nil {
		fmt.Printf("wait: %+v %v\n", err, err)
		return 1
	}
	ps, _ := os.FindProcess(proc.Pid)
	st, err := ps.Wait()
	fmt.Println(st, err)
	for _, d := range p.Cgroups().Remove {
		os.Remove(d)
	}
	return 0
}
