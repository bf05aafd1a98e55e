// Command viv-monitor is the process beside each container of viv; see package
// monitor. It is a binary of its own because every container pays for what it
// links: in one with viv-oci it would wait with a fifth more memory.
package main

import "vivarium/monitor"

func main() { monitor.Main() }
