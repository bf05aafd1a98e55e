// Command viv-oci is the OCI runtime.
package main

import "os"

func main() { os.Exit(cli(os.Args[1:])) }
