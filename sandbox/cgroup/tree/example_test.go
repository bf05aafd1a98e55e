package tree_test

import (
	"fmt"
	"os"
	"strings"

	"vivarium/sandbox/cgroup"
	"vivarium/sandbox/cgroup/tree"
)

// What one would type to make a group and to limit its memory, on a machine with v1.
func ExampleGroup_Set() {
	memory, err := os.MkdirTemp("", "example") // stands for /sys/fs/cgroup/memory
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(memory)
	l := cgroup.Layout{Hierarchies: []cgroup.Hierarchy{{Mount: memory, Controllers: []string{"memory"}}}}
	g, err := tree.Open(l, "/demo")
	if err != nil {
		fmt.Println(err)
		return
	}
	show := func(steps []tree.Step, err error) {
		if err != nil {
			fmt.Println(err)
		}
		for _, s := range steps {
			fmt.Println(strings.Replace(s.String(), memory, "/sys/fs/cgroup/memory", 1))
		}
		if err := tree.Do(steps); err != nil {
			fmt.Println(err)
		}
	}
	show(g.Create([]string{"memory"}))
	// The kernel would have made this file together with the directory.
	if err := os.WriteFile(memory+"/demo/memory.limit_in_bytes", nil, 0o644); err != nil {
		fmt.Println(err)
	}
	show(g.Set("memory.max", "100M"))
	value, _, err := g.Get("memory.max")
	fmt.Println(value, err)
	// Output:
	// mkdir /sys/fs/cgroup/memory/demo
	// echo 104857600 > /sys/fs/cgroup/memory/demo/memory.limit_in_bytes
	// 104857600 <nil>
}

// Which groups a process is in.
func ExampleWhere() {
	list, err := tree.Where(os.Getpid())
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, m := range list {
		fmt.Println(m.Controllers, m.Path)
	}
}

func ExampleBytes() {
	fmt.Println(tree.Bytes("100M"))
	fmt.Println(tree.Bytes("max"))
	// Output:
	// 104857600 <nil>
	// max <nil>
}
