package main

import (
	"runtime"
	"runtime/debug"
)

// tune lets the collector run seldom while there is little, and keeps what it may leave to half
// of what is in use when there is much: what a union allocates for a request is gone after it,
// and what lasts grows with the files that the kernel knows. The ballast counts for the
// collector and takes no memory, for nobody touches it. It lives until release is called.
func tune() (release func()) {
	ballast := make([]byte, 32<<20)
	debug.SetGCPercent(50)
	return func() { runtime.KeepAlive(ballast) }
}
