// Command viv-oci is the OCI runtime, and the monitor of viv's containers.
package main

import (
	"os"

	"vivarium/monitor"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "monitor" {
		monitor.Main()
	}
	os.Exit(cli(os.Args[1:]))
}
