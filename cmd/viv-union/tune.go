package main

import "runtime/debug"

// tune lets the collector run less often: what a union allocates is gone after a
// request, and what lasts is small.
func tune() { debug.SetGCPercent(400) }
