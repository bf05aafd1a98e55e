// Command viv-oci is the OCI runtime.
package main

import (
	"os"

	"vivarium/sandbox"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == sandbox.HoldScope {
		os.Exit(sandbox.Placeholder())
	}
	os.Exit(cli(os.Args[1:]))
}
