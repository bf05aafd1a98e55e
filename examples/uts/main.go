// Command uts runs a shell in a new UTS namespace: what it calls the machine, the
// machine outside is not called. Needs root.
//
//	# go run ./examples/uts
//	# hostname changed
//	# exit
//	# hostname
package main

import (
	"fmt"
	"os"

	"vivarium/sandbox/namespace"
)

func main() {
	namespace.Main() // the process that becomes the shell begins here
	c := namespace.Command{Args: append([]string{"sh"}, os.Args[1:]...), New: []namespace.Kind{namespace.UTS}}
	code, err := c.Run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "uts:", err)
		os.Exit(1)
	}
	os.Exit(code)
}
